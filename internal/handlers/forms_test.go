package handlers_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/handlers"
	"relay.example/relay/internal/relay"
)

// signup is the form of these tests.
const signup = `{"language": "en", "title": {"en": "Sign up, {{ correlation.data.name }}", "de": "Anmeldung, {{ correlation.data.name }}"},
	"intro": "One line.\nAnother.", "submit": {"en": "Sign up", "de": "Anmelden"},
	"fields": [
		{"name": "name", "label": {"en": "Your name", "de": "Ihr Name"}, "required": true, "value": "{{ correlation.data.name }}"},
		{"name": "email", "label": "E-mail", "type": "email", "required": true, "help": "We send the ticket there."},
		{"name": "phone", "label": "Phone", "type": "tel"},
		{"name": "guests", "label": "How many guests?", "type": "number", "min": 0, "max": 5},
		{"name": "day", "label": "Day", "type": "date", "min": "2026-01-01"},
		{"name": "menu", "label": "Menu", "type": "select", "options": ["meat", {"value": "veg", "label": {"en": "vegetables", "de": "Gemüse"}}]},
		{"name": "seat", "label": "Seat", "type": "radio", "options": ["window", "aisle"]},
		{"name": "topics", "label": "Topics", "type": "checkbox", "options": ["a", "b", "c"]},
		{"name": "note", "label": "Note", "type": "textarea", "show_if": "form.guests > 0"},
		{"name": "plan", "type": "hidden", "value": "{{ correlation.data.plan }}"},
		{"name": "terms", "label": "I agree", "type": "consent", "required": true}]}`

// signupWait registers a wait with the form.
func (n *node) signupWait(user, more string) map[string]any {
	n.t.Helper()
	return n.wait(`{"user_id": "` + user + `", "form": ` + signup + `, "data": {"name": "Zoë <b>", "plan": "pro"},
		"on": {"completed": {"module_id": 7, "custom_vars": {"email": "{{ form.email }}"}}, "default": {"module_id": 8}}` + more + `}`)
}

// fill is what a person answers, with some fields changed.
func fill(changed ...string) url.Values {
	v := url.Values{
		"name": {"Ada"}, "email": {"ada@example.org"}, "phone": {"+49 30 1234"}, "guests": {"2"}, "day": {"2026-05-01"}, "menu": {"veg"},
		"seat": {"aisle"}, "topics": {"a", "c"}, "note": {"=1+1"}, "terms": {"yes"},
	}
	for i := 0; i < len(changed); i += 2 {
		if v.Del(changed[i]); changed[i+1] != "" {
			v.Set(changed[i], changed[i+1])
		}
	}
	return v
}

// submit posts a form as a browser does.
func (n *node) submit(w map[string]any, values url.Values, settings ...setting) *answer {
	n.t.Helper()
	all := append([]setting{header("Accept", "text/html"), header("Content-Type", "application/x-www-form-urlencoded")}, settings...)
	return n.send(http.MethodPost, "/f/"+w["token"].(string), strings.NewReader(values.Encode()), all...)
}

func (n *node) form(w map[string]any, settings ...setting) *answer {
	n.t.Helper()
	return n.send(http.MethodGet, "/f/"+w["token"].(string), nil, settings...)
}

// holds checks that a page has some texts.
func (a *answer) holds(texts ...string) *answer {
	a.t.Helper()
	for _, text := range texts {
		if !strings.Contains(string(a.Body), text) {
			a.t.Errorf("%s: got %s, want %q in it", a.asked, a.Body, text)
		}
	}
	return a
}

func (a *answer) lacks(texts ...string) *answer {
	a.t.Helper()
	for _, text := range texts {
		if strings.Contains(string(a.Body), text) {
			a.t.Errorf("%s: got %q in %s, want it nowhere", a.asked, text, a.Body)
		}
	}
	return a
}

