package deliver_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// tiledesk is a small server of Smartify's kind with one conversation, u-1:
// it counts the sign-ins, keeps what was said, and can forget to answer.
type tiledesk struct {
	*httptest.Server
	mu       sync.Mutex
	signIns  int
	good     string // the token that is good
	said     []string
	silent   int             // messages that are taken and not answered
	lost     int             // messages that are neither
	closed   bool            // the conversation is
	long     int             // bytes of messages besides those that were said
	statuses map[string]bool // of the delivery while a message came, by watch
	watch    func() string
}

func newTiledesk(t *testing.T) *tiledesk {
	t.Helper()
	td := &tiledesk{good: "JWT 0", statuses: map[string]bool{}}
	td.Server = httptest.NewServer(http.HandlerFunc(td.serve))
	t.Cleanup(td.Close)
	return td
}

func (td *tiledesk) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if td.watch != nil && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/messages") {
		status := td.watch()
		td.mu.Lock()
		td.statuses[status] = true
		td.mu.Unlock()
	}
	td.mu.Lock()
	defer td.mu.Unlock()
	switch {
	case r.URL.Path == "/auth/signinAnonymously":
		td.signIns++
		td.good = "JWT " + strconv.Itoa(td.signIns)
		_, _ = io.WriteString(w, `{"success":true,"token":"`+td.good+`"}`)
	case r.Header.Get("Authorization") != td.good:
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "Unauthorized")
	case r.Method == http.MethodGet:
		_, _ = io.WriteString(w, `[{"text":"`+strings.Repeat("x", td.long)+`"}`)
		for _, m := range td.said {
			_, _ = io.WriteString(w, ","+m)
		}
		_, _ = io.WriteString(w, "]")
	case td.lost > 0:
		td.lost--
		panic(http.ErrAbortHandler)
	default:
		td.said = append(td.said, string(body))
		if td.silent > 0 {
			td.silent--
			panic(http.ErrAbortHandler)
		}
		status := 200
		if td.closed {
			status = 1000
		}
		_, _ = io.WriteString(w, `{"request":{"status":`+strconv.Itoa(status)+`}}`)
	}
}

func (td *tiledesk) seen() (signIns int, said []string) {
	td.mu.Lock()
	defer td.mu.Unlock()
	return td.signIns, append([]string{}, td.said...)
}

func (td *tiledesk) set(change func()) {
	td.mu.Lock()
	defer td.mu.Unlock()
	change()
}

