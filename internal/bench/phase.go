package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Phase is what one phase of one run came to. CPU times and bytes are per
// request that was accepted, not per request that was sent.
type Phase struct {
	Name    string  `json:"name"`
	Body    int     `json:"body_bytes,omitempty"` // of a callback; none: it registers waits
	Seconds float64 `json:"seconds"`              // of load, catching up apart

	Accepted  float64 `json:"accepted_per_s"`
	Resumed   float64 `json:"resumed_per_s,omitempty"` // while there was load
	AckP50    float64 `json:"ack_p50_ms"`
	AckP99    float64 `json:"ack_p99_ms"`
	ResumeP50 float64 `json:"resume_p50_ms,omitempty"`
	ResumeP99 float64 `json:"resume_p99_ms,omitempty"`

	RelayCPU     float64  `json:"relay_cpu_s_per_1000"`
	PostgresCPU  float64  `json:"postgres_cpu_s_per_1000"`
	GeneratorCPU float64  `json:"generator_cpu_s_per_1000"`
	SinkCPU      float64  `json:"sink_cpu_s_per_1000"`
	ForeignCPU   float64  `json:"foreign_cpu_cores"` // of processes that are none of ours
	StolenCPU    float64  `json:"stolen_cpu_cores"`
	RSS          int64    `json:"relay_peak_rss_bytes"`
	WAL          float64  `json:"wal_bytes_each"`
	FullPages    *float64 `json:"wal_full_page_bytes_each,omitempty"` // of WAL; absent where the server cannot tell

	Count      int64 `json:"count"`
	Refused    int64 `json:"refused"`
	Lost       int64 `json:"lost"`
	Duplicates int64 `json:"duplicates"`
}

// step is a phase to be measured.
type step struct {
	name string
	body int                                   // 0: it registers
	run  func(context.Context) (*load, error)  // the load
	rate func(fastest float64) (stock float64) // waits that it may use up in a second

	continued bool // without a checkpoint before it
}

// sustainedName is the phase that others are compared with.
const sustainedName = "sustained"

// steps lists the phases in their order: the quiet ones come before those
// whose dirty pages they would otherwise wait for.
func (b *bench) steps() []step {
	if b.p.Pages {
		return b.pageSteps()
	}
	body := b.p.Body
	quiet := func(float64) float64 { return lowRate }
	full := func(fastest float64) float64 { return headroom * fastest }
	out := []step{
		{name: "register, 50/s", run: b.openly(b.c.register, func() float64 { return lowRate })},
		{name: "callbacks, 50/s", body: body, run: b.openly(b.c.callBack, func() float64 { return lowRate }), rate: quiet},
		{name: fmt.Sprintf("register, %d connections", registers), run: b.busily(b.c.register, registers)},
	}
	if !b.p.Growth {
		out = slices.Insert(out, 2, b.pageSteps()...)
	}
	sustained := step{name: sustainedName, body: body, run: b.sustained, rate: full}
	if b.p.Growth {
		// Big tables have more pages than a phase changes: right after a
		// checkpoint nearly every change writes a whole one, later few do.
		continued := sustained
		continued.name, continued.continued = sustainedName+", continued", true
		return append(out, sustained, continued)
	}
	for _, connections := range b.p.Connections {
		name := fmt.Sprintf("callbacks, %d connections", connections)
		out = append(out, step{name: name, body: body, run: b.busily(b.c.callBack, connections), rate: full})
	}
	half := func() float64 { return b.best / 2 }
	out = append(out, sustained, step{
		name: "callbacks, half of sustained", body: body, run: b.openly(b.c.callBack, half),
		rate: func(float64) float64 { return half() },
	})
	for _, size := range b.p.MoreBodies {
		out = append(out, step{name: fmt.Sprintf("%s, %d B", sustainedName, size), body: size, run: b.sustained, rate: full})
	}
	return out
}

// openly and busily make the loads of an open and of a closed loop.
func (b *bench) openly(one request, rate func() float64) func(context.Context) (*load, error) {
	return func(ctx context.Context) (*load, error) { return b.c.openLoop(ctx, rate(), b.p.Duration, one) }
}

func (b *bench) busily(one request, connections int) func(context.Context) (*load, error) {
	return func(ctx context.Context) (*load, error) {
		return b.c.closedLoop(ctx, connections, b.p.Duration, one, nil)
	}
}

// phases measures one step after the other.
func (b *bench) phases(ctx context.Context) (out []Phase, err error) {
	for _, s := range b.steps() {
		b.c.size = s.body
		// A checkpoint is not to fall into a phase, and each is to pay alike
		// for the images of pages that are first changed after one. Its waits
		// come after it, as most do between two checkpoints.
		if !s.continued {
			if err := b.t.Probe.Checkpoint(ctx); err != nil {
				return nil, err
			}
		}
		if s.rate != nil {
			if err := b.stock(ctx, s.rate(b.fastest)*b.p.Duration.Seconds()); err != nil {
				return nil, err
			}
		}
		profiled := b.profile(ctx, s)
		p, err := b.measure(ctx, s)
		if err := errors.Join(err, <-profiled); err != nil {
			return nil, fmt.Errorf("measuring %s: %w", s.name, err)
		}
		if s.body != 0 {
			b.fastest = max(b.fastest, p.Accepted)
		}
		if s.name == sustainedName {
			b.best = p.Resumed
		}
		b.p.Say("%s", p)
		out = append(out, p)
	}
	if b.pages != nil {
		b.p.Say("the largest page has %d bytes, its script apart", b.pages.largest.Load())
	}
	if b.p.Pages {
		return out, nil
	}
	return out, b.noteLateDoubles(ctx, out)
}