func TestFormIsShown(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.signupWait("u-1", "")
	if got, want := w["url"], publicURL+"/go/"+w["token"].(string); got != want {
		t.Errorf("got the url %v, want %s", got, want)
	}
	if w["callback_url"] != nil {
		t.Errorf("got the callback_url %v, want none: the form is ours", w["callback_url"])
	}
	if got := n.visit(w["url"].(string)).want(http.StatusFound).Header.Get("Location"); got != "/f/"+w["token"].(string) {
		t.Errorf("got sent to %s, want to the form", got)
	}
	a := n.form(w).want(http.StatusOK).holds(
		`<html lang="en" dir="ltr">`, "<h1>Sign up, Zoë &lt;b&gt;</h1>", "<title>Sign up, Zoë &lt;b&gt;</title>", "<p>One line.</p>\n<p>Another.</p>",
		`<label for="f-name">Your name</label>`, `value="Zoë &lt;b&gt;"`, `autocomplete="name"`, `aria-required="true"`,
		`type="email"`, `aria-describedby="f-email-help"`, "(optional)", `inputmode="decimal"`, `<option value="veg">vegetables</option>`,
		`<fieldset class="field" data-name="seat"`, `role="radiogroup"`, `data-if="[&#34;`, `data-off`, ">Sign up</button>",
	).lacks(`name="plan"`, "pro", w["token"].(string), " autofocus", "aria-invalid")
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=UTF-8", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
	} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	policy := a.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "style-src 'sha256-", "script-src 'self'", "form-action 'self'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("got the policy %q, want %q in it", policy, want)
		}
	}
	script := regexp.MustCompile(`<script src="\.\.(/assets/[^"]+)"`).FindSubmatch(a.Body)
	if script == nil {
		t.Fatalf("got %s, want a script", a.Body)
	}
	js := n.send(http.MethodGet, string(script[1]), nil).want(http.StatusOK)
	if !strings.Contains(js.Header.Get("Cache-Control"), "immutable") || !strings.HasPrefix(js.Header.Get("Content-Type"), "text/javascript") {
		t.Errorf("got the script with %v, want it cached for ever", js.Header)
	}
	n.send(http.MethodGet, "/assets/nothing.js", nil).refused(http.StatusNotFound, "not_found")
	n.send(http.MethodHead, "/f/"+w["token"].(string), nil).want(http.StatusOK)
	for _, token := range []string{"AAAAAAAAAAAAAAAAAAAAAA", "unknown", n.wait(`{"user_id": "u-2", "flow": "checkout"}`)["token"].(string)} {
		n.send(http.MethodGet, "/f/"+token, nil).want(http.StatusNotFound).holds("<h1>Unknown link")
		n.send(http.MethodPost, "/f/"+token, strings.NewReader("a=b"), header("Content-Type", "application/x-www-form-urlencoded")).want(http.StatusNotFound)
	}
}

// A page is small: people open it on the way.
func TestFormIsSmall(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	var fields []string
	for i := range 25 {
		fields = append(fields, fmt.Sprintf(`{"name": "field_%d", "label": "The question number %d, in some words", "help": "What helps to answer it, in some more words", "required": true}`, i, i))
	}
	w := n.wait(`{"user_id": "u-1", "module_id": 1, "form": {"title": "A long one", "fields": [` + strings.Join(fields, ",") + `]}}`)
	page := n.submit(w, url.Values{}).want(http.StatusUnprocessableEntity)
	script := regexp.MustCompile(`<script src="\.\.(/assets/[^"]+)"`).FindSubmatch(page.Body)
	size := len(page.Body) + len(n.send(http.MethodGet, string(script[1]), nil).want(http.StatusOK).Body)
	if size > 30_000 {
		t.Errorf("got %d bytes with the script, every field being wrong, want at most 30,000", size)
	}
}

