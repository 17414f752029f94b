// Package metrics counts what a node does and tells what the database owes,
// in Prometheus' form.
//
// What is always true: label values come from lists that are fixed when the
// node starts (states, classes, routes) or bounded while it runs (sources).
// Nothing that a stranger sends becomes a label. What a callback costs is a
// few atomic additions: nothing is looked up by its labels, and nothing is
// allocated.
//
// When things fail: a database that cannot be read takes the metrics that are
// read from it off the page, and is counted; everything else is still told.
//
// A nil *Metrics counts nothing, so that the parts of a node run without one.
package metrics

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// maxScrapes is how many scrapes are answered at the same time; more get 503.
const maxScrapes = 4

// The bounds of the histograms, in seconds and in requests. The promises stand
// among them: an answer within 3 s, an attempt within its 10 s.
var (
	ackBuckets    = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 3}
	resumeBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 600}
	batchBuckets  = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256}
)

// Config is what Metrics are made of.
type Config struct {
	Registry *prometheus.Registry // of this node alone
	Store    *store.Store         // what is owed is read from it
	// Source names a source. Any number of goroutines may call it.
	Source          func(id int64) (project, name string, known bool)
	Version, Commit string // of this program
	Log             *slog.Logger
}

// Metrics are the metrics of one node. They are safe for concurrent use.
type Metrics struct {
	handler  http.Handler
	sources  *sources
	backlog  *backlog
	requests *requests
	ack      prometheus.Histogram
	resume   prometheus.Histogram
	batches  []prometheus.Histogram // by batchKinds
	shed     []prometheus.Counter   // by batchKinds
	attempts []prometheus.Counter   // by classes
	ended    []prometheus.Counter   // by endings
	asked    []prometheus.Counter   // by answered
	breakers prometheus.Gauge
	cleared  []prometheus.Counter // by clearings
	hooks    []prometheus.Counter // attempts, by classes
	told     []prometheus.Counter // by hookEndings
}

// BatchKind says what is committed together.
type BatchKind string

// The kinds of batches.
const (
	Callbacks     BatchKind = "callbacks"
	Registrations BatchKind = "registrations"
	Attempts      BatchKind = "attempts"
)

// The fixed label values.
var (
	batchKinds = []BatchKind{Callbacks, Registrations, Attempts}
	intakes    = batchKinds[:2]
	classes    = []relay.Class{relay.OK, relay.Permanent, relay.Retry, relay.Credentials, relay.NoAnswer}
	answered   = []relay.Answered{relay.AnswerFound, relay.AnswerNone, relay.AnswerRefused, relay.AnswerFailed}
	endings    = []relay.DeliveryStatus{relay.Delivered, relay.Dead, relay.Skipped}
	clearings  = append(kindsOfClearing(), ClearedNames, ClearedHooks)

	hookEndings = []relay.DeliveryStatus{relay.Delivered, relay.Dead}
)

// Kinds of what is cleared that are of all projects together.
const (
	ClearedNames = "name" // of waits that retention has deleted
	ClearedHooks = "hook" // that are dead for long, or that nobody is left to hear
)

func kindsOfClearing() []string {
	kinds := make([]string, len(store.Clearings))
	for i, kind := range store.Clearings {
		kinds[i] = string(kind)
	}
	return kinds
}

// New registers the metrics of a node.
func New(cfg Config) (*Metrics, error) {
	if cfg.Registry == nil || cfg.Store == nil || cfg.Source == nil || cfg.Log == nil {
		return nil, errors.New("metrics: Config has a field that is nil")
	}
	names := newSources(cfg.Source)
	m := &Metrics{
		sources:  names,
		backlog:  &backlog{store: cfg.Store, sources: names, age: backlogAge, timeout: backlogTimeout},
		requests: newRequests(),
		ack: histogram("relay_ack_seconds", ackBuckets, nil,
			"From a callback's headers to its acknowledgement, of callbacks that were accepted."),
		resume: histogram("relay_resume_seconds", resumeBuckets, nil,
			"From the callback, or the deadline or call that fired, to the platform's answer that it has acted."),
		shed: counters("relay_intake_shed_total", "of", intakes,
			"Callbacks and registrations that this node could not commit and answered 503."),
		attempts: counters("relay_delivery_attempts_total", "class", classes,
			"Attempts to make a delivery, by what the answer meant."),
		ended: counters("relay_deliveries_ended_total", "status", endings,
			"Deliveries that this node brought to an end."),
		asked: counters("relay_questions_asked_total", "result", answered,
			"Requests to providers, to ask whose an event is or what became of a payment."),
		breakers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "relay_breakers_open", Help: "Destinations that do not answer this node, which calls them no more but for a probe.",
		}),
		cleared: counters("relay_retention_rows_total", "kind", clearings,
			"Rows that this node has blanked or deleted because they are kept no longer."),
		hooks: counters("relay_hook_attempts_total", "class", classes,
			"Attempts to tell a subscriber, by what the answer meant."),
		told: counters("relay_hooks_ended_total", "status", hookEndings,
			"Hooks that this node has delivered, or given up."),
	}
	for _, kind := range batchKinds {
		m.batches = append(m.batches, histogram("relay_batch_size", batchBuckets, prometheus.Labels{"of": string(kind)},
			"Requests in one commit."))
	}
	return m, m.register(cfg)
}

