package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Budget is what a destination's rate allows at the moment.
type Budget struct {
	// Granted is how many calls may begin now.
	Granted int
	// Line is how long the first of those that may not is to wait; the next
	// ones come one interval after the other.
	Line time.Duration
}

// maxLine is how far ahead a line is kept. Who would stand beyond comes back
// and asks again.
const maxLine = 5 * time.Minute

// TakeBudget takes up to most calls out of a destination's budget, which all
// nodes share: one call in each interval, and what was not used in the last
// second at once. Those of waiting that it does not grant are lined up behind
// the ones of all other nodes.
func (s *Store) TakeBudget(ctx context.Context, destinationID int64, interval time.Duration, most, waiting int) (b Budget, err error) {
	// What may be saved up: a second's worth, and at least one call.
	saved := max(time.Second, interval)
	var line float64
	var batch pgx.Batch
	batch.Queue(`INSERT INTO rate_budgets (destination_id) VALUES ($1) ON CONFLICT DO NOTHING`, destinationID)
	batch.Queue(`
		WITH budget AS MATERIALIZED (
		    SELECT *, clock_timestamp() AS now FROM rate_budgets WHERE destination_id = $1 FOR UPDATE
		), free AS (
		    SELECT now, line_until, greatest(spent_until, now - $3::float8 * interval '1 second') AS since FROM budget
		), granted AS (
		    SELECT *, least($4::integer, greatest(0, floor(extract(epoch FROM now - since) / $2::float8)))::integer AS n FROM free
		), lined AS (
		    SELECT *, since + n * $2::float8 * interval '1 second' AS spent,
		           least(greatest(line_until, now, since + (n + 1) * $2::float8 * interval '1 second'), now + $6::float8 * interval '1 second') AS line
		    FROM granted
		)
		UPDATE rate_budgets b
		SET spent_until = l.spent,
		    line_until = CASE WHEN l.n < $5::integer
		                      THEN least(l.line + ($5::integer - l.n) * $2::float8 * interval '1 second', l.now + $6::float8 * interval '1 second')
		                      ELSE b.line_until END
		FROM lined l
		WHERE b.destination_id = $1
		RETURNING l.n, extract(epoch FROM l.line - l.now)::float8`,
		destinationID, interval.Seconds(), saved.Seconds(), most, waiting, maxLine.Seconds()).QueryRow(func(row pgx.Row) error {
		return row.Scan(&b.Granted, &line)
	})
	err = s.hot.SendBatch(ctx, &batch).Close()
	b.Line = time.Duration(line * float64(time.Second))
	return b, translate("taking from a rate budget", err)
}

// ChargeBudget takes one call out of a destination's budget that is made
// whatever is left of it: who comes next waits the longer.
func (s *Store) ChargeBudget(ctx context.Context, destinationID int64, interval time.Duration) error {
	_, err := s.hot.Exec(ctx, `
		UPDATE rate_budgets
		SET spent_until = greatest(spent_until, clock_timestamp() - $3::float8 * interval '1 second') + $2::float8 * interval '1 second'
		WHERE destination_id = $1`, destinationID, interval.Seconds(), max(time.Second, interval).Seconds())
	return translate("charging a rate budget", err)
}
