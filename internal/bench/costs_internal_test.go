package bench

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// A difference is one where nearly all measurements agree that it is.
func TestDifference(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		with, without spread
		want          string
	}{
		{"all above", spread{5, 6, 7, 8}, spread{1, 2, 3, 4}, "+4.0 (+160 %)"},
		{"all below", spread{1, 2, 3, 4}, spread{5, 6, 7, 8}, "-4.0 (-62 %)"},
		{"three in thirty-six odd", spread{4.5, 11, 12, 13, 14, 15}, spread{2, 3, 4, 5, 6, 7}, "+8.0 (+178 %)"},
		{"four in thirty-six odd", spread{3.5, 11, 12, 13, 14, 15}, spread{2, 3, 4, 5, 6, 7}, "+8.0, noise"},
		{"mixed", spread{1, 3, 5, 7}, spread{2, 4, 6, 8}, "-1.0, noise"},
		{"equal", spread{2, 2, 2, 2}, spread{2, 2, 2, 2}, "+0.0, noise"},
		{"few", spread{5, 6, 7}, spread{1, 2, 3}, "+4.0, too few runs"},
		{"from nothing", spread{5, 6, 7, 8}, spread{0, 0, 0, 0}, "+6.5"},
		{"not known", nil, spread{1, 2, 3, 4}, "–"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := difference(c.with, c.without, 1); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// costsOf makes the costs of one pair: CPU and latency with, and a tenth less
// without.
func costsOf(registers bool) *Costs {
	sample := func(v float64) Sample {
		images, body := 500.0, 1536
		if registers {
			body = 0
		}
		return Sample{
			Busy:  Phase{Name: "busy", Body: body, RelayCPU: v / 2, PostgresCPU: v / 2, WAL: 3500, FullPages: &images, Accepted: 900, Resumed: 800},
			Quiet: Phase{Name: "quiet", Body: body, AckP50: v, ResumeP50: v + 1, AckP99: 2 * v, ResumeP99: 3 * v},
		}
	}
	p := &Pair{Name: "order (12)", About: "this beside that.", Registers: registers}
	for i := range 4 {
		v := 1 + float64(i)/1000
		p.With, p.Without = append(p.With, sample(v)), append(p.Without, sample(0.9*v))
	}
	return &Costs{Circumstances: Circumstances{Version: "abc", Machine: "one", Date: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)}, Pairs: []*Pair{p}}
}

func TestCostTables(t *testing.T) {
	t.Parallel()
	var page, text strings.Builder
	costsOf(false).Markdown(&page)
	costsOf(true).Text(&text)
	for _, want := range []string{
		"Commit abc on one, 2026-01-02", "4 measurements of each side [least–most]; foreign and stolen cores 0.00 [0.00–0.00].",
		"| order (12) | +0.100 (+11 %) | +0, noise | +0, noise | +0, noise | +0.10 (+5 %) | +0.3 (+11 %) |",
		"| order (12): CPU s/1000 | 1.002 [1.000–1.003] | 0.901 [0.900–0.903] | +0.100 (+11 %) |",
		"| order (12): WAL records B | 3,000 [3,000–3,000] |", "| order (12): done/s | 800 [",
		"- order (12): this beside that.\n", "- " + unpriced[0],
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("got %s\nwant %q in it", page.String(), want)
		}
	}
	if want := "order (12): done/s"; !strings.Contains(text.String(), want) || !strings.Contains(text.String(), "900 [900–900]") {
		t.Errorf("got %s\nwant %q in it, of what was accepted", text.String(), want)
	}
}

// Costs with a loss in them end the bench with an error.
func TestWrongCosts(t *testing.T) {
	t.Parallel()
	c := costsOf(false)
	if err := c.Wrong(); err != nil {
		t.Errorf("got %v of what was well", err)
	}
	c.Pairs[0].Without[3].Quiet.Lost = 7
	if err := c.Wrong(); err == nil || !strings.Contains(err.Error(), "order (12), quiet: 7 of 0 lost") {
		t.Errorf("got %v, want the loss named", err)
	}
}

// Each pair says what it compares, and its two sides differ in something.
func TestPairs(t *testing.T) {
	t.Parallel()
	all, err := Pairs()
	if err != nil || len(all) < 10 {
		t.Fatalf("got %q, %v", all, err)
	}
	for _, p := range pairs() {
		if strings.Count(strings.Join(all, "\n")+"\n", p.name+"\n") != 1 || !strings.HasSuffix(p.about, ".") || !strings.Contains(p.about, ", beside ") || !strings.Contains(p.about, "It stands for ") {
			t.Errorf("%s: got %q, want a name of its own, and what is set beside what", p.name, p.about)
		}
		for _, s := range []side{p.with, p.without} {
			if s.one == nil || s.manner.flow == "" || s.manner.source == "" {
				t.Errorf("%s: got a side without a request, a flow or a source", p.name)
			}
		}
		word, _, _ := strings.Cut(p.name, " (")
		if got, err := Pairs(word); err != nil || len(got) != 1 || got[0] != p.name {
			t.Errorf("%q: got %q, %v", word, got, err)
		}
	}
	if _, err := Pairs("genuine", "nothing"); err == nil || !strings.Contains(err.Error(), `"nothing"`) || !strings.Contains(err.Error(), `"superseding"`) {
		t.Errorf("got %v, want the one that is not there, and those that are", err)
	}
}

