package handlers_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// stripe posts a callback that the standard source stripe takes as genuine:
// about an object of the given JSON fields.
func (n *node) stripe(id, kind, object string) {
	n.t.Helper()
	body := fmt.Sprintf(`{"id": %q, "type": %q, "livemode": false, "data": {"object": {%s}}}`, id, kind, object)
	n.send(http.MethodPost, "/in/default/stripe", strings.NewReader(body),
		header("Stripe-Signature", stripeSignature(body))).wantAccepted()
}

// paidSession is a checkout session that was paid, in minor units.
func paidSession(token, intent string, amount int, currency string) string {
	return fmt.Sprintf(`"object": "checkout.session", "id": "cs_of_%s", "payment_status": "paid", "payment_intent": %q,
		"amount_total": %d, "currency": %q, "client_reference_id": %q`, intent, intent, amount, currency, token)
}

// declined is a payment intent whose card was declined; its metadata hold a
// token, or nothing.
func declined(intent, token string) string {
	return fmt.Sprintf(`"object": "payment_intent", "id": %q, "metadata": {"conversation_token": %q}`, intent, token)
}

// order posts an order that names somebody in its reference.
func (n *node) order(id, reference string) {
	n.t.Helper()
	n.hook("/in/default/hook", fmt.Sprintf(`{"id": %q, "type": "order.paid", "data": {"reference": %q}}`, id, reference)).wantAccepted()
}

// newest is the event that came last, with its explanation.
func (n *node) newest() map[string]any {
	n.t.Helper()
	id := n.get("/v1/events?limit=1").data()[0]["id"].(string)
	return n.get("/v1/events/" + id).want(http.StatusOK).object()
}

// looked is one field of an explanation, in short.
type looked struct{ place, as, wait, result string }

func lookedAt(event map[string]any) (out []looked) {
	fields, _ := event["explanation"].(map[string]any)["looked_at"].([]any)
	for _, f := range fields {
		f := f.(map[string]any)
		wait, _ := f["correlation_id"].(string)
		out = append(out, looked{f["place"].(string), f["as"].(string), wait, f["result"].(string)})
	}
	return out
}

// explainCase is one way in which an event comes to its match.
type explainCase struct {
	name        string
	match, rule string
	play        func(n *node) []looked // makes the event, and says what is to be told of its fields
	want        map[string]string      // further fields of the explanation, as JSON
}

func id(w map[string]any) string    { return w["id"].(string) }
func token(w map[string]any) string { return w["token"].(string) }

const (
	reference = "json:data.reference"
	clientRef = "json:data.object.client_reference_id"
	metadata  = "json:data.object.metadata.conversation_token"
)

