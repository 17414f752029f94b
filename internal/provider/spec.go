package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"relay.example/relay/internal/relay"
)

// spec is a preset as it is written. Texts in braces are templates, see
// place.go; where a field takes several of them the first that has a value
// counts. compile.go says what is wrong with a field.
type spec struct {
	Name            string      `yaml:"name"`
	Title           string      `yaml:"title"`
	Proof           string      `yaml:"proof"`  // what proves a callback, in a few words of markdown
	Setup           []string    `yaml:"setup"`  // steps, in markdown
	Limits          []string    `yaml:"limits"` // what to know besides, in markdown
	Events          []string    `yaml:"events"` // what to tick at the provider
	Internal        bool        `yaml:"internal"`
	CallbackByURL   bool        `yaml:"callback_by_url"`
	BrowserRedirect bool        `yaml:"browser_redirect"`
	ByGet           bool        `yaml:"by_get"` // callbacks come as GET, all in the query
	Live            bool        `yaml:"live"`   // what comes before its wait is not kept for it
	Link            string      `yaml:"link"`   // query:NAME or fragment:NAME, where a link carries the token
	Respond         respondSpec `yaml:"respond"`

	Handshake []handshakeSpec `yaml:"handshake"` // what is no callback, and is answered as one

	Auth   authSpec   `yaml:"auth"`
	Secret secretSpec `yaml:"secret"`
	Body   string     `yaml:"body"` // json (default), json_or_xml, fields: urlencoded, multipart or JSON; or braintree
	Each   string     `yaml:"each"` // the path to the events of a batch, with [*]

	ID          texts           `yaml:"id"`
	Type        texts           `yaml:"type"`
	Outcome     []outcomeSpec   `yaml:"outcome"`     // the first rule that holds; none: ignored
	Correlation []string        `yaml:"correlation"` // places of tokens and keys, in the order to try them
	References  []referenceSpec `yaml:"references"`
	Payment     *paymentSpec    `yaml:"payment"`
	Form        *formSpec       `yaml:"form"`
	Ask         *askSpec        `yaml:"ask"` // how the provider is asked, see ask.go
}

type askSpec struct {
	API string `yaml:"api"` // https://api.example.com
	// The key sees the objects of its own account only: nothing is asked about
	// an event whose payment names an account.
	OwnAccount bool              `yaml:"own_account"`
	Headers    map[string]string `yaml:"headers"` // besides the key
	Event      *eventAskSpec     `yaml:"event"`
	Wait       *waitAskSpec      `yaml:"wait"`
	Fetch      *fetchSpec        `yaml:"fetch"`
	// The id of the event that goes before what the provider says is refunded
	// or disputed: it was completed.
	CompletedBefore texts `yaml:"completed_before"`
}

// eventAskSpec says how to learn whose an event is that names nobody.
type eventAskSpec struct {
	About       string          `yaml:"about"`   // the kind of reference to ask by
	Unless      string          `yaml:"unless"`  // an event with a reference of this kind says it itself
	AtOnce      texts           `yaml:"at_once"` // types that are asked about at once; the others
	After       string          `yaml:"after"`   // after this time: another event may tell
	Path        string          `yaml:"path"`    // with {id}
	Correlation []string        `yaml:"correlation"`
	References  []referenceSpec `yaml:"references"`
}

// waitAskSpec says how to learn what became of an object that a wait is known
// by.
type waitAskSpec struct {
	About  string `yaml:"about"`
	Prefix texts  `yaml:"prefix"` // what such an id begins with
	Path   string `yaml:"path"`
	// When the answer is news, by places json: in it; else nothing follows.
	If map[string][]any `yaml:"if"`
	As string           `yaml:"as"` // a callback's JSON, with {answer}, and {answer.name} for a field of it
}

// fetchSpec says how to learn what a callback is about that says no more.
type fetchSpec struct {
	Types texts  `yaml:"types"` // of such callbacks; left out: all
	About string `yaml:"about"` // the kind of reference
	Path  string `yaml:"path"`  // with {id}, and places of the callback
	// When the answer is news, by places json: in it; else nothing follows.
	If map[string][]any `yaml:"if"`
	As string           `yaml:"as"` // as of a wait, and with {event.name} for a field of the callback
	// Where in that callback stands to which URL the provider sends those of
	// this object.
	URL string `yaml:"url"`
}

type respondSpec struct {
	Status int     `yaml:"status"` // of an accepted callback, 200
	Body   *string `yaml:"body"`   // [accepted]
	Reject int     `yaml:"reject"` // of one that is not genuine, 401
}

