// Package bench measures a relay from outside: a load generator, a sink in
// the place of the bot platform, and the relay itself are processes of their
// own on one machine, over a Postgres that syncs its disk.
//
// What it promises: a figure is of callbacks that were answered 200 and whose
// resume was seen at the sink, each by its id; lost and doubled ones are
// counted. CPU is read from /proc, so the load generator's own is not in it.
// The machine's limits are taken in the same run, because these machines are
// noisy and a figure without them says little.
package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"time"

	"relay.example/relay/internal/store"
)

// Target is a relay under test and what belongs to it.
type Target struct {
	Relay       string // host:port
	RelayOps    string // host:port of its operations listener
	RelayPID    int
	PostgresPID int
	SinkCalls   string // host:port that the relay calls
	SinkControl string // host:port that answers questions
	SinkPID     int
	APIKey      string
	Probe       *store.Probe // of its Postgres
}

// Plan says what is measured.
type Plan struct {
	Duration    time.Duration // of each phase
	Connections []int         // of the closed loops
	Body        int           // bytes of a callback
	MoreBodies  []int         // sizes whose sustained rate is measured too
	Growth      bool          // only the phases by which growth is judged
	Pages       bool          // only the phases of pages
	Profile     string        // file for a CPU profile of the sustained phase, or ""
	Say         func(format string, args ...any)
}

// The bounds of a run.
const (
	behind    = 1_000                 // undelivered callbacks that the sustained phase allows
	look      = 10 * time.Millisecond // between two looks at what the sink has seen
	headroom  = 2.5                   // waits in stock per callback that the fastest phase would use
	catchUp   = 45 * time.Second      // for the relay to finish: a lease and a bit
	settle    = 36 * time.Second      // for what was sent and not recorded to be sent again: a lease and a bit
	secret    = "whsec_bench"         //nolint:gosec // it protects nothing
	lowRate   = 50.0                  // callbacks per second of the quiet phase
	registers = 64                    // connections that register
)

// bench is one run.
type bench struct {
	t    Target
	p    Plan
	c    *caller
	sink sinkClient

	fastest float64 // callbacks accepted per second so far
	best    float64 // callbacks sustained per second

	sent map[string][]sending // what was accepted, by phase

	pages *pages // nil: none are opened
}

// check refuses a plan that cannot be measured.
func (p Plan) check() error {
	for _, size := range append(slices.Clone(p.MoreBodies), p.Body) {
		if err := checkBody(size); err != nil {
			return err
		}
	}
	if p.Duration < time.Second || len(p.Connections) == 0 || slices.Min(p.Connections) < 1 {
		return errors.New("a phase takes a second or more, and a closed loop a connection or more")
	}
	return nil
}

// spare is how many waits are left for Limits.
const spare = 20_000

// warmStock is how many waits the first second of load may use up.
const warmStock = 10_000

// Run measures a relay that runs, and returns its phases and the tokens of
// waits that it left pending.
func Run(ctx context.Context, t Target, p Plan) (phases []Phase, left []string, err error) {
	if err := p.check(); err != nil {
		return nil, nil, err
	}
	b := newBench(t, p)
	for _, step := range []func(context.Context) error{b.configure, b.pageWaits, b.warm} {
		if err := step(ctx); err != nil {
			return nil, nil, err
		}
	}
	if phases, err = b.phases(ctx); err != nil {
		return nil, nil, err
	}
	if p.Pages {
		return phases, nil, nil
	}
	if err := b.stock(ctx, spare); err != nil {
		return nil, nil, err
	}
	for n := int(b.c.used.Load()); n < int(b.c.next.Load()) && len(left) < spare; n++ {
		if b.c.tokens[n] != "" {
			left = append(left, b.c.tokens[n])
		}
	}
	return phases, left, nil
}

func newBench(t Target, p Plan) *bench {
	return &bench{
		sent: map[string][]sending{},
		t:    t, p: p, sink: sinkClient{t.SinkControl},
		c: &caller{
			address: t.Relay, key: t.APIKey, secret: secret, run: rand.Uint64(), size: p.Body, manner: usual, users: userPrefix, //nolint:gosec // figures, no secrets
		},
	}
}

