package intake_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"relay.example/relay/internal/relay"
)

// What is drawn is small: few users, keys and payments meet often, and a
// history that fails shrinks to few of them.
var (
	flowNames = []string{"full", "brief", "careful"}
	users     = []string{"ann", "bob"}
	keyNames  = []string{"k1", "k2"}
	refNames  = []string{"r1", "r2"}
	payments  = []string{"p1", "p2", ""}
	newsTypes = []string{
		"completed", "failed", "attempt_failed", "processing", "completed", "cancelled", "expired", "completed", "refunded", "disputed", "meaningless",
	}
)

// draw draws one of a few, by a name that says what it is for.
func draw[V any](t *rapid.T, what string, of ...V) V {
	return rapid.SampledFrom(of).Draw(t, what)
}

// sometimes draws true in one of n cases.
func sometimes(t *rapid.T, what string, n int) bool {
	return rapid.IntRange(0, n-1).Draw(t, what) == n-1
}

func (h *history) drawNode() *wholeNode {
	return h.nodes[map[string]int{"A": 0, "B": 1}[draw(h.t, "node", "A", "B")]]
}

// drawWait draws a wait that is there, or -1 for the token of nobody.
func (h *history) drawWait() int {
	if h.about > 0 {
		return h.about
	}
	if len(h.seenWaits()) == 0 {
		return -1
	}
	return draw(h.t, "wait", h.seenWaits()...)
}

func (h *history) seenWaits() (numbers []int) {
	for _, w := range h.model.waits {
		numbers = append(numbers, w.wish.Number)
	}
	return numbers
}

// drawNews draws a callback: a new one, or one that was sent before.
func (h *history) drawNews() news {
	if len(h.sent) > 0 && sometimes(h.t, "sent before", 8) {
		return draw(h.t, "which", h.sent...)
	}
	n := news{Number: len(h.sent) + 1, Type: draw(h.t, "type", newsTypes...)}
	if h.about > 0 {
		n.Wait = h.about
	} else {
		h.drawName(&n)
	}
	if n.Type == "completed" {
		n.Payment, n.Wrong = draw(h.t, "payment", payments...), sometimes(h.t, "mismatch", 6)
	}
	h.sent = append(h.sent, n)
	return n
}

// drawName draws what a callback names its wait by.
func (h *history) drawName(n *news) {
	switch draw(h.t, "named by", "token", "key", "reference", "token", "token and reference", "key", "nothing", "token of nobody", "token") {
	case "token":
		n.Wait = h.drawWait()
	case "key":
		n.Key = draw(h.t, "key", keyNames...)
	case "reference":
		n.Ref = draw(h.t, "reference", refNames...)
	case "token and reference":
		n.Wait, n.Ref = h.drawWait(), draw(h.t, "reference", refNames...)
	case "token of nobody":
		n.Wait = -1
	}
}

// drawMeeting has all that happens at once be about one wait, in every other
// case: else it would seldom meet. The meeting is over when end is called.
func (h *history) drawMeeting() (end func()) {
	if sometimes(h.t, "about one wait", 2) {
		h.about = max(0, h.drawWait())
	}
	return func() { h.about = 0 }
}

func (h *history) drawCallback() *op { return h.callback(h.drawNode(), h.drawNews()) }

// callback is one callback on its way to a node.
func (h *history) callback(at *wholeNode, n news) *op {
	receipt := &relay.Receipt{}
	h.arrived, h.receipts = append(h.arrived, n), append(h.receipts, receipt)
	received := len(h.arrived)
	body := h.bytes(n)
	return &op{
		text: at.name + ": callback " + n.String(),
		run: func(ctx context.Context) error {
			ctx = context.WithValue(ctx, receiptOf{}, receipt)
			if status, answer := at.call(ctx, http.MethodPost, "/in/default/till", body, "X-Signature", signTill(body)); status != http.StatusOK || answer != "[accepted]" {
				return fmt.Errorf("answered %d %s", status, answer)
			}
			return nil
		},
		happened: func(m *model) bool {
			e := m.receive(received, n)
			if at.gather != nil && receipt.Rule == "same_event" {
				m.repeated(e, h.batch)
			}
			return e.match == string(receipt.Match) && e.rule == receipt.Rule
		},
		result: func() string { return string(receipt.Match) + " " + receipt.Rule },
	}
}

