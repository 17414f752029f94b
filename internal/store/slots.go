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

// A delivery that is due holds the slot of its conversation, and keeps it while
// its destination is held; the others of the conversation are scheduled without
// being due, and wait for it. Who adds to
// those that wait, or takes from them, holds the lock of the slot's row, a row
// that is being deleted included. So a delivery that ends looks for the next
// one in a statement after the one that freed the slot: it sees everybody who
// saw the slot taken.
//
// Nobody deadlocks: several slots are taken in their order. Who holds a slot
// waits for no delivery but those that wait for it, and those are changed by
// nobody who then wants a slot.

// ConversationHash is the id of a conversation: what the user is called at a
// destination.
func ConversationHash(destinationID int64, name string) uuid.UUID {
	return hash128("conversation", destinationID, name)
}

// conversationOf is the conversation that a delivery speaks in.
func conversationOf(d *relay.Delivery) uuid.UUID {
	return ConversationHash(d.DestinationID, cmp.Or(d.Wait.Conversation, d.Wait.UserID))
}

// claims are the slots that a batch of deliveries asks for: of each
// conversation the delivery that was created first.
type claims struct {
	conversations, deliveries []uuid.UUID
	projects                  []int64
}

// claim is one delivery that asks for the slot of its conversation.
type claim struct {
	conversation, delivery uuid.UUID
	project                int64
}

// newClaims puts claims in the order in which slots are taken.
func newClaims(of []claim) (c claims) {
	slices.SortFunc(of, func(a, b claim) int {
		return cmp.Or(bytes.Compare(a.conversation[:], b.conversation[:]), bytes.Compare(a.delivery[:], b.delivery[:]))
	})
	for i, each := range of {
		if i > 0 && each.conversation == of[i-1].conversation {
			continue
		}
		c.conversations, c.deliveries = append(c.conversations, each.conversation), append(c.deliveries, each.delivery)
		c.projects = append(c.projects, each.project)
	}
	return c
}

// takeSlots inserts slots for $1 conversations, $2 deliveries and $3 projects
// and returns the deliveries that hold them now. A slot that another delivery
// holds is locked all the same: its holder cannot end before those that found
// it taken are there to be seen.
const takeSlots = `
	INSERT INTO slots AS s (conversation, delivery_id, project_id)
	SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[])
	ON CONFLICT (conversation) DO UPDATE SET delivery_id = s.delivery_id
	RETURNING delivery_id`

// freeSlots deletes the slots of deliveries that are owed no more: of those
// that the statement lists as ended.
const freeSlots = `
	DELETE FROM slots s USING ended e
	WHERE s.conversation = e.conversation AND s.delivery_id = e.id`

// queuePassOn queues what gives the slots that the statement before has freed
// to the next that wait, in order of creation; they are due at once, and
// their time to try begins. passedOn
// is told their conversations. Mostly nobody waits. So that is asked first, of
// an index that holds only those who do, and materialized so that it stays
// first: the slots themselves are looked for where there is somebody.
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
		), taken AS (
		    INSERT INTO slots (conversation, delivery_id, project_id)
		    SELECT conversation, id, project_id FROM next
		    WHERE NOT EXISTS (SELECT FROM slots s WHERE s.conversation = next.conversation)
		    ON CONFLICT (conversation) DO NOTHING
		    RETURNING delivery_id, project_id
		)
		UPDATE deliveries d
		SET due_at = clock_timestamp(), give_up_at = clock_timestamp() + d.retry_for * interval '1 second'
		FROM taken t
		WHERE d.project_id = t.project_id AND d.id = t.delivery_id
		RETURNING d.conversation`, conversations).Query(func(rows pgx.Rows) error {
		var conversation uuid.UUID
		_, err := pgx.ForEachRow(rows, []any{&conversation}, func() error {
			passedOn(conversation)
			return nil
		})
		return err
	})
}

// PassOnLeft passes on the slots of deliveries that are owed no more, of at
// most limit slots after a conversation. It returns how many it looked at, and
// the last. Every end passes its slot on by itself; those of a program from
// before the slots, which may go on while a newer one has begun, do not.
func (s *Store) PassOnLeft(ctx context.Context, after uuid.UUID, limit int) (seen int, last uuid.UUID, err error) {
	err = s.inTx(ctx, "passing on slots", func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			SELECT s.conversation, d.due_at IS NULL AND d.status IS DISTINCT FROM 'held'
			FROM (SELECT * FROM slots WHERE conversation > $1 ORDER BY conversation LIMIT $2) s
			LEFT JOIN deliveries d ON d.project_id = s.project_id AND d.id = s.delivery_id
			ORDER BY s.conversation`, after, limit)
		var left []uuid.UUID
		var ended bool
		tag, err := pgx.ForEachRow(rows, []any{&last, &ended}, func() error {
			if ended {
				left = append(left, last)
			}
			return nil
		})
		if seen = int(tag.RowsAffected()); err != nil || len(left) == 0 {
			return err
		}
		var b pgx.Batch
		b.Queue(`SELECT FROM slots WHERE conversation = ANY($1::uuid[]) ORDER BY conversation FOR UPDATE`, left)
		b.Queue(`
			DELETE FROM slots s
			WHERE conversation = ANY($1::uuid[])
			  AND NOT EXISTS (SELECT FROM deliveries d WHERE d.project_id = s.project_id AND d.id = s.delivery_id AND (d.due_at IS NOT NULL OR d.status = 'held'))`, left)
		queuePassOn(&b, left, func(uuid.UUID) {})
		return tx.SendBatch(ctx, &b).Close()
	})
	return seen, last, err
}
