package provider

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"relay.example/relay/internal/relay"
)

// Some callbacks do not say whose they are, and some never come. A preset can
// say how its provider is asked, by whoever does the I/O: which of its objects
// a question is about, and how the answer is read. The source's api_key goes
// with it as a Bearer token. {id} in a path stands for the object's id.

// asking is what a preset says about asking its provider.
type asking struct {
	api        string // without a slash at its end
	headers    map[string]string
	ownAccount bool // nothing is asked about an event of another one
	event      *eventAsk
	wait       *waitAsk
	fetch      *fetching
	before     []template // the id of the payment's completion, see readAll
}

// eventAsk is the question whose an event is. Its answer adds names to what
// the event says itself.
type eventAsk struct {
	path           []string // around the id
	about, unless  string   // kinds of references: to ask by, and to not ask with
	atOnce         []string // types
	after          time.Duration
	doc            tree
	candidates     []part
	referenceRules []referenceRule
}

// waitAsk is the question what has become of an object that a wait is known
// by. Its answer is wrapped into the shape of a callback.
type waitAsk struct {
	path     []string // around the id
	about    string
	prefixes []string
	doc      tree
	news     conditions
	as       []string // the callback; each second piece is what stands there: answer, answer.name
}

// Inquiry is a question about an event.
type Inquiry struct {
	About string        // the provider's id of what is asked for
	After time.Duration // how long to wait before: another event may tell
}

// API is where the provider is asked, without a slash at its end; "" where the
// preset knows no way to ask it.
func (e *Endpoint) API() string { return e.ask.api }

// AsksWhose reports whether an event may name nobody, so that its provider is
// asked whose it is.
func (e *Endpoint) AsksWhose() bool { return e.ask.event != nil }

// APIHeaders are those that the API wants besides the key.
func (e *Endpoint) APIHeaders() map[string]string { return e.ask.headers }

// InquiryOf says what to ask the provider about an event that names nobody.
func (e *Endpoint) InquiryOf(r *relay.Reading) (Inquiry, bool) {
	ask := e.ask.event
	if ask == nil || e.foreign(r) || ask.unless != "" && referenceOf(r, ask.unless, nil) != "" {
		return Inquiry{}, false
	}
	about := referenceOf(r, ask.about, nil)
	if about == "" {
		return Inquiry{}, false
	}
	if slices.Contains(ask.atOnce, r.Type) {
		return Inquiry{About: about}, true
	}
	return Inquiry{About: about, After: ask.after}, true
}

// Askable is the id of the object that the provider can be asked for when the
// wait of such an event is about to expire; "" where there is none.
func (e *Endpoint) Askable(r *relay.Reading) string {
	if e.ask.wait == nil || e.foreign(r) {
		return ""
	}
	return referenceOf(r, e.ask.wait.about, e.ask.wait.prefixes)
}

// foreign reports whether an event belongs to another account than the key
// that its provider is asked with: it would know nothing of it.
func (e *Endpoint) foreign(r *relay.Reading) bool {
	return e.ask.ownAccount && r.Payment != nil && r.Payment.Account != ""
}

// AskableKey reports whether a caller's key is the id of such an object.
func (e *Endpoint) AskableKey(key string) bool {
	return e.ask.wait != nil && len(e.ask.wait.prefixes) > 0 && beginsWithAny(key, e.ask.wait.prefixes)
}

// referenceOf returns the first reference of a kind. No honest id is a step of
// a path, which it may be put into.
func referenceOf(r *relay.Reading, kind string, prefixes []string) string {
	for _, reference := range r.References {
		if reference.Place == kind && !isStep(reference.Value) && beginsWithAny(reference.Value, prefixes) {
			return reference.Value
		}
	}
	return ""
}

func beginsWithAny(text string, prefixes []string) bool {
	return len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(text, prefix) })
}

// EventPath is what to get, behind the API's address, to learn whose an event
// is; "" where the preset does not say.
func (e *Endpoint) EventPath(about string) string {
	if e.ask.event == nil {
		return ""
	}
	return withID(e.ask.event.path, about)
}

// WaitPath is what to get to learn what has become of a wait's object.
func (e *Endpoint) WaitPath(about string) string {
	if e.ask.wait == nil {
		return ""
	}
	return withID(e.ask.wait.path, about)
}

// withID puts an id into a path. A provider's id holds nothing that would need
// escaping; what pretends to be one must not change the path.
func withID(around []string, id string) string {
	escape := url.PathEscape
	if strings.Contains(around[0], "?") {
		escape = url.QueryEscape
	}
	return around[0] + escape(id) + around[1]
}

