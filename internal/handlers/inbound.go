package handlers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// maxItems bounds the commits that one batch of events waits for at once.
const maxItems = 64

var errAnswerTimeout = errors.New("the callback was not committed in time")

// callback takes what a provider posts: find the source, verify the raw
// bytes, then read them, commit, and only then say so.
func (h *Handlers) callback(c echo.Context) error {
	came := time.Now()
	ctx := c.Request().Context()
	src, err := h.findSource(ctx, c.Param("project"), c.Param("source"))
	if err != nil {
		return err
	}
	received := time.Now()
	switch method := c.Request().Method; {
	case method == http.MethodGet && src.Endpoint.Preset().ByGet:
	case method == http.MethodGet, method == http.MethodHead, method == http.MethodOptions:
		return greet(c, src, received)
	}
	body, err := readBody(c)
	if err != nil {
		return err
	}
	in := &inbound{src: src, received: received, query: c.Request().URL.RawQuery, req: requestOf(c, src, body)}
	if shaken, err := shakeHands(c, in.src, in.req, received); shaken {
		return err
	}
	if err := h.verify(ctx, in); relay.IsKind(err, relay.Busy) {
		return err // nobody can tell whether it is genuine
	} else if err != nil {
		return h.reject(ctx, in, err)
	}
	readings, err := in.src.Endpoint.Read(in.req)
	if err != nil {
		return h.unreadable(ctx, in, err)
	}
	receipts, err := h.accept(ctx, in, readings)
	if err != nil {
		return err
	}
	h.cfg.Metrics.Acknowledged(time.Since(came))
	return h.acknowledge(c, in, readings, receipts)
}

// greet answers who looks at the address without saying that anything
// happened: a browser, a link preview, or the provider, who tests it.
func greet(c echo.Context, src *directory.Source, now time.Time) error {
	if shaken, err := shakeHands(c, src, requestOf(c, src, nil), now); shaken {
		return err
	}
	return c.String(http.StatusOK, "This address takes callbacks by POST.\n")
}

// shakeHands answers a provider's test of the address, and reports whether the
// request was one. Nothing is kept of it.
func shakeHands(c echo.Context, src *directory.Source, req *provider.Request, now time.Time) (shaken bool, err error) {
	secrets, _ := src.LiveSecrets(now)
	body, ok := src.Endpoint.Handshake(req, secrets)
	if !ok {
		return false, nil
	}
	return true, c.Blob(src.Endpoint.Preset().AcceptStatus, "text/plain; charset=utf-8", []byte(body))
}

// inbound is one request on its way through.
type inbound struct {
	src      *directory.Source
	req      *provider.Request
	query    string
	received time.Time
}

// findSource returns the source of a path. An unknown one may have been made
// on another node a moment ago.
func (h *Handlers) findSource(ctx context.Context, project, name string) (*directory.Source, error) {
	find := func(s *directory.Snapshot) *directory.Source {
		if p := s.Project(project); p != nil {
			return p.Source(name)
		}
		return nil
	}
	src := find(h.cfg.Directory.Current())
	if src == nil {
		fresh, err := h.cfg.Directory.Refresh(ctx)
		if src = find(fresh); src == nil && err != nil {
			return nil, err
		}
	}
	switch {
	case src != nil && src.Err == nil && src.Endpoint.Preset().Internal:
		return nil, relay.Errorf(relay.NotFound, "unknown_source", "the source %s is built in and takes no callbacks: what the relay's own forms "+
			"are answered goes to /f/{token}, the url of the wait; for a form of another page make a source with provider html-form", name)
	case src == nil:
		return nil, relay.Errorf(relay.NotFound, "unknown_source", "there is no such source: compare the address with the source's webhook_url")
	case src.Err != nil:
		return nil, errors.Join(relay.Errorf(relay.Busy, "unusable_source", "this source cannot be used at the moment"), src.Err)
	}
	return src, nil
}

func requestOf(c echo.Context, src *directory.Source, body []byte) *provider.Request {
	r, token := c.Request(), c.Param("*")
	return &provider.Request{
		Method: r.Method, URL: src.RequestURL(token, r.URL.RawQuery), PathToken: token, Query: r.URL.Query(), Header: r.Header, Body: body,
	}
}

