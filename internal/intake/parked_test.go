package intake_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// shop is a project whose source is a Stripe: its events name their waits by
// key and by reference, and their bytes can be read again.
type shop struct {
	*storetest.Project
	url string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	p, url := project(t)
	p.SourceID = addStripe(t, p, "stripe")
	return &shop{p, url}
}

func addStripe(t *testing.T, p *storetest.Project, name string) (id int64) {
	t.Helper()
	err := p.Store.Configure(t.Context(), func(c *store.Change) (err error) {
		id, err = c.PutSource(t.Context(), relay.Source{ProjectID: p.ID, Name: name, Provider: "stripe"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// session is a checkout session that names its wait by key.
func session(id, status, key, intent string) string {
	return fmt.Sprintf(`{"id": %q, "type": "checkout.session.completed", "data": {"object": {"object": "checkout.session",
		"id": "cs_%s", "payment_intent": %q, "client_reference_id": %q, "payment_status": %q, "amount_total": 2050, "currency": "eur"}}}`,
		id, id, intent, key, status)
}

// declined is a declined card, which names nothing but its intent.
func declined(id, intent string) string {
	return fmt.Sprintf(`{"id": %q, "type": "payment_intent.payment_failed", "data": {"object": {"object": "payment_intent",
		"id": %q, "amount": 2050, "currency": "eur"}}}`, id, intent)
}

// receive commits a verified callback on a node.
func (s *shop) receive(t *testing.T, n *node, body string) relay.Receipt {
	t.Helper()
	receipt, err := s.tryReceive(n, body)
	if err != nil {
		t.Fatal(err)
	}
	return receipt
}

func (s *shop) tryReceive(n *node, body string) (relay.Receipt, error) {
	c, err := n.directory.Current().ReadAgain(relay.Callback{
		ID: relay.NewID(), ProjectID: s.ID, SourceID: s.SourceID, Verdict: relay.Verified, Body: []byte(body), ReceivedAt: time.Now(),
	}, time.Now())
	if err != nil {
		return relay.Receipt{}, err
	}
	receipts, errs := n.CommitTogether([]relay.Callback{c})
	return receipts[0], errs[0]
}

// keyed is the registration of a wait with a key.
func keyed(t *testing.T, p *storetest.Project, key string) store.Registration {
	t.Helper()
	r := p.Registration(t, "user of "+key, p.Plan())
	r.Wait.Key = key
	return r
}

// register commits a registration on a node.
func register(t *testing.T, n *node, r store.Registration) relay.Wait {
	t.Helper()
	registered, errs := n.RegisterTogether([]store.Registration{r})
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	return registered[0].Wait
}

// look has a node look for what its commits asked for.
func look(t *testing.T, n *node) {
	t.Helper()
	if _, err := n.LookNow(); err != nil {
		t.Fatal(err)
	}
}

// sweep looks at all that is parked.
func sweep(t *testing.T, n *node) {
	t.Helper()
	if _, err := n.MatchParkedOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// wantEvent checks match and rule of the event with a provider's id.
func (s *shop) wantEvent(t *testing.T, id, want string) {
	t.Helper()
	got := storetest.Query[string](t, s.url, `SELECT match || ' ' || rule FROM events WHERE provider_event_id = $1 ORDER BY id LIMIT 1`, id)
	if got != want {
		t.Errorf("event %s: got %q, want %q", id, got, want)
	}
}

// wantWait checks the state of a wait and what it fired.
func (s *shop) wantWait(t *testing.T, w relay.Wait, status, fired string) {
	t.Helper()
	if got := storetest.Query[string](t, s.url, statusSQL, w.ID); got != status {
		t.Errorf("the wait with key %s is %s, want %s", w.Key, got, status)
	}
	if got := storetest.Query[string](t, s.url, firedSQL, w.ID); got != fired {
		t.Errorf("the wait with key %s fired %q, want %q", w.Key, got, fired)
	}
}

// wantParked checks how many events are parked, by their names.
func (s *shop) wantParked(t *testing.T, want int) {
	t.Helper()
	if got := storetest.Query[int](t, s.url, `SELECT count(DISTINCT event_id) FROM parked_refs`); got != want {
		t.Errorf("%d events have names that are looked for, want %d", got, want)
	}
}

// A payment that comes before its wait completes it as soon as it is there,
// once, and with all that the event told.
func TestEarlyEvent(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := newNode(t, s.Store)
	receipt := s.receive(t, n, session("evt_1", "paid", "order-1", "pi_1"))
	if receipt.Match != relay.Parked || receipt.Rule != "nobody_waits_yet" {
		t.Fatalf("before the wait: got %+v, want it parked", receipt)
	}
	s.wantParked(t, 1)
	if again := s.receive(t, n, session("evt_1", "paid", "order-1", "pi_1")); again.Match != relay.Duplicate {
		t.Errorf("told again: got %+v, want a duplicate", again)
	}
	w := register(t, n, keyed(t, s.Project, "order-1"))
	look(t, n)
	s.wantWait(t, w, "completed", "completed>completed")
	s.wantEvent(t, "evt_1", "matched closed")
	s.wantParked(t, 0)
	if len(n.handedOver) != 1 || n.handedOver[0].EventID != receipt.EventID || n.handedOver[0].Payment == nil || n.handedOver[0].Payment.ID != "pi_1" {
		t.Errorf("handed over %+v, want one delivery of the event, with its payment", n.handedOver)
	}
	e, err := s.Store.Event(t.Context(), s.ID, receipt.EventID)
	if err != nil || e.CorrelationID == nil || *e.CorrelationID != w.ID || e.Payment == nil || e.Outcome != relay.Completed {
		t.Errorf("the event shows %+v, %v; want the wait and the payment", e, err)
	}
	// What it taught counts from now on.
	if got := s.receive(t, n, strings.Replace(declined("evt_2", "pi_1"), "payment_failed", "succeeded", 1)); got.Rule != "already_closed" {
		t.Errorf("the same payment told by its intent: got %+v, want it known", got)
	}
}

// Several early events of one wait: the strongest wins, as in one batch.
func TestEarlyEventsOfOneWait(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := newNode(t, s.Store)
	s.receive(t, n, strings.Replace(session("evt_1", "unpaid", "order-1", "pi_1"), "session.completed", "session.async_payment_failed", 1))
	s.receive(t, n, session("evt_2", "paid", "order-1", "pi_2"))
	w := register(t, n, keyed(t, s.Project, "order-1"))
	look(t, n)
	s.wantWait(t, w, "completed", "completed>completed")
	s.wantEvent(t, "evt_1", "duplicate already_closed")
	s.wantEvent(t, "evt_2", "matched closed")
}

// A declined card names nothing but its intent. It reaches the wait once
// another event has taught the reference.
func TestTaughtReferenceFindsParkedEvent(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := newNode(t, s.Store)
	w := s.Register(t, keyed(t, s.Project, "order-1"))
	if got := s.receive(t, n, declined("evt_1", "pi_1")); got.Match != relay.Parked {
		t.Fatalf("got %+v, want it parked", got)
	}
	look(t, n)
	s.wantWait(t, w, "pending", "")
	s.receive(t, n, session("evt_2", "unpaid", "order-1", "pi_1"))
	look(t, n)
	s.wantWait(t, w, "pending", "processing>processing attempt_failed>attempt_failed")
	s.wantEvent(t, "evt_1", "matched on_the_way")
	s.wantParked(t, 0)
	if len(n.handedOver) != 1 || n.handedOver[0].Outcome != relay.Processing {
		t.Errorf("handed over %+v, want that of processing: the other waits for its turn", n.handedOver)
	}
}

// What a parked event teaches finds the next one.
func TestParkedEventTeaches(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := newNode(t, s.Store)
	s.receive(t, n, declined("evt_1", "pi_1"))
	s.receive(t, n, session("evt_2", "unpaid", "order-1", "pi_1"))
	w := register(t, n, keyed(t, s.Project, "order-1"))
	look(t, n)
	s.wantWait(t, w, "pending", "processing>processing attempt_failed>attempt_failed")
}

// gate stops every insert into a table until it is opened.
type gate struct {
	url  string
	key  int64
	conn *pgx.Conn
}

func newGate(t *testing.T, url, table string) *gate {
	t.Helper()
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(url + table))
	g := &gate{url: url, key: int64(sum.Sum32())}
	storetest.Exec(t, url, fmt.Sprintf(`CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN PERFORM pg_advisory_xact_lock_shared(%d); RETURN NEW; END $$`, g.key))
	storetest.Exec(t, url, `CREATE TRIGGER pass BEFORE INSERT ON `+table+` FOR EACH ROW EXECUTE FUNCTION pass()`)
	var err error
	if g.conn, err = pgx.Connect(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.conn.Close(context.Background()) })
	if _, err := g.conn.Exec(t.Context(), `SELECT pg_advisory_lock($1)`, g.key); err != nil {
		t.Fatal(err)
	}
	return g
}

// waitedFor returns once somebody stands before the gate.
func (g *gate) waitedFor(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for storetest.Query[int](t, g.url, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid::bigint = $1`, g.key) == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("nobody came to the gate within %v", patience)
		}
		<-tick.C
	}
}

func (g *gate) open(t *testing.T) {
	t.Helper()
	if _, err := g.conn.Exec(t.Context(), `SELECT pg_advisory_unlock($1)`, g.key); err != nil {
		t.Fatal(err)
	}
}

// A wait is created while the event that it waits for has been decided and is
// not committed, or the other way round: neither commit can see the other, and
// the look after the later one finds both (promise 4).
func TestCreateMeetsEvent(t *testing.T) {
	t.Parallel()
	paid := session("evt_1", "paid", "order-1", "pi_1")
	t.Run("the event commits last", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		receiving, creating := newNode(t, s.Store), newNode(t, storetest.Open(t, s.url, keys(t)))
		g := newGate(t, s.url, "events")
		done := make(chan error, 1)
		go func() {
			_, err := s.tryReceive(receiving, paid)
			done <- err
		}()
		g.waitedFor(t)
		w := register(t, creating, keyed(t, s.Project, "order-1"))
		look(t, creating)
		s.wantWait(t, w, "pending", "")
		g.open(t)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		s.wantEvent(t, "evt_1", "parked nobody_waits_yet") // the race is real
		look(t, receiving)
		s.wantWait(t, w, "completed", "completed>completed")
	})
	t.Run("the wait commits last", func(t *testing.T) {
		t.Parallel()
		s := newShop(t)
		receiving, creating := newNode(t, s.Store), newNode(t, storetest.Open(t, s.url, keys(t)))
		reg := keyed(t, s.Project, "order-1")
		g := newGate(t, s.url, "correlations")
		done := make(chan error, 1)
		go func() {
			_, errs := creating.RegisterTogether([]store.Registration{reg})
			done <- errs[0]
		}()
		g.waitedFor(t)
		s.receive(t, receiving, paid)
		look(t, receiving)
		s.wantEvent(t, "evt_1", "parked nobody_waits_yet")
		g.open(t)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		s.wantWait(t, reg.Wait, "pending", "")
		look(t, creating)
		s.wantWait(t, reg.Wait, "completed", "completed>completed")
	})
	for _, order := range []string{"event wait look-event look-wait", "event wait look-wait look-event", "event look-event wait look-wait", "wait look-wait event look-event"} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			receiving, creating := newNode(t, s.Store), newNode(t, storetest.Open(t, s.url, keys(t)))
			reg := keyed(t, s.Project, "order-1")
			for _, step := range strings.Fields(order) {
				switch step {
				case "event":
					s.receive(t, receiving, paid)
				case "wait":
					register(t, creating, reg)
				case "look-event":
					look(t, receiving)
				case "look-wait":
					look(t, creating)
				}
			}
			s.wantWait(t, reg.Wait, "completed", "completed>completed")
			s.wantParked(t, 0)
		})
	}
}

// The nodes die between their commits and their looks: the sweep of another
// one finds what they left, and of two that sweep at once each event fires once.
func TestSweepFindsWhatNobodyLookedFor(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	dead := newNode(t, s.Store)
	const events = 250 // more than two batches
	waits := make([]relay.Wait, events)
	for i := range events {
		key := "order-" + strconv.Itoa(i)
		s.receive(t, dead, session("evt_"+strconv.Itoa(i), "paid", key, "pi_"+strconv.Itoa(i)))
		waits[i] = register(t, dead, keyed(t, s.Project, key))
	}
	s.wantParked(t, events)
	nodes := []*node{newNode(t, storetest.Open(t, s.url, keys(t))), newNode(t, storetest.Open(t, s.url, keys(t)))}
	var g errgroup.Group
	for _, n := range nodes {
		g.Go(func() error {
			_, err := n.MatchParkedOnce(context.Background())
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	sweep(t, nodes[0]) // what each left to the other
	for _, w := range waits {
		s.wantWait(t, w, "completed", "completed>completed")
	}
	s.wantParked(t, 0)
	if got := len(nodes[0].handedOver) + len(nodes[1].handedOver); got != events {
		t.Errorf("%d deliveries were handed over, want %d", got, events)
	}
}

// Two nodes look for one event in the same moment, over and over.
func TestTwoNodesMatchOneParkedEvent(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	nodes := []*node{newNode(t, s.Store), newNode(t, storetest.Open(t, s.url, keys(t)))}
	for round := range 20 {
		key := "order-" + strconv.Itoa(round)
		s.receive(t, nodes[0], session("evt_"+strconv.Itoa(round), "paid", key, "pi_"+strconv.Itoa(round)))
		w := register(t, nodes[1], keyed(t, s.Project, key))
		var g errgroup.Group
		for _, n := range nodes {
			g.Go(func() error {
				_, err := n.LookNow()
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		s.wantWait(t, w, "completed", "completed>completed")
	}
}

// Same key elsewhere: another project's wait and a wait at another source are
// not what the event waits for, and what was taught as a provider's id does
// not answer to a key.
func TestParkedEventIsForItsOwnSource(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	elsewhere := storetest.NewProject(t, s.Store, "elsewhere", "http://127.0.0.1:1")
	elsewhere.SourceID = addStripe(t, elsewhere, "stripe")
	n := newNode(t, s.Store)
	s.receive(t, n, session("evt_1", "paid", "order-1", "pi_1"))
	foreign := register(t, n, keyed(t, elsewhere, "order-1"))
	other := keyed(t, s.Project, "order-1")
	other.Wait.SourceIDs = []int64{s.OtherSourceID}
	aside := register(t, n, other)
	s.receive(t, n, session("evt_2", "paid", "pi_9", "pi_2")) // a key that looks like an id
	teaching := register(t, n, keyed(t, s.Project, "order-9"))
	s.receive(t, n, session("evt_3", "unpaid", "order-9", "pi_9"))
	look(t, n)
	sweep(t, n)
	for _, w := range []relay.Wait{foreign, aside} {
		s.wantWait(t, w, "pending", "")
	}
	s.wantWait(t, teaching, "pending", "processing>processing")
	s.wantEvent(t, "evt_1", "parked nobody_waits_yet")
	s.wantEvent(t, "evt_2", "parked nobody_waits_yet")
	s.wantParked(t, 2)
	if events, _, err := s.Store.AwaitedFrom(t.Context(), store.ParkedCursor{}, 100); err != nil || len(events) != 0 {
		t.Errorf("the sweep finds %v, %v: want nothing to do", events, err)
	}
}

// The sweep walks through all names in pieces and begins again.
func TestSweepInPieces(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := newNode(t, s.Store)
	for i := range 4 {
		key := "order-" + strconv.Itoa(i)
		s.receive(t, n, session("evt_"+strconv.Itoa(i), "paid", key, "pi_"+strconv.Itoa(i)))
		if i%2 == 1 {
			register(t, n, keyed(t, s.Project, key))
		}
	}
	found := 0
	var cursor store.ParkedCursor
	pieces := 0
	for ; pieces < 20; pieces++ {
		events, next, err := s.Store.AwaitedFrom(t.Context(), cursor, 5)
		if err != nil {
			t.Fatal(err)
		}
		found += len(events)
		if cursor = next; cursor == (store.ParkedCursor{}) {
			break
		}
	}
	if found != 2 || pieces != 2 {
		t.Errorf("found %d events in %d full pieces of 5 names, want 2 in 2", found, pieces) // 4 events of 3 names each
	}
}

// An event whose source is gone stays parked, holds up nobody, and is given up
// in its time.
func TestParkedEventOfALostSource(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := newNode(t, s.Store)
	s.receive(t, n, session("evt_1", "paid", "order-1", "pi_1"))
	w := register(t, n, keyed(t, s.Project, "order-1"))
	storetest.Exec(t, s.url, `UPDATE events SET source_id = -1`)
	look(t, n)
	sweep(t, n)
	s.wantWait(t, w, "pending", "")
	s.wantEvent(t, "evt_1", "parked nobody_waits_yet")
}

// Parked for too long, and too many of one source: unmatched, visibly, and
// sent again they count.
func TestUnpark(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := newNode(t, s.Store)
	for i := range 5 {
		s.receive(t, n, session("evt_"+strconv.Itoa(i), "paid", "order-"+strconv.Itoa(i), "pi_"+strconv.Itoa(i)))
		storetest.Exec(t, s.url, `UPDATE parked_refs SET parked_at = now() - $1 * interval '1 hour' WHERE event_id = (SELECT id FROM events WHERE provider_event_id = $2)`,
			[]float64{73, 5, 4, 3, 71}[i], "evt_"+strconv.Itoa(i))
	}
	if got, err := s.Store.Unpark(t.Context(), 72*time.Hour, 3, 100); err != nil || got != 1 {
		t.Errorf("got %d, %v, want one of each kind", got, err)
	}
	for id, want := range map[string]string{
		"evt_0": "unmatched nobody_came", "evt_4": "unmatched parked_full",
		"evt_1": "parked nobody_waits_yet", "evt_2": "parked nobody_waits_yet", "evt_3": "parked nobody_waits_yet",
	} {
		s.wantEvent(t, id, want)
	}
	s.wantParked(t, 3)
	if got, err := s.Store.Unpark(t.Context(), 72*time.Hour, 3, 100); err != nil || got != 0 {
		t.Errorf("once more: got %d, %v, want nothing", got, err)
	}
	w := register(t, n, keyed(t, s.Project, "order-0"))
	look(t, n)
	s.wantWait(t, w, "pending", "")
	if got := s.receive(t, n, session("evt_0", "paid", "order-0", "pi_0")); got.Rule != "closed" {
		t.Errorf("sent again: got %+v, want it closed", got)
	}
}

// The node that runs looks by itself.
func TestRunLooks(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := newNode(t, s.Store)
	n.run(t)
	s.receive(t, n, session("evt_1", "paid", "order-1", "pi_1"))
	registered, err := n.Register(t.Context(), keyed(t, s.Project, "order-1"))
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for storetest.Query[string](t, s.url, statusSQL, registered.Wait.ID) != "completed" {
		if time.Now().After(deadline) {
			t.Fatalf("the wait is not completed within %v", patience)
		}
		<-tick.C
	}
}

// What nothing is parked for costs nothing: no name is looked for after a
// callback that teaches nothing, or a wait without a key.
func TestNoLookWithoutNeed(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	n := newNode(t, p.Store)
	w := register(t, n, p.Registration(t, "u-1", p.Plan()))
	together(t, n, p.Paid("evt_1", "pi_1", w.Token))
	unsigned := p.Callback("", relay.Completed, relay.NewToken())
	unsigned.Verdict = relay.Unsigned
	together(t, n, unsigned, p.Callback("evt_2", relay.Completed, ""))
	if asked, err := n.LookNow(); err != nil || asked != 0 {
		t.Errorf("looked %d times, %v, want never", asked, err)
	}
}

// A stored event that the database refuses as it is read now stays what it
// was, and fails none of the others.
func TestPoisonedRematchFailsAlone(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := newNode(t, s.Store)
	for i := range 3 {
		s.receive(t, n, session("evt_"+strconv.Itoa(i), "unpaid", "order-1", "pi_"+strconv.Itoa(i)))
	}
	storetest.Exec(t, s.url, `CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22P02'; END $$`)
	storetest.Exec(t, s.url, `CREATE TRIGGER poison BEFORE UPDATE ON events FOR EACH ROW WHEN (NEW.provider_event_id = 'evt_1') EXECUTE FUNCTION poison()`)
	w := register(t, n, keyed(t, s.Project, "order-1"))
	look(t, n)
	s.wantWait(t, w, "pending", "processing>processing")
	s.wantEvent(t, "evt_0", "matched deadline_extended")
	s.wantEvent(t, "evt_1", "parked nobody_waits_yet")
	s.wantEvent(t, "evt_2", "duplicate already_processing")
	s.wantParked(t, 1)
}
