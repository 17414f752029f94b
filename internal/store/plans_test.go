package store_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// hotStatements are the statements of the hot pool, each by a part of its text.
var hotStatements = map[string]string{
	"lock the waits of callbacks":     "FROM correlations WHERE token = ANY",
	"look for dedupe keys":            "SELECT dedupe_key, id, correlation_id",
	"keep events":                     "INSERT INTO events",
	"close waits":                     "SET status = x.status",
	"delete deadlines":                "DELETE FROM deadlines WHERE correlation_id = ANY",
	"free the keys of closed waits":   "UPDATE correlation_refs SET key_active = false",
	"note late successes":             "SET late_outcome = 'completed'",
	"close successors":                "WITH successors AS",
	"extend deadlines":                "SET extended = true",
	"learn references":                "INSERT INTO correlation_refs (ref, correlation_id, project_id)",
	"owe deliveries":                  "INSERT INTO deliveries",
	"find due deadlines":              "WHERE c.id = ANY (ARRAY(",
	"postpone deadlines":              "UPDATE deadlines SET expires_at = clock_timestamp()",
	"claim due deliveries":            "WHERE due_at <= now()\n\t\t    ORDER BY due_at\n\t\t    LIMIT $3\n\t\t    FOR UPDATE SKIP LOCKED\n\t\t), claimed",
	"look through due deliveries":     "FROM deliveries\n\t\t    WHERE due_at > $1",
	"claim a piece of what is due":    "WHERE due_at > $5",
	"record attempts":                 "WITH given AS (",
	"pass slots on":                   "WITH next AS",
	"look for fallbacks":              "AS fallback (project_id, id)",
	"keep fallbacks in sight":         "SELECT born.project_id",
	"charge a rate's budget":          "SET spent_until = greatest(spent_until, clock_timestamp()",
	"bring pointless ones forward":    "ELSE d.due_at END",
	"bring overtaken ones forward":    "c.status <> 'pending' FROM",
	"skip pointless ones":             "THEN 'its wait has closed'",
	"mark what is being sent":         "SET status = 'sending'",
	"return leases":                   "SET due_at = clock_timestamp(), lease = NULL",
	"open a rate's budget":            "INSERT INTO rate_budgets",
	"take from a rate's budget":       "WITH budget AS MATERIALIZED",
	"postpone deliveries":             "SET lease = NULL, due_at = now() + x.wait",
	"give deliveries up":              "not sent: its destination does not answer",
	"hold deliveries":                 "SET status = 'held'",
	"claim held deliveries":           "WITH freed AS (\n\t\t    SELECT d.project_id",
	"take idempotency keys":           "INSERT INTO idempotency_keys",
	"read idempotency keys":           "SELECT key, request, correlation_id",
	"lock older waits":                "FROM deadlines WHERE scope = ANY",
	"look for keys in use":            "JOIN correlations c ON c.id = r.correlation_id",
	"supersede older waits":           "resolved_by = 'newer_wait'",
	"insert waits":                    "INSERT INTO correlations",
	"insert plans":                    "INSERT INTO plans",
	"name waits by their keys":        "SELECT *, true",
	"free idempotency keys":           "DELETE FROM idempotency_keys",
	"point idempotency keys at waits": "UPDATE idempotency_keys",
	"park events":                     "INSERT INTO parked_refs",
	"look for parked events":          "FROM unnest($1::uuid[]) AS x (ref)",
	"look through parked events":      "WITH piece AS MATERIALIZED",
	"lock stored events":              "FOR UPDATE OF e SKIP LOCKED",
	"change matched events":           "UPDATE events e",
	"forget names of matched events":  "DELETE FROM parked_refs",
	"put questions about events":      "ON CONFLICT (event_id)",
	"raise questions again":           "WITH raised AS MATERIALIZED",
	"close questions of no use":       "SET result = 'moot'",
	"put questions about waits":       "ON CONFLICT (correlation_id)",
	"mark waits that are asked for":   "SET reconciled = false",
	"learn what can be asked for":     "SET asks = x.asks",
	"tell of waits":                   "AS g (kind, id, event_id, details, nth)",
	"tell of superseded successors":   "told AS (",
	"tell of deliveries":              "pg_current_xact_id",
	"claim hooks":                     "h.due_at <= now()",
	"look for new hooks":              "FOR NO KEY UPDATE OF s SKIP LOCKED",
	"number new hooks":                "WITH fresh AS MATERIALIZED",
	"record hooks":                    "DELETE FROM hooks h USING given",
	"return hooks":                    "UPDATE hooks h\n\t\tSET due_at = clock_timestamp(), lease = NULL",
	"claim questions about waits":     "correlation_id IS NOT NULL AND source_id <> ALL",
	"claim questions about events":    "strange = $5 AND due_at <= now() AND event_id IS NOT NULL AND source_id <> ALL",
	"note what is to be nudged":       "INSERT INTO nudges",
	"find due nudges":                 "FROM nudges n JOIN correlations",
	"take nudges off":                 "DELETE FROM nudges n USING",
	"have sessions ended":             "UPDATE checkouts k SET end_due_at",
}

