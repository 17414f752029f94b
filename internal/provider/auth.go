package provider

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/md5"  //nolint:gosec // what some providers sign with
	"crypto/sha1" //nolint:gosec // what some providers sign with
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"hash"
	"slices"
	"strconv"
	"strings"
	"time"
)

// algNone and algToken are the two algorithms that compute nothing: the
// callback proves nothing, or carries the secret itself. With algEd25519 the
// secret is no secret, but the sender's public key.
const (
	algNone    = "none"
	algToken   = "token"
	algEd25519 = "ed25519"
)

// digests holds the hash of every other algorithm. A name with hmac- keys it
// with the secret, the plain ones have the secret in their message: weak by
// design (length extension, MD5), and what those providers sign with.
var digests = map[string]func() hash.Hash{
	"hmac-sha1":   sha1.New,
	"hmac-sha256": sha256.New,
	"hmac-sha512": sha512.New,
	"sha256":      sha256.New,
	"sha512":      sha512.New,
	"md5":         md5.New,
}

// verifier is the compiled auth of a preset.
type verifier struct {
	alg       string
	digest    func() hash.Hash
	keyed     bool // an HMAC
	source    signatureSource
	messages  []template // alternatives: a signature of any of them counts
	encode    func([]byte) string
	key       keyTreatment
	stamp     template // the time of sending, nil where none is signed
	unit      time.Duration
	tolerance time.Duration
	perItem   bool
	needsBody bool    // a place of the parsed body is read
	perWait   bool    // each wait has a key of its own too, see waitKey
	scheme    *scheme // instead of all that: code

	separator   string // "" where the parts of a message cannot be shifted
	separatorIn *part  // the one place that may hold it, or nil
}

// keyTreatment says how a secret as people paste it becomes a key.
type keyTreatment struct {
	strip  string // a prefix that is no part of it
	decode func(string) ([]byte, error)
}

// signingKey is one secret, ready to sign.
type signingKey struct {
	index int // among the secrets, -1 for the settings' own credentials
	text  string
	key   []byte
}

// derive returns the key of a secret. ok is false when nothing is left: a
// MAC with an empty key is one that everybody can make.
func (k *keyTreatment) derive(secret string) (signingKey, bool) {
	text := strings.TrimPrefix(secret, k.strip)
	key, err := k.decode(text)
	if err != nil || strings.TrimSpace(string(key)) == "" {
		return signingKey{}, false
	}
	return signingKey{text: text, key: key}, true
}

// keys returns the usable ones of the secrets.
func (v *verifier) keys(secrets []string, own string) ([]signingKey, error) {
	keys := make([]signingKey, 0, len(secrets)+1)
	given := false
	for i, secret := range secrets {
		given = given || secret != ""
		if k, ok := v.key.derive(secret); ok {
			k.index = i
			keys = append(keys, k)
		}
	}
	if k, ok := v.key.derive(own); ok && v.source.basic {
		k.index = -1
		keys = append(keys, k)
	}
	switch {
	case len(keys) > 0:
		return keys, nil
	case given:
		return nil, reject(UnusableSecret)
	default:
		return nil, reject(NoSecret)
	}
}

// check verifies one event. It returns the index of the secret that matched.
func (v *verifier) check(s *scope, keys []signingKey, now time.Time) (int, error) {
	sigs, err := v.source.read(s)
	if err != nil {
		return 0, err
	}
	s.sig = sigs
	sent, err := v.sentAt(s)
	if err != nil {
		return 0, err
	}
	used, err := v.match(s, keys)
	if err != nil {
		return 0, err
	}
	// The clock comes last, so that the reason tells a late callback from a
	// forged one.
	if v.stamp != nil && now.Sub(sent).Abs() > v.tolerance {
		return 0, reject(OutsideTolerance)
	}
	return used, nil
}

// sentAt reads the signed time. Fifteen digits reach beyond the year 30000 in
// milliseconds and cannot overflow.
func (v *verifier) sentAt(s *scope) (time.Time, error) {
	if v.stamp == nil {
		return time.Time{}, nil
	}
	if s.repeats(v.stamp) {
		return time.Time{}, rejectAt(BadHeader, v.words(&v.stamp[0]))
	}
	text, ok := s.text(v.stamp)
	if !ok {
		return time.Time{}, v.missing(s, v.stamp)
	}
	if len(text) > 15 || strings.Trim(text, "0123456789") != "" {
		return time.Time{}, reject(BadTimestamp)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, reject(BadTimestamp)
	}
	if v.unit == time.Millisecond {
		return time.UnixMilli(n), nil
	}
	return time.Unix(n, 0), nil
}

