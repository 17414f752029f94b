package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// sealedRemote is what of a remote subscription is sealed.
type sealedRemote struct {
	Account relay.RemoteAccount `json:"account"`
	Address string              `json:"address"`
	Key     string              `json:"key"`
	Former  []string            `json:"former,omitempty"`
}

// maxFormerKeys is how many keys of before are remembered, the newest: one for
// each time that a source gave up its subscriptions and took them up again.
const maxFormerKeys = 16

// formerKeys are the keys besides a new one that subscriptions of a row may
// have at the platform.
func (of *sealedRemote) formerKeys(key string) []string {
	if of.Key == key {
		return of.Former
	}
	former := append(slices.Clone(of.Former), of.Key)
	return former[max(0, len(former)-maxFormerKeys):]
}

// remoteRow is a row as WantRemotes compares it with what is wanted.
type remoteRow struct {
	relay.RemoteSubscription
	sealedRemote
	digest []byte
}

func (r *remoteRow) is(w *relay.RemoteSubscription) bool {
	return r.SourceID == w.SourceID && r.Place == w.Place && r.Event == w.Event
}

// RemoteAccounts are the accounts of destinations, by place and id.
type RemoteAccounts map[RemoteKey]relay.RemoteAccount

// RemoteKey names an account of a destination.
type RemoteKey struct {
	DestinationID int64
	Place         string
}

// WantRemotes makes wanted the remote subscriptions of a project, all of them:
// others are to end, with the account that they were made with, or the one
// that their destination has at the same place now. Nodes do the rest.
func (c *Change) WantRemotes(ctx context.Context, projectID int64, wanted []relay.RemoteSubscription, accounts RemoteAccounts) error {
	rows, err := c.remotesOf(ctx, projectID)
	if err != nil {
		return err
	}
	for _, w := range wanted {
		i := slices.IndexFunc(rows, func(r remoteRow) bool { return r.is(&w) })
		if i < 0 {
			err = c.addRemote(ctx, &w)
		} else {
			err = c.keepRemote(ctx, &rows[i], &w)
		}
		if err != nil {
			return err
		}
	}
	for i := range rows {
		if slices.ContainsFunc(wanted, func(w relay.RemoteSubscription) bool { return rows[i].is(&w) }) {
			continue
		}
		if err := c.endRemote(ctx, &rows[i], accounts); err != nil {
			return err
		}
	}
	return nil
}

func (c *Change) remotesOf(ctx context.Context, projectID int64) ([]remoteRow, error) {
	rows, _ := c.tx.Query(ctx, `
		SELECT id, source_id, destination_id, place, event, unwanted_at IS NULL, sealed, digest
		FROM remote_subscriptions WHERE project_id = $1 ORDER BY id`, projectID)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (r remoteRow, err error) {
		var sealed []byte
		if err := row.Scan(&r.ID, &r.SourceID, &r.DestinationID, &r.Place, &r.Event, &r.Wanted, &sealed, &r.digest); err != nil {
			return r, err
		}
		r.sealedRemote, err = c.s.openRemote(sealed, r.ID)
		return r, err
	})
}

func (s *Store) sealRemote(of sealedRemote, id uuid.UUID) (sealed, digest []byte, err error) {
	plain, err := json.Marshal(of)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(plain)
	return s.keys.Seal(plain, remoteContext(id.String())), sum[:], nil
}

func (s *Store) openRemote(sealed []byte, id uuid.UUID) (of sealedRemote, err error) {
	plain, err := s.keys.Open(sealed, remoteContext(id.String()))
	if err != nil {
		return of, fmt.Errorf("remote subscription %s: %w", id, err)
	}
	return of, json.Unmarshal(plain, &of)
}

