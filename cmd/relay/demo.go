package main

import (
	"bytes"
	"cmp"
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
	Once      bool   `help:"End after the two conversations; fail when one was not resumed."`
	Listen    string `default:"127.0.0.1:8080" help:"Address of the relay (RELAY_LISTEN); another one is taken when it is in use."`
	OpsListen string `default:"127.0.0.1:9090" help:"Address of health checks, metrics and profiles (RELAY_OPS_LISTEN); the same holds."`
	APIKey    string `name:"api-key" help:"Its admin key (RELAY_API_KEY). Without one: a new one at each start."`
	DataDir   string `help:"Home of the private Postgres (RELAY_DATA_DIR)."`
	Verbose   bool   `help:"Show the relay's log."`
}

// The demo's secrets protect nothing: everything listens on loopback.
const (
	demoToken  = "demo-certainly-token"
	demoSecret = "whsec_demo" //nolint:gosec // it protects nothing
	demoKey    = "sk_test_demo"
	demoModule = 1068935
	resumeWait = 15 * time.Second
	// How long the return page says 'confirming' before the callback comes:
	// long enough to be read, as at Stripe.
	demoLag = 1500 * time.Millisecond
)

// Run plays the demo.
func (c *demoCommand) Run(ctx context.Context, p *program) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &demo{out: p.stdout, start: time.Now()}
	d.box = sandbox.New(sandbox.Config{
		CertainlyToken: demoToken, Offers: d.offers(), Stripe: sandbox.Stripe{
			Secret: demoSecret, APIKey: demoKey, Lag: demoLag,
			WebhookURL: func() string { return d.relay + "/in/default/stripe" },
		},
	})
	listener, err := listen(ctx, "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("the sandbox's address: %w", err)
	}
	defer func() { _ = listener.Close() }() // where nothing has served on it
	serve, moved, err := c.node(ctx)
	if err != nil {
		return err
	}
	d.sandbox, d.key = "http://"+listener.Addr().String(), serve.APIKey
	d.say("starting a private Postgres, the relay and a sandbox of the bot platform …")
	var g errgroup.Group
	g.Go(func() error {
		quiet := *p
		if !c.Verbose {
			quiet.stderr = io.Discard
		}
		err := serve.serve(ctx, &quiet, func(n *node) {
			d.relay, d.ops = n.url, "http://"+n.ops.Addr().String()
			g.Go(func() error { return serveSandbox(ctx, d.box, listener) }) // it calls the relay, so not before
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
	address, moved := addressFor(ctx, c.Listen)
	ops, _ := addressFor(ctx, c.OpsListen) // it is told in any case
	s = &serveCommand{nodeFlags: nodeFlags{
		databaseFlags: databaseFlags{DatabaseURL: embedded, DataDir: c.DataDir, Log: "text"},
		Listen:        address, OpsListen: ops, APIKey: cmp.Or(c.APIKey, "demo-"+rand.Text()), AllowPrivateTargets: "true",
		Migrate: "auto", ShutdownTimeout: span(10 * time.Second),
	}}
	dir, err := s.dataDir()
	if err != nil {
		return nil, nil, err
	}
	s.DataDir = filepath.Join(dir, "demo")
	return s, moved, nil
}

// addressFor is the address that is wanted, or one that is free, and why.
func addressFor(ctx context.Context, wanted string) (address string, moved error) {
	l, err := listen(ctx, wanted)
	if err == nil {
		err = l.Close()
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err // without the address again
	}
	if err != nil {
		return "127.0.0.1:0", err
	}
	return wanted, nil
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
	back := d.sandbox + "/sandbox/chat/{{ correlation.user_id }}"
	otherwise := map[string]any{"module_id": demoModule + 2, "custom_vars": map[string]any{"why": "{{ outcome }}"}}
	objects := []struct {
		path string
		body map[string]any
	}{
		{"destinations/bot", map[string]any{"platform": "certainly", "base_url": d.sandbox + "/certainly", "token": demoToken}},
		{"sources/stripe", map[string]any{"provider": "stripe", "secret": demoSecret, "api_key": demoKey, "base_url": d.sandbox + "/stripe"}},
		{"flows/booking", map[string]any{
			"destination": "bot", "expires_in": "2h", "return_url": back, "form": demoForm(),
			"look": map[string]any{
				"name": "Trattoria Zoë", "color": "#7a1fa2", "texts": map[string]any{"completed": "Your table is booked. See you soon!"},
			},
			"on": map[string]any{
				"completed": map[string]any{"module_id": demoModule, "wait_time": 0, "custom_vars": map[string]any{
					"name": "{{ form.name }}", "email": "{{ form.email }}", "guests": "{{ form.guests }}",
					"place": "{{ form.place }}", "blanket": "{{ form.blanket }}",
				}},
				"default": otherwise,
			},
		}},
		{"flows/checkout", map[string]any{
			"destination": "bot", "source": "stripe", "expires_in": "45m", "return_url": back,
			"create": map[string]any{"checkout_session": map[string]any{"line_items": []any{map[string]any{
				"quantity": 1, "price_data": map[string]any{"currency": "eur", "unit_amount": 2050, "product_data": map[string]any{"name": "A table for two"}},
			}}}},
			"expect": map[string]any{"currency": "EUR", "amount": "20.50"},
			"on": map[string]any{
				"completed": map[string]any{"module_id": demoModule + 1, "wait_time": 0, "custom_vars": map[string]any{
					"amount": "{{ payment.amount }}", "receipt": "Paid {{ payment.amount_text }} {{ payment.currency }}",
				}},
				"attempt_failed": map[string]any{"text": "That card was declined. The same link still works."},
				"mismatch":       map[string]any{"text": "We received another amount or currency than we asked for. Somebody will look at it."},
				"default":        otherwise,
			},
		}},
	}
	for _, o := range objects {
		if _, err := d.api(ctx, http.MethodPut, "/v1/"+o.path, o.body); err != nil {
			return fmt.Errorf("%s: %w", o.path, err)
		}
	}
	d.say("configured: a destination, a source, two flows: a form of the relay's own, and a checkout that it creates at Stripe")
	return nil
}

// demoForm is the form that the relay shows.
func demoForm() map[string]any {
	return map[string]any{
		"language": "en", "title": "Book a table", "intro": "We keep it for you for 15 minutes.", "submit": "Book it",
		"fields": []map[string]any{
			{"name": "name", "label": "Your name", "required": true},
			{"name": "email", "label": "E-mail", "type": "email", "required": true, "help": "We send the confirmation there."},
			{"name": "guests", "label": "How many are you?", "type": "number", "required": true, "min": 1, "max": 12},
			{"name": "place", "label": "Where?", "type": "radio", "options": []string{"inside", "outside"}},
			{"name": "blanket", "label": "A blanket for each", "type": "checkbox", "show_if": `form.place == "outside"`},
			{"name": "terms", "label": "I have read the terms.", "type": "consent", "required": true},
		},
	}
}

// offers are what the chat page lets people begin: the relay is asked from
// here, so that its key gets into no page.
func (d *demo) offers() []sandbox.Offer {
	begin := func(flow string) func(context.Context, string) (string, string, error) {
		return func(ctx context.Context, user string) (text, link string, err error) {
			wait, err := d.register(ctx, user, flow)
			if err != nil {
				return "", "", err
			}
			return botSays, fmt.Sprint(wait["url"]), nil
		}
	}
	return []sandbox.Offer{
		{Name: "form", Label: "Fill in a form", Begin: begin("booking")},
		{Name: "checkout", Label: "Pay for something", Begin: begin("checkout")},
	}
}

// botSays is what the bot says with a link.
const botSays = "Please use this link; I will wait here."

func (d *demo) playForm(ctx context.Context) error {
	user := "demo-form-" + rand.Text()[:6]
	link, err := d.ask(ctx, user, "booking")
	if err != nil {
		return err
	}
	d.say("form: the bot shows %s the link %s and waits", user, link)
	page, err := d.follow(ctx, link)
	if err != nil {
		return err
	}
	d.say("form: it leads to a form that the relay shows itself")
	status, _, err := d.post(ctx, page, url.Values{
		"name": {"Zoë"}, "email": {"zoe@example.org"}, "guests": {"4"}, "place": {"outside"}, "blanket": {"yes"}, "terms": {"yes"},
	})
	if err != nil {
		return err
	}
	d.say("form: filled in and sent, answered %d", status)
	return d.resumed(ctx, "form", user)
}

func (d *demo) playCheckout(ctx context.Context) error {
	user := "demo-pay-" + rand.Text()[:6]
	link, err := d.ask(ctx, user, "checkout")
	if err != nil {
		return err
	}
	d.say("checkout: a Checkout Session was created; the bot shows %s the link %s", user, link)
	page, err := d.follow(ctx, link)
	if err != nil {
		return err
	}
	d.say("checkout: it leads to the session's pay page")
	u, err := url.Parse(page)
	if err != nil {
		return err
	}
	_, back, err := d.post(ctx, page, url.Values{
		"choice": {"pay"}, "session": {u.Query().Get("session")}, "intent": {"pi_" + rand.Text()},
	})
	if err != nil {
		return err
	}
	d.say("checkout: paid; it leads back to %s, which waits for the signed callback: a redirect proves nothing", back)
	return d.resumed(ctx, "checkout", user)
}

func (d *demo) register(ctx context.Context, user, flow string) (map[string]any, error) {
	return d.api(ctx, http.MethodPost, "/v1/correlations", map[string]any{"user_id": user, "flow": flow})
}

// ask registers a wait and has the bot show its link.
func (d *demo) ask(ctx context.Context, user, flow string) (link string, err error) {
	wait, err := d.register(ctx, user, flow)
	if err != nil {
		return "", err
	}
	link = fmt.Sprint(wait["url"])
	d.box.Pause(sandbox.Certainly, user, botSays, link)
	return link, nil
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
Try it yourself (Ctrl-C ends the demo). Open this chat in a browser, and let the
bot begin a form or a checkout:

  %[2]s/sandbox/chat/me

Or be the bot. Open the "url" of the answer, pay, and read on in the same chat:

  curl -s %[1]s/v1/correlations -H 'Authorization: Bearer %[3]s' \
    -H 'Content-Type: application/json' -d '{"user_id": "me", "flow": "checkout"}'

What the relay knows of it:

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

// post sends a form as a browser would, and returns where it leads to.
func (d *demo) post(ctx context.Context, address string, form url.Values) (status int, location string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewBufferString(form.Encode()))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "text/html")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return 0, "", fmt.Errorf("answered %s", resp.Status)
	}
	return resp.StatusCode, resp.Header.Get("Location"), nil
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
	to, err := resp.Location() // it may be relative
	if err != nil {
		return "", err
	}
	return to.String(), nil
}
