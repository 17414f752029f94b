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
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"
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
	// WAL returns how many bytes of WAL Postgres has written.
	WAL func(context.Context) (int64, error)
}

// Plan says what is measured.
type Plan struct {
	Duration    time.Duration // of each phase
	Connections []int         // of the closed loops
	Body        int           // bytes of a callback
	Profile     string        // file for a CPU profile of the sustained phase, or ""
	Say         func(format string, args ...any)
}

// The bounds of a run.
const (
	behind    = 1_000            // undelivered callbacks that the sustained phase allows
	catchUp   = 45 * time.Second // for the relay to finish: a lease and a bit
	secret    = "whsec_bench"    //nolint:gosec // it protects nothing
	lowRate   = 50.0             // callbacks per second of the quiet phase
	registers = 64               // connections that register
)

// Phase is one line of the report.
type Phase struct {
	Name        string  `json:"name"`
	Accepted    float64 `json:"accepted_per_s"`
	Resumed     float64 `json:"resumed_per_s"`
	AckP50      float64 `json:"ack_p50_ms"`
	AckP99      float64 `json:"ack_p99_ms"`
	ResumeP50   float64 `json:"resume_p50_ms"`
	ResumeP99   float64 `json:"resume_p99_ms"`
	RelayCPU    float64 `json:"relay_cpu_s_per_1000"`
	PostgresCPU float64 `json:"postgres_cpu_s_per_1000"`
	ForeignCPU  float64 `json:"foreign_cpu_cores"` // of processes that are none of ours
	RSS         int64   `json:"relay_peak_rss_bytes"`
	WAL         float64 `json:"wal_bytes_per_callback"`
	Count       int64   `json:"count"`
	Refused     int64   `json:"refused"`
	Lost        int64   `json:"lost"`
	Duplicates  int64   `json:"duplicates"`
}

// bench is one run.
type bench struct {
	t    Target
	p    Plan
	c    *caller
	sink sinkClient
}

// spare is how many waits are left for Limits.
const spare = 20_000

