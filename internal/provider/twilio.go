package provider

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what Twilio signs with
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
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
	check: checkTwilio, headers: []string{twilioHeader},
	sign: func(s *scope, key *signingKey) error {
		message, err := twilioMessage(s.req)
		if err != nil {
			return err
		}
		sum := twilioSum(key, s.req.URL+message)
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
	message, err := twilioMessage(s.req)
	if err != nil {
		return 0, err
	}
	for i := range keys {
		for _, address := range withAndWithoutPort(s.req.URL) {
			if hmac.Equal(sent, twilioSum(&keys[i], address+message)) {
				return keys[i].index, nil
			}
		}
	}
	return 0, reject(SignatureMismatch)
}

func twilioSum(key *signingKey, text string) []byte {
	mac := hmac.New(sha1.New, key.key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// twilioMessage returns what is signed behind the address.
func twilioMessage(req *Request) (string, error) {
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
	fields, err := urlencodedFields(req.Body)
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
	for i, f := range fields {
		if i > 0 && f == fields[i-1] {
			continue // a value that was sent twice is signed once
		}
		message.WriteString(f.name + f.text)
	}
	return message.String(), nil
}

// withAndWithoutPort returns an address as it is configured, without its port,
// and with the one that its scheme stands for.
func withAndWithoutPort(address string) []string {
	all := []string{address}
	u, err := url.Parse(address)
	if err != nil {
		return all
	}
	scheme, rest, _ := strings.Cut(address, "://")
	if port := u.Port(); port != "" {
		return append(all, scheme+"://"+strings.Replace(rest, ":"+port, "", 1))
	}
	port := map[string]string{"https": "443", "http": "80"}[u.Scheme]
	return append(all, scheme+"://"+strings.Replace(rest, u.Host, u.Host+":"+port, 1))
}
