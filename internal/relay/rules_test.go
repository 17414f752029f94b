package relay_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
)

// every is all that a callback, a deadline or a person can say of a wait.
var every = []relay.Outcome{
	"", relay.Completed, relay.Failed, relay.Cancelled, relay.Expired,
	relay.AttemptFailed, relay.Processing, relay.Mismatch, relay.Refunded, relay.Disputed,
}

var (
	again     = relay.Step{Match: relay.Duplicate, Rule: "already_closed"}
	ignored   = relay.Step{Match: relay.Ignored, Rule: "type_ignored"}
	late      = relay.Step{Match: relay.Late, Rule: "completed_late", Fires: relay.Completed, Action: relay.CompletedLate, Late: true}
	lateWrong = relay.Step{Match: relay.Late, Rule: "late_mismatch", Fires: relay.Mismatch, Action: "mismatch"}
	paidAgain = relay.Step{Match: relay.MatchedAgain, Rule: "other_payment", Fires: relay.PaidAgain, Action: "paid_again"}
)

func closes(s relay.Status) relay.Step {
	return relay.Step{Match: relay.Matched, Rule: "closed", Fires: relay.Outcome(s), Action: string(s), Closes: s}
}

func onTheWay(o relay.Outcome) relay.Step {
	return relay.Step{Match: relay.Matched, Rule: "on_the_way", Fires: o, Action: string(o)}
}

func aftermath(o relay.Outcome) relay.Step {
	return relay.Step{Match: relay.Matched, Rule: "aftermath", Fires: o, Action: string(o)}
}

// want is the whole of the rules, written out by hand: what an outcome does to
// a wait of that state. taken is the payment that completed the wait before,
// in time or late.
func want(w relay.Wait, o relay.Outcome, payment string) relay.Step {
	paid := w.Status == relay.StatusCompleted || w.LateOutcome != ""
	same := payment == "" || w.PaymentID == "" || payment == w.PaymentID
	extended := relay.Step{Match: relay.Matched, Rule: "deadline_extended", Fires: o, Action: "processing", Extends: true}
	if w.Extended {
		extended = relay.Step{Match: relay.Duplicate, Rule: "already_processing"}
	}
	pending := map[relay.Outcome]relay.Step{
		"": ignored, relay.Completed: closes(relay.StatusCompleted), relay.Failed: closes(relay.StatusFailed),
		relay.Cancelled: closes(relay.StatusCancelled), relay.Expired: closes(relay.StatusExpired),
		relay.AttemptFailed: onTheWay(relay.AttemptFailed), relay.Processing: extended, relay.Mismatch: onTheWay(relay.Mismatch),
		relay.Refunded: aftermath(relay.Refunded), relay.Disputed: aftermath(relay.Disputed),
	}
	closed := map[relay.Outcome]relay.Step{
		"": ignored, relay.Completed: late, relay.Failed: again, relay.Cancelled: again, relay.Expired: again,
		relay.AttemptFailed: again, relay.Processing: again, relay.Mismatch: lateWrong,
		relay.Refunded: aftermath(relay.Refunded), relay.Disputed: aftermath(relay.Disputed),
	}
	switch {
	case w.Status == relay.Pending:
		return pending[o]
	case paid && (o == relay.Completed || o == relay.Mismatch) && same:
		return again
	case paid && (o == relay.Completed || o == relay.Mismatch):
		return paidAgain
	default:
		return closed[o]
	}
}

// states are all waits that differ to the rules.
func states() (out []relay.Wait) {
	for _, status := range relay.Statuses {
		for _, extended := range []bool{false, true} {
			for _, payment := range []string{"", "pi_1"} {
				w := relay.Wait{Status: status, Extended: extended}
				switch status {
				case relay.Pending:
				case relay.StatusCompleted:
					w.PaymentID = payment
				default:
					out = append(out, w)
					w.LateOutcome, w.PaymentID = relay.Completed, payment
				}
				out = append(out, w)
			}
		}
	}
	return out
}

