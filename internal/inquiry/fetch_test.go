package inquiry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// desk is a provider's API that knows some objects, by their paths.
type desk struct {
	url     string
	mu      sync.Mutex
	objects map[string]string
	asked   []string
	header  http.Header    // of the last question
	before  func()         // the next one is answered
	instead map[string]int // a status, by the path
}

func (d *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	path := r.URL.RequestURI()
	d.asked, d.header = append(d.asked, path), r.Header
	object, known := d.objects[path]
	status, before := d.instead[path], d.before
	d.before = nil
	d.mu.Unlock()
	if before != nil {
		before()
	}
	switch {
	case status == http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(status)
	case status != 0:
		w.WriteHeader(status)
	case !known:
		w.WriteHeader(http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(object))
	}
}

// put makes an object known, or changes it.
func (d *desk) put(path, object string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.objects[path] = object
}

// holdNext keeps the next question from its answer, which is what there is when
// it comes: begun is closed then, and it is answered once answer is.
func (d *desk) holdNext() (begun <-chan struct{}, answer chan<- struct{}) {
	came, let := make(chan struct{}), make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = func() {
		close(came)
		<-let
	}
	return came, let
}

func (d *desk) wantAsked(t *testing.T, want ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.asked, want) {
		t.Errorf("asked for: got %q, want %q", d.asked, want)
	}
	if len(want) > 0 && d.header.Get("Authorization") != "Bearer "+apiKey {
		t.Errorf("it was asked without the api_key of the source")
	}
}

// newDesk is a project whose source is of a preset, at a desk.
func newDesk(t *testing.T, preset string) (*shop, *desk) {
	t.Helper()
	s := &shop{url: storetest.URL(t, true), keys: seal.NewKey(), log: &leaks.Log{}, now: time.Now()}
	d := &desk{objects: map[string]string{}, instead: map[string]int{}}
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	d.url = server.URL
	s.Project = storetest.NewProject(t, storetest.Open(t, s.url, s.ring(t)), "shop", "http://127.0.0.1:1")
	s.SourceID = s.addSource(t, preset, server.URL, apiKey)
	t.Cleanup(func() {
		if strings.Contains(s.log.String(), apiKey) {
			t.Errorf("the log holds the api_key: %s", s.log)
		}
	})
	return s, d
}

// knock is what Mollie posts: whose it is stands in the URL.
func (s *shop) knock(t *testing.T, n *node, token, payment string) relay.Receipt {
	t.Helper()
	return s.post(t, n, relay.Callback{
		Verdict: relay.Unsigned, PathToken: token, Body: []byte("id=" + payment),
		Headers: []byte(`{"Content-Type": "application/x-www-form-urlencoded"}`),
	})
}

// post takes a callback of the source.
func (s *shop) post(t *testing.T, n *node, c relay.Callback) relay.Receipt {
	t.Helper()
	c.ID, c.ProjectID, c.SourceID, c.ReceivedAt = relay.NewID(), s.ID, s.SourceID, s.now
	c, err := n.directory.Current().ReadAgain(c, c.ReceivedAt)
	check(t, err)
	receipt, err := n.intake.Accept(t.Context(), c)
	check(t, err)
	return receipt
}

// afterSQL is in how many seconds a question was to be asked when it was raised.
const afterSQL = `(extract(epoch FROM due_at - give_up_at + interval '72 hours')::float8)`

// mollie is a payment as Mollie tells of it.
func mollie(id, status, url, more string) string {
	return fmt.Sprintf(`{"resource": "payment", "id": %q, "mode": "test", "status": %q, "amount": {"value": "20.50", "currency": "EUR"},
		"method": "ideal", "profileId": "pfl_1", "webhookUrl": %s%s}`, id, status, url, more)
}

// hook is the URL that a payment of a wait was made with.
func hook(w relay.Wait) string {
	return fmt.Sprintf("%q", "https://relay.example/in/shop/pay/"+w.Token)
}

// fetched lists the events that were fetched, in order: match, outcome and id.
func (s *shop) fetched(t *testing.T) string {
	t.Helper()
	return storetest.Query[string](t, s.url, `
		SELECT coalesce(string_agg(concat_ws(' ', match, outcome, provider_event_id), ', ' ORDER BY id), '') FROM events WHERE verdict = 'fetched'`)
}

