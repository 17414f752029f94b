package store_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

func TestRegistrationConflicts(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	for _, tt := range []struct {
		onConflict string
		isNew      bool
		code       relay.Kind
		older      relay.Status
	}{
		{relay.Supersede, true, 0, relay.StatusSuperseded},
		{relay.Keep, false, 0, relay.Pending},
		{relay.Reject, false, relay.Conflict, relay.Pending},
	} {
		t.Run(tt.onConflict, func(t *testing.T) {
			older := p.Registration(t, "u-"+tt.onConflict, p.Plan())
			older.Wait.Key = "k-" + tt.onConflict
			old := p.Register(t, older)
			next := p.Registration(t, "u-"+tt.onConflict, p.Plan())
			next.OnConflict, next.Wait.Key = tt.onConflict, older.Wait.Key
			got := must(p.Store.Register(t.Context(), []store.Registration{next}))(t)[0]
			if got.New != tt.isNew || tt.code == 0 && got.Err != nil || tt.code != 0 && !relay.IsKind(got.Err, tt.code) {
				t.Errorf("got %+v, %v", got.Registered, got.Err)
			}
			if c := must(p.Store.Correlation(t.Context(), p.ID, old.ID))(t); c.Status != tt.older {
				t.Errorf("the older wait is %s, want %s", c.Status, tt.older)
			}
			if n := storetest.Query[int](t, url, `SELECT count(*) FROM deadlines WHERE scope = $1`, old.Scope); n != 1 {
				t.Errorf("%d waits are pending, want 1", n)
			}
			if n := storetest.Query[int](t, url, `SELECT count(*) FROM correlation_refs WHERE ref = $1 AND key_active`, store.RefHash(p.SourceID, older.Wait.Key)); n != 1 {
				t.Errorf("the key is active %d times, want once", n)
			}
		})
	}
}

func TestKeyInUse(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	first := p.Registration(t, "u-1", p.Plan())
	first.Wait.Key = "order-1"
	w := p.Register(t, first)
	again := func() error {
		r := p.Registration(t, "u-2", p.Plan())
		r.Wait.Key = "order-1"
		return must(p.Store.Register(t.Context(), []store.Registration{r}))(t)[0].Err
	}
	if err := again(); !relay.IsKind(err, relay.Conflict) {
		t.Errorf("while the other is pending: got %v, want a conflict", err)
	}
	commit(t, p, p.Callback("evt_1", relay.Failed, w.Token))
	if err := again(); err != nil {
		t.Errorf("after the other has ended: got %v, want it registered", err)
	}
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	key := store.IdempotencyHash(p.ID, "order-1")
	register := func(body byte, user string) store.RegistrationResult {
		r := p.Registration(t, user, p.Plan())
		r.IdempotencyKey, r.Request = key, [32]byte{body}
		return must(p.Store.Register(t.Context(), []store.Registration{r}))(t)[0]
	}
	first := register(1, "u-1")
	if second := register(1, "u-1"); second.Err != nil || second.New || second.Wait.ID != first.Wait.ID {
		t.Errorf("the same again: got %+v, %v, want the first wait", second.Registered, second.Err)
	}
	if other := register(2, "u-1"); !relay.IsKind(other.Err, relay.Conflict) {
		t.Errorf("another body: got %v, want a conflict", other.Err)
	}
	storetest.Exec(t, url, `UPDATE idempotency_keys SET created_at = now() - interval '25 hours'`)
	if later := register(2, "u-2"); later.Err != nil || !later.New {
		t.Errorf("a day later: got %+v, %v, want a new wait", later.Registered, later.Err)
	}
}

// Nodes register for the same scope, key and idempotency key at once.
func TestRegistrationsAtOnce(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	nodes := []*store.Store{p.Store, storetest.Open(t, url, storetest.Keys(t))}
	key := uuid.New()
	var g errgroup.Group
	for i := range 40 {
		r := p.Registration(t, "u-1", p.Plan())
		r.Wait.Key = "order-1"
		if i%2 == 0 {
			r.IdempotencyKey = key
		}
		g.Go(func() (err error) {
			for range 200 { // the losers repeat, as intake does
				if _, err = nodes[i%3%2].Register(context.Background(), []store.Registration{r}); !store.Conflicted(err) {
					return err
				}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for what, sql := range map[string]string{
		"pending waits":  `SELECT count(*) FROM correlations WHERE status = 'pending'`,
		"deadlines":      `SELECT count(*) FROM deadlines`,
		"active keys":    `SELECT count(*) FROM correlation_refs WHERE key_active`,
		"idempotent one": `SELECT count(*) FROM idempotency_keys k JOIN correlations c ON c.id = k.correlation_id`,
	} {
		if got := storetest.Query[int](t, url, sql); got != 1 {
			t.Errorf("%s: got %d, want 1", what, got)
		}
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM correlations`); got != 21 {
		t.Errorf("%d waits were registered, want 20 and the idempotent one", got)
	}
}
