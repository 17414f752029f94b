// Package deliver makes the calls that the relay owes: it takes deliveries
// that were handed over in memory or claimed from the table, renders them,
// sends each once, and records what came of it.
//
// # The model
//
// Every destination has a lane: a queue, at most max_concurrency sends at a
// time, and a breaker that lets a destination be which does not answer. A slow
// destination fills its own lane and nobody else's; what its lane has no room
// for stays due in the table, for whichever node has. So does what waits for
// one that does not answer. Everything in a lane is leased to this node; the
// rows are the truth, the lanes a shortcut over them.
//
// # What is always true
//
// A send begins only while the lease outlasts its timeout. An attempt is
// recorded under the lease it was made with; a lease that was lost writes
// nothing. A delivery leaves the table's sight only when its attempt was
// recorded, so a crash anywhere between claim and record repeats it: at least
// once, never lost. Only what holds the slot of its conversation is due, so
// that one delivery of a conversation is sent at a time; the store passes the
// slot on with the record of the one that ended. Where the destination's
// policy is to hold what has no answer, a send begins with a mark in the
// table: a crash leaves 'perhaps sent', which is held, and is told from 'never
// sent', which is not. A destination that refuses its credentials is held by
// the table, on all nodes; what a node then meets of its deliveries it makes
// held, and nothing of them is sent before the release.
//
// # When things fail
//
// Memory full: the delivery is left to the poller, which finds it when its
// lease ends. Database gone: the attempt cannot be recorded, the lease ends,
// and the call is made again. Shutdown: claims stop, sends finish within the
// grace, what was queued gives its leases back.
package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/groupcommit"
	"relay.example/relay/internal/metrics"
	"relay.example/relay/internal/passes"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The bounds of delivery.
const (
	maxQueued     = 20_000   // deliveries in all lanes together
	maxQueuedSize = 32 << 20 // bytes of callback bodies that they hold
	laneShare     = 3        // a lane may hold a third of what is left for all: the rest is for the others
	claimSize     = 256      // rows per claim
	releaseAhead  = 512      // that were held are claimed while a lane holds fewer
	pollInterval  = 500 * time.Millisecond
	returnTimeout = 5 * time.Second // of giving leases back
	holdTimeout   = 4 * time.Second // of holding a destination, or a batch of deliveries
	saidTimeout   = 2 * time.Second // of a look at earlier attempts, before a send
	markTimeout   = 2 * time.Second // of the mark before a send; it is taken out of leaseMargin
	leaseMargin   = 5 * time.Second // lease that must be left after the timeout of a send, to record it
)

// Config is what an Engine works with.
type Config struct {
	Store     *store.Store
	Directory *directory.Directory
	Plans     *plan.Cache
	Client    *egress.Client
	Metrics   *metrics.Metrics // nil: nothing is counted
	Log       *slog.Logger
	// Grace is how long sends may go on after the end of Run's context.
	Grace time.Duration
}

// Engine makes deliveries. It is safe for concurrent use.
type Engine struct {
	cfg      Config
	recorder *groupcommit.Committer[relay.Attempt, store.Recorded]
	wake     chan struct{} // a hint to poll now; polling is the promise
	sessions sessions

	mu       sync.Mutex
	lanes    map[int64]*lane
	queued   int
	bytes    int
	surplus  []relay.Delivery // did not fit: their leases are given back by the next poll
	held     []relay.Delivery // their destination is: the next poll makes them held
	late     []store.Later    // they are sent later: the next poll says when
	over     []relay.Delivery // their time to try is: the next poll ends them
	walk     walk             // of claims past full lanes
	stopping bool
	sends    sync.WaitGroup  // running lane workers
	sendCtx  context.Context //nolint:containedctx // one for all sends, whoever queued them
}

// lane is the queue of one destination. Its fields are guarded by Engine.mu.
type lane struct {
	queue   []relay.Delivery
	bytes   int
	busy    bool // it was full, and is not half empty yet: what comes stays in the table
	active  int
	breaker breaker
	tokens  tokens
	asking  sync.Mutex // held while a worker asks for more of the rate's budget; not guarded by mu
}

