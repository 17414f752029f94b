package intake_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// TestTwoNodesAtOnce plays random histories on two nodes at once and holds
// what must be true afterwards, whatever the order was. The model knows only
// the sets of outcomes and payments that each wait was told.
func TestTwoNodesAtOnce(t *testing.T) {
	t.Parallel()
	seed := uint64(uuid.New().ID())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	p, url := project(t)
	nodes := []*node{newNode(t, p.Store), newNode(t, storetest.Open(t, url, keys(t)))}
	for _, n := range nodes {
		n.run(t)
	}
	const waits, events = 30, 900
	outcomes := []relay.Outcome{relay.Completed, relay.Failed, relay.Cancelled, relay.Expired, relay.AttemptFailed, relay.Processing}
	told := make([]map[relay.Outcome]bool, waits)
	payments := make([]map[string]bool, waits)
	all := make([]relay.Wait, waits)
	for i := range waits {
		all[i] = p.Wait(t, "u-"+strconv.Itoa(i))
		told[i], payments[i] = map[relay.Outcome]bool{}, map[string]bool{}
	}
	var g errgroup.Group
	g.SetLimit(24)
	for i := range events {
		at, outcome := random.IntN(waits), outcomes[random.IntN(len(outcomes))]
		c := p.Callback("evt_"+strconv.Itoa(i), outcome, all[at].Token)
		if outcome == relay.Completed {
			payment := fmt.Sprintf("pi_%d_%d", at, random.IntN(2))
			c = p.Paid("evt_"+strconv.Itoa(i), payment, all[at].Token)
			payments[at][payment] = true
		}
		told[at][outcome] = true
		for range 1 + random.IntN(2) { // some are told twice, to both nodes
			again := c
			again.ID = relay.NewID()
			n := nodes[random.IntN(2)]
			g.Go(func() error {
				_, err := n.Accept(context.Background(), again)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, w := range all {
		status := storetest.Query[string](t, url, statusSQL, w.ID)
		fired := strings.Fields(storetest.Query[string](t, url, firedSQL, w.ID))
		count := func(what string) (n int) {
			for _, f := range fired {
				if f == what {
					n++
				}
			}
			return n
		}
		end, late, isLate := strings.Cut(status, "/")
		terminal := slices.ContainsFunc(relay.TerminalOutcomes, func(o relay.Outcome) bool { return told[i][o] })
		if (end == "pending") == terminal || terminal && !told[i][relay.Outcome(end)] {
			t.Errorf("wait %d is %s after %v", i, status, told[i])
		}
		// A success is never lost: it closed the wait in time or came late.
		if paid := end == "completed" || late == "completed"; paid != told[i][relay.Completed] {
			t.Errorf("wait %d is %s after %v", i, status, told[i])
		}
		ends := 0
		for _, o := range relay.TerminalOutcomes {
			n := count(string(o) + ">" + string(o))
			if want := map[bool]int{true: 1}[string(o) == end]; n != want {
				t.Errorf("wait %d (%s) fired %s %d times, want %d", i, status, o, n, want)
			}
			ends += n
		}
		if n, want := count("completed>completed_late"), map[bool]int{true: 1}[isLate]; n != want {
			t.Errorf("wait %d (%s) fired completed_late %d times, want %d", i, status, n, want)
		}
		if n := count("paid_again>paid_again"); (n > 0) != (len(payments[i]) > 1) {
			t.Errorf("wait %d fired paid_again %d times for the payments %v", i, n, payments[i])
		}
		if n := count("processing>processing"); n > 1 || n > 0 && !told[i][relay.Processing] {
			t.Errorf("wait %d fired processing %d times", i, n)
		}
	}
	handedOver := len(nodes[0].handedOver) + len(nodes[1].handedOver)
	// One of each conversation: the others wait for it.
	for of, sql := range map[string]string{
		"deliveries are leased": `SELECT count(*) FROM deliveries WHERE lease IS NOT NULL`, "slots are taken": `SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL OR status = 'held'`,
		"conversations are told something": `SELECT count(DISTINCT conversation) FROM deliveries`,
	} {
		if got := storetest.Query[int](t, url, sql); got != handedOver {
			t.Errorf("%d %s and %d deliveries were handed over", got, of, handedOver)
		}
	}
	if got := storetest.Query[int](t, url, `SELECT count(dedupe_key) FROM events`); got != events {
		t.Errorf("%d dedupe keys, want %d", got, events)
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM events e WHERE match <> 'duplicate' AND EXISTS (
		SELECT FROM events o WHERE o.provider_event_id = e.provider_event_id AND o.id <> e.id AND o.rule <> 'same_event')`); got != 0 {
		t.Errorf("%d events acted twice", got)
	}
}

// The same event reaches two nodes in the same moment, many times over.
func TestSameEventOnTwoNodes(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	nodes := []*node{newNode(t, p.Store), newNode(t, storetest.Open(t, url, keys(t)))}
	for round := range 25 {
		w := p.Wait(t, "u-"+strconv.Itoa(round))
		receipts := make([]relay.Receipt, 2)
		var g errgroup.Group
		for i, n := range nodes {
			c := p.Paid("evt_"+strconv.Itoa(round), "pi", w.Token)
			g.Go(func() error {
				got, errs := n.CommitTogether([]relay.Callback{c})
				receipts[i] = got[0]
				return errs[0]
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		rules := []string{receipts[0].Rule, receipts[1].Rule}
		slices.Sort(rules)
		if rules[0] != "closed" || rules[1] != "same_event" {
			t.Fatalf("round %d: got %v, want one closed and one same_event", round, rules)
		}
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM deliveries`); got != 25 {
		t.Errorf("%d deliveries, want 25", got)
	}
}

// A batch that loses a deadlock is repeated until it wins.
func TestConflictsAreRepeated(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	storetest.Exec(t, url, `CREATE SEQUENCE tries`)
	storetest.Exec(t, url, `CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
		    IF nextval('tries') <= 3 THEN RAISE EXCEPTION 'lost' USING ERRCODE = '40P01'; END IF;
		    RETURN NEW;
		END $$`)
	storetest.Exec(t, url, `CREATE TRIGGER lose BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION lose()`)
	w := p.Wait(t, "u-1")
	if got := together(t, n, p.Paid("evt_1", "pi_1", w.Token))[0]; got.Rule != "closed" {
		t.Errorf("got %+v, want it closed at the fourth try", got)
	}
	if len(n.handedOver) != 1 {
		t.Errorf("%d deliveries were handed over, want 1", len(n.handedOver))
	}
}

func TestFullAndStopped(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store) // it does not run yet: what it takes waits
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 4096 {
		if _, err := n.Accept(ctx, p.Callback("evt_"+strconv.Itoa(i), relay.Failed, "")); !relay.IsKind(err, relay.Busy) {
			t.Fatalf("callback %d, whose caller has gone: got %v, want busy", i, err)
		}
	}
	if _, err := n.Accept(context.Background(), p.Callback("one too many", relay.Failed, "")); !relay.IsKind(err, relay.Busy) {
		t.Errorf("beyond %d waiting: got %v, want busy", 4096, err)
	}
	stop := n.run(t)
	stop()
	if _, err := n.Accept(context.Background(), p.Callback("too late", relay.Failed, "")); !relay.IsKind(err, relay.Busy) {
		t.Errorf("after the stop: got %v, want busy", err)
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM events`); got != 4096 {
		t.Errorf("%d events are kept, want all 4096 that were taken", got)
	}
}
