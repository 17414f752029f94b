// Package trigger makes the callbacks that providers would send: realistic
// ones for every preset, each signed as its provider signs it. It is for
// trying a flow out, and for tests; it sends nothing by itself.
//
// The bodies stand in callbacks, a file for each preset, short and of our own
// writing. Words in braces are filled in, see Facts; what a value needs in
// JSON, in XML or in a form is done to it. A test holds every callback to its
// preset: it is verified, and read with the outcome that the file says.
package trigger

import (
	"cmp"
	"embed"
	"fmt"
	"net/http"
	"path"
	"slices"
	"sync"

	"github.com/goccy/go-yaml"

	"relay.example/relay/internal/relay"
)

// Callback is one callback of a provider, still to be filled in. It holds one
// of Body, Form, XML and Query.
type Callback struct {
	// Type is what the provider calls it. Several callbacks may have one
	// type, with different outcomes.
	Type    string        `yaml:"type"`
	Outcome relay.Outcome `yaml:"outcome"` // "" ends no wait

	// Fetched is the outcome that follows once the provider was asked what a
	// callback is about that says no more.
	Fetched relay.Outcome `yaml:"fetched"`

	// ByReference says that the provider sends no token with it: it finds its
	// wait by the payment that an earlier callback named.
	ByReference bool `yaml:"by_reference"`

	Header map[string]string `yaml:"header"`
	Query  map[string]string `yaml:"query"` // of a callback by GET
	Form   map[string]string `yaml:"form"`  // urlencoded; a value that opens like JSON is JSON
	XML    string            `yaml:"xml"`   // in base64, as the field of a form that Braintree sends
	Body   string            `yaml:"body"`  // JSON
}

//go:embed callbacks/*.yaml
var files embed.FS

// shared names the file of presets that read the same callbacks.
var shared = map[string]string{
	"generic-hmac": "generic", "generic-apikey": "generic", "generic-basic": "generic",
	"standard-webhooks": "generic", "standard-webhooks-v1a": "generic", "svix": "generic",
	"hubspot-v1": "hubspot", "hubspot-v3": "hubspot",
}

// read reads all files at first use. One that cannot be read is a mistake in
// the program, which every test would meet.
var read = sync.OnceValue(func() map[string][]Callback {
	entries, err := files.ReadDir("callbacks")
	if err != nil {
		panic(fmt.Sprintf("trigger: read the embedded callbacks: %v", err))
	}
	all := make(map[string][]Callback, len(entries))
	for _, entry := range entries {
		text, err := files.ReadFile(path.Join("callbacks", entry.Name()))
		var some []Callback
		if err == nil {
			err = yaml.UnmarshalWithOptions(text, &some, yaml.DisallowUnknownField())
		}
		if err != nil {
			panic(fmt.Sprintf("trigger: embedded callbacks %s: %v", entry.Name(), err))
		}
		all[entry.Name()] = some
	}
	return all
})

// Callbacks lists those of a preset, or nil. They are shared: read only.
func Callbacks(preset string) []Callback {
	return read()[cmp.Or(shared[preset], preset)+".yaml"]
}

// Find returns the first callback of a preset that has this type, or else this
// outcome.
func Find(preset, name string) (*Callback, bool) {
	all := Callbacks(preset)
	i := slices.IndexFunc(all, func(c Callback) bool { return c.Type == name })
	if i < 0 {
		i = slices.IndexFunc(all, func(c Callback) bool { return name != "" && (string(c.Outcome) == name || string(c.Fetched) == name) })
	}
	if i < 0 {
		return nil, false
	}
	return &all[i], true
}

// Neighbour returns the callback that its provider sends before this one of
// the same payment, or after it where this one comes first. before says which
// of the two it is.
func Neighbour(preset string, c *Callback) (other *Callback, before, ok bool) {
	var earlier []relay.Outcome
	switch c.Outcome {
	case "":
		return nil, false, false
	case relay.Processing, relay.AttemptFailed:
		other, ok = Find(preset, string(relay.Completed))
		return other, false, ok
	case relay.Refunded, relay.Disputed:
		earlier = []relay.Outcome{relay.Completed}
	default:
		earlier = []relay.Outcome{relay.Processing, relay.AttemptFailed}
	}
	for _, outcome := range earlier {
		if other, ok = Find(preset, string(outcome)); ok {
			return other, true, true
		}
	}
	return nil, false, false
}

// Method is how the callback is sent.
func (c *Callback) Method() string {
	if c.Query != nil {
		return http.MethodGet
	}
	return http.MethodPost
}
