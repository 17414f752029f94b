package store

import (
	"context"
	"testing"

	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// OpenNoticing is Open, with the server's notices on the hot connections told
// to notice.
func OpenNoticing(ctx context.Context, cfg Config, notice func(string)) (*Store, error) {
	s, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	hot := s.hot.Config()
	s.hot.Close()
	hot.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notice(n.Message) }
	s.hot, err = pgxpool.NewWithConfig(ctx, hot)
	return s, err
}

// MigrationLockKey is the key of the advisory lock that golang-migrate takes.
func MigrationLockKey(t testing.TB, databaseName, schema string) string {
	t.Helper()
	key, err := database.GenerateAdvisoryLockId(databaseName, schema, migratepgx.DefaultMigrationsTable)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// NameHot names the sessions of the hot pool, so that a test can tell them.
func (s *Store) NameHot(ctx context.Context, name string) error {
	s.hot.Close()
	cfg := s.hot.Config()
	cfg.ConnConfig.RuntimeParams["application_name"] = name
	var err error
	s.hot, err = pgxpool.NewWithConfig(ctx, cfg)
	return err
}

// MigrateSettings are the session's settings of a connection that migrates.
func MigrateSettings(t testing.TB, url string) map[string]string {
	t.Helper()
	cfg, err := migrateConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return cfg.RuntimeParams
}
