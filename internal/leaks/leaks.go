// Package leaks finds what no log, error or metric may hold: credentials,
// tokens of waits, and the paths of callbacks. It is how all tests look for
// them; a program that runs has no use for it.
//
// Tokens and the common credentials are known by their shape, so that a test
// need not say which it has made. What has no shape is given as a secret.
package leaks

import (
	"bytes"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// shapes are what is never written down, whoever made it: signing secrets and
// API keys as providers spell them, a credential in a header, and the path of
// a callback, of which only the pattern (/in/:project) may be told.
var shapes = regexp.MustCompile(`whsec_\w|[sr]k_(test|live)_\w|Bearer [A-Za-z0-9+/=_-]{8}|Basic [A-Za-z0-9+/]{12}|/in/[A-Za-z0-9]`)

// words are what may be a token.
var words = regexp.MustCompile(`[A-Za-z0-9]+`)

// tokenLength is that of a wait's token, in characters.
const tokenLength = 22

// In returns what a text holds that it may not, or "".
func In(text string, secrets ...string) string {
	for _, s := range secrets {
		if s != "" && strings.Contains(text, s) {
			return s
		}
	}
	if found := shapes.FindString(text); found != "" {
		return found
	}
	for _, word := range words.FindAllString(text, -1) {
		if token(word) {
			return word
		}
	}
	return ""
}

// token reports whether a word looks like a wait's token. Two in a hundred
// tokens lack a digit and are not recognised: a leak shows with the next one.
func token(word string) bool {
	return len(word) == tokenLength && strings.ContainsAny(word, "0123456789") &&
		strings.ToLower(word) != word && strings.ToUpper(word) != word
}

// Logger returns a logger that keeps nothing, and fails the test with the
// first line that holds what it may not.
func Logger(t testing.TB, secrets ...string) *slog.Logger {
	return slog.New(slog.NewJSONHandler(Watch(t, io.Discard, secrets...), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Log keeps what is logged, for a test to read. It is safe for concurrent use.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write adds a line.
func (l *Log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

// String is all that was logged.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Lines returns the lines that hold a text.
func (l *Log) Lines(text string) (list []string) {
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, text) {
			list = append(list, line)
		}
	}
	return list
}

// Watch returns a writer that passes lines on and fails the test with the
// first one that holds what it may not.
func Watch(t testing.TB, to io.Writer, secrets ...string) io.Writer {
	w := &watched{t: t, to: to, secrets: secrets}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.over = true // a test that has ended cannot fail any more
	})
	return w
}

type watched struct {
	t       testing.TB
	to      io.Writer
	secrets []string

	mu   sync.Mutex
	over bool
}

func (w *watched) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if found := In(string(line), w.secrets...); found != "" && !w.over {
		w.over = true // the others will be like it
		w.t.Errorf("the log holds %q: %s", found, bytes.TrimSpace(line))
	}
	return w.to.Write(line)
}
