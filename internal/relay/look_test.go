package relay_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/relay"
)

const onePixel = "\x89PNG\r\n\x1a\n and some bytes"

func dataURL(contentType, image string) string {
	return "data:" + contentType + ";base64," + base64.StdEncoding.EncodeToString([]byte(image))
}

func TestLookChecks(t *testing.T) {
	t.Parallel()
	texts := []string{"completed", "submit"}
	for _, c := range []struct {
		name string
		look relay.Look
		code string // "" where it is taken
		says string
	}{
		{"nothing", relay.Look{}, "", ""},
		{"all of it", relay.Look{
			Name: "Shop", Color: "#7a1fa2", DarkColor: "#e0b0ff", Logo: dataURL("image/png", onePixel),
			Texts: map[string]relay.Words{"submit": {"de": "Los"}}, Embed: []string{"https://shop.example", "https://*.shop.example:8443", "http://localhost:3000"},
		}, "", ""},
		{"a name too long", relay.Look{Name: strings.Repeat("x", 81)}, "invalid_look", "name"},
		{"a colour by name", relay.Look{Color: "red"}, "invalid_look", "color"},
		{"a colour that ends the style", relay.Look{Color: "#fff;}*{}"}, "invalid_look", "color"},
		{"a pale colour", relay.Look{Color: "#ffcc00"}, "low_contrast", "darker"},
		{"a colour too dark for the dark", relay.Look{DarkColor: "#000080"}, "low_contrast", "lighter"},
		{"an unknown text", relay.Look{Texts: map[string]relay.Words{"greeting": {"": "Hi"}}}, "unknown_text", "completed, submit"},
		{"a text too long", relay.Look{Texts: map[string]relay.Words{"submit": {"": strings.Repeat("x", 2001)}}}, "invalid_look", "texts.submit"},
		{"a logo by address", relay.Look{Logo: "https://shop.example/logo.png"}, "invalid_logo", "data:"},
		{"a logo that runs", relay.Look{Logo: dataURL("image/svg+xml", "<svg onload=alert(1)>")}, "invalid_logo", "PNG"},
		{"a page that says it is a logo", relay.Look{Logo: dataURL("image/png", "<html>")}, "invalid_logo", "image/png"},
		{"a logo too large", relay.Look{Logo: dataURL("image/png", onePixel+strings.Repeat("x", 33<<10))}, "invalid_logo", "32 KiB"},
		{"a short WebP", relay.Look{Logo: dataURL("image/webp", "RIFF")}, "invalid_logo", "image/webp"},
		{"a WebP", relay.Look{Logo: dataURL("image/webp", "RIFF\x00\x00\x00\x00WEBPVP8 ")}, "", ""},
		{"a frame of anybody", relay.Look{Embed: []string{"*"}}, "invalid_look", "embed"},
		{"a frame that ends the policy", relay.Look{Embed: []string{"https://a.example; script-src *"}}, "invalid_look", "embed"},
		{"a frame with a path", relay.Look{Embed: []string{"https://a.example/x"}}, "invalid_look", "embed"},
		{"a frame in the clear", relay.Look{Embed: []string{"http://a.example"}}, "invalid_look", "embed"},
		{"too many frames", relay.Look{Embed: make([]string, 21)}, "invalid_look", "embed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := c.look.Check(texts)
			if c.code == "" {
				if err != nil {
					t.Errorf("got %v, want it taken", err)
				}
				return
			}
			var known *relay.Error
			if !errors.As(err, &known) || known.Code != c.code || !strings.Contains(known.Detail, c.says) {
				t.Errorf("got %v, want %s that says %q", err, c.code, c.says)
			}
		})
	}
}

func TestContrast(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want float64
	}{{"#000000", "#ffffff", 21}, {"#ffffff", "#ffffff", 1}, {"#767676", "#ffffff", 4.54}, {"red", "#ffffff", 0}} {
		if got := relay.Contrast(c.a, c.b); got < c.want-0.01 || got > c.want+0.01 {
			t.Errorf("%s on %s: got %.2f, want %.2f", c.a, c.b, got, c.want)
		}
	}
	for _, c := range []string{"#000000", "#1f4fb8", "#7a1fa2", "#006400"} {
		if dark := (relay.Look{Color: c}).OnDark(); relay.Contrast(dark, relay.DarkPage) < relay.MinContrast {
			t.Errorf("%s is %s on a dark screen, and cannot be read there", c, dark)
		}
	}
}

func TestLookOver(t *testing.T) {
	t.Parallel()
	base := relay.Look{Name: "Shop", Color: "#7a1fa2", DarkColor: "#e0b0ff", Logo: "x", Texts: map[string]relay.Words{"a": {"": "1"}, "b": {"": "2"}}, Embed: []string{"https://a.example"}}
	got := relay.Look{Color: "#006400", Texts: map[string]relay.Words{"b": {"": "3"}}, Embed: []string{}}.Over(base)
	want := relay.Look{Name: "Shop", Color: "#006400", Logo: "x", Texts: map[string]relay.Words{"a": {"": "1"}, "b": {"": "3"}}, Embed: []string{}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
