package provider

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what Braintree signs with
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"regexp"
	"strings"
	"time"
)

// Braintree posts two fields. bt_signature holds pairs public|hex of which the
// one with this account's public key counts, an HMAC-SHA1 keyed with the
// SHA-1 of the private key; bt_payload holds XML in base64. Before it sends
// anything it asks by GET for the signature of a challenge.
var braintree = scheme{
	check: checkBraintree, needsBody: true, key: braintreeKey, challenge: braintreeChallenge,
	sign: func(s *scope, key *signingKey) error {
		payload := s.field(&part{kind: partForm, name: braintreePayload})
		if payload.text == "" {
			return errPartAbsent
		}
		public, _, _ := strings.Cut(key.text, "|")
		return setField(s, braintreeSignature, public+"|"+hex.EncodeToString(braintreeSum(key, payload.text)))
	},
}

const (
	braintreeSignature = "bt_signature"
	braintreePayload   = "bt_payload"
	braintreeQuestion  = "bt_challenge"
)

// braintreeKey takes public|private.
func braintreeKey(secret string) ([]byte, error) {
	public, private, _ := strings.Cut(secret, "|")
	if strings.TrimSpace(public) == "" || strings.TrimSpace(private) == "" {
		return nil, errNoKey
	}
	key := sha1.Sum([]byte(private)) //nolint:gosec // Braintree's own derivation
	return key[:], nil
}

func checkBraintree(s *scope, keys []signingKey, _ time.Time) (int, error) {
	texts := map[string]string{}
	for _, name := range []string{braintreeSignature, braintreePayload} {
		v := s.field(&part{kind: partForm, name: name})
		if texts[name] = v.text; v.text == "" {
			return 0, rejectAt(MissingHeader, "the field "+name)
		}
	}
	pairs := strings.Split(texts[braintreeSignature], "&")
	if len(pairs) > MaxSignatures {
		return 0, rejectAt(BadHeader, "the field "+braintreeSignature)
	}
	for i := range keys {
		public, _, _ := strings.Cut(keys[i].text, "|")
		for _, pair := range pairs {
			name, signature, _ := strings.Cut(pair, "|")
			if subtle.ConstantTimeCompare([]byte(name), []byte(public)) == 1 && braintreeSigned(&keys[i], signature, texts[braintreePayload]) {
				return keys[i].index, nil
			}
		}
	}
	return 0, reject(SignatureMismatch)
}

// braintreeSigned compares with the signature of the payload as it is, and as
// it was before something on the way cut its last line's end off.
func braintreeSigned(key *signingKey, signature, payload string) bool {
	sent, err := hex.DecodeString(signature)
	return err == nil && (hmac.Equal(sent, braintreeSum(key, payload)) || hmac.Equal(sent, braintreeSum(key, payload+"\n")))
}

func braintreeSum(key *signingKey, text string) []byte {
	mac := hmac.New(sha1.New, key.key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// braintreeChallenges is what Braintree asks to be signed. Anything else could
// be a payload, and whoever asks would have it signed.
var braintreeChallenges = regexp.MustCompile(`^[a-f0-9]{20,32}$`)

func braintreeChallenge(req *Request, key *signingKey) (string, bool) {
	question := req.Query.Get(braintreeQuestion)
	if req.Method != "GET" || !braintreeChallenges.MatchString(question) {
		return "", false
	}
	public, _, _ := strings.Cut(key.text, "|")
	return public + "|" + hex.EncodeToString(braintreeSum(key, question)), true
}

// readBraintree reads the XML of a form that was verified as if it were JSON:
// elements are members, text is a string.
func (p *parsed) readBraintree() error {
	payload := (&scope{parsed: p}).field(&part{kind: partForm, name: braintreePayload})
	text := payload.text
	if strings.ContainsAny(text, " \t") { // line ends are passed over
		text = strings.Map(notSpace, text)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return &Unreadable{BadXML, "the field " + braintreePayload + " is not base64"}
	}
	document, err := xmlAsJSON(string(raw))
	if err != nil {
		return &Unreadable{BadXML, "the XML in " + braintreePayload + " cannot be read: " + err.Error()}
	}
	p.json, err = parseJSON([]byte(document))
	return err
}

func notSpace(r rune) rune {
	if strings.ContainsRune(" \r\n\t", r) {
		return -1
	}
	return r
}
