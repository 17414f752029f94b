package intake_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"relay.example/relay/internal/relay"
)

// TestRandomHistories plays random histories on two whole nodes: bots
// register, the till calls back, deadlines pass, people interfere, nodes
// crash, the platform answers or does not; one thing after another, or several
// at once. After each step all that is in the tables is what the model comes
// to, in some order of what happened at once; at the end all comes to rest.
//
// It lives here and not in a package of its own because only this one's tests
// can call a commit and the look after it as two passes: with them a history
// is the same each time, and shrinks.
//
// One half plays everything one after the other: such a history is the same
// each time. The other half has things happen at once.
func TestRandomHistories(t *testing.T) {
	t.Parallel()
	t.Run("one after the other", func(t *testing.T) {
		t.Parallel()
		playHistories(t, true)
	})
	t.Run("at once", func(t *testing.T) {
		t.Parallel()
		playHistories(t, false)
	})
}

func playHistories(t *testing.T, calm bool) {
	t.Helper()
	w := newWorld(t)
	// What things at once did once they may not do again: it is told when it is
	// first seen, not only if it can be repeated.
	first := new(sync.Once)
	tell := func(story string) { first.Do(func() { t.Logf("first seen: %s", story) }) }
	rapid.Check(t, func(t *rapid.T) {
		w.clear(t)
		h := &history{
			world: w, t: t, tell: tell, calm: calm, model: newModel(), tokens: map[int]string{}, numbers: map[string]int{},
			born: map[uuid.UUID]int{}, touched: map[uuid.UUID]bool{}, lost: map[string]int{}, forced: map[string]int{},
		}
		t.Repeat(map[string]func(*rapid.T){
			"callback":             func(*rapid.T) { h.do(h.drawCallback()) },
			"callback again":       func(*rapid.T) { h.do(h.drawCallback()) }, // twice as often
			"register":             func(*rapid.T) { h.do(h.drawRegister()) },
			"several at once":      func(*rapid.T) { h.atOnce() },
			"several in one batch": func(*rapid.T) { h.oneBatch() },
			"deadline":             func(*rapid.T) { h.deadline() },
			"expire":               func(*rapid.T) { h.expire() },
			"end by hand":          func(*rapid.T) { h.do(h.drawEnd()) },
			"look":                 func(*rapid.T) { h.look() },
			"sweep parked":         func(*rapid.T) { h.sweepParked() },
			"unpark":               func(*rapid.T) { h.unpark() },
			"replay":               func(*rapid.T) { h.replay() },
			"deliver":              func(*rapid.T) { h.deliver() },
			"deliver slowly":       func(*rapid.T) { h.deliverSlowly() },
			"die in flight":        func(*rapid.T) { h.dieInFlight() },
			"time passes":          func(*rapid.T) { h.timePasses() },
			"crash":                func(*rapid.T) { h.crash() },
			"retry by hand":        func(*rapid.T) { h.retryByHand() },
			"skip by hand":         func(*rapid.T) { h.skipByHand() },
			"retry all":            func(*rapid.T) { h.retryAll() },
			"pass on slots":        func(*rapid.T) { h.passOn() },
		})
		h.comeToRest()
	})
}

// history is what has happened so far, and what the model makes of it.
type history struct {
	*world
	mu       sync.Mutex // guards tokens and numbers, while things happen at once
	t        *rapid.T
	tell     func(story string)
	model    *model
	past     []string
	step     int
	calm     bool // nothing happens at once
	batch    int  // how many events had come before the last batch
	about    int  // the wait that all that is drawn is about; 0: any
	wishes   []wish
	sent     []news
	arrived  []news           // as often as they were sent
	receipts []*relay.Receipt // of what arrived
	tokens   map[int]string
	numbers  map[string]int // by token
	seen     *seen

	born    map[uuid.UUID]int  // the step in which a delivery was created
	touched map[uuid.UUID]bool // deliveries that a person retried or skipped
	lost    map[string]int     // answers that no living node has got, by firing
	forced  map[string]int     // deliveries that a person had sent once more
	unseen  bool               // a node has forgotten names that it was to look for
}

// op is one thing that happens, perhaps at once with others.
type op struct {
	text     string
	run      func(context.Context) error
	happened happening     // nil: a pass; what it did is seen in the tables
	result   func() string // what came of it, for people
	matches  bool          // may decide stored events anew
	expires  bool          // may end what is overdue
}

// fail tells the history and ends it. The reason has no number in it that
// another run would not have.
func (h *history) fail(reason, detail string) {
	h.t.Helper()
	story := fmt.Sprintf("%s, after:\n%s\n%s", reason, strings.Join(h.past, "\n"), detail)
	h.tell(story)
	h.t.Log(story)
	h.t.Fatal(reason)
}

