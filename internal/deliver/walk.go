package deliver

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The bounds of a walk.
const (
	pieceSize   = 2_000           // due deliveries that one claim looks at
	walkOverlap = 3 * time.Second // a commit may come that much later than its clock_timestamp()
	walkRest    = time.Second     // from the begin of a walk to that of the next, at least
	walkShare   = 2               // and so many times as long as it took to its end
	walkAgain   = relay.Lease     // what was overlooked is found by then, as after a lost lease
)

// walk is how far claims have come through what is due. It matters while lanes
// are full or their destinations away: what is due for them stays in the table,
// and to read all of it for every claim would cost the more the longer that
// lasts. So each claim looks at one piece and remembers where it ended; at the
// end it stays there, and looks at what becomes due.
//
// It begins anew when a lane that was passed over has room again: until then it
// is passed over still, so that what has waited longest comes first. And it
// does from time to time, for what was locked when it was passed, or committed
// late. It always comes to its end first: what is due behind a long backlog is
// reached, however often lanes become free.
type walk struct {
	until time.Time     // by the database's clock: what was due by then was looked at
	began time.Time     // zero: there is none, for no lane is full
	took  time.Duration // from begin to end, of the last one that came to its end
	ended bool
	past  []int64 // destinations that were passed over, sorted
}

// next returns the walk with which claims go on past full lanes. Where there is
// none it is none.
func (w walk) next(busy []int64, now time.Time) walk {
	if len(busy) == 0 {
		return walk{past: busy}
	}
	age := now.Sub(w.began)
	freed := slices.ContainsFunc(w.past, func(id int64) bool { return !slices.Contains(busy, id) })
	again := age >= walkAgain || freed && age >= max(walkRest, walkShare*w.took)
	if w.began.IsZero() || w.ended && again {
		return walk{began: now, took: w.took, past: busy}
	}
	w.past = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(w.past), busy...))))
	return w
}

// claim claims what is due, but for destinations that are to be passed over.
// Of those that are away what is to end is claimed nevertheless.
func (e *Engine) claim(ctx context.Context, limit int, past, away []int64) ([]relay.Delivery, error) {
	w := e.walked(func(w walk) walk { return w.next(past, time.Now()) })
	if len(w.past) == 0 {
		return e.cfg.Store.ClaimDue(ctx, uuid.New(), limit)
	}
	piece, err := e.cfg.Store.NextPiece(ctx, w.until, pieceSize)
	if err != nil {
		return nil, err
	}
	claimed, err := e.cfg.Store.ClaimPiece(ctx, uuid.New(), limit, w.past, away, piece)
	if err != nil {
		return nil, err
	}
	if len(claimed) < limit { // else there may be more in this piece
		e.walked(func(w walk) walk { return w.through(piece, time.Now()) })
	}
	if len(claimed) == limit || !piece.Last {
		e.Wake()
	}
	return claimed, nil
}

// walked takes a step of the walk.
func (e *Engine) walked(step func(walk) walk) walk {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.walk = step(e.walk)
	return e.walk
}

// through returns the walk after a piece that was looked through.
func (w walk) through(piece store.Piece, now time.Time) walk {
	if !piece.Last {
		w.until = piece.To
		return w
	}
	if !w.ended {
		w.ended, w.took = true, now.Sub(w.began)
	}
	if at := piece.To.Add(-walkOverlap); at.After(w.until) {
		w.until = at
	}
	return w
}
