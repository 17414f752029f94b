package main

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/store/storetest"
)

// TestSettingsAreDocumented holds README's table and the help against the one
// list of settings.
func TestSettingsAreDocumented(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(readme), "| Setting |")
	if !found {
		t.Fatal(`README.md has no table with the header "| Setting |"`)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	type row struct{ name, fallback string }
	var got, want []row
	for _, cells := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|([^|]*)\\|").FindAllStringSubmatch(table, -1) {
		got = append(got, row{cells[1], strings.Trim(cells[2], " `")})
	}
	for _, s := range settings {
		want = append(want, row{s.env, s.fallback})
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{})); diff != "" {
		t.Errorf("README's table (-settings +README):\n%s", diff)
	}
	var help bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, lookupIn(nil), &help, io.Discard); err != nil {
		t.Fatalf("relay --help: %v", err)
	}
	for _, s := range settings {
		if !strings.Contains(help.String(), s.env) {
			t.Errorf("relay --help does not name %s", s.env)
		}
	}
}

// TestSettingsAreFlags holds the flags of `relay serve` against the list.
func TestSettingsAreFlags(t *testing.T) {
	t.Parallel()
	parser, err := kong.New(&commands{}, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	commandsByName := map[string]*kong.Node{}
	for _, node := range parser.Model.Children {
		commandsByName[node.Name] = node
	}
	type flag struct{ name, fallback string }
	var got, want []flag
	for _, f := range commandsByName["serve"].Flags {
		if f.Name != "config" { // not a setting: a file to apply
			got = append(got, flag{f.Name, f.Default})
		}
	}
	computed := []string{"RELAY_PUBLIC_URL", "RELAY_DATA_DIR"} // their defaults are words
	for _, s := range settings {
		if slices.Contains(computed, s.env) {
			s.fallback = ""
		}
		want = append(want, flag{s.flag, s.fallback})
	}
	byName := func(a, b flag) int { return strings.Compare(a.name, b.name) }
	slices.SortFunc(got, byName)
	slices.SortFunc(want, byName)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(flag{})); diff != "" {
		t.Errorf("flags of relay serve (-settings +flags):\n%s", diff)
	}
	for _, s := range settings {
		if want := strings.TrimPrefix(strings.ReplaceAll(s.env, "_", "-"), "RELAY-"); strings.ToLower(want) != s.flag {
			t.Errorf("%s: got the flag --%s, want --%s", s.env, s.flag, strings.ToLower(want))
		}
	}
}

// TestRefusedSettings holds what is said of settings that cannot be used.
func TestRefusedSettings(t *testing.T) {
	t.Parallel()
	const url = "postgres://nobody@127.0.0.1:1/none"
	tests := []struct {
		name  string
		env   map[string]string
		args  []string
		words []string
	}{
		{name: "no database", words: []string{"DATABASE_URL is not set", "the URL of your Postgres", "`embedded`"}},
		{name: "empty database", env: map[string]string{"DATABASE_URL": ""}, words: []string{"DATABASE_URL is not set"}},
		{name: "short key", env: map[string]string{"DATABASE_URL": url, "RELAY_API_KEY": "short-key-of-19-byt"}, words: []string{"RELAY_API_KEY", "20"}},
		{name: "encryption key", env: map[string]string{"DATABASE_URL": url, "RELAY_ENCRYPTION_KEY": "c2VjcmV0LXRoYXQtaXMtdG9vLXNob3J0"}, words: []string{"RELAY_ENCRYPTION_KEY"}},
		{name: "public URL", env: map[string]string{"DATABASE_URL": url, "RELAY_PUBLIC_URL": "relay.example"}, words: []string{"RELAY_PUBLIC_URL"}},
		{name: "private targets", env: map[string]string{"DATABASE_URL": url, "RELAY_ALLOW_PRIVATE_TARGETS": "some"}, words: []string{"RELAY_ALLOW_PRIVATE_TARGETS"}},
		{name: "drain delay", env: map[string]string{"DATABASE_URL": url, "RELAY_DRAIN_DELAY": "-1s"}, words: []string{"RELAY_DRAIN_DELAY"}},
		{name: "shutdown timeout", env: map[string]string{"DATABASE_URL": url, "RELAY_SHUTDOWN_TIMEOUT": "0s"}, words: []string{"RELAY_SHUTDOWN_TIMEOUT"}},
		{name: "migrate", env: map[string]string{"DATABASE_URL": url, "RELAY_MIGRATE": "maybe"}, words: []string{"migrate", "auto", "check"}},
		{name: "log", env: map[string]string{"DATABASE_URL": url, "RELAY_LOG": "xml"}, words: []string{"log", "text", "json"}},
		{name: "value and file", env: map[string]string{"DATABASE_URL": url, "DATABASE_URL_FILE": "/dev/null"}, words: []string{"DATABASE_URL and DATABASE_URL_FILE are both set"}},
		{name: "file that is not there", env: map[string]string{"DATABASE_URL_FILE": "/nowhere/url"}, words: []string{"DATABASE_URL_FILE"}},
		{name: "unknown flag", args: []string{"--databse-url=" + url}, words: []string{"--databse-url"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := command(t, tt.env, append([]string{"serve"}, tt.args...)...)
			wantRefusal(t, err, tt.words...)
			if err != nil && strings.Contains(err.Error(), "c2VjcmV0") {
				t.Errorf("the error quotes the key: %v", err)
			}
		})
	}
}

// TestSettingsFromFiles starts a node whose secrets come from files, and whose
// flags win over the environment.
func TestSettingsFromFiles(t *testing.T) {
	t.Parallel()
	env := settingsOf(storetest.URL(t, true))
	for _, name := range []string{"DATABASE_URL", "RELAY_API_KEY", "RELAY_ENCRYPTION_KEY"} {
		env[name+"_FILE"] = writeFile(t, name, env[name]+"\n")
		delete(env, name)
	}
	env["RELAY_LISTEN"] = "256.0.0.1:0"
	n := startNode(t, env, "--listen=127.0.0.1:0", "--public-url=https://relay.example/base/")
	if got := n.call(t, "GET", "/v1/sources", nil, nil, 200); got == "" {
		t.Error("the key from a file: got no answer")
	}
	up, _ := n.log.line("relay is up")
	if got, want := up["public_url"], "https://relay.example/base"; got != want {
		t.Errorf("public_url: got %v, want %v", got, want)
	}
}
