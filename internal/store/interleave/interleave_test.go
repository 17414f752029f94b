package interleave_test

import (
	"context"
	"slices"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/store/interleave"
	"relay.example/relay/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// counter is a stage for actors that count in a table of one number.
type counter struct {
	*interleave.Stage
	conns []*pgx.Conn
	url   string
}

func newCounter(t *testing.T, actors int) *counter {
	t.Helper()
	c := &counter{url: storetest.URL(t, false)}
	storetest.Exec(t, c.url, `CREATE TABLE numbers (id int PRIMARY KEY, n int)`)
	c.Stage = interleave.NewStage(t, c.url, actors)
	for i := range actors {
		conn, err := pgx.Connect(t.Context(), c.URL(i))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		c.conns = append(c.conns, conn)
	}
	return c
}

// begin sets the numbers 1 and 2 to 0.
func (c *counter) begin(t testing.TB) {
	t.Helper()
	storetest.Exec(t, c.url, `INSERT INTO numbers VALUES (1, 0), (2, 0) ON CONFLICT (id) DO UPDATE SET n = 0`)
}

// counts reads a number and writes the next one, in a transaction.
func (c *counter) counts(actor int, read string) func() error {
	return func() error {
		ctx := context.Background()
		return pgx.BeginFunc(ctx, c.conns[actor], func(tx pgx.Tx) error {
			var n int
			if err := tx.QueryRow(ctx, read, 1).Scan(&n); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `UPDATE numbers SET n = $2 WHERE id = $1`, 1, n+1)
			return err
		})
	}
}

// told is the number when all have counted.
func (c *counter) told(t testing.TB, errs []error) string {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	return strconv.Itoa(storetest.Query[int](t, c.url, `SELECT n FROM numbers WHERE id = 1`))
}

// An update that is lost in some order is found, and is not where a lock keeps
// it. Each order that was found comes out the same when it is played alone.
func TestLostUpdate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, read string
		want       []string
	}{
		{"without a lock", `SELECT n FROM numbers WHERE id = $1`, []string{"1", "2"}},
		{"with a lock", `SELECT n FROM numbers WHERE id = $1 FOR UPDATE`, []string{"2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, 2)
			set := func(t testing.TB) interleave.Scene {
				c.begin(t)
				return interleave.Scene{Actors: []func() error{c.counts(0, tt.read), c.counts(1, tt.read)}, Rest: c.told}
			}
			found := c.Explore(t, set)
			var got []string
			for outcome, first := range found.First {
				got = append(got, outcome)
				if again := c.Only(t, set(t), first); again != outcome {
					t.Errorf("schedule %s came to %s, and played alone to %s", first, outcome, again)
				}
			}
			if slices.Sort(got); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// Two rows that are locked in opposite orders: some order ends in a deadlock,
// which Postgres refuses, and no actor is left standing.
func TestDeadlock(t *testing.T) {
	t.Parallel()
	c := newCounter(t, 2)
	locks := func(actor, first, second int) func() error {
		return func() error {
			ctx := context.Background()
			return pgx.BeginFunc(ctx, c.conns[actor], func(tx pgx.Tx) error {
				for _, id := range []int{first, second} {
					if _, err := tx.Exec(ctx, `UPDATE numbers SET n = n + 1 WHERE id = $1`, id); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	c.begin(t)
	for schedule, want := range map[string]bool{"AAABBB": false, "ABAB": true} {
		c.Only(t, interleave.Scene{
			Actors: []func() error{locks(0, 1, 2), locks(1, 2, 1)},
			Rest:   func(testing.TB, []error) string { return "" },
		}, schedule)
		if got := c.Refused("40P01"); got != want {
			t.Errorf("schedule %s: a deadlock: got %t, want %t", schedule, got, want)
		}
	}
}

// What counts as touched decides which orders are left out.
func TestTablesOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		sql           string
		reads, writes []string
	}{
		{`SELECT a FROM waits w JOIN refs r ON true WHERE w.a = $1`, []string{"refs", "waits"}, nil},
		{`SELECT a FROM refs r JOIN waits w ON true FOR UPDATE OF w SKIP LOCKED`, []string{"refs", "waits"}, []string{"waits"}},
		{`SELECT a FROM waits WHERE id IN (SELECT id FROM refs) FOR UPDATE`, []string{"refs", "waits"}, []string{"refs", "waits"}},
		{"INSERT INTO slots AS s (a)\n SELECT * FROM waits -- FROM nothing\n ON CONFLICT (a) DO UPDATE SET a = 1", []string{"slots", "waits"}, []string{"slots"}},
		{`WITH x AS (UPDATE waits w SET a = 1 RETURNING a) DELETE FROM refs r USING x WHERE r.a = x.a`, []string{"refs", "waits", "x"}, []string{"refs", "waits"}},
	} {
		reads, writes := interleave.TablesOf(tt.sql)
		if !slices.Equal(reads, tt.reads) || !slices.Equal(writes, tt.writes) {
			t.Errorf("%s: got %v and %v, want %v and %v", tt.sql, reads, writes, tt.reads, tt.writes)
		}
	}
}
