package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/bench"
)

// trial is a row of the table: a fault, or a load that is a trial in itself.
type trial struct {
	name  string
	shape shape
	long  bool // not in the short form
	run   func(ctx context.Context, w *world, s scale) *books
}

// scale is how much of everything there is.
type scale struct {
	waits         int           // that expire
	window        time.Duration // within which they do
	jam           time.Duration // for which a platform hangs
	conversations int           // whose order is watched
	changes       int           // of the configuration
}

var (
	full  = scale{waits: 100_000, window: time.Minute, jam: 5 * time.Minute, conversations: 1000, changes: 50}
	short = scale{waits: 10_000, window: 6 * time.Second, jam: 20 * time.Second, conversations: 100, changes: 20}
)

// trials lists everything, in the order in which it is tried.
func trials() (out []trial) {
	for _, f := range faults {
		out = append(out, trial{f.name, f.shape, f.long, func(ctx context.Context, w *world, _ scale) *books { return f.run(ctx, w) }})
	}
	return append(out,
		trial{name: "the configuration changes", run: changes},
		trial{name: "many conversations, a node killed meanwhile", run: conversations},
		trial{name: "a platform that hangs beside one that does not", run: jam},
		trial{name: "more callbacks than a node can take", run: flood},
		trial{name: "deadlines", run: deadlines},
	)
}

// The bounds that the trials hold.
const (
	changeLimit = time.Second      // for a change to reach every node
	calmLimit   = 2 * time.Second  // 99th percentile of a resume while others hang or expire
	memoryLimit = 512 << 20        // resident, of any node
	fireLimit   = 5 * time.Second  // 99th percentile of a deadline's call: what relay_waits_overdue calls overdue
	overdueGone = 10 * time.Second // for relay_waits_overdue to be 0 again: it is read every 5 s
	jamRest     = 15 * time.Minute // for what hung to be resumed: it is tried again after 5 min at most, and queues
	jamTrend    = 5 * time.Minute  // from which on what grows is told from what fills: a node holds 5,000 deliveries of one platform
	floodConns  = 5_000            // callers at once, of one node
	floodBody   = 4 << 10          // bytes
	floodFor    = 10 * time.Second
	stockRate   = 600 // a second, at least, on a machine this small
	stockers    = 64  // connections that register
	perTalk     = 20  // deliveries of a conversation
	talkers     = 50  // conversations at a time
)

// finding is a figure that is held to a bound.
type finding struct{ what, measured, bound string }

// find notes a figure, and complains where it is out of bounds.
func (b *books) find(what, measured, bound string, good bool) {
	b.findings = append(b.findings, finding{what, measured, bound})
	if !good {
		b.complain("%s: got %s, want %s", what, measured, bound)
	}
}

// withPayers has payers pay while something else goes on, and compares their
// books.
func withPayers(ctx context.Context, w *world, b *books, meanwhile func(context.Context) error) *load {
	return withLoad(ctx, w, b, func(ctx context.Context, _ *load) error { return meanwhile(ctx) })
}

// withLoad is withPayers for what has to look at the payers meanwhile.
func withLoad(ctx context.Context, w *world, b *books, meanwhile func(context.Context, *load) error) *load {
	l := w.newLoad()
	began := time.Now()
	l.begin(ctx, rate)
	err := pause(ctx, warm)
	if err == nil {
		err = meanwhile(ctx, l)
	}
	ended := time.Now()
	err = errors.Join(err, l.end(ctx))
	if err != nil {
		b.complain("%v", err)
	}
	if ctx.Err() == nil {
		b.close(ctx, w, l, began, ended)
	}
	return l
}

