package directory_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/templates"
)

// configurationPage reads docs/configuration.md, by section.
func configurationPage(t *testing.T) (page string, sections map[string]string) {
	t.Helper()
	raw, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	sections = map[string]string{}
	for _, section := range regexp.MustCompile(`(?m)^##+ `).Split(string(raw), -1) {
		title, text, _ := strings.Cut(section, "\n")
		sections[title] = text
	}
	return string(raw), sections
}

// rowsOf reads the tables of a section: the cells after the name, by name.
func rowsOf(section string) (names []string, cells map[string]string) {
	cells = map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|(.*)\\|$").FindAllStringSubmatch(section, -1) {
		names, cells[row[1]] = append(names, row[1]), row[2]
	}
	return names, cells
}

// jsonFields lists the names under which encoding/json reads a struct.
func jsonFields(of any) (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// TestFieldsAreDocumented holds the tables against the structs that are read.
func TestFieldsAreDocumented(t *testing.T) {
	t.Parallel()
	_, sections := configurationPage(t)
	destination := jsonFields(directory.DestinationFields{})
	for _, name := range platform.Names() {
		p, _ := platform.Lookup(name)
		for _, setting := range p.Settings {
			if !slices.Contains(destination, setting.Name) {
				destination = append(destination, setting.Name)
			}
		}
	}
	action := slices.DeleteFunc(jsonFields(relay.Action{}), func(name string) bool { return name == "destination_id" }) // ours
	for section, want := range map[string][]string{
		"The file":    jsonFields(directory.Document{}),
		"Retention":   jsonFields(relay.Retention{}),
		"Destination": destination,
		"Source":      append(jsonFields(directory.SourceFields{}), directory.SourceSettings()...),
		"Flow":        append(jsonFields(relay.Flow{}), "name", "module_id"),
		"Form":        jsonFields(relay.Form{}),
		"Field":       jsonFields(relay.FormField{}),
		"Look":        jsonFields(relay.Look{}),
		"Expect":      jsonFields(relay.Expect{}),
		"Nudge": slices.DeleteFunc(jsonFields(relay.Nudge{}), func(name string) bool {
			return slices.Contains(jsonFields(relay.Action{}), name)
		}),
		"Action": action,
	} {
		got, _ := rowsOf(sections[section])
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("docs/configuration.md, %q (-code +page):\n%s", section, diff)
		}
	}
}

