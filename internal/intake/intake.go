// Package intake is where callbacks and registrations become rows. It groups
// what arrives at the same time into one commit, decides under the row locks
// what each callback does to its wait, and answers only after the commit.
//
// What is always true: a callback that Accept answered is durable, together
// with the state of its wait and the delivery it owes. One poisonous callback
// fails alone. What intake hands over in memory is a shortcut: the rows are
// leased to this node, and found by any node once the lease ends.
package intake

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/groupcommit"
	"relay.example/relay/internal/metrics"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The bounds of intake.
const (
	maxBatch        = 256
	maxWaiting      = 4096    // callbacks; above it intake sheds with 503
	maxBatchBytes   = 8 << 20 // of memory, by callbackSize
	maxWaitingBytes = 64 << 20
	committers      = 2               // commits at the same time
	crowd           = 64              // callbacks that wait before the second one joins
	commitTimeout   = 6 * time.Second // of one batch; callers give up before
	maxConflicts    = 20              // times one batch is repeated after losing to another: at even odds, that is never
)

// callbackSize is about what a callback holds in memory: its bytes, and what
// was read out of them.
func callbackSize(c relay.Callback) int {
	return 2*len(c.Body) + len(c.Headers) + len(c.PathToken) + len(c.Query) + 512
}

func registrationSize(r store.Registration) int {
	return len(r.Plan) + len(r.Wait.Data) + len(r.Wait.CustomVars) + 512
}

// Config is what an Intake works with.
type Config struct {
	Store *store.Store
	Plans *plan.Cache
	// HandOver takes deliveries that were committed and leased to this node.
	// It must not block.
	HandOver func([]relay.Delivery)
	// Directory tells how stored events are read again. nil: none is, and what
	// is parked stays so; for what has no waits with keys, such as a
	// measurement.
	Directory *directory.Directory
	Metrics   *metrics.Metrics // nil: nothing is counted
	Log       *slog.Logger
	// Now is the clock by which questions of strangers are rationed. nil: the
	// machine's.
	Now func() time.Time
}

// Intake commits callbacks and registrations. It is safe for concurrent use.
type Intake struct {
	cfg           Config
	callbacks     *groupcommit.Committer[relay.Callback, relay.Receipt]
	registrations *groupcommit.Committer[store.Registration, store.Registered]
	looks         chan []uuid.UUID   // names that parked events are to be looked for by
	parked        store.ParkedCursor // of MatchParkedOnce
	rematching    sync.Mutex         // one at a time, see rematchTogether
	knocks        knocks
	crowds        crowds
}

// New returns an Intake; Run makes it work.
func New(cfg Config) (*Intake, error) {
	if cfg.Store == nil || cfg.Plans == nil || cfg.HandOver == nil || cfg.Log == nil {
		return nil, errors.New("intake: Config has a field that is nil")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	in := &Intake{cfg: cfg, looks: make(chan []uuid.UUID, maxLooks), knocks: knocks{seed: maphash.MakeSeed()}}
	bounds := groupcommit.Config{
		MaxBatch: maxBatch, MaxWaiting: maxWaiting, Committers: committers, Crowd: crowd,
		MaxBytes: maxBatchBytes, MaxWaitingBytes: maxWaitingBytes,
	}
	in.callbacks = groupcommit.New(bounds, callbackSize, metrics.Batches(cfg.Metrics, metrics.Callbacks, in.commitCallbacks))
	bounds.Committers = 1
	in.registrations = groupcommit.New(bounds, registrationSize, metrics.Batches(cfg.Metrics, metrics.Registrations, in.commitRegistrations))
	return in, nil
}

// Run commits until ctx is done, then finishes what it has taken.
func (in *Intake) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return in.callbacks.Run(ctx) })
	g.Go(func() error { return in.registrations.Run(ctx) })
	g.Go(func() error { return in.runLooks(ctx) })
	return g.Wait()
}

// Accept keeps one callback and does to its wait what it says. It returns
// after the commit.
func (in *Intake) Accept(ctx context.Context, c relay.Callback) (relay.Receipt, error) {
	if c.Verdict == relay.Unsigned && c.Reading.Fetch != "" {
		if !store.KeepsStranger(&c) {
			return relay.Receipt{}, errStrangerTooLong
		}
		in.lookAtCrowd(ctx, c.SourceID)
	}
	c.DedupeKey = dedupeKey(&c)
	receipt, err := in.callbacks.Do(ctx, c)
	return receipt, in.shed(metrics.Callbacks, busy(ctx, err))
}

// errStrangerTooLong refuses what could not be asked about later, since its
// bytes are not kept: it must not be the original of what can.
var errStrangerTooLong = relay.Errorf(relay.TooLarge, "body_too_large",
	"nobody has signed this callback, and it is longer than what is kept of such: send at most 64 KiB, with a query of at most 4 KiB")

// Register registers one wait. It returns after the commit.
func (in *Intake) Register(ctx context.Context, r store.Registration) (store.Registered, error) {
	registered, err := in.registrations.Do(ctx, r)
	return registered, in.shed(metrics.Registrations, busy(ctx, err))
}

// shed counts what cannot be committed just now, and returns err.
func (in *Intake) shed(of metrics.BatchKind, err error) error {
	if err != nil && relay.IsKind(err, relay.Busy) {
		in.cfg.Metrics.Shed(of)
	}
	return err
}

// busy makes what may work at another time something a caller can act upon: a
// full queue, a caller's time that is up, a batch that lost to others again
// and again.
func busy(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, groupcommit.ErrFull), errors.Is(err, groupcommit.ErrLate), errors.Is(err, groupcommit.ErrStopped),
		ctx.Err() != nil, store.Conflicted(err):
		return errors.Join(relay.Errorf(relay.Busy, "overloaded", "this node cannot take more at the moment: try again"), err)
	}
	return err
}

