package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// providersCommand tells what the relay knows of providers. It needs neither
// settings nor a database.
type providersCommand struct {
	List providersListCommand `cmd:"" default:"1" help:"List the providers."`
	Show providersShowCommand `cmd:"" help:"Print how to set one up, and what its callbacks mean."`
}

type providersListCommand struct{}

// Run prints the names with their outcomes.
func (providersListCommand) Run(p *program) error {
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	for _, name := range provider.Names() {
		preset, _ := provider.Lookup(name)
		if preset.Internal {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", name, preset.Title, outcomeWords(preset.Outcomes()))
	}
	return w.Flush()
}

func outcomeWords(outcomes []relay.Outcome) string {
	var words []string
	for _, o := range outcomes {
		words = append(words, string(o))
	}
	if len(words) == 0 {
		return "no outcome"
	}
	return strings.Join(words, ", ")
}

type providersShowCommand struct {
	Name   string `arg:"" help:"As 'relay providers' lists it."`
	Preset bool   `help:"Print its preset instead, to copy and change."`
}

// Run prints the page of docs/providers, or the preset that it is made of.
func (c *providersShowCommand) Run(p *program) error {
	preset, ok := provider.Lookup(c.Name)
	if !ok {
		return fmt.Errorf("there is no provider %q: 'relay providers' lists them%s", c.Name, alike(c.Name))
	}
	text := preset.Guide()
	if c.Preset {
		text = preset.Text
	}
	_, err := fmt.Fprint(p.stdout, text)
	return err
}

// alike names the providers that may have been meant.
func alike(name string) string {
	var found []string
	word, _, _ := strings.Cut(strings.ToLower(name), "-")
	for _, known := range provider.Names() {
		if word != "" && strings.Contains(known, word) {
			found = append(found, known)
		}
	}
	if len(found) == 0 {
		return ""
	}
	return "; there is " + strings.Join(found, ", ")
}