func TestFormLanguages(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	german := n.signupWait("u-1", `, "locale": "de_AT"`)
	n.form(german, header("Accept-Language", "en")).holds(`<html lang="de"`, "Anmeldung", "Ihr Name", "Gemüse", ">Anmelden<", "(freiwillig)")
	n.submit(german, fill("email", "x"), header("Accept-Language", "en")).want(http.StatusUnprocessableEntity).
		holds("<title>Fehler: Anmeldung", "Bitte prüfen Sie Ihre Angaben", "Bitte geben Sie eine E-Mail-Adresse an")
	w := n.signupWait("u-2", "")
	n.form(w, header("Accept-Language", "fr, de;q=0.8, en;q=0.5")).holds(`<html lang="de"`)
	n.form(w, header("Accept-Language", "fr")).holds(`<html lang="en"`)
	arabic := n.wait(`{"user_id": "u-3", "module_id": 1, "locale": "ar", "form": {"fields": [{"name": "a", "label": "الاسم"}]}}`)
	n.form(arabic).holds(`<html lang="ar" dir="rtl">`, "إرسال")
}

// TestFormResumes: the answers are typed, an event of the source form, and
// resume once, whatever the browser does.
func TestFormResumes(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.signupWait("u-1", "")
	self := "/f/" + w["token"].(string)
	for range 3 { // sent, sent again, and from another tab
		if got := n.submit(w, fill()).want(http.StatusSeeOther).Header.Get("Location"); got != self {
			t.Errorf("got sent to %s, want %s", got, self)
		}
	}
	n.submit(w, fill("name", "Other")).want(http.StatusSeeOther)
	n.form(w).want(http.StatusOK).holds("<h1>Done</h1>")
	n.visit("/go/" + w["token"].(string)).want(http.StatusOK).holds("<h1>Done</h1>")
	got := n.get("/v1/correlations/" + w["id"].(string)).object()
	want := map[string]any{
		"name": "Ada", "your_name": "Ada", "email": "ada@example.org", "e_mail": "ada@example.org", "phone": "+49 30 1234", "guests": 2.0,
		"how_many_guests": 2.0, "day": "2026-05-01", "menu": "veg", "seat": "aisle", "topics": []any{"a", "c"}, "note": "=1+1", "plan": "pro",
		"terms": true, "i_agree": true,
	}
	if diff := cmp.Diff(want, got["form"]); diff != "" || got["status"] != "completed" {
		t.Errorf("got it %v with the form (-want +got):\n%s", got["status"], diff)
	}
	if handed := n.deliveries(); len(handed) != 1 || handed[0].Outcome != relay.Completed {
		t.Errorf("got %d deliveries, want one", len(handed))
	}
	events := n.get("/v1/events?source=form").data()
	if len(events) != 1 || events[0]["match"] != "matched" || events[0]["verdict"] != "unsigned" {
		t.Errorf("got the events %v, want the one that resumed: after it nothing is taken", events)
	}
	eventually(t, "the source form has been heard of", func() bool { return n.get("/v1/sources/form").object()["last_event_at"] != nil })
}

// What is not there in the person's language is read out in its own (WCAG 2.2,
// 3.1.2).
func TestFormPartlyTranslated(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "module_id": 1, "locale": "ar-EG", "form": {"title": {"en": "Order", "ar": "طلب"}, "intro": {"en": "Two questions"},
		"submit": {"en": "Order now"}, "fields": [
		{"name": "size", "type": "radio", "label": {"en": "Size"}, "help": {"en": "Of the shoe"}, "options": [{"value": "s", "label": {"en": "Small"}}, {"value": "l", "label": "L"}]},
		{"name": "colour", "type": "select", "label": {"en": "Colour", "ar": "لون"}, "help": "RAL", "options": [{"value": "r", "label": {"en": "Red", "ar": "أحمر"}}, {"value": "b", "label": {"en": "Blue"}}]},
		{"name": "note", "required": true, "label": {"en": "Note"}}]}}`)
	const english = ` lang="en" dir="ltr">`
	n.submit(w, url.Values{}).want(http.StatusUnprocessableEntity).holds(
		`<html lang="ar" dir="rtl">`, `<h1>طلب</h1>`, `<p`+english+`Two questions</p>`, english+`Order now</button>`,
		`<legend><span`+english+`Size</span> <span class="help">`, `-help"`+english+`Of the shoe</p>`, english+`Small</label>`, `"f-size-1">L</label>`,
		`<label for="f-colour">لون <span`, `-help">RAL</p>`, `<option value="r">أحمر</option>`, `<option value="b"`+english+`Blue</option>`,
		`<a href="#f-note"><span`+english+`Note</span>: `)
	whole := n.wait(`{"user_id": "u-2", "module_id": 1, "locale": "en-GB", "form": {"title": {"en": "Order", "ar": "طلب"}, "fields": [{"name": "a", "label": {"en": "A"}}]}}`)
	n.form(whole).holds(`<html lang="en" dir="ltr">`).lacks(`<h1 lang`, "<span lang")
}