// explainCases play every match, and every way to be led to a wait.
func explainCases() []explainCase {
	const onHook, onStripe = `{"user_id": "u", "source": "hook", "module_id": 1}`, `{"user_id": "u", "source": "stripe", "module_id": 1}`
	nobody := strings.Repeat("x", relay.TokenLength)
	return []explainCase{
		{name: "by token", match: "matched", rule: "closed", play: func(n *node) []looked {
			w := n.wait(onHook)
			n.order("1", token(w))
			return []looked{{reference, "token", id(w), "matched"}}
		}},
		{name: "by key", match: "matched", rule: "closed", play: func(n *node) []looked {
			w := n.wait(`{"user_id": "u", "source": "hook", "module_id": 1, "key": "order-1042"}`)
			n.order("2", "order-1042")
			return []looked{{reference, "key", id(w), "matched"}}
		}},
		{name: "by reference", match: "matched", rule: "on_the_way", play: func(n *node) []looked {
			w := n.wait(onStripe)
			n.stripe("evt_3", "payment_intent.payment_failed", declined("pi_3", token(w)))
			n.stripe("evt_3b", "payment_intent.payment_failed", declined("pi_3", ""))
			return []looked{{"intent", "reference", id(w), "matched"}}
		}},
		{name: "by token, and what it taught", match: "matched", rule: "closed", play: func(n *node) []looked {
			w := n.wait(onStripe)
			n.stripe("evt_4", "checkout.session.completed", paidSession(token(w), "pi_4", 2050, "eur"))
			return []looked{
				{clientRef, "token", id(w), "matched"},
				{"session", "reference", id(w), "leads to the same wait"},
				{"intent", "reference", id(w), "leads to the same wait"},
			}
		}},
		{name: "first place that names a wait", match: "matched", rule: "closed", play: func(n *node) []looked {
			w := n.wait(onHook)
			n.hook("/in/default/hook", `{"id": "5", "type": "order.paid", "data": {"reference": "`+nobody+`"},
				"metadata": {"conversation_token": "`+token(w)+`"}, "conversation_token": "order-5"}`).wantAccepted()
			return []looked{
				{reference, "token", "", "no pending or closed wait has this token"},
				{"json:metadata.conversation_token", "token", id(w), "matched"},
				{"json:conversation_token", "key", "", "not needed: an earlier field named the wait"},
			}
		}},
		{name: "by the URL", match: "matched", rule: "closed", play: func(n *node) []looked {
			w := n.wait(`{"user_id": "u", "source": "contact", "module_id": 1}`)
			n.send(http.MethodPost, "/in/default/contact/"+token(w), strings.NewReader("name=Ada"),
				header("Content-Type", "application/x-www-form-urlencoded")).wantAccepted()
			return []looked{{"path", "token", id(w), "matched"}}
		}},
		{name: "names nobody", match: "unmatched", rule: "names_nobody", play: func(n *node) []looked {
			n.hook("/in/default/hook", `{"id": "7", "type": "order.paid"}`).wantAccepted()
			return nil
		}},
		{name: "nobody waits", match: "parked", rule: "nobody_waits_yet", play: func(n *node) []looked {
			n.stripe("evt_8", "payment_intent.payment_failed", declined("pi_8", "order-8"))
			return []looked{
				{metadata, "key", "", "no wait of this source has this key"},
				{"intent", "reference", "", "no wait has learned this reference"},
			}
		}},
		{name: "waits elsewhere", match: "parked", rule: "nobody_waits_yet", play: func(n *node) []looked {
			n.order("9", token(n.wait(`{"user_id": "u", "source": "unrelated", "module_id": 1}`)))
			return []looked{{reference, "token", "", "that wait does not listen to this source"}}
		}},
		{name: "waits later", match: "unmatched", rule: "nobody_came", play: func(n *node) []looked {
			n.order("10", "order-10")
			storetest.Exec(n.t, n.database, `DELETE FROM parked_refs`)
			storetest.Exec(n.t, n.database, `UPDATE events SET match = 'unmatched', rule = 'nobody_came' WHERE provider_event_id = '10'`)
			w := n.wait(`{"user_id": "u", "source": "hook", "module_id": 1, "key": "order-10"}`)
			return []looked{{reference, "key", id(w), "leads to this wait, which was registered after the event came"}}
		}},
		{name: "a key that nobody signed", match: "unmatched", rule: "nobody_waits", play: func(n *node) []looked {
			n.wait(`{"user_id": "u", "source": "contact", "module_id": 1, "key": "order-11"}`)
			n.send(http.MethodPost, "/in/default/contact", strings.NewReader("conversation_token=order-11"),
				header("Content-Type", "application/x-www-form-urlencoded")).wantAccepted()
			return []looked{{"form:conversation_token", "token", "", "is no token, and what nobody signed goes by the token alone"}}
		}},
		{name: "references of two waits", match: "ambiguous", rule: "references_differ", play: func(n *node) []looked {
			a, b := n.wait(onStripe), n.wait(`{"user_id": "v", "source": "stripe", "module_id": 1}`)
			n.stripe("evt_12a", "payment_intent.payment_failed", declined("pi_12a", token(a)))
			n.stripe("evt_12b", "payment_intent.payment_failed", declined("pi_12b", token(b)))
			n.stripe("evt_12c", "payment_intent.payment_failed", `"object": "payment_intent", "id": "pi_12a", "payment_intent": "pi_12b"`)
			const result = "leads to this wait, and the event names others"
			return []looked{{"intent", "reference", id(a), result}, {"intent", "reference", id(b), result}}
		}},
		{name: "a reference of two waits", match: "ambiguous", rule: "references_differ", play: func(n *node) []looked {
			a, b := n.wait(onStripe), n.wait(`{"user_id": "v", "source": "stripe", "module_id": 1}`)
			n.stripe("evt_26a", "payment_intent.payment_failed", declined("pi_26", token(a)))
			n.stripe("evt_26b", "payment_intent.payment_failed", declined("pi_26", token(b)))
			n.stripe("evt_26c", "payment_intent.payment_failed", declined("pi_26", ""))
			return []looked{{"intent", "reference", "", "several waits have learned this reference"}}
		}},
		{name: "URL and body of two waits", match: "ambiguous", rule: "url_and_body_differ", play: func(n *node) []looked {
			a := n.wait(`{"user_id": "u", "source": "contact", "module_id": 1}`)
			b := n.wait(`{"user_id": "v", "source": "contact", "module_id": 1}`)
			n.send(http.MethodPost, "/in/default/contact/"+token(a), strings.NewReader("conversation_token="+token(b)),
				header("Content-Type", "application/x-www-form-urlencoded")).wantAccepted()
			const result = "leads to this wait, and the event names others"
			return []looked{{"path", "token", id(a), result}, {"form:conversation_token", "token", id(b), result}}
		}},
		{name: "another project's token", match: "other_project", rule: "token_of_another_project", play: func(n *node) []looked {
			foreign := n.wait(`{"user_id": "u", "source": "hook", "module_id": 1}`, inProject("shop-b"))
			n.order("14", token(foreign))
			if body := string(n.get("/v1/events/" + n.newest()["id"].(string)).Body); strings.Contains(body, id(foreign)) {
				n.t.Errorf("got %s, want nothing of the other project's wait but that it is there", body)
			}
			return []looked{{reference, "token", "", "belongs to another project"}}
		}},
		{
			name: "the filter does not hold", match: "guard_failed", rule: "when", play: func(n *node) []looked {
				w := n.wait(`{"user_id": "u", "source": "hook", "module_id": 1,
					"when": "event.data.shop == \"b\" and correlation.user_id == \"u\" and event.data.list[0] == 7"}`)
				n.hook("/in/default/hook", `{"id": "15", "type": "order.paid", "data": {"shop": "a", "list": [7], "reference": "`+token(w)+`"}}`).wantAccepted()
				return []looked{{reference, "token", id(w), "matched"}}
			},
			want: map[string]string{"when": `{
				"expression": "event.data.shop == \"b\" and correlation.user_id == \"u\" and event.data.list[0] == 7", "undecided": null,
				"saw": [{"name": "event.data.shop", "value": "a"}, {"name": "correlation.user_id", "value": "u"}, {"name": "event.data.list[0]", "value": 7}]}`},
		},
		{
			name: "the filter cannot be decided", match: "guard_failed", rule: "when", play: func(n *node) []looked {
				w := n.wait(`{"user_id": "u", "source": "hook", "module_id": 1, "when": "event.data.agreed"}`)
				n.order("16", token(w))
				return []looked{{reference, "token", id(w), "matched"}}
			},
			want: map[string]string{"when": `{
				"expression": "event.data.agreed", "saw": [{"name": "event.data.agreed", "value": null}],
				"undecided": "condition \"event.data.agreed\" gives null, neither true nor false"}`},
		},
		{
			name: "not what was expected", match: "matched", rule: "on_the_way", play: func(n *node) []looked {
				w := n.wait(`{"user_id": "u", "source": "stripe", "module_id": 1, "expect": {"currency": "EUR", "amount": 20.5, "live": false}}`)
				n.stripe("evt_17", "checkout.session.completed", paidSession(token(w), "pi_17", 2000, "usd"))
				return []looked{
					{clientRef, "token", id(w), "matched"},
					{"session", "reference", id(w), "leads to the same wait"},
					{"intent", "reference", id(w), "leads to the same wait"},
				}
			},
			want: map[string]string{"when": `null`, "expect": `[
				{"field": "payment.currency", "expected": "EUR", "seen": "USD"}, {"field": "payment.amount", "expected": 20.5, "seen": 20}]`},
		},
		{name: "the same event", match: "duplicate", rule: "same_event", play: func(n *node) []looked {
			w := n.wait(onHook)
			n.order("18", token(w))
			n.order("18", token(w))
			return []looked{{reference, "token", "", "not looked up: the event had come before, by the id 18"}}
		}},
		{name: "closed already", match: "duplicate", rule: "already_closed", play: func(n *node) []looked {
			w := n.wait(onHook)
			n.order("19", token(w))
			n.order("19b", token(w))
			return []looked{{reference, "token", id(w), "matched"}}
		}},
		{name: "a type that means nothing", match: "ignored", rule: "type_ignored", play: func(n *node) []looked {
			n.hook("/in/default/hook", `{"id": "20", "type": "order.viewed", "data": {"reference": "`+token(n.wait(onHook))+`"}}`).wantAccepted()
			return []looked{{reference, "token", "", "not looked up: the event's type means nothing to a wait"}}
		}},
		{
			name: "a body that cannot be read", match: "ignored", rule: "unreadable", play: func(n *node) []looked {
				n.hook("/in/default/hook", `{"id": "21`).want(http.StatusBadRequest)
				return nil
			},
			want: map[string]string{"unread": `"its body cannot be read: not_json"`},
		},
		{
			name: "a forgery", match: "unmatched", rule: "rejected", play: func(n *node) []looked {
				n.hook("/in/default/hook", `{"id": "22", "data": {"reference": "`+token(n.wait(onHook))+`"}}`,
					header("X-Signature", sign("another secret", ""))).want(http.StatusUnauthorized)
				return nil
			},
			want: map[string]string{"unread": `"nothing is looked up by what is not genuine"`},
		},
		{name: "late", match: "late", rule: "completed_late", play: func(n *node) []looked {
			w := n.wait(onHook)
			n.post("/v1/correlations/"+id(w)+"/cancel", `{"silent": true}`).want(http.StatusOK)
			n.order("23", token(w))
			return []looked{{reference, "token", id(w), "matched"}}
		}},
		{name: "paid again", match: "paid_again", rule: "other_payment", play: func(n *node) []looked {
			w := n.wait(onStripe)
			n.stripe("evt_24", "payment_intent.succeeded", declined("pi_24", token(w)))
			n.stripe("evt_24b", "payment_intent.succeeded", declined("pi_24b", token(w)))
			return []looked{{metadata, "token", id(w), "matched"}, {"intent", "reference", id(w), "leads to the same wait"}}
		}},
		{
			name: "bytes that were cleared", match: "matched", rule: "closed", play: func(n *node) []looked {
				n.order("25", token(n.wait(onHook)))
				storetest.Exec(n.t, n.database, `UPDATE events SET body = NULL WHERE provider_event_id = '25'`)
				return nil
			},
			want: map[string]string{"unread": `"its bytes are not kept any more, or were too many to keep"`},
		},
	}
}

