package inquiry_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/inquiry"
	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
	"relay.example/relay/internal/sweeper"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// apiKey must never stand in a log, an error or a row.
const apiKey = "sk_test_never_told_0123456789"

// shop is a project whose source is a Stripe that can be asked: the sandbox
// stands in for it.
type shop struct {
	*storetest.Project
	url  string
	keys string
	box  *sandbox.Sandbox
	log  *leaks.Log

	// now is the clock of all that strangers are rationed by, and the time at
	// which every callback comes. It stands still: how many may be asked about
	// does not hang on how quick this machine is, nor on the day's end.
	now time.Time

	next *next
}

// next is what is done to the next request before it is answered.
type next struct {
	mu sync.Mutex
	do func()
}

// take returns what is to be done, and has it done once.
func (n *next) take() (do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do, n.do = n.do, nil
	return do
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{url: storetest.URL(t, true), keys: seal.NewKey(), log: &leaks.Log{}, now: time.Now(), next: &next{}}
	s.box = sandbox.New(sandbox.Config{Stripe: sandbox.Stripe{APIKey: apiKey}})
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(server.Close)
	s.Project = storetest.NewProject(t, storetest.Open(t, s.url, s.ring(t)), "shop", "http://127.0.0.1:1")
	s.SourceID = s.addStripe(t, server.URL+"/stripe")
	t.Cleanup(func() {
		if strings.Contains(s.log.String(), apiKey) {
			t.Errorf("the log holds the api_key: %s", s.log)
		}
	})
	return s
}

func (s *shop) serve(w http.ResponseWriter, r *http.Request) {
	if do := s.next.take(); do != nil {
		do()
	}
	s.box.ServeHTTP(w, r)
}

func (s *shop) clock() time.Time { return s.now }

// holdNext keeps the next request from its answer: came is closed when it has
// come, and it is answered once answer is.
func (s *shop) holdNext() (came <-chan struct{}, answer chan<- struct{}) {
	there, let := make(chan struct{}), make(chan struct{})
	s.next.mu.Lock()
	defer s.next.mu.Unlock()
	s.next.do = func() {
		close(there)
		<-let
	}
	return there, let
}

