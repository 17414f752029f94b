package templates_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/templates"
)

func pages(t *testing.T) *templates.Pages {
	t.Helper()
	p, err := templates.Parse()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Every language says everything, with the same places to fill in.
func TestTextsAreComplete(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("texts.json")
	if err != nil {
		t.Fatal(err)
	}
	var texts map[string]map[string]string
	if err := json.Unmarshal(raw, &texts); err != nil {
		t.Fatal(err)
	}
	if len(texts) < 5 {
		t.Errorf("got %d languages, want them all", len(texts))
	}
	places := regexp.MustCompile(`\{\d\}`)
	for language, own := range texts {
		for key, english := range texts["en"] {
			if own[key] == "" {
				t.Errorf("%s has no text %s", language, key)
			}
			got, want := places.FindAllString(own[key], -1), places.FindAllString(english, -1)
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s: the places to fill in (-en +%s):\n%s", language, key, language, diff)
			}
		}
		for key := range own {
			if texts["en"][key] == "" {
				t.Errorf("%s has the text %s, which English has not", language, key)
			}
		}
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, locale, header string
		offered              []string
		want                 string
	}{
		{"the locale first", "fr", "de", []string{"de", "fr"}, "fr"},
		{"a locale as POSIX writes it", "de_AT", "", []string{"de", "en"}, "de"},
		{"the header by its qualities", "", "fr;q=0.5, de;q=0.9, en;q=0.1", []string{"en", "fr", "de"}, "de"},
		{"a quality of nothing", "", "de;q=0, fr;q=0.1", []string{"de", "fr"}, "fr"},
		{"what is no quality", "", "de;q=x, fr;q=0.1", []string{"de", "fr"}, "fr"},
		{"another case", "PT-br", "", []string{"en", "pt-BR"}, "pt-BR"},
		{"another region", "pt-PT", "", []string{"en", "pt-BR"}, "pt-BR"},
		{"an unknown locale", "xx", "de", []string{"de", "en"}, "de"},
		{"anything goes", "", "*", []string{"en", "de"}, "en"},
		{"nothing fits", "ja", "", []string{"de", "fr"}, "de"},
		{"nothing is offered", "ja", "", nil, "en"},
		{"broken", "", ";;q=,,-", []string{"en", "de"}, "en"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := templates.Choose(templates.Wanted(c.locale, c.header), c.offered); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func FuzzWanted(f *testing.F) {
	f.Add("de_AT", "fr;q=0.5, de;q=0.9,*")
	f.Fuzz(func(t *testing.T, locale, header string) {
		if got := templates.Wanted(locale, header); len(got) > 21 {
			t.Errorf("got %d languages, want at most 21", len(got))
		}
		templates.Choose(templates.Wanted(locale, header), []string{"de", "en"})
	})
}

func TestDirection(t *testing.T) {
	t.Parallel()
	for language, want := range map[string]string{
		"en": "ltr", "de-CH": "ltr", "ar": "rtl", "ar-EG": "rtl", "he": "rtl", "fa-IR": "rtl", "az-Arab": "rtl", "ur-Latn-PK": "ltr",
	} {
		if got := (templates.Page{Language: language}).Direction(); got != want {
			t.Errorf("%s: got %s, want %s", language, got, want)
		}
	}
}

// The policy names the style that the page has, by its bytes.
func TestPolicyFitsThePage(t *testing.T) {
	t.Parallel()
	p := pages(t)
	page := p.Page([]string{"de"}, nil, templates.Look{Name: "Shop", Color: "#7a1fa2", Logo: "logo/abc", Embed: []string{"https://shop.example"}})
	page.Script = p.Script("form.js")
	body, err := p.Render(templates.StatusPage, templates.Status{Page: page, State: "completed"})
	if err != nil {
		t.Fatal(err)
	}
	style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindSubmatch(body)
	if style == nil || !strings.Contains(string(style[1]), "--light: #7a1fa2;") {
		t.Fatalf("got %s, want a style with the look's colour", body)
	}
	sum := sha256.Sum256(style[1])
	for _, want := range []string{
		"default-src 'none'", "style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'", "script-src 'self'", "img-src 'self'",
		"base-uri 'none'", "form-action 'self'", "frame-ancestors https://shop.example",
	} {
		if !slices.Contains(strings.Split(page.Policy(), "; "), want) {
			t.Errorf("got the policy %q, want %q in it", page.Policy(), want)
		}
	}
	if plain := p.Page(nil, nil, templates.Look{}).Policy(); !strings.Contains(plain, "frame-ancestors 'none'") || strings.Contains(plain, "script-src") || strings.Contains(plain, "img-src") {
		t.Errorf("got the policy %q, want neither scripts, images nor frames", plain)
	}
	for _, want := range []string{`<html lang="de" dir="ltr">`, "<title>Erledigt – Shop</title>", `<img src="../logo/abc" alt="">`, `<script src="../assets/form-`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("got %s, want %s in it", body, want)
		}
	}
}

// A look's texts stand in place of ours, in the languages that it has.
func TestOwnTexts(t *testing.T) {
	t.Parallel()
	p := pages(t)
	look := templates.Look{Texts: map[string]templates.Texts{
		"completed_title": {"de": "Danke!", "": "Thanks!"}, "back": {"fr": "Retour"}, "max_length": {"": "{2} > {1}"},
	}}
	for _, c := range []struct {
		language, key, want string
		args                []any
	}{
		{"de-AT", "completed_title", "Danke!", nil},
		{"es", "completed_title", "Thanks!", nil},
		{"fr", "back", "Retour", nil},
		{"de", "back", "Zurück zum Chat", nil},
		{"en", "max_length", "12 > 10", []any{10, 12}},
		{"en", "min", "Please give at least 5.", []any{5}},
	} {
		got, err := p.Page([]string{c.language}, []string{c.language}, look).Text(c.key, c.args...)
		if err != nil || got != c.want {
			t.Errorf("%s, %s: got %q, %v, want %q", c.language, c.key, got, err, c.want)
		}
	}
	if text, err := p.Page(nil, nil, look).Text("nothing"); err == nil {
		t.Errorf("got %q for a text that is not there, want an error", text)
	}
}

func TestAssets(t *testing.T) {
	t.Parallel()
	p := pages(t)
	name := strings.TrimPrefix(p.Script("form.js"), "assets/")
	a, ok := p.Asset(name)
	if !ok || len(a.Body) == 0 || len(a.Body) > 5000 {
		t.Errorf("got %d bytes, %v for %s, want a script of at most 5000", len(a.Body), ok, name)
	}
	if _, ok := p.Asset("form.js"); ok {
		t.Error("got an asset without its hash in the name, want none: it would be cached for ever")
	}
	if got := p.Script("nothing.js"); got != "" {
		t.Errorf("got %s for a script that is not there, want nothing", got)
	}
}
