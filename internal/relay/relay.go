// Package relay holds the nouns, the states and the rules of the relay: what
// a wait is, what a callback can do to it, and which call follows. It knows
// no database, no HTTP and no clock; everything here is a value or a pure
// function, so that the rules can be read and tested on one page each.
//
// The model in one breath: a correlation is one pending wait. An event is one
// received callback, read by its provider's preset into a Reading. Apply
// (rules.go) says what an outcome does to a wait. A wait carries a Plan, its
// flow as it was at creation, which names the Action of every outcome. An
// action that fires becomes a delivery, one call owed to one destination.
package relay

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// TokenLength is the length of every token: 22 characters of [A-Za-z0-9]
// hold 128 bits and fit every provider's reference field.
const TokenLength = 22

const tokenAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// NewToken mints the token of one wait from 128 random bits. It panics when
// the system has no randomness, as crypto/rand does.
func NewToken() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:])
	return tokenOf(raw)
}

// RepeatedToken returns the token of a wait whose registration may have to be
// repeated before there is a row of it: always the same for one id, and known
// to nobody without the secret.
func RepeatedToken(secret string, id uuid.UUID) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("token\x00"))
	mac.Write(id[:])
	return tokenOf([16]byte(mac.Sum(nil)))
}

func tokenOf(raw [16]byte) string {
	n := new(big.Int).SetBytes(raw[:])
	base, digit := big.NewInt(int64(len(tokenAlphabet))), new(big.Int)
	var out [TokenLength]byte
	for i := range out {
		n.DivMod(n, base, digit)
		out[i] = tokenAlphabet[digit.Int64()]
	}
	return string(out[:])
}

// IsToken reports whether s has the shape of a token.
func IsToken(s string) bool {
	if len(s) != TokenLength {
		return false
	}
	for i := range len(s) {
		if !strings.Contains(tokenAlphabet, s[i:i+1]) {
			return false
		}
	}
	return true
}

// NewID returns a UUIDv7: its order is the order of creation, which keeps
// index pages hot and lets a list be paged by id.
func NewID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// MadeAt is when NewID made an id, by the clock of the node that did: to the
// 256 ns that the id has room for.
func MadeAt(id uuid.UUID) time.Time {
	bits := binary.BigEndian.Uint64(id[:8])
	return time.UnixMilli(int64(bits >> 16)).Add(time.Duration(bits&0xfff) << 8)
}

// Duration is a time span as people write it: 90s, 45m, 36h, 3d.
type Duration time.Duration

// durationForm shows how a Duration is written.
const durationForm = "like 90s, 45m, 36h or 3d"

// ParseDuration reads a Duration. Beyond Go's own units it knows d, 24 hours.
func ParseDuration(s string) (Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n < -36500 || n > 36500 {
			return 0, fmt.Errorf("%q is not a duration: write it %s", s, durationForm)
		}
		return Duration(time.Duration(n) * 24 * time.Hour), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: write it %s", s, durationForm)
	}
	return Duration(d), nil
}

// String writes d the way ParseDuration reads it, in the largest unit that
// loses nothing.
func (d Duration) String() string {
	t := time.Duration(d)
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if t != 0 && t%u.size == 0 {
			return strconv.FormatInt(int64(t/u.size), 10) + u.name
		}
	}
	return t.String()
}

// MarshalText writes d as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads d as ParseDuration does. Zero is refused: where a field
// may be left out, its writer would get the default instead.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	if *d, err = ParseDuration(string(text)); err == nil && *d == 0 {
		return fmt.Errorf("%q is no time at all: leave the field out, or give some", text)
	}
	return err
}

// Delay is a Duration that may be zero.
type Delay time.Duration

// MarshalText writes d as a Duration does.
func (d Delay) MarshalText() ([]byte, error) { return Duration(d).MarshalText() }

// UnmarshalText reads d as ParseDuration does.
func (d *Delay) UnmarshalText(text []byte) error {
	parsed, err := ParseDuration(string(text))
	*d = Delay(parsed)
	return err
}

// UnmarshalJSON reads a string as UnmarshalText does, and says of anything
// else how to write it.
func (d *Duration) UnmarshalJSON(b []byte) error { return durationText(b, d.UnmarshalText) }

// UnmarshalJSON reads a string as UnmarshalText does, and says of anything
// else how to write it.
func (d *Delay) UnmarshalJSON(b []byte) error { return durationText(b, d.UnmarshalText) }

func durationText(raw []byte, read func([]byte) error) error {
	var text *string
	if err := json.Unmarshal(raw, &text); err != nil {
		return Errorf(Invalid, "invalid_duration", "write it %s", durationForm)
	}
	if text == nil { // null leaves things as they are
		return nil
	}
	if err := read([]byte(*text)); err != nil {
		return Errorf(Invalid, "invalid_duration", "%s", err)
	}
	return nil
}

// Or returns d, or fallback when d is zero.
func (d Duration) Or(fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return time.Duration(d)
}

// Kind says which sort of refusal an Error is. The HTTP layer turns each kind
// into one status.
type Kind int

// The kinds of refusal.
const (
	Invalid      Kind = iota + 1 // the request cannot be carried out as written
	Malformed                    // the request cannot even be read
	Unauthorized                 // nobody we know
	Forbidden                    // known, but not allowed
	NotFound                     // no such thing in this project
	Conflict                     // it contradicts what is there
	TooLarge                     // more bytes than the stated bound
	Unsupported                  // a content type that is not read here
	Busy                         // try again later: full, or no database
)

// Error is a refusal that its receiver can act upon: a stable code and a
// detail that says what to do. It never holds a secret or a token.
type Error struct {
	Kind   Kind
	Code   string
	Detail string
}

func (e *Error) Error() string { return e.Code + ": " + e.Detail }

// Errorf builds an Error of the given kind and code.
func Errorf(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Detail: fmt.Sprintf(format, args...)}
}

// DetailOf is what an error says without its code, to stand in a refusal that
// has a code of its own.
func DetailOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Detail
	}
	return err.Error()
}

// IsKind reports whether err is, or wraps, an Error of the given kind.
func IsKind(err error, kind Kind) bool {
	if err == nil { // asked of every callback: the way below allocates
		return false
	}
	var e *Error
	return errors.As(err, &e) && e.Kind == kind
}
