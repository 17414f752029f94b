package provider

import (
	"cmp"
	"net/url"
	"regexp"
	"strings"

	"relay.example/relay/internal/relay"
)

// PlaceToken puts a token into a link where this provider carries it back.
// What the link holds besides is kept byte for byte; a preset that carries
// nothing in links leaves it unchanged. tokenField may be empty.
func (p *Preset) PlaceToken(link, token, tokenField string) (string, error) {
	if p.spec.Link == "" {
		return link, nil
	}
	u, err := url.Parse(link)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		// The link itself stays out of the error: it may hold a token.
		return "", relay.Errorf(relay.Invalid, "invalid_link", "a link is an absolute http or https URL")
	}
	settings := Settings{TokenField: tokenField}
	if err := settings.check(); err != nil {
		return "", err
	}
	place, name, _ := parseLink(p.spec.Link)
	name = linkName(name, &settings)
	if place == "query" {
		u.RawQuery = setParameter(u.RawQuery, name, token)
		return u.String(), nil
	}
	fragment := setParameter(u.EscapedFragment(), name, token)
	u.Fragment, u.RawFragment = "", ""
	return u.String() + "#" + fragment, nil
}

// parseLink cuts query:NAME or fragment:NAME.
func parseLink(text string) (place, name string, ok bool) {
	place, name, _ = strings.Cut(text, ":")
	return place, name, (place == "query" || place == "fragment") && name != ""
}

// defaultInLink finds <token_field|NAME>: the source's token_field, or NAME
// where it gives none. What a link carries is one name, and the one that this
// provider's forms have most likely.
var defaultInLink = regexp.MustCompile(`<token_field\|([A-Za-z0-9_-]+)>`)

func linkName(name string, settings *Settings) string {
	if m := defaultInLink.FindStringSubmatch(name); m != nil {
		field := cmp.Or(settings.TokenField, m[1])
		return strings.ReplaceAll(name, m[0], field)
	}
	return expand(name, settings.tokenFields())[0]
}

// setParameter sets one parameter of a query and leaves the others as they
// are written, which url.Values would reorder and escape anew.
func setParameter(query, name, text string) string {
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(key); pair != "" && (err != nil || plain != name) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(append(kept, url.QueryEscape(name)+"="+url.QueryEscape(text)), "&")
}
