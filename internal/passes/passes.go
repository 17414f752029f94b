// Package passes repeats passes over a table: one claims what is due there,
// works it off, and says whether there may be more.
//
// What is always true: nothing depends on one pass. What it leaves is due
// still, and the next one finds it; a wake-up is a hint, the interval is the
// promise. A pass bounds its own time.
package passes

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Loop repeats a pass.
type Loop struct {
	Every time.Duration   // between passes that leave nothing
	Wake  <-chan struct{} // hints that a pass is worth making before that; nil: nothing does
	// Pass makes one. Where there may be more, the next is made at once, unless
	// this one failed.
	Pass func(context.Context) (more bool, err error)
	// Failed tells of a pass that failed, and is not called of what a shutdown
	// has cut off.
	Failed func(error)
}

// Run makes passes until ctx is done.
func (l Loop) Run(ctx context.Context) {
	tick := time.NewTicker(l.Every)
	defer tick.Stop()
	for ctx.Err() == nil {
		more, err := l.Pass(ctx)
		if err != nil && ctx.Err() == nil {
			l.Failed(err)
		}
		if more && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-l.Wake:
		}
	}
}

// Full makes a Loop's pass of one that returns how many it took: where those
// fill a batch, there may be more.
func Full(batch int, pass func(context.Context) (int, error)) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		n, err := pass(ctx)
		return n >= batch, err
	}
}

// Slow remembers whose work took long, by the id of a source, say, or of a
// project. A batch waits for the slowest of it: what is passed over for a while
// delays the others by one batch in that time, however much of it is due. It is
// safe for concurrent use.
type Slow struct {
	after, rest time.Duration

	mu    sync.Mutex
	until map[int64]time.Time
}

// NewSlow returns a Slow that has those rest for a while whose work took longer
// than after.
func NewSlow(after, rest time.Duration) *Slow {
	return &Slow{after: after, rest: rest, until: map[int64]time.Time{}}
}

// Note notes whose work it was that ends now, and when that began.
func (s *Slow) Note(id int64, began, now time.Time) {
	if now.Sub(began) <= s.after {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until[id] = now.Add(s.rest)
}

// Resting lists those that are to be passed over, in no order, and forgets
// those that are no more. Where there are none the list is empty, not nil: in a
// statement, nothing differs from NULL.
func (s *Slow) Resting(now time.Time) []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.until, func(_ int64, until time.Time) bool { return !now.Before(until) })
	return slices.AppendSeq([]int64{}, maps.Keys(s.until))
}