func (h *history) note(format string, args ...any) {
	h.step++
	h.past = append(h.past, fmt.Sprintf("%3d  %s", h.step, fmt.Sprintf(format, args...)))
}

// do has things happen, at once unless all is calm, and holds the tables
// against the model.
func (h *history) do(ops ...*op) {
	h.t.Helper()
	if !h.calm {
		h.together(ops)
		return
	}
	for _, o := range ops {
		h.together([]*op{o})
	}
}

// together has things happen at once.
func (h *history) together(ops []*op) {
	h.t.Helper()
	var running sync.WaitGroup
	errs := make([]error, len(ops))
	for i, o := range ops {
		running.Go(func() { errs[i] = o.run(context.Background()) })
	}
	running.Wait()
	var texts []string
	for i, o := range ops {
		text := o.text
		if o.result != nil {
			text += " → " + o.result()
		}
		if errs[i] != nil {
			text += " → " + errs[i].Error()
		}
		texts = append(texts, text)
	}
	h.note("%s", strings.Join(texts, "\n     and at once "))
	for _, err := range errs {
		if err != nil {
			h.fail("something failed that may not", err.Error())
		}
	}
	h.settle(ops)
}

// settle finds an order of what happened that leads to what is seen.
func (h *history) settle(ops []*op) {
	h.t.Helper()
	h.lookOn()
	var happened []happening
	matches, expires := false, false
	for _, o := range ops {
		if o.happened != nil {
			happened = append(happened, o.happened)
		}
		matches, expires = matches || o.matches, expires || o.expires
	}
	happened = append(happened, h.passed(matches, expires)...)
	lines := h.lines()
	next := h.model.explain(happened, lines)
	if next == nil {
		h.fail("what is seen is not what was promised", h.difference(happened, lines))
	}
	h.model = next
	h.check()
}

// difference is what is seen against what the model comes to in one order.
func (h *history) difference(happened []happening, lines []string) string {
	after, agrees := h.model.clone(), true
	for _, each := range happened {
		agrees = each(after) && agrees
	}
	s := "promised (-) and seen (+):\n" + cmp.Diff(after.lines(), lines)
	if !agrees {
		s += "\nwhat was answered is not what was promised either"
	}
	return s
}

// passed lists what passes did, as the tables tell it.
func (h *history) passed(matches, expires bool) (happened []happening) {
	for _, w := range h.seen.Waits {
		number := h.numbers[w.Token]
		if before := h.model.wait(number); expires && before != nil && before.status == "pending" && w.Status == "expired" && w.By == "deadline" {
			happened = append(happened, func(m *model) bool { return m.expire(number) })
		}
	}
	for _, e := range h.seen.Events {
		received, match, rule := h.received(e.ID), e.Match, e.Rule
		if before := h.model.event(received); !matches || before != nil && before.match == match && before.rule == rule {
			continue
		}
		if r := h.receipts[received-1]; h.model.event(received) == nil && string(r.Match) == match && r.Rule == rule {
			continue
		}
		happened = append(happened, func(m *model) bool {
			if rule == "nobody_came" {
				return m.unpark(received)
			}
			return m.rematch(received) && m.event(received).match == match && m.event(received).rule == rule
		})
	}
	return happened
}

// received is the number of an event by its row: which one it was that came.
func (h *history) received(id uuid.UUID) int {
	return 1 + slices.IndexFunc(h.receipts, func(r *relay.Receipt) bool { return r.EventID == id })
}

// lookOn reads all that is in the tables.
func (h *history) lookOn() {
	h.t.Helper()
	h.seen = &seen{}
	h.query(h.t, h.seen, seenSQL)
	for _, d := range h.seen.Deliveries {
		number := 0
		if d.Event != nil {
			number = h.sentAs(*d.Event).Number
		}
		d.firing = firing(h.numbers[d.Token], d.Outcome, d.Action, number)
	}
}

// sentAs is what an event was sent as.
func (h *history) sentAs(id uuid.UUID) news {
	if received := h.received(id); received > 0 {
		return h.arrived[received-1]
	}
	return news{Number: -1}
}

// lines is what is seen, as the model writes it.
func (h *history) lines() (lines []string) {
	for _, w := range h.seen.Waits {
		lines = append(lines, waitLine(h.numbers[w.Token], w.Status, w.By, w.Late, w.Extended))
	}
	for _, d := range h.seen.Deliveries {
		lines = append(lines, d.firing)
	}
	for _, e := range h.seen.Events {
		lines = append(lines, eventLine(h.received(e.ID), h.sentAs(e.ID).Number, e.Match, e.Rule, h.numbers[e.Wait]))
	}
	slices.Sort(lines)
	return lines
}

