package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Report is one measurement, as it is kept: all its runs.
type Report struct {
	Circumstances
	Filled string   `json:"filled,omitempty"`
	Runs   []Result `json:"runs"`
}

// Circumstances are what was measured, where and when: figures mean nothing
// without them.
type Circumstances struct {
	Version  string            `json:"version"` // of the relay
	Machine  string            `json:"machine"`
	Date     time.Time         `json:"date"`
	Settings string            `json:"settings"`
	Postgres map[string]string `json:"postgres"` // its version, and the settings that matter
}

// Result is what one run came to.
type Result struct {
	Phases []Phase `json:"phases"`
	Limits []Limit `json:"limits,omitempty"`
}

// Write keeps a report in a file.
func (r *Report) Write(path string) error { return writeJSON(path, r) }

// ReadReport reads what Write kept.
func ReadReport(path string) (*Report, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a kept report: %w", err)
	}
	r := &Report{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("reading a kept report: %w", err)
	}
	return r, nil
}

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping the report: %w", err)
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil { //nolint:gosec // figures are for everybody
		return fmt.Errorf("keeping the report: %w", err)
	}
	return nil
}

// Wrong returns an error that names every phase in which a callback was lost,
// resumed twice or refused: such figures are not to be trusted.
func (r *Report) Wrong() error {
	var errs []error
	for i, run := range r.Runs {
		for _, p := range run.Phases {
			if said := p.wrong(); said != "" {
				errs = append(errs, fmt.Errorf("run %d, %s", i+1, said))
			}
		}
	}
	return errors.Join(errs...)
}

// names lists the phases, in the order of the first run.
func (r *Report) names() (names []string) {
	if len(r.Runs) == 0 {
		return nil
	}
	for _, p := range r.Runs[0].Phases {
		names = append(names, p.Name)
	}
	return names
}

// of gathers one figure of a phase over the runs.
func (r *Report) of(phase string, figure func(Phase) (float64, bool)) (s spread) {
	for _, run := range r.Runs {
		for _, p := range run.Phases {
			if v, ok := figure(p); ok && p.Name == phase {
				s = append(s, v)
			}
		}
	}
	slices.Sort(s)
	return s
}

func (r *Report) limits() (names, units []string, of map[string]spread) {
	of = map[string]spread{}
	for _, run := range r.Runs {
		for _, l := range run.Limits {
			if of[l.Name] == nil {
				names, units = append(names, l.Name), append(units, l.Unit)
			}
			of[l.Name] = append(of[l.Name], l.Value)
		}
	}
	for _, s := range of {
		slices.Sort(s)
	}
	return names, units, of
}

// spread is one figure of several runs, sorted.
type spread []float64

func (s spread) median() float64 {
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// text writes the median and, where there are several, the least and most.
func (s spread) text(decimals int) string {
	switch len(s) {
	case 0:
		return "–"
	case 1:
		return number(s[0], decimals)
	}
	return fmt.Sprintf("%s [%s–%s]", number(s.median(), decimals), number(s[0], decimals), number(s[len(s)-1], decimals))
}

// number writes a figure with its thousands apart.
func number(v float64, decimals int) string {
	text := fmt.Sprintf("%.*f", decimals, v)
	whole, rest, _ := strings.Cut(text, ".")
	for at := len(whole) - 3; at > 0 && whole[at-1] != '-'; at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	if rest != "" {
		return whole + "." + rest
	}
	return whole
}

// judged are the figures by which two reports are compared, and by how much
// the median may be worse before it is called so: more than these machines
// differ from themselves.
var judged = []struct {
	title   string
	figure  func(Phase) (float64, bool)
	allowed float64 // share of the kept figure
	atLeast float64 // and in the figure's unit, for those that are small
	more    bool    // more is better
}{
	{"resumed/s", resumed, 0.10, 0, true},
	{"accepted/s", accepted, 0.10, 0, true},
	{"CPU/1000", bothCPU, 0.10, 0.01, false},
	{"WAL", func(p Phase) (float64, bool) { return p.WAL, true }, 0.05, 50, false},
	{"p99", worstP99, 0.25, 2, false},
}

// Compare writes what changed since a kept report, phase by phase, and what
// has become worse: beyond what is allowed, and with all runs on one side of
// all those that were kept.
func (r *Report) Compare(w io.Writer, kept *Report) {
	fmt.Fprintf(w, "\nAgainst %s of %s:\n", kept.Version, kept.Date.Format(time.DateOnly))
	if r.Machine != kept.Machine || r.Settings != kept.Settings {
		fmt.Fprintf(w, "(kept on %s, %s: take the differences with care)\n", kept.Machine, kept.Settings)
	}
	t := &table{head: []string{"phase"}}
	for _, j := range judged {
		t.head = append(t.head, j.title)
	}
	t.head = append(t.head, "")
	for _, name := range r.names() {
		row, worse := []string{name}, []string(nil)
		for _, j := range judged {
			before, now := kept.of(name, j.figure), r.of(name, j.figure)
			row = append(row, change(before, now))
			if worsened(before, now, j.allowed, j.atLeast, j.more) {
				worse = append(worse, j.title)
			}
		}
		said := ""
		if len(worse) > 0 {
			said = "worse: " + strings.Join(worse, ", ")
		}
		t.rows = append(t.rows, append(row, said))
	}
	t.text(w)
}

// change writes by how much a median differs from what it was.
func change(before, now spread) string {
	if len(before) == 0 || len(now) == 0 || before.median() == 0 {
		return "–"
	}
	return fmt.Sprintf("%+.0f%%", (now.median()/before.median()-1)*100)
}

func worsened(before, now spread, allowed, atLeast float64, more bool) bool {
	if len(before) == 0 || len(now) == 0 {
		return false
	}
	by, apart := now.median()-before.median(), now[0] > before[len(before)-1]
	if more {
		by, apart = -by, now[len(now)-1] < before[0]
	}
	return apart && by > atLeast && by > allowed*before.median()
}
