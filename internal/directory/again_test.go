package directory_test

import (
	"errors"
	"testing"
	"time"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// batchPreset reads bodies of several events.
const batchPreset = `{"name": "batch", "auth": {"alg": "token", "sig": {"from": "query:key"}}, "each": "[*]",
	"id": "{item:id}", "type": "{item:type}", "outcome": [{"type": "paid", "is": "completed"}],
	"correlation": ["path", "query:ref", "item:ref", "header:X-Ref"]}`

// withBatches returns a node with a source that takes batches.
func withBatches(t *testing.T) (*node, *directory.Source) {
	t.Helper()
	n := newNode(t)
	err := n.store.Configure(t.Context(), func(c *store.Change) error {
		project, err := c.PutProject(t.Context(), "shop")
		if err != nil {
			return err
		}
		_, err = c.PutSource(t.Context(), relay.Source{ProjectID: project, Name: "batch", Provider: relay.InlineProvider, Preset: []byte(batchPreset)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	src := n.Current().Project("shop").Source("batch")
	if src.Err != nil {
		t.Fatal(src.Err)
	}
	return n, src
}

// What was kept of a request is what is read again: path, query, headers, and
// which event of the body it was.
func TestReadAgain(t *testing.T) {
	t.Parallel()
	n, src := withBatches(t)
	if got := src.Endpoint.CredentialQuery(); got != "key" {
		t.Errorf("the parameter that is the secret: got %q, want key", got)
	}
	kept := relay.Callback{
		ProjectID: src.ProjectID, SourceID: src.ID, Verdict: relay.Verified, Item: 1,
		Body:    []byte(`[{"id": "1", "type": "paid", "ref": "a"}, {"id": "2", "type": "paid", "ref": "b"}]`),
		Headers: []byte(`{"X-Ref": "h"}`), PathToken: "p", Query: "ref=q",
	}
	got, err := n.Current().ReadAgain(kept, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, c := range got.Reading.Candidates {
		values = append(values, c.Value)
	}
	if len(values) != 4 || values[0] != "p" || values[1] != "q" || values[2] != "b" || values[3] != "h" || got.Reading.EventID != "2" || got.Verdict != relay.Verified {
		t.Errorf("got %v of the event %q, %s; want what path, query, the second event and the header hold", values, got.Reading.EventID, got.Verdict)
	}
	for name, change := range map[string]func(*relay.Callback){
		"an event that the body does not hold":          func(c *relay.Callback) { c.Item = 2 },
		"a body of several that was kept as one":        func(c *relay.Callback) { c.Item, c.Reason = 0, "not_json" },
		"a source that is gone":                         func(c *relay.Callback) { c.SourceID = -1 },
		"headers that are damaged":                      func(c *relay.Callback) { c.Headers = []byte("{") },
		"a forgery, whose credential was not even kept": func(c *relay.Callback) { c.Verdict = relay.Rejected },
	} {
		c := kept
		change(&c)
		if _, err := n.Current().ReadAgain(c, time.Now()); err == nil {
			t.Errorf("%s was read: want it left as it is", name)
		}
	}
	forged := kept
	forged.Verdict = relay.Rejected
	var rejection *provider.Rejection
	if _, err := n.Current().ReadAgain(forged, time.Now()); !errors.As(err, &rejection) {
		t.Errorf("a forgery: got %v, want the rejection", err)
	}
	kept.Body = []byte("no JSON")
	if got, err := n.Current().ReadAgain(kept, time.Now()); err != nil || got.Reason != provider.NotJSON || got.Reading.Outcome != "" {
		t.Errorf("a body that cannot be read: got reason %q, %v; want %s", got.Reason, err, provider.NotJSON)
	}
}
