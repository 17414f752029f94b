// Package provider proves inbound callbacks genuine and reads them: it turns
// what a payment provider or a form sends into the relay's own normal form,
// a relay.Reading. It does no I/O and knows no wait, and keeps no state but the
// certificates of those who sign with one, which its caller fetches.
//
// A provider is a Preset, which is data: a YAML file that says where the
// signature stands, what it signs, and where id, type, token and payment are
// found. A Preset and the Settings of one source compile into an Endpoint.
// Verify decides over the raw bytes whether a callback is genuine, Read
// parses it afterwards; the two fail with different errors, Rejection and
// Unreadable, because a genuine callback may well hold a body that nobody
// can read.
//
// What is always true:
//
//   - Verify fails closed. No secret, an empty secret, one that decodes to
//     nothing, a missing header, a batch without items: each is a Rejection.
//     Only presets that declare the algorithm none accept without a secret.
//   - Signatures and credentials are compared in constant time.
//   - A value that could not be stored or matched (more than 255 bytes, NUL,
//     invalid UTF-8) never leaves this package: as an id it becomes the
//     SHA-256 of itself, as a token, key or reference it is dropped.
//   - Nothing that a stranger sends makes it panic or recurse without bound:
//     JSON deeper than MaxDepth is refused by one linear scan before any
//     parser that recurses sees it, and fields and batches are counted.
//
// JSON is read by gjson, in one walk for all paths of a preset. Two things
// follow. Of duplicate keys the first counts, at every level; encoding/json
// would take the last. And numbers keep their source text, so that an id of
// twenty digits stays what it was.
package provider

import (
	"cmp"
	"net/http"
	"net/url"
)

// The bounds of what is read. The size of a body is bounded by whoever
// receives it.
const (
	MaxDepth      = 64       // nested arrays and objects in a JSON body
	MaxFields     = 1000     // fields and files of a form
	MaxItems      = 1000     // events in one batch
	MaxSignatures = 32       // elements of a signature header, all its repetitions together
	MaxPreset     = 32 << 10 // bytes of an inline preset
)

// Request is one received callback. It is used by one goroutine, and not
// changed between Verify and Read: what has been parsed is kept.
type Request struct {
	Method    string
	URL       string // the configured public URL that the provider signs, never rebuilt from Host
	PathToken string // the last part of the path, where there is one
	Query     url.Values
	Header    http.Header // keys in canonical form
	Body      []byte

	// Certificate is what Certificates.Fill has found, for presets whose
	// provider signs with one.
	Certificate *Certificate

	// Fetched says that the provider itself was asked and has said the body.
	Fetched bool

	parsed *parsed
}

// Reason says why a callback was rejected. The names are stable.
type Reason string

// The reasons of a Rejection.
const (
	NoSecret            Reason = "no_secret"                   // none is configured
	UnusableSecret      Reason = "unusable_secret"             // none of them is a key of this preset
	MissingHeader       Reason = "missing_header"              // what proves the callback, or is signed, is absent or empty
	BadHeader           Reason = "bad_header"                  // it is there and cannot be read
	BadTimestamp        Reason = "bad_timestamp"               // not the digits of a time
	OutsideTolerance    Reason = "timestamp_outside_tolerance" // genuine, but too old or too new
	SignatureMismatch   Reason = "signature_mismatch"
	CredentialsMismatch Reason = "credentials_mismatch" // a wrong key, or a wrong user or password
	UnreadableBody      Reason = "unreadable_body"      // the signature stands in a body that cannot be read
	NoCertificate       Reason = "no_certificate"       // the certificate that it names is not at hand
	BadCertificate      Reason = "bad_certificate"      // not its provider's, or not in force
	AmbiguousField      Reason = "ambiguous_field"      // a signed field holds what parts them
)

// Reasons lists every Reason.
var Reasons = []Reason{
	NoSecret, UnusableSecret, MissingHeader, BadHeader, BadTimestamp,
	OutsideTolerance, SignatureMismatch, CredentialsMismatch, UnreadableBody, NoCertificate, BadCertificate,
	AmbiguousField,
}

// Rejection is the error of a callback that is not proven genuine. It holds
// nothing that the caller sent.
//
//nolint:errname // a rejection is what it is, RejectionError would say it twice
type Rejection struct {
	Reason Reason
	Place  string // that is missing or cannot be read, by its name in the preset, or the source's field that does not fit; or ""
}

func (r *Rejection) Error() string { return "callback rejected: " + string(r.Reason) }

// Detail says what to do about it.
func (r *Rejection) Detail() string {
	place := cmp.Or(r.Place, "what proves the callback")
	switch r.Reason {
	case NoSecret:
		return "no secret of this source holds at the moment: give it the provider's"
	case UnusableSecret:
		return "this source's secret is no key of its provider: paste it as the provider shows it"
	case MissingHeader:
		return place + " is missing: send callbacks from the source's provider, and let nothing on the way drop it"
	case BadHeader:
		return place + " cannot be read: is it the source's provider that sends?"
	case BadTimestamp:
		return "the signed time is not a time: is it the source's provider that sends?"
	case OutsideTolerance:
		return "the callback is genuine, but signed too long ago or in the future: check the clock of this machine, or raise the source's `tolerance`"
	case SignatureMismatch:
		key := cmp.Or(r.Place, "secret")
		return "the signature is not made with this source's " + key + ", or not over this body: compare the " + key + " with the provider's, " +
			"and let nothing on the way change the body"
	case CredentialsMismatch:
		return "the credentials are not this source's: compare them with the provider's"
	case UnreadableBody:
		return "the signature stands in the body, and the body cannot be read: is it the source's provider that sends?"
	case NoCertificate:
		return "the certificate that the callback names is not at hand: have the provider send it again"
	case BadCertificate:
		return "the certificate that the callback names is not its provider's, or not in force: is it the source's provider that sends?"
	case AmbiguousField:
		return place + " holds the sign that parts what is signed, so that nobody can tell what was: keep that sign out of what the provider is given"
	default:
		return "the callback is not genuine: compare the source's secret with the provider's"
	}
}

func reject(r Reason) *Rejection { return &Rejection{Reason: r} }

func rejectAt(r Reason, place string) *Rejection { return &Rejection{Reason: r, Place: place} }

// The codes of an Unreadable.
const (
	NotJSON            = "not_json"
	NotUTF8            = "not_utf8"
	TooDeep            = "too_deep"
	NotAnObject        = "not_an_object"
	BadForm            = "bad_form"
	BadMultipart       = "bad_multipart"
	TooManyFields      = "too_many_fields"
	TooLong            = "too_long" // what an answer was made into; the length of what is received is bounded before
	UnsupportedContent = "unsupported_content_type"
	BadXML             = "bad_xml"
	BadBatch           = "bad_batch"
	TooManyItems       = "too_many_items"
)

// Unreadable is the error of a callback whose body cannot be read. Detail
// says what to do about it.
//
//nolint:errname // as above
type Unreadable struct {
	Code   string
	Detail string
}

func (u *Unreadable) Error() string { return u.Code + ": " + u.Detail }
