package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/groupcommit"
	"relay.example/relay/internal/metrics"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// Hooks tell those who subscribe. They are not deliveries: they speak in no
// conversation, are rendered when they are born, and hold nothing up. So they
// have a table of their own, and an engine beside the one for deliveries, of
// the same parts: claims under a lease, lanes with a breaker, records in
// batches. A lane is of a target: all subscriptions of a project to one URL.
// What its lane has no room for stays in the table, where it is in nobody's
// way. A project holds at most a third of the room that is left: one whose
// targets are all slow gets a quarter of the whole, with room for each of them,
// and the others are told as if it were not there.

// The bounds of telling.
const (
	maxHooks        = 32_000   // in all lanes together, with those that are being sent; one claim may go beyond
	maxHooksSize    = 32 << 20 // bytes of their payloads; the same
	hookPiece       = 64       // of one subscription in one claim; a lane that holds more asks for none
	hookConcurrency = 8        // calls at a time to one target
	hookTimeout     = 10 * time.Second
	hookRest        = 20 * time.Millisecond // between claims that brought little, however often there is news
	hookAgent       = "relay-webhooks"
)

// HooksConfig is what Hooks work with.
type HooksConfig struct {
	Store     *store.Store
	Directory *directory.Directory
	Client    *egress.Client
	Metrics   *metrics.Metrics // nil: nothing is counted
	Log       *slog.Logger
	// Grace is how long calls may go on after the end of Run's context.
	Grace time.Duration
}

// Hooks tells subscribers. It is safe for concurrent use.
type Hooks struct {
	cfg      HooksConfig
	recorder *groupcommit.Committer[relay.HookAttempt, store.RecordedHook]

	mu      sync.Mutex
	lanes   map[target]*hookLane
	all     load
	of      map[int64]*load // of each project that has any
	running bool
	eased   chan struct{} // a hint that a lane has room again
	calls   sync.WaitGroup
	callCtx context.Context //nolint:containedctx // one for all calls, whoever queued them
}

// target is where hooks of a project go.
type target struct {
	projectID int64
	url       string
}

// load is what is held in memory: hooks that wait in their lanes and those that
// are being sent, and the bytes of their payloads.
type load struct{ hooks, bytes int }

func (l *load) add(hooks, bytes int) { l.hooks, l.bytes = l.hooks+hooks, l.bytes+bytes }

// hookLane is the queue of one target. Its fields are guarded by Hooks.mu.
type hookLane struct {
	queue   []relay.Hook
	active  int
	breaker breaker
	heard   bool // somebody subscribes to it, as ready has found last
}

// NewHooks returns Hooks; Run makes them work.
func NewHooks(cfg HooksConfig) (*Hooks, error) {
	if cfg.Store == nil || cfg.Directory == nil || cfg.Client == nil || cfg.Log == nil {
		return nil, errors.New("deliver: HooksConfig has a field that is nil")
	}
	h := &Hooks{cfg: cfg, lanes: map[target]*hookLane{}, of: map[int64]*load{}, eased: make(chan struct{}, 1)}
	h.recorder = newRecorder(recording(cfg.Store.RecordHooks))
	return h, nil
}

// Run tells until ctx is done; then it claims no more, lets calls finish
// within the grace, and gives back what was queued.
func (h *Hooks) Run(ctx context.Context) error {
	callCtx, cancelCalls := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelCalls(nil)
	recordCtx, stopRecorder := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRecorder()
	h.mu.Lock()
	h.callCtx, h.running = callCtx, true
	h.mu.Unlock()

	var g errgroup.Group
	g.Go(func() error { return h.recorder.Run(recordCtx) })
	g.Go(func() error {
		h.poll(ctx)
		h.giveBack(recordCtx, h.stop())
		await(&h.calls, h.cfg.Grace, cancelCalls)
		stopRecorder()
		return nil
	})
	return g.Wait()
}

// stop lets no more calls begin and returns what had not.
func (h *Hooks) stop() (held []relay.Hook) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running = false
	for _, l := range h.lanes {
		held = append(held, l.queue...)
		l.queue = nil
	}
	h.left(held...)
	return held
}

// poll claims what is owed until ctx is done.
func (h *Hooks) poll(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for ctx.Err() == nil {
		n, err := h.ClaimOnce(ctx)
		if err != nil && ctx.Err() == nil {
			h.cfg.Log.Warn("claiming hooks failed", "error", err)
		}
		if err == nil && n == claimSize {
			continue // there may be more
		}
		rest.Reset(hookRest)
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-h.eased:
		case <-h.cfg.Store.News():
		}
	}
}

// ClaimOnce claims hooks once and queues them. It returns how many it got.
// Where nobody subscribes it asks for nothing.
func (h *Hooks) ClaimOnce(ctx context.Context) (int, error) {
	ready, room := h.ready(time.Now())
	if len(ready) == 0 || room == 0 {
		return 0, nil
	}
	ctx, cancel := store.Step(ctx)
	defer cancel()
	claimed, err := h.cfg.Store.ClaimHooks(ctx, uuid.New(), ready, hookPiece, min(room, claimSize))
	h.queue(ctx, claimed)
	if err != nil {
		return len(claimed), fmt.Errorf("claiming: %w", err)
	}
	return len(claimed), nil
}

