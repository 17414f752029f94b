package deliver_test

import (
	"testing"
	"time"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/storetest"
)

// TestRateIsShared has two nodes call a destination with a rate, of which more
// is owed than it allows. Together they never call more often, nothing is
// lost, and nothing is sent twice.
func TestRateIsShared(t *testing.T) {
	t.Parallel()
	const owed, perSecond = 150, 20
	w := newWorld(t, ok)
	id := w.AddDestination(t, relay.Destination{Name: "measured", BaseURL: w.at.URL, Rate: "20/s"})
	w.oweMany(t, id, owed)
	nodes := []*engine{newEngine(t, w.Store, time.Second), newEngine(t, storetest.Open(t, w.url, w.keys), time.Second)}
	began := time.Now()
	for _, n := range nodes {
		n.run(t)
	}
	// A second's worth may have been saved up, and what is taken is used
	// within another.
	within := func(calls int) {
		t.Helper()
		if most := perSecond * (2 + int(time.Since(began)/time.Second) + 1); calls > most {
			t.Errorf("%d calls after %v, want at most %d", calls, time.Since(began), most)
		}
	}
	until(t, "all is delivered", func() bool {
		within(w.at.calls())
		return w.count(t, `status = 'delivered'`) == owed
	})
	if got := w.at.calls(); got != owed {
		t.Errorf("%d calls for %d deliveries", got, owed)
	}
	if took := time.Since(began); took < (owed/perSecond-2)*time.Second {
		t.Errorf("all were sent in %v, want it to take about %d s", took, owed/perSecond)
	}
}

// A rate slower than retry_for makes nothing dead: nobody has refused it. What
// waits for its turn neither sits in memory nor burns attempts.
func TestRateMakesNothingDead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ok)
	id := w.AddDestination(t, relay.Destination{Name: "slow", BaseURL: w.at.URL, Rate: "1/h"})
	w.oweMany(t, id, 40)
	storetest.Exec(t, w.url, `UPDATE deliveries SET give_up_at = now()`)
	e := newEngine(t, w.Store, time.Second)
	e.run(t)
	until(t, "one is sent, and the others wait for minutes", func() bool {
		return w.count(t, `status = 'delivered'`) == 1 && e.Queued() == 0 &&
			w.count(t, `status = 'scheduled' AND due_at > now() + interval '1 minute' AND lease IS NULL AND attempts = 0`) == 39
	})
}
