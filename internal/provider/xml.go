package provider

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"relay.example/relay/internal/relay"
)

// maxElements bounds the XML of one callback.
const maxElements = 10_000

var (
	errBadXML  = errors.New("it is not well-formed")
	errXMLSize = fmt.Errorf("it holds more than %d elements, or is nested deeper than %d levels", maxElements, MaxDepth-2)
)

// byteOrderMark is what some senders put before their XML.
var byteOrderMark = []byte("\uFEFF")

// readJSONOrXML reads XML as if it were JSON. No JSON begins like it.
func (p *parsed) readJSONOrXML(body []byte) error {
	document := bytes.TrimSpace(bytes.TrimPrefix(body, byteOrderMark))
	if !bytes.HasPrefix(document, []byte("<")) {
		return p.readJSON(body)
	}
	p.format = relay.FormatText
	text, err := xmlAsJSON(string(document))
	if err != nil {
		return &Unreadable{BadXML, "the XML cannot be read: " + err.Error()}
	}
	p.json, err = parseJSON([]byte(text))
	return err
}

// xmlElement is one that is open: what it has become so far.
type xmlElement struct {
	name  string
	holds bool // other elements
	list  bool
}

// xmlAsJSON writes a document as JSON. An element with others in it becomes an
// object, and any other its text. One that is named as the plural of the first
// that it holds becomes a list of what it holds, CustomFields of each
// CustomField: of members with one name only the first could be found. Nothing
// that a document type could define is read.
func xmlAsJSON(text string) (string, error) {
	var out strings.Builder
	var open []xmlElement
	var leaf strings.Builder
	elements, roots := 0, 0
	out.WriteByte('{')
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", errBadXML
		}
		switch token := token.(type) {
		case xml.StartElement:
			if elements++; elements > maxElements || len(open) >= MaxDepth-2 {
				return "", errXMLSize
			}
			name := token.Name.Local
			if len(open) == 0 {
				roots++
				out.WriteString(jsonText(name) + ":")
			} else {
				open[len(open)-1].begin(&out, name)
			}
			open = append(open, xmlElement{name: name})
			leaf.Reset()
		case xml.CharData:
			leaf.Write(token)
		case xml.EndElement:
			open[len(open)-1].end(&out, leaf.String())
			open = open[:len(open)-1]
		}
	}
	if roots != 1 {
		return "", errBadXML
	}
	out.WriteByte('}')
	return out.String(), nil
}

// begin writes what stands before an element that e holds.
func (e *xmlElement) begin(out *strings.Builder, name string) {
	switch {
	case e.holds:
		out.WriteByte(',')
	case e.name == name+"s" || e.name == name+"es":
		e.holds, e.list = true, true
		out.WriteByte('[')
	default:
		e.holds = true
		out.WriteByte('{')
	}
	if !e.list {
		out.WriteString(jsonText(name) + ":")
	}
}

// end closes e, which has that text if it holds no element.
func (e *xmlElement) end(out *strings.Builder, text string) {
	switch {
	case e.list:
		out.WriteByte(']')
	case e.holds:
		out.WriteByte('}')
	default:
		out.WriteString(jsonText(text))
	}
}

func jsonText(text string) string {
	if isPlain(text) {
		return `"` + text + `"`
	}
	raw, err := json.Marshal(text)
	if err != nil {
		return `""` // no string fails
	}
	return string(raw)
}

// isPlain reports whether a text is the same in JSON, as nearly all are that
// providers send.
func isPlain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
