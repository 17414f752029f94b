package store_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// Of a key that many waits have had those are found that had it last, the
// pending one among them; a token finds its wait besides.
func TestNamedIsBounded(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	var last relay.Wait
	for i := range 25 {
		reg := p.Registration(t, fmt.Sprintf("u-%d", i), p.Plan())
		reg.Wait.Key = "order-1"
		storetest.Exec(t, url, `UPDATE correlation_refs SET key_active = false`)
		last = p.Register(t, reg)
	}
	other := p.Wait(t, "other")
	ref := store.RefHash(p.SourceID, "order-1")
	facts, err := p.Store.Named(t.Context(), store.Names{Tokens: []string{other.Token}, Refs: []uuid.UUID{ref, ref}})
	if err != nil {
		t.Fatal(err)
	}
	hits := facts.ByRef[ref]
	if len(hits) != 20 || hits[19].Wait.ID != last.ID || !hits[19].Key {
		t.Errorf("got %d waits by the key, want 20 and the newest, %s, last", len(hits), last.ID)
	}
	if got := facts.ByToken[other.Token]; got == nil || got.ID != other.ID {
		t.Errorf("got %+v by the token, want %s", got, other.ID)
	}
}

func TestNeighbours(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	a := p.Wait(t, "u-1")
	between := p.Registration(t, "u-1", p.Plan())
	between.Wait.Scope = store.ScopeHash(p.ID, "another flow")
	p.Register(t, between)
	b, c := p.Wait(t, "u-1"), p.Wait(t, "u-1")
	p.Wait(t, "u-2")
	storetest.Exec(t, url, `UPDATE correlations SET late_outcome = 'completed', late_at = now() WHERE id = $1`, a.ID)
	storetest.Exec(t, url, `DELETE FROM deadlines WHERE correlation_id = $1`, c.ID)
	storetest.Exec(t, url, `UPDATE correlations SET status = 'superseded', resolved_by = 'late_success', resolved_at = now() WHERE id = $1`, c.ID)
	for name, tt := range map[string]struct {
		of   relay.Wait
		want store.Neighbours
	}{
		"first":                             {a, store.Neighbours{Newer: b.ID}},
		"middle":                            {b, store.Neighbours{Superseded: a.ID, Newer: c.ID}},
		"last, ended by the first of three": {c, store.Neighbours{Superseded: b.ID, PaidLate: a.ID}},
	} {
		w, err := p.Store.Correlation(t.Context(), p.ID, tt.of.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Store.NeighboursOf(t.Context(), w); err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, tt.want)
		}
	}
}

// Who asks why an event came to its match, or what happened to a wait, reads
// no table from end to end.
func TestPlansOfAsking(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	seen := &explained{plans: map[string][]explainedPlan{}}
	s, err := store.OpenNoticingEveryday(t.Context(), store.Config{
		URL: url + explaining, Keys: storetest.Keys(t), HotConnections: 1, Connections: 1,
	}, seen.add)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
	fill(t, url)
	w := p.Wait(t, "u-1")
	commit(t, p, deduped(p.Paid("evt_1", "pi_1", w.Token)))
	storetest.Exec(t, url, `ANALYZE`)
	seen.reset()
	ask(t, s, p, w)
	for name, part := range map[string]string{
		"what names lead to": "LATERAL (SELECT r.ref", "events of a wait": "UNION\n\t\t      (SELECT project_id, id FROM events",
		"neighbours": "WITH older AS MATERIALIZED", "attempts": "FROM attempts\n",
	} {
		plans := seen.of(part)
		if len(plans) == 0 {
			t.Errorf("%s: the server explained no such statement", name)
		}
		for _, plan := range plans {
			if table := plan.Plan.scans(); table != "" {
				t.Errorf("%s: scans the table %s:\n%s", name, table, plan.text)
			}
			if got := plan.Plan.Hit + plan.Plan.Read; got > maxBlocks {
				t.Errorf("%s: touches %d blocks, want at most %d:\n%s", name, got, maxBlocks, plan.text)
			}
		}
	}
}

// ask reads all that is told of a wait and of an event that names it.
func ask(t *testing.T, s *store.Store, p *storetest.Project, w relay.Wait) {
	t.Helper()
	ctx := t.Context()
	must(s.Named(ctx, store.Names{Tokens: []string{w.Token}, Refs: []uuid.UUID{store.RefHash(p.SourceID, "pi_1")}}))(t)
	if events := must(s.EventsOf(ctx, &w, 200))(t); len(events) != 1 {
		t.Errorf("got %d events of the wait, want one", len(events))
	}
	c := must(s.Correlation(ctx, p.ID, w.ID))(t)
	must(s.NeighboursOf(ctx, c))(t)
	deliveries := must(s.Deliveries(ctx, p.ID, store.DeliveryFilter{CorrelationID: w.ID}, store.Page{Limit: 200}))(t)
	if len(deliveries) != 1 {
		t.Fatalf("got %d deliveries, want one", len(deliveries))
	}
	must(s.Attempts(ctx, p.ID, deliveries[0].ID))(t)
}
