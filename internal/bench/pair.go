package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// pair is one load, with what a promise asks for and without. The product has
// no switch that breaks a promise: the two differ in what is sent, in
// configuration that every user could choose, or in the server, which is the
// bench's own and private.
type pair struct {
	name  string // with the promise's number in docs/guarantees.md
	about string // what is set beside what, and what the difference stands for

	// registers: waits are registered, and nobody is resumed.
	registers bool
	with      side
	without   side
}

// side is one of the two loads.
type side struct {
	manner manner
	size   int // of a callback; 0: as the plan has it
	// one is what is measured. stocked: it uses up a wait that was registered
	// before.
	one     func(*caller, *conn) (user, status int, more bool, err error)
	stocked bool
	// server sets the private server, where the sides differ in that.
	server func(context.Context, *store.Probe) error
	// ready returns when the stock is as the load needs it. nil: as it was
	// registered.
	ready func(context.Context, *bench) error
	// done returns when what a load has caused besides resumes is done too, and
	// after when what ready has made is gone. nil: there is nothing.
	done  func(context.Context, *bench, *load) error
	after func(context.Context, *bench) error
}

// called is the usual load in a manner of its own: callbacks of waits that
// are there.
func called(m manner) side { return side{manner: m, one: (*caller).callBack, stocked: true} }

// served is the usual load on a server that is set for it.
func served(set func(context.Context, *store.Probe) error) side {
	s := called(usual)
	s.server = set
	return s
}

// What besides the usual there is to send to.
const (
	signedSource   = "signed"   // Stripe, but that no reference is read
	unsignedSource = "unsigned" // the same, and nobody signs
	holdingSink    = "holding"  // the sink, where what has no answer is held
	lateFlow       = "late"     // does nothing when a wait expires
)

// perConversation is how many deliveries of one conversation are owed at once.
const perConversation = 20

// shortLived is how long a wait lives that is to be paid late.
const shortLived = time.Second

// largeBody is a callback as merchants who fill in metadata get them, in bytes.
const largeBody = 3072

// pairs lists what is measured, in the order of the promises.
func pairs() []pair {
	inFlow := func(flow, source string) manner { return manner{flow: flow, source: source} }
	withFields := func(m manner, fields func([]byte, int) []byte) manner {
		m.fields = fields
		return m
	}
	long, short := called(usual), called(manner{flow: usual.flow, source: usual.source, short: true})
	long.size, short.size = largeBody, shortBody
	late := called(withFields(inFlow(lateFlow, usual.source), func(b []byte, _ int) []byte {
		return append(b, `,"expires_in":"`+relay.Duration(shortLived).String()+`"`...)
	}))
	late.ready = func(ctx context.Context, b *bench) error { return b.allExpired(ctx) }
	return []pair{
		{
			name: "genuine (1)",
			about: "callbacks that are signed, beside the same ones at a source whose preset is Stripe's with `auth: none`. " +
				"It stands for the signature, and for looking for a wait by key, which only proven callbacks may.",
			with: called(inFlow(signedSource, signedSource)), without: called(inFlow(unsignedSource, unsignedSource)),
		},
		{
			name: "durable before the answer (2, 16)",
			about: "`synchronous_commit` on, beside off on the bench's private server: there an answer does not wait for the disk. " +
				"It stands for what a 200 is worth after a power cut.",
			with:    served(func(ctx context.Context, p *store.Probe) error { return p.CommitToDisk(ctx, true) }),
			without: served(func(ctx context.Context, p *store.Probe) error { return p.CommitToDisk(ctx, false) }),
		},
		{
			name: "counted once (3)",
			about: "every event told twice, beside once; per wait, not per callback. " +
				"It stands for a duplicate, which is verified, kept and answered like any other callback, and fires nothing.",
			with: side{manner: usual, one: (*caller).callBackTwice, stocked: true}, without: called(usual),
		},
		{
			name: "early: looking (4)",
			about: "waits registered with a `key`, beside without; registrations, not callbacks. " +
				"It stands for the key's own row, for keeping it unique, and for the look whether an event has come before.",
			registers: true,
			with:      side{manner: withFields(usual, appendKey), one: (*caller).register}, without: side{manner: usual, one: (*caller).register},
		},
		{
			name: "early: parking (4)",
			about: "the callback and then the registration of its wait, by key, beside first the registration; both requests together, per wait. " +
				"It stands for an event that is parked and found again.",
			with:    side{manner: withFields(usual, appendKey), one: (*caller).callEarly},
			without: side{manner: withFields(usual, appendKey), one: (*caller).callInTime},
		},
		{
			name: "money is never silent (6)",
			about: "payments of waits that expired before, beside pending ones. " +
				"It stands for a late success: noted once, resumed, and looked for a successor to end.",
			with: late, without: called(inFlow(lateFlow, usual.source)),
		},
		{
			name: "references (7)",
			about: "Stripe's preset, beside the same one inline without its `references`. " +
				"It stands for what a wait learns, here two ids, so that later events without a token find it.",
			with: called(usual), without: called(inFlow(signedSource, signedSource)),
		},
		{
			name: "superseding (9)",
			about: "a second registration for a user whose wait is pending, beside one for another user; registrations, not callbacks. " +
				"It stands for ending the older wait.",
			registers: true,
			with:      side{manner: usual, one: (*caller).registerAgain, stocked: true},
			without:   side{manner: usual, one: (*caller).registerBeside, stocked: true},
		},
		{
			name: "unknown is held (11)",
			about: "a destination with `on_unknown: hold`, beside `retry`. " +
				"It stands for the mark that is committed before each send.",
			with: called(inFlow(holdingSink, usual.source)), without: called(usual),
		},
		{
			name: "order: waiting for a turn (12)",
			about: fmt.Sprintf("%d waits of each conversation called back together, beside one of each. ", perConversation) +
				"It stands for deliveries that wait for the one before them, are passed the slot, and are claimed from the table.",
			with: called(withFields(usual, appendConversation)), without: called(usual),
		},
		{
			name: "bodies are kept",
			about: fmt.Sprintf("callbacks of %d bytes, beside about %d that say the same. ", largeBody, shortBody) +
				"It stands for what a provider sends besides what is read: hashed, searched, packed and kept with the event.",
			with: long, without: short,
		},
		{
			name: "subscribers are told",
			about: "a subscription to `*` whose receiver, in the load generator, answers at once, beside none; a load ends when the last hook is told. " +
				"It stands for the four hooks of each callback: written in its transactions, numbered, sent, and taken away.",
			with: heard(), without: called(usual),
		},
	}
}

