package provider_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/provider"
)

// needsCode lists the vectors that no preset can satisfy.
var needsCode = map[string]string{
	"braintree-challenge":      "the answer to a GET is computed",
	"braintree-bad-public-key": "the name of the signing key is half of the secret",
}

// TestSchemaCarriesOtherProviders writes providers that have no built-in
// preset as inline ones, and holds them to their vectors: the schema must be
// able to say what they do.
func TestSchemaCarriesOtherProviders(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "presets", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("glob the presets: got %d files, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			p := inlinePreset(t, file)
			family, _, _ := strings.Cut(name, "-")
			seen := 0
			for _, v := range vectors(t, family+".json") {
				if v.Provider == name && needsCode[v.ID] == "" {
					seen++
					t.Run(v.ID, func(t *testing.T) { checkForeign(t, p, &v) })
				}
			}
			if seen == 0 {
				t.Errorf("%s: got no vectors, want some", name)
			}
		})
	}
}

func inlinePreset(t *testing.T, file string) *provider.Preset {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, err := provider.Parse(text)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return p
}

func checkForeign(t *testing.T, p *provider.Preset, v *vector) {
	t.Helper()
	e, err := p.Endpoint(provider.Settings{Tolerance: time.Duration(v.Tolerance) * time.Second})
	if err != nil {
		t.Fatalf("Endpoint: %v", err)
	}
	req := v.request(t)
	_, err = e.Verify(req, v.secrets(), v.now())
	if got := err == nil; got != (v.Expect == "valid") {
		t.Fatalf("Verify: got %v, want %s", err, v.Expect)
	}
	if err != nil {
		return
	}
	for _, secrets := range [][]string{nil, {""}, {v.Secret + "x"}} {
		if _, err := e.Verify(v.request(t), secrets, v.now()); err == nil {
			t.Errorf("secrets %q: got accepted, want a rejection", secrets)
		}
	}
	checkForeignIDs(t, e, v, req)
}

func checkForeignIDs(t *testing.T, e *provider.Endpoint, v *vector, req *provider.Request) {
	t.Helper()
	readings, err := e.Read(req)
	var unreadable *provider.Unreadable
	if errors.As(err, &unreadable) {
		return // several official vectors sign what is no JSON
	}
	var ids []string
	for _, r := range readings {
		ids = append(ids, r.EventID)
	}
	if v.EventID != nil && !slices.Contains(ids, *v.EventID) {
		t.Errorf("event ids: got %q, want %q", ids, *v.EventID)
	}
	if v.Correlation != nil && len(readings) > 0 && len(readings[0].Candidates) > 0 && readings[0].Candidates[0].Value != *v.Correlation {
		t.Errorf("candidates: got %v, want %q first", readings[0].Candidates, *v.Correlation)
	}
}
