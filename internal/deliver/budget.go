package deliver

import (
	"context"
	"time"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The bounds of a rate's budget.
const (
	tokenLife     = time.Second     // what was taken and not used by then is lost
	budgetTimeout = 2 * time.Second // of taking some
	budgetRetry   = time.Second     // where the budget could not be read
	maxLineWait   = 5 * time.Minute // who would wait for longer comes back, and asks again
)

// tokens are what this node has taken out of a destination's budget: calls
// that may begin now, and places in the line for workers that got none.
type tokens struct {
	n      int
	until  time.Time // of the n
	places int
	next   time.Time // when the first of the places is due
	askers int       // workers that have a delivery and no token
}

// spend takes one call out of a destination's rate, and reports whether there
// was one. The budget is the table's, so that all nodes share it; a lane takes
// at once what it is about to use. What gets nothing waits in the table, due
// one interval after the other, and not in memory: neither its lease nor the
// room of others is used up.
func (e *Engine) spend(ctx context.Context, l *lane, d relay.Delivery, to *directory.Destination) bool {
	if to.Interval() == 0 {
		return true
	}
	e.mu.Lock()
	l.tokens.askers++
	e.mu.Unlock()
	l.asking.Lock()
	defer l.asking.Unlock()
	askers, waiting, a := e.answer(l, to.Interval())
	if askers > 0 {
		ctx, cancel := context.WithTimeout(ctx, budgetTimeout)
		defer cancel()
		b, err := e.cfg.Store.TakeBudget(ctx, to.ID, to.Interval(), min(waiting, to.Concurrency()), waiting)
		if err != nil {
			e.cfg.Log.Warn("the budget of a rate cannot be read; nothing is sent until it can",
				"project_id", to.ProjectID, "destination", to.Name, "error", err)
			e.giveUpAsking(l)
			e.addLate(store.Later{Delivery: stub(&d), Wait: budgetRetry})
			return false
		}
		e.addLate(inLine(e.allot(l, b, askers, waiting), b.Line, max(0, askers-b.Granted), to.Interval())...)
		if askers, _, a = e.answer(l, to.Interval()); askers > 0 { // what was granted took too long to come
			e.giveUpAsking(l)
			a.wait = budgetRetry
		}
	}
	if a.granted {
		return true
	}
	e.addLate(store.Later{Delivery: stub(&d), Wait: a.wait})
	return false
}

// answered is what a worker that asks for a token gets.
type answered struct {
	granted bool
	wait    time.Duration // in the line, where it is not granted
}

// answer gives a worker a token or a place in the line. Where the lane has
// neither, it says how many workers ask and how many deliveries wait in all.
func (e *Engine) answer(l *lane, interval time.Duration) (askers, waiting int, a answered) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := &l.tokens
	switch {
	case t.n > 0 && time.Now().Before(t.until):
		t.n--
		a.granted = true
	case t.places > 0:
		t.places--
		a.wait = bounded(time.Until(t.next))
		t.next = t.next.Add(interval)
	default:
		return t.askers, t.askers + len(l.queue), a
	}
	t.askers--
	return 0, 0, a
}

func (e *Engine) giveUpAsking(l *lane) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l.tokens.askers--
}

// allot keeps what was granted and lined up for the workers, and takes those
// out of the queue that nothing was granted to.
func (e *Engine) allot(l *lane, b store.Budget, askers, waiting int) (late []relay.Delivery) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	l.tokens.n, l.tokens.until = b.Granted, now.Add(tokenLife)
	l.tokens.places, l.tokens.next = max(0, askers-b.Granted), now.Add(b.Line)
	from := min(max(0, b.Granted-askers), len(l.queue))
	to := min(max(from, waiting-askers), len(l.queue))
	for i := from; i < to; i++ {
		e.left(l, &l.queue[i])
		late = append(late, stub(&l.queue[i]))
	}
	rest := append(l.queue[:from:from], l.queue[to:]...)
	clear(l.queue[from:]) // lets go of the bodies
	l.queue = rest
	e.eased(l)
	return late
}

// inLine tells deliveries when to come back, one interval after the other, the
// first of them at a place of the line.
func inLine(late []relay.Delivery, line time.Duration, place int, interval time.Duration) []store.Later {
	out := make([]store.Later, len(late))
	for i, d := range late {
		wait := maxLineWait
		if before := place + i; interval <= maxLineWait/time.Duration(before+1) { // else it overflows, sooner or later
			wait = line + time.Duration(before)*interval
		}
		out[i] = store.Later{Delivery: d, Wait: bounded(wait)}
	}
	return out
}

// bounded is a wait in the line. Those that would have to wait for long come
// back sooner, not all at once, and ask again.
func bounded(wait time.Duration) time.Duration {
	if wait >= maxLineWait {
		return maxLineWait - time.Duration(relay.Jitter()*float64(maxLineWait)/2)
	}
	return max(0, wait)
}
