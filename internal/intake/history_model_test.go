package intake_test

import (
	"fmt"
	"slices"
	"strings"
)

// This is what the pages of docs promise, said once more in a few lines: what
// each thing that can happen does to waits and events, one after the other. It
// calls nothing of the program. Of things that happened at once some order
// must lead to what is seen: see explain.

// news is a callback as the till sends it. Sent again it is the same bytes.
type news struct {
	Number  int
	Type    string // an outcome, or one that means nothing
	Wait    int    // whose token it names; 0: none, -1: a token of nobody
	Key     string
	Ref     string
	Payment string
	Wrong   bool // another currency than expected
}

func (n news) String() string {
	s := fmt.Sprintf("e%d %s", n.Number, n.Type)
	switch {
	case n.Wait > 0:
		s += fmt.Sprintf(", token of w%d", n.Wait)
	case n.Wait < 0:
		s += ", token of nobody"
	}
	for _, part := range []struct{ name, value string }{{"key", n.Key}, {"reference", n.Ref}, {"payment", n.Payment}} {
		if part.value != "" {
			s += ", " + part.name + " " + part.value
		}
	}
	if n.Wrong {
		s += ", in the wrong currency"
	}
	return s
}

// wish is a registration as a bot sends it.
type wish struct {
	Number      int // of the wait, if there comes one of it
	Flow, User  string
	Key         string
	OnConflict  string
	Idempotency string
}

func (w wish) String() string {
	s := fmt.Sprintf("w%d for %s, flow %s", w.Number, w.User, w.Flow)
	for _, part := range []struct{ name, value string }{{"key", w.Key}, {"on_conflict", w.OnConflict}, {"Idempotency-Key", w.Idempotency}} {
		if part.value != "" {
			s += ", " + part.name + " " + part.value
		}
	}
	return s
}

// flows are the flows of the test: where each calls, and what it has an
// action for. Two of them speak in the same conversations.
var flows = map[string]struct {
	destination string
	on          []string
}{
	"full": {"bot", []string{
		"completed", "completed_late", "failed", "cancelled", "expired", "attempt_failed", "processing", "mismatch",
		"refunded", "disputed", "paid_again",
	}},
	"brief":   {"bot", []string{"completed", "default", "attempt_failed", "refunded"}},
	"careful": {"careful", []string{"completed", "default", "attempt_failed", "processing", "mismatch", "paid_again"}},
}

type modelWait struct {
	wish     wish
	id       string // orders waits of the same key
	status   string
	by       string
	payment  string // that was taken
	late     bool
	extended bool
	overdue  bool
	refs     []string // that it has learned
	heard    []string // payments that were told as a mismatch or as a second one
	fired    []string
}

type modelEvent struct {
	number      int // in the order in which they were sent
	news        news
	match, rule string
	wait        int
	holds       bool // its id: the same event counts no more
}

type model struct {
	waits  []*modelWait
	events []*modelEvent // as received: the same news twice are two
	kept   map[string]wish
	made   map[string]int // by Idempotency-Key: the wait that it led to
}

func newModel() *model { return &model{kept: map[string]wish{}, made: map[string]int{}} }

// clone is for trying an order: what it does to the copy is not done to m.
func (m *model) clone() *model {
	c := newModel()
	for _, w := range m.waits {
		twin := *w
		twin.refs, twin.heard, twin.fired = slices.Clone(w.refs), slices.Clone(w.heard), slices.Clone(w.fired)
		c.waits = append(c.waits, &twin)
	}
	for _, e := range m.events {
		twin := *e
		c.events = append(c.events, &twin)
	}
	for key := range m.kept {
		c.kept[key], c.made[key] = m.kept[key], m.made[key]
	}
	return c
}

func (m *model) wait(number int) *modelWait {
	for _, w := range m.waits {
		if w.wish.Number == number {
			return w
		}
	}
	return nil
}

// pending returns the wait that a newer one of its flow and user meets.
func (m *model) pending(flow, user string) *modelWait {
	for _, w := range m.waits {
		if w.status == "pending" && w.wish.Flow == flow && w.wish.User == user {
			return w
		}
	}
	return nil
}

// register returns the answer: a code, and the wait that it is about.
func (m *model) register(r wish, id string) (code string, number int) {
	if r.Idempotency != "" {
		if first, ok := m.kept[r.Idempotency]; ok {
			if r.Number, first.Number = 0, 0; r != first {
				return "idempotency_key_reused", 0
			}
			return "there", m.made[r.Idempotency]
		}
	}
	older := m.pending(r.Flow, r.User)
	if older != nil && r.OnConflict == "keep" {
		m.keep(r, older.wish.Number)
		return "there", older.wish.Number
	}
	if older != nil && r.OnConflict == "reject" {
		return "wait_pending", 0
	}
	for _, w := range m.waits {
		if r.Key != "" && w.wish.Key == r.Key && w.status == "pending" && w != older {
			return "key_in_use", 0
		}
	}
	if older != nil {
		older.status, older.by = "superseded", "newer_wait"
	}
	m.waits = append(m.waits, &modelWait{wish: r, id: id, status: "pending"})
	m.keep(r, r.Number)
	return "new", r.Number
}

