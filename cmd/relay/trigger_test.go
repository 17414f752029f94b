package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"relay.example/relay/internal/relay"
)

// TestTrigger plays providers against a relay that runs.
func TestTrigger(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, play := range map[string]func(*testing.T, *world){
		"of each way to sign":    triggerSchemes,
		"twice":                  triggerDuplicate,
		"before its wait":        triggerEarly,
		"after its wait":         triggerLate,
		"in the wrong order":     triggerReorder,
		"a refund, by reference": triggerRefund,
		"with another secret":    triggerForged,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, w)
		})
	}
}

// stripeArgs triggers a callback of the world's Stripe source.
func (w *world) stripeArgs(kind string, more ...string) []string {
	return append([]string{"trigger", "stripe", kind, "--url", w.url + "/in/default/stripe", "--secret", stripeSecret}, more...)
}

// triggerSchemes sends one callback for each place that a signature may stand
// in, to a source of its own.
func triggerSchemes(t *testing.T, w *world) {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	public := "whpk_" + base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
	namesPayment := map[string]bool{"adyen": true, "html-form": false}
	for _, test := range []struct {
		preset, kind, secret, given string
		want                        relay.Status
	}{
		{"svix", "order.failed", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "", relay.StatusFailed},
		{"standard-webhooks-v1a", "completed", public, "whsk_" + base64.StdEncoding.EncodeToString(private.Seed()), relay.StatusCompleted},
		{"adyen", "AUTHORISATION", strings.Repeat("0F", 32), "", relay.StatusCompleted},
		{"payu-india", "success", "a salt", "", relay.StatusCompleted},
		{"braintree", "failed", "public|private", "", relay.StatusFailed},
		{"square", "cancelled", "a signature key", "", relay.StatusCancelled},
		{"razorpay-link-return", "expired", "an API secret", "", relay.StatusExpired},
		{"klarna-hpp", "completed", "a key of ours", "", relay.StatusCompleted},
		{"generic-basic", "completed", "user:password", "", relay.StatusCompleted},
		{"html-form", "submission", "", "", relay.StatusCompleted},
	} {
		name := "trigger-" + test.preset
		source := object{"provider": test.preset}
		if test.secret != "" {
			source["secret"] = test.secret
		}
		w.call(t, http.MethodPut, "/v1/sources/"+name, source, nil, http.StatusOK)
		var reg wait
		w.call(t, http.MethodPost, "/v1/correlations", object{
			"user_id": "u-" + name, "destination": "bot", "source": name, "on": object{"default": object{"module_id": paidModule}},
		}, &reg, http.StatusCreated)
		secret := test.secret
		if test.given != "" {
			secret = test.given
		}
		args := []string{"trigger", test.preset, test.kind, "--url", w.url + "/in/default/" + name, "--secret-file", writeFile(t, "secret", secret+"\n"), "--token", reg.Token}
		if got := mustRun(t, w.env, args...); !strings.HasSuffix(got, ": 200 [accepted]\n") {
			t.Errorf("%s: got %q, want it accepted", test.preset, got)
		} else if paid, known := namesPayment[test.preset]; known && paid != strings.Contains(got, "of payment") {
			t.Errorf("%s: got %q, want its payment named: %t", test.preset, got, paid)
		}
		if got := w.settled(t, reg.ID); got.Status != string(test.want) || len(got.Deliveries) != 1 {
			t.Errorf("%s: got %s with %d deliveries, want %s with one", test.preset, got.Status, len(got.Deliveries), test.want)
		}
	}
}

func triggerDuplicate(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	got := mustRun(t, w.env, w.stripeArgs("checkout.session.completed", "--token", reg.Token, "--duplicate", "--event", "twice")...)
	if strings.Count(got, ": 200 [accepted]\n") != 2 {
		t.Errorf("got %q, want two callbacks accepted", got)
	}
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
	var matches []string
	for _, e := range w.events(t, url.Values{"token": {reg.Token}}) {
		if e.ProviderID != "evt_twice" {
			t.Errorf("event: got the id %q, want evt_twice", e.ProviderID)
		}
		matches = append(matches, e.Match)
	}
	if len(matches) == 0 || matches[len(matches)-1] != "matched" {
		t.Errorf("events: got %q, want the first one matched", matches)
	}
}

