package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The bounds of reading the backlog: however many scrape, the database is
// asked once in backlogAge, and a database that hangs holds up no scrape.
const (
	backlogAge     = 5 * time.Second
	backlogTimeout = 3 * time.Second
)

var (
	overdueDesc = prometheus.NewDesc("relay_waits_overdue",
		"Waits that are pending more than 5 s after their deadline; 100001 means more than 100000.", nil, nil)
	unresumedDesc = prometheus.NewDesc("relay_paid_not_resumed",
		"Waits that were paid or filled in and whose conversation was not told: the delivery is dead, held or unknown, or still owed after 60 s.", nil, nil)
	oldestDesc = prometheus.NewDesc("relay_delivery_oldest_due_seconds",
		"For how long the oldest delivery has been due without being taken, 0 where none is.", nil, nil)
	deliveriesDesc = prometheus.NewDesc("relay_deliveries",
		"Deliveries that are owed or need a person, by status; 100001 means more than 100000.", []string{"status"}, nil)
	heldDesc = prometheus.NewDesc("relay_destination_held",
		"1 for each destination that is held, since it refuses its credentials; at most 200 of them.", []string{"project", "destination"}, nil)
	lastEventDesc = prometheus.NewDesc("relay_source_last_event_timestamp_seconds",
		"When a source last had a genuine callback on any node, as Unix time.", []string{"project", "source"}, nil)
	clearedDesc = prometheus.NewDesc("relay_retention_behind_seconds",
		"For how long retention has not come to its end in some project: what should be gone is older by no more than that.", []string{"kind"}, nil)
	hooksDesc = prometheus.NewDesc("relay_hooks",
		"Hooks that are owed or dead, of the first 100001 of both.", []string{"status"}, nil)
	oldestHookDesc = prometheus.NewDesc("relay_hook_oldest_owed_seconds",
		"How long ago the oldest of these hooks that is owed happened, 0 where none is.", nil, nil)
	remotesDesc = prometheus.NewDesc("relay_remote_subscriptions_failing",
		"Subscriptions of sources at their platforms whose last look has failed; 100001 means more than 100000.", nil, nil)
	scrapeErrorsDesc = prometheus.NewDesc("relay_scrape_errors_total",
		"Times that the database could not be read for its metrics, which are missing then.", nil, nil)
)

// openStatuses are the states of deliveries that are not over.
var openStatuses = []relay.DeliveryStatus{relay.Scheduled, relay.Sending, relay.Unknown, relay.Held, relay.Dead}

// backlog tells what the database owes, as read at most backlogAge ago.
type backlog struct {
	store   *store.Store
	sources *sources
	age     time.Duration // backlogAge, but for tests
	timeout time.Duration // backlogTimeout, but for tests

	mu     sync.Mutex // held while reading, so that scrapes wait for one read
	last   store.Backlog
	failed bool // the last read did
	readAt time.Time
	errors float64
}

// Describe implements prometheus.Collector.
func (b *backlog) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		overdueDesc, unresumedDesc, oldestDesc, deliveriesDesc, heldDesc, lastEventDesc, clearedDesc, hooksDesc, oldestHookDesc, remotesDesc,
		scrapeErrorsDesc,
	} {
		ch <- desc
	}
}

// Collect tells the backlog; where it cannot be read, that alone.
func (b *backlog) Collect(ch chan<- prometheus.Metric) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read()
	ch <- prometheus.MustNewConstMetric(scrapeErrorsDesc, prometheus.CounterValue, b.errors)
	if b.failed {
		return
	}
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	gauge(overdueDesc, float64(b.last.WaitsOverdue))
	gauge(unresumedDesc, float64(b.last.PaidNotResumed))
	gauge(oldestDesc, b.last.OldestDue.Seconds())
	for _, held := range b.last.Held {
		gauge(heldDesc, 1, held.Project, held.Name)
	}
	for _, status := range openStatuses {
		gauge(deliveriesDesc, float64(b.last.Deliveries[status]), string(status))
	}
	for kind, behind := range b.last.ClearingBehind {
		gauge(clearedDesc, behind.Seconds(), string(kind))
	}
	gauge(hooksDesc, float64(b.last.HooksOwed), string(relay.Scheduled))
	gauge(hooksDesc, float64(b.last.HooksDead), string(relay.Dead))
	gauge(oldestHookDesc, b.last.OldestHook.Seconds())
	gauge(remotesDesc, float64(b.last.RemotesFailing))
	for src, at := range b.lastEvents() {
		gauge(lastEventDesc, float64(at.UnixMilli())/1000, src.project, src.name)
	}
}

// read reads the backlog where what is known is too old; a failure is not
// repeated sooner. The caller holds mu.
func (b *backlog) read() {
	if !b.readAt.IsZero() && time.Since(b.readAt) < b.age {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	last, err := b.store.Backlog(ctx)
	b.last, b.failed, b.readAt = last, err != nil, time.Now()
	if err != nil {
		b.errors++
	}
}

// lastEvents returns the last event of each source with a label, and the last
// one of all others.
func (b *backlog) lastEvents() map[*source]time.Time {
	out := map[*source]time.Time{}
	for _, last := range b.last.LastEvents {
		if src := b.sources.of(last.SourceID); last.At.After(out[src]) {
			out[src] = last.At
		}
	}
	return out
}

var (
	poolConnectionsDesc = prometheus.NewDesc("relay_pool_connections",
		"Connections to the database: in use, idle, and how many there may be.", []string{"pool", "state"}, nil)
	poolWaitsDesc = prometheus.NewDesc("relay_pool_waits_total",
		"Times that no connection of a pool was idle: one was opened or waited for.", []string{"pool"}, nil)
	poolWaitDesc = prometheus.NewDesc("relay_pool_wait_seconds_total",
		"Time spent waiting for a connection of a pool.", []string{"pool"}, nil)
)

// pools tells how busy the connections to the database are.
type pools struct{ store *store.Store }

// Describe implements prometheus.Collector.
func (p pools) Describe(ch chan<- *prometheus.Desc) {
	ch <- poolConnectionsDesc
	ch <- poolWaitsDesc
	ch <- poolWaitDesc
}

// Collect implements prometheus.Collector.
func (p pools) Collect(ch chan<- prometheus.Metric) {
	for name, use := range p.store.Pools() {
		for state, n := range map[string]int32{"acquired": use.Acquired, "idle": use.Idle, "max": use.Max} {
			ch <- prometheus.MustNewConstMetric(poolConnectionsDesc, prometheus.GaugeValue, float64(n), name, state)
		}
		ch <- prometheus.MustNewConstMetric(poolWaitsDesc, prometheus.CounterValue, float64(use.Waits), name)
		ch <- prometheus.MustNewConstMetric(poolWaitDesc, prometheus.CounterValue, use.Waited.Seconds(), name)
	}
}
