package mapping

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/vm"
)

var (
	errTooLong   = fmt.Errorf("gives more than %d bytes", MaxOutput)
	errTooNested = fmt.Errorf("is nested more than %d deep", MaxNesting)
	errInfinite  = errors.New("is not a finite number")
)

// maxClip is the length, in bytes, of anything quoted in a note or an error.
const maxClip = 200

// rendering is the state of one Render.
type rendering struct {
	scope   *Scope
	machine vm.VM // kept from one expression to the next for its stack
	notes   []Note
	left    int                 // bytes that expressions may still give
	escape  func(string) string // what they give in a text; nil: as it is
}

func (r *rendering) node(n *node) any {
	switch n.kind {
	case kindText:
		if n.text.bare {
			return r.expression(n.text.parts[0].expr)
		}
		return r.text(n.text)
	case kindObject:
		out := make(map[string]any, len(n.object))
		for i := range n.object {
			out[n.object[i].name] = r.node(&n.object[i].value)
		}
		return out
	case kindArray:
		out := make([]any, len(n.array))
		for i := range n.array {
			out[i] = r.node(&n.array[i])
		}
		return out
	default:
		return n.literal
	}
}

func (r *rendering) text(t *template) string {
	var out strings.Builder
	for _, p := range t.parts {
		if p.expr == nil {
			out.WriteString(p.text)
			continue
		}
		value := Text(r.expression(p.expr))
		if r.escape != nil {
			value = r.escape(value)
		}
		out.WriteString(value)
	}
	return out.String()
}

// expression gives the value of e, or null with a note.
func (r *rendering) expression(e *expression) any {
	raw, err := e.eval(&r.machine, r.scope)
	if err != nil {
		return r.null(e, "cannot be computed: "+evalReason(err))
	}
	p := purse{left: r.left}
	v, err := p.take(raw, 0)
	switch {
	case err != nil:
		return r.null(e, err.Error())
	case v == nil:
		return r.null(e, "has no value")
	}
	r.left = p.left
	return v
}

func (r *rendering) null(e *expression, reason string) any {
	r.notes = append(r.notes, Note{Expression: clip(e.source), Reason: clip(reason)})
	return nil
}

// purse pays for what expressions give. Every value costs its bytes, about as
// many as it takes in JSON.
type purse struct{ left int }

func (p *purse) pay(bytes int) error {
	if bytes > p.left {
		return errTooLong
	}
	p.left -= bytes
	return nil
}

// take copies a result into the few types that Render promises.
func (p *purse) take(v any, depth int) (any, error) {
	if depth > MaxNesting {
		return nil, errTooNested
	}
	switch v := v.(type) {
	case nil:
		return nil, p.pay(len("null"))
	case string:
		return strings.ToValidUTF8(v, "\uFFFD"), p.pay(len(v) + 2)
	case map[string]any:
		return p.takeObject(v, depth)
	case []any:
		return takeArray(p, v, depth)
	case []string:
		return takeArray(p, v, depth)
	case []int:
		return takeArray(p, v, depth)
	case []float64:
		return takeArray(p, v, depth)
	case json.Number:
		return number(v), p.pay(len(v))
	}
	return p.takeOther(v, depth)
}

func (p *purse) takeOther(v any, depth int) (any, error) {
	switch v := v.(type) {
	case *payment:
		if v == nil {
			return p.take(nil, depth)
		}
		return p.takeObject(v.object(), depth)
	case payment:
		return p.takeObject(v.object(), depth)
	case *correlation:
		return p.takeObject(v.object(), depth)
	case correlation:
		return p.takeObject(v.object(), depth)
	}
	out, ok := scalar(v)
	if !ok {
		return nil, fmt.Errorf("is of type %T, which cannot be sent", v)
	}
	if f, isFloat := out.(float64); isFloat && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return nil, errInfinite
	}
	return out, p.pay(8)
}

// takeObject copies a map. A nil map is a name without a value.
func (p *purse) takeObject(m map[string]any, depth int) (any, error) {
	if m == nil {
		return p.take(nil, depth)
	}
	out := make(map[string]any, len(m))
	for name, value := range m {
		if err := p.pay(len(name) + 4); err != nil {
			return nil, err
		}
		v, err := p.take(value, depth+1)
		if err != nil {
			return nil, err
		}
		out[name] = v
	}
	return out, nil
}

func takeArray[T any](p *purse, items []T, depth int) (any, error) {
	out := make([]any, len(items))
	for i, item := range items {
		v, err := p.take(item, depth+1)
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

// scalar turns booleans and every width of number into bool, int64 and
// float64. An unsigned number beyond int64 becomes a float64.
func scalar(v any) (any, bool) {
	switch v := v.(type) {
	case bool, int64, float64:
		return v, true
	case int:
		return int64(v), true
	}
	r := reflect.ValueOf(v)
	switch {
	case !r.IsValid():
		return nil, false
	case r.CanInt():
		return r.Int(), true
	case r.CanUint() && r.Uint() <= math.MaxInt64:
		return int64(r.Uint()), true
	case r.CanUint():
		return float64(r.Uint()), true
	case r.CanFloat():
		return r.Float(), true
	}
	return nil, false
}

// Text writes a rendered value as it stands inside a text: null as nothing,
// numbers without an exponent, objects and arrays as JSON.
func Text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		if v == 0 {
			return "0" // never -0
		}
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "" // no rendered value gets here: all of them have a JSON form
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// clip shortens what is quoted to maxClip bytes of valid UTF-8.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxClip {
		return s
	}
	end := maxClip - len("…")
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
