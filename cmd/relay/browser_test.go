package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
)

// axePath is the checker of accessibility, as .ci/install-browser gets it.
const axePath = "../../tools/browser/node_modules/axe-core/axe.min.js"

// needBrowser ends the test where there is no browser to test in. CI must
// have one.
func needBrowser(t *testing.T) (axe string) {
	t.Helper()
	missing := func(what string) {
		t.Helper()
		if os.Getenv("CI") != "" {
			t.Fatalf("%s: run .ci/install-browser", what)
		}
		t.Skipf("THE PAGES ARE NOT TESTED IN A BROWSER: %s: `make browser` installs it and runs this", what)
	}
	found := false
	for _, name := range []string{"chromium", "google-chrome", "chrome"} {
		if _, err := exec.LookPath(name); err == nil {
			found = true
		}
	}
	if !found {
		missing("there is no chromium")
	}
	raw, err := os.ReadFile(filepath.FromSlash(axePath))
	if errors.Is(err, os.ErrNotExist) {
		missing("there is no axe-core")
	} else if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// browser is one Chromium, of which each test has tabs of its own.
type browser struct {
	*world
	ctx context.Context //nolint:containedctx // chromedp's name for a browser
	axe string
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	needBrowser(t) // before a world is made for nothing
	return openBrowser(t, newWorld(t))
}

// openBrowser starts a browser to look at a world.
func openBrowser(t *testing.T, w *world) *browser {
	t.Helper()
	axe := needBrowser(t)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.Flag("lang", "en"), chromedp.WindowSize(1000, 1200))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it refuses root otherwise
	}
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, end := chromedp.NewContext(allocator)
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting the browser: %v", err)
	}
	return &browser{w, ctx, axe}
}

// step is something done in a tab.
type step = chromedp.Action[chromedp.Void]

// devtools gives the browser a command of its protocol.
func devtools[P, R any](c cdp.Command[P, R], params P) step {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

// tab is one tab of the browser, with what went wrong in it and what it has
// loaded.
type tab struct {
	*browser
	t   *testing.T
	ctx context.Context //nolint:containedctx // chromedp's name for a tab

	mu       sync.Mutex
	loaded   []string
	complain []string
	answered map[string]int64 // status of documents, by their address
}

// tabTimeout bounds what a test does in one tab.
const tabTimeout = 60 * time.Second

func (b *browser) tab(t *testing.T, prepare ...step) *tab {
	t.Helper()
	// Of its own: with no cookies or cache of another.
	out := &tab{browser: b, t: t, answered: map[string]int64{}}
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(out.listen))
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // its first run is not to have a timeout
		t.Fatalf("opening a tab: %v", err)
	}
	var stop func()
	out.ctx, stop = context.WithTimeout(ctx, tabTimeout)
	t.Cleanup(stop)
	out.do(devtools(network.Enable, network.EnableParams{}), devtools(cdplog.Enable, cdp.Empty{}), devtools(runtime.Enable, cdp.Empty{}))
	out.do(prepare...)
	t.Cleanup(out.check)
	return out
}

func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch event := event.(type) {
	case *network.EventRequestWillBeSent:
		b.loaded = append(b.loaded, event.Request.URL)
	case *network.EventResponseReceived:
		if event.Type == network.ResourceTypeDocument {
			b.answered[event.Response.URL] = event.Response.Status
		}
	case *cdplog.EventEntryAdded:
		// A page that answers 422 or 410 is told of here as well.
		if event.Entry.Level == cdplog.EntryLevelError && event.Entry.Source != cdplog.EntrySourceNetwork {
			b.complain = append(b.complain, event.Entry.Text)
		}
	case *runtime.EventExceptionThrown:
		b.complain = append(b.complain, event.ExceptionDetails.Text)
	}
}

