// Package templates holds the pages that an end user meets. They work without
// JavaScript and load nothing from anywhere.
package templates

import (
	"embed"
	"fmt"
	"html/template"
)

//go:embed *.html
var files embed.FS

// StatusPage tells what became of a wait; it renders a Status.
const StatusPage = "status.html"

// Status is what StatusPage shows.
type Status struct {
	State     string // a correlation's status, or "unknown"
	ReturnURL string // the way back to the chat, or ""
}

// Parse reads all pages.
func Parse() (*template.Template, error) {
	t, err := template.ParseFS(files, "*.html")
	if err != nil {
		return nil, fmt.Errorf("parsing the pages: %w", err)
	}
	return t, nil
}
