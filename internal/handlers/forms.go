package handlers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/form"
	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/templates"
)

// hosted is a wait with the form that its user is to fill in.
type hosted struct {
	wait  *store.Standing
	form  *form.Form
	scope *mapping.Scope
}

// getForm shows a form, or what became of its wait.
func (h *Handlers) getForm(c echo.Context) error {
	f, err := h.hostedForm(c)
	if err != nil || f == nil {
		return err
	}
	if f.wait.Status != relay.Pending {
		return h.showStatus(c, f.wait)
	}
	typed := f.form.First(f.scope)
	answers := f.form.Read(typed, f.scope)
	answers.Faults = nil // nobody has answered yet
	return h.showForm(c, http.StatusOK, f, typed, answers, "")
}

// postForm takes what a person has filled in. What cannot be taken is shown
// again, with all that was typed.
func (h *Handlers) postForm(c echo.Context) error {
	f, err := h.hostedForm(c)
	if relay.IsKind(err, relay.Busy) && wantsHTML(c.Request()) {
		return h.notNow(c, err)
	}
	if err != nil || f == nil {
		return err
	}
	typed, trapped, err := readTyped(c)
	if err != nil {
		return err
	}
	if f.wait.Status != relay.Pending {
		return h.tooLate(c, f, typed)
	}
	answers := f.form.Read(typed, f.scope)
	if !h.senders.allow(f.wait.Token, addressOf(c.Request(), h.cfg.TrustedProxies), time.Now()) {
		answers.Faults = nil
		c.Response().Header().Set("Retry-After", strconv.Itoa(sendRetryAfter))
		return h.showForm(c, http.StatusTooManyRequests, f, typed, answers, "too_often")
	}
	switch {
	case len(answers.Faults) > 0:
		return h.showForm(c, http.StatusUnprocessableEntity, f, typed, answers, "")
	case trapped: // a person whose browser has filled it in sends once more
		return h.showForm(c, http.StatusUnprocessableEntity, f, typed, answers, "again")
	}
	taken, err := h.take(c.Request().Context(), f, answers)
	switch {
	case relay.IsKind(err, relay.Busy):
		h.problemOf(err, c) // which logs it
		c.Response().Header().Set("Retry-After", strconv.Itoa(retryAfter))
		return h.showForm(c, http.StatusServiceUnavailable, f, typed, answers, "busy")
	case err != nil:
		return err
	case !taken:
		return h.showForm(c, http.StatusUnprocessableEntity, f, typed, answers, "not_taken")
	}
	return h.toItself(c, f)
}

// take submits a form and reports whether it has ended its wait, or something
// else has. The same answers sent again are a duplicate, also of those that
// were not taken.
func (h *Handlers) take(ctx context.Context, f *hosted, answers *form.Answers) (bool, error) {
	receipt, err := h.submit(ctx, f, answers)
	if err != nil || receipt.Match != relay.Duplicate {
		return receipt.Match != relay.GuardFailed, err
	}
	w, err := h.cfg.Store.StandingByToken(ctx, f.wait.Token)
	if err != nil {
		return false, err
	}
	return w.Status != relay.Pending, nil
}

// notNow answers a form that was sent while nobody knows what it asks for: what
// was typed is shown by the fields' names, so that it is not lost. Those of no
// form are more than one has, and are not shown.
func (h *Handlers) notNow(c echo.Context, err error) error {
	p := h.problemOf(err, c) // which logs it
	typed, _, unread := readTyped(c)
	if unread != nil {
		return unread
	}
	page := templates.Status{Page: h.beginPage(c, nil, nil), State: "unavailable"}
	for _, name := range slices.Sorted(maps.Keys(typed)) {
		if len(page.Typed) == relay.MaxFormFields {
			break
		}
		if text := strings.TrimSpace(strings.Join(typed[name], ", ")); text != "" && name != templates.Trap {
			page.Typed = append(page.Typed, templates.Typed{Label: name, Value: text})
		}
	}
	c.Response().Header().Set("Retry-After", strconv.Itoa(retryAfter))
	return h.showPage(c, p.Status, templates.StatusPage, page)
}

// toItself sends the browser to the page that tells what became of the form:
// it is loaded anew, and back and reload send nothing again.
func (h *Handlers) toItself(c echo.Context, f *hosted) error {
	return c.Redirect(http.StatusSeeOther, h.pathPrefix+"/f/"+f.wait.Token)
}

// tooLate answers what is sent after the wait has ended: what was typed is
// shown, so that it can be copied.
func (h *Handlers) tooLate(c echo.Context, f *hosted, typed form.Typed) error {
	page, code, err := h.statusOf(c, f.wait)
	if err != nil {
		return err
	}
	if page.State == string(relay.Completed) {
		return h.toItself(c, f)
	}
	for _, field := range f.form.Fields {
		if text := readable(field, field.Options(page.Language, f.scope), typed[field.Name]); text != "" && field.Type != relay.FieldHidden {
			page.Typed = append(page.Typed, templates.Typed{Label: field.Label(page.Language, f.scope), Value: text})
		}
	}
	return h.showPage(c, code, templates.StatusPage, page)
}

// readable writes what stands in a field as a person reads it.
func readable(field *form.Field, options []form.Option, typed []string) string {
	if field.Tick() || len(options) == 0 {
		return strings.TrimSpace(strings.Join(typed, ", "))
	}
	var labels []string
	for _, o := range options {
		if slices.Contains(typed, o.Value) {
			labels = append(labels, o.Label)
		}
	}
	return strings.Join(labels, ", ")
}

