package intake_test

import (
	"bytes"
	"flag"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/interleave"
)

// schedule has one schedule of one scenario played alone, as a failure prints
// it:
//
//	go test ./internal/intake -run 'TestInterleavings/event_and_expiry' -v -schedule AABBA
var schedule = flag.String("schedule", "", "the one schedule that TestInterleavings plays")

// scenario is one scene, and all the ways in which it may come out: of each
// wait its state, with a late success, and what it fired in order; then of
// each event the rule that decided it. Each way must be seen, or the actors
// did not meet.
type scenario struct {
	name     string
	actors   int
	switches int // see interleave.Scene
	set      func(testing.TB, *theatre) []func() error
	want     []string
}

// TestInterleavings plays what can meet in every order that Postgres can see.
func TestInterleavings(t *testing.T) {
	t.Parallel()
	for _, sc := range slices.Concat(meetings, ends, turns, crowds) {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			sc.play(t, newTheatre(t, sc.actors))
		})
	}
}

func (sc *scenario) play(t *testing.T, th *theatre) {
	set := func(t testing.TB) interleave.Scene {
		th.begin()
		return interleave.Scene{Actors: sc.set(t, th), Rest: th.rest, Switches: sc.switches}
	}
	if *schedule != "" {
		th.stage.Only(t, set(t), *schedule)
		return
	}
	began := time.Now()
	found := th.stage.Explore(t, set)
	t.Logf("%d schedules, %d given up, %s", found.Schedules, found.Pruned, time.Since(began).Round(time.Millisecond))
	for _, outcome := range slices.Sorted(maps.Keys(found.Outcomes)) {
		t.Logf("%d times %s", found.Outcomes[outcome], outcome)
		if !slices.Contains(sc.want, outcome) {
			t.Errorf("schedule %s came to\n%s, want one of\n%s", found.First[outcome], outcome, strings.Join(sc.want, "\n"))
		}
	}
	for _, outcome := range sc.want {
		if found.Outcomes[outcome] == 0 {
			t.Errorf("nothing came to %s", outcome)
		}
	}
}

// meetings are those of an event with its wait, or with another event that
// one of them needs.
var meetings = []scenario{
	{
		name: "create and event", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			key := th.name("order")
			return []func() error{
				th.receives(th.parts[0], th.callback(t, session(th.name("evt"), "paid", key, th.name("pi")))),
				registers(th.parts[1], th.registration(t, "user", key)),
			}
		},
		want: []string{
			"completed: completed*, evt closed",
			"completed: completed*, evt nobody_waits_yet then closed",
		},
	},
	{
		name: "reference and event", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			key, intent := th.name("order"), th.name("pi")
			th.pending(t, key)
			return []func() error{
				th.receives(th.parts[0], th.callback(t, session(th.name("teaching"), "unpaid", key, intent))),
				th.receives(th.parts[1], th.callback(t, declined(th.name("waiting"), intent))),
			}
		},
		want: []string{
			"pending: processing* attempt_failed, teaching deadline_extended, waiting on_the_way",
			"pending: processing* attempt_failed, teaching deadline_extended, waiting nobody_waits_yet then on_the_way",
		},
	},
	{
		name: "sweep and sweep", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			th.overlooked(t)
			return []func() error{sweeps(th.parts[0]), sweeps(th.parts[1])}
		},
		want: []string{
			"completed: completed*, early closed",
		},
	},
	{
		name: "sweep and event", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			key := th.overlooked(t)
			failed := strings.Replace(session(th.name("failed"), "unpaid", key, th.name("pi")), "session.completed", "session.async_payment_failed", 1)
			return []func() error{sweeps(th.parts[0]), th.receives(th.parts[1], th.callback(t, failed))}
		},
		want: []string{
			"completed: completed*, early closed, failed already_closed",
			"failed/completed: failed* completed_late, early completed_late, failed closed",
		},
	},
	{
		name: "sweep and the same event", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			key := th.overlooked(t)
			again := session(th.name("early"), "paid", key, th.name("pi"))
			return []func() error{sweeps(th.parts[0]), th.receives(th.parts[1], th.callback(t, again))}
		},
		want: []string{
			"completed: completed*, early closed, early same_event",
		},
	},
	{
		name: "sweep and expiry", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			th.overlooked(t)
			th.hurry(t)
			return []func() error{sweeps(th.parts[0]), expires(th.parts[1])}
		},
		want: []string{
			"completed: completed*, early closed",
			"expired/completed: expired* completed_late, early completed_late",
		},
	},
	{
		name: "sweep and giving up", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			th.overlooked(t)
			return []func() error{sweeps(th.parts[0]), givesUp(th.parts[1])}
		},
		want: []string{
			"completed: completed*, early closed",
			"pending:, early nobody_came",
		},
	},
}

