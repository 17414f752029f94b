// Package storetest gives tests a real Postgres: a fresh, migrated schema per
// test, in tens of milliseconds, on one server for all of them.
//
// The server is the one at RELAY_TEST_DATABASE_URL, which `make test` sets.
// Without it, Main starts a private one for the package under test.
package storetest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"relay.example/relay/internal/localpg"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
)

const serverVariable = "RELAY_TEST_DATABASE_URL"

// schemas numbers the schemas of this process.
var schemas atomic.Int64

// Main runs the tests of a package that uses New, and fails when they have left
// a goroutine running. Call it from TestMain.
func Main(m *testing.M) {
	code := run(m)
	if code == 0 {
		code = leaked()
	}
	os.Exit(code)
}

// leaked looks for goroutines once all tests have passed and the server has
// stopped: what runs now, nobody ends any more.
func leaked() int {
	// Its idle connections are kept for the next request, which does not come.
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, "goroutines are left:", err)
		return 1
	}
	return 0
}

func run(m *testing.M) int {
	if os.Getenv(serverVariable) != "" {
		return m.Run()
	}
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "relay-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "making a directory for the test server:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// The server drops root and must be able to reach its directory.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server, err := localpg.Start(ctx, localpg.Config{
		DataDir:  dir + "/data",
		Logger:   slog.New(slog.DiscardHandler),
		Settings: map[string]string{"fsync": "off", "max_connections": "200"},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the test server:", err)
		return 1
	}
	defer func() {
		stopping, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		_ = server.Stop(stopping)
	}()
	if err := os.Setenv(serverVariable, server.URL()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// URL makes a fresh schema, migrated unless empty is wanted, and returns a
// database URL whose sessions live in it.
func URL(t testing.TB, migrated bool) string {
	t.Helper()
	base := os.Getenv(serverVariable)
	if base == "" {
		t.Fatalf("%s is not set: the package's TestMain must call storetest.Main", serverVariable)
	}
	ctx := context.Background()
	schema := "t" + strconv.FormatInt(int64(os.Getpid()), 36) + "_" + strconv.FormatInt(schemas.Add(1), 10)
	execute(ctx, t, base, `CREATE SCHEMA `+schema)
	t.Cleanup(func() { execute(ctx, t, base, `DROP SCHEMA `+schema+` CASCADE`) })
	u, err := url.Parse(base)
	if err != nil {
		t.Fatalf("%s: %v", serverVariable, err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	if migrated {
		if err := store.MigrateUp(ctx, u.String()); err != nil {
			t.Fatalf("migrating: %v", err)
		}
	}
	return u.String()
}

func execute(ctx context.Context, t testing.TB, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatalf("connecting to the test server: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// New opens a store on a fresh migrated schema, with a key of its own.
func New(t testing.TB) *store.Store {
	t.Helper()
	return Open(t, URL(t, true), Keys(t))
}

// Keys returns a ring with one fresh key.
func Keys(t testing.TB) *seal.Ring {
	t.Helper()
	ring, err := seal.ParseRing(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// patience is how long a test's statements wait for a lock or for the server:
// longer than any machine stands still.
const patience = 2 * time.Minute

// Open opens a store that is closed with the test.
func Open(t testing.TB, url string, keys *seal.Ring) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), store.Config{URL: url, Keys: keys, HotConnections: 3, Connections: 4, Patience: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Query runs one statement on a connection of its own and returns the single
// value it yields, for tests that look behind the store's back.
func Query[T any](t testing.TB, url, sql string, args ...any) (v T) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatalf("connecting to the test server: %v", err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// Exec runs one statement on a connection of its own.
func Exec(t testing.TB, url, sql string, args ...any) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatalf("connecting to the test server: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Hold runs a statement in a transaction of its own, whose locks are held
// until the test ends.
func Hold(t testing.TB, url, sql string, args ...any) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) }) // rolls back
	if _, err := conn.Exec(ctx, `BEGIN`); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		t.Fatal(err)
	}
}
