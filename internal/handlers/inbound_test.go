package handlers_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"relay.example/relay/internal/handlers"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// wantAccepted checks the acknowledgement that every provider gets.
func (a *answer) wantAccepted() {
	a.t.Helper()
	if a.Status != http.StatusOK || string(a.Body) != "[accepted]" {
		a.t.Fatalf("%s: got %d %s, want 200 [accepted]", a.asked, a.Status, a.Body)
	}
}

func TestCallbackClosesItsWait(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "source": "hook", "module_id": 1}`)
	body := `{"id": "e-1", "type": "order.paid", "data": {"reference": "` + w["token"].(string) + `"}}`
	n.hook("/in/default/hook", body).wantAccepted()
	n.hook("/in/default/hook", body).wantAccepted() // its sender repeats it
	got := n.get("/v1/correlations/" + w["id"].(string)).want(http.StatusOK).object()
	if got["status"] != "completed" || got["outcome"] != "completed" {
		t.Errorf("got status %v and outcome %v, want both completed", got["status"], got["outcome"])
	}
	if handed := n.deliveries(); len(handed) != 1 || handed[0].Outcome != relay.Completed {
		t.Errorf("got %d deliveries handed over, want one for completed", len(handed))
	}
	matches := map[any]int{}
	for _, e := range n.get("/v1/events").data() {
		matches[e["match"]]++
	}
	if matches["matched"] != 1 || matches["duplicate"] != 1 {
		t.Errorf("got events %v, want one matched and one duplicate", matches)
	}
}

// A body that cannot be read is refused with what is wrong with it, and its
// bytes are kept: nothing is lost that an operator may want to see.
func TestUnreadableCallbacks(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const signed, form = "/in/default/hook", "/in/default/contact"
	for _, c := range []struct {
		name, path, contentType, body string
		code                          string
	}{
		{"broken JSON", signed, "application/json", `{"id": "e-1", "type`, "not_json"},
		{"empty body", signed, "application/json", ``, "not_json"},
		{"something after the JSON", signed, "application/json", `{} {}`, "not_json"},
		{"JSON that is not UTF-8", signed, "application/json", "{\"id\": \"\xff\xfe\"}", "not_utf8"},
		{"deep nesting", signed, "application/json", strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), "too_deep"},
		{"a form that is plain text", form, "text/plain", "name=a", "unsupported_content_type"},
		{"a form without a content type", form, "", "name=b", "unsupported_content_type"},
		{"a form whose content type is broken", form, "multipart/form-data; boundary", "x", "bad_multipart"},
		{"a form that ends in the middle", form, "multipart/form-data; boundary=b", "--b\r\nContent-Disp", "bad_multipart"},
		{"a bad escape", form, "application/x-www-form-urlencoded", "name=%zz", "bad_form"},
		{"too many fields", form, "application/x-www-form-urlencoded", strings.Repeat("a=b&", 10_000), "too_many_fields"},
		{"a list for a form", form, "application/json", `[1]`, "not_an_object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			before := n.count("events WHERE match = 'ignored' AND rule = 'unreadable'")
			n.hook(c.path, c.body, header("Content-Type", c.contentType)).refused(http.StatusBadRequest, c.code)
			if got := n.count("events WHERE match = 'ignored' AND rule = 'unreadable'"); got != before+1 {
				t.Errorf("got %d kept events, want %d", got, before+1)
			}
			id := storetest.Query[uuid.UUID](t, n.database, "SELECT id FROM events ORDER BY id DESC LIMIT 1")
			kept, err := n.store.Event(t.Context(), 1, id)
			if err != nil || string(kept.Body) != c.body {
				t.Errorf("got %.50q kept, %v, want the bytes as they came: %.50q", kept.Body, err, c.body)
			}
		})
	}
}

