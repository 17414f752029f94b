package leaks_test

import (
	"fmt"
	"strings"
	"testing"

	"relay.example/relay/internal/leaks"
)

const token = "k3JxQ9aZ0pLmNbV7cRtY2w"

func TestIn(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"route":"/in/:project/:source/:token","status":200}`: "",
		`{"path":"/in/default/stripe"}`:                        "/in/d",
		`{"error":"no wait for ` + token + `: try again"}`:     token,
		`{"url":"https://relay.example/go/` + token + `"}`:     token,
		`{"id":"0193b3c4-1111-7abc-8def-0123456789ab"}`:        "",
		`{"hash":"` + strings.Repeat("ab01", 16) + `"}`:        "",
		`{"secret":"whsec_abc"}`:                               "whsec_a",
		`{"key":"sk_test_1"}`:                                  "sk_test_1",
		`{"header":"Bearer abcdefghij"}`:                       "Bearer abcdefgh",
		`{"header":"Basic dXNlcjpwYXNzd29yZA=="}`:              "Basic dXNlcjpwYXNz",
		`{"note":"mine is hunter2"}`:                           "hunter2",
	} {
		if got := leaks.In(text, "", "hunter2"); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// recorder stands for a test that is watched.
type recorder struct {
	testing.TB
	said    []string
	cleanup []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}
func (r *recorder) Cleanup(f func()) { r.cleanup = append(r.cleanup, f) }

func TestLogger(t *testing.T) {
	t.Parallel()
	r := &recorder{TB: t}
	log := leaks.Logger(r, "hunter2")
	log.Info("fine", "route", "/in/:project")
	if len(r.said) != 0 {
		t.Errorf("got %q, want nothing said", r.said)
	}
	log.Debug("told", "error", fmt.Errorf("asking with hunter2"))
	log.Info("told again", "error", "hunter2")
	if len(r.said) != 1 || !strings.Contains(r.said[0], "hunter2") {
		t.Errorf("got %q, want one failure that names the secret", r.said)
	}

	late := &recorder{TB: t}
	log = leaks.Logger(late, "hunter2")
	for _, f := range late.cleanup {
		f()
	}
	log.Info("after the end", "error", "hunter2")
	if len(late.said) != 0 {
		t.Errorf("after its end: got %q, want nothing said", late.said)
	}
}
