package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/checkout"
	"relay.example/relay/internal/deliver"
	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/handlers"
	"relay.example/relay/internal/inquiry"
	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/metrics"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/remote"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/sweeper"
)

// node is one relay process at work: everything built, nothing started.
type node struct {
	flags  *nodeFlags
	log    *slog.Logger
	store  *store.Store
	public net.Listener
	ops    net.Listener
	url    string

	directory *directory.Directory
	client    *egress.Client
	metrics   *metrics.Metrics
	engine    *deliver.Engine
	hooks     *deliver.Hooks
	intake    *intake.Intake
	sweeper   *sweeper.Sweeper
	inquiry   *inquiry.Asker
	remote    *remote.Keeper
	ender     *checkout.Ender
	handlers  *handlers.Handlers
}

// newNode builds a node on an open store and binds its addresses.
func newNode(ctx context.Context, f *nodeFlags, s *store.Store, log *slog.Logger) (n *node, err error) {
	n = &node{flags: f, log: log, store: s}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.public, err = listen(ctx, f.Listen); err != nil {
		return n, fmt.Errorf("RELAY_LISTEN: %w", err)
	}
	if n.ops, err = listen(ctx, f.OpsListen); err != nil {
		return n, fmt.Errorf("RELAY_OPS_LISTEN: %w", err)
	}
	n.url = f.publicURL(n.public)
	policy, err := egress.ParsePolicy(f.AllowPrivateTargets)
	if err != nil {
		return n, fmt.Errorf("RELAY_ALLOW_PRIVATE_TARGETS: %w", err)
	}
	n.client = egress.New(egress.Config{Policy: policy})
	n.directory, err = directory.New(directory.Config{
		Store: s, PublicURL: n.url, Policy: policy, Certificates: provider.NewCertificates(n.fetchCertificate, nil), Log: log,
	})
	if err != nil {
		return n, err
	}
	if err := n.directory.Load(ctx); err != nil {
		return n, err
	}
	n.log = nameIn(n.directory.Current, log)
	return n, n.build()
}

