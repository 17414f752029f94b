package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"relay.example/relay/internal/localpg"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
	"relay.example/relay/internal/store/storetest"
)

// build builds the real program.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "relay")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	return program
}

// process is the real program in a process of its own.
type process struct {
	*testNode
	cmd *exec.Cmd
}

// startProcess runs `relay serve` of a built program.
func startProcess(t *testing.T, program string, env map[string]string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{testNode: &testNode{log: newLogs(), stop: cancel, done: make(chan struct{})}}
	p.cmd = exec.CommandContext(ctx, program, append([]string{"serve"}, args...)...)
	p.cmd.Stderr = p.log
	for name, value := range env {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		cancel() // kills it, if it still runs
		<-p.done
		checkLog(t, p.log.String(), nil)
	})
	up := p.log.awaitLine(t, "relay is up", p.done)
	p.url, p.ops = fmt.Sprintf("http://%s", up["listen"]), fmt.Sprintf("http://%s", up["ops_listen"])
	return p
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("%v: %v", s, err)
	}
}

// sink stands in for Certainly where the load is too high to keep
// conversations: it notes when each user was resumed.
type sink struct {
	delay time.Duration
	mu    sync.Mutex
	calls map[string][]time.Time
}

func startSink(t *testing.T, delay time.Duration) (*sink, string) {
	t.Helper()
	s := &sink{delay: delay, calls: map[string][]time.Time{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var call struct {
		UserID string `json:"user_id"`
	}
	if err := json.NewDecoder(r.Body).Decode(&call); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.calls[call.UserID] = append(s.calls[call.UserID], time.Now())
	s.mu.Unlock()
	select { // the platform takes its time
	case <-time.After(s.delay):
	case <-r.Context().Done():
	}
	_, _ = io.WriteString(w, `{"error":[],"message":"1"}`)
}

func (s *sink) resumed() map[string][]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.calls)
}

// load is many payers at once: each registers a wait, pays, and repeats the
// callback until it is answered 200, as a provider does.
type load struct {
	t        *testing.T
	target   atomic.Pointer[string] // the relay's URL now
	client   *http.Client
	stopping chan struct{}
	workers  sync.WaitGroup
	lost     atomic.Int64 // requests without an answer

	mu       sync.Mutex
	accepted map[string]string // correlation by user, of callbacks answered 200
	answers  []callbackAnswer
	tokens   []string
}

// callbackAnswer is what one try of a callback was told.
type callbackAnswer struct {
	began, ended time.Time
	status       int // 0: no answer
	body         string
	retryAfter   string
}

func startLoad(t *testing.T, url string, workers int) *load {
	t.Helper()
	l := &load{
		t: t, stopping: make(chan struct{}), accepted: map[string]string{},
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}, Timeout: patience},
	}
	l.aim(url)
	for i := range workers {
		l.workers.Go(func() {
			for n := 0; !l.stopped(); n++ {
				l.pay(fmt.Sprintf("payer-%d-%d", i, n))
			}
		})
	}
	t.Cleanup(l.client.CloseIdleConnections)
	return l
}

func (l *load) aim(url string) { l.target.Store(&url) }

func (l *load) stopped() bool {
	select {
	case <-l.stopping:
		return true
	default:
		return false
	}
}

// end lets every payer finish what it has begun, which takes a relay that
// answers.
func (l *load) end() {
	close(l.stopping)
	l.workers.Wait()
}

func (l *load) acceptedSoFar() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted)
}

