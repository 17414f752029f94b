package provider

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what Braintree signs with
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
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
	raw, err := base64.StdEncoding.DecodeString(strings.Map(notSpace, payload.text))
	if err != nil {
		return &Unreadable{BadXML, "the field " + braintreePayload + " is not base64"}
	}
	text, err := xmlAsJSON(string(raw))
	if err != nil {
		return &Unreadable{BadXML, "the XML in " + braintreePayload + " cannot be read: " + err.Error()}
	}
	p.json, err = parseJSON([]byte(text))
	return err
}

func notSpace(r rune) rune {
	if strings.ContainsRune(" \r\n\t", r) {
		return -1
	}
	return r
}

// maxElements bounds the XML of one callback.
const maxElements = 10_000

var (
	errBadXML  = errors.New("it is not well-formed")
	errXMLSize = fmt.Errorf("it holds more than %d elements, or is nested deeper than %d levels", maxElements, MaxDepth-2)
)

// xmlAsJSON writes a document as JSON. An element with others in it becomes an
// object, any other its text. Nothing that a document type could define is
// read.
func xmlAsJSON(text string) (string, error) {
	var out strings.Builder
	var open []bool // for each open element, whether it has elements
	var leaf strings.Builder
	elements, roots := 0, 0
	out.WriteByte('{')
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", errBadXML
		}
		switch token := token.(type) {
		case xml.StartElement:
			if elements++; elements > maxElements || len(open) >= MaxDepth-2 {
				return "", errXMLSize
			}
			switch n := len(open) - 1; {
			case n < 0:
				roots++
			case open[n]:
				out.WriteByte(',')
			default:
				open[n] = true
				out.WriteByte('{')
			}
			out.WriteString(jsonText(token.Name.Local) + ":")
			open = append(open, false)
			leaf.Reset()
		case xml.CharData:
			leaf.Write(token)
		case xml.EndElement:
			if n := len(open) - 1; open[n] {
				out.WriteByte('}')
			} else {
				out.WriteString(jsonText(leaf.String()))
			}
			open = open[:len(open)-1]
		}
	}
	if roots != 1 {
		return "", errBadXML
	}
	out.WriteByte('}')
	return out.String(), nil
}

func jsonText(text string) string {
	raw, err := json.Marshal(text)
	if err != nil {
		return `""` // no string fails
	}
	return string(raw)
}
