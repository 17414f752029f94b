package mapping

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"
)

// expression is one compiled expression.
type expression struct {
	source    string
	program   *vm.Program
	usesEvent bool
	fields    []string // of the form
}

// builtins are the library's functions that stay. What is left out grows its
// input without a bound (repeat, toBase64, toJSON, map, reduce), reads a clock
// (now, date), walks a map in random order (keys, values, toPairs) or has no
// use here. string, replace and join are our own (functions.go).
func builtins() []string {
	return []string{
		"len", "trim", "trimPrefix", "trimSuffix", "upper", "lower", "split",
		"indexOf", "lastIndexOf", "hasPrefix", "hasSuffix",
		"abs", "ceil", "floor", "round", "int", "float", "min", "max", "sum",
		"first", "last", "find", "filter", "count", "all", "any", "none", "one",
	}
}

// compileExpression compiles one expression. Its error quotes the expression
// and says where in it the fault is and which names there are.
func compileExpression(source string) (*expression, error) {
	source = strings.TrimSpace(source)
	switch {
	case source == "":
		return nil, errors.New("an expression is empty: write a name between {{ and }}")
	case len(source) > MaxExpression:
		return nil, fmt.Errorf("an expression may be %d bytes long, this one is %d: %q", MaxExpression, len(source), clip(source))
	}
	found := inspection{}
	program, err := expr.Compile(source, options(&found)...)
	// What the inspection says of names is better than what the compiler says
	// of types, so it goes first.
	if len(found.faults) > 0 {
		f := slices.MinFunc(found.faults, func(a, b fault) int { return a.at - b.at })
		return nil, compileError(source, f.at, f.text)
	}
	var located *file.Error
	switch {
	case errors.As(err, &located):
		return nil, compileError(source, located.From, located.Message)
	case err != nil:
		return nil, compileError(source, 0, err.Error())
	}
	return &expression{source: source, program: program, usesEvent: found.usesEvent, fields: found.fields}, nil
}

func options(found *inspection) []expr.Option {
	opts := []expr.Option{
		expr.Env(names{}),
		expr.MaxNodes(MaxNodes),
		expr.DisableAllBuiltins(),
		expr.Patch(found),
	}
	for _, name := range builtins() {
		opts = append(opts, expr.EnableBuiltin(name))
	}
	for _, f := range functions() {
		opts = append(opts, expr.Function(f.name, f.call, f.types...))
	}
	return opts
}

// compileError says which expression is wrong, where and why. Where is counted
// in characters from 1.
func compileError(source string, at int, why string) error {
	why, _, _ = strings.Cut(why, "\n")
	return fmt.Errorf("expression %q, character %d: %s", clip(source), at+1, clip(why))
}

// eval runs e. Of its error only the text is of use.
func (e *expression) eval(machine *vm.VM, s *Scope) (out any, err error) {
	// The machine recovers from what goes wrong in an expression; this is for
	// what would go wrong in the machine.
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("%v", r)
		}
	}()
	machine.MemoryBudget = MaxItems
	return machine.Run(e.program, s.names(e.usesEvent))
}

// evalReason is the text of an error of eval, without the picture of the
// source that the library draws into it.
func evalReason(err error) string {
	var located *file.Error
	if errors.As(err, &located) {
		return clip(located.Message)
	}
	return clip(err.Error())
}

// inspection walks a syntax tree before it is compiled. It refuses unknown
// names and what could run without a bound, notices the use of `event`, and
// makes every access to a field tolerate null, so that event.a.b is null when
// there is no a.
type inspection struct {
	usesEvent bool
	fields    []string // of the form
	faults    []fault
	passes    int
}

// fault is something wrong at a character of an expression.
type fault struct {
	at   int
	text string
}

func (i *inspection) refuse(n ast.Node, format string, args ...any) {
	i.faults = append(i.faults, fault{at: n.Location().From, text: fmt.Sprintf(format, args...)})
}