type authSpec struct {
	Alg     string   `yaml:"alg"` // none, token, hmac-sha256, … or a plain digest
	Sig     sigSpec  `yaml:"sig"`
	Enc     string   `yaml:"enc"` // of the signature: hex (default) or base64
	Key     keySpec  `yaml:"key"`
	Message texts    `yaml:"message"` // what is signed; of several any may match
	Time    timeSpec `yaml:"time"`

	Separator   string `yaml:"separator"`    // what parts the fields of a message, and stands in none of them
	SeparatorIn string `yaml:"separator_in"` // the one place that may hold it
	Partial     bool   `yaml:"partial"`      // the message leaves out some of what is read, by the provider's own rule
}

// sigSpec is explained at signatureSource.
type sigSpec struct {
	From           string `yaml:"from"` // a place, header:X-* or basic
	Or             string `yaml:"or"`   // header:X, beside another header
	List           string `yaml:"list"`
	Pair           string `yaml:"pair"`
	Key            string `yaml:"key"`
	Prefix         string `yaml:"prefix"`
	PrefixOptional bool   `yaml:"prefix_optional"`
}

// keySpec is explained at keyTreatment.
type keySpec struct {
	Enc   string `yaml:"enc"` // utf8 (default), hex, base64 or html: text with &amp; for &
	Strip string `yaml:"strip"`
}

// secretSpec tells what people paste by mistake from the secret itself.
type secretSpec struct {
	NotPrefix texts  `yaml:"not_prefix"` // no secret begins with any of these
	Because   string `yaml:"because"`    // what it is then, and what to look for
	Is        string `yaml:"is"`         // what it looks like, in words: 64 hex digits
	Begins    string `yaml:"begins"`     // with what the provider's own begin: others are taken, with a warning
}

type timeSpec struct {
	Value string `yaml:"value"` // a template that the message covers
	Unit  string `yaml:"unit"`  // s (default) or ms
}

type outcomeSpec struct {
	Type     texts            `yaml:"type"`      // any of these; left out: every type
	LastWord texts            `yaml:"last_word"` // of the type, in lower case
	If       map[string][]any `yaml:"if"`        // place: values; null is also absent
	Is       string           `yaml:"is"`        // an outcome, or ignored
}

type referenceSpec struct {
	Kind   string `yaml:"kind"` // what it is the id of: session, intent, charge
	From   string `yaml:"from"`
	Prefix texts  `yaml:"prefix"` // what such an id begins with
}

type paymentSpec struct {
	If          map[string][]any `yaml:"if"` // as in an outcome: when there is a payment
	ID          texts            `yaml:"id"`
	AmountMinor texts            `yaml:"amount_minor"` // in cents, or
	Amount      texts            `yaml:"amount"`       // in units: 20.50
	Currency    texts            `yaml:"currency"`
	Exponents   map[string]int   `yaml:"exponents"` // digits of currencies, where not those of ISO 4217
	Method      texts            `yaml:"method"`
	Email       texts            `yaml:"email"`
	Live        texts            `yaml:"live"` // true or live, else false or test
	Test        texts            `yaml:"test"` // the other way round, true or 1
	Account     texts            `yaml:"account"`
}

// handshakeSpec is a request that proves no payment and is answered all the
// same: a test of the address.
type handshakeSpec struct {
	Method string `yaml:"method"`
	Body   string `yaml:"body"` // the whole of it; one # stands for digits
}

// formSpec is explained at formRule. Written as one string it is from.
type formSpec struct {
	From   texts      `yaml:"from"` // body, json:PATH or form:NAME, the JSON in a field
	Prefix string     `yaml:"prefix"`
	Name   texts      `yaml:"name"` // paths in an element
	Label  texts      `yaml:"label"`
	Value  texts      `yaml:"value"`
	Labels *labelSpec `yaml:"labels"` // where labels stand in a list of their own
	Texts  *tableSpec `yaml:"texts"`  // where values are ids of texts in a list of the element
}

// tableSpec is explained at lookupTable.
type tableSpec struct {
	In   string `yaml:"in"`
	ID   string `yaml:"id"`
	Text string `yaml:"text"`
}

// labelSpec is such a table, and where its ids stand in the form.
type labelSpec struct {
	In   string `yaml:"in"`
	ID   string `yaml:"id"`
	Text string `yaml:"text"`
	By   string `yaml:"by"`
}

// UnmarshalYAML reads a string as the place alone.
func (f *formSpec) UnmarshalYAML(unmarshal func(any) error) error {
	var place string
	if unmarshal(&place) == nil {
		*f = formSpec{From: texts{place}}
		return nil
	}
	type fields formSpec
	return unmarshal((*fields)(f))
}

// texts is one string or a list of them.
type texts []string

