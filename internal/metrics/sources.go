package metrics

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"relay.example/relay/internal/relay"
)

// maxSources is how many sources have a label of their own. The events of
// those that come later are told together, as the source `other` without a
// project; no project or source can have an empty name.
const maxSources = 200

// otherSource is the label of the sources beyond maxSources.
const otherSource = "other"

var eventsDesc = prometheus.NewDesc("relay_events_total",
	"Received callbacks, by source and by what became of them.", []string{"project", "source", "verdict", "match"}, nil)

// The label values of an event.
var (
	verdicts = [...]relay.Verdict{relay.Verified, relay.Unsigned, relay.Rejected, relay.Fetched}
	matches  = [...]relay.Match{
		relay.Matched, relay.Parked, relay.Late, relay.MatchedAgain, relay.Duplicate,
		relay.Ignored, relay.GuardFailed, relay.Ambiguous, relay.OtherProject, relay.Unmatched,
	}
)

// source is one source with a label, and its events.
type source struct {
	id            int64 // 0: all others
	project, name string
	events        [len(verdicts)][len(matches)]atomic.Uint64
}

func (s *source) count(verdict relay.Verdict, match relay.Match) {
	v, m := slices.Index(verdicts[:], verdict), slices.Index(matches[:], match)
	if v >= 0 && m >= 0 {
		s.events[v][m].Add(1)
	}
}

// sources gives the first maxSources sources that it meets a label of their
// own, for as long as the node runs: a deleted source's counters must not
// start again from nothing when its name comes back.
type sources struct {
	find  func(id int64) (project, name string, known bool)
	other *source
	known atomic.Pointer[map[int64]*source] // replaced whole, so that counting takes no lock
	mu    sync.Mutex                        // held to replace known
}

func newSources(find func(int64) (string, string, bool)) *sources {
	s := &sources{find: find, other: &source{name: otherSource}}
	s.known.Store(&map[int64]*source{})
	return s
}

// of returns the source whose label an event of that id has.
func (s *sources) of(id int64) *source {
	if src := (*s.known.Load())[id]; src != nil {
		return src
	}
	return s.meet(id)
}

// meet gives a source its label, while there are some left. A source that was
// deleted and made anew goes on with the label it had.
func (s *sources) meet(id int64) *source {
	project, name, known := s.find(id)
	if !known {
		return s.other
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := *s.known.Load()
	if src := before[id]; src != nil {
		return src // met by somebody else meanwhile
	}
	src := &source{id: id, project: project, name: name}
	for old, had := range before {
		if had.project == project && had.name == name {
			return s.replace(before, old, had, id)
		}
	}
	if len(before) >= maxSources {
		return s.other
	}
	return s.replace(before, 0, src, id)
}

// replace puts src in the place of an old id under a new one. The caller holds
// mu.
func (s *sources) replace(before map[int64]*source, old int64, src *source, id int64) *source {
	after := maps.Clone(before)
	delete(after, old)
	after[id] = src
	s.known.Store(&after)
	return src
}

// Describe implements prometheus.Collector.
func (s *sources) Describe(ch chan<- *prometheus.Desc) { ch <- eventsDesc }

// Collect tells what has been counted. What has never happened is left out:
// most sources meet a few of the forty cases.
func (s *sources) Collect(ch chan<- prometheus.Metric) {
	s.other.collect(ch)
	for _, src := range *s.known.Load() {
		src.collect(ch)
	}
}

func (s *source) collect(ch chan<- prometheus.Metric) {
	for v, verdict := range verdicts {
		for m, match := range matches {
			if n := s.events[v][m].Load(); n > 0 {
				ch <- prometheus.MustNewConstMetric(eventsDesc, prometheus.CounterValue, float64(n),
					s.project, s.name, string(verdict), string(match))
			}
		}
	}
}
