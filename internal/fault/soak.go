package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// sample is what was seen at the end of one piece of a long load.
type sample struct {
	at         time.Duration // since the load began
	memory     float64       // resident bytes of the node that has most
	goroutines float64       // of the node that has most
	tables     float64       // bytes
	indexes    float64       // bytes
	waited     float64       // seconds for connections to the database so far, on the node that waited most
	accepted   float64       // callbacks so far
	ack        time.Duration // 99th percentile of an answer, in this piece
	resume     time.Duration // and from 200 to the resume
}

// pieces is how many samples a long load is cut into; a minute is the longest.
const pieces = 30

// soak lets payers pay for a long time with nothing broken, and looks for what
// grows.
func soak(ctx context.Context, w *world, length time.Duration) *books {
	b := &books{fault: fmt.Sprintf("nothing is broken for %s", length)}
	l := w.newLoad()
	began := time.Now()
	l.begin(ctx, rate)
	samples, err := w.watchLoad(ctx, l, length)
	ended := time.Now()
	if err := errors.Join(err, l.end(ctx)); err != nil {
		b.complain("%v", err)
	}
	if ctx.Err() == nil {
		b.close(ctx, w, l, began, ended)
	}
	b.judgeTrend("a soak", samples, slices.Concat(ofNodes, ofAnswers, ofDatabase))
	return b
}

// watchLoad takes samples for so long while payers pay.
func (w *world) watchLoad(ctx context.Context, l *load, length time.Duration) (samples []sample, err error) {
	began := time.Now()
	for seen := 0; time.Since(began) < length; {
		if err := pause(ctx, min(time.Minute, length/pieces)); err != nil {
			return samples, err
		}
		s, err := w.sample(ctx)
		if err != nil {
			return samples, err
		}
		recent := l.since(&seen)
		s.at, s.accepted = time.Since(began), float64(seen)
		s.ack, s.resume = ackP99(recent), w.resumeP99(recent)
		samples = append(samples, s)
		w.say("%s", s)
	}
	return samples, nil
}

// since returns the payments that came after the first seen ones, and counts
// them as seen.
func (l *load) since(seen *int) []payment {
	l.mu.Lock()
	defer l.mu.Unlock()
	recent := l.payments[*seen:]
	*seen = len(l.payments)
	return recent
}

func ackP99(payments []payment) time.Duration {
	var took []time.Duration
	for _, p := range payments {
		took = append(took, p.took)
	}
	return percentile(took, 0.99)
}

var (
	memoryLine     = regexp.MustCompile(`(?m)^process_resident_memory_bytes (\S+)$`)
	goroutinesLine = regexp.MustCompile(`(?m)^go_goroutines (\S+)$`)
	waitedLine     = regexp.MustCompile(`(?m)^relay_pool_wait_seconds_total\{pool="hot"\} (\S+)$`)
)

// sample asks nodes and database how big they are.
func (w *world) sample(ctx context.Context) (s sample, err error) {
	for _, n := range w.nodes {
		a, err := w.balancer.ask(ctx, n.ops+"/metrics")
		if err != nil {
			return s, err
		}
		memory, err1 := gauge(memoryLine, a.body)
		goroutines, err2 := gauge(goroutinesLine, a.body)
		waited, err3 := gauge(waitedLine, a.body)
		if err := errors.Join(err1, err2, err3); err != nil {
			return s, fmt.Errorf("%s: %w", n.name, err)
		}
		s.memory, s.goroutines, s.waited = max(s.memory, memory), max(s.goroutines, goroutines), max(s.waited, waited)
	}
	s.tables, s.indexes, err = w.servers[0].sizes(ctx)
	return s, err
}

func gauge(line *regexp.Regexp, page []byte) (float64, error) {
	found := line.FindSubmatch(page)
	if found == nil {
		return 0, fmt.Errorf("no line %s among the metrics", line)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}

// sizes returns the bytes of all tables and of all indexes.
func (s *server) sizes(ctx context.Context) (tables, indexes float64, err error) {
	out, err := s.ask(ctx, `SELECT sum(pg_table_size(oid)), sum(pg_indexes_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace`)
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(out, &tables, &indexes)
	return tables, indexes, err
}

// String is s as a line of text.
func (s sample) String() string {
	return fmt.Sprintf("%8s  %7.0f callbacks  node %3.0f MB, %3.0f goroutines  tables %4.0f MB, indexes %4.0f MB  p99 answer %s, resume %s  waited %.1f s for the database",
		s.at.Round(time.Second), s.accepted, s.memory/(1<<20), s.goroutines, s.tables/(1<<20), s.indexes/(1<<20),
		milliseconds(s.ack), milliseconds(s.resume), s.waited)
}

// trend is something that may not grow: the second half of a long load may have
// at most so many times what the first half had, and so much more for noise.
// The first quarter fills caches and queues and is not looked at.
type trend struct {
	what    string
	times   float64
	noise   float64
	unit    string
	divisor float64
	value   func(before, s sample) float64
}

// What may not grow.
var (
	ofNodes = []trend{
		{"memory of a node", 1.25, 16 << 20, "MB", 1 << 20, func(_, s sample) float64 { return s.memory }},
		{"goroutines of a node", 1.25, 20, "", 1, func(_, s sample) float64 { return s.goroutines }},
	}
	ofAnswers = []trend{
		{"99th percentile of an answer", 2, 0.05, "ms", 0.001, func(_, s sample) float64 { return s.ack.Seconds() }},
		{"99th percentile of a resume", 2, 0.05, "ms", 0.001, func(_, s sample) float64 { return s.resume.Seconds() }},
	}
	ofDatabase = []trend{
		{"growth of the tables per callback", 1.25, 512, "bytes", 1, func(b, s sample) float64 { return (s.tables - b.tables) / (s.accepted - b.accepted) }},
		{"growth of the indexes per callback", 1.25, 512, "bytes", 1, func(b, s sample) float64 { return (s.indexes - b.indexes) / (s.accepted - b.accepted) }},
	}
)

// judgeTrend compares the halves.
func (b *books) judgeTrend(of string, samples []sample, trends []trend) {
	samples = samples[len(samples)/4:]
	if len(samples) < 5 {
		b.complain("%d samples are too few to show a trend", len(samples))
		return
	}
	half := len(samples) / 2
	for _, t := range trends {
		var sums [2]float64
		for i := 1; i < len(samples); i++ {
			sums[min(1, (i-1)/half)] += t.value(samples[i-1], samples[i])
		}
		first, second := sums[0]/float64(half), sums[1]/float64(len(samples)-1-half)
		b.find(t.what+", second half of "+of,
			fmt.Sprintf("%.0f %s, after %.0f", second/t.divisor, t.unit, first/t.divisor),
			fmt.Sprintf("%.4g × + %.0f %s", t.times, t.noise/t.divisor, t.unit),
			second <= first*t.times+t.noise)
	}
}
