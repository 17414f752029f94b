package provider

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what Twilio signs with
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Twilio signs the address with the fields of the form behind it, sorted by
// name, each name followed by its value. Any other body stands in the address
// as its SHA-256. Some of its products sign the address with the port that it
// stands for, some without.
var twilio = scheme{
	check: checkTwilio, headers: []string{twilioHeader}, readsForm: true,
	sign: func(s *scope, key *signingKey) error {
		message, err := twilioMessage(s)
		if err != nil {
			return err
		}
		sum := twilioSum(key, s.req.URL, message)
		s.req.Header.Set(twilioHeader, base64.StdEncoding.EncodeToString(sum))
		return nil
	},
}

const (
	twilioHeader = "X-Twilio-Signature"
	twilioHash   = "bodySHA256"
)

func checkTwilio(s *scope, keys []signingKey, _ time.Time) (int, error) {
	text, err := single(s.req, twilioHeader)
	if err != nil {
		return 0, err
	}
	sent, err := decodeBase64(text)
	if err != nil || len(sent) == 0 {
		return 0, rejectAt(BadHeader, "the header "+twilioHeader)
	}
	message, err := twilioMessage(s)
	if err != nil {
		return 0, err
	}
	for i := range keys {
		for address := range withAndWithoutPort(s.req.URL) {
			if hmac.Equal(sent, twilioSum(&keys[i], address, message)) {
				return keys[i].index, nil
			}
		}
	}
	return 0, reject(SignatureMismatch)
}

func twilioSum(key *signingKey, address, message string) []byte {
	mac := hmac.New(sha1.New, key.key)
	mac.Write([]byte(address))
	mac.Write([]byte(message))
	return mac.Sum(nil)
}

// twilioMessage returns what is signed behind the address.
func twilioMessage(s *scope) (string, error) {
	req := s.req
	if hashes, given := req.Query[twilioHash]; given {
		sum := sha256.Sum256(req.Body)
		if len(hashes) != 1 || !strings.EqualFold(hashes[0], hex.EncodeToString(sum[:])) {
			return "", reject(SignatureMismatch)
		}
		return "", nil
	}
	if req.Method == http.MethodGet {
		return "", nil
	}
	fields, err := twilioFields(s)
	if err != nil {
		return "", reject(UnreadableBody)
	}
	slices.SortFunc(fields, func(a, b field) int {
		if a.name != b.name {
			return strings.Compare(a.name, b.name)
		}
		return strings.Compare(a.text, b.text)
	})
	var message strings.Builder
	message.Grow(len(req.Body))
	for i, f := range fields {
		if i > 0 && f == fields[i-1] {
			continue // a value that was sent twice is signed once
		}
		message.WriteString(f.name)
		message.WriteString(f.text)
	}
	return message.String(), nil
}

// twilioFields returns the fields of a form, for the caller to sort.
func twilioFields(s *scope) ([]field, error) {
	if s.parsed != nil && s.parsed.err == nil {
		return slices.Clone(s.parsed.fields), nil
	}
	return urlencodedFields(s.req.Body)
}

// withAndWithoutPort yields an address as it is configured, then without its
// port, or with the one that its scheme stands for.
func withAndWithoutPort(address string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if !yield(address) {
			return
		}
		u, err := url.Parse(address)
		if err != nil {
			return
		}
		scheme, rest, _ := strings.Cut(address, "://")
		if port := u.Port(); port != "" {
			yield(scheme + "://" + strings.Replace(rest, ":"+port, "", 1))
			return
		}
		port := map[string]string{"https": "443", "http": "80"}[u.Scheme]
		yield(scheme + "://" + strings.Replace(rest, u.Host, u.Host+":"+port, 1))
	}
}
