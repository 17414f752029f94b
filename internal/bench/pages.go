package bench

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
)

// pageRate is how many people open or send something in a second, in the
// phases of pages.
const pageRate = 200.0

// pageForms is how many waits the links and return pages belong to.
const pageForms = 200

// pageForm is what they are asked: a form as shops have them.
func pageForm() map[string]any {
	field := func(name, kind string, more map[string]any) map[string]any {
		f := map[string]any{"name": name, "type": kind, "label": map[string]any{"en": "The " + name, "de": "Das Feld " + name}, "help": "A word on it."}
		for part, value := range more {
			f[part] = value
		}
		return f
	}
	options := map[string]any{"options": []string{"one", "two", "three", "four"}}
	return map[string]any{
		"title": map[string]any{"en": "Hello {{ correlation.user_id }}", "de": "Hallo {{ correlation.user_id }}"},
		"fields": []any{
			field("name", "text", map[string]any{"required": true, "value": "{{ correlation.user_id }}"}), field("email", "email", nil),
			field("phone", "tel", nil), field("guests", "number", map[string]any{"min": 1, "max": 9}), field("day", "date", nil),
			field("size", "select", options), field("colour", "radio", options), field("topics", "checkbox", options),
			field("note", "textarea", map[string]any{"show_if": `form.size == "two"`}), field("terms", "consent", nil),
		},
	}
}

// pages are the pages that people open, and whose waits they belong to.
type pages struct {
	forms, shop *caller // of waits for a form, and for a payment
	largest     atomic.Int64
}

// pageWaits registers the waits whose pages are opened. Each form can be sent
// once.
func (b *bench) pageWaits(ctx context.Context) error {
	if b.p.Growth {
		return nil
	}
	err := b.put(ctx, "flows/pages", map[string]any{
		"destination": "sink", "expires_in": "3d", "form": pageForm(), "on": map[string]any{"completed": map[string]any{"module_id": 1}},
	})
	if err != nil {
		return err
	}
	of := func(flow, users string) *caller {
		return &caller{address: b.t.Relay, key: b.t.APIKey, manner: manner{flow: flow}, users: otherUsers + users}
	}
	b.pages = &pages{forms: of("pages", "form-"), shop: of(usual.flow, "shop-")}
	for c, count := range map[*caller]int{b.pages.forms: int(pageRate * b.p.Duration.Seconds()), b.pages.shop: pageForms} {
		l, err := c.closedLoop(ctx, registers, catchUp, atMost(count, c.register), nil)
		if err != nil {
			return err
		}
		if l.accepted != int64(count) {
			return fmt.Errorf("%d of %d waits for pages were registered", l.accepted, count)
		}
	}
	return nil
}

// pageSteps are the phases of pages. Forms are sent last, since they are done
// then.
func (b *bench) pageSteps() []step {
	rate := func() float64 { return pageRate }
	return []step{
		{name: "form pages, 200/s", run: b.openly(b.visit("/f/", b.formToken, http.StatusOK), rate)},
		{name: "links, 200/s", run: b.openly(b.visit("/go/", b.shopToken, http.StatusFound), rate)},
		{name: "return pages, 200/s", run: b.openly(b.visit("/return/", b.shopToken, http.StatusOK), rate)},
		{name: "forms sent, 200/s", run: b.openly(b.sendForm, rate)},
	}
}

// formToken and shopToken take the waits in turn.
func (b *bench) formToken() (int, string) { return b.pages.forms.turn() }
func (b *bench) shopToken() (int, string) { return b.pages.shop.turn() }

// turn returns the wait whose turn it is.
func (c *caller) turn() (user int, token string) {
	n := int((c.used.Add(1) - 1) % c.next.Load())
	return n, c.tokens[n]
}

// visit opens the pages of waits. What is answered otherwise than it should be
// counts as refused.
func (b *bench) visit(path string, of func() (int, string), want int) request {
	return func(k *conn) (user, status int, more bool, err error) {
		user, token := of()
		status, page, err := k.get(path + token)
		b.pages.note(len(page))
		return user, asWanted(status, want), true, err
	}
}

// sendForm sends a form, filled in, from an address of its own: from one alone
// only some are taken.
func (b *bench) sendForm(k *conn) (user, status int, more bool, err error) {
	user, token := b.formToken()
	from := fmt.Sprintf("10.%d.%d.%d", user>>16&255, user>>8&255, user&255)
	status, _, err = k.submit("/f/"+token, from, pageAnswers)
	return user, asWanted(status, http.StatusSeeOther), true, err
}

// pageAnswers are what the form is filled in with.
const pageAnswers = "name=Jo+Miller&email=jo%40example.org&phone=%2B49+30+1234567&guests=4&day=2027-01-31&size=two&colour=one&topics=one&topics=four" +
	"&note=A+few+words.&terms=yes"

// asWanted makes a success of the one status that is wanted, and a refusal of
// every other.
func asWanted(status, want int) int {
	if status == want {
		return http.StatusOK
	}
	return http.StatusInternalServerError
}

// note keeps the size of the largest page.
func (p *pages) note(size int) {
	for {
		largest := p.largest.Load()
		if int64(size) <= largest || p.largest.CompareAndSwap(largest, int64(size)) {
			return
		}
	}
}
