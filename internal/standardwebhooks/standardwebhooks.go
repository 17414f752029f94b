// Package standardwebhooks signs what the relay sends to webhooks, as
// https://www.standardwebhooks.com says (version 1, symmetric): a receiver
// verifies it with any of the official libraries. It is the one place that
// does so, for destinations and for subscriptions alike. It is pure.
//
// What callbacks are verified with is provider's, which knows many schemes.
package standardwebhooks

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of a signed call.
const (
	IDHeader        = "Webhook-Id"
	TimestampHeader = "Webhook-Timestamp"
	SignatureHeader = "Webhook-Signature"
)

// prefix marks the text of a secret. Receivers take it without it, too.
const prefix = "whsec_"

// The bounds of a secret, in bytes, as the specification recommends them; and
// how long one of ours is.
const (
	minSecret = 24
	maxSecret = 64
	newSecret = 32
)

// ErrSecret says how a secret has to look. It quotes nothing of it.
var ErrSecret = errors.New("a signing secret is whsec_ and then 24 to 64 random bytes in base64: `echo whsec_$(openssl rand -base64 32)` makes one")

// Secret is what calls are signed with. The zero Secret signs nothing.
type Secret struct{ key []byte }

// ParseSecret reads the text of a secret.
func ParseSecret(text string) (Secret, error) {
	key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(text, prefix))
	if err != nil || strings.ContainsAny(text, "\r\n") || len(key) < minSecret || len(key) > maxSecret {
		return Secret{}, ErrSecret
	}
	return Secret{key}, nil
}

// NewSecret makes the text of a new secret, of 256 random bits.
func NewSecret() string {
	key := make([]byte, newSecret)
	_, _ = rand.Read(key) // never an error
	return prefix + base64.StdEncoding.EncodeToString(key)
}

// Sign returns what goes into SignatureHeader. An id has no dot in it: the
// receiver could not tell where it ends.
func (s Secret) Sign(id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(id + "." + timestamp(at) + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// SetHeader signs a call: it sets the three headers. The id stays the same
// when the call is made again, so that its receiver can tell.
func (s Secret) SetHeader(h http.Header, id string, at time.Time, body []byte) {
	h.Set(IDHeader, id)
	h.Set(TimestampHeader, timestamp(at))
	h.Set(SignatureHeader, s.Sign(id, at, body))
}

func timestamp(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }
