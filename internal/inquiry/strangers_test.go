package inquiry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// try posts a callback that may be refused.
func (s *shop) try(t *testing.T, n *node, c relay.Callback) (relay.Receipt, error) {
	t.Helper()
	c.ID, c.ProjectID, c.SourceID, c.ReceivedAt = relay.NewID(), s.ID, s.SourceID, s.now
	c, err := n.directory.Current().ReadAgain(c, c.ReceivedAt)
	check(t, err)
	return n.intake.Accept(t.Context(), c)
}

// posted is a callback that nobody has signed.
func posted(token, query, contentType, body string) relay.Callback {
	return relay.Callback{
		Verdict: relay.Unsigned, PathToken: token, Query: query, Body: []byte(body), Headers: fmt.Appendf(nil, `{"Content-Type": %q}`, contentType),
	}
}

const formType = "application/x-www-form-urlencoded"

func wantRefused(t *testing.T, err error, code string) {
	t.Helper()
	var refusal *relay.Error
	if !errors.As(err, &refusal) || refusal.Code != code {
		t.Errorf("posting it: got %v, want it refused with %s", err, code)
	}
}

// Strangers who use up what a source may have asked delay a genuine callback
// that names no wait, and do not keep it from being asked about. What would be
// asked too late is refused before it is kept; its sender comes again.
func TestStrangersOnlyDelay(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v2/payments/tr_real", mollie("tr_real", "paid", "null", fmt.Sprintf(`, "metadata": {"conversation_token": %q}`, w.Token)))
	for i := range 130 {
		s.knock(t, n, "", fmt.Sprintf("tr_fake%d", i))
	}
	e := s.knock(t, n, "", "tr_real")
	s.wantEvent(t, e.EventID, "ignored fetched_apart")
	after := storetest.Query[float64](t, s.url, `SELECT `+afterSQL+` FROM questions WHERE event_id = $1`, e.EventID)
	if after < 5 || after > 7 {
		t.Errorf("it is asked about in %.0f s, want 6: 30 stand before it, 5 a second", after)
	}
	storetest.Exec(t, s.url, `UPDATE questions SET due_at = now() - interval '1 day' WHERE about = 'tr_real'`)
	_, err := n.AskOnce(t.Context())
	check(t, err)
	s.wantWait(t, w, "completed null completed")
}

// There is an end to what waits to be asked about, for each wait too; and a
// copy of what is refused is no copy of it.
func TestTooManyAreRefused(t *testing.T) {
	t.Parallel()
	s, _ := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	var err error
	kept := 0
	for i := range 100 {
		if _, err = s.try(t, n, posted(w.Token, "", formType, fmt.Sprintf("id=tr_%d", i))); err != nil {
			break
		}
		kept++
	}
	if kept != 80 {
		t.Errorf("%d callbacks of one wait were kept, want 80: 20 at once and one in 10 s for 10 min", kept)
	}
	wantRefused(t, err, "too_many_to_ask")
	_, err = s.try(t, n, posted(w.Token, "", formType, fmt.Sprintf("id=tr_%d", kept)))
	wantRefused(t, err, "too_many_to_ask")
	if got := storetest.Query[int](t, s.url, `SELECT count(*)::int FROM events`); got != kept {
		t.Errorf("%d events are kept, want the %d that were accepted", got, kept)
	}
	s.knock(t, n, "", "tr_other") // others are not kept out
}

// A copy is asked about out of the same budget as its original.
func TestCopiesAreCounted(t *testing.T) {
	t.Parallel()
	s, _ := newDesk(t, "mollie-classic")
	n := s.node(t)
	for i := range 100 {
		s.knock(t, n, "", fmt.Sprintf("tr_fake%d", i))
	}
	storetest.Exec(t, s.url, `UPDATE questions SET due_at = NULL, result = 'found', tries = 1, asked_at = now() - interval '1 day'`)
	for range 2 { // a copy of what is to be asked about costs nothing
		for i := range 100 {
			s.knock(t, n, "", fmt.Sprintf("tr_fake%d", i))
		}
	}
	last := storetest.Query[float64](t, s.url, `SELECT max(`+afterSQL+`) FROM questions`)
	if last < 18 || last > 21 {
		t.Errorf("the last copy is asked about in %.0f s, want the 20 that 100 of them take, 5 a second, and not 200", last)
	}
}

