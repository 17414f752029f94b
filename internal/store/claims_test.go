package store_test

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// oweDue puts n deliveries to a destination into the table that have become
// due one after the other, the last of them some time ago.
func oweDue(t *testing.T, p *storetest.Project, url string, destination int64, n int, last time.Duration) {
	t.Helper()
	w := p.Wait(t, "u-"+relay.NewToken())
	storetest.Exec(t, url, `
		INSERT INTO deliveries (project_id, id, correlation_id, destination_id, outcome, action, conversation, due_at, retry_for, give_up_at)
		SELECT project_id, gen_random_uuid(), id, $2, 'completed', 'completed', gen_random_uuid(),
		       now() - ($4 + ($3 - i) * 0.001) * interval '1 second', 60, now() + interval '1 day'
		FROM correlations, generate_series(1, $3) i
		WHERE id = $1
		ORDER BY i`, w.ID, destination, n, last.Seconds())
}

// A claim that passes over what is due for full lanes reads a piece of it,
// however much there is. Piece by piece everything else is found, once and in
// its order, and what was passed over stays as it was.
func TestClaimsInPieces(t *testing.T) {
	t.Parallel()
	const waiting, size, full = 100_000, 2_000, int64(99)
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
	oweDue(t, p, url, p.DestinationID, 1, time.Hour)
	oweDue(t, p, url, full, waiting, time.Minute)
	oweDue(t, p, url, p.DestinationID, 30, 0)

	const most = 10 * maxBlocks // all of them are several thousand
	pieces, found := 0, map[uuid.UUID]bool{}
	for piece := (store.Piece{}); !piece.Last; pieces++ {
		piece = must(s.NextPiece(t.Context(), piece.To, size))(t)
		claimed := must(s.ClaimPiece(t.Context(), uuid.New(), 40, []int64{full}, []int64{full}, piece))(t)
		for _, d := range claimed {
			found[d.ID] = true
		}
		if pieces == 0 && len(claimed) != 1 {
			t.Errorf("the first piece: got %d claimed, want the one that has waited longest", len(claimed))
		}
	}
	if want := waiting/size + 1; pieces != want {
		t.Errorf("looked through in %d pieces, want %d", pieces, want)
	}
	if len(found) != 31 {
		t.Errorf("%d were claimed, want 31", len(found))
	}
	for _, part := range []string{hotStatements["look through due deliveries"], hotStatements["claim a piece of what is due"]} {
		if got := seen.mostBlocks(part); got == 0 || got > most {
			t.Errorf("%q touches %d blocks, want at most %d", part, got, most)
		}
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM deliveries WHERE destination_id = $1 AND lease IS NULL AND due_at <= now()`, full); got != waiting {
		t.Errorf("%d of those that were passed over are due, want %d: any node may take them", got, waiting)
	}
}

// A piece holds all that became due in the same moment: none is left between
// two pieces.
func TestPiecesOfOneMoment(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	oweDue(t, p, url, p.DestinationID, 30, time.Minute)
	storetest.Exec(t, url, `UPDATE deliveries SET due_at = date_trunc('hour', now()) - interval '1 hour'`)
	piece := must(p.Store.NextPiece(t.Context(), time.Time{}, 10))(t)
	if piece.Last {
		t.Error("the first piece is the last, want it to hold ten of thirty and those of the same moment")
	}
	claimed := must(p.Store.ClaimPiece(t.Context(), uuid.New(), 100, []int64{-1}, nil, piece))(t)
	if len(claimed) != 30 {
		t.Errorf("%d are claimed, want all 30", len(claimed))
	}
	if next := must(p.Store.NextPiece(t.Context(), piece.To, 10))(t); !next.Last || time.Since(next.To).Abs() > time.Minute {
		t.Errorf("what follows: got %+v, want nothing, until now", next)
	}
	// What has been claimed since it was looked at is another's.
	if again := must(p.Store.ClaimPiece(t.Context(), uuid.New(), 100, []int64{-1}, nil, piece))(t); len(again) != 0 {
		t.Errorf("%d are claimed twice", len(again))
	}
}

// Of what is owed to a destination that is away, a claim takes what is to end
// without a call. Of what is owed to one whose lane is full it takes nothing.
func TestClaimsOfWhatIsAway(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	const full, away = int64(98), int64(99)
	for _, to := range []int64{full, away} {
		oweDue(t, p, url, to, 3, time.Minute)
		storetest.Exec(t, url, `UPDATE deliveries SET give_up_at = now() - interval '1 second'
			WHERE id = (SELECT min(id::text)::uuid FROM deliveries WHERE destination_id = $1)`, to)
		storetest.Exec(t, url, `UPDATE deliveries SET status = 'sending'
			WHERE id = (SELECT max(id::text)::uuid FROM deliveries WHERE destination_id = $1)`, to)
	}
	piece := must(p.Store.NextPiece(t.Context(), time.Time{}, 10))(t)
	claimed := must(p.Store.ClaimPiece(t.Context(), uuid.New(), 10, []int64{full, away}, []int64{away}, piece))(t)
	got := map[string]int{}
	for _, d := range claimed {
		got[fmt.Sprintf("to %d, sent %t, time up %t", d.DestinationID, d.Sent, d.TimeUp)]++
	}
	want := map[string]int{"to 99, sent true, time up false": 1, "to 99, sent false, time up true": 1}
	if !maps.Equal(got, want) {
		t.Errorf("claimed: got %v, want %v", got, want)
	}
}

// mostBlocks is how many blocks the dearest run of a statement touched.
func (e *explained) mostBlocks(part string) (most int) {
	for _, plan := range e.of(part) {
		most = max(most, plan.Plan.Hit+plan.Plan.Read)
	}
	return most
}
