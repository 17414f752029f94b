package provider_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/bench"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/trigger"
)

// clock is when the callbacks of these tests are sent and received.
var clock = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

// fixture reads a callback body of testdata.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatalf("read the fixture: %v", err)
	}
	return body
}

var page = flag.String("page", "", "write what BenchmarkProviders measures into this page, between its marks")

// The bounds of what is measured.
const (
	benchBody = 3 << 10 // bytes of a callback, or a little more
	benchTurn = 4       // callbacks in a row, before it is the other's turn
	mostOfOne = 2.0     // what HMAC schemes may cost, of the bare work on such a body
)

// BenchmarkProviders holds Verify and Read of each preset against the least that
// anyone does with the same callback: sign what is signed once, compare, and
// have the standard library parse the body. The two take turns, so that both
// meet the same machine.
func BenchmarkProviders(b *testing.B) {
	var table bytes.Buffer
	for _, name := range provider.Names() {
		if p, _ := provider.Lookup(name); p.Internal {
			continue
		}
		c := measuredCallback(b, name)
		var ours, bare time.Duration // of one callback
		b.Run(name, func(b *testing.B) { ours, bare = c.compare(b) })
		if bare > 0 {
			fmt.Fprintf(&table, "| `%s` | %s | %d | %.1f | %.1f | %.2f |\n", name, c.bare.name, len(c.req.Body),
				float64(ours.Nanoseconds())/1e3, float64(bare.Nanoseconds())/1e3, float64(ours)/float64(bare))
		}
	}
	if *page == "" {
		return
	}
	head := fmt.Sprintf("%s, one core; %s.\n\n| provider | signed with | body B | verified and read µs | bare µs | of bare |\n| --- | --- | ---: | ---: | ---: | ---: |\n",
		machine(), runtime.Version())
	if err := bench.Splice(*page, "providers", append([]byte(head), table.Bytes()...)); err != nil {
		b.Fatal(err)
	}
}

// machine names the processor.
func machine() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOOS + "/" + runtime.GOARCH
}

// measured is a callback, and the least that it takes to check it.
type measured struct {
	endpoint *provider.Endpoint
	req      provider.Request
	secrets  []string
	bare     bareCheck
	parse    func() error
}

// bareCheck checks a signature and does nothing else.
type bareCheck struct {
	name  string
	hmac  bool
	check func() bool
}

func (c *measured) compare(b *testing.B) (ours, bare time.Duration) {
	var turns, bareTurns []time.Duration
	for b.Loop() {
		start := time.Now()
		for range benchTurn {
			c.relay(b)
		}
		turn := time.Now()
		for range benchTurn {
			if !c.bare.check() || c.parse() != nil {
				b.Fatal("the bare check refuses a genuine callback")
			}
		}
		turns, bareTurns = append(turns, turn.Sub(start)), append(bareTurns, time.Since(turn))
	}
	ours, bare = undisturbed(turns), undisturbed(bareTurns)
	ratio := float64(ours) / float64(bare)
	b.ReportMetric(0, "ns/op") // of both, and of many
	b.ReportMetric(float64(ours.Nanoseconds()), "ns/callback")
	b.ReportMetric(float64(bare.Nanoseconds()), "ns/bare")
	b.ReportMetric(ratio, "x-of-bare")
	if c.bare.hmac && len(c.req.Body) > 0 && ratio > mostOfOne {
		b.Errorf("got %s, %.2f of the bare work, want %.0f at most", ours, ratio, mostOfOne)
	}
	return ours, bare
}

// undisturbed is the time of one callback in the quicker turns, the slowest of
// the first quarter: in the others something else may have had the core.
func undisturbed(turns []time.Duration) time.Duration {
	slices.Sort(turns)
	return turns[len(turns)/4] / benchTurn
}

