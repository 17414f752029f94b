package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"relay.example/relay/internal/bench"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// docs/performance.md tells of every flag of the commands that measure.
func TestBenchIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(&commands{}, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, command := range parser.Model.Children {
		if command.Name != "bench" {
			continue
		}
		for _, sub := range command.Children {
			for _, flag := range sub.Flags {
				setting := slices.ContainsFunc(settings, func(s setting) bool { return s.flag == flag.Name }) // README tells of those
				if found++; !setting && !strings.Contains(string(page), "--"+flag.Name) {
					t.Errorf("docs/performance.md does not tell of relay bench %s --%s", sub.Name, flag.Name)
				}
			}
		}
	}
	if found < 12 {
		t.Errorf("found %d flags of relay bench, want them all", found)
	}
}

// What a measurement says where a relay had to refuse something, and what it
// says where a promise was broken.
var (
	refused = regexp.MustCompile(`\b[1-9]\d*( [a-z ]+ were)? refused`)
	broken  = regexp.MustCompile(`\b[1-9]\d* of \d+ lost|lost, [1-9]\d* resumed twice`)
)

// measured has the program measure. A relay refuses where its machine stands
// still for seconds: then nothing was measured, and it is done again.
func measured(t *testing.T, program string, args ...string) {
	t.Helper()
	for tries := 1; ; tries++ {
		out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
		if err == nil {
			return
		}
		if tries == 5 || !refused.Match(out) || broken.Match(out) {
			t.Fatalf("measuring, for the %d. time: %v\n%s", tries, err, out)
		}
	}
}

// A pair of each kind can be measured, both sides of it, and what was measured
// is written down.
func TestBenchPromises(t *testing.T) {
	t.Parallel()
	program, dir := build(t), t.TempDir()
	kept, page := filepath.Join(dir, "promises.json"), filepath.Join(dir, "promises.md")
	names, err := bench.Pairs("genuine", "durable before the answer", "money is never silent", "superseding", "subscribers are told")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{
		"bench", "promises", "--callbacks", "40", "--duration", "40ms", "--connections", "8",
		"--json", kept, "--markdown", page,
	}
	for _, name := range names {
		args = append(args, "--only", name)
	}
	measured(t, program, args...)
	raw, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	var costs bench.Costs
	if err := json.Unmarshal(raw, &costs); err != nil {
		t.Fatal(err)
	}
	if len(costs.Pairs) != len(names) {
		t.Fatalf("got %d pairs, want %d", len(costs.Pairs), len(names))
	}
	tables, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range costs.Pairs {
		for _, s := range slices.Concat(p.With, p.Without) {
			if p.Name != names[i] || s.Busy.Count != 40 || s.Quiet.Count != 2 || s.Busy.WAL <= 0 || p.Registers == (s.Busy.ResumeP50 > 0) {
				t.Errorf("%s: got %+v, want 40 and 2 requests, and what they cost", names[i], s)
			}
		}
		if len(p.With) != 2 || len(p.Without) != 2 || !strings.Contains(string(tables), "| "+p.Name+" |") {
			t.Errorf("%s: got %d measurements with and %d without, want 2 of each, and a row in %s", p.Name, len(p.With), len(p.Without), tables)
		}
	}
	if out, err := exec.CommandContext(t.Context(), program, "bench", "promises", "--only", "nothing").CombinedOutput(); err == nil || !strings.Contains(string(out), "genuine") {
		t.Errorf("a pair that is not there: got %v, %s, want those that are named", err, out)
	}
}

// A healthy destination is measured alone and beside each neighbour, in as many
// rounds as asked for, and what was measured is written down.
func TestBenchNeighbours(t *testing.T) {
	t.Parallel()
	program, dir := build(t), t.TempDir()
	kept, page := filepath.Join(dir, "neighbours.json"), filepath.Join(dir, "neighbours.md")
	args := []string{"bench", "neighbours", "--rate", "100", "--duration", "500ms", "--runs", "2", "--json", kept, "--markdown", page}
	measured(t, program, args...)
	raw, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	var found bench.Neighbourhood
	if err := json.Unmarshal(raw, &found); err != nil {
		t.Fatal(err)
	}
	tables, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Neighbours) != 4 {
		t.Fatalf("got %d neighbours, want 4", len(found.Neighbours))
	}
	for _, n := range found.Neighbours {
		if len(n.Pairs) != 2 || !strings.Contains(string(tables), "| "+n.Name+" |") {
			t.Errorf("%s: got %d pairs, want 2, and a row in %s", n.Name, len(n.Pairs), tables)
		}
		for _, p := range n.Pairs {
			if p.Alone.Count != 50 || p.Beside.Count != 50 || p.Alone.ResumeP99 <= 0 || p.Beside.ResumeP99 <= 0 || p.Other.Accepted != 50 {
				t.Errorf("%s: got %+v, want 50 callbacks of each, and when they were resumed", n.Name, p)
			}
			// One that hangs has not ended a call when the load ends.
			if n.Name != "hangs" && p.Other.Calls == 0 || n.Name == "answers" && p.Other.Opened {
				t.Errorf("%s: got %+v of its own, want calls, and no breaker that opens where they are answered", n.Name, p.Other)
			}
		}
	}
}

