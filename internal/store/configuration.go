package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// Configuration is all that was configured, of all projects, at one version.
type Configuration struct {
	Version      int64
	Projects     []relay.Project
	Keys         []relay.APIKey
	Destinations []relay.Destination // deleted ones too: calls may still be owed to them
	Sources      []relay.Source
	Flows        map[int64][]relay.Flow // by project id
	// Subscriptions are those of projects that are there, the oldest first.
	Subscriptions []relay.Subscription
}

// Configuration reads everything that was configured, in one snapshot. From
// here on this node tells those who subscribe.
func (s *Store) Configuration(ctx context.Context) (c *Configuration, err error) {
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.pool, opts, func(tx pgx.Tx) error {
		c, err = s.readConfiguration(ctx, tx)
		return err
	})
	if err == nil {
		s.listeners.learn(c)
	}
	return c, translate("reading the configuration", err)
}

func (s *Store) readConfiguration(ctx context.Context, tx pgx.Tx) (*Configuration, error) {
	c := &Configuration{Flows: map[int64][]relay.Flow{}}
	if err := tx.QueryRow(ctx, `SELECT version FROM configuration`).Scan(&c.Version); err != nil {
		return nil, err
	}
	rows, _ := tx.Query(ctx, `SELECT id, name, retention, look, created_at FROM projects WHERE deleted_at IS NULL ORDER BY name`)
	var err error
	c.Projects, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p relay.Project, err error) {
		var retention, look []byte
		if err := row.Scan(&p.ID, &p.Name, &retention, &look, &p.CreatedAt); err != nil {
			return p, err
		}
		if look != nil {
			if err := json.Unmarshal(look, &p.Look); err != nil {
				return p, fmt.Errorf("the look of project %d: %w", p.ID, err)
			}
		}
		p.Retention, err = readRetention(retention)
		return p, err
	})
	if err != nil {
		return nil, err
	}
	rows, _ = tx.Query(ctx, `
		SELECT k.id, coalesce(k.project_id, 0), k.name, k.scope, k.hash, k.hint, k.created_at
		FROM api_keys k ORDER BY k.id`)
	c.Keys, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (k relay.APIKey, err error) {
		var hash []byte
		err = row.Scan(&k.ID, &k.ProjectID, &k.Name, &k.Scope, &hash, &k.Hint, &k.CreatedAt)
		copy(k.Hash[:], hash)
		return k, err
	})
	if err != nil {
		return nil, err
	}
	if err := s.readDestinations(ctx, tx, c); err != nil {
		return nil, err
	}
	if err := s.readSources(ctx, tx, c); err != nil {
		return nil, err
	}
	if err := s.readSubscriptions(ctx, tx, c); err != nil {
		return nil, err
	}
	return c, readFlows(ctx, tx, c)
}

func (s *Store) readDestinations(ctx context.Context, tx pgx.Tx, c *Configuration) error {
	rows, _ := tx.Query(ctx, `
		SELECT id, project_id, name, platform, doc, secrets, created_at, updated_at, deleted_at IS NOT NULL,
		       held_at, coalesce(held_reason, ''), releases, releasing
		FROM destinations ORDER BY project_id, name, id`)
	var err error
	c.Destinations, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (d relay.Destination, err error) {
		var doc, sealed []byte
		var since *time.Time
		var why string
		err = row.Scan(&d.ID, &d.ProjectID, &d.Name, &d.Platform, &doc, &sealed, &d.CreatedAt, &d.UpdatedAt, &d.Deleted,
			&since, &why, &d.Releases, &d.Releasing)
		if err != nil {
			return d, err
		}
		if since != nil {
			d.Held = &relay.Hold{Since: *since, Reason: why}
		}
		if err := json.Unmarshal(doc, &d); err != nil {
			return d, fmt.Errorf("destination %d: %w", d.ID, err)
		}
		d.Secrets, err = s.openMap(sealed, destinationContext(d.ProjectID, d.Name))
		return d, err
	})
	return err
}