// TestConfirm loses answers, and messages. What was sent and not answered is
// looked for before it is sent again, under every policy of which the platform
// can be asked; a person is needed only where nobody can tell.
func TestConfirm(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, policy string
		silent, lost int
		long         int
		status       string // before the first message came
		want         string
		reason       string
		said         int
	}{
		{"answered", relay.ConfirmUnknown, 0, 0, 0, "sending", "delivered 1 ok", "accepted", 1},
		{"arrived, and no answer", relay.ConfirmUnknown, 1, 0, 0, "sending", "delivered 2 ok", "confirmed", 1},
		{"arrived in a long conversation", relay.ConfirmUnknown, 1, 0, 2 << 20, "sending", "delivered 2 ok", "confirmed", 1},
		{"never arrived", relay.ConfirmUnknown, 0, 1, 0, "sending", "delivered 2 ok", "accepted", 1},
		{"nobody can tell", relay.ConfirmUnknown, 0, 1, 9 << 20, "sending", "unknown 2 unknown", "look: cannot_tell", 0},
		{"arrived, under retry", relay.RetryUnknown, 1, 0, 0, "scheduled", "delivered 2 ok", "confirmed", 1},
		{"nobody can tell, under retry", relay.RetryUnknown, 0, 1, 9 << 20, "scheduled", "delivered 2 ok", "accepted", 1},
		{"arrived, under hold", relay.HoldUnknown, 1, 0, 0, "sending", "unknown 1 unknown", "reset", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ok)
			td := newTiledesk(t)
			to := at("smartify", td.URL)
			to.OnUnknown = tt.policy
			d := w.owe(t, says("smartify", w.put(t, to)), "u-1")[0]
			td.silent, td.lost, td.long = tt.silent, tt.lost, tt.long
			td.watch = func() string {
				return storetest.Query[string](t, w.url, `SELECT status FROM deliveries WHERE id = $1`, d.ID)
			}
			e := newEngine(t, w.Store, time.Second)
			e.run(t)
			e.HandOver([]relay.Delivery{d})
			until(t, "the first attempt is recorded", func() bool {
				return storetest.Query[int](t, w.url, `SELECT attempts FROM deliveries WHERE id = $1`, d.ID) > 0
			})
			if tt.policy == relay.ConfirmUnknown && tt.silent+tt.lost > 0 {
				wait := storetest.Query[float64](t, w.url, `SELECT extract(epoch FROM due_at - started_at)::float8 FROM deliveries WHERE id = $1`, d.ID)
				if wait < 4.9 {
					t.Errorf("it is looked for after %.1f s, want 5 or more: the platform may still be at work", wait)
				}
			}
			storetest.Exec(t, w.url, `UPDATE deliveries SET due_at = now() WHERE due_at IS NOT NULL AND lease IS NULL`)
			e.Wake()
			w.becomes(t, d, tt.want)
			if got := storetest.Query[string](t, w.url, `SELECT reason FROM deliveries WHERE id = $1`, d.ID); got != tt.reason {
				t.Errorf("got the reason %q, want %q", got, tt.reason)
			}
			if _, said := td.seen(); len(said) != tt.said {
				t.Errorf("%d messages are there, want %d", len(said), tt.said)
			}
			if !td.statuses[tt.status] || len(td.statuses) != 1 {
				t.Errorf("while it was sent it was %v, want %s", td.statuses, tt.status)
			}
		})
	}
}

// A node that dies after the mark leaves a delivery that may have been sent:
// it is looked for, and found or sent.
func TestConfirmAfterACrash(t *testing.T) {
	t.Parallel()
	for _, arrived := range []bool{true, false} {
		t.Run(strconv.FormatBool(arrived), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ok)
			td := newTiledesk(t)
			to := at("smartify", td.URL)
			to.OnUnknown = relay.ConfirmUnknown
			d := w.owe(t, says("smartify", w.put(t, to)), "u-1")[0] // and its node dies
			reason := "accepted"
			if arrived {
				td.said, reason = []string{`{"attributes":{"relay_delivery_id":"` + d.ID.String() + `"}}`}, "confirmed"
			}
			storetest.Exec(t, w.url, `UPDATE deliveries SET status = 'sending', due_at = now() WHERE id = $1`, d.ID)
			e := newEngine(t, w.Store, time.Second)
			e.run(t)
			until(t, "the crash is recorded", func() bool {
				return storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE id = $1 AND lease IS NULL AND attempts = 1`, d.ID) == 1
			})
			w.endLeases(t)
			e.Wake()
			w.becomes(t, d, "delivered 2 ok")
			if got := storetest.Query[string](t, w.url, `SELECT reason FROM deliveries WHERE id = $1`, d.ID); got != reason {
				t.Errorf("got the reason %q, want %q", got, reason)
			}
			if _, said := td.seen(); len(said) != 1 {
				t.Errorf("%d messages are there, want 1", len(said))
			}
		})
	}
}

// A person who retries what stands there already wants it said once more: by
// force what was delivered, or what was said in a conversation that was closed.
// What was sent then and not answered is looked for like anything else.
func TestSaidAgainByHand(t *testing.T) {
	t.Parallel()
	for _, closed := range []bool{false, true} {
		t.Run(strconv.FormatBool(closed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ok)
			td := newTiledesk(t)
			td.closed = closed
			d := w.owe(t, says("smartify", w.put(t, at("smartify", td.URL))), "u-1")[0]
			e := newEngine(t, w.Store, time.Second)
			e.run(t)
			e.HandOver([]relay.Delivery{d})
			first := "delivered 1 ok"
			if closed {
				first = "dead 1 permanent"
			}
			w.becomes(t, d, first)
			td.set(func() { td.closed, td.silent = false, 1 })
			if err := w.Store.RetryDelivery(t.Context(), w.ID, d.ID, true); err != nil {
				t.Fatal(err)
			}
			e.Wake()
			until(t, "it is sent again, and not answered", func() bool {
				return storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE id = $1 AND lease IS NULL AND attempts = 2`, d.ID) == 1
			})
			w.endLeases(t)
			e.Wake()
			w.becomes(t, d, "delivered 3 ok")
			_, said := td.seen()
			if len(said) != 2 || !strings.Contains(said[1], `"`+d.ID.String()+`.1"`) {
				t.Errorf("got the messages %v, want two, the second with a number behind its id", said)
			}
			if got := storetest.Query[string](t, w.url, `SELECT reason FROM deliveries WHERE id = $1`, d.ID); got != "confirmed" {
				t.Errorf("got the reason %q, want the second message found", got)
			}
		})
	}
}