// Two tabs that send in the same moment find the wait pending both.
func TestFormSentAtOnce(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for round := range 5 {
		w := n.signupWait("u-"+string(rune('a'+round)), "")
		before := len(n.deliveries())
		var tabs sync.WaitGroup
		for tab := range 8 {
			tabs.Go(func() {
				name := []string{"Ada", "Grace"}[tab%2]
				a, err := n.try(http.MethodPost, "/f/"+w["token"].(string), strings.NewReader(fill("name", name).Encode()),
					header("Content-Type", "application/x-www-form-urlencoded"))
				if err != nil || a.Status != http.StatusSeeOther {
					t.Errorf("got %v, %v, want each tab sent to the page", a, err)
				}
			})
		}
		tabs.Wait()
		if got := len(n.deliveries()) - before; got != 1 {
			t.Errorf("got %d deliveries, want one", got)
		}
		n.form(w).want(http.StatusOK).holds("<h1>Done</h1>")
	}
}

func TestFormIsCorrected(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.signupWait("u-1", "")
	a := n.submit(w, fill("name", "", "email", `"><script>alert(1)</script>`, "guests", "9", "menu", "fish", "terms", "")).
		want(http.StatusUnprocessableEntity).holds(
		"<title>Error: Sign up", `role="alert"`, "autofocus", `<a href="#f-name">Your name: This is needed.</a>`, `<a href="#f-guests">How many guests?: Please give at most 5.</a>`,
		`<a href="#f-terms">I agree: Please tick this box to go on.</a>`, `<a href="#f-menu">`,
		`aria-invalid="true" aria-describedby="f-email-wrong f-email-help"`, `<p class="wrong" id="f-email-wrong">`,
		`value="9"`, `value="aisle" checked`, `value="c" checked`, "=1&#43;1</textarea>",
	).lacks("<script>alert")
	if strings.Count(string(a.Body), "aria-invalid") != 5 {
		t.Errorf("got %d fields marked wrong, want 5: %s", strings.Count(string(a.Body), "aria-invalid"), a.Body)
	}
	if got := n.count("events"); got != 0 {
		t.Errorf("got %d events, want none of what was not sent", got)
	}
	n.submit(w, fill("guests", "0")).want(http.StatusSeeOther)
	got := n.get("/v1/correlations/" + w["id"].(string)).object()["form"].(map[string]any)
	if _, kept := got["note"]; kept {
		t.Errorf("got %v, want what is hidden not kept", got)
	}
}

// What is sent after the end says so, and loses nothing.
func TestFormTooLate(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	for outcome, title := range map[string]string{"expired": "This link has expired", "cancelled": "Cancelled"} {
		w := n.signupWait("u-"+outcome, "")
		n.form(w).want(http.StatusOK)
		n.post("/v1/correlations/"+w["id"].(string)+"/resolve", `{"outcome": "`+outcome+`"}`).want(http.StatusOK)
		n.submit(w, fill("note", "a long\nstory <b>")).want(http.StatusGone).
			holds("<h1>"+title, "What you had typed", "<dt>Note</dt>\n<dd dir=\"auto\">a long\nstory &lt;b&gt;</dd>", "<dd dir=\"auto\">vegetables</dd>", "ada@example.org").lacks("pro")
		n.form(w).want(http.StatusGone).holds("<h1>" + title).lacks("What you had typed")
	}
	failed := n.wait(`{"user_id": "u-f", "source": ["stripe", "form"], "module_id": 1, "link": {"stripe": "https://buy.stripe.com/a"}, "form": ` + signup + `}`)
	n.post("/v1/correlations/"+failed["id"].(string)+"/resolve", `{"outcome": "failed"}`).want(http.StatusOK)
	n.submit(failed, fill()).want(http.StatusOK).holds("<h1>Not completed", "What you had typed", "ada@example.org")
	old := n.signupWait("u-9", `, "module_id": null`)
	n.signupWait("u-9", "")
	n.submit(old, fill()).want(http.StatusGone).holds("There is a newer link")
	if got := n.count("events"); got != 0 {
		t.Errorf("got %d events, want none", got)
	}
}