// hostedForm finds the form of the path, or has answered that there is none.
func (h *Handlers) hostedForm(c echo.Context) (*hosted, error) {
	w, err := h.byToken(c)
	if err != nil || w == nil {
		return nil, err
	}
	p, err := h.cfg.Plans.Get(c.Request().Context(), w.PlanID)
	if err != nil {
		return nil, err
	}
	switch {
	case p.HostedForm() != nil:
	case w.Erased() && h.formSource(&w.Wait) != nil: // its form has gone with the person, and not how it has ended
		return nil, h.showStatus(c, w)
	default:
		return nil, h.showUnknown(c)
	}
	return &hosted{w, p.HostedForm(), plan.ScopeOf(&w.Wait, "", nil, nil, relay.FormatJSON, nil)}, nil
}

// readTyped reads what a browser posts.
func readTyped(c echo.Context) (typed form.Typed, trapped bool, err error) {
	kind, _, err := mime.ParseMediaType(c.Request().Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, false, relay.Errorf(relay.Unsupported, "unsupported_media_type", "send Content-Type: application/x-www-form-urlencoded")
	}
	body, err := readBody(c)
	if err != nil {
		return nil, false, err
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, false, relay.Errorf(relay.Malformed, "bad_form", "the form cannot be read: send it as a browser does")
	}
	return form.Typed(values), values.Get(templates.Trap) != "", nil
}

var errNoFormSource = errors.New("the wait's source of hosted forms is gone")

// submit makes an event of what was filled in. It goes the way of every
// callback, and is answered after its commit.
func (h *Handlers) submit(ctx context.Context, f *hosted, answers *form.Answers) (receipt relay.Receipt, err error) {
	src := h.formSource(&f.wait.Wait)
	if src == nil {
		return receipt, errNoFormSource
	}
	body, err := f.form.Body(answers, f.scope)
	if err != nil {
		return receipt, err
	}
	in := &inbound{src: src, received: time.Now(), req: &provider.Request{
		Method: http.MethodPost, URL: src.RequestURL(f.wait.Token, ""), PathToken: f.wait.Token,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: body,
	}}
	readings, err := src.Endpoint.Read(in.req)
	if err != nil {
		return receipt, err
	}
	receipts, err := h.accept(ctx, in, readings)
	if err != nil {
		return receipt, err
	}
	h.activity.event(src, in.received)
	return receipts[0], nil
}

// formSource is the built-in source that a wait listens to, or nil.
func (h *Handlers) formSource(w *relay.Wait) *directory.Source {
	s := h.cfg.Directory.Current()
	for _, id := range w.SourceIDs {
		if src := s.SourceByID(id); src != nil && src.Name == relay.FormSource && src.Err == nil {
			return src
		}
	}
	return nil
}

// showForm shows a form with what stands in it. notice is the text that says
// what is wrong with the whole, or "".
func (h *Handlers) showForm(c echo.Context, code int, f *hosted, typed form.Typed, answers *form.Answers, notice string) (err error) {
	page := templates.Form{Page: h.beginPage(c, f.wait, f.form.Languages())}
	page.Script = h.pages.Script("form.js")
	language := page.Language
	heading, err := page.Text("form_title")
	if err != nil {
		return err
	}
	button, err := page.Text("submit")
	if err != nil {
		return err
	}
	page.Heading, page.Submit = cmp.Or(f.form.Title(language, f.scope), heading), cmp.Or(f.form.Submit(language, f.scope), button)
	page.HeadingIn, page.IntroIn, page.SubmitIn = f.form.Foreign(language)
	page.Intro = strings.FieldsFunc(f.form.Intro(language, f.scope), func(r rune) bool { return r == '\n' })
	if notice != "" {
		if page.Notice, err = page.Text(notice); err != nil {
			return err
		}
	}
	for _, field := range f.form.Fields {
		showIf, never := f.form.ShowIf(field, answers)
		if field.Type == relay.FieldHidden || never {
			continue
		}
		shown, err := showField(page.Page, f, field, typed[field.Name], answers, showIf)
		if err != nil {
			return err
		}
		page.Fields = append(page.Fields, shown)
	}
	return h.showPage(c, code, templates.FormPage, page)
}

func showField(page templates.Page, f *hosted, field *form.Field, typed []string, answers *form.Answers, showIf *mapping.Condition) (shown templates.Field, err error) {
	shown = templates.Field{
		Name: field.Name, Type: field.Type, Label: field.Label(page.Language, f.scope), Help: field.Help(page.Language, f.scope),
		Required: field.Required, Off: !answers.Shown[field.Name], Personal: field.Personal(),
	}
	shown.LabelIn, shown.HelpIn = field.Foreign(page.Language)
	for _, fault := range answers.Faults {
		if fault.Field != field.Name {
			continue
		}
		if shown.Wrong, err = page.Text(fault.Text, fault.Args...); err != nil {
			return shown, err
		}
	}
	for _, o := range field.Options(page.Language, f.scope) {
		shown.Options = append(shown.Options, templates.Option{Value: o.Value, Label: o.Label, In: o.Foreign, Chosen: slices.Contains(typed, o.Value)})
	}
	switch {
	case field.Tick() && !slices.Contains(typed, form.Ticked):
	case len(typed) > 0:
		shown.Value = typed[0]
	}
	if showIf != nil {
		condition, err := json.Marshal(showIf)
		if err != nil {
			return shown, err
		}
		shown.Condition = string(condition)
	}
	return shown, nil
}
