package metrics_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/metrics"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// numbered names the source of an id after it; those above 1e6 are unknown.
func numbered(id int64) (project, name string, known bool) {
	return "shop", "source-" + strconv.FormatInt(id, 10), id <= 1e6
}

func newMetrics(t testing.TB, s *store.Store, source func(int64) (string, string, bool)) *metrics.Metrics {
	t.Helper()
	m, err := metrics.New(metrics.Config{
		Registry: prometheus.NewRegistry(), Store: s, Source: source,
		Version: "v1.2.3", Commit: "abc", Log: leaks.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	metrics.SetBacklog(m, time.Hour, time.Minute) // however slow this machine is, one read is told in a test
	return m
}

// scrape returns the values of a page by their name and labels, as they stand
// there.
func scrape(t testing.TB, m *metrics.Metrics) map[string]string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("scrape: got %d, want 200: %s", rec.Code, rec.Body)
	}
	values := map[string]string{}
	for line := range strings.Lines(rec.Body.String()) {
		if at := strings.LastIndex(line, " "); at > 0 && !strings.HasPrefix(line, "#") {
			values[line[:at]] = strings.TrimSpace(line[at:])
		}
	}
	return values
}

func wantValues(t *testing.T, got, want map[string]string) {
	t.Helper()
	for series, value := range want {
		if got[series] != value {
			t.Errorf("%s: got %q, want %q", series, got[series], value)
		}
	}
}

func TestCounting(t *testing.T) {
	t.Parallel()
	m := newMetrics(t, storetest.New(t), numbered)
	m.Event(7, relay.Verified, relay.Matched)
	m.Event(7, relay.Verified, relay.Matched)
	m.Event(7, relay.Rejected, relay.Unmatched)
	m.Event(2e6, relay.Verified, relay.Matched) // of a source that is gone
	m.Event(7, "invented", "invented")
	m.Acknowledged(4 * time.Millisecond)
	now := time.Now()
	m.Resumed(relay.NewID(), uuid.Nil, now.Add(30*time.Millisecond))
	m.Resumed(uuid.Nil, relay.NewID(), now.Add(30*time.Second))
	m.Attempted(relay.NoAnswer)
	m.Attempted("invented")
	m.Ended(relay.Delivered)
	m.Ended(relay.Scheduled) // is no end
	for _, open := range []bool{true, true, false} {
		m.Breaker(open)
	}
	m.Shed(metrics.Registrations)
	m.Shed(metrics.Attempts) // is never shed
	metrics.Batches(m, metrics.Callbacks, func(batch []int) []int { return batch })([]int{1, 2, 3})
	m.Routes([]string{"/v1/events/:id"})
	m.Answered("/v1/events/:id", http.StatusNotFound)
	m.Answered("/v1/events/a-stranger's", http.StatusNotFound)
	m.Answered("/v1/events/:id", 99999)

	got := scrape(t, m)
	wantValues(t, got, map[string]string{
		`relay_events_total{match="matched",project="shop",source="source-7",verdict="verified"}`:   "2",
		`relay_events_total{match="unmatched",project="shop",source="source-7",verdict="rejected"}`: "1",
		`relay_events_total{match="matched",project="",source="other",verdict="verified"}`:          "1",
		`relay_ack_seconds_bucket{le="0.0025"}`:                                                     "0",
		`relay_ack_seconds_bucket{le="0.005"}`:                                                      "1",
		`relay_resume_seconds_bucket{le="0.025"}`:                                                   "0",
		`relay_resume_seconds_bucket{le="0.05"}`:                                                    "1",
		`relay_resume_seconds_bucket{le="10"}`:                                                      "1",
		`relay_resume_seconds_bucket{le="60"}`:                                                      "2",
		`relay_delivery_attempts_total{class="unknown"}`:                                            "1",
		`relay_delivery_attempts_total{class="ok"}`:                                                 "0",
		`relay_deliveries_ended_total{status="delivered"}`:                                          "1",
		`relay_deliveries_ended_total{status="dead"}`:                                               "0",
		`relay_intake_shed_total{of="registrations"}`:                                               "1",
		`relay_intake_shed_total{of="callbacks"}`:                                                   "0",
		`relay_batch_size_bucket{of="callbacks",le="2"}`:                                            "0",
		`relay_batch_size_bucket{of="callbacks",le="4"}`:                                            "1",
		`relay_http_requests_total{code="4xx",route="/v1/events/:id"}`:                              "1",
		`relay_http_requests_total{code="4xx",route="other"}`:                                       "1",
		`relay_breakers_open`:                                                                       "1",
		`relay_scrape_errors_total`:                                                                 "0",
	})
	for series := range got {
		if strings.Contains(series, "invented") || strings.Contains(series, "stranger") || strings.Contains(series, `"scheduled"`) && strings.Contains(series, "ended") {
			t.Errorf("a value of no list became a label: %s", series)
		}
	}
}

