package handlers_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"relay.example/relay/internal/handlers"
)

// listener reads a stream as a browser's script does.
type listener struct {
	t      *testing.T
	states chan string // closed at the end of the stream
}

// listen opens the stream of a page.
func (n *node) listen(path string, settings ...setting) *listener {
	n.t.Helper()
	return listen(n.t, n.url, path, settings...)
}

func listen(t *testing.T, server, path string, settings ...setting) *listener {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server+path, nil)
	must(t, err)
	req.Header.Set("Accept", "text/event-stream")
	for _, set := range settings {
		set(req)
	}
	res, err := client(t).Do(req)
	must(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	if got := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || got != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s: got %d %v, want a stream", path, res.StatusCode, res.Header)
	}
	l := &listener{t, make(chan string, 16)}
	go func() {
		defer close(l.states)
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			if state, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				l.states <- state
			}
		}
	}()
	return l
}

// hears waits for the next state.
func (l *listener) hears(want string) {
	l.t.Helper()
	select {
	case got, open := <-l.states:
		if got != want || !open {
			l.t.Fatalf("heard %q (stream open: %v), want %q", got, open, want)
		}
	case <-time.After(patience):
		l.t.Fatalf("heard nothing for %v, want %q", patience, want)
	}
}

// ends waits for the end of the stream.
func (l *listener) ends() {
	l.t.Helper()
	select {
	case got, open := <-l.states:
		if open {
			l.t.Fatalf("heard %q, want the end of the stream", got)
		}
	case <-time.After(patience):
		l.t.Fatalf("the stream goes on for %v, want its end", patience)
	}
}

// limits notes how a handler changes the server's limits.
type limits struct {
	mu     sync.Mutex
	reads  []time.Time
	writes int
}

func (l *limits) watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(limitedWriter{w, l}, r) })
}

func (l *limits) seen() (reads []time.Time, writes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.reads), l.writes
}

// limitedWriter tells its limits what the handler makes of the connection's.
type limitedWriter struct {
	http.ResponseWriter
	limits *limits
}

func (w limitedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w limitedWriter) SetReadDeadline(at time.Time) error {
	w.limits.mu.Lock()
	defer w.limits.mu.Unlock()
	w.limits.reads = append(w.limits.reads, at)
	return http.NewResponseController(w.ResponseWriter).SetReadDeadline(at)
}

func (w limitedWriter) SetWriteDeadline(at time.Time) error {
	w.limits.mu.Lock()
	defer w.limits.mu.Unlock()
	w.limits.writes++
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(at)
}

// callback sends a signed event of a wait's session.
func (n *node) session(w map[string]any, event, kind, status string) {
	n.t.Helper()
	body := `{"id": "` + event + `", "type": "` + kind + `", "livemode": false, "data": {"object": {"object": "checkout.session", "id": "cs_` + w["token"].(string) + `",
		"payment_status": "` + status + `", "amount_total": 2050, "currency": "eur", "client_reference_id": "` + w["token"].(string) + `"}}}`
	n.send(http.MethodPost, "/in/default/stripe", strings.NewReader(body), header("Stripe-Signature", stripeSignature(body))).wantAccepted()
}

// shows opens a page and looks for parts of it.
func (n *node) shows(path string, parts ...string) string {
	n.t.Helper()
	page := string(n.visit(path).want(http.StatusOK).Body)
	for _, part := range parts {
		if !strings.Contains(page, part) {
			n.t.Errorf("%s: got %s, want %s in it", path, page, part)
		}
	}
	return page
}

