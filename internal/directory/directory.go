// Package directory is a node's view of what was configured, and the one way
// to change it. Everything is held in memory, compiled and ready: finding a
// source, a key or a flow costs no query.
//
// What is always true: a Snapshot never changes; who holds one sees a
// consistent configuration. A change made anywhere reaches this node within a
// second by notification, within five by polling. A node that fails to read
// keeps what it had and tries again.
package directory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/standardwebhooks"
	"relay.example/relay/internal/store"
)

// The pace of re-reading.
const (
	pollInterval    = 5 * time.Second
	listenRetry     = time.Second
	refreshInterval = time.Second // for an unknown source or a failed signature, per node
	refreshTimeout  = 2 * time.Second
	loadTimeout     = 10 * time.Second
)

// Config is what a Directory works with.
type Config struct {
	Store     *store.Store
	PublicURL string // without a slash at its end
	Policy    egress.Policy
	// Certificates are those that some providers sign with. nil: callbacks
	// that need one are rejected.
	Certificates *provider.Certificates
	Log          *slog.Logger
}

// Directory keeps the current Snapshot. It is safe for concurrent use.
type Directory struct {
	cfg     Config
	current atomic.Pointer[Snapshot]
	reading chan struct{} // one read at a time; the last one wins
	poll    time.Duration // pollInterval, but for tests

	refreshing  chan struct{} // guards the two below
	refreshedAt time.Time
	refreshErr  error
	refreshIn   time.Duration // refreshTimeout, but for tests
}

// New returns a Directory that is empty until Load.
func New(cfg Config) (*Directory, error) {
	if cfg.Store == nil || cfg.Log == nil || cfg.PublicURL == "" {
		return nil, errors.New("directory: Config has a field that is not set")
	}
	d := &Directory{
		cfg: cfg, reading: make(chan struct{}, 1), poll: pollInterval,
		refreshing: make(chan struct{}, 1), refreshIn: refreshTimeout,
	}
	d.current.Store(newSnapshot(&store.Configuration{}, cfg))
	return d, nil
}

// Current returns the newest Snapshot.
func (d *Directory) Current() *Snapshot { return d.current.Load() }

// Load reads the configuration now.
func (d *Directory) Load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	select {
	case d.reading <- struct{}{}:
		defer func() { <-d.reading }()
	case <-ctx.Done():
		return fmt.Errorf("loading the configuration: %w", unsure(context.Cause(ctx)))
	}
	c, err := d.cfg.Store.Configuration(ctx)
	if err != nil {
		return fmt.Errorf("loading the configuration: %w", err)
	}
	d.current.Store(newSnapshot(c, d.cfg))
	return nil
}

// Hold holds a destination whose credentials were refused, as it was when they
// were, and reports whether this call did. Either way this node knows
// afterwards how it is, or will within a second.
func (d *Directory) Hold(ctx context.Context, to *Destination, reason string) (held bool, err error) {
	held, err = d.cfg.Store.HoldDestination(ctx, to.ID, to.Releases, reason)
	if err != nil {
		return false, err
	}
	if held {
		return true, d.Load(ctx)
	}
	_, err = d.Refresh(ctx)
	return false, err
}

// Resume ends the hold of a destination, and returns how many deliveries it
// held; of more than 100,000 it says 100,001. One that is not held stays as it
// is.
func (d *Directory) Resume(ctx context.Context, to *Destination) (released int, err error) {
	err = d.Change(ctx, func(c *store.Change) error {
		released, err = c.ReleaseDestination(ctx, to.ID)
		return err
	})
	return released, err
}

// EndRelease notes that nothing is held by a destination any more, where that
// is so.
func (d *Directory) EndRelease(ctx context.Context, to *Destination) error {
	ended, err := d.cfg.Store.EndRelease(ctx, to.ID, to.Releases)
	if err != nil || !ended {
		return err
	}
	return d.Load(ctx)
}

// maxTarget is how many bytes a target may have: they stand in an index.
const maxTarget = 2_000

