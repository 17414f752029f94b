package platform

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/standardwebhooks"
)

// webhook calls any address with a JSON body, signed where there is a secret.
// What is peculiar to it:
//
//   - the id in the signature is the delivery's, the same each time that it is
//     tried, so that a receiver can drop what it has had before;
//   - 401 and 403 are about the destination's own headers or secret, which are
//     the same for every call: it is held, and nothing is lost meanwhile.
var webhook = Platform{
	Name:           "webhook",
	AddressSetting: "url",
	Settings: []Setting{
		{Name: "url", Required: true},
		{Name: "secret", Secret: true},
		{Name: "method"},
		{Name: "headers", Secret: true, Kind: Headers}, // they may let us in
	},
	Actions:      []string{relay.CallWebhook},
	TextAction:   relay.CallWebhook,
	check:        checkWebhook,
	checkAccount: checkWebhookAccount,
	build:        buildWebhook,
	classify:     func(r Response) Answer { return byStatus(r.Status, Answer{Class: relay.OK, Reason: Accepted}) },
}

// The bounds of headers that people give.
const (
	maxHeaders     = 32
	maxHeaderBytes = 8 << 10 // names and values together
)

var webhookMethods = []string{http.MethodPost, http.MethodPut, http.MethodPatch}

func checkWebhook(a relay.Action) error {
	if err := refuseFields(a, []string{"body", "headers"}); err != nil {
		return err
	}
	if err := checkHeaders(a.Headers); err != nil {
		return relay.Errorf(relay.Invalid, "header_invalid", "headers: %v", err)
	}
	return nil
}

func checkWebhookAccount(at endpoint) error {
	if method := at.settings["method"]; method != "" && !slices.Contains(webhookMethods, method) {
		return fmt.Errorf("method must be one of %s", strings.Join(webhookMethods, ", "))
	}
	headers, err := readHeaders(at.settings["headers"])
	if err != nil {
		return err
	}
	if err := checkHeaders(headers); err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	if secret := at.settings["secret"]; secret != "" {
		if _, err := standardwebhooks.ParseSecret(secret); err != nil {
			return fmt.Errorf("secret: %w", err)
		}
	}
	return nil
}

func readHeaders(raw string) (headers map[string]string, err error) {
	if raw == "" {
		return map[string]string{}, nil
	}
	if json.Unmarshal([]byte(raw), &headers) != nil {
		return nil, errors.New("headers must be an object of texts") // the parser's own error may quote one
	}
	return headers, nil
}

// checkHeaders checks headers as they stand in a destination, a flow or a
// call. Its error names a header, and never its value.
func checkHeaders(headers map[string]string) error {
	if len(headers) > maxHeaders {
		return fmt.Errorf("there are %d, more than %d", len(headers), maxHeaders)
	}
	size, seen := 0, make(map[string]bool, len(headers))
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		value, same := headers[name], http.CanonicalHeaderKey(name)
		size += len(name) + len(value)
		switch {
		case seen[same]:
			return fmt.Errorf("%s is there twice, in two spellings: leave one out", same)
		case !isToken(name):
			return fmt.Errorf("%.64q is no name of a header: use letters, digits and dashes", name)
		case isOurHeader(name):
			return fmt.Errorf("%s is set by the relay itself: leave it out", name)
		case strings.ContainsFunc(value, isControl):
			return fmt.Errorf("the value of %s has a line break or another control character in it", name)
		}
		seen[same] = true
	}
	if size > maxHeaderBytes {
		return fmt.Errorf("they have %d bytes, more than %d", size, maxHeaderBytes)
	}
	return nil
}

// isToken reports whether name is what HTTP takes for a header's name.
func isToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		digit := r >= '0' && r <= '9'
		return !letter && !digit && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// isOurHeader reports whether a header says how the message is framed, where
// it goes, or who has signed it.
func isOurHeader(name string) bool {
	switch name := http.CanonicalHeaderKey(name); name {
	case "Host", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Connection", "Keep-Alive", "Upgrade",
		"Te", "Trailer", "Expect", "Http2-Settings":
		return true
	default:
		return strings.HasPrefix(name, "Webhook-") || strings.HasPrefix(name, "Proxy-")
	}
}

func buildWebhook(at endpoint, call Call) (Request, error) {
	body, err := encode(call.Body)
	if err != nil {
		return Request{}, err
	}
	own, err := readHeaders(at.settings["headers"])
	if err != nil {
		return Request{}, err
	}
	if err := checkHeaders(call.Headers); err != nil {
		return Request{}, err
	}
	r := Request{
		Method: http.MethodPost, URL: at.base, Body: body,
		Header: http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}},
	}
	if method := at.settings["method"]; method != "" {
		r.Method = method
	}
	for _, headers := range []map[string]string{own, call.Headers} {
		for name, value := range headers {
			r.Header.Set(name, value)
		}
	}
	return r, signWebhook(&r, at.settings["secret"], call)
}

func signWebhook(r *Request, text string, call Call) error {
	switch text {
	case "":
		r.Header.Set(standardwebhooks.IDHeader, call.DeliveryID)
		return nil
	case masked: // a preview
		standardwebhooks.Secret{}.SetHeader(r.Header, call.DeliveryID, call.At, nil)
		r.Header.Set(standardwebhooks.SignatureHeader, "v1,"+masked)
		return nil
	}
	secret, err := standardwebhooks.ParseSecret(text)
	if err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	secret.SetHeader(r.Header, call.DeliveryID, call.At, r.Body)
	return nil
}

// maskedHeaders masks the values of headers, of which Text keeps nothing.
func maskedHeaders(raw string) string {
	headers, err := readHeaders(raw)
	if err != nil {
		return ""
	}
	for name := range headers {
		headers[name] = masked
	}
	out, err := json.Marshal(headers)
	if err != nil {
		return ""
	}
	return string(out)
}