func triggerEarly(t *testing.T, w *world) {
	key := "order-" + relay.NewToken()
	got := mustRun(t, w.env, w.stripeArgs("completed", "--token", key, "--early")...)
	if !strings.Contains(got, `"key": "`+key+`"`) {
		t.Errorf("got %q, want it to say which key to register", got)
	}
	reg := w.register(t, "checkout", object{"key": key})
	await(t, patience, "the callback that was there before its wait", func() bool {
		return w.wait(t, reg.ID).Status == string(relay.StatusCompleted)
	})
	_, err := command(t, w.env, "trigger", "html-form", "submission", "--early")
	wantRefusal(t, err, "--early", "nobody signs")
	_, err = command(t, w.env, "trigger", "smartify", "message.create", "--early", "--secret", "s")
	wantRefusal(t, err, "--early", "at that time")
}

// triggerLate ends the wait once the command says that it waits for that.
func triggerLate(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	out, done := newLogs(), make(chan error, 1)
	go func() {
		done <- run(t.Context(), w.stripeArgs("completed", "--token", reg.Token, "--late"), lookupIn(w.env), out, io.Discard)
	}()
	await(t, patience, "the word that it waits", func() bool { return strings.Contains(out.String(), "waiting until the wait has ended") })
	w.call(t, http.MethodPost, "/v1/correlations/"+reg.ID+"/cancel", object{"silent": true}, nil, http.StatusOK)
	if err := <-done; err != nil {
		t.Fatalf("--late: %v\n%s", err, out)
	}
	if got := w.settled(t, reg.ID); got.Status != string(relay.StatusCancelled) || got.LateOutcome != string(relay.Completed) {
		t.Errorf("got %s with the late outcome %q, want it cancelled and paid late", got.Status, got.LateOutcome)
	}
	_, err := command(t, w.env, w.stripeArgs("completed", "--token", relay.NewToken(), "--late")...)
	wantRefusal(t, err, "--late", "no wait has that token")
}

func triggerReorder(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	got := mustRun(t, w.env, w.stripeArgs("completed", "--token", reg.Token, "--reorder")...)
	first, second, _ := strings.Cut(got, "\n")
	if !strings.Contains(first, "(completed)") || !strings.Contains(second, "(processing)") {
		t.Errorf("got %q, want the success, then what comes before it", got)
	}
	wantStatus(t, w.settled(t, reg.ID), relay.StatusCompleted, "completed")
	_, err := command(t, w.env, "trigger", "html-form", "submission", "--token", reg.Token, "--reorder")
	wantRefusal(t, err, "--reorder", "nothing before submission")
}

func triggerRefund(t *testing.T, w *world) {
	reg, payment := w.register(t, "checkout", nil), relay.NewToken()
	mustRun(t, w.env, w.stripeArgs("completed", "--token", reg.Token, "--payment", payment)...)
	mustRun(t, w.env, w.stripeArgs("charge.dispute.created", "--payment", payment)...)
	await(t, patience, "both events at the wait", func() bool {
		count := 0
		for _, e := range w.events(t, url.Values{"source": {"stripe"}, "limit": {"100"}}) {
			if e.Correlation != nil && *e.Correlation == reg.ID {
				count++
			}
		}
		return count == 2
	})
	_, err := command(t, w.env, w.stripeArgs("charge.dispute.created")...)
	wantRefusal(t, err, "carries no token", "--payment")
}

func triggerForged(t *testing.T, w *world) {
	reg := w.register(t, "checkout", nil)
	args := w.stripeArgs("completed", "--token", reg.Token)
	args[len(args)-3] = "whsec_of_somebody_else"
	out, err := command(t, w.env, args...)
	wantRefusal(t, err, "401")
	if !strings.Contains(out, "signature_mismatch") || strings.Contains(out, "whsec_") {
		t.Errorf("got %q, want the relay's reason and no secret", out)
	}
	wantStatus(t, w.wait(t, reg.ID), relay.Pending)
}

