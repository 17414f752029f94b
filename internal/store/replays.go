package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// ReplayLimit is how many events one replay takes at most, oldest first.
const ReplayLimit = 10_000

// replayLease is how long a node may work on a piece of a replay.
const replayLease = 30 * time.Second

// Replay is what was asked for: its id (zero where nothing was begun), how
// many events it will look at, and how many it skips because their bytes are
// not kept any more.
type Replay struct {
	ID      uuid.UUID
	Matched int
	Skipped int
}

// undoneMatches are relay.Undone for a parameter.
func undoneMatches() []string {
	undone := make([]string, len(relay.Undone))
	for i, match := range relay.Undone {
		undone[i] = string(match)
	}
	return undone
}

// StartReplay has the events that f names and that did nothing matched again,
// in the background, at most ReplayLimit. With dryRun it only counts them.
func (s *Store) StartReplay(ctx context.Context, projectID int64, f EventFilter, dryRun bool) (r Replay, err error) {
	filter, err := json.Marshal(f)
	if err != nil {
		return r, err
	}
	err = s.inTx(ctx, "starting a replay", func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			SELECT count(*) FILTER (WHERE whole), count(*) FILTER (WHERE NOT whole)
			FROM (SELECT e.body IS NOT NULL AS whole
			      FROM events e `+eventJoins+`
			      WHERE e.project_id = $1 AND e.id > $2 AND `+eventWhere+` AND e.match = ANY($11)
			      ORDER BY e.id
			      LIMIT $12) found`,
			append(f.args(projectID, uuid.Nil), undoneMatches(), ReplayLimit)...).Scan(&r.Matched, &r.Skipped)
		if err != nil || dryRun {
			return err
		}
		r.ID = relay.NewID()
		_, err = tx.Exec(ctx, `
			INSERT INTO replays (id, project_id, filter, after, remaining, done_at)
			VALUES ($1, $2, $3, $4, $5, CASE WHEN $5 = 0 THEN now() END)`, r.ID, projectID, filter, uuid.Nil, r.Matched)
		return err
	})
	return r, err
}

// ReplayState is how far a replay has come.
type ReplayState struct {
	ID        uuid.UUID
	Remaining int // events that it may still take
	Changed   int // events that came to something else than before
	CreatedAt time.Time
	DoneAt    *time.Time
}

// Replay returns how far a replay has come.
func (s *Store) Replay(ctx context.Context, projectID int64, id uuid.UUID) (ReplayState, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT id, CASE WHEN done_at IS NULL THEN remaining ELSE 0 END, changed, created_at, done_at
		FROM replays
		WHERE project_id = $1 AND id = $2`, projectID, id)
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[ReplayState])
	r, err = oneOrNotFound(r, err, "replay")
	return r, translate("reading a replay", err)
}

// ReplayPiece is the next part of a replay.
type ReplayPiece struct {
	Replay uuid.UUID
	Events []EventKey // none: the replay is at its end
	// Rejected are those of them that are to be verified anew, with no more of
	// each than its source and headers.
	Rejected []relay.Callback
	after    uuid.UUID
	last     bool
}

// NextReplay leases the next piece of a replay to the caller, of at most limit
// events; false: nothing is to be done. EndReplayPiece ends it.
func (s *Store) NextReplay(ctx context.Context, limit int) (p ReplayPiece, ok bool, err error) {
	var projectID int64
	var filter []byte
	var remaining int
	err = s.pool.QueryRow(ctx, `
		UPDATE replays SET due_at = now() + $1 * interval '1 second'
		WHERE id = (SELECT id FROM replays
		            WHERE done_at IS NULL AND due_at <= now()
		            ORDER BY due_at
		            LIMIT 1
		            FOR UPDATE SKIP LOCKED)
		RETURNING id, project_id, filter, after, remaining`, replayLease.Seconds()).
		Scan(&p.Replay, &projectID, &filter, &p.after, &remaining)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, false, nil
	}
	if err != nil {
		return p, false, translate("taking a replay", err)
	}
	var f EventFilter
	if err := json.Unmarshal(filter, &f); err != nil {
		return p, false, err
	}
	limit = min(limit, remaining)
	rows, _ := s.pool.Query(ctx, `
		SELECT e.project_id, e.id, e.source_id, e.verdict, CASE WHEN e.verdict = 'rejected' THEN e.headers END
		FROM events e `+eventJoins+`
		WHERE e.project_id = $1 AND e.id > $2 AND `+eventWhere+` AND e.match = ANY($11) AND e.body IS NOT NULL
		ORDER BY e.id
		LIMIT $12`, append(f.args(projectID, p.after), undoneMatches(), limit)...)
	var c relay.Callback
	_, err = pgx.ForEachRow(rows, []any{&c.ProjectID, &c.ID, &c.SourceID, &c.Verdict, &c.Headers}, func() error {
		p.Events = append(p.Events, EventKey{c.ProjectID, c.ID})
		if c.Verdict == relay.Rejected {
			p.Rejected = append(p.Rejected, c)
		}
		return nil
	})
	p.last = len(p.Events) < limit || limit == remaining
	return p, err == nil, translate("reading the events of a replay", err)
}

// EndReplayPiece notes that a piece was worked off and how many of its events
// changed. It reports whether the replay is done. A piece that another node
// has taken over meanwhile is that one's to note.
func (s *Store) EndReplayPiece(ctx context.Context, p ReplayPiece, changed int) (done bool, err error) {
	last := p.after
	if len(p.Events) > 0 {
		last = p.Events[len(p.Events)-1].ID
	}
	_, err = s.pool.Exec(ctx, `
		UPDATE replays
		SET after = $3, remaining = remaining - $4, changed = changed + $5, due_at = now(), done_at = CASE WHEN $6 THEN now() END
		WHERE id = $1 AND after = $2 AND done_at IS NULL`, p.Replay, p.after, last, len(p.Events), changed, p.last)
	return p.last, translate("noting a replay", err)
}
