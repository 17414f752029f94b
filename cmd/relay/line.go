package main

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
)

// lineOf returns the line of a relay.yaml on which a mistake is: that of the
// innermost field of its place that stands there. The detail of a refusal
// begins with its place, part by part, as in
// "sources.shop: provider: outcome[0].iss: unknown field".
func lineOf(text []byte, detail string) int {
	file, err := parser.ParseBytes(text, 0)
	if err != nil || len(file.Docs) == 0 {
		return 1
	}
	parts := strings.Split(detail, ": ")
	in := file.Docs[0].Body
	if project, ok := strings.CutPrefix(parts[0], directory.ProjectPlace); ok {
		in, parts = documentOf(file, project), parts[1:]
	}
	at := 1
	for _, part := range parts {
		for _, step := range pathStep.FindAllString(part, -1) {
			name, next := child(in, step)
			if next == nil {
				return at
			}
			at, in = name.GetToken().Position.Line, next
		}
	}
	return at
}

// documentOf returns the document of a project.
func documentOf(file *ast.File, project string) ast.Node {
	for _, doc := range file.Docs {
		name := relay.DefaultProject
		if _, given := child(doc.Body, "project"); given != nil {
			name = scalar(given)
		}
		if doc.Body != nil && name == project {
			return doc.Body
		}
	}
	return nil
}

var pathStep = regexp.MustCompile(`[^.\[\]]+`)

// child returns a field of an object, or an item of a list by its number or
// its name: the node to point at, and its value.
func child(in ast.Node, step string) (name, value ast.Node) {
	switch in := in.(type) {
	case *ast.MappingNode:
		for _, field := range in.Values {
			if scalar(field.Key) == step {
				return field.Key, field.Value
			}
		}
	case *ast.MappingValueNode:
		if scalar(in.Key) == step {
			return in.Key, in.Value
		}
	case *ast.SequenceNode:
		if n, err := strconv.Atoi(step); err == nil && n < len(in.Values) {
			return first(in.Values[n]), in.Values[n]
		}
		for _, item := range in.Values {
			if key, named := child(item, "name"); named != nil && scalar(named) == step {
				return key, item
			}
		}
	}
	return nil, nil
}

// first returns the first thing that is written of a value: the token of an
// object is the colon after its first field.
func first(value ast.Node) ast.Node {
	switch value := value.(type) {
	case *ast.MappingNode:
		if len(value.Values) > 0 {
			return value.Values[0].Key
		}
	case *ast.MappingValueNode:
		return value.Key
	}
	return value
}

// scalar is the text of a value that is one, else empty.
func scalar(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value
	case ast.ScalarNode:
		return n.GetToken().Value
	}
	return ""
}
