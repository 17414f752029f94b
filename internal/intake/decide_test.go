package intake_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// TestHistories plays callbacks against one wait, each in a batch of its own
// and all of them in one batch.
func TestHistories(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	type event struct {
		outcome relay.Outcome
		payment string
	}
	for _, tt := range []struct {
		name   string
		events []event
		status string
		fired  string
		rules  string
		batch  string // the rules when all come in one batch, "" for the same
		fires  string // and what they fire
		ends   string // and the status
	}{
		{"completed", []event{{"completed", "p1"}}, "completed", "completed>completed", "closed", "", "", ""},
		{
			"one payment, two types",
			[]event{{"completed", "p1"}, {"completed", "p1"}},
			"completed", "completed>completed", "closed already_closed", "", "", "",
		},
		{
			"a payment without id told again",
			[]event{{"completed", "p1"}, {"completed", ""}},
			"completed", "completed>completed", "closed already_closed", "", "", "",
		},
		{
			"paid again",
			[]event{{"completed", "p1"}, {"completed", "p2"}},
			"completed", "completed>completed paid_again>paid_again", "closed other_payment", "", "", "",
		},
		{
			"failed, then completed",
			[]event{{"failed", ""}, {"completed", "p1"}},
			"failed/completed", "failed>failed completed>completed_late", "closed completed_late",
			"already_closed closed", "completed>completed", "completed",
		},
		{
			"completed, then failed",
			[]event{{"completed", "p1"}, {"failed", ""}},
			"completed", "completed>completed", "closed already_closed", "", "", "",
		},
		{
			"every end at once",
			[]event{{"expired", ""}, {"cancelled", ""}, {"failed", ""}, {"completed", "p1"}},
			"expired/completed", "expired>expired completed>completed_late", "closed already_closed already_closed completed_late",
			"already_closed already_closed already_closed closed", "completed>completed", "completed",
		},
		{
			"ends without success",
			[]event{{"expired", ""}, {"cancelled", ""}, {"failed", ""}},
			"expired", "expired>expired", "closed already_closed already_closed",
			"already_closed already_closed closed", "failed>failed", "failed",
		},
		{
			"a declined card, then another",
			[]event{{"attempt_failed", ""}, {"attempt_failed", ""}, {"completed", "p1"}},
			"completed", "attempt_failed>attempt_failed attempt_failed>attempt_failed completed>completed", "on_the_way on_the_way closed",
			"already_closed already_closed closed", "completed>completed", "completed",
		},
		{
			"a declined card after the payment",
			[]event{{"completed", "p1"}, {"attempt_failed", ""}, {"processing", ""}},
			"completed", "completed>completed", "closed already_closed already_closed", "", "", "",
		},
		{
			"processing twice",
			[]event{{"processing", ""}, {"processing", ""}},
			"pending", "processing>processing", "deadline_extended already_processing", "", "", "",
		},
		{
			"late, told again, and paid again",
			[]event{{"failed", ""}, {"completed", "p1"}, {"completed", "p1"}, {"completed", "p2"}},
			"failed/completed", "failed>failed completed>completed_late paid_again>paid_again", "closed completed_late already_closed other_payment",
			"already_closed closed already_closed other_payment", "completed>completed paid_again>paid_again", "completed",
		},
		{
			"refunded and disputed",
			[]event{{"completed", "p1"}, {"refunded", "p1"}, {"disputed", "p1"}},
			"completed", "completed>completed refunded>refunded disputed>disputed", "closed aftermath aftermath", "", "", "",
		},
	} {
		callbacks := func(how string) (relay.Wait, []relay.Callback) {
			w := p.Wait(t, tt.name+how)
			var all []relay.Callback
			for i, e := range tt.events {
				c := p.Callback(tt.name+how+strconv.Itoa(i), e.outcome, w.Token)
				if e.payment != "" {
					c = p.Paid(tt.name+how+strconv.Itoa(i), e.payment, w.Token)
					c.Reading.Outcome = e.outcome
				}
				all = append(all, c)
			}
			return w, all
		}
		check := func(t *testing.T, w relay.Wait, receipts []relay.Receipt, status, fired, rules string) {
			t.Helper()
			var got []string
			for _, r := range receipts {
				got = append(got, r.Rule)
			}
			if s := strings.Join(got, " "); s != rules {
				t.Errorf("rules: got %q, want %q", s, rules)
			}
			if s := storetest.Query[string](t, url, statusSQL, w.ID); s != status {
				t.Errorf("status: got %q, want %q", s, status)
			}
			want, have := strings.Fields(fired), strings.Fields(storetest.Query[string](t, url, firedSQL, w.ID))
			slices.Sort(want)
			slices.Sort(have)
			if diff := cmp.Diff(want, have); diff != "" {
				t.Errorf("fired (-want +got):\n%s", diff)
			}
			pending := storetest.Query[int](t, url, `SELECT count(*) FROM deadlines WHERE correlation_id = $1`, w.ID)
			if isPending := strings.HasPrefix(status, "pending"); isPending != (pending == 1) {
				t.Errorf("%d deadlines are left of a wait that is %s", pending, status)
			}
		}
		t.Run(tt.name+", one by one", func(t *testing.T) {
			w, all := callbacks(" alone")
			var receipts []relay.Receipt
			for _, c := range all {
				receipts = append(receipts, together(t, n, c)...)
			}
			check(t, w, receipts, tt.status, tt.fired, tt.rules)
		})
		t.Run(tt.name+", in one batch", func(t *testing.T) {
			w, all := callbacks(" together")
			if tt.batch == "" {
				tt.batch, tt.fires, tt.ends = tt.rules, tt.fired, tt.status
			}
			check(t, w, together(t, n, all...), tt.ends, tt.fires, tt.batch)
		})
	}
}

