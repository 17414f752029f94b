package mapping

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/parser"
)

// Condition is a condition over the fields of a form that a page can decide
// too, without asking: comparisons of fields, joined by and, or and not. It is
// written as every other expression is, and means the same here and in
// templates/form.js. It can always be decided: what is compared with a missing
// value, or with a value of another kind, is not so.
//
// It never changes, and any number of goroutines may ask it.
type Condition struct {
	source string
	root   term
}

// term is one node of a condition, in the form in which the page reads it:
// the name of an operator, and its operands. It is marshalled as a list.
type term struct {
	op   string
	args []any // terms, or the literal of is and the name of field
}

// MarshalJSON writes ["=", ["field", "topic"], ["is", "other"]].
func (t term) MarshalJSON() ([]byte, error) { return json.Marshal(append([]any{t.op}, t.args...)) }

// maxTerms bounds a condition.
const maxTerms = 64

// CompileCondition compiles a condition over form.NAME, where NAME is one of
// fields. Its error is a *relay.Error.
func CompileCondition(source string, fields []string) (*Condition, error) {
	source = strings.TrimSpace(source)
	switch {
	case source == "":
		return nil, refuse("", "a condition is empty: write one such as form.topic == \"other\"")
	case len(source) > MaxExpression:
		return nil, refuse("", "a condition may be %d bytes long, this one is %d", MaxExpression, len(source))
	case strings.HasPrefix(source, "{{"):
		return nil, refuse("", "a condition is written without {{ and }}: %q", clip(source))
	}
	tree, err := parser.Parse(source)
	if err != nil {
		why, _, _ := strings.Cut(err.Error(), "\n")
		return nil, refuse("", "condition %q: %s", clip(source), clip(why))
	}
	c := conditionCompiler{fields: fields}
	root, err := c.term(tree.Node)
	if err == nil && !decides(root) {
		err = errors.New("it must be true or false: compare the field, as in form.topic == \"other\"")
	}
	if err != nil {
		return nil, refuse("", "condition %q: %v", clip(source), err)
	}
	return &Condition{source: source, root: root}, nil
}

// decides reports whether a term can be true.
func decides(t term) bool {
	if t.op != "is" {
		return t.op != "list"
	}
	_, truth := t.args[0].(bool)
	return truth
}

type conditionCompiler struct {
	fields []string
	terms  int
}

func (c *conditionCompiler) term(n ast.Node) (term, error) {
	if c.terms++; c.terms > maxTerms {
		return term{}, fmt.Errorf("it has more than %d parts", maxTerms)
	}
	switch n := n.(type) {
	case *ast.NilNode:
		return term{"is", []any{nil}}, nil
	case *ast.BoolNode:
		return term{"is", []any{n.Value}}, nil
	case *ast.StringNode:
		return term{"is", []any{n.Value}}, nil
	case *ast.IntegerNode:
		return term{"is", []any{float64(n.Value)}}, nil
	case *ast.FloatNode:
		return term{"is", []any{n.Value}}, nil
	case *ast.ArrayNode:
		return c.apply("list", n.Nodes...)
	case *ast.ChainNode:
		return c.term(n.Node)
	case *ast.MemberNode:
		return c.field(n)
	case *ast.UnaryNode:
		return c.unary(n)
	case *ast.BinaryNode:
		return c.binary(n)
	}
	return term{}, errors.New("only form.NAME, texts in quotes, numbers, true, false, nil and lists can be compared, by == != < <= > >= in and or not")
}

func (c *conditionCompiler) apply(op string, operands ...ast.Node) (term, error) {
	t := term{op: op, args: make([]any, 0, len(operands))}
	for _, operand := range operands {
		arg, err := c.term(operand)
		if err != nil {
			return term{}, err
		}
		t.args = append(t.args, arg)
	}
	return t, nil
}

func (c *conditionCompiler) field(n *ast.MemberNode) (term, error) {
	base, isName := n.Node.(*ast.IdentifierNode)
	name, isText := n.Property.(*ast.StringNode)
	if !isName || !isText || base.Value != "form" {
		return term{}, errors.New("write form.NAME for a field")
	}
	if !slices.Contains(c.fields, name.Value) {
		return term{}, fmt.Errorf("form.%s is no field above this one", clip(name.Value))
	}
	return term{"field", []any{name.Value}}, nil
}

var errSign = errors.New("only a number has a sign")

func (c *conditionCompiler) unary(n *ast.UnaryNode) (term, error) {
	switch n.Operator {
	case "!", "not":
		return c.apply("not", n.Node)
	case "-", "+":
		t, err := c.term(n.Node)
		if err != nil || t.op != "is" {
			return t, cmp.Or(err, errSign)
		}
		number, ok := t.args[0].(float64)
		if !ok {
			return t, errSign
		}
		if n.Operator == "-" {
			number = -number
		}
		return term{"is", []any{number}}, nil
	}
	return term{}, fmt.Errorf("there is no operator %s here", n.Operator)
}

