package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// patience is how long a test waits for what should happen at once: longer than
// any machine stands still, since waiting costs nothing when it does happen.
const patience = 2 * time.Minute

// The credentials of every test. None may ever stand in a log.
const (
	apiKey         = "test-api-key-0123456789"
	certainlyToken = "test-certainly-token"
	stripeSecret   = "whsec_test_0123456789"
	stripeKey      = "sk_test_0123456789"
)

// await polls a condition until it holds.
func await(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, within)
		}
		<-tick.C
	}
}

// logs is the standard error of one program: everything that it says, and its
// lines as they come.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed and replaced with each write
}

func newLogs() *logs { return &logs{more: make(chan struct{})} }

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.more)
	l.more = make(chan struct{})
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// line returns the fields of the first line with a message, or nil.
func (l *logs) line(message string) (fields map[string]any, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == message {
			return fields, l.more
		}
		fields = nil
	}
	return nil, l.more
}

// awaitLine waits for a line, or for the program to end without it.
func (l *logs) awaitLine(t *testing.T, message string, ended <-chan struct{}) map[string]any {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		fields, more := l.line(message)
		if fields != nil {
			return fields
		}
		select {
		case <-more:
		case <-ended:
			if fields, _ = l.line(message); fields != nil {
				return fields
			}
			t.Fatalf("the program ended without saying %q:\n%s", message, l)
		case <-limit.C:
			t.Fatalf("the program did not say %q within %s:\n%s", message, patience, l)
		}
	}
}

// checkLog fails the test when a log holds a credential, a token or the path
// of a callback.
func checkLog(t *testing.T, text string, secrets []string) {
	t.Helper()
	secrets = append([]string{apiKey, certainlyToken, stripeSecret, stripeKey}, secrets...)
	for line := range strings.Lines(text) {
		if found := leaks.In(line, secrets...); found != "" {
			t.Errorf("the log holds %q: %s", found, line)
			return // the others will be like it
		}
	}
}

// node under test: the real program, in this process.
type testNode struct {
	url, ops string
	log      *logs
	stop     context.CancelFunc
	done     chan struct{}
	err      error // after done
}

// settingsOf is the environment of a node on a database.
func settingsOf(databaseURL string) map[string]string {
	return map[string]string{
		"DATABASE_URL": databaseURL, "RELAY_LISTEN": "127.0.0.1:0", "RELAY_OPS_LISTEN": "127.0.0.1:0",
		"RELAY_API_KEY": apiKey, "RELAY_ENCRYPTION_KEY": seal.NewKey(), "RELAY_ALLOW_PRIVATE_TARGETS": "true",
		"RELAY_DRAIN_DELAY": "0s", "RELAY_SHUTDOWN_TIMEOUT": "10s", "RELAY_LOG": "json",
		"CERTAINLY_TOKEN": certainlyToken, "STRIPE_WEBHOOK_SECRET": stripeSecret, "STRIPE_API_KEY": stripeKey,
	}
}

func lookupIn(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}
}

// startNode runs `relay serve` until the test ends or stop is called.
func startNode(t *testing.T, env map[string]string, args ...string) *testNode {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &testNode{log: newLogs(), stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(n.done)
		n.err = run(ctx, append([]string{"serve"}, args...), lookupIn(env), io.Discard, n.log)
	}()
	t.Cleanup(func() {
		n.checkMetrics(t)
		n.end(t)
	})
	up := n.log.awaitLine(t, "relay is up", n.done)
	n.url, n.ops = fmt.Sprintf("http://%s", up["listen"]), fmt.Sprintf("http://%s", up["ops_listen"])
	return n
}