// unpriced are the promises that have no honest 'without', and why.
var unpriced = []string{
	"A dedupe key (3): each event has one, of its id or of its body.",
	"Order means nothing (5): it is how a step is decided, not a step more.",
	"Explaining a match (7): it is worked out when somebody asks, and costs nothing on the way of a callback.",
	"Deadlines and tokens (8, 10): there is no wait without them.",
	"Recorded attempts and leases (11): a call that is not recorded is made again.",
	"Taking slots (12): no configuration makes deliveries that have no conversation. It is an entry more in a partial index.",
	"A bound for each destination, and retries (13, 14): they cost where a destination is slow or fails, and the sink is neither.",
	"Sealed secrets (17): they are opened when the configuration is read. Guarded dialling (18): once for a connection, and calls share few.",
	"Nodes that share one database (19), metrics and logs: they are always on, and in every figure.",
}

// appendKey gives a registration a key of its user's own.
func appendKey(b []byte, user int) []byte {
	return append(append(append(b, `,"key":"`...), keyOf(user)...), '"')
}

func keyOf(user int) string { return "order-" + strconv.Itoa(user) }

// appendConversation gives a registration a conversation that it shares with
// its neighbours.
func appendConversation(b []byte, user int) []byte {
	b = append(b, `,"conversation":"c-`...)
	b = strconv.AppendInt(b, int64(user/perConversation), 10)
	return append(b, '"')
}

// callBackTwice sends the callback of the next user, and again when it was
// answered.
func (c *caller) callBackTwice(k *conn) (user, status int, more bool, err error) {
	n, token := c.takeStock()
	if token == "" {
		return n, 0, false, nil
	}
	status, err = both(
		func() (int, error) { return c.post(k, n, token) },
		func() (int, error) { return c.post(k, n, token) })
	return n, status, true, err
}

// callEarly sends the callback of a new user, and then registers its wait;
// callInTime does so in the other order. Both name the wait by its key.
func (c *caller) callEarly(k *conn) (user, status int, more bool, err error) {
	n := int(c.next.Add(1)) - 1
	status, err = both(
		func() (int, error) { return c.post(k, n, keyOf(n)) },
		func() (int, error) { return c.registerUser(k, n) })
	return n, status, true, err
}

