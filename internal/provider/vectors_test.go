package provider_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// vector is one signed request of the shared collection. What is null in it is
// not known.
type vector struct {
	ID           string            `json:"id"`
	Provider     string            `json:"provider"`
	Secret       string            `json:"secret"`
	ExtraSecrets []string          `json:"extra_secrets"`
	Method       string            `json:"method"`
	URL          string            `json:"url"`
	Headers      map[string]string `json:"headers"`
	Body         string            `json:"body"`
	Now          int64             `json:"now"`
	Tolerance    int64             `json:"tolerance"`

	Expect      string   `json:"expect"`
	EventID     *string  `json:"expected_event_id"`
	EventIDs    []string `json:"expected_event_ids"`
	EventType   *string  `json:"expected_event_type"`
	Outcome     *string  `json:"expected_outcome"`
	Correlation *string  `json:"expected_correlation"`
	Response    *string  `json:"expected_response"`
	Status      *int     `json:"expected_status"`

	Certificate  string `json:"cert_pem"`
	Intermediate string `json:"intermediate_pem"`
	Root         string `json:"trust_root_pem"`

	// What a reader of the collection wants to know.
	Provenance string `json:"provenance"`
	Source     string `json:"source"`
	Reason     string `json:"reason"`
	VerifiedBy string `json:"verified_by"`
	SDKError   string `json:"sdk_error"`
	TrustRoot  string `json:"trust_root"`
}

// vectorDir is where the collection lies: beside the project. Where it must be
// there, CI is set.
func vectorDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("RELAY_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors")
	}
	_, err := os.Stat(dir)
	// The vectors are no part of the project. CI must have them.
	if errors.Is(err, os.ErrNotExist) && os.Getenv("CI") == "" {
		t.Skipf("no vectors in %s: set RELAY_VECTORS", dir)
	}
	if err != nil {
		t.Fatalf("look for the vectors: %v", err)
	}
	return dir
}

// vectors reads the whole collection. A field that this test does not know is
// a mistake of the test.
func vectors(t *testing.T) []vector {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(vectorDir(t), "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("read the vectors: %v", err)
		}
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		var some []vector
		if err := decoder.Decode(&some); err != nil {
			t.Fatalf("decode %s: %v", file, err)
		}
		all = append(all, some...)
	}
	if len(all) < 217 {
		t.Fatalf("got %d vectors, want all 217", len(all))
	}
	return all
}

func (v *vector) request(t *testing.T) *provider.Request {
	t.Helper()
	u, err := url.Parse(v.URL)
	if err != nil {
		t.Fatalf("parse the vector's url: %v", err)
	}
	header := http.Header{}
	for name, text := range v.Headers {
		header.Set(name, text)
	}
	req := &provider.Request{Method: v.Method, URL: v.URL, Query: u.Query(), Header: header, Body: []byte(v.Body)}
	if v.Certificate != "" {
		v.fetchCertificate(t, req)
	}
	return req
}

// fetchCertificate gives the request the certificate that travels in the
// vector, as if it stood where the request says.
func (v *vector) fetchCertificate(t *testing.T, req *provider.Request) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(v.Root)) {
		t.Fatal("the vector's root is no certificate")
	}
	certificates := provider.NewCertificates(func(context.Context, string) ([]byte, error) {
		return []byte(v.Certificate + "\n" + v.Intermediate), nil
	}, roots)
	if err := certificates.Fill(t.Context(), endpoint(t, v.Provider, provider.Settings{WebhookIDs: v.given()}), req, v.now()); err != nil {
		t.Fatal(err)
	}
}

func (v *vector) secrets() []string { return append([]string{v.Secret}, v.ExtraSecrets...) }

// given are the secrets that are none at all left out.
func (v *vector) given() []string {
	return slices.DeleteFunc(v.secrets(), func(secret string) bool { return secret == "" })
}

// verify verifies with the vector's secrets, where they belong.
func (v *vector) verify(t *testing.T, e *provider.Endpoint, req *provider.Request) (used int, err error) {
	t.Helper()
	if e.Preset().KeyField() == "secret" {
		return e.Verify(req, v.secrets(), v.now())
	}
	if used, err = endpoint(t, v.Provider, provider.Settings{WebhookIDs: v.given()}).Verify(req, nil, v.now()); err == nil && used == -1 {
		used = 0 // the index of secrets, which these are not
	}
	return used, err
}

func (v *vector) now() time.Time { return time.Unix(v.Now, 0) }

func endpoint(t testing.TB, name string, settings provider.Settings) *provider.Endpoint {
	t.Helper()
	p, ok := provider.Lookup(name)
	if !ok {
		t.Fatalf("preset %s: not found", name)
	}
	e, err := p.Endpoint(settings)
	if err != nil {
		t.Fatalf("compile %s: %v", name, err)
	}
	return e
}

