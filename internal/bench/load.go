package bench

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// userPrefix and a number make a user's id; the sink recognises it.
const userPrefix = "b-"

// caller sends callbacks and registrations to one relay, and remembers when.
type caller struct {
	address string // of the relay
	key     string // of its API
	secret  string // of its Stripe source
	padding string // makes a callback as long as it should be

	// next is the number of the next user to be registered; used, of the
	// next one to be called back.
	next, used atomic.Int64

	mu     sync.Mutex
	tokens []string // by number of the user
}

// load is what one run of requests came to.
type load struct {
	accepted int64
	refused  int64 // answered, but not 2xx
	took     time.Duration

	mu      sync.Mutex
	sent    map[int]int64   // Unix nanoseconds at which a user's request was due
	answers []time.Duration // from then to its answer
}

func newLoad() *load { return &load{sent: map[int]int64{}} }

func (l *load) note(user int, due time.Time, status int) {
	took := time.Since(due)
	l.mu.Lock()
	defer l.mu.Unlock()
	if status < 200 || status > 299 {
		l.refused++
		return
	}
	l.accepted++
	l.sent[user] = due.UnixNano()
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
		for i := range int(rate * d.Seconds()) {
			due := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Until(due)):
				dues <- due
			}
		}
		return nil
	})
	err := g.Wait()
	l.took = time.Since(start)
	return l, err
}

// register registers one wait of a new user.
func (c *caller) register(k *conn) (user, status int, more bool, err error) {
	n := int(c.next.Add(1)) - 1
	body := `{"user_id":"` + userPrefix + strconv.Itoa(n) + `","flow":"bench"}`
	status, answer, err := k.post("/v1/correlations", []byte("Authorization: Bearer "+c.key+"\r\n"), []byte(body))
	if err != nil || status != 201 {
		return n, status, true, err
	}
	const field = `"token":"`
	at := bytes.Index(answer, []byte(field))
	if at < 0 || len(answer) < at+len(field)+22 {
		return n, status, false, fmt.Errorf("registering: the answer has no token: %s", answer)
	}
	token := string(answer[at+len(field) : at+len(field)+22])
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.tokens) <= n {
		c.tokens = append(c.tokens, make([]string, max(1024, len(c.tokens)))...)
	}
	c.tokens[n] = token
	return n, status, true, nil
}

// callBack sends the callback of the next user that was registered.
func (c *caller) callBack(k *conn) (user, status int, more bool, err error) {
	n := int(c.used.Add(1)) - 1
	c.mu.Lock()
	token := ""
	if n < len(c.tokens) {
		token = c.tokens[n]
	}
	c.mu.Unlock()
	if token == "" {
		return n, 0, false, nil
	}
	status, err = c.post(k, n, token)
	return n, status, true, err
}

// post signs and sends one callback.
func (c *caller) post(k *conn, n int, token string) (status int, err error) {
	body := c.callback(n, token)
	now := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(c.secret))
	mac.Write([]byte(now))
	mac.Write([]byte{'.'})
	mac.Write(body)
	var headers [120]byte
	h := append(headers[:0], "Stripe-Signature: t="...)
	h = append(h, now...)
	h = append(h, ",v1="...)
	h = hex.AppendEncode(h, mac.Sum(nil))
	h = append(h, "\r\n"...)
	status, _, err = k.post("/in/default/stripe", h, body)
	return status, err
}

// callback is a paid checkout session, as Stripe tells of it.
func (c *caller) callback(n int, token string) []byte {
	id := strconv.Itoa(n)
	b := make([]byte, 0, 1024+len(c.padding))
	b = append(b, `{"id":"evt_1Bench`...)
	b = append(b, id...)
	b = append(b, `","object":"event","api_version":"2025-09-30.clover","created":1754000000,"livemode":false,"pending_webhooks":1,`...)
	b = append(b, `"type":"checkout.session.completed","request":{"id":null,"idempotency_key":null},"data":{"object":{"id":"cs_test_a1bench`...)
	b = append(b, id...)
	b = append(b, `YS1URlnyQCN5fUUduORoQ7Pw41PJqDWkIVQCpJPqk","object":"checkout.session","amount_subtotal":2050,"amount_total":2050,`...)
	b = append(b, `"client_reference_id":"`...)
	b = append(b, token...)
	b = append(b, `","currency":"eur","customer":null,"customer_details":{"email":"someone@example.org","name":"Some One","phone":null},`...)
	b = append(b, `"metadata":{},"mode":"payment","payment_intent":"pi_3Bench`...)
	b = append(b, id...)
	b = append(b, `WZ01zgkW","payment_link":"plink_1Bench","payment_method_types":["card"],"payment_status":"paid","status":"complete",`...)
	b = append(b, `"custom_text":"`...)
	b = append(b, c.padding...)
	return append(b, `"}}}`...)
}

// pad makes callbacks of about size bytes.
func (c *caller) pad(size int) {
	c.padding = ""
	if missing := size - len(c.callback(1_000_000, "0123456789012345678901")); missing > 0 {
		// Words, not one letter: what is stored may be compressed.
		var b []byte
		for i := 0; len(b) < missing; i++ {
			sum := sha256.Sum256([]byte(strconv.Itoa(i)))
			b = append(b, hex.EncodeToString(sum[:5])...)
			b = append(b, ' ')
		}
		c.padding = string(b[:missing])
	}
}
