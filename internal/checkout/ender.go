package checkout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/passes"
	"relay.example/relay/internal/store"
)

// The bounds of ending. An end is told within a second of its commit, and a
// node ends some 80 sessions a second where Stripe answers in 100 ms.
const (
	endInterval = time.Second
	endBatch    = 8 // sessions at a time, per node

	// A source whose provider took longer than slow is passed over for slowRest.
	slow     = 2 * time.Second
	slowRest = 10 * time.Second
)

// retries are after how long a session is tried again that was not ended: a
// short outage, a longer one, and time to mend a key. Then it stays open until
// it ends by itself, at most a day after it was made.
var retries = []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute}

// EnderConfig is what an Ender works with.
type EnderConfig struct {
	Store *store.Store
	Maker *Maker
	// Source tells where a source's provider is called and with which key, or
	// that it cannot be: the source is gone, or has no key any more.
	Source func(id int64) (api, key string, ok bool)
	Log    *slog.Logger
}

// Ender has sessions ended whose waits have ended. Any number of nodes do that
// side by side.
type Ender struct {
	cfg  EnderConfig
	slow *passes.Slow // sources
}

// NewEnder returns an Ender; Run makes it work.
func NewEnder(cfg EnderConfig) (*Ender, error) {
	if cfg.Store == nil || cfg.Maker == nil || cfg.Source == nil || cfg.Log == nil {
		return nil, errors.New("checkout: EnderConfig has a field that is nil")
	}
	return &Ender{cfg: cfg, slow: passes.NewSlow(slow, slowRest)}, nil
}

// Run ends sessions until ctx is done.
func (e *Ender) Run(ctx context.Context) error {
	passes.Loop{
		Every:  endInterval,
		Pass:   passes.Full(endBatch, e.EndOnce),
		Failed: func(err error) { e.cfg.Log.Warn("ending sessions failed", "error", err) },
	}.Run(ctx)
	return nil
}

// EndOnce takes sessions that are to be ended, tries each once, and returns
// how many it took.
func (e *Ender) EndOnce(ctx context.Context) (int, error) {
	claiming, cancel := store.Step(ctx)
	defer cancel()
	claimed, err := e.cfg.Store.ClaimOpenCheckouts(claiming, uuid.New(), endBatch, e.slow.Resting(time.Now()))
	if err != nil {
		return 0, err
	}
	errs := make([]error, len(claimed))
	var ending sync.WaitGroup
	for i := range claimed {
		ending.Go(func() { errs[i] = e.end(ctx, &claimed[i]) })
	}
	ending.Wait()
	return len(claimed), errors.Join(errs...)
}

// end tries one session. Where a shutdown cut it off, another node takes it up
// when the lease ends: asking twice harms nobody.
func (e *Ender) end(ctx context.Context, c *store.OpenCheckout) error {
	began := time.Now()
	result, reason := e.try(ctx, c)
	e.slow.Note(c.SourceID, began, time.Now())
	if ctx.Err() != nil && reason == NoAnswer {
		return nil
	}
	var again *time.Duration
	if settled := result == store.SessionEnded || result == store.SessionOver; !settled && c.Tries < len(retries) {
		again = &retries[c.Tries]
	} else if !settled {
		e.cfg.Log.Warn("a session can be paid until it ends by itself, though its wait has ended",
			"correlation_id", c.WaitID, "project_id", c.ProjectID, "source_id", c.SourceID, "reason", reason)
	}
	recording, cancel := store.Step(ctx)
	defer cancel()
	if _, err := e.cfg.Store.RecordSessionEnd(recording, c, result, again); err != nil {
		return fmt.Errorf("session of wait %s: %w", c.WaitID, err)
	}
	return nil
}

// noKey is the reason besides those of an order.
const noKey Reason = "no_api_key"

// try makes the call, and says in the store's words what came of it.
func (e *Ender) try(ctx context.Context, c *store.OpenCheckout) (store.EndResult, Reason) {
	api, key, ok := e.cfg.Source(c.SourceID)
	if !ok {
		return store.EndingFailed, noKey
	}
	var why *Error
	switch err := e.cfg.Maker.End(ctx, api, key, c.Object); {
	case err == nil:
		return store.SessionEnded, ""
	case !errors.As(err, &why):
		return store.EndingFailed, NoAnswer
	case why.Reason == Refused:
		return store.SessionOver, ""
	case why.Reason == KeyRefused:
		return store.EndingRefused, KeyRefused
	case why.Reason == NotKnown:
		return store.EndingNotKnown, NotKnown
	default:
		return store.EndingFailed, why.Reason
	}
}
