package main

import (
	"bytes"
	"encoding/base64"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/sandbox"
	"relay.example/relay/internal/store/storetest"
)

func TestMigrate(t *testing.T) {
	t.Parallel()
	env := settingsOf(storetest.URL(t, false))
	current := regexp.MustCompile(`^schema version (\d+), this program's (\d+), current\n$`)
	if got := mustRun(t, env, "migrate", "status"); !strings.HasPrefix(got, "schema version 0,") || current.MatchString(got) {
		t.Errorf("status of an empty database: got %q, want version 0 and not current", got)
	}
	env["RELAY_MIGRATE"] = "check"
	_, err := command(t, env, "serve")
	wantRefusal(t, err, "schema is at 0", "relay migrate up")
	_, err = command(t, env, "keys", "instance")
	wantRefusal(t, err, "schema is at 0", "relay migrate up")
	// Without a key nothing is begun.
	_, err = command(t, map[string]string{"DATABASE_URL": env["DATABASE_URL"]}, "serve")
	wantRefusal(t, err, "RELAY_ENCRYPTION_KEY is not set", "relay keys new")
	if got := mustRun(t, env, "migrate", "status"); !strings.HasPrefix(got, "schema version 0,") {
		t.Errorf("status after refusals: got %q, want version 0", got)
	}

	got := mustRun(t, env, "migrate", "up")
	latest := current.FindStringSubmatch(got)
	if latest == nil || latest[1] != latest[2] {
		t.Fatalf("up: got %q, want the newest version", got)
	}
	if again := mustRun(t, env, "migrate", "up"); again != got {
		t.Errorf("up again: got %q, want %q", again, got)
	}
	startNode(t, env).end(t) // check is content now

	if down := mustRun(t, env, "migrate", "down"); current.MatchString(down) || down == got {
		t.Errorf("down: got %q, want one version less than %q", down, got)
	}
	if up := mustRun(t, env, "migrate", "up"); up != got {
		t.Errorf("up after down: got %q, want %q", up, got)
	}
	_, err = command(t, env, "migrate", "sideways")
	wantRefusal(t, err, "up", "down", "status")
}

// TestNodesMigrateOnce starts nodes on an empty database at the same time.
func TestNodesMigrateOnce(t *testing.T) {
	t.Parallel()
	env := settingsOf(storetest.URL(t, false))
	nodes := make([]*testNode, 3)
	var g sync.WaitGroup
	for i := range nodes {
		g.Go(func() { nodes[i] = startNode(t, env) })
	}
	g.Wait()
	for i, n := range nodes {
		if n == nil {
			t.Fatalf("node %d did not start", i)
		}
		n.call(t, http.MethodGet, "/v1/sources", nil, nil, http.StatusOK)
	}
}

// An instance key makes projects and acts for any of them; a node that runs
// comes to know it.
func TestInstanceKey(t *testing.T) {
	t.Parallel()
	env := settingsOf(storetest.URL(t, true))
	n := startNode(t, env)
	key := strings.TrimSpace(mustRun(t, env, "keys", "instance", "--name=ops"))
	header := http.Header{"Authorization": {"Bearer " + key}, "Content-Type": {"application/json"}}
	await(t, patience, "the node knows the key", func() bool {
		_, status := exchange(t, http.MethodPut, n.url+"/v1/projects/shop-b", header, "")
		return strings.HasPrefix(status, "{\"name\":\"shop-b\"")
	})
	header.Set("Relay-Project", "shop-b")
	if _, body := exchange(t, http.MethodGet, n.url+"/v1/sources", header, ""); !strings.Contains(body, `"name":"form"`) {
		t.Errorf("sources of the new project: got %s, want the built-in one", body)
	}

	list := strings.Fields(mustRun(t, env, "keys", "instance", "--list"))
	if len(list) != 4 || list[1] != "ops" || !strings.HasPrefix(key, strings.TrimSuffix(list[2], "…")) {
		t.Fatalf("keys instance --list: got %q, want the one key with its name and the beginning of its text", list)
	}
	_, err := command(t, env, "keys", "instance", "--revoke", "01930000-0000-7000-8000-000000000000")
	wantRefusal(t, err, "there is no instance key", "--list")
	mustRun(t, env, "keys", "instance", "--revoke", list[0])
	if left := mustRun(t, env, "keys", "instance", "--list"); left != "" {
		t.Errorf("after the revocation the list says %q", left)
	}
	await(t, patience, "the node knows that the key is revoked", func() bool {
		resp, _ := exchange(t, http.MethodGet, n.url+"/v1/sources", header, "")
		return resp.StatusCode == http.StatusUnauthorized
	})
}

