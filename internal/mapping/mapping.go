// Package mapping renders what people write into actions, `{{ expression }}`
// templates, and decides their guards. It promises three things. A typing
// mistake is found when a flow is saved, not when somebody has paid. Rendering
// never fails and never panics: what has no value becomes null and is noted.
// And the same template over the same scope gives the same value every time,
// so that a retry sends the bytes that the first attempt sent; that is why
// there is no clock, no randomness and nothing that walks a map in Go's order.
//
// What one render may cost is bounded too, because a template is written by a
// tenant and fed by a stranger. Expressions have no variables, no ranges, no
// growing functions without a limit and no loop inside a loop; their length,
// their nodes, their number and their output have the bounds below. The worst
// that is left is a few passes over the lists of one callback.
//
// This package alone knows the expression library.
package mapping

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"relay.example/relay/internal/relay"
)

// The bounds of what is compiled and of what is rendered.
const (
	MaxTemplate    = 16 << 10 // bytes of one string with expressions in it
	MaxExpression  = 4 << 10  // bytes of one expression
	MaxNodes       = 256      // nodes of the syntax tree of one expression
	MaxListPasses  = 4        // find, filter, any, … in one expression
	MaxExpressions = 256      // expressions in one value
	MaxNesting     = 32       // objects and arrays inside each other, in and out
	MaxOutput      = 1 << 20  // bytes that the expressions of one render may give
	MaxItems       = 100_000  // items that one expression may collect
)

// errorCode is the stable code of everything that does not compile.
const errorCode = "expression_invalid"

// Value is a compiled value of any shape whose strings may hold expressions.
// It never changes, and any number of goroutines may render it.
type Value struct {
	root      node
	varies    bool
	usesEvent bool
	fields    []string // of the form
}

// Note tells of an expression that gave null.
type Note struct {
	Expression string `json:"expression"`
	Reason     string `json:"reason"` // at most 200 bytes
}

// node is one place of a value: exactly one of its fields is used, and a node
// without any is the literal null.
type node struct {
	literal any
	text    *template
	object  []member
	array   []node
	kind    kind
}

type kind uint8

const (
	kindLiteral kind = iota
	kindText
	kindObject
	kindArray
)

// member is one field of an object. They are rendered in the order of their
// names, which keeps the notes in order as well.
type member struct {
	name  string
	value node
}

// CompileValue compiles a value as JSON or YAML decode it: strings, numbers,
// booleans, null, maps and arrays. A string that is one expression and nothing
// else keeps the expression's type; in all others expressions turn into text.
// Its error is a *relay.Error that names the place and the expression.
func CompileValue(v any) (*Value, error) {
	c := compilation{}
	root, err := c.node(v, "", 0)
	if err != nil {
		return nil, err
	}
	return &Value{root: root, varies: c.expressions > 0, usesEvent: c.usesEvent, fields: c.fields}, nil
}

// Varies reports whether the value may differ from scope to scope.
func (v *Value) Varies() bool { return v.varies }

// UsesEvent reports whether rendering looks at the raw event, and the scope
// therefore needs its body.
func (v *Value) UsesEvent() bool { return v.usesEvent }

// FormFields lists the fields of the form that its expressions name.
func (v *Value) FormFields() []string { return v.fields }

// Render gives the value over a scope: nil, bool, int64, float64, string,
// []any and map[string]any, all of it new and the caller's to keep.
func (v *Value) Render(s *Scope) (any, []Note) {
	r := rendering{scope: s, left: MaxOutput}
	return r.node(&v.root), r.notes
}

// RenderText gives the value as a text. What expressions give goes through
// escape, and what the author wrote does not; nil escapes nothing.
func (v *Value) RenderText(s *Scope, escape func(string) string) (string, []Note) {
	r := rendering{scope: s, left: MaxOutput, escape: escape}
	if v.root.kind == kindText { // of a single expression too
		return r.text(v.root.text), r.notes
	}
	return Text(r.node(&v.root)), r.notes
}

// compilation is the state of one CompileValue.
type compilation struct {
	expressions int
	usesEvent   bool
	fields      []string
}

func (c *compilation) node(v any, path string, depth int) (node, error) {
	if depth > MaxNesting {
		return node{}, refuse(path, "values may be nested %d deep", MaxNesting)
	}
	switch v := v.(type) {
	case string:
		return c.text(v, path)
	case map[string]any:
		return c.object(v, path, depth)
	case []any:
		return c.array(v, path, depth)
	}
	literal, err := plain(v)
	if err != nil {
		return node{}, refuse(path, "%v", err)
	}
	return node{literal: literal}, nil
}

func (c *compilation) text(s, path string) (node, error) {
	if !holdsExpression(s) {
		return node{literal: s}, nil
	}
	t, err := compileTemplate(s, path)
	if err != nil {
		return node{}, err
	}
	for _, p := range t.parts {
		if p.expr == nil {
			continue
		}
		c.expressions++
		c.usesEvent = c.usesEvent || p.expr.usesEvent
		c.fields = append(c.fields, p.expr.fields...)
	}
	if c.expressions > MaxExpressions {
		return node{}, refuse(path, "this is more than %d expressions in one value", MaxExpressions)
	}
	return node{text: t, kind: kindText}, nil
}

func (c *compilation) object(m map[string]any, path string, depth int) (node, error) {
	out := node{object: make([]member, 0, len(m)), kind: kindObject}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		value, err := c.node(m[name], join(path, name), depth+1)
		if err != nil {
			return node{}, err
		}
		out.object = append(out.object, member{name: name, value: value})
	}
	return out, nil
}

func (c *compilation) array(items []any, path string, depth int) (node, error) {
	out := node{array: make([]node, 0, len(items)), kind: kindArray}
	for i, item := range items {
		value, err := c.node(item, join(path, strconv.Itoa(i)), depth+1)
		if err != nil {
			return node{}, err
		}
		out.array = append(out.array, value)
	}
	return out, nil
}

// plain brings a literal into the two kinds of number that everything
// downstream knows.
func plain(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, int64:
		return v, nil
	case json.Number:
		if n := number(v); n != nil {
			return n, nil
		}
		return nil, fmt.Errorf("%s is not a number that can be sent", clip(v.String()))
	}
	if n, ok := scalar(v); ok {
		return n, nil
	}
	return nil, fmt.Errorf("a value of type %T cannot be sent", v)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// refuse builds the error for a place of a value; path is "" at its root.
func refuse(path, format string, args ...any) error {
	detail := fmt.Sprintf(format, args...)
	if path != "" {
		detail = clip(path) + ": " + detail
	}
	return &relay.Error{Kind: relay.Invalid, Code: errorCode, Detail: detail}
}
