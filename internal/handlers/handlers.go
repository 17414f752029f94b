// Package handlers is the relay's HTTP surface: providers' callbacks, the API
// of bot builders and operators, and the few pages that an end user meets.
//
// What it promises: a callback is answered 200 only after it was committed; a
// handler returns its error and one place turns errors into answers; no log
// line, error or answer holds a secret, a token or the path of a callback.
package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"relay.example/relay/internal/checkout"
	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/metrics"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/templates"
)

// The bounds of a request.
const (
	maxBody        = 1 << 20                 // bytes, of callbacks and of API calls
	maxHeaders     = 64 << 10                // bytes
	headerTimeout  = 5 * time.Second         // to send the headers
	readTimeout    = 15 * time.Second        // to send everything
	writeTimeout   = 30 * time.Second        // from the headers to the end of the answer
	idleTimeout    = 120 * time.Second       // of a kept connection
	answerTimeout  = 2800 * time.Millisecond // of a callback: providers give up after 3 s
	requestTimeout = 10 * time.Second        // of everything else
)

// complaintInterval is between log lines about one kind of failure, each of
// which may come with every request.
const complaintInterval = 10 * time.Second

// Config is what the handlers work with.
type Config struct {
	Store     *store.Store
	Directory *directory.Directory
	Intake    Intake
	Plans     *plan.Cache
	// HandOver takes deliveries that were committed and leased to this node;
	// Wake hints that rows have become due.
	HandOver  func([]relay.Delivery)
	Wake      func()
	PublicURL string           // without a slash at its end
	Metrics   *metrics.Metrics // nil: nothing is counted, and there is no /metrics
	Log       *slog.Logger

	// TrustedProxies are those whose X-Forwarded-For is believed: a proxy of
	// our own that stands before the public listener.
	TrustedProxies []netip.Prefix

	// Checkouts makes what flows create. nil: such a wait is not registered.
	Checkouts *checkout.Maker
}

// Intake commits callbacks and registrations: the intake package's, or in a
// measurement of the handlers alone nothing. What it answered without an
// error is durable; it may be called by any number of goroutines.
type Intake interface {
	Accept(context.Context, relay.Callback) (relay.Receipt, error)
	Register(context.Context, store.Registration) (store.Registered, error)
}

// Handlers answers requests. It is safe for concurrent use.
type Handlers struct {
	cfg      Config
	pages    *templates.Pages
	activity *activity
	openings *openings
	news     *news
	rejected *rejectedBudget
	senders  *sendBudget
	nodes    *nodes
	answerIn time.Duration // answerTimeout, but for tests
	// pathPrefix is the path of PublicURL, where a proxy puts us below one.
	pathPrefix string
	draining   atomic.Bool
	shed       rate.Sometimes // tells that requests are shed, not of each
	forged     rate.Sometimes // the same of callbacks that are not genuine
	unproven   rate.Sometimes // and of those whose certificate cannot be had
	uncreated  rate.Sometimes // tells that nothing is made to pay by
	linkless   rate.Sometimes // tells that a bot's call got no link
}

// New returns the handlers. Run writes what they notice of sources and links.
func New(cfg Config) (*Handlers, error) {
	if cfg.Store == nil || cfg.Directory == nil || cfg.Intake == nil || cfg.Plans == nil ||
		cfg.HandOver == nil || cfg.Wake == nil || cfg.PublicURL == "" || cfg.Log == nil {
		return nil, errors.New("handlers: Config has a field that is not set")
	}
	pages, err := templates.Parse()
	if err != nil {
		return nil, err
	}
	public, err := url.Parse(cfg.PublicURL)
	if err != nil {
		return nil, fmt.Errorf("the public URL: %w", err)
	}
	nodes, err := newNodes()
	if err != nil {
		return nil, err
	}
	return &Handlers{
		cfg: cfg, pages: pages, nodes: nodes, pathPrefix: public.EscapedPath(), answerIn: answerTimeout,
		activity: newActivity(), openings: newOpenings(), news: newNews(),
		rejected: newRejectedBudget(), senders: newSendBudget(),
		shed:      rate.Sometimes{Interval: time.Second},
		forged:    rate.Sometimes{First: 1, Interval: complaintInterval},
		unproven:  rate.Sometimes{First: 1, Interval: complaintInterval},
		uncreated: rate.Sometimes{First: 1, Interval: complaintInterval},
		linkless:  rate.Sometimes{First: 1, Interval: complaintInterval},
	}, nil
}

