package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/sandbox"
)

// demoCommand starts everything privately and plays two conversations.
type demoCommand struct {
	Once    bool   `help:"End after the two conversations; fail when one was not resumed."`
	Listen  string `default:"127.0.0.1:8080" help:"Address of the relay; another one is taken when it is in use."`
	DataDir string `help:"Home of the private Postgres (RELAY_DATA_DIR)."`
	Verbose bool   `help:"Show the relay's log."`
}

// The demo's secrets protect nothing: everything listens on loopback.
const (
	demoToken  = "demo-certainly-token"
	demoSecret = "whsec_demo" //nolint:gosec // it protects nothing
	demoModule = 1068935
	resumeWait = 15 * time.Second
)

// Run plays the demo.
func (c *demoCommand) Run(ctx context.Context, p *program) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var address string // of the relay, known before the first callback
	box := sandbox.New(sandbox.Config{CertainlyToken: demoToken, Stripe: sandbox.Stripe{
		Secret: demoSecret, WebhookURL: func() string { return address + "/in/default/stripe" },
	}})
	listener, err := listen(ctx, "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("the sandbox's address: %w", err)
	}
	serve, moved, err := c.node(ctx)
	if err != nil {
		_ = listener.Close()
		return err
	}
	d := &demo{out: p.stdout, start: time.Now(), box: box, sandbox: "http://" + listener.Addr().String(), key: serve.APIKey}
	d.say("starting a private Postgres, the relay and a sandbox of the bot platform …")
	var g errgroup.Group
	g.Go(func() error { return serveSandbox(ctx, box, listener) })
	g.Go(func() error {
		quiet := *p
		if !c.Verbose {
			quiet.stderr = io.Discard
		}
		err := serve.serve(ctx, &quiet, func(n *node) {
			address = n.url
			d.relay, d.ops = n.url, "http://"+n.ops.Addr().String()
			if moved != nil {
				d.say("the relay took the address %s, since %s cannot be had: %v", n.public.Addr(), c.Listen, moved)
			}
			g.Go(func() error {
				err := d.play(ctx)
				if err != nil || c.Once {
					cancel(err)
					return err
				}
				d.invite()
				return nil
			})
		})
		cancel(err)
		return err
	})
	return g.Wait()
}

// node is the relay's part of the demo: a node like any other, with a data
// directory of its own so that the demo touches nobody's data. moved says why
// it listens on another address than the wanted one.
func (c *demoCommand) node(ctx context.Context) (s *serveCommand, moved, err error) {
	address := c.Listen
	if l, err := listen(ctx, address); err != nil {
		address, moved = "127.0.0.1:0", err
		if op := (*net.OpError)(nil); errors.As(err, &op) {
			moved = op.Err // without the address again
		}
	} else if err := l.Close(); err != nil {
		return nil, nil, fmt.Errorf("--listen: %w", err)
	}
	s = &serveCommand{nodeFlags: nodeFlags{
		databaseFlags: databaseFlags{DatabaseURL: embedded, DataDir: c.DataDir, Log: "text"},
		Listen:        address, OpsListen: "127.0.0.1:0", APIKey: "demo-" + rand.Text(), AllowPrivateTargets: "true",
		Migrate: "auto", ShutdownTimeout: span(10 * time.Second),
	}}
	dir, err := s.dataDir()
	if err != nil {
		return nil, nil, err
	}
	s.DataDir = filepath.Join(dir, "demo")
	return s, moved, nil
}

// demo is one run of it, as a bot builder and an end user would do it: over
// HTTP.
type demo struct {
	out     io.Writer
	start   time.Time
	box     *sandbox.Sandbox
	sandbox string
	relay   string
	ops     string
	key     string
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%7.3fs  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) play(ctx context.Context) error {
	d.say("the relay is up at %s, the sandbox at %s", d.relay, d.sandbox)
	d.say("health checks, metrics and profiles are at %s/readyz, /metrics and /debug/pprof/", d.ops)
	if err := d.configure(ctx); err != nil {
		return fmt.Errorf("configuring: %w", err)
	}
	if err := d.playForm(ctx); err != nil {
		return fmt.Errorf("the form: %w", err)
	}
	if err := d.playCheckout(ctx); err != nil {
		return fmt.Errorf("the checkout: %w", err)
	}
	d.say("both conversations were resumed")
	return nil
}

