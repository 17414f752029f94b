// Package inquiry asks providers what their callbacks do not say: whose an
// event is that names nobody, what a callback is about that says no more, and
// what has become of a payment whose wait is about to expire.
//
// # The model
//
// A question is a row, committed with the event or the deadline that raises
// it. A node claims it under a lease, asks, and writes what came of it. The
// answer whose an event is is kept with the event, which is then decided anew,
// as a replay would do it. What was fetched for a callback, or about a wait,
// becomes an event of its own, of the verdict fetched, and goes the way of
// every callback; where the wait is pending after that, it expires. A callback
// that comes again has its question asked again, after a while.
//
// # What is always true
//
// Nothing is asked on the way of a callback's acknowledgement. A lease that
// was lost writes nothing. An answer may be got twice, after a crash, and fires
// once: the event's row, the dedupe key and the wait's row see to that. A wait
// does not depend on its question: if nobody answers, the sweeper ends it.
//
// # When things fail
//
// No answer, or none that can be used: the question is asked again, later each
// time, until its time or its tries are over. A shutdown ends the request that
// is under way, since asking again harms nobody, and gives the lease back.
package inquiry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/metrics"
	"relay.example/relay/internal/passes"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The bounds of asking.
const (
	maxAsking       = 32               // questions at a time, per node
	maxAskingSource = 8                // of them of one source: a slow provider leaves room for the others
	maxAnswer       = 64 << 10         // bytes of what says whose an event is, or what became of a wait
	maxFetched      = 1 << 20          // of what is fetched for a callback: as long as one may be that says it itself
	askTimeout      = 10 * time.Second // of one request; with what follows it is shorter than a lease
	pollInterval    = 500 * time.Millisecond
	refusedInterval = 10 * time.Second // between log lines about refused keys
)

// Config is what an Asker works with.
type Config struct {
	Store     *store.Store
	Directory *directory.Directory
	Intake    *intake.Intake
	Plans     *plan.Cache
	Client    *egress.Client
	// HandOver takes deliveries that were committed and leased to this node.
	HandOver func([]relay.Delivery)
	Metrics  *metrics.Metrics // nil: nothing is counted
	Log      *slog.Logger
}

// Asker asks. It is safe for concurrent use.
type Asker struct {
	cfg     Config
	timeout time.Duration  // of one request
	refused rate.Sometimes // tells of refused keys, not of every question
	long    rate.Sometimes // tells of answers that are too long

	poll  time.Duration
	ended chan struct{} // a question has ended: there is room for another

	mu     sync.Mutex
	asking map[int64]int // questions under way, by source
	total  int
}

// New returns an Asker; Run makes it work.
func New(cfg Config) (*Asker, error) {
	if cfg.Store == nil || cfg.Directory == nil || cfg.Intake == nil || cfg.Plans == nil ||
		cfg.Client == nil || cfg.HandOver == nil || cfg.Log == nil {
		return nil, errors.New("inquiry: Config has a field that is nil")
	}
	return &Asker{
		cfg: cfg, timeout: askTimeout, refused: rate.Sometimes{First: 1, Interval: refusedInterval},
		long: rate.Sometimes{First: 1, Interval: refusedInterval},
		poll: pollInterval, ended: make(chan struct{}, 1), asking: map[int64]int{},
	}, nil
}

// Run asks until ctx is done, and returns when the last question is put down.
// How fast it asks is bounded by the answers: whenever one is there, the next
// question is claimed.
func (a *Asker) Run(ctx context.Context) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	passes.Loop{
		Every: a.poll,
		Wake:  a.ended,
		Pass: func(ctx context.Context) (more bool, err error) {
			_, more, err = a.begin(ctx, asking.Go)
			return more, err
		},
		Failed: func(err error) { a.cfg.Log.Warn("claiming questions failed", "error", err) },
	}.Run(ctx)
	return nil
}

// AskOnce claims questions that are due, asks them, and returns how many it
// took.
func (a *Asker) AskOnce(ctx context.Context) (int, error) {
	var asking sync.WaitGroup
	defer asking.Wait()
	n, _, err := a.begin(ctx, asking.Go)
	return n, err
}

// begin claims questions and starts to ask them. It returns how many it took,
// and whether there may be more that can begin now. Those that nobody needs to
// ask any more take no place: they are ended here.
func (a *Asker) begin(ctx context.Context, start func(func())) (n int, more bool, err error) {
	room, busy := a.room()
	if room == 0 {
		return 0, false, nil
	}
	claiming, cancel := store.Step(ctx)
	defer cancel()
	lease := uuid.New()
	claimed, err := a.cfg.Store.ClaimQuestions(claiming, lease, room, busy)
	if err != nil {
		return 0, false, fmt.Errorf("claiming: %w", err)
	}
	var moot []relay.Question
	for i := range claimed {
		q := &claimed[i]
		if q.Moot && !q.Answered {
			moot = append(moot, *q)
			continue
		}
		a.note(q.SourceID, 1)
		start(func() {
			defer a.note(q.SourceID, -1)
			a.settle(ctx, q)
		})
	}
	err = a.cfg.Store.EndMoot(claiming, lease, moot)
	return len(claimed), len(claimed) == room, err
}

// room returns how many questions may begin now, whichever they are, and the
// sources of which none may. All of them may be of the source that is nearest
// to its bound.
func (a *Asker) room() (_ int, busy []int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	busy = []int64{}
	room := maxAskingSource
	for id, asking := range a.asking {
		if asking >= maxAskingSource {
			busy = append(busy, id)
			continue
		}
		room = min(room, maxAskingSource-asking)
	}
	return min(maxAsking-a.total, room), busy
}

