package store

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// Opening says when a person opened the link of a wait.
type Opening struct {
	ProjectID     int64
	CorrelationID uuid.UUID
	At            time.Time
}

// NoteOpenings keeps the first opening of each wait. It touches no row that a
// callback needs.
func (s *Store) NoteOpenings(ctx context.Context, list []Opening) error {
	n := len(list)
	projects, waits, times := make([]int64, n), make([]uuid.UUID, n), make([]time.Time, n)
	for i, o := range list {
		projects[i], waits[i], times[i] = o.ProjectID, o.CorrelationID, o.At
	}
	// In one order, so that two nodes do not wait for each other in a circle;
	// of waits that are there, since retention finds openings by them.
	_, err := s.pool.Exec(ctx, `
		INSERT INTO openings (correlation_id, project_id, opened_at)
		SELECT x.correlation_id, x.project_id, x.opened_at
		FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) AS x (correlation_id, project_id, opened_at)
		WHERE EXISTS (SELECT FROM correlations c WHERE c.id = x.correlation_id)
		ORDER BY x.correlation_id
		ON CONFLICT DO NOTHING`, waits, projects, times)
	return translate("noting that links were opened", err)
}

// OpenedAt returns when a person first opened the link of a wait, or nil.
func (s *Store) OpenedAt(ctx context.Context, wait uuid.UUID) (*time.Time, error) {
	var at time.Time
	err := s.pool.QueryRow(ctx, `SELECT opened_at FROM openings WHERE correlation_id = $1`, wait).Scan(&at)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // never opened is an answer
	}
	return &at, translate("reading when a link was opened", err)
}

// StandingByReference returns the wait of a project that goes by a provider's id,
// the newest of several. What only its caller calls it (a key) counts where
// keyToo says so: such names can be guessed.
func (s *Store) StandingByReference(ctx context.Context, projectID int64, ref uuid.UUID, keyToo bool) (*Standing, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+standingColumns+`
		FROM correlations c `+standingJoin+`
		WHERE c.project_id = $1 AND c.id = (
		    SELECT correlation_id FROM correlation_refs
		    WHERE ref = $2 AND (key_active IS NULL OR $3)
		    ORDER BY correlation_id DESC
		    LIMIT 1)`, projectID, ref, keyToo)
	c, err := pgx.CollectExactlyOneRow(rows, scanStanding)
	c, err = oneOrNotFound(c, err, "reference")
	return c, translate("reading a correlation", err)
}

// StatesOf returns how some waits stand: of each its ID, Status, Extended and
// LateOutcome.
func (s *Store) StatesOf(ctx context.Context, waits []uuid.UUID) ([]relay.Wait, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT id, status, extended, coalesce(late_outcome, '') FROM correlations WHERE id = ANY($1)`, waits)
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w relay.Wait, err error) {
		err = row.Scan(&w.ID, &w.Status, &w.Extended, &w.LateOutcome)
		return w, err
	})
	return list, translate("looking how waits stand", err)
}