// match tries every secret with every message against every signature.
func (v *verifier) match(s *scope, keys []signingKey) (int, error) {
	if v.alg == algToken {
		return v.matchToken(s, keys)
	}
	signed := false
	for i := range keys {
		s.secret = keys[i].text
		for _, message := range v.messages {
			if s.repeats(message) {
				return 0, rejectAt(BadHeader, v.source.words())
			}
			if p := v.shifts(s, message); p != nil {
				return 0, rejectAt(AmbiguousField, p.words())
			}
			genuine, ok := v.proves(s, &keys[i], message)
			if genuine {
				return keys[i].index, nil
			}
			signed = signed || ok
		}
	}
	if !signed {
		return 0, v.missing(s, v.messages[0])
	}
	return 0, reject(SignatureMismatch)
}

// proves reports whether a signature is that of a message. ok is false when a
// part of the message is absent.
func (v *verifier) proves(s *scope, key *signingKey, message template) (genuine, ok bool) {
	if v.alg != algEd25519 {
		sum, ok := v.sum(s, key, message)
		return ok && s.sig.holds(sum), ok
	}
	text, ok := s.text(message)
	if !ok {
		return false, false
	}
	return slices.ContainsFunc(s.sig.decoded, func(sent []byte) bool {
		return len(sent) == ed25519.SignatureSize && ed25519.Verify(key.key, []byte(text), sent)
	}), true
}

// shifts returns a place whose value holds what parts the values of a message:
// a|b and c are signed as a and b|c are, so that which was meant cannot be
// known. One place may hold it where a preset says so, since the others then
// still tell where it begins and ends.
func (v *verifier) shifts(s *scope, message template) *part {
	if v.separator == "" {
		return nil
	}
	for i := range message {
		p := &message[i]
		if p.kind == partLiteral || p.kind == partSecret || v.separatorIn != nil && p.isAt(v.separatorIn) {
			continue
		}
		if strings.Contains(s.value(p).text, v.separator) {
			return p
		}
	}
	return nil
}

// missing rejects a callback without a place that is signed.
func (v *verifier) missing(s *scope, t template) *Rejection {
	if p := s.missing(t); p != nil {
		return rejectAt(MissingHeader, v.words(p))
	}
	return reject(MissingHeader)
}

// words names a place of the signature: a pair stands where the signature does.
func (v *verifier) words(p *part) string {
	if p.kind == partSig {
		return p.name + " in " + v.source.words()
	}
	return p.words()
}

// matchToken compares what was sent with the secrets themselves, and with
// those of the wait that the path names. All are hashed first, so that not
// even their length shows in the time taken.
func (v *verifier) matchToken(s *scope, keys []signingKey) (int, error) {
	for _, sent := range s.sig.decoded {
		got := sha256.Sum256(sent)
		for i := range keys {
			want := sha256.Sum256(keys[i].key)
			if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
				return keys[i].index, nil
			}
			if !v.perWait || s.req.PathToken == "" {
				continue
			}
			want = sha256.Sum256([]byte(waitKey(keys[i].key, s.req.PathToken)))
			if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
				return keys[i].index, nil
			}
		}
	}
	return 0, reject(CredentialsMismatch)
}

// waitKey is what the callback URL of one wait carries in the place of the
// secret: it proves callbacks of that wait, and tells nothing of the secret.
func waitKey(secret []byte, token string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(token))
	return hex.EncodeToString(mac.Sum(nil))
}

func (f *signatures) holds(sum []byte) bool {
	for _, sent := range f.decoded {
		if subtle.ConstantTimeCompare(sent, sum) == 1 {
			return true
		}
	}
	return false
}

// repeats reports whether a place that is signed stands more than once: which
// of them was meant cannot be known.
func (s *scope) repeats(t template) bool {
	for i := range t {
		p := &t[i]
		if p.kind == partHeader && len(s.req.Header[p.name]) > 1 ||
			p.kind == partSig && s.sig.pair(p.name).kind == compound {
			return true
		}
	}
	return false
}

// sum signs one message. ok is false when a part of it is absent. The body
// goes into the hash as it is, without a copy.
func (v *verifier) sum(s *scope, key *signingKey, message template) ([]byte, bool) {
	h := v.hash(key)
	var scratch [128]byte
	for i := range message {
		p := &message[i]
		if p.kind == partBody {
			h.Write(s.req.Body)
			continue
		}
		text := s.value(p)
		if (text.kind != scalar || text.text == "") && !p.optional {
			return nil, false
		}
		h.Write(append(scratch[:0], text.text...))
	}
	return h.Sum(nil), true
}

func (v *verifier) hash(key *signingKey) hash.Hash {
	if v.keyed {
		return hmac.New(v.digest, key.key)
	}
	return v.digest()
}
