// Package store holds every statement that the relay sends to Postgres, and
// alone imports the driver. One method is one business step in one
// transaction: it returns after the commit, and an error means that nothing
// of it may be relied upon.
//
// # Locks
//
// A correlation's row is the lock of its wait: every statement that changes a
// wait, its deadline, its names or its deliveries holds that row first.
// Batches lock several rows, always in the order of their ids, and insert
// their events, sorted by dedupe key, afterwards; so two nodes never wait for
// each other in opposite orders. What still deadlocks (a late success that closes a wait it had not
// locked) is aborted by Postgres with 40P01 and repeated.
//
// # Time
//
// The database's clock decides what is due, what has expired and when a lease
// ends. A delivery also carries the node's own, earlier idea of its lease's
// end, taken before the statement was sent.
//
// # Switchover
//
// A server that takes no writes has no connection of ours for longer than a
// second: see renewal.
//
// # Plans
//
// The hot statements run on a pool of their own whose sessions allow index
// plans only: a plan made while the tables were empty would otherwise scan
// them for as long as the connection lives. What is due is compared with
// now(), since no index is searched by the volatile clock_timestamp(). TestPlans
// holds that.
package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/seal"
)

// Bounds of every connection. A statement that takes longer than these has
// met a fault, and its caller is better served by an error it can retry.
const (
	statementTimeout = 8 * time.Second
	lockTimeout      = 4 * time.Second
	idleInTxTimeout  = "15s"
	connectTimeout   = 3 * time.Second
)

// Config tells how to reach the database.
type Config struct {
	URL  string
	Keys *seal.Ring

	// HotConnections serve callbacks, registrations and attempts, which all
	// come in batches: a few are enough. Connections serve everything else.
	HotConnections int32
	Connections    int32

	// Patience takes the place of the bounds above, for tests of what has
	// nothing to do with them: a machine may stand still for as long. 0: the
	// bounds hold.
	Patience time.Duration
}

// Store is the relay's database. It is safe for concurrent use.
type Store struct {
	hot     *pgxpool.Pool
	pool    *pgxpool.Pool
	renewal *renewal // of both
	keys    *seal.Ring
	url     string
	waits   bounds

	listeners *listeners
}

// bounds are for how long a connection waits.
type bounds struct{ statement, lock, connect time.Duration }

func boundsOf(cfg Config) bounds {
	if p := cfg.Patience; p > 0 {
		return bounds{p, p, p}
	}
	return bounds{statementTimeout, lockTimeout, connectTimeout}
}

// Open prepares the pools; it connects to nothing yet, so that a node can
// start before its database.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Keys == nil {
		return nil, errors.New("opening the store: no encryption keys given")
	}
	if cfg.HotConnections < 1 || cfg.Connections < 1 {
		return nil, errors.New("opening the store: at least one connection of each kind is needed")
	}
	s := &Store{renewal: newRenewal(), keys: cfg.Keys, url: cfg.URL, waits: boundsOf(cfg), listeners: newListeners()}
	var err error
	if s.hot, err = s.newPool(ctx, cfg.HotConnections, pinIndexPlans); err != nil {
		return nil, err
	}
	if s.pool, err = s.newPool(ctx, cfg.Connections, planEachTime); err != nil {
		s.hot.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) newPool(ctx context.Context, size int32, prepare func(map[string]string)) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(s.url)
	if err != nil {
		// The driver's own text may quote the URL, password included.
		return nil, errors.New("DATABASE_URL cannot be read as a Postgres URL or DSN")
	}
	cfg.MaxConns = size
	cfg.MinConns = min(1, size)
	cfg.MaxConnIdleTime = 5 * time.Minute
	cfg.HealthCheckPeriod = 15 * time.Second
	cfg.PingTimeout = time.Second // a host that vanished answers no ping
	cfg.ConnConfig.ConnectTimeout = s.waits.connect
	cfg.ConnConfig.RuntimeParams["application_name"] = "relay"
	s.renewal.watch(cfg.ConnConfig)
	params := map[string]string{
		"statement_timeout":                   milliseconds(s.waits.statement),
		"lock_timeout":                        milliseconds(s.waits.lock),
		"idle_in_transaction_session_timeout": idleInTxTimeout,
		"timezone":                            "UTC",
	}
	prepare(params)
	set := settings(params)
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		// A pooler takes a connection and lets its first statement wait.
		ctx, cancel := context.WithTimeout(ctx, s.waits.connect)
		defer cancel()
		if _, err := conn.PgConn().Exec(ctx, set).ReadAll(); err != nil {
			return fmt.Errorf("setting up a database session: %w", err)
		}
		return registerCodecs(conn)
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the database pool: %w", err)
	}
	s.renewal.add(pool)
	return pool, nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// settings writes session parameters as statements. They are set once the