// A session in the table that is older than the one in memory, since that could
// not be kept, is no way in: neither holds the destination.
func TestOldSessionInTheTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	td := newTiledesk(t)
	id := w.put(t, at("smartify", td.URL))
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	for i, user := range []string{"u-1", "u-2"} {
		if i > 0 {
			if err := w.Store.PutSession(t.Context(), id, 0, "JWT old"); err != nil {
				t.Fatal(err)
			}
			td.set(func() { td.good = "none" })
		}
		d := w.owe(t, says("smartify", id), user)[0]
		e.HandOver([]relay.Delivery{d})
		w.becomes(t, d, "delivered 1 ok")
	}
	if got, _ := td.seen(); got != 2 {
		t.Errorf("%d sign-ins, want 2", got)
	}
}

// TestSessionIsShared has two nodes call one Smartify for many conversations
// at once, then a third that starts later: they sign in once. The token is
// sealed. Once it is revoked, they sign in once more.
func TestSessionIsShared(t *testing.T) {
	t.Parallel()
	const users = 30
	w := newWorld(t, ok)
	td := newTiledesk(t)
	id := w.put(t, at("smartify", td.URL))
	owed := func(prefix string) []relay.Delivery {
		names := make([]string, users)
		for i := range names {
			names[i] = prefix + strconv.Itoa(i)
		}
		return w.owe(t, says("smartify", id), names...)
	}
	deliver := func(e *engine, ds []relay.Delivery) {
		t.Helper()
		e.HandOver(ds)
		for _, d := range ds {
			w.becomes(t, d, "delivered 1 ok")
		}
	}
	first := newEngine(t, w.Store, time.Second)
	first.run(t)
	deliver(first, owed("a-"))
	second := newEngine(t, storetest.Open(t, w.url, w.keys), time.Second)
	second.run(t)
	deliver(second, owed("b-"))
	if got, _ := td.seen(); got != 1 {
		t.Errorf("%d sign-ins of two nodes, want 1", got)
	}
	if got := storetest.Query[int](t, w.url, `SELECT count(*) FROM destination_sessions WHERE position('JWT'::bytea IN sealed) > 0`); got != 0 {
		t.Error("the token stands in the table as it is")
	}
	td.set(func() { td.good = "none" })
	deliver(first, owed("c-"))
	deliver(second, owed("d-"))
	if got, _ := td.seen(); got != 2 {
		t.Errorf("%d sign-ins after the token was revoked, want 2", got)
	}
	if n, err := w.Store.Reseal(t.Context()); n != 0 || err != nil {
		t.Errorf("resealing: got %d, %v, want nothing to do", n, err)
	}
}

// Other credentials, or a resume, begin another session: the old one belongs
// to an account that may be another.
func TestSessionEndsWithTheAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	td := newTiledesk(t)
	id := w.put(t, at("smartify", td.URL))
	for i := range 2 {
		e := newEngine(t, w.Store, time.Second)
		e.run(t)
		d := w.owe(t, says("smartify", id), "u-"+strconv.Itoa(i))[0]
		e.HandOver([]relay.Delivery{d})
		w.becomes(t, d, "delivered 1 ok")
		to := e.directory.Current().Destination(id)
		if _, err := e.directory.Resume(t.Context(), to); err != nil {
			t.Fatal(err)
		}
		e.stop()
	}
	if got, _ := td.seen(); got != 2 {
		t.Errorf("%d sign-ins, want one before the resume and one after it", got)
	}
	if got := storetest.Query[int](t, w.url, `SELECT count(*) FROM destination_sessions`); got != 1 {
		t.Errorf("%d sessions are kept, want 1", got)
	}
}