// Run writes what was noticed of sources and links, and looks for news of the
// waits whose page is open, until ctx is done.
func (h *Handlers) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return h.flush(ctx) })
	g.Go(func() error { return h.lookForNews(ctx) })
	return g.Wait()
}

// Drain makes /readyz say that this node wants no more requests, and ends those
// that would not end by themselves: pages that wait for news ask another node.
func (h *Handlers) Drain() {
	h.draining.Store(true)
	h.news.close()
}

// Server returns the public server, without an address.
func (h *Handlers) Server() *http.Server {
	s := server(h.public(), h.cfg.Log)
	s.WriteTimeout = writeTimeout // not for operators: a profile takes its time
	return s
}

// OpsServer returns the server of the operations listener.
func (h *Handlers) OpsServer() *http.Server { return server(h.ops(), h.cfg.Log) }

func server(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(quiet{log.Handler()}, slog.LevelDebug),
	}
}

// quiet drops net/http's own lines, which quote addresses and requests.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

// public is all routes of the public listener.
func (h *Handlers) public() *echo.Echo {
	e := h.echo(h.count)
	e.Use(h.within)
	e.GET("/healthz", h.healthz)
	e.GET("/readyz", h.readyz)

	// Providers and end users.
	e.Any("/in/:project/:source", h.callback)
	e.Any("/in/:project/:source/*", h.callback) // the token, or a slash too many: never 404 on a known source
	e.GET("/go/:token", h.goTo)
	e.HEAD("/go/:token", h.goTo)
	e.GET("/return/:token", h.returned)
	e.HEAD("/return/:token", h.returned)
	e.GET("/return/:project/:source", h.returnedFrom)
	e.HEAD("/return/:project/:source", h.returnedFrom)
	e.GET("/assets/:name", h.asset)
	e.HEAD("/assets/:name", h.asset)
	e.GET("/f/:token", h.getForm)
	e.HEAD("/f/:token", h.getForm)
	e.POST("/f/:token", h.postForm)

	// Bots that prove themselves by a signature.
	e.POST("/bots/haptik/:project/:flow", h.haptikNode)

	// Bot builders and operators.
	v1 := e.Group("/v1")
	create, read, write, admin, instance := h.may(relay.ScopeCreate), h.may(relay.ScopeRead), h.may(relay.ScopeWrite), h.may(relay.ScopeAdmin), h.may(relay.ScopeInstance)
	createOrRead := h.may(relay.ScopeCreate, relay.ScopeRead)
	v1.POST("/correlations", h.postCorrelation, create)
	v1.GET("/correlations", h.listCorrelations, createOrRead)
	v1.GET("/correlations/:id", h.getCorrelation, createOrRead)
	v1.POST("/correlations/:id/cancel", h.cancelCorrelation, write)
	v1.POST("/correlations/:id/resolve", h.resolveCorrelation, write)

	v1.GET("/events", h.listEvents, read)
	v1.GET("/events/:id", h.getEvent, read)
	v1.POST("/events/:id/replay", h.replayEvent, write)
	v1.POST("/events/replay", h.replayEvents, write)
	v1.GET("/events/replay/:id", h.getReplay, read)

	v1.GET("/deliveries", h.listDeliveries, read)
	v1.GET("/deliveries/:id", h.getDelivery, read)
	v1.POST("/deliveries/:id/retry", h.retryDelivery, write)
	v1.POST("/deliveries/:id/skip", h.skipDelivery, write)
	v1.POST("/deliveries/retry", h.retryDeliveries, write)

	v1.GET("/hooks", h.listHooks, read)
	v1.POST("/hooks/retry", h.retryHooks, write)

	v1.DELETE("/users/:user_id", h.eraseUser, admin)

	v1.GET("/sources", h.listSources, read)
	v1.GET("/sources/:name", h.getSource, read)
	v1.PUT("/sources/:name", h.put(directory.KindSource, h.getSource), admin)
	v1.DELETE("/sources/:name", h.remove(directory.KindSource), admin)
	v1.POST("/sources/:name/secrets", h.postSecret, admin)
	v1.DELETE("/sources/:name/secrets/:id", h.deleteSecret, admin)
	v1.GET("/destinations", h.listDestinations, read)
	v1.GET("/destinations/:name", h.getDestination, read)
	v1.PUT("/destinations/:name", h.put(directory.KindDestination, h.getDestination), admin)
	v1.DELETE("/destinations/:name", h.remove(directory.KindDestination), admin)
	v1.POST("/destinations/:name/resume", h.resumeDestination, write)
	v1.GET("/flows", h.listFlows, read)
	v1.GET("/flows/:name", h.getFlow, read)
	v1.PUT("/flows/:name", h.put(directory.KindFlow, h.getFlow), write)
	v1.POST("/flows/:name/preview", h.previewFlow, read)
	v1.DELETE("/flows/:name", h.remove(directory.KindFlow), write)

	v1.GET("/projects", h.listProjects, instance)
	v1.GET("/projects/:name", h.getProject, instance)
	v1.PUT("/projects/:name", h.putProject, instance)
	v1.DELETE("/projects/:name", h.deleteProject, instance)
	v1.GET("/api-keys", h.listKeys, admin)
	v1.POST("/api-keys", h.postKey, admin)
	v1.DELETE("/api-keys/:id", h.deleteKey, admin)

	// Third parties, in Tiledesk's shapes.
	e.POST("/api/:project/subscriptions", h.postSubscription, admin)
	e.GET("/api/:project/subscriptions", h.listSubscriptions, read)
	e.GET("/api/:project/subscriptions/:id", h.getSubscription, read)
	e.DELETE("/api/:project/subscriptions/:id", h.deleteSubscription, admin)
	h.cfg.Metrics.Routes(patterns(e))
	return e
}

