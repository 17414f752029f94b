package deliver_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// said is one answer of a platform.
type said struct {
	status int
	body   string
}

// script is a platform that gives its answers one after the other, and then
// the last one for ever. A status of 0 breaks the connection off.
type script struct {
	*httptest.Server
	mu      sync.Mutex
	answers []said
	calls   []string // method and path
	bodies  []string
	auth    []string
}

func newScript(t *testing.T, answers ...said) *script {
	t.Helper()
	s := &script{answers: answers}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *script) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.calls = append(s.calls, r.Method+" "+r.URL.Path)
	s.bodies = append(s.bodies, string(body))
	s.auth = append(s.auth, r.Header.Get("Authorization"))
	a := s.answers[min(len(s.calls), len(s.answers))-1]
	s.mu.Unlock()
	if a.status == 0 {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

func (s *script) seen() (calls, bodies, auth []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.calls...), append([]string{}, s.bodies...), append([]string{}, s.auth...)
}

// at gives a destination on each platform the address of a script.
func at(name, url string) relay.Destination {
	d := relay.Destination{Name: name, Platform: name, BaseURL: url}
	switch name {
	case "certainly":
		d.Secrets = map[string]string{"token": "a-token-of-the-bot"}
	case "haptik":
		d.Settings = map[string]string{"client_id": "client", "business_id": "343"}
		d.Secrets = map[string]string{"token": "a-token-of-the-bot"}
	case "smartify":
		d.Settings = map[string]string{"project_id": "p1"}
	case "userengage":
		d.Settings = map[string]string{"user": "7"}
		d.Secrets = map[string]string{"token": "a-token-of-the-bot"}
	case "webhook":
		d.BaseURL, d.Settings = "", map[string]string{"url": url + "/hook"}
	}
	return d
}

// put configures a destination and returns its id.
func (w *world) put(t *testing.T, d relay.Destination) int64 {
	t.Helper()
	d.ProjectID = w.ID
	if err := w.Store.Configure(t.Context(), func(c *store.Change) error { return c.PutDestination(t.Context(), d) }); err != nil {
		t.Fatal(err)
	}
	return storetest.Query[int64](t, w.url, `SELECT id FROM destinations WHERE name = $1 AND deleted_at IS NULL`, d.Name)
}

// says is a plan that says something at a destination of a platform.
func says(platform string, destination int64) relay.Plan {
	a := relay.Action{Action: relay.SendMessage, Text: "Paid {{ payment.amount_text }}", DestinationID: destination}
	switch platform {
	case "certainly":
		a.Action = relay.TriggerMessage
	case "webhook":
		a = relay.Action{Action: relay.CallWebhook, Body: map[string]any{"paid": "{{ payment.amount }}"}, DestinationID: destination}
	}
	return relay.Plan{On: map[string]relay.Action{"completed": a}}
}

// The calls that the platforms take.
const (
	certainlySay    = "POST /actionsvc/trigger-message/"
	haptikSay       = "POST /v1.0/log_message_from_user/"
	haptikRegister  = "POST /v1.0/user/"
	smartifySignIn  = "POST /auth/signinAnonymously"
	smartifyLook    = "GET /p1/requests/u-1/messages"
	smartifySay     = "POST /p1/requests/u-1/messages"
	userengageSay   = "POST /api/public/message/"
	webhookCall     = "POST /hook"
	signedIn        = `{"success":true,"token":"JWT one","user":{"_id":"g1"}}`
	notRegistered   = `{"error_message":"user is not registered"}`
	invalidDetails  = `{"error_message":"invalid authorization details"}`
	conversation    = `[{"_id":"m1","text":"hello"}]`
	taken           = `{"_id":"m2","text":"Paid 20.50","request":{"request_id":"u-1","status":200}}`
	anyHaptikAnswer = `{"message_id":1,"message_body":"Paid 20.50","created_at":"…","message_type":0}`
)

// What the engine does with a delivery after its first attempt.
const (
	delivered = "delivered" // and nothing more
	again     = "again"     // it is tried again
	dead      = "dead"
	held      = "held" // the destination is, and the delivery with it
)

