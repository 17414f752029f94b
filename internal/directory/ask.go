package directory

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"time"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// CanAsk reports whether the provider of s can be asked: its preset knows how,
// and there is a key to ask with.
func (s *Source) CanAsk() bool {
	return s.Err == nil && s.Endpoint.API() != "" && s.Credentials["api_key"] != ""
}

// InquiryOf says what to ask the provider about an event of s that names
// nobody, if anything.
func (s *Source) InquiryOf(r *relay.Reading) (provider.Inquiry, bool) {
	if !s.CanAsk() {
		return provider.Inquiry{}, false
	}
	return s.Endpoint.InquiryOf(r)
}

// Askable is what the provider of s can be asked for when the wait of such an
// event is about to expire; "" where nothing is.
func (s *Source) Askable(r *relay.Reading) string {
	if !s.CanAsk() {
		return ""
	}
	return s.Endpoint.Askable(r)
}

// QuestionURL is where a question is asked: with a key in its header, and a
// provider's id in its path, so for no log.
func (s *Source) QuestionURL(q *relay.Question) string {
	path := s.Endpoint.EventPath(q.About)
	if q.OfWait() {
		path = s.Endpoint.WaitPath(q.About)
	}
	return s.apiURL(path)
}

func (s *Source) apiURL(path string) string { return s.API() + path }

// API is where the provider of s is called, without a slash at its end.
func (s *Source) API() string { return cmp.Or(s.Settings["base_url"], s.Endpoint.API()) }

// APIKey is what its provider is called with.
func (s *Source) APIKey() string { return s.Credentials["api_key"] }

// FetchURL is where what a callback is about is asked for, as QuestionURL;
// false: the callback, as it is read today, does not say it.
func (s *Source) FetchURL(c *relay.Callback, about string) (string, bool) {
	req, err := s.requestOf(c)
	if err != nil {
		return "", false
	}
	path, ok := s.Endpoint.FetchPath(req, about)
	return s.apiURL(path), ok
}

// Fetched makes a callback, to be read by ReadFetched, of what the provider says of the object that c is
// about; nil: that is no news. What it says stands for itself, and the URL by
// which c came beside it.
func (s *Source) Fetched(c *relay.Callback, answer []byte, now time.Time) (*relay.Callback, error) {
	req, err := s.requestOf(c)
	if err != nil {
		return nil, err
	}
	body, err := s.Endpoint.FetchedAsCallback(req, answer)
	if body == nil || err != nil {
		return nil, err
	}
	return &relay.Callback{
		ProjectID: c.ProjectID, SourceID: c.SourceID, Verdict: relay.Fetched, Body: body, ReceivedAt: now,
		PathToken: c.PathToken, Query: c.Query, For: c.ID,
	}, nil
}

// TooLong reports whether Fetched has failed since its preset makes more of an
// answer than a callback may hold: it will each time.
func TooLong(err error) bool {
	var unreadable *provider.Unreadable
	return errors.As(err, &unreadable) && unreadable.Code == provider.TooLong
}

// ReadFetched reads what a provider said when it was asked: the events in the
// order in which they are to be told, mostly one. What goes before an event
// stands behind it in its reading. The error is an *provider.Unreadable, or
// what is wrong with what was kept of the callback.
func (s *Source) ReadFetched(c relay.Callback) ([]relay.Callback, error) {
	req, err := s.requestOf(&c)
	if err != nil {
		return nil, err
	}
	readings, err := s.Endpoint.Read(req)
	if err != nil {
		return nil, err
	}
	events := make([]relay.Callback, 0, len(readings))
	for item, reading := range slices.Backward(readings) {
		one := c
		one.ID, one.Item, one.Reading = relay.NewID(), item, reading
		events = append(events, one)
	}
	return events, nil
}

// QuestionHeader is what a question is asked with.
func (s *Source) QuestionHeader() http.Header {
	header := http.Header{
		"Authorization": {"Bearer " + s.Credentials["api_key"]},
		"Accept":        {"application/json"},
	}
	for name, value := range s.Endpoint.APIHeaders() {
		header.Set(name, value)
	}
	return header
}

// QuestionOf says what to ask before a wait expires, by what its events have
// taught, else by a key of its caller's that is such an id; false: nothing.
func (s *Snapshot) QuestionOf(w *relay.Wait, asks string, asksSource int64) (sourceID int64, about string, ok bool) {
	if asks != "" {
		src := s.SourceByID(asksSource)
		return asksSource, asks, src != nil && src.ProjectID == w.ProjectID && src.CanAsk()
	}
	if w.Key == "" {
		return 0, "", false
	}
	for _, id := range w.SourceIDs {
		if src := s.SourceByID(id); src != nil && src.CanAsk() && src.Endpoint.AskableKey(w.Key) {
			return id, w.Key, true
		}
	}
	return 0, "", false
}
