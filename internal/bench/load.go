package bench

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// userPrefix and a number make a user's id; the sink recognises it. It answers
// for otherUsers as well, and does not count them.
const (
	userPrefix = "b-"
	otherUsers = "n-"
)

// caller sends callbacks and registrations to one relay, and remembers when.
type caller struct {
	address string // of the relay
	key     string // of its API
	secret  string // of its Stripe source
	run     uint64 // what this run's callbacks are drawn from
	size    int    // of a callback, in bytes
	manner  manner
	users   string // what their ids begin with

	// next is the number of the next user to be registered; used, of the
	// next one to be called back.
	next, used atomic.Int64

	mu     sync.Mutex
	tokens []string // by number of the user
}

// manner is what the requests of a load are like.
type manner struct {
	flow   string // that waits are registered for
	source string // that callbacks come to
	short  bool   // a callback holds what is read of it, and nothing else
	// fields appends what a registration holds besides its user and flow,
	// each with a comma before it. nil: nothing.
	fields func(b []byte, user int) []byte
}

// usual is the manner of the phases.
var usual = manner{flow: "bench", source: "stripe"}

// load is what one run of requests came to.
type load struct {
	accepted int64
	refused  int64 // answered, but not 2xx
	took     time.Duration

	mu      sync.Mutex
	sent    []sending       // what was accepted
	answers []time.Duration // from the time it was due to its answer
}

// sending is one request that was accepted.
type sending struct {
	user int
	due  int64 // Unix nanoseconds
}

func newLoad() *load { return &load{} }

func (l *load) note(user int, due time.Time, status int) {
	took := time.Since(due)
	l.mu.Lock()
	defer l.mu.Unlock()
	if status < 200 || status > 299 {
		l.refused++
		return
	}
	l.accepted++
	l.sent = append(l.sent, sending{user, due.UnixNano()})
	l.answers = append(l.answers, took)
}

// request makes one request on a connection and returns its user and status;
// more is false when there is nothing left to ask for.
type request func(*conn) (user, status int, more bool, err error)

// closedLoop keeps a number of connections busy for some time, or until
// enough says that it is enough. hold, where given, is asked before each
// request and blocks while the relay is too far behind.
func (c *caller) closedLoop(ctx context.Context, connections int, d time.Duration, one request, hold func(context.Context)) (*load, error) {
	l := newLoad()
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	start := time.Now()
	var g errgroup.Group
	for range connections {
		g.Go(func() error {
			k, err := dial(c.address)
			if err != nil {
				return err
			}
			defer func() { _ = k.Close() }()
			for ctx.Err() == nil {
				if hold != nil {
					hold(ctx)
				}
				due := time.Now()
				user, status, more, err := one(k)
				if err != nil || !more {
					return err
				}
				l.note(user, due, status)
			}
			return nil
		})
	}
	err := g.Wait()
	l.took = time.Since(start)
	return l, err
}