// bytes is the body of a callback.
func (h *history) bytes(n news) string {
	fields := map[string]any{"id": fmt.Sprintf("evt_%d", n.Number), "number": n.Number, "type": n.Type, "currency": "EUR", "amount": 2050}
	if n.Wrong {
		fields["currency"] = "USD"
	}
	for name, value := range map[string]string{"key": n.Key, "ref": n.Ref, "payment": n.Payment, "token": h.tokens[n.Wait]} {
		if value != "" {
			fields[name] = value
		}
	}
	if n.Wait < 0 {
		fields["token"] = strings.Repeat("x", relay.TokenLength)
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(raw)
}

// drawRegister draws a registration: a new one, or one that was sent before.
func (h *history) drawRegister() *op {
	r := wish{
		Flow: draw(h.t, "flow", flowNames...), User: draw(h.t, "user", users...), Key: draw(h.t, "key", append([]string{""}, keyNames...)...),
		OnConflict: draw(h.t, "on_conflict", "", "", "keep", "reject"), Idempotency: draw(h.t, "Idempotency-Key", "", "", "", "i1"),
	}
	if len(h.wishes) > 0 && sometimes(h.t, "sent before", 6) {
		r = draw(h.t, "which", h.wishes...)
	}
	h.wishes = append(h.wishes, r)
	r.Number = len(h.wishes)
	h.wishes[len(h.wishes)-1] = r
	return h.register(h.drawNode(), r)
}

func (h *history) register(at *wholeNode, r wish) *op {
	fields := map[string]any{"flow": r.Flow, "user_id": r.User}
	for name, value := range map[string]string{"key": r.Key, "on_conflict": r.OnConflict} {
		if value != "" {
			fields[name] = value
		}
	}
	body, err := json.Marshal(fields)
	if err != nil {
		h.t.Fatal(err)
	}
	var status int
	var answer struct{ ID, Token, Code string }
	told := func() string {
		switch status {
		case http.StatusCreated:
			return "new"
		case http.StatusOK:
			return "there"
		}
		return answer.Code
	}
	return &op{
		text: at.name + ": registers " + r.String(),
		run: func(ctx context.Context) error {
			var text string
			status, text = at.call(ctx, http.MethodPost, "/v1/correlations", string(body), "Idempotency-Key", r.Idempotency)
			if err := json.Unmarshal([]byte(text), &answer); err != nil || status >= http.StatusInternalServerError {
				return fmt.Errorf("answered %d %s", status, text)
			}
			if status == http.StatusCreated {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.tokens[r.Number], h.numbers[answer.Token] = answer.Token, r.Number
			}
			return nil
		},
		happened: func(m *model) bool {
			code, number := m.register(r, answer.ID)
			return code == told() && number == h.numbers[answer.Token]
		},
		result: told,
	}
}

// drawEnd draws the end of a wait by hand.
func (h *history) drawEnd() *op {
	at, number := h.drawNode(), h.drawWait()
	outcome := draw(h.t, "outcome", "cancelled", "completed", "failed", "expired")
	payment, silent := "", sometimes(h.t, "silent", 4)
	if outcome == "completed" {
		payment = draw(h.t, "payment", payments...)
	}
	var status int
	id := relay.NewID().String() // of nobody
	if w := h.model.wait(number); w != nil {
		id = w.id
	}
	path, body := "/v1/correlations/"+id+"/resolve", map[string]any{"outcome": outcome, "silent": silent}
	if payment != "" {
		body["payment"] = map[string]any{"id": payment}
	}
	if outcome == "cancelled" {
		path, body = "/v1/correlations/"+id+"/cancel", map[string]any{"silent": silent}
	}
	raw, err := json.Marshal(body)
	if err != nil {
		h.t.Fatal(err)
	}
	return &op{
		text: fmt.Sprintf("%s: w%d is %s by hand, payment %q, silent %v", at.name, number, outcome, payment, silent),
		run: func(ctx context.Context) error {
			var text string
			status, text = at.call(ctx, http.MethodPost, path, string(raw))
			if status != http.StatusOK && status != http.StatusConflict && status != http.StatusNotFound {
				return fmt.Errorf("answered %d %s", status, text)
			}
			return nil
		},
		happened: func(m *model) bool {
			return m.endByHand(number, outcome, payment, silent) == (status == http.StatusOK)
		},
		result: func() string { return http.StatusText(status) },
	}
}

// expiring is a sweep of what is overdue.
func (h *history) expiring(at *wholeNode) *op {
	return h.sweeping(at, "expires what is overdue", at.sweeper.ExpireOnce, &op{expires: true})
}

// looking is the look after commits.
func (h *history) looking(at *wholeNode) *op {
	look := func(context.Context) (int, error) { return at.in.LookNow() }
	return h.sweeping(at, "looks for what is parked, by the names of its commits", look, &op{matches: true})
}

// sweepingParked is the sweep of all that is parked.
func (h *history) sweepingParked(at *wholeNode) *op {
	return h.sweeping(at, "sweeps what is parked", at.in.MatchParkedOnce, &op{matches: true})
}

func (h *history) sweeping(at *wholeNode, what string, pass func(context.Context) (int, error), o *op) *op {
	var n int
	o.text = at.name + ": " + what
	o.run = func(ctx context.Context) (err error) {
		at.passing.Lock()
		defer at.passing.Unlock()
		n, err = pass(ctx)
		return err
	}
	o.result = func() string { return fmt.Sprint(n) }
	return o
}

// atOnce has up to three things happen at the same moment, anywhere. One is
// there to shrink to.
func (h *history) atOnce() {
	ops := []*op{}
	end := h.drawMeeting()
	for range rapid.IntRange(1, 3).Draw(h.t, "how many") {
		ops = append(ops, h.drawOne())
	}
	end()
	h.do(ops...)
}

func (h *history) drawOne() *op {
	switch draw(h.t, "what", "callback", "callback again", "register", "end", "expire", "look", "sweep") {
	case "register":
		return h.drawRegister()
	case "end":
		return h.drawEnd()
	case "expire":
		return h.expiring(h.drawNode())
	case "look":
		return h.looking(h.drawNode())
	case "sweep":
		return h.sweepingParked(h.drawNode())
	}
	return h.drawCallback()
}

// oneBatch has several callbacks meet in one commit of a node.
func (h *history) oneBatch() {
	at := h.drawNode()
	g := &gathering{left: rapid.IntRange(1, 3).Draw(h.t, "how many"), done: make(chan struct{})}
	ops := []*op{}
	end := h.drawMeeting()
	for range g.left {
		ops = append(ops, h.callback(at, h.drawNews()))
	}
	end()
	at.gather, h.batch = g, len(h.arrived)-len(ops)
	h.together(ops)
	at.gather = nil
	h.strongestWins(h.batch)
}

// strongestWins holds that of the ends that came in one batch none was
// stronger than the one that closed its wait. What is named by reference alone
// may have been taught by another one of the batch: it comes second.
func (h *history) strongestWins(before int) {
	rank := func(n news) int { return slices.Index([]string{"completed", "failed", "cancelled", "expired"}, n.Type) }
	for _, won := range h.model.events {
		for _, lost := range h.model.events {
			if won.number <= before || lost.number <= before || won.rule != "closed" || lost.wait != won.wait {
				continue
			}
			if n := lost.news; rank(n) >= 0 && rank(n) < rank(won.news) && !n.Wrong && (n.Wait > 0 || n.Key != "") {
				h.fail("of several ends in one batch a weaker one won", fmt.Sprintf("%s before %s", won.news, n))
			}
		}
	}
}

// passes gives up one drawn step of a history, because there is nothing yet
// that it could be done to: nobody waits, say. h.t is rapid's T, not testing's:
// its Skip within Repeat draws another step in place of this one, the same
// history goes on, and every check at its end is made. No test is skipped.
func (h *history) passes(why string) { h.t.Skip(why) }

// deadline lets the time of a wait pass.
func (h *history) deadline() {
	var pending []int
	for _, w := range h.model.waits {
		if w.status == "pending" {
			pending = append(pending, w.wish.Number)
		}
	}
	if len(pending) == 0 {
		h.passes("nobody waits")
	}
	w := h.model.wait(draw(h.t, "wait", pending...))
	w.overdue = true
	h.exec(h.t, `UPDATE deadlines SET expires_at = now() - interval '1 second' WHERE correlation_id = $1`, w.id)
	h.exec(h.t, `UPDATE correlations SET expires_at = now() - interval '1 second' WHERE id = $1`, w.id)
	h.note("the deadline of w%d passes", w.wish.Number)
}

// expire sweeps what is overdue, from one node or from both at once: all of it
// has ended then.
func (h *history) expire() {
	if sometimes(h.t, "both", 2) {
		h.do(h.expiring(h.nodes[0]), h.expiring(h.nodes[1]))
	} else {
		h.do(h.expiring(h.drawNode()))
	}
	for _, w := range h.model.waits {
		if w.status == "pending" && w.overdue {
			h.fail("a wait is overdue, and was not ended", fmt.Sprintf("w%d", w.wish.Number))
		}
	}
}

// look has both nodes look for the names of their commits: whoever is parked
// and waited for is matched then, unless a node has forgotten its names.
func (h *history) look() {
	if sometimes(h.t, "at once", 2) {
		h.do(h.looking(h.nodes[0]), h.looking(h.nodes[1]))
	} else {
		h.do(h.looking(h.nodes[0]))
		h.do(h.looking(h.nodes[1]))
	}
	h.nobodyIsAwaited(!h.unseen)
}

func (h *history) nobodyIsAwaited(promised bool) {
	h.t.Helper()
	if left := h.model.awaited(); promised && len(left) > 0 {
		h.fail("a parked event has a wait, and was not matched", fmt.Sprint("of the events ", left))
	}
}

// sweepParked sweeps until nothing is found, what that has taught included.
func (h *history) sweepParked() {
	for {
		at := h.drawNode()
		before := len(h.model.awaited())
		h.do(h.sweepingParked(at))
		if before == 0 {
			break
		}
		if len(h.model.awaited()) >= before {
			h.fail("a parked event has a wait, and was not matched", "by a sweep of all that is parked")
		}
	}
	h.unseen = false
}

// unpark gives up an event that was parked for three days.
func (h *history) unpark() {
	var parked []int
	for _, e := range h.model.events {
		if e.match == "parked" {
			parked = append(parked, e.number)
		}
	}
	if len(parked) == 0 {
		h.passes("nothing is parked")
	}
	received, at := draw(h.t, "received", parked...), h.drawNode()
	h.exec(h.t, `UPDATE parked_refs SET parked_at = now() - interval '73 hours' WHERE event_id = $1`, h.receipts[received-1].EventID)
	h.do(h.sweeping(at, fmt.Sprintf("gives up what came as number %d, 73 hours ago", received), at.sweeper.UnparkOnce, &op{matches: true}))
	if e := h.model.event(received); e.match == "parked" {
		h.fail("an event was parked for too long, and was not given up", e.news.String())
	}
}

// replay has one event decided anew.
func (h *history) replay() {
	if len(h.receipts) == 0 {
		h.passes("nothing has come")
	}
	asked, works := h.drawNode(), h.drawNode()
	received := rapid.IntRange(1, len(h.receipts)).Draw(h.t, "received")
	path := "/v1/events/" + h.receipts[received-1].EventID.String() + "/replay"
	h.do(h.sweeping(works, fmt.Sprintf("replays what came as number %d", received), func(ctx context.Context) (int, error) {
		if status, text := asked.call(ctx, http.MethodPost, path, ""); status != http.StatusAccepted {
			return 0, fmt.Errorf("answered %d %s", status, text)
		}
		for {
			if n, err := works.in.ReplayOnce(ctx); n == 0 || err != nil {
				return n, err
			}
		}
	}, &op{matches: true}))
}

// deliver has one node or both send what is due; the platform answers as drawn.
func (h *history) deliver() {
	nodes := h.drawNodes()
	answers := rapid.SliceOfN(rapid.SampledFrom([]string{takes, busy, refuses, cuts}), 0, 3).Draw(h.t, "answers")
	h.send(names(nodes)+": sends, and is answered "+fmt.Sprint(answers), nodes, answers, func() {})
}

func (h *history) drawNodes() []*wholeNode {
	if sometimes(h.t, "both", 2) {
		return h.nodes
	}
	return []*wholeNode{h.drawNode()}
}

func names(nodes []*wholeNode) string {
	all := make([]string, 0, len(nodes))
	for _, n := range nodes {
		all = append(all, n.name)
	}
	return strings.Join(all, " and ")
}

// send has nodes send what is due. Meanwhile happens while a call is held.
func (h *history) send(text string, nodes []*wholeNode, answers []string, meanwhile func()) {
	h.t.Helper()
	came := len(h.door.came())
	h.door.next(answers...)
	h.note("%s", text)
	p := h.begin(h.t, time.Second, nodes...)
	defer func() {
		h.door.open()
		_ = p.stop() // told below, where the pass comes to its end
	}()
	h.quiet(p)
	meanwhile()
	h.door.open()
	h.quiet(p)
	if err := p.stop(); err != nil {
		h.fail("an engine has failed", err.Error())
	}
	for _, c := range h.door.came()[came:] {
		h.past = append(h.past, fmt.Sprintf("     %s: %s", firing(h.numbers[c.Token], c.Outcome, c.Action, c.Number), c.answer))
	}
	h.lull()
	h.settle(nil)
	h.noLeaseIsLeft()
}

// quiet waits until a pass has nothing left to do.
func (h *history) quiet(p *deliverPass) {
	h.t.Helper()
	if !p.quiet(h.t) {
		h.lookOn()
		detail := ""
		for _, d := range h.seen.Deliveries {
			detail += fmt.Sprintf("%s: %+v\n", d.firing, *d)
		}
		h.fail("what is due is not sent", detail)
	}
}

// lull moves what is tried again by chance at any moment to a later one: a
// history decides when time passes.
func (h *history) lull() {
	h.exec(h.t, `UPDATE deliveries SET due_at = now() + interval '10 minutes' WHERE lease IS NULL AND class = 'unknown' AND due_at IS NOT NULL AND NOT by_hand`)
}

// noLeaseIsLeft holds that only what nodes have in memory is leased, and what
// dead ones had.
func (h *history) noLeaseIsLeft() {
	h.t.Helper()
	for _, d := range h.leased() {
		h.fail("a delivery was sent, and is leased still", d.firing)
	}
}

// leased lists the deliveries under leases that nobody is known to hold.
func (h *history) leased() (list []*owed) {
	known := map[string]bool{}
	for _, n := range h.nodes {
		for _, lease := range n.leases() {
			known[lease.String()] = true
		}
	}
	for _, lease := range h.dead {
		known[lease.String()] = true
	}
	for _, d := range h.seen.Deliveries {
		if d.Leased && !known[d.Lease.String()] {
			list = append(list, d)
		}
	}
	return list
}

// deliverSlowly has something happen while the platform takes its time.
func (h *history) deliverSlowly() {
	nodes := h.drawNodes()
	meanwhile := h.drawOne()
	h.send(names(nodes)+": sends, and the first call is answered late", nodes, []string{holds}, func() { h.do(meanwhile) })
}

// dieInFlight has a node die while it sends: the platform has taken the call,
// and nobody knows.
func (h *history) dieInFlight() {
	at := h.drawNode()
	h.door.next(holds)
	p := h.begin(h.t, 0, at)
	defer func() {
		h.door.open()
		_ = p.stop() // told below, where the pass comes to its end
	}()
	h.quiet(p)
	if h.door.waiting() > 0 {
		came := h.door.came()
		for _, c := range came {
			if c.answer == holds && !c.told {
				h.lost[firing(h.numbers[c.Token], c.Outcome, c.Action, c.Number)]++
				h.note("%s: dies while it sends %s", at.name, firing(h.numbers[c.Token], c.Outcome, c.Action, c.Number))
			}
		}
	} else {
		h.note("%s: dies, with nothing to send", at.name)
	}
	if err := p.stop(); err != nil {
		h.fail("an engine has failed", err.Error())
	}
	h.door.open()
	at.crash(h.t)
	h.unseen = true
	h.settle(nil)
	for _, d := range h.leased() {
		h.dead = append(h.dead, d.Lease)
	}
}

// crash has a node forget all that it holds in memory.
func (h *history) crash() {
	at := h.drawNode()
	h.dead = append(h.dead, at.leases()...)
	at.crash(h.t)
	h.unseen = true
	h.note("%s: crashes", at.name)
}

// timePasses makes due what is to be tried again, and ends the leases of those
// who died.
func (h *history) timePasses() {
	h.exec(h.t, `UPDATE deliveries SET due_at = now() WHERE due_at > now() AND (lease IS NULL OR lease = ANY($1))`, h.dead)
	h.dead = nil
	h.note("time passes: retries are due, and the leases of the dead have ended")
}

// drawDelivery draws one of the deliveries.
func (h *history) drawDelivery() *owed {
	if len(h.seen.Deliveries) == 0 {
		h.passes("nothing has fired")
	}
	return h.seen.Deliveries[rapid.IntRange(0, len(h.seen.Deliveries)-1).Draw(h.t, "delivery")]
}

// retryByHand has a person retry a delivery, with force or without.
func (h *history) retryByHand() {
	h.lookOn()
	d, at, force := h.drawDelivery(), h.drawNode(), sometimes(h.t, "force", 2)
	refused := d.Leased || d.Status == "sending" || d.Status == "delivered" && !force
	h.byHand(at, d, "retry", fmt.Sprintf(`{"force": %v}`, force), refused)
	if !refused && d.Status == "delivered" {
		h.forced[d.firing]++
	}
}

// skipByHand has a person give a delivery up.
func (h *history) skipByHand() {
	h.lookOn()
	d, at := h.drawDelivery(), h.drawNode()
	h.byHand(at, d, "skip", `{}`, d.Leased || d.Status == "sending" || d.Status == "delivered" || d.Status == "skipped")
}

func (h *history) byHand(at *wholeNode, d *owed, what, body string, refused bool) {
	h.t.Helper()
	status, text := at.call(context.Background(), http.MethodPost, "/v1/deliveries/"+d.ID.String()+"/"+what, body)
	h.note("%s: %s, which is %s: %s by hand → %s", at.name, d.firing, d.Status, what, http.StatusText(status))
	if want := map[bool]int{false: http.StatusOK, true: http.StatusConflict}[refused]; status != want {
		h.fail("a "+what+" by hand is answered otherwise than promised", text)
	}
	if !refused {
		h.touched[d.ID] = true
	}
	h.settle(nil)
}

// retryAll has a person retry all that has come to rest without success.
func (h *history) retryAll() {
	h.lookOn()
	want := 0
	for _, d := range h.seen.Deliveries {
		if d.Status == "dead" || d.Status == "unknown" {
			want++
			h.touched[d.ID] = true
		}
	}
	at := h.drawNode()
	var answer struct{ Matched int }
	status, text := at.call(context.Background(), http.MethodPost, "/v1/deliveries/retry", `{}`)
	h.note("%s: all that is dead or unknown is retried by hand → %s", at.name, http.StatusText(status))
	if err := json.Unmarshal([]byte(text), &answer); err != nil || status != http.StatusAccepted || answer.Matched != want {
		h.fail("a retry of all takes others than those at rest", fmt.Sprintf("%s, want %d", text, want))
	}
	h.settle(nil)
}

// passOn looks for slots that were left, of which there are none.
func (h *history) passOn() {
	at := h.drawNode()
	_, err := at.sweeper.PassOnOnce(context.Background())
	h.note("%s: passes on slots", at.name)
	if err != nil {
		h.fail("slots are not passed on", err.Error())
	}
	h.settle(nil)
}

// comeToRest lets everything be done that is to be done: then every wait has
// ended and nothing is owed.
func (h *history) comeToRest() {
	h.look()
	h.sweepParked()
	for _, w := range h.model.waits {
		w.overdue = w.overdue || w.status == "pending"
	}
	h.exec(h.t, `UPDATE deadlines SET expires_at = now() - interval '1 second'`)
	h.note("all deadlines pass")
	h.expire()
	for tries := 0; tries < 3 && slices.ContainsFunc(h.seen.Deliveries, func(d *owed) bool { return !d.ended() }); tries++ {
		h.timePasses()
		h.send("A and B: send, and the platform takes it", h.nodes, nil, func() {})
	}
	for _, w := range h.seen.Waits {
		if w.Status == "pending" {
			h.fail("a wait is left hanging", fmt.Sprintf("w%d", h.numbers[w.Token]))
		}
	}
	for _, d := range h.seen.Deliveries {
		if !d.ended() {
			h.fail("a delivery is owed after all is done", d.firing+" is "+d.Status)
		}
	}
	h.nobodyIsAwaited(true)
}