// check holds what the tab has loaded to where it may come from, and to what
// the policy allows.
func (b *tab) check() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, address := range b.loaded {
		// data: is a picture that the browser draws into its own calendar.
		if !strings.HasPrefix(address, "data:image/svg+xml") && !strings.HasPrefix(address, b.url+"/") && !strings.HasPrefix(address, b.boxURL+"/") && address != "about:blank" {
			b.t.Errorf("the page loads %s, want nothing from anywhere but the relay", address)
		}
	}
	for _, complaint := range b.complain {
		b.t.Errorf("the browser complains: %s", complaint)
	}
}

// ask runs what has an answer.
func ask[T any](b *tab, question chromedp.Action[T]) T {
	b.t.Helper()
	answer, err := chromedp.Run(b.ctx, question)
	if err != nil {
		b.t.Fatalf("in the browser: %v", err)
	}
	return answer
}

func (b *tab) do(steps ...step) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatalf("in the browser: %v", err)
	}
}

// open opens an address and waits for the page.
func (b *tab) open(address string) {
	b.t.Helper()
	b.do(chromedp.Navigate(address), chromedp.WaitReady(chromedp.CSS("h1")))
}

// press does what leads to another page, and waits for that.
func (b *tab) press(steps ...step) {
	b.t.Helper()
	if _, err := chromedp.RunResponse(b.ctx, steps...); err != nil {
		b.t.Fatalf("in the browser: %v", err)
	}
	b.do(chromedp.WaitReady(chromedp.CSS("h1")))
}

// status is what the page that is shown was answered with.
func (b *tab) status() int64 {
	b.t.Helper()
	address := ask(b, chromedp.Location())
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.answered[strings.SplitN(address, "#", 2)[0]]
}

// text is the text of the page.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return strings.TrimSpace(ask(b, chromedp.Text(chromedp.CSS(selector))))
}

func (b *tab) value(selector string) string {
	b.t.Helper()
	return ask(b, chromedp.Value(chromedp.CSS(selector)))
}

// is evaluates what is true or false on the page.
func (b *tab) is(expression string) bool {
	b.t.Helper()
	return ask(b, chromedp.Evaluate[bool](expression))
}

func (b *tab) want(selector, text string) {
	b.t.Helper()
	if got := b.text(selector); !strings.Contains(got, text) {
		b.t.Errorf("%s: got %q, want %q in it", selector, got, text)
	}
}

func (b *tab) wantIs(expression string) {
	b.t.Helper()
	if !b.is(expression) {
		b.t.Errorf("on the page it is not so: %s", expression)
	}
}

// shown reports whether a field can be seen.
func shown(name string) string {
	return `document.querySelector('[data-name="` + name + `"]').offsetParent !== null`
}

func input(name string) string { return "#f-" + name }

// typing types into a field, in place of what stands there.
func typing(name, text string) step {
	empty := fmt.Sprintf("document.querySelector(%q).value = ''", input(name))
	return chromedp.Steps(chromedp.Evaluate[chromedp.Void](empty), chromedp.SendKeys(chromedp.CSS(input(name)), text))
}

func click(selector string) step { return chromedp.Click(chromedp.CSS(selector)) }

