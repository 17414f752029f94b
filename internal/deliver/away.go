package deliver

import (
	"time"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
)

// A destination that does not answer is away. What it is owed costs nothing
// while it is: in its lane it waits for as long as the leases allow, so that it
// is sent at once when the destination is back, and then in the table, where
// the leases end by themselves. Claims pass over it there, but for one batch
// that the next probe is made with, and for what is to end: what a dead node
// was sending, and what has used up its time to try.

// away returns a lane's destination where nothing but a probe is sent to it,
// else nil. Where it is held too, or gone, nothing at all is sent, and what
// there is of it is put aside. The caller holds mu.
func (e *Engine) away(id int64, l *lane) *directory.Destination {
	if !l.breaker.open() {
		return nil
	}
	to := e.cfg.Directory.Current().Destination(id)
	if to != nil && to.Held != nil {
		return nil
	}
	return to
}

// unknown reports whether a destination is gone.
func (e *Engine) unknown(id int64) bool { return e.cfg.Directory.Current().Destination(id) == nil }

// permit reports whether a worker may take the first delivery of a lane, and
// whether it is to probe with it. The caller holds mu.
func (e *Engine) permit(l *lane) (permitted, probe bool) {
	first := &l.queue[0]
	if first.Sent || e.away(first.DestinationID, l) == nil {
		return true, false
	}
	return l.breaker.permit(time.Now())
}

// awaitReturn takes a delivery that was handed over while its destination does
// not answer. What is only to be judged comes first. What has no room is let
// go. The caller holds mu.
func (e *Engine) awaitReturn(l *lane, d relay.Delivery) {
	switch {
	case d.TimeUp && !d.Sent && e.away(d.DestinationID, l) != nil:
		e.addOver(&d)
	case !e.takes(l, &d):
	case d.Sent:
		e.enqueue(l, 0, d)
	default:
		e.enqueue(l, len(l.queue), d)
	}
}

// tryReturned has a worker see, for each destination that does not answer,
// whether a probe is due, and lets go of what can wait in memory no longer.
func (e *Engine) tryReturned() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, l := range e.lanes {
		if e.stopping || !l.breaker.open() {
			continue
		}
		if to := e.away(id, l); to != nil {
			e.letGo(l, to.Timeout()+leaseMargin)
		}
		e.start(l, min(1, len(l.queue)), e.concurrency(id))
	}
}

// letGo takes those out of a lane whose leases do not outlast a call. The
// oldest are at its head. The caller holds mu.
func (e *Engine) letGo(l *lane, call time.Duration) {
	for len(l.queue) > 0 && !l.queue[0].Sent {
		switch first := &l.queue[0]; {
		case first.TimeUp:
			e.addOver(first)
		case time.Until(first.LeaseEnds) >= call:
			return
		}
		e.dequeue(l)
	}
}

// addOver remembers a delivery whose time to try is over, with the same bound
// as addSurplus. The caller holds mu.
func (e *Engine) addOver(d *relay.Delivery) {
	if len(e.over) < maxQueued {
		e.over = append(e.over, stub(d))
	}
}