func TestApply(t *testing.T) {
	t.Parallel()
	for _, before := range states() {
		for _, o := range every {
			for _, payment := range []string{"", "pi_1", "pi_2"} {
				name := fmt.Sprintf("%s late=%q extended=%v paid=%q/%s %q", before.Status, before.LateOutcome,
					before.Extended, before.PaymentID, o, payment)
				w := before
				step := want(before, o, payment)
				if diff := cmp.Diff(step, w.Apply(o, payment)); diff != "" {
					t.Errorf("%s: step (-want +got):\n%s", name, diff)
				}
				after := before
				after.Extended = before.Extended || step.Extends
				if step.Closes != "" {
					after.Status = step.Closes
				}
				if step.Late {
					after.LateOutcome = relay.Completed
				}
				if step.Late || step.Closes == relay.StatusCompleted {
					after.PaymentID = payment
				}
				if diff := cmp.Diff(after, w); diff != "" {
					t.Errorf("%s: the wait afterwards (-want +got):\n%s", name, diff)
				}
			}
		}
	}
}

// TestApplyInEveryOrder walks every sequence of what can happen to a wait, up
// to a length, and holds the promises that no single step shows.
func TestApplyInEveryOrder(t *testing.T) {
	t.Parallel()
	const length = 4
	type said struct {
		outcome relay.Outcome
		payment string
	}
	var alphabet []said
	for _, o := range every {
		alphabet = append(alphabet, said{o, "pi_1"})
		if o == relay.Completed || o == relay.Mismatch {
			alphabet = append(alphabet, said{o, "pi_2"}, said{o, ""})
		}
	}
	type history struct {
		closings, lates, extensions int
		paid                        bool   // a success was taken
		by                          string // by this payment
	}
	var walk func(w relay.Wait, h history, path []said)
	walk = func(w relay.Wait, h history, path []said) {
		if len(path) == length {
			return
		}
		for _, next := range alphabet {
			w, h := w, h
			path := append(path[:len(path):len(path)], next)
			before := w.Status
			step := w.Apply(next.outcome, next.payment)
			if step.Closes != "" {
				h.closings++
			}
			if step.Late {
				h.lates++
			}
			if step.Extends {
				h.extensions++
			}
			if before != relay.Pending && w.Status != before {
				t.Fatalf("%v: a wait that was %s became %s: want a closed wait to keep its status", path, before, w.Status)
			}
			if h.closings > 1 || h.lates > 1 || h.extensions > 1 {
				t.Fatalf("%v: closed %d times, %d late successes, %d extensions: want at most one of each",
					path, h.closings, h.lates, h.extensions)
			}
			if (w.Status == relay.Pending) != (h.closings == 0) {
				t.Fatalf("%v: status %s after %d closings", path, w.Status, h.closings)
			}
			if next.outcome.OnTheWay() && step.Closes != "" {
				t.Fatalf("%v: %s closed the wait: want only terminal outcomes to", path, next.outcome)
			}
			if next.outcome == relay.Completed {
				known := h.paid && (next.payment == h.by || next.payment == "" || h.by == "")
				if fires := step.Fires != ""; fires == known {
					t.Fatalf("%v: a success fired %q: want silence only for the payment that was taken", path, step.Fires)
				}
				if !h.paid {
					h.paid, h.by = true, next.payment
				}
			}
			if (step.Action == "") != (step.Fires == "") {
				t.Fatalf("%v: fires %q under the name %q: want both or none", path, step.Fires, step.Action)
			}
			walk(w, h, path)
		}
	}
	walk(relay.Wait{Status: relay.Pending}, history{}, nil)
	walk(relay.Wait{Status: relay.StatusSuperseded}, history{closings: 1}, nil)
}

func TestAccepts(t *testing.T) {
	t.Parallel()
	w := relay.Wait{SourceIDs: []int64{3, 7}}
	for id, want := range map[int64]bool{3: true, 7: true, 5: false, 0: false} {
		if got := w.Accepts(id); got != want {
			t.Errorf("Accepts(%d): got %v, want %v", id, got, want)
		}
	}
	if (&relay.Wait{}).Accepts(0) {
		t.Error("a wait without sources accepts source 0: want none")
	}
}