func (m *model) keep(r wish, number int) {
	if r.Idempotency != "" {
		m.kept[r.Idempotency], m.made[r.Idempotency] = r, number
	}
}

// receive takes a callback as the next event.
func (m *model) receive(number int, n news) *modelEvent {
	e := &modelEvent{number: number, news: n}
	m.events = append(m.events, e)
	m.decide(e)
	return e
}

// repeated takes an event for the same as another one of its batch, which
// holds its id for the others even where it comes to nothing.
func (m *model) repeated(e *modelEvent, before int) {
	for _, other := range m.events {
		if other != e && other.number > before && other.news.Number == e.news.Number && e.match == "unmatched" {
			e.match, e.rule = "duplicate", "same_event"
		}
	}
}

// decide is the order of docs/states.md.
func (m *model) decide(e *modelEvent) {
	n := e.news
	e.match, e.rule, e.wait = "", "", 0
	for _, other := range m.events {
		if other != e && other.holds && other.news.Number == n.Number {
			e.match, e.rule, e.holds = "duplicate", "same_event", false
			return
		}
	}
	if n.Type == "meaningless" {
		e.match, e.rule, e.holds = "ignored", "type_ignored", true
		return
	}
	named := m.find(n)
	switch {
	case len(named) > 1:
		e.match, e.rule = "ambiguous", "references_differ"
	case len(named) == 1:
		w := named[0]
		if n.Ref != "" && !slices.Contains(w.refs, n.Ref) {
			w.refs = append(w.refs, n.Ref)
		}
		e.wait = w.wish.Number
		e.match, e.rule = m.apply(w, n)
	case n.Wait == 0 && n.Key == "" && n.Ref == "":
		e.match, e.rule = "unmatched", "names_nobody"
	default:
		e.match, e.rule = "parked", "nobody_waits_yet"
	}
	e.holds = e.match != "unmatched"
}

// find returns the waits that n names: by token, else by key, else by what
// they have learned.
func (m *model) find(n news) (named []*modelWait) {
	if w := m.wait(n.Wait); w != nil {
		return []*modelWait{w}
	}
	var last *modelWait
	for _, w := range m.waits {
		if n.Key != "" && w.wish.Key == n.Key && (last == nil || last.status != "pending" && (w.status == "pending" || w.id > last.id)) {
			last = w
		}
	}
	if last != nil {
		return []*modelWait{last}
	}
	for _, w := range m.waits {
		if n.Ref != "" && slices.Contains(w.refs, n.Ref) {
			named = append(named, w)
		}
	}
	return named
}

// apply says what news do to the wait that they name.
func (m *model) apply(w *modelWait, n news) (match, rule string) {
	outcome := n.Type
	if outcome == "completed" && n.Wrong {
		outcome = "mismatch"
	}
	taken := w.status == "completed" || w.late
	paid := outcome == "completed" || outcome == "mismatch"
	switch {
	case outcome == "refunded" || outcome == "disputed":
		w.fire(outcome, outcome, n.Number)
		return "matched", "aftermath"
	case w.status == "pending" && terminal(outcome):
		w.end(outcome, "event", n.Number)
		w.payment = n.Payment
		return "matched", "closed"
	case w.status == "pending" && outcome == "processing" && w.extended:
		return "duplicate", "already_processing"
	case w.status == "pending" && outcome == "processing":
		w.extended, w.overdue = true, false
		w.fire(outcome, outcome, n.Number)
		return "matched", "deadline_extended"
	case w.status == "pending" && outcome == "attempt_failed":
		w.fire(outcome, outcome, n.Number)
		return "matched", "on_the_way"
	case w.status != "pending" && (!paid || taken && (n.Payment == w.payment || n.Payment == "" || w.payment == "")):
		return "duplicate", "already_closed"
	case outcome == "mismatch" || taken:
		return m.payAside(w, n, outcome, taken)
	}
	w.late, w.payment = true, n.Payment
	w.fire("completed", "completed_late", n.Number)
	if next := m.pending(w.wish.Flow, w.wish.User); next != nil {
		next.status, next.by = "superseded", "late_success"
	}
	return "late", "completed_late"
}

// payAside is for a payment that does not count: it is not what was expected,
// or another one was taken. Each is told once.
func (m *model) payAside(w *modelWait, n news, outcome string, taken bool) (match, rule string) {
	if n.Payment != "" && slices.Contains(w.heard, n.Payment) {
		return "duplicate", "same_payment"
	}
	if n.Payment != "" {
		w.heard = append(w.heard, n.Payment)
	}
	switch {
	case taken:
		w.fire("paid_again", "paid_again", n.Number)
		return "paid_again", "other_payment"
	case w.status == "pending":
		w.fire(outcome, outcome, n.Number)
		return "matched", "on_the_way"
	}
	w.fire(outcome, outcome, n.Number)
	return "late", "late_mismatch"
}

