package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"relay.example/relay/internal/bench"
	"relay.example/relay/internal/localpg"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
)

// benchCommand measures the relay on this machine.
type benchCommand struct {
	Run  benchRunCommand  `cmd:"" default:"withargs" help:"Measure: load generator, sink and relay as processes of their own."`
	Sink benchSinkCommand `cmd:"" hidden:"" help:"Stand where the bot platform would be."`
}

type benchRunCommand struct {
	Duration    time.Duration `default:"10s" help:"Of each phase."`
	Connections []int         `default:"16,64,256" help:"Of the closed loops."`
	Body        int           `default:"1536" help:"Bytes of a callback."`
	DataDir     string        `help:"Where the private Postgres of the run lives; a directory of its own if absent."`
	JSON        string        `help:"Write the figures to this file."`
	Compare     string        `help:"Compare with the figures in this file."`
	Profile     string        `help:"Write a CPU profile of the relay, taken while it sustains its load, to this file."`
}

// Run measures and prints.
func (c *benchRunCommand) Run(ctx context.Context, p *program) (err error) {
	dir := c.DataDir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "relay-bench-"); err != nil {
			return fmt.Errorf("making a directory: %w", err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if err := os.Chmod(dir, 0o711); err != nil {
			return err
		}
	}
	pg, err := localpg.Start(ctx, localpg.Config{
		DataDir: filepath.Join(dir, "postgres"), Logger: newLogger(p.stderr, "text"),
		Settings: map[string]string{"shared_buffers": "512MB", "max_wal_size": "4GB"},
	})
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWait)
		defer cancel()
		err = errors.Join(err, pg.Stop(stopping))
	}()
	report, err := c.measure(ctx, p, pg, dir)
	if err != nil {
		return err
	}
	if c.Compare != "" {
		kept, err := bench.ReadReport(c.Compare)
		if err != nil {
			return err
		}
		report.Compare(p.stdout, kept)
	}
	if c.JSON != "" {
		return report.Write(c.JSON)
	}
	return nil
}

// measure runs the phases against a relay, and takes the machine's limits
// once it has stopped.
func (c *benchRunCommand) measure(ctx context.Context, p *program, pg *localpg.Server, dir string) (*bench.Report, error) {
	plan := bench.Plan{
		Duration: c.Duration, Connections: c.Connections, Body: c.Body, Profile: c.Profile,
		Say: func(format string, args ...any) { fmt.Fprintf(p.stdout, format+"\n", args...) },
	}
	report := &bench.Report{Version: thisEdition().short(), Machine: machine(), Settings: fmt.Sprintf("%s a phase, bodies of %d bytes", c.Duration, c.Body)}
	key := seal.NewKey()
	target, stop, err := startTarget(ctx, pg, key)
	if err != nil {
		stop()
		return nil, err
	}
	var spare []string
	report.Phases, spare, err = bench.Run(ctx, target, plan)
	stop()
	if err != nil {
		return nil, err
	}
	keys, err := seal.ParseRing(key)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, store.Config{URL: pg.URL(), Keys: keys, HotConnections: hotConnections, Connections: connections})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	report.Limits, err = bench.Limits(ctx, bench.Floor{Store: s, Dir: dir, Spare: spare}, plan)
	return report, err
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

// startTarget starts the sink and the relay as processes of their own. stop
// ends both.
func startTarget(ctx context.Context, pg *localpg.Server, key string) (t bench.Target, stop func(), err error) {
	stop = func() {}
	self, err := os.Executable()
	if err != nil {
		return t, stop, err
	}
	sink, line, err := startChild(ctx, nil, self, "bench", "sink")
	if err != nil {
		return t, stop, fmt.Errorf("starting the sink: %w", err)
	}
	stop = func() { endChild(sink) }
	calls, control, _ := strings.Cut(line, " ")
	t = bench.Target{
		SinkCalls: calls, SinkControl: control, SinkPID: sink.Process.Pid, PostgresPID: pg.PID(), APIKey: rand.Text(),
		WAL: func(ctx context.Context) (int64, error) { return store.WALPosition(ctx, pg.URL()) },
	}
	if t.Relay, err = freeAddress(ctx); err != nil {
		return t, stop, err
	}
	if t.RelayOps, err = freeAddress(ctx); err != nil {
		return t, stop, err
	}
	env := []string{
		"DATABASE_URL=" + pg.URL(), "RELAY_LISTEN=" + t.Relay, "RELAY_OPS_LISTEN=" + t.RelayOps, "RELAY_API_KEY=" + t.APIKey,
		"RELAY_ENCRYPTION_KEY=" + key, "RELAY_ALLOW_PRIVATE_TARGETS=true", "RELAY_DRAIN_DELAY=0s",
	}
	relay := exec.CommandContext(ctx, self, "serve")
	relay.Env = append(os.Environ(), env...)
	relay.Stderr = os.Stderr
	if err := relay.Start(); err != nil {
		return t, stop, fmt.Errorf("starting the relay: %w", err)
	}
	stop = func() {
		endChild(relay)
		endChild(sink)
	}
	t.RelayPID = relay.Process.Pid
	return t, stop, awaitAddress(ctx, t.Relay)
}

// startChild starts a process and returns the first line that it prints.
func startChild(ctx context.Context, env []string, name string, args ...string) (*exec.Cmd, string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	return cmd, strings.TrimSpace(line), err
}

func endChild(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := listen(ctx, "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// awaitAddress waits until somebody listens.
func awaitAddress(ctx context.Context, address string) error {
	deadline := time.Now().Add(databaseWait)
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("the relay did not come up: %w", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
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