// ends are the meetings of what may end a wait, or may not any more.
var ends = []scenario{
	{
		name: "the same event twice", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			return []func() error{th.receives(th.parts[0], th.paid("evt", "pi", w)), th.receives(th.parts[1], th.paid("evt", "pi", w))}
		},
		want: []string{
			"completed: completed*, evt closed, evt same_event",
		},
	},
	{
		name: "two types of one payment", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			key, intent := th.name("order"), th.name("pi")
			th.pending(t, key)
			succeeded := strings.Replace(declined(th.name("intent"), intent), "payment_failed", "succeeded", 1)
			return []func() error{
				th.receives(th.parts[0], th.callback(t, session(th.name("session"), "paid", key, intent))),
				th.receives(th.parts[1], th.callback(t, succeeded)),
			}
		},
		want: []string{
			"completed: completed*, intent already_closed, session closed",
			"completed: completed*, intent nobody_waits_yet then already_closed, session closed",
		},
	},
	{
		name: "two payments", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			return []func() error{th.receives(th.parts[0], th.paid("one", "pi-1", w)), th.receives(th.parts[1], th.paid("two", "pi-2", w))}
		},
		want: []string{
			"completed: completed* paid_again, one closed, two other_payment",
			"completed: completed* paid_again, one other_payment, two closed",
		},
	},
	{
		name: "completed and failed", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			return []func() error{th.receives(th.parts[0], th.paid("paid", "pi", w)), th.receives(th.parts[1], th.told("failed", relay.Failed, w))}
		},
		want: []string{
			"completed: completed*, failed already_closed, paid closed",
			"failed/completed: failed* completed_late, failed closed, paid completed_late",
		},
	},
	{
		name: "completed and a failed attempt", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			return []func() error{th.receives(th.parts[0], th.paid("paid", "pi", w)), th.receives(th.parts[1], th.told("declined", relay.AttemptFailed, w))}
		},
		want: []string{
			"completed: completed*, declined already_closed, paid closed",
			"completed: attempt_failed* completed, declined on_the_way, paid closed",
		},
	},
	{
		name: "event and expiry", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.overdue(t, "user")
			return []func() error{th.receives(th.parts[0], th.paid("evt", "pi", w)), expires(th.parts[1])}
		},
		want: []string{
			"completed: completed*, evt closed",
			"expired/completed: expired* completed_late, evt completed_late",
		},
	},
	{
		name: "processing and expiry", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.overdue(t, "user")
			return []func() error{th.receives(th.parts[0], th.told("slow", relay.Processing, w)), expires(th.parts[1])}
		},
		want: []string{
			"pending: processing*, slow deadline_extended",
			"expired: expired*, slow already_closed",
		},
	},
	{
		name: "expiry and expiry", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			th.overdue(t, "one")
			th.overdue(t, "two")
			return []func() error{expires(th.parts[0]), expires(th.parts[1])}
		},
		want: []string{
			"expired: expired*, expired: expired*",
		},
	},
	{
		name: "event and cancel", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			return []func() error{th.receives(th.parts[0], th.paid("evt", "pi", w)), cancels(th.parts[1], w)}
		},
		want: []string{
			"completed: completed*, evt closed",
			"cancelled/completed: cancelled* completed_late, evt completed_late",
		},
	},
	{
		name: "expiry and cancel", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.overdue(t, "user")
			return []func() error{expires(th.parts[0]), cancels(th.parts[1], w)}
		},
		want: []string{
			"expired: expired*",
			"cancelled: cancelled*",
		},
	},
	{
		name: "event and supersede", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			return []func() error{th.receives(th.parts[0], th.paid("evt", "pi", w)), registers(th.parts[1], th.registration(t, "user", ""))}
		},
		want: []string{
			"completed: completed*, pending:, evt closed",
			"superseded/completed: completed_late*, superseded:, evt completed_late",
		},
	},
	{
		name: "event by key and supersede", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			key := th.name("order")
			th.pending(t, key)
			return []func() error{
				th.receives(th.parts[0], th.callback(t, session(th.name("evt"), "paid", key, th.name("pi")))),
				registers(th.parts[1], th.registration(t, "user", key)),
			}
		},
		want: []string{
			"completed: completed*, pending:, evt closed",
			"superseded:, completed: completed*, evt closed",
		},
	},
	{
		name: "late event and a new wait", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.expired(t, "user")
			return []func() error{th.receives(th.parts[0], th.paid("evt", "pi", w)), registers(th.parts[1], th.registration(t, "user", ""))}
		},
		want: []string{
			"expired/completed: expired* completed_late, pending:, evt completed_late",
			"expired/completed: expired* completed_late, superseded:, evt completed_late",
		},
	},
	{
		name: "late event and its successor's event", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			old, w := th.pending(t, ""), th.pending(t, "")
			return []func() error{th.receives(th.parts[0], th.paid("late", "pi-1", old)), th.receives(th.parts[1], th.paid("evt", "pi-2", w))}
		},
		want: []string{
			"superseded/completed: completed_late*, superseded/completed: completed_late, evt completed_late, late completed_late",
			"superseded/completed: completed_late, completed: completed*, evt closed, late completed_late",
		},
	},
	{
		name: "expiry and supersede", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			th.overdue(t, "user")
			return []func() error{expires(th.parts[0]), registers(th.parts[1], th.registration(t, "user", ""))}
		},
		want: []string{
			"expired: expired*, pending:",
			"superseded:, pending:",
		},
	},
	{
		name: "create and create", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			key := th.name("order")
			return []func() error{
				registers(th.parts[0], th.registration(t, "user", key)),
				registers(th.parts[1], th.registration(t, "user", key)),
			}
		},
		want: []string{
			"pending:, superseded:",
			"superseded:, pending:",
		},
	},
}

