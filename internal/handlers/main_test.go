package handlers_test

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"relay.example/relay/internal/checkout"
	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/handlers"
	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// publicURL is where the relay believes to be reached.
const publicURL = "https://relay.test"

// The secrets of the standard configuration. No answer may ever hold one.
const (
	botToken     = "certainly-token-of-the-tests"
	hookSecret   = "hook-secret-of-the-tests"
	stripeSecret = "whsec_c3RyaXBlLXNlY3JldC1vZi10aGUtdGVzdHM"
	stripeAPIKey = "rk_test_api_key_of_the_tests"
)

// node is a relay's HTTP surface over a real database; what it would deliver
// is recorded.
type node struct {
	t *testing.T // whose helper calls these are
	*parts
}

// in returns n for the use of a subtest.
func (n *node) in(t *testing.T) *node { return &node{t, n.parts} }

// parts is what a node is made of and has seen.
type parts struct {
	url       string // of its server
	database  string
	sealed    *seal.Ring
	store     *store.Store
	directory *directory.Directory
	handlers  *handlers.Handlers
	intake    *intake.Intake
	stop      func() // of the intake
	keys      map[relay.Scope]string
	log       *leaks.Log

	mu       sync.Mutex
	handed   []relay.Delivery
	woken    int
	onHand   func()
	answered []string // every answer's header and body
	secrets  []string // which no answer and no line of the log may hold
}

// options change what a node is made of.
type options struct {
	database string                    // "" makes a fresh one
	sealed   *seal.Ring                // the keys of that database
	server   func(*http.Server)        // changes the server before it starts
	wrap     func(string) (url string) // changes how the database is reached
	bare     bool                      // without the standard configuration

	certificates *provider.Certificates
	answerIn     time.Duration // within what a callback is answered; 0: patience
}

func newNode(t *testing.T, with ...options) *node {
	t.Helper()
	var o options
	if len(with) > 0 {
		o = with[0]
	}
	if o.database == "" {
		o.database = storetest.URL(t, true)
	}
	n := &node{t, &parts{
		database: o.database, log: &leaks.Log{}, keys: map[relay.Scope]string{},
		secrets: []string{botToken, hookSecret, stripeSecret, stripeAPIKey},
	}}
	reached := o.database
	if o.wrap != nil {
		reached = o.wrap(reached)
	}
	n.sealed = cmp.Or(o.sealed, storetest.Keys(t))
	n.store = storetest.Open(t, reached, n.sealed)
	log := slog.New(slog.NewJSONHandler(leaks.Watch(t, n.log), &slog.HandlerOptions{Level: slog.LevelDebug}))
	policy, err := egress.ParsePolicy("true")
	must(t, err)
	n.directory, err = directory.New(directory.Config{Store: n.store, PublicURL: publicURL, Policy: policy, Certificates: o.certificates, Log: log})
	must(t, err)
	must(t, n.directory.Load(t.Context()))
	client := egress.New(egress.Config{Policy: policy})
	t.Cleanup(client.Close)
	plans := plan.NewCache(n.store.Plan)
	n.intake, err = intake.New(intake.Config{Store: n.store, Plans: plans, Directory: n.directory, HandOver: n.handOver, Log: log})
	must(t, err)
	n.handlers, err = handlers.New(handlers.Config{
		Store: n.store, Directory: n.directory, Intake: n.intake, Plans: plans,
		HandOver: n.handOver, Wake: n.wake, PublicURL: publicURL, Log: log,
		Checkouts: checkout.New(client),
	})
	must(t, err)
	n.handlers.SetAnswerTimeout(cmp.Or(o.answerIn, patience))
	n.run()
	ts := httptest.NewUnstartedServer(nil)
	ts.Config = n.handlers.Server()
	if o.server != nil {
		o.server(ts.Config)
	}
	ts.Start()
	t.Cleanup(ts.Close)
	n.url = ts.URL
	t.Cleanup(n.checkSecrets)
	for _, scope := range []relay.Scope{relay.ScopeRead, relay.ScopeCreate, relay.ScopeWrite, relay.ScopeAdmin, relay.ScopeInstance} {
		n.keys[scope] = n.addKey(relay.DefaultProject, scope)
	}
	if !o.bare {
		n.configure("")
	}
	return n
}

