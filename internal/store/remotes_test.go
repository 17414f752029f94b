package store_test

import (
	"errors"
	"testing"
	"time"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// TestLookAtRemotesMidChange starts a node while a change of the configuration
// has one subscription and goes on to another. The look must not wait for the
// one and hold the other: whoever closes such a circle fails with a deadlock.
func TestLookAtRemotesMidChange(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	wanted := func(event, key string) relay.RemoteSubscription {
		return relay.RemoteSubscription{
			ProjectID: p.ID, SourceID: p.SourceID, DestinationID: p.DestinationID, Place: "there", Event: event, Address: "/in", Key: key,
		}
	}
	want := func(c *store.Change, list ...relay.RemoteSubscription) error {
		return c.WantRemotes(t.Context(), p.ID, list, nil)
	}
	if err := p.Store.Configure(t.Context(), func(c *store.Change) error { return want(c, wanted("a", "1"), wanted("b", "1")) }); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, url, `UPDATE remote_subscriptions SET due_at = now() + interval '15 minutes'`)
	looked := make(chan error, 1)
	err := p.Store.Configure(t.Context(), func(c *store.Change) error {
		if err := want(c, wanted("b", "2"), wanted("a", "1")); err != nil {
			return err
		}
		go func() { looked <- p.Store.LookAtRemotes(t.Context()) }()
		waits := func() bool {
			return storetest.Query[bool](t, url, `
				SELECT EXISTS (SELECT FROM pg_stat_activity
				               WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE remote_subscriptions%failures = 0%' AND datname = current_database() AND pid <> pg_backend_pid())`)
		}
		until := time.Now().Add(20 * time.Second)
		for len(looked) == 0 && !waits() {
			if time.Now().After(until) {
				return errors.New("the look neither ends nor waits")
			}
		}
		return want(c, wanted("b", "2"), wanted("a", "2"))
	})
	if err != nil {
		t.Errorf("the change: %v", err)
	}
	if err := <-looked; err != nil {
		t.Errorf("the look: %v", err)
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM remote_subscriptions WHERE due_at <= now()`); got != 2 {
		t.Errorf("%d subscriptions are due, want both", got)
	}
}