// TestVectors holds every preset to the collection: the verdict, what is read,
// what is answered, and that what differs from a genuine callback in one thing
// is refused.
func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.ID, func(t *testing.T) {
			t.Parallel()
			e := endpoint(t, v.Provider, provider.Settings{Tolerance: time.Duration(v.Tolerance) * time.Second})
			checkAnswers(t, e, &v)
			if v.Outcome != nil && *v.Outcome == "handshake" {
				checkHandshake(t, e, &v)
				return
			}
			if body, ok := e.Handshake(v.request(t), v.secrets()); ok {
				t.Errorf("Handshake: got %q, want a callback", body)
			}
			if checkVerdict(t, e, &v) {
				checkReadings(t, e, &v)
			}
			if v.Expect == "valid" {
				checkMutants(t, e, &v)
			}
		})
	}
}

// checkAnswers holds what accepts a callback, and what refuses one.
func checkAnswers(t *testing.T, e *provider.Endpoint, v *vector) {
	t.Helper()
	if v.Response != nil && v.Method == http.MethodPost && *v.Response != e.Preset().AcceptBody {
		t.Errorf("answer: got %q, want %q", e.Preset().AcceptBody, *v.Response)
	}
	if v.Status != nil && *v.Status != e.Preset().RejectStatus {
		t.Errorf("status of a rejection: got %d, want %d", e.Preset().RejectStatus, *v.Status)
	}
}

func checkHandshake(t *testing.T, e *provider.Endpoint, v *vector) {
	t.Helper()
	body, ok := e.Handshake(v.request(t), v.secrets())
	if !ok || v.Response != nil && body != *v.Response || e.Preset().AcceptStatus != http.StatusOK {
		t.Errorf("Handshake: got %q, %t, with %d, want an answer with 200", body, ok, e.Preset().AcceptStatus)
	}
	larger := *v
	larger.Method, larger.Body = http.MethodPost, v.Body+"&id=1"
	if body, ok := e.Handshake(larger.request(t), v.secrets()); ok {
		t.Errorf("Handshake of a callback: got %q, want none", body)
	}
}

// checkVerdict reports whether the vector is to be read.
func checkVerdict(t *testing.T, e *provider.Endpoint, v *vector) bool {
	t.Helper()
	used, err := v.verify(t, e, v.request(t))
	switch v.Expect {
	case "valid":
		if err != nil || used != 0 {
			t.Fatalf("Verify: got %d, %v, want secret 0", used, err)
		}
		return true
	case "unsigned":
		if err != nil || used != -1 {
			t.Fatalf("Verify: got %d, %v, want -1: nothing is signed", used, err)
		}
		return true
	case "invalid":
		var rejection *provider.Rejection
		if !errors.As(err, &rejection) || !slices.Contains(provider.Reasons, rejection.Reason) {
			t.Fatalf("Verify: got %v, want a rejection with a listed reason", err)
		}
		return false
	default:
		t.Fatalf("expect: got %q, which this test does not understand", v.Expect)
		return false
	}
}

// checkReadings compares what is read. Some official vectors sign what is no
// JSON: of those nothing is expected, and the error says so.
func checkReadings(t *testing.T, e *provider.Endpoint, v *vector) {
	t.Helper()
	readings, err := e.Read(v.request(t))
	if err != nil || len(readings) == 0 {
		var unreadable *provider.Unreadable
		untyped := errors.As(err, &unreadable) && unreadable.Code == provider.UnsupportedContent && v.Headers["Content-Type"] == ""
		if !untyped && (unreadable == nil || unreadable.Code != provider.NotJSON || json.Valid([]byte(v.Body))) {
			t.Fatalf("Read: got %d readings, %v", len(readings), err)
		}
		return
	}
	r := readings[0]
	if len(readings) > 1 && len(v.EventIDs) != len(readings) {
		t.Errorf("got %d readings, want %d", len(readings), len(v.EventIDs))
	}
	if v.EventID != nil && !holdsID(r.EventID, *v.EventID) {
		t.Errorf("event id: got %q, want %q", r.EventID, *v.EventID)
	}
	for i, id := range v.EventIDs {
		if !holdsID(readings[i].EventID, id) {
			t.Errorf("event id %d: got %q, want %q", i, readings[i].EventID, id)
		}
	}
	if v.EventType != nil && r.Type != *v.EventType {
		t.Errorf("type: got %q, want %q", r.Type, *v.EventType)
	}
	if v.Outcome != nil && !sameOutcome(t, *v.Outcome, &r) {
		t.Errorf("outcome: got %q, want %q", r.Outcome, *v.Outcome)
	}
	switch {
	case v.Correlation != nil && (len(r.Candidates) == 0 || r.Candidates[0].Value != *v.Correlation):
		t.Errorf("candidates: got %v, want %q first", r.Candidates, *v.Correlation)
	case v.Correlation == nil && v.Outcome != nil && len(r.Candidates) != 0:
		t.Errorf("candidates: got %v, want none", r.Candidates)
	}
	checkStorable(t, r)
}

// holdsID reports whether an id is the expected one, or composed of it and of
// what makes it unique.
func holdsID(got, want string) bool {
	return got == want || strings.Contains(":"+got+":", ":"+want+":")
}