func (m *Metrics) register(cfg Config) error {
	all := []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(cfg.Version, cfg.Commit), m.ack, m.resume, m.sources, m.requests,
		m.backlog, m.breakers,
		pools{cfg.Store},
	}
	for _, h := range m.batches {
		all = append(all, h)
	}
	for _, c := range slices.Concat(m.shed, m.attempts, m.ended, m.asked, m.cleared, m.hooks, m.told) {
		all = append(all, c)
	}
	for _, c := range all {
		if err := cfg.Registry.Register(c); err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	m.handler = promhttp.HandlerFor(cfg.Registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
	})
	return nil
}

func histogram(name string, buckets []float64, labels prometheus.Labels, help string) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets, ConstLabels: labels})
}

// counters makes one counter for each value of a label, so that counting looks
// nothing up.
func counters[L ~string](name, label string, values []L, help string) []prometheus.Counter {
	out := make([]prometheus.Counter, len(values))
	for i, v := range values {
		out[i] = prometheus.NewCounter(prometheus.CounterOpts{
			Name: name, Help: help, ConstLabels: prometheus.Labels{label: string(v)},
		})
	}
	return out
}

// count adds one to the counter of a value. A value that is none of them is
// counted nowhere.
func count[L ~string](counters []prometheus.Counter, values []L, v L) {
	if i := slices.Index(values, v); i >= 0 {
		counters[i].Inc()
	}
}

func buildInfo(version, commit string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "relay_build_info", Help: "1, with what this program is.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit, "go": runtime.Version()},
	})
	g.Set(1)
	return g
}

// Handler answers scrapes.
func (m *Metrics) Handler() http.Handler { return m.handler }

// Event counts a received callback by what became of it.
func (m *Metrics) Event(sourceID int64, verdict relay.Verdict, match relay.Match) {
	if m == nil {
		return
	}
	m.sources.of(sourceID).count(verdict, match)
}

// Acknowledged notes how long a callback waited for its acknowledgement.
func (m *Metrics) Acknowledged(took time.Duration) {
	if m == nil {
		return
	}
	m.ack.Observe(took.Seconds())
}

// Batches is commit, with the size of each batch noted.
func Batches[Req, Res any](m *Metrics, of BatchKind, commit func([]Req) []Res) func([]Req) []Res {
	i := slices.Index(batchKinds, of)
	if m == nil || i < 0 {
		return commit
	}
	return func(batch []Req) []Res {
		m.batches[i].Observe(float64(len(batch)))
		return commit(batch)
	}
}

// Shed counts a request that could not be committed just now.
func (m *Metrics) Shed(of BatchKind) {
	if m == nil {
		return
	}
	count(m.shed, intakes, of)
}

// Attempted counts an attempt to make a delivery.
func (m *Metrics) Attempted(class relay.Class) {
	if m == nil {
		return
	}
	count(m.attempts, classes, class)
}

// Ended counts a delivery that has come to an end; one that is still owed is
// not counted.
func (m *Metrics) Ended(status relay.DeliveryStatus) {
	if m == nil {
		return
	}
	count(m.ended, endings, status)
}

// HookAttempted counts an attempt to tell a subscriber.
func (m *Metrics) HookAttempted(class relay.Class) {
	if m == nil {
		return
	}
	count(m.hooks, classes, class)
}

// HookEnded counts a hook that was delivered or given up; one that is still
// owed is not counted.
func (m *Metrics) HookEnded(status relay.DeliveryStatus) { m.HooksEnded(status, 1) }

// HooksEnded counts some of them.
func (m *Metrics) HooksEnded(status relay.DeliveryStatus, n int) {
	if m == nil {
		return
	}
	if i := slices.Index(hookEndings, status); i >= 0 {
		m.told[i].Add(float64(n))
	}
}

// Asked counts a request to a provider by what its answer was worth.
func (m *Metrics) Asked(result relay.Answered) {
	if m == nil {
		return
	}
	count(m.asked, answered, result)
}

// Breaker counts a breaker that has opened, or closed again.
func (m *Metrics) Breaker(open bool) {
	if m == nil {
		return
	}
	if open {
		m.breakers.Inc()
	} else {
		m.breakers.Dec()
	}
}

// Cleared counts rows of one kind that are kept no longer.
func (m *Metrics) Cleared(kind string, rows int) {
	if m == nil {
		return
	}
	if i := slices.Index(clearings, kind); i >= 0 {
		m.cleared[i].Add(float64(rows))
	}
}

// Resumed notes how long a conversation waited: since its callback came in,
// or since the delivery was made where there was none. Their ids tell when.
func (m *Metrics) Resumed(eventID, deliveryID uuid.UUID, at time.Time) {
	if m == nil {
		return
	}
	cause := eventID
	if cause == uuid.Nil {
		cause = deliveryID
	}
	m.resume.Observe(max(0, at.Sub(relay.MadeAt(cause)).Seconds()))
}

// Routes names the routes of which requests are counted apart. It is called
// before the first Answered.
func (m *Metrics) Routes(patterns []string) {
	if m == nil {
		return
	}
	m.requests.add(patterns)
}

// Answered counts a request by the pattern of its route and its answer's
// status.
func (m *Metrics) Answered(pattern string, status int) {
	if m == nil {
		return
	}
	m.requests.count(pattern, status)
}
