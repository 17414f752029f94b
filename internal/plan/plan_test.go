package plan_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
)

// bot is the id of the only destination there is.
const bot = 1

func platforms(id int64) *platform.Platform {
	if id != bot {
		return nil
	}
	p, _ := platform.Lookup("certainly")
	return p
}

func on(name string, a relay.Action) map[string]relay.Action {
	a.DestinationID = bot
	return map[string]relay.Action{name: a}
}

func check(t *testing.T, p relay.Plan) *plan.Plan {
	t.Helper()
	for name, a := range p.On {
		a.DestinationID = bot
		p.On[name] = a
	}
	compiled, err := plan.Check(&p, platforms)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		plan   relay.Plan
		code   string
		detail string // how the refusal begins
	}{
		{"no such outcome", relay.Plan{On: on("succeeded", relay.Action{ModuleID: 1.0})}, "unknown_outcome", "on.succeeded: "},
		{"superseded is no outcome", relay.Plan{On: on("superseded", relay.Action{ModuleID: 1.0})}, "unknown_outcome", "on.superseded: "},
		{"no such destination", relay.Plan{On: map[string]relay.Action{"failed": {ModuleID: 1.0, DestinationID: 9}}}, "unknown_destination", "on.failed: "},
		{"no such action", relay.Plan{On: on("failed", relay.Action{Action: "trigger"})}, "action_unknown", "on.failed: "},
		{"a text with a module", relay.Plan{On: on("failed", relay.Action{ModuleID: 1.0, Text: "x"})}, "field_unusable", "on.failed: "},
		{"nothing to do", relay.Plan{On: on("failed", relay.Action{})}, "text_required", "on.failed: "},
		{"none with something to do", relay.Plan{On: on("failed", relay.Action{Action: "none", Text: "x"})}, "field_unusable", "on.failed: "},
		{"module_id", relay.Plan{On: on("failed", relay.Action{ModuleID: "five"})}, "module_id_invalid", "on.failed: "},
		{"wait_time", relay.Plan{On: on("failed", relay.Action{ModuleID: 1.0, WaitTime: -1.0})}, "wait_time_invalid", "on.failed: "},
		{"variable's name", relay.Plan{On: on("failed", relay.Action{ModuleID: 1.0, CustomVars: map[string]any{"a-b": 1.0}})}, "custom_vars_invalid", "on.failed: "},
		{
			"variable's name in the flow",
			relay.Plan{On: on("failed", relay.Action{ModuleID: 1.0}), CustomVars: map[string]any{"a b": 1.0}},
			"custom_vars_invalid", "on.failed: ",
		},
		{"expression in module_id", relay.Plan{On: on("failed", relay.Action{ModuleID: "{{ nobody }}"})}, "expression_invalid", "on.failed: module_id: "},
		{"expression in wait_time", relay.Plan{On: on("failed", relay.Action{ModuleID: 1.0, WaitTime: "{{ 1 + }}"})}, "expression_invalid", "on.failed: wait_time: "},
		{
			"expression in custom_vars",
			relay.Plan{On: on("failed", relay.Action{ModuleID: 1.0, CustomVars: map[string]any{"a": []any{"{{ payment.amuont }}"}}})},
			"expression_invalid", "on.failed: custom_vars: a.0: ",
		},
		{"expression in text", relay.Plan{On: on("failed", relay.Action{Text: "Hello {{ name"})}, "expression_invalid", "on.failed: text: "},
		{"expression in link", relay.Plan{Link: map[string]string{"s": "https://a.example/{{ x }}"}}, "expression_invalid", "link: "},
		{"when", relay.Plan{When: "payment.methd == 'card'"}, "expression_invalid", "when: "},
		{"when in braces", relay.Plan{When: "{{ true }}"}, "expression_invalid", "when: "},
		{"when is no condition", relay.Plan{When: "outcome"}, "expression_invalid", "when: "},
		{"expect.currency", relay.Plan{Expect: &relay.Expect{Currency: "Euro"}}, "invalid_expect", "expect.currency: "},
		{"expect.amount, a word", relay.Plan{Expect: &relay.Expect{Amount: "twenty"}}, "invalid_expect", "expect.amount: "},
		{"expect.amount, a comma", relay.Plan{Expect: &relay.Expect{Amount: "20,50"}}, "invalid_expect", "expect.amount: "},
		{"expect.amount, a flag", relay.Plan{Expect: &relay.Expect{Amount: true}}, "invalid_expect", "expect.amount: "},
		{"expect.amount, an expression", relay.Plan{Expect: &relay.Expect{Amount: "{{ price }}"}}, "expression_invalid", "expect.amount: "},
		{"expect.account, an expression", relay.Plan{Expect: &relay.Expect{Account: "{{ shop }}"}}, "expression_invalid", "expect.account: "},
		{"expect.currency, an expression", relay.Plan{Expect: &relay.Expect{Currency: "{{ money }}"}}, "expression_invalid", "expect.currency: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := plan.Check(&test.plan, platforms)
			var got *relay.Error
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want a refusal %s", err, test.code)
			}
			if got.Kind != relay.Invalid || got.Code != test.code || !strings.HasPrefix(got.Detail, test.detail) {
				t.Errorf("got %s: %s, want %s: %s…", got.Code, got.Detail, test.code, test.detail)
			}
		})
	}
}