// Visit is called for every node, after its children.
func (i *inspection) Visit(n *ast.Node) {
	switch node := (*n).(type) {
	case *ast.IdentifierNode:
		i.identifier(node)
	case *ast.MemberNode:
		i.member(n, node)
	case *ast.CallNode:
		i.call(node)
	case *ast.BinaryNode:
		i.binary(node)
	case *ast.PredicateNode:
		i.predicate(node)
	case *ast.VariableDeclaratorNode, *ast.SequenceNode:
		i.refuse(node, "variables and sequences are not available: write one expression")
	}
}

func (i *inspection) identifier(node *ast.IdentifierNode) {
	i.usesEvent = i.usesEvent || node.Value == "event"
	if slices.Contains(scopeNames(), node.Value) || isFunction(node.Value) {
		return
	}
	i.refuse(node, "unknown name %s: there are %s", node.Value, strings.Join(scopeNames(), ", "))
}

func (i *inspection) member(n *ast.Node, node *ast.MemberNode) {
	base, isName := node.Node.(*ast.IdentifierNode)
	property, isText := node.Property.(*ast.StringNode)
	if isName && isText {
		if fields := fieldsOf(base.Value); fields != nil && !slices.Contains(fields, property.Value) {
			i.refuse(node.Property, "%s has no field %s: there are %s", base.Value, property.Value, strings.Join(fields, ", "))
			return
		}
		if base.Value == "form" {
			i.fields = append(i.fields, property.Value)
		}
	}
	node.Optional = true
	ast.Patch(n, &ast.ChainNode{Node: node})
}

// call replaces the fault of an unknown name with one that tells the
// functions, which is what was looked for.
func (i *inspection) call(node *ast.CallNode) {
	callee, ok := node.Callee.(*ast.IdentifierNode)
	if !ok {
		i.refuse(node, "only functions can be called: there are %s", strings.Join(functionNames(), ", "))
		return
	}
	if isFunction(callee.Value) {
		return
	}
	at := callee.Location().From
	i.faults = slices.DeleteFunc(i.faults, func(f fault) bool { return f.at == at })
	i.refuse(callee, "unknown function %s: there are %s", callee.Value, strings.Join(functionNames(), ", "))
}

func (i *inspection) binary(node *ast.BinaryNode) {
	switch node.Operator {
	case "..":
		i.refuse(node, "ranges are not available")
	case "matches":
		// A pattern from a callback could be anything, and is compiled anew
		// at every render.
		if _, ok := node.Right.(*ast.StringNode); !ok {
			i.refuse(node, "the pattern of matches must be a string in quotes")
		}
	}
}

func (i *inspection) predicate(node *ast.PredicateNode) {
	i.passes++
	if i.passes > MaxListPasses {
		i.refuse(node, "an expression may walk %d lists", MaxListPasses)
	}
	inner := predicates{}
	ast.Walk(&node.Node, &inner)
	if inner.count > 0 {
		i.refuse(node, "a list cannot be walked inside the walk of another")
	}
}

// predicates counts the list walks of a subtree.
type predicates struct{ count int }

// Visit is called for every node.
func (p *predicates) Visit(n *ast.Node) {
	if _, ok := (*n).(*ast.PredicateNode); ok {
		p.count++
	}
}

// fieldsOf returns the fields of a name whose fields are known, else nil.
func fieldsOf(name string) []string {
	switch name {
	case "payment":
		return tags(reflect.TypeFor[payment]())
	case "correlation":
		return tags(reflect.TypeFor[correlation]())
	}
	return nil
}

func scopeNames() []string { return tags(reflect.TypeFor[names]()) }

// tags lists what the fields of a struct are called in expressions.
func tags(t reflect.Type) []string {
	out := make([]string, t.NumField())
	for i := range out {
		out[i] = t.Field(i).Tag.Get("expr")
	}
	return out
}