// verify proves a callback genuine. A failure may be a secret that was just
// rotated on another node: the configuration is re-read once.
func (h *Handlers) verify(ctx context.Context, in *inbound) error {
	used, ids, err := h.prove(ctx, in)
	if relay.IsKind(err, relay.Busy) {
		return err
	}
	if err != nil {
		fresh, unsure := h.cfg.Directory.Refresh(ctx)
		now := fresh.SourceByID(in.src.ID)
		if unsure != nil {
			return unsure
		}
		if now == nil || now == in.src || now.Err != nil {
			return err
		}
		in.src = now
		if used, ids, err = h.prove(ctx, in); err != nil {
			return err
		}
	}
	h.activity.event(in.src, in.received)
	if used >= 0 {
		h.activity.secret(in.src, ids[used], in.received)
	}
	return nil
}

// prove verifies a callback with what its source has now, and gets the
// certificate that it names where one is needed.
func (h *Handlers) prove(ctx context.Context, in *inbound) (used int, ids []uuid.UUID, err error) {
	if err := h.cfg.Directory.Certificates().Fill(ctx, in.src.Endpoint, in.req, in.received); err != nil {
		h.unproven.Do(func() {
			h.cfg.Log.Warn("no certificate to prove callbacks with", "project_id", in.src.ProjectID, "source", in.src.Name, "error", err)
		})
		return 0, nil, err
	}
	secrets, ids := in.src.LiveSecrets(in.received)
	used, err = in.src.Endpoint.Verify(in.req, secrets, in.received)
	if err == nil && used >= 0 && !in.src.Addressed(ids[used], in.req.Query, in.received) {
		err = &provider.Rejection{Reason: provider.CredentialsMismatch}
	}
	return used, ids, err
}

// callbackOf makes the row of one reading.
func (in *inbound) callbackOf(verdict relay.Verdict, reading relay.Reading) relay.Callback {
	return relay.Callback{
		ID: relay.NewID(), ProjectID: in.src.ProjectID, SourceID: in.src.ID, Verdict: verdict,
		Reading: reading, Body: in.req.Body, PathToken: in.req.PathToken, Query: in.queryKept(), ReceivedAt: in.received,
	}
}

// queryKept is the query as it may be stored: without a parameter that is the
// secret itself.
func (in *inbound) queryKept() string {
	secret := cmp.Or(in.src.Endpoint.CredentialQuery(), in.src.AddressKey())
	if secret == "" || in.query == "" {
		return in.query
	}
	kept := maps.Clone(in.req.Query)
	kept.Del(secret)
	return kept.Encode()
}

// headers keeps the named headers for a replay; those that are the secret
// itself are never kept.
func (in *inbound) headers(names []string) []byte {
	kept := map[string]string{}
	secret := in.src.Endpoint.CredentialHeaders()
	for _, name := range names {
		prefix, many := strings.CutSuffix(name, "*")
		for header, values := range in.req.Header {
			if header != name && (!many || !strings.HasPrefix(header, prefix)) || slices.Contains(secret, header) {
				continue
			}
			kept[header] = strings.Join(values, ", ")
		}
	}
	if len(kept) == 0 {
		return nil
	}
	raw, err := json.Marshal(kept)
	if err != nil {
		return nil
	}
	return raw
}

