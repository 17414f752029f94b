package store

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// Checkout is what was made at a provider for a wait to be paid by.
type Checkout struct {
	SourceID int64
	Object   string // the provider's id of it
	URL      string
	// Reference: events name it, and the provider is asked for it before the
	// wait expires.
	Reference bool

	// What came of having it ended, after the wait had ended; nil: nobody has.
	EndResult  *EndResult
	EndTries   int
	EndTriedAt *time.Time
}

// Reserve gives a registration whose wait is not to be made twice the id that
// goes with its Idempotency-Key: whoever repeats it, on whatever node, gets the
// same one for 24 h. It returns the wait where that is there already. Without a
// key there is nothing to repeat it by.
func (s *Store) Reserve(ctx context.Context, r *Registration) (there *relay.Wait, err error) {
	if r.IdempotencyKey == uuid.Nil {
		return nil, nil //nolint:nilnil // a new one
	}
	err = s.inTx(ctx, "reserving a wait", func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO idempotency_keys AS k (key, correlation_id, request, project_id) VALUES ($1, $2, $3, $4)
			ON CONFLICT (key) DO UPDATE
			SET correlation_id = excluded.correlation_id, request = excluded.request, created_at = now()
			WHERE k.created_at < now() - interval '24 hours'`, r.IdempotencyKey, r.Wait.ID, r.Request[:], r.Wait.ProjectID)
		if err != nil {
			return err
		}
		var request []byte
		err = tx.QueryRow(ctx, `SELECT correlation_id, request FROM idempotency_keys WHERE key = $1`, r.IdempotencyKey).Scan(&r.Wait.ID, &request)
		if err != nil {
			return err
		}
		if !bytes.Equal(request, r.Request[:]) {
			return errIdempotencyMismatch
		}
		rows, _ := tx.Query(ctx, `SELECT `+waitColumns+` FROM correlations c WHERE c.id = $1`, r.Wait.ID)
		there, err = pgx.CollectExactlyOneRow(rows, scanWait)
		if errors.Is(err, pgx.ErrNoRows) {
			there, err = nil, nil
		}
		return err
	})
	return there, err
}

// Release gives up what Reserve has reserved, unless the wait is there.
func (s *Store) Release(ctx context.Context, r *Registration) error {
	if r.IdempotencyKey == uuid.Nil {
		return nil
	}
	_, err := s.pool.Exec(ctx, `
		DELETE FROM idempotency_keys
		WHERE key = $1 AND correlation_id = $2 AND NOT EXISTS (SELECT FROM correlations WHERE id = $2)`, r.IdempotencyKey, r.Wait.ID)
	return translate("giving up a reserved wait", err)
}

// CheckoutOf returns what was made for a wait to be paid by.
func (s *Store) CheckoutOf(ctx context.Context, wait uuid.UUID) (c Checkout, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT source_id, object, url, end_result, end_tries, end_tried_at
		FROM checkouts
		WHERE correlation_id = $1`, wait).Scan(&c.SourceID, &c.Object, &c.URL, &c.EndResult, &c.EndTries, &c.EndTriedAt)
	c, err = oneOrNotFound(c, err, "checkout")
	return c, translate("reading what a wait is paid by", err)
}

// queueCheckouts queues what was made for fresh waits, and that they are known
// by it. For most nothing was, and then it is nothing.
func queueCheckouts(b *pgx.Batch, regs []Registration, fresh []int) {
	var waits, named, refs []uuid.UUID
	var projects, sources, namedProjects, namedSources []int64
	var objects, urls, names []string
	for _, i := range fresh {
		w, c := &regs[i].Wait, regs[i].Checkout
		if c == nil {
			continue
		}
		waits, projects, sources = append(waits, w.ID), append(projects, w.ProjectID), append(sources, c.SourceID)
		objects, urls = append(objects, c.Object), append(urls, c.URL)
		if c.Reference {
			named, namedProjects, namedSources = append(named, w.ID), append(namedProjects, w.ProjectID), append(namedSources, c.SourceID)
			refs, names = append(refs, RefHash(c.SourceID, c.Object)), append(names, clean(c.Object))
		}
	}
	if len(waits) == 0 {
		return
	}
	b.Queue(`
		INSERT INTO checkouts (correlation_id, project_id, source_id, object, url)
		SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::text[])`, waits, projects, sources, objects, urls)
	if len(named) == 0 {
		return
	}
	b.Queue(`
		INSERT INTO correlation_refs (ref, correlation_id, project_id)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[])`, refs, named, namedProjects)
	b.Queue(`
		UPDATE correlations c SET asks = x.asks, asks_source = x.source_id
		FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS x (id, asks, source_id)
		WHERE c.id = x.id`, named, names, namedSources)
}
