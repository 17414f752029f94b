package relay

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Look is how the pages of a project or a flow look, as people write it. A
// flow's stands above its project's, field by field. It is read when a page is
// shown, and not kept with a wait: a new logo is there at once.
type Look struct {
	Name      string           `json:"name,omitempty"`       // of the business, at the head of each page
	Color     string           `json:"color,omitempty"`      // of buttons and links
	DarkColor string           `json:"dark_color,omitempty"` // the same on a dark screen
	Logo      string           `json:"logo,omitempty"`       // a data: URL of an image
	Texts     map[string]Words `json:"texts,omitempty"`      // in place of the pages' own
	Embed     []string         `json:"embed,omitzero"`       // origins that may show the pages in a frame
}

// The bounds of a look.
const (
	MaxLogo      = 32 << 10 // bytes of the image
	MaxLookName  = 80       // bytes
	MaxLookText  = 2000     // bytes of one text
	MaxEmbed     = 20       // origins
	MinContrast  = 4.5      // of links and buttons, by WCAG 2.2 AA
	LightPage    = "#ffffff"
	DarkPage     = "#14171a"
	lightenSteps = 100
)

// Over returns l with what base has and l leaves open.
func (l Look) Over(base Look) Look {
	if l.Name == "" {
		l.Name = base.Name
	}
	if l.Color == "" && l.DarkColor == "" {
		l.Color, l.DarkColor = base.Color, base.DarkColor
	}
	if l.Logo == "" {
		l.Logo = base.Logo
	}
	if l.Embed == nil {
		l.Embed = base.Embed
	}
	l.Texts = merge(base.Texts, l.Texts)
	return l
}

// Check refuses what cannot be shown, or not be read by everybody. texts are
// the names of the pages' texts.
func (l Look) Check(texts []string) error {
	if len(l.Name) > MaxLookName {
		return Errorf(Invalid, "invalid_look", "name: more than %d bytes", MaxLookName)
	}
	for _, c := range []struct{ field, value, page, word string }{
		{"color", l.Color, LightPage, "darker"}, {"dark_color", l.DarkColor, DarkPage, "lighter"},
	} {
		if err := checkColor(c.field, c.value, c.page, c.word); err != nil {
			return err
		}
	}
	if l.Logo != "" {
		if _, _, err := l.Image(); err != nil {
			return err
		}
	}
	if err := checkTexts(l.Texts, texts); err != nil {
		return err
	}
	if len(l.Embed) > MaxEmbed {
		return Errorf(Invalid, "invalid_look", "embed: more than %d origins", MaxEmbed)
	}
	for _, origin := range l.Embed {
		if !isOrigin(origin) {
			return Errorf(Invalid, "invalid_look", "embed: %.100q is no origin: write https:// and a host, such as https://shop.example", origin)
		}
	}
	return nil
}

func checkTexts(given map[string]Words, known []string) error {
	names := map[string]bool{}
	for _, name := range known {
		names[name] = true
	}
	for name, words := range given {
		if !names[name] {
			return Errorf(Invalid, "unknown_text", "texts.%.40s: there is no such text: use one of %s%s", name, strings.Join(known, ", "), DidYouMean(name, known))
		}
		for _, text := range words {
			if len(text) > MaxLookText {
				return Errorf(Invalid, "invalid_look", "texts.%s: more than %d bytes", name, MaxLookText)
			}
		}
	}
	return nil
}