func TestPairPlans(t *testing.T) {
	t.Parallel()
	fine := PairPlan{Plan: Plan{Duration: 20 * time.Millisecond, Connections: []int{8}, Body: minBody}, Rounds: 1, Callbacks: 1}
	if err := fine.check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*PairPlan){
		"no time for a quiet callback": func(p *PairPlan) { p.Duration = 19 * time.Millisecond },
		"no round":                     func(p *PairPlan) { p.Rounds = 0 },
		"no callback":                  func(p *PairPlan) { p.Callbacks = 0 },
		"no connection":                func(p *PairPlan) { p.Connections = nil },
		"a connection too few":         func(p *PairPlan) { p.Connections = []int{8, 0} },
		"too short a callback":         func(p *PairPlan) { p.Body = minBody - 1 },
	} {
		p := fine
		if spoil(&p); p.check() == nil {
			t.Errorf("%s: got it accepted", name)
		}
	}
}

// reader reads callbacks as a source does.
func reader(t *testing.T, p *provider.Preset) func([]byte) relay.Reading {
	t.Helper()
	e, err := p.Endpoint(provider.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return func(body []byte) relay.Reading {
		readings, err := e.Read(&provider.Request{Method: http.MethodPost, Body: body})
		if err != nil || len(readings) != 1 {
			t.Fatalf("reading %s: got %d, %v", body, len(readings), err)
		}
		return readings[0]
	}
}

// A short callback says what a long one says: the pair differs in length alone.
func TestShortCallback(t *testing.T) {
	t.Parallel()
	stripe, _ := provider.Lookup("stripe")
	read := reader(t, stripe)
	var made event
	for user := range 100 {
		token := relay.NewToken()
		body := made.writeShort(1, user, token)
		if !json.Valid(body) || len(body) < shortBody-30 || len(body) > shortBody+30 {
			t.Fatalf("got %d bytes, want about %d of JSON: %s", len(body), shortBody, body)
		}
		r := read(body)
		p := r.Payment
		if r.Outcome != relay.Completed || r.Candidates[0].Value != token || len(r.References) != 2 || r.EventID == "" ||
			p.Currency != "EUR" || p.ID == "" || p.Email == "" || p.Method != "card" || p.Live == nil || !*p.Live {
			t.Fatalf("user %d: got %+v, %+v", user, r, p)
		}
	}
}

// Stripe's preset without its references reads everything else alike.
func TestStripeWithout(t *testing.T) {
	t.Parallel()
	stripe, _ := provider.Lookup("stripe")
	spec, err := stripeWithout("references", "ask", "secret")
	if err != nil {
		t.Fatal(err)
	}
	spec["auth"] = map[string]any{"alg": "none"}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := provider.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if bare.Signed() || !stripe.Signed() {
		t.Error("got a signature asked for, want none")
	}
	body := new(event).write(1, 1, relay.NewToken(), minBody)
	want, got := reader(t, stripe)(body), reader(t, bare)(body)
	if len(want.References) != 2 || len(got.References) != 0 {
		t.Errorf("got the references %v and %v, want them with the preset of before only", want.References, got.References)
	}
	want.References = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("without references (-want +got):\n%s", diff)
	}
}

// A request that is made at most so often says when there is nothing left.
func TestAtMost(t *testing.T) {
	t.Parallel()
	made := 0
	one := atMost(2, func(*conn) (int, int, bool, error) {
		made++
		return made, http.StatusOK, true, nil
	})
	for i := range 4 {
		if _, _, more, err := one(nil); more != (i < 2) || err != nil {
			t.Errorf("the %d. time: got %t, %v", i+1, more, err)
		}
	}
	if made != 2 {
		t.Errorf("got %d requests, want 2", made)
	}
}

// docs/performance.md tells of each pair and each of its figures.
func TestCostsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## What each promise costs\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, f := range priced {
		if !strings.Contains(section, "`"+f.title+"`") {
			t.Errorf("docs/performance.md does not say what %q means", f.title)
		}
	}
	for _, p := range pairs() {
		if !strings.Contains(section, "- "+p.name+": "+p.about) {
			t.Errorf("docs/performance.md does not tell of the pair %q, or tells of it as it was", p.name)
		}
	}
}
