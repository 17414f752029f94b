package handlers_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"relay.example/relay/internal/handlers"
	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/metrics"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
)

// TestStrangersMakeNoLabels sends what only strangers send, ten thousand times
// each time another, and holds that the page of metrics does not grow.
func TestStrangersMakeNoLabels(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	log := leaks.Logger(t)
	m, err := metrics.New(metrics.Config{
		Registry: prometheus.NewRegistry(), Store: n.store, Log: log,
		Source: func(id int64) (string, string, bool) {
			src := n.directory.Current().SourceByID(id)
			return relay.DefaultProject, src.Name, true
		},
	})
	must(t, err)
	in, err := intake.New(intake.Config{Store: n.store, Plans: plan.NewCache(n.store.Plan), HandOver: n.handOver, Metrics: m, Log: log})
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = in.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	h, err := handlers.New(handlers.Config{
		Store: n.store, Directory: n.directory, Intake: in, Plans: plan.NewCache(n.store.Plan),
		HandOver: n.handOver, Wake: n.wake, PublicURL: publicURL, Metrics: m, Log: log,
	})
	must(t, err)
	h.SetAnswerTimeout(patience)
	public, ops := h.Server().Handler, h.OpsServer().Handler
	send := func(handler http.Handler, method, path string) *httptest.ResponseRecorder {
		for {
			rec := httptest.NewRecorder()
			handler.ServeHTTP(rec, httptest.NewRequest(method, path, strings.NewReader("stranger=1")))
			// Where the database stands still nobody knows who is a stranger.
			if rec.Code != http.StatusServiceUnavailable {
				return rec
			}
		}
	}
	series := func() (count int, page string) {
		page = send(ops, http.MethodGet, "/metrics").Body.String()
		for line := range strings.Lines(page) {
			if strings.Contains(line, `code="5xx"`) {
				continue
			}
			if strings.HasPrefix(line, "relay_http_requests_total") || strings.HasPrefix(line, "relay_events_total") {
				count++
			}
		}
		return count, page
	}
	asked := func(from, to int) {
		for i := from; i < to; i++ {
			stranger := "stranger-" + strconv.Itoa(i)
			send(public, http.MethodPost, "/in/default/"+stranger)
			send(public, http.MethodPost, "/in/"+stranger+"/stripe")
			send(public, http.MethodPost, "/in/default/stripe/"+stranger) // forged
			send(public, http.MethodGet, "/go/"+stranger)
			send(public, http.MethodGet, "/"+stranger+"/x")
			send(public, http.MethodPost, "/bots/haptik/"+stranger+"/"+stranger)
			send(public, "STRANGER"+strconv.Itoa(i), "/v1/events")
		}
	}
	asked(0, 100)
	before, _ := series()
	asked(100, 10_000)
	after, page := series()
	if after != before || before == 0 {
		t.Errorf("series: got %d, want the %d that there were after the first hundred", after, before)
	}
	if strings.Contains(strings.ToLower(page), "stranger") {
		t.Error("what a stranger sent became a label")
	}
	for line, want := range map[string]string{
		`relay_events_total{match="unmatched",project="default",source="stripe",verdict="rejected"} `: "10000",
		`relay_http_requests_total{code="4xx",route="/in/:project/:source"} `:                         "20000",
		`relay_http_requests_total{code="4xx",route="/in/:project/:source/*"} `:                       "10000",
		`relay_http_requests_total{code="4xx",route="/bots/haptik/:project/:flow"} `:                  "10000",
	} {
		_, rest, _ := strings.Cut(page, line)
		if got, _, _ := strings.Cut(rest, "\n"); got != want {
			t.Errorf("%s: got %q, want %s", line, got, want)
		}
	}
}
