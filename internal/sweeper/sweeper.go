// Package sweeper does what no request asks for: it ends the waits whose
// deadline has passed, nudges those who have not come that far, clears away
// what was promised to be kept only so long, and passes on slots of
// conversations that an older program has left. Any number of nodes sweep side
// by side; each row is taken by one.
//
// What is always true: a wait that a callback closed in time is never expired
// as well, because both hold its row lock when they decide. A pass that fails
// is repeated by the next one; nothing depends on a pass having run.
package sweeper

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/metrics"
	"relay.example/relay/internal/passes"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The pace of the sweeps. Deadlines fire within a second of their time.
const (
	expireInterval = 250 * time.Millisecond
	expireBatch    = 500 // waits per transaction
	nudgeInterval  = time.Second
	nudgeBatch     = 200 // nudges per transaction
	clearInterval  = time.Minute
	clearBatch     = 5_000 // rows per transaction
	parkedInterval = 5 * time.Second
	replayInterval = time.Second
	unparkBatch    = 1_000 // events per transaction
	slotsInterval  = time.Minute
	slotsBatch     = 5_000 // waiting deliveries looked at in one pass
	keptInterval   = time.Second
	keptBatch      = 500 // rows per transaction: some 50 ms
	eraseInterval  = 5 * time.Second
	eraseBatch     = 100 // waits per transaction, each with its events and deliveries
	namesInterval  = time.Minute
	hooksInterval  = 10 * time.Second
	hooksBatch     = 2_000 // hooks looked at in one transaction
	namesBlocks    = 1_000 // of 8 KiB, of the table of waits' names in one pass
	passTimeout    = 10 * time.Second
)

// What is parked, and for how long.
const (
	parkedFor       = 72 * time.Hour // then the event is unmatched: providers have stopped sending by then
	parkedPerSource = 10_000         // events; beyond, the oldest are unmatched
)

// Config is what a Sweeper works with.
type Config struct {
	Store *store.Store
	Plans *plan.Cache
	// Directory tells which providers can be asked before a wait expires. nil:
	// none is.
	Directory *directory.Directory
	// HandOver takes deliveries that were committed and leased to this node.
	HandOver func([]relay.Delivery)
	// MatchParked looks at a piece of what is parked, and says how many events
	// found their wait.
	MatchParked func(context.Context) (int, error)
	// Replay works off a piece of a replay, and says how many events it took.
	Replay  func(context.Context) (int, error)
	Metrics *metrics.Metrics // nil: nothing is counted
	Log     *slog.Logger
}

// Sweeper runs the sweeps.
type Sweeper struct {
	cfg     Config
	waiting uuid.UUID // the conversation that PassOnOnce has looked at last
	block   int64     // with which ClearNamesOnce goes on
	hook    store.HookCursor
}

// New returns a Sweeper; Run makes it work.
func New(cfg Config) (*Sweeper, error) {
	if cfg.Store == nil || cfg.Plans == nil || cfg.HandOver == nil || cfg.MatchParked == nil || cfg.Replay == nil || cfg.Log == nil {
		return nil, errors.New("sweeper: Config has a field that is nil")
	}
	return &Sweeper{cfg: cfg}, nil
}

// Run sweeps until ctx is done.
func (s *Sweeper) Run(ctx context.Context) error {
	var sweeping sync.WaitGroup
	for _, sw := range s.sweeps() {
		sweeping.Go(func() {
			passes.Loop{
				Every: sw.every,
				Pass:  passes.Full(sw.full, bounded(sw.pass)),
				Failed: func(err error) {
					s.cfg.Log.Warn("a sweep failed; the next one repeats it", "sweep", sw.what, "error", err)
				},
			}.Run(ctx)
		})
	}
	sweeping.Wait()
	return nil
}

// sweep is a pass that is repeated. It returns how many it took; one that took
// a full batch is repeated at once.
type sweep struct {
	every time.Duration
	what  string
	pass  func(context.Context) (int, error)
	full  int
}

