package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
)

const (
	drainDelay = 2 * time.Second        // RELAY_DRAIN_DELAY of the nodes
	lookEvery  = 100 * time.Millisecond // how often the balancer asks /readyz
	upLimit    = 90 * time.Second       // for a node to come up: it waits 60 s for its database
)

// node is a `relay serve` of the built program, and its own way to the
// database.
type node struct {
	name     string
	program  string
	args     []string
	env      []string
	url, ops string             // http://host:port
	proxies  []*toxiproxy.Proxy // one before each server
	log      *os.File

	ready atomic.Bool // as the balancer last saw it
	cmd   *exec.Cmd
	done  chan struct{}
}

// start starts the process and waits until it is ready.
func (n *node) start(ctx context.Context) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), n.program, append([]string{"serve"}, n.args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = n.env, n.log, n.log
	// A terminal's Ctrl-C is ours to pass on, in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", n.name, err)
	}
	done := make(chan struct{})
	n.cmd, n.done = cmd, done
	go func() {
		_ = cmd.Wait() // why it ended is in its log
		close(done)
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, upLimit, fmt.Errorf("it was not ready within %s", upLimit))
	defer cancel()
	for !n.look(ctx) {
		select {
		case <-done:
			return fmt.Errorf("%s ended at its start: see %s", n.name, n.log.Name())
		case <-time.After(20 * time.Millisecond):
		}
		if ctx.Err() != nil {
			return fmt.Errorf("starting %s: %w", n.name, context.Cause(ctx))
		}
	}
	return nil
}

// look asks the node whether it is ready, as a balancer does.
func (n *node) look(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		n.ready.Store(false)
		return false
	}
	ready := resp.StatusCode == http.StatusOK
	n.ready.Store(ready)
	return resp.Body.Close() == nil && ready
}

// watch looks until ctx is done.
func (n *node) watch(ctx context.Context) {
	for ctx.Err() == nil {
		n.look(ctx)
		_ = pause(ctx, lookEvery)
	}
}

// kill is kill -9.
func (n *node) kill() error {
	if n.cmd == nil {
		return nil
	}
	_ = n.cmd.Process.Kill() // it may have ended
	<-n.done
	return nil
}

// terminate is SIGTERM, and the end that follows from it.
func (n *node) terminate() error {
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping %s: %w", n.name, err)
	}
	select {
	case <-n.done:
		return nil
	case <-time.After(upLimit):
		return errors.Join(fmt.Errorf("%s did not stop within %s", n.name, upLimit), n.kill())
	}
}

// toxic puts a toxic into both directions of every way that the node has to
// the database. attributes are JSON.
func (n *node) toxic(kind, attributes string) error {
	for _, p := range n.proxies {
		for _, stream := range []string{"upstream", "downstream"} {
			toxic := fmt.Sprintf(`{"type": %q, "stream": %q, "attributes": {%s}}`, kind, stream, attributes)
			if _, err := p.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
				return fmt.Errorf("%s between %s and its database: %w", kind, n.name, err)
			}
		}
	}
	return nil
}

// cure takes every toxic away again.
func (n *node) cure(ctx context.Context) {
	for _, p := range n.proxies {
		p.Toxics.ResetToxics(ctx)
	}
}

// disconnect cuts every connection and takes no new ones until reconnect.
func (n *node) disconnect() {
	for _, p := range n.proxies {
		p.Stop()
	}
}

func (n *node) reconnect() error {
	for _, p := range n.proxies {
		if err := p.Start(); err != nil {
			return fmt.Errorf("opening the way of %s to its database: %w", n.name, err)
		}
	}
	return nil
}

func (n *node) close() error {
	err := n.kill()
	for _, p := range n.proxies {
		p.Stop()
	}
	return errors.Join(err, n.log.Close())
}

// withoutSettings leaves the settings of this process out of an environment.
func withoutSettings(environ []string) []string {
	return slices.DeleteFunc(environ, func(variable string) bool {
		return strings.HasPrefix(variable, "RELAY_") || strings.HasPrefix(variable, "DATABASE_URL") || strings.HasPrefix(variable, "PG")
	})
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// pause waits for d, or returns why it could not.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