func (c *conditionCompiler) binary(n *ast.BinaryNode) (term, error) {
	switch n.Operator {
	case "&&", "and":
		return c.apply("and", n.Left, n.Right)
	case "||", "or":
		return c.apply("or", n.Left, n.Right)
	case "==":
		return c.apply("=", n.Left, n.Right)
	case "!=":
		equal, err := c.apply("=", n.Left, n.Right)
		return term{"not", []any{equal}}, err
	case "<", "<=", "in":
		return c.apply(n.Operator, n.Left, n.Right)
	case ">":
		return c.apply("<", n.Right, n.Left)
	case ">=":
		return c.apply("<=", n.Right, n.Left)
	}
	return term{}, fmt.Errorf("there is no operator %s here: use == != < <= > >= in and or not", n.Operator)
}

// String returns the condition as it was written.
func (c *Condition) String() string { return c.source }

// MarshalJSON writes the condition as templates/form.js reads it.
func (c *Condition) MarshalJSON() ([]byte, error) { return json.Marshal(c.root) }

// Holds reports whether the condition is true of a form's values: nil, bool,
// int64, float64, string, or a list of those.
func (c *Condition) Holds(form map[string]any) bool { return c.root.value(form) == true }

func (t term) value(form map[string]any) any {
	switch t.op {
	case "is":
		return t.args[0]
	case "field":
		name, _ := t.args[0].(string)
		return plainKind(form[name])
	}
	of := make([]any, len(t.args))
	for i, arg := range t.args {
		operand, _ := arg.(term)
		of[i] = operand.value(form)
	}
	switch t.op {
	case "list":
		return of
	case "not":
		return of[0] != true
	case "and":
		return of[0] == true && of[1] == true
	case "or":
		return of[0] == true || of[1] == true
	case "=":
		return equal(of[0], of[1])
	case "in":
		list, _ := of[1].([]any)
		return slices.ContainsFunc(list, func(item any) bool { return equal(of[0], item) })
	default:
		return ordered(t.op, of[0], of[1])
	}
}

// Mixes reports whether a comparison has fields on its sides of which some are
// among those named and some are not.
func (c *Condition) Mixes(fields []string) bool { return c.root.mixes(fields) }

func (t term) mixes(fields []string) bool {
	for _, arg := range t.args {
		if operand, ok := arg.(term); ok && operand.mixes(fields) {
			return true
		}
	}
	in, out := t.fieldsOf(fields)
	return !t.joins() && in && out
}

// joins reports whether a term makes one truth of others.
func (t term) joins() bool { return t.op == "and" || t.op == "or" || t.op == "not" }

// fieldsOf reports whether a term names fields among those, and others.
func (t term) fieldsOf(fields []string) (among, others bool) {
	if t.op == "field" {
		name, _ := t.args[0].(string)
		among = slices.Contains(fields, name)
		return among, !among
	}
	for _, arg := range t.args {
		if operand, ok := arg.(term); ok {
			in, out := operand.fieldsOf(fields)
			among, others = among || in, others || out
		}
	}
	return among, others
}

// Given returns what is left to be decided where the fields named have their
// values already: nothing of it names them, nor tells more of the values than
// what they decide. That holds unless c Mixes them.
func (c *Condition) Given(fields []string, form map[string]any) *Condition {
	return &Condition{c.source, c.root.given(fields, form)}
}

// Decided reports whether c is true whatever the form holds, or never.
func (c *Condition) Decided() (always, never bool) {
	if c.root.op != "is" {
		return false, false
	}
	return c.root.args[0] == true, c.root.args[0] != true
}

func (t term) given(fields []string, form map[string]any) term {
	switch among, others := t.fieldsOf(fields); {
	case among && !others:
		return term{"is", []any{t.value(form) == true}}
	case !among || !t.joins():
		return t
	}
	left := term{op: t.op, args: make([]any, len(t.args))}
	for i, arg := range t.args {
		operand, _ := arg.(term)
		left.args[i] = operand.given(fields, form)
	}
	return left
}

// plainKind brings a value into the few kinds that are compared.
func plainKind(v any) any {
	switch v := v.(type) {
	case int64:
		return float64(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plainKind(v[i])
		}
		return out
	default:
		return v
	}
}

// equal compares scalars; a list equals nothing, nor does an object, which only
// a hidden field can hold.
func equal(a, b any) bool {
	switch a.(type) {
	case []any, map[string]any:
		return false
	}
	return a == b
}

func ordered(op string, a, b any) bool {
	switch a := a.(type) {
	case float64:
		b, ok := b.(float64)
		return ok && (a < b || op == "<=" && a == b)
	case string:
		b, ok := b.(string)
		return ok && (a < b || op == "<=" && a == b)
	}
	return false
}
