package egress

import (
	"crypto/x509"
	"errors"
	"net"
	"syscall"
)

// Reason says why there is no answer.
type Reason string

// The reasons.
const (
	BadURL         Reason = "bad_url"         // not a URL that is called
	BadRequest     Reason = "bad_request"     // its method, headers or length
	AddressRefused Reason = "address_refused" // by the policy
	DNS            Reason = "dns"             // the host's name has no address
	Connect        Reason = "connect"         // no connection, or not in time
	TLS            Reason = "tls"             // no secure one
	Timeout        Reason = "timeout"         // no whole answer in time
	Reset          Reason = "reset"           // the connection ended before the answer did
	Protocol       Reason = "protocol"        // what came back is not HTTP
	Canceled       Reason = "canceled"        // by the caller
)

// Error tells that a call has no answer. Its text holds the reason and at most
// the host: never a path, a query, a header or anything that was received.
type Error struct {
	Reason Reason
	// Sent is false only where no byte of the request left this machine: such
	// a call certainly did nothing at the other side.
	Sent bool

	host   string
	detail string
	final  bool
	err    error
}

func (e *Error) Error() string {
	text := string(e.Reason)
	if e.host != "" {
		text += " " + e.host
	}
	if e.detail != "" {
		text += ": " + e.detail
	}
	return text
}

// Told is the reason and, where there is more to say of it, which limit it was
// or what the system calls it: what is kept with an attempt, and shown.
func (e *Error) Told() string {
	if e.detail == "" {
		return string(e.Reason)
	}
	return string(e.Reason) + ": " + e.detail
}

// ReasonOf says in a word why a call has no answer: nothing of what was sent.
func ReasonOf(err error) string {
	var failure *Error
	if errors.As(err, &failure) {
		return string(failure.Reason)
	}
	return "could not be sent"
}

// Unwrap returns the cause, which may say more than Error dares to: it is for
// errors.Is, not for a log.
func (e *Error) Unwrap() error { return e.err }

// Permanent reports whether the request was refused as it stands, before
// anything was dialled. The address of a name is no such refusal: the next
// look-up may give another.
func (e *Error) Permanent() bool { return e.final }

// explain says what an error means, in words that are ours or the system's.
func explain(err error) string {
	var (
		dns       *net.DNSError
		errno     syscall.Errno
		hostname  x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(err, &dns) && dns.IsTimeout:
		return "the name server did not answer in time"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &hostname):
		return "its certificate is for another name"
	case errors.As(err, &authority):
		return "its certificate is signed by an unknown authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired or is not valid yet"
	case errors.As(err, &invalid):
		return "its certificate is not valid"
	default:
		return ""
	}
}