// What a stranger puts where an id or a token should be must neither match
// nor harm: every one of these is an ordinary callback that nobody waits for.
func TestHostileValues(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "source": ["hook", "contact"], "module_id": 1}`)
	token := w["token"].(string)
	for _, c := range []struct{ name, path, contentType, body string }{
		{"NUL in an id", "/in/default/hook", "application/json", `{"id": "a\u0000b", "type": "paid", "data": {"reference": "x"}}`},
		{"NUL in a token", "/in/default/hook", "application/json", `{"id": "1", "type": "paid", "data": {"reference": "\u0000` + token + `"}}`},
		{"NUL in a type", "/in/default/hook", "application/json", `{"id": "2", "type": "\u0000.paid", "data": {"reference": "x"}}`},
		{"a lone surrogate", "/in/default/hook", "application/json", `{"id": "\ud800", "type": "paid", "data": {"reference": "\udfff"}}`},
		{"ids that are no strings", "/in/default/hook", "application/json", `{"id": {"a": [1]}, "type": ["paid"], "data": {"reference": 12}}`},
		{"a very long id", "/in/default/hook", "application/json", `{"id": "` + strings.Repeat("i", 9000) + `", "type": "paid", "data": {"reference": "` + strings.Repeat("r", 9000) + `"}}`},
		{"a token with a space", "/in/default/hook", "application/json", `{"id": "3", "type": "paid", "data": {"reference": " ` + token + `"}}`},
		{"a token in other case", "/in/default/hook", "application/json", `{"id": "4", "type": "paid", "data": {"reference": "` + swapCase(token) + `"}}`},
		{"NUL in the path", "/in/default/contact/%00", "application/x-www-form-urlencoded", "a=b"},
		{"invalid UTF-8 in the path", "/in/default/contact/%ff%fe", "application/x-www-form-urlencoded", "a=c"},
		{"a slash in the path", "/in/default/contact/a%2Fb", "application/x-www-form-urlencoded", "a=d"},
		{"NUL in a field", "/in/default/contact", "application/x-www-form-urlencoded", "conversation_token=%00&a%00b=%00"},
		{"invalid UTF-8 in a field", "/in/default/contact", "application/x-www-form-urlencoded", "conversation_token=%ff&%ff=%fe"},
		{"invalid UTF-8 in the query", "/in/default/contact?conversation_token=%ff%00", "application/x-www-form-urlencoded", "a=e"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			before := n.count("events")
			n.hook(c.path, c.body, header("Content-Type", c.contentType)).wantAccepted()
			if got := n.count("events"); got != before+1 {
				t.Errorf("got %d events, want %d: what was accepted is kept", got, before+1)
			}
			n.get("/v1/events?limit=1").want(http.StatusOK)
		})
	}
	for _, e := range n.get("/v1/events").data() {
		if e["correlation_id"] != nil {
			t.Errorf("got the event %v matched, want none", e)
		}
		n.get("/v1/events/" + e["id"].(string)).want(http.StatusOK)
	}
	if lines := n.log.Lines(`"level":"ERROR"`); len(lines) != 0 {
		t.Errorf("got %d errors logged, want none: %s", len(lines), lines[0])
	}
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z':
			return r ^ 0x20
		}
		return r
	}, s)
}

// A key that stands twice must mean the same to the check and to the reader:
// the event is taken once, whichever value it names.
func TestDuplicateKeysAreReadOneWay(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a := n.wait(`{"user_id": "u-1", "source": "hook", "module_id": 1}`)
	b := n.wait(`{"user_id": "u-2", "source": "hook", "module_id": 1}`)
	n.hook("/in/default/hook", fmt.Sprintf(`{"id": "1", "type": "paid", "data": {"reference": %q}, "data": {"reference": %q}}`, a["token"], b["token"])).wantAccepted()
	if got := n.count("correlations WHERE status = 'completed'"); got != 1 {
		t.Errorf("got %d waits completed, want one", got)
	}
}

// endless is a body that never ends, and counts what was read of it.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const big = 10 << 20
	for _, c := range []struct {
		name, method, path string
		body               func() io.Reader
	}{
		{"callback of a declared 10 MB", http.MethodPost, "/in/default/hook", func() io.Reader { return bytes.NewReader(make([]byte, big)) }},
		{"callback of chunked 10 MB", http.MethodPost, "/in/default/hook", func() io.Reader { return io.LimitReader(&endless{}, big) }},
		{"callback of one byte too many", http.MethodPost, "/in/default/hook", func() io.Reader { return bytes.NewReader(make([]byte, handlers.MaxBody+1)) }},
		{"chunked callback of one byte too many", http.MethodPost, "/in/default/hook", func() io.Reader { return io.LimitReader(&endless{}, handlers.MaxBody+1) }},
		{"call of a declared 10 MB", http.MethodPost, "/v1/correlations", func() io.Reader { return bytes.NewReader(make([]byte, big)) }},
		{"call of chunked 10 MB", http.MethodPut, "/v1/flows/x", func() io.Reader { return io.LimitReader(&endless{}, big) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			a := n.send(c.method, c.path, c.body(), bearer(n.keys[relay.ScopeAdmin]), header("Content-Type", "application/json"))
			a.refused(http.StatusRequestEntityTooLarge, "body_too_large", "1048576 bytes")
		})
	}
	if got := n.count("events"); got != 0 {
		t.Errorf("got %d events, want none of what was refused unread", got)
	}
	t.Run("exactly as much as is allowed", func(t *testing.T) {
		n := n.in(t)
		body := `{"id": "big", "type": "nothing", "x": "`
		body += strings.Repeat("x", handlers.MaxBody-len(body)-2) + `"}`
		n.hook("/in/default/hook", body).wantAccepted()
	})
}