// What cannot be asked about, or claims another's token where that does not
// count, does not take the place of the genuine callback.
func TestKnocksAreNotPoisoned(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		evil    func(token string) relay.Callback
		refused bool
	}{
		"a long body": {func(token string) relay.Callback {
			return posted(token, "", formType, "id=tr_1&pad="+strings.Repeat("x", 70_000))
		}, true},
		"a long query": {func(token string) relay.Callback {
			return posted("", "token="+token+"&pad="+strings.Repeat("x", 5000), formType, "id=tr_1")
		}, true},
		"a token in the body": {func(token string) relay.Callback {
			return posted("", "", "application/json", `{"id": "tr_1", "metadata": "`+token+`"}`)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, d := newDesk(t, "mollie-classic")
			n := s.node(t)
			w := s.Wait(t, "u-1")
			_, err := s.try(t, n, tt.evil(w.Token))
			if tt.refused {
				wantRefused(t, err, "body_too_large")
			} else {
				check(t, err)
			}
			d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), ""))
			e := s.knock(t, n, w.Token, "tr_1")
			s.wantEvent(t, e.EventID, "ignored fetched_apart")
			_, err = n.AskOnce(t.Context())
			check(t, err)
			s.wantWait(t, w, "completed null completed")
		})
	}
}

// A refund is told once, by whichever URLs its payment is posted.
func TestRefundIsToldOnce(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), ""))
	s.knock(t, n, w.Token, "tr_1")
	ask(t, n, 1)
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), `, "amountRefunded": {"value": "5.00", "currency": "EUR"}`))
	for _, c := range []relay.Callback{
		posted(w.Token, "", formType, "id=tr_1"), posted("", "", formType, "id=tr_1"), posted("", "token="+w.Token, formType, "id=tr_1"),
		posted(relay.NewToken(), "", formType, "id=tr_1"),
	} {
		s.post(t, n, c)
		s.due(t)
		ask(t, n, 1)
	}
	s.wantWait(t, w, "completed null completed refunded")
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), `, "amountRefunded": {"value": "6.00", "currency": "EUR"}`))
	s.knock(t, n, w.Token, "tr_1")
	s.due(t)
	ask(t, n, 1)
	s.wantWait(t, w, "completed null completed refunded refunded")
}

// putInline gives the shop a source whose preset fetches payments, and says what
// is made of them.
func (s *shop) putInline(t *testing.T, d *desk, as string) {
	t.Helper()
	preset, err := json.Marshal(map[string]any{
		"name": "x", "auth": map[string]any{"alg": "none"}, "callback_by_url": true, "body": "fields", "type": "{json:status}",
		"outcome":     []any{map[string]any{"type": "open", "is": "processing"}, map[string]any{"type": "paid", "is": "completed"}},
		"correlation": []any{"path"}, "references": []any{map[string]any{"kind": "payment", "from": "{form:id}"}},
		"ask": map[string]any{"api": "https://api.example.com", "fetch": map[string]any{"about": "payment", "path": "/p/{id}", "as": as}},
	})
	check(t, err)
	src := relay.Source{
		ProjectID: s.ID, Name: "mollie-classic", Provider: "inline", Preset: preset,
		Settings: map[string]string{"base_url": d.url}, Credentials: map[string]string{"api_key": apiKey},
	}
	check(t, s.Store.Configure(t.Context(), func(c *store.Change) error {
		_, err := c.PutSource(t.Context(), src)
		return err
	}))
}

// States of what has no id are told apart by what was fetched.
func TestFetchedWithoutAnID(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	s.putInline(t, d, "{answer}")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	for _, status := range []string{"open", "open", "paid"} {
		d.put("/p/o1", fmt.Sprintf(`{"id": "o1", "status": %q}`, status))
		s.knock(t, n, w.Token, "o1")
		s.due(t)
		ask(t, n, 1)
	}
	s.wantWait(t, w, "completed null processing completed")
}

// A declined card of a payment link carries no token, as a thin event either:
// Stripe is asked for its session.
func TestThinDeclineOfALink(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "stripe")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v1/payment_intents/pi_1", `{"id": "pi_1", "object": "payment_intent", "amount": 2050, "currency": "eur", "metadata": {}}`)
	d.put("/v1/checkout/sessions?payment_intent=pi_1&limit=1", fmt.Sprintf(`{"object": "list", "data": [{"id": "cs_1", "client_reference_id": %q}]}`, w.Token))
	s.receive(t, n, []byte(`{"id": "evt_1", "object": "v2.core.event", "type": "v1.payment_intent.payment_failed", "livemode": false,
		"related_object": {"id": "pi_1", "type": "payment_intent", "url": "/v1/payment_intents/pi_1"}}`))
	ask(t, n, 1)
	ask(t, n, 1)
	s.wantWait(t, w, "pending null attempt_failed")
}