func TestCheckNamesTheCall(t *testing.T) {
	t.Parallel()
	p := check(t, relay.Plan{On: map[string]relay.Action{
		"completed": {ModuleID: 1.0}, "failed": {Text: "no"}, "expired": {Action: relay.NoAction},
		"cancelled": {Action: relay.TriggerResponse, CustomVars: map[string]any{"a": 1.0}},
	}})
	for name, want := range map[string]string{
		"completed": relay.TriggerResponse, "failed": relay.TriggerMessage, "expired": relay.NoAction, "cancelled": relay.TriggerResponse,
	} {
		if got := p.On[name].Action; got != want {
			t.Errorf("on.%s: got %q, want %q", name, got, want)
		}
	}
}

// TestTextsNeedNoFlowVariables holds that a flow's variables, whatever their
// names, are nothing to an action that sends none.
func TestTextsNeedNoFlowVariables(t *testing.T) {
	t.Parallel()
	check(t, relay.Plan{On: map[string]relay.Action{"failed": {Text: "no"}}, CustomVars: map[string]any{"ok": 1.0}})
}

func TestCheckVars(t *testing.T) {
	t.Parallel()
	p := check(t, relay.Plan{On: map[string]relay.Action{"completed": {ModuleID: 1.0}, "failed": {Text: "x"}}})
	if err := p.CheckVars(map[string]any{"plan": "pro", "n": "{{ payment.amount }}"}, platforms); err != nil {
		t.Errorf("good variables: %v", err)
	}
	for name, vars := range map[string]map[string]any{
		"a name": {"not-a-name": 1.0}, "an expression": {"a": "{{ nobody }}"}, "a deep expression": {"a": []any{"{{ }}"}},
	} {
		if err := p.CheckVars(vars, platforms); !relay.IsKind(err, relay.Invalid) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	texts := check(t, relay.Plan{On: map[string]relay.Action{"failed": {Text: "x"}}})
	if err := texts.CheckVars(map[string]any{"not-a-name": 1.0}, platforms); err != nil {
		t.Errorf("where no action sends variables: got %v, want none", err)
	}
}

func paid(minor int64, currency string) *relay.Payment {
	live := true
	return &relay.Payment{
		ID: "pi_1", AmountMinor: &minor, Currency: currency, Exponent: relay.CurrencyExponent(currency),
		Method: "card", Live: &live, Account: "acct_1",
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	const ok, differs = relay.Completed, relay.Mismatch
	eur := paid(2050, "EUR")
	unknown := &relay.Payment{Currency: "EUR", Exponent: 2}
	for _, test := range []struct {
		name    string
		expect  *relay.Expect
		payment *relay.Payment
		want    relay.Outcome
	}{
		{"nothing expected", nil, eur, ok},
		{"nothing expected, no payment", nil, nil, ok},
		{"a payment expected, a form came", &relay.Expect{}, nil, differs},
		{"any payment", &relay.Expect{}, eur, ok},
		{"currency", &relay.Expect{Currency: "EUR"}, eur, ok},
		{"currency in small letters", &relay.Expect{Currency: "eur"}, eur, ok},
		{"another currency", &relay.Expect{Currency: "USD"}, eur, differs},
		{"no currency came", &relay.Expect{Currency: "EUR"}, &relay.Payment{}, differs},
		{"account", &relay.Expect{Account: "acct_1"}, eur, ok},
		{"another account", &relay.Expect{Account: "acct_2"}, eur, differs},
		{"an account in other letters", &relay.Expect{Account: "ACCT_1"}, eur, differs},
		{"account by expression", &relay.Expect{Account: "{{ correlation.data.shop }}"}, eur, ok},
		{"another account by expression", &relay.Expect{Account: "{{ correlation.user_id }}"}, eur, differs},
		{"an account without a value", &relay.Expect{Account: "{{ correlation.locale }}"}, &relay.Payment{}, differs},
		{"currency by expression", &relay.Expect{Currency: "{{ correlation.data.currency }}"}, eur, ok},
		{"live", &relay.Expect{Live: &yes}, eur, ok},
		{"a test payment expected", &relay.Expect{Live: &no}, eur, differs},
		{"live unknown", &relay.Expect{Live: &yes}, unknown, differs},
		{"not live, unknown", &relay.Expect{Live: &no}, unknown, differs},
		{"amount as a number", &relay.Expect{Amount: 20.5}, eur, ok},
		{"amount as text", &relay.Expect{Amount: "20.50"}, eur, ok},
		{"amount as short text", &relay.Expect{Amount: "20.5"}, eur, ok},
		{"amount as text with blanks", &relay.Expect{Amount: " 20.50 "}, eur, ok},
		{"amount by expression, a number", &relay.Expect{Amount: "{{ correlation.data.price }}"}, eur, ok},
		{"amount by expression, a text", &relay.Expect{Amount: "{{ correlation.data.price_text }}"}, eur, ok},
		{"amount by expression, a sum", &relay.Expect{Amount: "{{ correlation.data.price + 1 }}"}, eur, differs},
		{"amount by expression without a value", &relay.Expect{Amount: "{{ correlation.data.nothing }}"}, eur, differs},
		{"a cent less", &relay.Expect{Amount: 20.51}, eur, differs},
		{"a fraction of a cent", &relay.Expect{Amount: "20.505"}, eur, differs},
		{"minor units by mistake", &relay.Expect{Amount: 2050.0}, eur, differs},
		{"0.1 and 0.2 are no trap", &relay.Expect{Amount: 0.29}, paid(29, "EUR"), ok},
		{"no amount came", &relay.Expect{Amount: 20.5}, unknown, differs},
		{"nothing is not zero", &relay.Expect{Amount: 0.0}, unknown, differs},
		{"zero", &relay.Expect{Amount: 0.0}, paid(0, "EUR"), ok},
		{"yen", &relay.Expect{Amount: 2050.0, Currency: "JPY"}, paid(2050, "JPY"), ok},
		{"yen, a fraction", &relay.Expect{Amount: 20.5}, paid(2050, "JPY"), differs},
		{"dinar", &relay.Expect{Amount: "2.05"}, paid(2050, "BHD"), ok},
		{"all of it", &relay.Expect{Amount: 20.5, Currency: "EUR", Account: "acct_1", Live: &yes}, eur, ok},
		{"all of it but one", &relay.Expect{Amount: 20.5, Currency: "EUR", Account: "acct_1", Live: &no}, eur, differs},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := check(t, relay.Plan{Expect: test.expect})
			w := relay.Wait{UserID: "u-1", Data: []byte(`{"price": 20.5, "price_text": "20.50", "shop": "acct_1", "currency": "EUR"}`)}
			scope := func(o relay.Outcome) *mapping.Scope {
				return plan.ScopeOf(&w, o, test.payment, nil, relay.FormatJSON, nil)
			}
			if got, holds := p.Judge(relay.Completed, scope(relay.Completed)); got != test.want || !holds {
				t.Errorf("got %s, %v, want %s", got, holds, test.want)
			}
			for _, other := range []relay.Outcome{relay.Failed, relay.Processing, relay.Refunded} {
				if got, holds := p.Judge(other, scope(other)); got != other || !holds {
					t.Errorf("%s: got %s, %v, want it untouched: only a success is held against expectations", other, got, holds)
				}
			}
		})
	}
}