// conversations has many conversations go on by twenty callbacks each, kills a
// node in the middle, and holds the platform's book to their order.
func conversations(ctx context.Context, w *world, s scale) *books {
	b := &books{fault: fmt.Sprintf("%d conversations × %d callbacks in order, a node killed meanwhile", s.conversations, perTalk)}
	l := w.newLoad()
	began := time.Now()
	first := int(w.next.Add(int64(s.conversations))) - s.conversations
	err := parallel(ctx, talkers, s.conversations, func(ctx context.Context, i int) error {
		if i == s.conversations/2 {
			return errors.Join(w.dieAndLive(ctx, b), l.talk(ctx, first+i))
		}
		return l.talk(ctx, first+i)
	})
	ended := time.Now()
	if err != nil {
		b.complain("%v", err)
		return b
	}
	b.awaitRest(ctx, w, l)
	b.note = fmt.Sprintf("in %s", time.Since(began).Round(time.Second))
	b.accepted, b.shed, b.broken, b.slowest = len(l.payments), l.shed.Load(), l.broken.Load(), l.slowest
	b.gap = longestGap(l.payments, began, ended)
	for i := range s.conversations {
		b.compareTalk(first+i, w.platform.of(first+i))
	}
	if b.lost() > 0 {
		b.complain("%d of %d callbacks were never resumed", b.lost(), b.accepted)
	}
	for what, count := range l.wrong {
		b.complain("%d times: %s", count, what)
	}
	return b
}

// dieAndLive kills a node and starts it again.
func (w *world) dieAndLive(ctx context.Context, b *books) error {
	o := outage{from: time.Now()}
	err := errors.Join(w.nodes[0].kill(), w.nodes[0].start(ctx))
	o.to = time.Now()
	b.outages = append(b.outages, o)
	return err
}

// talk registers a wait for each step of a conversation, and calls back one
// after the other.
func (l *load) talk(ctx context.Context, user int) error {
	var waits []registered
	for step := range perTalk {
		body := fmt.Sprintf(`{"user_id": %q, "destination": "bot", "source": "stripe", "module_id": %d}`, bench.UserID(user), step+1)
		wait, err := l.register(ctx, fmt.Sprintf("%d-%d", user, step), []byte(body))
		if err != nil {
			return err
		}
		waits = append(waits, wait)
	}
	for _, wait := range waits {
		if err := l.callBack(ctx, user, int(l.next.Add(1))-1, wait); err != nil {
			return err
		}
	}
	return nil
}

// compareTalk holds the calls about one conversation to their order: each step
// after the one before it, and repeated only before the next.
func (b *books) compareTalk(user int, calls []call) {
	var last call
	for _, c := range calls {
		switch {
		case c.module == last.module+1:
			b.resumed++
		case c.module == last.module && explained(b.outages, last.at, c.at):
			b.twice++
		case c.module == last.module:
			b.twice++
			b.complain("%s was told step %d at %s and at %s, and no kill explains it", bench.UserID(user), c.module, stamp(last.at), stamp(c.at))
		default:
			b.complain("%s was told step %d after step %d", bench.UserID(user), c.module, last.module)
			return
		}
		last = c
	}
}

// jam has one platform hang for 30 s a call while payers of another pay.
func jam(ctx context.Context, w *world, s scale) *books {
	b := &books{fault: fmt.Sprintf("a platform hangs for 30 s a call, for %s, beside one that does not", s.jam), restLimit: jamRest}
	others := w.newLoad()
	others.flow = "stuck"
	w.platform.jammed.Store(true)
	var samples []sample
	var well time.Time
	l := withLoad(ctx, w, b, func(ctx context.Context, l *load) (err error) {
		others.begin(ctx, rate/2)
		defer w.platform.jammed.Store(false)
		samples, err = w.watchLoad(ctx, l, s.jam)
		err = errors.Join(err, others.end(ctx))
		well = time.Now()
		return err
	})
	if s.jam >= jamTrend {
		b.judgeTrend("the time in which a platform hangs", samples, ofNodes)
	}
	resume, ack := w.resumeP99(l.payments), ackP99(l.payments)
	b.find("99th percentile from 200 to resume, beside a platform that hangs", milliseconds(resume), calmLimit.String(), resume <= calmLimit)
	b.find("99th percentile of a callback's answer, beside a platform that hangs", milliseconds(ack), calmLimit.String(), ack <= calmLimit)
	w.findMemory(b, "beside a platform that hangs")
	late := &books{fault: b.fault, restLimit: jamRest}
	late.close(ctx, w, others, time.Now(), time.Now())
	b.note = fmt.Sprintf("%d of them of the one that hung, all resumed %s s after it answered again", len(others.payments), seconds(time.Since(well)))
	b.faults = append(b.faults, late.faults...)
	b.accepted, b.resumed, b.twice = b.accepted+late.accepted, b.resumed+late.resumed, b.twice+late.twice
	return b
}