// ready lists the subscriptions whose lanes and projects take more, in random
// order, so that none is always the last; and how many hooks there is room for.
// It forgets lanes of which there is nothing to remember.
func (h *Hooks) ready(now time.Time) (ids []uuid.UUID, room int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.lanes {
		l.heard = false
	}
	for id, sub := range h.cfg.Directory.Current().Subscriptions() { // a map's order is random
		l := h.lanes[target{sub.ProjectID, sub.Target}]
		if l != nil {
			l.heard = true
		}
		if (l == nil || l.takes(now)) && !h.crowded(sub.ProjectID) {
			ids = append(ids, id)
		}
	}
	for at, l := range h.lanes {
		if len(l.queue) == 0 && l.active == 0 && (l.breaker.fresh() || !l.heard) {
			delete(h.lanes, at) // nobody holds it: work ends under mu
		}
	}
	if h.all.bytes >= maxHooksSize {
		return nil, 0
	}
	return ids, max(0, maxHooks-h.all.hooks)
}

// crowded reports whether a project holds its share. The caller holds mu.
func (h *Hooks) crowded(projectID int64) bool {
	l := h.of[projectID]
	return l != nil && (l.hooks >= (maxHooks-h.all.hooks)/laneShare || l.bytes >= (maxHooksSize-h.all.bytes)/laneShare)
}

// takes reports whether a lane takes more. Of a target that does not answer it
// takes some when the next probe is due, which is the first of them; the
// others are given back if that fails. The caller holds mu.
func (l *hookLane) takes(now time.Time) bool {
	if l.breaker.open() {
		return len(l.queue) == 0 && l.breaker.wantsProbe(now)
	}
	return len(l.queue) < hookPiece
}

// queue takes what was claimed. What nobody hears of any more is given back,
// and deleted by the sweeper.
func (h *Hooks) queue(ctx context.Context, claimed []relay.Hook) {
	var surplus []relay.Hook
	h.mu.Lock()
	for _, hook := range claimed {
		sub := h.cfg.Directory.Current().Subscription(hook.SubscriptionID)
		if sub == nil || !h.running {
			surplus = append(surplus, hook)
			continue
		}
		at := target{sub.ProjectID, sub.Target}
		l := h.lanes[at]
		if l == nil {
			l = &hookLane{}
			h.lanes[at] = l
		}
		l.queue = append(l.queue, hook)
		h.came(&hook)
		if l.active < hookConcurrency {
			l.active++
			h.calls.Go(func() { h.work(l) })
		}
	}
	h.mu.Unlock()
	h.giveBack(ctx, surplus)
}

func (h *Hooks) giveBack(ctx context.Context, held []relay.Hook) {
	ctx, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	if err := h.cfg.Store.ReturnHooks(ctx, held); err != nil {
		h.cfg.Log.Warn("hooks not given back; their leases end by themselves", "count", len(held), "error", err)
	}
}

// work sends what a lane holds, one at a time, and ends with it.
func (h *Hooks) work(l *hookLane) {
	for {
		hook, probe, ok := h.next(l)
		if !ok {
			return
		}
		h.send(h.callCtx, l, hook, probe)
		h.sent(hook)
	}
}

// next takes the oldest hook of a lane, or ends the worker. Where the target
// does not answer, what the lane holds is given back, but for a probe; and so
// is, where it is slow, what has waited here for too long.
func (h *Hooks) next(l *hookLane) (hook relay.Hook, probe, ok bool) {
	hook, probe, back, ok := h.take(l)
	h.giveBack(h.callCtx, back)
	return hook, probe, ok
}

func (h *Hooks) take(l *hookLane) (hook relay.Hook, probe bool, back []relay.Hook, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running {
		back = l.stale()
		if len(l.queue) > 0 {
			if ok, probe = l.breaker.permit(time.Now()); !ok {
				back, l.queue = append(back, l.queue...), nil
			}
		}
		h.left(back...)
	}
	if !ok {
		l.active--
		return hook, false, back, false
	}
	hook = l.queue[0]
	l.queue[0] = relay.Hook{} // lets go of the payload
	l.queue = l.queue[1:]
	if len(l.queue) == hookPiece/2 {
		h.ease()
	}
	return hook, probe, back, true
}

// stale takes those out of a lane whose leases do not outlast a call. The
// oldest are at its head.
func (l *hookLane) stale() (list []relay.Hook) {
	n := 0
	for n < len(l.queue) && time.Until(l.queue[n].LeaseEnds) < hookTimeout+leaseMargin {
		n++
	}
	list = append(list, l.queue[:n]...)
	clear(l.queue[:n]) // lets go of the payloads
	l.queue = l.queue[n:]
	return list
}

// ease hints that there is room again.
func (h *Hooks) ease() {
	select {
	case h.eased <- struct{}{}:
	default:
	}
}

// came counts a hook that is held from here on. The caller holds mu.
func (h *Hooks) came(hook *relay.Hook) {
	l := h.of[hook.ProjectID]
	if l == nil {
		l = &load{}
		h.of[hook.ProjectID] = l
	}
	l.add(1, len(hook.Payload))
	h.all.add(1, len(hook.Payload))
}

// left counts hooks that are held no more. The caller holds mu.
func (h *Hooks) left(hooks ...relay.Hook) {
	for i := range hooks {
		project, size := hooks[i].ProjectID, len(hooks[i].Payload)
		h.all.add(-1, -size)
		if l := h.of[project]; l.hooks > 1 {
			l.add(-1, -size)
			continue
		}
		delete(h.of, project)
	}
}

// sent counts a hook that was being sent.
func (h *Hooks) sent(hook relay.Hook) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left(hook)
}
