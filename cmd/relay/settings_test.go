package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/store/storetest"
)

// TestSettingsAreDocumented holds the table in docs/operating.md and the help against the one
// list of settings.
func TestSettingsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "| Setting |")
	if !found {
		t.Fatal(`docs/operating.md has no table with the header "| Setting |"`)
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
		t.Errorf("the table in docs/operating.md (-settings +page):\n%s", diff)
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
		{name: "drain delay without a unit", env: map[string]string{"DATABASE_URL": url, "RELAY_DRAIN_DELAY": "5"}, words: []string{"RELAY_DRAIN_DELAY", `"5" is not a time span`, "like 5s"}},
		{name: "a flag without a unit", env: map[string]string{"DATABASE_URL": url}, args: []string{"--shutdown-timeout=30"}, words: []string{"RELAY_SHUTDOWN_TIMEOUT", "like 20s"}},
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

// TestExampleSecret holds that a relay starts with no value of the Secret that
// the Kubernetes manifests show, be the others as they should.
func TestExampleSecret(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../deploy/kubernetes/secret.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^  ([a-z-]+): (REPLACE-ME)\b`).FindAllStringSubmatch(string(raw), -1)
	if len(shown) != 4 {
		t.Fatalf("got the values %v, want four", shown)
	}
	for _, value := range shown {
		name := strings.ToUpper(strings.ReplaceAll(value[1], "-", "_"))
		if name != "DATABASE_URL" {
			name = "RELAY_" + name
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := settingsOf("postgres://nobody@127.0.0.1:1/none")
			if _, known := env[name]; !known && name != "RELAY_PUBLIC_URL" {
				t.Fatalf("the Secret's %s is no setting", value[1])
			}
			env[name] = value[2]
			_, err := command(t, env, "serve")
			wantRefusal(t, err)
			if err != nil && strings.Contains(err.Error(), "did not come up") {
				t.Errorf("got %v, want the value refused at once", err)
			}
		})
	}
}

// TestStrangers finds what is named like a setting and is none.
func TestStrangers(t *testing.T) {
	t.Parallel()
	environ := []string{"PATH=/bin", "RELAY_TEST_DATABASE_URL=x", "RELAY_VECTORS=x", "RELAY_LISTN=:80", "RELAY_PUBLIC_URL_FILES=x", "RELAY_=x"}
	for _, s := range settings {
		environ = append(environ, s.env+"=x", s.env+"_FILE=x")
	}
	// Kubernetes tells every pod of the services around it.
	environ = append(environ, "RELAY_SERVICE_HOST=x", "RELAY_SERVICE_PORT=x", "RELAY_SERVICE_PORT_HTTP=x", "RELAY_PORT=x",
		"RELAY_PORT_8080_TCP=x", "RELAY_PORT_8080_TCP_ADDR=x", "RELAY_POSTGRES_SERVICE_HOST=x", "RELAY_POSTGRES_PORT_5432_TCP_PROTO=x")
	if diff := cmp.Diff([]string{"RELAY_LISTN", "RELAY_PUBLIC_URL_FILES", "RELAY_"}, strangers(environ)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestLogSpellsTimes holds that a log of either format writes a time span as
// people do.
func TestLogSpellsTimes(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{"json": `"after":"1m30s"`, "text": "after=1m30s"} {
		var out bytes.Buffer
		newLogger(&out, format).Info("stopping", "after", 90*time.Second)
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: got %s, want %s", format, out.String(), want)
		}
	}
}

// TestStoppedWhileWaiting stops a node whose database answers nothing of use:
// it says so, and has told of the waiting once.
func TestStoppedWhileWaiting(t *testing.T) {
	t.Parallel()
	l, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { // several attempts later, stop the node
		defer func() { _ = l.Close() }()
		for range 6 {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
		stop()
	}()
	env, said := settingsOf("postgres://relay@"+l.Addr().String()+"/relay"), newLogs()
	err = run(ctx, []string{"serve"}, lookupIn(env), io.Discard, said)
	wantRefusal(t, err, "stopped while waiting for the database")
	if err != nil && strings.Contains(err.Error(), "did not come up") {
		t.Errorf("got %v, want no word of a time that did not pass", err)
	}
	if got := strings.Count(said.String(), "waiting for the database"); got != 1 {
		t.Errorf("got %d lines about waiting, want 1:\n%s", got, said)
	}
	waiting, _ := said.line("waiting for the database")
	cause, _ := waiting["error"].(string)
	if !strings.HasPrefix(cause, "connecting to the database: failed to connect") || strings.Contains(cause, "\n") {
		t.Errorf("got the cause %q, want it in one line", cause)
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