func (s *shop) wantFetched(t *testing.T, want string) {
	t.Helper()
	if got := s.fetched(t); got != want {
		t.Errorf("what was fetched: got %q, want %q", got, want)
	}
}

// A bare callback does nothing. What Mollie says of the payment decides, and
// is an event of its own.
func TestMolliePaid(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), ""))
	e := s.knock(t, n, w.Token, "tr_1")
	s.wantEvent(t, e.EventID, "ignored fetched_apart")
	s.wantWait(t, w, "pending null")
	d.wantAsked(t)
	ask(t, n, 1)
	d.wantAsked(t, "/v2/payments/tr_1")
	s.wantWait(t, w, "completed null completed")
	s.wantEvent(t, e.EventID, "ignored fetched_apart")
	s.wantQuestion(t, e.EventID, "found done")
	s.wantFetched(t, "matched completed tr_1:paid")
	got := storetest.Query[string](t, s.url, `
		SELECT concat_ws(' ', e.correlation_id = $2::uuid, e.payment->>'amount_minor', e.payment->>'currency', e.payment->>'method', e.payment->>'live', (e.request->>'for')::uuid = $1::uuid)
		FROM events e JOIN questions q ON q.told = e.id
		WHERE q.event_id = $1`, e.EventID, w.ID)
	if want := "t 2050 EUR ideal false t"; got != want {
		t.Errorf("the event that the answer became: got %q, want %q", got, want)
	}
}

// Each state of a payment is an event, whose repetition fires nothing; and a
// payment is asked for again when it is posted again, in its time.
func TestMollieStates(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	play := func(status, more string) {
		t.Helper()
		d.put("/v2/payments/tr_1", mollie("tr_1", status, hook(w), more))
		s.knock(t, n, w.Token, "tr_1")
		ask(t, n, 0) // not yet, but for the first
		s.due(t)
		ask(t, n, 1)
	}
	d.put("/v2/payments/tr_1", mollie("tr_1", "open", hook(w), ""))
	first := s.knock(t, n, w.Token, "tr_1")
	ask(t, n, 1)
	s.wantWait(t, w, "pending null processing")
	play("open", "")
	play("paid", "")
	s.wantWait(t, w, "completed null processing completed")
	play("paid", "")
	play("paid", `, "amountRefunded": {"value": "5.00", "currency": "EUR"}`)
	play("paid", `, "amountRefunded": {"value": "20.50", "currency": "EUR"}, "amountChargedBack": {"value": "0.00", "currency": "EUR"}`)
	play("paid", `, "amountRefunded": {"value": "20.50", "currency": "EUR"}, "amountChargedBack": {"value": "20.50", "currency": "EUR"}`)
	s.wantFetched(t, strings.Join([]string{
		"matched processing tr_1:open", "duplicate processing tr_1:open", "matched completed tr_1:paid", "duplicate completed tr_1:paid",
		"duplicate completed tr_1:paid", "matched refunded tr_1:paid:refunded:5.00",
		"duplicate completed tr_1:paid", "matched refunded tr_1:paid:refunded:20.50",
		"duplicate completed tr_1:paid", "matched disputed tr_1:paid:refunded:20.50:charged_back:20.50",
	}, ", "))
	if got := storetest.Query[int](t, s.url, `SELECT count(*) FROM questions`); got != 1 {
		t.Errorf("there are %d questions, want one however often it is posted", got)
	}
	s.wantQuestion(t, first.EventID, "found done")
}

// How each state of a payment ends a wait.
func TestMollieOutcomes(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]string{
		"paid": "completed null completed", "failed": "failed null failed", "canceled": "cancelled null cancelled", "expired": "expired null expired",
		"pending": "pending null processing", "authorized": "pending null processing", "another": "pending null",
	} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			s, d := newDesk(t, "mollie-classic")
			n := s.node(t)
			w := s.Wait(t, "u-1")
			d.put("/v2/payments/tr_1", mollie("tr_1", status, hook(w), ""))
			e := s.knock(t, n, w.Token, "tr_1")
			ask(t, n, 1)
			s.wantWait(t, w, want)
			s.wantQuestion(t, e.EventID, "found done")
		})
	}
}

