package store_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// Changes that read what is there before they write never see half of another.
func TestChangesAreSerialised(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	other := storetest.Open(t, url, storetest.Keys(t))
	storetest.Exec(t, url, `UPDATE destinations SET secrets = NULL`) // the other node has another key
	before := must(p.Store.ConfigurationVersion(t.Context()))(t)
	const each = 8
	var g errgroup.Group
	for _, s := range []*store.Store{p.Store, other, p.Store, other} {
		g.Go(func() error {
			for range each {
				err := s.Configure(context.Background(), func(c *store.Change) error {
					f := relay.Flow{Name: "counter", OnConflict: "+"}
					for _, old := range c.Before.Flows[p.ID] {
						f.OnConflict = old.OnConflict + "+"
					}
					return c.PutFlow(context.Background(), p.ID, f)
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	c := must(p.Store.Configuration(t.Context()))(t)
	if got, want := len(c.Flows[p.ID][0].OnConflict), 4*each; got != want {
		t.Errorf("%d changes were kept, want %d", got, want)
	}
	if got, want := c.Version-before, int64(4*each); got != want {
		t.Errorf("the version grew by %d, want %d", got, want)
	}
}

func TestChangeIsWholeOrNothing(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	before := must(p.Store.Configuration(t.Context()))(t)
	refused := errors.New("refused")
	for _, tt := range []struct {
		name      string
		fn, wants error
	}{{"an error", refused, refused}, {"a dry run", store.ErrDryRun, nil}} {
		err := p.Store.Configure(t.Context(), func(c *store.Change) error {
			if err := c.PutFlow(t.Context(), p.ID, relay.Flow{Name: "new"}); err != nil {
				return err
			}
			now, err := c.Read(t.Context())
			if err != nil || len(now.Flows[p.ID]) != 1 {
				t.Errorf("%s: the change does not see itself: %v", tt.name, err)
			}
			return tt.fn
		})
		if !errors.Is(err, tt.wants) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.wants)
		}
		if diff := cmp.Diff(before, must(p.Store.Configuration(t.Context()))(t)); diff != "" {
			t.Errorf("%s changed something (-before +after):\n%s", tt.name, diff)
		}
	}
}

func TestChangesAreTold(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	ctx, cancel := context.WithCancel(t.Context())
	told, stopped := make(chan struct{}, 10), make(chan error, 1)
	go func() { stopped <- p.Store.ListenForChanges(ctx, func() { told <- struct{}{} }) }()
	await(t, told, "it listens")
	if err := p.Store.Configure(t.Context(), func(*store.Change) error { return nil }); err != nil {
		t.Fatal(err)
	}
	await(t, told, "a change is told")
	if err := p.Store.Configure(t.Context(), func(*store.Change) error { return store.ErrDryRun }); err != nil {
		t.Fatal(err)
	}
	elsewhere, _ := project(t) // another schema of the same database
	if err := elsewhere.Store.Configure(t.Context(), func(*store.Change) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := p.Store.Configure(t.Context(), func(*store.Change) error { return nil }); err != nil {
		t.Fatal(err)
	}
	await(t, told, "the next change is told")
	if len(told) != 0 {
		t.Error("a change that was none, or of another schema, was told")
	}
	cancel()
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want it to end with its context", err)
	}
}

func await(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		t.Fatalf("waited %v in vain until %s", patience, what)
	}
}

func TestSecretsAreSealed(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	oldKey, newKey := seal.NewKey(), seal.NewKey()
	open := func(keys string) *store.Store { return storetest.Open(t, url, must(seal.ParseRing(keys))(t)) }
	s := open(oldKey)
	p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
	err := s.Configure(t.Context(), func(c *store.Change) error {
		if _, err := c.PutSource(t.Context(), relay.Source{
			ProjectID: p.ID, Name: "pay", Provider: "generic-hmac", Credentials: map[string]string{"api_key": "plain-credential"},
		}); err != nil {
			return err
		}
		_, err := c.PutSecret(t.Context(), p.ID, p.SourceID, "plain-secret")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sub := p.Subscribe(t, relay.Everything, "https://hooks.example")
	rows := storetest.Query[string](t, url, `
		SELECT (SELECT string_agg(d::text || encode(secrets, 'escape'), '') FROM destinations d) ||
		       (SELECT string_agg(s::text || coalesce(encode(credentials, 'escape'), ''), '') FROM sources s) ||
		       (SELECT string_agg(x::text || encode(sealed, 'escape'), '') FROM source_secrets x) ||
		       (SELECT string_agg(s::text || encode(secret, 'escape') || encode(signing_secret, 'escape'), '') FROM subscriptions s)`)
	for _, plain := range []string{"plain-credential", "plain-secret", "a-token-of-the-bot", sub.Secret, sub.SigningSecret} {
		if strings.Contains(rows, plain) {
			t.Errorf("%q stands in the tables", plain)
		}
	}
	check := func(name string, s *store.Store) {
		t.Helper()
		c, err := s.Configuration(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		i := slices.IndexFunc(c.Sources, func(src relay.Source) bool { return src.ID == p.SourceID })
		src, d := c.Sources[i], c.Destinations[0]
		if src.Credentials["api_key"] != "plain-credential" || len(src.Secrets) != 1 || src.Secrets[0].Secret != "plain-secret" ||
			d.Secrets["token"] != "a-token-of-the-bot" || c.Subscriptions[0] != sub {
			t.Errorf("%s: the secrets do not come back", name)
		}
	}
	check("with its key", s)
	check("with a new key before it", open(newKey+","+oldKey))

	strange := open(newKey)
	if _, err := strange.Configuration(t.Context()); !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("with another key: got %v, want %v", err, seal.ErrUnknownKey)
	}
	if _, err := strange.Reseal(t.Context()); !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("resealing with another key: got %v, want %v", err, seal.ErrUnknownKey)
	}
	for _, want := range []int{5, 0} {
		if n, err := open(newKey + "," + oldKey).Reseal(t.Context()); err != nil || n != want {
			t.Errorf("resealing: got %d, %v, want %d", n, err, want)
		}
	}
	check("resealed, with the new key alone", strange)
	if _, err := s.Configuration(t.Context()); !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("resealed, with the old key: got %v, want %v", err, seal.ErrUnknownKey)
	}
	counts := must(s.SealedWith(t.Context()))(t)
	if len(counts) != 1 || counts[0].Count != 5 || counts[0].Known || counts[0].Current {
		t.Errorf("sealed values seen with the old key: got %+v, want 5 under an unknown key", counts)
	}
	// A sealed value that is moved to another row does not open there.
	storetest.NewProject(t, strange, "shop-b", "http://127.0.0.1:1")
	storetest.Exec(t, url, `UPDATE destinations SET secrets = (SELECT secrets FROM destinations WHERE project_id = $1) WHERE project_id <> $1`, p.ID)
	if _, err := strange.Configuration(t.Context()); err == nil || !strings.Contains(err.Error(), "moved from another row") {
		t.Errorf("a value of another row: got %v, want it not to open", err)
	}
}

func TestProjectInUseStays(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	w := p.Wait(t, "u-1")
	remove := func() error {
		return p.Store.Configure(t.Context(), func(c *store.Change) error { return c.DeleteProject(t.Context(), p.ID) })
	}
	if err := remove(); !relay.IsKind(err, relay.Conflict) {
		t.Errorf("with a pending wait: got %v, want a conflict", err)
	}
	commit(t, p, p.Callback("evt_1", relay.Cancelled, w.Token))
	if err := remove(); err != nil {
		t.Errorf("without one: got %v, want it gone", err)
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM projects WHERE deleted_at IS NULL AND name = 'shop'`); got != 0 {
		t.Errorf("the project is still there")
	}
}