// sameOutcome compares with the words of the vectors.
func sameOutcome(t *testing.T, want string, r *relay.Reading) bool {
	t.Helper()
	switch want {
	case "success":
		return r.Outcome == relay.Completed
	case "pending":
		return r.Outcome == relay.Processing
	case "failure":
		return r.Outcome == relay.Failed || r.Outcome == relay.AttemptFailed
	case "ignored":
		refund := strings.Contains(strings.ToLower(r.Type), "refund")
		return refund && r.Outcome == relay.Refunded || !refund && r.Outcome == ""
	case "fetch": // by what is asked for
		return r.Outcome == "" && len(r.References) > 0
	case "cancelled", "expired":
		return string(r.Outcome) == want
	default:
		t.Errorf("outcome: got %q, which this test does not understand", want)
		return false
	}
}

// mutant is a genuine callback with one thing changed.
type mutant struct {
	name   string
	change func(v *vector)
}

// checkMutants refuses what differs from a genuine callback in one thing that
// proves it.
func checkMutants(t *testing.T, e *provider.Endpoint, v *vector) {
	t.Helper()
	mutants := []mutant{
		{"other secret", func(v *vector) { v.Secret, v.ExtraSecrets = otherSecret(v), nil }},
		{"empty secret", func(v *vector) { v.Secret, v.ExtraSecrets = "", nil }},
	}
	if e.ChecksTime() {
		mutants = append(mutants,
			mutant{"received too late", func(v *vector) { v.Now += 601 }},
			mutant{"received too early", func(v *vector) { v.Now -= 601 }},
		)
	}
	if e.SignsBody() {
		mutants = append(mutants,
			mutant{"appended space", func(v *vector) { v.Body += " " }},
			mutant{"appended line", func(v *vector) { v.Body += "\n" }},
			mutant{"another body", func(v *vector) { v.Body += "x" + v.Body }},
		)
	}
	for _, name := range e.ProofHeaders() {
		mutants = append(mutants, mutant{"without " + name, func(v *vector) {
			v.Headers = without(v.Headers, name)
		}})
	}
	for _, m := range mutants {
		changed := *v
		m.change(&changed)
		if used, err := changed.verify(t, e, changed.request(t)); err == nil {
			t.Errorf("mutant %q: got accepted with secret %d, want a rejection", m.name, used)
		}
	}
	if _, err := e.Verify(v.request(t), nil, v.now()); err == nil {
		t.Error("no secrets: got accepted, want a rejection")
	}
	if e.Preset().ProvesContent() {
		checkFlippedBytes(t, e, v)
	}
}

// otherSecret is one of the same kind, with another first or last character.
func otherSecret(v *vector) string {
	switch v.Provider {
	case "standard-webhooks", "svix":
		return "whsec_b3RoZXIgc2VjcmV0IG9mIDMy"
	case "adyen", "adyen-platform":
		return "00" + v.Secret[2:]
	default:
		return v.Secret + "x"
	}
}

// checkFlippedBytes flips one bit of many bytes of the body. Where the whole
// body is signed each of them is refused; where some of its fields are, what
// is accepted says the same as before in all that a wait depends on.
func checkFlippedBytes(t *testing.T, e *provider.Endpoint, v *vector) {
	t.Helper()
	genuine, err := e.Read(v.request(t))
	step := 1
	if e.SignsBody() {
		step = 1 + len(v.Body)/64
	}
	for i := 0; i < len(v.Body); i += step {
		changed := *v
		changed.Body = flipped(v.Body, i)
		req := changed.request(t)
		if _, rejected := changed.verify(t, e, req); rejected != nil {
			continue
		}
		if e.SignsBody() {
			t.Fatalf("byte %d flipped: got accepted, want a rejection", i)
		}
		readings, changedErr := e.Read(req)
		if (err == nil) != (changedErr == nil) || len(readings) != len(genuine) {
			t.Fatalf("byte %d flipped: got %d readings, %v", i, len(readings), changedErr)
		}
		for j := range readings {
			if diff := cmp.Diff(believed(&genuine[j]), believed(&readings[j])); diff != "" {
				t.Fatalf("byte %d flipped and accepted (-want +got):\n%s", i, diff)
			}
		}
	}
}

// believed is the part of a reading that closes a wait.
func believed(r *relay.Reading) relay.Reading {
	part := relay.Reading{Type: r.Type, Outcome: r.Outcome, Candidates: r.Candidates}
	if p := r.Payment; p != nil {
		part.Payment = &relay.Payment{ID: p.ID, AmountMinor: p.AmountMinor, Currency: p.Currency, Exponent: p.Exponent}
	}
	return part
}

func flipped(body string, i int) string {
	b := []byte(body)
	b[i] ^= 1
	return string(b)
}

func without(headers map[string]string, name string) map[string]string {
	prefix, many := strings.CutSuffix(name, "*")
	kept := map[string]string{}
	for k, v := range headers {
		if k = http.CanonicalHeaderKey(k); k != name && (!many || !strings.HasPrefix(k, prefix)) {
			kept[k] = v
		}
	}
	return kept
}
