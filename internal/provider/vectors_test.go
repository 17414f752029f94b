package provider_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// vector is one signed request of the shared collection.
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
	Expect       string            `json:"expect"`
	EventID      *string           `json:"expected_event_id"`
	EventIDs     []string          `json:"expected_event_ids"`
	EventType    *string           `json:"expected_event_type"`
	Outcome      *string           `json:"expected_outcome"`
	Correlation  *string           `json:"expected_correlation"`
}

// vectors reads one file of the collection. It lies beside the project; where
// it must be there, CI is set.
func vectors(t *testing.T, file string) []vector {
	t.Helper()
	dir := os.Getenv("RELAY_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors")
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	// The vectors are no part of the project. CI must have them.
	if errors.Is(err, os.ErrNotExist) && os.Getenv("CI") == "" {
		t.Skipf("no vectors in %s: set RELAY_VECTORS", dir)
	}
	if err != nil {
		t.Fatalf("read the vectors: %v", err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatalf("decode %s: %v", file, err)
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
	return &provider.Request{Method: v.Method, URL: v.URL, Query: u.Query(), Header: header, Body: []byte(v.Body)}
}

func (v *vector) secrets() []string { return append([]string{v.Secret}, v.ExtraSecrets...) }

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

func TestVectors(t *testing.T) {
	for _, file := range []string{"stripe.json", "standard-webhooks.json", "svix.json", "github.json", "generic.json"} {
		for _, v := range vectors(t, file) {
			t.Run(v.ID, func(t *testing.T) {
				e := endpoint(t, v.Provider, provider.Settings{})
				if !checkVerdict(t, e, &v) {
					return
				}
				checkReading(t, e, &v)
				checkMutants(t, e, &v)
			})
		}
	}
}

// checkVerdict reports whether the vector is a genuine callback.
func checkVerdict(t *testing.T, e *provider.Endpoint, v *vector) bool {
	t.Helper()
	used, err := e.Verify(v.request(t), v.secrets(), v.now())
	if v.Expect == "valid" {
		if err != nil || used != 0 {
			t.Fatalf("Verify: got %d, %v, want secret 0 (%s)", used, err, v.ID)
		}
		return true
	}
	var rejection *provider.Rejection
	if !errors.As(err, &rejection) || !slices.Contains(provider.Reasons, rejection.Reason) {
		t.Fatalf("Verify: got %v, want a rejection with a listed reason", err)
	}
	return false
}

func checkReading(t *testing.T, e *provider.Endpoint, v *vector) {
	t.Helper()
	req := v.request(t)
	readings, err := e.Read(req)
	if !json.Valid(req.Body) && req.Header.Get("Content-Type") == "" {
		var unreadable *provider.Unreadable
		if !errors.As(err, &unreadable) || unreadable.Code != provider.NotJSON {
			t.Fatalf("Read of a body that is no JSON: got %v, want %s", err, provider.NotJSON)
		}
		return
	}
	if err != nil || len(readings) != 1 {
		t.Fatalf("Read: got %d readings, %v, want 1", len(readings), err)
	}
	r := readings[0]
	if v.EventID != nil && r.EventID != *v.EventID {
		t.Errorf("event id: got %q, want %q", r.EventID, *v.EventID)
	}
	if v.EventType != nil && r.Type != *v.EventType {
		t.Errorf("type: got %q, want %q", r.Type, *v.EventType)
	}
	if v.Outcome != nil && !sameOutcome(*v.Outcome, r.Outcome) {
		t.Errorf("outcome: got %q, want %q", r.Outcome, *v.Outcome)
	}
	checkCorrelation(t, v, r.Candidates)
}

// sameOutcome compares with the words of the vectors.
func sameOutcome(want string, got relay.Outcome) bool {
	switch want {
	case "success":
		return got == relay.Completed
	case "pending":
		return got == relay.Processing
	case "failure":
		return got == relay.Failed || got == relay.AttemptFailed
	case "ignored":
		return got == ""
	default:
		return string(got) == want
	}
}

func checkCorrelation(t *testing.T, v *vector, got []relay.Candidate) {
	t.Helper()
	switch {
	case v.Correlation == nil && len(got) != 0:
		t.Errorf("candidates: got %v, want none", got)
	case v.Correlation != nil && (len(got) == 0 || got[0].Value != *v.Correlation):
		t.Errorf("candidates: got %v, want %q first", got, *v.Correlation)
	}
}

// mutant is a genuine callback with one thing changed.
type mutant struct {
	name   string
	change func(v *vector)
}

// checkMutants refuses what differs from a genuine callback in one thing.
func checkMutants(t *testing.T, e *provider.Endpoint, v *vector) {
	t.Helper()
	signs := v.Provider != "generic-apikey" && v.Provider != "generic-basic"
	timed := v.Provider == "stripe" || v.Provider == "standard-webhooks" || v.Provider == "svix"
	mutants := []mutant{
		{"other secret", func(v *vector) { v.Secret = "whsec_b3RoZXIgc2VjcmV0IG9mIDMy" }},
		{"empty secret", func(v *vector) { v.Secret = "" }},
	}
	if signs {
		mutants = append(mutants,
			mutant{"flipped byte", func(v *vector) { v.Body = flipped(v.Body, len(v.Body)/2) }},
			mutant{"flipped first byte", func(v *vector) { v.Body = flipped(v.Body, 0) }},
			mutant{"flipped last byte", func(v *vector) { v.Body = flipped(v.Body, len(v.Body)-1) }},
			mutant{"appended space", func(v *vector) { v.Body += " " }},
			mutant{"empty body", func(v *vector) { v.Body = "" }},
		)
	}
	if timed {
		mutants = append(mutants,
			mutant{"received too late", func(v *vector) { v.Now += 601 }},
			mutant{"received too early", func(v *vector) { v.Now -= 601 }},
		)
	}
	for _, name := range proofs(e) {
		mutants = append(mutants, mutant{"without " + name, func(v *vector) {
			v.Headers = without(v.Headers, name)
		}})
	}
	for _, m := range mutants {
		changed := *v
		m.change(&changed)
		if used, err := e.Verify(changed.request(t), changed.secrets(), changed.now()); err == nil {
			t.Errorf("mutant %q: got accepted with secret %d, want a rejection", m.name, used)
		}
	}
	if _, err := e.Verify(v.request(t), nil, v.now()); err == nil {
		t.Error("no secrets: got accepted, want a rejection")
	}
}

// proofs lists the headers without which a callback proves nothing.
func proofs(e *provider.Endpoint) []string {
	var names []string
	for _, name := range e.HeadersRead() {
		if name != "Content-Type" && name != "X-Github-Delivery" && name != "X-Github-Event" {
			names = append(names, name)
		}
	}
	return names
}

func flipped(body string, i int) string {
	b := []byte(body)
	b[i] ^= 1
	return string(b)
}

func without(headers map[string]string, name string) map[string]string {
	kept := map[string]string{}
	for k, v := range headers {
		if http.CanonicalHeaderKey(k) != name {
			kept[k] = v
		}
	}
	return kept
}