// checkMetrics holds the page of metrics to what may stand in it, where the
// node still shows one.
func (n *testNode) checkMetrics(t *testing.T) {
	t.Helper()
	resp, err := client.Get(n.ops + "/metrics") // the test's own context has ended
	if err != nil {
		return // it has been stopped, which is what its test was about
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err == nil {
		checkLog(t, string(page), nil)
	}
}

// end stops the node and holds its log to what may stand in it.
func (n *testNode) end(t *testing.T) {
	t.Helper()
	n.stop()
	select {
	case <-n.done:
	case <-time.After(patience):
		t.Fatalf("the node did not stop within %s:\n%s", patience, n.log)
	}
	if n.err != nil {
		t.Errorf("run: got %v, want nil\n%s", n.err, n.log)
	}
}

// configuration is what the tests play with; modules tell the outcomes apart.
const configuration = `
destinations:
  - {name: bot, platform: certainly, base_url: "${SANDBOX}/certainly", token: "${CERTAINLY_TOKEN}"}
  - {name: locked, platform: certainly, base_url: "${SANDBOX}/certainly", token: "${CERTAINLY_TOKEN}"}
  - {name: impatient, platform: certainly, base_url: "${SANDBOX}/certainly", token: "${CERTAINLY_TOKEN}", timeout: 5s}
sources:
  - {name: stripe, provider: stripe, secret: "${STRIPE_WEBHOOK_SECRET}", api_key: "${STRIPE_API_KEY}", base_url: "${SANDBOX}/stripe"}
  - {name: contact, provider: html-form}
  - {name: mollie, provider: mollie-classic, api_key: test_key_of_the_tests, base_url: "${SANDBOX}/mollie"}
flows:
  - name: mollie
    destination: bot
    source: mollie
    expires_in: 50m
    on:
      completed: {module_id: 100, custom_vars: {amount: "{{ payment.amount }}", status: "{{ event.status }}"}}
      refunded: {text: "You have your money back."}
      default: {module_id: 109}
  - name: checkout
    destination: bot
    source: stripe
    link: https://buy.stripe.example/test_abc
    expires_in: 45m
    expect: {currency: EUR, amount: "20.50"}
    on:
      completed: {module_id: 100, wait_time: 0, custom_vars: {amount: "{{ payment.amount }}", receipt: "Paid {{ payment.amount_text }} {{ payment.currency }}"}}
      completed_late: {module_id: 101}
      attempt_failed: {text: "That card was declined."}
      processing: {text: "Your bank takes a while."}
      mismatch: {text: "{{ payment.amount_text }} {{ payment.currency }} is not what was asked for."}
      refunded: {text: "You have your money back."}
      default: {module_id: 109, custom_vars: {why: "{{ outcome }}"}}
  - name: guarded
    destination: bot
    source: stripe
    when: payment.amount > 10
    on: {completed: {module_id: 100}, default: {module_id: 109}}
  - name: contact
    destination: bot
    source: contact
    on:
      completed: {module_id: 200, custom_vars: {email: "{{ form.email }}"}}
      default: {module_id: 209, custom_vars: {why: "{{ outcome }}"}}
`

const (
	paidModule    = 100
	lateModule    = 101
	defaultModule = 109
	formModule    = 200
)

// world is one relay, the stand-in for Certainly, and the database between.
type world struct {
	*testNode
	t       *testing.T
	box     *sandbox.Sandbox
	boxURL  string
	dbURL   string
	env     map[string]string
	mu      sync.Mutex
	secrets []string // tokens, so far
}

// newWorld starts a relay with the configuration above.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dbURL: storetest.URL(t, true)}
	w.env = settingsOf(w.dbURL)
	w.startSandbox()
	t.Cleanup(func() { // after the node has ended
		if w.testNode != nil {
			checkLog(t, w.log.String(), w.secrets)
		}
	})
	w.testNode = startNode(t, w.env, "--config", writeFile(t, "relay.yaml", configuration))
	return w
}

