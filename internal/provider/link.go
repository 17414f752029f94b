package provider

import (
	"net/url"
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
	name := expand(strings.TrimPrefix(p.spec.Link, "query:"), settings.tokenFields())[0]
	u.RawQuery = setParameter(u.RawQuery, name, token)
	return u.String(), nil
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
