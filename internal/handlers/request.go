package handlers

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// readBody reads a request's whole body, at most maxBody bytes.
func readBody(c echo.Context) ([]byte, error) { return readAtMost(c, maxBody) }

// readAtMost reads a request's whole body where it has no more bytes than that.
func readAtMost(c echo.Context, most int64) ([]byte, error) {
	r := c.Request()
	if r.ContentLength > most {
		return nil, tooLarge(most)
	}
	body, err := readAll(http.MaxBytesReader(c.Response(), r.Body, most), r.ContentLength)
	var tooMany *http.MaxBytesError
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &tooMany):
		return nil, tooLarge(most)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &statusError{http.StatusRequestTimeout, relay.Errorf(relay.Malformed, "body_too_slow",
			"the body did not arrive within %s: send it faster, or less of it", readTimeout)}
	default:
		return nil, relay.Errorf(relay.Malformed, "body_cut_off", "the body ended before it was complete")
	}
}

// maxPresized is how much room a body gets on the word of its sender.
const maxPresized = 64 << 10

// readAll is io.ReadAll for a reader whose length was told.
func readAll(r io.Reader, length int64) ([]byte, error) {
	room := min(max(length, 0), maxPresized) + bytes.MinRead // which the buffer wants to see the end
	buf := bytes.NewBuffer(make([]byte, 0, room))
	_, err := buf.ReadFrom(r)
	return buf.Bytes(), err
}

func tooLarge(most int64) error {
	return relay.Errorf(relay.TooLarge, "body_too_large", "the body has more than %d bytes: send less", most)
}

// decode reads a JSON body strictly into v and returns its bytes. An empty
// body is allowed where every field is optional.
func decode(c echo.Context, v any, optional bool) ([]byte, error) {
	body, err := readBody(c)
	if err != nil {
		return nil, err
	}
	if len(body) == 0 && optional {
		return body, nil
	}
	if err := wantJSON(c.Request()); err != nil {
		return nil, err
	}
	return body, relay.Decode(body, v)
}

func wantJSON(r *http.Request) error {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return relay.Errorf(relay.Unsupported, "unsupported_media_type", "send Content-Type: application/json")
	}
	return nil
}

// queries are the parameters that each list reads, besides those of all lists.
var queries = map[string][]string{
	"/v1/correlations": {"flow", "user_id", "key", "status", "late"},
	"/v1/events":       {"source", "token", "verdict", "match", "from", "to"},
	"/v1/deliveries":   {"destination", "outcome", "status", "correlation_id", "from", "to"},
	"/v1/hooks":        {"subscription_id", "status"},
}

// knownQuery refuses parameters that nobody reads: a filter that is misspelt
// would list everything, and a dry_run in the wrong place would be none.
func knownQuery(c echo.Context) error {
	if c.Request().URL.RawQuery == "" {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(c.QueryParams())) {
		switch {
		case c.Request().Method == http.MethodGet && (name == "limit" || name == "cursor" || slices.Contains(queries[c.Path()], name)):
		case name == "dry_run":
			return relay.Errorf(relay.Invalid, "unknown_parameter", "dry_run: it is a field of the body, of those calls that know it")
		default:
			return relay.Errorf(relay.Invalid, "unknown_parameter", "%.40q: this route reads no such parameter of the query%s", name,
				relay.DidYouMean(name, append([]string{"limit", "cursor"}, queries[c.Path()]...)))
		}
	}
	return nil
}

// idParam reads the id of a path.
func idParam(c echo.Context) (uuid.UUID, error) {
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		return id, relay.Errorf(relay.NotFound, "not_found", "there is nothing with this id: ids are UUIDs")
	}
	return id, nil
}

// The sizes of a page.
const (
	defaultLimit = 50
	maxLimit     = 500
)