func TestProcessingExtendsTheDeadline(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	plan := p.Plan()
	plan.ProcessingFor = relay.Duration(5 * time.Hour)
	w := p.Register(t, p.Registration(t, "u-1", plan))
	together(t, n, p.Callback("1", relay.Processing, w.Token))
	const left = `SELECT round(extract(epoch FROM c.expires_at - now()) / 3600)::int || ' ' || round(extract(epoch FROM d.expires_at - now()) / 3600)::int
		FROM correlations c JOIN deadlines d ON d.correlation_id = c.id WHERE c.id = $1`
	if got := storetest.Query[string](t, url, left, w.ID); got != "5 5" {
		t.Errorf("hours left on the wait and its deadline: got %s, want 5 5", got)
	}
	long := p.Registration(t, "u-2", plan)
	long.ExpiresIn = 50 * time.Hour
	w = p.Register(t, long)
	together(t, n, p.Callback("2", relay.Processing, w.Token))
	if got := storetest.Query[string](t, url, left, w.ID); got != "50 50" {
		t.Errorf("a longer deadline was shortened: got %s hours, want 50 50", got)
	}
}

func TestExpectAndWhen(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	plan := p.Plan()
	plan.Expect = &relay.Expect{Currency: "EUR", Amount: "20.50"}
	plan.When = `payment.method != "voucher"`
	for _, tt := range []struct {
		name   string
		change func(*relay.Payment)
		match  relay.Match
		status string
		fired  string
	}{
		{"as expected", func(*relay.Payment) {}, relay.Matched, "completed", "completed>completed"},
		{"another amount", func(p *relay.Payment) { *p.AmountMinor = 1 }, relay.Matched, "pending", "mismatch>mismatch"},
		{"another currency", func(p *relay.Payment) { p.Currency = "USD" }, relay.Matched, "pending", "mismatch>mismatch"},
		{"a voucher", func(p *relay.Payment) { p.Method = "voucher" }, relay.GuardFailed, "pending", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := p.Register(t, p.Registration(t, tt.name, plan))
			c := p.Paid(tt.name, "pi_1", w.Token)
			tt.change(c.Reading.Payment)
			c.Reading.References = named("json:id", "ref "+tt.name)
			if got := together(t, n, c)[0]; got.Match != tt.match || got.CorrelationID != w.ID {
				t.Errorf("got %+v, want %s", got, tt.match)
			}
			if got := storetest.Query[string](t, url, statusSQL, w.ID); got != tt.status {
				t.Errorf("status: got %s, want %s", got, tt.status)
			}
			if got := storetest.Query[string](t, url, firedSQL, w.ID); got != tt.fired {
				t.Errorf("fired: got %q, want %q", got, tt.fired)
			}
		})
	}
}