// session is open, because a pooler refuses those that come with its start.
func settings(params map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(params)) {
		fmt.Fprintf(&b, "SET %s = '%s';", name, params[name])
	}
	return b.String()
}

// pinIndexPlans takes away the plans that are right for empty tables only. A
// bitmap is one of them: it fetches everything that is due to return the first
// few.
func pinIndexPlans(params map[string]string) {
	for _, name := range []string{"enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit"} {
		params[name] = "off"
	}
	params["plan_cache_mode"] = "force_generic_plan"
}

// planEachTime is for the lists, whose filters are optional: the right plan
// depends on which of them are given.
func planEachTime(params map[string]string) { params["plan_cache_mode"] = "force_custom_plan" }

// Close closes all connections, after what runs on them has ended.
func (s *Store) Close() {
	s.hot.Close()
	s.pool.Close()
}

// translate turns a driver's error into what callers act upon: a relay.Error
// of kind Busy where the database cannot be used at the moment, else err with
// the step that failed.
func translate(step string, err error) error {
	if err == nil {
		return nil
	}
	var known *relay.Error
	if errors.As(err, &known) {
		return err
	}
	if unavailable(err) {
		return &unavailableError{step: step, err: err}
	}
	return fmt.Errorf("%s: %w", step, err)
}

// unavailableError is a relay.Error to those who answer requests and keeps
// the driver's words for the log.
type unavailableError struct {
	step string
	err  error
}

func (e *unavailableError) Error() string { return e.step + ": " + e.err.Error() }

func (e *unavailableError) Unwrap() []error {
	return []error{
		relay.Errorf(relay.Busy, "database_unavailable", "the database cannot take this at the moment: try again"),
		e.err,
	}
}

// readOnlyTransaction is the SQLSTATE of a server that takes no writes.
const readOnlyTransaction = "25006"

// unavailable tells a database that cannot be used at the moment from one
// that refuses a statement.
func unavailable(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code[:2] {
		case "08", "28", "53", "57", "58": // connection, who we are, resources, operator, system
			return true
		}
		// A standby that was taken for the primary; a transaction that idled
		// too long; a lock not had in time.
		return pgErr.Code == readOnlyTransaction || pgErr.Code == "25P03" || pgErr.Code == "55P03"
	}
	var netErr net.Error
	var connectErr *pgconn.ConnectError
	return errors.As(err, &netErr) || errors.As(err, &connectErr) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		pgconn.SafeToRetry(err) || isConnClosed(err)
}

// Starting reports whether err is of a database that may yet come up, rather
// than of one that refuses us.
func Starting(err error) bool {
	if state := sqlState(err); len(state) == 5 && (state[:2] == "28" || state[:2] == "3D") {
		return false // who we are, or which database we want
	}
	return unavailable(err)
}

// isConnClosed recognises a connection that ended under a statement.
func isConnClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, errUnexpectedEOF) || err.Error() == "conn closed"
}

// sqlState returns the SQLSTATE of err, or "".
func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// Conflicted reports whether a batch lost against another transaction, by a
// deadlock or a name taken in the same moment. Repeated, it sees what the
// other one did.
func Conflicted(err error) bool {
	if errors.Is(err, errOvertaken) {
		return true
	}
	switch sqlState(err) {
	case "40P01", "40001", "23505":
		return true
	}
	return false
}

// Poisoned reports whether the database refused a value of the batch: one of
// its rows cannot be stored as it is, and the others can.
func Poisoned(err error) bool {
	state := sqlState(err)
	return len(state) == 5 && (state[:2] == "22" || state[:2] == "23")
}

// inTx runs fn in one transaction of the pool for everyday work.
func (s *Store) inTx(ctx context.Context, step string, fn func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, s.pool, fn)
	return translate(step, err)
}

// How often a transaction of the pool for everyday work is made where others
// get in between, and the longest pause before the first repetition.
const (
	conflictTries = 5
	conflictPause = 20 * time.Millisecond
)

// inTxAgain is inTx, repeated where it lost against another transaction. What
// fn leaves in variables of its caller is that of the last try.
func (s *Store) inTxAgain(ctx context.Context, step string, fn func(pgx.Tx) error) (err error) {
	for try := range conflictTries {
		if err = s.inTx(ctx, step, fn); !Conflicted(err) {
			return err
		}
		pause := time.NewTimer(rand.N(conflictPause << try)) //nolint:gosec // it spreads load, it guards nothing
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return errors.Join(errOvertaken, err)
		}
	}
	return errors.Join(errOvertaken, err)
}

// oneOrNotFound turns the driver's "no rows" into the named refusal.
func oneOrNotFound[T any](v T, err error, what string) (T, error) {
	if errors.Is(err, pgx.ErrNoRows) {
		return v, relay.Errorf(relay.NotFound, "not_found", "there is no such %s in this project", what)
	}
	return v, err
}
