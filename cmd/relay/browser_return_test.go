package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
)

// decided is a return page that knows how its wait ended.
const decided = "main:not(:has([data-now]))"

// TestBrowserReturn looks at where the checkout sends people.
func TestBrowserReturn(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	for name, prepare := range map[string][]step{"with JavaScript": nil, "without": {withoutScripts()}} {
		t.Run("confirming, then paid, "+name, func(t *testing.T) {
			w := b.register(t, "checkout", object{"return_url": b.boxURL + "/sandbox/chat/{{ correlation.user_id }}?refresh=off"})
			b.box.Pause(sandbox.Certainly, w.UserID, "Please pay.", w.URL)
			p := b.tab(t, prepare...)
			p.open(b.url + "/return/" + w.Token)
			p.want("h1", "Confirming your payment")
			b.stripe(t, "checkout.session.completed", paid(w))
			p.do(chromedp.WaitReady(chromedp.CSS(decided)))
			p.want("h1", "Done")
			b.wantModule(t, w, paidModule, 1)
			p.press(click("a.button"))
			p.want("main", fmt.Sprintf("The conversation goes on in module %d", paidModule))
		})
	}
	t.Run("a link that leads nowhere yet", func(t *testing.T) {
		w := b.register(t, "contact", nil)
		p := b.tab(t)
		p.open(b.url + "/go/" + w.Token)
		p.want("h1", "Not confirmed yet")
		b.call(t, http.MethodPost, "/v1/correlations/"+w.ID+"/resolve", object{"outcome": "completed"}, nil, http.StatusOK)
		p.do(chromedp.WaitReady(chromedp.CSS(decided)))
		p.want("h1", "Done")
	})
}

// TestBrowserAccessibilityOfReturns runs axe-core on the pages of a payment:
// where people come back to in each of its states, and what a link shows that
// leads nowhere.
func TestBrowserAccessibilityOfReturns(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	end := func(outcome string) func(*testing.T, wait) {
		return func(t *testing.T, w wait) {
			t.Helper()
			b.call(t, http.MethodPost, "/v1/correlations/"+w.ID+"/resolve", object{"outcome": outcome}, nil, http.StatusOK)
		}
	}
	states := []struct {
		name   string
		before func(*testing.T, wait)
		query  string
		title  map[string]string
	}{
		{"confirming", nil, "", map[string]string{"en": "Confirming your payment", "ar": "تأكيد"}},
		{"not paid yet", nil, "?back", map[string]string{"en": "Not paid yet"}},
		{"processing", func(t *testing.T, w wait) {
			o := paid(w)
			o.PaymentStatus = "unpaid"
			b.stripe(t, "checkout.session.completed", o)
		}, "", map[string]string{"en": "Your payment is being processed"}},
		{"paid", end("completed"), "", map[string]string{"en": "Done"}},
		{"failed", end("failed"), "", map[string]string{"en": "Not completed"}},
		{"expired", end("expired"), "", map[string]string{"en": "This link has expired"}},
		{"cancelled", end("cancelled"), "", map[string]string{"en": "Cancelled"}},
		{"superseded", func(t *testing.T, w wait) {
			b.register(t, "checkout", object{"user_id": w.UserID})
		}, "", map[string]string{"en": "There is a newer link"}},
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, locale := range []string{"en", "ar"} {
			t.Run(scheme+" "+locale, func(t *testing.T) {
				p := b.tab(t, onScreen(scheme))
				for _, state := range states {
					w := b.register(t, "checkout", object{"locale": locale, "return_url": "https://chat.example/"})
					if state.before != nil {
						state.before(t, w)
					}
					p.open(b.url + "/return/" + w.Token + state.query)
					p.want("h1", state.title[locale])
					p.wantAccessible("return: " + state.name)
					if state.before != nil && state.name != "processing" { // otherwise it leads on
						p.open(b.url + "/go/" + w.Token)
						p.wantAccessible("go: " + state.name)
					}
				}
				w := b.register(t, "contact", object{"locale": locale})
				for name, path := range map[string]string{
					"go: without a link": "/go/" + w.Token, "go: unknown": "/go/" + relay.NewToken(), "go: no token": "/go/x",
					"return: unknown": "/return/" + relay.NewToken(), "return: nobody known": "/return/default/stripe?ref=cs_test_1",
				} {
					p.open(b.url + path)
					p.wantAccessible(name)
				}
			})
		}
	}
}