// openLoop sends at a fixed rate whatever the answers do. Latencies count
// from the time a request was due, so that a relay that stalls cannot hide it.
func (c *caller) openLoop(ctx context.Context, rate float64, d time.Duration, one request) (*load, error) {
	l := newLoad()
	start := time.Now()
	dues := make(chan time.Time, int(rate*d.Seconds())+1)
	g, ctx := errgroup.WithContext(ctx)
	for range min(256, max(8, int(rate/10))) {
		g.Go(func() error {
			k, err := dial(c.address)
			if err != nil {
				return err
			}
			defer func() { _ = k.Close() }()
			for due := range dues {
				user, status, more, err := one(k)
				if err != nil || !more {
					return err
				}
				l.note(user, due, status)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(dues)
		clock, err := newAlarm()
		if err != nil {
			return err
		}
		defer clock.close()
		for i := range int(rate * d.Seconds()) {
			due := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
			if err := errors.Join(clock.wait(due), ctx.Err()); err != nil {
				return err
			}
			dues <- due
		}
		return nil
	})
	err := g.Wait()
	l.took = time.Since(start)
	return l, err
}

// atMost ends a request when it has been made count times.
func atMost(count int, one request) request {
	var made atomic.Int64
	return func(k *conn) (user, status int, more bool, err error) {
		if made.Add(1) > int64(count) {
			return 0, 0, false, nil
		}
		return one(k)
	}
}

// register registers one wait of a new user.
func (c *caller) register(k *conn) (user, status int, more bool, err error) {
	n := int(c.next.Add(1)) - 1
	status, err = c.registerUser(k, n)
	return n, status, true, err
}

// registerUser registers a wait of one user, and remembers its token.
func (c *caller) registerUser(k *conn, n int) (status int, err error) {
	var room [256]byte
	body := append(room[:0], `{"user_id":"`...)
	body = append(body, c.users...)
	body = strconv.AppendInt(body, int64(n), 10)
	body = append(append(append(body, `","flow":"`...), c.manner.flow...), '"')
	if c.manner.fields != nil {
		body = c.manner.fields(body, n)
	}
	body = append(body, '}')
	status, answer, err := k.post("/v1/correlations", []byte("Authorization: Bearer "+c.key+"\r\n"), body)
	if err != nil || status != http.StatusCreated {
		return status, err
	}
	const field = `"token":"`
	at := bytes.Index(answer, []byte(field))
	if at < 0 || len(answer) < at+len(field)+22 {
		return status, fmt.Errorf("registering: the answer has no token: %s", answer)
	}
	token := string(answer[at+len(field) : at+len(field)+22])
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.tokens) <= n {
		c.tokens = append(c.tokens, make([]string, max(1024, len(c.tokens)))...)
	}
	c.tokens[n] = token
	return status, nil
}

// restock registers waits, and leaves alone what is left of those before.
func (c *caller) restock(ctx context.Context, count int) error {
	c.used.Store(c.next.Load())
	l, err := c.closedLoop(ctx, registers, busyTime, atMost(count, c.register), nil)
	if err != nil {
		return err
	}
	if l.accepted != int64(count) {
		return fmt.Errorf("of %d registrations %d were accepted", count, l.accepted)
	}
	return nil
}

// takeStock takes the next user that was registered and not called back. The
// token is "" when there is none.
func (c *caller) takeStock() (user int, token string) {
	n := int(c.used.Add(1)) - 1
	c.mu.Lock()
	defer c.mu.Unlock()
	if n < len(c.tokens) {
		token = c.tokens[n]
	}
	return n, token
}

// callBack sends the callback of the next user that was registered.
func (c *caller) callBack(k *conn) (user, status int, more bool, err error) {
	n, token := c.takeStock()
	if token == "" {
		return n, 0, false, nil
	}
	status, err = c.post(k, n, token)
	return n, status, true, err
}

// post makes, signs and sends one callback.
func (c *caller) post(k *conn, n int, token string) (status int, err error) {
	if c.manner.short {
		return c.send(k, k.event.writeShort(c.run, n, token))
	}
	return c.send(k, k.event.write(c.run, n, token, c.size))
}

// send signs and sends a callback. Its time is now, so it is signed now: also
// for a source that asks for no signature, so that making it costs alike.
func (c *caller) send(k *conn, body []byte) (status int, err error) {
	if k.mac == nil {
		k.mac = hmac.New(sha256.New, []byte(c.secret))
	}
	var headers [120]byte
	h := append(headers[:0], "Stripe-Signature: t="...)
	at := len(h)
	h = strconv.AppendInt(h, time.Now().Unix(), 10)
	k.mac.Reset()
	k.mac.Write(h[at:])
	k.mac.Write([]byte{'.'})
	k.mac.Write(body)
	h = append(h, ",v1="...)
	h = hex.AppendEncode(h, k.mac.Sum(k.sum[:0]))
	h = append(h, "\r\n"...)
	status, _, err = k.post("/in/default/"+c.manner.source, h, body)
	return status, err
}
