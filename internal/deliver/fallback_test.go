package deliver_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// behind puts one action behind another.
func behind(first, next relay.Action) relay.Action {
	first.Fallback = &next
	return first
}

// rows lists the deliveries in the order of creation.
func (w *world) rows(t *testing.T) string {
	t.Helper()
	return storetest.Query[string](t, w.url, `
		SELECT coalesce(string_agg(concat_ws(' ', action, status, class), ', ' ORDER BY id), '') FROM deliveries`)
}

// TestFallback has actions refused for good, and looks at what is called in
// their place.
func TestFallback(t *testing.T) {
	t.Parallel()
	unknownUser := said{400, `{"error":"Bot user with this id does not exist"}`}
	fine := said{200, accepted}
	move := relay.Action{Action: relay.TriggerResponse, ModuleID: 7}
	say := relay.Action{Action: relay.TriggerMessage, Text: "Paid"}
	for _, tt := range []struct {
		name    string
		action  relay.Action
		answers []said
		rows    string
		calls   int
	}{
		{"taken", behind(move, say), list(fine), "completed delivered ok", 1},
		{"refused", behind(move, say), list(unknownUser, fine), "completed dead permanent, completed.fallback delivered ok", 2},
		{"both refused", behind(move, say), list(unknownUser), "completed dead permanent, completed.fallback dead permanent", 2},
		{
			"one behind the other", behind(move, behind(say, say)), list(unknownUser, unknownUser, fine),
			"completed dead permanent, completed.fallback dead permanent, completed.fallback.fallback delivered ok", 3,
		},
		{"cannot be rendered", behind(relay.Action{Action: relay.TriggerResponse, ModuleID: "{{ form.nothing }}"}, say), list(fine), "completed dead permanent, completed.fallback delivered ok", 1},
		{"none behind it", behind(move, relay.Action{Action: relay.NoAction}), list(unknownUser), "completed dead permanent", 1},
		{"credentials are waited for", behind(move, say), list(said{401, ``}), "completed held credentials", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ok)
			there := newScript(t, tt.answers...)
			d := w.owe(t, relay.Plan{On: map[string]relay.Action{"completed": to(tt.action, w.put(t, at("certainly", there.URL)))}}, "u-1")[0]
			e := newEngine(t, w.Store, time.Second)
			e.run(t)
			e.HandOver([]relay.Delivery{d})
			var got string
			until(t, "the rows are "+tt.rows, func() bool { got = w.rows(t); return got == tt.rows }, func() string { return got })
			if calls, _, _ := there.seen(); len(calls) != tt.calls {
				t.Errorf("got the calls %v, want %d", calls, tt.calls)
			}
			if got := storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL`); got != 0 {
				t.Errorf("%d slots are left, want none", got)
			}
		})
	}
}

// to gives an action, and those behind it, a destination.
func to(a relay.Action, destination int64) relay.Action {
	a.DestinationID = destination
	if a.Fallback != nil {
		next := to(*a.Fallback, destination)
		a.Fallback = &next
	}
	return a
}

// A fallback does not run where the tries are used up: the call may have
// arrived.
func TestNoFallbackWhereTriesAreUsedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	there := newScript(t, said{503, ``})
	a := to(behind(relay.Action{Action: relay.TriggerResponse, ModuleID: 7}, relay.Action{Action: relay.TriggerMessage, Text: "Paid"}), w.put(t, at("certainly", there.URL)))
	d := w.owe(t, relay.Plan{On: map[string]relay.Action{"completed": a}}, "u-1")[0]
	storetest.Exec(t, w.url, `UPDATE deliveries SET give_up_at = now() - interval '1 hour' WHERE id = $1`, d.ID)
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver([]relay.Delivery{d})
	w.becomes(t, d, "dead 1 retry")
	if got, want := w.rows(t), "completed dead retry"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestFallbackOnce refuses what a conversation is told first. Its fallback, at
// another platform, is called once, with what the event said; what waited
// behind the refused one follows.
func TestFallbackOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	refusing := newScript(t, said{410, ``})
	desk := newScript(t, said{200, ``})
	first := at("webhook", refusing.URL)
	first.Name = "first"
	second := at("webhook", desk.URL)
	second.Name = "desk"
	from, behindIt := w.put(t, first), w.put(t, second)
	refused := relay.Action{Action: relay.CallWebhook, Body: "first", DestinationID: from}
	refused.Fallback = &relay.Action{
		Action: relay.CallWebhook, DestinationID: behindIt,
		Body: map[string]any{"paid": "{{ payment.amount_text }}", "of": "{{ correlation.user_id }}", "event": "{{ event.id }}"},
	}
	d := w.owe(t, relay.Plan{On: map[string]relay.Action{"completed": refused}}, "u-1")[0]
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver([]relay.Delivery{d})
	until(t, "the desk has been told", func() bool { return w.rows(t) == "completed dead permanent, completed.fallback delivered ok" })
	if err := w.Store.RetryDelivery(t.Context(), w.ID, d.ID, false); err != nil {
		t.Fatal(err)
	}
	e.Wake()
	w.becomes(t, d, "dead 2 permanent")
	if got, want := w.rows(t), "completed dead permanent, completed.fallback delivered ok"; got != want {
		t.Errorf("after a retry by hand: got %q, want %q", got, want)
	}
	_, bodies, _ := desk.seen()
	if len(bodies) != 1 || !strings.HasPrefix(bodies[0], `{"event":"evt_`) || !strings.HasSuffix(bodies[0], `"of":"u-1","paid":"20.50"}`) {
		t.Errorf("the desk was told %q, want the payment, once", bodies)
	}
	calls, _, _ := refusing.seen()
	if diff := cmp.Diff(list(webhookCall, webhookCall), calls); diff != "" {
		t.Errorf("the calls (-want +got):\n%s", diff)
	}
}
