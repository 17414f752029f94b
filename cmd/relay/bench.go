package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"relay.example/relay/internal/bench"
	"relay.example/relay/internal/localpg"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/fill"
)

// benchCommand measures the relay on this machine.
type benchCommand struct {
	Run        benchRunCommand        `cmd:"" default:"withargs" help:"Measure: load generator, sink and relay as processes of their own."`
	Growth     benchGrowthCommand     `cmd:"" help:"Measure with empty and with full tables, and set them side by side."`
	Promises   benchPromisesCommand   `cmd:"" help:"Measure what each promise costs: the same load with it and without."`
	Neighbours benchNeighboursCommand `cmd:"" help:"Measure a healthy destination alone and beside one that does not answer."`
	Fill       benchFillCommand       `cmd:"" help:"Make a new database as full as years of use would."`
	Sink       benchSinkCommand       `cmd:"" hidden:"" help:"Stand where the bot platform would be."`
}

// benchFlags are what the commands that measure have in common. Dir is not
// called data-dir, which RELAY_DATA_DIR would set: a node's own data lies there.
type benchFlags struct {
	Duration    time.Duration `default:"10s" help:"Of each phase."`
	Runs        int           `default:"1" help:"Repeat everything this many times; figures become medians."`
	Connections []int         `default:"16,64,256" help:"Of the closed loops."`
	Body        int           `default:"1536" help:"Bytes of a callback."`
	Dir         string        `help:"Where the private Postgres of each run lives, in a directory of its own; the system's temporary directory if absent."`
	JSON        string        `help:"Write all figures to this file."`
	Markdown    string        `help:"Write the tables into this page, between its marks."`
}

func (f *benchFlags) plan(p *program) bench.Plan {
	return bench.Plan{
		Duration: f.Duration, Connections: f.Connections, Body: f.Body,
		Say: func(format string, args ...any) { fmt.Fprintf(p.stdout, format+"\n", args...) },
	}
}

// report begins a report of what is about to be measured.
func (f *benchFlags) report() *bench.Report {
	return &bench.Report{Circumstances: circumstances("%s a phase, callbacks of %d bytes", f.Duration, f.Body)}
}

// circumstances are those of a measurement that begins now, with its settings.
func circumstances(format string, settings ...any) bench.Circumstances {
	return bench.Circumstances{
		Version: thisEdition().short(), Machine: machine(), Date: time.Now().UTC(), Settings: fmt.Sprintf(format, settings...),
	}
}

type benchRunCommand struct {
	benchFlags
	Bodies  []int  `help:"More sizes of callbacks, whose sustained rate is measured too."`
	Compare string `help:"Compare with the figures in this file."`
	Pages   bool   `help:"Only the phases of pages: what end users open."`
	Profile string `help:"Write a CPU profile of the relay, taken while it sustains its load, to this file."`
}

// Run measures, prints and keeps. Each run has a database of its own, new and
// empty, so that none inherits what the one before has left.
func (c *benchRunCommand) Run(ctx context.Context, p *program) error {
	var kept *bench.Report
	if c.Compare != "" { // before anything is measured: it may not be there
		var err error
		if kept, err = bench.ReadReport(c.Compare); err != nil {
			return err
		}
	}
	plan, report := c.plan(p), c.report()
	plan.MoreBodies, plan.Profile, plan.Pages = c.Bodies, c.Profile, c.Pages
	for i := range max(1, c.Runs) {
		plan.Say("run %d of %d", i+1, max(1, c.Runs))
		if err := c.once(ctx, p, plan, report); err != nil {
			return err
		}
	}
	report.Text(p.stdout)
	if kept != nil {
		report.Compare(p.stdout, kept)
	}
	return c.keep(report, "bench")
}

// kept is what can be written down.
type kept interface {
	Write(path string) error
	Markdown(w io.Writer)
	Wrong() error
}

// keep writes down what was asked for. Figures with a loss in them are not
// kept: nothing may be compared with them.
func (f *benchFlags) keep(report kept, mark string) error {
	if err := report.Wrong(); err != nil {
		return fmt.Errorf("these figures are not kept: %w", err)
	}
	var errs []error
	if f.JSON != "" {
		errs = append(errs, report.Write(f.JSON))
	}
	if f.Markdown != "" {
		var text bytes.Buffer
		report.Markdown(&text)
		errs = append(errs, bench.Splice(f.Markdown, mark, text.Bytes()))
	}
	return errors.Join(errs...)
}