func (c *caller) callInTime(k *conn) (user, status int, more bool, err error) {
	n := int(c.next.Add(1)) - 1
	status, err = both(
		func() (int, error) { return c.registerUser(k, n) },
		func() (int, error) { return c.post(k, n, keyOf(n)) })
	return n, status, true, err
}

// both makes two requests, the second only if the first was accepted.
func both(first, second func() (status int, err error)) (status int, err error) {
	if status, err = first(); err != nil || status < 200 || status > 299 {
		return status, err
	}
	return second()
}

// registerAgain registers a user of the stock once more; registerBeside a new
// one, and leaves the stock alone.
func (c *caller) registerAgain(k *conn) (user, status int, more bool, err error) {
	n, token := c.takeStock()
	if token == "" {
		return n, 0, false, nil
	}
	status, err = c.registerUser(k, n)
	return n, status, true, err
}

func (c *caller) registerBeside(k *conn) (user, status int, more bool, err error) {
	if n, token := c.takeStock(); token == "" {
		return n, 0, false, nil
	}
	return c.register(k)
}

// configurePairs gives the relay what the pairs need besides the usual.
func (b *bench) configurePairs(ctx context.Context) error {
	// Who is asked about is told by references; without an API key, as here,
	// nobody is asked anyway.
	bare, err := stripeWithout("references", "ask")
	if err != nil {
		return err
	}
	unsigned, err := stripeWithout("references", "ask", "secret")
	if err != nil {
		return err
	}
	unsigned["auth"] = map[string]any{"alg": "none"}
	for _, one := range []struct {
		path string
		body map[string]any
	}{
		{"destinations/" + holdingSink, b.destination(map[string]any{"on_unknown": "hold"})},
		{"sources/" + signedSource, map[string]any{"provider": bare, "secret": secret}},
		{"sources/" + unsignedSource, map[string]any{"provider": unsigned}},
		{"flows/" + signedSource, flow("sink", signedSource, nil)},
		{"flows/" + unsignedSource, flow("sink", unsignedSource, nil)},
		{"flows/" + holdingSink, flow(holdingSink, usual.source, nil)},
		{"flows/" + lateFlow, flow("sink", usual.source, map[string]any{"expired": map[string]any{"action": "none"}})},
	} {
		if err := b.put(ctx, one.path, one.body); err != nil {
			return err
		}
	}
	return nil
}

// stripeWithout is Stripe's preset as a user would copy it, without some parts.
func stripeWithout(parts ...string) (map[string]any, error) {
	preset, ok := provider.Lookup("stripe")
	if !ok {
		return nil, errors.New("there is no preset stripe")
	}
	var spec map[string]any
	if err := yaml.Unmarshal([]byte(preset.Text), &spec); err != nil {
		return nil, fmt.Errorf("copying the preset stripe: %w", err)
	}
	for _, part := range parts {
		delete(spec, part)
	}
	return spec, nil
}

// expiryWait bounds how long the stock may take to expire.
const expiryWait = time.Minute

// allExpired returns when no wait is left that can be paid in time.
func (b *bench) allExpired(ctx context.Context) error {
	for deadline := time.Now().Add(expiryWait); time.Now().Before(deadline); pause(ctx, look) {
		var list struct {
			Data []struct{} `json:"data"`
		}
		if err := b.call(ctx, http.MethodGet, "correlations?limit=1&status=pending&flow="+lateFlow, nil, &list); err != nil {
			return err
		}
		if len(list.Data) == 0 {
			return ctx.Err()
		}
	}
	return fmt.Errorf("waits of %s have not expired within %s: see what the relay logged", shortLived, expiryWait)
}

// find returns the pair of that name; its promise's number may be left out.
func find(name string) (pair, error) {
	var names []string
	for _, p := range pairs() {
		word, _, _ := strings.Cut(p.name, " (")
		if name == p.name || name == word {
			return p, nil
		}
		names = append(names, word)
	}
	return pair{}, fmt.Errorf("there is no pair %q: there are %q", name, names)
}

// Pairs names what is to be measured: all there is, or only that.
func Pairs(only ...string) (names []string, err error) {
	for _, name := range only {
		p, err := find(name)
		if err != nil {
			return nil, err
		}
		names = append(names, p.name)
	}
	if len(only) > 0 {
		return names, nil
	}
	for _, p := range pairs() {
		names = append(names, p.name)
	}
	return names, nil
}