// commitCallbacks commits one batch, whatever it takes: a batch that lost to
// another transaction is repeated, a batch with a row that the database
// refuses is taken apart.
func (in *Intake) commitCallbacks(batch []relay.Callback) []groupcommit.Result[relay.Receipt] {
	ctx, cancel := context.WithTimeoutCause(context.Background(), commitTimeout, errCommitTimeout)
	defer cancel()
	committed, err := retry(ctx, func() ([]groupcommit.Result[relay.Receipt], error) { return in.commitOnce(ctx, batch) })
	switch {
	case err == nil:
		return committed
	case !store.Poisoned(err):
		return failed[relay.Receipt](len(batch), err)
	case len(batch) == 1:
		return in.commitPoison(ctx, batch[0], err)
	}
	results := make([]groupcommit.Result[relay.Receipt], 0, len(batch))
	for i := range batch {
		results = append(results, in.commitCallbacks(batch[i:i+1])...)
	}
	return results
}

var errCommitTimeout = errors.New("the database did not commit in time")

// commitPoison keeps a callback that the database refuses as it is: its bytes
// and what identifies it, without the values that were read out of it. What is
// missing is null to expectations and actions.
func (in *Intake) commitPoison(ctx context.Context, c relay.Callback, cause error) []groupcommit.Result[relay.Receipt] {
	in.cfg.Log.Error("callback cannot be stored as it was read; keeping its bytes alone",
		"project_id", c.ProjectID, "source_id", c.SourceID, "event_id", c.ID, "error", cause)
	c.Reading.Payment, c.Reading.Form, c.Reading.References, c.Headers = nil, nil, nil, nil
	c.Reading.Type, c.Reading.EventID, c.Reason = "", "", "its values could not be stored"
	committed, err := retry(ctx, func() ([]groupcommit.Result[relay.Receipt], error) { return in.commitOnce(ctx, []relay.Callback{c}) })
	if err != nil {
		return failed[relay.Receipt](1, err)
	}
	return committed
}

func (in *Intake) commitOnce(ctx context.Context, batch []relay.Callback) ([]groupcommit.Result[relay.Receipt], error) {
	names := make([]store.Names, len(batch))
	for i := range batch {
		names[i] = namesOf(&batch[i])
	}
	decide := func(ctx context.Context, facts *store.Facts) ([]store.Decision, error) {
		return in.decide(ctx, batch, facts)
	}
	decisions, deliveries, err := in.cfg.Store.CommitCallbacks(ctx, uuid.New(), batch, names, decide)
	if err != nil {
		return nil, err
	}
	in.cfg.HandOver(deliveries)
	in.lookFor(committedNames(decisions))
	results := make([]groupcommit.Result[relay.Receipt], len(batch))
	for i, d := range decisions {
		if d.Refused {
			results[i].Err = errTooMany
			continue
		}
		in.cfg.Metrics.Event(batch[i].SourceID, batch[i].Verdict, d.Match)
		receipt := relay.Receipt{EventID: batch[i].ID, Match: d.Match, Rule: d.Rule}
		if d.Wait != nil {
			receipt.CorrelationID, receipt.Token, receipt.Status = d.Wait.ID, d.Wait.Token, d.Wait.Status
		}
		results[i].Value = receipt
	}
	return results, nil
}

// commitRegistrations commits one batch, in rounds of registrations that do
// not touch the same wait.
func (in *Intake) commitRegistrations(batch []store.Registration) []groupcommit.Result[store.Registered] {
	ctx, cancel := context.WithTimeoutCause(context.Background(), commitTimeout, errCommitTimeout)
	defer cancel()
	results := make([]groupcommit.Result[store.Registered], len(batch))
	left := make([]int, len(batch))
	for i := range left {
		left[i] = i
	}
	for len(left) > 0 {
		var round, later []int
		for _, i := range left {
			if collides(batch, round, i) {
				later = append(later, i)
			} else {
				round = append(round, i)
			}
		}
		in.registerRound(ctx, batch, round, results)
		left = later
	}
	return results
}

func collides(batch []store.Registration, round []int, i int) bool {
	for _, j := range round {
		if store.Collides(&batch[i], &batch[j]) {
			return true
		}
	}
	return false
}

func (in *Intake) registerRound(
	ctx context.Context, batch []store.Registration, round []int, results []groupcommit.Result[store.Registered],
) {
	regs := make([]store.Registration, len(round))
	for at, i := range round {
		regs[at] = batch[i]
	}
	done, err := retry(ctx, func() ([]store.RegistrationResult, error) { return in.cfg.Store.Register(ctx, regs) })
	if store.Poisoned(err) && len(round) > 1 {
		for _, i := range round {
			in.registerRound(ctx, batch, []int{i}, results)
		}
		return
	}
	for at, i := range round {
		if err != nil {
			results[i].Err = err
			continue
		}
		if done[at].New {
			in.lookFor(store.KeyRefs(&done[at].Wait))
		}
		results[i] = groupcommit.Result[store.Registered]{Value: done[at].Registered, Err: done[at].Err}
	}
}

// retry runs commit again while it loses to other transactions.
func retry[T any](ctx context.Context, commit func() (T, error)) (result T, err error) {
	for range maxConflicts {
		result, err = commit()
		if !store.Conflicted(err) || ctx.Err() != nil {
			return result, err
		}
	}
	return result, err
}

func failed[T any](n int, err error) []groupcommit.Result[T] {
	out := make([]groupcommit.Result[T], n)
	for i := range out {
		out[i].Err = err
	}
	return out
}
