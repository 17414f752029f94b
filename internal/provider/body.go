package provider

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"relay.example/relay/internal/relay"
)

// bodyKind says which bodies a preset reads.
type bodyKind string

const (
	bodyJSON   bodyKind = "json"        // JSON, whatever the content type says
	bodyXML    bodyKind = "json_or_xml" // by what it begins with; XML is read as JSON, see xmlAsJSON
	bodyFields bodyKind = "fields"      // a form, by content type: urlencoded, multipart or JSON

	// A form in which one field holds what is read: XML in base64.
	bodyBraintree bodyKind = "braintree"
)

// parsed is what one endpoint made of one request's body.
type parsed struct {
	by     *Endpoint
	err    error
	format relay.Format
	json   gjson.Result // of a JSON body
	fields []field      // of any other, in order of arrival; never nil then
	doc    []value
	events []event

	inFields [][]value // of the fields that hold JSON, see fieldTree
}

// event is one of a batch.
type event struct {
	values []value
}

// field is one submitted field, or a file that was submitted with them.
type field struct {
	name   string
	text   string // of a file: its name
	isFile bool
	size   int64
}

// parse reads the body, once for each request.
func (e *Endpoint) parse(req *Request) (*parsed, error) {
	if req.parsed == nil || req.parsed.by != e {
		req.parsed = &parsed{by: e}
		req.parsed.err = e.parseBody(req, req.parsed)
	}
	return req.parsed, req.parsed.err
}

func (e *Endpoint) parseBody(req *Request, p *parsed) error {
	if err := e.readDocument(req, p); err != nil {
		return err
	}
	p.doc = e.doc.collect(p.json)
	p.readInFields(e.fields)
	if e.each == nil {
		return nil
	}
	items, err := e.each.split(p.json)
	if err != nil {
		return err
	}
	p.events = make([]event, len(items))
	for i, item := range items {
		p.events[i].values = e.item.collect(item)
	}
	return nil
}

func (e *Endpoint) readDocument(req *Request, p *parsed) error {
	switch e.body {
	case bodyJSON:
		return p.readJSON(req.Body)
	case bodyXML:
		return p.readJSONOrXML(req.Body)
	default:
		return p.readFields(req.Header.Get("Content-Type"), req.Body)
	}
}

func (p *parsed) readJSON(body []byte) (err error) {
	p.format = relay.FormatJSON
	p.json, err = parseJSON(body)
	return err
}

func parseJSON(body []byte) (doc gjson.Result, err error) {
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return doc, &Unreadable{NotJSON, "the body is empty: send JSON"}
	case !utf8.Valid(body):
		return doc, &Unreadable{NotUTF8, "JSON must be UTF-8"}
	case tooDeep(body):
		return doc, &Unreadable{TooDeep, fmt.Sprintf("the JSON is nested deeper than %d levels", MaxDepth)}
	}
	text := string(body)
	if !gjson.Valid(text) {
		return doc, &Unreadable{NotJSON, "the body is not valid JSON"}
	}
	return gjson.Parse(text), nil
}

// readInFields looks into the fields that hold JSON. One that does not has no
// values: the form can be read all the same.
func (p *parsed) readInFields(trees []fieldTree) {
	if len(trees) == 0 {
		return
	}
	p.inFields = make([][]value, len(trees))
	for i := range trees {
		if doc, err := p.fieldJSON(&trees[i].field); err == nil {
			p.inFields[i] = trees[i].tree.collect(doc)
		}
	}
}

// fieldJSON parses the JSON that a field holds.
func (p *parsed) fieldJSON(field *part) (gjson.Result, error) {
	text := (&scope{parsed: p}).field(field)
	return parseJSON([]byte(text.text))
}

// tooDeep looks for nesting beyond MaxDepth in one scan. Of text that is no
// JSON it only promises not to fail; the parser finds that out.
func tooDeep(body []byte) bool {
	depth := 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '{', '[':
			if depth++; depth > MaxDepth {
				return true
			}
		case '}', ']':
			depth--
		case '"':
			i = endOfString(body, i+1)
		}
	}
	return false
}

