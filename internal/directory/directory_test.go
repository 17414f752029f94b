package directory_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const publicURL = "https://relay.example"

// node is one node's directory, and the database behind it.
type node struct {
	*directory.Directory
	store *store.Store
	url   string
	keys  *seal.Ring
}

// newNode returns a node on a database of its own, with nothing configured.
func newNode(t *testing.T) *node {
	t.Helper()
	return join(t, storetest.URL(t, true), storetest.Keys(t))
}

// join returns one more node on a database.
func join(t *testing.T, url string, keys *seal.Ring) *node {
	t.Helper()
	s := storetest.Open(t, url, keys)
	d, err := directory.New(directory.Config{Store: s, PublicURL: publicURL, Policy: egress.Policy{}, Log: leaks.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.SetRefreshTimeout(patience)
	return &node{Directory: d, store: s, url: url, keys: keys}
}

// run keeps a node current until the test ends.
func (n *node) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// exec runs a statement behind the store's back.
func (n *node) exec(t *testing.T, sql string) {
	t.Helper()
	storetest.Query[int](t, n.url, `WITH x AS (`+sql+` RETURNING 1) SELECT count(*)::int FROM x`)
}

// patience is how long a test waits for what should come soon: longer than any
// machine stands still, since waiting costs nothing when it does come.
const patience = 2 * time.Minute

// eventually polls a condition that will be true soon.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// document builds a Document of the objects given as JSON, by kind.
func document(destinations, sources, flows []string) directory.Document {
	raw := func(list []string) (out []json.RawMessage) {
		for _, object := range list {
			out = append(out, json.RawMessage(object))
		}
		return out
	}
	return directory.Document{Destinations: raw(destinations), Sources: raw(sources), Flows: raw(flows)}
}

const (
	bot      = `{"name":"bot","platform":"certainly","token":"t-1"}`
	pay      = `{"name":"pay","provider":"generic-hmac","secret":"s-1"}`
	checkout = `{"name":"checkout","destination":"bot","source":"pay","on":{"completed":{"module_id":5}}}`
)

func list(objects ...string) []string { return objects }

// apply applies one document that must be taken, and returns its edits in
// short.
func (n *node) apply(t *testing.T, doc directory.Document, o directory.Options) []string {
	t.Helper()
	edits, err := n.Apply(t.Context(), []directory.Document{doc}, o)
	if err != nil {
		t.Fatal(err)
	}
	return short(edits)
}

func short(edits []directory.Edit) []string {
	out := []string{}
	for _, e := range edits {
		line := e.Verb + " " + string(e.Kind) + " " + e.Name
		if len(e.Fields) > 0 {
			line += ": " + strings.Join(e.Fields, ",")
		}
		out = append(out, line)
	}
	return out
}

func (n *node) project(t *testing.T) *directory.Project {
	t.Helper()
	p := n.Current().Project(relay.DefaultProject)
	if p == nil {
		t.Fatal("there is no default project")
	}
	return p
}

// configured returns a node with a destination, a source and a flow.
func configured(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	n.apply(t, document(list(bot), list(pay), list(checkout)), directory.Options{})
	return n
}
