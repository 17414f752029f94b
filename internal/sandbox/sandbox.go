// Package sandbox stands in for the bot platforms that the relay calls and
// for a payment link that calls the relay: over real HTTP, from memory alone,
// and as unforgiving as the originals are documented to be. A call that the
// sandbox accepts is one that the platform accepts; a refusal has the status
// and the body that the platform answers with.
//
// The model. A platform keeps conversations, one for each user id, which come
// into being with the first call that names the user. A call moves its
// conversation, sets variables, says something, or is refused; whatever it
// did, it is kept as a message, with the request that carried it. Switches
// make a platform slow, forgetful or broken. The pay page sends a genuine,
// signed callback for each button pressed.
//
// It reads the contract on its own: it shares no request or signature code
// with the packages that it checks.
//
// What is always true: memory is bounded (the constants in conversation.go);
// a call is recorded before it is answered, so that whoever has the answer
// finds the record; no lock is held while something sleeps, reads or writes;
// and no credential is kept or logged. Nobody has to log in to see what it
// received: it belongs on a loopback address.
package sandbox

import (
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// Config holds what a Sandbox is made of. Every field may be left zero.
type Config struct {
	// CertainlyToken is the public API token that Certainly's calls must
	// carry. Without one every call is refused, until a switch sets it.
	CertainlyToken string

	HaptikToken     string // Bearer
	UserengageToken string
	WebhookSecret   string // whsec_…; without one nothing need be signed
	Smartify        SmartifyAccount
	HaptikNode      HaptikNode

	Stripe Stripe
	Offers []Offer          // what the chat pages of Certainly's users let them begin
	Logger *slog.Logger     // nil: silent
	Now    func() time.Time // nil: time.Now; stamps messages and callbacks
}

// Sandbox is the stand-in for every platform and for the pay page: one
// http.Handler, safe for concurrent use.
type Sandbox struct {
	mux       *http.ServeMux
	log       *slog.Logger
	now       func() time.Time
	stripe    Stripe
	offers    []Offer
	book      *book
	certainly *platform

	haptik      *platform
	haptikUsers users
	node        HaptikNode
	smartify    *platform
	tiledesk    SmartifyAccount
	hooks       *hooks
	userengage  *platform
	webhook     *platform

	stripeAPI *platform // its switches; it has no conversations
	checkouts *checkouts
	created   *created
	counters  counters
}

// New returns a Sandbox. It starts nothing.
func New(c Config) *Sandbox {
	s := &Sandbox{
		mux:       http.NewServeMux(),
		log:       c.Logger,
		now:       c.Now,
		stripe:    c.Stripe.withDefaults(),
		offers:    c.Offers,
		book:      newBook(),
		certainly: newPlatform(Certainly, field("user_id"), certainlyAnswer, c.CertainlyToken),
		stripeAPI: newPlatform(StripeAPI, field(""), stripeAnswer, c.Stripe.APIKey),
		checkouts: newCheckouts(),
		created:   newCreated(),

		node:       c.HaptikNode,
		haptik:     newPlatformWith(Haptik, haptikUser, haptikFaults, c.HaptikToken),
		smartify:   newPlatformWith(Smartify, smartifyConversation, smartifyFaults, smartifyServerSecret),
		tiledesk:   c.Smartify.withDefaults(),
		hooks:      newHooks(c.Smartify.HookPauses),
		userengage: newPlatformWith(Userengage, userengageConversation, userengageFaults, c.UserengageToken),
		webhook:    newPlatformWith(Webhook, webhookUser, webhookFaults, c.WebhookSecret),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.smartify.largest = smartifyReads
	s.routes()
	return s
}

func (s *Sandbox) routes() {
	s.mux.Handle("POST /certainly/actionsvc/trigger-response/{$}", s.receives(s.certainly, triggerResponse))
	s.mux.Handle("POST /certainly/actionsvc/trigger-message/{$}", s.receives(s.certainly, triggerMessage))
	// Named, because the mux would otherwise redirect, and a client that
	// follows would act: without the slash the address does not exist.
	s.mux.HandleFunc("/certainly/actionsvc/trigger-response", http.NotFound)
	s.mux.HandleFunc("/certainly/actionsvc/trigger-message", http.NotFound)

	s.mux.Handle("POST /haptik/v1.0/log_message_from_user/{$}", s.receives(s.haptik, s.haptikMessage))
	s.mux.Handle("POST /haptik/v1.0/user/{$}", s.receives(s.haptik, s.haptikRegister))
	s.mux.Handle("POST /smartify/auth/signinAnonymously", s.receives(s.smartify, s.smartifySignIn))
	s.mux.Handle("POST /smartify/auth/signin", s.receives(s.smartify, s.smartifyPasswordSignIn))
	s.mux.Handle("GET /smartify/{project}/requests/{conversation}/messages", s.receives(s.smartify, s.smartifyMessages))
	s.mux.Handle("POST /smartify/{project}/requests/{conversation}/messages", s.receives(s.smartify, s.smartifyMessage))
	for pattern, act := range map[string]func(*call) reply{
		"POST ": s.smartifySubscribe, "GET ": s.smartifySubscriptions,
	} {
		s.mux.Handle(pattern+"/smartify/{project}/subscriptions", s.receives(s.smartify, s.smartifyAdmin(act)))
	}
	for pattern, act := range map[string]func(*call) reply{
		"GET ": s.smartifySubscription, "PUT ": s.smartifyReplace, "DELETE ": s.smartifyUnsubscribe,
	} {
		s.mux.Handle(pattern+"/smartify/{project}/subscriptions/{id}", s.receives(s.smartify, s.smartifyAdmin(act)))
	}
	s.mux.Handle("GET /smartify/{project}/subscriptions/history", s.receives(s.smartify, s.smartifyAdmin(smartifyHistory)))
	s.mux.Handle("POST /userengage/api/public/message/{$}", s.receives(s.userengage, s.userengageMessage))
	s.mux.HandleFunc("/userengage/api/public/message", http.NotFound)
	for _, method := range []string{"POST", "PUT", "PATCH"} {
		s.mux.Handle(method+" /webhook/{bot}", s.receives(s.webhook, s.webhookCall))
	}

	for _, p := range s.platforms() {
		s.mux.Handle("PUT /sandbox/"+p.name, s.answers(s.putSwitches(p)))
		s.mux.Handle("GET /sandbox/"+p.name, s.answers(s.getSwitches(p)))
		s.mux.Handle("DELETE /sandbox/"+p.name, s.answers(s.deleteSwitches(p)))
	}

	s.mux.Handle("GET /stripe/v1/checkout/sessions", s.tells(s.listSessions))
	s.mux.Handle("GET /stripe/v1/checkout/sessions/{id}", s.tells(s.getSession))
	s.mux.HandleFunc("GET /mollie/v2/payments/{id}", func(w http.ResponseWriter, r *http.Request) { s.getMolliePayment(r).write(w, r) })
	s.mux.Handle("POST /stripe/v1/checkout/sessions", s.tells(s.postSession))
	s.mux.Handle("POST /stripe/v1/checkout/sessions/{id}/expire", s.tells(s.expireSession))
	s.mux.Handle("POST /stripe/v1/payment_links", s.tells(s.postPaymentLink))
	s.mux.Handle("PUT /sandbox/stripe", s.answers(s.putSwitches(s.stripeAPI)))
	s.mux.Handle("GET /sandbox/stripe", s.answers(s.getSwitches(s.stripeAPI)))
	s.mux.Handle("DELETE /sandbox/stripe", s.answers(s.deleteSwitches(s.stripeAPI)))

	s.mux.Handle("GET /sandbox/conversations", s.answers(s.listConversations))
	s.mux.Handle("DELETE /sandbox/conversations", s.answers(s.deleteConversations))
	s.mux.Handle("GET /sandbox/conversations/{user_id}", s.answers(s.getConversation))
	s.mux.Handle("POST /sandbox/conversations/{user_id}/pause", s.answers(s.postPause))
	s.mux.Handle("POST /sandbox/conversations/{user_id}/say", s.answers(s.postSay))
	s.mux.Handle("POST /sandbox/conversations/{user_id}/close", s.answers(s.postClose))
	s.mux.Handle("GET /sandbox/counts", s.answers(s.getCounts))

	s.mux.Handle("GET /{$}", s.answers(s.showIndex))
	s.mux.Handle("GET /sandbox/chat/{user_id}", s.answers(s.showChat))
	s.mux.Handle("POST /sandbox/chat/{user_id}/node", s.answers(s.comeToNode))
	s.mux.Handle("POST /sandbox/chat/{user_id}/say", s.answers(s.sayInChat))
	s.mux.Handle("POST /sandbox/chat/{user_id}", s.answers(s.begin))
	s.mux.Handle("GET /sandbox/style.css", s.answers(s.showFile("style.css")))
	s.mux.Handle("GET /sandbox/chat.js", s.answers(s.showFile("chat.js")))
	s.mux.Handle("GET /pay/{link}", s.answers(s.showPay))
	s.mux.Handle("POST /pay/{link}", s.answers(s.pay))
}

// ServeHTTP answers as the platform, the pay page or the sandbox itself.
func (s *Sandbox) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Counts are totals since the start or the last reset. They stay exact where
// the bounds have already dropped the conversations themselves.
type Counts struct {
	Calls   int64 `json:"calls"`    // received by a platform, whatever came of them
	Resumed int64 `json:"resumed"`  // moved their conversation to a module
	Texts   int64 `json:"texts"`    // said something
	Refused int64 `json:"refused"`  // did nothing: refused, or met by a fault that does not act
	Asked   int64 `json:"asked"`    // questions to the APIs of Stripe and Mollie, whatever came of them
	SignIns int64 `json:"sign_ins"` // to Smartify: each makes a user of the project
	Hooks   int64 `json:"hooks"`    // of Smartify that were sent, each try
}

type counters struct{ calls, resumed, texts, refused, asked, signIns, hooks atomic.Int64 }

func (c *counters) count(kind string) {
	c.calls.Add(1)
	switch kind {
	case KindResume:
		c.resumed.Add(1)
	case KindText:
		c.texts.Add(1)
	case KindRefused:
		c.refused.Add(1)
	}
}

func (c *counters) reset() {
	for _, n := range []*atomic.Int64{&c.calls, &c.resumed, &c.texts, &c.refused, &c.asked, &c.signIns, &c.hooks} {
		n.Store(0)
	}
}

// Counts returns the totals.
func (s *Sandbox) Counts() Counts {
	return Counts{
		Calls:   s.counters.calls.Load(),
		Resumed: s.counters.resumed.Load(),
		Texts:   s.counters.texts.Load(),
		Refused: s.counters.refused.Load(),
		Asked:   s.counters.asked.Load(),
		SignIns: s.counters.signIns.Load(),
		Hooks:   s.counters.hooks.Load(),
	}
}