// withoutScripts switches JavaScript off.
func withoutScripts() step {
	return devtools(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
}

const button = "button[type=submit]"

// bookingForm is what the tests fill in.
const bookingForm = `{
	"language": "en",
	"title": {"en": "Book a table, {{ correlation.data.name }}", "ar": "احجز طاولة، {{ correlation.data.name }}"},
	"intro": {"en": "We keep it for you for 15 minutes.", "ar": "نحتفظ بها لك لمدة 15 دقيقة."},
	"fields": [
		{"name": "name", "label": {"en": "Your name", "ar": "اسمك"}, "required": true, "value": "{{ correlation.data.name }}"},
		{"name": "email", "label": {"en": "E-mail", "ar": "البريد الإلكتروني"}, "type": "email", "required": true,
			"help": {"en": "We send the confirmation there.", "ar": "نرسل التأكيد إلى هناك."}},
		{"name": "phone", "label": {"en": "Phone", "ar": "الهاتف"}, "type": "tel"},
		{"name": "guests", "label": {"en": "How many are you?", "ar": "كم عددكم؟"}, "type": "number", "required": true, "min": 1, "max": 12},
		{"name": "day", "label": {"en": "Day", "ar": "اليوم"}, "type": "date"},
		{"name": "place", "label": {"en": "Where?", "ar": "أين؟"}, "type": "radio", "options": [
			{"value": "in", "label": {"en": "Inside", "ar": "في الداخل"}}, {"value": "out", "label": {"en": "Outside", "ar": "في الخارج"}}]},
		{"name": "blanket", "label": {"en": "A blanket for each", "ar": "بطانية لكل شخص"}, "type": "checkbox", "show_if": "form.place == \"out\""},
		{"name": "menu", "label": {"en": "Menu", "ar": "القائمة"}, "type": "select", "options": ["meat", "vegetables"]},
		{"name": "allergies", "label": {"en": "Allergies", "ar": "الحساسية"}, "type": "checkbox", "options": ["nuts", "milk", "other"]},
		{"name": "which", "label": {"en": "Which?", "ar": "ما هي؟"}, "type": "textarea", "required": true, "show_if": "\"other\" in form.allergies"},
		{"name": "table", "type": "hidden", "value": "{{ correlation.data.table }}"},
		{"name": "terms", "label": {"en": "I have read the terms.", "ar": "لقد قرأت الشروط."}, "type": "consent", "required": true}]}`

// booking registers a wait with the form.
func (b *browser) booking(t *testing.T, more object) wait {
	t.Helper()
	body := object{
		"form": json.RawMessage(bookingForm), "destination": "bot", "data": object{"name": "Zoë", "table": 7},
		"on": object{
			"completed": object{"module_id": formModule, "custom_vars": object{
				"email": "{{ form.email }}", "guests": "{{ form.guests }}", "allergies": "{{ form.allergies }}", "which": "{{ form.which }}",
				"blanket": "{{ form.blanket }}", "terms": "{{ form.i_have_read_the_terms }}", "table": "{{ form.table }}",
			}},
			"default": object{"module_id": defaultModule},
		},
	}
	for name, value := range more {
		body[name] = value
	}
	w := b.register(t, "", body)
	b.box.Pause(sandbox.Certainly, w.UserID, "Please fill this in.", w.URL)
	return w
}

func TestBrowserForms(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	ready := []step{
		typing("email", "zoe@example.org"), typing("guests", "4"), click(input("place") + "-1"), click(input("terms")),
	}

	t.Run("fill in, correct, submit, and the chat goes on", func(t *testing.T) {
		w := b.booking(t, nil)
		p := b.tab(t)
		p.open(b.boxURL + "/sandbox/chat/" + w.UserID + "?refresh=off")
		p.want("main", "The conversation is paused")
		p.press(click("a.button"))
		p.want("h1", "Book a table, Zoë")
		if got := p.value(input("name")); got != "Zoë" {
			t.Errorf("the name: got %q, want what the wait knows", got)
		}
		p.wantIs("!(" + shown("blanket") + ") && !(" + shown("which") + ")")
		p.do(typing("email", "zoe@"), typing("guests", "20"), click(input("place")+"-1"), click(input("allergies")+"-2"))
		p.wantIs(shown("blanket") + " && " + shown("which"))
		p.press(click(button))
		if got := p.status(); got != http.StatusUnprocessableEntity {
			t.Errorf("got %d, want 422", got)
		}
		p.wantIs(`document.title.startsWith("Error: ") && document.activeElement.className === "summary"`)
		p.want(".summary", "How many are you?: Please give at most 12.")
		p.want(".summary", "Which?: This is needed.")
		p.do(click(`.summary a[href="#f-email"]`))
		p.wantIs(`document.activeElement.id === "f-email" && document.activeElement.getAttribute("aria-invalid") === "true"`)
		p.wantIs(shown("blanket") + ` && document.querySelector("#f-place-1").checked && document.querySelector("#f-email").value === "zoe@"`)
		p.do(typing("email", "zoe@example.org"), typing("guests", "4"), typing("which", "=1+1"), click(input("blanket")), click(input("terms")))
		p.press(click(button))
		p.want("h1", "Done")
		if got := p.status(); got != http.StatusOK {
			t.Errorf("got %d, want 200", got)
		}
		wantStatus(t, b.settled(t, w.ID), relay.StatusCompleted, "completed")
		c := b.wantModule(t, w, formModule, 1)
		for name, want := range map[string]string{
			"email": `"zoe@example.org"`, "guests": `4`, "allergies": `["other"]`, "which": `"'=1+1"`, "blanket": `true`, "terms": `true`, "table": `7`,
		} {
			if got := string(c.CustomVars[name]); got != want {
				t.Errorf("%s: got %s, want %s", name, got, want)
			}
		}
		p.open(b.boxURL + "/sandbox/chat/" + w.UserID + "?refresh=off")
		p.want("main", fmt.Sprintf("The conversation goes on in module %d", formModule))
	})
	t.Run("without JavaScript", func(t *testing.T) {
		w := b.booking(t, nil)
		p := b.tab(t, withoutScripts())
		p.open(w.URL)
		p.want(`[data-name="which"]`, "Only if it applies")
		p.wantIs(shown("blanket") + " && " + shown("which"))
		p.do(append(ready, typing("which", "kept from nobody"))...)
		p.do(typing("guests", "none"))
		p.press(click(button))
		p.wantIs(`document.activeElement.className === "summary"`)
		p.want(".summary", "Please give a number")
		if strings.Contains(p.text(".summary"), "Which?") {
			t.Error("a field that does not apply is asked for")
		}
		p.do(typing("guests", "2"))
		p.press(click(button))
		p.want("h1", "Done")
		wantStatus(t, b.settled(t, w.ID), relay.StatusCompleted, "completed")
		c := b.wantModule(t, w, formModule, 1)
		if got := string(c.CustomVars["which"]); got != "null" {
			t.Errorf("which: got %s, want nothing of a field that does not apply", got)
		}
	})
	t.Run("sent twice, and back", func(t *testing.T) {
		w := b.booking(t, nil)
		p := b.tab(t)
		p.open(w.URL)
		p.do(ready...)
		// Two clicks in one moment, and Enter besides.
		p.press(chromedp.Evaluate[chromedp.Void](`{const b = document.querySelector("button"); b.click(); b.click(); b.form.requestSubmit();}`))
		p.want("h1", "Done")
		p.mu.Lock()
		posts := 0
		for _, address := range p.loaded {
			if strings.HasSuffix(address, "/f/"+w.Token) {
				posts++
			}
		}
		p.mu.Unlock()
		if posts != 3 { // shown, sent, shown
			t.Errorf("got %d requests of the form, want it sent once", posts)
		}
		p.press(chromedp.NavigateBack())
		p.want("h1", "Done")
		p.press(chromedp.Reload())
		p.want("h1", "Done")
		wantStatus(t, b.settled(t, w.ID), relay.StatusCompleted, "completed")
		b.wantModule(t, w, formModule, 1)
	})
	t.Run("in two tabs", func(t *testing.T) {
		w := b.booking(t, nil)
		one, two := b.tab(t), b.tab(t)
		for _, p := range []*tab{one, two} {
			p.open(w.URL)
			p.do(ready...)
		}
		one.press(click(button))
		one.want("h1", "Done")
		two.do(typing("guests", "9"))
		two.press(click(button))
		two.want("h1", "Done")
		wantStatus(t, b.settled(t, w.ID), relay.StatusCompleted, "completed")
		c := b.wantModule(t, w, formModule, 1)
		if got := string(c.CustomVars["guests"]); got != "4" {
			t.Errorf("guests: got %s, want what was sent first", got)
		}
	})
	t.Run("expired while it is open", func(t *testing.T) {
		w := b.booking(t, nil)
		p := b.tab(t)
		p.open(w.URL)
		p.do(ready...)
		b.call(t, http.MethodPost, "/v1/correlations/"+w.ID+"/resolve", object{"outcome": "expired"}, nil, http.StatusOK)
		p.press(click(button))
		if got := p.status(); got != http.StatusGone {
			t.Errorf("got %d, want 410", got)
		}
		p.want("h1", "This link has expired")
		p.want("dl", "zoe@example.org")
		p.want("dl", "Outside")
		wantStatus(t, b.settled(t, w.ID), relay.StatusExpired, "default")
		b.wantModule(t, w, defaultModule, 1)
	})
	t.Run("on a telephone", func(t *testing.T) {
		w := b.booking(t, nil)
		p := b.tab(t, chromedp.EmulateViewport(360, 640, chromedp.EmulateScale(2), chromedp.EmulateMobile, chromedp.EmulateTouch))
		p.open(w.URL)
		p.wantIs(`document.documentElement.scrollWidth <= 360`)
		// WCAG 2.2, 2.5.8, with room to spare.
		p.wantIs(`[...document.querySelectorAll("form input:not(#trap), form select, form textarea, form button")]
			.filter(e => e.offsetParent).every(e => Math.max(e.offsetHeight, e.parentElement.offsetHeight) >= 44 && e.offsetHeight >= 24)`)
		p.do(ready...)
		p.press(click(button))
		p.want("h1", "Done")
	})
	t.Run("conditions as the server decides them", b.conditionsAgree)
}

// conditionsAgree plays conditions in the page, whose answers the server's
// tests know.
func (b *browser) conditionsAgree(t *testing.T) {
	conditions := []struct {
		condition string
		holds     bool
	}{
		{`form.text == "other"`, true},
		{`form.text != "other"`, false},
		{`form.empty == nil`, true},
		{`form.empty != nil`, false},
		{`form.text in ["a", "other"]`, true},
		{`"b" in form.ticks`, true},
		{`"a" in form.ticks`, false},
		{`"x" in form.empty`, false},
		{`form.ticks == form.ticks`, false},
		{`form.number >= 12.5`, true},
		{`form.number > 12.5`, false},
		{`form.number < "13"`, false},
		{`form.empty < 3`, false},
		{`not (form.empty < 3)`, true},
		{`form.tick`, true},
		{`form.open`, false},
		{`!form.open and form.tick`, true},
		{`form.text`, false},
		{`form.radio == "r" || form.open`, true},
		{`form.thousand == nil`, true},
		{`form.number == 12.5`, true},
		{`form.plan == "pro"`, true},
		{`form.plan == "pro" and form.open`, false},
		{`form.plan != "pro" or form.tick`, true},
		{`form.constructor == nil`, true},
	}
	fields := []object{
		{"name": "text", "label": "A", "value": " other "},
		{"name": "empty", "label": "A"},
		{"name": "number", "label": "A", "type": "number", "value": "12,5"},
		{"name": "thousand", "label": "A", "type": "number", "value": "1,000"},
		{"name": "tick", "label": "A", "type": "checkbox", "value": true},
		{"name": "open", "label": "A", "type": "checkbox"},
		{"name": "ticks", "label": "A", "type": "checkbox", "options": []string{"a", "b"}, "value": []string{"b"}},
		{"name": "radio", "label": "A", "type": "radio", "options": []string{"q", "r"}, "value": "r"},
		{"name": "plan", "type": "hidden", "value": "pro"},
		// Names of what every object, and every form of a page, has.
		{"name": "constructor", "label": "A"},
		{"name": "querySelectorAll", "label": "A"},
		{"name": "addEventListener", "label": "A"},
	}
	for i, c := range conditions {
		fields = append(fields, object{"name": fmt.Sprintf("c%d", i), "label": "C", "show_if": c.condition})
	}
	w := b.register(t, "", object{"destination": "bot", "module_id": 1, "form": object{"fields": fields}})
	p := b.tab(t, withoutScripts())
	q := b.tab(t)
	p.open(w.URL)
	q.open(w.URL)
	for i, c := range conditions {
		off := fmt.Sprintf(`document.querySelector('[data-name="c%d"]').hasAttribute("data-off")`, i)
		if p.is(off) == c.holds {
			t.Errorf("the server: %s: got %v, want %v", c.condition, !c.holds, c.holds)
		}
		if q.is(off) == c.holds {
			t.Errorf("the page: %s: got %v, want %v", c.condition, !c.holds, c.holds)
		}
	}
}

// TestBrowserAccessibility looks for what keeps people from using the pages,
// with axe-core, in each page's states, light and dark, in both directions.
func TestBrowserAccessibility(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	fails := func(p *tab) { p.press(click(button)) }
	end := func(outcome string) func(*testing.T, wait) {
		return func(t *testing.T, w wait) {
			t.Helper()
			b.call(t, http.MethodPost, "/v1/correlations/"+w.ID+"/resolve", object{"outcome": outcome}, nil, http.StatusOK)
		}
	}
	states := []struct {
		name   string
		before func(*testing.T, wait)
		then   func(*tab)
	}{
		{"form", nil, nil},
		{"form with everything shown", nil, func(p *tab) { p.do(click(input("place")+"-1"), click(input("allergies")+"-2")) }},
		{"form to be corrected", nil, fails},
		{"done", end("completed"), nil},
		{"failed", end("failed"), nil},
		{"expired", end("expired"), nil},
		{"cancelled", end("cancelled"), nil},
		{"sent too late", nil, nil},
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, locale := range []string{"en", "ar"} {
			t.Run(scheme+" "+locale, func(t *testing.T) {
				p := b.tab(t, onScreen(scheme))
				for _, state := range states {
					w := b.booking(t, object{"locale": locale, "return_url": "https://chat.example/"})
					if state.before != nil {
						state.before(t, w)
					}
					p.open(b.url + "/f/" + w.Token)
					if state.name == "sent too late" {
						end("expired")(t, w)
						fails(p)
					}
					if state.then != nil {
						state.then(p)
					}
					p.wantAccessible(state.name)
				}
				p.open(b.url + "/f/" + relay.NewToken())
				p.wantAccessible("unknown")
				direction := map[string]string{"en": "ltr", "ar": "rtl"}[locale]
				w := b.booking(t, object{"locale": locale})
				p.open(b.url + "/f/" + w.Token)
				p.wantIs(fmt.Sprintf("document.documentElement.dir === %q && document.documentElement.lang === %q", direction, locale))
				dark := p.is(`getComputedStyle(document.body).backgroundColor === "rgb(20, 23, 26)"`)
				if dark != (scheme == "dark") {
					t.Errorf("got a dark page: %v, want one on a %s screen", dark, scheme)
				}
			})
		}
	}
}

// onScreen makes the screen a light or a dark one.
func onScreen(scheme string) step {
	return devtools(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
}

// wantAccessible runs axe-core on the page: every rule of WCAG 2.2 A and AA,
// and its best practices.
func (b *tab) wantAccessible(name string) {
	b.t.Helper()
	type violation struct {
		ID    string `json:"id"`
		Help  string `json:"help"`
		Nodes []struct {
			HTML    string `json:"html"`
			Summary string `json:"failureSummary"`
		} `json:"nodes"`
	}
	b.do(chromedp.Evaluate[chromedp.Void](b.axe + "; void 0"))
	type result struct {
		Violations []violation `json:"violations"`
		Passed     int         `json:"passed"`
	}
	r := ask(b, chromedp.Evaluate[result](`axe.run(document).then(r => ({violations: r.violations, passed: r.passes.length}))`, chromedp.EvalAwaitPromise))
	if r.Passed < 10 {
		b.t.Errorf("%s: got %d rules that the page keeps, want all that concern it: has axe-core run?", name, r.Passed)
	}
	for _, v := range r.Violations {
		for _, node := range v.Nodes {
			b.t.Errorf("%s: %s (%s): %s\n%s", name, v.ID, v.Help, node.HTML, node.Summary)
		}
	}
}
