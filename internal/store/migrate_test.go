package store_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
	"relay.example/relay/migrations"
)

const tablesSQL = `
	SELECT coalesce(string_agg(table_name || '.' || column_name, ' ' ORDER BY table_name, column_name), '')
	FROM information_schema.columns WHERE table_schema = current_schema() AND table_name <> 'schema_migrations'`

func TestMigrateDownAndUpAgain(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	url := storetest.URL(t, true)
	before := storetest.Query[string](t, url, tablesSQL)
	st := must(store.Migrations(ctx, url))(t)
	if !st.Current() || st.Version == 0 {
		t.Fatalf("after up: got %+v, want the latest version", st)
	}
	for v := st.Version; v > 0; v-- {
		if err := store.MigrateDown(ctx, url); err != nil {
			t.Fatalf("down from %d: %v", v, err)
		}
	}
	if st := must(store.Migrations(ctx, url))(t); st.Version != 0 || st.Current() {
		t.Errorf("after all downs: got %+v, want version 0", st)
	}
	if left := storetest.Query[string](t, url, tablesSQL); left != "" {
		t.Errorf("after all downs there is left: %s", left)
	}
	if err := store.MigrateUp(ctx, url); err != nil {
		t.Fatalf("up again: %v", err)
	}
	if diff := cmp.Diff(before, storetest.Query[string](t, url, tablesSQL)); diff != "" {
		t.Errorf("the schema differs after down and up (-before +after):\n%s", diff)
	}
}

