package relay_test

import (
	"strings"
	"testing"

	"relay.example/relay/internal/relay"
)

func TestDidYouMean(t *testing.T) {
	t.Parallel()
	known := []string{"module_id", "user_id", "on", "flow", "key", "expires_in", "custom_vars", "checkout"}
	for name, want := range map[string]string{
		"modul_id":                 "module_id",
		"moduleid":                 "module_id",
		"Module_ID":                "module_id",
		"custmo_vars":              "custom_vars", // swapped
		"expire_in":                "expires_in",
		"chekcout":                 "checkout",
		"flwo":                     "flow",
		"kye":                      "key",
		"keys":                     "key",
		"ON":                       "on",
		"no":                       "on",
		"mode":                     "",
		"text":                     "",
		"in":                       "on",
		"conversation":             "",
		"":                         "",
		strings.Repeat("a", 1<<16): "",
	} {
		if want != "" {
			want = `: did you mean "` + want + `"?`
		}
		if got := relay.DidYouMean(name, known); got != want {
			t.Errorf("%.40s: got %q, want %q", name, got, want)
		}
	}
	if got := relay.DidYouMean("user_id", nil); got != "" {
		t.Errorf("where nothing is known: got %q, want nothing", got)
	}
}

func TestUnknownFieldsAreSpelt(t *testing.T) {
	t.Parallel()
	type flow struct {
		ModuleID int `json:"module_id"`
		Hidden   int `json:"-"`
	}
	var into struct {
		flow
		On map[string]struct {
			WaitTime int `json:"wait_time"`
		} `json:"on"`
	}
	for body, want := range map[string]string{
		`{"modul_id": 1}`:                        `modul_id: there is no such field here: remove it, or correct its name: did you mean "module_id"?`,
		`{"on": {"completed": {"waittime": 1}}}`: `on.completed.waittime: there is no such field here: remove it, or correct its name: did you mean "wait_time"?`,
		`{"hidden": 1}`:                          `hidden: there is no such field here: remove it, or correct its name`,
	} {
		if got := relay.DetailOf(relay.Decode([]byte(body), &into)); got != want {
			t.Errorf("%s: got %q, want %q", body, got, want)
		}
	}
}