func (s *Sweeper) sweeps() []sweep {
	return []sweep{
		{expireInterval, "expiring waits", s.ExpireOnce, expireBatch},
		{nudgeInterval, "nudging", s.NudgeOnce, nudgeBatch},
		{clearInterval, "clearing what is old", s.ClearOnce, clearBatch},
		{parkedInterval, "matching parked events", s.cfg.MatchParked, math.MaxInt},
		{replayInterval, "replaying events", s.cfg.Replay, 1},
		{clearInterval, "ending parked events", s.UnparkOnce, unparkBatch},
		{slotsInterval, "passing on slots", s.PassOnOnce, slotsBatch},
		{keptInterval, "clearing what is kept no longer", halfTime(s.ClearKeptOnce), 1},
		{eraseInterval, "erasing users", s.EraseOnce, 1},
		{namesInterval, "clearing the names of waits", s.ClearNamesOnce, math.MaxInt},
		{hooksInterval, "clearing hooks", halfTime(s.ClearHooksOnce), hooksBatch},
	}
}

// bounded gives a pass its time. A database host that vanished answers
// nothing, not even that it is gone.
func bounded(pass func(context.Context) (int, error)) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		ctx, cancel := context.WithTimeout(ctx, passTimeout)
		defer cancel()
		return pass(ctx)
	}
}

// ExpireOnce ends one batch of waits whose deadline has passed and returns
// how many it took.
func (s *Sweeper) ExpireOnce(ctx context.Context) (int, error) {
	n, deliveries, err := s.cfg.Store.ExpireDue(ctx, uuid.New(), expireBatch, s.expire)
	if store.Conflicted(err) { // once more: deadlines do not wait for the next tick
		n, deliveries, err = s.cfg.Store.ExpireDue(ctx, uuid.New(), expireBatch, s.expire)
	}
	if err != nil {
		return 0, err
	}
	s.cfg.HandOver(deliveries)
	return n, nil
}

// expire decides the end of waits that are locked and overdue. One whose plan
// cannot be used is left pending and looked at again in a while, so that it
// holds up nobody else; a newer program, or an older one, may know better.
func (s *Sweeper) expire(ctx context.Context, waits []*store.Overdue) ([]store.Ending, error) {
	endings := make([]store.Ending, 0, len(waits))
	for _, w := range waits {
		if q := s.question(w); q != nil {
			endings = append(endings, store.Ending{Wait: w.Wait, Asks: q})
			continue
		}
		p, err := s.cfg.Plans.Get(ctx, w.PlanID)
		if relay.IsKind(err, relay.Busy) {
			return nil, err
		}
		if err != nil {
			s.cfg.Log.Error("wait cannot expire: its plan cannot be used",
				"correlation_id", w.ID, "project_id", w.ProjectID, "plan_id", w.PlanID, "error", err)
			continue
		}
		step := w.Apply(relay.Expired, "")
		endings = append(endings, store.Ending{Wait: w.Wait, Step: step, By: "deadline", Fires: p.Delivery(w.Wait, step)})
	}
	return endings, nil
}

// NudgeOnce makes one batch of the nudges whose time has come and returns how
// many it took.
func (s *Sweeper) NudgeOnce(ctx context.Context) (int, error) {
	n, deliveries, err := s.cfg.Store.NudgeDue(ctx, uuid.New(), nudgeBatch, s.nudge)
	if err != nil {
		return 0, err
	}
	s.cfg.HandOver(deliveries)
	return n, nil
}

// nudge decides which of the nudges that are due are still of use. One whose
// plan cannot be used is given up: it is worth less than what stands behind it.
func (s *Sweeper) nudge(ctx context.Context, due []*store.DueNudge) (owed, passed []relay.Delivery, err error) {
	for _, n := range due {
		if n.Status != relay.Pending {
			continue
		}
		p, err := s.cfg.Plans.Get(ctx, n.PlanID)
		if relay.IsKind(err, relay.Busy) {
			return nil, nil, err
		}
		if err != nil {
			s.cfg.Log.Error("nudge given up: the plan of its wait cannot be used",
				"correlation_id", n.ID, "project_id", n.ProjectID, "plan_id", n.PlanID, "error", err)
			continue
		}
		if n.Number >= len(p.Nudge) || !n.Needed(p.Nudge[n.Number].Unless) {
			continue
		}
		switch d := p.NudgeOf(n.Wait, n.Number); {
		case d == nil:
		case overtaken(n, p, d.DestinationID):
			passed = append(passed, *d)
		default:
			owed = append(owed, *d)
		}
	}
	return owed, passed, nil
}

// overtaken reports whether a nudge is late and a later one goes the same way
// now: after an outage people are reminded once, as they stand now, and not of
// everything that they missed. What goes to another destination, such as a call
// to the desk, is no reminder of the same person.
func overtaken(n *store.DueNudge, p *plan.Plan, destination int64) bool {
	return n.Late && slices.ContainsFunc(n.Later, func(later int32) bool {
		d := p.NudgeOf(n.Wait, int(later))
		return d != nil && d.DestinationID == destination && n.Needed(p.Nudge[later].Unless)
	})
}

