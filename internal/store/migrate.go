package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"relay.example/relay/migrations"
)

var errUnexpectedEOF = io.ErrUnexpectedEOF

// migrateWait bounds how long a node waits for another one that migrates, and
// a migration for whoever uses its tables. A lock_timeout in the URL goes
// before it.
const migrateWait = 60 * time.Second

// MigrationStatus says where the schema of a database stands.
type MigrationStatus struct {
	Version uint // of the database, 0 when it is empty
	Latest  uint // of this program
	Dirty   bool // a migration was interrupted half-way
}

// Current reports whether the schema is the one that this program expects.
func (m MigrationStatus) Current() bool { return m.Version == m.Latest && !m.Dirty }

// MigrateUp brings the schema to this program's version. Nodes that start at
// once migrate once: the others wait, at most a minute.
func MigrateUp(ctx context.Context, url string) error {
	return withMigrate(ctx, url, func(m *migrate.Migrate) error {
		if err := m.Up(); err != nil && !errors.Is(err, migrate.ErrNoChange) {
			return err
		}
		return nil
	})
}

// MigrateDown takes back the newest migration.
func MigrateDown(ctx context.Context, url string) error {
	return withMigrate(ctx, url, func(m *migrate.Migrate) error { return m.Steps(-1) })
}

// Migrations reports where the schema stands.
func Migrations(ctx context.Context, url string) (st MigrationStatus, err error) {
	err = withMigrate(ctx, url, func(m *migrate.Migrate) error {
		st.Version, st.Dirty, err = m.Version()
		if errors.Is(err, migrate.ErrNilVersion) {
			err = nil
		}
		return err
	})
	if err != nil {
		return st, err
	}
	st.Latest, err = latestMigration()
	return st, err
}

func latestMigration() (uint, error) {
	src, err := iofs.New(migrations.Files, ".")
	if err != nil {
		return 0, fmt.Errorf("reading the embedded migrations: %w", err)
	}
	defer func() { _ = src.Close() }()
	v, err := src.First()
	for next := v; err == nil; next, err = src.Next(v) {
		v = next
	}
	return v, nil
}

// withMigrate runs fn on a connection of its own. golang-migrate holds an
// advisory lock while it works. Its own bound does not cover the first time it
// takes the lock, to make its table, so the session bounds every wait.
func withMigrate(ctx context.Context, url string, fn func(*migrate.Migrate) error) error {
	cfg, err := migrateConfig(url)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, migrateSettings(cfg))
		return err
	}))
	defer func() { _ = db.Close() }()
	if err := db.PingContext(ctx); err != nil {
		return &connectError{err}
	}
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		return fmt.Errorf("preparing to migrate: %w", err)
	}
	src, err := iofs.New(migrations.Files, ".")
	if err != nil {
		return fmt.Errorf("reading the embedded migrations: %w", err)
	}
	m, err := migrate.NewWithInstance("iofs", src, "pgx5", driver)
	if err != nil {
		return fmt.Errorf("preparing to migrate: %w", err)
	}
	defer func() { _, _ = m.Close() }()
	m.LockTimeout = migrateWait
	stop := context.AfterFunc(ctx, func() { m.GracefulStop <- true })
	defer stop()
	if err := fn(m); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	return nil
}

// connectError tells in one line why there is no connection, and every cause
// once: the driver tries each address with TLS and without it.
type connectError struct{ err error }

func (e *connectError) Error() string {
	first, more, _ := strings.Cut(e.err.Error(), "\n")
	text, between := "connecting to the database: "+first, " "
	for line := range strings.Lines(more) {
		if line = strings.TrimSpace(line); !strings.Contains(text, line) {
			text += between + line
			between = "; "
		}
	}
	return text
}

func (e *connectError) Unwrap() error { return e.err }

// migrateConfig is the connection that migrates.
func migrateConfig(url string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("DATABASE_URL cannot be read as a Postgres URL or DSN")
	}
	cfg.ConnectTimeout = connectTimeout
	return cfg, nil
}

// migrateSettings bounds every wait of a session that migrates, unless the
// URL does.
func migrateSettings(cfg *pgx.ConnConfig) string {
	if cfg.RuntimeParams["lock_timeout"] != "" {
		return ""
	}
	return settings(map[string]string{"lock_timeout": strconv.FormatInt(migrateWait.Milliseconds(), 10)})
}
