package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/handlers"
	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// Limit is one bound that the machine itself sets.
type Limit struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// The limits by their names in the report.
const (
	limitDisk      = "fdatasync of 8 KiB"
	limitStatement = "callbacks committed, without HTTP and without their deliveries made"
	limitHandlers  = "callbacks verified, read and answered, without a database"
)

// Floor is what the limits are taken on: the database of a relay that has
// been measured and has stopped, with waits that nobody has called back.
type Floor struct {
	Store *store.Store
	Dir   string // on the disk of the database
	Spare []string
}

// Limits takes the limits of the machine: its disk, the batch statement
// without HTTP, and the handlers without a database.
func Limits(ctx context.Context, f Floor, p Plan) ([]Limit, error) {
	sync, err := syncTime(f.Dir)
	if err != nil {
		return nil, err
	}
	out := []Limit{{limitDisk, sync.Seconds() * 1000, "ms"}}
	d, err := directory.New(directory.Config{Store: f.Store, PublicURL: "http://127.0.0.1", Policy: egress.Policy{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if err := d.Load(ctx); err != nil {
		return nil, err
	}
	c := &caller{secret: secret, run: rand.Uint64(), size: p.Body, manner: usual} //nolint:gosec // figures, no secrets
	rate, err := statementRate(ctx, f, d, c)
	if err != nil {
		return nil, err
	}
	out = append(out, Limit{limitStatement, rate, "/s"})
	if rate, err = handlerRate(ctx, f, d, c, p); err != nil {
		return nil, err
	}
	return append(out, Limit{limitHandlers, rate, "/s"}), nil
}

// syncs is how many times the disk is asked.
const syncs = 200

func syncTime(dir string) (time.Duration, error) {
	file, err := os.Create(filepath.Join(dir, "fdatasync"))
	if err != nil {
		return 0, fmt.Errorf("measuring the disk: %w", err)
	}
	defer func() {
		_ = file.Close()
		_ = os.Remove(file.Name())
	}()
	page := make([]byte, 8<<10)
	start := time.Now()
	for range syncs {
		if _, err := file.WriteAt(page, 0); err != nil {
			return 0, fmt.Errorf("measuring the disk: %w", err)
		}
		if err := syncData(file); err != nil {
			return 0, fmt.Errorf("measuring the disk: %w", err)
		}
	}
	return time.Since(start) / syncs, nil
}

// statementRate commits callbacks that were read beforehand straight through
// intake, from as many goroutines as the widest closed loop has connections.
func statementRate(ctx context.Context, f Floor, d *directory.Directory, c *caller) (float64, error) {
	src := d.Current().Project(relay.DefaultProject).Source("stripe")
	batch := make([]relay.Callback, len(f.Spare))
	var e event
	for i, token := range f.Spare {
		body := bytes.Clone(e.write(c.run, i, token, c.size))
		readings, err := src.Endpoint.Read(&provider.Request{Method: http.MethodPost, Body: body})
		if err != nil {
			return 0, fmt.Errorf("reading a callback: %w", err)
		}
		batch[i] = relay.Callback{
			ID: relay.NewID(), ProjectID: src.ProjectID, SourceID: src.ID, Verdict: relay.Verified,
			Reading: readings[0], Body: body, ReceivedAt: time.Now(),
		}
	}
	in, err := intake.New(intake.Config{
		Store: f.Store, Plans: plan.NewCache(f.Store.Plan), HandOver: func([]relay.Delivery) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return 0, err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	go func() { _ = in.Run(running) }()
	var next atomic.Int64
	start := time.Now()
	var g errgroup.Group
	for range 256 {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(batch) {
					return nil
				}
				if _, err := in.Accept(ctx, batch[i]); err != nil {
					return err
				}
			}
		})
	}
	err = g.Wait()
	return float64(len(batch)) / time.Since(start).Seconds(), err
}

// nothing takes callbacks and keeps none.
type nothing struct{}

var errNoWaits = errors.New("the bench registers no waits here")

// Accept answers at once.
func (nothing) Accept(_ context.Context, c relay.Callback) (relay.Receipt, error) {
	return relay.Receipt{EventID: c.ID, Match: relay.Matched}, nil
}

// Register is not measured here.
func (nothing) Register(context.Context, store.Registration) (store.Registered, error) {
	return store.Registered{}, errNoWaits
}

// handlerRate sends callbacks to the handlers with nothing behind them.
func handlerRate(ctx context.Context, f Floor, d *directory.Directory, c *caller, p Plan) (float64, error) {
	h, err := handlers.New(handlers.Config{
		Store: f.Store, Directory: d, Intake: nothing{}, Plans: plan.NewCache(f.Store.Plan),
		HandOver: func([]relay.Delivery) {}, Wake: func() {}, PublicURL: "http://127.0.0.1", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return 0, err
	}
	server := httptest.NewServer(h.Server().Handler)
	defer server.Close()
	c.address = strings.TrimPrefix(server.URL, "http://")
	token := relay.NewToken()
	l, err := c.closedLoop(ctx, 64, p.Duration, func(k *conn) (int, int, bool, error) {
		n := int(c.next.Add(1))
		status, err := c.post(k, n, token)
		return n, status, true, err
	}, nil)
	if err != nil {
		return 0, err
	}
	if l.refused > 0 {
		return 0, fmt.Errorf("%d callbacks were refused", l.refused)
	}
	return float64(l.accepted) / l.took.Seconds(), nil
}
