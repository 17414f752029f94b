package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	restLimit = 120 * time.Second      // for all to be resumed once nothing is broken: leases, backoff, and a busy machine
	toRecord  = 2 * time.Second        // within which a call is recorded where nothing is broken
	toArrive  = 500 * time.Millisecond // for which a call may lie in the platform's socket

	// underWay is how many calls of one node may be unrecorded at a moment, and
	// so be repeated: what is being sent (max_concurrency), and two batches.
	underWay = 64 + 2*256
)

// outage is the time during which something was broken.
type outage struct{ from, to time.Time }

// books compares what was answered 200 with what the platform carried out.
type books struct {
	fault     string
	accepted  int
	resumed   int
	twice     int // calls that were made again
	shed      int64
	broken    int64
	turned    int64         // requests that a client which repeats nothing would have lost besides
	gap       time.Duration // longest time without a 200
	slowest   time.Duration // answer to a callback
	rest      time.Duration // from the end of the last outage until all was resumed
	outages   []outage
	note      string // what else is worth telling
	findings  []finding
	restLimit time.Duration // 0: as long as usual
	faults    []string      // what should not have been; empty in a good row
}

func (b *books) lost() int { return b.accepted - b.resumed }

func (b *books) complain(format string, args ...any) {
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

// close waits for rest and fills the books in.
func (b *books) close(ctx context.Context, w *world, l *load, began, ended time.Time) {
	b.awaitRest(ctx, w, l)
	b.accepted, b.shed, b.broken, b.turned, b.slowest = len(l.payments), l.shed.Load(), l.broken.Load(), l.turned.Load(), l.slowest
	b.gap = longestGap(l.payments, began, ended)
	for _, p := range l.payments {
		b.compare(ctx, w, p)
	}
	if b.lost() > 0 {
		b.complain("%d callbacks were answered 200 and never resumed", b.lost())
	}
	for what, count := range l.wrong {
		b.complain("%d times: %s", count, what)
	}
}

// awaitRest waits until everybody who was answered 200 is resumed and no call
// is owed.
func (b *books) awaitRest(ctx context.Context, w *world, l *load) {
	healed := time.Now()
	if len(b.outages) > 0 {
		healed = b.outages[len(b.outages)-1].to
	}
	missing := slices.Clone(l.payments)
	for deadline := time.Now().Add(cmp.Or(b.restLimit, restLimit)); ; {
		missing = slices.DeleteFunc(missing, func(p payment) bool { return len(w.platform.of(p.user)) > 0 })
		if len(missing) == 0 {
			if b.rest == 0 {
				b.rest = time.Since(healed)
			}
			owed, err := w.owed(ctx)
			if err == nil && !owed {
				return
			}
			if err != nil && time.Now().After(deadline) {
				b.complain("asking what is owed: %v", err)
				return
			}
		}
		if time.Now().After(deadline) {
			b.complain("not at rest after %s", cmp.Or(b.restLimit, restLimit))
			return
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			b.complain("stopped")
			return
		}
	}
}

// compare looks for one payment's resumes.
func (b *books) compare(ctx context.Context, w *world, p payment) {
	calls := w.platform.of(p.user)
	if len(calls) == 0 {
		return
	}
	b.resumed++
	for i := range calls[1:] {
		b.twice++
		if explained(b.outages, calls[i].at, calls[i+1].at) {
			continue
		}
		attempts, err := w.attempts(ctx, p.wait)
		if err != nil || attempts < 2 {
			b.complain("a call was made at %s and again at %s, and nothing explains it (%d attempts, %v)",
				stamp(calls[i].at), stamp(calls[i+1].at), attempts, err)
		}
	}
}

// attempts is how often the delivery of a wait was tried and recorded.
func (w *world) attempts(ctx context.Context, wait string) (int, error) {
	var c struct{ Deliveries []struct{ Attempts int } }
	if err := w.get(ctx, "/v1/correlations/"+wait, &c); err != nil {
		return 0, err
	}
	if len(c.Deliveries) != 1 {
		return 0, fmt.Errorf("it has %d deliveries", len(c.Deliveries))
	}
	return c.Deliveries[0].Attempts, nil
}

// explained reports whether something was broken so soon after a call that its
// answer may not have been recorded, and before the call was repeated. A call
// may also lie in the platform's socket while its sender dies.
func explained(outages []outage, first, second time.Time) bool {
	return slices.ContainsFunc(outages, func(o outage) bool {
		return first.Before(o.to.Add(toArrive)) && o.from.Sub(first) < toRecord && o.from.Before(second)
	})
}

// longestGap is the longest time without an answer of 200, of those from
// began to ended.
func longestGap(payments []payment, began, ended time.Time) (gap time.Duration) {
	var times []time.Time
	for _, p := range payments {
		if p.acked.Before(ended) {
			times = append(times, p.acked)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	last := began
	for _, t := range append(times, ended) {
		gap = max(gap, t.Sub(last))
		last = t
	}
	return gap
}

// longestOutage is how long the longest one was.
func (b *books) longestOutage() (longest time.Duration) {
	for _, o := range b.outages {
		longest = max(longest, o.to.Sub(o.from))
	}
	return longest
}

func stamp(t time.Time) string { return t.Format("15:04:05.000") }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }

// head and row are the table.
var head = []string{
	"fault", "answered 200", "resumed", "lost", "twice", "503", "no answer",
	"longest gap s", "slowest answer s", "all resumed after s", "",
}

func (b *books) row() []string {
	if b.accepted == 0 && b.note != "" && len(b.faults) == 0 {
		return []string{b.fault, "", "", "", "", "", "", "", "", "", b.note}
	}
	verdict := b.note
	if len(b.faults) > 0 {
		verdict = strings.TrimSpace("**WRONG** " + verdict)
	}
	return []string{
		b.fault, fmt.Sprint(b.accepted), fmt.Sprint(b.resumed), fmt.Sprint(b.lost()), fmt.Sprint(b.twice),
		fmt.Sprint(b.shed), fmt.Sprint(b.broken), seconds(b.gap), seconds(b.slowest), seconds(b.rest), verdict,
	}
}