// warm lets the relay prepare its statements and open its connections before
// anything is measured, and learns how much stock a phase needs.
func (b *bench) warm(ctx context.Context) error {
	if err := b.stock(ctx, warmStock); err != nil {
		return err
	}
	l, err := b.c.closedLoop(ctx, registers, time.Second, b.c.callBack, nil)
	if err != nil {
		return err
	}
	b.fastest = float64(l.accepted) / l.took.Seconds()
	_, err = b.await(ctx, l, time.Now())
	return err
}

// configure gives the relay the one flow that is measured.
func (b *bench) configure(ctx context.Context) error {
	if err := b.put(ctx, "destinations/sink", b.destination(nil)); err != nil {
		return err
	}
	if err := b.put(ctx, "sources/stripe", map[string]any{"provider": "stripe", "secret": secret}); err != nil {
		return err
	}
	return b.put(ctx, "flows/"+usual.flow, flow("sink", usual.source, nil))
}

// destination is the sink, with fields that differ from the usual.
func (b *bench) destination(other map[string]any) map[string]any {
	d := map[string]any{"platform": "certainly", "base_url": "http://" + b.t.SinkCalls, "token": "bench"}
	maps.Copy(d, other)
	return d
}

// flow is what the waits do, with actions besides the usual.
func flow(destination, source string, actions map[string]any) map[string]any {
	on := map[string]any{
		"completed": map[string]any{"module_id": 1, "custom_vars": map[string]any{
			"amount": "{{ payment.amount }}", "text": "Paid {{ payment.amount_text }} {{ payment.currency }}",
		}},
		"default": map[string]any{"module_id": 2},
	}
	maps.Copy(on, actions)
	return map[string]any{
		"destination": destination, "source": source, "link": "https://buy.stripe.com/bench", "expires_in": "3d",
		"expect": map[string]any{"currency": "EUR"}, "on": on,
	}
}

func (b *bench) put(ctx context.Context, path string, body any) error {
	return b.call(ctx, http.MethodPut, path, body, nil)
}

// call asks the relay's API, and reads its answer where into is given.
func (b *bench) call(ctx context.Context, method, path string, body, into any) error {
	return b.ask(ctx, method, "/v1/"+path, body, into)
}

// ask is call, for any path.
func (b *bench) ask(ctx context.Context, method, path string, body, into any) error {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+b.t.Relay+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+b.t.APIKey)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking the relay: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("asking the relay: %s %s answered %s", method, path, resp.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// stock registers what a phase will call back.
func (b *bench) stock(ctx context.Context, count float64) error {
	for float64(b.c.next.Load()-b.c.used.Load()) < count {
		l, err := b.c.closedLoop(ctx, registers, time.Second, b.c.register, nil)
		if err != nil {
			return err
		}
		if l.refused > 0 {
			return fmt.Errorf("%d registrations were refused", l.refused)
		}
	}
	return nil
}

// sustained sends as fast as the relay resumes: while too many callbacks are
// accepted and not yet resumed, the load waits. A refused callback leaves its
// place taken, so that a relay which refuses is not pressed harder.
func (b *bench) sustained(ctx context.Context) (*load, error) {
	return b.sustain(ctx, b.p.Duration, b.c.callBack)
}

// sustain does that for some time, or until the request says that it is enough.
func (b *bench) sustain(ctx context.Context, d time.Duration, one request) (*load, error) {
	window := make(chan struct{}, behind)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var seen int64
		for watching.Err() == nil {
			if users, err := b.sink.count(watching); err == nil {
				for ; seen < users; seen++ {
					select {
					case <-window:
					default: // resumed after its own phase had given it up
					}
				}
			}
			pause(watching, look)
		}
	}()
	l, err := b.c.closedLoop(ctx, slices.Max(b.p.Connections), d, one, func(ctx context.Context) {
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
		}
	})
	stop()
	<-done
	return l, err
}

// profile takes a CPU profile of the relay, beside the sustained phase, where
// one is wanted.
func (b *bench) profile(ctx context.Context, s step) <-chan error {
	done := make(chan error, 1)
	if b.p.Profile == "" || s.name != sustainedName {
		close(done)
		return done
	}
	go func() {
		address := fmt.Sprintf("%s/debug/pprof/profile?seconds=%.0f", b.t.RelayOps, b.p.Duration.Seconds())
		raw, err := sinkClient{address}.get(ctx, http.MethodGet, "")
		if err == nil {
			err = os.WriteFile(b.p.Profile, raw, 0o644) //nolint:gosec // a profile holds no secret
		}
		done <- err
	}()
	return done
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