func TestKeys(t *testing.T) {
	t.Parallel()
	first := strings.TrimSpace(mustRun(t, nil, "keys", "new"))
	second := strings.TrimSpace(mustRun(t, nil, "keys", "new"))
	for _, key := range []string{first, second} {
		if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != 32 || first == second {
			t.Errorf("keys new: got %q (%v), want 32 fresh bytes in base64", key, err)
		}
	}
	env := settingsOf(storetest.URL(t, true))
	env["SANDBOX"] = "http://127.0.0.1:9"
	env["RELAY_ENCRYPTION_KEY"] = first
	if got := mustRun(t, env, "keys", "status"); got != "no secrets are stored\n" {
		t.Errorf("status at first: got %q", got)
	}
	mustRun(t, env, "apply", "-f", writeFile(t, "relay.yaml", configuration))
	sealed := regexp.MustCompile(`(?m)^key (\S+): (\d+) secrets, (.+)$`)
	status := func(want ...string) [][]string {
		t.Helper()
		rows := sealed.FindAllStringSubmatch(mustRun(t, env, "keys", "status"), -1)
		var got []string
		for _, r := range rows {
			got = append(got, r[2]+" "+r[3])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
		return rows
	}
	old := status("6 seals")[0][1]

	// The key is lost: no node may start and take payments it cannot check.
	env["RELAY_ENCRYPTION_KEY"] = second
	status("6 MISSING from RELAY_ENCRYPTION_KEY")
	_, err := command(t, env, "serve")
	wantRefusal(t, err, old, "RELAY_ENCRYPTION_KEY")
	_, err = command(t, env, "keys", "reseal")
	if err == nil {
		t.Error("reseal without the old key: got no error")
	}

	env["RELAY_ENCRYPTION_KEY"] = second + "," + first
	status("6 opens")
	if got := mustRun(t, env, "keys", "reseal"); !strings.HasPrefix(got, "sealed anew: 6\n") {
		t.Errorf("reseal: got %q, want 6 sealed anew", got)
	}
	env["RELAY_ENCRYPTION_KEY"] = second
	if renewed := status("6 seals")[0][1]; renewed == old {
		t.Errorf("the key after resealing: got %s, which is the old one", renewed)
	}
	delete(env, "RELAY_ENCRYPTION_KEY")
	_, err = command(t, env, "serve")
	wantRefusal(t, err, "RELAY_ENCRYPTION_KEY is not set", "relay keys new")
}

func TestApply(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dump := func() string {
		return storetest.Query[string](t, w.dbURL, `
			SELECT concat_ws('|', (SELECT string_agg(f::text, ',' ORDER BY f.id) FROM flows f),
			                 (SELECT string_agg(s::text, ',' ORDER BY s.id) FROM sources s),
			                 (SELECT string_agg(d::text, ',' ORDER BY d.id) FROM destinations d))`)
	}
	const other = `
project: shop-b
destinations: [{name: bot, platform: certainly, token: "${CERTAINLY_TOKEN}"}]
sources: [{name: stripe, provider: stripe, secret: "${STRIPE_WEBHOOK_SECRET}"}]
`
	withoutContact, _, found := strings.Cut(configuration, "  - name: contact\n")
	if !found {
		t.Fatal("the configuration has no flow contact")
	}
	withoutContact = strings.Replace(withoutContact, "  - {name: contact, provider: html-form}\n", "", 1)
	withoutContact = strings.Replace(withoutContact, "expires_in: 45m", "expires_in: 46m", 1)

	apply := func(text string, flags ...string) string {
		t.Helper()
		return mustRun(t, w.env, append([]string{"apply", "-f", writeFile(t, "relay.yaml", text)}, flags...)...)
	}
	want := func(got, want string) {
		t.Helper()
		if diff := cmp.Diff(sortedLines(want), sortedLines(got)); diff != "" {
			t.Errorf("printed (-want +got):\n%s", diff)
		}
	}
	before := dump()
	want(apply(configuration), "nothing to change\n")
	want(apply(configuration+"---"+other, "--dry-run"), "+ project shop-b/shop-b\n+ destination shop-b/bot\n+ source shop-b/stripe\ndry run: nothing was changed\n")
	if dump() != before {
		t.Error("a dry run has changed something")
	}
	want(apply(configuration+"---"+other), "+ project shop-b/shop-b\n+ destination shop-b/bot\n+ source shop-b/stripe\n")
	want(apply(withoutContact), "~ flow default/checkout: expires_in\n")
	want(apply(withoutContact, "--prune"), "- flow default/contact\n- source default/contact\n")
	want(apply(withoutContact, "--prune"), "nothing to change\n") // shop-b is not named, and stays

	// The running node follows.
	await(t, patience, "the node to follow", func() bool {
		resp, _ := exchange(t, http.MethodGet, w.url+"/v1/flows/contact", http.Header{"Authorization": {"Bearer " + apiKey}}, "")
		return resp.StatusCode == http.StatusNotFound
	})

	// What is refused changes nothing, also not what stands before it.
	before = dump()
	for name, tt := range map[string]struct{ text, words string }{
		"a name that is not set":   {strings.Replace(configuration, "${SANDBOX}", "${SANDBOXX}", 1), "SANDBOXX is not set"},
		"a field that is unknown":  {strings.Replace(configuration, "expires_in", "expire_in", 1), "expire_in"},
		"an unreachable flow":      {configuration + "---\nproject: shop-c\nflows: [{name: f, destination: nowhere}]\n", "nowhere"},
		"two documents of one":     {configuration + "---\nsources: []\n", "two documents"},
		"a name twice":             {configuration + "---\nproject: shop-c\nsources: [{name: a, provider: html-form}, {name: a, provider: html-form}]\n", `"a"`},
		"an expression that fails": {strings.Replace(configuration, "payment.amount > 10", "payment.amount >", 1), "when"},
		"not YAML":                 {"destinations: [", "YAML"},
	} {
		_, err := command(t, w.env, "apply", "-f", writeFile(t, "relay.yaml", tt.text))
		if err == nil {
			t.Errorf("%s: got no error", name)
			continue
		}
		if !strings.Contains(err.Error(), tt.words) || leaks.In(err.Error(), certainlyToken, stripeSecret) != "" {
			t.Errorf("%s: got %q, want it to say %q and no secret", name, err, tt.words)
		}
	}
	if dump() != before {
		t.Error("a refused file has changed something")
	}
	_, err := command(t, w.env, "apply", "-f", "/nowhere/relay.yaml")
	wantRefusal(t, err, "/nowhere/relay.yaml")
}

// TestApplyReadsTheFileFirst holds that a mistake in the file is told although
// there is no database.
func TestApplyReadsTheFileFirst(t *testing.T) {
	t.Parallel()
	env := settingsOf("postgres://relay@127.0.0.1:1/relay")
	_, err := command(t, env, "apply", "--dry-run", "-f", writeFile(t, "relay.yaml", "destinations: ["))
	wantRefusal(t, err, "YAML")
}

// sortedLines lets the order of edits, which nobody depends upon, be any.
func sortedLines(text string) []string { return slices.Sorted(strings.Lines(text)) }

// TestServeConfigRefused holds that a node does not start on half of what it
// was given.
func TestServeConfigRefused(t *testing.T) {
	t.Parallel()
	env := settingsOf(storetest.URL(t, true)) // ${SANDBOX} is not set
	_, err := command(t, env, "serve", "--config", writeFile(t, "relay.yaml", configuration))
	wantRefusal(t, err, "SANDBOX is not set")
}

// TestServeConfigDropsSecrets starts a node whose configuration does not name
// a secret that was added through the API: that is told, by its id alone.
func TestServeConfigDropsSecrets(t *testing.T) {
	t.Parallel()
	env := settingsOf(storetest.URL(t, true))
	file := writeFile(t, "relay.yaml", "sources: [{name: pay, provider: stripe, secret: '${STRIPE_WEBHOOK_SECRET}'}]")
	first := startNode(t, env, "--config", file)
	var added object
	first.call(t, http.MethodPost, "/v1/sources/pay/secrets", object{"secret": "whsec_added_by_hand"}, &added, http.StatusCreated)
	first.end(t)

	second := startNode(t, env, "--config", file)
	said, _ := second.log.line("a secret was dropped: the configuration does not name it")
	if said["level"] != "WARN" || said["source"] != "pay" || said["project"] != "default" || said["secret_id"] != added["id"] {
		t.Errorf("got %v, want a warning of the secret %v of pay", said, added["id"])
	}
	checkLog(t, second.log.String(), []string{env["RELAY_ENCRYPTION_KEY"]})
	second.end(t)

	third := startNode(t, env, "--config", file)
	if said, _ := third.log.line("a secret was dropped: the configuration does not name it"); said != nil {
		t.Errorf("a start that drops nothing: got %v", said)
	}
}

// TestQuotes holds that who forgets quotes around braces is told of them.
func TestQuotes(t *testing.T) {
	t.Parallel()
	const hint = "put ${…} and {{…}} in quotes"
	for text, want := range map[string]bool{
		"destinations: [{name: bot, token: ${TOKEN}}]":       true,
		"flows: [{name: a, when: {{ payment.amount > 5 }}}]": true,
		"destinations: [{name: bot":                          false,
	} {
		_, err := readDocuments([]byte(text), lookupIn(nil))
		if err == nil || strings.Contains(err.Error(), hint) != want {
			t.Errorf("%s: got %v, want it to say %q: %t", text, err, hint, want)
		}
	}
}

// openDir makes a directory that the private server's account can enter: the
// testing package closes its own to others.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d, top := dir, filepath.Clean(os.TempDir()); d != top && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDemo(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	busy, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	const moved = "cannot be had: bind: address already in use"
	for start, address := range map[string]string{"a demo": "127.0.0.1:0", "a demo whose ports are taken": busy.Addr().String()} { // on the same data
		out := mustRun(t, nil, "demo", "--once", "--listen", address, "--ops-listen", address, "--data-dir", dir)
		for _, want := range []string{"form: resumed", "checkout: resumed", "both conversations were resumed", "health checks, metrics and profiles are at http://127.0.0.1:"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not say %q:\n%s", start, want, out)
			}
		}
		if got, want := strings.Contains(out, moved), address == busy.Addr().String(); got != want {
			t.Errorf("%s: it says %q: %t, want %t:\n%s", start, moved, got, want, out)
		}
		for line := range strings.Lines(out) {
			if !regexp.MustCompile(`^ +\d+\.\d{3}s  `).MatchString(line) {
				t.Errorf("%s: got the line %q, want each to begin with its time", start, line)
			}
		}
	}
}

