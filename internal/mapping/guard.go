package mapping

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/vm"
)

// Guard is a compiled condition, such as payment.method != "voucher". It
// never changes, and any number of goroutines may ask it.
type Guard struct{ expr *expression }

// CompileGuard compiles a condition: one bare expression that is true or
// false. What is certain to be something else is refused here. Its error is a
// *relay.Error.
func CompileGuard(source string) (*Guard, error) {
	if strings.HasPrefix(strings.TrimSpace(source), "{{") {
		return nil, refuse("", "a condition is written without {{ and }}: %q", clip(source))
	}
	expr, err := compileExpression(source)
	if err != nil {
		return nil, refuse("", "%v", err)
	}
	// The library's own demand for a boolean would take null for false.
	if t := expr.program.Node().Type(); t != nil && t.Kind() != reflect.Bool && t.Kind() != reflect.Interface {
		return nil, refuse("", "condition %q gives %s: it must be true or false", clip(expr.source), t)
	}
	return &Guard{expr: expr}, nil
}

// UsesEvent reports whether the condition looks at the raw event.
func (g *Guard) UsesEvent() bool { return g.expr.usesEvent }

// FormFields lists the fields of the form that the condition names.
func (g *Guard) FormFields() []string { return g.expr.fields }

// Holds reports whether the condition is true of the scope. A condition that
// cannot be decided, because it compares null or gives no boolean, is an error
// that says so; it is then for the caller to fire nothing.
func (g *Guard) Holds(s *Scope) (bool, error) {
	out, err := g.expr.eval(new(vm.VM), s)
	if err != nil {
		return false, fmt.Errorf("condition %q cannot be decided: %s", clip(g.expr.source), evalReason(err))
	}
	holds, ok := out.(bool)
	if !ok {
		return false, fmt.Errorf("condition %q gives %s, neither true nor false", clip(g.expr.source), kindOf(out))
	}
	return holds, nil
}

// maxSeen bounds what Sees tells of one condition.
const maxSeen = 20

// Seen is one name of a condition with its value.
type Seen struct {
	Name  string // payment.currency
	Value any    // nil, bool, a number or a text of at most 200 bytes; of anything else what it is
}

// Sees tells what the names of the condition stand for in a scope, in the
// order in which they are written, each once and at most 20 of them. What the
// walk of a list looks at in its items has no value of its own and is left out.
func (g *Guard) Sees(s *Scope) []Seen {
	found := paths{}
	root := g.expr.program.Node()
	ast.Walk(&root, &found)
	var seen []Seen
	for i, name := range found {
		if slices.Contains(found[:i], name) || len(seen) == maxSeen {
			continue
		}
		value, err := CompileValue("{{ " + name + " }}")
		if err != nil {
			continue // a name that cannot stand alone
		}
		out, _ := value.Render(s)
		seen = append(seen, Seen{Name: name, Value: short(out)})
	}
	return seen
}

// short makes a value fit to be shown beside its name.
func short(v any) any {
	switch v := v.(type) {
	case string:
		return clip(v)
	case map[string]any, []any:
		return kindOf(v)
	default:
		return v
	}
}

// paths collects the names that an expression looks at, such as
// payment.currency. Nodes are visited after their children, so that a field
// takes the place of the name that it is a field of.
type paths []string

// Visit is called for every node.
func (p *paths) Visit(n *ast.Node) {
	switch node := (*n).(type) {
	case *ast.IdentifierNode:
		if slices.Contains(scopeNames(), node.Value) {
			*p = append(*p, node.Value)
		}
	case *ast.MemberNode:
		path := pathOf(node)
		if path == "" {
			return
		}
		if base := pathOf(node.Node); len(*p) > 0 && (*p)[len(*p)-1] == base {
			(*p)[len(*p)-1] = path
		}
	}
}

// pathOf writes a name with its fields as people write it, or "" where a part
// of it is computed.
func pathOf(n ast.Node) string {
	switch node := n.(type) {
	case *ast.ChainNode:
		return pathOf(node.Node)
	case *ast.IdentifierNode:
		return node.Value
	case *ast.MemberNode:
		base := pathOf(node.Node)
		if base == "" {
			return ""
		}
		switch property := node.Property.(type) {
		case *ast.StringNode:
			if plainName.MatchString(property.Value) {
				return base + "." + property.Value
			}
			return base + "[" + strconv.Quote(property.Value) + "]"
		case *ast.IntegerNode:
			return base + "[" + strconv.Itoa(property.Value) + "]"
		}
	}
	return ""
}

// plainName is a field that can be written after a dot.
var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// kindOf names what stands in the place of a boolean, without its content.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a text"
	case map[string]any, []any:
		return "an object or a list"
	default:
		return fmt.Sprintf("a value of type %T", v)
	}
}