// A payment may name its wait itself: its callbacks come to the source.
func TestMollieMetadata(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", `"https://relay.example/in/shop/pay"`, fmt.Sprintf(`, "metadata": {"conversation_token": %q}`, w.Token)))
	s.knock(t, n, "", "tr_1")
	ask(t, n, 1)
	s.wantWait(t, w, "completed null completed")
}

// A callback that nobody has signed proves nothing, and neither does a token,
// which is public, together with the payment of somebody else.
func TestMollieForged(t *testing.T) {
	t.Parallel()
	const paid, free = "matched completed tr_1:paid, ", ""
	for name, tt := range map[string]struct {
		first    bool   // their wait is told of it before
		url      string // that the payment was made with
		metadata string
		want     string // what was fetched
	}{
		"made with the URL of theirs":     {true, "theirs", "", paid + "duplicate completed tr_1:paid"},
		"made with it, and not told yet":  {false, "theirs", "", free + "parked completed tr_1:paid"},
		"that names theirs":               {false, "null", "theirs", free + "matched completed tr_1:paid"},
		"that was made without a URL":     {false, "null", "", free + "parked completed tr_1:paid"},
		"whose callbacks go elsewhere":    {false, `"https://shop.example/hook"`, "", free + "parked completed tr_1:paid"},
		"whose callbacks go to the other": {false, `"https://relay.example/in/shop/pay"`, "theirs", free + "matched completed tr_1:paid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, d := newDesk(t, "mollie-classic")
			n := s.node(t)
			mine, theirs := s.Wait(t, "u-1"), s.Wait(t, "u-2")
			url, more := strings.ReplaceAll(tt.url, "theirs", hook(theirs)), ""
			if tt.metadata != "" {
				more = fmt.Sprintf(`, "metadata": %q`, theirs.Token)
			}
			d.put("/v2/payments/tr_1", mollie("tr_1", "paid", url, more))
			if tt.first {
				s.knock(t, n, theirs.Token, "tr_1")
				ask(t, n, 1)
				s.wantWait(t, theirs, "completed null completed")
			}
			s.knock(t, n, mine.Token, "tr_1")
			ask(t, n, 1)
			s.wantWait(t, mine, "pending null")
			s.wantFetched(t, tt.want)
		})
	}

	s, _ := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	e := s.post(t, n, relay.Callback{
		Verdict: relay.Unsigned, PathToken: w.Token, Body: []byte(mollie("tr_1", "paid", hook(w), "")),
		Headers: []byte(`{"Content-Type": "application/json"}`),
	})
	s.wantEvent(t, e.EventID, "ignored fetched_apart")
	ask(t, n, 1)
	s.wantWait(t, w, "pending null")
	s.wantFetched(t, "")
}

// What came first with a wrong token does not keep the right one out.
func TestMollieIsNotPoisoned(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	mine, theirs := s.Wait(t, "u-1"), s.Wait(t, "u-2")
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(theirs), ""))
	s.knock(t, n, mine.Token, "tr_1")
	s.knock(t, n, "", "tr_1")
	ask(t, n, 2)
	s.wantWait(t, mine, "pending null")
	s.knock(t, n, theirs.Token, "tr_1")
	ask(t, n, 1)
	s.wantWait(t, theirs, "completed null completed")
	s.wantWait(t, mine, "pending null")
}

// However often what does not exist is posted, and under however many names,
// Mollie is asked a bounded number of times; and who knows a token is still
// heard.
func TestMollieIsNotFlooded(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	first := s.knock(t, n, w.Token, "tr_none")
	ask(t, n, 1)
	s.wantQuestion(t, first.EventID, "none done")
	for range 100 {
		s.knock(t, n, w.Token, "tr_none")
	}
	ask(t, n, 0)
	d.wantAsked(t, "/v2/payments/tr_none")
	left := storetest.Query[float64](t, s.url, `SELECT extract(epoch FROM due_at - now())::float8 FROM questions`)
	if left < 300 || left > 600 {
		t.Errorf("it is asked for again in %.0f s, want 10 min", left)
	}

	const strangers = 150
	for i := range strangers {
		s.knock(t, n, relay.NewToken(), fmt.Sprintf("tr_%d", i))
	}
	later := storetest.Query[int](t, s.url, `SELECT count(*) FROM questions WHERE about <> 'tr_none' AND `+afterSQL+` > 0.5`)
	if first := strangers - later; first < 100 || first > 110 {
		t.Errorf("of %d callbacks of strangers %d are asked about at once, want the 100 that may be and those of a second", strangers, first)
	}
	d.put("/v2/payments/tr_paid", mollie("tr_paid", "paid", hook(w), ""))
	e := s.knock(t, n, w.Token, "tr_paid")
	s.wantEvent(t, e.EventID, "ignored fetched_apart")
	await(t, "the payment to be fetched", func() bool {
		_, err := n.AskOnce(t.Context())
		check(t, err)
		return storetest.Query[string](t, s.url, `SELECT status FROM correlations WHERE id = $1`, w.ID) == "completed"
	})
}