// bigTables have 1e5 rows in TestPlans.
var bigTables = []string{
	"correlations", "deadlines", "correlation_refs", "events", "deliveries", "attempts", "idempotency_keys", "plans", "parked_refs", "questions",
	"nudges", "openings", "hooks", "checkouts",
}

// maxBlocks is how many 8 KiB blocks one hot statement over one to three rows
// may touch, inserts into all their indexes and the splits of pages included.
// A scan of the smallest index of the big tables touches more than twice as
// many.
const maxBlocks = 150

// explaining has the server tell the plan of each statement as a notice.
const explaining = "&session_preload_libraries=auto_explain&client_min_messages=log" +
	"&auto_explain.log_min_duration=0&auto_explain.log_analyze=on&auto_explain.log_buffers=on" +
	"&auto_explain.log_timing=off&auto_explain.log_format=json"

// TestPlans has the server explain every statement that the hot pool really
// runs, first on empty tables, where a sequential scan is the right plan and
// a cached one the trap, then on 1e5 rows. What the planner knows of them is
// nothing, what was true before they came, or what is true.
func TestPlans(t *testing.T) {
	t.Parallel()
	for _, analyzed := range []struct{ name, before, sql string }{
		{"without statistics", `SELECT`, `SELECT`},
		{"with old statistics", `ANALYZE`, `SELECT`},
		{"with statistics", `SELECT`, `ANALYZE`},
	} {
		t.Run(analyzed.name, func(t *testing.T) {
			t.Parallel()
			url := storetest.URL(t, true)
			seen := &explained{plans: map[string][]explainedPlan{}}
			s, err := store.OpenNoticing(context.Background(), store.Config{
				URL:  url + explaining,
				Keys: storetest.Keys(t), HotConnections: 1, Connections: 2,
			}, seen.add)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Close)
			p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
			told := storetest.NewProject(t, s, "told", "http://127.0.0.1:1")
			heard := told.Subscribe(t, relay.Everything, "https://hooks.example/plans")

			for range 6 { // a plan is cached from the sixth time on, or at once
				everyHotStatement(t, p, url)
				everyHook(t, told, heard.ID)
			}
			storetest.Exec(t, url, analyzed.before)
			fill(t, url)
			storetest.Exec(t, url, `UPDATE deliveries SET due_at = now() + interval '1 day' WHERE due_at IS NOT NULL AND project_id <> 99`)
			storetest.Exec(t, url, analyzed.sql)
			seen.reset()
			everyHotStatement(t, p, url) // nothing else is due
			storetest.Exec(t, url, `UPDATE deadlines SET expires_at = expires_at - interval '50000 seconds' WHERE project_id = 99`)
			storetest.Exec(t, url, `UPDATE deliveries SET due_at = due_at - interval '50000 seconds' WHERE project_id = 99`)
			storetest.Exec(t, url, `UPDATE nudges SET due_at = due_at - interval '50000 seconds' WHERE project_id = 99`)
			storetest.Exec(t, url, analyzed.sql)
			everyHotStatement(t, p, url) // half of them are
			everyHook(t, told, heard.ID)
			for _, of := range []string{"strange", "event_id IS NOT NULL AND NOT strange", "correlation_id IS NOT NULL"} {
				storetest.Exec(t, url, `UPDATE questions SET due_at = due_at - interval '50000 seconds' WHERE project_id = 99 AND `+of)
				storetest.Exec(t, url, analyzed.sql)
				if claimed := must(s.ClaimQuestions(t.Context(), uuid.New(), 2, []int64{-1}))(t); len(claimed) != 2 {
					t.Errorf("claiming questions, half of which are due: got %d, want 2", len(claimed))
				}
			}

			for name, part := range hotStatements {
				plans := seen.of(part)
				if len(plans) == 0 {
					t.Errorf("%s: the server explained no such statement", name)
				}
				for _, plan := range plans {
					if table := plan.Plan.scans(); table != "" {
						t.Errorf("%s: scans the table %s:\n%s", name, table, plan.text)
					}
					if got := plan.Plan.Hit + plan.Plan.Read; got > maxBlocks {
						t.Errorf("%s: touches %d blocks, want at most %d:\n%s", name, got, maxBlocks, plan.text)
					}
				}
			}
		})
	}
}

