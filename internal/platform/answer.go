package platform

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"relay.example/relay/internal/relay"
)

// MaxRetryAfter is the longest wait that a platform can ask for.
const MaxRetryAfter = 15 * time.Minute

// Response is a platform's answer, its body perhaps cut off.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
	// Found: what the step searches for stands in it, perhaps beyond Body.
	Found bool
	// Unsearched: it was too long to be searched to its end.
	Unsearched bool
}

// Answer is what a response means. Reason comes from the list below: nothing
// of what a platform writes goes in, since it may quote a credential.
type Answer struct {
	Class      relay.Class
	Reason     string
	RetryAfter time.Duration // 0 when it asks for none
}

// The reasons.
const (
	Accepted       = "accepted"
	BadCredentials = "bad_credentials"
	UnknownUser    = "unknown_user"      // no such user or conversation
	UnknownModule  = "unknown_module"    // the bot has no such module
	BadRequest     = "bad_request"       // the platform cannot read what we sent
	Refused        = "refused"           // another 4xx
	NotThere       = "not_found"         // 404: most likely a wrong base_url
	Redirected     = "redirected"        // we follow none: the base_url is wrong
	TooMany        = "rate_limited"      // 429
	TooSlow        = "platform_timeout"  // 408, 425
	PlatformFailed = "platform_failed"   // 5xx
	Unconfirmed    = "not_confirmed"     // a 2xx that does not say it was done
	Unexpected     = "unexpected_status" // no status that HTTP knows

	Confirmed    = "confirmed"            // an earlier attempt had arrived: nothing was sent again
	CannotTell   = "cannot_tell"          // whether an earlier attempt has arrived
	ClosedThere  = "conversation_closed"  // nobody goes on in it
	OverQuota    = "quota_exceeded"       // of the account's plan
	TooManyCalls = "too_many_calls"       // an exchange that comes to no end
	NotOurs      = "another_subscription" // of the same event stands in the way of ours
	NoSecret     = "no_secret"            // none came with the subscription
)

// Stands lists the reasons of attempts after which what was said certainly
// stands at the platform.
func Stands() []string { return []string{Accepted, Confirmed, ClosedThere} }

// ByStatus says what an answer means by its status alone, to whoever asks for
// no more than that.
func ByStatus(r Response, now time.Time) Answer {
	a := byStatus(r.Status, Answer{Class: relay.OK, Reason: Accepted})
	if a.Class == relay.Retry {
		a.RetryAfter = retryAfter(r.Header.Get("Retry-After"), now)
	}
	return a
}

// byStatus classifies an answer by its status alone. ok is what a 2xx means.
func byStatus(status int, ok Answer) Answer {
	switch {
	case status >= 200 && status < 300:
		return ok
	case status >= 300 && status < 400:
		return Answer{Class: relay.Permanent, Reason: Redirected}
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return Answer{Class: relay.Credentials, Reason: BadCredentials}
	case status == http.StatusNotFound:
		return Answer{Class: relay.Permanent, Reason: NotThere}
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		return Answer{Class: relay.Retry, Reason: TooSlow}
	case status == http.StatusTooManyRequests:
		return Answer{Class: relay.Retry, Reason: TooMany}
	case status >= 400 && status < 500:
		return Answer{Class: relay.Permanent, Reason: Refused}
	case status >= 500 && status < 600:
		return Answer{Class: relay.Retry, Reason: PlatformFailed}
	default:
		return Answer{Class: relay.Retry, Reason: Unexpected}
	}
}

// retryAfter reads both forms of the header, seconds and a date, and gives a
// wait between 0 and MaxRetryAfter. What cannot be read is no wait.
func retryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	if header == "" {
		return 0
	}
	if isDigits(header) {
		// A number too long for an int is a long wait, not a mistake.
		seconds, err := strconv.Atoi(header)
		if err != nil || seconds > int(MaxRetryAfter/time.Second) {
			return MaxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), MaxRetryAfter)
}

func isDigits(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}
