package store

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// A destination that is held is called by nobody. Its deliveries become held
// where a node meets them: when they are born, when their time has come, when
// they wait in a node's memory. Each holds the slot of its conversation and
// keeps it, so that after the release they go on in the order of creation.
//
// None is left behind: a delivery becomes held only under a lock of its
// destination's row that a release has to wait for. So whoever looks for held
// deliveries after the release sees all of them.

// HoldDestination holds a destination whose credentials were refused, and
// reports whether this call did: of those that come together one does. It does
// nothing where the credentials have changed, or somebody has resumed it,
// since the count of releases was what is given.
func (s *Store) HoldDestination(ctx context.Context, id, releases int64, reason string) (held bool, err error) {
	err = s.inTx(ctx, "holding a destination", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE destinations SET held_at = clock_timestamp(), held_reason = $3
			WHERE id = $1 AND releases = $2 AND held_at IS NULL AND deleted_at IS NULL`, id, releases, clean(reason))
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		held = true
		if err := noteHold(ctx, tx, id); err != nil {
			return err
		}
		if err := tellDestination(ctx, tx, id, relay.DestinationHeld, reason); err != nil {
			return err
		}
		return tellNodes(ctx, tx)
	})
	return held && err == nil, err
}

// maxHolds bounds the holds that a destination is known with: it is held by a
// refusal, and released by a person.
const maxHolds = 100

// noteHold notes since when and why a destination is held, for the timelines
// of what waits for it.
func noteHold(ctx context.Context, tx pgx.Tx, id int64) error {
	_, err := tx.Exec(ctx, `
		WITH passed AS (
		    DELETE FROM holds WHERE (destination_id, held_at) IN (
		        SELECT destination_id, held_at FROM holds WHERE destination_id = $1 ORDER BY held_at DESC OFFSET $2 - 1)
		)
		INSERT INTO holds (destination_id, held_at, reason) SELECT id, held_at, held_reason FROM destinations WHERE id = $1`, id, maxHolds)
	return err
}

// Hold is a time in which a delivery was not sent because its destination was
// held.
type Hold struct {
	DeliveryID uuid.UUID
	From       time.Time // of the hold, or of the delivery if that is later
	Reason     string
	Until      *time.Time // nil: it is held
}

// HoldsOf lists the holds that met the deliveries of a wait, the newest first,
// and of many those alone.
func (s *Store) HoldsOf(ctx context.Context, projectID int64, wait uuid.UUID) ([]Hold, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT d.id, greatest(h.held_at, d.created_at), h.reason, h.released_at
		FROM deliveries d JOIN holds h ON h.destination_id = d.destination_id
		WHERE d.project_id = $1 AND d.correlation_id = $2
		  AND (h.released_at > d.created_at) IS NOT false
		  -- What ended, or is left to a person, met none after that.
		  AND (h.held_at < CASE d.status WHEN 'unknown' THEN d.started_at ELSE d.finished_at END) IS NOT false
		ORDER BY h.held_at DESC, d.id
		LIMIT $3`, projectID, wait, maxHolds)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Hold])
	return list, translate("reading the holds of destinations", err)
}

// ReleaseDestination ends the hold of a destination and returns how many
// deliveries were held by it; of more than 100,000 it says 100,001. A refusal
// of what was sent before holds it no more, whether it was held or not.
func (c *Change) ReleaseDestination(ctx context.Context, id int64) (released int, err error) {
	var wasHeld bool
	err = c.tx.QueryRow(ctx, `
		WITH before AS (
		    SELECT id, held_at IS NOT NULL AS held FROM destinations WHERE id = $1 FOR UPDATE
		)
		UPDATE destinations d
		SET held_at = NULL, held_reason = NULL, releases = d.releases + 1, releasing = d.releasing OR b.held
		FROM before b
		WHERE d.id = b.id
		RETURNING b.held`, id).Scan(&wasHeld)
	if err != nil || !wasHeld {
		return 0, err
	}
	if _, err := c.tx.Exec(ctx, `
		UPDATE holds SET released_at = clock_timestamp() WHERE destination_id = $1 AND released_at IS NULL`, id); err != nil {
		return 0, err
	}
	if err := tellDestination(ctx, c.tx, id, relay.DestinationResumed, ""); err != nil {
		return 0, err
	}
	err = c.tx.QueryRow(ctx, `
		SELECT count(*)
		FROM (SELECT FROM deliveries WHERE destination_id = $1 AND status = 'held' LIMIT $2) held`, id, backlogCount).Scan(&released)
	return released, err
}