func (w *world) startSandbox() {
	node := sandbox.HaptikNode{Secret: certainlyToken, URL: func() string { return w.url + "/bots/haptik/default/node" }}
	w.box = sandbox.New(sandbox.Config{CertainlyToken: certainlyToken, HaptikToken: certainlyToken, HaptikNode: node, UserengageToken: certainlyToken, Stripe: sandbox.Stripe{APIKey: stripeKey}})
	server := httptest.NewServer(w.box)
	w.t.Cleanup(server.Close)
	w.boxURL = server.URL
	w.env["SANDBOX"] = server.URL
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// wait is what the API tells of a correlation.
type wait struct {
	ID          string     `json:"id"`
	Token       string     `json:"token"`
	Status      string     `json:"status"`
	URL         string     `json:"url"`
	CallbackURL string     `json:"callback_url"`
	UserID      string     `json:"user_id"`
	Outcome     string     `json:"outcome"`
	LateOutcome string     `json:"late_outcome"`
	ExpiresAt   time.Time  `json:"expires_at"`
	ResolvedAt  *time.Time `json:"resolved_at"`
	ResolvedBy  string     `json:"resolved_by"`
	Reconciled  *bool      `json:"reconciled"`
	Payment     *struct {
		ID         string  `json:"id"`
		Amount     float64 `json:"amount"`
		AmountText string  `json:"amount_text"`
		Currency   string  `json:"currency"`
	} `json:"payment"`
	Deliveries []owed `json:"deliveries"`
}

// owed is what the API tells of a delivery.
type owed struct {
	ID            string     `json:"id"`
	Outcome       string     `json:"outcome"`
	Action        string     `json:"action"`
	Status        string     `json:"status"`
	Attempts      int        `json:"attempts"`
	LastClass     string     `json:"last_class"`
	LastReason    string     `json:"last_reason"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	AttemptLog    []struct {
		Class      string `json:"class"`
		Reason     string `json:"reason"`
		HTTPStatus int    `json:"http_status"`
	} `json:"attempt_log"`
}

// received is what the API tells of an event.
type received struct {
	ID          string  `json:"id"`
	Verdict     string  `json:"verdict"`
	Match       string  `json:"match"`
	Rule        string  `json:"rule"`
	Reason      string  `json:"reason"`
	Correlation *string `json:"correlation_id"`
	DuplicateOf *string `json:"duplicate_of"`
	ProviderID  string  `json:"provider_event_id"`
}

// client never follows a redirect: where one leads is part of what is tested.
var client = &http.Client{
	Timeout:       patience,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// answer is the head of an HTTP answer.
type answer struct {
	StatusCode int
	Header     http.Header
}

// exchange makes a request and returns its whole answer.
func exchange(t *testing.T, method, address string, header http.Header, body string) (answer, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: reading the answer: %v", method, err)
	}
	return answer{resp.StatusCode, resp.Header}, string(text)
}

// patiently repeats a request that the node cannot take just now, as whoever
// sent it does: on a machine that stands still for 3 s that is right.
func patiently(t *testing.T, request func() (answer, string)) (resp answer, text string) {
	t.Helper()
	await(t, patience, "a node that takes the request", func() bool {
		resp, text = request()
		return resp.StatusCode != http.StatusServiceUnavailable
	})
	return resp, text
}

// call asks the API and reads its answer into out, unless that is nil.
func (n *testNode) call(t *testing.T, method, path string, body, out any, want int) string {
	t.Helper()
	header := http.Header{"Authorization": {"Bearer " + apiKey}}
	text := ""
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		header.Set("Content-Type", "application/json")
		text = string(raw)
	}
	resp, answer := patiently(t, func() (answer, string) { return exchange(t, method, n.url+path, header, text) })
	if resp.StatusCode != want {
		t.Fatalf("%s %s: got %d, want %d: %s", method, path, resp.StatusCode, want, answer)
	}
	if out != nil {
		if err := json.Unmarshal([]byte(answer), out); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, answer)
		}
	}
	return answer
}

// object is a JSON object.
type object = map[string]any

// register registers a wait of a fresh user for a flow.
func (w *world) register(t *testing.T, flow string, more object) (out wait) {
	t.Helper()
	body := object{"user_id": "u-" + strings.ReplaceAll(t.Name(), "/", "-") + relay.NewToken()[:4], "flow": flow}
	maps.Copy(body, more)
	w.call(t, http.MethodPost, "/v1/correlations", body, &out, http.StatusCreated)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets = append(w.secrets, out.Token)
	return out
}

func (n *testNode) wait(t *testing.T, id string) (out wait) {
	t.Helper()
	n.call(t, http.MethodGet, "/v1/correlations/"+id, nil, &out, http.StatusOK)
	return out
}

// settled waits until nothing is owed to a wait any more.
func (n *testNode) settled(t *testing.T, id string) (out wait) {
	t.Helper()
	await(t, patience, "the deliveries of the wait", func() bool {
		out = n.wait(t, id)
		return !slices.ContainsFunc(out.Deliveries, func(d owed) bool { return d.Status == "scheduled" || d.Status == "sending" })
	})
	return out
}

func (n *testNode) delivery(t *testing.T, id string) (out owed) {
	t.Helper()
	n.call(t, http.MethodGet, "/v1/deliveries/"+id, nil, &out, http.StatusOK)
	return out
}

// events lists the events that a query finds, newest first.
func (n *testNode) events(t *testing.T, query url.Values) []received {
	t.Helper()
	var out struct {
		Data []received `json:"data"`
	}
	n.call(t, http.MethodGet, "/v1/events?"+query.Encode(), nil, &out, http.StatusOK)
	return out.Data
}

// event finds one event by the provider's id and what became of it.
func (n *testNode) event(t *testing.T, token, providerID string) received {
	t.Helper()
	for _, e := range n.events(t, url.Values{"token": {token}}) {
		if e.ProviderID == providerID {
			return e
		}
	}
	t.Fatalf("no event %s with the wait's token", providerID)
	return received{}
}

// stripe sends a signed callback and wants it accepted.
func (n *testNode) stripe(t *testing.T, kind string, o sandbox.StripeOptions) {
	t.Helper()
	n.stripeBody(t, sandbox.StripeEvent(kind, o))
}

func (n *testNode) stripeBody(t *testing.T, body []byte) {
	t.Helper()
	resp, answer := patiently(t, func() (answer, string) {
		return exchange(t, http.MethodPost, n.url+"/in/default/stripe", signed(body), string(body))
	})
	if resp.StatusCode != http.StatusOK || answer != "[accepted]" {
		t.Fatalf("the callback was answered %d %q, want 200 %q", resp.StatusCode, answer, "[accepted]")
	}
}

func signed(body []byte) http.Header {
	return http.Header{
		"Content-Type":     {"application/json"},
		"Stripe-Signature": {sandbox.SignStripe(stripeSecret, body, time.Now())},
	}
}

// paid is a payment of what the flow `checkout` expects.
func paid(w wait) sandbox.StripeOptions {
	return sandbox.StripeOptions{
		Token: w.Token, Amount: 2050,
		SessionID: "cs_test_" + relay.NewToken(), IntentID: "pi_" + relay.NewToken(), EventID: "evt_" + relay.NewToken(),
	}
}

// conversation is what Certainly knows of the user of a wait.
func (w *world) conversation(of wait) sandbox.Conversation {
	c, _ := w.box.Conversation(sandbox.Certainly, of.UserID)
	return c
}

// wantModule holds where the conversation of a wait went, and how often.
func (w *world) wantModule(t *testing.T, of wait, module int64, resumed int) sandbox.Conversation {
	t.Helper()
	c := w.conversation(of)
	switch {
	case c.Resumed != resumed:
		t.Errorf("conversation: got %d resumes, want %d", c.Resumed, resumed)
	case resumed > 0 && *c.ModuleID != module:
		t.Errorf("conversation: got module %d, want %d", *c.ModuleID, module)
	}
	return c
}

// said lists what the bot said to the user of a wait.
func (w *world) said(of wait) (texts []string) {
	for _, m := range w.conversation(of).Messages {
		if m.Kind == sandbox.KindText {
			texts = append(texts, m.Text)
		}
	}
	return texts
}

// wantStatus holds the state of a wait.
func wantStatus(t *testing.T, got wait, status relay.Status, deliveries ...string) {
	t.Helper()
	if got.Status != string(status) {
		t.Errorf("status: got %q, want %q", got.Status, status)
	}
	var actions []string
	for _, d := range got.Deliveries {
		actions = append(actions, d.Action)
	}
	if !slices.Equal(actions, deliveries) {
		t.Errorf("deliveries by action: got %q, want %q", actions, deliveries)
	}
}

// command runs a command to its end and returns what it printed.
func command(t *testing.T, env map[string]string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	said := newLogs()
	err := run(t.Context(), args, lookupIn(env), &out, said)
	checkLog(t, said.String(), []string{env["RELAY_ENCRYPTION_KEY"]})
	return out.String(), err
}

// mustRun is command for those that must succeed.
func mustRun(t *testing.T, env map[string]string, args ...string) string {
	t.Helper()
	out, err := command(t, env, args...)
	if err != nil {
		t.Fatalf("relay %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// wantRefusal wants an error that says certain words.
func wantRefusal(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("got no error, want one that says %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error: got %q, want it to say %q", err, w)
		}
	}
	if errors.Is(err, context.Canceled) {
		t.Errorf("error: got %v, which is of a test that was given up", err)
	}
}
