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
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/store"
)

// The pace of re-reading.
const (
	pollInterval    = 5 * time.Second
	listenRetry     = time.Second
	refreshInterval = time.Second // for an unknown source or a failed signature, per node
	refreshTimeout  = 2 * time.Second
)

// Config is what a Directory works with.
type Config struct {
	Store     *store.Store
	PublicURL string // without a slash at its end
	Policy    egress.Policy
	Log       *slog.Logger
}

// Directory keeps the current Snapshot. It is safe for concurrent use.
type Directory struct {
	cfg     Config
	current atomic.Pointer[Snapshot]
	reading sync.Mutex // one read at a time; the last one wins

	refreshing  sync.Mutex // those who meet the unknown together wait for one read
	refreshedAt time.Time
}

// New returns a Directory that is empty until Load.
func New(cfg Config) (*Directory, error) {
	if cfg.Store == nil || cfg.Log == nil || cfg.PublicURL == "" {
		return nil, errors.New("directory: Config has a field that is not set")
	}
	d := &Directory{cfg: cfg}
	d.current.Store(newSnapshot(&store.Configuration{}, cfg))
	return d, nil
}

// Current returns the newest Snapshot.
func (d *Directory) Current() *Snapshot { return d.current.Load() }

// Load reads the configuration now.
func (d *Directory) Load(ctx context.Context) error {
	d.reading.Lock()
	defer d.reading.Unlock()
	c, err := d.cfg.Store.Configuration(ctx)
	if err != nil {
		return fmt.Errorf("loading the configuration: %w", err)
	}
	d.current.Store(newSnapshot(c, d.cfg))
	return nil
}

// Refresh re-reads the configuration because somebody met what this node does
// not know. It is rate-limited, so that strangers cannot make it busy, and
// returns the Snapshot to go on with.
func (d *Directory) Refresh(ctx context.Context) *Snapshot {
	d.refreshing.Lock()
	defer d.refreshing.Unlock()
	if time.Since(d.refreshedAt) < refreshInterval {
		return d.Current()
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	if err := d.loadIfChanged(ctx); err != nil {
		d.cfg.Log.Warn("configuration not re-read", "error", err)
	}
	d.refreshedAt = time.Now()
	return d.Current()
}

func (d *Directory) loadIfChanged(ctx context.Context) error {
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
	poll := time.NewTicker(pollInterval)
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
