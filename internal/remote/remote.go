// Package remote keeps the subscriptions that sources ask for at their
// platforms: it makes them, looks now and then whether they are still there,
// and ends them.
//
// # The model
//
// What is wanted stands in the table, written by the transaction that changes
// the configuration. A node claims a row under a lease, looks at what the
// platform has, changes that to what is wanted, and writes what it found. The
// platform is called by nobody else, and saving a source never waits for it.
//
// # What is always true
//
// Only what holds the source's own key in its address is touched: nobody else
// knows it, so that the subscriptions of others stay as they are. One node at a
// time is at a row. The id and the secret of a subscription are kept in one
// transaction. A lease that was lost writes nothing. A row goes only when its
// subscription was seen to be gone, or after a week in which nobody could tell.
//
// # When things fail
//
// A crash after a subscription was made and before its secret was kept leaves
// one whose secret nobody knows: the next look finds it by its address, deletes
// it and makes another. No answer, or a refusal: it is tried again, later each
// time, and the source shows why. A shutdown ends the call that is under way,
// since the next look finds out what became of it.
package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/passes"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The bounds of the work. All that is done about a row ends well within its
// lease.
const (
	batch           = 8                // rows at a time, per node
	pollInterval    = time.Second      // how soon a change is seen
	callTimeout     = 10 * time.Second // of one call
	callsTimeout    = 30 * time.Second // of all calls about one row
	refusedInterval = time.Minute      // between log lines about failures

	// A project whose platform took longer than slow is passed over for slowRest.
	slow     = 3 * time.Second
	slowRest = 10 * time.Second
)

// Config is what a Keeper works with.
type Config struct {
	Store     *store.Store
	Directory *directory.Directory
	Client    *egress.Client
	PublicURL string // of this relay, without a slash at its end
	Log       *slog.Logger
}

// Keeper keeps remote subscriptions.
type Keeper struct {
	cfg     Config
	refused rate.Sometimes // tells of failures, not of each
	slow    *passes.Slow   // projects
}

// New returns a Keeper; Run makes it work.
func New(cfg Config) (*Keeper, error) {
	if cfg.Store == nil || cfg.Directory == nil || cfg.Client == nil || cfg.PublicURL == "" || cfg.Log == nil {
		return nil, errors.New("remote: Config has a field that is not set")
	}
	return &Keeper{
		cfg: cfg, refused: rate.Sometimes{First: 1, Interval: refusedInterval}, slow: passes.NewSlow(slow, slowRest),
	}, nil
}

// Run works off what is due until ctx is done.
func (k *Keeper) Run(ctx context.Context) error {
	if err := k.cfg.Store.LookAtRemotes(ctx); err != nil && ctx.Err() == nil {
		k.cfg.Log.Warn("remote subscriptions are looked at later than they could be", "error", err)
	}
	passes.Loop{
		Every: pollInterval,
		Pass:  passes.Full(batch, k.KeepOnce),
		Failed: func(err error) {
			k.cfg.Log.Warn("remote subscriptions not looked at; the next pass does", "error", err)
		},
	}.Run(ctx)
	return nil
}

// KeepOnce takes some of what is due, and returns how many that was when the
// last of them is put down.
func (k *Keeper) KeepOnce(ctx context.Context) (int, error) {
	claiming, cancel := store.Step(ctx)
	defer cancel()
	claimed, err := k.cfg.Store.ClaimRemotes(claiming, uuid.New(), batch, k.slow.Resting(time.Now()))
	if err != nil {
		return 0, fmt.Errorf("claiming: %w", err)
	}
	var working sync.WaitGroup
	for i := range claimed {
		working.Go(func() { k.keep(ctx, &claimed[i]) })
	}
	working.Wait()
	return len(claimed), nil
}

// result is what the calls about one row have come to.
type result struct {
	answer     platform.Answer
	subscribed platform.Subscribed
	stopped    bool // by a shutdown: nothing was learned
}

func failed(class relay.Class, reason string) result {
	return result{answer: platform.Answer{Class: class, Reason: reason}}
}

