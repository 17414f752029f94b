package remote_test

import (
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/remote"
	"relay.example/relay/internal/sandbox"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// password must never stand in a log or a row.
const password = "never-told-0123456789"

const username = "admin@shop.example"

// shop is a project with a destination at the stand-in for Smartify.
type shop struct {
	url  string
	keys string
	box  *sandbox.Sandbox
	base string
	log  *leaks.Log

	mu   sync.Mutex
	made func() // runs between what makes a subscription and its answer
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{url: storetest.URL(t, true), keys: seal.NewKey(), log: &leaks.Log{}}
	s.box = sandbox.New(sandbox.Config{Smartify: sandbox.SmartifyAccount{Username: username, Password: password}})
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(server.Close)
	s.base = server.URL + "/smartify"
	t.Cleanup(func() {
		for _, secret := range append(s.secrets(), password) {
			if strings.Contains(s.log.String(), secret) {
				t.Errorf("the log holds %q: %s", secret, s.log)
			}
			if got := storetest.Query[int](t, s.url, `SELECT count(*) FROM remote_subscriptions r WHERE r::text LIKE '%' || $1 || '%'`, secret); got > 0 {
				t.Errorf("%d rows hold %q in clear", got, secret)
			}
		}
	})
	return s
}

// serve is the platform, with what happens between a subscription and its
// answer.
func (s *shop) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	made := s.made
	s.mu.Unlock()
	if made == nil || r.Method != http.MethodPost {
		s.box.ServeHTTP(w, r)
		return
	}
	answer := httptest.NewRecorder()
	s.box.ServeHTTP(answer, r)
	made()
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func (s *shop) onMade(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made = f
}

// loseAnswer has the next subscription made, and not answered.
func (s *shop) loseAnswer(t *testing.T) {
	t.Helper()
	check(t, s.box.Switch(sandbox.Smartify, sandbox.Switches{Faults: []sandbox.Fault{
		{Answer: "reset", Times: 1, Match: sandbox.Match{Path: "/subscriptions", Method: "POST"}},
	}}))
}

// secrets are what the platform was told and has told.
func (s *shop) secrets() (list []string) {
	for _, sub := range s.box.SmartifySubscriptions() {
		list = append(list, sub.Secret)
		if key := keyOf(sub.Target); key != "" {
			list = append(list, key)
		}
	}
	return list
}

func keyOf(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	return u.Query().Get("key")
}

// node is what keeps subscriptions, and its view of the configuration.
type node struct {
	*remote.Keeper
	directory *directory.Directory
	store     *store.Store
	shop      *shop
}

func (s *shop) node(t *testing.T) *node { return s.nodeAt(t, "https://relay.example") }

func (s *shop) nodeAt(t *testing.T, publicURL string) *node {
	t.Helper()
	log := slog.New(slog.NewJSONHandler(leaks.Watch(t, s.log), &slog.HandlerOptions{Level: slog.LevelDebug}))
	ring, err := seal.ParseRing(s.keys)
	check(t, err)
	n := &node{store: storetest.Open(t, s.url, ring), shop: s}
	policy, err := egress.ParsePolicy("true")
	check(t, err)
	client := egress.New(egress.Config{Policy: policy})
	t.Cleanup(client.Close)
	n.directory, err = directory.New(directory.Config{Store: n.store, PublicURL: publicURL, Policy: policy, Log: log})
	check(t, err)
	check(t, n.directory.Load(t.Context()))
	n.Keeper, err = remote.New(remote.Config{Store: n.store, Directory: n.directory, Client: client, PublicURL: publicURL, Log: log})
	check(t, err)
	return n
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type object = map[string]any

// put saves an object of the project default.
func (n *node) put(t *testing.T, kind directory.Kind, of object) {
	t.Helper()
	check(t, n.tryPut(t, kind, of))
}

func (n *node) tryPut(t *testing.T, kind directory.Kind, of object) error {
	t.Helper()
	raw, err := json.Marshal(of)
	check(t, err)
	return n.directory.Put(t.Context(), "default", kind, raw)
}

// bot is the destination.
func (s *shop) bot(more object) object {
	out := object{"name": "bot", "platform": "smartify", "base_url": s.base, "project_id": sandbox.SmartifyProject, "username": username, "password": password}
	for name, value := range more {
		out[name] = value
	}
	return out
}

// chat is the source, subscribed to some events.
func chat(events ...string) object {
	out := object{"name": "chat", "provider": "smartify"}
	if events != nil {
		out["subscribe"] = object{"destination": "bot", "events": events}
	}
	return out
}

// subscribed saves both.
func (n *node) subscribed(t *testing.T, events ...string) {
	t.Helper()
	n.put(t, directory.KindDestination, n.shop.bot(nil))
	n.put(t, directory.KindSource, chat(events...))
}

// keep has a node do what is due, and says how many rows it wants there. It
// knows of no slow platform: this machine may have been slow before.
func (n *node) keep(t *testing.T, want int) {
	t.Helper()
	n.ForgetSlow()
	n.keepOn(t, want)
}

// keepOn is keep with what the passes before have learned.
func (n *node) keepOn(t *testing.T, want int) {
	t.Helper()
	got, err := n.KeepOnce(t.Context())
	check(t, err)
	if got != want {
		t.Errorf("keeping once: took %d subscriptions, want %d", got, want)
	}
}

// due makes all rows due, as if their time had come.
func (s *shop) due(t *testing.T) {
	t.Helper()
	storetest.Exec(t, s.url, `UPDATE remote_subscriptions SET due_at = now() - interval '1 second'`)
}

// targets lists the events and addresses subscribed to at the platform.
func (s *shop) targets() []string {
	list := []string{}
	for _, sub := range s.box.SmartifySubscriptions() {
		address, _, _ := strings.Cut(sub.Target, "&key=")
		list = append(list, sub.Event+" "+address)
	}
	slices.Sort(list)
	return list
}

const target = "https://relay.example/in/default/chat?event="

// wantTargets holds what is subscribed to.
func (s *shop) wantTargets(t *testing.T, want ...string) {
	t.Helper()
	if got := s.targets(); !slices.Equal(got, append([]string{}, want...)) {
		t.Errorf("at the platform: got %q, want %q", got, want)
	}
}

// source is the source as the node knows it.
func (n *node) source(t *testing.T) *directory.Source {
	t.Helper()
	check(t, n.directory.Load(t.Context()))
	return n.directory.Current().Project("default").Source("chat")
}

// warnings are those of the flow.
func (n *node) warnings(t *testing.T) string {
	t.Helper()
	check(t, n.directory.Load(t.Context()))
	return strings.Join(n.directory.Current().Project("default").Flow("address").Resolved.Warnings, "; ")
}

// wantLastError holds what the source says was last wrong with it.
func (s *shop) wantLastError(t *testing.T, want string) {
	t.Helper()
	got := storetest.Query[string](t, s.url, `SELECT coalesce(string_agg(last_error, ', '), '') FROM source_activity`)
	if got != want {
		t.Errorf("last_error: got %q, want %q", got, want)
	}
}

// wantRow holds how the one row stands.
func (s *shop) wantRow(t *testing.T, want string) {
	t.Helper()
	got := storetest.Query[string](t, s.url, `
		SELECT coalesce(string_agg(concat_ws(' ', event, CASE WHEN unwanted_at IS NULL THEN 'wanted' ELSE 'unwanted' END,
		    CASE WHEN remote_id IS NOT NULL AND secret_id IS NOT NULL THEN 'known' END, failures, last_error), ', ' ORDER BY event, place), '')
		FROM remote_subscriptions`)
	if got != want {
		t.Errorf("the rows: got %q, want %q", got, want)
	}
}
