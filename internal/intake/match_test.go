package intake_test

import (
	"slices"
	"testing"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// named lists places and the values that stand there, in turn.
func named(placesAndValues ...string) (out []relay.Candidate) {
	for pair := range slices.Chunk(placesAndValues, 2) {
		out = append(out, relay.Candidate{Place: pair[0], Value: pair[1]})
	}
	return out
}

// TestMatch holds each rule by which a callback finds its wait, on real rows.
func TestMatch(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	n := newNode(t, p.Store)
	elsewhere := storetest.NewProject(t, p.Store, "elsewhere", "http://127.0.0.1:1")
	a, b, foreign := p.Wait(t, "a"), p.Wait(t, "b"), elsewhere.Wait(t, "c")
	both := p.Registration(t, "other-source", p.Plan())
	both.Wait.SourceIDs, both.Wait.Key = []int64{p.OtherSourceID}, "order-o"
	others := p.Register(t, both)
	keyed := p.Registration(t, "keyed", p.Plan())
	keyed.Wait.Key = "order-1"
	k := p.Register(t, keyed)
	lookalike := p.Registration(t, "named", p.Plan())
	lookalike.Wait.Key = a.Token // a key that looks like the token of another wait
	p.Register(t, lookalike)

	teach := func(w relay.Wait, value string) {
		c := p.Callback("teach-"+w.UserID+value, relay.AttemptFailed, w.Token)
		c.Reading.References = named("json:id", value)
		together(t, n, c)
	}
	teach(a, "pi_a")
	teach(b, "pi_b")
	teach(a, "pi_ab")
	teach(b, "pi_ab")

	for _, tt := range []struct {
		name       string
		candidates []relay.Candidate
		references []relay.Candidate
		source     int64
		match      relay.Match
		rule       string
		wait       relay.Wait
	}{
		{"token", named("json:a", a.Token), nil, 0, relay.Matched, "on_the_way", a},
		{"first place that names a wait", named("json:x", "nobody", "json:a", a.Token, "json:b", b.Token), nil, 0, relay.Matched, "on_the_way", a},
		{"first place wins", named("json:b", b.Token, "json:a", a.Token), nil, 0, relay.Matched, "on_the_way", b},
		{"a token is never folded", named("json:a", " "+a.Token), nil, 0, relay.Parked, "nobody_waits_yet", relay.Wait{}},
		{"key", named("json:key", "order-1"), nil, 0, relay.Matched, "on_the_way", k},
		{"token before key", named("json:a", a.Token), nil, 0, relay.Matched, "on_the_way", a},
		{"key of another source", named("json:key", "order-o"), nil, 0, relay.Parked, "nobody_waits_yet", relay.Wait{}},
		{"key at its own source", named("json:key", "order-o"), nil, p.OtherSourceID, relay.Matched, "on_the_way", others},
		{"token at another source", named("json:a", a.Token), nil, p.OtherSourceID, relay.Parked, "nobody_waits_yet", relay.Wait{}},
		{"token of another project", named("json:a", foreign.Token), nil, 0, relay.OtherProject, "token_of_another_project", relay.Wait{}},
		{"another project, then ours", named("json:x", foreign.Token, "json:a", a.Token), nil, 0, relay.Matched, "on_the_way", a},
		{"another project, then a reference", named("json:x", foreign.Token), named("json:id", "pi_b"), 0, relay.Matched, "on_the_way", b},
		{"reference", nil, named("json:id", "pi_a"), 0, relay.Matched, "on_the_way", a},
		{"reference at another source", nil, named("json:id", "pi_a"), p.OtherSourceID, relay.Parked, "nobody_waits_yet", relay.Wait{}},
		{"token before reference", named("json:b", b.Token), named("json:id", "pi_a"), 0, relay.Matched, "on_the_way", b},
		{"a reference is no token", nil, named("json:id", b.Token), 0, relay.Parked, "nobody_waits_yet", relay.Wait{}},
		{"a provider's id that the caller gave as key", nil, named("json:id", "order-1"), 0, relay.Matched, "on_the_way", k},
		{"a reference is no key", named("json:key", "pi_b"), nil, 0, relay.Parked, "nobody_waits_yet", relay.Wait{}},
		{"reference of two waits", nil, named("json:id", "pi_ab"), 0, relay.Ambiguous, "references_differ", relay.Wait{}},
		{"two references of two waits", nil, named("json:id", "pi_a", "json:charge", "pi_b"), 0, relay.Ambiguous, "references_differ", relay.Wait{}},
		{"URL and body agree", named("path", a.Token, "json:a", a.Token), nil, 0, relay.Matched, "on_the_way", a},
		{"path and body differ", named("path", a.Token, "json:b", b.Token), nil, 0, relay.Ambiguous, "url_and_body_differ", relay.Wait{}},
		{"body and query differ", named("json:b", b.Token, "query:token", a.Token), nil, 0, relay.Ambiguous, "url_and_body_differ", relay.Wait{}},
		{"URL names a wait, the body nobody", named("json:b", "nobody", "query:token", a.Token), nil, 0, relay.Matched, "on_the_way", a},
		{"body names a wait, the URL nobody", named("path", "nobody", "json:b", b.Token), nil, 0, relay.Matched, "on_the_way", b},
		{"names nobody", nil, nil, 0, relay.Unmatched, "names_nobody", relay.Wait{}},
		{"nobody waits", named("json:a", relay.NewToken()), nil, 0, relay.Parked, "nobody_waits_yet", relay.Wait{}},
		{"a name that no row can hold", named("json:a", "a\x00\xff"), named("json:id", "\xff\x00"), 0, relay.Parked, "nobody_waits_yet", relay.Wait{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := p.Callback("match "+tt.name, relay.AttemptFailed, "")
			c.Verdict = relay.Fetched
			c.Reading.Candidates, c.Reading.References = tt.candidates, tt.references
			if tt.source != 0 {
				c.SourceID = tt.source
			}
			got := together(t, n, c)[0]
			if got.Match != tt.match || got.Rule != tt.rule || got.CorrelationID != tt.wait.ID {
				t.Errorf("got %s by %s, wait %s; want %s by %s, wait %s", got.Match, got.Rule, got.CorrelationID, tt.match, tt.rule, tt.wait.ID)
			}
			if e, err := p.Store.Event(t.Context(), p.ID, c.ID); err != nil || e.Match != tt.match || e.Rule != tt.rule {
				t.Errorf("the event shows %+v, %v; want %s by %s", e, err, tt.match, tt.rule)
			}
		})
	}
}

// A key outlives its wait as a name, and belongs to the pending one first.
func TestKeyAfterItsWaitHasEnded(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	n := newNode(t, p.Store)
	tell := func(outcome relay.Outcome, id string) relay.Receipt {
		c := p.Callback(id, outcome, "")
		c.Reading.Candidates = named("json:key", "order-1")
		return together(t, n, c)[0]
	}
	register := func() relay.Wait {
		r := p.Registration(t, "u-1", p.Plan())
		r.Wait.Key = "order-1"
		return p.Register(t, r)
	}
	if got := tell(relay.Completed, "early"); got.Match != relay.Parked {
		t.Errorf("before its wait: got %s, want it parked", got.Match)
	}
	first := register()
	if got := tell(relay.Failed, "1"); got.CorrelationID != first.ID || got.Rule != "closed" {
		t.Errorf("while it is pending: got %+v, want the first wait closed", got)
	}
	if got := tell(relay.Completed, "2"); got.CorrelationID != first.ID || got.Match != relay.Late {
		t.Errorf("after it has ended: got %+v, want the first wait, late", got)
	}
	second := register()
	if got := tell(relay.Cancelled, "3"); got.CorrelationID != second.ID || got.Rule != "closed" {
		t.Errorf("with a second wait: got %+v, want it closed", got)
	}
	if got := tell(relay.Refunded, "4"); got.CorrelationID != second.ID {
		t.Errorf("after both: got %+v, want the wait that had the key last", got)
	}
}

func TestReferencesAreLearned(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	n := newNode(t, p.Store)
	teaching := func(id, token string, verdict relay.Verdict, value string) relay.Callback {
		c := p.Callback(id, relay.AttemptFailed, token)
		c.Verdict, c.Reading.References = verdict, named("json:id", value)
		return c
	}
	asking := func(id, value string) relay.Callback { return teaching(id, "", relay.Verified, value) }

	w := p.Wait(t, "u-1")
	t.Run("earlier in the same batch", func(t *testing.T) {
		if got := together(t, n, teaching("1", w.Token, relay.Verified, "pi_1"), asking("2", "pi_1"))[1]; got.CorrelationID != w.ID {
			t.Errorf("got %+v, want the wait", got)
		}
	})
	t.Run("later in the same batch", func(t *testing.T) {
		if got := together(t, n, asking("3", "pi_2"), teaching("4", w.Token, relay.Verified, "pi_2"))[0]; got.CorrelationID != w.ID {
			t.Errorf("got %+v, want the wait", got)
		}
	})
	t.Run("an unsigned event teaches nothing", func(t *testing.T) {
		together(t, n, teaching("5", w.Token, relay.Unsigned, "pi_3"))
		if got := together(t, n, asking("6", "pi_3"))[0]; got.Match != relay.Parked {
			t.Errorf("got %+v, want it parked", got)
		}
	})
	t.Run("a forgery matches and teaches nothing", func(t *testing.T) {
		forged := teaching("7", w.Token, relay.Rejected, "pi_4")
		forged.Reason = "bad_signature"
		if got := together(t, n, forged, asking("8", "pi_4")); got[0].CorrelationID != [16]byte{} || got[0].Rule != "rejected" || got[1].Match != relay.Parked {
			t.Errorf("got %+v, want neither to match", got)
		}
	})
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM correlation_refs`); got != 2 {
		t.Errorf("%d references are stored, want 2", got)
	}
}