// An object may be as long as a callback that says it itself. One that is
// longer is so each time: it is not asked for again, and that is made known.
func TestLongAnswers(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), fmt.Sprintf(`, "more": %q`, strings.Repeat("x", 500_000))))
	s.knock(t, n, w.Token, "tr_1")
	ask(t, n, 1)
	s.wantWait(t, w, "completed null completed")
	d.put("/v2/payments/tr_2", mollie("tr_2", "paid", hook(w), fmt.Sprintf(`, "more": %q`, strings.Repeat("x", 1<<20))))
	e := s.knock(t, n, w.Token, "tr_2")
	ask(t, n, 1)
	s.wantQuestion(t, e.EventID, "failed answer_too_long done")
	if got := storetest.Query[string](t, s.url, `SELECT last_error FROM source_activity WHERE source_id = $1`, s.SourceID); got != "answer_too_long" {
		t.Errorf("last_error: got %q, want answer_too_long", got)
	}
}

// What a preset makes of an answer may be too long though the answer is not:
// that ends as a long answer does.
func TestLongInItsForm(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	s.putInline(t, d, `{"status": {answer.status}, "first": {answer}, "second": {answer}}`)
	n := s.node(t)
	w := s.Wait(t, "u-1")
	d.put("/p/o1", fmt.Sprintf(`{"id": "o1", "status": "paid", "more": %q}`, strings.Repeat("x", 600_000)))
	e := s.knock(t, n, w.Token, "o1")
	ask(t, n, 1)
	s.wantQuestion(t, e.EventID, "failed answer_too_long done")
	if got := storetest.Query[string](t, s.url, `SELECT last_error FROM source_activity WHERE source_id = $1`, s.SourceID); got != "answer_too_long" {
		t.Errorf("last_error: got %q, want answer_too_long", got)
	}
	d.put("/p/o2", fmt.Sprintf(`{"id": "o2", "status": "paid", "more": %q}`, strings.Repeat("x", 400_000)))
	s.knock(t, n, w.Token, "o2")
	ask(t, n, 1)
	s.wantWait(t, w, "completed null completed")
}

// Whoever knows a token is heard before strangers, who have come first.
func TestStrangersComeLast(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	n := s.node(t)
	w := s.Wait(t, "u-1")
	const strangers = 20 // more than are asked at a time
	for i := range strangers {
		s.knock(t, n, relay.NewToken(), fmt.Sprintf("tr_fake%d", i))
	}
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), ""))
	s.knock(t, n, w.Token, "tr_1")
	_, err := n.AskOnce(t.Context())
	check(t, err)
	s.wantWait(t, w, "completed null completed")
	left := storetest.Query[int](t, s.url, `SELECT count(*)::int FROM questions WHERE strange AND due_at IS NOT NULL`)
	if left == 0 || left == strangers {
		t.Errorf("of %d questions of strangers %d are left, want those asked that there was room for", strangers, left)
	}
}

// waiting puts questions of strangers about a source that are to be asked
// tomorrow: its provider is out of reach.
func (s *shop) waiting(t *testing.T, n int) {
	t.Helper()
	storetest.Exec(t, s.url, `
		INSERT INTO questions (id, project_id, source_id, event_id, about, due_at, give_up_at, fetches, strange)
		SELECT gen_random_uuid(), $1, $2, gen_random_uuid(), 'tr_' || i, now() + interval '1 day', now() + interval '2 days', true, true
		FROM generate_series(1, $3::int) i`, s.ID, s.SourceID, n)
}

// As many questions of strangers wait of a source as may: no more are kept,
// until there is room. Whoever knows a token, and other sources, are not kept
// out.
func TestWaitingStrangersAreBounded(t *testing.T) {
	t.Parallel()
	s, d := newDesk(t, "mollie-classic")
	w := s.Wait(t, "u-1")
	s.waiting(t, relay.MaxStrangeWaiting-1)
	s.knock(t, s.node(t), "", "tr_last")
	n := s.node(t) // which has not counted yet
	_, err := s.try(t, n, posted("", "", formType, "id=tr_beyond"))
	wantRefused(t, err, "too_many_to_ask")
	if got := storetest.Query[int](t, s.url, `SELECT count(*)::int FROM events`); got != 1 {
		t.Errorf("%d events are kept, want the one that there was room for", got)
	}
	d.put("/v2/payments/tr_1", mollie("tr_1", "paid", hook(w), ""))
	s.knock(t, n, w.Token, "tr_1")
	_, err = n.AskOnce(t.Context())
	check(t, err)
	s.wantWait(t, w, "completed null completed")

	beside := *s.Project
	beside.SourceID = s.addNamed(t, "beside", "mollie-classic", d.url, apiKey)
	other := *s
	other.Project = &beside
	other.knock(t, other.node(t), "", "tr_beside")

	storetest.Exec(t, s.url, `UPDATE questions SET due_at = NULL, result = 'moot' WHERE source_id = $1 AND about = 'tr_2'`, s.SourceID)
	s.knock(t, s.node(t), "", "tr_beyond")
}