// TestNothingCounts holds that the parts of a node run without metrics.
func TestNothingCounts(t *testing.T) {
	t.Parallel()
	var m *metrics.Metrics
	m.Event(1, relay.Verified, relay.Matched)
	m.Acknowledged(time.Second)
	m.Resumed(relay.NewID(), relay.NewID(), time.Now())
	m.Attempted(relay.OK)
	m.Ended(relay.Dead)
	m.Breaker(true)
	m.Shed(metrics.Callbacks)
	m.Routes([]string{"/"})
	m.Answered("/", http.StatusOK)
	if got := metrics.Batches(m, metrics.Callbacks, func(batch []int) []int { return batch })([]int{1}); len(got) != 1 {
		t.Errorf("a batch that is not counted: got %v, want it committed", got)
	}
}

// TestSourcesAreBounded holds how many labels sources can make, whoever makes
// how many of them, at once and one after the other.
func TestSourcesAreBounded(t *testing.T) {
	t.Parallel()
	m := newMetrics(t, storetest.New(t), numbered)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for id := range int64(10_000) {
				m.Event(id+1, relay.Verified, relay.Matched)
				m.Event(id+2e6+int64(worker), relay.Verified, relay.Matched) // not there
			}
		})
	}
	wg.Wait()
	own, sum, others := 0, 0, 0
	for series, value := range scrape(t, m) {
		n, _ := strconv.Atoi(value)
		switch {
		case strings.HasPrefix(series, `relay_events_total{match="matched",project="",source="other"`):
			others = n
		case strings.HasPrefix(series, "relay_events_total"):
			own++
			sum += n
		}
	}
	if own != metrics.MaxSources || sum != 4*own || others != 80_000-sum {
		t.Errorf("10000 sources: got %d labels with %d events and %d others, want %d with 4 each and the rest", own, sum, others, metrics.MaxSources)
	}
}

// TestSourceMadeAnew holds that a source that was deleted and made anew, again
// and again, has one label and goes on counting.
func TestSourceMadeAnew(t *testing.T) {
	t.Parallel()
	var alive atomic.Int64
	m := newMetrics(t, storetest.New(t), func(id int64) (string, string, bool) { return "shop", "stripe", id == alive.Load() })
	for id := range int64(1000) {
		alive.Store(id + 1)
		m.Event(id+1, relay.Verified, relay.Matched)
		m.Event(id, relay.Verified, relay.Matched) // late, of the one before
	}
	wantValues(t, scrape(t, m), map[string]string{
		`relay_events_total{match="matched",project="shop",source="stripe",verdict="verified"}`: "1000",
		`relay_events_total{match="matched",project="",source="other",verdict="verified"}`:      "1000",
	})
}

// TestDatabaseGone holds that a scrape tells everything else, and says what is
// missing, when the database cannot be read.
func TestDatabaseGone(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	m := newMetrics(t, s, numbered)
	m.Acknowledged(time.Millisecond)
	s.Close()
	for range 3 { // asked once: a failure, too, is kept for a while
		got := scrape(t, m)
		wantValues(t, got, map[string]string{"relay_scrape_errors_total": "1", "relay_ack_seconds_count": "1"})
		for _, name := range []string{
			"relay_waits_overdue", "relay_paid_not_resumed", "relay_delivery_oldest_due_seconds", "relay_destination_held",
			`relay_deliveries{status="dead"}`,
		} {
			if v, told := got[name]; told {
				t.Errorf("%s: got %s, want nothing without a database", name, v)
			}
		}
	}
}

// TestBacklogIsKept holds that scrapes cannot load the database.
func TestBacklogIsKept(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	s := storetest.Open(t, url, storetest.Keys(t))
	p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
	m := newMetrics(t, s, numbered)
	if metrics.BacklogAge != 5*time.Second {
		t.Errorf("it is kept for %s, want 5 s", metrics.BacklogAge)
	}
	first := scrape(t, m)
	wantValues(t, first, map[string]string{"relay_waits_overdue": "0"})
	w := p.Wait(t, "u")
	storetest.Exec(t, url, `UPDATE deadlines SET expires_at = now() - interval '1 hour' WHERE correlation_id = $1`, w.ID)
	wantValues(t, scrape(t, m), map[string]string{"relay_waits_overdue": "0"})
	metrics.Forget(m)
	wantValues(t, scrape(t, m), map[string]string{"relay_waits_overdue": "1"})
}

// BenchmarkCallback is what one callback that resumes a conversation adds.
func BenchmarkCallback(b *testing.B) {
	m := newMetrics(b, storetest.New(b), numbered)
	m.Routes([]string{"/in/:project/:source", "/v1/correlations", "/v1/correlations/:id"})
	event, delivery, at := relay.NewID(), relay.NewID(), time.Now()
	batch := metrics.Batches(m, metrics.Callbacks, func(batch []int) []int { return batch })
	attempts := metrics.Batches(m, metrics.Attempts, func(batch []int) []int { return batch })
	one := []int{1}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Acknowledged(3 * time.Millisecond)
			m.Answered("/in/:project/:source", http.StatusOK)
			batch(one) // mostly shared by several
			m.Event(7, relay.Verified, relay.Matched)
			m.Attempted(relay.OK)
			attempts(one)
			m.Ended(relay.Delivered)
			m.Resumed(event, delivery, at)
		}
	})
}
