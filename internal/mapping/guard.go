package mapping

import (
	"fmt"
	"reflect"
	"strings"

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
