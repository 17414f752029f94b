package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"relay.example/relay/internal/bench"
	"relay.example/relay/internal/sandbox"
)

// change is one kind of change of the configuration. All of its steps are
// numbered from 0.
type change struct {
	what string
	// make changes it by one node.
	make func(c *changing, ctx context.Context, by *node, i int) error
	// known reports whether a node acts by the change.
	known func(c *changing, ctx context.Context, n *node, i int) (bool, error)
}

// kindsOfChange is tried in turn. None touches what payers pay with.
var kindsOfChange = []change{
	{"a flow has another module", (*changing).putFlow, (*changing).flowKnown},
	{"a source has another secret, and the old one ends", (*changing).rotateSource, (*changing).sourceRotated},
	{"a source is deleted, or is there again", (*changing).flipSource, (*changing).sourceFlipped},
	{"a destination has another secret", (*changing).rotateDestination, (*changing).destinationRotated},
}

// changing is a configuration that changes while payers pay.
type changing struct {
	w       *world
	load    *load
	witness *witness
	secrets []string // of the source, as they were drawn
	token   string   // of the destination
	asked   atomic.Int64
}

// changes changes the configuration on one node, again and again, and asks all
// until they act by it.
func changes(ctx context.Context, w *world, s scale) *books {
	b := &books{fault: "the configuration changes"}
	took := make([][]time.Duration, len(kindsOfChange))
	withPayers(ctx, w, b, func(ctx context.Context) error {
		c, err := w.newChanging(ctx)
		if err != nil {
			return err
		}
		defer c.witness.close()
		for i := range s.changes {
			kind := i % len(kindsOfChange)
			// Every node makes changes of every kind.
			by := w.nodes[(i/len(kindsOfChange)+kind)%nodes]
			d, err := c.reach(ctx, kindsOfChange[kind], by, i/len(kindsOfChange))
			if err != nil {
				return err
			}
			took[kind] = append(took[kind], d)
		}
		return nil
	})
	for kind, ds := range took {
		worst := percentile(ds, 1)
		b.find(fmt.Sprintf("%s: what begins later is done by it on all nodes, worst of %d", kindsOfChange[kind].what, len(ds)), milliseconds(worst), "1 s",
			len(ds) > 0 && worst <= changeLimit)
	}
	return b
}

// newChanging writes the source and the destination that are to change.
func (w *world) newChanging(ctx context.Context) (*changing, error) {
	witness, err := newWitness(ctx)
	if err != nil {
		return nil, err
	}
	c := &changing{w: w, load: w.newLoad(), witness: witness, secrets: []string{w.draw()}}
	return c, errors.Join(
		c.write(ctx, w.nodes[0], http.MethodPut, "/v1/sources/rotating", `{"provider": "stripe", "secret": "`+c.secrets[0]+`"}`),
		c.rotateDestination(ctx, w.nodes[0], 0))
}

// draw returns a new secret, which may stand in no log.
func (w *world) draw() string {
	secret := "whsec_" + rand.Text()
	w.drawn = append(w.drawn, secret)
	return secret
}

// reach makes one change, and returns after how long whatever began on any node
// was done by it.
func (c *changing) reach(ctx context.Context, kind change, by *node, i int) (time.Duration, error) {
	if err := kind.make(c, ctx, by, i); err != nil {
		return 0, err
	}
	made := time.Now()
	var after [nodes]time.Duration
	err := parallel(ctx, nodes, nodes, func(ctx context.Context, n int) (err error) {
		after[n], err = c.until(ctx, kind, c.w.nodes[n], i, made)
		return err
	})
	return slices.Max(after[:]), err
}

// until asks one node until it acts by a change. What counts is when the
// question began that was answered so: the answer itself takes as long as a
// busy machine lets it.
func (c *changing) until(ctx context.Context, kind change, n *node, i int, made time.Time) (time.Duration, error) {
	for {
		after := time.Since(made)
		known, err := kind.known(c, ctx, n, i)
		if known {
			return after, nil
		}
		if after > 2*changeLimit {
			return after, errors.Join(fmt.Errorf("%s: %s does not act by it after %s", kind.what, n.name, after), err)
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return after, err
		}
	}
}

// write changes one object.
func (c *changing) write(ctx context.Context, by *node, method, path, body string) error {
	a, err := c.api(ctx, by, method, path, body)
	if err != nil {
		return err
	}
	if a.status/100 != 2 {
		return fmt.Errorf("%s %s was answered %d: %.200s", method, path, a.status, a.body)
	}
	return nil
}

func (c *changing) api(ctx context.Context, n *node, method, path, body string) (answer, error) {
	header := http.Header{"Authorization": {"Bearer " + c.w.secrets.apiKey}, "Content-Type": {"application/json"}}
	return c.w.balancer.send(ctx, n, method, path, header, []byte(body))
}

func (c *changing) putFlow(ctx context.Context, by *node, i int) error {
	return c.write(ctx, by, http.MethodPut, "/v1/flows/changing",
		fmt.Sprintf(`{"destination": "bot", "source": "stripe", "on": {"completed": {"module_id": %d}, "default": {"module_id": 3}}}`, 1000+i))
}