// pay plays one payer.
func (l *load) pay(user string) {
	var reg wait
	body := fmt.Sprintf(`{"user_id": %q, "flow": "checkout"}`, user)
	header := http.Header{
		"Authorization": {"Bearer " + apiKey}, "Content-Type": {"application/json"}, "Idempotency-Key": {user},
	}
	if !l.until("/v1/correlations", func() (http.Header, string) { return header, body }, func(a callbackAnswer) bool {
		return (a.status == http.StatusCreated || a.status == http.StatusOK) && json.Unmarshal([]byte(a.body), &reg) == nil
	}) {
		return
	}
	event := sandbox.StripeEvent("checkout.session.completed", paid(reg))
	done := l.until("/in/default/stripe", func() (http.Header, string) { return signed(event), string(event) }, func(a callbackAnswer) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.answers = append(l.answers, a)
		return a.status == http.StatusOK
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens = append(l.tokens, reg.Token)
	if done {
		l.accepted[user] = reg.ID
	}
}

// until repeats a request until its answer is enough, or the load ends while
// nobody answers.
func (l *load) until(path string, request func() (http.Header, string), enough func(callbackAnswer) bool) bool {
	for {
		header, body := request()
		a := l.try(path, header, body)
		if enough(a) {
			return true
		}
		if a.status == 0 && l.stopped() {
			return false
		}
		<-time.After(5 * time.Millisecond) // a provider is more patient
	}
}

func (l *load) try(path string, header http.Header, body string) (a callbackAnswer) {
	a.began = time.Now()
	defer func() { a.ended = time.Now() }()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, *l.target.Load()+path, strings.NewReader(body))
	if err != nil {
		l.t.Error(err)
		return a
	}
	maps.Copy(req.Header, header)
	resp, err := l.client.Do(req)
	if err != nil {
		l.lost.Add(1)
		return a
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		l.lost.Add(1)
		return a
	}
	a.status, a.body, a.retryAfter = resp.StatusCode, string(raw), resp.Header.Get("Retry-After")
	return a
}