// question is what the provider is to be asked before a wait expires, or nil.
// A wait that was asked for already has no more time: nobody has answered, or
// the node that asked is gone.
func (s *Sweeper) question(w *store.Overdue) *relay.Question {
	if s.cfg.Directory == nil || w.Reconciled != nil || w.Asks == "" && w.Key == "" {
		return nil
	}
	source, about, ok := s.cfg.Directory.Current().QuestionOf(w.Wait, w.Asks, w.AsksSource)
	if !ok {
		return nil
	}
	return &relay.Question{ID: relay.NewID(), ProjectID: w.ProjectID, SourceID: source, CorrelationID: w.ID, About: about}
}

// ClearOnce clears one batch of what was promised to be kept only so long and
// returns how many rows it touched.
func (s *Sweeper) ClearOnce(ctx context.Context) (int, error) {
	return s.cfg.Store.ClearOld(ctx, clearBatch)
}

// ClearKeptOnce clears the next piece of what a project keeps no longer, and
// returns how many pieces that was: 0 or 1.
func (s *Sweeper) ClearKeptOnce(ctx context.Context) (int, error) {
	done, ok, err := s.cfg.Store.Clear(ctx, keptBatch)
	if err != nil || !ok {
		return 0, err
	}
	s.cfg.Metrics.Cleared(string(done.Kind), done.Rows)
	return 1, nil
}

// halfTime rests for as long as a pass took before it returns, so that a long
// row of passes leaves the database half of the time to others.
func halfTime(pass func(context.Context) (int, error)) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		began := time.Now()
		n, err := pass(ctx)
		if n > 0 {
			rest := time.NewTimer(time.Since(began))
			defer rest.Stop()
			select {
			case <-rest.C:
			case <-ctx.Done():
			}
		}
		return n, err
	}
}

// EraseOnce goes on with an erasure that whoever answered its request has not
// ended, to its end or for as long as a pass may take, and returns how many
// those were: 0 or 1.
func (s *Sweeper) EraseOnce(ctx context.Context) (int, error) {
	project, user, ok, err := s.cfg.Store.DueErasure(ctx)
	if err != nil || !ok {
		return 0, err
	}
	for {
		_, done, err := s.cfg.Store.EraseNext(ctx, project, user, eraseBatch)
		if done || err != nil && !store.Conflicted(err) {
			return 1, err
		}
	}
}

// ClearNamesOnce clears the next piece of the names of waits that are gone,
// and returns how many those were.
func (s *Sweeper) ClearNamesOnce(ctx context.Context) (rows int, err error) {
	rows, next, err := s.cfg.Store.ClearReferences(ctx, s.block, namesBlocks)
	if err != nil {
		return 0, err
	}
	s.block = next
	s.cfg.Metrics.Cleared(metrics.ClearedNames, rows)
	return rows, nil
}

// ClearHooksOnce looks at the next hooks for those that are over, and returns
// how many it looked at.
func (s *Sweeper) ClearHooksOnce(ctx context.Context) (int, error) {
	seen, gone, died, next, err := s.cfg.Store.ClearHooks(ctx, s.hook, hooksBatch)
	if err != nil {
		return 0, err
	}
	s.hook = next
	s.cfg.Metrics.Cleared(metrics.ClearedHooks, gone)
	s.cfg.Metrics.HooksEnded(relay.Dead, died)
	if died > 0 {
		s.cfg.Log.Warn("hooks are dead: their subscribers do not answer, and their time to try is over", "count", died)
	}
	return seen, nil
}

// UnparkOnce gives up one batch of the events that were parked for too long,
// or are too many, and returns how many it took.
func (s *Sweeper) UnparkOnce(ctx context.Context) (int, error) {
	return s.cfg.Store.Unpark(ctx, parkedFor, parkedPerSource, unparkBatch)
}

// PassOnOnce passes slots on to deliveries that wait for nobody, among the next
// few that wait, and returns how many it looked at. One pass is to end before
// the next.
func (s *Sweeper) PassOnOnce(ctx context.Context) (int, error) {
	seen, last, err := s.cfg.Store.PassOnLeft(ctx, s.waiting, slotsBatch)
	if err != nil {
		return 0, err
	}
	if s.waiting = last; seen < slotsBatch {
		s.waiting = uuid.Nil // from the first again
	}
	return seen, nil
}
