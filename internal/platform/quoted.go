package platform

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// minMasked is how long, in bytes, a secret is at least that is looked for: a
// shorter one stands in any text.
const minMasked = 4

// minKeyInQuery is how long, in bytes, a value in an address is at least that
// may be a key: ?channel=support is none.
const minKeyInQuery = 8

// Quoted returns an answer as it may be kept and shown: with a mask where it
// quotes what has let us in. Some platforms do, to help.
func (p *Platform) Quoted(account Account, sent http.Header, answer []byte) []byte {
	for _, s := range p.Settings {
		switch value := account.Settings[s.Name]; {
		case !s.Secret || value == "":
		case s.Kind == Headers:
			headers, _ := readHeaders(value) // they were read before, to be sent
			for _, header := range headers {
				answer = maskIn(answer, header)
				answer = maskIn(answer, credentialsOf(header))
			}
		default:
			answer = maskIn(answer, value)
		}
	}
	for _, value := range p.keysInAddress(account) {
		answer = maskIn(answer, value)
	}
	return maskIn(answer, credentialsOf(sent.Get("Authorization")))
}

// keysInAddress lists what in an address that people give whole may let us in:
// the values of its query, as they are and as they are sent. Its path says
// where the call goes, and who reads an answer may read that.
func (p *Platform) keysInAddress(account Account) (keys []string) {
	if p.AddressSetting == "" {
		return nil
	}
	u, err := url.Parse(p.Address(account))
	if err != nil {
		return nil // nothing was sent there
	}
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		_, sent, _ := strings.Cut(pair, "=")
		if len(sent) < minKeyInQuery {
			continue
		}
		keys = append(keys, sent)
		if value, err := url.QueryUnescape(sent); err == nil && value != sent {
			keys = append(keys, value)
		}
	}
	return keys
}

// credentialsOf is what stands behind the scheme of an Authorization.
func credentialsOf(header string) string {
	if _, credentials, ok := strings.Cut(header, " "); ok {
		return credentials
	}
	return header
}

// maskIn masks a secret as it is, and as it stands in JSON.
func maskIn(text []byte, secret string) []byte {
	if len(secret) < minMasked {
		return text
	}
	text = replaceIn(text, secret)
	if !strings.ContainsAny(secret, `"\/<>&`) {
		return text
	}
	for _, escaped := range inJSON(secret) {
		text = replaceIn(text, escaped)
		text = replaceIn(text, strings.ReplaceAll(escaped, "/", `\/`)) // as PHP writes it
	}
	return text
}

// inJSON is a text as it stands in JSON, with the escapes for a page and
// without.
func inJSON(text string) (list []string) {
	plain, err := encode(text)
	if err != nil {
		return nil // it is longer than any answer that is kept
	}
	escaped, err := json.Marshal(text)
	if err != nil {
		return nil
	}
	for _, form := range [][]byte{plain, escaped} {
		list = append(list, string(form[1:len(form)-1])) // without its quotes
	}
	return list
}

// replaceIn copies a text only where there is something to mask.
func replaceIn(text []byte, secret string) []byte {
	if !bytes.Contains(text, []byte(secret)) {
		return text
	}
	return bytes.ReplaceAll(text, []byte(secret), []byte(masked))
}
