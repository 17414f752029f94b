package bench

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Pair is what the measurements of one pair came to.
type Pair struct {
	Name      string   `json:"name"`
	About     string   `json:"about"`
	Registers bool     `json:"registers,omitempty"` // figures are of registrations
	With      []Sample `json:"with"`
	Without   []Sample `json:"without"`
}

// Costs is what promises cost, as it is kept.
type Costs struct {
	Circumstances
	Pairs []*Pair `json:"pairs"`
}

// Write keeps the costs in a file.
func (c *Costs) Write(path string) error { return writeJSON(path, c) }

// Wrong returns an error that names every load in which a callback was lost,
// resumed twice or refused.
func (c *Costs) Wrong() error {
	var errs []error
	for _, p := range c.Pairs {
		for _, s := range slices.Concat(p.With, p.Without) {
			for _, phase := range []Phase{s.Quiet, s.Busy} {
				if said := phase.wrong(); said != "" {
					errs = append(errs, fmt.Errorf("%s, %s", p.Name, said))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// priced are the figures that a pair is told by.
var priced = []struct {
	title    string
	decimals int
	figure   func(Sample) (float64, bool)
}{
	{"CPU s/1000", 3, func(s Sample) (float64, bool) { return bothCPU(s.Busy) }},
	{"WAL records B", 0, func(s Sample) (float64, bool) {
		images, _ := fullPages(s.Busy)
		return s.Busy.WAL - images, true
	}},
	{"full pages B", 0, func(s Sample) (float64, bool) { return fullPages(s.Busy) }},
	{"done/s", 0, func(s Sample) (float64, bool) {
		if rate, ok := resumed(s.Busy); ok {
			return rate, true
		}
		return accepted(s.Busy)
	}},
	{"quiet p50 ms", 2, func(s Sample) (float64, bool) { return max(s.Quiet.AckP50, s.Quiet.ResumeP50), true }},
	{"quiet p99 ms", 1, func(s Sample) (float64, bool) { return worstP99(s.Quiet) }},
}

// gather collects one figure of a side, sorted.
func gather(samples []Sample, figure func(Sample) (float64, bool)) (s spread) {
	for _, sample := range samples {
		if v, ok := figure(sample); ok {
			s = append(s, v)
		}
	}
	slices.Sort(s)
	return s
}

// apart reports whether a difference stands out of the noise: whichever
// measurement of the one side is set beside one of the other, nine times of
// ten they are in the same order. Two equal loads look so once in sixty times
// with six measurements of each.
func apart(with, without spread) bool {
	more, less := 0, 0
	for _, a := range with {
		for _, b := range without {
			if a > b {
				more++
			}
			if a < b {
				less++
			}
		}
	}
	return 10*max(more, less) >= 9*len(with)*len(without)
}

// difference writes what a promise adds to a figure. In the noise it says so,
// and by how much the medians differ none the less; also where there is too
// little to tell noise by.
func difference(with, without spread, decimals int) string {
	if len(with) == 0 || len(without) == 0 {
		return "–"
	}
	by := with.median() - without.median()
	text := signed(by, decimals)
	switch {
	case min(len(with), len(without)) < minSamples:
		return text + ", too few runs"
	case !apart(with, without):
		return text + ", noise"
	}
	if without.median() != 0 {
		text += fmt.Sprintf(" (%s %%)", signed(100*by/without.median(), 0))
	}
	return text
}

// signed writes a figure with its sign.
func signed(v float64, decimals int) string {
	text := number(v, decimals)
	if strings.HasPrefix(text, "-") {
		return text
	}
	return "+" + text
}

// summary has a row for each promise, and what it adds to each figure.
func (c *Costs) summary() *table {
	t := &table{head: []string{"what the promise adds"}}
	for _, f := range priced {
		t.head = append(t.head, f.title)
	}
	for _, p := range c.Pairs {
		row := []string{p.Name}
		for _, f := range priced {
			row = append(row, difference(gather(p.With, f.figure), gather(p.Without, f.figure), f.decimals))
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// table has a row for each promise and figure.
func (c *Costs) table() *table {
	t := &table{head: []string{"promise: figure", "with", "without", "difference"}}
	for _, p := range c.Pairs {
		for _, f := range priced {
			with, without := gather(p.With, f.figure), gather(p.Without, f.figure)
			t.rows = append(t.rows, []string{
				p.Name + ": " + f.title, with.text(f.decimals), without.text(f.decimals), difference(with, without, f.decimals),
			})
		}
	}
	return t
}

// about says what was measured, where and when, and what ran beside it.
func (c *Costs) about() string {
	measured := 0
	var foreign spread
	for _, p := range c.Pairs {
		measured = len(p.With)
		for _, s := range slices.Concat(p.With, p.Without) {
			foreign = append(foreign, s.Busy.ForeignCPU+s.Busy.StolenCPU)
		}
	}
	slices.Sort(foreign)
	return fmt.Sprintf("Commit %s on %s, %s; PostgreSQL %s, shared_buffers %s; %s; medians of %d measurements of each side [least–most]; "+
		"foreign and stolen cores %s.",
		c.Version, c.Machine, c.Date.UTC().Format(time.DateOnly), c.Postgres["server_version"], c.Postgres["shared_buffers"],
		c.Settings, measured, foreign.text(2))
}

// notes say what each row compares, and what is not in any.
func (c *Costs) notes(w io.Writer) {
	for _, p := range c.Pairs {
		fmt.Fprintf(w, "- %s: %s\n", p.Name, p.About)
	}
	fmt.Fprintf(w, "\nWithout an honest 'without':\n\n")
	for _, line := range unpriced {
		fmt.Fprintf(w, "- %s\n", line)
	}
}

// Text writes the costs for a terminal.
func (c *Costs) Text(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n\n", c.about())
	for _, t := range []*table{c.summary(), c.table()} {
		t.text(w)
		fmt.Fprintln(w)
	}
	c.notes(w)
}

// Markdown writes the costs for a page of docs.
func (c *Costs) Markdown(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", c.about())
	c.summary().markdown(w)
	fmt.Fprintln(w)
	c.notes(w)
	fmt.Fprintln(w)
	c.table().markdown(w)
}