// A filter that does not hold keeps the event and the wait; the person is told.
func TestFormNotTaken(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.signupWait("u-1", `, "when": "form.guests < 2"`)
	n.submit(w, fill()).want(http.StatusUnprocessableEntity).holds("These answers could not be taken", `value="Ada"`)
	n.submit(w, fill("guests", "1")).want(http.StatusSeeOther)
	n.form(w).want(http.StatusOK).holds("<h1>Done")
}

// Of a person who was forgotten nothing is shown but how it has ended.
func TestFormOfSomebodyErased(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	pending, done := n.signupWait("u-1", ""), n.signupWait("u-1", `, "module_id": null`)
	other := n.signupWait("u-2", "")
	n.submit(other, fill()).want(http.StatusSeeOther)
	for _, user := range []string{"u-1", "u-2"} {
		n.remove("/v1/users/" + user).want(http.StatusAccepted)
	}
	n.form(pending).want(http.StatusGone).lacks("Zoë")
	n.submit(pending, fill()).want(http.StatusGone)
	n.form(done).want(http.StatusGone)
	n.form(other).want(http.StatusOK).holds("<h1>Done").lacks("Zoë")
}

// They are not taken as done when they are sent once more.
func TestFormNotTakenTwice(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.signupWait("u-1", `, "when": "form.guests < 2"`)
	for range 3 {
		n.submit(w, fill()).want(http.StatusUnprocessableEntity).holds("<h2>Error</h2>", "These answers could not be taken", `value="Ada"`).lacks("Please check your answers")
	}
	n.submit(w, fill("guests", "1")).want(http.StatusSeeOther)
	n.submit(w, fill()).want(http.StatusSeeOther) // it has ended by then
	n.form(w).want(http.StatusOK).holds("<h1>Done")
}

// A condition may ask a hidden field, of which the page knows nothing: the page
// is told what that decides, and shows what the server asks for.
func TestFormAsksHiddenFields(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const fields = `"module_id": 1, "form": {"fields": [{"name": "plan", "type": "hidden", "value": "{{ correlation.data.plan }}"},
		{"name": "staff", "label": "How many?", "type": "number"},
		{"name": "company", "label": "Company", "required": true, "show_if": "form.plan == \"pro\""},
		{"name": "vat", "label": "Tax number", "show_if": "form.plan == \"pro\" and form.staff > 9"}]}`
	pro := n.wait(`{"user_id": "u-1", "data": {"plan": "pro"}, ` + fields + `}`)
	page := n.form(pro).want(http.StatusOK).holds(`data-name="company" data-type="text">`,
		`data-name="vat" data-type="text" data-if="[&#34;and&#34;,[&#34;is&#34;,true],`).lacks("plan", "pro")
	if got := strings.Count(string(page.Body), "Only if it applies"); got != 1 {
		t.Errorf("got %d fields that may not apply, want the one whose condition is open", got)
	}
	n.submit(pro, url.Values{}).want(http.StatusUnprocessableEntity).holds(`<a href="#f-company">`)
	n.submit(pro, url.Values{"company": {"Ada & Co"}, "staff": {"10"}, "vat": {"1"}}).want(http.StatusSeeOther)
	free := n.wait(`{"user_id": "u-2", "data": {"plan": "free"}, ` + fields + `}`)
	n.form(free).want(http.StatusOK).lacks("company", "Company").holds(`data-name="vat"`)
	n.submit(free, url.Values{"company": {"x"}}).want(http.StatusSeeOther)
	got := n.get("/v1/correlations/" + free["id"].(string)).object()["form"].(map[string]any)
	if _, kept := got["company"]; kept {
		t.Errorf("got %v, want nothing of what was not asked", got)
	}
}

