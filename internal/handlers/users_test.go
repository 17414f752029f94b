package handlers_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// jo is a person whose every trace holds this word.
const jo = "Jo-Marker"

// placesOf names every column of every table that holds a text, packed bytes
// apart: those must be gone altogether.
func (n *node) placesOf(text string) string {
	n.t.Helper()
	storetest.Exec(n.t, n.database, `
		CREATE OR REPLACE FUNCTION places(wanted text) RETURNS SETOF text LANGUAGE plpgsql AS $$
		DECLARE c record; found boolean;
		BEGIN
		    FOR c IN SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = current_schema() LOOP
		        EXECUTE format(CASE c.data_type WHEN 'bytea' THEN 'SELECT EXISTS (SELECT FROM %I WHERE position(convert_to($1, ''UTF8'') IN %I) > 0)'
		                                        ELSE 'SELECT EXISTS (SELECT FROM %I WHERE %I::text LIKE ''%%'' || $1 || ''%%'')' END,
		                       c.table_name, c.column_name) INTO found USING wanted;
		        IF found THEN RETURN NEXT c.table_name || '.' || c.column_name; END IF;
		    END LOOP;
		END $$`)
	return storetest.Query[string](n.t, n.database, `SELECT coalesce(string_agg(p, ' ' ORDER BY p), '') FROM places($1) p`, text)
}

// erase erases a person and returns the counts.
func (n *node) erase(user string, settings ...setting) string {
	n.t.Helper()
	counts := n.remove("/v1/users/"+url.PathEscape(user), settings...).want(http.StatusAccepted).object()
	return fmt.Sprintf("%v correlations, %v cancelled, %v events, %v deliveries, %v skipped, done: %v",
		counts["correlations"], counts["cancelled"], counts["events"], counts["deliveries"], counts["skipped"], counts["done"])
}

const erasedNothing = "0 correlations, 0 cancelled, 0 events, 0 deliveries, 0 skipped, done: true"

// traces leaves what a person can leave: waits of all sorts, with callbacks,
// calls and answers. It returns the wait that is pending, and the one that was
// paid with the delivery that it owes.
func (n *node) traces(user string) (pending, paid map[string]any, owed relay.Delivery) {
	n.t.Helper()
	own := func(flow string) string {
		return fmt.Sprintf(`{"user_id": %q, "conversation": "chat-of-%s", "key": "order-%s-%s", "custom_vars": {"name": %q}, "data": {"name": %q},
			"locale": "jo-Marker", "source": ["hook", "stripe"], "on": {"default": {"text": "Dear %s, %s"}}}`, user, user, flow, user, user, user, user, flow)
	}
	// Paid, told twice, once more by its reference alone, and answered twice.
	paid = n.wait(own("paid"))
	intent := "pi_1"
	person := fmt.Sprintf(`, "customer_details": {"email": "%s@example.com", "name": %q}`, user, user)
	n.stripe("evt_1", "checkout.session.completed", paidSession(paid["token"].(string), intent, 2050, "eur")+person)
	n.stripe("evt_1", "checkout.session.completed", paidSession(paid["token"].(string), intent, 2050, "eur")+person)
	for range 2 {
		n.stripe("evt_2", "charge.refunded", `"object": "charge", "id": "ch_1", "payment_intent": "`+intent+`", "billing_details": {"name": "`+user+`"}`)
	}
	handed := n.deliveries()
	owed = handed[len(handed)-1]
	n.tried(owed, relay.Attempt{Class: relay.Retry, Response: "no " + user, Reason: "no " + user, Notes: []byte(`["` + user + `"]`), Next: relay.Scheduled})
	// Resolved by hand, with a delivery that failed.
	byHand := n.wait(own("by-hand"))
	n.post("/v1/correlations/"+byHand["id"].(string)+"/resolve", fmt.Sprintf(
		`{"outcome": "completed", "payment": {"id": "cash-1", "amount": 20.5, "currency": "EUR", "email": "%s@example.com"}, "form": {"name": %q}}`, user, user)).want(http.StatusOK)
	// A form.
	form := n.wait(fmt.Sprintf(`{"user_id": %q, "source": "contact", "module_id": 1}`, user))
	n.send(http.MethodPost, "/in/default/contact/"+form["token"].(string), strings.NewReader("name="+url.QueryEscape(user)),
		header("Content-Type", "application/x-www-form-urlencoded"))
	// What came to nothing, by the token.
	pending = n.wait(own("pending"))
	n.hook("/in/default/unrelated", `{}`)
	n.hook("/in/default/hook", fmt.Sprintf(`{"id": "e-3", "type": "something.else", "data": {"reference": %q}, "name": %q}`, pending["token"], user)).wantAccepted()
	return pending, paid, owed
}