// A callback that comes while its payment is being asked for may tell of what
// the answer does not say yet.
func TestPostedWhileItIsAsked(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v2/payments/tr_1", mollie("tr_1", "open", hook(w), ""))
	e := s.knock(t, n, w.Token, "tr_1")
	begun, answer := d.holdNext()
	asked := n.askAside(t)
	<-begun
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), ""))
	s.knock(t, n, w.Token, "tr_1")
	close(answer)
	check(t, <-asked)
	s.wantWait(t, w, "pending null processing")
	s.wantQuestion(t, e.EventID, "found again")
	ask(t, n, 0) // not yet
	s.due(t)
	ask(t, n, 1)
	s.wantWait(t, w, "completed null processing completed")
	s.wantQuestion(t, e.EventID, "found done")
}

// Without a key a callback is kept and decides nothing; a replay with one does.
func TestNoKeyNoFetch(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	s.addSource(t, "mollie-classic", d.url, "")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), ""))
	e := s.knock(t, n, w.Token, "tr_1")
	s.wantEvent(t, e.EventID, "unmatched no_api_key")
	ask(t, n, 0)
	s.addSource(t, "mollie-classic", d.url, apiKey)
	_, err := s.Store.StartReplay(t.Context(), s.ID, store.EventFilter{ID: e.EventID}, false)
	check(t, err)
	_, err = n.intake.ReplayOnce(t.Context())
	check(t, err)
	s.wantEvent(t, e.EventID, "ignored fetched_apart")
	ask(t, n, 1)
	s.wantWait(t, w, "completed null completed")
}

// What comes of each way to fail.
func TestFetchFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status int
		object string
		want   string
		next   string // once it can be asked again
	}{
		"a server error":     {status: 500, want: "failed platform_failed again", next: "completed"},
		"too many":           {status: 429, want: "failed rate_limited again", next: "completed"},
		"the key is refused": {status: 401, want: "refused bad_credentials again", next: "completed"},
		"it may not read":    {status: 403, want: "refused bad_credentials again", next: "completed"},
		"no such payment":    {status: 404, want: "none done", next: "pending"},
		"no id of theirs":    {status: 400, want: "failed refused done", next: "pending"},
		"no JSON":            {object: "<html>", want: "failed answer_unreadable again", next: "completed"},
		"a list":             {object: "[]", want: "failed answer_unreadable again", next: "completed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, d := newDesk(t, "mollie-classic")
			n := s.node(t)
			w := s.Wait(t, "u-1")
			d.put("/v2/payments/tr_1", tt.object)
			d.instead["/v2/payments/tr_1"] = tt.status
			e := s.knock(t, n, w.Token, "tr_1")
			ask(t, n, 1)
			s.wantQuestion(t, e.EventID, tt.want)
			if tt.status == 401 {
				if got := storetest.Query[string](t, s.url, `SELECT last_error FROM source_activity WHERE source_id = $1`, s.SourceID); got != "api_key_refused" {
					t.Errorf("last_error: got %q, want api_key_refused", got)
				}
			}
			if tt.status == 429 {
				if left := storetest.Query[float64](t, s.url, `SELECT extract(epoch FROM due_at - now())::float8 FROM questions`); left < 60 {
					t.Errorf("asked again in %.0f s, want the 120 s that were asked for", left)
				}
				s.knock(t, n, w.Token, "tr_1") // and no sooner when it is posted again
				ask(t, n, 0)
			}
			delete(d.instead, "/v2/payments/tr_1")
			d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), ""))
			s.due(t)
			_, err := n.AskOnce(t.Context())
			check(t, err)
			if got := storetest.Query[string](t, s.url, `SELECT status FROM correlations WHERE id = $1`, w.ID); got != tt.next {
				t.Errorf("then the wait is %q, want %q", got, tt.next)
			}
		})
	}
}

