package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
)

// neighbour is another destination of the relay that measures a healthy one:
// how it takes its calls, and how it is served. Each measurement has one that
// nobody has called before, so that its breaker is closed and its death is
// found out about.
type neighbour struct {
	name    string
	about   string
	answer  http.HandlerFunc // nil: at is its address
	at      func(Target) string
	timeout func(time.Duration) time.Duration // of its calls, by how long is measured; nil: the usual
}

// nobody is an address on this machine where no call is taken: the lowest port
// is given to none.
const nobody = "127.0.0.1:1"

// neighbours lists what a healthy destination is measured beside. The first is
// no trouble: what it adds is the load of its own callbacks.
func neighbours() []neighbour {
	return []neighbour{
		{
			name: "answers", about: "it takes its calls like the healthy one: what twice the load costs.",
			at: func(t Target) string { return t.SinkCalls },
		},
		{name: "refuses", about: "nobody listens there: connection refused.", at: func(Target) string { return nobody }},
		{name: "fails", about: "it answers every call at once with 500.", answer: fails},
		{
			name: "hangs", about: "it takes every call and never answers: each lasts for its timeout, which is half of the measurement, " +
				"at least 1 s and at most 10 s. Until then all of its `max_concurrency` hang, and what waits fills its lane.",
			answer: hangs, timeout: hangsFor,
		},
	}
}

func fails(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // so that the connection is kept
	w.WriteHeader(http.StatusInternalServerError)
}

func hangs(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // so that the end of the call is seen
	<-r.Context().Done()
}

// hangsFor lets a destination that hangs be found out about in the middle of a
// measurement: half of it has a full lane, half of it an open breaker.
func hangsFor(measured time.Duration) time.Duration {
	return min(max(time.Second, measured/2), relay.DefaultTimeout).Truncate(time.Second)
}

// Beside is one pair of measurements: the same load to a healthy destination,
// alone and beside a neighbour that gets as much.
type Beside struct {
	Alone  Phase  `json:"alone"`
	Beside Phase  `json:"beside"`
	Other  Stream `json:"neighbour"`
}

// Stream is what became of the neighbour's own callbacks.
type Stream struct {
	Accepted int64 `json:"accepted"`
	Refused  int64 `json:"refused"`
	Calls    int64 `json:"calls"`          // that were made to it, and recorded until the end of the load
	Opened   bool  `json:"breaker_opened"` // until then
}

// NeighboursPlan says how neighbours are measured.
type NeighboursPlan struct {
	Plan
	Rounds int
	Rate   float64 // callbacks a second to each destination
}

func (p *NeighboursPlan) check() error {
	if err := checkBody(p.Body); err != nil {
		return err
	}
	if p.Rounds < 1 || p.Rate < 1 || p.count() < 1 {
		return errors.New("neighbours take a round or more, a callback a second or more, and time for one")
	}
	return nil
}

// count is how many callbacks a measurement sends to each destination.
func (p *NeighboursPlan) count() int { return int(p.Rate * p.Duration.Seconds()) }

// MeasureNeighbours measures a relay that runs, in rounds of one pair for each
// neighbour.
func MeasureNeighbours(ctx context.Context, t Target, p NeighboursPlan) (out []*Neighbour, err error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	b := newBench(t, p.Plan)
	for _, step := range []func(context.Context) error{b.configure, b.warm} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	for _, n := range neighbours() {
		out = append(out, &Neighbour{Name: n.name, About: n.about})
	}
	for round := range p.Rounds {
		for i, n := range neighbours() {
			pair, err := b.beside(ctx, &p, &n, round)
			if err != nil {
				return nil, fmt.Errorf("measuring beside a destination that %s: %w", n.name, err)
			}
			out[i].Pairs = append(out[i].Pairs, pair)
		}
	}
	return out, nil
}

// beside measures one pair. Which of the two comes first changes from round to
// round, so that neither gains by what the other leaves behind.
func (b *bench) beside(ctx context.Context, p *NeighboursPlan, n *neighbour, round int) (out Beside, err error) {
	alone := func() (err error) {
		out.Alone, err = b.healthy(ctx, p, "alone", nil)
		return err
	}
	with := func() (err error) {
		out.Beside, out.Other, err = b.withNeighbour(ctx, p, n, round)
		return err
	}
	order := []func() error{alone, with}
	if round%2 == 1 {
		order = []func() error{with, alone}
	}
	for _, measure := range order {
		if err := measure(); err != nil {
			return out, err
		}
	}
	b.p.Say("round %d, beside one that %-8s resume p50 %5.1f ms alone, %5.1f beside; p99 %5.1f ms alone, %5.1f beside; its calls %d, breaker opened %t",
		round+1, n.name, out.Alone.ResumeP50, out.Beside.ResumeP50, out.Alone.ResumeP99, out.Beside.ResumeP99, out.Other.Calls, out.Other.Opened)
	return out, nil
}

