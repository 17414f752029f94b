package bench

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Neighbour is what the pairs of measurements beside one came to.
type Neighbour struct {
	Name  string   `json:"name"`
	About string   `json:"about"`
	Pairs []Beside `json:"pairs"`
}

// Neighbourhood is what a healthy destination suffers from others, as it is
// kept.
type Neighbourhood struct {
	Circumstances
	Neighbours []*Neighbour `json:"neighbours"`
}

// Write keeps the figures in a file.
func (n *Neighbourhood) Write(path string) error { return writeJSON(path, n) }

// Wrong returns an error that names every measurement in which a callback was
// lost, resumed twice or refused.
func (n *Neighbourhood) Wrong() error {
	var errs []error
	for _, one := range n.Neighbours {
		for _, p := range one.Pairs {
			for _, phase := range []Phase{p.Alone, p.Beside} {
				if said := phase.wrong(); said != "" {
					errs = append(errs, fmt.Errorf("beside one that %s, %s", one.Name, said))
				}
			}
			if p.Other.Refused > 0 {
				errs = append(errs, fmt.Errorf("beside one that %s, %d of its own callbacks were refused", one.Name, p.Other.Refused))
			}
		}
	}
	return errors.Join(errs...)
}

// gather collects one figure of all pairs, sorted.
func (n *Neighbour) gather(figure func(Beside) float64) (s spread) {
	for _, p := range n.Pairs {
		s = append(s, figure(p))
	}
	slices.Sort(s)
	return s
}

// ratio sets a figure beside a neighbour over the same one alone, pair by pair.
func ratio(figure func(Phase) float64) func(Beside) float64 {
	return func(p Beside) float64 { return figure(p.Beside) / figure(p.Alone) }
}

func resumeP50(p Phase) float64 { return p.ResumeP50 }
func resumeP99(p Phase) float64 { return p.ResumeP99 }

// told are the figures of a neighbourhood by their titles.
var told = []struct {
	title    string
	decimals int
	figure   func(Beside) float64
}{
	{"p50 ms alone", 1, func(p Beside) float64 { return p.Alone.ResumeP50 }},
	{"p50 ms beside", 1, func(p Beside) float64 { return p.Beside.ResumeP50 }},
	{"p50 ratio", 2, ratio(resumeP50)},
	{"p99 ms alone", 1, func(p Beside) float64 { return p.Alone.ResumeP99 }},
	{"p99 ms beside", 1, func(p Beside) float64 { return p.Beside.ResumeP99 }},
	{"p99 ratio", 2, ratio(resumeP99)},
	{"its callbacks", 0, func(p Beside) float64 { return float64(p.Other.Accepted) }},
	{"its calls", 0, func(p Beside) float64 { return float64(p.Other.Calls) }},
}

// breakerColumn is the one that is no figure of each pair.
const breakerColumn = "breaker opened"

func (n *Neighbourhood) table() *table {
	t := &table{head: []string{"a neighbour that"}}
	for _, f := range told {
		t.head = append(t.head, f.title)
	}
	t.head = append(t.head, breakerColumn)
	for _, one := range n.Neighbours {
		row := []string{one.Name}
		for _, f := range told {
			row = append(row, one.gather(f.figure).text(f.decimals))
		}
		opened := 0
		for _, p := range one.Pairs {
			if p.Other.Opened {
				opened++
			}
		}
		t.rows = append(t.rows, append(row, fmt.Sprintf("%d of %d times", opened, len(one.Pairs))))
	}
	return t
}

// about says what was measured, where and when, and what ran beside it.
func (n *Neighbourhood) about() string {
	pairs := 0
	var foreign spread
	for _, one := range n.Neighbours {
		pairs = len(one.Pairs)
		for _, p := range one.Pairs {
			foreign = append(foreign, p.Alone.ForeignCPU+p.Alone.StolenCPU, p.Beside.ForeignCPU+p.Beside.StolenCPU)
		}
	}
	slices.Sort(foreign)
	return fmt.Sprintf("Commit %s on %s, %s; PostgreSQL %s, shared_buffers %s; %s; medians of %d pairs [least–most]; foreign and stolen cores %s.",
		n.Version, n.Machine, n.Date.UTC().Format(time.DateOnly), n.Postgres["server_version"], n.Postgres["shared_buffers"],
		n.Settings, pairs, foreign.text(2))
}

// notes say what each neighbour does.
func (n *Neighbourhood) notes(w io.Writer) {
	for _, one := range n.Neighbours {
		fmt.Fprintf(w, "- %s: %s\n", one.Name, one.About)
	}
}

// Text writes the figures for a terminal.
func (n *Neighbourhood) Text(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n\n", n.about())
	n.table().text(w)
	fmt.Fprintln(w)
	n.notes(w)
}

// Markdown writes the figures for a page of docs.
func (n *Neighbourhood) Markdown(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", n.about())
	n.table().markdown(w)
	fmt.Fprintln(w)
	n.notes(w)
}
