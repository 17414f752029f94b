package store_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// payable registers a wait that is paid by what was made for it.
func payable(t *testing.T, p *storetest.Project, user, object string) relay.Wait {
	t.Helper()
	return p.Register(t, payableBy(t, p, user, object))
}

func payableBy(t *testing.T, p *storetest.Project, user, object string) store.Registration {
	t.Helper()
	reg := p.Registration(t, user, p.Plan())
	reg.Checkout = &store.Checkout{SourceID: p.SourceID, Object: object, URL: "https://pay.test/" + object, Reference: true}
	return reg
}

// cancel ends a wait by hand.
func cancel(t *testing.T, p *storetest.Project, w relay.Wait) {
	t.Helper()
	_, err := p.Store.EndWait(t.Context(), uuid.New(), p.ID, w.ID, func(w *relay.Wait) (store.Ending, error) {
		return store.Ending{Wait: w, Step: w.Apply(relay.Cancelled, ""), By: "api"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOpenCheckouts ends waits in every way there is, and wants those sessions
// ended that could still be paid.
func TestOpenCheckouts(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	s := storetest.Open(t, url, storetest.Keys(t))
	p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")

	payable(t, p, "pending", "cs_pending")
	cancel(t, p, payable(t, p, "cancelled", "cs_cancelled"))
	cancel(t, p, payable(t, p, "a link", "plink_1"))
	cancel(t, p, p.Wait(t, "nothing to pay by"))

	payable(t, p, "superseded", "cs_superseded")
	payable(t, p, "superseded", "cs_newer")

	overdue := payable(t, p, "overdue", "cs_overdue")
	storetest.Overdue(t, url, overdue.ID)
	asked := payable(t, p, "asked for", "cs_asked")
	storetest.Overdue(t, url, asked.ID)
	_, _, err := s.ExpireDue(t.Context(), uuid.New(), 10, func(_ context.Context, waits []*store.Overdue) (endings []store.Ending, err error) {
		for _, w := range waits {
			end := store.Ending{Wait: w.Wait}
			if w.ID == asked.ID {
				end.Asks = &relay.Question{ID: relay.NewID(), ProjectID: p.ID, SourceID: p.SourceID, CorrelationID: w.ID, About: w.Asks}
			} else {
				end.Step, end.By = w.Apply(relay.Expired, ""), "deadline"
			}
			endings = append(endings, end)
		}
		return endings, nil
	})
	if err != nil {
		t.Fatal(err)
	}

	late := payable(t, p, "paid late", "cs_late")
	cancel(t, p, late)
	payable(t, p, "paid late", "cs_successor")
	commit(t, p, deduped(p.Callback("late", relay.Completed, late.Token)))

	commit(t, p, deduped(p.Callback("paid", relay.Completed, payable(t, p, "paid", "cs_paid").Token)))
	two := payableBy(t, p, "paid elsewhere", "cs_elsewhere")
	two.Wait.SourceIDs = append(two.Wait.SourceIDs, p.SourceID+1)
	commit(t, p, deduped(p.Callback("elsewhere", relay.Completed, p.Register(t, two).Token)))

	var got []string
	claimed := must(s.ClaimOpenCheckouts(t.Context(), uuid.New(), 100, []int64{-1}))(t)
	for _, c := range claimed {
		got = append(got, c.Object)
	}
	slices.Sort(got)
	want := []string{"cs_cancelled", "cs_elsewhere", "cs_late", "cs_overdue", "cs_successor", "cs_superseded"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("to be ended (-want +got):\n%s", diff)
	}
}

// TestErasedCheckouts erases people with a session that can still be paid: it
// is ended, and then nothing is left of it.
func TestErasedCheckouts(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	s := storetest.Open(t, url, storetest.Keys(t))
	p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
	payable(t, p, "pending", "cs_pending")
	payable(t, p, "a link", "plink_1")
	cancel(t, p, payable(t, p, "cancelled", "cs_cancelled"))
	commit(t, p, deduped(p.Callback("paid", relay.Completed, payable(t, p, "paid", "cs_paid").Token)))
	for _, user := range []string{"pending", "a link", "cancelled", "paid"} {
		if _, _, err := s.EraseNext(t.Context(), p.ID, user, 10); err != nil {
			t.Fatal(err)
		}
	}
	const left = `SELECT coalesce(string_agg(concat_ws(' ', object, url), ', ' ORDER BY object), '') FROM checkouts`
	if got, want := storetest.Query[string](t, url, left), "cs_cancelled , cs_pending "; got != want {
		t.Errorf("after the erasure there are %q, want %q: what is to be ended, without its address", got, want)
	}
	soon := time.Duration(0)
	for range 2 {
		for _, c := range must(s.ClaimOpenCheckouts(t.Context(), uuid.New(), 10, []int64{-1}))(t) {
			result, again := store.SessionEnded, (*time.Duration)(nil)
			if c.Tries == 0 && c.Object == "cs_pending" {
				result, again = store.EndingFailed, &soon
			}
			if held := must(s.RecordSessionEnd(t.Context(), &c, result, again))(t); !held {
				t.Errorf("%s: the lease is lost", c.Object)
			}
		}
	}
	if got := storetest.Query[string](t, url, left); got != "" {
		t.Errorf("once they are ended there are %q, want nothing", got)
	}
}

func TestOpenCheckoutIsOneNodes(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	s := storetest.Open(t, url, storetest.Keys(t))
	p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
	w := payable(t, p, "u", "cs_1")
	cancel(t, p, w)
	claim := func(want int) []store.OpenCheckout {
		t.Helper()
		claimed := must(s.ClaimOpenCheckouts(t.Context(), uuid.New(), 10, []int64{-1}))(t)
		if len(claimed) != want {
			t.Fatalf("got %d claimed, want %d", len(claimed), want)
		}
		return claimed
	}
	record := func(c store.OpenCheckout, result store.EndResult, again *time.Duration, want bool) {
		t.Helper()
		if held := must(s.RecordSessionEnd(t.Context(), &c, result, again))(t); held != want {
			t.Errorf("recording %s: got held %v, want %v", result, held, want)
		}
	}
	first := claim(1)[0]
	claim(0) // another node leaves it alone
	storetest.Exec(t, url, `UPDATE checkouts SET end_due_at = now()`)
	second := claim(1)[0] // until its lease is over
	record(first, store.SessionEnded, nil, false)
	at := time.Duration(0)
	record(second, store.EndingFailed, &at, true)
	third := claim(1)[0]
	if third.Tries != 1 {
		t.Errorf("got %d tries, want the one that was recorded", third.Tries)
	}
	record(third, store.SessionOver, nil, true)
	claim(0)
	made := must(s.CheckoutOf(t.Context(), w.ID))(t)
	if made.EndResult == nil || *made.EndResult != store.SessionOver || made.EndTries != 2 || made.EndTriedAt == nil {
		t.Errorf("got %+v, want what came of it", made)
	}
}