// A node dies when what it fetched is committed and its question is not ended:
// the next one fetches the same event.
func TestFetchedTwiceFiresOnce(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), ""))
	e := s.knock(t, n, w.Token, "tr_1")
	begun, answer := d.holdNext()
	asked := n.askAside(t)
	<-begun // and its lease is over before the answer is there
	storetest.Exec(t, s.url, `UPDATE questions SET lease = $1, due_at = now() - interval '1 second'`, uuid.New())
	close(answer)
	check(t, <-asked)
	s.wantQuestion(t, e.EventID, "again") // a stale lease has written nothing
	ask(t, s.node(t), 1)
	s.wantWait(t, w, "completed null completed")
	s.wantFetched(t, "matched completed tr_1:paid, duplicate completed tr_1:paid")
	s.wantQuestion(t, e.EventID, "found done")
}

// A wait that a payment was begun for is asked for before it expires.
func TestMollieReconciliation(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v2/payments/tr_1", mollie("tr_1", "open", hook(w), ""))
	s.knock(t, n, w.Token, "tr_1")
	ask(t, n, 1)
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), ""))
	storetest.Overdue(t, s.url, w.ID)
	sweep(t, n)
	ask(t, n, 1)
	s.wantWait(t, w, "completed true processing completed")
}

const surveyHook = `{"name": "Hook", "event_type": "response_completed", "event_id": "1234567890", "object_type": "response", "object_id": "55",
	"resources": {"respondent_id": "55", "collector_id": "3", "survey_id": "77"}}`

// A response of SurveyMonkey comes with its answers and the token, once it was
// asked for.
func TestSurveyMonkey(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "surveymonkey")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	const path = "/v3/surveys/77/responses/55/details?simple=true"
	answer := func(status string) string {
		return fmt.Sprintf(`{"id": "55", "survey_id": "77", "response_status": %q, "custom_variables": {"token": %q}, "pages": [
		{"id": "1", "questions": [
			{"id": "11", "heading": "Your name?", "answers": [{"text": "Ada", "simple_text": "Ada"}]},
			{"id": "12", "heading": "Colours", "answers": [{"choice_id": "8", "simple_text": "red"}, {"choice_id": "9", "simple_text": "blue"}]}]},
		{"id": "2", "questions": [{"id": "21", "heading": "Plan", "answers": [{"choice_id": "7", "simple_text": "Pro"}]}]}]}`, status, w.Token)
	}
	e := s.receive(t, n, []byte(surveyHook))
	s.wantEvent(t, e.EventID, "ignored fetched_apart")
	ask(t, n, 1) // SurveyMonkey does not know it yet, and may soon
	s.wantQuestion(t, e.EventID, "none again")
	d.put(path, answer("completed"))
	s.due(t)
	ask(t, n, 1)
	d.wantAsked(t, path, path)
	s.wantWait(t, w, "completed null completed")
	var form map[string]any
	check(t, json.Unmarshal([]byte(storetest.Query[string](t, s.url, `SELECT form::text FROM events WHERE verdict = 'fetched'`)), &form))
	want := map[string]any{
		"11": "Ada", "your_name": "Ada", "12": []any{"red", "blue"}, "colours": []any{"red", "blue"}, "21": "Pro", "plan": "Pro",
	}
	if diff := cmp.Diff(want, form); diff != "" {
		t.Errorf("the form (-want +got):\n%s", diff)
	}
	// What is sent again was answered already.
	again := s.receive(t, n, []byte(surveyHook))
	s.wantEvent(t, again.EventID, "duplicate same_event")
	s.due(t)
	ask(t, n, 0)

	other, d := newDesk(t, "surveymonkey")
	n = other.node(t)
	w = other.Wait(t, "u-1")
	d.put(path, answer("partial"))
	e = other.receive(t, n, []byte(surveyHook))
	ask(t, n, 1)
	other.wantQuestion(t, e.EventID, "found again") // it may only be early
	other.later(t)
	ask(t, n, 1)
	other.wantQuestion(t, e.EventID, "found done")
	other.wantWait(t, w, "pending null")
}