// withNeighbour measures beside a new destination, and ends what is owed to it
// when it has.
func (b *bench) withNeighbour(ctx context.Context, p *NeighboursPlan, n *neighbour, round int) (phase Phase, s Stream, err error) {
	name := n.name + "-" + strconv.Itoa(round)
	address, end, err := n.serve(ctx, b.t)
	if err != nil {
		return phase, s, err
	}
	defer end()
	fields := map[string]any{"base_url": "http://" + address}
	if n.timeout != nil {
		fields["timeout"] = relay.Duration(n.timeout(p.Duration)).String()
	}
	err = errors.Join(b.put(ctx, "destinations/"+name, b.destination(fields)), b.put(ctx, "flows/"+name, flow(name, usual.source, nil)))
	if err != nil {
		return phase, s, err
	}
	before, err := b.breakers(ctx)
	if err != nil {
		return phase, s, err
	}
	other := &caller{
		address: b.c.address, key: b.c.key, secret: b.c.secret, run: rand.Uint64(), size: p.Body, //nolint:gosec // figures, no secrets
		manner: manner{flow: name, source: usual.source}, users: otherUsers,
	}
	phase, err = b.healthy(ctx, p, n.name, func(ctx context.Context) error {
		if s, err = other.stream(ctx, p); err != nil {
			return err
		}
		after, err := b.breakers(ctx)
		s.Opened = after > before
		return err
	}, other)
	if err != nil {
		return phase, s, err
	}
	end() // what hangs is over, and with it what the lane holds
	s.Calls, err = b.t.Probe.GiveUp(ctx, name)
	return phase, s, err
}

// serve gives a neighbour an address. end takes it away, with all connections.
func (n *neighbour) serve(ctx context.Context, t Target) (address string, end func(), err error) {
	if n.answer == nil {
		return n.at(t), func() {}, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("serving a neighbour: %w", err)
	}
	server := &http.Server{Handler: n.answer, ReadHeaderTimeout: relay.DefaultTimeout}
	go func() { _ = server.Serve(l) }()
	return l.Addr().String(), func() { _ = server.Close() }, nil
}

// stream calls back the neighbour's waits at the rate of the healthy one's.
func (c *caller) stream(ctx context.Context, p *NeighboursPlan) (s Stream, err error) {
	l, err := c.openLoop(ctx, p.Rate, p.Duration, c.callBack)
	if err != nil {
		return s, err
	}
	return Stream{Accepted: l.accepted, Refused: l.refused}, nil
}

// healthy measures the load of the healthy destination, with another one
// beside it where there is one. Both have their waits before.
func (b *bench) healthy(ctx context.Context, p *NeighboursPlan, name string, beside func(context.Context) error, others ...*caller) (Phase, error) {
	if err := b.t.Probe.Checkpoint(ctx); err != nil {
		return Phase{}, err
	}
	for _, c := range append(others, b.c) {
		if err := c.restock(ctx, p.count()); err != nil {
			return Phase{}, err
		}
	}
	return b.measure(ctx, step{name: name, body: p.Body, run: func(ctx context.Context) (l *load, err error) {
		g, ctx := errgroup.WithContext(ctx)
		if beside != nil {
			g.Go(func() error { return beside(ctx) })
		}
		g.Go(func() (err error) {
			l, err = b.c.openLoop(ctx, p.Rate, p.Duration, b.c.callBack)
			return err
		})
		return l, g.Wait()
	}})
}

// breakers asks the relay how many are open.
func (b *bench) breakers(ctx context.Context) (open int, err error) {
	raw, err := sinkClient{b.t.RelayOps}.get(ctx, http.MethodGet, "/metrics")
	if err != nil {
		return 0, err
	}
	const name = "\nrelay_breakers_open "
	_, rest, found := strings.Cut(string(raw), name)
	figure, _, _ := strings.Cut(rest, "\n")
	if !found {
		return 0, fmt.Errorf("the relay's metrics have no%s", strings.TrimRight(name, " "))
	}
	return strconv.Atoi(figure)
}