// configure tells the relay who calls, whom to call, and what to do between.
func (d *demo) configure(ctx context.Context) error {
	objects := []struct {
		path string
		body map[string]any
	}{
		{"destinations/bot", map[string]any{"platform": "certainly", "base_url": d.sandbox + "/certainly", "token": demoToken}},
		{"sources/stripe", map[string]any{"provider": "stripe", "secret": demoSecret}},
		{"sources/contact", map[string]any{"provider": "html-form"}},
		{"flows/contact", map[string]any{
			"destination": "bot", "source": "contact",
			"on": map[string]any{
				"completed": map[string]any{"module_id": demoModule, "wait_time": 0, "custom_vars": map[string]any{"email": "{{ form.email }}"}},
				"default":   map[string]any{"module_id": demoModule + 2, "custom_vars": map[string]any{"why": "{{ outcome }}"}},
			},
		}},
		{"flows/checkout", map[string]any{
			"destination": "bot", "source": "stripe", "link": d.sandbox + "/pay/demo", "expect": map[string]any{"currency": "EUR"},
			"on": map[string]any{
				"completed": map[string]any{"module_id": demoModule + 1, "wait_time": 0, "custom_vars": map[string]any{
					"amount": "{{ payment.amount }}", "receipt": "Paid {{ payment.amount_text }} {{ payment.currency }}",
				}},
				"default": map[string]any{"module_id": demoModule + 2, "custom_vars": map[string]any{"why": "{{ outcome }}"}},
			},
		}},
	}
	for _, o := range objects {
		if _, err := d.api(ctx, http.MethodPut, "/v1/"+o.path, o.body); err != nil {
			return fmt.Errorf("%s: %w", o.path, err)
		}
	}
	d.say("configured: a destination, two sources, two flows")
	return nil
}

func (d *demo) playForm(ctx context.Context) error {
	user := "demo-form-" + rand.Text()[:6]
	wait, err := d.register(ctx, user, "contact")
	if err != nil {
		return err
	}
	d.say("form: the bot sends %s to a form and waits", user)
	d.say("form: its callback address is %s", wait["callback_url"])
	form := url.Values{"name": {"Zoë"}, "email": {"zoe@example.org"}}
	status, err := d.post(ctx, fmt.Sprint(wait["callback_url"]), form)
	if err != nil {
		return err
	}
	d.say("form: submitted, answered %d", status)
	return d.resumed(ctx, "form", user)
}

func (d *demo) playCheckout(ctx context.Context) error {
	user := "demo-pay-" + rand.Text()[:6]
	wait, err := d.register(ctx, user, "checkout")
	if err != nil {
		return err
	}
	d.say("checkout: the bot shows %s the link %s", user, wait["url"])
	page, err := d.follow(ctx, fmt.Sprint(wait["url"]))
	if err != nil {
		return err
	}
	d.say("checkout: it leads to the pay page, token included")
	u, err := url.Parse(page)
	if err != nil {
		return err
	}
	form := url.Values{
		"reference": {u.Query().Get("client_reference_id")}, "choice": {"pay"},
		"session": {"cs_test_" + rand.Text()}, "intent": {"pi_" + rand.Text()},
	}
	u.RawQuery = ""
	status, err := d.post(ctx, u.String(), form)
	if err != nil {
		return err
	}
	d.say("checkout: paid; the signed callback was accepted, the page answered %d", status)
	return d.resumed(ctx, "checkout", user)
}

func (d *demo) register(ctx context.Context, user, flow string) (map[string]any, error) {
	d.box.Pause(sandbox.Certainly, user, "Please use this link; I will wait here.", "")
	return d.api(ctx, http.MethodPost, "/v1/correlations", map[string]any{"user_id": user, "flow": flow})
}

// resumed waits until the bot platform has been told.
func (d *demo) resumed(ctx context.Context, what, user string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, resumeWait, fmt.Errorf("the conversation was not resumed within %s", resumeWait))
	defer cancel()
	c, err := d.box.Await(ctx, sandbox.Certainly, user, func(c sandbox.Conversation) bool { return c.Resumed > 0 })
	if err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	vars, err := json.Marshal(c.CustomVars)
	if err != nil {
		return err
	}
	d.say("%s: resumed: trigger-response moved %s to module %d with %s", what, user, *c.ModuleID, vars)
	d.say("%s: see the conversation at %s/sandbox/chat/%s", what, d.sandbox, user)
	return nil
}

// invite shows how to go on by hand.
func (d *demo) invite() {
	fmt.Fprintf(d.out, `
Try it yourself (Ctrl-C ends the demo):

  curl -s %[1]s/v1/correlations -H 'Authorization: Bearer %[3]s' \
    -H 'Content-Type: application/json' -d '{"user_id": "me", "flow": "checkout"}'

Open the "url" of the answer in a browser and pay; then see the conversation at
%[2]s/sandbox/chat/me and what the relay knows of it with

  curl -s '%[1]s/v1/correlations?user_id=me' -H 'Authorization: Bearer %[3]s'

`, d.relay, d.sandbox, d.key)
}

// api calls the relay's API and returns its answer.
func (d *demo) api(ctx context.Context, method, path string, body any) (map[string]any, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, d.relay+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+d.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return nil, fmt.Errorf("answered %d: %v", resp.StatusCode, answer["detail"])
	}
	return answer, nil
}

// post sends a form as a browser would, but does not follow redirects.
func (d *demo) post(ctx context.Context, address string, form url.Values) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewBufferString(form.Encode()))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "text/html")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return 0, fmt.Errorf("answered %s", resp.Status)
	}
	return resp.StatusCode, nil
}

// follow returns where an address redirects to.
func (d *demo) follow(ctx context.Context, address string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusFound {
		return "", fmt.Errorf("the link answered %s", resp.Status)
	}
	return resp.Header.Get("Location"), nil
}