// pageOf reads limit and cursor of a list.
func pageOf(c echo.Context) (p store.Page, err error) {
	p.Limit = defaultLimit
	if text := c.QueryParam("limit"); text != "" {
		if p.Limit, err = strconv.Atoi(text); err != nil || p.Limit < 1 || p.Limit > maxLimit {
			return p, relay.Errorf(relay.Invalid, "invalid_limit", "limit: %q is not a number from 1 to %d", text, maxLimit)
		}
	}
	if text := c.QueryParam("cursor"); text != "" {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err == nil {
			p.Before, err = uuid.FromBytes(raw)
		}
		if err != nil {
			return p, relay.Errorf(relay.Invalid, "invalid_cursor", "cursor: give back the next_cursor of the page before, unchanged")
		}
	}
	p.Limit++ // one more row tells whether there is another page
	return p, nil
}

// list is one page of an answer.
type list[T any] struct {
	Data       []T     `json:"data"`
	NextCursor *string `json:"next_cursor"`
}

// page makes the answer of rows that were read with one more than the limit.
func page[R, T any](rows []R, p store.Page, id func(R) uuid.UUID, show func(R) T) list[T] {
	out := list[T]{Data: []T{}}
	if len(rows) == p.Limit {
		rows = rows[:p.Limit-1]
		last := id(rows[len(rows)-1])
		cursor := base64.RawURLEncoding.EncodeToString(last[:])
		out.NextCursor = &cursor
	}
	for _, r := range rows {
		out.Data = append(out.Data, show(r))
	}
	return out
}

// all makes the answer of a list that is always complete.
func all[R, T any](rows []R, show func(R) T) list[T] {
	out := list[T]{Data: []T{}}
	for _, r := range rows {
		out.Data = append(out.Data, show(r))
	}
	return out
}

// timeParam reads an RFC 3339 time of the query.
func timeParam(c echo.Context, name string) (time.Time, error) {
	text := c.QueryParam(name)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, relay.Errorf(relay.Invalid, "invalid_time", "%s: %q is not a time such as 2026-11-21T08:00:00Z", name, text)
	}
	return t, nil
}

// textParams reads query parameters that the database compares with text: what
// it could never hold is refused here.
func textParams(c echo.Context, into map[string]*string) error {
	for _, name := range slices.Sorted(maps.Keys(into)) {
		value := c.QueryParam(name)
		if err := checkText(name, value, maxUserID); err != nil {
			return err
		}
		*into[name] = value
	}
	return nil
}

// oneOf reads a query parameter that must be one of some words.
func oneOf[T ~string](c echo.Context, name string, words ...T) (T, error) {
	text := T(c.QueryParam(name))
	if text == "" {
		return text, nil
	}
	for _, w := range words {
		if w == text {
			return text, nil
		}
	}
	return text, relay.Errorf(relay.Invalid, "invalid_"+name, "%s: %q is none of %s", name, text, listed(words))
}

// listed writes words as a refusal names them.
func listed[T ~string](words []T) string {
	plain := make([]string, len(words))
	for i, w := range words {
		plain[i] = string(w)
	}
	return strings.Join(plain, ", ")
}

// text is a string that people may also write as a number: ids often are.
type text string

// UnmarshalJSON reads "829" as well as 829.
func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err == nil {
		*t = text(s)
		return nil
	}
	var n json.Number
	if err := json.Unmarshal(b, &n); err != nil || string(b) == "null" {
		return relay.Errorf(relay.Invalid, "wrong_type", "want a string or a number")
	}
	*t = text(n)
	return nil
}

// timeField is an RFC 3339 time of a body.
type timeField struct{ time.Time }

// UnmarshalJSON reads a time, with a refusal that shows how to write one.
func (t *timeField) UnmarshalJSON(b []byte) error {
	if err := t.Time.UnmarshalJSON(b); err != nil {
		return relay.Errorf(relay.Invalid, "invalid_time", "%s is not a time such as \"2026-11-21T08:00:00Z\"", b)
	}
	return nil
}