func TestExpectations(t *testing.T) {
	t.Parallel()
	yes := true
	for _, test := range []struct {
		name    string
		expect  *relay.Expect
		payment *relay.Payment
		want    []plan.Expectation
	}{
		{"nothing expected", nil, nil, nil},
		{"no payment", &relay.Expect{}, nil, []plan.Expectation{{Field: "payment", Expected: "a payment"}}},
		{"all met", &relay.Expect{Currency: "eur", Live: &yes}, paid(2050, "EUR"), []plan.Expectation{
			{Field: "payment.currency", Expected: "eur", Seen: "EUR", Met: true}, {Field: "payment.live", Expected: true, Seen: true, Met: true},
		}},
		{"none met", &relay.Expect{Currency: "EUR", Account: "{{ correlation.locale }}", Live: &yes, Amount: "20.50"}, &relay.Payment{Exponent: 2}, []plan.Expectation{
			{Field: "payment.currency", Expected: "EUR"},
			{Field: "payment.account"},
			{Field: "payment.live", Expected: true},
			{Field: "payment.amount", Expected: "20.50"},
		}},
		{"another amount", &relay.Expect{Amount: 20.5}, paid(2000, "EUR"), []plan.Expectation{{Field: "payment.amount", Expected: 20.5, Seen: 20.0}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := check(t, relay.Plan{Expect: test.expect})
			scope := plan.ScopeOf(&relay.Wait{}, relay.Completed, test.payment, nil, relay.FormatJSON, nil)
			if diff := cmp.Diff(test.want, p.Expectations(scope)); diff != "" {
				t.Errorf("expectations (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJudgeWhen(t *testing.T) {
	t.Parallel()
	for when, want := range map[string]bool{
		"":                                     true,
		"true":                                 true,
		"false":                                false,
		`payment.method != "voucher"`:          true,
		`payment.method == "voucher"`:          false,
		`payment.amount > 20`:                  true,
		`payment.email == "a@b.example"`:       false,
		`payment.fraction > 1 || true`:         false, // refused below: there is no such field
		`form.email > 5`:                       false, // cannot be decided
		`event.kind == "deposit"`:              true,
		`event.nothing == "deposit"`:           false,
		`event.nothing`:                        false, // null is neither
		`correlation.custom_vars.plan=="pro"`:  true,
		`outcome == "completed"`:               true,
		`correlation.conversation == "u-1"`:    true,
		`correlation.data.tags[0] == "urgent"`: true,
	} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			doc := relay.Plan{When: when}
			p, err := plan.Check(&doc, platforms)
			if strings.Contains(when, "fraction") {
				if !relay.IsKind(err, relay.Invalid) {
					t.Errorf("got %v, want a refusal", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			w := relay.Wait{UserID: "u-1", CustomVars: []byte(`{"plan":"pro"}`), Data: []byte(`{"tags":["urgent"]}`)}
			s := plan.ScopeOf(&w, relay.Completed, paid(2050, "EUR"), nil, relay.FormatJSON, []byte(`{"kind":"deposit"}`))
			if got, holds := p.Judge(relay.Completed, s); holds != want || got != relay.Completed {
				t.Errorf("got %s, %v, want %v", got, holds, want)
			}
			if got := p.UsesEvent(); got != strings.Contains(when, "event.") {
				t.Errorf("UsesEvent: got %v", got)
			}
		})
	}
}

// TestWhenGoesBeforeExpect holds that what the filter does not let through is
// no mismatch either.
func TestWhenGoesBeforeExpect(t *testing.T) {
	t.Parallel()
	p := check(t, relay.Plan{When: "payment.method == 'voucher'", Expect: &relay.Expect{Currency: "USD"}})
	s := plan.ScopeOf(&relay.Wait{}, relay.Completed, paid(1, "EUR"), nil, relay.FormatJSON, nil)
	if got, holds := p.Judge(relay.Completed, s); holds || got != relay.Completed {
		t.Errorf("got %s, %v, want completed, false", got, holds)
	}
}

func TestRenderMergesVariables(t *testing.T) {
	t.Parallel()
	p := check(t, relay.Plan{
		CustomVars: map[string]any{"a": "flow", "b": "flow", "c": "flow", "d": "{{ correlation.user_id }}"},
		On: map[string]relay.Action{"completed": {
			ModuleID: "{{ correlation.data.module }}", WaitTime: "{{ 1 + 1 }}", CustomVars: map[string]any{"c": "action", "e": nil},
		}},
	})
	w := relay.Wait{UserID: "u-1", Data: []byte(`{"module": 77}`), CustomVars: []byte(`{"b":"wait","c":"wait","e":"wait","f":"{{ payment.amount_text }}"}`)}
	s := plan.ScopeOf(&w, relay.Completed, paid(2050, "EUR"), nil, relay.FormatJSON, nil)
	call, notes, err := p.Render("completed", s, plan.WaitVars(&w), platforms(1))
	if err != nil {
		t.Fatal(err)
	}
	want := platform.Call{
		Action: relay.TriggerResponse, ModuleID: int64(77), WaitTime: int64(2), Headers: map[string]string{},
		CustomVars: map[string]any{"a": "flow", "b": "wait", "c": "action", "d": "u-1", "e": nil, "f": "20.50"},
	}
	if diff := cmp.Diff(want, call); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(notes) != 0 {
		t.Errorf("got the notes %v, want none: nothing is missing", notes)
	}
	// Rendered again it is the same, and the plan is as it was.
	again, _, err := p.Render("completed", s, nil, platforms(1))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"a": "flow", "b": "flow", "c": "action", "d": "u-1", "e": nil}, again.CustomVars); diff != "" {
		t.Errorf("without the wait's variables (-want +got):\n%s", diff)
	}
}

func TestRenderNotesWhatIsMissing(t *testing.T) {
	t.Parallel()
	p := check(t, relay.Plan{On: map[string]relay.Action{
		"completed": {ModuleID: 1.0, CustomVars: map[string]any{"who": "{{ payment.email }}", "n": "{{ payment.amount / 0 }}"}},
		"failed":    {Text: "Dear {{ form.name }}, no."},
	}})
	w := relay.Wait{UserID: "u-1"}
	s := plan.ScopeOf(&w, relay.Completed, paid(2050, "EUR"), nil, relay.FormatJSON, nil)
	call, notes, err := p.Render("completed", s, nil, platforms(1))
	if err != nil {
		t.Fatal(err)
	}
	if call.CustomVars["who"] != nil || call.CustomVars["n"] != nil {
		t.Errorf("got %v, want null for what has no value", call.CustomVars)
	}
	if len(notes) != 2 || notes[0].Expression != "payment.amount / 0" || notes[1].Expression != "payment.email" {
		t.Errorf("got the notes %+v, want one per expression without a value", notes)
	}
	call, notes, err = p.Render("failed", s, nil, platforms(1))
	if err != nil || call.Text != "Dear , no." || len(notes) != 1 || call.Action != relay.TriggerMessage {
		t.Errorf("got %+v, notes %v, %v, want the text without the name", call, notes, err)
	}
	if _, _, err := p.Render("expired", s, nil, platforms(1)); err == nil {
		t.Error("an action that the plan has not: got no error")
	}
	if _, _, err := p.Render("completed", s, map[string]any{"x": "{{ nobody }}"}, platforms(1)); !relay.IsKind(err, relay.Invalid) {
		t.Errorf("a wait's variable that does not compile: got %v, want a refusal", err)
	}
}

func TestRenderBodyAndHeaders(t *testing.T) {
	t.Parallel()
	// No platform here takes them, so they are compiled without a check.
	doc := relay.Plan{On: map[string]relay.Action{"completed": {
		Action: relay.CallWebhook, Body: map[string]any{"paid": "{{ payment.amount }}", "raw": "{{ event.n }}"},
		Headers: map[string]string{"X-User": "{{ correlation.user_id }}", "X-None": "{{ payment.email }}"},
	}}}
	p, err := plan.Compile(&doc)
	if err != nil {
		t.Fatal(err)
	}
	if !p.UsesEvent() {
		t.Error("UsesEvent: got false, want true: the body looks at the event")
	}
	w := relay.Wait{UserID: "u-1"}
	call, _, err := p.Render("completed", plan.ScopeOf(&w, relay.Completed, paid(2050, "EUR"), nil, relay.FormatJSON, []byte(`{"n":7}`)), nil, platforms(1))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(any(map[string]any{"paid": 20.5, "raw": int64(7)}), call.Body); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"X-User": "u-1", "X-None": ""}, call.Headers); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestUsesEvent(t *testing.T) {
	t.Parallel()
	const e = "{{ event.a }}"
	for name, doc := range map[string]relay.Plan{
		"module_id": {On: on("failed", relay.Action{ModuleID: e})}, "wait_time": {On: on("failed", relay.Action{ModuleID: 1.0, WaitTime: e})},
		"custom_vars": {On: on("failed", relay.Action{ModuleID: 1.0, CustomVars: map[string]any{"a": e}})},
		"flow's":      {On: on("failed", relay.Action{ModuleID: 1.0}), CustomVars: map[string]any{"a": e}},
		"text":        {On: on("failed", relay.Action{Text: e})}, "when": {When: "event.a == 1"},
		"amount": {Expect: &relay.Expect{Amount: e}}, "account": {Expect: &relay.Expect{Account: e}}, "currency": {Expect: &relay.Expect{Currency: e}},
	} {
		p, err := plan.Check(&doc, platforms)
		if err != nil || !p.UsesEvent() {
			t.Errorf("%s: got an error %v or false, want true", name, err)
		}
	}
	if p := check(t, relay.Plan{On: on("failed", relay.Action{Text: "{{ outcome }}"}), When: "true"}); p.UsesEvent() {
		t.Error("nothing looks at the event: got true, want false")
	}
}

func TestLinkOf(t *testing.T) {
	t.Parallel()
	p := check(t, relay.Plan{Link: map[string]string{
		"stripe": "https://buy.example/{{ correlation.data.plan }}?e={{ correlation.locale }}", "form": "https://f.example",
	}})
	s := plan.ScopeOf(&relay.Wait{Data: []byte(`{"plan":"pro"}`)}, "", nil, nil, relay.FormatJSON, nil)
	if got, ok := p.LinkOf("stripe", s); !ok || got != "https://buy.example/pro?e=" {
		t.Errorf("got %q, %v, want the link with its values", got, ok)
	}
	if got, ok := p.LinkOf("paypal", s); ok {
		t.Errorf("a source without a link: got %q, want none", got)
	}
}

func TestDelivery(t *testing.T) {
	t.Parallel()
	p := check(t, relay.Plan{
		RetryFor: relay.Duration(time.Hour), ProcessingFor: relay.Duration(time.Minute),
		On: map[string]relay.Action{"default": {ModuleID: 1.0}, "failed": {Action: relay.NoAction}},
	})
	w := relay.Wait{ID: relay.NewID(), ProjectID: 7, Status: relay.StatusExpired}
	got := p.Delivery(&w, relay.Step{Fires: relay.Expired, Action: "expired"})
	if got == nil {
		t.Fatal("got no delivery for an outcome that the default serves")
	}
	want := &relay.Delivery{
		ID: got.ID, ProjectID: 7, DestinationID: bot, Outcome: relay.Expired, Action: "default", RetryFor: time.Hour, Wait: w,
	}
	if diff := cmp.Diff(want, got); diff != "" || got.ID == uuid.Nil {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, step := range map[string]relay.Step{
		"fires nothing": {}, "none": {Fires: relay.Failed, Action: "failed"}, "no action": {Fires: relay.Refunded, Action: "refunded"},
	} {
		if d := p.Delivery(&w, step); d != nil {
			t.Errorf("%s: got a delivery of %q, want none", name, d.Action)
		}
	}
	if got := p.ProcessingFor(); got != time.Minute {
		t.Errorf("ProcessingFor: got %s, want 1m", got)
	}
	if bare := check(t, relay.Plan{}); bare.RetryFor() != 6*time.Hour || bare.ProcessingFor() != 72*time.Hour {
		t.Errorf("defaults: got %s and %s, want 6h and 72h", bare.RetryFor(), bare.ProcessingFor())
	}
}

func TestScopeOf(t *testing.T) {
	t.Parallel()
	w := relay.Wait{UserID: "u-1", Data: []byte(`{"n":9007199254740993}`), CustomVars: []byte(`null`)}
	s := plan.ScopeOf(&w, relay.Completed, nil, map[string]any{"a": "b"}, relay.FormatForm, []byte("a=b"))
	if s.Correlation.Conversation != "u-1" {
		t.Errorf("conversation: got %q, want the user's id where none is given", s.Correlation.Conversation)
	}
	if diff := cmp.Diff(any(map[string]any{"n": int64(9007199254740993)}), s.Correlation.Data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	w.Conversation = "c-1"
	if got := plan.ScopeOf(&w, "", nil, nil, "", nil).Correlation.Conversation; got != "c-1" {
		t.Errorf("conversation: got %q, want the one that was given", got)
	}
	if vars := plan.WaitVars(&w); vars != nil {
		t.Errorf("null variables: got %v, want none", vars)
	}
}

// TestReadBack holds that a plan that was checked compiles again from its
// stored form, to the same calls.
func TestReadBack(t *testing.T) {
	t.Parallel()
	doc := relay.Plan{
		CustomVars: map[string]any{"a": 1.0}, Expect: &relay.Expect{Amount: 20.5, Currency: "EUR"}, When: "payment.amount > 1",
		On: on("completed", relay.Action{ModuleID: 12.0, CustomVars: map[string]any{"b": "{{ payment.amount }}"}}),
	}
	first, err := plan.Check(&doc, platforms)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := doc.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	var stored relay.Plan
	if err := json.Unmarshal(raw, &stored); err != nil {
		t.Fatal(err)
	}
	second, err := plan.Compile(&stored)
	if err != nil {
		t.Fatal(err)
	}
	var calls []platform.Call
	for _, p := range []*plan.Plan{first, second} {
		s := plan.ScopeOf(&relay.Wait{}, relay.Completed, paid(2050, "EUR"), nil, relay.FormatJSON, nil)
		if o, holds := p.Judge(relay.Completed, s); o != relay.Completed || !holds {
			t.Errorf("got %s, %v, want completed", o, holds)
		}
		call, _, err := p.Render("completed", s, nil, platforms(1))
		if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, call)
	}
	if diff := cmp.Diff(calls[0], calls[1]); diff != "" {
		t.Errorf("the call of the stored plan differs (-first +stored):\n%s", diff)
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	var loads atomic.Int64
	broken, gone := uuid.New(), uuid.New()
	lost := errors.New("no such plan")
	c := plan.NewCache(func(_ context.Context, id uuid.UUID) (*relay.Plan, error) {
		loads.Add(1)
		switch id {
		case gone:
			return nil, lost
		case broken:
			return &relay.Plan{When: "(("}, nil
		}
		return &relay.Plan{ReturnURL: id.String()}, nil
	})
	id := uuid.New()
	for range 3 {
		p, err := c.Get(t.Context(), id)
		if err != nil || p.ReturnURL != id.String() {
			t.Fatalf("got %+v, %v, want the plan of %s", p, err, id)
		}
	}
	if got := loads.Load(); got != 1 {
		t.Errorf("read %d times, want once", got)
	}
	for range 2 {
		if _, err := c.Get(t.Context(), gone); !errors.Is(err, lost) {
			t.Errorf("got %v, want the error of reading", err)
		}
		if _, err := c.Get(t.Context(), broken); !relay.IsKind(err, relay.Invalid) {
			t.Errorf("got %v, want the error of compiling", err)
		}
	}
	if got := loads.Load(); got != 5 {
		t.Errorf("read %d times, want 5: failures are not kept", got)
	}
	mine := check(t, relay.Plan{ReturnURL: "mine"})
	other := uuid.New()
	c.Put(other, mine)
	if p, err := c.Get(t.Context(), other); err != nil || p != mine {
		t.Errorf("what was put: got %v, %v, want it back", p, err)
	}
}

// TestCacheIsBounded holds that a cache stays small, and right, however many
// plans there are and whoever asks at once.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	const maxCached = 4096
	var loads atomic.Int64
	c := plan.NewCache(func(_ context.Context, id uuid.UUID) (*relay.Plan, error) {
		loads.Add(1)
		return &relay.Plan{ReturnURL: id.String()}, nil
	})
	ids := make([]uuid.UUID, maxCached+500)
	for i := range ids {
		ids[i] = uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, id := range ids {
				if p, err := c.Get(context.Background(), id); err != nil || p.ReturnURL != id.String() {
					t.Errorf("got %v, %v, want the plan of %s", p, err, id)
				}
			}
		})
	}
	wg.Wait()
	before := loads.Load()
	for _, id := range ids {
		if _, err := c.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if again := loads.Load() - before; again < 500 {
		t.Errorf("%d plans were read again, want at least 500: no more than %d are kept", again, maxCached)
	}
}

func TestFallbacks(t *testing.T) {
	t.Parallel()
	a := func(next *relay.Action) relay.Action {
		return relay.Action{Text: "x", DestinationID: bot, Fallback: next}
	}
	chain := func(n int) relay.Action {
		out := a(nil)
		for range n {
			next := out
			out = a(&next)
		}
		return out
	}
	for _, tt := range []struct {
		name   string
		action relay.Action
		code   string // "" where it is good
	}{
		{"one", chain(1), ""},
		{"as many as there may be", chain(relay.MaxFallbacks), ""},
		{"too many", chain(relay.MaxFallbacks + 1), "invalid_fallback"},
		{"none behind it", a(&relay.Action{Action: relay.NoAction, DestinationID: bot}), ""},
		{"behind none", relay.Action{Action: relay.NoAction, DestinationID: bot, Fallback: &relay.Action{Text: "x", DestinationID: bot}}, "invalid_fallback"},
		{"an unknown destination", a(&relay.Action{Text: "x", DestinationID: 99}), "unknown_destination"},
		{"a module of letters", a(&relay.Action{ModuleID: "x", DestinationID: bot}), "module_id_invalid"},
		{"an expression that does not compile", a(&relay.Action{Text: "{{ nobody }}", DestinationID: bot}), "expression_invalid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := plan.Check(&relay.Plan{On: map[string]relay.Action{"completed": tt.action}}, platforms)
			var refusal *relay.Error
			switch {
			case tt.code == "" && err != nil:
				t.Errorf("got %v, want it taken", err)
			case tt.code != "" && (!errors.As(err, &refusal) || refusal.Code != tt.code || !strings.HasPrefix(refusal.Detail, "on.completed: ")):
				t.Errorf("got %v, want %s", err, tt.code)
			}
		})
	}
}

// A fallback renders as an action of its own, and is the last where nothing
// stands behind it.
func TestFallbackRenders(t *testing.T) {
	t.Parallel()
	p := check(t, relay.Plan{On: map[string]relay.Action{"completed": {
		ModuleID: 7, Fallback: &relay.Action{Text: "{{ event.id }} for {{ correlation.user_id }}", DestinationID: bot},
	}}})
	if !p.UsesEvent() {
		t.Error("the fallback looks at the event, and the plan does not know it")
	}
	name, a, ok := p.Fallback("completed")
	if !ok || name != "completed.fallback" || a.Action != relay.TriggerMessage {
		t.Fatalf("got %q, %+v, %t, want the text", name, a, ok)
	}
	call, _, err := p.Render(name, plan.ScopeOf(&relay.Wait{UserID: "u-1"}, relay.Completed, nil, nil, relay.FormatJSON, []byte(`{"id":"e"}`)), nil, platforms(bot))
	if err != nil || call.Text != "e for u-1" || call.Action != relay.TriggerMessage {
		t.Errorf("got %+v, %v, want the text", call, err)
	}
	if _, _, ok := p.Fallback(name); ok {
		t.Error("something stands behind the last one")
	}
}

// A nudge is a call like any other, of its own name.
func TestNudgeOf(t *testing.T) {
	t.Parallel()
	to := func(a relay.Action) relay.Action {
		a.DestinationID = bot
		return a
	}
	p := check(t, relay.Plan{CustomVars: map[string]any{"plan": "pro"}, Nudge: relay.Nudges{
		{Action: to(relay.Action{Text: "{{ correlation.user_id }}: {{ outcome }}"})}, {Action: to(relay.Action{ModuleID: 5.0})}, {Action: to(relay.Action{Action: relay.NoAction})},
	}})
	w := &relay.Wait{ID: relay.NewID(), ProjectID: 7, UserID: "jo", Status: relay.Pending}
	d := p.NudgeOf(w, 0)
	if d == nil || d.Outcome != relay.Nudged || d.DestinationID != bot || d.ProjectID != 7 || !d.Outcome.OnTheWay() {
		t.Fatalf("got %+v, want a delivery on the way", d)
	}
	scope := plan.ScopeOf(w, d.Outcome, nil, nil, relay.FormatJSON, nil)
	if call, _, err := p.Render(d.Action, scope, nil, platforms(bot)); err != nil || call.Action != relay.TriggerMessage || call.Text != "jo: nudge" {
		t.Errorf("got %+v, %v, want the text", call, err)
	}
	call, _, err := p.Render(p.NudgeOf(w, 1).Action, scope, nil, platforms(bot))
	if err != nil || call.Action != relay.TriggerResponse || call.CustomVars["plan"] != "pro" {
		t.Errorf("got %+v, %v, want the module with the flow's variables", call, err)
	}
	if p.NudgeOf(w, 2) != nil || p.NudgeOf(w, 3) != nil {
		t.Error("got a call of a nudge that is none, or not there")
	}
	err = p.CheckVars(map[string]any{"no name": 1}, platforms)
	if err == nil {
		t.Error("variables that the nudge's platform does not take are not refused")
	}
}