var hostPattern = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9.-]+(:[0-9]{1,5})?$`)

// isOrigin reports whether a text may stand in the list of who may frame a
// page: nothing in it could end the list.
func isOrigin(text string) bool {
	host, ok := strings.CutPrefix(text, "https://")
	if !ok {
		u, err := url.Parse(text) // a developer's own machine
		if err != nil || u.Scheme != "http" || u.Hostname() != "localhost" && u.Hostname() != "127.0.0.1" {
			return false
		}
		host = strings.TrimPrefix(text, "http://")
	}
	return hostPattern.MatchString(host)
}

func checkColor(field, value, page, word string) error {
	if value == "" {
		return nil
	}
	if _, err := parseColor(value); err != nil {
		return Errorf(Invalid, "invalid_look", "%s: %.40q is no colour: write it like #1f4fb8", field, value)
	}
	if ratio := Contrast(value, page); ratio < MinContrast {
		return Errorf(Invalid, "low_contrast", "%s: %s on %s has a contrast of %.1f:1, and %.1f:1 is needed to be read: choose a %s one",
			field, value, page, math.Floor(ratio*10)/10, MinContrast, word)
	}
	return nil
}

type color [3]float64 // red, green, blue, from 0 to 255

func parseColor(text string) (c color, err error) {
	if len(text) != 7 || text[0] != '#' {
		return c, fmt.Errorf("%q is no colour", text)
	}
	for i := range c {
		n, err := strconv.ParseUint(text[1+2*i:3+2*i], 16, 8)
		if err != nil {
			return c, fmt.Errorf("%q is no colour: %w", text, err)
		}
		c[i] = float64(n)
	}
	return c, nil
}

func (c color) String() string {
	return fmt.Sprintf("#%02x%02x%02x", int(c[0]), int(c[1]), int(c[2]))
}

// luminance is WCAG's relative luminance.
func (c color) luminance() float64 {
	var linear [3]float64
	for i, v := range c {
		if v /= 255; v <= 0.04045 {
			linear[i] = v / 12.92
		} else {
			linear[i] = math.Pow((v+0.055)/1.055, 2.4)
		}
	}
	return 0.2126*linear[0] + 0.7152*linear[1] + 0.0722*linear[2]
}

// Contrast is WCAG's ratio of two colours, from 1 to 21; 0 where one is none.
func Contrast(a, b string) float64 {
	x, err := parseColor(a)
	y, other := parseColor(b)
	if err != nil || other != nil {
		return 0
	}
	bright, dim := x.luminance(), y.luminance()
	if bright < dim {
		bright, dim = dim, bright
	}
	return (bright + 0.05) / (dim + 0.05)
}

// OnDark is the colour that stands for Color on a dark screen: the given one,
// or Color as much lighter as it has to be to be read there.
func (l Look) OnDark() string {
	if l.DarkColor != "" || l.Color == "" {
		return l.DarkColor
	}
	from, err := parseColor(l.Color)
	if err != nil {
		return ""
	}
	for step := range lightenSteps {
		var c color
		for i := range c {
			c[i] = from[i] + (255-from[i])*float64(step)/lightenSteps
		}
		if Contrast(c.String(), DarkPage) >= MinContrast {
			return c.String()
		}
	}
	return LightPage
}

// Image returns the logo's bytes. Only what browsers draw and never run is
// taken: SVG can hold scripts.
func (l Look) Image() (contentType string, image []byte, err error) {
	head, data, ok := strings.Cut(l.Logo, ";base64,")
	contentType, isData := strings.CutPrefix(head, "data:")
	begins := map[string]string{"image/png": "\x89PNG\r\n\x1a\n", "image/jpeg": "\xff\xd8\xff", "image/webp": "RIFF"}[contentType]
	if !ok || !isData || begins == "" {
		return "", nil, Errorf(Invalid, "invalid_logo", "logo: give a PNG, JPEG or WebP as data:image/png;base64,…")
	}
	if len(data) > base64.StdEncoding.EncodedLen(MaxLogo) {
		return "", nil, Errorf(Invalid, "invalid_logo", "logo: more than %d KiB: make it smaller", MaxLogo>>10)
	}
	image, err = base64.StdEncoding.DecodeString(data)
	webp := contentType != "image/webp" || len(image) > 12 && string(image[8:12]) == "WEBP"
	if err != nil || !bytes.HasPrefix(image, []byte(begins)) || !webp {
		return "", nil, Errorf(Invalid, "invalid_logo", "logo: the bytes are no %s in base64", contentType)
	}
	return contentType, image, nil
}