// A callback whose wait has a plan that cannot be used is kept without effect,
// harms no other, and takes effect when it is sent again.
func TestUnusablePlanFailsAlone(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	broken := p.Plan()
	broken.When = "true"
	bad, good := p.Register(t, p.Registration(t, "bad", broken)), p.Wait(t, "good")
	storetest.Exec(t, url, `UPDATE plans SET doc = '{"when": "no such ("}' WHERE id = $1`, bad.PlanID)
	batch := []relay.Callback{p.Paid("1", "pi_1", good.Token), p.Paid("2", "pi_2", bad.Token), p.Paid("3", "pi_3", "")}
	receipts, errs := n.CommitTogether(batch)
	if errs[0] != nil || errs[2] != nil || receipts[0].Rule != "closed" {
		t.Errorf("its companions: got %+v, %v, want them kept", receipts, errs)
	}
	if errs[1] != nil || receipts[1].Rule != "plan_unusable" || receipts[1].Match != relay.GuardFailed {
		t.Errorf("got %+v, %v, want it kept without effect", receipts[1], errs[1])
	}
	if got := storetest.Query[int](t, url, `SELECT count(dedupe_key) FROM events`); got != 1 {
		t.Errorf("%d dedupe keys are taken, want 1: not of what came to nothing", got)
	}
	storetest.Exec(t, url, `UPDATE plans SET doc = (SELECT doc FROM plans WHERE id = $2) WHERE id = $1`, bad.PlanID, good.PlanID)
	again := batch[1]
	again.ID = relay.NewID()
	n = newNode(t, p.Store) // a plan never changes under its id: another program
	if got := together(t, n, again)[0]; got.Rule != "closed" {
		t.Errorf("sent again: got %+v, want it closed", got)
	}
}

func TestDuplicates(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	as := func(verdict relay.Verdict, id, token string, body string) relay.Callback {
		c := p.Callback(id, relay.AttemptFailed, token)
		c.Verdict, c.Body = verdict, []byte(body)
		return c
	}
	for _, tt := range []struct {
		name  string
		make  func(a, b string) [2]relay.Callback // of two waits' tokens
		match relay.Match
	}{
		{"signed, same id", func(a, _ string) [2]relay.Callback {
			return [2]relay.Callback{as(relay.Verified, "x1", a, "1"), as(relay.Verified, "x1", a, "2")}
		}, relay.Duplicate},
		{"signed, same id, another token", func(a, b string) [2]relay.Callback {
			return [2]relay.Callback{as(relay.Verified, "x2", a, "1"), as(relay.Verified, "x2", b, "1")}
		}, relay.Duplicate},
		{"signed, other id", func(a, _ string) [2]relay.Callback {
			return [2]relay.Callback{as(relay.Verified, "x3", a, "1"), as(relay.Verified, "x4", a, "1")}
		}, relay.Matched},
		{"signed, no id, same body", func(a, _ string) [2]relay.Callback {
			return [2]relay.Callback{as(relay.Verified, "", a, "same"), as(relay.Verified, "", a, "same")}
		}, relay.Duplicate},
		{"signed, no id, other body", func(a, _ string) [2]relay.Callback {
			return [2]relay.Callback{as(relay.Verified, "", a, "one"), as(relay.Verified, "", a, "other")}
		}, relay.Matched},
		{"unsigned, same id, same token", func(a, _ string) [2]relay.Callback {
			return [2]relay.Callback{as(relay.Unsigned, "x5", a, "1"), as(relay.Unsigned, "x5", a, "2")}
		}, relay.Duplicate},
		{"unsigned, same id, another token", func(a, b string) [2]relay.Callback {
			return [2]relay.Callback{as(relay.Unsigned, "x6", a, "1"), as(relay.Unsigned, "x6", b, "1")}
		}, relay.Matched},
		{"an unsigned id does not keep a signed one out", func(a, b string) [2]relay.Callback {
			return [2]relay.Callback{as(relay.Unsigned, "x7", a, "1"), as(relay.Verified, "x7", b, "1")}
		}, relay.Matched},
		{"a forgery does not keep the real one out", func(a, b string) [2]relay.Callback {
			return [2]relay.Callback{as(relay.Rejected, "x8", a, "1"), as(relay.Verified, "x8", b, "1")}
		}, relay.Matched},
		{"same id at another source", func(a, b string) [2]relay.Callback {
			other := as(relay.Verified, "x9", b, "1")
			other.SourceID = p.OtherSourceID
			return [2]relay.Callback{as(relay.Verified, "x9", a, "1"), other}
		}, relay.Parked},
	} {
		for _, how := range []string{"in one batch", "in two batches"} {
			t.Run(tt.name+" "+how, func(t *testing.T) {
				storetest.Exec(t, url, `UPDATE events SET dedupe_key = NULL`)
				pair := tt.make(p.Wait(t, "a").Token, p.Wait(t, "b").Token)
				var got relay.Receipt
				if how == "in one batch" {
					got = together(t, n, pair[0], pair[1])[1]
				} else {
					together(t, n, pair[0])
					got = together(t, n, pair[1])[0]
				}
				if got.Match != tt.match {
					t.Errorf("got %s by %s, want %s", got.Match, got.Rule, tt.match)
				}
				e, err := p.Store.Event(t.Context(), p.ID, pair[1].ID)
				if err != nil {
					t.Fatal(err)
				}
				if tt.match == relay.Duplicate && (e.DuplicateOf == nil || *e.DuplicateOf != pair[0].ID) {
					t.Errorf("the duplicate points to %v, want %s", e.DuplicateOf, pair[0].ID)
				}
			})
		}
	}
}