// run starts what a node runs, until the test ends or n.stop is called.
func (n *node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = n.intake.Run(ctx) })
	running.Go(func() { _ = n.handlers.Run(ctx) })
	n.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	n.t.Cleanup(n.stop)
}

func (n *node) handOver(deliveries []relay.Delivery) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handed = append(n.handed, deliveries...)
	if n.onHand != nil {
		n.onHand()
	}
}

func (n *node) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.woken++
}

// deliveries returns what was handed over so far.
func (n *node) deliveries() []relay.Delivery {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.handed)
}

// addKey makes an API key without the API.
func (n *node) addKey(project string, scope relay.Scope) string {
	n.t.Helper()
	text := "key-" + project + "-" + string(scope) + "-0123456789abcdef"
	var projectID int64
	if scope != relay.ScopeInstance {
		projectID = n.directory.Current().Project(project).ID
	}
	must(n.t, n.directory.Change(n.t.Context(), func(c *store.Change) error {
		return c.PutKey(n.t.Context(), relay.NewAPIKey(text, projectID, string(scope), scope))
	}))
	n.secret(text)
	return text
}

// secret notes a text that no answer may hold from now on.
func (n *node) secret(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.secrets = append(n.secrets, text)
}

// configure puts the standard objects into a project by the API: a
// destination, a source of each sort, a flow.
func (n *node) configure(project string) {
	n.t.Helper()
	for path, object := range map[string]string{
		"/v1/destinations/bot":  `{"platform": "certainly", "base_url": "https://bot.test", "token": "` + botToken + `"}`,
		"/v1/sources/hook":      `{"provider": "generic-hmac", "secret": "` + hookSecret + `"}`,
		"/v1/sources/stripe":    `{"provider": "stripe", "secret": "` + stripeSecret + `", "api_key": "` + stripeAPIKey + `"}`,
		"/v1/sources/contact":   `{"provider": "html-form"}`,
		"/v1/sources/awaiting":  `{"provider": "generic-hmac"}`,
		"/v1/sources/unrelated": `{"provider": "generic-hmac"}`,
	} {
		n.put(path, object, inProject(project)).want(http.StatusOK)
	}
	n.put("/v1/flows/checkout", `{
		"destination": "bot", "source": "stripe", "link": "https://buy.stripe.com/test_abc?locale=de", "expires_in": "45m",
		"on": {"completed": {"module_id": 1068935, "custom_vars": {"amount": "{{ payment.amount }}"}},
		       "attempt_failed": {"text": "That card was declined."},
		       "default": {"module_id": 1068937}}}`, inProject(project)).want(http.StatusOK)
}

// setting changes a request before it is sent.
type setting func(*http.Request)

