package provider

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// A path leads to one value of a JSON document:
//
//	data.object.id            members
//	items[0].id               an element by its place
//	notes[?name=token].value  the first element with such a member
//	methods[only]             the element of a list that has just one
//	["key.with.dots"]         a member whose name needs quotes
//	q#_email                  a member in whose name digits stand for #: q7_email
//	events[*]                 every element; only under each, and once
const (
	maxPath  = 255 // bytes
	maxSteps = 16
)

type stepKind uint8

const (
	stepMember stepKind = iota
	stepIndex
	stepWhere
	stepOnly
	stepEvery
)

type step struct {
	kind  stepKind
	name  string // stepMember: the member; stepWhere: the member that is compared
	digit bool   // stepMember: a # in name stands for digits
	equal string // stepWhere: with what
	index int    // stepIndex
}

func parsePath(text string) ([]step, error) {
	if text == "" {
		return nil, errors.New("the path is empty")
	}
	if len(text) > maxPath {
		return nil, fmt.Errorf("the path is longer than %d bytes", maxPath)
	}
	var steps []step
	for rest := text; rest != ""; {
		s, after, err := parseStep(rest, len(steps) == 0)
		if err != nil {
			return nil, fmt.Errorf("path %q: %w", text, err)
		}
		if steps, rest = append(steps, s), after; len(steps) > maxSteps {
			return nil, fmt.Errorf("path %q: more than %d steps", text, maxSteps)
		}
	}
	return steps, nil
}

func parseStep(rest string, first bool) (step, string, error) {
	if strings.HasPrefix(rest, "[") {
		return parseBracket(rest)
	}
	if !first {
		var dotted bool
		if rest, dotted = strings.CutPrefix(rest, "."); !dotted {
			return step{}, "", fmt.Errorf("expected . or [ before %q", rest)
		}
	}
	end := strings.IndexAny(rest, ".[]")
	if end < 0 {
		end = len(rest)
	}
	if end == 0 {
		return step{}, "", errors.New("a name is missing")
	}
	return step{kind: stepMember, name: rest[:end], digit: strings.Contains(rest[:end], "#")}, rest[end:], nil
}

func parseBracket(rest string) (step, string, error) {
	if quoted, ok := strings.CutPrefix(rest, `["`); ok {
		name, after, closed := strings.Cut(quoted, `"]`)
		if !closed || name == "" {
			return step{}, "", errors.New(`a quoted name ends with "]`)
		}
		return step{kind: stepMember, name: name}, after, nil
	}
	inner, after, closed := strings.Cut(rest[1:], "]")
	if !closed {
		return step{}, "", errors.New("a [ is not closed")
	}
	if condition, ok := strings.CutPrefix(inner, "?"); ok {
		name, equal, ok := strings.Cut(condition, "=")
		if !ok || name == "" {
			return step{}, "", fmt.Errorf("[%s] is not written like [?name=value]", inner)
		}
		return step{kind: stepWhere, name: name, equal: equal}, after, nil
	}
	switch inner {
	case "*":
		return step{kind: stepEvery}, after, nil
	case "only":
		return step{kind: stepOnly}, after, nil
	}
	n, err := strconv.ParseUint(inner, 10, 16)
	if err != nil {
		return step{}, "", fmt.Errorf("[%s] is none of [0], [?name=value], [only] and [\"name\"]", inner)
	}
	return step{kind: stepIndex, index: int(n)}, after, nil
}

// tree holds all paths that a preset reads from one document, so that one
// walk finds all of them, however many there are.
type tree struct {
	root *node
	size int // nodes; each has its own place in what collect fills
}

type node struct {
	id       int
	members  []member
	elements []element
}

// names reports whether a member of that name is meant.
func (s *step) names(name string) bool {
	if !s.digit {
		return s.name == name
	}
	rest, ok := cutDigits(s.name, name)
	return ok && rest == ""
}