func (a *Asker) note(sourceID int64, by int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total += by
	if a.asking[sourceID] += by; a.asking[sourceID] == 0 {
		delete(a.asking, sourceID)
	}
	if by < 0 {
		select {
		case a.ended <- struct{}{}:
		default: // it is known already
		}
	}
}

// settle does with a claimed question what is to be done.
func (a *Asker) settle(ctx context.Context, q *relay.Question) {
	var err error
	switch {
	case q.Answered: // by a node that died before it could decide the event
		err = a.decideEvent(ctx, q)
	case q.Left <= 0:
		err = a.follow(ctx, q, answer{result: relay.AnswerFailed, reason: "too_late"})
	default:
		got := a.ask(ctx, q)
		if got.stopped {
			err = a.putBack(ctx, q)
			break
		}
		a.cfg.Metrics.Asked(got.result)
		err = a.follow(ctx, q, got)
	}
	if err != nil {
		a.cfg.Log.Warn("question not settled; it is taken up again when its lease ends",
			"question_id", q.ID, "project_id", q.ProjectID, "source_id", q.SourceID, "error", err)
	}
}

func (a *Asker) putBack(ctx context.Context, q *relay.Question) error {
	step, cancel := store.Step(ctx)
	defer cancel()
	return a.cfg.Store.ReturnQuestion(step, q)
}

// record notes a try. Where the lease was lost, another node notes its own.
func (a *Asker) record(ctx context.Context, q *relay.Question, try store.Try) error {
	step, cancel := store.Step(ctx)
	defer cancel()
	_, err := a.cfg.Store.RecordTry(step, q, try)
	return err
}

// follow does what follows from a try.
func (a *Asker) follow(ctx context.Context, q *relay.Question, got answer) error {
	switch {
	case got.result.Usable() && q.OfWait():
		return a.followWait(ctx, q, got)
	case (got.result == relay.AnswerNone || got.noNews) && q.TooEarly() && !got.final:
		return a.record(ctx, q, store.Try{Result: got.result, Again: true, Delay: relay.LinkLag})
	case got.result.Usable() && q.Fetches:
		return a.followFetch(ctx, q, got)
	case got.result.Usable():
		return a.followEvent(ctx, q, got)
	}
	try := store.Try{Result: got.result, Reason: got.reason}
	try.Delay, try.Again = q.NextQuestion(q.Tries+1, got.retryAfter, relay.Jitter())
	try.Again = try.Again && !got.final
	if try.Again || !q.OfWait() {
		return a.record(ctx, q, try)
	}
	return a.endWait(ctx, q, try)
}

// followEvent keeps the answer with its event and has the event decided by it.
func (a *Asker) followEvent(ctx context.Context, q *relay.Question, got answer) error {
	step, cancel := store.Step(ctx)
	defer cancel()
	held, err := a.cfg.Store.KeepAnswer(step, q, got.result, got.body)
	if err != nil || !held {
		return err
	}
	return a.decideEvent(ctx, q)
}

// followFetch gives what was fetched to whoever waits for it, like any
// callback. If the node dies before the record it is fetched once more, and is
// the same event.
func (a *Asker) followFetch(ctx context.Context, q *relay.Question, got answer) error {
	if err := a.tell(ctx, got.fetched); err != nil {
		return err
	}
	try := store.Try{Result: got.result}
	if n := len(got.fetched); n > 0 {
		try.Told = got.fetched[n-1].ID
	}
	return a.record(ctx, q, try)
}

// tell gives events to whoever waits for them, each once the one before is
// committed. If the node dies between two, all are fetched once more, and those
// that were told are the same events.
func (a *Asker) tell(ctx context.Context, events []relay.Callback) error {
	step, cancel := store.Step(ctx)
	defer cancel()
	for _, e := range events {
		if _, err := a.cfg.Intake.Accept(step, e); err != nil {
			return err
		}
	}
	return nil
}

func (a *Asker) decideEvent(ctx context.Context, q *relay.Question) error {
	if err := a.cfg.Intake.DecideAgain(store.EventKey{ProjectID: q.ProjectID, ID: q.EventID}); err != nil {
		return err
	}
	step, cancel := store.Step(ctx)
	defer cancel()
	return a.cfg.Store.EndInquiry(step, q)
}

// followWait gives what the provider says to the wait, like any callback, and
// ends the wait where that did not.
func (a *Asker) followWait(ctx context.Context, q *relay.Question, got answer) error {
	if err := a.tell(ctx, got.fetched); err != nil {
		return err
	}
	return a.endWait(ctx, q, store.Try{Result: got.result})
}

// endWait ends a question, and expires its wait where that is pending still.
// A wait whose plan cannot be used is left to the sweeper, which tells of it.
func (a *Asker) endWait(ctx context.Context, q *relay.Question, try store.Try) error {
	step, cancel := store.Step(ctx)
	defer cancel()
	// A plan never changes: it is read before the wait is locked.
	p, err := a.cfg.Plans.Get(step, q.PlanID)
	if relay.IsKind(err, relay.Busy) {
		return err
	}
	if err != nil {
		return a.record(ctx, q, try)
	}
	expire := func(w *relay.Wait) (store.Ending, error) {
		end := w.Apply(relay.Expired, "")
		return store.Ending{Wait: w, Step: end, By: "deadline", Fires: p.Delivery(w, end)}, nil
	}
	deliveries, _, err := a.cfg.Store.EndReconciliation(step, uuid.New(), q, try, expire)
	if err == nil {
		a.cfg.HandOver(deliveries)
	}
	return err
}