// keep brings one subscription to what it should be, and writes what became
// of it.
func (k *Keeper) keep(ctx context.Context, r *relay.RemoteSubscription) {
	began := time.Now()
	got := k.exchange(ctx, r)
	k.slow.Note(r.ProjectID, began, time.Now())
	step, cancel := store.Step(ctx)
	defer cancel()
	var err error
	switch {
	case got.stopped:
		err = k.cfg.Store.ReturnRemote(step, r)
	case got.answer.Class != relay.OK:
		err = k.fail(step, r, got.answer)
	case !r.Wanted:
		err = k.cfg.Store.EndedRemote(step, r)
	case got.subscribed.Secret == "":
		err = k.cfg.Store.CheckedRemote(step, r, relay.NextCheck(relay.Jitter()))
	default:
		err = k.made(step, r, got.subscribed)
	}
	if err != nil {
		k.cfg.Log.Warn("what became of a remote subscription is not written; it is looked at again when its lease ends",
			"remote_id", r.ID, "project_id", r.ProjectID, "source_id", r.SourceID, "error", err)
	}
}

// made keeps the id and the secret of a subscription, and has all nodes know
// the secret.
func (k *Keeper) made(ctx context.Context, r *relay.RemoteSubscription, s platform.Subscribed) error {
	return k.cfg.Directory.Change(ctx, func(c *store.Change) error {
		return c.KeepSubscribed(ctx, r, s.ID, s.Secret, relay.NextCheck(relay.Jitter()))
	})
}

func (k *Keeper) fail(ctx context.Context, r *relay.RemoteSubscription, a platform.Answer) error {
	delay := relay.NextRemoteTry(a.Class, r.Failures+1, a.RetryAfter, relay.Jitter())
	givenUp, err := k.cfg.Store.FailedRemote(ctx, r, a.Reason, delay)
	if err != nil {
		return err
	}
	if givenUp {
		k.cfg.Log.Warn("the end of a remote subscription is given up: delete it at the platform by hand",
			"project_id", r.ProjectID, "source_id", r.SourceID, "platform", r.Account.Platform, "event", r.Event, "reason", a.Reason)
		return nil
	}
	k.refused.Do(func() {
		k.cfg.Log.Warn("a remote subscription is not as it should be, and is tried again: its source says why",
			"project_id", r.ProjectID, "source_id", r.SourceID, "platform", r.Account.Platform, "event", r.Event, "reason", a.Reason)
	})
	if !r.Wanted {
		return nil // there may be no source any more
	}
	seen := store.SourceActivity{ProjectID: r.ProjectID, SourceID: r.SourceID, LastError: relay.SubscriptionFailed, LastErrorAt: time.Now()}
	return k.cfg.Store.NoteActivity(ctx, []store.SourceActivity{seen})
}

// exchange makes the calls about one row, from the look to the end.
func (k *Keeper) exchange(ctx context.Context, r *relay.RemoteSubscription) result {
	on, known := platform.Lookup(r.Account.Platform)
	if !known {
		return failed(relay.Permanent, "unknown_platform") // to this program
	}
	step, err := on.Subscribe(
		platform.Account{BaseURL: r.Account.BaseURL, Settings: r.Account.Settings},
		platform.Subscription{Event: r.Event, Target: k.target(r), Former: r.Former, Wanted: r.Wanted, ID: r.RemoteID})
	if err != nil {
		return failed(relay.Permanent, platform.BadRequest)
	}
	timed, cancel := context.WithTimeoutCause(ctx, callsTimeout, errCallsTimeout)
	defer cancel()
	for range platform.MaxCalls {
		resp, err := k.cfg.Client.Do(timed, egress.Request{
			Method: step.Request.Method, URL: step.Request.URL, Header: step.Request.Header, Body: step.Request.Body,
			Timeout: callTimeout, Keep: step.Keep,
		})
		switch {
		case ctx.Err() != nil:
			return result{stopped: true}
		case err != nil:
			return failed(relay.Retry, step.Name+": "+egress.ReasonOf(err))
		}
		next := on.Next(&step, platform.Response{Status: resp.Status, Header: resp.Header, Body: resp.Body}, time.Now())
		if next.Ended() {
			if next.Answer.Class != relay.OK {
				next.Answer.Reason = step.Name + ": " + next.Answer.Reason
			}
			return result{answer: next.Answer, subscribed: next.Subscribed}
		}
		step = next
	}
	return failed(relay.Retry, platform.TooManyCalls)
}

// target is the address that the platform is to have, with the key of the
// source.
func (k *Keeper) target(r *relay.RemoteSubscription) string {
	address := r.Address
	if strings.HasPrefix(address, "/") {
		address = k.cfg.PublicURL + address
	}
	return platform.Target(address, r.Event, r.Key)
}

var errCallsTimeout = errors.New("the calls about one subscription took too long")