// cutDigits returns what follows in a text that begins like the pattern, in
// which one # stands for digits. ok is false when it does not.
func cutDigits(pattern, text string) (rest string, ok bool) {
	before, behind, _ := strings.Cut(pattern, "#")
	digits, ok := strings.CutPrefix(text, before)
	if !ok {
		return "", false
	}
	after := strings.TrimLeft(digits, "0123456789")
	rest, ok = strings.CutPrefix(after, behind)
	return rest, ok && len(after) < len(digits)
}

type member struct {
	step step
	node *node
}

type element struct {
	step step
	node *node
}

// add makes the tree find the path and returns where collect puts its value.
func (t *tree) add(steps []step) int {
	if t.root == nil {
		t.root = t.node()
	}
	n := t.root
	for _, s := range steps {
		n = t.child(n, s)
	}
	return n.id
}

func (t *tree) node() *node {
	t.size++
	return &node{id: t.size - 1}
}

func (t *tree) child(n *node, s step) *node {
	if s.kind == stepMember {
		for _, m := range n.members {
			if m.step == s {
				return m.node
			}
		}
		c := t.node()
		n.members = append(n.members, member{s, c})
		return c
	}
	for _, e := range n.elements {
		if e.step == s {
			return e.node
		}
	}
	c := t.node()
	n.elements = append(n.elements, element{s, c})
	return c
}

// collect walks the document once and returns the values of all nodes.
func (t *tree) collect(doc gjson.Result) []value {
	if t.root == nil {
		return nil
	}
	out := make([]value, t.size)
	t.root.collect(doc, out)
	return out
}

func (n *node) member(name string) *node {
	for i := range n.members {
		if n.members[i].step.names(name) {
			return n.members[i].node
		}
	}
	return nil
}

func (n *node) collect(v gjson.Result, out []value) {
	out[n.id] = valueOf(v)
	switch {
	case len(n.members) > 0 && v.IsObject():
		v.ForEach(func(key, m gjson.Result) bool {
			if c := n.member(key.Str); c != nil && out[c.id].kind == unseen {
				c.collect(m, out)
			}
			return true
		})
	case len(n.elements) > 0 && v.IsArray():
		n.collectElements(v, out)
	}
}

func (n *node) collectElements(v gjson.Result, out []value) {
	var first gjson.Result
	count := 0
	v.ForEach(func(_, el gjson.Result) bool {
		if count == 0 {
			first = el
		}
		for i := range n.elements {
			e := &n.elements[i]
			if out[e.node.id].kind == unseen && e.step.picks(count, el) {
				e.node.collect(el, out)
			}
		}
		count++
		return true
	})
	for i := range n.elements {
		if e := &n.elements[i]; e.step.kind == stepOnly && count == 1 {
			e.node.collect(first, out)
		}
	}
}

func (s *step) picks(index int, el gjson.Result) bool {
	switch s.kind {
	case stepIndex:
		return index == s.index
	case stepWhere:
		found := lookup(el, s.name)
		text, ok := found.scalar()
		return ok && text == s.equal
	default:
		return false
	}
}

// lookup returns the first member of that name.
func lookup(v gjson.Result, name string) value {
	var found value
	if v.IsObject() {
		v.ForEach(func(key, m gjson.Result) bool {
			if key.Str == name {
				found = valueOf(m)
			}
			return found.kind == unseen
		})
	}
	return found
}

type valueKind uint8

const (
	unseen   valueKind = iota // the document has no such value
	null                      // it says null
	scalar                    // a string, number or boolean: text holds it
	compound                  // an object or an array
)

// value is what a document says at one path. Numbers keep their source text.
type value struct {
	text string
	kind valueKind
}

func textValue(text string) value { return value{text: text, kind: scalar} }

func (v *value) scalar() (string, bool) { return v.text, v.kind == scalar }

func valueOf(v gjson.Result) value {
	switch v.Type {
	case gjson.String:
		return textValue(v.Str)
	case gjson.Number, gjson.True, gjson.False:
		return textValue(v.Raw)
	case gjson.JSON:
		return value{kind: compound}
	default:
		return value{kind: null}
	}
}