func (c *Change) addRemote(ctx context.Context, w *relay.RemoteSubscription) error {
	id := relay.NewID()
	sealed, digest, err := c.s.sealRemote(sealedRemote{Account: w.Account, Address: w.Address, Key: w.Key}, id)
	if err != nil {
		return err
	}
	_, err = c.tx.Exec(ctx, `
		INSERT INTO remote_subscriptions (id, project_id, source_id, destination_id, place, event, sealed, digest)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, id, w.ProjectID, w.SourceID, w.DestinationID, w.Place, w.Event, sealed, digest)
	return err
}

// keepRemote makes a row what is wanted, where it is not that already.
func (c *Change) keepRemote(ctx context.Context, r *remoteRow, w *relay.RemoteSubscription) error {
	sealed, digest, err := c.s.sealRemote(sealedRemote{w.Account, w.Address, w.Key, r.formerKeys(w.Key)}, r.ID)
	if err != nil || r.Wanted && r.DestinationID == w.DestinationID && bytes.Equal(r.digest, digest) {
		return err
	}
	_, err = c.tx.Exec(ctx, `
		UPDATE remote_subscriptions
		SET unwanted_at = NULL, destination_id = $2, sealed = $3, digest = $4, revision = revision + 1, due_at = now()
		WHERE id = $1`, r.ID, w.DestinationID, sealed, digest)
	return err
}

// endRemote lets a subscription end. One that is to end already may be let in
// again by what its destination has now.
func (c *Change) endRemote(ctx context.Context, r *remoteRow, accounts RemoteAccounts) error {
	of := r.sealedRemote
	if account, ok := accounts[RemoteKey{r.DestinationID, r.Place}]; ok {
		of.Account = account
	}
	sealed, digest, err := c.s.sealRemote(of, r.ID)
	if err != nil || !r.Wanted && bytes.Equal(r.digest, digest) {
		return err
	}
	_, err = c.tx.Exec(ctx, `
		UPDATE remote_subscriptions
		SET unwanted_at = coalesce(unwanted_at, now()), sealed = $2, digest = $3, revision = revision + 1, due_at = now()
		WHERE id = $1`, r.ID, sealed, digest)
	return err
}

// LookAtRemotes makes everything due that is as it should be: a node that
// starts may be reached by another address than before.
//
// A change of the configuration locks rows in an order of its own. So none is
// waited for while another is held: those that are locked now come afterwards,
// one by one.
func (s *Store) LookAtRemotes(ctx context.Context) error {
	const step = "making remote subscriptions due"
	if _, err := s.pool.Exec(ctx, `
		UPDATE remote_subscriptions r SET due_at = now()
		FROM (SELECT id FROM remote_subscriptions WHERE failures = 0 AND due_at > now() FOR UPDATE SKIP LOCKED) free
		WHERE r.id = free.id`); err != nil {
		return translate(step, err)
	}
	rows, _ := s.pool.Query(ctx, `SELECT id FROM remote_subscriptions WHERE failures = 0 AND due_at > now()`)
	locked, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return translate(step, err)
	}
	for _, id := range locked {
		if _, err := s.pool.Exec(ctx, `
			UPDATE remote_subscriptions SET due_at = now() WHERE id = $1 AND failures = 0 AND due_at > now()`, id); err != nil {
			return translate(step, err)
		}
	}
	return nil
}

// ClaimRemotes leases remote subscriptions that are due, so that one node at a
// time does anything about each; none of the projects that are passed over.
func (s *Store) ClaimRemotes(ctx context.Context, lease uuid.UUID, limit int, passedOver []int64) ([]relay.RemoteSubscription, error) {
	rows, _ := s.pool.Query(ctx, `
		WITH due AS MATERIALIZED (
		    SELECT id FROM remote_subscriptions
		    WHERE due_at <= now() AND (lease IS NULL OR leased_until <= now()) AND project_id <> ALL($4::bigint[])
		    ORDER BY due_at
		    LIMIT $3
		    FOR UPDATE SKIP LOCKED
		)
		UPDATE remote_subscriptions r SET lease = $1, leased_until = now() + $2 * interval '1 second'
		FROM due
		WHERE r.id = due.id
		RETURNING r.id, r.project_id, r.source_id, r.destination_id, r.place, r.event, r.unwanted_at IS NULL, r.revision,
		          CASE WHEN r.secret_id IS NULL THEN '' ELSE coalesce(r.remote_id, '') END, r.failures, r.sealed`,
		lease, relay.RemoteLease.Seconds(), limit, passedOver)
	claimed, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (relay.RemoteSubscription, error) {
		r, sealed := relay.RemoteSubscription{Lease: lease}, []byte(nil)
		err := row.Scan(&r.ID, &r.ProjectID, &r.SourceID, &r.DestinationID, &r.Place, &r.Event, &r.Wanted, &r.Revision, &r.RemoteID, &r.Failures, &sealed)
		if err != nil {
			return r, err
		}
		of, err := s.openRemote(sealed, r.ID)
		r.Account, r.Address, r.Key, r.Former = of.Account, of.Address, of.Key, of.Former
		return r, err
	})
	return claimed, translate("claiming remote subscriptions", err)
}

// errStale ends what was done under a lease that is another node's now.
var errStale = errors.New("the lease is lost")

// staleUnless makes an update of no row an error.
func staleUnless(rows int64, err error) error {
	if err == nil && rows == 0 {
		return errStale
	}
	return err
}

// mendSource takes the failure of a subscription from what was last wrong with
// its source, where no other one of it fails. The lock comes first, in a
// statement of its own: of two that are mended at once the second sees the
// first. And it comes before secrets are touched, as in NoteActivity.
func mendSource(ctx context.Context, tx pgx.Tx, r *relay.RemoteSubscription) error {
	locked, err := tx.Exec(ctx, `
		SELECT FROM source_activity WHERE source_id = $1 AND last_error = $2 FOR UPDATE`, r.SourceID, relay.SubscriptionFailed)
	if err != nil || locked.RowsAffected() == 0 {
		return err
	}
	_, err = tx.Exec(ctx, `
		UPDATE source_activity a SET last_error = NULL, last_error_at = NULL
		WHERE a.source_id = $1 AND a.last_error = $3
		  AND NOT EXISTS (SELECT FROM remote_subscriptions r
		                  WHERE r.source_id = $1 AND r.id <> $2 AND r.unwanted_at IS NULL AND r.last_error IS NOT NULL)`,
		r.SourceID, r.ID, relay.SubscriptionFailed)
	return err
}

// KeepSubscribed keeps a subscription that was made, and its secret with its
// source, in one transaction: who knows the one knows the other. Where people
// have given the source the same secret, it is kept beside theirs, which goes
// its own way: theirs counts at any address, and may be rotated or deleted.
func (c *Change) KeepSubscribed(ctx context.Context, r *relay.RemoteSubscription, remoteID, secret string, next time.Duration) error {
	if err := mendSource(ctx, c.tx, r); err != nil {
		return err
	}
	id := relay.NewID()
	digest := sha256.Sum256([]byte("subscribed\x00" + strconv.FormatInt(r.SourceID, 10) + "\x00" + secret))
	// All that a server makes in one run has the same secret: it is kept once.
	err := c.tx.QueryRow(ctx, `
		INSERT INTO source_secrets AS x (id, project_id, source_id, sealed, digest, subscribed)
		SELECT $1, $2, s.id, $4, $5, true FROM sources s WHERE s.id = $3
		ON CONFLICT (source_id, digest) DO UPDATE SET expires_at = NULL
		RETURNING id`, id, r.ProjectID, r.SourceID, c.s.keys.Seal([]byte(secret), secretContext(id)), digest[:]).Scan(&id)
	if err != nil {
		return err
	}
	tag, err := c.tx.Exec(ctx, `
		UPDATE remote_subscriptions
		SET remote_id = $3, secret_id = $4, checked_at = now(), failures = 0, last_error = NULL, last_error_at = NULL,
		    lease = NULL, leased_until = NULL,
		    due_at = CASE WHEN revision = $5 THEN now() + $6 * interval '1 second' ELSE now() END
		WHERE id = $1 AND lease = $2`, r.ID, r.Lease, clean(remoteID), id, r.Revision, next.Seconds())
	if err := staleUnless(tag.RowsAffected(), err); err != nil {
		return err
	}
	// One that no subscription has any more holds for the hooks that are under
	// way still: the last one is sent some 8 s after the first.
	_, err = c.tx.Exec(ctx, `
		UPDATE source_secrets x SET expires_at = now() + interval '1 hour'
		WHERE x.source_id = $1 AND x.subscribed AND x.expires_at IS NULL
		  AND NOT EXISTS (SELECT FROM remote_subscriptions r WHERE r.secret_id = x.id)`, r.SourceID)
	return err
}

// CheckedRemote notes that a subscription is as it is wanted.
func (s *Store) CheckedRemote(ctx context.Context, r *relay.RemoteSubscription, next time.Duration) error {
	return s.inTx(ctx, "noting a remote subscription", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE remote_subscriptions
			SET checked_at = now(), failures = 0, last_error = NULL, last_error_at = NULL, lease = NULL, leased_until = NULL,
			    due_at = CASE WHEN revision = $3 THEN now() + $4 * interval '1 second' ELSE now() END
			WHERE id = $1 AND lease = $2`, r.ID, r.Lease, r.Revision, next.Seconds())
		if err := staleUnless(tag.RowsAffected(), err); err != nil {
			return err
		}
		return mendSource(ctx, tx, r)
	})
}