// turns are the meetings of what gives and takes the turn in a conversation.
var turns = []scenario{
	{
		name: "retry and late event", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.expired(t, "user")
			dead := th.aside.taken()
			th.record(t, relay.Permanent, dead)
			return []func() error{retries(th.parts[0], &dead[0]), th.receives(th.parts[1], th.paid("evt", "pi", w))}
		},
		want: []string{
			"expired/completed: expired completed_late*, evt completed_late",
			"expired/completed: expired completed_late, evt completed_late",
		},
	},
	{
		name: "end and birth", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			d := th.owed(t, w, 1)
			return []func() error{records(th.parts[0], d), th.receives(th.parts[1], th.paid("evt", "pi", w))}
		},
		want: []string{
			"completed: refunded completed*, evt closed",
			"completed: refunded completed, evt closed",
		},
	},
	{
		name: "end and birth where one waits", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			d := th.owed(t, w, 2)
			return []func() error{records(th.parts[0], d), th.receives(th.parts[1], th.paid("evt", "pi", w))}
		},
		want: []string{
			"completed: refunded refunded completed, evt closed",
		},
	},
	{
		name: "end and skip of who waits", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			d := th.owed(t, w, 2)
			return []func() error{records(th.parts[0], d), skips(th.parts[1], th.waiting(t, w))}
		},
		want: []string{
			"pending: refunded refunded",
		},
	},
	{
		name: "claim and the end of the wait", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			th.commit(t, th.told("declined", relay.AttemptFailed, w))
			th.record(t, relay.Retry, th.aside.taken())
			return []func() error{claims(th.parts[0]), th.receives(th.parts[1], th.paid("evt", "pi", w))}
		},
		want: []string{
			"completed: attempt_failed completed, declined on_the_way, evt closed",
			"completed: attempt_failed* completed, declined on_the_way, evt closed",
		},
	},
	{
		// Nobody waits for the retry: all is made at once in the end.
		name: "retry of a failed attempt and the end of the wait", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			th.commit(t, th.told("declined", relay.AttemptFailed, w))
			return []func() error{postpones(th.parts[0], th.aside.taken()[0]), th.receives(th.parts[1], th.paid("evt", "pi", w))}
		},
		want: []string{
			"completed: attempt_failed completed, declined on_the_way, evt closed",
		},
	},
	{
		name: "retry of a failed attempt and supersede", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.Register(t, th.registration(t, "user", ""))
			th.commit(t, th.told("declined", relay.AttemptFailed, w))
			return []func() error{postpones(th.parts[0], th.aside.taken()[0]), registers(th.parts[1], th.registration(t, "user", ""))}
		},
		want: []string{
			"superseded: attempt_failed, pending:, declined on_the_way",
		},
	},
	{
		name: "claim and claim", actors: 2,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			d := th.owed(t, w, 2)
			th.record(t, relay.OK, []relay.Delivery{d})
			return []func() error{claims(th.parts[0]), claims(th.parts[1])}
		},
		want: []string{
			"pending: refunded refunded*",
		},
	},
}

