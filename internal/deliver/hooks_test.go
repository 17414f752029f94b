package deliver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"relay.example/relay/internal/deliver"
	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// heard is one hook as a subscriber gets it.
type heard struct {
	header http.Header
	body   []byte

	Timestamp int64          `json:"timestamp"`
	Event     string         `json:"event"`
	Sequence  int64          `json:"sequence"`
	Payload   map[string]any `json:"payload"`
	Hook      map[string]any `json:"hook"`
}

// subscriber is a third party whose answers a test gives.
type subscriber struct {
	*httptest.Server
	mu   sync.Mutex
	came []heard
}

// newSubscriber starts a subscriber that answers by answer, after it has
// noted the hook.
func newSubscriber(t *testing.T, answer http.HandlerFunc) *subscriber {
	t.Helper()
	s := &subscriber{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := heard{header: r.Header.Clone()}
		h.body, _ = io.ReadAll(r.Body)
		if err := json.Unmarshal(h.body, &h); err != nil {
			t.Errorf("a hook is no JSON: %v", err)
		}
		s.mu.Lock()
		s.came = append(s.came, h)
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *subscriber) hooks() []heard {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.came)
}

// ten is a receiver as Smartify's consumers write them.
func ten(secret string, hear func(event string, payload map[string]any)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Hook    struct{ Event string }
			Payload map[string]any
		}
		if r.Header.Get("x-hook-secret") != secret || json.NewDecoder(r.Body).Decode(&body) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		hear(body.Hook.Event, body.Payload)
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// teller is one node's hooks over a store.
type teller struct {
	*deliver.Hooks
	directory *directory.Directory
	log       *logLines
	stop      func()
}

func newTeller(t *testing.T, s *store.Store, grace time.Duration) *teller {
	t.Helper()
	d, client, lines, log := surroundings(t, s)
	h, err := deliver.NewHooks(deliver.HooksConfig{Store: s, Directory: d, Client: client, Log: log, Grace: grace})
	if err != nil {
		t.Fatal(err)
	}
	return &teller{Hooks: h, directory: d, log: lines}
}

// run runs a teller until the test ends or stop is called.
func (h *teller) run(t *testing.T) *teller {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.Run(ctx); err != nil {
			t.Errorf("telling ended with %v", err)
		}
	}()
	h.stop = func() { cancel(); <-done }
	t.Cleanup(h.stop)
	return h
}

// owedHooks is how many hooks are owed or dead.
func (w *world) owedHooks(t *testing.T) int {
	t.Helper()
	return storetest.Query[int](t, w.url, `SELECT count(*) FROM hooks`)
}

func (w *world) told(t *testing.T) {
	t.Helper()
	until(t, "no hook is owed", func() bool { return w.owedHooks(t) == 0 })
}

func TestTells(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	at := newSubscriber(t, status(http.StatusNoContent))
	sub := w.Subscribe(t, relay.Everything, at.URL+"/hooks?from=relay")
	newTeller(t, w.Store, time.Second).run(t)
	began := time.Now()
	wait := w.Wait(t, "u-1")
	w.told(t)
	got := at.hooks()
	if len(got) != 1 {
		t.Fatalf("got %d hooks, want 1", len(got))
	}
	h := got[0]
	verifier, err := standardwebhooks.NewWebhook(sub.SigningSecret)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Verify(h.body, h.header); err != nil {
		t.Errorf("Standard Webhooks' own library: %v", err)
	}
	if h.header.Get("X-Hook-Secret") != sub.Secret {
		t.Error("x-hook-secret is not the subscription's")
	}
	if at := time.UnixMilli(h.Timestamp); h.Event != "correlation.created" || h.Sequence != 1 || at.Before(began.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("the envelope: got %s %d at %s, want correlation.created 1 of now", h.Event, h.Sequence, at)
	}
	if p := h.Payload; p["id"] != wait.ID.String() || p["status"] != "pending" || p["user_id"] != "u-1" || p["conversation"] != "u-1" || p["key"] != nil {
		t.Errorf("the payload: got %v, want the wait", p)
	}
	if hook := h.Hook; hook["_id"] != sub.ID.String() || hook["event"] != "*" || hook["target"] != sub.Target || hook["id_project"] != "shop" {
		t.Errorf("the hook: got %v, want the subscription", hook)
	}
	for _, secret := range []string{sub.Secret, sub.SigningSecret, wait.Token} {
		if strings.Contains(string(h.body), secret) {
			t.Errorf("the body holds a secret or the token: %s", h.body)
		}
	}
}

