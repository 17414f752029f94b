package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"relay.example/relay/internal/relay"
)

// searchWindow is how much of an answer is searched at a time. What is
// searched for is shorter.
const searchWindow = 16 << 10

// errUpgraded is what becomes of an answer that is no longer HTTP.
var errUpgraded = errors.New("the connection was upgraded")

// limitError is the cause of a call that took longer than it may.
type limitError time.Duration

func (l limitError) Error() string { return "no whole answer within " + time.Duration(l).String() }

// countedConn counts what is written to a connection. It counts before it
// writes: whoever reads the count may be told too much, never too little.
type countedConn struct {
	net.Conn
	written atomic.Int64
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.written.Add(int64(len(p)))
	return c.Conn.Write(p)
}

// call is the state of one Do. Its hooks run in the goroutine of Do.
type call struct {
	trace   httptrace.ClientTrace
	cancel  context.CancelFunc
	asked   bool         // a connection was asked for: the request is well-formed
	conn    net.Conn     // the connection it was given, nil before
	counted *countedConn // what is under conn
	base    int64        // what had been written to it before
	again   bool         // stopped from being sent a second time
}

// getConn runs whenever the transport wants a connection for this call.
func (c *call) getConn(string) {
	c.asked = true
	if c.conn != nil && !c.shared() && c.sent() {
		c.again = true
		c.cancel()
	}
}

func (c *call) gotConn(info httptrace.GotConnInfo) {
	under := info.Conn
	if secure, ok := under.(*tls.Conn); ok {
		under = secure.NetConn()
	}
	c.conn = info.Conn
	if c.counted, _ = under.(*countedConn); c.counted != nil {
		c.base = c.counted.written.Load()
	}
}

// sent reports whether the request may have left. Over HTTP/1 a connection is
// the call's alone, and the transport has done writing before it reports an
// error: the count is exact. Over HTTP/2 calls share a connection, and nobody
// can tell whose bytes they were.
func (c *call) sent() bool {
	switch {
	case c.conn == nil:
		return false
	case c.counted == nil || c.shared():
		return true
	default:
		return c.counted.written.Load() > c.base
	}
}

// shared reports whether the connection speaks HTTP/2. It is only asked when
// something has gone wrong: the answer costs a copy of the TLS state.
func (c *call) shared() bool {
	secure, ok := c.conn.(*tls.Conn)
	return ok && secure.ConnectionState().NegotiatedProtocol == "h2"
}

// request makes an http.Request, or says why not.
func (c *Client) request(r Request) (*http.Request, error) {
	u, err := checkURL(r.URL, c.policy)
	if err != nil {
		return nil, refusal(err)
	}
	if len(r.Body) > MaxRequest {
		return nil, &Error{Reason: BadRequest, host: u.Host, detail: "its body is too long", final: true}
	}
	header := r.Header
	if header == nil {
		header = http.Header{}
	}
	req := &http.Request{
		Method: r.Method, URL: u, Host: u.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(len(r.Body)),
	}
	if len(r.Body) > 0 {
		body := r.Body
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Body, _ = req.GetBody() // never an error
	}
	return req, nil
}

// refusal turns what CheckURL says into what Do says.
func refusal(err error) *Error {
	out := &Error{Reason: BadURL, final: true, err: err}
	var refused *relay.Error
	if errors.As(err, &refused) {
		out.detail = refused.Detail
		if refused.Code == codeRefused {
			out.Reason = AddressRefused
		}
	}
	return out
}

// read takes the first bytes of an answer, and searches it where that is asked
// for. It reads the rest as well where that is little, since only a connection
// whose answer was read to its end can be kept.
func (out *Response) read(answer *http.Response, keep int, search string, cancel context.CancelFunc) (err error) {
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusSwitchingProtocols {
		return errUpgraded
	}
	if answer.ContentLength == 0 {
		return nil
	}
	out.Body, err = readKept(answer.Body, answer.ContentLength, keep)
	out.Found = search != "" && bytes.Contains(out.Body, []byte(search))
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	if search != "" && !out.Found {
		return out.searchOn(answer.Body, []byte(search))
	}
	out.Truncated = drain(answer, keep, cancel)
	return nil
}