// The page turns from confirming to paid when the signed callback arrives,
// with a script or without.
func TestReturnTurnsToPaid(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	// The limits of a request are not those of a stream, which outlasts them.
	limited, server := &limits{}, n.handlers.Server()
	watched := httptest.NewServer(limited.watch(server.Handler))
	t.Cleanup(watched.Close)
	w := n.wait(`{"user_id": "u-1", "flow": "checkout", "return_url": "https://chat.test/"}`)
	page := "/return/" + w["token"].(string)
	n.shows(page, "<h1>Confirming your payment", `data-now="pending"`, `<script src="../assets/return-`,
		`<noscript><meta http-equiv="refresh" content="3"></noscript>`)
	bySource := "/return/default/stripe"
	cookie := header("Cookie", "relay_wait="+w["token"].(string))
	if deeper := string(n.visit(bySource, cookie).want(http.StatusOK).Body); !strings.Contains(deeper, `<script src="../../assets/return-`) {
		t.Errorf("got %s, want the script two levels up", deeper)
	}
	listeners := []*listener{listen(t, watched.URL, page), n.listen(page), n.listen(bySource, cookie)}
	all := func(state string) {
		t.Helper()
		for _, l := range listeners {
			l.hears(state)
		}
	}
	all("pending")
	n.session(w, "evt_1", "checkout.session.completed", "unpaid")
	all("processing")
	n.shows(page, "<h1>Your payment is being processed", `data-now="processing"`)
	n.session(w, "evt_2", "checkout.session.async_payment_succeeded", "paid")
	all("completed")
	if reads, writes := limited.seen(); !slices.Equal(reads, []time.Time{{}}) || writes < 3 {
		t.Errorf("got the read limit set to %v and the write limit renewed %d times, want none, and anew for each of 3 news", reads, writes)
	}
	if got := n.shows(page, "<h1>Done", `href="https://chat.test/"`); strings.Contains(got, "<script") || strings.Contains(got, "refresh") {
		t.Errorf("got %s, want a page that stands still", got)
	}
	n.listen(page).hears("completed") // who comes late hears it at once
	// A late success is told too.
	late := n.wait(`{"user_id": "u-2", "flow": "checkout"}`)
	n.post("/v1/correlations/"+late["id"].(string)+"/cancel", `{}`).want(http.StatusOK)
	l := n.listen("/return/" + late["token"].(string))
	l.hears("cancelled")
	n.session(late, "evt_3", "checkout.session.completed", "paid")
	l.hears("completed")
}

// What a redirect says of a payment is not believed, and not denied.
func TestReturnWithoutPayment(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "flow": "checkout"}`)
	page := "/return/" + w["token"].(string)
	n.shows(page+"?back", "<h1>Not paid yet", "<script")
	n.shows(page+"?status=paid&redirect_status=succeeded", "<h1>Confirming your payment")
	if got := n.get("/v1/correlations/" + w["id"].(string)).object()["status"]; got != "pending" {
		t.Errorf("after redirects: got %v, want it pending", got)
	}
	n.session(w, "evt_1", "checkout.session.completed", "paid")
	n.shows(page+"?back", "<h1>Done")
	form := n.wait(`{"user_id": "u-2", "source": "contact", "module_id": 1}`)
	n.shows("/return/"+form["token"].(string), "<h1>Not confirmed yet")
}

// Streams are bounded, end when the node stops, and are nobody's who has no
// wait.
func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "flow": "checkout"}`)
	page := "/return/" + w["token"].(string)
	stream := header("Accept", "text/event-stream")
	n.visit("/return/AAAAAAAAAAAAAAAAAAAAAA", stream).want(http.StatusNotFound)
	n.visit("/return/default/stripe", stream).want(http.StatusNotFound)
	var ofOne []*listener
	crowd := "/return/" + n.wait(`{"user_id": "u-2", "flow": "checkout"}`)["token"].(string)
	for range handlers.MaxOfWait {
		ofOne = append(ofOne, n.listen(crowd))
	}
	n.visit(crowd, stream).refused(http.StatusServiceUnavailable, "too_many_streams")
	n.handlers.FillNews(1 + len(ofOne))
	l := n.listen(page)
	l.hears("pending")
	if a := n.visit(page, stream); a.Header.Get("Retry-After") == "" {
		t.Errorf("got %v, want a time to try again", a.Header)
	} else {
		a.refused(http.StatusServiceUnavailable, "too_many_streams")
	}
	n.shows(page, "<h1>Confirming your payment") // it looks again by itself
	n.handlers.Drain()
	l.ends()
	ofOne[0].hears("pending")
	ofOne[0].ends()
	n.visit(page, stream).refused(http.StatusServiceUnavailable, "too_many_streams")
}
