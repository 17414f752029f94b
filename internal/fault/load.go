package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"relay.example/relay/internal/bench"
	"relay.example/relay/internal/sandbox"
)

// The bounds of the load.
const (
	giveUp      = 10 * time.Second       // a provider's patience with one request
	firstPause  = 500 * time.Millisecond // before a provider's second try, doubled for each one after it
	longPause   = 4 * time.Second        // and at most
	maxInFlight = 4_000                  // payers; beyond them nobody begins to pay
	callback    = 1_536                  // bytes
	payersLimit = 90 * time.Second       // for those who have begun to pay to be answered, once nothing is broken
)

// balancer spreads requests over the nodes that say they are ready.
type balancer struct {
	nodes  []*node
	turn   atomic.Uint64
	client *http.Client
}

func newBalancer(nodes []*node) *balancer {
	transport := &http.Transport{MaxIdleConnsPerHost: 512, MaxIdleConns: 0}
	return &balancer{nodes: nodes, client: &http.Client{Transport: transport, Timeout: giveUp}}
}

// pick takes the next node that is ready, or any.
func (b *balancer) pick() *node {
	turn := int(b.turn.Add(1) % uint64(len(b.nodes)))
	for i := range b.nodes {
		if n := b.nodes[(turn+i)%len(b.nodes)]; n.ready.Load() {
			return n
		}
	}
	return b.nodes[turn]
}

// answer is what one request was told; the status is 0 where nobody answered.
type answer struct {
	status     int
	retryAfter time.Duration
	body       []byte
	took       time.Duration
	again      int // times that the client has quietly begun anew, on another connection
}

// ask gets a page.
func (b *balancer) ask(ctx context.Context, address string) (answer, error) {
	return b.exchange(ctx, http.MethodGet, address, http.Header{}, nil)
}

// send makes one request of a node's public listener.
func (b *balancer) send(ctx context.Context, n *node, method, path string, header http.Header, body []byte) (answer, error) {
	return b.exchange(ctx, method, n.url+path, header, body)
}

func (b *balancer) exchange(ctx context.Context, method, address string, header http.Header, body []byte) (answer, error) {
	began := time.Now()
	connections := 0
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GetConn: func(string) { connections++ }})
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header = header
	resp, err := b.client.Do(req) //nolint:gosec // the address is of a node that we have started
	if err != nil {
		return answer{took: time.Since(began), again: connections - 1}, err
	}
	defer func() { _ = resp.Body.Close() }()
	a := answer{status: resp.StatusCode, again: connections - 1}
	a.body, err = io.ReadAll(resp.Body)
	a.took = time.Since(began)
	if seconds, bad := strconv.Atoi(resp.Header.Get("Retry-After")); bad == nil {
		a.retryAfter = time.Duration(seconds) * time.Second
	}
	if err != nil {
		return answer{took: a.took, again: a.again}, err
	}
	return a, nil
}

// payment is one callback that was answered 200.
type payment struct {
	user  int
	wait  string // its id
	acked time.Time
	took  time.Duration // the request that was answered 200
}

// load is payers who pay at a steady rate: each registers a wait, and its
// callback is sent again until it is answered 200, as a provider does.
type load struct {
	balancer *balancer
	key      string // of the API
	secret   string // of the Stripe source
	run      uint64
	next     *atomic.Int64 // the next user
	size     int           // of a callback, in bytes
	flow     string

	stopping chan struct{}
	workers  sync.WaitGroup
	inFlight atomic.Int64

	shed   atomic.Int64 // 503
	broken atomic.Int64 // no answer at all
	turned atomic.Int64 // begun anew, since nobody listened or the connection was closing

	mu       sync.Mutex
	payments []payment
	wrong    map[string]int // what should not have been answered, and how often
	slowest  time.Duration  // answer to a callback
}

