package mapping

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"

	"relay.example/relay/internal/relay"
)

// MaxEventNesting is how deep a JSON body may be nested.
const MaxEventNesting = 64

// errNesting ends the decoding of a body that is nested too deep.
var errNesting = errors.New("nested too deep")

// DecodeEvent makes the raw `event` of a body. JSON integers become int64
// where they fit and float64 otherwise. Of keys that an object holds twice the
// first counts, as it does where presets read the raw bytes: an event must not
// say one thing to the preset and another to an expression. A body that is not
// JSON, or nested deeper than MaxEventNesting, is null. A form is the map of
// its fields, any other text a string.
func DecodeEvent(format relay.Format, body []byte, form map[string]any) any {
	switch format {
	case relay.FormatForm:
		if form == nil {
			return nil
		}
		return form
	case relay.FormatText:
		return string(body)
	default:
		return decodeJSON(body)
	}
}

func decodeJSON(body []byte) any {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	v, err := decodeValue(dec, 0)
	if err != nil {
		return nil
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil
	}
	return v
}

func decodeValue(dec *json.Decoder, depth int) (any, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch token := token.(type) {
	case json.Delim:
		if depth == MaxEventNesting {
			return nil, errNesting
		}
		if token == '{' {
			return decodeObject(dec, depth+1)
		}
		return decodeArray(dec, depth+1)
	case json.Number:
		return number(token), nil
	default:
		return token, nil
	}
}

func decodeObject(dec *json.Decoder, depth int) (any, error) {
	out := map[string]any{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string) // the decoder gives nothing else for a key
		value, err := decodeValue(dec, depth)
		if err != nil {
			return nil, err
		}
		if _, twice := out[name]; !twice {
			out[name] = value
		}
	}
	_, err := dec.Token()
	return out, err
}

func decodeArray(dec *json.Decoder, depth int) (any, error) {
	out := []any{}
	for dec.More() {
		value, err := decodeValue(dec, depth)
		if err != nil {
			return nil, err
		}
		out = append(out, value)
	}
	_, err := dec.Token()
	return out, err
}

// number reads a JSON number, as null where not even a float64 holds it.
func number(n json.Number) any {
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return i
	}
	f, err := strconv.ParseFloat(n.String(), 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return nil
	}
	return f
}
