package bench

import (
	"fmt"
	"io"
	"time"
)

// Growth sets a full database beside an empty one.
type Growth struct {
	Empty  *Report `json:"empty"`
	Filled *Report `json:"filled"`
}

// Write keeps both in a file.
func (g *Growth) Write(path string) error { return writeJSON(path, g) }

// grown are the figures that may not grow with the database. What is sustained
// is the promise; the others tell where a change of it comes from.
var grown = []column{
	{"accepted/s", 0, accepted},
	{"resumed/s", 0, resumed},
	{"CPU s/1000", 3, bothCPU},
	{"Postgres", 3, func(p Phase) (float64, bool) { return p.PostgresCPU, true }},
	{"WAL B", 0, func(p Phase) (float64, bool) { return p.WAL, true }},
	{"full pages B", 0, fullPages},
	{"p99 ms", 1, worstP99},
}

// table has a row for each phase and figure.
func (g *Growth) table() *table {
	t := &table{head: []string{"phase, figure", "empty", "filled", "filled / empty"}}
	for _, name := range g.Empty.names() {
		for _, c := range grown {
			empty, filled := g.Empty.of(name, c.figure), g.Filled.of(name, c.figure)
			if len(empty) == 0 || len(filled) == 0 {
				continue
			}
			ratio := "–"
			if empty.median() != 0 {
				ratio = fmt.Sprintf("%.2f", filled.median()/empty.median())
			}
			t.rows = append(t.rows, []string{name + ": " + c.title, empty.text(c.decimals), filled.text(c.decimals), ratio})
		}
	}
	return t
}

// Text writes the comparison for a terminal.
func (g *Growth) Text(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n\n", g.about())
	g.table().text(w)
}

// Markdown writes the comparison for a page of docs.
func (g *Growth) Markdown(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", g.about())
	g.table().markdown(w)
}

func (g *Growth) about() string {
	return g.Filled.about() + " Beside it the same with empty tables, " + g.Empty.Date.UTC().Format(time.DateOnly) + "."
}

// Wrong returns what is wrong with either.
func (g *Growth) Wrong() error {
	if err := g.Empty.Wrong(); err != nil {
		return err
	}
	return g.Filled.Wrong()
}