// TestConformance holds the classes of the contract, row by row of its error
// tables, to what the engine really does: with a platform that answers so, a
// real database, and the calls counted.
func TestConformance(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		platform, name string
		answers        []said // of the first attempt
		calls          []string
		class          relay.Class
		reason         string
		then           string
	}{
		// A. Certainly
		{"certainly", "OK", list(said{200, `{"error":[],"message":"1"}`}), list(certainlySay), relay.OK, "accepted", delivered},
		{"certainly", "token", list(said{400, `{"message":null,"error":[{"location":"Backend","msg":"Invalid Authentication credentials"}]}`}), list(certainlySay), relay.Credentials, "bad_credentials", held},
		{"certainly", "unknown user_id", list(said{400, `{"error":"Bot user with this id does not exist"}`}), list(certainlySay), relay.Permanent, "unknown_user", dead},
		{"certainly", "wrong module", list(said{400, `{"error":"module_id not found for the given bot"}`}), list(certainlySay), relay.Permanent, "unknown_module", dead},
		{"certainly", "our body", list(said{400, `{"error":"user_id is mandatory"}`}), list(certainlySay), relay.Permanent, "bad_request", dead},
		{"certainly", "200 with null message", list(said{200, `{"error":[],"message":null}`}), list(certainlySay), relay.Retry, "not_confirmed", again},
		{"certainly", "429", list(said{429, ``}), list(certainlySay), relay.Retry, "rate_limited", again},
		{"certainly", "5xx", list(said{502, ``}), list(certainlySay), relay.Retry, "platform_failed", again},
		{"certainly", "network", list(said{}), list(certainlySay), relay.NoAnswer, "reset", again},

		// B. Tiledesk / Smartify
		{"smartify", "OK", list(said{200, signedIn}, said{200, conversation}, said{200, taken}), list(smartifySignIn, smartifyLook, smartifySay), relay.OK, "accepted", delivered},
		{"smartify", "bad token, also after a renewal", list(said{200, signedIn}, said{401, `Unauthorized`}, said{200, signedIn}, said{401, `Unauthorized`}), list(smartifySignIn, smartifyLook, smartifySignIn, smartifyLook), relay.Credentials, "look: bad_credentials", held},
		{"smartify", "token revoked, renewed once", list(said{200, signedIn}, said{401, `Unauthorized`}, said{200, `{"token":"JWT two"}`}, said{200, conversation}, said{200, taken}), list(smartifySignIn, smartifyLook, smartifySignIn, smartifyLook, smartifySay), relay.OK, "accepted", delivered},
		{"smartify", "token revoked between look and message", list(said{200, signedIn}, said{200, conversation}, said{401, `Unauthorized`}, said{200, `{"token":"JWT two"}`}, said{200, conversation}, said{200, taken}), list(smartifySignIn, smartifyLook, smartifySay, smartifySignIn, smartifyLook, smartifySay), relay.OK, "accepted", delivered},
		{"smartify", "IP filter", list(said{200, signedIn}, said{401, `{"err":"error project ip filter"}`}), list(smartifySignIn, smartifyLook), relay.Permanent, "look: refused", dead},
		{"smartify", "IP deny filter", list(said{200, signedIn}, said{401, `{"err":"error project deny ip filter"}`}), list(smartifySignIn, smartifyLook), relay.Permanent, "look: refused", dead},
		{"smartify", "ban", list(said{200, signedIn}, said{200, conversation}, said{401, `{"err":"error projectBanUserFilter by id"}`}), list(smartifySignIn, smartifyLook, smartifySay), relay.Permanent, "refused", dead},
		{"smartify", "token of another project", list(said{200, signedIn}, said{403, `{"success":false,"msg":"you dont belong to the project."}`}), list(smartifySignIn, smartifyLook), relay.Credentials, "look: bad_credentials", held},
		{"smartify", "required role", list(said{200, signedIn}, said{403, `{"success":false,"msg":"you dont have the required role."}`}), list(smartifySignIn, smartifyLook), relay.Credentials, "look: bad_credentials", held},
		{"smartify", "unknown sender", list(said{200, signedIn}, said{200, conversation}, said{403, `{"success":false,"msg":"Unauthorized. Project_user not found with user id  : X"}`}), list(smartifySignIn, smartifyLook, smartifySay), relay.Permanent, "unknown_user", dead},
		{"smartify", "plan quota", list(said{200, signedIn}, said{200, conversation}, said{403, `{"success":false,"message":"Requests quota exceeded"}`}), list(smartifySignIn, smartifyLook, smartifySay), relay.Retry, "quota_exceeded", again},
		{"smartify", "channel form", list(said{200, signedIn}, said{200, conversation}, said{403, `{"message":"Error creating message","err":"You don't belong the conversation"}`}), list(smartifySignIn, smartifyLook, smartifySay), relay.Permanent, "refused", dead},
		{"smartify", "bad project", list(said{200, signedIn}, said{400, `{"error":"Project not found with id: X"}`}), list(smartifySignIn, smartifyLook), relay.Permanent, "look: bad_request", dead},
		{"smartify", "invalid project", list(said{200, signedIn}, said{400, `{"error":"Invalid project id: X"}`}), list(smartifySignIn, smartifyLook), relay.Permanent, "look: bad_request", dead},
		{"smartify", "too large", list(said{200, signedIn}, said{200, conversation}, said{413, `{"err":"Request entity too large","limit":512000}`}), list(smartifySignIn, smartifyLook, smartifySay), relay.Permanent, "bad_request", dead},
		{"smartify", "text missing", list(said{200, signedIn}, said{200, conversation}, said{422, `{"errors":["text field is required"]}`}), list(smartifySignIn, smartifyLook, smartifySay), relay.Permanent, "bad_request", dead},
		{"smartify", "id_project missing", list(said{422, `{"errors":[{"msg":"Invalid value","param":"id_project","location":"body"}]}`}), list(smartifySignIn), relay.Permanent, "sign_in: bad_request", dead},
		{"smartify", "general error", list(said{200, signedIn}, said{200, conversation}, said{500, `{"err":"error"}`}), list(smartifySignIn, smartifyLook, smartifySay), relay.Retry, "platform_failed", again},
		{"smartify", "id_project that is none", list(said{500, `{"success":false,"msg":"Error saving object."}`}), list(smartifySignIn), relay.Permanent, "sign_in: bad_request", dead},
		{"smartify", "database failure", list(said{200, signedIn}, said{200, conversation}, said{500, `{"success":false,"msg":"Error creating request","err":{}}`}), list(smartifySignIn, smartifyLook, smartifySay), relay.Retry, "platform_failed", again},
		{"smartify", "trap 1: a conversation that is not there", list(said{200, signedIn}, said{200, `[]`}), list(smartifySignIn, smartifyLook), relay.Permanent, "look: unknown_user", dead},
		{"smartify", "trap 2: a closed conversation", list(said{200, signedIn}, said{200, conversation}, said{200, `{"_id":"m2","request":{"status":1000}}`}), list(smartifySignIn, smartifyLook, smartifySay), relay.Permanent, "conversation_closed", dead},
		{"smartify", "another 2xx to the sign-in", list(said{202, signedIn}), list(smartifySignIn), relay.Retry, "sign_in: not_confirmed", again},
		{"smartify", "another 2xx to the look", list(said{200, signedIn}, said{206, conversation}), list(smartifySignIn, smartifyLook), relay.Retry, "look: not_confirmed", again},
		{"smartify", "no answer to the sign-in", list(said{}), list(smartifySignIn), relay.Retry, "sign_in: reset", again},
		{"smartify", "no answer to the look", list(said{200, signedIn}, said{}), list(smartifySignIn, smartifyLook), relay.Retry, "look: reset", again},
		{"smartify", "no answer to the message", list(said{200, signedIn}, said{200, conversation}, said{}), list(smartifySignIn, smartifyLook, smartifySay), relay.NoAnswer, "reset", again},

		// C. User.com
		{"userengage", "OK", list(said{201, ``}), list(userengageSay), relay.OK, "accepted", delivered},
		{"userengage", "401", list(said{401, ``}), list(userengageSay), relay.Credentials, "bad_credentials", held},
		{"userengage", "403", list(said{403, ``}), list(userengageSay), relay.Credentials, "bad_credentials", held},
		{"userengage", "400", list(said{400, `{"errors":{}}`}), list(userengageSay), relay.Permanent, "refused", dead},
		{"userengage", "404", list(said{404, ``}), list(userengageSay), relay.Permanent, "not_found", dead},
		{"userengage", "422", list(said{422, ``}), list(userengageSay), relay.Permanent, "refused", dead},
		{"userengage", "429", list(said{429, ``}), list(userengageSay), relay.Retry, "rate_limited", again},
		{"userengage", "5xx", list(said{500, ``}), list(userengageSay), relay.Retry, "platform_failed", again},

		// D. Haptik
		{"haptik", "OK", list(said{200, anyHaptikAnswer}), list(haptikSay), relay.OK, "accepted", delivered},
		{"haptik", "401", list(said{401, invalidDetails}), list(haptikSay), relay.Credentials, "bad_credentials", held},
		{"haptik", "not registered", list(said{403, notRegistered}, said{200, `{}`}, said{200, anyHaptikAnswer}), list(haptikSay, haptikRegister, haptikSay), relay.OK, "accepted", delivered},
		{"haptik", "not registered, resent once", list(said{403, notRegistered}, said{200, `{}`}, said{403, notRegistered}), list(haptikSay, haptikRegister, haptikSay), relay.Permanent, "unknown_user", dead},
		{"haptik", "401 to the registration", list(said{403, notRegistered}, said{401, invalidDetails}), list(haptikSay, haptikRegister), relay.Credentials, "register: bad_credentials", held},
		{"haptik", "no answer to the registration", list(said{403, notRegistered}, said{}), list(haptikSay, haptikRegister), relay.Retry, "register: reset", again},
		{"haptik", "no answer to the second message", list(said{403, notRegistered}, said{200, `{}`}, said{}), list(haptikSay, haptikRegister, haptikSay), relay.NoAnswer, "reset", again},
		{"haptik", "400", list(said{400, ``}), list(haptikSay), relay.Permanent, "refused", dead},
		{"haptik", "404", list(said{404, ``}), list(haptikSay), relay.Permanent, "not_found", dead},
		{"haptik", "429", list(said{429, ``}), list(haptikSay), relay.Retry, "rate_limited", again},
		{"haptik", "5xx", list(said{503, ``}), list(haptikSay), relay.Retry, "platform_failed", again},

		// A webhook of anybody's
		{"webhook", "2xx", list(said{204, ``}), list(webhookCall), relay.OK, "accepted", delivered},
		{"webhook", "410", list(said{410, ``}), list(webhookCall), relay.Permanent, "refused", dead},
		{"webhook", "400", list(said{400, ``}), list(webhookCall), relay.Permanent, "refused", dead},
		{"webhook", "301", list(said{301, ``}), list(webhookCall), relay.Permanent, "redirected", dead},
		{"webhook", "401", list(said{401, ``}), list(webhookCall), relay.Credentials, "bad_credentials", held},
		{"webhook", "403", list(said{403, ``}), list(webhookCall), relay.Credentials, "bad_credentials", held},
		{"webhook", "408", list(said{408, ``}), list(webhookCall), relay.Retry, "platform_timeout", again},
		{"webhook", "425", list(said{425, ``}), list(webhookCall), relay.Retry, "platform_timeout", again},
		{"webhook", "429", list(said{429, ``}), list(webhookCall), relay.Retry, "rate_limited", again},
		{"webhook", "500", list(said{500, ``}), list(webhookCall), relay.Retry, "platform_failed", again},
		{"webhook", "network", list(said{}), list(webhookCall), relay.NoAnswer, "reset", again},
	} {
		t.Run(tt.platform+": "+tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ok)
			there := newScript(t, tt.answers...)
			d := w.owe(t, says(tt.platform, w.put(t, at(tt.platform, there.URL))), "u-1")[0]
			e := newEngine(t, w.Store, time.Second)
			e.run(t)
			e.HandOver([]relay.Delivery{d})
			until(t, "the first attempt is recorded", func() bool {
				return storetest.Query[int](t, w.url, `SELECT attempts FROM deliveries WHERE id = $1`, d.ID) > 0
			})
			_, attempts, err := w.Store.Delivery(t.Context(), w.ID, d.ID)
			if err != nil {
				t.Fatal(err)
			}
			if got := attempts[0]; got.Class != tt.class || !strings.HasPrefix(got.Reason, tt.reason) {
				t.Errorf("the first attempt: got %s, %q, want %s, %q", got.Class, got.Reason, tt.class, tt.reason)
			}
			if r := attempts[0].Response; strings.Contains(r, "hello") || strings.Contains(r, "JWT") {
				t.Errorf("the answer %q is kept: it holds what people have said, or what lets us in", r)
			}
			switch tt.then {
			case again: // perhaps it has been by now
				if got := w.row(t, d); !strings.HasPrefix(got, "scheduled") && !strings.Contains(got, " 2 ") {
					t.Errorf("then: got %q, want it tried again", got)
				}
			case held:
				w.becomes(t, d, "held 1 credentials")
			default:
				w.becomes(t, d, tt.then+" 1 "+string(tt.class))
			}
			calls, bodies, auth := there.seen()
			if diff := cmp.Diff(tt.calls, calls[:min(len(calls), len(tt.calls))]); diff != "" {
				t.Errorf("the calls (-want +got):\n%s", diff)
			}
			if tt.then != again && len(calls) != len(tt.calls) {
				t.Errorf("got %d calls, want %d", len(calls), len(tt.calls))
			}
			for i := range calls {
				if calls[i] == smartifySay && (auth[i] == "" || !strings.Contains(bodies[i], d.ID.String())) {
					t.Errorf("the message %s with %q: want it signed in, and the delivery's id in it", bodies[i], auth[i])
				}
			}
		})
	}
}

func list[T any](items ...T) []T { return items }
