package store

import (
	"context"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
)

// A destination that is slow, or away, leaves any number of deliveries due in the table,
// and a claim that passes over them reads each of them first: with a hundred
// thousand of them some 3,000 blocks, several times a second. So while there
// are any to be passed over, what is due is looked through in pieces, in the
// order in which it has become due, and who claims remembers how far. Nothing
// is written for that, and no index holds the destination, which every delivery
// would pay for: what is passed over stays due, in its order, with its slot and
// its time to try, for whichever node has room for it.

// Piece is a part of what is due, by the database's clock: what has become due
// after From, until To.
type Piece struct {
	From, To time.Time
	Last     bool // there is nothing due after To
}

// NextPiece returns the piece of what is due after a moment that holds size
// deliveries, or all that are left. Those that became due in the same
// microsecond are in one piece.
func (s *Store) NextPiece(ctx context.Context, after time.Time, size int) (p Piece, err error) {
	p.From = after
	err = s.hot.QueryRow(ctx, `
		SELECT CASE WHEN count(*) = $2 THEN max(due_at) ELSE now() END, count(*) < $2
		FROM (
		    SELECT due_at FROM deliveries
		    WHERE due_at > $1 AND due_at <= now()
		    ORDER BY due_at
		    LIMIT $2
		) piece`, after, size).Scan(&p.To, &p.Last)
	return p, translate("looking through due deliveries", err)
}

// ClaimPiece is ClaimDue in a piece of what is due, past what is due for some
// destinations. Of those of them that are away it claims what is to end without
// a call: what was being sent by a node that died, and what has used up its
// time to try.
func (s *Store) ClaimPiece(ctx context.Context, lease uuid.UUID, limit int, past, away []int64, p Piece) ([]relay.Delivery, error) {
	leaseEnds := time.Now().Add(relay.Lease)
	rows, _ := s.hot.Query(ctx, `
		WITH piece AS (
		    SELECT project_id, id
		    FROM deliveries
		    WHERE due_at > $5 AND due_at <= $6
		      AND (destination_id <> ALL ($4::bigint[])
		           OR destination_id = ANY ($7::bigint[]) AND (status = 'sending' OR give_up_at <= now()))
		    ORDER BY due_at
		    LIMIT $3
		    FOR UPDATE SKIP LOCKED
		), claimed AS (
		    UPDATE deliveries d
		    SET due_at = clock_timestamp() + $2 * interval '1 second', lease = $1
		    FROM piece
		    WHERE d.project_id = piece.project_id AND d.id = piece.id
		    RETURNING `+claimedColumns+`
		)`+selectClaimed, lease, relay.Lease.Seconds(), limit, past, p.From, p.To, away)
	list, err := collectClaimed(rows, lease, leaseEnds)
	return list, translate("claiming a piece of the due deliveries", err)
}