// EndRelease notes that nothing is held by a destination any more, where that
// is so. Whoever gave it the count of releases has looked since.
func (s *Store) EndRelease(ctx context.Context, id, releases int64) (ended bool, err error) {
	err = s.inTx(ctx, "ending a release", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE destinations SET releasing = false
			WHERE id = $1 AND releases = $2 AND releasing AND held_at IS NULL
			  AND NOT EXISTS (SELECT FROM deliveries WHERE destination_id = $1 AND status = 'held')`, id, releases)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		ended = true
		return tellNodes(ctx, tx)
	})
	return ended && err == nil, err
}

// tellNodes gives the configuration a new version, and tells every node of it
// after the commit.
func tellNodes(ctx context.Context, tx pgx.Tx) error {
	var version int64
	if err := tx.QueryRow(ctx, `UPDATE configuration SET version = version + 1 RETURNING version`).Scan(&version); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `SELECT pg_notify('relay_configuration_' || current_schema(), $1)`, strconv.FormatInt(version, 10))
	return err
}

// HoldDeliveries makes deliveries held that this node has claimed and will not
// send, because their destinations are. Those whose destination has been
// released meanwhile, and those that may have been sent, stay leased.
func (s *Store) HoldDeliveries(ctx context.Context, list []relay.Delivery) error {
	projects, ids, leases := leasesOf(list)
	destinations := make([]int64, len(list))
	for i := range list {
		destinations[i] = list[i].DestinationID
	}
	_, err := s.hot.Exec(ctx, `
		WITH held AS MATERIALIZED (
		    SELECT id FROM destinations
		    WHERE id = ANY ($4::bigint[]) AND held_at IS NOT NULL
		    ORDER BY id
		    FOR SHARE
		)
		UPDATE deliveries d
		SET status = 'held', due_at = NULL, lease = NULL
		FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS x (project_id, id, lease)
		WHERE d.project_id = x.project_id AND d.id = x.id AND d.lease = x.lease AND d.status = 'scheduled'
		  AND d.destination_id IN (SELECT id FROM held)`, projects, ids, leases, destinations)
	return translate("holding deliveries", err)
}

// ClaimHeld leases deliveries that were held by a destination which is held no
// more, the oldest first. Their time to try begins anew; that of the ones that
// have waited behind them begins with their turn.
func (s *Store) ClaimHeld(ctx context.Context, lease uuid.UUID, destinationID int64, limit int) ([]relay.Delivery, error) {
	leaseEnds := time.Now().Add(relay.Lease)
	rows, _ := s.hot.Query(ctx, `
		WITH freed AS (
		    SELECT d.project_id, d.id
		    FROM deliveries d
		    WHERE d.destination_id = $4 AND d.status = 'held'
		      AND EXISTS (SELECT FROM destinations t WHERE t.id = $4 AND t.held_at IS NULL)
		    ORDER BY d.id
		    LIMIT $3
		    FOR UPDATE SKIP LOCKED
		), claimed AS (
		    UPDATE deliveries d
		    SET status = 'scheduled', due_at = clock_timestamp() + $2 * interval '1 second', lease = $1,
		        give_up_at = clock_timestamp() + d.retry_for * interval '1 second'
		    FROM freed
		    WHERE d.project_id = freed.project_id AND d.id = freed.id
		    RETURNING `+claimedColumns+`
		)`+selectClaimed, lease, relay.Lease.Seconds(), limit, destinationID)
	list, err := collectClaimed(rows, lease, leaseEnds)
	return list, translate("claiming held deliveries", err)
}

// leasesOf are the keys of deliveries and the leases that they are held with,
// in the order of slots.
func leasesOf(list []relay.Delivery) (projects []int64, ids, leases []uuid.UUID) {
	list = slices.SortedFunc(slices.Values(list), func(a, b relay.Delivery) int { return bySlot(a.Conversation, a.ID, b.Conversation, b.ID) })
	projects, ids, leases = make([]int64, len(list)), make([]uuid.UUID, len(list)), make([]uuid.UUID, len(list))
	for i := range list {
		projects[i], ids[i], leases[i] = list[i].ProjectID, list[i].ID, list[i].Lease
	}
	return projects, ids, leases
}
