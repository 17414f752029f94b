package store

import (
	"context"
	"testing"

	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/jackc/pgx/v5"
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
	s.hot, err = noticing(ctx, s.hot, notice)
	return s, err
}

// OpenNoticingEveryday does the same for the pool of everyday work.
func OpenNoticingEveryday(ctx context.Context, cfg Config, notice func(string)) (*Store, error) {
	s, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s.pool, err = noticing(ctx, s.pool, notice)
	return s, err
}

func noticing(ctx context.Context, pool *pgxpool.Pool, notice func(string)) (*pgxpool.Pool, error) {
	cfg := pool.Config()
	pool.Close()
	cfg.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notice(n.Message) }
	return pgxpool.NewWithConfig(ctx, cfg)
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

// MigrateSettings is what a connection that migrates is told first.
func MigrateSettings(t testing.TB, url string) string {
	t.Helper()
	cfg, err := migrateConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return migrateSettings(cfg)
}

// RegisterCodecs teaches a connection what those of the pools know.
func RegisterCodecs(conn *pgx.Conn) error { return registerCodecs(conn) }

// RefuseWrites makes every session that the pools may have refuse writes, as
// those do that a switchover has left open to what was the primary. It returns
// how many they are.
func (s *Store) RefuseWrites(ctx context.Context) (sessions int, err error) {
	for _, pool := range []*pgxpool.Pool{s.hot, s.pool} {
		n, err := refuseWrites(ctx, pool)
		if err != nil {
			return sessions, err
		}
		sessions += n
	}
	return sessions, nil
}

func refuseWrites(ctx context.Context, pool *pgxpool.Pool) (int, error) {
	held := make([]*pgxpool.Conn, pool.Config().MaxConns)
	for i := range held {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return 0, err
		}
		held[i] = conn
		if _, err := conn.Exec(ctx, `SET default_transaction_read_only = on`); err != nil {
			return 0, err
		}
	}
	for _, conn := range held {
		conn.Release()
	}
	return len(held), nil
}
