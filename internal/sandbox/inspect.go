package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"relay.example/relay/internal/relay"
)

// The bounds of a request to the sandbox itself.
const (
	maxControlBody   = 1 << 20
	defaultListLimit = 50
	maxListLimit     = 1000
)

// answers serves what is the sandbox's own, not a platform's: its errors are
// problems (RFC 9457).
func (s *Sandbox) answers(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		var refusal *relay.Error
		if !errors.As(err, &refusal) {
			s.log.ErrorContext(r.Context(), "sandbox request failed", "route", r.Pattern, "err", err)
			refusal = relay.Errorf(0, "internal_error", "the sandbox could not answer; its log says why")
		}
		writeProblem(w, refusal)
	}
}

// problem is an error as RFC 9457 writes it.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

func writeProblem(w http.ResponseWriter, e *relay.Error) {
	status := statusOf(e.Kind)
	_ = writeJSON(w, status, "application/problem+json", problem{ // text and a number cannot fail
		"about:blank", http.StatusText(status), status, e.Code, e.Detail,
	})
}

func statusOf(k relay.Kind) int {
	switch k {
	case relay.Invalid:
		return http.StatusUnprocessableEntity
	case relay.Malformed:
		return http.StatusBadRequest
	case relay.NotFound:
		return http.StatusNotFound
	case relay.TooLarge:
		return http.StatusRequestEntityTooLarge
	case relay.Busy:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// writeJSON answers with v, laid out for people: they read it most.
func writeJSON(w http.ResponseWriter, status int, contentType string, v any) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing an answer: %w", err)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = text.WriteTo(w) // a client that left has nothing to be told
	return nil
}

func writeData(w http.ResponseWriter, v any) error {
	return writeJSON(w, http.StatusOK, "application/json", v)
}

// readJSON reads exactly one JSON value into v and refuses fields that v does
// not have.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, trailing := dec.Token(); !errors.Is(trailing, io.EOF) {
			err = errors.New("there is something after the JSON value")
		}
	}
	switch {
	case err == nil:
		return nil
	case isTooLarge(err):
		return relay.Errorf(relay.TooLarge, "body_too_large", "send at most %d bytes", maxControlBody)
	default:
		return relay.Errorf(relay.Malformed, "body_unreadable", "send one JSON object: %v", err)
	}
}

// isTooLarge reports whether reading stopped at a MaxBytesReader's bound.
func isTooLarge(err error) bool {
	var bound *http.MaxBytesError
	return errors.As(err, &bound)
}

func (s *Sandbox) putSwitches(p *platform) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		var sw Switches
		if err := readJSON(w, r, &sw); err != nil {
			return err
		}
		if err := p.arm(sw); err != nil {
			return err
		}
		s.log.InfoContext(r.Context(), "platform switched", "platform", p.name, "faults", len(sw.Faults))
		return writeData(w, p.switches.Load().view())
	}
}

func (s *Sandbox) getSwitches(p *platform) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, _ *http.Request) error {
		return writeData(w, p.switches.Load().view())
	}
}

func (s *Sandbox) deleteSwitches(p *platform) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, _ *http.Request) error {
		p.switches.Store(&switchboard{token: p.token})
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

// SwitchCertainly does what PUT /sandbox/certainly does: it replaces all
// switches, except that an empty token leaves the token.
func (s *Sandbox) SwitchCertainly(sw Switches) error { return s.certainly.arm(sw) }

// Switch does the same for any platform.
func (s *Sandbox) Switch(name string, sw Switches) error {
	for _, p := range s.platforms() {
		if p.name == name {
			return p.arm(sw)
		}
	}
	return relay.Errorf(relay.NotFound, "platform_not_found", "there is no platform %q here", name)
}

// platforms lists those that have conversations.
func (s *Sandbox) platforms() []*platform {
	return []*platform{s.certainly, s.haptik, s.smartify, s.userengage, s.webhook}
}

// has reports whether a platform of that name has conversations.
func (s *Sandbox) has(name string) bool {
	return slices.ContainsFunc(s.platforms(), func(p *platform) bool { return p.name == name })
}

func (s *Sandbox) listConversations(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	limit, err := number(query, "limit", defaultListLimit, maxListLimit)
	if err != nil {
		return err
	}
	before, err := number(query, "cursor", 0, 0)
	if err != nil {
		return err
	}
	data, next := s.book.list(before, int(limit))
	cursor := (*string)(nil)
	if next > 0 {
		text := strconv.FormatUint(next, 10)
		cursor = &text
	}
	return writeData(w, map[string]any{"data": data, "next_cursor": cursor})
}

// number reads a positive parameter. A highest of 0 means no bound.
func number(query url.Values, name string, absent, highest uint64) (uint64, error) {
	text := query.Get(name)
	if text == "" {
		return absent, nil
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || n == 0 || (highest > 0 && n > highest) {
		return 0, relay.Errorf(relay.Malformed, name+"_invalid", "%s is a whole number from 1, a limit at most %d", name, maxListLimit)
	}
	return n, nil
}

func (s *Sandbox) deleteConversations(w http.ResponseWriter, _ *http.Request) error {
	s.Reset()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// keyOf reads which conversation a request is about. The platform is
// Certainly unless the query names another.
func keyOf(r *http.Request) key {
	platform := r.URL.Query().Get("platform")
	if platform == "" {
		platform = Certainly
	}
	return key{platform, r.PathValue("user_id")}
}

func (s *Sandbox) getConversation(w http.ResponseWriter, r *http.Request) error {
	c, ok := s.book.get(keyOf(r))
	if !ok {
		return relay.Errorf(relay.NotFound, "conversation_not_found", "no call has named this user yet, or it was too long ago")
	}
	return writeData(w, c)
}

func (s *Sandbox) postPause(w http.ResponseWriter, r *http.Request) error {
	var asked struct {
		Text string `json:"text"`
		Link string `json:"link"`
	}
	if err := readJSON(w, r, &asked); err != nil {
		return err
	}
	k := keyOf(r)
	if len(k.user) > maxUserID || !s.has(k.platform) {
		return relay.Errorf(relay.NotFound, "user_not_found", "name a user of at most %d bytes, at a platform that is here", maxUserID)
	}
	if asked.Text == "" || !isWebLink(asked.Link) {
		return relay.Errorf(relay.Invalid, "pause_incomplete", "text is required, link is absent or an http(s) address")
	}
	s.Pause(k.platform, k.user, asked.Text, asked.Link)
	return s.getConversation(w, r)
}

// isWebLink reports whether a browser may be led to link, or there is none.
func isWebLink(link string) bool {
	u, err := url.Parse(link)
	return link == "" || (err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http"))
}

func (s *Sandbox) getCounts(w http.ResponseWriter, _ *http.Request) error {
	return writeData(w, s.Counts())
}