// AddAnswer adds to the reading of an event the names that the answer to its
// question holds, behind its own, and reports whether there were any. The
// error is an *Unreadable.
func (e *Endpoint) AddAnswer(r *relay.Reading, answer []byte) (named bool, err error) {
	ask := e.ask.event
	if ask == nil {
		return false, nil
	}
	var p parsed
	if err := p.readJSON(answer); err != nil {
		return false, err
	}
	p.doc = ask.doc.collect(p.json)
	s := &scope{req: &Request{}, parsed: &p}
	candidates, references := readCandidates(s, ask.candidates), readReferences(s, ask.referenceRules)
	r.Candidates = append(slices.Clip(r.Candidates), candidates...)
	for _, reference := range references {
		if !slices.Contains(r.References, reference) {
			r.References = append(slices.Clip(r.References), reference)
		}
	}
	return len(candidates)+len(references) > 0, nil
}

// AnswerAsCallback wraps what the provider says of a wait's object into the
// body of the callback that tells of it, so that Read, expectations, filters
// and expressions see what they always see: nil where it is no news. The error
// is an *Unreadable.
func (e *Endpoint) AnswerAsCallback(answer []byte) ([]byte, error) {
	p, err := readAnswer(answer)
	if err != nil {
		return nil, err
	}
	ask := e.ask.wait
	if ask == nil {
		return nil, &Unreadable{NotAnObject, "nothing is asked about such a wait"}
	}
	p.doc = ask.doc.collect(p.json)
	if !ask.news.hold(&scope{req: &Request{}, parsed: p}) {
		return nil, nil
	}
	return fillAs(ask.as, p.json, gjson.Result{})
}

// readAnswer parses an answer that is about one object.
func readAnswer(answer []byte) (*parsed, error) {
	p := &parsed{}
	if err := p.readJSON(answer); err != nil {
		return nil, err
	}
	if !p.json.IsObject() {
		return nil, &Unreadable{NotAnObject, "the answer is not a JSON object"}
	}
	return p, nil
}

// compileAsk compiles the section ask.
func (e *Endpoint) compileAsk(c *compiler, s *spec, settings *Settings) (err error) {
	if s.Ask == nil {
		return nil
	}
	u, err := url.Parse(s.Ask.API)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
		return wrong("ask.api", "write the address of the provider's API: https://api.example.com")
	}
	e.ask.api, e.ask.ownAccount = strings.TrimSuffix(s.Ask.API, "/"), s.Ask.OwnAccount
	if e.ask.headers, err = askHeaders(s.Ask.Headers); err != nil {
		return err
	}
	if s.Ask.Event != nil {
		if e.ask.event, err = s.Ask.Event.compile(settings); err != nil {
			return err
		}
	}
	if s.Ask.Wait != nil {
		if e.ask.wait, err = s.Ask.Wait.compile(); err != nil {
			return err
		}
	}
	if s.Ask.Fetch != nil {
		if e.ask.fetch, err = s.Ask.Fetch.compile(c, s.Auth.Alg != "none"); err != nil {
			return err
		}
	}
	return e.compileBefore(c, s)
}

// compileBefore compiles ask.completed_before.
func (e *Endpoint) compileBefore(c *compiler, s *spec) (err error) {
	const field = "ask.completed_before"
	switch {
	case len(s.Ask.CompletedBefore) == 0:
		return nil
	case s.Ask.Fetch == nil && s.Ask.Wait == nil:
		return wrong(field, "stands beside ask.fetch or ask.wait: it is about what they bring")
	case s.Each != "":
		return wrong(field, "is about one payment: it does not stand beside each")
	case s.Payment == nil || len(s.Payment.ID) == 0:
		return wrong(field, "needs a payment.id: by it a wait knows that the same payment has completed it before")
	}
	if e.ask.before, err = c.templates(field, s.Ask.CompletedBefore); err != nil {
		return err
	}
	return checkDistinct(field, s.Ask.CompletedBefore, e.ask.before)
}

// askHeaders checks the headers that a question has besides its key.
func askHeaders(headers map[string]string) (map[string]string, error) {
	if len(headers) > maxAskHeaders {
		return nil, wrong("ask.headers", "at most %d headers go with a question", maxAskHeaders)
	}
	for name, value := range headers {
		switch {
		case !headerName.MatchString(name) || strings.EqualFold(name, "Authorization") || strings.EqualFold(name, "Host"):
			return nil, wrong("ask.headers", "%q is no header that can go with a question", name)
		case !headerValue.MatchString(value):
			return nil, wrong("ask.headers", "%s: write 1 to 255 printable ASCII characters", name)
		}
	}
	return headers, nil
}

const maxAskHeaders = 16

var (
	headerName  = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
	headerValue = regexp.MustCompile(`^[\x20-\x7e]{1,255}$`)
)