// What the environment says of addresses and of the key holds for the demo too.
func TestDemoSettings(t *testing.T) {
	t.Parallel()
	given := demoCommand{Listen: "localhost:0", OpsListen: "localhost:0", APIKey: apiKey, DataDir: t.TempDir()}
	s, moved, err := given.node(t.Context())
	if err != nil || moved != nil {
		t.Fatalf("got %v, moved: %v", err, moved)
	}
	if s.Listen != "localhost:0" || s.OpsListen != "localhost:0" || s.APIKey != apiKey {
		t.Errorf("got %s, %s and the key %q, want what was given", s.Listen, s.OpsListen, s.APIKey)
	}
	given.APIKey = ""
	if s, _, err = given.node(t.Context()); err != nil || !strings.HasPrefix(s.APIKey, "demo-") {
		t.Errorf("without a key: got %q (%v), want a new one", s.APIKey, err)
	}
}

// TestDemoFails breaks the sandbox as soon as the demo has named it.
func TestDemoFails(t *testing.T) {
	t.Parallel()
	fault, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "", strings.NewReader(`{"faults":[{"times":0,"answer":"unknown_user"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	fault.Header.Set("Content-Type", "application/json")
	out := &tripwire{act: func(box string) {
		fault.URL, err = fault.URL.Parse(box + "/sandbox/certainly")
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := client.Do(fault)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode >= http.StatusMultipleChoices {
			t.Errorf("switching the sandbox: got %s", resp.Status)
		}
	}}
	err = run(t.Context(), []string{"demo", "--once", "--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", "--data-dir", openDir(t)}, lookupIn(nil), out, io.Discard)
	wantRefusal(t, err, "the form", "was not resumed")
}

// tripwire is an output that acts on the line that names the sandbox, before
// the program goes on.
type tripwire struct {
	mu   sync.Mutex
	text bytes.Buffer
	act  func(box string)
}

var boxAddress = regexp.MustCompile(`the sandbox at (http://\S+)`)

func (w *tripwire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := boxAddress.FindSubmatch(p); m != nil {
		w.act(string(m[1]))
	}
	return w.text.Write(p)
}

// TestSandbox runs the stand-ins on their own, with a relay between.
func TestSandbox(t *testing.T) {
	t.Parallel()
	env := settingsOf(storetest.URL(t, true))
	n := startNode(t, env)
	env = maps.Clone(env)
	env["SANDBOX"] = startSandboxCommand(t, n, "--certainly-token", certainlyToken, "--webhook-secret", stripeSecret)
	mustRun(t, env, "apply", "-f", writeFile(t, "relay.yaml", configuration))
	payInSandbox(t, n, env["SANDBOX"])
}

// TestComposeConfiguration plays a checkout with the configuration of
// docker-compose.yml and a sandbox as it is there, only at other addresses.
func TestComposeConfiguration(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../deploy/compose/relay.yaml")
	if err != nil {
		t.Fatal(err)
	}
	env := settingsOf(storetest.URL(t, true))
	n := startNode(t, env)
	box := startSandboxCommand(t, n)
	elsewhere := strings.NewReplacer("http://sandbox:8090", box, "http://127.0.0.1:8090", box).Replace(string(raw))
	mustRun(t, env, "apply", "-f", writeFile(t, "relay.yaml", elsewhere))
	payInSandbox(t, n, box)
}

// TestSandboxDestinations calls every stand-in by the destinations of
// docs/platforms, as the sandbox is without flags.
func TestSandboxDestinations(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/platforms/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, yaml, _ := strings.Cut(string(page), "```yaml\n")
	yaml, _, _ = strings.Cut(yaml, "```")
	env := settingsOf(storetest.URL(t, true))
	n := startNode(t, env)
	box := startSandboxCommand(t, n)
	mustRun(t, env, "apply", "-f", writeFile(t, "relay.yaml", strings.ReplaceAll(yaml, "http://127.0.0.1:8090", box)))
	await(t, patience, "the node to know the destinations", func() bool {
		resp, _ := exchange(t, http.MethodGet, n.url+"/v1/destinations/home-made", http.Header{"Authorization": {"Bearer " + apiKey}}, "")
		return resp.StatusCode == http.StatusOK
	})
	exchange(t, http.MethodPost, box+"/sandbox/conversations/4711/say?platform=smartify", nil, `{"text": "hello"}`)
	for name, action := range map[string]object{
		"bot": {"text": "Done"}, "haptik": {"text": "Done"}, "agent": {"text": "Done"}, "usercom": {"text": "Done"}, "home-made": {"body": object{"done": true}},
	} {
		var reg wait
		n.call(t, http.MethodPost, "/v1/correlations", object{
			"user_id": "4711", "destination": name, "form": object{"fields": []object{{"name": "size", "label": "Size"}}}, "on": object{"default": action},
		}, &reg, http.StatusCreated)
		n.call(t, http.MethodPost, "/v1/correlations/"+reg.ID+"/cancel", nil, nil, http.StatusOK)
		if got := n.settled(t, reg.ID); len(got.Deliveries) != 1 || got.Deliveries[0].Status != "delivered" {
			t.Errorf("%s: got %+v, want one delivery, delivered", name, got.Deliveries)
		}
	}
}

// startSandboxCommand runs `relay sandbox` until the test ends and returns
// where it is.
func startSandboxCommand(t *testing.T, n *testNode, args ...string) string {
	t.Helper()
	out := newLogs()
	done := make(chan struct{})
	args = append([]string{"sandbox", "--address=127.0.0.1:0", "--webhook-url", n.url + "/in/default/stripe"}, args...)
	go func() {
		defer close(done)
		if err := run(t.Context(), args, lookupIn(nil), out, io.Discard); err != nil {
			t.Errorf("relay sandbox: %v", err)
		}
	}()
	t.Cleanup(func() { <-done }) // the test's context has ended by then
	await(t, patience, "the sandbox", func() bool { return strings.Contains(out.String(), "Overview") })
	for _, standIn := range []string{"/certainly", "/haptik", "/smartify", "/userengage", "/webhook/bot", "/stripe", "/mollie"} {
		if !regexp.MustCompile(`url http://\S+` + standIn).MatchString(out.String()) {
			t.Errorf("relay sandbox does not say where %s is: %s", standIn, out)
		}
	}
	if !strings.Contains(out.String(), "username "+sandbox.SmartifyUsername+", password "+sandbox.SmartifyPassword) {
		t.Errorf("relay sandbox does not say who may subscribe at Smartify: %s", out)
	}
	address := regexp.MustCompile(`base_url (http://\S+)/certainly`)
	return address.FindStringSubmatch(out.String())[1]
}

// payInSandbox waits for the flow checkout, pays on the sandbox's page and
// wants the sandbox's conversation resumed.
func payInSandbox(t *testing.T, n *testNode, box string) {
	t.Helper()
	await(t, patience, "the node to know the flow", func() bool {
		resp, _ := exchange(t, http.MethodGet, n.url+"/v1/flows/checkout", http.Header{"Authorization": {"Bearer " + apiKey}}, "")
		return resp.StatusCode == http.StatusOK
	})
	var reg wait
	n.call(t, http.MethodPost, "/v1/correlations", object{"user_id": "u-box", "flow": "checkout"}, &reg, http.StatusCreated)
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	exchange(t, http.MethodPost, box+"/pay/demo", form, "choice=pay&reference="+reg.Token+"&session=cs_test_1&intent=pi_1")
	if got := n.settled(t, reg.ID); got.Status != "completed" {
		t.Errorf("status: got %q, want completed by the pay page", got.Status)
	}
	await(t, patience, "the conversation", func() bool {
		_, text := exchange(t, http.MethodGet, box+"/sandbox/conversations/u-box", nil, "")
		return strings.Contains(text, `"resumed":1`) || strings.Contains(text, `"resumed": 1`)
	})
}
