package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/standardwebhooks"
	"relay.example/relay/internal/store"
)

// Project is a tenant with what a wait needs: two sources, and a destination
// that takes what the plan fires.
type Project struct {
	Store         *store.Store
	ID            int64
	SourceID      int64
	OtherSourceID int64
	DestinationID int64
}

// NewProject configures a project. The destination is a Certainly at baseURL.
func NewProject(t testing.TB, s *store.Store, name, baseURL string) *Project {
	t.Helper()
	ctx := context.Background()
	p := &Project{Store: s}
	err := s.Configure(ctx, func(c *store.Change) (err error) {
		if p.ID, err = c.PutProject(ctx, name); err != nil {
			return err
		}
		if p.SourceID, err = c.PutSource(ctx, relay.Source{ProjectID: p.ID, Name: "pay", Provider: "generic-hmac"}); err != nil {
			return err
		}
		if p.OtherSourceID, err = c.PutSource(ctx, relay.Source{ProjectID: p.ID, Name: "other", Provider: "generic-hmac"}); err != nil {
			return err
		}
		return c.PutDestination(ctx, relay.Destination{
			ProjectID: p.ID, Name: "bot", Platform: "certainly", BaseURL: baseURL,
			Secrets: map[string]string{"token": "a-token-of-the-bot"},
		})
	})
	if err != nil {
		t.Fatalf("configuring project %s: %v", name, err)
	}
	p.DestinationID = p.destination(t, "bot")
	return p
}

// AddDestination adds another Certainly to the project and returns its id.
func (p *Project) AddDestination(t testing.TB, d relay.Destination) int64 {
	t.Helper()
	d.ProjectID, d.Platform = p.ID, "certainly"
	d.Secrets = map[string]string{"token": "a-token-of-the-bot"}
	err := p.Store.Configure(context.Background(), func(c *store.Change) error {
		return c.PutDestination(context.Background(), d)
	})
	if err != nil {
		t.Fatalf("adding destination %s: %v", d.Name, err)
	}
	return p.destination(t, d.Name)
}

func (p *Project) destination(t testing.TB, name string) int64 {
	t.Helper()
	c, err := p.Store.Configuration(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range c.Destinations {
		if d.ProjectID == p.ID && d.Name == name && !d.Deleted {
			return d.ID
		}
	}
	t.Fatalf("destination %s is not there", name)
	return 0
}

// Modules are the modules to which Plan leads, by action name.
var Modules = map[string]int{
	"completed": 1, "failed": 2, "cancelled": 3, "expired": 4, "attempt_failed": 5,
	"processing": 6, "mismatch": 7, "refunded": 8, "disputed": 9, "paid_again": 10, "completed_late": 11,
}

// Plan returns a plan with an action for every outcome.
func (p *Project) Plan() relay.Plan {
	plan := relay.Plan{On: map[string]relay.Action{}}
	for name, module := range Modules {
		plan.On[name] = relay.Action{Action: relay.TriggerResponse, ModuleID: module, DestinationID: p.DestinationID}
	}
	return plan
}

// Registration returns the registration of a wait of user, for an hour, with
// the given plan.
func (p *Project) Registration(t testing.TB, user string, plan relay.Plan) store.Registration {
	t.Helper()
	doc, err := plan.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	return store.Registration{
		Wait: relay.Wait{
			ID: relay.NewID(), ProjectID: p.ID, SourceIDs: []int64{p.SourceID}, Token: relay.NewToken(),
			PlanID: store.PlanID(p.ID, doc), UserID: user, Scope: store.ScopeHash(p.ID, "flow/checkout/"+user),
		},
		ExpiresIn: time.Hour, OnConflict: relay.Supersede, Plan: doc,
	}
}

// Wait registers a wait of user with Plan.
func (p *Project) Wait(t testing.TB, user string) relay.Wait {
	t.Helper()
	return p.Register(t, p.Registration(t, user, p.Plan()))
}

// Register registers waits in one batch and returns the first.
func (p *Project) Register(t testing.TB, regs ...store.Registration) relay.Wait {
	t.Helper()
	results, err := p.Store.Register(context.Background(), regs)
	if err != nil {
		t.Fatalf("registering: %v", err)
	}
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("registering wait %d: %v", i, r.Err)
		}
	}
	return results[0].Wait
}

// Callback returns a verified callback of the project's source, which names
// its wait by token.
func (p *Project) Callback(eventID string, outcome relay.Outcome, token string) relay.Callback {
	c := relay.Callback{
		ID: relay.NewID(), ProjectID: p.ID, SourceID: p.SourceID, Verdict: relay.Verified,
		Reading:    relay.Reading{EventID: eventID, Type: "payment." + string(outcome), Outcome: outcome, Format: relay.FormatJSON},
		Body:       []byte(`{"id": "` + eventID + `"}`),
		ReceivedAt: time.Now(),
	}
	if token != "" {
		c.Reading.Candidates = []relay.Candidate{{Place: "json:token", Value: token}}
	}
	return c
}

// Paid returns a callback as Callback does, of one payment.
func (p *Project) Paid(eventID, paymentID, token string) relay.Callback {
	c := p.Callback(eventID, relay.Completed, token)
	amount := int64(2050)
	c.Reading.Payment = &relay.Payment{ID: paymentID, AmountMinor: &amount, Currency: "EUR", Exponent: 2}
	return c
}

// Overdue moves the deadline of a wait into the past.
func Overdue(t testing.TB, url string, waits ...uuid.UUID) {
	t.Helper()
	Exec(t, url, `UPDATE correlations SET expires_at = now() - interval '1 second' WHERE id = ANY($1)`, waits)
	Exec(t, url, `UPDATE deadlines SET expires_at = now() - interval '1 second' WHERE correlation_id = ANY($1)`, waits)
}

// Subscribe has a target told of some news.
func (p *Project) Subscribe(t testing.TB, event relay.News, target string) (made relay.Subscription) {
	t.Helper()
	ctx := context.Background()
	err := p.Store.Configure(ctx, func(c *store.Change) (err error) {
		made, err = c.PutSubscription(ctx, relay.Subscription{
			ID: relay.NewID(), ProjectID: p.ID, Event: event, Target: target,
			Secret: "a-secret-of-" + relay.NewToken(), SigningSecret: standardwebhooks.NewSecret(),
		})
		return err
	})
	if err == nil {
		_, err = p.Store.Configuration(ctx) // from here on it is heard of
	}
	if err != nil {
		t.Fatalf("subscribing to %s: %v", event, err)
	}
	return made
}