// TestBoundsAreDocumented holds defaults, bounds and choices against the code.
func TestBoundsAreDocumented(t *testing.T) {
	t.Parallel()
	_, sections := configurationPage(t)
	d := func(t any) string { return fmt.Sprint(t) }
	for _, test := range []struct {
		section, field string
		says           []string
	}{
		{"Retention", "event_body", list(d(relay.DefaultRetention.EventBody), d(relay.Duration(relay.MinEventBody))+" to ")},
		{"Retention", "attempt_body", list(d(relay.DefaultRetention.AttemptBody), d(relay.Duration(relay.MinAttemptBody))+" to ")},
		{"Retention", "correlation", list(d(relay.DefaultRetention.Correlation), d(relay.Duration(relay.MinCorrelation))+" to "+d(relay.Duration(relay.MaxCorrelation)))},
		{"Destination", "platform", platform.Names()},
		{"Destination", "max_concurrency", list(d(relay.DefaultConcurrency), "1 to "+d(relay.MaxConcurrency))},
		{"Destination", "timeout", list(d(relay.Duration(relay.DefaultTimeout)), "to "+d(relay.Duration(relay.MaxTimeout)))},
		{"Source", "tolerance", list(d(relay.Duration(provider.DefaultTolerance)))},
		{"Flow", "expires_in", list(d(relay.Duration(relay.DefaultExpiresIn)), d(relay.Duration(relay.MinExpiresIn))+" to "+d(relay.Duration(relay.MaxExpiresIn)))},
		{"Flow", "processing_for", list(d(relay.Duration(relay.DefaultProcessingFor)), "to "+d(relay.Duration(relay.MaxExpiresIn)))},
		{"Flow", "retry_for", list(d(relay.Duration(relay.DefaultRetryFor)), "to "+d(relay.Duration(relay.MaxRetryFor)))},
		{"Flow", "on_conflict", list(relay.Supersede, relay.Keep, relay.Reject)},
		{"Form", "fields", list("1 to "+d(relay.MaxFormFields), d(relay.MaxFormBytes>>10)+" KiB")},
		{"Field", "type", relay.FieldTypes},
		{"Field", "options", list(d(relay.MaxFormOptions))},
		{"Field", "max_length", list(d(relay.DefaultText)+";", d(relay.DefaultProse), "up to "+d(relay.MaxText))},
		{"Look", "name", list(d(relay.MaxLookName) + " bytes")},
		{"Look", "color", list(d(relay.MinContrast) + ":1")},
		{"Look", "dark_color", list(relay.DarkPage)},
		{"Look", "logo", list(d(relay.MaxLogo>>10) + " KiB")},
		{"Look", "texts", list(d(relay.MaxLookText) + " bytes")},
		{"Look", "embed", list(d(relay.MaxEmbed) + ";")},
		{"Flow", "nudge", list("at most " + d(relay.MaxNudges))},
		{"Nudge", "after", list(d(relay.Duration(relay.MinExpiresIn)) + " to " + d(relay.Duration(relay.MaxExpiresIn)))},
		{"Nudge", "unless", list(relay.UnlessOpened, relay.UnlessFinished)},
		{"Action", "action", list(relay.TriggerResponse, relay.TriggerMessage, relay.SendMessage, relay.CallWebhook, relay.NoAction)},
	} {
		_, cells := rowsOf(sections[test.section])
		for _, want := range test.says {
			if !strings.Contains(cells[test.field], want) {
				t.Errorf("docs/configuration.md, %s.%s: got %q, want it to say %q", test.section, test.field, cells[test.field], want)
			}
		}
	}
	texts, err := templates.TextKeys()
	if err != nil {
		t.Fatal(err)
	}
	_, listed, _ := strings.Cut(sections["Look"], "The texts are: ")
	listed, _, _ = strings.Cut(listed, ". ")
	if want := "`" + strings.Join(texts, "`, `") + "`"; listed != want {
		t.Errorf("docs/configuration.md, Look: got the texts %s, want %s", listed, want)
	}
	for _, name := range relay.ActionNames {
		if !strings.Contains(sections["Flow"], "`"+name+"`") {
			t.Errorf("docs/configuration.md does not tell of on.%s", name)
		}
	}
	for _, limit := range list(
		fmt.Sprintf("| %d KiB |", mapping.MaxTemplate>>10),
		fmt.Sprintf("| %d KiB, %d nodes, %d walks", mapping.MaxExpression>>10, mapping.MaxNodes, mapping.MaxListPasses),
		fmt.Sprintf("| expressions in one value | %d |", mapping.MaxExpressions),
		fmt.Sprintf("| nesting of a value | %d |", mapping.MaxNesting),
		fmt.Sprintf("| %d MiB |", mapping.MaxOutput>>20),
	) {
		if !strings.Contains(sections["Expressions"], limit) {
			t.Errorf("docs/configuration.md, expressions: want the limit %q", limit)
		}
	}
}

// TestErrorCodesAreReal holds that every code of the tables stands in the code.
func TestErrorCodesAreReal(t *testing.T) {
	t.Parallel()
	var source bytes.Buffer
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		source.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, sections := configurationPage(t)
	n := 0
	for title, section := range sections {
		_, cells := rowsOf(section)
		for field, row := range cells {
			columns := strings.Split(row, " | ")
			if len(columns) != 4 {
				continue // not a table of fields
			}
			for _, code := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(columns[3], -1) {
				if n++; !bytes.Contains(source.Bytes(), []byte(`"`+code[1]+`"`)) {
					t.Errorf("docs/configuration.md, %s.%s: no code answers %s", title, field, code[1])
				}
			}
		}
	}
	if n < 40 {
		t.Errorf("found %d error codes in the tables: want them all", n)
	}
}