func (s *shop) ring(t *testing.T) *seal.Ring {
	t.Helper()
	ring, err := seal.ParseRing(s.keys)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func (s *shop) addStripe(t *testing.T, api string) (id int64) {
	return s.addSource(t, "stripe", api, apiKey)
}

// addSource makes a source of a preset that is asked at an address, or changes
// it. Without a key it is not asked.
func (s *shop) addSource(t *testing.T, preset, api, key string) (id int64) {
	return s.addNamed(t, preset, preset, api, key)
}

func (s *shop) addNamed(t *testing.T, name, preset, api, key string) (id int64) {
	t.Helper()
	src := relay.Source{ProjectID: s.ID, Name: name, Provider: preset, Settings: map[string]string{"base_url": api}}
	if key != "" {
		src.Credentials = map[string]string{"api_key": key}
	}
	err := s.Store.Configure(t.Context(), func(c *store.Change) (err error) {
		id, err = c.PutSource(t.Context(), src)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// node is what asks, and what it works with: the parts of a relay that have
// to do with it.
type node struct {
	*inquiry.Asker
	intake    *intake.Intake
	directory *directory.Directory
	sweeper   *sweeper.Sweeper
}

// node returns a node; its intake runs until the test ends, its questions are
// asked when a test says so.
func (s *shop) node(t *testing.T) *node {
	t.Helper()
	log := slog.New(slog.NewJSONHandler(leaks.Watch(t, s.log), &slog.HandlerOptions{Level: slog.LevelDebug}))
	st := storetest.Open(t, s.url, s.ring(t))
	plans, handOver := plan.NewCache(st.Plan), func([]relay.Delivery) {}
	policy, err := egress.ParsePolicy("true")
	check(t, err)
	client := egress.New(egress.Config{Policy: policy})
	t.Cleanup(client.Close)
	n := &node{}
	n.directory, err = directory.New(directory.Config{Store: st, PublicURL: "http://relay.example", Policy: policy, Log: log})
	check(t, err)
	check(t, n.directory.Load(t.Context()))
	n.intake, err = intake.New(intake.Config{Store: st, Plans: plans, Directory: n.directory, HandOver: handOver, Log: log, Now: s.clock})
	check(t, err)
	n.sweeper, err = sweeper.New(sweeper.Config{
		Store: st, Plans: plans, Directory: n.directory, HandOver: handOver,
		MatchParked: n.intake.MatchParkedOnce, Replay: n.intake.ReplayOnce, Log: log,
	})
	check(t, err)
	n.Asker, err = inquiry.New(inquiry.Config{
		Store: st, Directory: n.directory, Intake: n.intake, Plans: plans, Client: client, HandOver: handOver, Log: log,
	})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.intake.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
	})
	return n
}

// askAside asks once, beside what the test does meanwhile.
func (n *node) askAside(t *testing.T) <-chan error {
	asked := make(chan error, 1)
	go func() {
		_, err := n.AskOnce(t.Context())
		asked <- err
	}()
	return asked
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// receive takes a callback of the source as genuine.
func (s *shop) receive(t *testing.T, n *node, body []byte) relay.Receipt {
	t.Helper()
	c, err := n.directory.Current().ReadAgain(relay.Callback{
		ID: relay.NewID(), ProjectID: s.ID, SourceID: s.SourceID, Verdict: relay.Verified, Body: body, ReceivedAt: time.Now(),
	}, time.Now())
	check(t, err)
	receipt, err := n.intake.Accept(t.Context(), c)
	check(t, err)
	return receipt
}

// checkout is one visit to a payment link.
func checkout(w relay.Wait) sandbox.StripeOptions {
	return sandbox.StripeOptions{
		Token: w.Token, Amount: 2050, SessionID: "cs_test_" + relay.NewToken(), IntentID: "pi_" + relay.NewToken(),
		PaymentLink: "plink_1",
	}
}

// declined is a declined card of a visit: it carries no token.
func declined(o sandbox.StripeOptions) []byte { return tokenless("payment_intent.payment_failed", o) }

func tokenless(kind string, o sandbox.StripeOptions) []byte {
	o.Token = ""
	return sandbox.StripeEvent(kind, o)
}

// ask has a node ask what is due, and says how many questions it wants there.
func ask(t *testing.T, n *node, want int) {
	t.Helper()
	got, err := n.AskOnce(t.Context())
	check(t, err)
	if got != want {
		t.Errorf("asking once: took %d questions, want %d", got, want)
	}
}

// wantAsked holds how many requests Stripe has got.
func (s *shop) wantAsked(t *testing.T, want int64) {
	t.Helper()
	if got := s.box.Counts().Asked; got != want {
		t.Errorf("Stripe was asked %d times, want %d", got, want)
	}
}

// wantEvent holds match and rule of an event.
func (s *shop) wantEvent(t *testing.T, id uuid.UUID, want string) {
	t.Helper()
	if got := storetest.Query[string](t, s.url, `SELECT match || ' ' || rule FROM events WHERE id = $1`, id); got != want {
		t.Errorf("the event: got %q, want %q", got, want)
	}
}

// wantQuestion holds result and reason of the question about an event or a
// wait, and whether it is asked again.
func (s *shop) wantQuestion(t *testing.T, about uuid.UUID, want string) {
	t.Helper()
	got := storetest.Query[string](t, s.url, `
		SELECT concat_ws(' ', result, reason, CASE WHEN due_at IS NULL THEN 'done' ELSE 'again' END)
		FROM questions WHERE $1 IN (event_id, correlation_id)`, about)
	if got != want {
		t.Errorf("the question: got %q, want %q", got, want)
	}
}

// wantWait holds a wait's status, whether it was reconciled, and what it has
// fired.
func (s *shop) wantWait(t *testing.T, w relay.Wait, want string) {
	t.Helper()
	got := storetest.Query[string](t, s.url, `
		SELECT c.status || ' ' || coalesce(c.reconciled::text, 'null') || coalesce(' ' || string_agg(d.outcome, ' ' ORDER BY d.created_at, d.id), '')
		FROM correlations c LEFT JOIN deliveries d ON d.correlation_id = c.id
		WHERE c.id = $1
		GROUP BY c.id`, w.ID)
	if got != want {
		t.Errorf("the wait: got %q, want %q", got, want)
	}
}

// due makes every question due now, as if its time had come.
func (s *shop) due(t *testing.T) {
	t.Helper()
	storetest.Exec(t, s.url, `UPDATE questions SET due_at = now() - interval '1 second' WHERE due_at IS NOT NULL`)
}

// later is 30 s later: what Stripe says of an event then is final.
func (s *shop) later(t *testing.T) {
	t.Helper()
	storetest.Exec(t, s.url, `UPDATE questions SET give_up_at = give_up_at - interval '30 seconds' WHERE due_at IS NOT NULL`)
	s.due(t)
}

// sweep ends what is overdue.
func sweep(t *testing.T, n *node) {
	t.Helper()
	_, err := n.sweeper.ExpireOnce(t.Context())
	check(t, err)
}
