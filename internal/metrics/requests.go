package metrics

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

var requestsDesc = prometheus.NewDesc("relay_http_requests_total",
	"Answered requests of the public listener, by the pattern of their route and the class of their status.",
	[]string{"route", "code"}, nil)

// otherRoute is the label of requests that no route takes.
const otherRoute = "other"

// requests counts answers. Its routes do not change once it counts.
type requests struct {
	routes map[string]*answers
	other  *answers
}

// answers counts by the first digit of the status.
type answers [6]atomic.Uint64

func newRequests() *requests { return &requests{routes: map[string]*answers{}, other: &answers{}} }

func (r *requests) add(patterns []string) {
	for _, pattern := range patterns {
		if r.routes[pattern] == nil {
			r.routes[pattern] = &answers{}
		}
	}
}

func (r *requests) count(pattern string, status int) {
	a := r.routes[pattern]
	if a == nil {
		a = r.other
	}
	if class := status / 100; class > 0 && class < len(a) {
		a[class].Add(1)
	}
}

// Describe implements prometheus.Collector.
func (r *requests) Describe(ch chan<- *prometheus.Desc) { ch <- requestsDesc }

// Collect tells what has been counted, without what has never happened.
func (r *requests) Collect(ch chan<- prometheus.Metric) {
	r.other.collect(ch, otherRoute)
	for pattern, a := range r.routes {
		a.collect(ch, pattern)
	}
}

func (a *answers) collect(ch chan<- prometheus.Metric, route string) {
	for class := range a {
		if n := a[class].Load(); n > 0 {
			ch <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(n), route, strconv.Itoa(class)+"xx")
		}
	}
}
