package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProviders holds that the command says what the pages say: both are made
// of the presets.
func TestProviders(t *testing.T) {
	t.Parallel()
	env := map[string]string{} // nothing is set, and no database is there
	listed := mustRun(t, env, "providers")
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "providers", "*.md"))
	if err != nil || len(pages) < 40 {
		t.Fatalf("got %d pages, %v, want one for each provider", len(pages), err)
	}
	for _, file := range pages {
		name := strings.TrimSuffix(filepath.Base(file), ".md")
		if name == "README" {
			continue
		}
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := mustRun(t, env, "providers", "show", name); got != string(page) {
			t.Errorf("providers show %s: got another text than docs/providers/%s.md", name, name)
		}
		if got, want := strings.Contains("\n"+listed, "\n"+name+" "), name != "form"; got != want {
			t.Errorf("providers lists %s: got %t, want %t", name, got, want)
		}
	}
	if got := mustRun(t, env, "providers", "show", "stripe", "--preset"); !strings.HasPrefix(got, "name: stripe\n") {
		t.Errorf("providers show stripe --preset: got %.40q, want its YAML", got)
	}
	_, err = command(t, env, "providers", "show", "hubspot")
	wantRefusal(t, err, `no provider "hubspot"`, "hubspot-v3")
	_, err = command(t, env, "providers", "show", "nobody")
	wantRefusal(t, err, `no provider "nobody"`, "'relay providers' lists them")
}