// noteLateDoubles waits as long as a delivery that was not recorded takes to
// be made again, and then counts the doubles of every phase once more.
func (b *bench) noteLateDoubles(ctx context.Context, phases []Phase) error {
	b.p.Say("waiting %s for what would be sent twice", settle)
	pause(ctx, settle)
	arrivals, err := b.sink.arrivals(ctx)
	if err != nil {
		return err
	}
	for i := range phases {
		phases[i].Duplicates = 0
		for _, s := range b.sent[phases[i].Name] {
			if a, ok := arrivals[s.user]; ok {
				phases[i].Duplicates += int64(a.count) - 1
			}
		}
	}
	return ctx.Err()
}

// measure runs one phase between two readings of what the machine had done.
func (b *bench) measure(ctx context.Context, s step) (p Phase, err error) {
	p.Name, p.Body = s.name, s.body
	if err := errors.Join(b.sink.reset(ctx), proc.resetPeak(b.t.RelayPID)); err != nil {
		return p, err
	}
	walBefore, err := b.t.Probe.WAL(ctx)
	if err != nil {
		return p, err
	}
	before, err := proc.usage(b.t, os.Getpid())
	if err != nil {
		return p, err
	}
	start := time.Now()
	l, err := s.run(ctx)
	if err != nil {
		return p, err
	}
	if s.body != 0 {
		if p.Resumed, err = b.await(ctx, l, start); err != nil {
			return p, err
		}
	}
	after, err := proc.usage(b.t, os.Getpid())
	if err != nil {
		return p, err
	}
	wall := time.Since(start)
	if l.accepted == 0 {
		return p, errors.New("the relay accepted nothing: see what it logged")
	}
	p.note(l, after.since(before), wall)
	if p.RSS, err = proc.peakRSS(b.t.RelayPID); err != nil {
		return p, err
	}
	if err := b.noteWAL(ctx, &p, walBefore); err != nil {
		return p, err
	}
	if s.body == 0 {
		return p, nil
	}
	arrivals, err := b.sink.arrivals(ctx)
	p.noteArrivals(l, arrivals)
	b.sent[s.name] = l.sent
	return p, err
}

// note fills in what was seen at the load generator and in /proc.
func (p *Phase) note(l *load, used usage, wall time.Duration) {
	p.Count, p.Refused, p.Seconds = l.accepted, l.refused, l.took.Seconds()
	p.Accepted = float64(l.accepted) / p.Seconds
	p.AckP50, p.AckP99 = percentiles(l.answers)
	thousands := float64(l.accepted) / 1000
	p.RelayCPU, p.PostgresCPU = used.relay/thousands, used.postgres/thousands
	p.GeneratorCPU, p.SinkCPU = used.generator/thousands, used.sink/thousands
	p.ForeignCPU, p.StolenCPU = used.foreign/wall.Seconds(), used.stolen/wall.Seconds()
}

// noteArrivals fills in what was seen at the sink, each callback by its id.
func (p *Phase) noteArrivals(l *load, arrivals map[int]arrival) {
	var took []time.Duration
	for _, s := range l.sent {
		a, ok := arrivals[s.user]
		if !ok {
			p.Lost++
			continue
		}
		p.Duplicates += int64(a.count) - 1
		took = append(took, time.Duration(a.at-s.due))
	}
	p.ResumeP50, p.ResumeP99 = percentiles(took)
}

func (b *bench) noteWAL(ctx context.Context, p *Phase, before int64) error {
	after, err := b.t.Probe.WAL(ctx)
	if err != nil {
		return err
	}
	p.WAL = float64(after-before) / float64(p.Count)
	images, known, err := b.t.Probe.FullPages(ctx, before, after)
	if known {
		each := float64(images) / float64(p.Count)
		p.FullPages = &each
	}
	return err
}

// await returns how many callbacks a second were resumed while there was
// load, and waits until the relay has resumed all that it accepted.
func (b *bench) await(ctx context.Context, l *load, start time.Time) (resumed float64, err error) {
	users, err := b.sink.count(ctx)
	resumed = float64(users) / time.Since(start).Seconds()
	for deadline := time.Now().Add(catchUp); err == nil && users < l.accepted && time.Now().Before(deadline); {
		pause(ctx, 10*time.Millisecond)
		users, err = b.sink.count(ctx)
	}
	return resumed, err
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

// wrong says what a phase should not have seen, or "". A relay may refuse when
// it is asked for more than it can do, which no phase does.
func (p Phase) wrong() string {
	if p.Lost == 0 && p.Duplicates == 0 && p.Refused == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %d of %d lost, %d resumed twice, %d refused", p.Name, p.Lost, p.Count, p.Duplicates, p.Refused)
}

// String is p as a line of text, for those who watch.
func (p Phase) String() string {
	return fmt.Sprintf("%-30s %7.0f/s accepted %7.0f/s resumed  p99 %6.1f ms  CPU %.3f + %.3f s/1000  foreign %.2f",
		p.Name, p.Accepted, p.Resumed, max(p.AckP99, p.ResumeP99), p.RelayCPU, p.PostgresCPU, p.ForeignCPU+p.StolenCPU)
}