// All calls of an attempt together have its timeout.
func TestExchangeHasOneTimeout(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	calls := make(chan string, 16)
	there := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		calls <- r.URL.Path
		if r.URL.Path == "/v1.0/user/" {
			select {
			case <-gate:
			case <-r.Context().Done():
			}
			return
		}
		rw.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(rw, notRegistered)
	}))
	t.Cleanup(there.Close)
	t.Cleanup(func() { close(gate) })
	w := newWorld(t, ok)
	to := at("haptik", there.URL)
	const timeout = 6 * time.Second // a slow machine makes the first call within it
	to.Timeout = relay.Duration(timeout)
	d := w.owe(t, says("haptik", w.put(t, to)), "u-1")[0]
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver([]relay.Delivery{d})
	until(t, "the attempt is recorded", func() bool {
		return storetest.Query[int](t, w.url, `SELECT attempts FROM deliveries WHERE id = $1`, d.ID) > 0
	})
	_, attempts, err := w.Store.Delivery(t.Context(), w.ID, d.ID)
	if err != nil {
		t.Fatal(err)
	}
	a := attempts[0]
	said, cut := strings.CutPrefix(a.Reason, "register: timeout: no whole answer within ")
	if a.Class != relay.Retry || !cut || a.HTTPStatus != nil {
		t.Fatalf("got %s, %q, want a retry without an answer", a.Class, a.Reason)
	}
	limit, _, _ := strings.Cut(said, " ")
	if left, err := time.ParseDuration(limit); err != nil || left <= 0 || left >= timeout {
		t.Errorf("the second call had %q, want what the first one has left of %v", limit, timeout)
	}
}

// Each call counts against the rate: after a message with a registration there
// is less left than after one without.
func TestRateCountsEveryCall(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		answers []said
		calls   int
	}{
		{"one call", list(said{200, anyHaptikAnswer}), 1},
		{"three calls", list(said{403, notRegistered}, said{200, `{}`}, said{200, anyHaptikAnswer}), 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ok)
			to := at("haptik", newScript(t, tt.answers...).URL)
			to.Rate = "1/h"
			d := w.owe(t, says("haptik", w.put(t, to)), "u-1")[0]
			e := newEngine(t, w.Store, time.Second)
			e.run(t)
			e.HandOver([]relay.Delivery{d})
			w.becomes(t, d, "delivered 1 ok")
			// The first call takes what was saved up, and each further one an hour.
			hours := storetest.Query[float64](t, w.url, `SELECT extract(epoch FROM spent_until - now())::float8 / 3600 FROM rate_budgets`)
			if want := float64(tt.calls - 1); hours < want-0.1 || hours > want+0.1 {
				t.Errorf("it is spent for %.2f h ahead, want %.0f", hours, want)
			}
		})
	}
}