func (s *Store) readSources(ctx context.Context, tx pgx.Tx, c *Configuration) error {
	secrets := map[int64][]relay.SourceSecret{}
	rows, _ := tx.Query(ctx, `
		SELECT x.source_id, x.id, x.sealed, x.created_at, x.expires_at, x.subscribed
		FROM source_secrets x JOIN sources s ON s.id = x.source_id
		WHERE s.deleted_at IS NULL AND (x.expires_at IS NULL OR x.expires_at > now())
		ORDER BY x.source_id, x.expires_at DESC NULLS FIRST, x.id DESC`)
	var (
		sourceID int64
		secret   relay.SourceSecret
		sealed   []byte
	)
	_, err := pgx.ForEachRow(rows, []any{&sourceID, &secret.ID, &sealed, &secret.CreatedAt, &secret.ExpiresAt, &secret.Subscribed}, func() error {
		plain, err := s.keys.Open(sealed, secretContext(secret.ID))
		if err != nil {
			return fmt.Errorf("secret of source %d: %w", sourceID, err)
		}
		next := secret
		next.Secret = string(plain)
		secrets[sourceID] = append(secrets[sourceID], next)
		return nil
	})
	if err != nil {
		return err
	}
	rows, _ = tx.Query(ctx, `
		SELECT s.id, s.project_id, s.name, s.provider, s.doc, s.credentials, s.created_at, s.updated_at
		FROM sources s
		WHERE s.deleted_at IS NULL
		ORDER BY s.project_id, s.name`)
	c.Sources, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (src relay.Source, err error) {
		var doc, sealed []byte
		err = row.Scan(&src.ID, &src.ProjectID, &src.Name, &src.Provider, &doc, &sealed, &src.CreatedAt, &src.UpdatedAt)
		if err != nil {
			return src, err
		}
		if err := json.Unmarshal(doc, &src); err != nil {
			return src, fmt.Errorf("source %d: %w", src.ID, err)
		}
		src.Secrets = secrets[src.ID]
		src.Credentials, err = s.openMap(sealed, sourceContext(src.ProjectID, src.Name))
		return src, err
	})
	return err
}

func readFlows(ctx context.Context, tx pgx.Tx, c *Configuration) error {
	rows, _ := tx.Query(ctx, `SELECT project_id, name, doc, created_at, updated_at FROM flows ORDER BY project_id, name`)
	var (
		projectID        int64
		name             string
		doc              []byte
		created, updated time.Time
	)
	_, err := pgx.ForEachRow(rows, []any{&projectID, &name, &doc, &created, &updated}, func() error {
		f := relay.Flow{Name: name, CreatedAt: created, UpdatedAt: updated}
		if err := json.Unmarshal(doc, &f); err != nil {
			return fmt.Errorf("flow %s: %w", name, err)
		}
		c.Flows[projectID] = append(c.Flows[projectID], f)
		return nil
	})
	return err
}

// ConfigurationVersion returns the number that grows with every change.
func (s *Store) ConfigurationVersion(ctx context.Context) (v int64, err error) {
	err = s.pool.QueryRow(ctx, `SELECT version FROM configuration`).Scan(&v)
	return v, translate("reading the configuration's version", err)
}

// configurationLock serialises changes, whoever makes them.
const configurationLock = 0x72656c6179 // "relay"

// Change is an open change of the configuration. It commits as a whole.
type Change struct {
	tx pgx.Tx
	s  *Store
	// Before is the configuration as it was when the change took the lock.
	Before *Configuration
}

// ErrDryRun makes Configure roll back and return no error.
var ErrDryRun = errors.New("dry run")

