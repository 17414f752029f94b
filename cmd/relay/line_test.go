package main

import (
	"fmt"
	"strings"
	"testing"

	"relay.example/relay/internal/store/storetest"
)

// TestLinesOfMistakes breaks a relay.yaml in one line after the other, and
// wants to be told which.
func TestLinesOfMistakes(t *testing.T) {
	t.Parallel()
	const file = `# Two projects, comments, and lists and objects in each style.
destinations:
  - {name: bot, platform: certainly, token: secret-of-the-bot}
sources:
  - {name: stripe, provider: stripe, secret: whsec_sandbox}
  - provider:
      name: shop
      auth:
        alg: hmac-sha256
        sig: {from: "header:X-Sig"}
        message: "{body}"
      id: "{json:id}"
      type: "{json:type}"
      correlation: [json:token]

      outcome:
        - {type: paid, is: completed}
        - {type: gone, is: failed}
    name: shop
    secret: a-secret-that-is-long-enough
flows:
  - name: checkout
    source: shop
    destination: bot
    link: https://pay.example/x
    on:
      completed: {module_id: 1}
      default:
        module_id: 2
        custom_vars: {why: "{{ outcome }}"}
---
project: other
destinations:
  - {name: bot, platform: certainly, token: "secret-of-another"}
`
	env := settingsOf(storetest.URL(t, true))
	mustRun(t, env, "apply", "--dry-run", "-f", writeFile(t, "relay.yaml", file))
	for _, c := range []struct{ right, wrong, says string }{
		{"{type: gone, is: failed}", "{type: gone, is: fails}", "sources.shop: provider: outcome[1]"},
		{"{type: gone, is: failed}", "{type: gone, iss: failed}", "sources.shop: provider: outcome[1].iss"},
		{`id: "{json:id}"`, `id: "json:id"`, "sources.shop: provider: id"},
		{"alg: hmac-sha256", "alg: hmac-sha257", "sources.shop: provider: auth.alg"},
		{"secret: whsec_sandbox", "secret: sk_test_x", "sources.stripe"},
		{"token: secret-of-the-bot", "tokken: secret-of-the-bot", "destinations.bot"},
		{"completed: {module_id: 1}", "complete: {module_id: 1}", "flows.checkout"},
		{"link: https://pay.example/x", "link: nowhere", "flows.checkout: link"},
		{`custom_vars: {why: "{{ outcome }}"}`, `custom_vars: {why: "{{ outcome"}`, "flows.checkout: on.default: custom_vars"},
		{`token: "secret-of-another"`, "tokken: secret-of-another", "project other: destinations.bot"},
	} {
		before, _, found := strings.Cut(file, c.right)
		if !found {
			t.Fatalf("the file does not say %q", c.right)
		}
		path := writeFile(t, "relay.yaml", strings.Replace(file, c.right, c.wrong, 1))
		_, err := command(t, env, "apply", "-f", path)
		wantRefusal(t, err, fmt.Sprintf("%s:%d: ", path, 1+strings.Count(before, "\n")), c.says)
	}
}