// A filled database holds what was asked for, in rows that a relay works with
// as with its own, and is not filled again.
func TestBenchFill(t *testing.T) {
	t.Parallel()
	program, url, key := build(t), storetest.URL(t, false), seal.NewKey()
	fill := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), program, "bench", "fill", "--database-url", url, "--encryption-key", key,
			"--correlations", "30", "--events", "40")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := fill(); err != nil {
		t.Fatalf("filling: %v\n%s", err, out)
	}
	for what, c := range map[string]struct {
		sql  string
		want int
	}{
		// One more of each is what the others are copies of.
		"pending waits":          {`SELECT count(*) FROM correlations WHERE status = 'pending' AND key LIKE 'order%'`, 31},
		"closed waits":           {`SELECT count(*) FROM correlations WHERE status = 'completed'`, 21},
		"deadlines":              {`SELECT count(*) FROM deadlines d JOIN correlations c ON c.id = d.correlation_id AND c.expires_at = d.expires_at`, 31},
		"overdue ones":           {`SELECT count(*) FROM deadlines WHERE expires_at < now()`, 0},
		"keys":                   {`SELECT count(*) FROM correlation_refs WHERE key_active`, 31},
		"references":             {`SELECT count(*) FROM correlation_refs WHERE key_active IS NULL`, 42},
		"events that closed":     {`SELECT count(*) FROM events e JOIN correlations c ON c.event_id = e.id WHERE e.match = 'matched'`, 21},
		"events that came after": {`SELECT count(*) FROM events WHERE match = 'duplicate' AND correlation_id IS NOT NULL`, 21},
		"deliveries":             {`SELECT count(*) FROM deliveries d JOIN events e ON e.id = d.event_id WHERE d.status = 'delivered'`, 21},
		"ids that are no UUIDv7": {`SELECT count(*) FROM (SELECT id FROM correlations UNION SELECT id FROM events UNION SELECT id FROM deliveries) x WHERE substr(id::text, 15, 1) <> '7'`, 0},
		"deadlines apart":        {`SELECT count(DISTINCT date_trunc('hour', expires_at)) FROM deadlines`, 31},
		"bodies of old events":   {`SELECT count(*) FROM events WHERE body IS NOT NULL AND received_at < now() - interval '31 days'`, 0},
	} {
		if got := storetest.Query[int](t, url, c.sql); got != c.want {
			t.Errorf("%s: got %d, want %d", what, got, c.want)
		}
	}
	source := storetest.Query[int64](t, url, `SELECT source_ids[1] FROM correlations WHERE user_id = 'p-7'`)
	if n := storetest.Query[int](t, url, `
		SELECT count(*) FROM correlation_refs r JOIN correlations c ON c.id = r.correlation_id
		WHERE c.user_id = 'p-7' AND r.ref = $1`, store.RefHash(source, "order-7")); n != 1 {
		t.Errorf("the key of a filled wait: got %d names that a callback would find it by, want 1", n)
	}

	p := startProcess(t, program, map[string]string{
		"DATABASE_URL": url, "RELAY_ENCRYPTION_KEY": key, "RELAY_API_KEY": apiKey, "RELAY_LISTEN": "127.0.0.1:0",
		"RELAY_OPS_LISTEN": "127.0.0.1:0", "RELAY_ALLOW_PRIVATE_TARGETS": "true", "RELAY_DRAIN_DELAY": "0s", "RELAY_LOG": "json",
	})
	id := storetest.Query[string](t, url, `SELECT id::text FROM correlations WHERE user_id = 'c-7'`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/v1/correlations/"+id, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	shown, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(shown), string(relay.Delivered)) {
		t.Errorf("a filled wait: got %d, %s, %v", resp.StatusCode, shown, err)
	}

	if out, err := fill(); err == nil || !strings.Contains(out, "is in use") {
		t.Errorf("filling again: got %v, %s, want it refused", err, out)
	}
}
