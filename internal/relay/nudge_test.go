package relay_test

import (
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/relay"
)

func TestNudges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, json, refused string }{
		{"one", `{"nudge": {"after": "10m", "text": "Still there?"}}`, ""},
		{"a list", `{"nudge": [{"after": "10m", "unless": "opened", "text": "a"}, {"after": "20m", "unless": "finished", "text": "b"}]}`, ""},
		{"none", `{"nudge": []}`, ""},
		{"a misspelt field", `{"nudge": {"after": "10m", "til": "opened"}}`, "nudge: til: there is no such field"},
		{"in a list", `{"nudge": [{"afters": "10m"}]}`, "nudge: [0].afters: there is no such field"},
		{"another word", `{"nudge": {"after": "10m", "unless": "seen", "text": "a"}}`, "nudge[0].unless"},
		{"at once", `{"nudge": {"text": "a"}}`, "nudge[0].after: say how long after the registration"},
		{"after the end", `{"nudge": [{"after": "1h", "text": "a"}]}`, "nudge[0].after: the wait ends after 1h"},
		{"too many", `{"nudge": [{}, {}, {}, {}, {}, {}]}`, "at most 5"},
	} {
		var f relay.Flow
		err := relay.Decode([]byte(c.json), &f)
		if err == nil {
			err = f.Nudge.Check(time.Hour)
		}
		if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(relay.DetailOf(err), c.refused)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.refused)
		}
	}
}
