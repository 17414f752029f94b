package relay

import (
	"time"

	"github.com/google/uuid"
)

// Subscribe says of which events of a bot platform a source is to be told:
// the relay subscribes to them there, by the account of a destination.
type Subscribe struct {
	Destination string `json:"destination"`
	Events      Names  `json:"events"`
}

// SubscriptionFailed is the last_error of a source of which a subscription
// fails, until none does.
const SubscriptionFailed = "subscription_failed"

// MaxSubscribed is how many events a source can subscribe to.
const MaxSubscribed = 16

// RemoteSubscription is one event that a source is subscribed to at its
// platform, or is to be, or is no more to be. It knows all that it takes to
// make it so, whatever has become of its source.
type RemoteSubscription struct {
	ID            uuid.UUID
	ProjectID     int64
	SourceID      int64
	DestinationID int64
	Place         string // which account at which server
	Event         string
	Account       RemoteAccount
	Address       string   // of the source: a path of this relay's, or all of it where the source has one of its own
	Key           string   // of the source, in the address that the platform is given
	Former        []string // keys that it had before, the oldest first: what holds one of them is to be gone
	Wanted        bool
	Revision      int64  // of what is wanted
	RemoteID      string // of the one whose secret we hold; "": of none
	Failures      int    // in a row
	Lease         uuid.UUID
}

// RemoteAccount is how the platform lets us in.
type RemoteAccount struct {
	Platform string            `json:"platform"`
	BaseURL  string            `json:"base_url,omitempty"`
	Settings map[string]string `json:"settings"`
}

// The pace at which remote subscriptions are looked after.
const (
	RemoteLease = time.Minute // longer than the calls that one look may take

	remoteCheck       = 15 * time.Minute // from one look at what is as it should be to the next, at least
	remoteFirst       = 2 * time.Second  // after the first failure, doubled with each
	remoteLongest     = 5 * time.Minute  // where another try may do
	remoteFirstHard   = time.Minute      // where a person is likely to be needed
	remoteLongestHard = time.Hour

	// RemoteGiveUp is for how long the end of a subscription is tried that
	// nobody wants any more.
	RemoteGiveUp = 7 * 24 * time.Hour
)

// NextCheck is when a subscription that is as it should be is looked at again:
// people delete things at platforms too. random is uniform in [0,1).
func NextCheck(random float64) time.Duration {
	return remoteCheck + time.Duration(random*float64(remoteCheck/3))
}

// NextRemoteTry is the delay after failure number n (from 1) of a class:
// longer each time, at least half of it fixed, or what the platform asked for
// where that is longer.
func NextRemoteTry(class Class, n int, retryAfter time.Duration, random float64) time.Duration {
	first, longest := remoteFirst, remoteLongest
	if class == Permanent || class == Credentials {
		first, longest = remoteFirstHard, remoteLongestHard
	}
	delay := longest
	if n <= 10 { // 2 s × 2¹⁰ is past the cap
		delay = min(longest, first<<(n-1))
	}
	return max(delay/2+time.Duration(random*float64(delay/2)), retryAfter)
}