// One row that the database refuses is kept by its bytes alone, closes its
// wait, and fails none of the 255 others.
func TestPoisonFailsAlone(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	storetest.Exec(t, url, `CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '22P02'; END $$`)
	storetest.Exec(t, url, `CREATE TRIGGER poison BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.type = 'poison') EXECUTE FUNCTION poison()`)
	storetest.Exec(t, url, `CREATE TRIGGER venom BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.body = '\x76656e6f6d') EXECUTE FUNCTION poison()`)
	regs := make([]store.Registration, 256)
	batch := make([]relay.Callback, len(regs))
	for i := range regs {
		regs[i] = p.Registration(t, "u-"+strconv.Itoa(i), p.Plan())
		batch[i] = p.Paid("evt_"+strconv.Itoa(i), "pi_"+strconv.Itoa(i), regs[i].Wait.Token)
	}
	p.Register(t, regs...)
	batch[100].Reading.Type = "poison" // can be kept without what was read
	batch[200].Body = []byte("venom")  // cannot be kept at all
	_, errs := n.CommitTogether(batch)
	for i, err := range errs {
		if (err != nil) != (i == 200) {
			t.Errorf("callback %d: got error %v", i, err)
		}
	}
	if !store.Poisoned(errs[200]) {
		t.Errorf("got %v, want the database's refusal", errs[200])
	}
	for sql, want := range map[string]int{
		`SELECT count(*) FROM events`: 255, `SELECT count(*) FROM correlations WHERE status = 'completed'`: 255, `SELECT count(*) FROM deliveries`: 255,
	} {
		if got := storetest.Query[int](t, url, sql); got != want {
			t.Errorf("%s: got %d, want %d", sql, got, want)
		}
	}
	if len(n.handedOver) != 255 {
		t.Errorf("%d deliveries were handed over, want 255", len(n.handedOver))
	}
	e, err := p.Store.Event(t.Context(), p.ID, batch[100].ID)
	if err != nil || string(e.Body) != string(batch[100].Body) || e.Payment != nil || e.Type != "" || e.Match != relay.Matched {
		t.Errorf("the poisoned event: got %+v, %v, want its bytes, and nothing read", e, err)
	}
}