func (c *measured) relay(b *testing.B) {
	req := c.req
	if _, query, ok := strings.Cut(req.URL, "?"); ok {
		var err error
		if req.Query, err = url.ParseQuery(query); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := c.endpoint.Verify(&req, c.secrets, clock); err != nil {
		b.Fatal(err)
	}
	if _, err := c.endpoint.Read(&req); err != nil {
		b.Fatal(err)
	}
}

// measuredCallback is a realistic callback of a preset, of benchBody bytes where
// it has a body.
func measuredCallback(b *testing.B, name string) *measured {
	b.Helper()
	preset, _ := provider.Lookup(name)
	address, err := url.Parse("https://relay.example/in/default/source")
	if err != nil {
		b.Fatal(err)
	}
	callbacks := trigger.Callbacks(name)
	if len(callbacks) == 0 {
		b.Fatalf("%s: there is no callback to measure", name)
	}
	req, err := callbacks[0].Request(preset, address, &trigger.Facts{
		Token: "k3JxV0b7Qm2nT9sLw4YzAe", Field: "conversation_token", Event: "e-1", Payment: "p-1", Amount: "20.50", Currency: "EUR", At: clock,
	})
	if err != nil {
		b.Fatal(err)
	}
	if req.Body, err = enlarged(req.Body, req.Header.Get("Content-Type")); err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	c := &measured{endpoint: endpoint(b, name, provider.Settings{}), parse: stdlibParser(req)}
	switch name {
	case "paypal":
		c.signAsPayPal(b, req)
	case "standard-webhooks-v1a":
		c.signAsymmetric(b, req)
	default:
		secret := secretFor(name)
		switch name {
		case "braintree":
			secret = braintreeSecret
		case "adyen":
			secret = strings.Repeat("0F", 32)
		}
		if err := c.endpoint.Sign(req, secret, clock); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
		c.secrets, c.bare = []string{secret}, bareDigest(c.endpoint, req, secret)
		c.parse = stdlibParser(req) // a signature may stand in the body
	}
	if len(req.Body) == 0 { // what is said stands in the query, with the signature
		req.URL, _, _ = strings.Cut(req.URL, "?")
		req.URL += "?" + req.Query.Encode()
		c.parse = stdlibParser(req)
	}
	c.req = *req
	return c
}

// bareDigest computes what a callback is signed with, as often as there are
// signatures in it.
func bareDigest(e *provider.Endpoint, req *provider.Request, secret string) bareCheck {
	newHash, keyed, texts := e.Signed(req, secret)
	if newHash == nil {
		return bareCheck{name: "nothing", check: func() bool { return true }}
	}
	key := []byte(secret)
	sum := func(text []byte) []byte {
		var h hash.Hash
		if keyed {
			h = hmac.New(newHash, key)
		} else {
			h = newHash()
		}
		h.Write(text)
		return h.Sum(nil)
	}
	var want [][]byte
	for _, text := range texts {
		want = append(want, sum(text))
	}
	name := map[int]string{16: "MD5", 20: "SHA-1", 32: "SHA-256", 64: "SHA-512"}[newHash().Size()]
	if keyed {
		name = "HMAC-" + name
	}
	return bareCheck{name, keyed, func() bool {
		for i, text := range texts {
			if !hmac.Equal(sum(text), want[i]) {
				return false
			}
		}
		return true
	}}
}

func (c *measured) signAsymmetric(b *testing.B, req *provider.Request) {
	b.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	if err := c.endpoint.Sign(req, "whsk_"+base64.StdEncoding.EncodeToString(private), clock); err != nil {
		b.Fatal(err)
	}
	public := private.Public().(ed25519.PublicKey)
	message := fmt.Appendf(nil, "%s.%s.%s", req.Header.Get("Webhook-Id"), req.Header.Get("Webhook-Timestamp"), req.Body)
	signature := ed25519.Sign(private, message)
	c.secrets = []string{"whpk_" + base64.StdEncoding.EncodeToString(public)}
	c.bare = bareCheck{"ed25519", false, func() bool { return ed25519.Verify(public, message, signature) }}
}

func (c *measured) signAsPayPal(b *testing.B, req *provider.Request) {
	b.Helper()
	a := newAuthority(b)
	signed := a.paypalRequest(b, certAddress, string(req.Body))
	req.Header = signed.Header
	c.endpoint = ofWebhooks(b, webhookID)
	between := a.issue(b, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, a.cert)
	leaf := a.issue(b, &x509.Certificate{DNSNames: []string{"a.paypal.com"}}, between)
	if err := provider.NewCertificates(serving(inPEM(leaf, between)), a.roots).Fill(b.Context(), c.endpoint, req, clock); err != nil {
		b.Fatal(err)
	}
	signature, err := base64.StdEncoding.DecodeString(req.Header.Get("Paypal-Transmission-Sig"))
	if err != nil {
		b.Fatal(err)
	}
	text := paypalMessage(string(req.Body))
	c.bare = bareCheck{"RSA-SHA256", false, func() bool {
		sum := sha256.Sum256(text)
		return rsa.VerifyPKCS1v15(&a.key.PublicKey, crypto.SHA256, sum[:], signature) == nil
	}}
}

// enlarged puts into a body what its provider sends besides, up to benchBody
// bytes.
func enlarged(body []byte, contentType string) ([]byte, error) {
	const item = `{"id":"li_%d","name":"T-shirt, size M","quantity":1,"amount":2050,"taxes":[],"sku":null}`
	if len(body) == 0 || len(body) >= benchBody {
		return body, nil
	}
	if contentType == urlencoded {
		if text, ok := strings.CutPrefix(string(body), "bt_payload="); ok {
			return enlargedXML(text)
		}
		for i := 0; len(body) < benchBody; i++ {
			body = fmt.Appendf(body, "&note_%d=%s", i, strings.Repeat("and+so+on+", 20))
		}
		return body, nil
	}
	end := bytes.LastIndexByte(body, '}')
	if end < 0 {
		return nil, errors.New("the callback is neither a form nor holds an object")
	}
	more := []byte(`,"line_items":[`)
	for i := 0; len(body)+len(more) < benchBody; i++ {
		if i > 0 {
			more = append(more, ',')
		}
		more = fmt.Appendf(more, item, i)
	}
	return slices.Concat(body[:end], more, []byte("]"), body[end:]), nil
}

func enlargedXML(field string) ([]byte, error) {
	text, err := url.QueryUnescape(field)
	if err != nil {
		return nil, err
	}
	document, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, err
	}
	const closing = "</transaction>"
	before, after, _ := strings.Cut(string(document), closing)
	for i := 0; len(before)*4/3 < benchBody; i++ {
		before += fmt.Sprintf("<detail-%d>and so on and on and on and on and on</detail-%d>\n", i, i)
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(before + closing + after))
	return []byte(url.Values{"bt_payload": {encoded + "\n"}}.Encode()), nil
}

// stdlibParser parses a body as the standard library does.
func stdlibParser(req *provider.Request) func() error {
	body := req.Body
	switch {
	case len(body) == 0:
		_, query, _ := strings.Cut(req.URL, "?")
		return func() error {
			_, err := url.ParseQuery(query)
			return err
		}
	case req.Header.Get("Content-Type") != urlencoded:
		var batch []any
		if json.Unmarshal(body, &batch) == nil {
			return func() error {
				var events []map[string]any
				return json.Unmarshal(body, &events)
			}
		}
		return func() error {
			var event map[string]any
			return json.Unmarshal(body, &event)
		}
	default:
		return func() error {
			form, err := url.ParseQuery(string(body))
			if err != nil || form.Get("bt_payload") == "" {
				return err
			}
			raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(form.Get("bt_payload")))
			for d := xml.NewDecoder(bytes.NewReader(raw)); err == nil; {
				_, err = d.Token()
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}