func (s *eventAskSpec) compile(settings *Settings) (*eventAsk, error) {
	a := &eventAsk{about: s.About, unless: s.Unless, atOnce: s.AtOnce}
	var err error
	if a.path, err = askPath("ask.event", s.About, s.Path); err != nil {
		return nil, err
	}
	if s.After != "" {
		if a.after, err = time.ParseDuration(s.After); err != nil || a.after < 0 || a.after > time.Hour {
			return nil, wrong("ask.event.after", "%q is not between 0s and 1h", s.After)
		}
	}
	// The answer is a document of its own, read like the body of a callback.
	c := &compiler{headers: map[string]bool{}}
	var in Endpoint
	if err := in.compileCandidates(c, &spec{Correlation: s.Correlation}, &Settings{TokenField: settings.TokenField}); err != nil {
		return nil, inAnswer(err)
	}
	if err := in.compileReferences(c, &spec{References: s.References}, settings); err != nil {
		return nil, inAnswer(err)
	}
	for i := range in.candidates {
		p := &in.candidates[i]
		if p.kind != partJSON {
			return nil, wrong("ask.event.correlation", "%q: an answer has places json: only", p.label)
		}
		p.label = "answer:" + p.name
	}
	for _, r := range in.references {
		if slices.ContainsFunc(r.from, func(p part) bool { return p.kind != partJSON && p.kind != partLiteral }) {
			return nil, wrong("ask.event.references", "an answer has places json: only")
		}
	}
	a.doc, a.candidates, a.referenceRules = c.doc, in.candidates, in.references
	return a, nil
}

func (s *waitAskSpec) compile() (*waitAsk, error) {
	a := &waitAsk{about: s.About, prefixes: s.Prefix}
	var err error
	if a.path, err = askPath("ask.wait", s.About, s.Path); err != nil {
		return nil, err
	}
	c := &compiler{headers: map[string]bool{}}
	if a.news, err = c.conditions("ask.wait.if", s.If); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(a.news, func(one condition) bool { return one.place.kind != partJSON }) {
		return nil, wrong("ask.wait.if", "an answer has places json: only")
	}
	a.doc = c.doc
	if a.as, err = parseAs(s.As, false); err != nil {
		return nil, wrong("ask.wait.as", "%w", err)
	}
	return a, nil
}

// answerIn finds the answer, fields of it, and fields of the callback that was
// asked about, in the JSON of a callback.
var answerIn = regexp.MustCompile(`\{(answer(?:\.[A-Za-z0-9_]+)?|event\.[A-Za-z0-9_]+)\}`)

// parseAs cuts the JSON of a callback: text, what stands there, text, and so
// on.
func parseAs(as string, ofEvent bool) (pieces []string, err error) {
	if !strings.Contains(as, "{answer}") || !gjson.Valid(answerIn.ReplaceAllString(as, "{}")) {
		return nil, errors.New("write the JSON of a callback in which {answer} stands for the answer, and {answer.name} for a field of it")
	}
	if n := len(answerIn.FindAllString(as, maxAnswers+1)); n > maxAnswers {
		return nil, fmt.Errorf("{answer}, fields of it and of the event stand at most %d times in it", maxAnswers)
	}
	at := 0
	for _, m := range answerIn.FindAllStringSubmatchIndex(as, -1) {
		name := as[m[2]:m[3]]
		if strings.HasPrefix(name, "event.") && !ofEvent {
			return nil, errors.New("{event.name} stands under fetch only: no callback is asked about here")
		}
		pieces, at = append(pieces, as[at:m[0]], name), m[1]
	}
	return append(pieces, as[at:]), nil
}

// The bounds of a callback that is made of an answer.
const (
	maxAnswers  = 32      // places that are filled
	maxFilledAs = 1 << 20 // bytes, as of a callback that is received
)

// fillAs writes the callback. The error is an *Unreadable.
func fillAs(pieces []string, answer, event gjson.Result) ([]byte, error) {
	var body strings.Builder
	for i, piece := range pieces {
		from, name, _ := strings.Cut(piece, ".")
		switch {
		case i%2 == 0:
			body.WriteString(piece)
		case name == "":
			body.WriteString(answer.Raw)
		case from == "event":
			body.WriteString(cmp.Or(event.Get(name).Raw, "null"))
		default:
			body.WriteString(cmp.Or(answer.Get(name).Raw, "null"))
		}
		if body.Len() > maxFilledAs {
			return nil, &Unreadable{TooLong, "the answer makes a callback of more than 1 MiB"}
		}
	}
	return []byte(body.String()), nil
}

// askPath cuts a path at its {id}.
func askPath(field, about, path string) ([]string, error) {
	if about == "" {
		return nil, wrong(field+".about", "is missing: by which kind of reference is it asked?")
	}
	around := strings.Split(path, "{id}")
	if len(around) != 2 || !strings.HasPrefix(path, "/") || strings.Contains(path, "//") {
		return nil, wrong(field+".path", "write a path that begins with / and holds {id} once")
	}
	return around, nil
}

// inAnswer moves a mistake to the section it stands in.
func inAnswer(err error) error {
	var at *fieldError
	if errors.As(err, &at) {
		return &fieldError{"ask.event." + at.field, at.err}
	}
	return err
}