// TestTriggerIsDocumented holds that docs/configuration.md tells of every flag.
func TestTriggerIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(&commands{}, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, command := range parser.Model.Children {
		if command.Name != "trigger" {
			continue
		}
		for _, flag := range command.Flags {
			if found++; !strings.Contains(string(page), "`--"+flag.Name+"`") {
				t.Errorf("docs/configuration.md does not tell of relay trigger --%s", flag.Name)
			}
		}
	}
	if found < 15 {
		t.Errorf("found %d flags of relay trigger, want them all", found)
	}
}

// TestTriggerRefuses needs no relay: nothing is sent.
func TestTriggerRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"no such provider", []string{"hubspot", "x"}, []string{`no provider "hubspot"`, "hubspot-v3"}},
		{"the relay's own", []string{"form", "submission"}, []string{"relay's own"}},
		{"no such callback", []string{"stripe", "invoice.paid"}, []string{`no callback "invoice.paid"`, "'relay trigger stripe' lists them"}},
		{"nobody's", []string{"stripe", "completed", "--secret", "s"}, []string{"--token"}},
		{"no secret", []string{"stripe", "completed", "--token", "t"}, []string{"--secret"}},
		{"two secrets", []string{"stripe", "completed", "--token", "t", "--secret", "s", "--secret-file", "f"}, []string{"keep one"}},
		{"no such file", []string{"stripe", "completed", "--token", "t", "--secret-file", "nowhere"}, []string{"--secret-file", "nowhere"}},
		{"another kind of secret", []string{"adyen", "completed", "--token", "t", "--secret", "no hex"}, []string{"Adyen"}},
		{"a key that PayPal has", []string{"paypal", "completed", "--token", "t"}, []string{"only PayPal itself"}},
		{"a public key", []string{"standard-webhooks-v1a", "completed", "--token", "t", "--secret", "whpk_AAAA"}, []string{"private key", "whsk_"}},
		{"no address", []string{"stripe", "completed", "--token", "t", "--secret", "s", "--url", "relay"}, []string{"--url"}},
		{"no address that is signed", []string{"square", "completed", "--token", "t", "--secret", "s", "--signed-url", "relay"}, []string{"--signed-url"}},
		{"early and late", []string{"stripe", "completed", "--token", "t", "--secret", "s", "--early", "--late"}, []string{"early", "late"}},
		{"no amount", []string{"stripe", "completed", "--token", "t", "--secret", "s", "--amount", "20,50"}, []string{"20,50", "like 20.50"}},
		{"late at no relay", []string{"stripe", "completed", "--token", "t", "--secret", "s", "--late", "--url", "http://127.0.0.1:1/hook"}, []string{"/in/"}},
		{"no currency", []string{"stripe", "completed", "--token", "t", "--secret", "s", "--currency", "euro"}, []string{"--currency", "euro", "EUR"}},
		{"two tokens", []string{"html-form", "submission", "--token", "t", "--url", "http://127.0.0.1:1/in/default/contact/u"}, []string{"--url", "--token", "leave --token out"}},
		{"nobody there, by callback_url", []string{"html-form", "submission", "--url", "http://127.0.0.1:1/in/default/contact/u"}, []string{"no answer from 127.0.0.1:1"}},
		{"nobody there", []string{"stripe", "completed", "--token", "t", "--secret", "s", "--url", "http://127.0.0.1:1/in/default/stripe?key=hidden"}, []string{"no answer from 127.0.0.1:1", "--url"}},
	} {
		_, err := command(t, nil, append([]string{"trigger"}, test.args...)...)
		wantRefusal(t, err, test.words...)
		if err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: got %v, which holds the address", test.name, err)
		}
	}
	if got := mustRun(t, nil, "trigger", "mollie-classic"); !strings.Contains(got, "completed, once the provider is asked") {
		t.Errorf("trigger mollie-classic: got %q, want what its callbacks lead to", got)
	}
	got := mustRun(t, nil, "trigger", "adyen")
	if !strings.Contains(got, "AUTHORISATION") || !strings.Contains(got, "attempt_failed") {
		t.Errorf("trigger adyen: got %q, want its callbacks", got)
	}
}
