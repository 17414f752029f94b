package store_test

import (
	"testing"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// A probe sees the WAL grow, and tells whole pages, which the first change
// after a checkpoint writes, from the rest.
func TestProbe(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, false)
	p := must(store.OpenProbe(t.Context(), url))(t)
	defer p.Close(t.Context())
	storetest.Exec(t, url, `CREATE TABLE pages (id integer, filler text)`)
	storetest.Exec(t, url, `INSERT INTO pages SELECT i, repeat('x', 100) FROM generate_series(1, 1000) i`)
	if err := p.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := must(p.WAL(t.Context()))(t)
	storetest.Exec(t, url, `SET synchronous_commit = on; UPDATE pages SET filler = 'y'`)
	after := must(p.WAL(t.Context()))(t)
	images, known, err := p.FullPages(t.Context(), before, after)
	if err != nil {
		t.Fatal(err)
	}
	parameters := must(p.Parameters(t.Context()))(t)
	for _, name := range []string{"server_version", "fsync", "shared_buffers", "full_page_writes"} {
		if parameters[name] == "" {
			t.Errorf("got the settings %v, want %s among them", parameters, name)
		}
	}
	// Others write to the same server meanwhile: there may be more.
	grown, least := after-before, int64(0)
	if known && parameters["full_page_writes"] == "on" {
		least = 50_000
	}
	if grown < 50_000 || images < least || images > grown {
		t.Errorf("got %d bytes of WAL, %d of them whole pages, want 50,000 and %d or more", grown, images, least)
	}
	if n, _, err := p.FullPages(t.Context(), after, after); n != 0 || err != nil {
		t.Errorf("between one position and the same: got %d, %v", n, err)
	}
}

// What is owed to one destination is given up, with its slots; what is owed to
// another stays.
func TestProbeGivesUp(t *testing.T) {
	t.Parallel()
	p, url := project(t)
	probe := must(store.OpenProbe(t.Context(), url))(t)
	defer probe.Close(t.Context())
	d := tell(t, p, p.Wait(t, "u-1"), 2)[0]
	if r := must(p.Store.RecordAttempts(t.Context(), []relay.Attempt{attemptAt(&d, relay.Retry)}))(t); r[0].Stale {
		t.Fatal("the attempt was not recorded")
	}
	if calls, err := probe.GiveUp(t.Context(), "another"); calls != 0 || err != nil {
		t.Errorf("another destination: got %d calls, %v, want none", calls, err)
	}
	owed := `SELECT count(*) FROM deliveries WHERE status = 'scheduled'`
	if got := storetest.Query[int](t, url, owed); got != 2 {
		t.Errorf("%d are owed after another destination was given up, want 2", got)
	}
	name := destinationOf(t, p).Name
	if calls, err := probe.GiveUp(t.Context(), name); calls != 1 || err != nil {
		t.Errorf("got %d calls, %v, want 1", calls, err)
	}
	noSlotsLeft(t, url)
}
