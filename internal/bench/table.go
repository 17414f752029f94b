package bench

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// column is one figure of a table. docs/performance.md tells of each by its
// title; TestColumnsAreDocumented holds that.
type column struct {
	title    string
	decimals int
	figure   func(Phase) (float64, bool) // false: the phase has no such figure
}

func accepted(p Phase) (float64, bool) { return p.Accepted, true }
func resumed(p Phase) (float64, bool)  { return p.Resumed, p.Body != 0 }
func bothCPU(p Phase) (float64, bool)  { return p.RelayCPU + p.PostgresCPU, true }

func fullPages(p Phase) (float64, bool) {
	if p.FullPages == nil {
		return 0, false
	}
	return *p.FullPages, true
}

// worstP99 is of the resume where there is one: it comes after the answer.
func worstP99(p Phase) (float64, bool) { return max(p.AckP99, p.ResumeP99), true }

// speed and cost are the two tables of a report.
var speed = []column{
	{"accepted/s", 0, accepted},
	{"resumed/s", 0, resumed},
	{"answer p50 ms", 1, func(p Phase) (float64, bool) { return p.AckP50, true }},
	{"answer p99 ms", 1, func(p Phase) (float64, bool) { return p.AckP99, true }},
	{"resume p50 ms", 1, func(p Phase) (float64, bool) { return p.ResumeP50, p.Body != 0 }},
	{"resume p99 ms", 1, func(p Phase) (float64, bool) { return p.ResumeP99, p.Body != 0 }},
	{"lost", 0, func(p Phase) (float64, bool) { return float64(p.Lost), p.Body != 0 }},
	{"twice", 0, func(p Phase) (float64, bool) { return float64(p.Duplicates), p.Body != 0 }},
	{"refused", 0, func(p Phase) (float64, bool) { return float64(p.Refused), true }},
}

var cost = []column{
	{"CPU s/1000", 3, bothCPU},
	{"relay", 3, func(p Phase) (float64, bool) { return p.RelayCPU, true }},
	{"Postgres", 3, func(p Phase) (float64, bool) { return p.PostgresCPU, true }},
	{"generator", 3, func(p Phase) (float64, bool) { return p.GeneratorCPU, true }},
	{"sink", 3, func(p Phase) (float64, bool) { return p.SinkCPU, p.Body != 0 }},
	{"RSS MB", 0, func(p Phase) (float64, bool) { return float64(p.RSS) / 1e6, true }},
	{"WAL B", 0, func(p Phase) (float64, bool) { return p.WAL, true }},
	{"full pages B", 0, fullPages},
	{"foreign cores", 2, func(p Phase) (float64, bool) { return p.ForeignCPU, true }},
	{"stolen cores", 2, func(p Phase) (float64, bool) { return p.StolenCPU, true }},
}

// table is a head and rows, to be written as text or as Markdown.
type table struct {
	head []string
	rows [][]string
}

func (r *Report) table(columns []column) *table {
	t := &table{head: []string{"phase"}}
	for _, c := range columns {
		t.head = append(t.head, c.title)
	}
	for _, name := range r.names() {
		row := []string{name}
		for _, c := range columns {
			row = append(row, r.of(name, c.figure).text(c.decimals))
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// limitsTable sets the limits of the machine beside what is sustained.
func (r *Report) limitsTable() *table {
	t := &table{head: []string{"limit of the machine", "figure", "sustained is"}}
	sustained := r.of(sustainedName, resumed)
	names, units, limits := r.limits()
	for i, name := range names {
		share := "–"
		if units[i] == "/s" && len(sustained) > 0 {
			share = fmt.Sprintf("%.0f %% of it", 100*sustained.median()/limits[name].median())
		}
		decimals := 0
		if units[i] == "ms" {
			decimals = 2
		}
		t.rows = append(t.rows, []string{name, limits[name].text(decimals) + " " + units[i], share})
	}
	return t
}

// Text writes a report for a terminal.
func (r *Report) Text(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n\n", r.about())
	tables := []*table{r.table(speed), r.table(cost), r.limitsTable()}
	for _, t := range tables {
		t.text(w)
		fmt.Fprintln(w)
	}
}

// about says what was measured, where and when.
func (r *Report) about() string {
	runs := "one run"
	if n := len(r.Runs); n > 1 {
		runs = fmt.Sprintf("median of %d runs [least–most]", n)
	}
	s := fmt.Sprintf("Commit %s on %s, %s; PostgreSQL %s, fsync %s, synchronous_commit %s, shared_buffers %s; %s; %s.",
		r.Version, r.Machine, r.Date.UTC().Format(time.DateOnly), r.Postgres["server_version"], r.Postgres["fsync"],
		r.Postgres["synchronous_commit"], r.Postgres["shared_buffers"], r.Settings, runs)
	if r.Filled != "" {
		s += " Database with " + r.Filled + "."
	}
	return s
}

// Markdown writes a report for a page of docs.
func (r *Report) Markdown(w io.Writer) {
	fmt.Fprintf(w, "%s\n", r.about())
	for _, t := range []*table{r.table(speed), r.table(cost), r.limitsTable()} {
		if len(t.rows) > 0 {
			fmt.Fprintln(w)
			t.markdown(w)
		}
	}
}

// text writes a table with its columns aligned: names left, figures right.
func (t *table) text(w io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	widths := make([]int, len(t.head))
	all := append([][]string{t.head}, t.rows...)
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 || i == len(row)-1 && t.head[i] == "" {
				line.WriteString(cell + gap + "  ")
			} else {
				line.WriteString(gap + cell + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// WriteTable writes a table of somebody else's as Markdown, in the form that
// ours have.
func WriteTable(w io.Writer, head []string, rows [][]string) { (&table{head, rows}).markdown(w) }

func (t *table) markdown(w io.Writer) {
	rule := make([]string, len(t.head))
	for i := range rule {
		if rule[i] = "---:"; i == 0 {
			rule[i] = "---"
		}
	}
	for _, row := range slices.Concat([][]string{t.head, rule}, t.rows) {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
	}
}

// Splice puts text between a page's marks <!-- name --> and <!-- /name -->.
// A file that does not exist becomes a page with nothing else.
func Splice(path, name string, text []byte) error {
	open, end := []byte("<!-- "+name+" -->\n"), []byte("<!-- /"+name+" -->")
	page, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		page, err = slices.Concat(open, end, []byte("\n")), nil
	}
	if err != nil {
		return fmt.Errorf("writing the tables: %w", err)
	}
	before, rest, ok := bytes.Cut(page, open)
	_, after, closed := bytes.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("writing the tables: %s has no lines %s and %s to put them between", path, bytes.TrimSpace(open), end)
	}
	page = slices.Concat(before, open, []byte("\n"), text, []byte("\n"), end, after)
	if err := os.WriteFile(path, page, 0o644); err != nil { //nolint:gosec // a page of docs
		return fmt.Errorf("writing the tables: %w", err)
	}
	return nil
}
