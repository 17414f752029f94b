package bench

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// neighbourhoodOf makes the figures of one neighbour: twice as slow beside it
// once, and as fast another time.
func neighbourhoodOf() *Neighbourhood {
	phase := func(p50, p99 float64) Phase {
		return Phase{Name: "alone", Body: 1536, Count: 100, ResumeP50: p50, ResumeP99: p99}
	}
	return &Neighbourhood{Circumstances: Circumstances{Version: "abc", Machine: "one", Date: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)}, Neighbours: []*Neighbour{{
		Name: "hangs", About: "it hangs.", Pairs: []Beside{
			{Alone: phase(2, 10), Beside: phase(4, 20), Other: Stream{Accepted: 100, Calls: 74, Opened: true}},
			{Alone: phase(2, 40), Beside: phase(2, 40), Other: Stream{Accepted: 100, Calls: 76}},
		},
	}}}
}

// The ratio is the median of the pairs' own ratios, not that of the medians.
func TestNeighbourhoodTable(t *testing.T) {
	t.Parallel()
	var page, text strings.Builder
	neighbourhoodOf().Markdown(&page)
	neighbourhoodOf().Text(&text)
	for _, want := range []string{
		"Commit abc on one, 2026-01-02", "medians of 2 pairs [least–most]",
		"| hangs | 2.0 [2.0–2.0] | 3.0 [2.0–4.0] | 1.50 [1.00–2.00] | 25.0 [10.0–40.0] | 30.0 [20.0–40.0] | 1.50 [1.00–2.00] | " +
			"100 [100–100] | 75 [74–76] | 1 of 2 times |",
		"- hangs: it hangs.\n",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("got %s\nwant %q in it", page.String(), want)
		}
	}
	if !strings.Contains(text.String(), "1.50 [1.00–2.00]") {
		t.Errorf("got %s\nwant the ratio in it", text.String())
	}
}

// What was lost on either side, or refused of the neighbour's own, ends the
// bench with an error.
func TestWrongNeighbourhood(t *testing.T) {
	t.Parallel()
	if err := neighbourhoodOf().Wrong(); err != nil {
		t.Errorf("got %v of what was well", err)
	}
	for want, spoil := range map[string]func(*Beside){
		"beside one that hangs, alone: 7 of 100 lost":                func(b *Beside) { b.Beside.Lost = 7 },
		"beside one that hangs, alone: 0 of 100 lost, 1 resumed":     func(b *Beside) { b.Alone.Duplicates = 1 },
		"beside one that hangs, 3 of its own callbacks were refused": func(b *Beside) { b.Other.Refused = 3 },
	} {
		n := neighbourhoodOf()
		spoil(&n.Neighbours[0].Pairs[1])
		if err := n.Wrong(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestNeighboursPlans(t *testing.T) {
	t.Parallel()
	fine := NeighboursPlan{Plan: Plan{Duration: 100 * time.Millisecond, Body: minBody}, Rounds: 1, Rate: 10}
	if err := fine.check(); err != nil || fine.count() != 1 {
		t.Errorf("got %d callbacks, %v, want one", fine.count(), err)
	}
	for name, spoil := range map[string]func(*NeighboursPlan){
		"no time for a callback": func(p *NeighboursPlan) { p.Duration = 99 * time.Millisecond },
		"no round":               func(p *NeighboursPlan) { p.Rounds = 0 },
		"no rate":                func(p *NeighboursPlan) { p.Rate, p.Duration = 0.9, time.Minute },
		"too short a callback":   func(p *NeighboursPlan) { p.Body = minBody - 1 },
	} {
		p := fine
		if spoil(&p); p.check() == nil {
			t.Errorf("%s: got it accepted", name)
		}
	}
}

// A neighbour that hangs is found out about while it is measured.
func TestHangsFor(t *testing.T) {
	t.Parallel()
	for measured, want := range map[time.Duration]time.Duration{
		100 * time.Millisecond: time.Second,
		9 * time.Second:        4 * time.Second,
		time.Minute:            10 * time.Second,
	} {
		if got := hangsFor(measured); got != want {
			t.Errorf("measured for %s: got %s, want %s", measured, got, want)
		}
	}
}

// How many breakers are open is read from the relay's metrics.
func TestBreakersOpen(t *testing.T) {
	t.Parallel()
	metrics := "# TYPE relay_breakers_open gauge\nrelay_breakers_open 3\nrelay_x 7\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(metrics)) }))
	defer server.Close()
	b := newBench(Target{RelayOps: strings.TrimPrefix(server.URL, "http://")}, Plan{})
	if open, err := b.breakers(t.Context()); open != 3 || err != nil {
		t.Errorf("got %d, %v, want 3", open, err)
	}
	metrics = "relay_x 7\n"
	if _, err := b.breakers(t.Context()); err == nil {
		t.Error("metrics without it: got no error")
	}
}

// docs/performance.md tells of each neighbour and each of the figures.
func TestNeighboursAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## A neighbour that does not answer\n")
	section, _, _ = strings.Cut(section, "\n## ")
	titles := []string{breakerColumn}
	for _, f := range told {
		titles = append(titles, f.title)
	}
	for _, title := range titles {
		if !strings.Contains(section, "`"+title+"`") {
			t.Errorf("docs/performance.md does not say what %q means", title)
		}
	}
	for _, n := range neighbours() {
		if !strings.Contains(section, "- "+n.name+": "+n.about) {
			t.Errorf("docs/performance.md does not tell of the neighbour that %s, or tells of it as it was", n.name)
		}
	}
}
