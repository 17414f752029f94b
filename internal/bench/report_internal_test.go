package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// report makes one of runs that differ in one figure of one phase.
func reportOf(set func(*Phase, float64), values ...float64) *Report {
	r := &Report{Circumstances: Circumstances{Version: "abc", Machine: "one", Date: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Settings: "s"}}
	for _, v := range values {
		p := Phase{Name: sustainedName, Body: 1536, Accepted: 1000, Resumed: 1000, RelayCPU: 0.1, PostgresCPU: 0.1, WAL: 4000, ResumeP99: 20}
		set(&p, v)
		r.Runs = append(r.Runs, Result{Phases: []Phase{p}, Limits: []Limit{{"limit", v, "/s"}}})
	}
	return r
}

func TestMedians(t *testing.T) {
	t.Parallel()
	r := reportOf(func(p *Phase, v float64) { p.Resumed = v }, 12000, 9000.4, 10000)
	if got, want := r.of(sustainedName, resumed).text(0), "10,000 [9,000–12,000]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, c := range []struct {
		s        spread
		decimals int
		want     string
	}{
		{nil, 0, "–"}, {spread{0.1234}, 3, "0.123"}, {spread{1234567.8}, 1, "1,234,567.8"}, {spread{1, 2}, 1, "1.5 [1.0–2.0]"}, {spread{-123456}, 0, "-123,456"},
	} {
		if got := c.s.text(c.decimals); got != c.want {
			t.Errorf("%v: got %q, want %q", c.s, got, c.want)
		}
	}
}

// A figure is called worse when it is so by more than is allowed, and in all
// runs.
func TestCompare(t *testing.T) {
	t.Parallel()
	cpu := func(p *Phase, v float64) { p.RelayCPU = v }
	rate := func(p *Phase, v float64) { p.Resumed, p.Accepted = v, 1000 }
	p99 := func(p *Phase, v float64) { p.ResumeP99 = v }
	for _, c := range []struct {
		name      string
		set       func(*Phase, float64)
		kept, now []float64
		want      string // "" nothing is worse
	}{
		{"the same", cpu, []float64{0.1, 0.11, 0.12}, []float64{0.1, 0.11, 0.12}, ""},
		{"more CPU in all runs", cpu, []float64{0.1, 0.11, 0.12}, []float64{0.16, 0.17, 0.18}, "worse: CPU/1000"},
		{"more CPU, but not in all runs", cpu, []float64{0.1, 0.11, 0.17}, []float64{0.16, 0.17, 0.18}, ""},
		{"less CPU", cpu, []float64{0.2}, []float64{0.1}, ""},
		{"slower", rate, []float64{1000, 1010, 990}, []float64{800, 810, 790}, "worse: resumed/s"},
		{"a little slower", rate, []float64{1000, 1010, 990}, []float64{950, 960, 940}, ""},
		{"later, by what can be felt", p99, []float64{20}, []float64{30}, "worse: p99"},
		{"later, by what cannot", p99, []float64{2}, []float64{3}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "kept.json")
			if err := reportOf(c.set, c.kept...).Write(path); err != nil {
				t.Fatal(err)
			}
			kept, err := ReadReport(path)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			reportOf(c.set, c.now...).Compare(&out, kept)
			if !strings.Contains(out.String(), "Against abc of 2026-01-02") || strings.Contains(out.String(), "with care") {
				t.Errorf("got %s", out.String())
			}
			if _, said, _ := strings.Cut(out.String(), "worse: "); strings.TrimSpace(said) != strings.TrimPrefix(c.want, "worse: ") {
				t.Errorf("got %s, want %q", out.String(), c.want)
			}
		})
	}
	other, out := reportOf(p99, 1), strings.Builder{}
	other.Machine = "two"
	other.Compare(&out, reportOf(p99, 1))
	if !strings.Contains(out.String(), "kept on one") {
		t.Errorf("got %s, want it told that the machines differ", out.String())
	}
}

// Figures with a loss in them end the bench with an error.
func TestWrong(t *testing.T) {
	t.Parallel()
	if err := reportOf(func(*Phase, float64) {}, 1, 2).Wrong(); err != nil {
		t.Errorf("got %v of runs that were well", err)
	}
	for want, set := range map[string]func(*Phase, float64){
		"run 2, sustained: 7 of 0 lost": func(p *Phase, v float64) { p.Lost = int64(v) },
		"7 resumed twice":               func(p *Phase, v float64) { p.Duplicates = int64(v) },
		"7 refused":                     func(p *Phase, v float64) { p.Refused = int64(v) },
	} {
		r := reportOf(set, 0, 7)
		if err := r.Wrong(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
		if g := (&Growth{Empty: reportOf(set, 0), Filled: r}); g.Wrong() == nil {
			t.Errorf("got no error of a full database, want %q in it", want)
		}
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	r := reportOf(func(p *Phase, v float64) { p.Resumed = v }, 500)
	r.Runs[0].Phases = append(r.Runs[0].Phases, Phase{Name: "register", Accepted: 12345})
	var text, page strings.Builder
	r.Text(&text)
	r.Markdown(&page)
	for _, want := range []string{"| sustained | 1,000 | 500 |", "| register | 12,345 | – |", "| limit | 500 /s | 100 % of it |", "one run"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("got %s, want %q in it", page.String(), want)
		}
	}
	lines := strings.Split(text.String(), "\n")
	if len(lines) < 5 || !strings.HasPrefix(lines[3], "phase ") || strings.Index(lines[3], "accepted/s")+len("accepted/s") != strings.Index(lines[5], "12,345")+6 {
		t.Errorf("got %q: want the figures below the ends of their titles", lines)
	}
	g := &Growth{Empty: r, Filled: reportOf(func(p *Phase, v float64) { p.Resumed = v }, 450)}
	page.Reset()
	g.Markdown(&page)
	if want := "| sustained: resumed/s | 500 | 450 | 0.90 |"; !strings.Contains(page.String(), want) {
		t.Errorf("got %s, want %q in it", page.String(), want)
	}
}

func TestSplice(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "page.md")
	page := "before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n"
	if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time replaces the first
		if err := Splice(path, "bench", []byte("| new |\n")); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if want := "before\n<!-- bench -->\n\n| new |\n\n<!-- /bench -->\nafter\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if err := Splice(path, "growth", nil); err == nil || !strings.Contains(err.Error(), "<!-- growth -->") {
		t.Errorf("a page without the marks: got %v", err)
	}
	fresh := filepath.Join(t.TempDir(), "fresh.md")
	if err := Splice(fresh, "bench", []byte("| new |\n")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(fresh); err != nil || !bytes.Contains(got, []byte("| new |")) {
		t.Errorf("a new page: got %q, %v", got, err)
	}
}

// The page that holds the tables says what each column means.
func TestColumnsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, meaning, _ := strings.Cut(string(page), "## What the columns mean\n")
	meaning, _, _ = strings.Cut(meaning, "\n## ")
	for _, c := range slices.Concat(speed, cost) {
		if !strings.Contains(meaning, "`"+c.title+"`") {
			t.Errorf("docs/performance.md does not say what the column %q means", c.title)
		}
	}
	plan := Plan{Connections: []int{16, 64, 256}, Body: 1536, MoreBodies: []int{3072, 20480}}
	steps := newBench(Target{}, plan).steps()
	plan.Growth = true
	for _, s := range append(steps, newBench(Target{}, plan).steps()...) {
		if !strings.Contains(string(page), "`"+s.name+"`") {
			t.Errorf("docs/performance.md does not tell of the phase %q", s.name)
		}
	}
}