// Subscribe adds a subscription to a project, with secrets of its own. Of the
// same event and target there is one: that is returned, without its secrets,
// where it is there already.
func (d *Directory) Subscribe(ctx context.Context, project *Project, event relay.News, target string) (made relay.Subscription, err error) {
	if !event.Subscribable() {
		return made, relay.Errorf(relay.Invalid, "unknown_event", "event: %.40q is none of %s, %s", event, relay.Everything, joined(relay.AllNews))
	}
	if len(target) > maxTarget {
		return made, relay.Errorf(relay.Invalid, "target_too_long", "target: it has %d bytes, and may have %d", len(target), maxTarget)
	}
	if err := egress.CheckURL(target, d.cfg.Policy); err != nil {
		return made, relay.Errorf(relay.Invalid, "address_refused", "target: %s", relay.DetailOf(err))
	}
	sub := relay.Subscription{
		ID: relay.NewID(), ProjectID: project.ID, Event: event, Target: target,
		Secret: rand.Text(), SigningSecret: standardwebhooks.NewSecret(),
	}
	err = d.Change(ctx, func(c *store.Change) error {
		made, err = c.PutSubscription(ctx, sub)
		return err
	})
	return made, err
}

// Unsubscribe deletes a subscription. What is owed to it is dropped.
func (d *Directory) Unsubscribe(ctx context.Context, sub *relay.Subscription) error {
	return d.Change(ctx, func(c *store.Change) error { return c.DeleteSubscription(ctx, sub.ProjectID, sub.ID) })
}

// joined lists some news.
func joined(list []relay.News) string {
	names := make([]string, len(list))
	for i, n := range list {
		names[i] = string(n)
	}
	return strings.Join(names, ", ")
}

// Refresh re-reads the configuration because somebody met what this node does
// not know, and returns the Snapshot to go on with. Those who meet it together
// wait for one read. It is rate-limited, so that strangers cannot make the node
// busy. An error says that nobody can tell whether the thing exists.
func (d *Directory) Refresh(ctx context.Context) (*Snapshot, error) {
	select {
	case d.refreshing <- struct{}{}:
		defer func() { <-d.refreshing }()
	case <-ctx.Done():
		return d.Current(), unsure(context.Cause(ctx))
	}
	if time.Since(d.refreshedAt) < refreshInterval {
		return d.Current(), d.refreshErr
	}
	// The read is everybody's: it does not end with the one who began it.
	reading, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.refreshIn)
	defer cancel()
	d.refreshErr = nil
	if err := d.loadIfChanged(reading); err != nil {
		d.refreshErr = unsure(err)
	}
	d.refreshedAt = time.Now()
	return d.Current(), d.refreshErr
}

// unsure makes a failed read a refusal that asks to try again.
func unsure(err error) error {
	return errors.Join(relay.Errorf(relay.Busy, "configuration_unavailable",
		"the configuration cannot be read at the moment: try again"), err)
}

func (d *Directory) loadIfChanged(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	version, err := d.cfg.Store.ConfigurationVersion(ctx)
	if err != nil || version == d.Current().version {
		return err
	}
	return d.Load(ctx)
}

// Run keeps the Snapshot current until ctx is done.
func (d *Directory) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	var g errgroup.Group
	g.Go(func() error {
		d.listen(ctx, changed)
		return nil
	})
	g.Go(func() error {
		d.follow(ctx, changed)
		return nil
	})
	return g.Wait()
}

// listen turns notifications into hints, and reconnects when it must.
func (d *Directory) listen(ctx context.Context, changed chan<- struct{}) {
	for ctx.Err() == nil {
		err := d.cfg.Store.ListenForChanges(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		if ctx.Err() != nil {
			return
		}
		d.cfg.Log.Warn("not listening for configuration changes; polling goes on", "error", err)
		sleep(ctx, listenRetry)
	}
}

// follow re-reads on every hint, and polls because hints can be lost. Time
// alone changes something too: secrets end.
func (d *Directory) follow(ctx context.Context, changed <-chan struct{}) {
	poll := time.NewTicker(d.poll)
	defer poll.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-changed:
			err = d.Load(ctx)
		case <-poll.C:
			err = d.loadIfChanged(ctx)
		}
		if err != nil && ctx.Err() == nil {
			d.cfg.Log.Warn("configuration not re-read; the node goes on with what it knows", "error", err)
		}
	}
}

func sleep(ctx context.Context, t time.Duration) {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