// While the database is away people are told so, in their language, and what
// they have typed is shown to them.
func TestFormWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	line := &line{t: t}
	n := newNode(t, options{wrap: line.reach})
	w := n.signupWait("u-1", "")
	line.cut()
	token := w["token"].(string)
	for _, path := range []string{"/f/" + token, "/go/" + token, "/return/" + token, "/return/default/stripe?ref=x"} {
		a := n.visit(path, header("Accept-Language", "de")).want(http.StatusServiceUnavailable).holds(`<html lang="de"`, "<h1>Gerade nicht erreichbar")
		if a.Header.Get("Retry-After") == "" || a.Header.Get("Content-Security-Policy") == "" || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: got %v, want a page like any other, and a time to try again", path, a.Header)
		}
	}
	n.form(w).refused(http.StatusServiceUnavailable, "database_unavailable") // a program
	sent := n.submit(w, fill("note", "a long\nstory <b>", "_website", "x")).want(http.StatusServiceUnavailable).
		holds("<h1>Not available at the moment", "<dt>note</dt>\n<dd dir=\"auto\">a long\nstory &lt;b&gt;</dd>", "ada@example.org").lacks("refresh", "_website")
	if sent.Header.Get("Retry-After") == "" {
		t.Errorf("got %v, want a time to try again", sent.Header)
	}
	many := url.Values{}
	for i := range 10_000 {
		many.Set(fmt.Sprint("f", i), "x")
	}
	if a := n.submit(w, many).want(http.StatusServiceUnavailable); strings.Count(string(a.Body), "<dt>") > relay.MaxFormFields {
		t.Errorf("got %d fields shown, want at most %d", strings.Count(string(a.Body), "<dt>"), relay.MaxFormFields)
	}
	line.mend()
	eventually(t, "it is taken", func() bool { return n.submit(w, fill()).Status == http.StatusSeeOther })
	if handed := n.deliveries(); len(handed) != 1 {
		t.Errorf("got %d deliveries, want one", len(handed))
	}
}

// A wait's own form is looked through too.
func TestStrayFieldOfAWait(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.wait(`{"user_id": "u-1", "form": {"fields": [{"name": "email"}]}, "destination": "bot", "on": {"default": {"text": "{{ form.mail }}"}}}`)
	if got := fmt.Sprint(w["warnings"]); !strings.Contains(got, "form.mail") {
		t.Errorf("got the warnings %s, want one of form.mail", got)
	}
}

func TestFormGuards(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	w := n.signupWait("u-1", "")
	n.submit(w, fill("_website", "https://spam.example")).want(http.StatusUnprocessableEntity).holds("Please send it once more", `value="Ada"`).lacks("spam.example")
	for _, c := range []struct {
		body, kind, code string
		status           int
	}{
		{"{}", "application/json", "unsupported_media_type", http.StatusUnsupportedMediaType},
		{"a=%zz", "application/x-www-form-urlencoded", "bad_form", http.StatusBadRequest},
		{strings.Repeat("x", 2<<20), "application/x-www-form-urlencoded", "body_too_large", http.StatusRequestEntityTooLarge},
	} {
		send := func(accept string) *answer {
			return n.send(http.MethodPost, "/f/"+w["token"].(string), strings.NewReader(c.body), header("Content-Type", c.kind), header("Accept", accept))
		}
		send("*/*").refused(c.status, c.code)
		send("text/html").want(c.status).holds("<h1>This could not be read")
	}
	for range 100 { // on a slow machine it may be sent more often than 10 times: one more each 5 s
		if a := n.submit(w, fill("email", "x")); a.Status == http.StatusTooManyRequests {
			a.holds("too often", `value="Ada"`)
			if a.Header.Get("Retry-After") == "" {
				t.Error("got no Retry-After, want one")
			}
			n.submit(n.signupWait("u-2", ""), fill()).want(http.StatusSeeOther) // another one is not concerned
			return
		}
	}
	t.Error("got no 429 after 100 tries, want one")
}

