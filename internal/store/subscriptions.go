package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

func (s *Store) readSubscriptions(ctx context.Context, tx pgx.Tx, c *Configuration) error {
	rows, _ := tx.Query(ctx, `
		SELECT s.id, s.project_id, s.event, s.target, s.secret, s.signing_secret, s.created_at
		FROM subscriptions s JOIN projects p ON p.id = s.project_id
		WHERE p.deleted_at IS NULL
		ORDER BY s.created_at, s.id`)
	var err error
	c.Subscriptions, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (sub relay.Subscription, err error) {
		var secret, signing []byte
		if err := row.Scan(&sub.ID, &sub.ProjectID, &sub.Event, &sub.Target, &secret, &signing, &sub.CreatedAt); err != nil {
			return sub, err
		}
		for _, part := range []struct {
			which  string
			sealed []byte
			to     *string
		}{{"secret", secret, &sub.Secret}, {"signing-secret", signing, &sub.SigningSecret}} {
			plain, err := s.keys.Open(part.sealed, subscriptionContext(part.which, sub.ID.String()))
			if err != nil {
				return sub, fmt.Errorf("subscription %s: %w", sub.ID, err)
			}
			*part.to = string(plain)
		}
		return sub, nil
	})
	return err
}

// PutSubscription adds a subscription to a project. One of the same event and
// target is left as it is, and returned without its secrets.
func (c *Change) PutSubscription(ctx context.Context, sub relay.Subscription) (made relay.Subscription, err error) {
	row := c.tx.QueryRow(ctx, `
		SELECT id, created_at FROM subscriptions WHERE project_id = $1 AND event = $2 AND target = $3`,
		sub.ProjectID, string(sub.Event), sub.Target)
	made = relay.Subscription{ProjectID: sub.ProjectID, Event: sub.Event, Target: sub.Target}
	if err = row.Scan(&made.ID, &made.CreatedAt); !errors.Is(err, pgx.ErrNoRows) {
		return made, err
	}
	if err := c.roomForSubscription(ctx, sub.ProjectID, sub.Event); err != nil {
		return made, err
	}
	made = sub
	id := sub.ID.String()
	err = c.tx.QueryRow(ctx, `
		INSERT INTO subscriptions (id, project_id, event, target, secret, signing_secret) VALUES ($1, $2, $3, $4, $5, $6)
		RETURNING created_at`, sub.ID, sub.ProjectID, string(sub.Event), sub.Target,
		c.s.keys.Seal([]byte(sub.Secret), subscriptionContext("secret", id)),
		c.s.keys.Seal([]byte(sub.SigningSecret), subscriptionContext("signing-secret", id))).Scan(&made.CreatedAt)
	return made, err
}

// roomForSubscription refuses one more where the project has as many as it may,
// or where some kind of news would be told to more than may hear it.
func (c *Change) roomForSubscription(ctx context.Context, projectID int64, event relay.News) error {
	var all, listeners int
	err := c.tx.QueryRow(ctx, `
		SELECT coalesce(sum(n), 0), coalesce(sum(n) FILTER (WHERE event = '*'), 0) +
		       coalesce(max(n) FILTER (WHERE event <> '*' AND ($2 = '*' OR event = $2)), 0)
		FROM (SELECT event, count(*) AS n FROM subscriptions WHERE project_id = $1 GROUP BY event) s`,
		projectID, string(event)).Scan(&all, &listeners)
	switch {
	case err != nil:
		return err
	case all >= relay.MaxSubscriptions:
		return relay.Errorf(relay.Conflict, "too_many_subscriptions",
			"this project has %d subscriptions, the most that there may be: delete one first", all)
	case listeners >= relay.MaxListeners:
		return relay.Errorf(relay.Conflict, "too_many_subscriptions",
			"%d subscriptions of this project are told of the same already, the most that may be (those of * hear everything): delete one first, or let one of them pass it on", listeners)
	}
	return nil
}

// DeleteSubscription ends a subscription. What is owed to it is taken by
// nobody from here on, and ClearHooks deletes it in pieces: it may be a lot.
func (c *Change) DeleteSubscription(ctx context.Context, projectID int64, id uuid.UUID) error {
	_, err := c.tx.Exec(ctx, `DELETE FROM subscriptions WHERE project_id = $1 AND id = $2`, projectID, id)
	return err
}