// After an erasure nothing of the person is left anywhere; what happened is.
func TestErase(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	user := jo + " / 100% ?#"
	other := n.wait(`{"user_id": "other", "flow": "checkout", "data": "of the other"}`)
	pending, paid, owed := n.traces(user)
	if got := n.placesOf(jo); strings.Count(got, " ") < 12 {
		t.Fatalf("found the person in %s: want it everywhere first", got)
	}
	before := len(n.deliveries())
	if got := n.erase(user, inProject("default")); got != "4 correlations, 1 cancelled, 6 events, 3 deliveries, 3 skipped, done: true" {
		t.Errorf("erased %s", got)
	}
	if got := n.placesOf(jo) + n.placesOf("jo-Marker"); got != "" {
		t.Errorf("the person is still in %s", got)
	}
	if got := n.count(`events WHERE body IS NOT NULL AND verdict <> 'rejected'`); got != 0 {
		t.Errorf("%d events hold their bytes still", got)
	}
	if got := n.count("erasures"); got != 0 {
		t.Errorf("%d erasures are noted still", got)
	}
	if got := n.count("deliveries WHERE due_at IS NOT NULL OR status = 'held'"); got != 0 {
		t.Errorf("%d slots are left", got)
	}
	if got := len(n.deliveries()); got != before {
		t.Errorf("%d deliveries were handed over by the erasure, want none", got-before)
	}
	if got := n.erase(user); got != erasedNothing {
		t.Errorf("a second time: erased %s", got)
	}
	// What happened is kept.
	if got := n.get("/v1/correlations/" + pending["id"].(string)).object(); got["status"] != "cancelled" || got["user_id"] != "" || got["key"] != nil {
		t.Errorf("got %v, want it cancelled and nobody's", got)
	}
	shown := n.get("/v1/correlations/" + paid["id"].(string)).object()
	payment, _ := shown["payment"].(map[string]any)
	if shown["status"] != "completed" || payment["amount"] != 20.5 || payment["id"] != "pi_1" || payment["email"] != nil {
		t.Errorf("got %v, want the payment without its payer", shown)
	}
	if got := n.get("/v1/correlations/" + other["id"].(string)).object(); got["status"] != "pending" || got["data"] != "of the other" {
		t.Errorf("got %v, want the other one untouched", got)
	}
	// Nobody is told any more, and what comes later says nothing of the person.
	n.post("/v1/deliveries/"+owed.ID.String()+"/retry", `{"force": true}`).refused(http.StatusConflict, "user_erased")
	person := fmt.Sprintf(`, "customer_details": {"email": "%s@example.com"}`, jo)
	n.stripe("evt_late", "checkout.session.completed", paidSession(pending["token"].(string), "pi_late", 2050, "eur")+person)
	n.stripe("evt_1", "checkout.session.completed", paidSession(paid["token"].(string), "pi_1", 2050, "eur")+person)
	if got := n.placesOf(jo); got != "" {
		t.Errorf("a late callback has put the person into %s", got)
	}
	if got := n.get("/v1/correlations/" + pending["id"].(string)).object(); got["late_outcome"] != "completed" {
		t.Errorf("got %v, want the late payment noted", got)
	}
	if got := len(n.deliveries()); got != before {
		t.Errorf("%d deliveries were handed over after the erasure, want none", got-before)
	}
	// Who comes back is a user like any other.
	if got := n.wait(fmt.Sprintf(`{"user_id": %q, "flow": "checkout"}`, user)); got["status"] != "pending" || got["user_id"] != user {
		t.Errorf("got %v, want a new wait", got)
	}
}

// Names are taken as they are written, of one project alone.
func TestEraseNames(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/projects/shop-b", ``).want(http.StatusOK)
	users := []string{"a/b", "a%2Fb", "a b", "a+b", "ä", "%", ".", "a?b#c"}
	for _, user := range users {
		n.wait(fmt.Sprintf(`{"user_id": %q, "flow": "checkout"}`, user))
	}
	for i, user := range users {
		if got := n.erase(user, inProject("shop-b")); got != erasedNothing {
			t.Errorf("%q in another project: erased %s", user, got)
		}
		if user == "." { // is no path
			continue
		}
		if got := n.erase(user); !strings.HasPrefix(got, "1 correlations, 1 cancelled") {
			t.Errorf("%d, %q: erased %s, want its one wait", i, user, got)
		}
	}
	n.remove("/v1/users/"+strings.Repeat("x", 256)).refused(http.StatusUnprocessableEntity, "invalid_value", "user_id")
	n.remove("/v1/users/%00").refused(http.StatusUnprocessableEntity, "invalid_value", "user_id")
}

// A person is erased while payments and registrations of theirs come in: what
// was there is erased whole, and nothing is left between the two.
func TestEraseMeetsCallbacks(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for round := range 8 {
		user := fmt.Sprintf("%s-%d", jo, round)
		w := n.wait(fmt.Sprintf(`{"user_id": %q, "flow": "checkout", "data": %q}`, user, user))
		var g errgroup.Group
		g.Go(func() error {
			person := fmt.Sprintf(`, "customer_details": {"email": "%s@example.com"}`, user)
			n.stripe(fmt.Sprintf("evt_%d", round), "checkout.session.completed", paidSession(w["token"].(string), fmt.Sprintf("pi_%d", round), 2050, "eur")+person)
			return nil
		})
		g.Go(func() error {
			n.post("/v1/correlations", fmt.Sprintf(`{"user_id": %q, "flow": "checkout"}`, user))
			return nil
		})
		g.Go(func() error {
			n.erase(user)
			return nil
		})
		must(t, g.Wait())
		shown := n.get("/v1/correlations/" + w["id"].(string)).object()
		if shown["user_id"] != "" || shown["data"] != nil || shown["status"] == "pending" {
			t.Errorf("round %d: got %v, want the first wait erased", round, shown)
		}
		n.erase(user) // the registration may have come after
		if got := n.placesOf(user); got != "" {
			t.Errorf("round %d: the person is in %s", round, got)
		}
	}
	if got := n.count(`deliveries d JOIN correlations c ON c.id = d.correlation_id WHERE c.user_id = '' AND d.finished_at IS NULL`); got != 0 {
		t.Errorf("%d calls are owed to nobody", got)
	}
}
