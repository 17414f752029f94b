package egress

import (
	"bytes"
	"errors"
	"io"
	"net/http"
)

// errTooLong is what becomes of a request or an answer that a library may not
// have whole.
var errTooLong = errors.New("the request or its answer is too long")

// RoundTripper makes the calls of a library, such as a provider's own, under
// the same rules as Do: at most MaxRequest bytes are sent, and an answer of
// more than MaxKeep bytes is none. The library has to be told not to follow
// redirects; those are answers here.
func (c *Client) RoundTripper() http.RoundTripper { return roundTripper{c} }

type roundTripper struct{ client *Client }

// RoundTrip makes one call.
func (t roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := readSent(req)
	if err != nil {
		return nil, err
	}
	answer, err := t.client.Do(req.Context(), Request{
		Method: req.Method, URL: req.URL.String(), Header: req.Header, Body: body, Keep: MaxKeep,
	})
	if err != nil {
		return nil, err
	}
	if answer.Truncated {
		return nil, errTooLong
	}
	return &http.Response{
		Status: http.StatusText(answer.Status), StatusCode: answer.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: answer.Header, Body: io.NopCloser(bytes.NewReader(answer.Body)), ContentLength: int64(len(answer.Body)), Request: req,
	}, nil
}

// readSent reads what is to be sent, and closes it, as a RoundTripper must.
func readSent(req *http.Request) ([]byte, error) {
	if req.Body == nil {
		return nil, nil
	}
	defer req.Body.Close()
	body, err := io.ReadAll(io.LimitReader(req.Body, MaxRequest+1))
	if err == nil && len(body) > MaxRequest {
		return nil, errTooLong
	}
	return body, err
}
