package relay

import (
	"slices"
	"time"

	"github.com/google/uuid"
)

// News is the kind of something that has happened and that those who
// subscribe to it are told.
type News string

// The kinds of news.
const (
	WaitCreated    News = "correlation.created"
	WaitCompleted  News = "correlation.completed"
	WaitFailed     News = "correlation.failed"
	WaitCancelled  News = "correlation.cancelled"
	WaitExpired    News = "correlation.expired"
	WaitSuperseded News = "correlation.superseded"
	WaitLate       News = "correlation.late" // a success after the end
	WaitRefunded   News = "correlation.refunded"
	WaitDisputed   News = "correlation.disputed"

	DeliveryDelivered News = "delivery.delivered"
	DeliveryDead      News = "delivery.dead"
	DeliveryUnknown   News = "delivery.unknown"

	DestinationHeld    News = "destination.held"
	DestinationResumed News = "destination.resumed"

	FormSubmitted       News = "form.submitted"       // a callback with a form completed a wait, in time or late
	CheckoutCompleted   News = "checkout.completed"   // a callback with a payment did, or told of a second payment
	ConversationResumed News = "conversation.resumed" // the call that a wait's end owed was delivered
)

// Everything subscribes to all news.
const Everything News = "*"

// AllNews lists the kinds of news.
var AllNews = []News{
	WaitCreated, WaitCompleted, WaitFailed, WaitCancelled, WaitExpired, WaitSuperseded, WaitLate, WaitRefunded, WaitDisputed,
	DeliveryDelivered, DeliveryDead, DeliveryUnknown,
	DestinationHeld, DestinationResumed,
	FormSubmitted, CheckoutCompleted, ConversationResumed,
}

// Subscribable reports whether one may subscribe to n.
func (n News) Subscribable() bool { return n == Everything || slices.Contains(AllNews, n) }

// NewsOf is what is told of a wait that enters a status.
func NewsOf(s Status) News { return News("correlation." + string(s)) }

// Subscription is a third party that is told of one kind of news, or of all.
type Subscription struct {
	ID            uuid.UUID
	ProjectID     int64
	Event         News
	Target        string
	Secret        string // sent with each hook, for those who compare
	SigningSecret string // never sent: it signs each hook, for those who verify
	CreatedAt     time.Time
}

// How many subscriptions a project may have, in all and to be told of the same:
// what happens is written once for each that hears of it, in the commit that
// all projects share.
const (
	MaxSubscriptions = 100
	MaxListeners     = 10
)

// ShownSubscription is a subscription as Tiledesk shows one.
type ShownSubscription struct {
	ID            uuid.UUID `json:"_id"`
	Event         News      `json:"event"`
	Target        string    `json:"target"`
	ProjectID     string    `json:"id_project"` // the project's name
	CreatedAt     time.Time `json:"createdAt"`
	UpdatedAt     time.Time `json:"updatedAt"`
	Secret        string    `json:"secret,omitempty"`         // only in the answer that makes it
	SigningSecret string    `json:"signing_secret,omitempty"` // only there too
}

// Shown is s without its secrets.
func (s *Subscription) Shown(project string) ShownSubscription {
	return ShownSubscription{
		ID: s.ID, Event: s.Event, Target: s.Target, ProjectID: project, CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.CreatedAt.UTC(),
	}
}

// Hook is one piece of news owed to one subscription, leased to this node.
type Hook struct {
	ID             uuid.UUID
	ProjectID      int64
	SubscriptionID uuid.UUID
	Event          News
	Number         int64 // of its subscription, from 1, in the order of what happened
	HappenedAt     time.Time
	Payload        []byte // JSON object
	Attempts       int    // made so far
	Lease          uuid.UUID
	LeaseEnds      time.Time // by this node's monotonic clock, never later than the row's
}

// HookAttempt is one try to send a hook, and what follows from it.
type HookAttempt struct {
	ProjectID  int64
	HookID     uuid.UUID
	Lease      uuid.UUID
	Class      Class
	HTTPStatus int // 0: no answer
	Reason     string

	Next  DeliveryStatus // Delivered, Dead or Scheduled
	Delay time.Duration  // until the next attempt, where Next is Scheduled
}

// HookRetryFor is for how long a hook is tried after what it tells: a third
// party's night and morning. Nothing waits for a hook, so it may be long.
const HookRetryFor = 24 * time.Hour