func TestAddressOf(t *testing.T) {
	t.Parallel()
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct{ name, peer, forwarded, want string }{
		{"nobody between", "203.0.113.7:1234", "", "203.0.113.7"},
		{"a forged header", "203.0.113.7:1234", "198.51.100.1", "203.0.113.7"},
		{"a trusted proxy", "10.0.0.1:1234", "198.51.100.1", "198.51.100.1"},
		{"forged before a trusted proxy", "10.0.0.1:1234", "1.2.3.4, 198.51.100.1", "198.51.100.1"},
		{"two trusted proxies", "10.0.0.1:1234", "198.51.100.1, 10.0.0.2", "198.51.100.1"},
		{"nothing but proxies", "10.0.0.1:1234", "10.0.0.3, 10.0.0.2", "10.0.0.3"},
		{"a proxy that says nothing", "10.0.0.1:1234", "", "10.0.0.1"},
		{"nonsense", "10.0.0.1:1234", "unknown, ::zz", "10.0.0.1"},
		{"IPv6 by its network", "[2001:db8:1:2:3:4:5:6]:1234", "", "2001:db8:1:2::"},
		{"IPv4 in IPv6", "[::ffff:203.0.113.7]:1234", "", "203.0.113.7"},
		{"IPv6 behind a proxy", "[fd00::1]:1234", "2001:db8:1:2::9", "2001:db8:1:2::"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: c.peer, Header: http.Header{}}
			if c.forwarded != "" {
				r.Header.Set("X-Forwarded-For", c.forwarded)
			}
			if got := handlers.AddressOf(r, trusted); got.String() != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// A form that cannot work is refused where it is written.
func TestFormsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const field = `"fields": [{"name": "a", "label": "A"}]`
	for _, c := range []struct{ name, body, code, says string }{
		{"no fields", `"form": {"title": "x"}`, "invalid_form", "form: fields"},
		{"a wrong field", `"form": {"fields": [{"name": "a", "label": "A"}, {"name": "b", "label": "B", "type": "file"}]}`, "invalid_form", "form: fields[1]: type"},
		{"an unknown field", `"form": {` + field + `, "colour": "red"}`, "unknown_field", "form.colour"},
		{"another source", `"form": {` + field + `}, "source": "stripe"`, "form_source_required", "form"},
		{"its source without it", `"source": "form"`, "form_required", "form"},
		{"a link besides", `"form": {` + field + `}, "link": "https://a.example"`, "invalid_link", "form"},
		{"an outcome that never comes", `"form": {` + field + `}, "on": {"attempt_failed": {"text": "x"}}`, "outcome_unreachable", "attempt_failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.in(t)
			n.put("/v1/flows/wrong", `{"destination": "bot", `+c.body+`}`).refused(http.StatusUnprocessableEntity, c.code, c.says)
			n.post("/v1/correlations", `{"user_id": "u-1", `+c.body+`}`).refused(http.StatusUnprocessableEntity, c.code, c.says)
		})
	}
	got := n.put("/v1/flows/contact", `{"form": {`+field+`}, "module_id": 5}`).want(http.StatusOK).object()
	if diff := cmp.Diff([]any{"completed", "cancelled", "expired", "paid_again"}, got["can_fire"]); diff != "" {
		t.Errorf("can_fire (-want +got):\n%s", diff)
	}
	// With a payment besides, each leads to its own.
	w := n.wait(`{"user_id": "u-2", "source": ["stripe", "form"], "module_id": 1, "form": {` + field + `}, "link": {"stripe": "https://buy.stripe.com/a"}}`)
	for query, want := range map[string]string{"?source=stripe": "https://buy.stripe.com/a?", "?source=form": "/f/"} {
		if got := n.visit(w["url"].(string) + query).want(http.StatusFound).Header.Get("Location"); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s, want %s…", query, got, want)
		}
	}
}