// searchOn searches what comes after the bytes that are kept, up to MaxSearch
// in all. It ends where the text is found: the rest is of no use.
func (out *Response) searchOn(r io.Reader, search []byte) error {
	window := make([]byte, 0, searchWindow)
	window = append(window, out.Body[max(0, len(out.Body)-len(search)+1):]...) // it may begin there
	for read := len(out.Body); read < MaxSearch; {
		n, err := r.Read(window[len(window):cap(window)])
		read += n
		window = window[:len(window)+n]
		out.Truncated = out.Truncated || n > 0
		if out.Found = bytes.Contains(window, search); out.Found || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		kept := copy(window, window[max(0, len(window)-len(search)+1):])
		window = window[:kept]
	}
	out.Unsearched = true
	return nil
}

// readKept reads up to keep bytes. It returns io.EOF where the answer ended
// within them.
func readKept(r io.Reader, length int64, keep int) ([]byte, error) {
	size := int64(512)
	if length >= 0 {
		size = min(length+1, int64(keep)) // the one more is for the end to be seen
	}
	body := make([]byte, 0, size)
	for len(body) < keep {
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
		n, err := r.Read(body[len(body):min(cap(body), keep)])
		body = body[:len(body)+n]
		if err != nil {
			return body, err
		}
	}
	return body, nil
}

// drain reads what is not kept and reports whether there was any. The answer
// is already known, so neither a long nor a slow rest is waited for: both end
// with the connection being closed.
func drain(answer *http.Response, keep int, cancel context.CancelFunc) bool {
	if answer.ContentLength > int64(max(MaxDrain, keep)) {
		return true
	}
	stop := time.AfterFunc(drainTime, cancel)
	defer stop.Stop()
	n, err := io.Copy(io.Discard, io.LimitReader(answer.Body, int64(max(MaxDrain-keep, 1))))
	return n > 0 || err != nil
}

// failure says why a call has no answer. ctx is the caller's and timed the
// call's own.
func (c *call) failure(ctx, timed context.Context, req *http.Request, err error) *Error {
	e := &Error{host: req.URL.Host, err: err, Sent: c.sent()}
	switch {
	case c.again:
		e.Reason, e.detail = Reset, "a kept connection ended while the request was on it"
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.Reason, e.detail = Timeout, "the caller's deadline has passed"
	case ctx.Err() != nil:
		e.Reason = Canceled
	case timed.Err() != nil:
		e.Reason, e.detail = Timeout, context.Cause(timed).Error()
	case errors.Is(err, errRefused):
		e.Reason, e.detail = AddressRefused, errRefused.Error()
	case !c.asked:
		e.Reason, e.detail, e.final = BadRequest, "its method or a header is not valid", true
	case c.conn == nil:
		e.Reason, e.detail = unconnected(req.URL.Scheme, err)
	default:
		e.Reason, e.detail = unanswered(e.Sent, err)
	}
	return e
}

// unconnected tells what kept a connection from being made.
func unconnected(scheme string, err error) (Reason, string) {
	var (
		dns  *net.DNSError
		op   *net.OpError
		slow interface{ Timeout() bool }
	)
	timeout := errors.As(err, &slow) && slow.Timeout()
	switch {
	case errors.As(err, &dns):
		return DNS, explain(err)
	case errors.As(err, &op) && op.Op == "dial" && timeout:
		return Connect, "no connection within " + DialTimeout.String()
	case errors.As(err, &op) && op.Op == "dial", scheme == "http":
		return Connect, explain(err)
	case timeout:
		return TLS, "not agreed within " + TLSTimeout.String()
	default:
		return TLS, explain(err)
	}
}

// unanswered tells what became of a request on a connection.
func unanswered(sent bool, err error) (Reason, string) {
	var op *net.OpError
	switch {
	case !sent, errors.As(err, &op), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return Reset, explain(err)
	case strings.Contains(err.Error(), "server closed idle connection"):
		// The transport has no name for this error outside of itself.
		return Reset, ""
	default:
		return Protocol, ""
	}
}
