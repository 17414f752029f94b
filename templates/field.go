package templates

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"html/template"
	"strconv"
	"sync"
)

// asides are the words that a page adds to a field.
type asides struct{ Optional, OnlyIf, Choose string }

// shownField is all that the HTML of a field is made of.
type shownField struct {
	Field
	asides
}

// The bounds of the HTML that is kept: of all fields some 16 MiB.
const (
	maxKeptFields = 16_384
	maxKeptField  = 8 << 10 // bytes of one
	maxKept       = 16 << 20
)

// fields renders fields. A template is slow by the standards of the rest of a
// page, and most fields are the same for everybody who opens a form: their
// HTML is kept. What was typed, or made for one person, is not.
type fields struct {
	field *template.Template

	mu   sync.RWMutex
	kept map[[sha256.Size]byte]template.HTML // by the digest of all that they are made of
	size int                                 // bytes of them all
}

func newFields(field *template.Template) *fields {
	return &fields{field: field, kept: map[[sha256.Size]byte]template.HTML{}}
}

// render gives the HTML of a field.
func (s *fields) render(f shownField) (template.HTML, error) {
	if f.isPersonal() {
		return s.execute(f)
	}
	key := f.digest()
	s.mu.RLock()
	html, ok := s.kept[key]
	s.mu.RUnlock()
	if ok {
		return html, nil
	}
	html, err := s.execute(f)
	if err == nil && len(html) <= maxKeptField {
		s.keep(key, html)
	}
	return html, err
}

func (s *fields) execute(f shownField) (template.HTML, error) {
	var out bytes.Buffer
	if err := s.field.ExecuteTemplate(&out, "field", f); err != nil {
		return "", fmt.Errorf("writing the field %s: %w", f.Name, err)
	}
	return template.HTML(out.String()), nil //nolint:gosec // a template wrote it
}

func (s *fields) keep(key [sha256.Size]byte, html template.HTML) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.kept[key]; ok {
		return
	}
	for other, old := range s.kept { // any one: it is written again when it is shown
		if len(s.kept) < maxKeptFields && s.size+len(html) <= maxKept {
			break
		}
		delete(s.kept, other)
		s.size -= len(old)
	}
	s.kept[key] = html
	s.size += len(html)
}

// isPersonal reports whether the field shows anything that is not the same for
// everybody.
func (f Field) isPersonal() bool {
	if f.Personal || f.Value != "" || f.Wrong != "" {
		return true
	}
	for _, o := range f.Options {
		if o.Chosen {
			return true
		}
	}
	return false
}

// digest is that of everything in f that a field which is not personal can
// differ by.
func (f shownField) digest() [sha256.Size]byte {
	var room [1024]byte
	b := room[:0]
	for _, text := range []string{f.Name, f.Type, f.Label, f.LabelIn, f.Help, f.HelpIn, f.Condition, f.Optional, f.OnlyIf, f.Choose} {
		b = appendText(b, text)
	}
	b = strconv.AppendBool(strconv.AppendBool(b, f.Required), f.Off)
	for _, o := range f.Options {
		b = appendText(appendText(appendText(b, o.Value), o.Label), o.In)
	}
	return sha256.Sum256(b)
}

// appendText appends a text so that no two lists of texts give the same bytes.
func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}