// TestExplain holds the explanation of each match against events that really
// came.
func TestExplain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/projects/shop-b", "").want(http.StatusOK)
	n.configure("shop-b")
	told := map[any]bool{}
	for _, c := range explainCases() {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			want := c.play(n)
			got := n.newest()
			why := got["explanation"].(map[string]any)
			if got["match"] != c.match || got["rule"] != c.rule || why["rule"] != c.rule {
				t.Fatalf("got %v by %v, explained as %v, want %s by %s", got["match"], got["rule"], why["rule"], c.match, c.rule)
			}
			told[got["match"]] = true
			if why["detail"] != relay.Why(c.rule) || why["detail"] == "" {
				t.Errorf("got the detail %v, want the sentence of the rule", why["detail"])
			}
			if diff := cmp.Diff(want, lookedAt(got), cmp.AllowUnexported(looked{})); diff != "" {
				t.Errorf("looked_at (-want +got):\n%s", diff)
			}
			for _, field := range []string{"unread", "when", "expect"} {
				if diff := cmp.Diff(parsed(t, c.want[field]), why[field]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", field, diff)
				}
			}
		})
	}
	for _, match := range []string{
		"matched", "late", "paid_again", "duplicate", "ignored", "guard_failed", "ambiguous", "other_project", "unmatched",
	} {
		if !told[match] {
			t.Errorf("got no explanation of %s, want one of each match", match)
		}
	}
}