// begin lets payers pay, rate of them each second, until end.
func (l *load) begin(ctx context.Context, rate int) {
	l.stopping = make(chan struct{})
	l.workers.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-l.stopping:
				return
			case <-tick.C:
			}
			if l.inFlight.Load() >= maxInFlight {
				continue
			}
			user := int(l.next.Add(1)) - 1
			l.inFlight.Add(1)
			l.workers.Go(func() {
				defer l.inFlight.Add(-1)
				l.pay(ctx, user)
			})
		}
	})
}

// end lets nobody else begin, and waits for those who have.
func (l *load) end(ctx context.Context) error {
	close(l.stopping)
	done := make(chan struct{})
	go func() {
		l.workers.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(payersLimit):
		return fmt.Errorf("%d payers have not been answered 200 after %s", l.inFlight.Load(), payersLimit)
	}
}

// pay plays one payer.
func (l *load) pay(ctx context.Context, user int) {
	body := []byte(`{"user_id":"` + bench.UserID(user) + `","flow":"` + l.flow + `"}`)
	wait, err := l.register(ctx, strconv.Itoa(user), body)
	if err == nil {
		_ = l.callBack(ctx, user, user, wait) // it ends only with ctx
	}
}

// registered is what the relay tells of a new wait.
type registered struct {
	ID        string
	Token     string
	ModuleID  int64     `json:"module_id"`
	ExpiresAt time.Time `json:"expires_at"`
}

// register registers a wait, once, however often it is asked.
func (l *load) register(ctx context.Context, name string, body []byte) (wait registered, err error) {
	header := http.Header{
		"Authorization": {"Bearer " + l.key}, "Content-Type": {"application/json"},
		"Idempotency-Key": {strconv.FormatUint(l.run, 36) + "-" + name},
	}
	_, err = l.until(ctx, "registering", "/v1/correlations", func() http.Header { return header }, body, func(a answer) bool {
		return (a.status == http.StatusCreated || a.status == http.StatusOK) && json.Unmarshal(a.body, &wait) == nil
	})
	return wait, err
}

// callBack sends the callback of a wait. The number is what its ids are drawn
// from.
func (l *load) callBack(ctx context.Context, user, number int, wait registered) error {
	event := bench.Callback(l.run, number, wait.Token, l.size)
	a, err := l.until(ctx, "a callback", "/in/default/stripe", func() http.Header { return l.signed(event) }, event, func(a answer) bool {
		l.noteAnswer(a)
		return a.status == http.StatusOK
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.payments = append(l.payments, payment{user: user, wait: wait.ID, acked: time.Now(), took: a.took})
	return nil
}

func (l *load) signed(event []byte) http.Header {
	return http.Header{
		"Content-Type": {"application/json"}, "Stripe-Signature": {sandbox.SignStripe(l.secret, event, time.Now())},
	}
}

func (l *load) noteAnswer(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.status != 0 {
		l.slowest = max(l.slowest, a.took)
	}
}

// until repeats a request until it is answered as it should be. What is
// answered otherwise than 503 with Retry-After is noted as wrong.
func (l *load) until(ctx context.Context, what, path string, header func() http.Header, body []byte, enough func(answer) bool) (answer, error) {
	tries := 0 // of nodes that do not listen, one after the other
	for wait := firstPause; ; wait = min(2*wait, longPause) {
		a, err := l.balancer.send(ctx, l.balancer.pick(), http.MethodPost, path, header(), body)
		l.turned.Add(int64(a.again))
		if enough(a) {
			return a, nil
		}
		switch {
		case ctx.Err() != nil:
			return a, context.Cause(ctx)
		case unsent(err):
			l.turned.Add(1)
			if tries++; tries < len(l.balancer.nodes) {
				continue
			}
		case err != nil:
			l.broken.Add(1)
		case a.status == http.StatusServiceUnavailable && a.retryAfter > 0:
			l.shed.Add(1)
		default:
			l.complain(fmt.Sprintf("%s was answered %d: %.200s", what, a.status, a.body))
		}
		tries = 0
		if err := pause(ctx, max(wait, a.retryAfter)); err != nil {
			return a, err
		}
	}
}

// unsent reports whether a request never left: a balancer goes on to the next
// node, and its caller sees nothing of it.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func (l *load) complain(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong[what]++
}