// everyHotStatement runs each of the hot statements at least once.
func everyHotStatement(t *testing.T, p *storetest.Project, url string) {
	t.Helper()
	ctx := context.Background()
	user := relay.NewToken()
	// Registrations: fresh, superseding, keeping, refused, replayed.
	first := p.Registration(t, user, p.Plan())
	first.Wait.Key, first.IdempotencyKey = "order-"+user, uuid.New()
	old := p.Register(t, first)
	next := p.Registration(t, user, p.Plan())
	next.Wait.Key, next.IdempotencyKey = "order-"+user, uuid.New()
	current := p.Register(t, next)
	keep, reject := p.Registration(t, user, p.Plan()), p.Registration(t, user+"?", p.Plan())
	keep.OnConflict, keep.IdempotencyKey = relay.Keep, uuid.New()
	reject.Wait.Key, reject.IdempotencyKey = next.Wait.Key, uuid.New()
	results := must(p.Store.Register(ctx, []store.Registration{keep, reject}))(t)
	if results[0].Wait.ID != current.ID || results[1].Err == nil {
		t.Fatalf("registering: got %+v, want the wait kept and the key refused", results)
	}
	// Callbacks: processing, a late success that closes the successor, an end.
	processing := deduped(p.Callback("p"+user, relay.Processing, current.Token))
	commit(t, p, processing)
	other := p.Registration(t, user+"!", p.Plan())
	other.Wait.Key = "other-" + user
	other.Wait = p.Register(t, other)
	paid := deduped(p.Callback("e"+user, relay.Completed, other.Wait.Token))
	paid.Reading.References = []relay.Candidate{{Place: "json:id", Value: "pi_" + user}}
	late := deduped(p.Callback("l"+user, relay.Completed, old.Token))
	commit(t, p, paid, late)
	// An event that is parked, and found.
	early := deduped(p.Callback("k"+user, relay.Refunded, "early-"+user))
	park(t, p, early)
	awaited := p.Registration(t, user+"?!", p.Plan())
	awaited.Wait.Key = "early-" + user
	awaited.Wait = p.Register(t, awaited)
	if _, _, err := p.Store.AwaitedFrom(ctx, store.ParkedCursor{}, 3); err != nil {
		t.Fatal(err)
	}
	found := must(p.Store.Awaited(ctx, store.KeyRefs(&awaited.Wait), 3))(t)
	if len(found) != 1 || found[0].ID != early.ID {
		t.Fatalf("looking for parked events: got %v, want %s", found, early.ID)
	}
	early.Reading.Candidates[0].Value = awaited.Wait.Token
	if done := rematch(t, p, early); len(done) != 1 || !done[0].Changed {
		t.Fatalf("matching a parked event: got %+v, want it changed", done)
	}
	parked := deduped(p.Callback("n"+user, relay.Refunded, "never-"+user))
	park(t, p, parked)
	// What becomes askable, and is asked.
	asking := p.Wait(t, user+"-asking")
	askedFor := deduped(p.Callback("q"+user, relay.Processing, asking.Token))
	names := []store.Names{namesOf(askedFor)}
	_, _, err := p.Store.CommitCallbacks(ctx, uuid.New(), []relay.Callback{askedFor}, names, func(_ context.Context, f *store.Facts) ([]store.Decision, error) {
		return []store.Decision{{Match: relay.Matched, Rule: "on_the_way", Wait: f.ByToken[asking.Token], Askable: "cs_" + user}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Deadlines: one that ends, one that is left, one that is asked for.
	for i, ends := range []bool{true, false, false} {
		w := p.Wait(t, user+"-overdue")
		storetest.Overdue(t, url, w.ID)
		_, _, err := p.Store.ExpireDue(ctx, uuid.New(), 3, func(_ context.Context, waits []*store.Overdue) ([]store.Ending, error) {
			var endings []store.Ending
			for _, w := range waits {
				if i == 2 {
					endings = append(endings, store.Ending{Wait: w.Wait, Asks: &relay.Question{
						ID: relay.NewID(), ProjectID: p.ID, SourceID: p.SourceID, CorrelationID: w.ID, About: "cs_" + user,
					}})
					break // one is enough
				}
				if ends {
					endings = append(endings, store.Ending{Wait: w.Wait, Step: w.Apply(relay.Expired, ""), By: "deadline"})
				}
			}
			return endings, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// A nudge whose time has come.
	nudged := p.Registration(t, user+"-nudged", p.Plan())
	nudged.Nudges = []time.Duration{time.Minute, time.Hour}
	nudged.Wait = p.Register(t, nudged)
	storetest.Exec(t, url, `UPDATE nudges SET due_at = now() - interval '2 days' WHERE correlation_id = $1 AND number = 0`, nudged.Wait.ID)
	_, _, err = p.Store.NudgeDue(ctx, uuid.New(), 3, func(_ context.Context, due []*store.DueNudge) (owed, passed []relay.Delivery, err error) {
		if due[0].ID != nudged.Wait.ID || !due[0].Needed(relay.UnlessOpened) {
			t.Errorf("nudging: got %+v first, want the wait's", due[0])
		}
		return nil, nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Questions: of the wait before the event's; one of each is left.
	questions := must(p.Store.ClaimQuestions(ctx, uuid.New(), 3, []int64{-1}))(t)
	if len(questions) != 2 || questions[0].CorrelationID == uuid.Nil || questions[1].EventID != parked.ID || questions[1].Moot {
		t.Fatalf("claiming questions: got %+v, want the wait's and that of the event that is parked", questions)
	}
	for i := range questions {
		if held := must(p.Store.RecordTry(ctx, &questions[i], store.Try{Result: relay.AnswerFailed}))(t); !held {
			t.Fatalf("recording a try: got a lost lease")
		}
	}
	// What is fetched, and raised again while it is still to be asked.
	knock := deduped(p.Callback("knock"+user, relay.Processing, "knock"+user))
	raise(t, p, knock, relay.Question{EventID: knock.ID, Fetches: true})
	again := knock
	again.ID = relay.NewID()
	raise(t, p, again, relay.Question{EventID: knock.ID, Fetches: true, Repeats: true})
	fetches := must(p.Store.ClaimQuestions(ctx, uuid.New(), 3, []int64{-1}))(t)
	if len(fetches) != 1 || fetches[0].EventID != knock.ID || !fetches[0].Fetches || fetches[0].Moot {
		t.Fatalf("claiming what is fetched: got %+v, want one question", fetches)
	}
	must(p.Store.RecordTry(ctx, &fetches[0], store.Try{Result: relay.AnswerNone}))(t)
	// A stranger's, which comes last.
	strange := deduped(p.Callback("strange"+user, relay.Processing, "strange"+user))
	raise(t, p, strange, relay.Question{EventID: strange.ID, Fetches: true, Strange: true})
	last := must(p.Store.ClaimQuestions(ctx, uuid.New(), 3, []int64{-1}))(t)
	if len(last) != 1 || last[0].EventID != strange.ID {
		t.Fatalf("claiming a stranger's: got %+v, want one question", last)
	}
	must(p.Store.RecordTry(ctx, &last[0], store.Try{Result: relay.AnswerNone}))(t)
	// Deliveries: claimed, recorded, returned.
	storetest.Exec(t, url, `UPDATE deliveries SET due_at = now() - interval '1 day', lease = NULL, conversation = gen_random_uuid() WHERE status = 'scheduled' AND correlation_id = ANY($1)`,
		[]uuid.UUID{current.ID, other.Wait.ID, old.ID})
	claimed := must(p.Store.ClaimDue(ctx, uuid.New(), 3))(t)
	if len(claimed) != 3 {
		t.Fatalf("claiming: got %d deliveries, want 3", len(claimed))
	}
	retried := attemptAt(&claimed[1], relay.Retry)
	retried.OnTheWay = true
	recorded := must(p.Store.RecordAttempts(ctx, []relay.Attempt{attemptAt(&claimed[0], relay.OK), retried}))(t)
	if recorded[0].Stale || recorded[1].Stale {
		t.Fatalf("recording: got %+v, want both written", recorded)
	}
	// Two of a conversation: the first is marked, and passes its slot on to one
	// that is skipped.
	speaking := p.Wait(t, user+"-speaking")
	said := commit(t, p, deduped(p.Callback("s1"+user, relay.AttemptFailed, speaking.Token)), deduped(p.Callback("s2"+user, relay.AttemptFailed, speaking.Token)))
	commit(t, p, deduped(p.Callback("s3"+user, relay.Failed, speaking.Token)))
	if len(said) != 1 || !must(p.Store.MarkSending(ctx, &said[0]))(t) {
		t.Fatalf("speaking: got %d deliveries, want one that can be marked", len(said))
	}
	if r := must(p.Store.RecordAttempts(ctx, []relay.Attempt{attemptAt(&said[0], relay.OK)}))(t); !r[0].PassedOn {
		t.Fatalf("speaking: got %+v, want the slot passed on", r[0])
	}
	storetest.Exec(t, url, `UPDATE deliveries SET due_at = now() - interval '2 days' WHERE correlation_id = $1 AND due_at IS NOT NULL`, speaking.ID)
	pointless := must(p.Store.ClaimDue(ctx, uuid.New(), 1))(t)
	if r := must(p.Store.SkipClosed(ctx, &pointless[0]))(t); r.Stale || !r.PassedOn {
		t.Fatalf("skipping: got %+v, want the slot passed on", r)
	}
	must(p.Store.ClaimDue(ctx, uuid.New(), 3))(t) // what else is due, if anything
	piece := must(p.Store.NextPiece(ctx, time.Time{}, 3))(t)
	must(p.Store.ClaimPiece(ctx, uuid.New(), 3, []int64{-1}, []int64{-1}, piece))(t)
	// One is held, with another behind it, and released.
	stopped := tell(t, p, p.Wait(t, user+"-held"), 2)
	holdDestination(t, p)
	if err := p.Store.HoldDeliveries(ctx, stopped); err != nil {
		t.Fatal(err)
	}
	release(t, p)
	freed := must(p.Store.ClaimHeld(ctx, uuid.New(), p.DestinationID, 3))(t)
	if len(freed) != 1 {
		t.Fatalf("releasing: got %d deliveries, want 1", len(freed))
	}
	must(p.Store.TakeBudget(ctx, p.DestinationID, time.Millisecond, 3, 3))(t)
	if err := p.Store.ChargeBudget(ctx, p.DestinationID, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	// One is refused for good, and another takes its place.
	refused := tell(t, p, p.Wait(t, user+"-refused"), 1)
	if r := must(p.Store.RecordAttempts(ctx, []relay.Attempt{withFallback(attemptAt(&refused[0], relay.Permanent), &refused[0])}))(t); r[0].Stale || !r[0].PassedOn {
		t.Fatalf("refusing: got %+v, want it recorded with its fallback", r[0])
	}
	if dead := must(p.Store.GiveUp(ctx, freed))(t); len(dead) != 0 {
		t.Fatalf("giving up: got %v dead, want none", dead)
	}
	if err := p.Store.Postpone(ctx, []store.Later{{Delivery: freed[0], Wait: time.Hour}}); err != nil {
		t.Fatal(err)
	}
	if err := p.Store.ReturnLeases(ctx, claimed[2:]); err != nil {
		t.Fatal(err)
	}
}

// everyHook runs each of the statements that tell subscribers.
func everyHook(t *testing.T, p *storetest.Project, heard uuid.UUID) {
	t.Helper()
	ctx := context.Background()
	user := relay.NewToken()
	old := p.Wait(t, user)
	p.Wait(t, user)
	fired := commit(t, p, deduped(p.Paid("l"+user, "pi_"+user, old.Token))) // late: it closes the second
	recorded := must(p.Store.RecordAttempts(ctx, []relay.Attempt{attemptAt(&fired[0], relay.OK)}))(t)
	if recorded[0].Status != relay.Delivered {
		t.Fatalf("recording: got %+v, want it delivered", recorded[0])
	}
	const told = 8 // created; superseded, created; superseded, late, checkout; delivered, resumed
	claimed := must(p.Store.ClaimHooks(ctx, uuid.New(), []uuid.UUID{heard}, 3, 3))(t)
	if len(claimed) != 3 {
		t.Fatalf("claiming hooks: got %d, want 3", len(claimed))
	}
	if err := p.Store.ReturnHooks(ctx, claimed); err != nil {
		t.Fatal(err)
	}
	for left := told; left > 0; left -= len(claimed) {
		claimed = must(p.Store.ClaimHooks(ctx, uuid.New(), []uuid.UUID{heard}, 3, 3))(t)
		if len(claimed) == 0 {
			t.Fatalf("claiming hooks: got none, want %d more", left)
		}
		var done []relay.HookAttempt
		for _, h := range claimed {
			done = append(done, hookAttempt(&h, relay.OK))
		}
		must(p.Store.RecordHooks(ctx, done))(t)
	}
}

// hookAttempt is an attempt of a hook with what follows its class.
func hookAttempt(h *relay.Hook, class relay.Class) relay.HookAttempt {
	a := relay.HookAttempt{ProjectID: h.ProjectID, HookID: h.ID, Lease: h.Lease, Class: class}
	a.Next, a.Delay = relay.NextTry(class, h.Attempts+1, 0, relay.RetryUnknown, 1)
	return a
}

// What providers are asked costs nothing where nobody is asked, and nudges and
// openings nothing where there are none: no statement of an ordinary
// registration, of a callback or of a deadline touches them.
func TestOrdinaryWorkAsksNothing(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	seen := &explained{plans: map[string][]explainedPlan{}}
	s, err := store.OpenNoticing(t.Context(), store.Config{
		URL: url + explaining, Keys: storetest.Keys(t), HotConnections: 1, Connections: 2,
	}, seen.add)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	p := storetest.NewProject(t, s, "shop", "http://127.0.0.1:1")
	w, overdue := p.Wait(t, "u-1"), p.Wait(t, "u-2")
	commit(t, p, deduped(p.Callback("evt_1", relay.Processing, w.Token)), deduped(p.Callback("evt_2", relay.Completed, w.Token)))
	storetest.Overdue(t, url, overdue.ID)
	_, _, err = s.ExpireDue(t.Context(), uuid.New(), 10, func(_ context.Context, waits []*store.Overdue) ([]store.Ending, error) {
		return []store.Ending{{Wait: waits[0].Wait, Step: waits[0].Apply(relay.Expired, ""), By: "deadline"}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen.of("INSERT INTO events")) == 0 || len(seen.of("WHERE c.id = ANY (ARRAY(")) == 0 {
		t.Fatal("the server explained nothing of what was done")
	}
	for _, part := range []string{"questions", "SET asks", "SET reconciled", "nudges", "openings", "checkouts"} {
		if plans := seen.of(part); len(plans) != 0 {
			t.Errorf("ordinary work ran %d statements with %q, want none: %s", len(plans), part, plans[0].Query)
		}
	}
}

// attemptAt is an attempt of a delivery with what follows its class.
func attemptAt(d *relay.Delivery, class relay.Class) relay.Attempt {
	a := relay.Attempt{ProjectID: d.ProjectID, DeliveryID: d.ID, Lease: d.Lease, Conversation: d.Conversation, StartedAt: time.Now(), Class: class}
	a.Next, a.Delay = relay.NextTry(class, d.Attempts+1, 0, relay.RetryUnknown, 1)
	return a
}

// fill puts 1e5 rows into each of the big tables, of a project of their own.
// None of them is due.
func fill(t *testing.T, url string) {
	t.Helper()
	for _, sql := range []string{
		`INSERT INTO plans (id, project_id, doc) SELECT gen_random_uuid(), 99, '{}' FROM generate_series(1, 100000)`,
		`INSERT INTO correlations (id, project_id, token, plan_id, source_ids, user_id, key, scope, expires_at)
		 SELECT gen_random_uuid(), 99, lpad(i::text, 22, '0'), gen_random_uuid(), '{99}', 'u' || i, 'k' || i, gen_random_uuid(),
		        now() + i * interval '1 second' + interval '1 hour'
		 FROM generate_series(1, 100000) i`,
		`INSERT INTO deadlines (correlation_id, project_id, expires_at, scope) SELECT id, project_id, expires_at, scope FROM correlations WHERE project_id = 99`,
		`INSERT INTO correlation_refs (ref, correlation_id, project_id, key_active)
		 SELECT gen_random_uuid(), id, project_id, CASE WHEN user_id LIKE '%0' THEN true END FROM correlations WHERE project_id = 99`,
		`INSERT INTO events (project_id, id, source_id, received_at, verdict, match, rule, format, correlation_id, dedupe_key, body)
		 SELECT project_id, gen_random_uuid(), 99, now(), 'verified', 'matched', 'closed', 'json', id, gen_random_uuid(), '{}' FROM correlations WHERE project_id = 99`,
		`INSERT INTO deliveries (project_id, id, correlation_id, destination_id, outcome, action, conversation, retry_for, give_up_at)
		 SELECT project_id, gen_random_uuid(), id, 99, 'completed', 'completed', gen_random_uuid(), 60, now() + interval '2 days'
		 FROM correlations WHERE project_id = 99`,
		`INSERT INTO deliveries (project_id, id, correlation_id, event_id, destination_id, outcome, action, due_at, retry_for, give_up_at)
		 SELECT project_id, gen_random_uuid(), correlation_id, id, 99, 'completed', 'completed', now() + row_number() OVER () * interval '1 second' + interval '1 hour', 60, now() + interval '2 days'
		 FROM events WHERE project_id = 99`,
		`INSERT INTO deliveries (project_id, id, correlation_id, destination_id, outcome, action, status, conversation, retry_for, give_up_at)
		 SELECT project_id, gen_random_uuid(), id, 99, 'completed', 'completed', 'held', gen_random_uuid(), 60, now() + interval '2 days'
		 FROM correlations WHERE project_id = 99`,
		`INSERT INTO attempts (delivery_id, number, project_id, started_at, duration_ms, class)
		 SELECT id, 1, project_id, now(), 1, 'retry' FROM deliveries WHERE project_id = 99`,
		`INSERT INTO parked_refs (event_id, ref, project_id, source_id, number, key_only)
		 SELECT id, gen_random_uuid(), 99, 99, 0, true FROM events WHERE project_id = 99`,
		`INSERT INTO questions (id, project_id, source_id, event_id, about, due_at, give_up_at, fetches, strange)
		 SELECT gen_random_uuid(), 99, 99, id, 'pi_1', now() + row_number() OVER () * interval '1 second' + interval '1 hour', now() + interval '2 days',
		        row_number() OVER () % 2 = 0, row_number() OVER () % 2 = 0
		 FROM events WHERE project_id = 99`,
		`INSERT INTO questions (id, project_id, source_id, correlation_id, about, due_at, give_up_at)
		 SELECT gen_random_uuid(), 99, 99, id, 'cs_1', now() + row_number() OVER () * interval '1 second' + interval '1 hour', now() + interval '2 days'
		 FROM correlations WHERE project_id = 99`,
		`INSERT INTO nudges (correlation_id, number, project_id, due_at)
		 SELECT id, 0, project_id, expires_at FROM correlations WHERE project_id = 99`,
		`INSERT INTO openings (correlation_id, project_id, opened_at) SELECT id, project_id, now() FROM correlations WHERE project_id = 99`,
		`INSERT INTO checkouts (correlation_id, project_id, source_id, object, url)
		 SELECT id, project_id, 99, 'cs_' || id, 'https://pay.test/' || id FROM correlations WHERE project_id = 99`,
		`INSERT INTO hooks (project_id, subscription_id, event, correlation_id, payload, personal, number, due_at, give_up_at)
		 SELECT p.id, gen_random_uuid(), 'delivery.dead', c.id, '{"a": 1}', '{"a": 1}', n, CASE WHEN n IS NOT NULL THEN now() END, now() + interval '2 days'
		 FROM correlations c, (SELECT id FROM projects WHERE name = 'told') p, (VALUES (NULL::bigint), (1)) v (n) WHERE c.project_id = 99`,
		`INSERT INTO idempotency_keys (key, project_id, request, correlation_id)
		 SELECT gen_random_uuid(), project_id, '\x00', id FROM correlations WHERE project_id = 99`,
	} {
		storetest.Exec(t, url, sql)
	}
}

// explained gathers what the server explains.
type explained struct {
	mu    sync.Mutex
	plans map[string][]explainedPlan // by the statement's text
}

type explainedPlan struct {
	Query string   `json:"Query Text"`
	Plan  planNode `json:"Plan"`
	text  string
}

type planNode struct {
	Type     string     `json:"Node Type"`
	Relation string     `json:"Relation Name"`
	Hit      int        `json:"Shared Hit Blocks"`
	Read     int        `json:"Shared Read Blocks"`
	Plans    []planNode `json:"Plans"`
}

func (e *explained) add(notice string) {
	_, text, found := strings.Cut(notice, "plan:\n")
	var p explainedPlan
	if !found || json.Unmarshal([]byte(text), &p) != nil {
		return
	}
	p.text = text
	e.mu.Lock()
	defer e.mu.Unlock()
	e.plans[p.Query] = append(e.plans[p.Query], p)
}

func (e *explained) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.plans)
}

// of returns the plans of the statements that hold a part.
func (e *explained) of(part string) (plans []explainedPlan) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for query, of := range e.plans {
		if strings.Contains(query, part) {
			plans = append(plans, of...)
		}
	}
	return plans
}

// scans returns the big table that a plan reads from end to end, or "".
func (n *planNode) scans() string {
	if n.Type == "Seq Scan" && slices.Contains(bigTables, n.Relation) {
		return n.Relation
	}
	for i := range n.Plans {
		if table := n.Plans[i].scans(); table != "" {
			return table
		}
	}
	return ""
}
