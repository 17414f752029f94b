package store_test

import (
	"sync"
	"testing"
	"time"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// TestLeavesWhatTakesNoWrites holds that one refused write (25006) is enough
// for every connection to be made anew: of both pools, and of who listens.
func TestLeavesWhatTakesNoWrites(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	listens, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- p.Store.ListenForChanges(t.Context(), sync.OnceFunc(func() { close(listens) })) }()
	<-listens
	wait := p.Wait(t, "u-1")
	refuseWrites(t, p)

	c := deduped(p.Callback("evt_1", relay.Completed, wait.Token))
	if _, err := commitTo(p.Store, p, c); !relay.IsKind(err, relay.Busy) {
		t.Fatalf("a callback where no writes are taken: got %v, want busy", err)
	}
	if owed := commit(t, p, c); len(owed) != 1 {
		t.Errorf("the callback, sent again: got %d deliveries, want 1", len(owed))
	}
	holdDestination(t, p) // by the other pool
	select {
	case err := <-ended:
		if err == nil {
			t.Error("who listened for changes ended without a reason")
		}
	case <-time.After(patience):
		t.Error("who listens for changes still does, where nobody writes")
	}
}

// TestRenewsOnceASecond holds that a server that goes on refusing does not
// have connections made in a tight loop, and is still left.
func TestRenewsOnceASecond(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	began := time.Now()
	refuseWrites(t, p)
	renewals := 0
	for time.Since(began) < patience {
		_, err := commitTo(p.Store, p, deduped(p.Callback("evt_1", relay.Completed, "")))
		if err == nil {
			if renewals++; renewals == 3 {
				break
			}
			refuseWrites(t, p)
		}
	}
	if took := time.Since(began); renewals != 3 || took < 2*time.Second {
		t.Errorf("got %d renewals in %s, want 3, a second apart", renewals, took)
	}
}

func refuseWrites(t *testing.T, p *storetest.Project) {
	t.Helper()
	if sessions := must(p.Store.RefuseWrites(t.Context()))(t); sessions < 5 {
		t.Fatalf("%d sessions refuse writes: want those of both pools", sessions)
	}
}
