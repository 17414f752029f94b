package provider

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Schema is the form of a preset as a JSON Schema, for editors and for the
// page that documents it. Parse is stricter still: it compiles the preset.
//
//go:embed preset.schema.json
var Schema string

// schemaNode is the part of the schema that the page shows.
type schemaNode struct {
	Description string        `json:"description"`
	Properties  schemaMembers `json:"properties"`
	Items       *schemaNode   `json:"items"`
	OneOf       []schemaNode  `json:"oneOf"`
}

// schemaMembers are properties in the order in which they are written.
type schemaMembers []schemaMember

type schemaMember struct {
	name string
	schemaNode
}

// UnmarshalJSON keeps the order.
func (m *schemaMembers) UnmarshalJSON(raw []byte) error {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		member := schemaMember{name: fmt.Sprint(name)}
		if err := d.Decode(&member.schemaNode); err != nil {
			return err
		}
		*m = append(*m, member)
	}
	return nil
}

// SchemaRows are the rows of the table of fields, in markdown.
func SchemaRows() (string, error) {
	var root schemaNode
	if err := json.Unmarshal([]byte(Schema), &root); err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("| field | what it says |\n|---|---|\n")
	root.rows(&b, "")
	return b.String(), nil
}

func (n *schemaNode) rows(b *strings.Builder, prefix string) {
	for _, m := range n.Properties {
		path := prefix + m.name
		fmt.Fprintf(b, "| `%s` | %s |\n", path, strings.ReplaceAll(m.Description, "|", `\|`))
		m.rows(b, path+".")
		for _, one := range slices.Concat(m.OneOf, itemOf(m.Items)) {
			one.rows(b, path+".")
		}
	}
}

func itemOf(items *schemaNode) []schemaNode {
	if items == nil {
		return nil
	}
	return []schemaNode{*items}
}