// once makes one run, on a new database that is removed afterwards.
func (f *benchFlags) once(ctx context.Context, p *program, plan bench.Plan, report *bench.Report) (err error) {
	pg, remove, err := f.postgres(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	return measure(ctx, p, pg, plan, report)
}

// onTarget measures a relay on a new database that is removed afterwards.
func (f *benchFlags) onTarget(ctx context.Context, p *program, measured func(bench.Target) error) (err error) {
	pg, remove, err := f.postgres(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	target, stop, err := startTarget(ctx, p, pg)
	defer stop()
	if err != nil {
		return err
	}
	return measured(target)
}

// postgres starts a new private server. remove stops it and removes its files.
func (f *benchFlags) postgres(ctx context.Context, p *program) (pg *benchServer, remove func() error, err error) {
	dir, err := os.MkdirTemp(f.Dir, "relay-bench-")
	if err != nil {
		return nil, nil, fmt.Errorf("making a directory: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, nil, err
	}
	server, err := localpg.Start(ctx, localpg.Config{
		DataDir: filepath.Join(dir, "postgres"), Logger: newLogger(p.stderr, "text"),
		Settings: map[string]string{"shared_buffers": "512MB", "max_wal_size": "4GB"},
	})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	remove = func() error {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWait)
		defer cancel()
		return errors.Join(server.Stop(stopping), os.RemoveAll(dir))
	}
	return &benchServer{url: server.URL(), pid: server.PID(), dir: dir, key: seal.NewKey()}, remove, nil
}

// measure runs the phases against a relay, and takes the machine's limits
// once it has stopped.
func measure(ctx context.Context, p *program, pg *benchServer, plan bench.Plan, report *bench.Report) error {
	target, stop, err := startTarget(ctx, p, pg)
	if err != nil {
		stop()
		return err
	}
	var result bench.Result
	report.Postgres, err = target.Probe.Parameters(ctx)
	var spare []string
	if err == nil {
		result.Phases, spare, err = bench.Run(ctx, target, plan)
	}
	stop()
	if err != nil {
		return err
	}
	if !plan.Growth && !plan.Pages {
		if result.Limits, err = limits(ctx, pg, plan, spare); err != nil {
			return err
		}
	}
	report.Runs = append(report.Runs, result)
	return nil
}

func limits(ctx context.Context, pg *benchServer, plan bench.Plan, spare []string) ([]bench.Limit, error) {
	keys, err := seal.ParseRing(pg.key)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, store.Config{URL: pg.url, Keys: keys, HotConnections: hotConnections, Connections: connections})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return bench.Limits(ctx, bench.Floor{Store: s, Dir: pg.dir, Spare: spare}, plan)
}

// rowFlags say how full a database is to be.
type rowFlags struct {
	Correlations int `default:"1000000" help:"Pending correlations."`
	Events       int `default:"10000000" help:"Old events, with the closed correlations, references and deliveries of two events each."`
}

func (f rowFlags) String() string {
	return fmt.Sprintf("%d pending correlations and %d old events", f.Correlations, f.Events)
}

type benchGrowthCommand struct {
	benchFlags
	rowFlags
}

// Run fills one database and measures it in turn with new ones.
func (c *benchGrowthCommand) Run(ctx context.Context, p *program) (err error) {
	plan := c.plan(p)
	plan.Growth = true
	g := &bench.Growth{Empty: c.report(), Filled: c.report()}
	g.Filled.Filled = c.String()
	full, remove, err := c.postgres(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := c.fill(ctx, p, full, plan); err != nil {
		return err
	}
	for i := range max(1, c.Runs) {
		plan.Say("run %d of %d, empty", i+1, max(1, c.Runs))
		if err := c.once(ctx, p, plan, g.Empty); err != nil {
			return err
		}
		plan.Say("run %d of %d, filled", i+1, max(1, c.Runs))
		if err := measure(ctx, p, full, plan, g.Filled); err != nil {
			return err
		}
	}
	g.Text(p.stdout)
	return c.keep(g, "growth")
}

// fill has a relay make the rows that are copied, and stops it again.
func (f rowFlags) fill(ctx context.Context, p *program, pg *benchServer, plan bench.Plan) error {
	target, stop, err := startTarget(ctx, p, pg)
	defer stop()
	if err != nil {
		return err
	}
	return bench.Fill(ctx, target, plan, pg.url, f.Correlations, f.Events)
}

type benchPromisesCommand struct {
	benchFlags
	Callbacks int      `default:"20000" help:"Of each busy load."`
	Only      []string `sep:"none" placeholder:"NAME" help:"Measure only this pair; may be given several times."`
}

// sharedWaits is how many waits pairs may leave behind them before the next
// pair gets a new database: fewer than a pair at its full size does.
const sharedWaits = 20_000

// Run measures pair by pair.
func (c *benchPromisesCommand) Run(ctx context.Context, p *program) error {
	plan := bench.PairPlan{Plan: c.plan(p), Rounds: max(1, c.Runs), Callbacks: c.Callbacks}
	costs := &bench.Costs{
		Circumstances: circumstances("%d callbacks of %d bytes a busy load, %s a quiet one", c.Callbacks, c.Body, c.Duration),
	}
	names, err := bench.Pairs(c.Only...)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(names, max(1, sharedWaits/max(1, plan.Waits()))) {
		if err := c.pairs(ctx, p, plan, some, costs); err != nil {
			return err
		}
	}
	costs.Text(p.stdout)
	return c.keep(costs, "promises")
}

// pairs measures some pairs on a new database that is removed afterwards.
func (c *benchPromisesCommand) pairs(ctx context.Context, p *program, plan bench.PairPlan, names []string, into *bench.Costs) error {
	return c.onTarget(ctx, p, func(target bench.Target) (err error) {
		if into.Postgres, err = target.Probe.Parameters(ctx); err != nil {
			return err
		}
		measured, err := bench.MeasurePairs(ctx, target, plan, names)
		into.Pairs = append(into.Pairs, measured...)
		return err
	})
}

type benchNeighboursCommand struct {
	benchFlags
	Rate float64 `default:"500" help:"Callbacks a second to each destination."`
}

// Run measures pair by pair, all on one new database.
func (c *benchNeighboursCommand) Run(ctx context.Context, p *program) error {
	plan := bench.NeighboursPlan{Plan: c.plan(p), Rounds: max(1, c.Runs), Rate: c.Rate}
	report := &bench.Neighbourhood{
		Circumstances: circumstances("%g callbacks of %d bytes a second to each destination, %s a measurement", c.Rate, c.Body, c.Duration),
	}
	err := c.onTarget(ctx, p, func(target bench.Target) (err error) {
		if report.Postgres, err = target.Probe.Parameters(ctx); err != nil {
			return err
		}
		report.Neighbours, err = bench.MeasureNeighbours(ctx, target, plan)
		return err
	})
	if err != nil {
		return err
	}
	report.Text(p.stdout)
	return c.keep(report, "neighbours")
}

type benchFillCommand struct {
	databaseFlags
	rowFlags
}

// Run fills a database that nobody has used yet.
func (c *benchFillCommand) Run(ctx context.Context, p *program) (err error) {
	db, err := openDatabase(ctx, &c.databaseFlags, newLogger(p.stderr, c.Log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.close()) }()
	if err := db.await(ctx); err != nil {
		return err
	}
	if err := fill.Unused(ctx, db.url); err != nil {
		return err
	}
	pg := &benchServer{url: db.url, key: c.EncryptionKey}
	if pg.key == "" && db.local != nil {
		dir, err := c.dataDir()
		if err != nil {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(dir, "encryption.key"))
		if err != nil {
			return fmt.Errorf("the encryption key of the private server: %w", err)
		}
		pg.key = strings.TrimSpace(string(raw))
	}
	if pg.key == "" {
		return errors.New("RELAY_ENCRYPTION_KEY is not set: make one with `relay keys new`, and give it to every node of this database")
	}
	flags := benchFlags{Duration: time.Second, Connections: []int{1}, Body: 1536}
	return c.fill(ctx, p, pg, flags.plan(p))
}

// machine names the processor and how many of it there are.
func machine() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOOS
	}
	name := "unknown processor"
	for line := range strings.Lines(string(raw)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			name = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%d × %s", runtime.NumCPU(), name)
}

type benchSinkCommand struct{}

// Run serves until ctx is done. Its first line of output names its two
// addresses.
func (benchSinkCommand) Run(ctx context.Context, p *program) error {
	calls, err := listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	questions, err := listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(p.stdout, calls.Addr(), questions.Addr())
	return new(bench.Sink).Serve(ctx, calls, questions)
}