// build makes the parts that hand work to each other.
func (n *node) build() (err error) {
	plans := plan.NewCache(n.store.Plan)
	this := thisEdition()
	n.metrics, err = metrics.New(metrics.Config{
		Registry: prometheus.NewRegistry(), Store: n.store, Source: n.sourceName,
		Version: this.version, Commit: this.commit, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.engine, err = deliver.New(deliver.Config{
		Store: n.store, Directory: n.directory, Plans: plans, Client: n.client, Metrics: n.metrics, Log: n.log, Grace: n.half(),
	})
	if err != nil {
		return err
	}
	n.hooks, err = deliver.NewHooks(deliver.HooksConfig{
		Store: n.store, Directory: n.directory, Client: n.client, Metrics: n.metrics, Log: n.log, Grace: n.half(),
	})
	if err != nil {
		return err
	}
	n.intake, err = intake.New(intake.Config{
		Store: n.store, Plans: plans, Directory: n.directory, HandOver: n.engine.HandOver, Metrics: n.metrics, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.sweeper, err = sweeper.New(sweeper.Config{
		Store: n.store, Plans: plans, Directory: n.directory, HandOver: n.engine.HandOver,
		MatchParked: n.intake.MatchParkedOnce, Replay: n.intake.ReplayOnce, Metrics: n.metrics, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.inquiry, err = inquiry.New(inquiry.Config{
		Store: n.store, Directory: n.directory, Intake: n.intake, Plans: plans, Client: n.client,
		HandOver: n.engine.HandOver, Metrics: n.metrics, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.remote, err = remote.New(remote.Config{Store: n.store, Directory: n.directory, Client: n.client, PublicURL: n.url, Log: n.log})
	if err != nil {
		return err
	}
	checkouts := checkout.New(n.client)
	n.ender, err = checkout.NewEnder(checkout.EnderConfig{Store: n.store, Maker: checkouts, Source: n.payingSource, Log: n.log})
	if err != nil {
		return err
	}
	proxies, err := n.flags.trustedProxies()
	if err != nil {
		return err
	}
	n.handlers, err = handlers.New(handlers.Config{
		Store: n.store, Directory: n.directory, Intake: n.intake, Plans: plans,
		HandOver: n.engine.HandOver, Wake: n.engine.Wake, PublicURL: n.url, Metrics: n.metrics, Log: n.log, TrustedProxies: proxies,
		Checkouts: checkouts,
	})
	return err
}

// fetchCertificate gets a certificate that a provider signs with, by the
// guarded client.
func (n *node) fetchCertificate(ctx context.Context, address string) ([]byte, error) {
	answer, err := n.client.Do(ctx, egress.Request{
		Method: http.MethodGet, URL: address, Timeout: certificateTimeout, Keep: provider.MaxCertificate,
	})
	switch {
	case err != nil:
		return nil, err
	case answer.Status != http.StatusOK:
		return nil, fmt.Errorf("the address of the certificate answers %d", answer.Status)
	case answer.Truncated:
		return nil, fmt.Errorf("the certificate is longer than %d bytes", provider.MaxCertificate)
	}
	return answer.Body, nil
}

// certificateTimeout leaves time to commit the callback within the 3 s in
// which it is answered.
const certificateTimeout = 2 * time.Second

// sourceName names a source by its project and its name.
func (n *node) sourceName(id int64) (project, name string, known bool) {
	now := n.directory.Current()
	src := now.SourceByID(id)
	if src == nil {
		return "", "", false
	}
	return now.ProjectByID(src.ProjectID).Name, src.Name, true
}

// payingSource tells where a source's sessions are ended, and with which key.
func (n *node) payingSource(id int64) (api, key string, ok bool) {
	src := n.directory.Current().SourceByID(id)
	if src == nil || src.Err != nil || src.APIKey() == "" {
		return "", "", false
	}
	return src.API(), src.APIKey(), true
}

// close gives up what newNode took, for a node that never ran.
func (n *node) close() {
	for _, l := range []net.Listener{n.public, n.ops} {
		if l != nil {
			_ = l.Close()
		}
	}
	if n.client != nil {
		n.client.Close()
	}
}

// stage is a group of parts that stop together.
type stage struct {
	stop context.CancelFunc
	done chan struct{}
}

// start runs parts until the stage is stopped. A part that fails ends the
// whole node.
func (n *node) start(fail context.CancelCauseFunc, parts ...func(context.Context) error) stage {
	ctx, cancel := context.WithCancel(context.Background())
	s := stage{stop: cancel, done: make(chan struct{})}
	var g errgroup.Group
	for _, part := range parts {
		g.Go(func() error {
			err := part(ctx)
			if err != nil {
				fail(err)
			}
			return err
		})
	}
	go func() {
		_ = g.Wait() // told to fail already
		close(s.done)
	}()
	return s
}

func (s stage) end() {
	s.stop()
	<-s.done
}

// run serves until ctx is done or a part fails, and then stops in the order
// in which work flows, so that nothing is taken that could not be finished:
// requests, then commits and sweeps, then sends, then the configuration.
func (n *node) run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer n.client.Close()
	public, ops := n.handlers.Server(), n.handlers.OpsServer()

	configuration := n.start(fail, n.directory.Run, collectLazily)
	sends := n.start(fail, n.engine.Run, n.hooks.Run)
	commits := n.start(fail, n.intake.Run, n.sweeper.Run, n.inquiry.Run, n.remote.Run, n.ender.Run, n.handlers.Run)
	listeners := n.start(fail,
		func(context.Context) error { return serve(public, n.public) },
		func(context.Context) error { return serve(ops, n.ops) })
	n.log.Info("relay is up", "listen", n.public.Addr().String(), "ops_listen", n.ops.Addr().String(), "public_url", n.url)

	<-ctx.Done()
	n.drain(ctx)
	closing, cancel := context.WithTimeout(context.Background(), n.half())
	defer cancel()
	if err := public.Shutdown(closing); err != nil {
		n.log.Warn("requests were cut off", "after", n.half().String(), "error", err)
		_ = public.Close()
	}
	commits.end()
	sends.end()
	configuration.end()
	_ = ops.Close()
	listeners.end()
	n.log.Info("relay has stopped")
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// drain tells balancers to send no more, and serves on while they learn it.
func (n *node) drain(ctx context.Context) {
	n.handlers.Drain()
	n.log.Info("stopping", "cause", context.Cause(ctx), "drain_delay", time.Duration(n.flags.DrainDelay))
	delay := time.NewTimer(time.Duration(n.flags.DrainDelay))
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-hurried(ctx):
	}
}

// half is what each of the two stages of a shutdown may take: requests, then
// sends.
func (n *node) half() time.Duration { return time.Duration(n.flags.ShutdownTimeout) / 2 }

func listen(ctx context.Context, address string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", address)
}

func serve(s *http.Server, l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// putKey makes sure that an API key exists.
func (n *node) putKey(ctx context.Context, text string) error {
	if n.directory.Current().Key(text) != nil {
		return nil
	}
	project := n.directory.Current().Project(relay.DefaultProject)
	return n.directory.Change(ctx, func(c *store.Change) error {
		return c.PutKey(ctx, relay.NewAPIKey(text, project.ID, "RELAY_API_KEY", relay.ScopeAdmin))
	})
}
