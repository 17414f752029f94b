package store

import (
	"bytes"
	"cmp"
	"context"
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
// nobody who has a slot locked. Where two transactions deadlock all the same,
// since a slot changed hands while they waited, one of them is repeated.

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
// and returns them by conversation.
func lockSlots(ctx context.Context, tx pgx.Tx, conversations []uuid.UUID) (map[uuid.UUID]uuid.UUID, error) {
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
// looked up where there is somebody.
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
		    ) n
		)
		UPDATE deliveries d
		SET due_at = clock_timestamp(), give_up_at = clock_timestamp() + d.retry_for * interval '1 second'
		FROM next n
		WHERE d.project_id = n.project_id AND d.id = n.id AND d.status = 'scheduled'
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

// PassOnLeft passes slots on to deliveries that wait for nobody, among at most
// limit that wait, after a conversation. It returns how many it looked at, and
// the conversation of the last. Every end passes its slot on by itself; those
// of a program from before the slots, which may go on while a newer one has
// begun, do not.
func (s *Store) PassOnLeft(ctx context.Context, after uuid.UUID, limit int) (seen int, last uuid.UUID, err error) {
	err = s.inTx(ctx, "passing on slots", func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			SELECT w.conversation, EXISTS (SELECT FROM deliveries WHERE conversation = w.conversation AND `+hasSlot+`)
			FROM (SELECT conversation FROM deliveries
			      WHERE status = 'scheduled' AND due_at IS NULL AND conversation > $1
			      ORDER BY conversation, id
			      LIMIT $2) w`, after, limit)
		var left []uuid.UUID
		var taken bool
		tag, err := pgx.ForEachRow(rows, []any{&last, &taken}, func() error {
			if !taken && !slices.Contains(left, last) {
				left = append(left, last)
			}
			return nil
		})
		if seen = int(tag.RowsAffected()); err != nil || len(left) == 0 {
			return err
		}
		var b pgx.Batch
		queuePassOn(&b, left, func(uuid.UUID) {})
		return tx.SendBatch(ctx, &b).Close()
	})
	return seen, last, err
}