// parsed reads JSON; nothing is null.
func parsed(t *testing.T, text string) (v any) {
	t.Helper()
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// What an event did not find when it came is told as what it is today, and
// what nobody signed is not looked up by a reference at all.
func TestExplainReferences(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/sources/open", `{"provider": {
		"name": "open", "auth": {"alg": "none"}, "id": "{json:id}", "outcome": [{"is": "completed"}],
		"correlation": ["json:token"], "references": [{"kind": "order", "from": "{json:order}"}]}}`).want(http.StatusOK)
	w := n.wait(`{"user_id": "u", "source": "stripe", "module_id": 1}`)
	n.stripe("evt_1", "payment_intent.payment_failed", declined("pi_1", ""))
	early := "/v1/events/" + id(n.newest())
	n.stripe("evt_2", "payment_intent.payment_failed", declined("pi_1", token(w)))
	want := []looked{{"intent", "reference", id(w), "leads to this wait today, and did not when the event came"}}
	if diff := cmp.Diff(want, lookedAt(n.get(early).object()), cmp.AllowUnexported(looked{})); diff != "" {
		t.Errorf("before the wait had learned the reference: looked_at (-want +got):\n%s", diff)
	}
	n.send(http.MethodPost, "/in/default/open", strings.NewReader(`{"id": "3", "order": "o-1"}`), header("Content-Type", "application/json")).wantAccepted()
	want = []looked{{"order", "reference", "", "what nobody signed goes by the token alone"}}
	if diff := cmp.Diff(want, lookedAt(n.newest()), cmp.AllowUnexported(looked{})); diff != "" {
		t.Errorf("unsigned: looked_at (-want +got):\n%s", diff)
	}
}

// An event is explained to its own project alone, whatever it names.
func TestExplainOtherProject(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/projects/shop-b", "").want(http.StatusOK)
	n.configure("shop-b")
	w := n.wait(`{"user_id": "u", "source": "hook", "module_id": 1, "key": "order-1"}`)
	n.order("1", token(w))
	path := "/v1/events/" + n.newest()["id"].(string)
	n.get(path, inProject("shop-b")).refused(http.StatusNotFound, "not_found")
	// The same key at the source of the same name is another key.
	n.hook("/in/shop-b/hook", `{"id": "2", "type": "order.paid", "data": {"reference": "order-1"}}`).wantAccepted()
	events := n.get("/v1/events", inProject("shop-b")).data()
	if len(events) != 1 {
		t.Fatalf("got %d events of shop-b, want the one that it was sent", len(events))
	}
	got := n.get("/v1/events/"+events[0]["id"].(string), inProject("shop-b")).object()
	want := []looked{{reference, "key", "", "no wait of this source has this key"}}
	if diff := cmp.Diff(want, lookedAt(got), cmp.AllowUnexported(looked{})); diff != "" {
		t.Errorf("looked_at (-want +got):\n%s", diff)
	}
}

// Of a body that holds several events each is explained by its own fields.
func TestExplainBatch(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.put("/v1/sources/batch", `{"secret": "batch-secret-of-the-tests", "provider": {
		"name": "batch", "auth": {"alg": "hmac-sha256", "sig": {"from": "header:X-Signature"}, "enc": "hex", "message": "{body}"},
		"each": "events[*]", "id": "{item:id}", "type": "{item:type}", "outcome": [{"is": "completed"}], "correlation": ["item:token"]}}`).want(http.StatusOK)
	w := n.wait(`{"user_id": "u", "source": "batch", "module_id": 1}`)
	body := `{"events": [{"id": "1", "type": "a", "token": "order-1"}, {"id": "2", "type": "a", "token": "` + token(w) + `"}, {"type": "b"}, {"type": "b", "token": "x"}]}`
	n.hook("/in/default/batch", body, header("X-Signature", sign("batch-secret-of-the-tests", body))).wantAccepted()
	got := map[string]int{}
	for _, e := range n.get("/v1/events").data() {
		for _, l := range lookedAt(n.get("/v1/events/" + id(e)).object()) {
			got[fmt.Sprint(e["provider_event_id"], l)]++
		}
	}
	want := map[string]int{
		fmt.Sprint("1", looked{"item:token", "key", "", "no wait of this source has this key"}): 1,
		fmt.Sprint("2", looked{"item:token", "token", id(w), "matched"}):                        1,
		fmt.Sprint(nil, looked{"item:token", "key", "", "no wait of this source has this key"}): 1, // without an id: by its place in the body
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("looked_at by event (-want +got):\n%s", diff)
	}
}
