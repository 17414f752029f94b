package handlers_test

import (
	"bufio"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
)

// guide is what a page of docs/platforms says of how its bot calls in.
type guide struct {
	*testing.T
	text string // from its heading on
	call *http.Request
	json []string // its examples, the body of the call first
}

func readGuide(t *testing.T, platform string) *guide {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "platforms", platform+".md"))
	must(t, err)
	_, text, _ := strings.Cut(string(page), "\n## The bot calls the relay\n")
	g := &guide{T: t, text: text}
	for _, m := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(text, -1) {
		g.json = append(g.json, m[1])
	}
	m := regexp.MustCompile("(?s)```http\n(.*?)```").FindStringSubmatch(text)
	if m == nil || len(g.json) == 0 {
		t.Fatalf("docs/platforms/%s.md: it shows no call with a body", platform)
	}
	line, headers, _ := strings.Cut(m[1], "\n")
	g.call, err = http.ReadRequest(bufio.NewReader(strings.NewReader(line + " HTTP/1.1\n" + headers + "\n")))
	must(t, err)
	return g
}

// fills returns an example with its variables filled in, as the platform does
// it: there is none that it does not know.
func (g *guide) fills(example string, variables map[string]string) string {
	g.Helper()
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		example = strings.ReplaceAll(example, "{{"+name+"}}", variables[name])
	}
	if strings.Contains(example, "{{") {
		g.Errorf("got the variables %s, want none but %v", example, variables)
	}
	return example
}

// sends makes the call that the guide shows.
func (g *guide) sends(n *node, body string, settings ...setting) *answer {
	g.Helper()
	if host := g.call.URL.Host; host != "relay.example" {
		g.Errorf("got the host %q, want relay.example", host)
	}
	if g.call.Header.Get("Content-Type") != "application/json" {
		g.Errorf("got the headers %v, want the type of the body among them", g.call.Header)
	}
	all := []setting{func(r *http.Request) { r.Header = g.call.Header.Clone() }}
	return n.send(g.call.Method, g.call.URL.Path, strings.NewReader(body), append(all, settings...)...)
}

// maps returns what becomes of an answer by the rows of the guide's table
// under that head.
func (g *guide) maps(head string, a *answer) map[string]any {
	g.Helper()
	_, table, _ := strings.Cut(g.text, head+"\n")
	table, _, _ = strings.Cut(table, "\n\n")
	out, got := map[string]any{}, a.object()
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| `(\\w+)` \\|$").FindAllStringSubmatch(table, -1) {
		value, there := got[row[2]]
		if !there {
			g.Errorf("the answer has no field %s: %s", row[2], a.Body)
		}
		out[row[1]] = value
	}
	return out
}

