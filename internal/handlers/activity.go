package handlers

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/store"
)

// flushInterval is how often what was noticed of sources and links is written.
const flushInterval = time.Second

// activity collects when sources were last heard of. It is written in the
// background, because a row that every callback updates would be the hottest
// one of the database, and nobody's money depends on it.
type activity struct {
	mu   sync.Mutex
	seen map[int64]*store.SourceActivity
}

func newActivity() *activity { return &activity{seen: map[int64]*store.SourceActivity{}} }

func (a *activity) of(src *directory.Source) *store.SourceActivity {
	s := a.seen[src.ID]
	if s == nil {
		s = &store.SourceActivity{ProjectID: src.ProjectID, SourceID: src.ID, SecretsUsed: map[uuid.UUID]time.Time{}}
		a.seen[src.ID] = s
	}
	return s
}

func (a *activity) event(src *directory.Source, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of(src).LastEventAt = at
}

func (a *activity) secret(src *directory.Source, id uuid.UUID, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of(src).SecretsUsed[id] = at
}

func (a *activity) failure(src *directory.Source, at time.Time, reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.of(src)
	s.LastError, s.LastErrorAt = reason, at
}

func (a *activity) take() []store.SourceActivity {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]store.SourceActivity, 0, len(a.seen))
	for _, s := range a.seen {
		out = append(out, *s)
	}
	clear(a.seen)
	return out
}

// flush writes what was noticed once a second, and once more at the end.
func (h *Handlers) flush(ctx context.Context) error {
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		h.flushActivity(ctx)
		h.flushOpenings(ctx)
	}
	return nil
}

// flushContext is for what is written once more when a node stops.
func flushContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 2*flushInterval)
}

func (h *Handlers) flushActivity(ctx context.Context) {
	seen := h.activity.take()
	if len(seen) == 0 {
		return
	}
	writing, cancel := flushContext(ctx)
	defer cancel()
	if err := h.cfg.Store.NoteActivity(writing, seen); err != nil {
		h.cfg.Log.Debug("source activity not written", "error", err)
	}
}

// flushOpenings writes the links that were opened; what the database does not
// take now is written with the next ones.
func (h *Handlers) flushOpenings(ctx context.Context) {
	opened := h.openings.take()
	if len(opened) == 0 {
		return
	}
	writing, cancel := flushContext(ctx)
	defer cancel()
	if err := h.cfg.Store.NoteOpenings(writing, opened); err != nil {
		h.cfg.Log.Debug("openings of links not written yet", "error", err)
		h.openings.add(opened)
	}
}

// The budget of rejected callbacks that are kept, per source and node. What
// is above it is answered the same and counted, but not stored: strangers
// must not be able to fill the database.
const (
	rejectedPerSecond = 1
	rejectedBurst     = 50
	rejectedSources   = 10_000 // whose budgets are remembered
)

type rejectedBudget struct {
	mu     sync.Mutex
	budget map[int64]*rate.Limiter
	newest time.Time // of the callbacks that were asked about
}

func newRejectedBudget() *rejectedBudget {
	return &rejectedBudget{budget: map[int64]*rate.Limiter{}}
}

// allow reports whether a callback that came at a time is kept. Who sends a
// body slowly is asked about after those that came later: a limiter that went
// back to its time would refill the same seconds again.
func (b *rejectedBudget) allow(sourceID int64, came time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if came.After(b.newest) {
		b.newest = came
	}
	l := b.budget[sourceID]
	if l == nil {
		if len(b.budget) >= rejectedSources {
			clear(b.budget)
		}
		l = rate.NewLimiter(rejectedPerSecond, rejectedBurst)
		b.budget[sourceID] = l
	}
	return l.AllowN(b.newest, 1)
}