// takes reports whether a lane takes one more delivery. The caller holds mu.
//
// A lane is full when it holds a third of the room that is left for everybody:
// one alone gets a quarter of the whole, and however many are full, there is
// room for the next. A full one takes nothing before it is half empty: so what
// has gone to the table meanwhile comes first, and is looked for once in many
// sends, not after each.
func (e *Engine) takes(l *lane, d *relay.Delivery) bool {
	if e.stopping || e.queued >= maxQueued || e.bytes+len(d.Body) > maxQueuedSize {
		return false
	}
	if len(l.queue) >= (maxQueued-e.queued)/laneShare || l.bytes >= (maxQueuedSize-e.bytes)/laneShare {
		l.busy = len(l.queue) > 0 // else nothing would ease it
	}
	return !l.busy
}

// eased notes that a lane has become shorter, and has what waits for that
// claimed. The caller holds mu.
func (e *Engine) eased(l *lane) {
	if l.busy && 2*len(l.queue) <= (maxQueued-e.queued)/laneShare && 2*l.bytes <= (maxQueuedSize-e.bytes)/laneShare {
		l.busy = false
		e.Wake()
	}
}

// New returns an Engine; Run makes it work.
func New(cfg Config) (*Engine, error) {
	if cfg.Store == nil || cfg.Directory == nil || cfg.Plans == nil || cfg.Client == nil || cfg.Log == nil {
		return nil, errors.New("deliver: Config has a field that is nil")
	}
	e := &Engine{cfg: cfg, lanes: map[int64]*lane{}, wake: make(chan struct{}, 1)}
	e.recorder = newRecorder(metrics.Batches(cfg.Metrics, metrics.Attempts, recording(cfg.Store.RecordAttempts)))
	e.stopping = true // until Run
	return e, nil
}

// HandOver takes deliveries that were committed and leased to this node. It
// never blocks; what does not fit is given back to the table.
func (e *Engine) HandOver(deliveries []relay.Delivery) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range deliveries {
		l := e.lanes[d.DestinationID]
		if l == nil {
			l = &lane{}
			e.lanes[d.DestinationID] = l
		}
		if l.breaker.open() {
			e.awaitReturn(l, d)
			continue
		}
		if !e.takes(l, &d) {
			e.addSurplus(d)
			continue
		}
		e.enqueue(l, len(l.queue), d)
		e.start(l, 1, e.concurrency(d.DestinationID))
	}
}

// enqueue puts a delivery at a place of a lane's queue. The caller holds mu.
func (e *Engine) enqueue(l *lane, at int, d relay.Delivery) {
	l.queue = slices.Insert(l.queue, at, d)
	l.bytes += len(d.Body)
	e.queued++
	e.bytes += len(d.Body)
}

// start has up to n more workers send what a lane holds, as long as it has
// fewer than most. The caller holds mu.
func (e *Engine) start(l *lane, n, most int) {
	for ; n > 0 && l.active < most; n-- {
		l.active++
		e.sends.Go(func() { e.work(l) })
	}
}

func (e *Engine) concurrency(destinationID int64) int {
	if d := e.cfg.Directory.Current().Destination(destinationID); d != nil {
		return d.Concurrency()
	}
	return 1
}

// work sends what its lane holds, one at a time, and ends with it.
func (e *Engine) work(l *lane) {
	for {
		d, probe, ok := e.next(l)
		if !ok {
			return
		}
		e.deliver(e.sendCtx, l, d, probe)
	}
}

// next takes the oldest delivery of a lane where that may be sent now, if only
// as a probe, or ends the worker.
func (e *Engine) next(l *lane) (d relay.Delivery, probe, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(l.queue) > 0 && !e.stopping {
		ok, probe = e.permit(l)
	}
	if !ok {
		l.active--
		return d, false, false
	}
	return e.dequeue(l), probe, true
}

// dequeue takes the first delivery of a lane. The caller holds mu.
func (e *Engine) dequeue(l *lane) relay.Delivery {
	d := l.queue[0]
	l.queue[0] = relay.Delivery{} // lets go of the body
	l.queue = l.queue[1:]
	e.left(l, &d)
	e.eased(l)
	return d
}

