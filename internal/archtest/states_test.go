package archtest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"relay.example/relay/internal/relay"
)

// ruleFiles name the rules that decide about events.
var ruleFiles = []string{
	"internal/relay/rules.go", "internal/intake/decide.go", "internal/intake/match.go", "internal/intake/ask.go", "internal/store/parked.go",
}

// TestStatesAreDocumented holds docs/states.md against the code: every state,
// match, verdict, class, outcome and rule has its place there, and no rule is
// told of that is none.
func TestStatesAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs", "states.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, section := range regexp.MustCompile(`(?m)^##+ `).Split(string(page), -1) {
		title, text, _ := strings.Cut(section, "\n")
		sections[title] = text
	}
	for typ, section := range map[string]string{
		"Status": "Correlation: one wait", "Verdict": "Event: one received callback", "Match": "Event: one received callback",
		"DeliveryStatus": "Delivery: one call that is owed", "Class": "Delivery: one call that is owed", "Outcome": "What fires what",
	} {
		names := constants(t, "internal/relay/outcome.go", typ)
		if len(names) < 4 {
			t.Errorf("found %d constants of the type %s: want them all", len(names), typ)
		}
		for _, name := range names {
			if !regexp.MustCompile(`\b` + name + `\b`).MatchString(sections[section]) {
				t.Errorf("docs/states.md, %q, does not tell of the %s %s", section, typ, name)
			}
		}
	}

	inCode := rules(t, ruleFiles...)
	if len(inCode) < 20 {
		t.Errorf("found the rules %v: want them all", inCode)
	}
	for _, rule := range inCode {
		if !strings.Contains(sections["Rules"], "`"+rule+"`") {
			t.Errorf("docs/states.md does not tell of the rule %s", rule)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(sections["Rules"], -1) {
		if !slices.Contains(inCode, row[1]) {
			t.Errorf("docs/states.md tells of the rule %s, which no code applies", row[1])
		}
	}
}

// TestRulesAreExplained holds that every rule has its sentence for people, and
// that no sentence is about a rule that no code applies.
func TestRulesAreExplained(t *testing.T) {
	t.Parallel()
	inCode := rules(t, ruleFiles...)
	for _, rule := range inCode {
		// What led to a wait is told of field by field.
		if relay.Why(rule) == "" && !slices.Contains([]string{"token", "key", "reference"}, rule) {
			t.Errorf("the rule %s has no sentence: give it one in internal/relay/why.go", rule)
		}
	}
	explained := 0
	ast.Inspect(parse(t, "internal/relay/why.go"), func(n ast.Node) bool {
		if pair, ok := n.(*ast.KeyValueExpr); ok {
			explained++
			if rule := literal(pair.Key); !slices.Contains(inCode, rule) {
				t.Errorf("internal/relay/why.go has a sentence for the rule %s, which no code applies", rule)
			}
		}
		return true
	})
	if explained < 20 {
		t.Errorf("found %d sentences: want them all", explained)
	}
}

func parse(t *testing.T, file string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// constants lists the values of a file's constants of a type, but for "".
func constants(t *testing.T, file, typ string) (values []string) {
	t.Helper()
	for _, decl := range parse(t, file).Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			value, ok := spec.(*ast.ValueSpec)
			if !ok {
				continue
			}
			if name, ok := value.Type.(*ast.Ident); ok && name.Name == typ {
				if text := literal(value.Values[0]); text != "" {
					values = append(values, text)
				}
			}
		}
	}
	return values
}

// rules lists the names that files give to what decided: the texts that
// become a field or a variable called rule, or that a function of rules
// returns.
func rules(t *testing.T, files ...string) (names []string) {
	t.Helper()
	add := func(e ast.Expr) {
		if text := literal(e); text != "" && !slices.Contains(names, text) {
			names = append(names, text)
		}
	}
	for _, file := range files {
		ast.Inspect(parse(t, file), func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				if isRule(n.Key) {
					add(n.Value)
				}
			case *ast.AssignStmt:
				if isRule(n.Lhs[0]) {
					add(n.Rhs[0])
				}
			case *ast.FuncDecl:
				if strings.HasSuffix(n.Name.Name, "Rule") {
					ast.Inspect(n, func(n ast.Node) bool {
						if ret, ok := n.(*ast.ReturnStmt); ok {
							add(ret.Results[0])
						}
						return true
					})
				}
			}
			return true
		})
	}
	return names
}

func isRule(e ast.Expr) bool {
	name, ok := e.(*ast.Ident)
	return ok && strings.EqualFold(name.Name, "rule")
}

func literal(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	text, _ := strconv.Unquote(lit.Value)
	return text
}
