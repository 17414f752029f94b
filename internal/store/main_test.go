package store_test

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// project opens a store on a fresh schema and configures a project in it.
func project(t *testing.T) (*storetest.Project, string) {
	t.Helper()
	url := storetest.URL(t, true)
	s := storetest.Open(t, url, storetest.Keys(t))
	return storetest.NewProject(t, s, "shop", "http://127.0.0.1:1"), url
}

// namesOf lists every candidate both as a token and as a reference, and every
// reference, as intake does.
func namesOf(c relay.Callback) store.Names {
	var n store.Names
	for _, candidate := range c.Reading.Candidates {
		n.Tokens = append(n.Tokens, candidate.Value)
		n.Refs = append(n.Refs, store.RefHash(c.SourceID, candidate.Value))
	}
	for _, reference := range c.Reading.References {
		n.Refs = append(n.Refs, store.RefHash(c.SourceID, reference.Value))
	}
	return n
}

// deduped gives a callback the dedupe key of its event id.
func deduped(c relay.Callback) relay.Callback {
	key := store.DedupeHash(c.SourceID, c.Reading.EventID)
	c.DedupeKey = &key
	return c
}

// apply decides callbacks by their tokens alone: each does to its wait what
// the rules say and, where they fire, owes a call to the destination.
func apply(p *storetest.Project, callbacks []relay.Callback) func(context.Context, *store.Facts) ([]store.Decision, error) {
	return func(_ context.Context, facts *store.Facts) ([]store.Decision, error) {
		decisions := make([]store.Decision, len(callbacks))
		for i := range callbacks {
			c, d := &callbacks[i], &decisions[i]
			d.Match, d.Rule, d.Outcome = relay.Unmatched, "nobody_waits", c.Reading.Outcome
			if len(c.Reading.Candidates) == 0 || facts.ByToken[c.Reading.Candidates[0].Value] == nil {
				continue
			}
			d.Wait = facts.ByToken[c.Reading.Candidates[0].Value]
			d.Step = d.Wait.Apply(c.Reading.Outcome, "")
			d.Match, d.Rule, d.ExtendBy = d.Step.Match, d.Step.Rule, relay.DefaultProcessingFor
			for _, reference := range c.Reading.References {
				d.Teaches = append(d.Teaches, store.RefHash(c.SourceID, reference.Value))
			}
			if d.Step.Fires != "" {
				d.Fires = &relay.Delivery{
					ID: relay.NewID(), ProjectID: c.ProjectID, EventID: c.ID, DestinationID: p.DestinationID,
					Outcome: d.Step.Fires, Action: d.Step.Action, RetryFor: relay.DefaultRetryFor, Wait: *d.Wait,
				}
			}
		}
		return decisions, nil
	}
}

// commit commits callbacks as apply decides them.
func commit(t *testing.T, p *storetest.Project, callbacks ...relay.Callback) []relay.Delivery {
	t.Helper()
	deliveries, err := commitTo(p.Store, p, callbacks...)
	if err != nil {
		t.Fatalf("committing %d callbacks: %v", len(callbacks), err)
	}
	return deliveries
}

func commitTo(s *store.Store, p *storetest.Project, callbacks ...relay.Callback) ([]relay.Delivery, error) {
	names := make([]store.Names, len(callbacks))
	for i, c := range callbacks {
		names[i] = namesOf(c)
	}
	_, deliveries, err := s.CommitCallbacks(context.Background(), uuid.New(), callbacks, names, apply(p, callbacks))
	return deliveries, err
}

// must returns v, or ends the test.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// park commits a callback that nobody waits for yet, by the name of its first
// candidate.
func park(t *testing.T, p *storetest.Project, c relay.Callback) {
	t.Helper()
	decide := func(context.Context, *store.Facts) ([]store.Decision, error) {
		return []store.Decision{{
			Match: relay.Parked, Rule: "nobody_waits_yet", Outcome: c.Reading.Outcome,
			Parks: []store.ParkedName{{Ref: store.RefHash(c.SourceID, c.Reading.Candidates[0].Value), KeyOnly: true}},
			Asks:  &relay.Question{ID: relay.NewID(), ProjectID: c.ProjectID, SourceID: c.SourceID, EventID: c.ID, About: "pi_1"},
		}}, nil
	}
	if _, _, err := p.Store.CommitCallbacks(context.Background(), uuid.New(), []relay.Callback{c}, []store.Names{namesOf(c)}, decide); err != nil {
		t.Fatal(err)
	}
}

// raise commits a callback that says only what it is about, or a copy of one,
// and what is to be asked about it.
func raise(t *testing.T, p *storetest.Project, c relay.Callback, q relay.Question) {
	t.Helper()
	q.ID, q.ProjectID, q.SourceID, q.About = relay.NewID(), c.ProjectID, c.SourceID, "tr_1"
	d := store.Decision{Match: relay.Ignored, Rule: "fetched_apart", Asks: &q}
	if q.EventID != c.ID {
		d.Match, d.Rule, d.DuplicateOf = relay.Duplicate, "same_event", q.EventID
	}
	decide := func(context.Context, *store.Facts) ([]store.Decision, error) { return []store.Decision{d}, nil }
	if _, _, err := p.Store.CommitCallbacks(context.Background(), uuid.New(), []relay.Callback{c}, []store.Names{{}}, decide); err != nil {
		t.Fatal(err)
	}
}

// rematch matches a stored event again, as if c had been read out of it.
func rematch(t *testing.T, p *storetest.Project, c relay.Callback) []store.Rematched {
	t.Helper()
	done, _, err := p.Store.Rematch(context.Background(), uuid.New(), []store.EventKey{{ProjectID: c.ProjectID, ID: c.ID}}, false,
		func(*store.Kept) (relay.Callback, store.Names, bool) { return c, namesOf(c), true },
		func(ctx context.Context, callbacks []relay.Callback, facts *store.Facts) ([]store.Decision, error) {
			return apply(p, callbacks)(ctx, facts)
		})
	if err != nil {
		t.Fatal(err)
	}
	return done
}