func header(name, value string) setting {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func bearer(key string) setting { return header("Authorization", "Bearer "+key) }

// inProject makes an instance key act for a project; "" leaves it out.
func inProject(name string) setting {
	return func(r *http.Request) {
		if name != "" {
			r.Header.Set("Relay-Project", name)
		}
	}
}

// answer is what came back.
type answer struct {
	t      *testing.T
	asked  string
	Status int
	Header http.Header
	Body   []byte
}

// client neither follows redirects nor shares connections between tests.
func client(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// send sends one request, as nobody unless a setting says who.
func (n *node) send(method, path string, body io.Reader, settings ...setting) *answer {
	n.t.Helper()
	a, err := n.try(method, path, body, settings...)
	must(n.t, err)
	return a
}

func (n *node) try(method, path string, body io.Reader, settings ...setting) (*answer, error) {
	req, err := http.NewRequestWithContext(n.t.Context(), method, n.url+path, body)
	if err != nil {
		return nil, err
	}
	for _, set := range settings {
		set(req)
	}
	res, err := client(n.t).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answered = append(n.answered, fmt.Sprint(res.Header)+"\n"+string(raw))
	return &answer{n.t, method + " " + path, res.StatusCode, res.Header, raw}, nil
}

// call calls the API with JSON and the instance key.
func (n *node) call(method, path, body string, settings ...setting) *answer {
	n.t.Helper()
	all := []setting{bearer(n.keys[relay.ScopeInstance]), header("Content-Type", "application/json")}
	return n.send(method, path, strings.NewReader(body), append(all, settings...)...)
}

func (n *node) get(path string, settings ...setting) *answer {
	n.t.Helper()
	return n.call(http.MethodGet, path, "", settings...)
}

func (n *node) post(path, body string, settings ...setting) *answer {
	n.t.Helper()
	return n.call(http.MethodPost, path, body, settings...)
}

func (n *node) put(path, body string, settings ...setting) *answer {
	n.t.Helper()
	return n.call(http.MethodPut, path, body, settings...)
}

func (n *node) remove(path string, settings ...setting) *answer {
	n.t.Helper()
	return n.call(http.MethodDelete, path, "", settings...)
}

// wait registers a wait and returns its answer's fields.
func (n *node) wait(body string, settings ...setting) map[string]any {
	n.t.Helper()
	return n.post("/v1/correlations", body, settings...).want(http.StatusCreated).object()
}

// hook posts a callback that the standard source hook takes as genuine.
func (n *node) hook(path, body string, settings ...setting) *answer {
	n.t.Helper()
	all := []setting{header("Content-Type", "application/json"), header("X-Signature", sign(hookSecret, body))}
	return n.send(http.MethodPost, path, strings.NewReader(body), append(all, settings...)...)
}

func sign(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

func stripeSignature(body string) string {
	now := strconv.FormatInt(time.Now().Unix(), 10)
	return "t=" + now + ",v1=" + sign(stripeSecret, now+"."+body)
}

// want checks the status.
func (a *answer) want(status int) *answer {
	a.t.Helper()
	if a.Status != status {
		a.t.Fatalf("%s: got %d %s, want %d", a.asked, a.Status, a.Body, status)
	}
	return a
}

// object reads a JSON object.
func (a *answer) object() (out map[string]any) {
	a.t.Helper()
	if err := json.Unmarshal(a.Body, &out); err != nil {
		a.t.Fatalf("%s: got %q, want a JSON object: %v", a.asked, a.Body, err)
	}
	return out
}

// data reads a list.
func (a *answer) data() (out []map[string]any) {
	a.t.Helper()
	raw, ok := a.object()["data"].([]any)
	if !ok {
		a.t.Fatalf("%s: got %s, want a list", a.asked, a.Body)
	}
	for _, item := range raw {
		out = append(out, item.(map[string]any))
	}
	return out
}

// refused checks that the answer is a problem of a status and code, whose
// detail holds some words.
func (a *answer) refused(status int, code string, words ...string) *answer {
	a.t.Helper()
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Fatalf("%s: got %d, content type %q and %s, want a problem %s", a.asked, a.Status, got, a.Body, code)
	}
	p := a.object()
	if a.Status != status || p["status"] != float64(status) || p["code"] != code {
		a.t.Errorf("%s: got %d %s, want %d with the code %s", a.asked, a.Status, a.Body, status, code)
	}
	if p["title"] != http.StatusText(status) || p["type"] != "about:blank" {
		a.t.Errorf("%s: got title %v and type %v, want %q and about:blank", a.asked, p["title"], p["type"], http.StatusText(status))
	}
	detail, _ := p["detail"].(string)
	if detail == "" {
		a.t.Errorf("%s: got no detail in %s, want what to do", a.asked, a.Body)
	}
	for _, w := range words {
		if !strings.Contains(detail, w) {
			a.t.Errorf("%s: got the detail %q, want %q in it", a.asked, detail, w)
		}
	}
	return a
}

// checkSecrets scans all that the node has said.
func (n *node) checkSecrets() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, secret := range n.secrets {
		for _, said := range append(n.answered, n.log.String()) {
			if strings.Contains(said, secret) {
				n.t.Errorf("an answer or the log holds the secret %q: %.400s", secret, said)
			}
		}
	}
}

// count counts rows.
func (n *node) count(query string) int {
	n.t.Helper()
	return int(storetest.Query[int64](n.t, n.database, "SELECT count(*) FROM "+query))
}

// patience is how long a test waits for what should come soon: longer than any
// machine stands still, since waiting costs nothing when it does come.
const patience = 2 * time.Minute

// eventually polls until holds is true.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("after %v it is not so: %s", patience, what)
		}
		<-tick.C
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