// What the guides say is filled in registers a wait, and its link is where
// they say.
func TestGuidesRegister(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		platform, destination string
		variables             map[string]string
		link                  func(*guide, *answer) any
		user, conversation    string
	}{
		{
			platform: "certainly", destination: `{"platform": "certainly", "token": "t-of-the-guide"}`,
			variables: map[string]string{"certainly.from": "visitor-77"}, user: "visitor-77", conversation: "visitor-77",
			link: func(g *guide, a *answer) any {
				return g.maps("| custom variable | field of the answer |\n|---|---|", a)["pay_link"]
			},
		},
		{
			platform: "smartify", destination: `{"platform": "smartify", "project_id": "65c5f3599faf2d04cd7da528"}`,
			variables: map[string]string{"user_id": "lead-5", "conversation_id": "support-group-9"}, user: "lead-5", conversation: "support-group-9",
			link: func(g *guide, a *answer) any {
				m := regexp.MustCompile(`\{\{relay\.(\w+)\}\}`).FindStringSubmatch(g.text)
				if m == nil || !strings.Contains(g.text, "an attribute, say `relay`") {
					g.Fatal("the guide shows no link")
				}
				return a.object()[m[1]]
			},
		},
	} {
		t.Run(c.platform, func(t *testing.T) {
			t.Parallel()
			n, g := newNode(t), readGuide(t, c.platform)
			n.put("/v1/destinations/ours", c.destination).want(http.StatusOK)
			n.put("/v1/flows/checkout", `{"destination": "ours", "source": "hook", "link": "https://pay.test/", "on": {"default": {"text": "Done."}}}`).want(http.StatusOK)
			if got := g.call.Header.Get("Authorization"); got != "Bearer rk_…" {
				t.Errorf("got Authorization: %s, want a Bearer key", got)
			}
			a := g.sends(n, g.fills(g.json[0], c.variables), bearer(n.keys[relay.ScopeCreate])).want(http.StatusCreated)
			w := n.get("/v1/correlations").data()[0]
			if link := c.link(g, a); link == nil || link != w["url"] {
				t.Errorf("got the link %v, want %v", link, w["url"])
			}
			if w["user_id"] != c.user || w["conversation"] != c.conversation || w["flow"] != "checkout" {
				t.Errorf("got %v, want the wait of %s in %s", w, c.user, c.conversation)
			}
			n.put("/v1/flows/checkout", `{"destination": "ours", "source": "hook", "on": {"default": {"text": "Done."}}}`).want(http.StatusOK)
			if link := c.link(g, g.sends(n, g.fills(g.json[0], c.variables), bearer(n.keys[relay.ScopeCreate]))); link != nil {
				t.Errorf("a flow without a link: got %v, want null", link)
			}
		})
	}
}

// The call of Haptik's guide gets the answers of Haptik's guide.
func TestGuideOfHaptik(t *testing.T) {
	t.Parallel()
	n, g := newNode(t), readGuide(t, "haptik")
	n.configureHaptik()
	if len(g.json) != 3 {
		t.Fatalf("got %d examples, want the call and two answers", len(g.json))
	}
	call, done, refused := g.json[0], g.json[1], g.json[2]
	if got := g.call.Header.Get("X-Hub-Signature"); got != "sha1=…" {
		t.Errorf("got the signature %q, want the form that it has", got)
	}
	if endpoint := "| Endpoint | `" + (&url.URL{Scheme: "https", Host: g.call.Host, Path: g.call.URL.Path}).String() + "`"; !strings.Contains(g.text, endpoint) {
		t.Errorf("the guide does not say %s, which it calls", endpoint)
	}
	for _, name := range keptFields {
		if !strings.Contains(g.text, "`"+name+"`") || !strings.Contains(call, `"`+name+`"`) {
			t.Errorf("the guide does not tell of %s", name)
		}
	}
	fields := func(example string) (out map[string]any) {
		must(t, json.Unmarshal([]byte(example), &out))
		return out
	}
	n.remove("/v1/flows/checkout").want(http.StatusNoContent)
	if diff := cmp.Diff(fields(refused), g.sends(n, call, nodeSign(nodeSecret, call)).want(http.StatusOK).object()); diff != "" {
		t.Errorf("a flow that is not there (-guide +got):\n%s", diff)
	}
	n.put("/v1/flows/checkout", `{"destination": "haptik", "source": "hook", "link": "https://pay.test/", "on": {"default": {"text": "Done."}}}`).want(http.StatusOK)
	a := g.sends(n, call, nodeSign(nodeSecret, call))
	link := a.link()
	want := fields(done)
	want["response"] = []any{link}
	if diff := cmp.Diff(want, a.object()); diff != "" {
		t.Errorf("(-guide +got):\n%s", diff)
	}
	if w := n.get("/v1/correlations").data()[0]; w["user_id"] != "u-829" || w["locale"] != "en" || w["url"] != link {
		t.Errorf("got %v, want the wait of u-829 in English", w)
	}
}

var keptFields = []string{"node", "conversation_no", "conversation_details", "entities"}