// Run measures a relay that runs, and returns the lines of its report and
// the tokens of waits that it left pending.
func Run(ctx context.Context, t Target, p Plan) (phases []Phase, left []string, err error) {
	b := &bench{t: t, p: p, sink: sinkClient{t.SinkControl}, c: &caller{address: t.Relay, key: t.APIKey, secret: secret}}
	b.c.pad(p.Body)
	if err := b.configure(ctx); err != nil {
		return nil, nil, err
	}
	if phases, err = b.phases(ctx); err != nil {
		return nil, nil, err
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

// configure gives the relay the one flow that is measured.
func (b *bench) configure(ctx context.Context) error {
	for path, body := range map[string]any{
		"destinations/sink": map[string]any{"platform": "certainly", "base_url": "http://" + b.t.SinkCalls, "token": "bench"},
		"sources/stripe":    map[string]any{"provider": "stripe", "secret": secret},
	} {
		if err := b.put(ctx, path, body); err != nil {
			return err
		}
	}
	return b.put(ctx, "flows/bench", map[string]any{
		"destination": "sink", "source": "stripe", "link": "https://buy.stripe.com/bench", "expires_in": "3d",
		"expect": map[string]any{"currency": "EUR"},
		"on": map[string]any{
			"completed": map[string]any{"module_id": 1, "custom_vars": map[string]any{
				"amount": "{{ payment.amount }}", "text": "Paid {{ payment.amount_text }} {{ payment.currency }}",
			}},
			"default": map[string]any{"module_id": 2},
		},
	})
}

func (b *bench) put(ctx context.Context, path string, body any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+b.t.Relay+"/v1/"+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+b.t.APIKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("configuring the relay: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("configuring the relay: %s answered %s", path, resp.Status)
	}
	return nil
}

func (b *bench) phases(ctx context.Context) (out []Phase, err error) {
	add := func(p Phase, err error) error {
		if err == nil {
			b.p.Say("%s", p)
			out = append(out, p)
		}
		return err
	}
	if err := add(b.registration(ctx, fmt.Sprintf("register, %d connections", registers))); err != nil {
		return nil, err
	}
	for _, connections := range b.p.Connections {
		if err := b.stock(ctx, 14_000*b.p.Duration.Seconds()); err != nil {
			return nil, err
		}
		err := add(b.callbacks(ctx, fmt.Sprintf("closed loop, %d connections", connections), func(ctx context.Context) (*load, error) {
			return b.c.closedLoop(ctx, connections, b.p.Duration, b.c.callBack, nil)
		}))
		if err != nil {
			return nil, err
		}
	}
	if err := b.stock(ctx, 12_000*b.p.Duration.Seconds()); err != nil {
		return nil, err
	}
	profiled := b.profile(ctx)
	if err := errors.Join(add(b.sustained(ctx)), <-profiled); err != nil {
		return nil, err
	}
	best := out[len(out)-1].Resumed
	for _, rate := range []float64{lowRate, best / 2} {
		if err := b.stock(ctx, rate*b.p.Duration.Seconds()); err != nil {
			return nil, err
		}
		err := add(b.callbacks(ctx, fmt.Sprintf("open loop, %.0f/s", rate), func(ctx context.Context) (*load, error) {
			return b.c.openLoop(ctx, rate, b.p.Duration, b.c.callBack)
		}))
		if err != nil {
			return nil, err
		}
	}
	err = add(b.quietRegistration(ctx))
	return out, err
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

func (b *bench) registration(ctx context.Context, name string) (Phase, error) {
	return b.measure(ctx, name, false, func(ctx context.Context) (*load, error) {
		return b.c.closedLoop(ctx, registers, b.p.Duration, b.c.register, nil)
	})
}

func (b *bench) quietRegistration(ctx context.Context) (Phase, error) {
	return b.measure(ctx, fmt.Sprintf("register, open loop, %.0f/s", lowRate), false, func(ctx context.Context) (*load, error) {
		return b.c.openLoop(ctx, lowRate, b.p.Duration, b.c.register)
	})
}

func (b *bench) callbacks(ctx context.Context, name string, run func(context.Context) (*load, error)) (Phase, error) {
	return b.measure(ctx, name, true, run)
}

// sustained sends as fast as the relay resumes: while too many callbacks are
// accepted and not yet resumed, the load waits.
func (b *bench) sustained(ctx context.Context) (Phase, error) {
	return b.callbacks(ctx, fmt.Sprintf("sustained, at most %d undelivered", behind), func(ctx context.Context) (*load, error) {
		watching, stop := context.WithCancel(ctx)
		defer stop()
		var resumed atomic.Int64
		first := b.c.used.Load()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for watching.Err() == nil {
				if users, err := b.sink.count(watching); err == nil {
					resumed.Store(users)
				}
				pause(watching, 5*time.Millisecond)
			}
		}()
		l, err := b.c.closedLoop(ctx, slices.Max(b.p.Connections), b.p.Duration, b.c.callBack, func(ctx context.Context) {
			for b.c.used.Load()-first-resumed.Load() > behind && ctx.Err() == nil {
				pause(ctx, time.Millisecond)
			}
		})
		stop()
		<-done
		return l, err
	})
}

// profile takes a CPU profile of the relay, beside a phase, where one is
// wanted.
func (b *bench) profile(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	if b.p.Profile == "" {
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

// measure runs one phase between two readings of what the machine had done.
func (b *bench) measure(ctx context.Context, name string, resumes bool, run func(context.Context) (*load, error)) (p Phase, err error) {
	p.Name = name
	if err := errors.Join(b.sink.reset(ctx), resetPeak(b.t.RelayPID)); err != nil {
		return p, err
	}
	before, err := b.usage(ctx)
	if err != nil {
		return p, err
	}
	start := time.Now()
	l, err := run(ctx)
	if err != nil {
		return p, err
	}
	p.Count, p.Refused = l.accepted, l.refused
	p.Accepted = float64(l.accepted) / l.took.Seconds()
	p.AckP50, p.AckP99 = percentiles(l.answers)
	if resumes {
		if err := b.await(ctx, l, start, &p); err != nil {
			return p, err
		}
	}
	after, err := b.usage(ctx)
	if err != nil {
		return p, err
	}
	used, thousands := after.since(before), float64(l.accepted)/1000
	p.RelayCPU, p.PostgresCPU = used.relay/thousands, used.postgres/thousands
	p.ForeignCPU = max(0, used.machine-used.relay-used.postgres-used.self) / time.Since(start).Seconds()
	p.WAL = float64(used.wal) / float64(l.accepted)
	p.RSS, err = peakRSS(b.t.RelayPID)
	return p, err
}

// await waits until the relay has resumed what it accepted, and reads at the
// sink when that was.
func (b *bench) await(ctx context.Context, l *load, start time.Time, p *Phase) error {
	users, err := b.sink.count(ctx)
	if err != nil {
		return err
	}
	p.Resumed = float64(users) / time.Since(start).Seconds()
	for deadline := time.Now().Add(catchUp); users < l.accepted && time.Now().Before(deadline); {
		pause(ctx, 5*time.Millisecond)
		if users, err = b.sink.count(ctx); err != nil {
			return err
		}
	}
	arrivals, err := b.sink.arrivals(ctx)
	if err != nil {
		return err
	}
	var took []time.Duration
	for user, due := range l.sent {
		a, ok := arrivals[user]
		if !ok {
			p.Lost++
			continue
		}
		p.Duplicates += int64(a.count) - 1
		took = append(took, time.Duration(a.at-due))
	}
	p.ResumeP50, p.ResumeP99 = percentiles(took)
	return nil
}

func (b *bench) usage(ctx context.Context) (u usage, err error) {
	var sink float64
	for _, read := range []func() error{
		func() (err error) { u.relay, err = processCPU(b.t.RelayPID, false); return err },
		func() (err error) { u.postgres, err = processCPU(b.t.PostgresPID, true); return err },
		func() (err error) { sink, err = processCPU(b.t.SinkPID, false); return err },
		func() (err error) { u.self, err = processCPU(os.Getpid(), false); return err },
		func() (err error) { u.machine, err = machineCPU(); return err },
		func() (err error) { u.wal, err = b.t.WAL(ctx); return err },
	} {
		if err := read(); err != nil {
			return u, err
		}
	}
	u.self += sink
	return u, nil
}

// percentiles returns the median and the 99th percentile in milliseconds.
func percentiles(ds []time.Duration) (p50, p99 float64) {
	if len(ds) == 0 {
		return 0, 0
	}
	slices.Sort(ds)
	at := func(q float64) float64 { return ds[int(q*float64(len(ds)-1))].Seconds() * 1000 }
	return at(0.50), at(0.99)
}

// String is p as a line of text.
func (p Phase) String() string {
	return fmt.Sprintf("%-36s accepted %6.0f/s  resumed %6.0f/s  ack p50 %5.1f p99 %6.1f ms  resume p50 %6.1f p99 %7.1f ms  "+
		"CPU s/1000 relay %.3f postgres %.3f  RSS %3d MB  WAL %5.0f B  lost %d dup %d refused %d  foreign %.2f",
		p.Name, p.Accepted, p.Resumed, p.AckP50, p.AckP99, p.ResumeP50, p.ResumeP99,
		p.RelayCPU, p.PostgresCPU, p.RSS>>20, p.WAL, p.Lost, p.Duplicates, p.Refused, p.ForeignCPU)
}
