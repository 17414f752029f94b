package archtest_test

import (
	"flag"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// page reads a page of docs.
func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// refusals say where the code names what it refuses with: in which package
// ("" means all), by which expression, and what goes before the name.
var refusals = []struct {
	pkg, prefix string
	expression  *regexp.Regexp
}{
	{"", "", regexp.MustCompile(`Errorf\((?:relay\.)?[A-Z]\w+,\s*"([a-z_]+)",`)},
	{"mapping", "", regexp.MustCompile(`errorCode = "([a-z_]+)"`)},
	{"directory", "", regexp.MustCompile(`asInvalid\("([a-z_]+)",`)},
	{"provider", "", regexp.MustCompile(`(?m)^\t[A-Z]\w+\s+Reason = "([a-z_]+)"`)},  // of a 401
	{"provider", "", regexp.MustCompile(`(?m)^\t[A-Z]\w+\s+= "([a-z]+_[a-z_]+)"$`)}, // of a 400
	{"handlers", "", regexp.MustCompile(`newProblem\([^"\n]+"([a-z_]+)",`)},
	{"handlers", "", regexp.MustCompile(`(?:reason|code)(?:, detail)? :?= "([a-z_]+)"`)},
	{"handlers", "invalid_", regexp.MustCompile(`oneOf\(c, "([a-z_]+)"`)},
}

// indirect is what stands where a code is no literal. All but the last two are
// found by one of the expressions above; those of the egress only ever stand
// in the detail of another refusal.
var indirect = []string{"code", "reason", "errorCode", "string(UnusableSecret)", "string(rejection.Reason)", `"invalid_"+name`, "codeBadURL", "codeRefused"}

// codes collects the stable codes of the API and of callbacks. The sandbox is
// part of neither.
func codes(t *testing.T) []string {
	t.Helper()
	found := map[string]bool{}
	named := regexp.MustCompile(`relay\.Errorf\(relay\.\w+,\s*([^,\s]+),`)
	err := filepath.WalkDir(filepath.Join(root, "internal"), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "sandbox":
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, r := range refusals {
			if r.pkg != "" && r.pkg != filepath.Base(filepath.Dir(path)) {
				continue
			}
			for _, m := range r.expression.FindAllStringSubmatch(string(source), -1) {
				found[r.prefix+m[1]] = true
			}
		}
		for _, m := range named.FindAllStringSubmatch(string(source), -1) {
			if literal := regexp.MustCompile(`^"[a-z_]+"$`).MatchString(m[1]); !literal && !slices.Contains(indirect, m[1]) {
				t.Errorf("%s: got the code %s, which this test cannot follow: want a literal, or an expression in refusals", path, m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(found))
}

// TestCodesAreDocumented holds that whoever meets a code finds it in
// docs/api.md or docs/configuration.md, and that no code is told of that
// nothing answers.
func TestCodesAreDocumented(t *testing.T) {
	t.Parallel()
	inCode := codes(t)
	if len(inCode) < 100 {
		t.Errorf("found %d codes: want them all", len(inCode))
	}
	api, configuration := page(t, "api.md"), page(t, "configuration.md")
	for _, code := range inCode {
		if !strings.Contains(api+configuration, "`"+code+"`") {
			t.Errorf("neither docs/api.md nor docs/configuration.md tells of the code %s", code)
		}
	}
	quoted := regexp.MustCompile("`([a-z_]+)`")
	_, refused, _ := strings.Cut(api, "| code of a 401 |")
	refused, _, _ = strings.Cut(refused, "\n\n")
	_, errors, _ := strings.Cut(api, "## Errors\n")
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \|`).FindAllStringSubmatch(refused+errors, -1) {
		for _, code := range quoted.FindAllStringSubmatch(row[1], -1) {
			if !slices.Contains(inCode, code[1]) {
				t.Errorf("docs/api.md tells of the code %s, with which nothing is refused", code[1])
			}
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `[a-z_]+` \\|(?:[^|\n]*\\|){3} ([^|\n]*) \\|$").FindAllStringSubmatch(configuration, -1) {
		for _, code := range quoted.FindAllStringSubmatch(row[1], -1) {
			if !slices.Contains(inCode, code[1]) {
				t.Errorf("docs/configuration.md tells of the code %s, with which nothing is refused", code[1])
			}
		}
	}
}

// TestRoutesAreDocumented holds docs/api.md against the routes.
func TestRoutesAreDocumented(t *testing.T) {
	t.Parallel()
	api := page(t, "api.md")
	source, err := os.ReadFile(filepath.Join(root, "internal", "handlers", "handlers.go"))
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	param := regexp.MustCompile(`:(\w+)`)
	for _, m := range regexp.MustCompile(`\b(e|v1)\.(GET|POST|PUT|DELETE|PATCH|Any)\("([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		path := param.ReplaceAllString(m[3], "{$1}")
		if m[1] == "v1" {
			path = "/v1" + path
		}
		if !strings.HasSuffix(path, "/*") { // told of with the route that it adds a token to
			routes = append(routes, strings.ToUpper(m[2])+" "+path)
		}
	}
	routes = append(routes, "GET /metrics") // of the operations listener
	if len(routes) < 35 {
		t.Errorf("found the routes %v: want them all", routes)
	}
	for _, route := range routes {
		if !strings.Contains(api, "`"+route+"`") {
			t.Errorf("docs/api.md does not tell of %s", route)
		}
	}
	for _, m := range regexp.MustCompile("`((?:GET|POST|PUT|DELETE|ANY) [^`?]+)`").FindAllStringSubmatch(api, -1) {
		if !slices.Contains(routes, m[1]) && !strings.Contains(m[1], "/debug/pprof/") {
			t.Errorf("docs/api.md tells of %s, which is no route", m[1])
		}
	}
}

// TestExplanationsAreDocumented holds the tables of docs/api.md against the
// steps of a timeline and the results of an explanation.
func TestExplanationsAreDocumented(t *testing.T) {
	t.Parallel()
	api := page(t, "api.md")
	for _, c := range []struct {
		file, typ, head string
		besides         []string // of the table, which stand for more than themselves
	}{
		{"internal/handlers/timeline.go", "step", "| `step` |", append(constants(t, "internal/relay/outcome.go", "Verdict"), constants(t, "internal/relay/outcome.go", "Match")...)},
		{"internal/intake/explain.go", "Result", "| `result` |", nil},
	} {
		inCode := constants(t, c.file, c.typ)
		if len(inCode) < 10 {
			t.Errorf("%s: found the constants %v of the type %s: want them all", c.file, inCode, c.typ)
		}
		_, table, _ := strings.Cut(api, c.head)
		table, _, _ = strings.Cut(table, "\n\n")
		for _, name := range inCode {
			if !strings.Contains(table, "| `"+name+"` |") {
				t.Errorf("docs/api.md, %s does not tell of %q", c.head, name)
			}
		}
		for _, row := range regexp.MustCompile(`(?m)^\| ([^|]*) \|`).FindAllStringSubmatch(table, -1) {
			for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
				if !slices.Contains(inCode, name[1]) && !slices.Contains(c.besides, name[1]) {
					t.Errorf("docs/api.md, %s tells of %q, which no code says", c.head, name[1])
				}
			}
		}
	}
}

var update = flag.Bool("update", false, "write docs/providers anew")

// TestProvidersAreDocumented holds docs/providers against the presets, of
// which its pages are made: make docs writes them.
func TestProvidersAreDocumented(t *testing.T) {
	t.Parallel()
	pages := map[string]string{"README.md": provider.Index()}
	for _, name := range provider.Names() {
		preset, _ := provider.Lookup(name)
		pages[name+".md"] = preset.Guide()
	}
	dir := filepath.Join(root, "docs", "providers")
	if *update {
		for name, text := range pages {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if pages[entry.Name()] == "" {
			t.Errorf("docs/providers/%s: there is no such preset", entry.Name())
		}
	}
	for name, want := range pages {
		if got := page(t, filepath.Join("providers", name)); got != want {
			t.Errorf("docs/providers/%s is not what its preset says: run make docs", name)
		}
	}
}

// TestPresetFieldsAreDocumented holds the table of docs/presets.md against the
// schema: make docs writes it.
func TestPresetFieldsAreDocumented(t *testing.T) {
	t.Parallel()
	const begin, end = "<!-- fields -->\n", "<!-- /fields -->\n"
	rows, err := provider.SchemaRows()
	if err != nil {
		t.Fatal(err)
	}
	text := page(t, "presets.md")
	before, rest, _ := strings.Cut(text, begin)
	_, after, ok := strings.Cut(rest, end)
	if !ok {
		t.Fatal("docs/presets.md has no place for the fields")
	}
	want := before + begin + rows + end + after
	if *update {
		if err := os.WriteFile(filepath.Join(root, "docs", "presets.md"), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if text != want {
		t.Error("docs/presets.md is not what the schema says: run make docs")
	}
}

// TestExampleOfAPreset holds that the example of docs/presets.md is one.
func TestExampleOfAPreset(t *testing.T) {
	t.Parallel()
	_, example, _ := strings.Cut(page(t, "presets.md"), "    provider:\n")
	example, _, _ = strings.Cut(example, "```")
	example = strings.ReplaceAll("\n"+example, "\n      ", "\n")
	if preset, err := provider.Parse([]byte(example)); err != nil || preset.Name != "shop" {
		t.Errorf("Parse: got %v", err)
	}
}

// TestMetricsAreDocumented holds the table of docs/operating.md against the
// metrics that the code makes, and every name on the page, those of the alert
// rules too, against the table.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(root, "internal", "metrics", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	inCode := map[string]bool{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"(relay_[a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
			inCode[m[1]] = inCode[m[1]] || !strings.HasSuffix(file, "_test.go")
		}
	}
	maps.DeleteFunc(inCode, func(_ string, inProgram bool) bool { return !inProgram })
	if len(inCode) < 15 {
		t.Errorf("found %d metrics: want them all", len(inCode))
	}
	operating := page(t, "operating.md")
	_, table, _ := strings.Cut(operating, "| metric | type |")
	table, _, _ = strings.Cut(table, "\n\n")
	inTable := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(relay_[a-z_]+)` \\|").FindAllStringSubmatch(table, -1) {
		inTable[row[1]] = true
	}
	if got, want := slices.Sorted(maps.Keys(inTable)), slices.Sorted(maps.Keys(inCode)); !slices.Equal(got, want) {
		t.Errorf("the metrics of docs/operating.md: got %v, want %v", got, want)
	}
	for _, name := range regexp.MustCompile(`\brelay_[a-z_]+`).FindAllString(operating, -1) {
		if base := strings.TrimSuffix(name, "_bucket"); !inTable[base] {
			t.Errorf("docs/operating.md tells of the metric %s, which is none", name)
		}
	}
}

// TestNewsAreDocumented holds the table of docs/subscriptions.md against the
// kinds of news.
func TestNewsAreDocumented(t *testing.T) {
	t.Parallel()
	_, table, _ := strings.Cut(page(t, "subscriptions.md"), "| kind |")
	table, _, _ = strings.Cut(table, "\n\n")
	var inTable []string
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]*) \|`).FindAllStringSubmatch(table, -1) {
		for _, kind := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			inTable = append(inTable, kind[1])
		}
	}
	var inCode []string
	for _, kind := range relay.AllNews {
		inCode = append(inCode, string(kind))
	}
	slices.Sort(inTable)
	slices.Sort(inCode)
	if !slices.Equal(inTable, inCode) {
		t.Errorf("docs/subscriptions.md tells of the news %v, want %v", inTable, inCode)
	}
}

// TestGuaranteesNameTests holds that the tests that docs/guarantees.md calls
// as witnesses are there, in the packages that it names.
func TestGuaranteesNameTests(t *testing.T) {
	t.Parallel()
	cited := regexp.MustCompile("`((?:internal|cmd)/[a-z/]+)`((?:,? Test[A-Za-z0-9]+)+)")
	count := 0
	for _, m := range cited.FindAllStringSubmatch(page(t, "guarantees.md"), -1) {
		tests := testsOf(t, filepath.Join(root, m[1]))
		for _, name := range regexp.MustCompile(`Test\w+`).FindAllString(m[2], -1) {
			if count++; !slices.Contains(tests, name) {
				t.Errorf("%s has no test %s, which docs/guarantees.md names", m[1], name)
			}
		}
	}
	if count < 40 {
		t.Errorf("docs/guarantees.md names %d tests: were they written in another way?", count)
	}
}

// testsOf lists the tests of a package.
func testsOf(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}
