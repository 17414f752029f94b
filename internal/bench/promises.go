package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Sample is one measurement of one side of a pair: at a rate that a quiet node
// sees, and as fast as the relay resumes.
type Sample struct {
	Quiet Phase `json:"quiet"`
	Busy  Phase `json:"busy"`
}

// PairPlan says how pairs are measured.
type PairPlan struct {
	Plan          // its Duration is of the quiet loads
	Rounds    int // of with, without, without, with
	Callbacks int // of each busy load
}

// The bounds of a busy load.
const (
	busyTime   = 2 * time.Minute // it ends by its count; this is for a relay that does not answer
	warmedBy   = 1_000           // requests of each side that are not measured
	minSamples = 4               // of each side, for a difference to stand out
)

func (p *PairPlan) check() error {
	if err := checkBody(p.Body); err != nil {
		return err
	}
	if p.quiet() < 1 || p.Rounds < 1 || p.Callbacks < 1 || len(p.Connections) == 0 || slices.Min(p.Connections) < 1 {
		return fmt.Errorf("a pair takes a round or more, a callback or more, a connection or more, and time for one callback at %.0f/s", lowRate)
	}
	return nil
}

// quiet is how many requests a quiet load makes.
func (p *PairPlan) quiet() int { return int(lowRate * p.Duration.Seconds()) }

// Waits is about how many waits the measurement of one pair leaves behind.
func (p *PairPlan) Waits() int {
	return 4*p.Rounds*(p.quiet()+p.Callbacks) + 2*min(warmedBy, p.Callbacks)
}

// MeasurePairs measures a relay that runs, pair by pair.
func MeasurePairs(ctx context.Context, t Target, p PairPlan, names []string) (out []*Pair, err error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	b := newBench(t, p.Plan)
	for _, step := range []func(context.Context) error{b.configure, b.configurePairs} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		one, err := find(name)
		if err != nil {
			return nil, err
		}
		measured, err := b.pair(ctx, &p, &one)
		if err != nil {
			return nil, fmt.Errorf("measuring %s: %w", name, err)
		}
		out = append(out, measured)
	}
	return out, nil
}

// pair measures both sides in turn, so that neither gains by what the machine
// or the growing tables do meanwhile: with, without, without, with.
func (b *bench) pair(ctx context.Context, p *PairPlan, of *pair) (*Pair, error) {
	out := &Pair{Name: of.name, About: of.about, Registers: of.registers}
	defer func() { b.c.manner = usual }()
	for _, s := range []*side{&of.without, &of.with} {
		if _, err := b.busy(ctx, of, s, min(warmedBy, p.Callbacks)); err != nil {
			return nil, fmt.Errorf("warming up: %w", err)
		}
	}
	for range p.Rounds {
		for _, with := range []bool{true, false, false, true} {
			s, into, named := &of.with, &out.With, "with"
			if !with {
				s, into, named = &of.without, &out.Without, "without"
			}
			sample, err := b.sample(ctx, p, of, s)
			if err != nil {
				return nil, fmt.Errorf("%s it: %w", named, err)
			}
			*into = append(*into, sample)
			sample.Busy.Name = of.name + ", " + named
			b.p.Say("%s  quiet p99 %.1f ms", sample.Busy, worstOf(sample.Quiet))
		}
	}
	// What comes next finds the server as it was.
	return out, b.prepare(ctx, &of.with)
}

func worstOf(p Phase) float64 {
	worst, _ := worstP99(p)
	return worst
}

// sample measures one side: the quiet load first, because the dirty pages of
// the busy one would otherwise stand in its latencies.
func (b *bench) sample(ctx context.Context, p *PairPlan, of *pair, s *side) (out Sample, err error) {
	out.Quiet, err = b.loaded(ctx, of, s, p.quiet(), "quiet", func(ctx context.Context, one request) (*load, error) {
		return b.c.openLoop(ctx, lowRate, b.p.Duration, one)
	})
	if err != nil {
		return out, err
	}
	out.Busy, err = b.busy(ctx, of, s, p.Callbacks)
	return out, err
}

// busy measures a number of requests, made as fast as the relay can do them.
func (b *bench) busy(ctx context.Context, of *pair, s *side, count int) (Phase, error) {
	return b.loaded(ctx, of, s, count, "busy", func(ctx context.Context, one request) (*load, error) {
		one = atMost(count, one)
		if of.registers {
			return b.c.closedLoop(ctx, registers, busyTime, one, nil)
		}
		return b.sustain(ctx, busyTime, one)
	})
}

// prepare sets the server and the requests as a side has them.
func (b *bench) prepare(ctx context.Context, s *side) error {
	b.c.manner, b.c.size = s.manner, b.p.Body
	if s.size != 0 {
		b.c.size = s.size
	}
	if s.server == nil {
		return nil
	}
	return s.server(ctx, b.t.Probe)
}

// loaded measures one load of one side, with its stock registered before it.
func (b *bench) loaded(
	ctx context.Context, of *pair, s *side, count int, name string, run func(context.Context, request) (*load, error),
) (p Phase, err error) {
	if err := errors.Join(b.prepare(ctx, s), b.t.Probe.Checkpoint(ctx)); err != nil {
		return p, err
	}
	if s.stocked {
		if err := b.c.restock(ctx, count); err != nil {
			return p, err
		}
	}
	if s.ready != nil {
		if err := s.ready(ctx, b); err != nil {
			return p, err
		}
	}
	if s.after != nil {
		defer func() { err = errors.Join(err, s.after(ctx, b)) }()
	}
	body := b.c.size
	if of.registers {
		body = 0
	}
	one := func(k *conn) (user, status int, more bool, err error) { return s.one(b.c, k) }
	return b.measure(ctx, step{name: name, body: body, run: func(ctx context.Context) (*load, error) {
		l, err := run(ctx, one)
		if err == nil && s.done != nil {
			err = s.done(ctx, b, l)
		}
		return l, err
	}})
}