// reject answers a callback that is not genuine. It is kept, within a budget
// per source, so that an operator can see what was sent and replay it once
// the secret is right; whether it could be kept changes nothing for the sender.
func (h *Handlers) reject(ctx context.Context, in *inbound, cause error) error {
	reason, detail := "rejected", "the callback is not genuine: compare the source's secret with the provider's"
	var rejection *provider.Rejection
	if errors.As(cause, &rejection) {
		reason, detail = string(rejection.Reason), rejection.Detail()
	}
	if in.src.AwaitsSecret() {
		reason, detail = "awaiting_secret", "this source has no "+in.src.Endpoint.Preset().KeyField()+" yet: give it the provider's"
	}
	h.activity.failure(in.src, in.received, reason)
	h.forged.Do(func() {
		h.cfg.Log.Warn("callbacks are rejected: they are forged, or the source's secret is wrong",
			"project_id", in.src.ProjectID, "source", in.src.Name, "reason", reason)
	})
	if h.rejected.allow(in.src.ID, in.received) {
		cb := in.callbackOf(relay.Rejected, relay.Reading{Format: relay.FormatText})
		cb.Reason, cb.Headers = reason, in.headers(in.src.Endpoint.HeadersRead())
		if _, err := h.cfg.Intake.Accept(ctx, cb); err != nil {
			h.cfg.Log.Warn("rejected callback not kept", "source_id", in.src.ID, "error", err)
		}
	} else {
		h.cfg.Metrics.Event(in.src.ID, relay.Rejected, relay.Unmatched)
	}
	return &statusError{in.src.Endpoint.Preset().RejectStatus, relay.Errorf(relay.Unauthorized, reason, "%s", detail)}
}

// unreadable keeps a callback whose body cannot be read, and says so. What
// nobody has signed is kept within the budget of forgeries.
func (h *Handlers) unreadable(ctx context.Context, in *inbound, cause error) error {
	code, detail := "unreadable", "the body cannot be read"
	var why *provider.Unreadable
	if errors.As(cause, &why) {
		code, detail = why.Code, why.Detail
	}
	h.activity.failure(in.src, in.received, code)
	refusal := relay.Errorf(relay.Malformed, code, "%s", detail)
	if in.src.Verdict() == relay.Unsigned && !h.rejected.allow(in.src.ID, in.received) {
		h.cfg.Metrics.Event(in.src.ID, relay.Unsigned, relay.Ignored)
		return refusal // anybody may have sent it
	}
	cb := in.callbackOf(in.src.Verdict(), relay.Reading{Format: relay.FormatText})
	cb.Reason, cb.Headers = code, in.headers(in.src.Endpoint.HeadersParsed())
	if _, err := h.cfg.Intake.Accept(ctx, cb); err != nil {
		return err
	}
	return refusal
}

// accept commits what was read: mostly one event, for some providers a batch
// that is acknowledged as a whole.
func (h *Handlers) accept(ctx context.Context, in *inbound, readings []relay.Reading) ([]relay.Receipt, error) {
	headers := in.headers(in.src.Endpoint.HeadersParsed())
	receipts := make([]relay.Receipt, len(readings))
	var g errgroup.Group
	g.SetLimit(maxItems)
	for i, reading := range readings {
		cb := in.callbackOf(in.src.Verdict(), reading)
		cb.Headers, cb.Item = headers, i
		if len(readings) == 1 {
			receipt, err := h.cfg.Intake.Accept(ctx, cb)
			receipts[0] = receipt
			return receipts, err
		}
		g.Go(func() (err error) {
			receipts[i], err = h.cfg.Intake.Accept(ctx, cb)
			return err
		})
	}
	return receipts, g.Wait()
}

// acknowledge answers what the preset's provider wants to hear. A person's
// browser is led to a page that tells what really became of the form.
func (h *Handlers) acknowledge(c echo.Context, in *inbound, readings []relay.Reading, receipts []relay.Receipt) error {
	preset := in.src.Endpoint.Preset()
	if preset.BrowserRedirect && wantsHTML(c.Request()) {
		token := "unknown"
		if len(receipts) > 0 {
			token = cmp.Or(receipts[0].Token, namedToken(readings[0]), token)
		}
		return c.Redirect(http.StatusSeeOther, h.cfg.PublicURL+"/return/"+token)
	}
	return c.Blob(preset.AcceptStatus, "text/plain; charset=utf-8", []byte(preset.AcceptBody))
}

// namedToken is the token that a form named, when it could be one: it goes
// into a redirect.
func namedToken(r relay.Reading) string {
	for _, candidate := range r.Candidates {
		if relay.IsToken(candidate.Value) {
			return candidate.Value
		}
	}
	return ""
}
