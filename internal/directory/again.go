package directory

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// ReadAgain reads a stored callback as if it came now, by what is configured
// of its source today. A rejected one is first verified anew, with the secrets
// of today at the time of its receipt: what proves it then is what was wrong
// with the configuration, and not its age. A certificate that it names must
// have been fetched before. An error says why it stays as it is: a
// *provider.Rejection, or what is wrong with the source.
func (s *Snapshot) ReadAgain(c relay.Callback, now time.Time) (relay.Callback, error) {
	src := s.SourceByID(c.SourceID)
	if src == nil {
		return c, relay.Errorf(relay.NotFound, "unknown_source", "the source of this event is gone: make it again")
	}
	if src.Err != nil {
		return c, errors.Join(relay.Errorf(relay.Busy, "unusable_source", "this source cannot be used at the moment"), src.Err)
	}
	req, err := src.requestOf(&c)
	if err != nil {
		return c, err
	}
	if c.Verdict == relay.Rejected {
		s.certificates.Recall(src.Endpoint, req, now)
		secrets, _ := src.LiveSecrets(now)
		if _, err := src.Endpoint.Verify(req, secrets, c.ReceivedAt); err != nil {
			return c, err
		}
		c.Verdict = src.Verdict()
	}
	readings, err := src.Endpoint.Read(req)
	var unreadable *provider.Unreadable
	switch {
	case errors.As(err, &unreadable):
		c.Reason, c.Reading = unreadable.Code, relay.Reading{Format: relay.FormatText}
		return c, nil
	case err != nil:
		return c, err
	case c.Item >= len(readings), c.Reason != "" && len(readings) > 1:
		// One row cannot become several events; the provider can send them.
		return c, relay.Errorf(relay.Malformed, "bad_batch", "the body holds other events than were kept: have it sent again")
	}
	c.Reason, c.Reading = "", readings[c.Item]
	if c.Answer != nil {
		// One that cannot be read names nobody.
		c.Named, _ = src.Endpoint.AddAnswer(&c.Reading, c.Answer)
	}
	return c, nil
}

// Verdict is what a callback of the source that passed its check is worth.
func (s *Source) Verdict() relay.Verdict {
	if s.Endpoint.Preset().Signed() {
		return relay.Verified
	}
	return relay.Unsigned
}

// RequestURL is what the provider signs as the address of a callback: never
// rebuilt from a request's Host.
func (s *Source) RequestURL(pathToken, query string) string {
	signed := s.signed
	if pathToken != "" {
		signed += "/" + pathToken
	}
	if query != "" {
		signed += "?" + query
	}
	return signed
}

// requestOf makes the request of a stored callback, with what was kept of it.
func (s *Source) requestOf(c *relay.Callback) (*provider.Request, error) {
	query, _ := url.ParseQuery(c.Query) // what can be read of it, as at its receipt
	header, err := headersOf(c)
	return &provider.Request{
		Fetched: c.Verdict == relay.Fetched,
		Method:  http.MethodPost, URL: s.RequestURL(c.PathToken, c.Query), PathToken: c.PathToken,
		Query: query, Header: header, Body: c.Body,
	}, err
}

// headersOf are the headers that were kept of a callback.
func headersOf(c *relay.Callback) (http.Header, error) {
	header := http.Header{}
	if c.Headers == nil {
		return header, nil
	}
	kept := map[string]string{}
	if err := json.Unmarshal(c.Headers, &kept); err != nil {
		return nil, err
	}
	for name, value := range kept {
		header[name] = []string{value}
	}
	return header, nil
}
