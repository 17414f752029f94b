// Package seal keeps secrets unreadable at rest: AES-256-GCM with a random
// nonce, under keys that come from the environment and never touch the
// database.
//
// A sealed value begins with the id of its key, so that keys can be rotated
// (the first of the ring seals, all of them open) and a missing key is found
// at start instead of at the first callback. The context given to Seal is
// bound to the value: a value copied into another row does not open.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// idSize is how much of a key's SHA-256 names it.
const idSize = 4

// version is the first byte of every sealed value.
const version = 1

// ErrUnknownKey is returned when a value was sealed with a key that is not on
// the ring.
var ErrUnknownKey = errors.New("sealed with a key that is not in RELAY_ENCRYPTION_KEY")

// Ring is a set of keys; the first one seals. It is immutable and safe for
// concurrent use.
type Ring struct {
	keys []key
}

type key struct {
	id   [idSize]byte
	aead cipher.AEAD
}

// NewKey returns a fresh key in the form that ParseRing reads.
func NewKey() string {
	var raw [KeySize]byte
	_, _ = rand.Read(raw[:])
	return base64.StdEncoding.EncodeToString(raw[:])
}

// ParseRing reads a comma-separated list of base64 keys of 32 bytes.
func ParseRing(list string) (*Ring, error) {
	r := &Ring{}
	for i, text := range strings.Split(list, ",") {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
		if err != nil || len(raw) != KeySize {
			return nil, fmt.Errorf("encryption key %d is not base64 of %d bytes: make one with `relay keys new`", i+1, KeySize)
		}
		k, err := newKey(raw)
		if err != nil {
			return nil, err
		}
		r.keys = append(r.keys, k)
	}
	return r, nil
}

func newKey(raw []byte) (k key, err error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return k, fmt.Errorf("encryption key: %w", err)
	}
	if k.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return k, fmt.Errorf("encryption key: %w", err)
	}
	sum := sha256.Sum256(raw)
	copy(k.id[:], sum[:])
	return k, nil
}

// Seal encrypts plain with the first key and binds it to context.
func (r *Ring) Seal(plain []byte, context string) []byte {
	k := r.keys[0]
	out := append([]byte{version}, k.id[:]...)
	return k.aead.Seal(out, nil, plain, []byte(context)) //nolint:gosec // the AEAD draws its nonce itself
}

// Open decrypts what Seal made for the same context.
func (r *Ring) Open(sealed []byte, context string) ([]byte, error) {
	k, err := r.find(sealed)
	if err != nil {
		return nil, err
	}
	plain, err := k.aead.Open(nil, nil, sealed[1+idSize:], []byte(context))
	if err != nil {
		return nil, errors.New("sealed value does not open: it was changed, or moved from another row")
	}
	return plain, nil
}

// Current reports whether sealed was made with the first key.
func (r *Ring) Current(sealed []byte) bool {
	k, err := r.find(sealed)
	return err == nil && k.id == r.keys[0].id
}

// KeyID names the key that sealed a value, for messages.
func KeyID(sealed []byte) string {
	if len(sealed) < 1+idSize {
		return "none"
	}
	return hex.EncodeToString(sealed[1 : 1+idSize])
}

func (r *Ring) find(sealed []byte) (key, error) {
	if len(sealed) < 1+idSize || sealed[0] != version {
		return key{}, errors.New("not a sealed value")
	}
	for _, k := range r.keys {
		if string(k.id[:]) == string(sealed[1:1+idSize]) {
			return k, nil
		}
	}
	return key{}, fmt.Errorf("key %s: %w", KeyID(sealed), ErrUnknownKey)
}

// Knows reports whether the key that sealed a value is on the ring.
func (r *Ring) Knows(sealed []byte) bool {
	_, err := r.find(sealed)
	return err == nil
}