func terminal(outcome string) bool {
	return slices.Contains([]string{"completed", "failed", "cancelled", "expired"}, outcome)
}

func (w *modelWait) end(outcome, by string, event int) {
	w.status, w.by = outcome, by
	w.fire(outcome, outcome, event)
}

// fire looks an outcome up under `on:`, by its name first.
func (w *modelWait) fire(outcome, name string, event int) {
	names := []string{name, outcome}
	if terminal(outcome) {
		names = append(names, "default")
	}
	on := flows[w.wish.Flow].on
	for _, name := range names {
		if slices.Contains(on, name) {
			w.fired = append(w.fired, firing(w.wish.Number, outcome, name, event))
			return
		}
	}
}

// firing names a call: nothing may fire under the same name twice.
func firing(wait int, outcome, action string, event int) string {
	s := fmt.Sprintf("w%d %s>%s", wait, outcome, action)
	if event != 0 {
		s += fmt.Sprintf(" e%d", event)
	}
	return s
}

// expire ends a wait whose time is up.
func (m *model) expire(number int) bool {
	w := m.wait(number)
	if w == nil || w.status != "pending" || !w.overdue {
		return false
	}
	w.end("expired", "deadline", 0)
	return true
}

// endByHand reports whether the wait was there to be ended.
func (m *model) endByHand(number int, outcome, payment string, silent bool) bool {
	w := m.wait(number)
	if w == nil || w.status != "pending" {
		return false
	}
	fired := slices.Clone(w.fired)
	w.end(outcome, "api", 0)
	w.payment = payment
	if silent {
		w.fired = fired
	}
	return true
}

// undone reports whether an event may be decided anew.
func (e *modelEvent) undone() bool {
	return slices.Contains([]string{"parked", "ignored", "ambiguous", "unmatched"}, e.match)
}

// rematch decides a received event anew.
func (m *model) rematch(number int) bool {
	e := m.event(number)
	if e == nil || !e.undone() {
		return false
	}
	before := *e
	m.decide(e)
	if nobody := func(match string) bool { return match == "parked" || match == "unmatched" }; nobody(before.match) && nobody(e.match) {
		*e = before
	}
	return true
}

// awaited returns the parked events that somebody waits for.
func (m *model) awaited() (found []int) {
	for _, e := range m.events {
		if c := m.clone(); e.match == "parked" && c.rematch(e.number) && c.event(e.number).match != "parked" {
			found = append(found, e.news.Number)
		}
	}
	return found
}

func (m *model) event(number int) *modelEvent {
	for _, e := range m.events {
		if e.number == number {
			return e
		}
	}
	return nil
}

// unpark gives a parked event up.
func (m *model) unpark(number int) bool {
	e := m.event(number)
	if e == nil || e.match != "parked" {
		return false
	}
	e.match, e.rule, e.holds = "unmatched", "nobody_came", false
	return true
}

// lines is all that can be seen of the model, to be compared with what is seen.
func (m *model) lines() (lines []string) {
	for _, w := range m.waits {
		lines = append(lines, waitLine(w.wish.Number, w.status, w.by, w.late, w.extended))
		lines = append(lines, w.fired...)
	}
	for _, e := range m.events {
		lines = append(lines, eventLine(e.number, e.news.Number, e.match, e.rule, e.wait))
	}
	slices.Sort(lines)
	return lines
}

func waitLine(number int, status, by string, late, extended bool) string {
	s := strings.TrimSpace(fmt.Sprintf("w%d is %s %s", number, status, by))
	if late {
		s += ", paid late"
	}
	if extended {
		s += ", extended"
	}
	return s
}

// eventLine tells one event. A copy belongs to the wait that its original had
// found by then, so that it is erased with it; what it fires is nothing.
func eventLine(received, number int, match, rule string, wait int) string {
	s := fmt.Sprintf("received %03d: e%d %s %s", received, number, match, rule)
	if wait != 0 && rule != "same_event" {
		s += fmt.Sprintf(" w%d", wait)
	}
	return s
}

// happening is one thing that happened, applied to the model. It reports
// whether the model agrees with what came of it.
type happening func(*model) bool

// explain finds an order of what happened at once in which the model agrees
// with all that was answered and comes to what is seen. It returns the model
// after it, or nil.
func (m *model) explain(happened []happening, seen []string) *model {
	if len(happened) == 0 {
		if slices.Equal(m.lines(), seen) {
			return m
		}
		return nil
	}
	for i, h := range happened {
		tried := m.clone()
		if !h(tried) {
			continue
		}
		rest := append(slices.Clone(happened[:i]), happened[i+1:]...)
		if end := tried.explain(rest, seen); end != nil {
			return end
		}
	}
	return nil
}
