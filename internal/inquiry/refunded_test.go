package inquiry_test

import (
	"testing"

	"github.com/google/uuid"

	"relay.example/relay/internal/store/storetest"
)

const (
	refunded    = `, "amountRefunded": {"value": "5.00", "currency": "EUR"}`
	refundedAll = `, "amountRefunded": {"value": "20.50", "currency": "EUR"}`
	chargedBack = `, "amountChargedBack": {"value": "20.50", "currency": "EUR"}`
)

// A payment that is refunded by the time it is fetched for the first time was
// paid before: its wait is told both, in order, each once.
func TestRefundedBeforeItIsFetched(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ more, wait, fetched string }{
		"in part": {refunded, "completed null completed refunded", "matched completed tr_1:paid, matched refunded tr_1:paid:refunded:5.00"},
		"a chargeback": {
			chargedBack, "completed null completed disputed", "matched completed tr_1:paid, matched disputed tr_1:paid:charged_back:20.50",
		},
		"both": {
			refunded + chargedBack, "completed null completed disputed",
			"matched completed tr_1:paid, matched disputed tr_1:paid:refunded:5.00:charged_back:20.50",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, d := newDesk(t, "mollie-classic")
			n := s.node(t)
			w := s.Wait(t, "u-1")
			d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), tt.more))
			e := s.knock(t, n, w.Token, "tr_1")
			ask(t, n, 1)
			s.wantWait(t, w, tt.wait)
			s.wantFetched(t, tt.fetched)
			linked := storetest.Query[int](t, s.url, `SELECT count(*)::int FROM events WHERE (request->>'for')::uuid = $1`, e.EventID)
			if linked != 2 {
				t.Errorf("%d events name the callback that they were fetched for, want both", linked)
			}
			told := storetest.Query[string](t, s.url, `SELECT outcome FROM events WHERE id = (SELECT told FROM questions WHERE event_id = $1)`, e.EventID)
			if told != "refunded" && told != "disputed" {
				t.Errorf("the question names the event %q as its answer, want what the payment is by now", told)
			}
			s.knock(t, n, w.Token, "tr_1") // and once more
			s.due(t)
			ask(t, n, 1)
			s.wantWait(t, w, tt.wait)
		})
	}
}

// Only what was paid completes a wait, and only its own.
func TestRefundCompletesNothingElse(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ status, url, want string }{
		"not paid yet":          {"open", "mine", "pending null processing"},
		"authorized alone":      {"authorized", "mine", "pending null processing"},
		"failed":                {"failed", "mine", "failed null failed"},
		"for somebody else":     {"paid", "theirs", "pending null"},
		"that names no wait":    {"paid", "null", "pending null"},
		"of a status not known": {"reversed", "mine", "pending null"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, d := newDesk(t, "mollie-classic")
			n := s.node(t)
			mine, theirs := s.Wait(t, "u-1"), s.Wait(t, "u-2")
			url := map[string]string{"mine": hook(mine), "theirs": hook(theirs), "null": "null"}[tt.url]
			d.put("/v2/payments/tr_1", mollie("tr_1", tt.status, url, refunded))
			s.knock(t, n, mine.Token, "tr_1")
			ask(t, n, 1)
			s.wantWait(t, mine, tt.want)
			s.wantWait(t, theirs, "pending null")
		})
	}
}

// A node dies between the two events: the next one tells what is missing.
func TestCrashBetweenPaidAndRefunded(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), refunded))
	e := s.knock(t, n, w.Token, "tr_1")
	storetest.Exec(t, s.url, `
		CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the node is gone'; END $$`)
	storetest.Exec(t, s.url, `CREATE TRIGGER dies BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.outcome = 'refunded') EXECUTE FUNCTION die()`)
	ask(t, n, 1)
	s.wantWait(t, w, "completed null completed")
	s.wantQuestion(t, e.EventID, "again")
	storetest.Exec(t, s.url, `DROP TRIGGER dies ON events`)
	s.due(t) // its lease is over
	ask(t, s.node(t), 1)
	s.wantWait(t, w, "completed null completed refunded")
	s.wantFetched(t, "matched completed tr_1:paid, duplicate completed tr_1:paid, matched refunded tr_1:paid:refunded:5.00")
	s.wantQuestion(t, e.EventID, "found done")
}

// An answer that is older than the one that was told before it says nothing
// new: two nodes have asked, and the slower one saw the payment as it was.
func TestPaidToldAfterRefunded(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	slow := s.node(t)
	w := s.Wait(t, "u-1")
	s.knock(t, slow, w.Token, "tr_1")
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), ""))
	begun, answer := d.holdNext() // of the first question alone
	asked := slow.askAside(t)
	<-begun // and its lease is over before the answer is there
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), refundedAll))
	storetest.Exec(t, s.url, `UPDATE questions SET lease = $1, due_at = now() - interval '1 second'`, uuid.New())
	ask(t, s.node(t), 1)
	close(answer)
	check(t, <-asked)
	s.wantWait(t, w, "completed null completed refunded")
	s.wantFetched(t, "matched completed tr_1:paid, matched refunded tr_1:paid:refunded:20.50, duplicate completed tr_1:paid")
}

// What is fetched before a wait expires tells of the payment as well.
func TestRefundedBeforeReconciliation(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v2/payments/tr_1", mollie("tr_1", "open", hook(w), ""))
	s.knock(t, n, w.Token, "tr_1")
	ask(t, n, 1)
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), refundedAll))
	storetest.Overdue(t, s.url, w.ID)
	sweep(t, n)
	ask(t, n, 1)
	s.wantWait(t, w, "completed true processing completed refunded")
}

// Where both events wait for a wait that comes after them, it is told both.
func TestRefundedBeforeItsWait(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", "null", refunded+`, "metadata": "order-1042"`))
	s.knock(t, n, "", "tr_1")
	ask(t, n, 1)
	s.wantFetched(t, "parked completed tr_1:paid, parked refunded tr_1:paid:refunded:5.00")
	late := s.Registration(t, "u-1", s.Plan())
	late.Wait.Key = "order-1042"
	w := s.Register(t, late)
	_, err := n.intake.MatchParkedOnce(t.Context())
	check(t, err)
	s.wantWait(t, w, "completed null completed refunded")
}