// flowKnown registers a wait, whose answer tells where it leads.
func (c *changing) flowKnown(ctx context.Context, n *node, i int) (bool, error) {
	wait, err := c.register(ctx, n, `{"user_id": "changing", "flow": "changing"}`)
	return wait.ModuleID == int64(1000+i), err
}

func (c *changing) rotateSource(ctx context.Context, by *node, _ int) error {
	secret := c.w.draw()
	c.secrets = append(c.secrets, secret)
	return c.write(ctx, by, http.MethodPost, "/v1/sources/rotating/secrets", `{"secret": "`+secret+`", "expire_others_in": "0s"}`)
}

// sourceRotated calls back with the old secret and with the new one.
func (c *changing) sourceRotated(ctx context.Context, n *node, _ int) (bool, error) {
	last := len(c.secrets) - 1
	older, err1 := c.callBack(ctx, n, "rotating", c.secrets[last-1], "nobody")
	newer, err2 := c.callBack(ctx, n, "rotating", c.secrets[last], "nobody")
	return older == http.StatusUnauthorized && newer == http.StatusOK, errors.Join(err1, err2)
}

// flipSource makes a source the even times and deletes it the odd ones.
func (c *changing) flipSource(ctx context.Context, by *node, i int) error {
	if i%2 == 1 {
		return c.write(ctx, by, http.MethodDelete, "/v1/sources/flipping", "")
	}
	return c.write(ctx, by, http.MethodPut, "/v1/sources/flipping", `{"provider": "stripe", "secret": "`+c.secrets[0]+`"}`)
}

func (c *changing) sourceFlipped(ctx context.Context, n *node, i int) (bool, error) {
	status, err := c.callBack(ctx, n, "flipping", c.secrets[0], "nobody")
	want := http.StatusOK
	if i%2 == 1 {
		want = http.StatusNotFound
	}
	return status == want, err
}

func (c *changing) rotateDestination(ctx context.Context, by *node, _ int) error {
	c.token = c.w.draw()
	return c.write(ctx, by, http.MethodPut, "/v1/destinations/witness",
		fmt.Sprintf(`{"platform": "certainly", "base_url": "http://%s", "token": %q}`, c.witness.address, c.token))
}

// destinationRotated has a node resume a conversation, and looks what it gave
// itself out with.
func (c *changing) destinationRotated(ctx context.Context, n *node, _ int) (bool, error) {
	user := "witness-" + strconv.FormatInt(c.asked.Add(1), 10)
	wait, err := c.register(ctx, n, fmt.Sprintf(`{"user_id": %q, "destination": "witness", "source": "stripe", "module_id": 1}`, user))
	if err != nil {
		return false, err
	}
	called := c.witness.await(user)
	status, err := c.callBack(ctx, n, "stripe", c.w.secrets.stripe, wait.Token)
	if err != nil || status != http.StatusOK {
		return false, errors.Join(fmt.Errorf("a callback was answered %d", status), err)
	}
	select {
	case authorization := <-called:
		return strings.Contains(authorization, c.token), nil
	case <-time.After(2 * changeLimit):
		return false, errors.New("its callback was not resumed")
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

func (c *changing) register(ctx context.Context, n *node, body string) (wait registered, err error) {
	a, err := c.api(ctx, n, http.MethodPost, "/v1/correlations", body)
	if err != nil {
		return wait, err
	}
	if a.status != http.StatusCreated {
		return wait, fmt.Errorf("registering was answered %d: %.200s", a.status, a.body)
	}
	return wait, json.Unmarshal(a.body, &wait)
}

// callBack sends a callback to one node, and returns its status.
func (c *changing) callBack(ctx context.Context, n *node, source, secret, token string) (int, error) {
	event := bench.Callback(c.load.run, int(c.load.next.Add(1))-1, token, c.load.size)
	header := http.Header{"Content-Type": {"application/json"}, "Stripe-Signature": {sandbox.SignStripe(secret, event, time.Now())}}
	a, err := c.w.balancer.send(ctx, n, http.MethodPost, "/in/default/"+source, header, event)
	return a.status, err
}

// witness is a platform that tells by which credentials it was called.
type witness struct {
	address string
	server  *http.Server

	mu      sync.Mutex
	waiting map[string]chan string // by user
}

func newWitness(ctx context.Context) (*witness, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &witness{address: l.Addr().String(), waiting: map[string]chan string{}}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: giveUp}
	go func() { _ = s.server.Serve(l) }()
	return s, nil
}

func (s *witness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var call struct {
		UserID string `json:"user_id"`
	}
	if err := json.NewDecoder(r.Body).Decode(&call); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.waiting[call.UserID] <- r.Header.Get("Authorization"):
	default: // told already
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"error":[],"message":"1"}`)
}

// await returns what will tell how the first call about a user comes.
func (s *witness) await(user string) <-chan string {
	called := make(chan string, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[user] = called
	return called
}

func (s *witness) close() { _ = s.server.Close() }