// A platform that quotes the request it was sent, as some bots do to help,
// gives none of what lets us in to those who read deliveries.
func TestQuotedSecretsAreMasked(t *testing.T) {
	t.Parallel()
	const password = `hush/hush "pass" word`
	for _, name := range []string{"certainly", "haptik", "smartify", "userengage", "webhook"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ok)
			there := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					_, _ = io.WriteString(rw, conversation)
					return
				}
				user, secret, _ := r.BasicAuth()
				quoted, _ := json.Marshal(map[string]any{"error": "quoted", "got": r.Header, "user": user, "password": secret, "url": r.RequestURI, "query": r.URL.Query()})
				rw.WriteHeader(http.StatusUnprocessableEntity)
				_, _ = io.WriteString(rw, strings.ReplaceAll(string(quoted), "/", `\/`)) // as PHP writes it
				_, _ = rw.Write(quoted)
			}))
			t.Cleanup(there.Close)
			to := at(name, there.URL)
			secrets := []string{"a-token-of-the-bot"}
			switch name {
			case "smartify":
				to.Settings["username"], to.Secrets = "a@b.example", map[string]string{"password": password}
				secrets = []string{"hush", base64.StdEncoding.EncodeToString([]byte("a@b.example:" + password))}
			case "webhook":
				to.Secrets = map[string]string{"headers": `{"X-Api-Key":"hush/hush+hush=","Authorization":"Bearer hush/hush.hush"}`}
				to.Settings["url"] += "?key=hush%2Fhush%3Dhush&room=chat"
				secrets = []string{"hush"}
			}
			d := w.owe(t, says(name, w.put(t, to)), "u-1")[0]
			e := newEngine(t, w.Store, time.Second)
			e.run(t)
			e.HandOver([]relay.Delivery{d})
			until(t, "the first attempt is recorded", func() bool {
				return storetest.Query[int](t, w.url, `SELECT attempts FROM deliveries WHERE id = $1`, d.ID) > 0
			})
			got := storetest.Query[string](t, w.url, `SELECT coalesce(response, '') FROM deliveries WHERE id = $1`, d.ID)
			if !strings.Contains(got, "quoted") || !strings.Contains(got, "***") {
				t.Errorf("got the answer %q, want it kept, with masks", got)
			}
			for _, secret := range secrets {
				if strings.Contains(got, secret) || strings.Contains(got, strings.ReplaceAll(secret, "/", `\/`)) {
					t.Errorf("%q stands in what is kept: %s", secret, got)
				}
			}
		})
	}
}

// A text that is HTML has escaped what a stranger has typed.
func TestHTMLIsEscaped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	there := newScript(t, said{201, ``})
	p := says("userengage", w.put(t, at("userengage", there.URL)))
	a := p.On["completed"]
	a.Text = `<b>Thanks, {{ form.name }}</b> {{ form.name }}`
	p.On["completed"] = a
	d := w.owe(t, p, "4711")[0]
	d.Form = map[string]any{"name": `<script>"O'Brien" & co`}
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver([]relay.Delivery{d})
	w.becomes(t, d, "delivered 1 ok")
	_, bodies, _ := there.seen()
	var sent struct {
		Conversation int    `json:"conversation"`
		Content      string `json:"content"`
	}
	if err := json.Unmarshal([]byte(bodies[0]), &sent); err != nil {
		t.Fatal(err)
	}
	const name = `&lt;script&gt;&#34;O&#39;Brien&#34; &amp; co`
	if want := `<b>Thanks, ` + name + `</b> ` + name; sent.Content != want || sent.Conversation != 4711 {
		t.Errorf("got %d, %s, want 4711, %s", sent.Conversation, sent.Content, want)
	}
}

// The default body of a webhook holds what happened, and its id is the
// delivery's on every attempt.
func TestWebhookTellsTheSameTwice(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var ids, bodies []string
	there := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		ids, bodies = append(ids, r.Header.Get("webhook-id")), append(bodies, string(body))
		if len(ids) == 1 {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(there.Close)
	w := newWorld(t, ok)
	d := w.owe(t, says("webhook", w.put(t, at("webhook", there.URL))), "u-1")[0]
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver([]relay.Delivery{d})
	until(t, "the first attempt is recorded", func() bool {
		return storetest.Query[int](t, w.url, `SELECT attempts FROM deliveries WHERE id = $1`, d.ID) > 0
	})
	storetest.Exec(t, w.url, `UPDATE deliveries SET due_at = now() WHERE due_at IS NOT NULL AND lease IS NULL`)
	e.Wake()
	w.becomes(t, d, "delivered 2 ok")
	mu.Lock()
	defer mu.Unlock()
	if len(ids) != 2 || ids[0] != d.ID.String() || ids[1] != ids[0] || bodies[1] != bodies[0] {
		t.Errorf("got the ids %v and the bodies %v, want the delivery's and the same twice", ids, bodies)
	}
	if bodies[0] != `{"paid":20.5}` {
		t.Errorf("got the body %s", bodies[0])
	}
}
