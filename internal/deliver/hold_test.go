package deliver_test

import (
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/deliver"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// give gives the world's destination a token, as a change of the
// configuration does, and ends its hold.
func (w *world) give(t *testing.T, token string) {
	t.Helper()
	err := w.Store.Configure(t.Context(), func(c *store.Change) error {
		err := c.PutDestination(t.Context(), relay.Destination{
			ProjectID: w.ID, Name: "bot", Platform: "certainly", BaseURL: w.at.URL, Secrets: map[string]string{"token": token},
		})
		if err != nil {
			return err
		}
		_, err = c.ReleaseDestination(t.Context(), w.DestinationID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRefusedCredentialsHold has two nodes call a destination whose token is
// wrong, for many conversations with several calls each. They hold it with one
// alert, and nothing more is called. It is resumed while the token is still
// wrong, and held again with one more. A new token releases everything: each
// conversation is told all, in order.
func TestRefusedCredentialsHold(t *testing.T) {
	t.Parallel()
	const conversations, calls = 120, 4
	var mu sync.Mutex
	next := map[string]int{}
	var refused atomic.Int64
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "JWT right" {
			refused.Add(1)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		var call struct {
			UserID     string                  `json:"user_id"`
			CustomVars struct{ Number string } `json:"custom_vars"`
		}
		if err := json.NewDecoder(r.Body).Decode(&call); err != nil {
			t.Errorf("a call cannot be read: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if want := strconv.Itoa(next[call.UserID]); call.CustomVars.Number != want {
			t.Errorf("%s is told of %s, want %s", call.UserID, call.CustomVars.Number, want)
		}
		next[call.UserID]++
		_, _ = io.WriteString(rw, accepted)
	})
	w.give(t, "wrong")
	nodes := []*node{newNode(t, w), newNode(t, w)}
	for _, n := range nodes {
		n.follow(t)
	}
	alerts := func() int { return nodes[0].log.with("level=ERROR") + nodes[1].log.with("level=ERROR") }
	allHeld := func(alerted int) {
		t.Helper()
		until(t, "every conversation is held", func() bool {
			return storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE status = 'held'`) == conversations
		})
		until(t, "somebody is alerted", func() bool { return alerts() >= alerted }) // once the hold is committed
		if got := alerts(); got != alerted {
			t.Errorf("%d alerts, want %d", got, alerted)
		}
		if got := storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL`); got != 0 {
			t.Errorf("%d deliveries are due, want none", got)
		}
	}
	var g errgroup.Group
	for i := range conversations {
		wait := w.Register(t, w.Registration(t, "u-"+strconv.Itoa(i), numbered(w.Plan(), w.DestinationID)))
		g.Go(func() error {
			for n := range calls {
				if _, err := nodes[rand.IntN(len(nodes))].in.Accept(context.Background(), w.refund(n, wait.Token)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	allHeld(1)
	before := refused.Load()
	if before > conversations {
		t.Errorf("%d calls were refused, want at most one for each of %d conversations", before, conversations)
	}
	to := nodes[0].directory.Current().Destination(w.DestinationID)
	if released, err := nodes[0].directory.Resume(t.Context(), to); released != conversations || err != nil {
		t.Errorf("resumed: got %d, %v, want %d", released, err, conversations)
	}
	until(t, "the token is refused again", func() bool { return alerts() == 2 })
	allHeld(2)
	w.give(t, "right")
	until(t, "all is delivered", func() bool {
		return storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE status = 'delivered'`) == conversations*calls
	})
	if got := storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL OR status = 'held'`); got != 0 {
		t.Errorf("%d slots are left, want none", got)
	}
	until(t, "the release has ended", func() bool {
		return storetest.Query[int](t, w.url, `SELECT count(*) FROM destinations WHERE releasing OR held_at IS NOT NULL`) == 0
	})
}

// A node that died between the refusal and the hold has changed nothing:
// whoever comes next is refused, and holds the destination. One that died
// after the hold leaves a delivery that is held without another call.
func TestCrashAroundTheHold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		held  bool
		want  string
		calls int
	}{
		{"before the hold", false, "held 1 credentials", 1},
		{"after the hold", true, "held 0", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusUnauthorized) })
			d := w.owe(t, w.Plan(), "u-1")[0] // and its node dies
			if tt.held {
				if held, err := w.Store.HoldDestination(t.Context(), w.DestinationID, 0, "bad_credentials"); !held || err != nil {
					t.Fatalf("holding: got %t, %v", held, err)
				}
			}
			w.endLeases(t)
			newEngine(t, w.Store, time.Second).run(t)
			w.becomes(t, d, tt.want)
			if got := w.at.calls(); got != tt.calls {
				t.Errorf("%d calls were made, want %d", got, tt.calls)
			}
		})
	}
}

// A deleted destination cannot be given other credentials: what it refuses is
// dead.
func TestDeletedDestinationIsNotHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusForbidden) })
	d := w.owe(t, w.Plan(), "u-1")[0]
	err := w.Store.Configure(t.Context(), func(c *store.Change) error { return c.DeleteDestination(t.Context(), w.DestinationID) })
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	e.HandOver([]relay.Delivery{d})
	w.becomes(t, d, "dead 1 credentials")
	if got := e.log.with("level=ERROR"); got != 0 {
		t.Errorf("%d alerts, want none", got)
	}
}

// manyHeld is how many deliveries TestReleaseOfMany releases; a hundred
// thousand of them were tried, see docs/states.md.
const manyHeld = 3_000

// TestReleaseOfMany releases a destination that holds many deliveries. A node
// takes no more of them into its memory than it is about to send, each is sent
// once, and a healthy destination is called meanwhile.
func TestReleaseOfMany(t *testing.T) {
	t.Parallel()
	const meanwhile = 20
	w := newWorld(t, ok)
	w.at.forget(t)
	healthy := newPlatform(t, ok)
	healthyID := w.AddDestination(t, relay.Destination{Name: "healthy", BaseURL: healthy.URL})
	w.oweMany(t, w.DestinationID, manyHeld)
	storetest.Exec(t, w.url, `UPDATE destinations SET held_at = now(), held_reason = 'bad_credentials' WHERE id = $1`, w.DestinationID)
	storetest.Exec(t, w.url, `UPDATE deliveries SET status = 'held', due_at = NULL WHERE due_at IS NOT NULL`)
	waits := make([]relay.Wait, meanwhile)
	p := relay.Plan{On: map[string]relay.Action{"completed": {Action: relay.TriggerResponse, ModuleID: 1, DestinationID: healthyID}}}
	for i := range waits {
		waits[i] = w.Register(t, w.Registration(t, "u-"+strconv.Itoa(i), p))
	}
	n := newNode(t, w)
	n.follow(t)
	to := n.directory.Current().Destination(w.DestinationID)
	if released, err := n.directory.Resume(t.Context(), to); released != manyHeld || err != nil {
		t.Fatalf("resumed: got %d, %v, want %d", released, err, manyHeld)
	}
	most := 0
	for _, wait := range waits {
		if _, err := n.in.Accept(t.Context(), w.Paid("evt_"+relay.NewToken(), "pi_"+relay.NewToken(), wait.Token)); err != nil {
			t.Fatal(err)
		}
		receive(t, healthy.came, "the healthy destination is called")
		most = max(most, n.Queued())
	}
	until(t, "all is delivered", func() bool {
		most = max(most, n.Queued())
		return w.count(t, `status = 'delivered'`) == manyHeld+meanwhile
	})
	if most > deliver.MostReleased {
		t.Errorf("the node held %d deliveries, want at most %d", most, deliver.MostReleased)
	}
	if got := w.at.calls(); got != manyHeld {
		t.Errorf("%d calls were made, want %d", got, manyHeld)
	}
	until(t, "the release has ended", func() bool {
		return storetest.Query[int](t, w.url, `SELECT count(*) FROM destinations WHERE releasing`)+storetest.Query[int](t, w.url, `SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL OR status = 'held'`) == 0
	})
}
