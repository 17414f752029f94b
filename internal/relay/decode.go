package relay

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// maxNesting is how deep the JSON that people write may be nested.
const maxNesting = 64

// Decode reads one JSON value strictly: unknown fields, fields in another
// case, duplicate keys, deep nesting and anything after the value are refused,
// with an Error that says where. What a reader would silently ignore is what
// its writer got wrong.
func Decode(raw []byte, into any) error {
	if !utf8.Valid(raw) { // encoding/json would read it, as something else
		return Errorf(Malformed, "malformed_json", "the body is not UTF-8, as JSON must be")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if len(bytes.TrimSpace(raw)) == 0 {
		return Errorf(Malformed, "malformed_json", "the body is empty: send JSON, at least {}")
	}
	if err := checkValue(dec, nil, 0, reflect.TypeOf(into)); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Errorf(Malformed, "trailing_data", "there is something after the JSON value: send one value")
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return explain(err)
	}
	return nil
}

// explain turns the decoder's words into a refusal.
func explain(err error) error {
	var typeErr *json.UnmarshalTypeError
	var syntaxErr *json.SyntaxError
	var known *Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &typeErr):
		return wrongType(orBody(typeErr.Field), typeErr.Value, typeErr.Type)
	case errors.As(err, &syntaxErr):
		return Errorf(Malformed, "malformed_json", "the body is not JSON: %v at byte %d", err, syntaxErr.Offset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Errorf(Malformed, "malformed_json", "the body ends before its JSON does")
	default:
		return Errorf(Invalid, "invalid_value", "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
}

func wrongType(at, got string, want reflect.Type) *Error {
	return Errorf(Invalid, "wrong_type", "%s: a JSON %s does not go here: want %s", at, got, jsonName(want))
}

// jsonName says which JSON goes into a type.
func jsonName(t reflect.Type) string {
	if t == reflect.TypeFor[json.Number]() {
		return "a number"
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Float32, reflect.Float64:
		return "a number"
	default:
		return "a whole number"
	}
}

// theBody is the place of a value that is the whole body.
const theBody = "the body"

func orBody(field string) string {
	if field == "" {
		return theBody
	}
	return field
}

// place is where a value stands. It is spelt out only in a refusal: the keys
// above a long array are not written for each of its elements.
type place struct {
	up    *place // nil: the whole body
	key   string // "": an element
	index int
}

// String writes a place like on.completed.custom_vars or source[1].
func (p *place) String() string {
	switch {
	case p == nil:
		return ""
	case p.key == "":
		return fmt.Sprintf("%s[%d]", p.up, p.index)
	case p.up == nil:
		return p.key
	default:
		return p.up.String() + "." + p.key
	}
}

// checkValue walks one JSON value on its way into a type and refuses what
// encoding/json lets pass or cannot place: a field that is not there, or only
// in another case; a key twice in an object; deep nesting; a value of another
// type, or one that its own type refuses. A nil type takes anything.
func checkValue(dec *json.Decoder, at *place, depth int, into reflect.Type) error {
	for into != nil && into.Kind() == reflect.Pointer {
		into = into.Elem()
	}
	if into != nil && readsItself(into) {
		return checkOwn(dec, at, depth, into)
	}
	tok, err := dec.Token()
	if err != nil {
		return explain(err)
	}
	if got, ok := fits(tok, into); !ok {
		return wrongType(orBody(at.String()), got, into)
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	if depth >= maxNesting {
		return Errorf(Malformed, "too_deep", "the JSON is nested deeper than %d levels", maxNesting)
	}
	seen := map[string]bool{}
	for i := 0; dec.More(); i++ {
		below, inner := &place{up: at, index: i}, elementOf(into)
		if delim == '{' {
			key, err := dec.Token()
			if err != nil {
				return explain(err)
			}
			name, _ := key.(string)
			if below.key = name; seen[name] {
				return Errorf(Malformed, "duplicate_key", "%s: the key stands there twice", below)
			}
			seen[name] = true
			if into != nil && into.Kind() == reflect.Struct {
				if inner, ok = fieldOf(into, name); !ok {
					return Errorf(Invalid, "unknown_field", "%s: there is no such field here: remove it, or correct its name%s", below,
						DidYouMean(name, fieldsOf(into)))
				}
			}
		}
		if err := checkValue(dec, below, depth+1, inner); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the closing bracket
	if err != nil {
		return explain(err)
	}
	return nil
}

// fits reports whether the JSON that a token begins goes into a type, and what
// JSON that is. null goes everywhere: it leaves things as they are.
func fits(tok json.Token, into reflect.Type) (got string, ok bool) {
	kind := reflect.Interface
	if into != nil {
		kind = into.Kind()
	}
	switch tok {
	case nil:
		return "null", true
	case json.Delim('{'):
		return "object", kind == reflect.Struct || kind == reflect.Map || kind == reflect.Interface
	case json.Delim('['):
		return "array", kind == reflect.Slice || kind == reflect.Array || kind == reflect.Interface
	}
	if into == reflect.TypeFor[json.Number]() { // quoted or not
		kind = reflect.Interface
	}
	switch tok.(type) {
	case string:
		return "string", kind == reflect.String || kind == reflect.Interface
	case bool:
		return "bool", kind == reflect.Bool || kind == reflect.Interface
	default:
		return "number", kind >= reflect.Int && kind <= reflect.Float64 || kind == reflect.Interface
	}
}

// checkOwn checks a value whose type reads it by a method of its own: such a
// method does not know its place.
func checkOwn(dec *json.Decoder, at *place, depth int, into reflect.Type) error {
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return explain(err)
	}
	if err := checkValue(json.NewDecoder(bytes.NewReader(raw)), at, depth, nil); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, reflect.New(into).Interface()); err != nil {
		if at == nil {
			return explain(err)
		}
		return At(at.String(), explain(err))
	}
	return nil
}

// readsItself reports whether encoding/json leaves a type to its own method.
func readsItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// elementOf is the type of what stands in a list or an object of type t.
func elementOf(t reflect.Type) reflect.Type {
	if t == nil {
		return nil
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map:
		return t.Elem()
	default:
		return nil
	}
}

// fieldOf finds the field that encoding/json reads a key into, by its exact
// name.
func fieldOf(t reflect.Type, key string) (reflect.Type, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "" && f.Anonymous:
			if inner, ok := fieldOf(f.Type, key); ok {
				return inner, true
			}
		case name == key && key != "-", name == "" && f.IsExported() && f.Name == key:
			return f.Type, true
		}
	}
	return nil, false
}

// FieldsOf lists the names under which T is read from JSON.
func FieldsOf[T any]() []string { return fieldsOf(reflect.TypeFor[T]()) }

func fieldsOf(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "" && f.Anonymous:
			names = append(names, fieldsOf(f.Type)...)
		case name == "" && f.IsExported():
			names = append(names, f.Name)
		case name != "" && name != "-":
			names = append(names, name)
		}
	}
	return names
}

// At puts a place before the detail of a refusal, keeping its kind and code.
// What was the body to the decoder is that place.
func At(place string, err error) error {
	var known *Error
	if errors.As(err, &known) {
		return &Error{Kind: known.Kind, Code: known.Code, Detail: place + ": " + strings.TrimPrefix(known.Detail, theBody+": ")}
	}
	return fmt.Errorf("%s: %w", place, err)
}