// crowds are the meetings of three. In some the third holds what the other two
// then wait for, so that they take what is behind it in the order of their own.
var crowds = []scenario{
	{
		name: "event and expiry and supersede", actors: 3,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.overdue(t, "user")
			return []func() error{
				th.receives(th.parts[0], th.paid("evt", "pi", w)), expires(th.parts[1]),
				registers(th.parts[2], th.registration(t, "user", "")),
			}
		},
		want: []string{
			"completed: completed*, pending:, evt closed",
			"expired/completed: expired* completed_late, pending:, evt completed_late",
			"expired/completed: expired* completed_late, superseded:, evt completed_late",
			"superseded/completed: completed_late*, superseded:, evt completed_late",
		},
	},
	{
		name: "end and birth and retry", actors: 3, switches: 1,
		set: func(t testing.TB, th *theatre) []func() error {
			w := th.pending(t, "")
			dead := th.owed(t, w, 2)
			th.record(t, relay.Permanent, []relay.Delivery{dead})
			d := th.claimed(t)
			return []func() error{
				records(th.parts[0], d), th.receives(th.parts[1], th.paid("evt", "pi", w)), retries(th.parts[2], &dead),
			}
		},
		want: []string{
			"completed: refunded refunded completed*, evt closed",
			"completed: refunded refunded completed, evt closed",
		},
	},
	{
		name: "batches over the same waits in opposite order", actors: 3,
		set: func(t testing.TB, th *theatre) []func() error {
			first, second := th.users()
			one, two := th.aspect(t, first, 0), th.aspect(t, second, 0)
			return []func() error{
				th.receives(th.parts[0], th.told("a-two", relay.Failed, two), th.told("a-one", relay.Failed, one)),
				th.receives(th.parts[1], th.paid("b-one", "pi-1", one), th.paid("b-two", "pi-2", two)),
				cancels(th.parts[2], one),
			}
		},
		want: []string{
			"completed: completed*, completed: completed*, a-one already_closed, a-two already_closed, b-one closed, b-two closed",
			"failed/completed: failed* completed_late, failed/completed: failed* completed_late, a-one closed, a-two closed, b-one completed_late, b-two completed_late",
			"cancelled/completed: cancelled* completed_late, completed: completed*, a-one already_closed, a-two already_closed, b-one completed_late, b-two closed",
			"cancelled/completed: cancelled* completed_late, failed/completed: failed* completed_late, a-one already_closed, a-two closed, b-one completed_late, b-two completed_late",
		},
	},
	{
		name: "batches of the same early events in opposite order", actors: 3, switches: 1,
		set: func(t testing.TB, th *theatre) []func() error {
			one, two := th.twoEvents()
			return []func() error{
				th.receives(th.parts[0], th.callback(t, one), th.callback(t, two)),
				th.receives(th.parts[1], th.callback(t, two), th.callback(t, one)),
				th.receives(th.parts[2], th.callback(t, one)),
			}
		},
		want: []string{
			"one nobody_waits_yet, one same_event, one same_event, two nobody_waits_yet, two same_event",
		},
	},
	{
		name: "batches over the same conversations in opposite order", actors: 3, switches: 1,
		set: func(t testing.TB, th *theatre) []func() error {
			first, second := th.users()
			var one, two [3]relay.Wait
			for i := range 3 {
				one[i], two[i] = th.aspect(t, first, i), th.aspect(t, second, i)
			}
			return []func() error{
				th.receives(th.parts[0], th.paid("a-one", "pi-1", one[0]), th.paid("a-two", "pi-2", two[0])),
				th.receives(th.parts[1], th.paid("b-two", "pi-3", two[1]), th.paid("b-one", "pi-4", one[1])),
				cancels(th.parts[2], one[2]),
			}
		},
		want: []string{
			"completed: completed*, completed: completed*, completed: completed, completed: completed, cancelled: cancelled, pending:, a-one closed, a-two closed, b-one closed, b-two closed",
			"completed: completed, completed: completed*, completed: completed, completed: completed, cancelled: cancelled*, pending:, a-one closed, a-two closed, b-one closed, b-two closed",
			"completed: completed, completed: completed, completed: completed*, completed: completed*, cancelled: cancelled, pending:, a-one closed, a-two closed, b-one closed, b-two closed",
			"completed: completed, completed: completed, completed: completed, completed: completed*, cancelled: cancelled*, pending:, a-one closed, a-two closed, b-one closed, b-two closed",
		},
	},
}