func TestCompareOutcomes(t *testing.T) {
	t.Parallel()
	strongest := []relay.Outcome{
		relay.Completed, relay.Failed, relay.Cancelled, relay.Expired,
		relay.Mismatch, relay.Processing, relay.AttemptFailed, relay.Refunded,
	}
	for i, a := range strongest {
		for j, b := range strongest {
			if got := relay.CompareOutcomes(a, b); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("CompareOutcomes(%s, %s): got %d, want the order %v", a, b, got, strongest)
			}
		}
	}
	for _, o := range append(every, relay.PaidAgain, "nonsense") {
		terminal := o == relay.Completed || o == relay.Failed || o == relay.Cancelled || o == relay.Expired
		if got := o.Terminal(); got != terminal {
			t.Errorf("%q.Terminal(): got %v, want %v", o, got, terminal)
		}
		wantStatus := relay.Status("")
		if terminal {
			wantStatus = relay.Status(o)
		}
		if got := o.Status(); got != wantStatus {
			t.Errorf("%q.Status(): got %q, want %q", o, got, wantStatus)
		}
		if got, way := o.OnTheWay(), o == relay.AttemptFailed || o == relay.Processing; got != way {
			t.Errorf("%q.OnTheWay(): got %v, want %v", o, got, way)
		}
	}
}

func TestActionFor(t *testing.T) {
	t.Parallel()
	act := func(text string) relay.Action { return relay.Action{Text: text} }
	none := relay.Action{Action: relay.NoAction}
	fires := func(o relay.Outcome) relay.Step { return relay.Step{Fires: o, Action: string(o)} }
	for _, test := range []struct {
		name string
		on   map[string]relay.Action
		step relay.Step
		want string // the name it stands under; "" where nothing is called
	}{
		{"its own", map[string]relay.Action{"failed": act("f"), "default": act("d")}, fires(relay.Failed), "failed"},
		{"default for failed", map[string]relay.Action{"default": act("d")}, fires(relay.Failed), "default"},
		{"default for expired", map[string]relay.Action{"default": act("d")}, fires(relay.Expired), "default"},
		{"default for cancelled", map[string]relay.Action{"default": act("d")}, fires(relay.Cancelled), "default"},
		{"default for completed", map[string]relay.Action{"default": act("d")}, fires(relay.Completed), "default"},
		{"no default on the way", map[string]relay.Action{"default": act("d")}, fires(relay.AttemptFailed), ""},
		{"no default for processing", map[string]relay.Action{"default": act("d")}, fires(relay.Processing), ""},
		{"no default for mismatch", map[string]relay.Action{"default": act("d")}, fires(relay.Mismatch), ""},
		{"no default for refunded", map[string]relay.Action{"default": act("d")}, fires(relay.Refunded), ""},
		{"no default for disputed", map[string]relay.Action{"default": act("d")}, fires(relay.Disputed), ""},
		{"no default for paid_again", map[string]relay.Action{"default": act("d"), "completed": act("c")}, fires(relay.PaidAgain), ""},
		{"none is an answer", map[string]relay.Action{"failed": none, "default": act("d")}, fires(relay.Failed), ""},
		{"late, its own", map[string]relay.Action{"completed_late": act("l"), "completed": act("c")}, late, "completed_late"},
		{"late falls back to completed", map[string]relay.Action{"completed": act("c"), "default": act("d")}, late, "completed"},
		{"late falls back to default", map[string]relay.Action{"default": act("d")}, late, "default"},
		{"late can be ignored", map[string]relay.Action{"completed_late": none, "completed": act("c")}, late, ""},
		{"in time is not late", map[string]relay.Action{"completed_late": act("l")}, fires(relay.Completed), ""},
		{"nothing given", nil, fires(relay.Completed), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := relay.Plan{On: test.on}
			name, a, ok := p.ActionFor(test.step)
			if ok != (test.want != "") {
				t.Fatalf("got %q called %v, want %q", name, ok, test.want)
			}
			if ok && (name != test.want || a.Text != test.on[test.want].Text) {
				t.Errorf("got %q %+v, want the action under %q", name, a, test.want)
			}
		})
	}
}