// echo returns an empty router with our error handler and middleware; what is
// given stands around them.
func (h *Handlers) echo(around ...echo.MiddlewareFunc) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = h.answerError
	e.JSONSerializer = plainJSON{}
	e.Use(append(around, h.observe)...)
	return e
}

// plainJSON writes answers as people read them: by default Go escapes what
// HTML would mark up, so that a detail said \u003capi key\u003e. No browser is
// to take an answer for a page, which nosniff says.
type plainJSON struct{ echo.DefaultJSONSerializer }

// Serialize writes v as one line.
func (plainJSON) Serialize(c echo.Context, v any, _ string) error {
	c.Response().Header().Set("X-Content-Type-Options", "nosniff")
	enc := json.NewEncoder(c.Response())
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// patterns lists the patterns of all routes.
func patterns(e *echo.Echo) (list []string) {
	for _, r := range e.Routes() {
		list = append(list, r.Path)
	}
	return list
}

// count counts answers by their route's pattern. An error is answered here,
// since only its answer has a status.
func (h *Handlers) count(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := next(c); err != nil {
			c.Error(err)
		}
		h.cfg.Metrics.Answered(c.Path(), c.Response().Status)
		return nil
	}
}

var errRequestTimeout = errors.New("the request took too long")

// within bounds what a request may wait for.
func (h *Handlers) within(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		limit, cause := requestTimeout, errRequestTimeout
		switch {
		case strings.HasPrefix(c.Path(), "/in/"):
			limit, cause = h.answerIn, errAnswerTimeout
		case strings.HasPrefix(c.Path(), "/return/") && wantsNews(c.Request()):
			limit, cause = newsFor, errNewsFor
		}
		ctx, cancel := context.WithTimeoutCause(c.Request().Context(), limit, cause)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		return next(c)
	}
}

// observe turns a panic into an error, and marks every answer as nobody's to
// cache.
func (h *Handlers) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		c.Response().Header().Set("Cache-Control", "no-store")
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler { //nolint:errorlint // a sentinel that is panicked, never wrapped
					panic(v)
				}
				err = &panicError{value: v, stack: stack()}
			}
		}()
		return next(c)
	}
}

// wantsHTML reports whether a person's browser asks.
func wantsHTML(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}
