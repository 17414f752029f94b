package handlers_test

import (
	"cmp"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"relay.example/relay/internal/handlers"
	"relay.example/relay/internal/store/storetest"
)

// A panic is a plain 500, logged once, by the route and never by its path.
func TestPanic(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u", "flow": "checkout"}`)
	n.onHand = func() { panic("the hand-over is broken") }
	a := n.post("/v1/correlations/"+w["id"].(string)+"/cancel", "").refused(http.StatusInternalServerError, "internal_error", "log")
	if strings.Contains(string(a.Body), "broken") {
		t.Errorf("got %s, want nothing of the inside", a.Body)
	}
	lines := n.log.Lines(`"level":"ERROR"`)
	if len(lines) != 1 {
		t.Fatalf("got %d errors logged, want one: %v", len(lines), lines)
	}
	for _, want := range []string{`"route":"/v1/correlations/:id/cancel"`, "the hand-over is broken", "errors_test.go"} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("got %s, want %s in it", lines[0], want)
		}
	}
	for _, unwanted := range []string{w["id"].(string), w["token"].(string)} {
		if strings.Contains(n.log.String(), unwanted) {
			t.Errorf("got %s, want no path in it", lines[0])
		}
	}
	n.get("/v1/flows").want(http.StatusOK) // and the node goes on
}

// A node that takes no more says when to come again.
func TestBusy(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.stop()
	body := `{"id": "1", "type": "paid", "token": "AAAAAAAAAAAAAAAAAAAAAA"}`
	for _, a := range []*answer{
		n.hook("/in/default/hook", body).refused(http.StatusServiceUnavailable, "overloaded"),
		n.post("/v1/correlations", `{"user_id": "u", "flow": "checkout"}`).refused(http.StatusServiceUnavailable, "overloaded"),
	} {
		if got := a.Header.Get("Retry-After"); got == "" || got == "0" {
			t.Errorf("%s: got Retry-After %q, want some seconds", a.asked, got)
		}
	}
	// A forgery is a forgery, whether or not it could be kept.
	n.send(http.MethodPost, "/in/default/hook", strings.NewReader(body)).want(http.StatusUnauthorized)
	if strings.Contains(n.log.String(), "AAAAAAAAAAAAAAAAAAAAAA") {
		t.Errorf("got the token in the log")
	}
}

// What is not committed in time is answered before the provider gives up.
func TestAnswersInTime(t *testing.T) {
	t.Parallel()
	if handlers.AnswerTimeout >= 3*time.Second {
		t.Errorf("a callback is answered within %s, want less than the 3 s that a provider waits", handlers.AnswerTimeout)
	}
	n := newNode(t, options{answerIn: 100 * time.Millisecond, bare: true})
	n.put("/v1/sources/hook", `{"provider": "generic-hmac", "secret": "`+hookSecret+`"}`).want(http.StatusOK)
	n.put("/v1/destinations/bot", `{"platform": "certainly", "base_url": "https://bot.test", "token": "`+botToken+`"}`).want(http.StatusOK)
	storetest.Hold(t, n.database, `LOCK TABLE events, correlations`)
	n.hook("/in/default/hook", `{"id": "1", "type": "paid", "token": "AAAAAAAAAAAAAAAAAAAAAA"}`).refused(http.StatusServiceUnavailable, "overloaded")
	n.post("/v1/correlations", `{"user_id": "u", "source": "hook", "module_id": 1}`).refused(http.StatusServiceUnavailable, "overloaded")
}

// A Postgres that goes away is a 503 with Retry-After on every way in, and
// needs no restart when it comes back.
func TestDatabaseGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	line := &line{t: t}
	n := newNode(t, options{wrap: line.reach})
	w := n.wait(`{"user_id": "u", "source": "hook", "module_id": 1}`)
	body := `{"id": "1", "type": "paid", "token": "` + w["token"].(string) + `"}`
	line.cut()
	for _, a := range []*answer{
		n.hook("/in/default/hook", body),
		n.post("/v1/correlations", `{"user_id": "u", "flow": "checkout"}`),
		n.get("/v1/correlations"),
		n.visit("/go/" + w["token"].(string)),
		n.put("/v1/flows/checkout", `{"destination": "bot", "source": "hook", "module_id": 1}`),
	} {
		if a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: got %d %s, Retry-After %q, want 503 with one", a.asked, a.Status, a.Body, a.Header.Get("Retry-After"))
		}
		if strings.Contains(string(a.Body), "127.0.0.1") || strings.Contains(string(a.Body), "postgres") {
			t.Errorf("%s: got %s, want nothing of the database in it", a.asked, a.Body)
		}
	}
	// People are told in words for people, programs in their own.
	for _, path := range []string{"/go/" + w["token"].(string), "/f/" + w["token"].(string), "/return/" + w["token"].(string), "/return/default/stripe?ref=cs_1"} {
		a := n.visit(path).want(http.StatusServiceUnavailable)
		if !strings.Contains(string(a.Body), "<h1>Not available at the moment</h1>") || a.Header.Get("Content-Security-Policy") == "" {
			t.Errorf("%s: got %s, want a page", path, a.Body)
		}
		n.send(http.MethodGet, path, nil).refused(http.StatusServiceUnavailable, "database_unavailable")
	}
	n.send(http.MethodGet, "/readyz", nil).want(http.StatusOK)
	line.mend()
	eventually(t, "callbacks are accepted again", func() bool { return n.hook("/in/default/hook", body).Status == http.StatusOK })
	if got := n.get("/v1/correlations/" + w["id"].(string)).want(http.StatusOK).object()["status"]; got != "completed" {
		t.Errorf("got the wait %v, want completed", got)
	}
	if got := n.deliveries(); len(got) != 1 {
		t.Errorf("got %d deliveries, want one however often the callback was tried", len(got))
	}
}

// line is the way to the database, which can be cut.
type line struct {
	t        *testing.T
	listener net.Listener
	network  string
	address  string

	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

// reach returns a database URL that leads through the line.
func (l *line) reach(database string) string {
	l.t.Helper()
	u, err := url.Parse(database)
	must(l.t, err)
	q := u.Query()
	host, port := cmp.Or(q.Get("host"), u.Hostname()), cmp.Or(q.Get("port"), u.Port(), "5432")
	l.network, l.address = "tcp", net.JoinHostPort(host, port)
	if strings.HasPrefix(host, "/") {
		l.network, l.address = "unix", path.Join(host, ".s.PGSQL."+port)
	}
	l.listener, err = new(net.ListenConfig).Listen(l.t.Context(), "tcp", "127.0.0.1:0")
	must(l.t, err)
	l.t.Cleanup(func() {
		_ = l.listener.Close()
		l.cut()
	})
	go l.accept()
	q.Del("host")
	q.Del("port")
	q.Set("sslmode", "disable")
	u.Host, u.RawQuery = l.listener.Addr().String(), q.Encode()
	return u.String()
}

func (l *line) accept() {
	for {
		here, err := l.listener.Accept()
		if err != nil {
			return
		}
		there, err := net.Dial(l.network, l.address)
		l.mu.Lock()
		if err != nil || l.down {
			_ = here.Close()
			if err == nil {
				_ = there.Close()
			}
			l.mu.Unlock()
			continue
		}
		l.conns = append(l.conns, here, there)
		l.mu.Unlock()
		go pipe(here, there)
		go pipe(there, here)
	}
}

func pipe(from, to net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}