// left counts a delivery that has left its lane. The caller holds mu.
func (e *Engine) left(l *lane, d *relay.Delivery) {
	l.bytes -= len(d.Body)
	e.queued--
	e.bytes -= len(d.Body)
}

// Wake hints that something is due now.
func (e *Engine) Wake() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Run delivers until ctx is done; then it claims no more, lets sends finish
// within the grace, and gives back the leases of what was queued.
func (e *Engine) Run(ctx context.Context) error {
	sendCtx, cancelSends := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelSends(nil)
	recordCtx, stopRecorder := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRecorder()
	e.mu.Lock()
	e.sendCtx, e.stopping = sendCtx, false
	e.mu.Unlock()

	var g errgroup.Group
	g.Go(func() error { return e.recorder.Run(recordCtx) })
	g.Go(func() error {
		e.poll(ctx)
		e.returnLeases(recordCtx, e.stop())
		await(&e.sends, e.cfg.Grace, cancelSends)
		stopRecorder()
		return nil
	})
	return g.Wait()
}

var errShutdown = errors.New("the relay is shutting down")

// stop lets nothing more begin and returns what had not.
func (e *Engine) stop() (held []relay.Delivery) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopping = true
	for _, l := range e.lanes {
		held = append(held, l.queue...)
		l.queue, l.bytes, l.busy = nil, 0, false
	}
	held = slices.Concat(held, e.surplus, e.held, e.over)
	for _, later := range e.late {
		held = append(held, later.Delivery)
	}
	e.queued, e.bytes, e.surplus, e.held, e.late, e.over = 0, 0, nil, nil, nil, nil
	return held
}

// await waits for running calls, and ends them after the grace.
func await(calls *sync.WaitGroup, grace time.Duration, cancel context.CancelCauseFunc) {
	over := time.AfterFunc(grace, func() { cancel(errShutdown) })
	defer over.Stop()
	calls.Wait()
}

// poll claims what is due until ctx is done.
func (e *Engine) poll(ctx context.Context) {
	passes.Loop{
		Every: pollInterval,
		Wake:  e.wake,
		Pass: passes.Full(claimSize, func(ctx context.Context) (int, error) {
			e.tryReturned()
			e.putAside(ctx)
			return e.ClaimOnce(ctx)
		}),
		Failed: func(err error) { e.cfg.Log.Warn("claiming deliveries failed", "error", err) },
	}.Run(ctx)
}

// ClaimOnce claims due deliveries once and queues them. It returns how many
// it got.
func (e *Engine) ClaimOnce(ctx context.Context) (int, error) {
	room, past, away := e.room()
	if room == 0 {
		return 0, nil
	}
	// A claim that a shutdown cut off would go on at the server, and lease to
	// nobody what was just given back.
	ctx, cancel := store.Step(ctx)
	defer cancel()
	claimed, err := e.claim(ctx, min(room, claimSize), past, away)
	if err != nil {
		return 0, fmt.Errorf("claiming: %w", err)
	}
	e.HandOver(claimed)
	freed, err := e.claimHeld(ctx)
	return max(len(claimed), freed), err
}

// room returns how many more deliveries fit, and the destinations that are to
// be passed over: those whose lanes are full, and those that are away. It
// forgets lanes of which there is nothing to remember.
func (e *Engine) room() (n int, past, away []int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	past, away = []int64{}, []int64{}
	for id, l := range e.lanes {
		switch {
		case e.away(id, l) != nil:
			if len(l.queue) > 0 || !l.breaker.wantsProbe(time.Now()) { // else it needs one to probe with
				past, away = append(past, id), append(away, id)
			}
		case l.busy:
			past = append(past, id)
		case len(l.queue) == 0 && l.active == 0 && (l.breaker.fresh() || e.unknown(id)):
			e.forget(id, l)
		}
	}
	if e.bytes >= maxQueuedSize {
		return 0, past, away
	}
	slices.Sort(past)
	return maxQueued - e.queued, past, away
}

// forget removes a lane that nobody holds: work ends under mu, as the caller
// holds it.
func (e *Engine) forget(id int64, l *lane) {
	delete(e.lanes, id)
	if l.breaker.open() {
		e.cfg.Metrics.Breaker(false)
	}
}