// A project's look is on its pages, a flow's stands above it.
func TestLooks(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	image := "\x89PNG\r\n\x1a\nlogo"
	logo := "data:image/png;base64," + base64.StdEncoding.EncodeToString([]byte(image))
	n.put("/v1/projects/default", `{"look": {"name": "Shop <A>", "color": "#7a1fa2", "logo": "`+logo+`", "embed": ["https://shop.example"],
		"texts": {"completed_title": {"en": "Thank you!", "de": "Danke!"}, "submit": "Go"}}}`).want(http.StatusOK)
	n.put("/v1/flows/contact", `{"form": {"fields": [{"name": "a", "label": "A"}]}, "module_id": 5, "look": {"color": "#006400", "embed": []}}`).want(http.StatusOK)
	plain := n.wait(`{"user_id": "u-1", "module_id": 5, "form": {"fields": [{"name": "a", "label": "A"}]}}`)
	own := n.wait(`{"user_id": "u-2", "flow": "contact"}`)
	a := n.form(plain).holds("--light: #7a1fa2;", "Shop &lt;A&gt;", ">Go</button>")
	if policy := a.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "frame-ancestors https://shop.example") || !strings.Contains(policy, "img-src 'self'") {
		t.Errorf("got the policy %q, want the frame and the logo in it", policy)
	}
	src := regexp.MustCompile(`<img src="\.\.([^"]+)" alt="">`).FindSubmatch(a.Body)
	if src == nil {
		t.Fatalf("got %s, want the logo", a.Body)
	}
	served := n.send(http.MethodGet, string(src[1]), nil).want(http.StatusOK)
	if string(served.Body) != image || served.Header.Get("Content-Type") != "image/png" {
		t.Errorf("got %q as %s, want the logo", served.Body, served.Header.Get("Content-Type"))
	}
	b := n.form(own).holds("--light: #006400;", "Shop &lt;A&gt;")
	if policy := b.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("got the policy %q, want no frames", policy)
	}
	n.submit(own, url.Values{"a": {"x"}}).want(http.StatusSeeOther)
	n.form(own, header("Accept-Language", "de")).holds("<h1>Danke!</h1>")
	got := n.get("/v1/projects/default").object()["look"].(map[string]any)
	if got["color"] != "#7a1fa2" || got["logo"] != logo {
		t.Errorf("got the look %v, want it as written", got)
	}
	n.put("/v1/projects/default", `{}`).want(http.StatusOK)
	n.form(plain).holds("--light: #7a1fa2;") // left out it stays
	for _, c := range []struct{ look, code, says string }{
		{`{"color": "#ffcc00"}`, "low_contrast", "look: color"},
		{`{"logo": "https://a.example/x.png"}`, "invalid_logo", "look: logo"},
		{`{"texts": {"nothing": "x"}}`, "unknown_text", "look: texts.nothing"},
		{`{"embed": ["*"]}`, "invalid_look", "look: embed"},
		{`{"texts": {"submit": {"no language": "x"}}}`, "invalid_language", "look.texts.submit"},
		{`{"font": "x"}`, "unknown_field", "look.font"},
	} {
		n.put("/v1/projects/default", `{"look": `+c.look+`}`).refused(http.StatusUnprocessableEntity, c.code, c.says)
		n.put("/v1/flows/contact", `{"form": {"fields": [{"name": "a", "label": "A"}]}, "look": `+c.look+`}`).refused(http.StatusUnprocessableEntity, c.code, c.says)
	}
	n.post("/v1/correlations", `{"user_id": "u-3", "flow": "contact", "look": {}}`).refused(http.StatusUnprocessableEntity, "unknown_field", "look")
}