// resumeP99 is the 99th percentile of the time from 200 to the resume.
func (w *world) resumeP99(payments []payment) time.Duration {
	var took []time.Duration
	for _, p := range payments {
		if calls := w.platform.of(p.user); len(calls) > 0 {
			took = append(took, calls[0].at.Sub(p.acked))
		}
	}
	return percentile(took, 0.99)
}

// findMemory holds the memory of all nodes to its bound.
func (w *world) findMemory(b *books, when string) {
	var most int64
	for _, n := range w.nodes {
		rss, err := bench.PeakRSS(n.cmd.Process.Pid)
		if err != nil {
			b.complain("%v", err)
			return
		}
		most = max(most, rss)
	}
	b.find("most memory of a node since its start, "+when, fmt.Sprintf("%d MB", most>>20), fmt.Sprintf("%d MB", memoryLimit>>20), most <= memoryLimit)
}

// flood has more callers at one node than it can take, while its database is
// slow: what it cannot take it answers 503 with Retry-After, and payers pay on
// by the other nodes.
func flood(ctx context.Context, w *world, _ scale) *books {
	b := &books{fault: fmt.Sprintf("%d callers at one node whose database is slow", floodConns)}
	target := w.nodes[0]
	answers := map[int]int{}
	withPayers(ctx, w, b, func(ctx context.Context) error {
		if err := target.toxic("latency", `"latency": 150`); err != nil {
			return err
		}
		o := outage{from: time.Now()}
		var err error
		answers, err = w.flood(ctx, target)
		target.cure(ctx)
		o.to = time.Now()
		b.outages = append(b.outages, o)
		return err
	})
	shed, taken := answers[http.StatusServiceUnavailable], answers[http.StatusOK]
	delete(answers, http.StatusServiceUnavailable)
	delete(answers, http.StatusOK)
	// How many it takes is a matter of the machine: starved of its processors,
	// a node may commit none within a caller's 2.8 s.
	b.find("callbacks beyond what a node can take: answered 200 / 503 with Retry-After / otherwise",
		fmt.Sprintf("%d / %d / %d", taken, shed, sum(answers)), "any / some / 0", shed > 0 && sum(answers) == 0)
	w.findMemory(b, "beyond what it can take")
	return b
}

func sum(counts map[int]int) (n int) {
	for _, count := range counts {
		n += count
	}
	return n
}