// A thin event of Stripe is read like the snapshot, with the object as it is.
func TestStripeThin(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "stripe")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	thin := func(id, kind, object, url string) []byte {
		return fmt.Appendf(nil, `{"id": %q, "object": "v2.core.event", "type": %q, "livemode": false, "related_object": {"id": %q, "type": "x", "url": %q}}`, id, kind, object, url)
	}
	d.put("/v1/payment_intents/pi_1", fmt.Sprintf(`{"id": "pi_1", "object": "payment_intent", "amount": 2050, "amount_received": 0, "currency": "eur", "metadata": {"conversation_token": %q}}`, w.Token))
	d.put("/v1/checkout/sessions/cs_1", fmt.Sprintf(`{"id": "cs_1", "object": "checkout.session", "payment_status": "paid", "status": "complete",
		"client_reference_id": %q, "payment_intent": "pi_1", "amount_total": 2050, "currency": "eur"}`, w.Token))
	declined := s.receive(t, n, thin("evt_1", "v1.payment_intent.payment_failed", "pi_1", "/v1/payment_intents/pi_1"))
	s.wantEvent(t, declined.EventID, "ignored fetched_apart")
	ask(t, n, 1)
	s.wantWait(t, w, "pending null attempt_failed")
	s.receive(t, n, thin("evt_2", "v1.checkout.session.completed", "cs_1", "/v1/checkout/sessions/cs_1"))
	ask(t, n, 1)
	s.wantWait(t, w, "completed null attempt_failed completed")
	s.wantFetched(t, "matched attempt_failed evt_1, matched completed evt_2")
	d.wantAsked(t, "/v1/payment_intents/pi_1", "/v1/checkout/sessions/cs_1")
	amount := storetest.Query[string](t, s.url, `SELECT payment->>'id' || ' ' || (payment->>'amount_minor') FROM events WHERE provider_event_id = 'evt_2' AND verdict = 'fetched'`)
	if amount != "pi_1 2050" {
		t.Errorf("the payment: got %s, want pi_1 2050", amount)
	}

	meter := s.receive(t, n, thin("evt_3", "v1.billing.meter.error_report_triggered", "mtr_1", "/v1/billing/meters/mtr_1"))
	s.wantEvent(t, meter.EventID, "ignored type_ignored")
	ask(t, n, 0)
	elsewhere := s.receive(t, n, thin("evt_4", "v1.charge.refunded", "ch_1", "//evil.example/ch_1"))
	ask(t, n, 1)
	s.wantQuestion(t, elsewhere.EventID, "failed nothing_to_ask done")
	d.wantAsked(t, "/v1/payment_intents/pi_1", "/v1/checkout/sessions/cs_1")
}

// The token of a payment link of Square stands in its order.
func TestSquareOrder(t *testing.T) {
	t.Parallel()
	for name, order := range map[string]string{
		"as its reference_id": `"reference_id": %q`, "in its metadata": `"metadata": {"conversation_token": %q}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, d := newDesk(t, "square")
			n := s.node(t)
			w := s.Wait(t, "u-1")
			d.put("/v2/orders/o-1", fmt.Sprintf(`{"order": {"id": "o-1", `+order+`}}`, w.Token))
			paid := func(event, status string) relay.Receipt {
				return s.receive(t, n, fmt.Appendf(nil, `{"merchant_id": "M1", "type": "payment.updated", "event_id": %q, "data": {"object": {"payment": {"id": "p-1", "order_id": "o-1",
					"status": %q, "amount_money": {"amount": 2050, "currency": "USD"}}}}}`, event, status))
			}
			e := paid("e-1", "APPROVED")
			s.wantEvent(t, e.EventID, "parked nobody_waits_yet")
			ask(t, n, 1)
			s.wantWait(t, w, "pending null processing")
			paid("e-2", "COMPLETED") // known by what the first has taught
			ask(t, n, 0)
			s.wantWait(t, w, "completed null processing completed")
			d.wantAsked(t, "/v2/orders/o-1")
			if d.header.Get("Square-Version") == "" {
				t.Error("Square was asked without a version")
			}
		})
	}
}