// What waits for its turn, or is held, survives the way back to a program that
// knows no turns, and is due there.
func TestMigrateDownWithWhatIsOwed(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	first := tell(t, p, p.Wait(t, "u-1"), 2)[0]
	held := tell(t, p, p.Wait(t, "u-2"), 2)[0]
	storetest.Exec(t, url, `UPDATE deliveries SET status = 'held', due_at = NULL, lease = NULL WHERE id = $1`, held.ID)
	p.Store.Close()
	for must(store.Migrations(t.Context(), url))(t).Version > 8 { // the last one without turns
		if err := store.MigrateDown(t.Context(), url); err != nil {
			t.Fatal(err)
		}
	}
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM deliveries WHERE status = 'scheduled' AND due_at IS NOT NULL`); got != 4 {
		t.Errorf("%d of %s and three others are due, want all", got, first.ID)
	}
}

func TestNodesThatStartAtOnceMigrateOnce(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, false)
	var g errgroup.Group
	for range 5 {
		g.Go(func() error { return store.MigrateUp(context.Background(), url) })
	}
	if err := g.Wait(); err != nil {
		t.Errorf("a node did not come up: %v", err)
	}
	if st := must(store.Migrations(context.Background(), url))(t); !st.Current() {
		t.Errorf("got %+v, want the latest version", st)
	}
	// The seed rows of the migrations are there once.
	if got := storetest.Query[int](t, url, `SELECT count(*) FROM sources`); got != 1 {
		t.Errorf("got %d built-in sources, want 1", got)
	}
}

// Another node that holds the lock for ever is waited for only so long, also
// by the very first migration of a database.
func TestMigrateWaitIsBounded(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://localhost/relay":                   "SET lock_timeout = '60000';",
		"postgres://localhost/relay?lock_timeout=5000": "",
	} {
		if got := store.MigrateSettings(t, url); got != want {
			t.Errorf("%s: got %q, want %q", url, got, want)
		}
	}
	for _, migrated := range []bool{false, true} {
		t.Run("migrated="+strconv.FormatBool(migrated), func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			url := storetest.URL(t, migrated)
			holder := connect(t, url)
			key := migrationLock(t, url)
			if _, err := holder.Exec(ctx, `SELECT pg_advisory_lock($1::text::bigint)`, key); err != nil {
				t.Fatal(err)
			}
			err := store.MigrateUp(ctx, url+"&lock_timeout=100")
			if err == nil || !strings.Contains(err.Error(), "55P03") { // golang-migrate's errors do not unwrap
				t.Errorf("got %v, want a lock that was not had in time (55P03)", err)
			}
		})
	}
}

// Nodes at work lock several tables in a transaction, callbacks the waits before
// the events, replays the other way round: a migration that holds one table and
// comes to a second ends in a deadlock with some of them, and is dirty then.
func TestMigrationsLockOneTable(t *testing.T) {
	t.Parallel()
	const checkedFrom = "0025" // those before are edited no more
	locks := regexp.MustCompile(`(?m)^(?:ALTER TABLE|DROP TABLE|TRUNCATE|LOCK TABLE)\s+(events|correlations|correlation_refs|deliveries|attempts|deadlines)\b`)
	files := must(fs.Glob(migrations.Files, "*.sql"))(t)
	checked := 0
	for _, name := range files {
		if name < checkedFrom {
			continue
		}
		checked++
		tables := map[string]bool{}
		for _, match := range locks.FindAllSubmatch(must(migrations.Files.ReadFile(name))(t), -1) {
			tables[string(match[1])] = true
		}
		if len(tables) > 1 {
			t.Errorf("%s locks %v, want a migration of each", name, slices.Sorted(maps.Keys(tables)))
		}
	}
	if checked == 0 {
		t.Error("got no migration, want those from " + checkedFrom)
	}
}

// migrationLock finds the key of the lock that migrations of a schema take.
func migrationLock(t *testing.T, url string) string {
	t.Helper()
	ctx := context.Background()
	var database, schema string
	conn := connect(t, url)
	if err := conn.QueryRow(ctx, `SELECT current_database(), current_schema()`).Scan(&database, &schema); err != nil {
		t.Fatal(err)
	}
	return store.MigrationLockKey(t, database, schema)
}

// connect opens a connection that is closed with the test.
func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// The state machines stand in package relay and, again, in the CHECKs.
func TestChecksRepeatTheStates(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	consts := constantsOf(t, "../relay")
	for _, tt := range []struct {
		constraint, of string
	}{
		{"correlation_status_check", "Status"},
		{"verdict_check", "Verdict"},
		{"match_check", "Match"},
		{"body_format_check", "Format"},
		{"outcome_check", "Outcome"},
		{"delivery_status_check", "DeliveryStatus"},
		{"attempt_class_check", "Class"},
		{"api_keys_scope_check", "Scope"},
	} {
		t.Run(tt.constraint, func(t *testing.T) {
			def := storetest.Query[string](t, url, `
				SELECT pg_get_constraintdef(oid) FROM pg_constraint
				WHERE conname = $1 AND connamespace = current_schema()::regnamespace`, tt.constraint)
			var got []string
			for _, m := range regexp.MustCompile(`'([^']*)'`).FindAllStringSubmatch(def, -1) {
				got = append(got, m[1])
			}
			var want []string
			for _, c := range consts[tt.of] {
				if c != "" {
					want = append(want, c)
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if len(want) == 0 {
				t.Fatalf("package relay has no constants of type %s", tt.of)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the CHECK differs from the constants of relay.%s (-relay +check):\n%s", tt.of, diff)
			}
		})
	}
}

// constantsOf returns the values of the string constants of a package by the
// name of their type.
func constantsOf(t *testing.T, dir string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, name := range []string{"/outcome.go", "/event.go", "/endpoints.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), dir+name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			typ, isIdent := spec.Type.(*ast.Ident)
			lit, isLit := spec.Values[0].(*ast.BasicLit)
			if isIdent && isLit && lit.Kind == token.STRING {
				value, _ := strconv.Unquote(lit.Value)
				out[typ.Name] = append(out[typ.Name], value)
			}
			return true
		})
	}
	return out
}

// TestNoConnection holds that a database that is not there is told in one
// line, and its cause once: the driver tries with TLS and without.
func TestNoConnection(t *testing.T) {
	t.Parallel()
	_, err := store.Migrations(t.Context(), "postgres://relay:hunter2@127.0.0.1:1/relay")
	const want = "connecting to the database: failed to connect to `user=relay database=relay`: " +
		"127.0.0.1:1 (127.0.0.1): dial error: dial tcp 127.0.0.1:1: connect: connection refused"
	if err == nil || err.Error() != want || !store.Starting(err) {
		t.Errorf("got %v, want %s, of a database that may come up", err, want)
	}
}