// TestBrowserAccessibilityOfSandbox does the same for the pages of the
// sandbox, which people see who try the relay out.
func TestBrowserAccessibilityOfSandbox(t *testing.T) {
	t.Parallel()
	needBrowser(t)
	d := startDemo(t)
	b := openBrowser(t, d)
	user := "axe " + relay.NewToken()
	chat := b.boxURL + "/sandbox/chat/" + url.PathEscape(user)
	for _, scheme := range []string{"light", "dark"} {
		t.Run(scheme, func(t *testing.T) {
			p := b.tab(t, onScreen(scheme))
			p.open(b.boxURL + "/")
			p.wantAccessible("index")
			p.open(chat + scheme)
			p.wantAccessible("chat: new")
			p.press(click("button[value=checkout]"))
			p.wantAccessible("chat: waiting")
			p.press(click("a.button"))
			p.wantAccessible("pay")
			p.press(click("button[value=decline]"))
			p.want("main", "Your card was declined")
			p.wantAccessible("pay: declined")
			p.open(b.boxURL + "/pay/demo")
			p.wantAccessible("pay: a link without a token")
			p.press(click("button[value=pay]"))
			p.wantAccessible("pay: paid")
			p.open(chat + scheme)
			p.do(chromedp.WaitReady(chromedp.CSS("#said .text")))
			p.wantAccessible("chat: spoken to")
		})
	}
}

// TestBrowserDemo does what the demo invites to, with the conversation open
// in another window, where nobody touches it.
func TestBrowserDemo(t *testing.T) {
	t.Parallel()
	needBrowser(t)
	b := openBrowser(t, startDemo(t))
	p, chat := b.tab(t), b.tab(t)
	p.open(b.boxURL + "/")
	p.press(click("a.button"))
	p.want("main", "Nothing has been said yet")
	chat.open(b.boxURL + "/sandbox/chat/me")

	p.press(click("button[value=form]"))
	p.want("main", "The conversation is paused")
	chat.do(chromedp.WaitReady(chromedp.CSS("#said .pause")))
	p.press(click("#said a.button"))
	p.want("header", "Trattoria Zoë")
	p.wantIs("!(" + shown("blanket") + ")")
	p.do(
		typing("name", "Zoë"), typing("email", "zoe@example.org"), typing("guests", "four"),
		click(input("place")+"-1"), click(input("blanket")), click(input("terms")),
	)
	p.press(click(button))
	p.want(".summary", "Please give a number")
	p.do(typing("guests", "4"))
	p.press(click(button))
	p.want("main", "Your table is booked. See you soon!")
	chat.do(chromedp.WaitReady(chromedp.CSS("#said .resume")))
	chat.want("#stands", fmt.Sprintf("The conversation goes on in module %d", demoModule))
	for _, answer := range []string{"zoe@example.org", "outside", "true", "4"} {
		chat.want("#variables", answer)
	}
	p.press(click("a.button"))
	p.want("h1", "me")

	p.press(click("button[value=checkout]"))
	p.press(click("#said li:last-child a.button"))
	p.want("h1", "20.50 EUR")
	p.press(click("button[value=decline]"))
	chat.do(chromedp.WaitReady(chromedp.CSS("#said .text")))
	chat.want("#said", "That card was declined.")
	p.press(click("button[value=pay]"))
	if at := ask(p, chromedp.Location()); !strings.HasPrefix(at, b.url+"/return/") {
		t.Errorf("paid: got to %s, want the return page", at)
	}
	p.do(chromedp.WaitReady(chromedp.CSS(decided)))
	p.want("h1", "Done")
	p.press(click("a.button"))
	p.do(chromedp.WaitReady(chromedp.CSS("#said .text ~ .resume")))
	chat.do(chromedp.WaitReady(chromedp.CSS("#said .text ~ .resume")))
	chat.want("#stands", fmt.Sprintf("The conversation goes on in module %d", demoModule+1))
	chat.want("#variables", "Paid 20.50 EUR")
}

// startDemo runs the demo until the test ends, and returns where it is.
func startDemo(t *testing.T) *world {
	t.Helper()
	out := newLogs()
	ended := make(chan struct{})
	var err error
	go func() {
		defer close(ended)
		err = run(t.Context(), []string{"demo", "--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", "--data-dir", openDir(t)}, lookupIn(nil), out, io.Discard)
	}()
	t.Cleanup(func() { // the test's context has ended by then
		<-ended
		if err != nil {
			t.Errorf("the demo: got %v, want it to end without an error", err)
		}
	})
	await(t, patience, "the demo", func() bool { return strings.Contains(out.String(), "Try it yourself") })
	at := regexp.MustCompile(`the relay is up at (http://\S+), the sandbox at (http://\S+)`).FindStringSubmatch(out.String())
	return &world{testNode: &testNode{url: at[1]}, t: t, boxURL: at[2]}
}