// flood calls one node from many callers at once, and counts the answers by
// status.
func (w *world) flood(ctx context.Context, target *node) (map[int]int, error) {
	ctx, cancel := context.WithTimeout(ctx, floodFor)
	defer cancel()
	callers := newBalancer(w.nodes)
	defer callers.client.CloseIdleConnections()
	var mu sync.Mutex
	answers := map[int]int{}
	l := w.newLoad()
	err := parallel(ctx, floodConns, floodConns, func(ctx context.Context, _ int) error {
		for more := true; more; {
			status := l.callUnknown(ctx, callers, target)
			if more = pause(ctx, time.Second) == nil; !more {
				break // it was cut off by the end, and says nothing
			}
			mu.Lock()
			answers[status]++
			mu.Unlock()
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	return maps.Clone(answers), err
}

// callUnknown sends a callback that nobody waits for, and returns its status: 0
// where there was no answer, 1 where it was a 503 without Retry-After.
func (l *load) callUnknown(ctx context.Context, by *balancer, target *node) int {
	number := int(l.next.Add(1)) - 1
	event := bench.Callback(l.run, number, strconv.Itoa(number), floodBody)
	a, err := by.send(ctx, target, http.MethodPost, "/in/default/stripe", l.signed(event), event)
	switch {
	case err != nil:
		return 0
	case a.status == http.StatusServiceUnavailable && a.retryAfter == 0:
		return 1
	}
	return a.status
}

// deadlines has many waits expire within a short time while payers pay.
func deadlines(ctx context.Context, w *world, s scale) *books {
	b := &books{fault: fmt.Sprintf("%d deadlines within %s", s.waits, s.window)}
	l := w.newLoad()
	// Registering takes as long as it takes; the deadlines begin after it.
	start := time.Now().Add(time.Duration(s.waits)*time.Second/stockRate + 5*time.Second)
	waits, err := l.stock(ctx, s, start)
	if err == nil && time.Now().After(start) {
		err = fmt.Errorf("registering %d waits took too long, by %s", s.waits, time.Since(start))
	}
	if err != nil {
		b.complain("%v", err)
		return b
	}
	if err := pause(ctx, time.Until(start.Add(-warm))); err != nil {
		b.complain("%v", err)
		return b
	}
	var worst float64
	var gone time.Duration
	payers := withPayers(ctx, w, b, func(ctx context.Context) error {
		worst, gone, err = w.watchOverdue(ctx, start.Add(s.window))
		return err
	})
	p99 := ackP99(payers.payments)
	b.find("99th percentile of a callback's answer while deadlines fire", milliseconds(p99), calmLimit.String(), p99 <= calmLimit)
	b.find("most waits more than 5 s past their deadline", fmt.Sprintf("%.0f", worst), "0", worst == 0)
	b.find("relay_waits_overdue is 0 after the last deadline", milliseconds(gone), overdueGone.String(), gone <= overdueGone)
	w.compareExpired(b, waits)
	return b
}

// stock registers waits that expire in the window after start.
func (l *load) stock(ctx context.Context, s scale, start time.Time) (map[int]time.Time, error) {
	var mu sync.Mutex
	waits := map[int]time.Time{}
	first := int(l.next.Add(int64(s.waits))) - s.waits
	err := parallel(ctx, stockers, s.waits, func(ctx context.Context, i int) error {
		user := first + i
		offset := time.Duration(rand.Int64N(int64(s.window))) //nolint:gosec // a moment, no secret
		body := fmt.Sprintf(`{"user_id": %q, "flow": "checkout", "expires_in": "%dms"}`,
			bench.UserID(user), time.Until(start.Add(offset)).Milliseconds())
		wait, err := l.register(ctx, strconv.Itoa(user), []byte(body))
		mu.Lock()
		defer mu.Unlock()
		waits[user] = wait.ExpiresAt
		return err
	})
	return waits, err
}

// compareExpired holds each expired wait to one call, soon after its deadline.
func (w *world) compareExpired(b *books, waits map[int]time.Time) {
	var late []time.Duration
	wrong := 0
	for user, deadline := range waits {
		calls := w.platform.of(user)
		if len(calls) != 1 || calls[0].module != expiredModule {
			wrong++
			continue
		}
		late = append(late, calls[0].at.Sub(deadline))
	}
	b.find("waits that expired once, and were told so", strconv.Itoa(len(late)), strconv.Itoa(len(waits)), wrong == 0)
	p99 := percentile(late, 0.99)
	b.find("99th percentile from a deadline to its call", milliseconds(p99), fireLimit.String(), p99 <= fireLimit)
}

var overdueLine = regexp.MustCompile(`(?m)^relay_waits_overdue (\S+)$`)

// watchOverdue reads relay_waits_overdue until the deadlines are over and it
// is 0, and returns the most that it was and how long that took.
func (w *world) watchOverdue(ctx context.Context, over time.Time) (worst float64, gone time.Duration, err error) {
	for time.Since(over) < 2*overdueGone {
		a, err := w.metrics(ctx)
		if err != nil {
			return worst, 0, err
		}
		if found := overdueLine.FindSubmatch(a); found != nil {
			overdue, err := strconv.ParseFloat(string(found[1]), 64)
			if err != nil {
				return worst, 0, err
			}
			worst = max(worst, overdue)
			if overdue == 0 && time.Now().After(over) {
				return worst, time.Since(over), nil
			}
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return worst, 0, err
		}
	}
	return worst, time.Since(over), nil
}

// metrics scrapes the last node.
func (w *world) metrics(ctx context.Context) ([]byte, error) {
	a, err := w.balancer.ask(ctx, w.nodes[nodes-1].ops+"/metrics")
	return a.body, err
}

// parallel runs a step for each number below count, some at a time.
func parallel(ctx context.Context, atATime, count int, step func(context.Context, int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atATime)
	for i := range count {
		g.Go(func() error { return step(ctx, i) })
	}
	return g.Wait()
}

// percentile returns the smallest of the durations that a share of them does
// not exceed.
func percentile(ds []time.Duration, share float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(ds))
	return sorted[int(share*float64(len(sorted)-1))]
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
}