// endOfString returns the index of the quote that ends the string which
// begins at i, or the end of the text.
func endOfString(body []byte, i int) int {
	for i < len(body) {
		n := bytes.IndexByte(body[i:], '"')
		if n < 0 {
			return len(body)
		}
		end := i + n
		slashes := 0
		for end-slashes > i && body[end-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return end
		}
		i = end + 1
	}
	return len(body)
}

const urlencodedType = "application/x-www-form-urlencoded"

const threeEncodings = "send application/x-www-form-urlencoded, multipart/form-data or application/json"

// readFields reads a form by its content type. Without one, an empty body is
// an empty form and anything that opens like JSON is read as that.
func (p *parsed) readFields(contentType string, body []byte) (err error) {
	media, params, mediaErr := mime.ParseMediaType(contentType)
	switch {
	case media == urlencodedType:
		p.format = relay.FormatForm
		p.fields, err = urlencodedFields(body)
	case media == "multipart/form-data":
		p.format = relay.FormatForm
		p.fields, err = multipartFields(params["boundary"], body)
	case media == "application/json", strings.HasSuffix(media, "+json"):
		return p.readObject(body)
	case contentType == "" && len(body) == 0:
		p.format, p.fields = relay.FormatForm, []field{}
	case contentType == "" && bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")):
		return p.readObject(body)
	case contentType == "":
		err = &Unreadable{UnsupportedContent, "the content type is missing: " + threeEncodings}
	case mediaErr != nil:
		err = &Unreadable{UnsupportedContent, "the content type cannot be read: " + threeEncodings}
	default:
		err = &Unreadable{UnsupportedContent, "this content type is not read here: " + threeEncodings}
	}
	return err
}

func (p *parsed) readObject(body []byte) error {
	if err := p.readJSON(body); err != nil {
		return err
	}
	if !p.json.IsObject() {
		return &Unreadable{NotAnObject, "the JSON must be an object: its members are the fields"}
	}
	members := 0
	p.json.ForEach(func(_, _ gjson.Result) bool {
		members++
		return members <= MaxFields
	})
	if members > MaxFields {
		return tooManyFields()
	}
	return nil
}

func urlencodedFields(body []byte) ([]field, error) {
	fields := make([]field, 0, min(MaxFields, bytes.Count(body, []byte("&"))+1))
	for pair := range strings.SplitSeq(string(body), "&") {
		if pair == "" {
			continue
		}
		if len(fields) == MaxFields {
			return nil, tooManyFields()
		}
		name, text, _ := strings.Cut(pair, "=")
		name, nameErr := url.QueryUnescape(name)
		text, textErr := url.QueryUnescape(text)
		if nameErr != nil || textErr != nil {
			return nil, &Unreadable{BadForm, "a % in the form is not followed by two hex digits"}
		}
		fields = append(fields, field{name: name, text: text})
	}
	return fields, nil
}

func tooManyFields() *Unreadable {
	return &Unreadable{TooManyFields, fmt.Sprintf("a form holds at most %d fields", MaxFields)}
}

func multipartFields(boundary string, body []byte) ([]field, error) {
	if boundary == "" {
		return nil, &Unreadable{BadMultipart, "the content type names no boundary"}
	}
	if !bytes.Contains(body, []byte("--"+boundary)) {
		return nil, &Unreadable{BadMultipart, "the boundary of the content type is not in the body"}
	}
	fields := []field{}
	for r := multipart.NewReader(bytes.NewReader(body), boundary); ; {
		part, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return fields, nil
		}
		if err != nil {
			return nil, &Unreadable{BadMultipart, "the parts do not follow the boundary of the content type"}
		}
		if len(fields) == MaxFields {
			return nil, tooManyFields()
		}
		f, err := readPart(part)
		if err != nil {
			return nil, &Unreadable{BadMultipart, "the last part is cut off"}
		}
		if f.name != "" {
			fields = append(fields, f)
		}
	}
}

func readPart(part *multipart.Part) (field, error) {
	f := field{name: part.FormName(), text: part.FileName()}
	if f.text != "" || part.Header.Get("Content-Type") == "application/octet-stream" {
		f.isFile = true
		size, err := io.Copy(io.Discard, part)
		f.size = size
		return f, err
	}
	var text strings.Builder
	_, err := io.Copy(&text, part)
	f.text = text.String()
	return f, err
}