// awaitResumed waits until everybody whose callback was answered 200 has been
// resumed.
func (l *load) awaitResumed(t *testing.T, s *sink, within time.Duration) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		calls, missing := s.resumed(), 0
		for user := range l.accepted {
			if len(calls[user]) == 0 {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d accepted callbacks were not resumed within %s", missing, len(l.accepted), within)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// leaseEnd is after how long all that a dead node held has been sent by
// another: its leases, and the time to send.
const leaseEnd = relay.Lease + patience

const loadConfiguration = `
destinations:
  - {name: bot, platform: certainly, base_url: "${SANDBOX}", token: "${CERTAINLY_TOKEN}", max_concurrency: ${CONCURRENCY}}
sources:
  - {name: stripe, provider: stripe, secret: "${STRIPE_WEBHOOK_SECRET}"}
flows:
  - name: checkout
    destination: bot
    source: stripe
    on: {default: {module_id: 109}, completed: {module_id: 100}}
`

func loadConfig(t *testing.T, concurrency string) string {
	t.Helper()
	return writeFile(t, "relay.yaml", strings.Replace(loadConfiguration, "${CONCURRENCY}", concurrency, 1))
}

// TestCrash kills the relay at random moments under load. Whatever it answered
// 200 is resumed; what is resumed twice was in flight when it was killed.
func TestCrash(t *testing.T) {
	t.Parallel()
	const rounds, payers = 20, 24
	program := build(t)
	dbURL := storetest.URL(t, true)
	env := settingsOf(dbURL)
	platform, address := startSink(t, 5*time.Millisecond)
	env["SANDBOX"] = address
	config := loadConfig(t, "16")

	p := startProcess(t, program, env, "--config", config)
	payersAtWork := startLoad(t, p.url, payers)
	unrecorded := map[string]int{} // kills that met a delivery of this user which was not recorded
	for range rounds {
		before := payersAtWork.acceptedSoFar()
		await(t, patience, "callbacks to be accepted", func() bool { return payersAtWork.acceptedSoFar() >= before+payers })
		<-time.After(time.Duration(rand.Int64N(int64(500 * time.Millisecond)))) // the random moment
		p.signal(t, syscall.SIGKILL)
		<-p.done
		for user := range storetest.Query[map[string]int](t, dbURL, `
			SELECT coalesce(json_object_agg(c.user_id, 1), '{}') FROM deliveries d JOIN correlations c ON c.id = d.correlation_id
			WHERE d.status = 'scheduled'`) {
			unrecorded[user]++
		}
		p = startProcess(t, program, env)
		payersAtWork.aim(p.url)
	}
	payersAtWork.end()
	if lost := payersAtWork.lost.Load(); lost < rounds {
		t.Errorf("%d requests were lost: too few to prove anything", lost)
	}
	await(t, leaseEnd, "all deliveries to come to rest", func() bool {
		return storetest.Query[int](t, dbURL, `SELECT count(*) FROM deliveries WHERE status = 'scheduled'`) == 0
	})

	// Exactly one outcome each, and it was told.
	calls := platform.resumed()
	for user, id := range payersAtWork.accepted {
		if len(calls[user]) == 0 {
			t.Errorf("%s was answered 200 and never resumed", user)
		}
		got := storetest.Query[string](t, dbURL, `
			SELECT concat_ws(' ', c.status, (SELECT string_agg(d.action || ' ' || d.status, ', ') FROM deliveries d WHERE d.correlation_id = c.id))
			FROM correlations c WHERE c.id = $1`, id)
		if want := "completed completed delivered"; got != want {
			t.Errorf("%s: got %q, want %q", user, got, want)
		}
	}
	// At least once means that some are told twice: those whose call was not
	// recorded at a kill, and nothing else.
	attempts := storetest.Query[map[string]int](t, dbURL, `
		SELECT json_object_agg(c.user_id, d.attempts) FROM deliveries d JOIN correlations c ON c.id = d.correlation_id`)
	twice, repeated := 0, 0
	for user, at := range calls {
		again, unanswered := len(at)-1, attempts[user]-1
		twice, repeated = twice+again, repeated+min(again, unanswered)
		if again > unanswered+unrecorded[user] {
			t.Errorf("%s was resumed at %s, with %d attempts recorded: %d kills before that was known do not explain it",
				user, at, attempts[user], unrecorded[user])
		}
	}
	t.Logf("%d kills, %d callbacks accepted, %d requests lost, %d resumes repeated, of these %d after an attempt without an answer",
		rounds, len(payersAtWork.accepted), payersAtWork.lost.Load(), twice, repeated)
	checkLog(t, p.log.String(), payersAtWork.tokens)
}

// TestShutdown ends a relay under load as an orchestrator does.
func TestShutdown(t *testing.T) {
	t.Parallel()
	const drain = 8 * time.Second // a machine that stands still for some of it serves in the rest
	dbURL := storetest.URL(t, true)
	env := settingsOf(dbURL)
	env["RELAY_DRAIN_DELAY"], env["RELAY_SHUTDOWN_TIMEOUT"] = drain.String(), "1m"
	// Slow and few at a time: much is queued when the end comes.
	platform, address := startSink(t, 200*time.Millisecond)
	env["SANDBOX"] = address
	p := startProcess(t, build(t), env, "--config", loadConfig(t, "2"))
	payersAtWork := startLoad(t, p.url, 8)
	await(t, patience, "a queue", func() bool { return payersAtWork.acceptedSoFar() > 50 })

	told := time.Now()
	p.signal(t, syscall.SIGTERM)
	p.log.awaitLine(t, "stopping", p.done)
	for _, listener := range []string{p.url, p.ops} {
		if resp, _ := exchange(t, http.MethodGet, listener+"/readyz", nil, ""); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("readyz while it drains: got %d, want 503", resp.StatusCode)
		}
	}
	if resp, _ := exchange(t, http.MethodGet, p.url+"/healthz", nil, ""); resp.StatusCode != http.StatusOK {
		t.Errorf("healthz while it drains: got %d, want 200", resp.StatusCode)
	}
	<-p.done
	if p.err != nil {
		t.Errorf("exit: got %v, want status 0\n%s", p.err, p.log)
	}
	if took := time.Since(told); took < drain {
		t.Errorf("the end took %s, want the %s of the drain and what is in flight", took, drain)
	}
	payersAtWork.end()

	// A request that meets the listener's end is anybody's luck, and so is one
	// whose commit takes seconds.
	served := 0
	for _, a := range payersAtWork.answers {
		slow := a.status == http.StatusServiceUnavailable && a.ended.Sub(a.began) > 2*time.Second
		switch {
		case a.ended.Before(told.Add(drain)) && a.status != http.StatusOK && !slow:
			t.Errorf("a callback sent %s after SIGTERM was answered %d %s", a.began.Sub(told), a.status, a.body)
		case a.began.After(told) && a.status == http.StatusOK:
			served++
		}
	}
	if served == 0 {
		t.Error("no callback was served while the node drained")
	}

	// Each call that was made is recorded; what was only queued is free for
	// the next node at once.
	leased := storetest.Query[int](t, dbURL, `SELECT count(*) FROM deliveries WHERE status = 'scheduled' AND (lease IS NOT NULL OR due_at > clock_timestamp())`)
	queued := storetest.Query[int](t, dbURL, `SELECT count(*) FROM deliveries WHERE status = 'scheduled'`)
	delivered := storetest.Query[int](t, dbURL, `SELECT count(*) FROM deliveries WHERE status = 'delivered'`)
	if calls := len(platform.resumed()); leased != 0 || queued == 0 || delivered != calls {
		t.Errorf("got %d leased of %d queued and %d recorded of %d calls, want none leased, some queued, all recorded",
			leased, queued, delivered, calls)
	}
	platform.delay = 0 // nobody calls now
	startNode(t, env)
	payersAtWork.awaitResumed(t, platform, patience)
	for user, at := range platform.resumed() {
		if len(at) != 1 {
			t.Errorf("%s was resumed %d times, want once: nothing was killed", user, len(at))
		}
	}
	t.Logf("%d callbacks accepted, %d while it drained, %d queued at its end", len(payersAtWork.accepted), served, queued)
	checkLog(t, p.log.String(), payersAtWork.tokens)
}

// TestPostgresGoesAway kills the database under load and brings it back.
func TestPostgresGoesAway(t *testing.T) {
	t.Parallel()
	server := localpg.Config{DataDir: filepath.Join(openDir(t), "postgres"), Logger: slog.New(slog.DiscardHandler)}
	start := func() *localpg.Server {
		t.Helper()
		s, err := localpg.Start(t.Context(), server)
		if err != nil {
			t.Fatalf("starting Postgres: %v", err)
		}
		return s
	}
	stop := func(s *localpg.Server) {
		t.Helper()
		if err := s.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Fatalf("stopping Postgres: %v", err)
		}
	}
	db := start()
	t.Cleanup(func() { stop(db) })
	url := db.URL()
	env := settingsOf(url)
	platform, address := startSink(t, time.Millisecond)
	env["SANDBOX"] = address
	n := startNode(t, env, "--config", loadConfig(t, "16"))
	payersAtWork := startLoad(t, n.url, 8)
	shed := func() (count int) {
		payersAtWork.mu.Lock()
		defer payersAtWork.mu.Unlock()
		for _, a := range payersAtWork.answers {
			if a.status == http.StatusServiceUnavailable {
				count++
			}
		}
		return count
	}
	for _, way := range []struct {
		name string
		end  func()
	}{
		{"stopped", func() {}},
		{"killed", func() {
			if err := syscall.Kill(db.PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
		}},
	} {
		before := payersAtWork.acceptedSoFar()
		await(t, patience, "callbacks accepted before it is "+way.name, func() bool { return payersAtWork.acceptedSoFar() > before+50 })
		// One callback that is sure to meet the outage.
		var reg wait
		n.call(t, http.MethodPost, "/v1/correlations", object{"user_id": "u-" + way.name, "flow": "checkout"}, &reg, http.StatusCreated)
		event := sandbox.StripeEvent("checkout.session.completed", paid(reg))
		way.end()
		stop(db)
		a := payersAtWork.try("/in/default/stripe", signed(event), string(event))
		if a.status != http.StatusServiceUnavailable || a.retryAfter == "" {
			t.Errorf("a callback while the database is %s: got %d with Retry-After %q: %s", way.name, a.status, a.retryAfter, a.body)
		}
		for _, path := range []string{"/readyz", "/healthz"} {
			if resp, _ := exchange(t, http.MethodGet, n.url+path, nil, ""); resp.StatusCode != http.StatusOK {
				t.Errorf("%s while the database is %s: got %d, want 200", path, way.name, resp.StatusCode)
			}
		}
		if db = start(); db.URL() != url {
			t.Fatalf("Postgres came back at %q, want %q", db.URL(), url)
		}
		before = payersAtWork.acceptedSoFar()
		await(t, patience, "the callback accepted after it was "+way.name, func() bool {
			return payersAtWork.try("/in/default/stripe", signed(event), string(event)).status == http.StatusOK
		})
		await(t, patience, "callbacks accepted after it was "+way.name, func() bool { return payersAtWork.acceptedSoFar() > before+50 })
	}
	payersAtWork.end()
	for _, a := range payersAtWork.answers {
		switch {
		case a.status == http.StatusServiceUnavailable && a.retryAfter == "":
			t.Errorf("a 503 without Retry-After: %s", a.body)
		case a.status != http.StatusOK && a.status != http.StatusServiceUnavailable:
			t.Errorf("a callback was answered %d, want 200 or 503: %s", a.status, a.body)
		}
	}
	payersAtWork.awaitResumed(t, platform, leaseEnd)
	t.Logf("%d callbacks accepted, %d shed", len(payersAtWork.accepted), shed())
	n.end(t)
	checkLog(t, n.log.String(), payersAtWork.tokens)
}
