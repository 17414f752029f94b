package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"testing"

	"relay.example/relay/internal/directory"
)

// TestLogNamesProjects holds that the log calls a project what people call it,
// and not by a number that is shown nowhere.
func TestLogNamesProjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	exchange(t, http.MethodPost, w.url+"/in/default/stripe", http.Header{"Stripe-Signature": {"t=1,v1=00"}}, `{}`)
	line := w.log.awaitLine(t, "callbacks are rejected: they are forged, or the source's secret is wrong", w.done)
	if line["project"] != "default" || line["source"] != "stripe" || line["project_id"] != nil {
		t.Errorf("got %v, want the project by its name", line)
	}
}

// TestLogKeepsIDs holds that nothing is lost of what the configuration does not
// have any more, nor of another attribute.
func TestLogKeepsIDs(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	drop := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	plain := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{ReplaceAttr: drop}))
	log := nameIn(func() *directory.Snapshot { return &directory.Snapshot{} }, plain)
	log.With("node", 1).WithGroup("of").Info("gone", "project_id", int64(7), "source_id", int64(8), "tries", 2)
	if got, want := text.String(), "level=INFO msg=gone node=1 of.project_id=7 of.source_id=8 of.tries=2\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
