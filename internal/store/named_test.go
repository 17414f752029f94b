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
