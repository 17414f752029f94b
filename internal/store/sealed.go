package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/seal"
)

// The contexts bind a sealed value to its place, so that one copied to
// another row does not open there.
func destinationContext(projectID int64, name string) string {
	return "destination/" + strconv.FormatInt(projectID, 10) + "/" + name
}

func sourceContext(projectID int64, name string) string {
	return "source/" + strconv.FormatInt(projectID, 10) + "/" + name
}
func secretContext(id uuid.UUID) string { return "source-secret/" + id.String() }

func sessionContext(destinationID string) string { return "session/" + destinationID }

func remoteContext(id string) string { return "remote-subscription/" + id }

// subscriptionContext is of one of the two secrets of a subscription.
func subscriptionContext(which, id string) string { return "subscription-" + which + "/" + id }

func (s *Store) sealMap(m map[string]string, context string) ([]byte, error) {
	if len(m) == 0 {
		return nil, nil
	}
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return s.keys.Seal(plain, context), nil
}

func (s *Store) openMap(sealed []byte, context string) (map[string]string, error) {
	m := map[string]string{}
	if sealed == nil {
		return m, nil
	}
	plain, err := s.keys.Open(sealed, context)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", context, err)
	}
	return m, json.Unmarshal(plain, &m)
}

// SealedCount tells how many sealed values stand under which key.
type SealedCount struct {
	KeyID   string
	Count   int
	Current bool // the key that seals today
	Known   bool // on the ring
}

// sealedValues are all places of sealed values.
const sealedValues = `
	SELECT secrets FROM destinations WHERE secrets IS NOT NULL
	UNION ALL SELECT credentials FROM sources WHERE credentials IS NOT NULL
	UNION ALL SELECT sealed FROM source_secrets
	UNION ALL SELECT sealed FROM destination_sessions
	UNION ALL SELECT secret FROM subscriptions
	UNION ALL SELECT signing_secret FROM subscriptions
	UNION ALL SELECT sealed FROM remote_subscriptions`

// SealedWith counts the sealed values by key.
func (s *Store) SealedWith(ctx context.Context) ([]SealedCount, error) {
	rows, _ := s.pool.Query(ctx, sealedValues)
	byKey := map[string]*SealedCount{}
	var sealed []byte
	_, err := pgx.ForEachRow(rows, []any{&sealed}, func() error {
		id := seal.KeyID(sealed)
		if byKey[id] == nil {
			byKey[id] = &SealedCount{KeyID: id, Current: s.keys.Current(sealed), Known: s.keys.Knows(sealed)}
		}
		byKey[id].Count++
		return nil
	})
	var out []SealedCount
	for _, c := range byKey {
		out = append(out, *c)
	}
	return out, translate("counting sealed values", err)
}

// Reseal seals everything that another key than the first one sealed with the
// first one, in one transaction, and returns how much that was.
func (s *Store) Reseal(ctx context.Context) (n int, err error) {
	err = s.Configure(ctx, func(c *Change) error {
		n = 0
		for _, place := range sealedPlaces {
			moved, err := c.reseal(ctx, place)
			if err != nil {
				return err
			}
			n += moved
		}
		return nil
	})
	return n, err
}

// sealedPlace is one column of sealed values: how to read it (id, value, and
// what the context is made of) and how to write one value back.
type sealedPlace struct {
	read, write string
	context     func(id string, projectID int64, name string) string
}

var sealedPlaces = []sealedPlace{
	{
		`SELECT id::text, project_id, name, secrets FROM destinations WHERE secrets IS NOT NULL`,
		`UPDATE destinations SET secrets = $2 WHERE id = $1::bigint`,
		func(_ string, projectID int64, name string) string { return destinationContext(projectID, name) },
	},
	{
		`SELECT id::text, project_id, name, credentials FROM sources WHERE credentials IS NOT NULL`,
		`UPDATE sources SET credentials = $2 WHERE id = $1::bigint`,
		func(_ string, projectID int64, name string) string { return sourceContext(projectID, name) },
	},
	{
		`SELECT id::text, project_id, '', sealed FROM source_secrets`,
		`UPDATE source_secrets SET sealed = $2 WHERE id = $1::uuid`,
		func(id string, _ int64, _ string) string { return secretContext(uuid.MustParse(id)) },
	},
	{
		`SELECT destination_id::text, 0::bigint, '', sealed FROM destination_sessions`,
		`UPDATE destination_sessions SET sealed = $2 WHERE destination_id = $1::bigint`,
		func(id string, _ int64, _ string) string { return sessionContext(id) },
	},
	{
		`SELECT id::text, project_id, '', secret FROM subscriptions`,
		`UPDATE subscriptions SET secret = $2 WHERE id = $1::uuid`,
		func(id string, _ int64, _ string) string { return subscriptionContext("secret", id) },
	},
	{
		`SELECT id::text, project_id, '', signing_secret FROM subscriptions`,
		`UPDATE subscriptions SET signing_secret = $2 WHERE id = $1::uuid`,
		func(id string, _ int64, _ string) string { return subscriptionContext("signing-secret", id) },
	},
	{
		`SELECT id::text, project_id, '', sealed FROM remote_subscriptions`,
		`UPDATE remote_subscriptions SET sealed = $2 WHERE id = $1::uuid`,
		func(id string, _ int64, _ string) string { return remoteContext(id) },
	},
}

func (c *Change) reseal(ctx context.Context, place sealedPlace) (n int, err error) {
	type value struct {
		id        string
		projectID int64
		name      string
		sealed    []byte
	}
	rows, _ := c.tx.Query(ctx, place.read)
	values, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (v value, err error) {
		return v, row.Scan(&v.id, &v.projectID, &v.name, &v.sealed)
	})
	if err != nil {
		return 0, err
	}
	for _, v := range values {
		if c.s.keys.Current(v.sealed) {
			continue
		}
		bound := place.context(v.id, v.projectID, v.name)
		plain, err := c.s.keys.Open(v.sealed, bound)
		if err != nil {
			return n, fmt.Errorf("%s: %w", bound, err)
		}
		if _, err := c.tx.Exec(ctx, place.write, v.id, c.s.keys.Seal(plain, bound)); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
