package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxNesting is how deep the JSON that people write may be nested.
const maxNesting = 64

// Decode reads one JSON value strictly: unknown fields, duplicate keys, deep
// nesting and anything after the value are refused, with an Error that says
// where. What a reader would silently ignore is what its writer got wrong.
func Decode(raw []byte, into any) error {
	if err := checkKeys(raw); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
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
		return Errorf(Invalid, "wrong_type", "%s: a JSON %s does not go here: want %s",
			orBody(typeErr.Field), typeErr.Value, typeErr.Type)
	case errors.As(err, &syntaxErr):
		return Errorf(Malformed, "malformed_json", "the body is not JSON: %v at byte %d", err, syntaxErr.Offset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Errorf(Malformed, "malformed_json", "the body ends before its JSON does")
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return Errorf(Invalid, "unknown_field", "%s: there is no such field here",
			strings.Trim(strings.TrimPrefix(err.Error(), "json: unknown field "), `"`))
	default:
		return Errorf(Invalid, "invalid_value", "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
}

func orBody(field string) string {
	if field == "" {
		return "the body"
	}
	return field
}

// checkKeys walks one JSON value and refuses what encoding/json lets pass:
// a key twice in an object, deep nesting, a second value.
func checkKeys(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := checkValue(dec, "", 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Errorf(Malformed, "trailing_data", "there is something after the JSON value: send one value")
	}
	return nil
}

func checkValue(dec *json.Decoder, path string, depth int) error {
	tok, err := dec.Token()
	if err != nil {
		return explain(err)
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
		at := fmt.Sprintf("%s[%d]", path, i)
		if delim == '{' {
			key, err := dec.Token()
			if err != nil {
				return explain(err)
			}
			name, _ := key.(string)
			if at = strings.TrimPrefix(path+"."+name, "."); seen[name] {
				return Errorf(Malformed, "duplicate_key", "%s: the key stands there twice", at)
			}
			seen[name] = true
		}
		if err := checkValue(dec, at, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the closing bracket
	if err != nil {
		return explain(err)
	}
	return nil
}

// At puts a place before the detail of a refusal, keeping its kind and code.
func At(place string, err error) error {
	var known *Error
	if errors.As(err, &known) {
		return &Error{Kind: known.Kind, Code: known.Code, Detail: place + ": " + known.Detail}
	}
	return fmt.Errorf("%s: %w", place, err)
}