func TestSmartifyStyleReceiver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	came := make(chan string, 10)
	var receive http.HandlerFunc
	at := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { receive(w, r) }))
	t.Cleanup(at.Close)
	sub := w.Subscribe(t, relay.WaitCancelled, at.URL)
	receive = ten(sub.Secret, func(event string, payload map[string]any) { came <- fmt.Sprint(event, " ", payload["user_id"]) })
	newTeller(t, w.Store, time.Second).run(t)
	wait := w.Wait(t, "u-1")
	_, err := w.Store.EndWait(t.Context(), relay.NewID(), w.ID, wait.ID, func(w *relay.Wait) (store.Ending, error) {
		return store.Ending{Wait: w, Step: w.Apply(relay.Cancelled, ""), By: "api"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.told(t)
	if got, want := <-came, "correlation.cancelled u-1"; got != want || len(came) != 0 {
		t.Errorf("got %q and %d more, want %q alone", got, len(came), want)
	}
}

// What an answer means: heard, never, or later.
func TestAnswersOfSubscribers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"200":        {status(200), ""},
		"204":        {status(204), ""},
		"410":        {status(410), "dead permanent gone 410"},
		"404":        {status(404), "owed retry not_found 404"},
		"401":        {status(401), "owed retry bad_credentials 401"},
		"a redirect": {http.RedirectHandler("/elsewhere", http.StatusFound).ServeHTTP, "owed retry redirected 302"},
		"429":        {status(429), "owed retry rate_limited 429"},
		"500":        {status(500), "owed retry platform_failed 500"},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_ = conn.Close()
			}
		}, "owed unknown reset"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ok)
			at := newSubscriber(t, tt.answer)
			w.Subscribe(t, relay.WaitCreated, at.URL)
			h := newTeller(t, w.Store, time.Second).run(t)
			w.Wait(t, "u-1")
			const row = `SELECT coalesce((SELECT concat_ws(' ', CASE WHEN died_at IS NULL THEN 'owed' ELSE 'dead' END, class, split_part(reason, ':', 1), http_status)
			                              FROM hooks), '')`
			until(t, tt.want, func() bool { return storetest.Query[string](t, w.url, row) == tt.want && len(at.hooks()) > 0 },
				func() string { return storetest.Query[string](t, w.url, row) })
			dead := 0
			if strings.HasPrefix(tt.want, "dead") {
				dead = 1
				until(t, "the log tells of it", func() bool { return h.log.with("hook is dead") > 0 }) // once it is recorded
			}
			if got := h.log.with("hook is dead"); got != dead {
				t.Errorf("the log tells of %d dead hooks, want %d", got, dead)
			}
		})
	}
}

