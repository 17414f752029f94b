package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/relay"
)

// maxDocuments bounds a relay.yaml, in bytes.
const maxDocuments = 8 << 20

// applyOptions are how a relay.yaml is applied.
type applyOptions struct {
	DryRun bool `help:"Show what would change, and change nothing."`
	Prune  bool `help:"Delete what the file does not name, in the projects that it names."`
}

// applyCommand makes the configuration what a file says.
type applyCommand struct {
	databaseFlags
	applyOptions
	File                string `short:"f" required:"" help:"The relay.yaml, or - for standard input."`
	PublicURL           string `help:"As for serve (RELAY_PUBLIC_URL)."`
	AllowPrivateTargets string `help:"As for serve (RELAY_ALLOW_PRIVATE_TARGETS)."`
}

// Run applies the file and prints what changed.
func (c *applyCommand) Run(ctx context.Context, p *program) (err error) {
	log := newLogger(p.stderr, c.Log)
	policy, err := egress.ParsePolicy(c.AllowPrivateTargets)
	if err != nil {
		return fmt.Errorf("RELAY_ALLOW_PRIVATE_TARGETS: %w", err)
	}
	file, err := readFile(c.File, p.lookup) // a mistake in it is told before a database is waited for
	if err != nil {
		return err
	}
	db, err := openDatabase(ctx, &c.databaseFlags, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.close()) }()
	s, err := db.store(ctx, "check")
	if err != nil {
		return err
	}
	defer s.Close()
	public := c.PublicURL
	if public == "" {
		public = "http://127.0.0.1:8080"
	}
	d, err := directory.New(directory.Config{Store: s, PublicURL: strings.TrimRight(public, "/"), Policy: policy, Log: log})
	if err != nil {
		return err
	}
	edits, err := file.apply(ctx, d, c.applyOptions)
	if err != nil {
		return err
	}
	printEdits(p.stdout, edits, c.DryRun)
	return nil
}

func printEdits(w io.Writer, edits []directory.Edit, dryRun bool) {
	sign := map[string]string{"create": "+", "update": "~", "delete": "-"}
	for _, e := range edits {
		line := fmt.Sprintf("%s %s %s/%s", sign[e.Verb], e.Kind, e.Project, e.Name)
		if len(e.Fields) > 0 {
			line += ": " + strings.Join(e.Fields, ", ")
		}
		fmt.Fprintln(w, line)
	}
	switch {
	case len(edits) == 0:
		fmt.Fprintln(w, "nothing to change")
	case dryRun:
		fmt.Fprintln(w, "dry run: nothing was changed")
	}
}

// relayFile is a relay.yaml that was read.
type relayFile struct {
	path string
	text []byte
	docs []directory.Document
}

// readFile reads a relay.yaml; - is standard input.
func readFile(path string, lookup func(string) (string, bool)) (*relayFile, error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("opening the configuration: %w", err)
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxDocuments+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	docs, err := readDocuments(text, lookup)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &relayFile{path, text, docs}, nil
}

// apply makes the database say what the file says. A mistake is told with its
// line: relay.yaml:12.
func (c *relayFile) apply(ctx context.Context, d *directory.Directory, o applyOptions) ([]directory.Edit, error) {
	edits, err := d.Apply(ctx, c.docs, directory.Options{DryRun: o.DryRun, Prune: o.Prune})
	if relay.IsKind(err, relay.Invalid) {
		return nil, fmt.Errorf("%s:%d: %w", c.path, lineOf(c.text, relay.DetailOf(err)), err)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", c.path, err)
	}
	return edits, nil
}

// readDocuments reads a relay.yaml: one YAML document per project, with
// ${NAME} taken from the environment inside any string.
func readDocuments(raw []byte, lookup func(string) (string, bool)) ([]directory.Document, error) {
	if len(raw) > maxDocuments {
		return nil, fmt.Errorf("the configuration has more than %d bytes", maxDocuments)
	}
	var docs []directory.Document
	seen := map[string]bool{}
	for dec := yaml.NewDecoder(bytes.NewReader(raw)); ; {
		var tree any
		if err := dec.Decode(&tree); errors.Is(err, io.EOF) {
			return docs, nil
		} else if err != nil {
			return nil, fmt.Errorf("the configuration is not YAML: %w%s", err, quoteHint(raw))
		}
		if tree == nil {
			continue
		}
		doc, err := readDocument(tree, lookup)
		if err != nil {
			return nil, err
		}
		if seen[doc.Project] {
			return nil, fmt.Errorf("two documents are for the project %q: there is one document per project", doc.Project)
		}
		seen[doc.Project] = true
		docs = append(docs, doc)
	}
}

// quoteHint is for those who wrote a reference or an expression as it is: to
// YAML their braces are a map.
func quoteHint(raw []byte) string {
	if bytes.Contains(raw, []byte("${")) || bytes.Contains(raw, []byte("{{")) {
		return "\nput ${…} and {{…}} in quotes"
	}
	return ""
}

func readDocument(tree any, lookup func(string) (string, bool)) (doc directory.Document, err error) {
	expanded, err := expand(tree, lookup)
	if err != nil {
		return doc, err
	}
	raw, err := json.Marshal(expanded)
	if err != nil {
		return doc, fmt.Errorf("the configuration holds what JSON cannot say: %w", err)
	}
	err = relay.Decode(raw, &doc)
	if doc.Project == "" {
		doc.Project = relay.DefaultProject
	}
	return doc, err
}

var reference = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// expand puts the environment's values in place of ${NAME}.
func expand(v any, lookup func(string) (string, bool)) (any, error) {
	switch v := v.(type) {
	case string:
		return expandText(v, lookup)
	case []any:
		for i := range v {
			item, err := expand(v[i], lookup)
			if err != nil {
				return nil, err
			}
			v[i] = item
		}
	case map[string]any:
		for k := range v {
			item, err := expand(v[k], lookup)
			if err != nil {
				return nil, err
			}
			v[k] = item
		}
	}
	return v, nil
}

func expandText(s string, lookup func(string) (string, bool)) (string, error) {
	var missing []string
	out := reference.ReplaceAllStringFunc(s, func(ref string) string {
		name := ref[2 : len(ref)-1]
		value, ok := lookup(name)
		if !ok {
			missing = append(missing, name)
		}
		return value
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("%s is not set in the environment", strings.Join(missing, ", "))
	}
	return out, nil
}