// EndedRemote drops the row of a subscription that is gone at its platform. One
// that is wanted again meanwhile stays, to be made anew.
func (s *Store) EndedRemote(ctx context.Context, r *relay.RemoteSubscription) error {
	return s.inTx(ctx, "ending a remote subscription", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE remote_subscriptions
			SET remote_id = NULL, secret_id = NULL, lease = NULL, leased_until = NULL, due_at = now()
			WHERE id = $1 AND lease = $2`, r.ID, r.Lease)
		if err := staleUnless(tag.RowsAffected(), err); err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, `DELETE FROM remote_subscriptions WHERE id = $1 AND unwanted_at IS NOT NULL`, r.ID); err != nil {
			return err
		}
		return mendSource(ctx, tx, r)
	})
}

// FailedRemote notes a failure, and reports whether the subscription was given
// up: one that nobody has wanted for long.
func (s *Store) FailedRemote(ctx context.Context, r *relay.RemoteSubscription, reason string, next time.Duration) (givenUp bool, err error) {
	err = s.inTx(ctx, "noting the failure of a remote subscription", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE remote_subscriptions
			SET failures = failures + 1, last_error = $3, last_error_at = now(), lease = NULL, leased_until = NULL,
			    due_at = CASE WHEN revision = $4 THEN now() + $5 * interval '1 second' ELSE now() END
			WHERE id = $1 AND lease = $2`, r.ID, r.Lease, clean(reason), r.Revision, next.Seconds())
		if err := staleUnless(tag.RowsAffected(), err); err != nil {
			return err
		}
		tag, err = tx.Exec(ctx, `
			DELETE FROM remote_subscriptions
			WHERE id = $1 AND unwanted_at < now() - $2 * interval '1 second'`, r.ID, relay.RemoteGiveUp.Seconds())
		if givenUp = tag.RowsAffected() > 0; err != nil || !givenUp {
			return err
		}
		return mendSource(ctx, tx, r)
	})
	return givenUp, err
}

// ReturnRemote gives a lease back unused.
func (s *Store) ReturnRemote(ctx context.Context, r *relay.RemoteSubscription) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE remote_subscriptions SET lease = NULL, leased_until = NULL WHERE id = $1 AND lease = $2`, r.ID, r.Lease)
	return translate("returning a remote subscription", err)
}

// RemoteState is how a remote subscription stands.
type RemoteState struct {
	SourceID    int64
	Event       string
	Wanted      bool
	There       bool // with its secret known
	CheckedAt   *time.Time
	LastError   string // of the last try, "" where that went well
	LastErrorAt *time.Time
}

// Remotes lists the remote subscriptions of a project's sources.
func (s *Store) Remotes(ctx context.Context, projectID int64) ([]RemoteState, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT source_id, event, unwanted_at IS NULL, remote_id IS NOT NULL AND secret_id IS NOT NULL, checked_at,
		       coalesce(last_error, ''), last_error_at
		FROM remote_subscriptions WHERE project_id = $1
		ORDER BY source_id, event, id`, projectID)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[RemoteState])
	return list, translate("reading remote subscriptions", err)
}