// TestExpressionsAreDocumented holds names and functions against the compiler.
func TestExpressionsAreDocumented(t *testing.T) {
	t.Parallel()
	_, sections := configurationPage(t)
	section := sections["Expressions"]
	_, rows := rowsOf(section)
	refusal := func(expression string) string {
		_, err := mapping.CompileValue("{{ " + expression + " }}")
		if err == nil {
			t.Fatalf("{{ %s }} compiles", expression)
		}
		_, names, _ := strings.Cut(err.Error(), "there are ")
		return names
	}
	names := strings.Split(refusal("nobody"), ", ")
	for _, name := range names {
		if _, ok := rows[name]; !ok {
			t.Errorf("docs/configuration.md does not tell of the name %q", name)
		}
	}
	if len(rows) != len(names) {
		t.Errorf("docs/configuration.md tells of the names %v, want %v", rows, names)
	}
	for _, name := range list("payment", "correlation") {
		for _, field := range strings.Split(refusal(name+".nothing"), ", ") {
			if !strings.Contains(rows[name], "`"+field+"`") {
				t.Errorf("docs/configuration.md does not tell of %s.%s", name, field)
			}
		}
	}
	_, functions, _ := strings.Cut(section, "Functions: ")
	functions, _, _ = strings.Cut(functions, ". ")
	var documented []string
	for _, f := range strings.Split(functions, ", ") {
		documented = append(documented, strings.Trim(f, "`"))
	}
	source, err := os.ReadFile("../mapping/expression.go")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("../mapping/functions.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(source), "func builtins() []string {")
	body, _, _ = strings.Cut(body, "\n}")
	var available []string
	for _, f := range regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(body, -1) {
		available = append(available, f[1])
	}
	for _, f := range regexp.MustCompile(`\{"(\w+)", call`).FindAllStringSubmatch(string(own), -1) {
		available = append(available, f[1])
	}
	slices.Sort(available)
	slices.Sort(documented)
	if diff := cmp.Diff(available, documented); diff != "" || len(available) < 20 {
		t.Errorf("functions (-code +page):\n%s", diff)
	}
}

// TestExamplesApply applies every example of the pages, each to a node of its
// own, and holds that a second time changes nothing.
func TestExamplesApply(t *testing.T) {
	t.Parallel()
	page, _ := configurationPage(t)
	forms, err := os.ReadFile("../../docs/forms.md")
	if err != nil {
		t.Fatal(err)
	}
	page += string(forms)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page, -1)
	if len(examples) < 7 {
		t.Fatalf("found %d examples, want them all", len(examples))
	}
	for i, example := range examples {
		t.Run(fmt.Sprintf("example %d", i+1), func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			docs := readExample(t, example[1])
			edits, err := n.Apply(t.Context(), docs, directory.Options{})
			if err != nil || len(edits) == 0 {
				t.Fatalf("got %v, %v, want it taken", short(edits), err)
			}
			for _, p := range n.Current().Projects() {
				for _, f := range p.Flows() {
					if f.Err != nil {
						t.Errorf("the flow %s: %v", f.Name, f.Err)
					}
				}
				for _, src := range p.Sources() {
					if src.Err != nil {
						t.Errorf("the source %s: %v", src.Name, src.Err)
					}
				}
			}
			again, err := n.Apply(t.Context(), docs, directory.Options{})
			if err != nil || len(again) != 0 {
				t.Errorf("applied again: got %v, %v, want no change", short(again), err)
			}
		})
	}
}

// readExample reads a relay.yaml; what it takes from the environment is the
// name of the variable.
func readExample(t *testing.T, text string) (docs []directory.Document) {
	t.Helper()
	text = regexp.MustCompile(`\$\{(\w+)\}`).ReplaceAllString(text, "$1")
	for dec := yaml.NewDecoder(strings.NewReader(text)); ; {
		var tree any
		if err := dec.Decode(&tree); errors.Is(err, io.EOF) {
			return docs
		} else if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		var doc directory.Document
		if err := relay.Decode(raw, &doc); err != nil {
			t.Fatal(err)
		}
		docs = append(docs, doc)
	}
}
