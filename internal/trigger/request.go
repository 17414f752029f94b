package trigger

import (
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// Facts are what a callback tells. In its file they stand as {token}, {field},
// {event}, {payment}, {amount} and {currency}; {minor} is the amount in minor
// units, {lower_currency} the currency in lower case, {event_number} and
// {payment_number} numbers made of the ids, and {time}, {seconds} and {millis}
// are when it is sent.
type Facts struct {
	Token    string // of the wait, or a caller's key
	Field    string // the name under which it comes back where the merchant chooses that
	Event    string // the provider's id of this event
	Payment  string // the provider's id of the payment, the same in all its callbacks
	Amount   string // in units: 20.50
	Currency string // in capitals
	At       time.Time
}

// bodyField is the field in which Braintree sends its XML.
const bodyField = "bt_payload"

// Request fills a callback in for an address, without a signature. A preset
// whose callbacks are known by their path gets the token there, unless the
// address brings one.
func (c *Callback) Request(preset *provider.Preset, address *url.URL, f *Facts) (*provider.Request, error) {
	minor, ok := relay.ParseMinor(f.Amount, preset.Exponent(f.Currency))
	if !ok {
		return nil, fmt.Errorf("%q is no amount of %s: write it in units, with a point, like 20.50", f.Amount, f.Currency)
	}
	if f.Token == "" && c.Outcome != "" && !c.ByReference {
		return nil, errors.New("the token is missing: whose callback is it?")
	}
	fill := f.filler(minor)
	req := &provider.Request{Method: c.Method(), Header: http.Header{}}
	for name, text := range c.Header {
		req.Header.Set(name, fill(text, plain))
	}
	for _, name := range preset.IDHeaders() {
		if req.Header.Get(name) == "" {
			req.Header.Set(name, f.Event)
		}
	}
	if c.Body != "" {
		req.Header.Set("Content-Type", "application/json")
		req.Body = []byte(strings.TrimSuffix(fill(c.Body, inJSON), "\n"))
	}
	if form := c.fields(fill); len(form) > 0 {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Body = []byte(form.Encode())
	}
	target := *address
	if preset.CallbackByURL {
		target, req.PathToken = withToken(target, f.Token)
	}
	query := target.Query()
	for name, text := range c.Query {
		query.Set(name, fill(text, plain))
	}
	if len(c.Query) > 0 {
		target.RawQuery = query.Encode()
	}
	req.URL, req.Query = target.String(), query
	return req, nil
}

// fields returns the fields of a form.
func (c *Callback) fields(fill filler) url.Values {
	form := url.Values{}
	for name, text := range c.Form {
		escape := plain
		if strings.HasPrefix(text, `{"`) {
			escape = inJSON
		}
		form.Set(fill(name, plain), fill(text, escape))
	}
	if c.XML != "" {
		form.Set(bodyField, base64.StdEncoding.EncodeToString([]byte(fill(c.XML, inXML)))+"\n")
	}
	return form
}

// withToken puts the token behind /in/PROJECT/SOURCE, and returns the one that
// stands there.
func withToken(address url.URL, token string) (target url.URL, inPath string) {
	before, after, ok := strings.Cut(address.Path, "/in/")
	parts := strings.SplitN(strings.TrimRight(after, "/"), "/", 3)
	switch {
	case !ok || len(parts) < 2:
		return address, ""
	case len(parts) == 3:
		return address, parts[2]
	}
	address.Path, address.RawPath = before+"/in/"+parts[0]+"/"+parts[1]+"/"+token, ""
	return address, token
}

// TokenIn returns the token that stands in the path of a wait's callback_url,
// or "" where the address brings none.
func TokenIn(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	_, inPath := withToken(*u, "")
	return inPath
}

// filler fills a text in; escape is done to each value.
type filler func(text string, escape func(string) string) string

func (f *Facts) filler(minor int64) filler {
	return func(text string, escape func(string) string) string {
		pairs := []string{
			"{minor}", strconv.FormatInt(minor, 10),
			"{event_number}", number(f.Event), "{payment_number}", number(f.Payment),
			"{time}", f.At.UTC().Format(time.RFC3339),
			"{seconds}", strconv.FormatInt(f.At.Unix(), 10), "{millis}", strconv.FormatInt(f.At.UnixMilli(), 10),
		}
		for name, value := range map[string]string{
			"token": f.Token, "field": f.Field, "event": f.Event, "payment": f.Payment,
			"amount": f.Amount, "currency": f.Currency, "lower_currency": strings.ToLower(f.Currency),
		} {
			pairs = append(pairs, "{"+name+"}", escape(value))
		}
		return strings.NewReplacer(pairs...).Replace(text)
	}
}

// number makes of an id one that is a number, for providers whose ids are. It
// stays below what every reader of JSON holds exactly.
func number(id string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	return strconv.FormatUint(h.Sum64()>>12, 10)
}

func plain(text string) string { return text }

func inJSON(text string) string {
	raw, err := json.Marshal(text)
	if err != nil {
		return "" // no string fails
	}
	return string(raw[1 : len(raw)-1])
}

func inXML(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a builder takes everything
	return b.String()
}