// check holds what is always true, whatever has happened.
func (h *history) check() {
	h.t.Helper()
	for _, w := range h.seen.Waits {
		if pending := w.Status == "pending"; w.Deadline != pending || w.KeyActive != (pending && w.Key != "") {
			h.fail("a wait has a deadline, and its key, exactly while it is pending", fmt.Sprintf("w%d: %+v", h.numbers[w.Token], w))
		}
	}
	for _, e := range h.seen.Events {
		if e.Parked != (e.Match == "parked") {
			h.fail("an event has names to be found by exactly while it is parked", fmt.Sprintf("%+v", e))
		}
	}
	h.checkSlots()
	h.checkCalls()
	for _, d := range h.seen.Deliveries {
		if _, known := h.born[d.ID]; !known {
			h.born[d.ID] = h.step
		}
	}
	h.checkOrder()
}

// checkSlots holds that what is owed is due, or waits for one that is.
func (h *history) checkSlots() {
	h.t.Helper()
	holder, found := map[uuid.UUID]uuid.UUID{}, map[uuid.UUID]bool{}
	for _, s := range h.seen.Slots {
		holder[s.Conversation] = s.Delivery
	}
	for _, d := range h.seen.Deliveries {
		switch {
		case d.ended():
		case d.Due && holder[d.Conversation] != d.ID:
			h.fail("a delivery is due without its conversation's slot", d.firing)
		case !d.Due && holder[d.Conversation] == uuid.Nil:
			h.fail("a delivery is owed, and waits for nobody", d.firing)
		}
		found[d.ID] = d.Due
	}
	for _, s := range h.seen.Slots {
		if !found[s.Delivery] {
			h.fail("a slot is held by what is not due", s.Delivery.String())
		}
	}
}

// checkCalls holds what came to the platform's door against what is owed.
func (h *history) checkCalls() {
	h.t.Helper()
	if twice := h.door.overlap(); twice != "" {
		h.fail("a conversation was called twice at a time", twice)
	}
	answers := map[string][]string{}
	for _, c := range h.door.came() {
		f := firing(h.numbers[c.Token], c.Outcome, c.Action, c.Number)
		answers[f] = append(answers[f], c.answer)
	}
	for _, d := range h.seen.Deliveries {
		h.checkDelivery(d, answers[d.firing])
		delete(answers, d.firing)
	}
	for f := range answers {
		h.fail("the platform was called without reason", f)
	}
}

// checkDelivery holds one delivery against what the platform answered to it.
func (h *history) checkDelivery(d *owed, answers []string) {
	h.t.Helper()
	takenBy := 0
	for _, a := range answers {
		if a == takes || a == holds {
			takenBy++
		}
	}
	detail := fmt.Sprintf("%s is %s, answered %v", d.firing, d.Status, answers)
	if takenBy > 1+h.lost[d.firing]+h.forced[d.firing] {
		h.fail("a conversation was resumed twice for one outcome", detail)
	}
	pointless := slices.Contains([]string{"attempt_failed", "processing"}, d.Outcome) && !d.On
	switch {
	case d.Status == "delivered" && takenBy == 0,
		d.Status == "dead" && !slices.Contains(answers, refuses),
		d.Status == "unknown" && (d.At != "careful" || !slices.Contains(answers, cuts) && h.lost[d.firing] == 0),
		d.Status == "skipped" && !h.touched[d.ID] && !pointless,
		d.Status == "held":
		h.fail("a delivery has ended without reason", detail)
	}
}

// checkOrder holds that what was created first in a conversation was sent
// first. What was created at the same moment for different waits has no order,
// and what a person has moved has another one.
func (h *history) checkOrder() {
	h.t.Helper()
	first := map[string]int{}
	for at, c := range h.door.came() {
		f := firing(h.numbers[c.Token], c.Outcome, c.Action, c.Number)
		if _, ok := first[f]; !ok {
			first[f] = at
		}
	}
	for _, later := range h.seen.Deliveries {
		sent, ok := first[later.firing]
		if !ok {
			continue
		}
		for _, earlier := range h.seen.Deliveries {
			before := h.born[earlier.ID] < h.born[later.ID] ||
				h.born[earlier.ID] == h.born[later.ID] && earlier.Token == later.Token && earlier.ID.String() < later.ID.String()
			if !before || earlier.Conversation != later.Conversation || h.touched[earlier.ID] {
				continue
			}
			if at, was := first[earlier.firing]; was && at > sent || !was && !earlier.ended() {
				h.fail("a conversation was not told in order", later.firing+" was sent before "+earlier.firing)
			}
		}
	}
}
