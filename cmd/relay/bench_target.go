package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"relay.example/relay/internal/bench"
	"relay.example/relay/internal/store"
)

// benchServer is the Postgres of a run.
type benchServer struct {
	url string
	pid int    // 0: it is not measured
	dir string // on its disk
	key string // seals the secrets in it
}

// startTarget starts the sink and the relay as processes of their own. stop
// ends both, and is never nil.
func startTarget(ctx context.Context, p *program, pg *benchServer) (t bench.Target, stop func(), err error) {
	stop = func() {}
	self, err := os.Executable()
	if err != nil {
		return t, stop, err
	}
	sink, line, err := startChild(ctx, p, self, "bench", "sink")
	if err != nil {
		return t, stop, fmt.Errorf("starting the sink: %w", err)
	}
	stop = func() { endChild(sink) }
	calls, control, _ := strings.Cut(line, " ")
	t = bench.Target{
		SinkCalls: calls, SinkControl: control, SinkPID: sink.Process.Pid, PostgresPID: pg.pid, APIKey: rand.Text(),
	}
	if t.Relay, err = freeAddress(ctx); err != nil {
		return t, stop, err
	}
	if t.RelayOps, err = freeAddress(ctx); err != nil {
		return t, stop, err
	}
	relay := exec.CommandContext(ctx, self, "serve")
	relay.Env = append(withoutSettings(os.Environ()),
		"DATABASE_URL="+pg.url, "RELAY_LISTEN="+t.Relay, "RELAY_OPS_LISTEN="+t.RelayOps, "RELAY_API_KEY="+t.APIKey,
		"RELAY_ENCRYPTION_KEY="+pg.key, "RELAY_ALLOW_PRIVATE_TARGETS=true", "RELAY_DRAIN_DELAY=0s",
		"RELAY_TRUSTED_PROXIES=127.0.0.0/8") // each form is sent from an address of its own
	relay.Stderr = p.stderr
	if err := relay.Start(); err != nil {
		return t, stop, fmt.Errorf("starting the relay: %w", err)
	}
	t.RelayPID = relay.Process.Pid
	stop = func() {
		endChild(relay)
		endChild(sink)
		if t.Probe != nil {
			t.Probe.Close(context.WithoutCancel(ctx))
		}
	}
	if err := awaitAddress(ctx, t.Relay); err != nil {
		return t, stop, err
	}
	if pg.pid != 0 { // nobody else's server gets an extension from us
		t.Probe, err = store.OpenProbe(ctx, pg.url)
	}
	return t, stop, err
}

// withoutSettings leaves the settings of this process out of an environment:
// the relay under test has its own.
func withoutSettings(environ []string) []string {
	return slices.DeleteFunc(environ, func(variable string) bool {
		return strings.HasPrefix(variable, "RELAY_") || strings.HasPrefix(variable, "DATABASE_URL")
	})
}

// startChild starts a process and returns the first line that it prints.
func startChild(ctx context.Context, p *program, name string, args ...string) (*exec.Cmd, string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = withoutSettings(os.Environ())
	cmd.Stderr = p.stderr
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
