package store

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// Of a conversation's deliveries one has the slot: the one that is due, or
// held. The others are scheduled without being due, and wait for it. A unique
// index sees to the 'one'. That none is left waiting is seen to by locks: who
// adds to those that wait, or takes from them, holds the lock of the delivery
// that has the slot. So a delivery that ends looks for the next one in a
// statement after the one that ended it: it sees everybody who saw the slot
// taken.
//
// Several slots are locked in the order of their conversations, and the locks
// that a transaction takes before those, of waits and deadlines, are taken by
// nobody who has a slot locked. Two transactions may deadlock all the same,
// where a slot changes hands while they wait, where a wait's end and what it
// had on its way speak in different conversations, or over an event that is
// blanked or read again: then one of them is repeated.

// hasSlot is the condition of the index deliveries_slot, and names no table.
const hasSlot = `CASE WHEN due_at IS NULL THEN status = 'held' ELSE true END`

// ConversationHash is the id of a conversation: what the user is called at a
// destination.
func ConversationHash(destinationID int64, name string) uuid.UUID {
	return hash128("conversation", destinationID, name)
}

// conversationOf is the conversation that a delivery speaks in.
func conversationOf(d *relay.Delivery) uuid.UUID {
	return ConversationHash(d.DestinationID, cmp.Or(d.Wait.Conversation, d.Wait.UserID))
}

// bySlot compares deliveries by the order in which slots are taken, and within
// a conversation by that of creation.
func bySlot(conversationA, idA, conversationB, idB uuid.UUID) int {
	return cmp.Or(bytes.Compare(conversationA[:], conversationB[:]), bytes.Compare(idA[:], idB[:]))
}

// lockSlots locks the deliveries that have the slots of some conversations,
// and returns them by conversation. It looks again until it finds what it has
// locked: a slot that was waited for may be another delivery's by then.
func lockSlots(ctx context.Context, tx pgx.Tx, conversations []uuid.UUID) (holders map[uuid.UUID]uuid.UUID, err error) {
	for before := holders; before == nil || !maps.Equal(before, holders); {
		before = holders
		if holders, err = lockSlotsSeen(ctx, tx, conversations); err != nil {
			return nil, err
		}
	}
	return holders, nil
}

// lockSlotsSeen is one look of lockSlots.
func lockSlotsSeen(ctx context.Context, tx pgx.Tx, conversations []uuid.UUID) (map[uuid.UUID]uuid.UUID, error) {
	rows, _ := tx.Query(ctx, `
		SELECT conversation, id FROM deliveries
		WHERE conversation = ANY($1::uuid[]) AND `+hasSlot+`
		ORDER BY conversation
		FOR UPDATE`, conversations)
	holders := map[uuid.UUID]uuid.UUID{}
	var conversation, id uuid.UUID
	_, err := pgx.ForEachRow(rows, []any{&conversation, &id}, func() error {
		holders[conversation] = id
		return nil
	})
	return holders, err
}

// queuePassOn queues what gives the slots that the statement before has freed
// to the next that wait, in order of creation; they are due at once, and
// their time to try begins. passedOn is told their conversations. Mostly
// nobody waits. So that is asked first, of an index that holds only those who
// do, and materialized so that it stays first: whether the slot is free is
// looked up where there is somebody. Who is found is locked, and if that one
// waits no more by then, the one after it is.
func queuePassOn(b *pgx.Batch, conversations []uuid.UUID, passedOn func(uuid.UUID)) {
	conversations = slices.DeleteFunc(slices.Clone(conversations), func(id uuid.UUID) bool { return id == uuid.Nil })
	b.Queue(`
		WITH next AS MATERIALIZED (
		    SELECT g.conversation, n.id, n.project_id
		    FROM unnest($1::uuid[]) AS g (conversation)
		    CROSS JOIN LATERAL (
		        SELECT d.id, d.project_id
		        FROM deliveries d
		        WHERE d.conversation = g.conversation AND d.status = 'scheduled' AND d.due_at IS NULL
		        ORDER BY d.id
		        LIMIT 1
		        FOR NO KEY UPDATE
		    ) n
		)
		UPDATE deliveries d
		SET due_at = clock_timestamp(), give_up_at = clock_timestamp() + d.retry_for * interval '1 second'
		FROM next n
		WHERE d.project_id = n.project_id AND d.id = n.id
		  AND NOT EXISTS (SELECT FROM deliveries WHERE conversation = n.conversation AND `+hasSlot+`)
		RETURNING d.conversation`, conversations).Query(func(rows pgx.Rows) error {
		var conversation uuid.UUID
		_, err := pgx.ForEachRow(rows, []any{&conversation}, func() error {
			passedOn(conversation)
			return nil
		})
		return err
	})
}

// passOnPiece is how many slots are passed on in one transaction where they
// were left.
const passOnPiece = 100

// PassOnLeft passes slots on to deliveries that wait for nobody, among at most
// limit that wait, after a conversation. It returns how many it looked at, and
// the conversation of the last. Every end passes its slot on by itself; those
// of a program from before the slots, which may go on while a newer one has
// begun, do not. A piece in which somebody takes a slot in the same moment is
// left to the next look.
func (s *Store) PassOnLeft(ctx context.Context, after uuid.UUID, limit int) (seen int, last uuid.UUID, err error) {
	rows, _ := s.hot.Query(ctx, `
		SELECT w.conversation, EXISTS (SELECT FROM deliveries WHERE conversation = w.conversation AND `+hasSlot+`)
		FROM (SELECT conversation FROM deliveries
		      WHERE status = 'scheduled' AND due_at IS NULL AND conversation > $1
		      ORDER BY conversation, id
		      LIMIT $2) w
		ORDER BY w.conversation`, after, limit)
	var left []uuid.UUID
	var taken bool
	tag, err := pgx.ForEachRow(rows, []any{&last, &taken}, func() error {
		if !taken && (len(left) == 0 || left[len(left)-1] != last) {
			left = append(left, last)
		}
		return nil
	})
	for piece := range slices.Chunk(left, passOnPiece) {
		if err != nil {
			break
		}
		var b pgx.Batch
		queuePassOn(&b, piece, func(uuid.UUID) {})
		if err = s.hot.SendBatch(ctx, &b).Close(); Conflicted(err) {
			err = nil
		}
	}
	return int(tag.RowsAffected()), last, translate("passing on slots", err)
}