func TestHooksAreRetried(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	var calls int
	at := newSubscriber(t, func(w http.ResponseWriter, _ *http.Request) {
		if calls++; calls < 3 { // one hook, so one call at a time
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	w.Subscribe(t, relay.WaitCreated, at.URL)
	newTeller(t, w.Store, time.Second).run(t)
	w.Wait(t, "u-1")
	w.told(t)
	got := at.hooks()
	if len(got) != 3 {
		t.Fatalf("got %d hooks, want 3 attempts", len(got))
	}
	for _, h := range got[1:] {
		if string(h.body) != string(got[0].body) || h.header.Get("webhook-id") != got[0].header.Get("webhook-id") {
			t.Errorf("an attempt sends another body or id than the first:\n%s\n%s", h.body, got[0].body)
		}
	}
}

// A target that hangs, and one that fails, delay nobody: not another target,
// and not the hooks of a subscription behind one that fails.
func TestDeadTargetBesideHealthy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	release := make(chan struct{})
	hanging := newSubscriber(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	failing, healthy := newSubscriber(t, status(503)), newSubscriber(t, status(200))
	for _, at := range []*subscriber{hanging, failing, healthy} {
		w.Subscribe(t, relay.WaitCreated, at.URL)
	}
	began := time.Now()
	h := newTeller(t, w.Store, time.Second).run(t)
	const waits = 400
	for i := range waits {
		w.Wait(t, fmt.Sprintf("u-%d", i))
	}
	until(t, "the healthy one was told of all", func() bool { return len(healthy.hooks()) >= waits })
	seen := map[int64]bool{}
	for _, hook := range healthy.hooks() {
		seen[hook.Sequence] = true
	}
	if len(seen) != waits || len(healthy.hooks()) != waits {
		t.Errorf("the healthy one heard %d hooks with %d numbers, want %d of each", len(healthy.hooks()), len(seen), waits)
	}
	// Each time that a call may take, it is called by as many again.
	most := deliver.HookConcurrency * (1 + int(time.Since(began)/relay.DefaultTimeout))
	if n := len(hanging.hooks()); n > most {
		t.Errorf("the hanging one was called %d times, want at most %d", n, most)
	}
	until(t, "the breaker of the failing one has opened", func() bool { return h.log.with("a subscriber does not answer") > 0 })
	if n := len(failing.hooks()); n > 3*deliver.BreakerFailures {
		t.Errorf("the failing one was called %d times, want its breaker to spare it", n)
	}
	until(t, "what the healthy one took is recorded, and no more", func() bool { return w.owedHooks(t) <= 2*waits })
	if n := w.owedHooks(t); n != 2*waits {
		t.Errorf("%d hooks are owed, want the %d of the two that do not answer", n, 2*waits)
	}
}

// A project with as many slow targets as it may have, each of which is owed a
// lot, fills its share of a node's memory, and another project is told at once.
func TestSlowTargetsOfOneProject(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	release := make(chan struct{})
	slow := newSubscriber(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	kinds := relay.AllNews[1:11]
	for i := range relay.MaxSubscriptions {
		w.Subscribe(t, kinds[i%len(kinds)], fmt.Sprintf("%s/%d", slow.URL, i))
	}
	storetest.Exec(t, w.url, `
		INSERT INTO hooks (project_id, subscription_id, event, payload, give_up_at)
		SELECT s.project_id, s.id, s.event, '{"id": "1"}', now() + interval '1 day' FROM subscriptions s, generate_series(1, 100)`)
	other := storetest.NewProject(t, w.Store, "shop-b", w.at.URL)
	healthy := newSubscriber(t, status(200))
	other.Subscribe(t, relay.WaitCreated, healthy.URL)
	h := newTeller(t, w.Store, time.Second)
	h.run(t)
	t.Cleanup(func() { close(release) })
	most := 0
	until(t, "every slow target is called", func() bool {
		held, _ := h.Held()
		most = max(most, held)
		called := map[any]bool{}
		for _, hook := range slow.hooks() {
			called[hook.Hook["_id"]] = true
		}
		return len(called) == relay.MaxSubscriptions
	})
	other.Wait(t, "u-1")
	until(t, "the other project is told", func() bool { return len(healthy.hooks()) == 1 })
	if held, _ := h.Held(); max(most, held) > deliver.HookShare {
		t.Errorf("%d hooks of a project were held, want at most %d", max(most, held), deliver.HookShare)
	}
}

// A target that nobody subscribes to any more is forgotten, whatever it said.
func TestTargetsAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	at := newSubscriber(t, status(503))
	sub := w.Subscribe(t, relay.WaitCreated, at.URL)
	h := newTeller(t, w.Store, time.Second).run(t)
	w.Wait(t, "u-1")
	until(t, "it has failed", func() bool { return len(at.hooks()) > 0 })
	if _, lanes := h.Held(); lanes != 1 {
		t.Fatalf("%d targets are remembered, want 1", lanes)
	}
	if err := h.directory.Unsubscribe(t.Context(), &sub); err != nil {
		t.Fatal(err)
	}
	until(t, "it is forgotten", func() bool {
		held, lanes := h.Held()
		return held == 0 && lanes == 0
	})
}

// A node that dies after the commit, or with a hook in its hands, loses
// nothing: another one tells.
func TestHooksOutliveTheirNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	at := newSubscriber(t, status(200))
	sub := w.Subscribe(t, relay.WaitCreated, at.URL)
	w.Wait(t, "u-claimed")
	if claimed, err := w.Store.ClaimHooks(t.Context(), relay.NewID(), []uuid.UUID{sub.ID}, 10, 10); err != nil || len(claimed) != 1 {
		t.Fatalf("claiming: got %d hooks, %v, want 1", len(claimed), err)
	}
	w.Wait(t, "u-committed")
	other := newTeller(t, storetest.Open(t, w.url, w.keys), time.Second).run(t)
	until(t, "the hook that nobody had claimed is told", func() bool { return len(at.hooks()) == 1 })
	if got := at.hooks()[0]; got.Payload["user_id"] != "u-committed" || got.Sequence != 2 {
		t.Errorf("got %v with the number %d, want u-committed with 2", got.Payload["user_id"], got.Sequence)
	}
	storetest.Exec(t, w.url, `UPDATE hooks SET due_at = now()`) // the lease ends
	w.told(t)
	if got := at.hooks()[1]; got.Payload["user_id"] != "u-claimed" || got.Sequence != 1 {
		t.Errorf("got %v with the number %d, want u-claimed with 1", got.Payload["user_id"], got.Sequence)
	}
	other.stop()
}

// A node that stops lets its calls finish and gives back what it has not sent.
func TestHooksAreGivenBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	calls, release := make(chan struct{}, 100), make(chan struct{})
	at := newSubscriber(t, func(http.ResponseWriter, *http.Request) {
		calls <- struct{}{}
		<-release
	})
	w.Subscribe(t, relay.WaitCreated, at.URL)
	for i := range 2 * deliver.HookConcurrency {
		w.Wait(t, fmt.Sprintf("u-%d", i))
	}
	h := newTeller(t, w.Store, time.Minute).run(t)
	for range deliver.HookConcurrency {
		receive(t, calls, "the target is called")
	}
	stopped := make(chan struct{})
	go func() { h.stop(); close(stopped) }()
	until(t, "the rest is given back", func() bool {
		return storetest.Query[int](t, w.url, `SELECT count(*) FROM hooks WHERE lease IS NULL`) == deliver.HookConcurrency
	})
	close(release)
	receive(t, stopped, "it has stopped")
	if n := w.owedHooks(t); n != deliver.HookConcurrency || len(at.hooks()) != deliver.HookConcurrency {
		t.Errorf("%d are owed and %d were told, want %d of each", n, len(at.hooks()), deliver.HookConcurrency)
	}
}

// Nobody is told who has unsubscribed.
func TestUnsubscribedAreNotTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	at := newSubscriber(t, status(200))
	sub := w.Subscribe(t, relay.WaitCreated, at.URL)
	h := newTeller(t, w.Store, time.Second)
	w.Wait(t, "u-1")
	if err := h.directory.Unsubscribe(t.Context(), &sub); err != nil {
		t.Fatal(err)
	}
	h.run(t)
	kept := w.Subscribe(t, relay.WaitCreated, at.URL)
	if err := h.directory.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Wait(t, "u-2")
	until(t, "the new subscription is told", func() bool { return len(at.hooks()) == 1 })
	if got := at.hooks()[0]; got.Hook["_id"] != kept.ID.String() || got.Payload["user_id"] != "u-2" {
		t.Errorf("got the hook of %v about %v, want that of %s about u-2", got.Hook["_id"], got.Payload["user_id"], kept.ID)
	}
}