// UnmarshalYAML reads a string as a list of one.
func (t *texts) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if unmarshal(&one) == nil {
		*t = texts{one}
		return nil
	}
	var many []string
	err := unmarshal(&many)
	*t = many
	return err
}

// fieldError is a mistake in one field of a preset.
type fieldError struct {
	field string // as a path: auth.sig.from, outcome[2].is
	err   error
}

func (e *fieldError) Error() string { return e.field + ": " + e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

func wrong(field, format string, args ...any) error {
	return &fieldError{field, fmt.Errorf(format, args...)}
}

// Parse reads an inline preset: the same YAML as the built-in ones. The error
// is a *relay.Error of kind Invalid that names the field, and the line where the
// text is as somebody wrote it.
func Parse(text []byte) (*Preset, error) {
	if len(text) > MaxPreset {
		return nil, relay.Errorf(relay.Invalid, "invalid_preset", "a preset holds at most %d bytes", MaxPreset)
	}
	p, err := parse(text)
	if err != nil {
		return nil, relay.Errorf(relay.Invalid, "invalid_preset", "%s", err)
	}
	if p.Internal {
		return nil, relay.Errorf(relay.Invalid, "invalid_preset", "internal: only the relay's own presets can be that")
	}
	return p, nil
}

func parse(text []byte) (*Preset, error) {
	var s spec
	file, err := decode(text, &s)
	if err != nil {
		return nil, err
	}
	p, err := s.preset()
	if err == nil {
		p.Text = string(text)
		err = p.check()
	}
	var field *fieldError
	if errors.As(err, &field) {
		return nil, atLine(text, lineOf(file, field.field), field)
	}
	return p, err
}

// check compiles the preset as a source without settings has it.
func (p *Preset) check() error {
	e, err := p.Endpoint(Settings{})
	if err != nil {
		return err
	}
	return e.checkSigned(&p.spec)
}

// atLine says on which line a mistake is, where that is a line of what somebody
// wrote. JSON was made of it on the way, by relay apply (which knows the line
// of a field itself) as by a client of the API, and its lines are nobody's.
func atLine(text []byte, line int, err error) error {
	if line == 0 || json.Valid(text) {
		return err
	}
	return fmt.Errorf("line %d: %w", line, err)
}

// decode reads the YAML. Fuzzing found texts on which its library panics;
// they are mistakes of whoever wrote the preset, and answered as such.
func decode(text []byte, s *spec) (file *ast.File, err error) {
	defer func() {
		if recover() != nil {
			file, err = nil, errors.New("the preset is not YAML that can be read")
		}
	}()
	if line := tooNested(text); line > 0 {
		return nil, atLine(text, line, errors.New("nested too deep"))
	}
	file, err = parser.ParseBytes(text, 0)
	if err != nil {
		return nil, atToken(text, nil, err)
	}
	if len(file.Docs) != 1 {
		return nil, errors.New("a preset is one YAML document")
	}
	root := file.Docs[0].Body
	if root == nil {
		return nil, errors.New("the preset is empty")
	}
	if aliases := ast.Filter(ast.AliasType, root); len(aliases) > 0 {
		// A few lines of them can stand for more than fits in memory.
		return nil, atLine(text, aliases[0].GetToken().Position.Line, errors.New("aliases are not read"))
	}
	if err := yaml.NodeToValue(root, s, yaml.DisallowUnknownField()); err != nil {
		return nil, atToken(text, root, err)
	}
	return file, nil
}

// tooNested returns the line on which more lists and maps are open than any
// preset needs, or 0: the library's time grows with the square of the depth.
// Brackets in texts count too; those of templates and paths are closed again.
func tooNested(text []byte) int {
	const most = 32
	line := 0
	for row := range bytes.Lines(text) {
		line++
		if bytes.Count(row, []byte("- "))+bytes.Count(row, []byte("? ")) > most {
			return line
		}
	}
	depth := 0
	for i, c := range text {
		switch c {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if depth > most {
			return 1 + bytes.Count(text[:i], []byte("\n"))
		}
	}
	return 0
}

// atToken says where the YAML itself is wrong, without an excerpt of it: in
// which field of root, as far as one was read, and on which line.
func atToken(text []byte, root ast.Node, err error) error {
	var at yaml.Error
	if !errors.As(err, &at) || at.GetToken() == nil {
		return err
	}
	err = errors.New(plainWords(at.GetMessage()))
	if field := fieldAt(root, at.GetToken()); field != "" {
		err = &fieldError{field, err}
	}
	return atLine(text, at.GetToken().Position.Line, err)
}

// plainWords says in the words of the documentation what YAML's library says
// in its own.
func plainWords(message string) string {
	m := usedWhere.FindStringSubmatch(message)
	if m == nil {
		m = cannotUnmarshal.FindStringSubmatch(message)
	}
	if m == nil || typeWords[m[1]] == "" || typeWords[m[2]] == "" {
		return message
	}
	return fmt.Sprintf("%s where %s belongs", typeWords[m[1]], typeWords[m[2]])
}

var (
	usedWhere       = regexp.MustCompile(`^(\w+) was used where (\w+) is expected`)
	cannotUnmarshal = regexp.MustCompile(`^cannot unmarshal (.+) into Go (?:struct field|value) .*of type (\S+)`)
)

// typeWords name the kinds of YAML, and what the library reads them as.
var typeWords = map[string]string{
	"mapping": "an object, {name: value},", "sequence": "a list, [value],", "string": "a text",
	"integer": "a number", "float": "a number", "boolean": "true or false", "null": "nothing",
	"map[string]interface {}": "an object, {name: value},", "[]interface {}": "a list, [value],",
	"uint64": "a number", "int64": "a number", "int": "a number", "float64": "a number", "bool": "true or false",
}

// fieldAt returns the path of the field that a token is the name or the value
// of, as it is written in messages: outcome[2].is.
func fieldAt(root ast.Node, at *token.Token) string {
	if root == nil {
		return ""
	}
	v := &fieldFinder{offset: at.Position.Offset}
	ast.Walk(v, root)
	if at.Type == token.MappingValueType { // it stands for the whole object, and on its first field
		return v.path[:max(0, lastStep(v.path))]
	}
	return v.path
}

// fieldFinder finds the deepest field that a token stands in.
type fieldFinder struct {
	offset int // of the token in the text
	path   string
}

// Visit looks at one node, and goes on to those in it.
func (v *fieldFinder) Visit(n ast.Node) ast.Visitor {
	if n.GetToken() != nil && n.GetToken().Position.Offset == v.offset {
		if path := strings.TrimPrefix(strings.TrimPrefix(n.GetPath(), "$"), "."); len(path) >= len(v.path) {
			v.path = path
		}
	}
	return v
}

// lineOf returns the line of a field, or of the nearest one around it when
// the field itself is not there.
func lineOf(file *ast.File, field string) int {
	for field != "" {
		if p, err := yaml.PathString("$." + field); err == nil {
			if node, err := p.FilterFile(file); err == nil && node != nil {
				return node.GetToken().Position.Line
			}
		}
		field = field[:max(0, lastStep(field))]
	}
	return 1
}

func lastStep(field string) int {
	for i := len(field) - 1; i >= 0; i-- {
		if field[i] == '.' || field[i] == '[' {
			return i
		}
	}
	return -1
}

var presetName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// preset checks what does not depend on a source's settings.
func (s *spec) preset() (*Preset, error) {
	if !presetName.MatchString(s.Name) {
		return nil, wrong("name", "%q is no name: 1 to 64 of a-z, 0-9 and -", s.Name)
	}
	p := &Preset{
		Name: s.Name, Title: s.Title, Proof: s.Proof, Setup: s.Setup, Events: s.Events, Limits: s.Limits,
		Internal: s.Internal, CallbackByURL: s.CallbackByURL, BrowserRedirect: s.BrowserRedirect, ByGet: s.ByGet, Live: s.Live,
		AcceptStatus: 200, AcceptBody: "[accepted]", RejectStatus: 401,
		spec: *s,
	}
	if p.Title == "" {
		p.Title = s.Name
	}
	if p.Proof == "" {
		p.Proof = "its `auth`"
	}
	if _, _, ok := parseLink(s.Link); !ok && s.Link != "" {
		return nil, wrong("link", "%q is not written like query:NAME or fragment:NAME", s.Link)
	}
	if len(s.Secret.NotPrefix) > 0 && s.Secret.Because == "" {
		return nil, wrong("secret.because", "is missing: what is a secret that begins like this?")
	}
	return p, s.Respond.answer(p)
}

// answer sets what is not the same for every provider.
func (r *respondSpec) answer(p *Preset) error {
	if r.Status != 0 {
		if p.AcceptStatus = r.Status; p.AcceptStatus < 200 || p.AcceptStatus > 299 {
			return wrong("respond.status", "%d is no 2xx", p.AcceptStatus)
		}
	}
	if r.Body != nil {
		p.AcceptBody = *r.Body
	}
	if r.Reject != 0 {
		if p.RejectStatus = r.Reject; p.RejectStatus < 400 || p.RejectStatus > 499 {
			return wrong("respond.reject", "%d is no 4xx", p.RejectStatus)
		}
	}
	return nil
}