// Configure changes the configuration: fn runs in one transaction under a
// lock that all changes share, and every node is told after the commit. When
// fn returns an error nothing has changed.
func (s *Store) Configure(ctx context.Context, fn func(*Change) error) error {
	err := s.inTx(ctx, "changing the configuration", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext(current_schema()), $1)`, configurationLock&0x7fffffff); err != nil {
			return err
		}
		before, err := s.readConfiguration(ctx, tx)
		if err != nil {
			return err
		}
		if err := fn(&Change{tx: tx, s: s, Before: before}); err != nil {
			return err
		}
		return tellNodes(ctx, tx)
	})
	if errors.Is(err, ErrDryRun) {
		return nil
	}
	return err
}

// Read returns the configuration as the change has made it so far.
func (c *Change) Read(ctx context.Context) (*Configuration, error) {
	return c.s.readConfiguration(ctx, c.tx)
}

// PutProject creates a project, with its built-in source, and returns its id;
// one that exists is left as it is.
func (c *Change) PutProject(ctx context.Context, name string) (id int64, err error) {
	err = c.tx.QueryRow(ctx, `SELECT id FROM projects WHERE name = $1 AND deleted_at IS NULL`, name).Scan(&id)
	if !errors.Is(err, pgx.ErrNoRows) {
		return id, err
	}
	err = c.tx.QueryRow(ctx, `INSERT INTO projects (name) VALUES ($1) RETURNING id`, name).Scan(&id)
	if err != nil {
		return 0, err
	}
	_, err = c.tx.Exec(ctx, `
		INSERT INTO sources (project_id, name, provider, doc) VALUES ($1, $2, $2, '{}')`, id, relay.FormSource)
	return id, err
}

// SetRetention says for how long a project keeps what.
func (c *Change) SetRetention(ctx context.Context, id int64, r relay.Retention) error {
	doc, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = c.tx.Exec(ctx, `UPDATE projects SET retention = $2 WHERE id = $1`, id, string(doc))
	return err
}

// SetLook says how the pages of a project look.
func (c *Change) SetLook(ctx context.Context, id int64, l relay.Look) error {
	doc, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = c.tx.Exec(ctx, `UPDATE projects SET look = $2 WHERE id = $1`, id, string(doc))
	return err
}

// readRetention reads the column retention.
func readRetention(doc []byte) (r relay.Retention, err error) {
	if doc == nil {
		return r, nil
	}
	if err := json.Unmarshal(doc, &r); err != nil {
		return r, fmt.Errorf("the retention of a project: %w", err)
	}
	return r, nil
}

// DeleteProject ends a project that no wait depends on any more: its keys are
// gone, its name is free, its rows go by retention.
func (c *Change) DeleteProject(ctx context.Context, id int64) error {
	var pending bool
	err := c.tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM deadlines WHERE project_id = $1)`, id).Scan(&pending)
	if err != nil {
		return err
	}
	if pending {
		return relay.Errorf(relay.Conflict, "project_in_use", "waits of this project are pending: cancel them or let them end first")
	}
	_, err = c.tx.Exec(ctx, `DELETE FROM api_keys WHERE project_id = $1`, id)
	if err != nil {
		return err
	}
	if _, err := c.tx.Exec(ctx, `DELETE FROM subscriptions WHERE project_id = $1`, id); err != nil {
		return err
	}
	if err := c.WantRemotes(ctx, id, nil, nil); err != nil {
		return err
	}
	_, err = c.tx.Exec(ctx, `UPDATE projects SET deleted_at = now() WHERE id = $1`, id)
	return err
}

// PutKey stores an API key by its hash; an equal one is left as it is.
func (c *Change) PutKey(ctx context.Context, k relay.APIKey) error {
	var projectID *int64
	if k.ProjectID != 0 {
		projectID = &k.ProjectID
	}
	_, err := c.tx.Exec(ctx, `
		INSERT INTO api_keys (id, project_id, name, scope, hash, hint) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (hash) DO NOTHING`, k.ID, projectID, k.Name, string(k.Scope), k.Hash[:], k.Hint)
	return err
}

// DeleteKey revokes an API key.
func (c *Change) DeleteKey(ctx context.Context, id uuid.UUID) error {
	_, err := c.tx.Exec(ctx, `DELETE FROM api_keys WHERE id = $1`, id)
	return err
}

// PutDestination creates or replaces a destination of its name.
func (c *Change) PutDestination(ctx context.Context, d relay.Destination) error {
	doc, err := json.Marshal(d)
	if err != nil {
		return err
	}
	sealed, err := c.s.sealMap(d.Secrets, destinationContext(d.ProjectID, d.Name))
	if err != nil {
		return err
	}
	_, err = c.tx.Exec(ctx, `
		INSERT INTO destinations (project_id, name, platform, doc, secrets) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (project_id, name) WHERE deleted_at IS NULL DO UPDATE
		SET platform = excluded.platform, doc = excluded.doc, secrets = excluded.secrets, updated_at = now()`,
		d.ProjectID, d.Name, d.Platform, string(doc), sealed)
	return err
}

// DeleteDestination frees the name of a destination. What is owed to it is
// still sent: a hold ends, since nobody could end it any more.
func (c *Change) DeleteDestination(ctx context.Context, id int64) error {
	if _, err := c.ReleaseDestination(ctx, id); err != nil {
		return err
	}
	_, err := c.tx.Exec(ctx, `UPDATE destinations SET deleted_at = now() WHERE id = $1`, id)
	return err
}

// PutSource creates or replaces a source of its name and returns its id. Its
// secrets are changed by PutSecret and DeleteSecret alone.
func (c *Change) PutSource(ctx context.Context, src relay.Source) (id int64, err error) {
	doc, err := json.Marshal(src)
	if err != nil {
		return 0, err
	}
	sealed, err := c.s.sealMap(src.Credentials, sourceContext(src.ProjectID, src.Name))
	if err != nil {
		return 0, err
	}
	err = c.tx.QueryRow(ctx, `
		INSERT INTO sources (project_id, name, provider, doc, credentials) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (project_id, name) WHERE deleted_at IS NULL DO UPDATE
		SET provider = excluded.provider, doc = excluded.doc, credentials = excluded.credentials, updated_at = now()
		RETURNING id`, src.ProjectID, src.Name, src.Provider, string(doc), sealed).Scan(&id)
	return id, err
}

