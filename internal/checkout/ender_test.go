package checkout_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/checkout"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// answering is Stripe with one answer for all.
type answering struct {
	status int
	body   string
	asked  []string
}

func (a *answering) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.asked = append(a.asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
	w.WriteHeader(a.status)
	_, _ = w.Write([]byte(a.body))
}

// cancelled is a wait that was cancelled before its session was paid.
func cancelled(t *testing.T, p *storetest.Project) relay.Wait {
	t.Helper()
	return cancelledOf(t, p, "u", p.SourceID)
}

func cancelledOf(t *testing.T, p *storetest.Project, user string, sourceID int64) relay.Wait {
	t.Helper()
	reg := p.Registration(t, user, p.Plan())
	reg.Checkout = &store.Checkout{SourceID: sourceID, Object: "cs_test_1", URL: "https://pay.test/1", Reference: true}
	w := p.Register(t, reg)
	_, err := p.Store.EndWait(t.Context(), uuid.New(), p.ID, w.ID, func(w *relay.Wait) (store.Ending, error) {
		return store.Ending{Wait: w, Step: w.Apply(relay.Cancelled, ""), By: "api"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestSessionsAreEnded(t *testing.T) {
	t.Parallel()
	const over = `{"error": {"type": "invalid_request_error", "message": "Only Checkout Sessions with a status in [\"open\"] can be expired."}}`
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   store.EndResult
		tries  int
	}{
		{"open", http.StatusOK, `{"id": "cs_test_1", "object": "checkout.session", "status": "expired", "url": null}`, store.SessionEnded, 1},
		{"paid already", http.StatusBadRequest, over, store.SessionOver, 1},
		{"not known", http.StatusNotFound, `{"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such checkout.session"}}`, store.EndingNotKnown, 4},
		{"no page at that address", http.StatusNotFound, `<p>Not found`, store.EndingFailed, 4},
		{"the key may not", http.StatusForbidden, `{"error": {"type": "invalid_request_error", "message": "no"}}`, store.EndingRefused, 4},
		{"Stripe is away", http.StatusInternalServerError, `{"error": {"type": "api_error", "message": "oh"}}`, store.EndingFailed, 4},
		{"the source has no key", 0, "", store.EndingFailed, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			url := storetest.URL(t, true)
			s := storetest.Open(t, url, storetest.Keys(t))
			p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
			stripe := &answering{status: c.status, body: c.body}
			ts := httptest.NewServer(stripe)
			t.Cleanup(ts.Close)
			var log strings.Builder
			w := cancelled(t, p)
			tries := 0
			for {
				// A fresh one each time: none remembers that this machine was slow, and
				// lets the source rest.
				e := ender(t, s, &log, func(int64) (string, string, bool) { return ts.URL + "/stripe", apiKey, c.status != 0 })
				before := storetest.Query[time.Time](t, url, `SELECT now()`)
				n, err := e.EndOnce(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					break
				}
				tries++
				if due := storetest.Query[bool](t, url, `SELECT coalesce(end_due_at < $1::timestamptz + interval '5 seconds', false) FROM checkouts`, before); due {
					t.Error("it is due again at once, want a pause")
				}
				storetest.Exec(t, url, `UPDATE checkouts SET end_due_at = now() WHERE end_due_at IS NOT NULL`)
			}
			if tries != c.tries {
				t.Errorf("got %d tries, want %d", tries, c.tries)
			}
			made, err := s.CheckoutOf(t.Context(), w.ID)
			if err != nil || made.EndResult == nil || *made.EndResult != c.want || made.EndTries != c.tries {
				t.Errorf("got %+v, %v, want %s", made, err, c.want)
			}
			for _, asked := range stripe.asked {
				if want := "POST /stripe/v1/checkout/sessions/cs_test_1/expire Bearer " + apiKey; asked != want {
					t.Errorf("got asked %s, want %s", asked, want)
				}
			}
			if told := strings.Contains(log.String(), "can be paid until it ends by itself"); told != (c.tries > 1) {
				t.Errorf("got the log %s, want it told where it was given up", log.String())
			}
			if strings.Contains(log.String(), apiKey) || strings.Contains(log.String(), "cs_test_1") {
				t.Errorf("got the log %s, want neither key nor session in it", log.String())
			}
		})
	}
}

// A node that is stopped while it asks leaves the session to the next one.
func TestStoppedWhileEnding(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	s := storetest.Open(t, url, storetest.Keys(t))
	p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
	ctx, stop := context.WithCancel(t.Context())
	ts := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		stop()
		<-r.Context().Done()
	}))
	t.Cleanup(ts.Close)
	cancelled(t, p)
	e := ender(t, s, &strings.Builder{}, func(int64) (string, string, bool) { return ts.URL, apiKey, true })
	if err := e.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if got := storetest.Query[string](t, url, `SELECT concat_ws(' ', end_tries, end_due_at > now(), end_lease IS NOT NULL) FROM checkouts`); got != "0 t t" {
		t.Errorf("got tries, leased, by somebody: %s, want 0 t t", got)
	}
}

// A source whose provider is slow, with more sessions than a batch takes, does
// not keep those of another waiting.
func TestSlowProviderDelaysNobody(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	s := storetest.Open(t, url, storetest.Keys(t))
	p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(hangs.Close)
	answers := httptest.NewServer(&answering{status: http.StatusOK, body: `{"id": "cs_test_1", "object": "checkout.session", "status": "expired", "url": null}`})
	t.Cleanup(answers.Close)
	for i := range 10 {
		cancelledOf(t, p, fmt.Sprint("slow ", i), p.SourceID)
	}
	w := cancelledOf(t, p, "quick", p.SourceID+1)
	e := ender(t, s, &strings.Builder{}, func(id int64) (string, string, bool) {
		if id == p.SourceID {
			return hangs.URL, apiKey, true
		}
		return answers.URL, apiKey, true
	})
	for range 2 {
		if _, err := e.EndOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	made, err := s.CheckoutOf(t.Context(), w.ID)
	if err != nil || made.EndResult == nil || *made.EndResult != store.SessionEnded {
		t.Errorf("after two passes: got %+v, %v, want it ended", made, err)
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM checkouts WHERE end_result = 'failed'`); got != 8 {
		t.Errorf("%d slow ones were tried, want the first batch, 8", got)
	}
}

func ender(t *testing.T, s *store.Store, log *strings.Builder, source func(int64) (string, string, bool)) *checkout.Ender {
	t.Helper()
	policy, err := egress.ParsePolicy("true")
	if err != nil {
		t.Fatal(err)
	}
	client := egress.New(egress.Config{Policy: policy})
	t.Cleanup(client.Close)
	e, err := checkout.NewEnder(checkout.EnderConfig{
		Store: s, Maker: checkout.New(client), Source: source, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}