// overlooked leaves an early event and its wait in the state in which the
// nodes have died that should have looked, and returns their key.
func (th *theatre) overlooked(t testing.TB) (key string) {
	t.Helper()
	key = th.name("order")
	th.commit(t, th.callback(t, session(th.name("early"), "paid", key, th.name("pi"))))
	th.pending(t, key)
	return key
}

// expired makes a wait of this run that has expired.
func (th *theatre) expired(t testing.TB, user string) relay.Wait {
	t.Helper()
	w := th.overdue(t, user)
	if n, err := th.aside.sweeper.ExpireOnce(t.Context()); err != nil || n != 1 {
		t.Fatalf("expired %d waits, %v, want 1", n, err)
	}
	return w
}

// owed has a wait owe some calls, and returns the one that is to be made now.
func (th *theatre) owed(t testing.TB, w relay.Wait, n int) relay.Delivery {
	t.Helper()
	batch := make([]relay.Callback, n)
	for i := range batch {
		batch[i] = th.told("before-"+strconv.Itoa(i), relay.Refunded, w)
	}
	th.commit(t, batch...)
	ds := th.aside.taken()
	if len(ds) != 1 {
		t.Fatalf("%d calls are to be made now, want 1", len(ds))
	}
	return ds[0]
}

// twoEvents returns two events, in the order of their dedupe keys, of waits
// that nobody has made.
func (th *theatre) twoEvents() (one, two string) {
	key := func(id string) []byte {
		k := store.DedupeHash(th.SourceID, "id\x00"+id)
		return k[:]
	}
	first := th.name("one")
	for try := 0; ; try++ {
		if second := th.name("two." + strconv.Itoa(try)); bytes.Compare(key(first), key(second)) < 0 {
			return session(first, "paid", first, first+" pi"), session(second, "paid", second, second+" pi")
		}
	}
}

// users returns the names of two users in the order of their slots.
func (th *theatre) users() (first, second string) {
	first, second = th.name("first"), th.name("second")
	slot := func(user string) []byte {
		id := store.ConversationHash(th.DestinationID, user)
		return id[:]
	}
	if bytes.Compare(slot(first), slot(second)) > 0 {
		return second, first
	}
	return first, second
}

// claimed claims the one delivery that is due.
func (th *theatre) claimed(t testing.TB) relay.Delivery {
	t.Helper()
	ds, err := th.Store.ClaimDue(t.Context(), uuid.New(), 100)
	if err != nil || len(ds) != 1 {
		t.Fatalf("claimed %d deliveries, %v, want 1", len(ds), err)
	}
	return ds[0]
}

// waiting returns the delivery of a wait that waits for its turn.
func (th *theatre) waiting(t testing.TB, w relay.Wait) uuid.UUID {
	t.Helper()
	return scan[uuid.UUID](t, th, `SELECT id FROM deliveries WHERE correlation_id = $1 AND status = 'scheduled' AND due_at IS NULL`, w.ID)
}

// aspect makes a wait of a user that supersedes none of the others.
func (th *theatre) aspect(t testing.TB, user string, number int) relay.Wait {
	t.Helper()
	r := th.Registration(t, user, th.Plan())
	r.Wait.Scope = store.ScopeHash(th.ID, "flow/"+strconv.Itoa(number)+"/"+user)
	th.waits = append(th.waits, r.Wait)
	return th.Register(t, r)
}
