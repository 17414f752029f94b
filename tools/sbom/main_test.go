package main

import (
	"bytes"
	"encoding/json"
	"os"
	"runtime/debug"
	"strings"
	"testing"
)

// TestBill describes the test's own program, whose modules are known, and
// holds that twice is the same.
func TestBill(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-name", "self", "-version", "v1.2.3", "-commit", "0123abc", "-time", "1767225600", self}
	var out, again bytes.Buffer
	if err := run(args, &out); err != nil {
		t.Fatal(err)
	}
	if err := run(args, &again); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Errorf("the second run differs from the first (error %v)", err)
	}
	var bill struct {
		BOMFormat, SpecVersion string
		Metadata               struct {
			Timestamp string
			Component struct {
				Name, Version string
				Hashes        []struct{ Alg, Content string }
			}
		}
		Components []struct{ Name, Version, PURL string }
	}
	if err := json.Unmarshal(out.Bytes(), &bill); err != nil {
		t.Fatal(err)
	}
	if bill.BOMFormat != "CycloneDX" || bill.SpecVersion != "1.6" || bill.Metadata.Timestamp != "2026-01-01T00:00:00Z" {
		t.Errorf("got %+v, want CycloneDX 1.6 of the commit's time", bill)
	}
	if c := bill.Metadata.Component; c.Name != "self" || c.Version != "v1.2.3" || len(c.Hashes) != 1 || len(c.Hashes[0].Content) != 64 {
		t.Errorf("program: got %+v, want self v1.2.3 with its SHA-256", c)
	}
	linked := map[string]string{}
	for _, c := range bill.Components {
		linked[c.Name] = c.Version
		if c.PURL != "pkg:golang/"+c.Name+"@"+c.Version {
			t.Errorf("%s: got the package URL %s", c.Name, c.PURL)
		}
	}
	info, _ := debug.ReadBuildInfo()
	for _, m := range info.Deps {
		if linked[m.Path] != m.Version {
			t.Errorf("%s: got version %q, want %s", m.Path, linked[m.Path], m.Version)
		}
	}
	if linked["std"] != strings.TrimPrefix(info.GoVersion, "go") || linked["github.com/CycloneDX/cyclonedx-go"] == "" {
		t.Errorf("got %v, want Go's standard library and the encoder among them", linked)
	}
}

// TestRefusals holds what cannot be described.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{}, {"-name", "x", "program"}, {"-name", "x", "-version", "v1", "main.go"}, {"-name", "x", "-version", "v1", "nowhere"},
	} {
		var out bytes.Buffer
		if err := run(args, &out); err == nil || out.Len() > 0 {
			t.Errorf("%q: got error %v and %d bytes, want an error and nothing", args, err, out.Len())
		}
	}
}