// However much is sent, no more than the bound is read.
func TestOversizedBodyIsNotRead(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	e := &endless{}
	req := httptest.NewRequest(http.MethodPost, "/in/default/hook", e)
	req.ContentLength = -1
	w := httptest.NewRecorder()
	n.handlers.Server().Handler.ServeHTTP(w, req)
	if w.Code != http.StatusRequestEntityTooLarge || e.read > 4*handlers.MaxBody {
		t.Errorf("got %d after %d bytes were read, want 413 after about %d", w.Code, e.read, handlers.MaxBody)
	}
	e = &endless{}
	req = httptest.NewRequest(http.MethodPost, "/in/default/hook", e)
	req.ContentLength = handlers.MaxBody + 1
	n.handlers.Server().Handler.ServeHTTP(httptest.NewRecorder(), req)
	if e.read != 0 {
		t.Errorf("got %d bytes read of a body that says it is too large, want none", e.read)
	}
}

// raw opens a connection and says some words.
func (n *node) raw(words string) (net.Conn, *bufio.Reader) {
	n.t.Helper()
	u, err := url.Parse(n.url)
	must(n.t, err)
	conn, err := new(net.Dialer).DialContext(n.t.Context(), "tcp", u.Host)
	must(n.t, err)
	n.t.Cleanup(func() { _ = conn.Close() })
	must(n.t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = conn.Write([]byte(words))
	must(n.t, err)
	return conn, bufio.NewReader(conn)
}

func TestSlowSenders(t *testing.T) {
	t.Parallel()
	// The headers of the second one are there when they are looked for, however
	// late that is: only its body is too slow.
	const headers, body = 5 * time.Second, 200 * time.Millisecond
	n := newNode(t, options{server: func(s *http.Server) {
		for name, bound := range map[string]time.Duration{
			"ReadHeaderTimeout": s.ReadHeaderTimeout, "ReadTimeout": s.ReadTimeout, "WriteTimeout": s.WriteTimeout, "IdleTimeout": s.IdleTimeout,
		} {
			if bound <= 0 || bound > 2*time.Minute {
				t.Errorf("%s: got %s, want a bound", name, bound)
			}
		}
		s.ReadHeaderTimeout, s.ReadTimeout = headers, body
	}})
	t.Run("headers", func(t *testing.T) {
		n := n.in(t)
		_, r := n.raw("POST /in/default/hook HTTP/1.1\r\nHost: relay\r\nX-Slow: ")
		// The server gives up: it closes, with or without a 408 before.
		if _, err := io.ReadAll(r); err != nil {
			t.Errorf("got %v, want the connection closed by the server", err)
		}
	})
	t.Run("body", func(t *testing.T) {
		n := n.in(t)
		_, r := n.raw("POST /in/default/hook HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		res, err := http.ReadResponse(r, nil)
		must(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		must(t, err)
		a := &answer{t, "a slow body", res.StatusCode, res.Header, body}
		a.refused(http.StatusRequestTimeout, "body_too_slow")
	})
	if got := n.count("events"); got != 0 {
		t.Errorf("got %d events of what never arrived, want none", got)
	}
}

func TestBodyCutOff(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	conn, r := n.raw("POST /in/default/hook HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	must(t, conn.(*net.TCPConn).CloseWrite())
	res, err := http.ReadResponse(r, nil)
	must(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	(&answer{t, "a body that is cut off", res.StatusCode, res.Header, body}).refused(http.StatusBadRequest, "body_cut_off")
	if got := n.count("events"); got != 0 {
		t.Errorf("got %d events of half a body, want none", got)
	}
}

func TestHugeHeaders(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	a := n.send(http.MethodPost, "/in/default/hook", strings.NewReader("{}"), header("X-Huge", strings.Repeat("h", 2*handlers.MaxHeaders)))
	a.want(http.StatusRequestHeaderFieldsTooLarge)
	// A large one that fits is read, and not kept: the preset does not ask for it.
	body := `{"id": "1", "type": "paid"}`
	n.hook("/in/default/hook", body, header("X-Large", strings.Repeat("h", handlers.MaxHeaders/2))).wantAccepted()
	if got := n.count("events WHERE headers::text LIKE '%hhhh%'"); got != 0 {
		t.Errorf("got the foreign header kept, want only those that the preset reads")
	}
}

// Browsers, link previews and providers that test an address do not resume
// conversations, and are told so.
func TestOtherMethodsAtCallbackAddress(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "source": "contact", "module_id": 1}`)
	path := strings.TrimPrefix(w["callback_url"].(string), publicURL)
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
		n.send(method, path, nil).want(http.StatusOK)
		n.send(method, "/in/default/nowhere", nil).want(http.StatusNotFound)
	}
	if events, pending := n.count("events"), n.count("correlations WHERE status = 'pending'"); events != 0 || pending != 1 {
		t.Errorf("got %d events and %d pending waits, want 0 and 1", events, pending)
	}
}

func TestUnknownSources(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for name, path := range map[string]string{
		"unknown project":           "/in/nobody/hook",
		"unknown source":            "/in/default/nothing",
		"unknown source and token":  "/in/default/nothing/abc",
		"NUL in the project":        "/in/%00/hook",
		"invalid UTF-8 in a source": "/in/default/%ff",
	} {
		t.Run(name, func(t *testing.T) {
			n := n.in(t)
			n.hook(path, `{"id": "1"}`).refused(http.StatusNotFound, "unknown_source", "webhook_url")
		})
	}
	// Whoever posts a form to the built-in source looks for its page, or for a
	// source of another provider.
	for _, path := range []string{"/in/default/form", "/in/default/form/abc"} {
		n.hook(path, `{"id": "1"}`).refused(http.StatusNotFound, "unknown_source", "/f/{token}", "html-form")
	}
	if got := n.count("events"); got != 0 {
		t.Errorf("got %d events, want none", got)
	}
}

// A source that exists is never a 404: several providers switch the hook off.
func TestKnownSourceIsNever404(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for _, path := range []string{"/in/default/hook/", "/in/default/hook/unknown-token", "/in/default/hook/one/two", "/in/default/hook?token=unknown"} {
		n.hook(path, `{"id": "`+path+`", "type": "paid"}`).wantAccepted()
	}
}

// A source that was made on another node a moment ago is found.
func TestSourceMadeElsewhere(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	// A second node on the same database, which learns of nothing by itself.
	other := newNode(t, options{database: n.database, sealed: n.sealed, bare: true})
	n.put("/v1/sources/fresh", `{"provider": "generic-hmac", "secret": "`+hookSecret+`"}`).want(http.StatusOK)
	body := `{"id": "1", "type": "paid"}`
	other.hook("/in/default/fresh", body).wantAccepted()
}

func TestForgeries(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "source": "hook", "module_id": 1}`)
	body := `{"id": "e-1", "type": "paid", "data": {"reference": "` + w["token"].(string) + `"}}`
	send := func(n *node, settings ...setting) *answer {
		return n.send(http.MethodPost, "/in/default/hook", strings.NewReader(body), append(settings, header("Content-Type", "application/json"), header("X-Foreign", "x"))...)
	}
	for name, settings := range map[string][]setting{
		"no signature":            nil,
		"an empty signature":      {header("X-Signature", "")},
		"of another secret":       {header("X-Signature", sign("another", body))},
		"of an empty secret":      {header("X-Signature", sign("", body))},
		"of another body":         {header("X-Signature", sign(hookSecret, body+" "))},
		"a signature that is cut": {header("X-Signature", sign(hookSecret, body)[:62])},
	} {
		t.Run(name, func(t *testing.T) {
			n := n.in(t)
			if a := send(n, settings...); a.Status != http.StatusUnauthorized || a.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("got %d %s, want a problem 401", a.Status, a.Body)
			}
		})
	}
	if got := n.count("events WHERE verdict = 'rejected' AND correlation_id IS NULL AND body IS NOT NULL"); got != 6 {
		t.Errorf("got %d rejected events with their bytes, want 6", got)
	}
	if got := n.count("events WHERE headers::jsonb ? 'X-Signature'"); got < 4 {
		t.Errorf("got %d with their signature, want all that had one: a replay needs it", got)
	}
	if got := n.count("events WHERE headers::text LIKE '%Foreign%'"); got != 0 {
		t.Errorf("got %d with a header that the preset does not read, want none", got)
	}
	if got := n.get("/v1/correlations/" + w["id"].(string)).object()["status"]; got != "pending" {
		t.Fatalf("got the wait %v by a forgery, want pending", got)
	}
	// No forgery took the dedupe key of the real one.
	send(n, header("X-Signature", sign(hookSecret, body))).wantAccepted()
	if got := n.get("/v1/correlations/" + w["id"].(string)).object()["status"]; got != "completed" {
		t.Errorf("got the wait %v after the real event, want completed", got)
	}
}

// A header that is the secret itself is kept in no row, right or wrong.
func TestCredentialHeadersAreNotKept(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/sources/keyed", `{"provider": "generic-apikey", "secret": "`+hookSecret+`"}`).want(http.StatusOK)
	for key, status := range map[string]int{hookSecret: http.StatusOK, "another-secret": http.StatusUnauthorized} {
		n.send(http.MethodPost, "/in/default/keyed", strings.NewReader(`{"id": "1"}`), header("Content-Type", "application/json"), header("X-Api-Key", key)).want(status)
	}
	if all, with := n.count("events"), n.count("events WHERE headers::text LIKE '%secret%'"); all != 2 || with != 0 {
		t.Errorf("got %d of %d events with the secret, want none of 2", with, all)
	}
}

// A callback that is not genuine is told what is wrong with it, and nothing
// that would help to forge one.
func TestRejectedDetail(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	send := func(settings ...setting) *answer {
		return n.hook("/in/default/stripe", `{"id": "evt_1"}`, settings...)
	}
	bare := send().refused(http.StatusUnauthorized, "missing_header", "the header Stripe-Signature is missing")
	if got := bare.Header.Get("WWW-Authenticate"); got != "" {
		t.Errorf("got WWW-Authenticate %q, want none: an API key is no way in here", got)
	}
	send(header("Stripe-Signature", "t=1,v1=00")).refused(http.StatusUnauthorized, "signature_mismatch", "compare the secret")
}

func TestAwaitingSecret(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.hook("/in/default/awaiting", `{"id": "1", "type": "paid"}`).refused(http.StatusUnauthorized, "awaiting_secret", "secret")
	if got := n.get("/v1/sources/awaiting").object()["awaiting_secret"]; got != true {
		t.Errorf("got awaiting_secret %v, want true", got)
	}
	// What is kept says what was answered, and so does the source within a second.
	kept := n.get("/v1/events?source=awaiting").object()["data"].([]any)
	if got := kept[0].(map[string]any)["reason"]; got != "awaiting_secret" {
		t.Errorf("got the reason %v, want awaiting_secret", got)
	}
	eventually(t, "the source says why it has refused", func() bool {
		return n.get("/v1/sources/awaiting").object()["last_error"] == "awaiting_secret"
	})
	if got := n.count("events WHERE verdict = 'rejected'"); got != 1 {
		t.Errorf("got %d kept, want 1: it is replayed once there is a secret", got)
	}
	n.post("/v1/sources/awaiting/secrets", `{"secret": "`+hookSecret+`"}`).want(http.StatusCreated)
	n.hook("/in/default/awaiting", `{"id": "1", "type": "paid"}`).wantAccepted()
}

// Strangers cannot fill the database with forgeries, and a real callback of
// the same source is not held up by them.
func TestRejectedBudget(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	forge := func(source string, want int) {
		t.Helper()
		n.send(http.MethodPost, "/in/default/"+source, strings.NewReader("{}"), header("X-Signature", "00")).want(http.StatusUnauthorized)
		if got := n.count("events"); got != want {
			t.Errorf("a forgery for %s: got %d kept, want %d", source, got, want)
		}
	}
	forge("hook", 1)
	n.handlers.SpendRejected(n.directory.Current().Project(relay.DefaultProject).Source("hook").ID)
	forge("hook", 1)
	forge("awaiting", 2) // each source has a budget of its own
	n.hook("/in/default/hook", `{"id": "1", "type": "paid"}`).wantAccepted()
}

// So many are kept at once, and one more with each second.
func TestRejectedBudgetRefills(t *testing.T) {
	t.Parallel()
	keeps, now := handlers.RejectedBudget(), time.Now()
	for _, step := range []struct {
		later time.Duration
		want  int
	}{{0, handlers.RejectedBurst}, {0, 0}, {time.Second, 1}, {time.Minute, handlers.RejectedBurst}} {
		now = now.Add(step.later)
		kept := 0
		for range 2 * handlers.RejectedBurst {
			if keeps(1, now) {
				kept++
			}
		}
		if kept != step.want {
			t.Errorf("%s later: got %d kept, want %d", step.later, kept, step.want)
		}
	}
}

// Nor do bodies that are sent slowly, and were begun before others, refill it.
func TestRejectedBudgetOfSlowBodies(t *testing.T) {
	t.Parallel()
	keeps, now := handlers.RejectedBudget(), time.Now()
	kept := 0
	for range 2 * handlers.RejectedBurst {
		for _, came := range []time.Time{now, now.Add(-3 * time.Second)} {
			if keeps(1, came) {
				kept++
			}
		}
	}
	if kept != handlers.RejectedBurst {
		t.Errorf("got %d kept at once, want %d", kept, handlers.RejectedBurst)
	}
}

func TestFormBrowserIsLedToTheTruth(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "source": "contact", "module_id": 1}`)
	token := w["token"].(string)
	const form = "application/x-www-form-urlencoded"
	browser := []setting{header("Accept", "text/html,application/xhtml+xml"), header("Content-Type", form)}
	for _, c := range []struct{ name, path, body, location string }{
		{"unknown token", "/in/default/contact/AAAAAAAAAAAAAAAAAAAAAA", "a=b", "/return/AAAAAAAAAAAAAAAAAAAAAA"},
		{"no token", "/in/default/contact", "a=b", "/return/unknown"},
		{"what is no token", "/in/default/contact", "conversation_token=//evil.test", "/return/unknown"},
		{"token in a field", "/in/default/contact", "name=Ada&conversation_token=" + token, "/return/" + token},
		{"sent again, token in the path", "/in/default/contact/" + token, "name=Ada", "/return/" + token},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			a := n.send(http.MethodPost, c.path, strings.NewReader(c.body), browser...).want(http.StatusSeeOther)
			if got := a.Header.Get("Location"); got != publicURL+c.location {
				t.Errorf("got the browser led to %s, want %s", got, publicURL+c.location)
			}
		})
	}
	n.send(http.MethodPost, "/in/default/contact/"+token, strings.NewReader("name=Eve"), header("Content-Type", form)).wantAccepted()
	got := n.get("/v1/correlations/" + w["id"].(string)).object()
	if got["status"] != "completed" || got["form"].(map[string]any)["name"] != "Ada" {
		t.Errorf("got %v with the form %v, want it completed by the first", got["status"], got["form"])
	}
	if handed := n.deliveries(); len(handed) != 1 {
		t.Errorf("got %d deliveries, want one: a form sent again resumes nothing", len(handed))
	}
}
