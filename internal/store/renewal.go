package store

import (
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// renewEvery is how often connections are given up at most. A server that
// takes no writes for an hour, and that DATABASE_URL does not tell us to leave,
// costs new connections once a second, whatever the load.
const renewEvery = time.Second

var errRenewed = errors.New("the server takes no writes any more: the connection is given up")

// renewal gives up every connection once one of them has led to a server that
// takes no writes (25006). A switchover may leave connections open to what was
// the primary: they would refuse, or tell what was true before it, for as long
// as they live. The others are given up as well, since those that only read
// are never told. It is safe for concurrent use.
type renewal struct {
	mu    sync.Mutex
	pools []*pgxpool.Pool
	at    time.Time     // the last one
	again bool          // one more is to come, for what was told since
	next  chan struct{} // closed by the next one
}

func newRenewal() *renewal { return &renewal{next: make(chan struct{})} }

// watch has the connections of a pool that is yet to be made tell of 25006.
// What the driver does with errors stays as it is: a connection is closed once
// nobody uses it.
func (r *renewal) watch(cfg *pgx.ConnConfig) {
	whatElse := cfg.OnPgError
	cfg.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		if err.Code == readOnlyTransaction {
			r.renew()
		}
		return whatElse(conn, err)
	}
}

// add has a pool renewed with the others.
func (r *renewal) add(pool *pgxpool.Pool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pools = append(r.pools, pool)
}

// renew closes all connections: idle ones at once, others when they come back.
// New ones lead to whichever server DATABASE_URL wants by then. What is told too
// soon after the last time is remembered: those connections may have been made
// since.
func (r *renewal) renew() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if wait := renewEvery - time.Since(r.at); wait > 0 {
		if !r.again {
			r.again = true
			time.AfterFunc(wait, r.renew)
		}
		return
	}
	r.at, r.again = time.Now(), false
	for _, pool := range r.pools {
		pool.Reset()
	}
	close(r.next)
	r.next = make(chan struct{})
}

// coming returns what the next renewal closes, for a connection of no pool.
func (r *renewal) coming() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next
}