// DeleteSource closes a source's URL and frees its name.
func (c *Change) DeleteSource(ctx context.Context, id int64) error {
	_, err := c.tx.Exec(ctx, `UPDATE sources SET deleted_at = now() WHERE id = $1`, id)
	return err
}

// PutSecret adds a secret to a source, as its current one; one that is there
// already becomes current and no longer expires.
func (c *Change) PutSecret(ctx context.Context, projectID, sourceID int64, secret string) (uuid.UUID, error) {
	id := relay.NewID()
	digest := sha256.Sum256([]byte(strconv.FormatInt(sourceID, 10) + "\x00" + secret))
	_, err := c.tx.Exec(ctx, `DELETE FROM source_secrets WHERE source_id = $1 AND digest = $2`, sourceID, digest[:])
	if err != nil {
		return id, err
	}
	_, err = c.tx.Exec(ctx, `
		INSERT INTO source_secrets (id, project_id, source_id, sealed, digest) VALUES ($1, $2, $3, $4, $5)`,
		id, projectID, sourceID, c.s.keys.Seal([]byte(secret), secretContext(id)), digest[:])
	return id, err
}

// ExpireOtherSecrets lets all secrets that a source was given but one end after
// a time. Those of subscriptions are not rotated by people.
func (c *Change) ExpireOtherSecrets(ctx context.Context, sourceID int64, keep uuid.UUID, after time.Duration) error {
	_, err := c.tx.Exec(ctx, `
		UPDATE source_secrets
		SET expires_at = least(expires_at, now() + $3 * interval '1 second')
		WHERE source_id = $1 AND id <> $2 AND NOT subscribed`, sourceID, keep, after.Seconds())
	return err
}

// DeleteSecret ends one secret of a source at once. A subscription that it came
// with is to be made anew.
func (c *Change) DeleteSecret(ctx context.Context, sourceID int64, id uuid.UUID) error {
	_, err := c.tx.Exec(ctx, `
		UPDATE remote_subscriptions SET due_at = now(), revision = revision + 1 WHERE source_id = $1 AND secret_id = $2`, sourceID, id)
	if err != nil {
		return err
	}
	tag, err := c.tx.Exec(ctx, `DELETE FROM source_secrets WHERE source_id = $1 AND id = $2`, sourceID, id)
	if err == nil && tag.RowsAffected() == 0 {
		return relay.Errorf(relay.NotFound, "not_found", "this source has no such secret")
	}
	return err
}

// PutFlow creates or replaces a flow of its name. Waits that exist keep the
// plan they were made with.
func (c *Change) PutFlow(ctx context.Context, projectID int64, f relay.Flow) error {
	doc, err := json.Marshal(f)
	if err != nil {
		return err
	}
	_, err = c.tx.Exec(ctx, `
		INSERT INTO flows (project_id, name, doc) VALUES ($1, $2, $3)
		ON CONFLICT (project_id, name) DO UPDATE SET doc = excluded.doc, updated_at = now()`, projectID, f.Name, string(doc))
	return err
}

// DeleteFlow removes a flow.
func (c *Change) DeleteFlow(ctx context.Context, projectID int64, name string) error {
	_, err := c.tx.Exec(ctx, `DELETE FROM flows WHERE project_id = $1 AND name = $2`, projectID, name)
	return err
}

// ListenForChanges calls changed whenever a node has changed the
// configuration, until ctx is done or the connection ends or is given up. It
// holds a connection of its own. Notifications are hints: one may be lost.
func (s *Store) ListenForChanges(ctx context.Context, changed func()) error {
	ctx, end := s.untilRenewed(ctx)
	defer end()
	cfg := s.pool.Config().ConnConfig
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return translate("listening for changes", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
		defer cancel()
		_ = conn.Close(closing)
	}()
	var schema string
	if err := conn.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema); err != nil {
		return translate("listening for changes", err)
	}
	if _, err := conn.Exec(ctx, `LISTEN `+pgx.Identifier{"relay_configuration_" + schema}.Sanitize()); err != nil {
		return translate("listening for changes", err)
	}
	changed() // what came before we listened
	for {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return translate("listening for changes", cmp.Or(context.Cause(ctx), err))
		}
		changed()
	}
}

// untilRenewed returns a context that ends with ctx, or with errRenewed once
// connections are given up. end frees what it takes.
func (s *Store) untilRenewed(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	renewed := s.renewal.coming()
	go func() {
		select {
		case <-renewed:
			cancel(errRenewed)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}
