package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// pingTimeout is how long a ping waits for an answer.
const pingTimeout = 3 * time.Second

// pingCommand asks whether a relay beside it wants requests. It is hidden: the
// image holds nothing but this program, and an engine can only check the
// health of a container with a program inside it.
type pingCommand struct {
	OpsListen string `default:"127.0.0.1:9090" help:"As for serve (RELAY_OPS_LISTEN)."`
	URL       string `arg:"" optional:"" help:"What to ask instead of this relay's /readyz."`
}

// Run fails unless the answer is 200.
func (c *pingCommand) Run(ctx context.Context) error {
	url := c.URL
	if url == "" {
		host, port, err := net.SplitHostPort(c.OpsListen)
		if err != nil {
			return fmt.Errorf("RELAY_OPS_LISTEN: %w", err)
		}
		url = "http://" + net.JoinHostPort(reachable(host), port) + "/readyz"
	}
	ctx, cancel := context.WithTimeoutCause(ctx, pingTimeout, fmt.Errorf("no answer within %s", pingTimeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("asking %s: %w", url, err)
	}
	// No proxy stands between a node and itself, and a redirect is no answer.
	transport := &http.Transport{Proxy: nil, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("asking %s: %w", url, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}

// reachable is where a listener's host is called: one that listens on all
// addresses also listens on loopback.
func reachable(host string) string {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "127.0.0.1"
	}
	return host
}
