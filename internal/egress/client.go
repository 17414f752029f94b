// Package egress is the relay's way out: an HTTP client that tenants' URLs
// can be given to. It promises that no call reaches an address that the policy
// does not allow, whatever its name resolves to and whenever; that an answer
// is the first answer, since redirects are not followed and proxy settings not
// read; that every call ends within its limits of time and bytes; that a
// request is never sent a second time behind the caller's back; and that an
// error tells whether the request may have left and nothing of what it said.
//
// Addresses are judged when a connection is made, not when a name is looked
// up: between the two a hostile name server could change its mind. A
// connection that is kept was judged when it was made, and goes where it went.
//
// Sent again. net/http repeats a request by itself when a kept connection
// turns out dead. What it does, read in its source and held by tests here:
// where no byte was written it repeats any request whose body it can rewind,
// which is harmless and saves a delivery from waiting for its next try, so
// GetBody is set. Where bytes were written it repeats GET, HEAD, OPTIONS and
// TRACE, and any method that carries an Idempotency-Key or X-Idempotency-Key
// header (an http.Header entry of that name with a nil value included), which
// a webhook's owner may well have set. That would be two sends recorded as one
// attempt, so it is stopped where it asks for its next connection. Over HTTP/2
// it repeats only what the server has declared not to have processed; that
// stays.
package egress

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"syscall"
	"time"
)

// The limits of a call and of the connections behind it.
const (
	DefaultTimeout = 10 * time.Second // of a whole call that names none
	DialTimeout    = 5 * time.Second  // to look up a name and connect
	TLSTimeout     = 5 * time.Second  // to agree on TLS

	MaxRequest  = 1 << 20   // bytes of a request's body
	MaxResponse = 16 << 10  // bytes of an answer that are kept, unless the caller needs more
	MaxKeep     = 1 << 20   // bytes that a caller can ask for
	MaxDrain    = 256 << 10 // bytes of an answer that are read at all, unless it is searched
	MaxSearch   = 8 << 20   // bytes of an answer that is searched
	MaxHeader   = 64 << 10  // bytes of an answer's headers

	drainTime   = 250 * time.Millisecond // for what is read but not kept
	idleTime    = 90 * time.Second
	maxIdle     = 1024
	maxIdleHost = 128 // about the concurrency of one busy destination
	pingAfter   = 15 * time.Second
	pingTimeout = 5 * time.Second
)

// Config is what a Client is made of. All of it may be zero.
type Config struct {
	Policy   Policy
	Resolver *net.Resolver  // nil: the system's
	RootCAs  *x509.CertPool // nil: the system's
}

// Client makes guarded calls. Any number of goroutines may use it.
type Client struct {
	policy    Policy
	transport *http.Transport
}

// Request is one call to make.
type Request struct {
	Method  string
	URL     string
	Header  http.Header   // not changed
	Body    []byte        // never to be changed again: an early answer leaves it being sent
	Timeout time.Duration // of the whole call, its answer included; 0: DefaultTimeout
	Keep    int           // bytes of the answer, at most MaxKeep; 0: MaxResponse
	// Search is looked for in the whole answer, beyond what is kept, without
	// holding it in memory; "": nothing is.
	Search string
}

// Response is an answer, whatever its status.
type Response struct {
	Status    int
	Header    http.Header
	Body      []byte // its first Keep bytes
	Truncated bool   // there was more
	Found     bool   // what was searched for stands in the answer
	// Unsearched: it was not found, in an answer longer than MaxSearch.
	Unsearched bool
	Duration   time.Duration
}

// New returns a Client. It opens no connection before the first call.
func New(cfg Config) *Client {
	c := &Client{policy: cfg.Policy}
	dialer := &net.Dialer{Timeout: DialTimeout, Resolver: cfg.Resolver, ControlContext: c.guard}
	c.transport = &http.Transport{
		Proxy: nil, // the environment has no say in where a call goes
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &countedConn{Conn: conn}, nil
		},
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs},
		TLSHandshakeTimeout:    TLSTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		DisableCompression:     true, // a small answer could unpack to a large one
		MaxResponseHeaderBytes: MaxHeader,
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdleHost,
		IdleConnTimeout:        idleTime,
	}
	return c
}

// Close drops the connections that are kept. Calls that are under way go on.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// plainKey marks the context of a call over plain http. The transport dials
// with the values of the call's context, so the guard finds it there.
type plainKey struct{}

// errRefused is what the guard says of an address.
var errRefused = errors.New("its address may not be called: see RELAY_ALLOW_PRIVATE_TARGETS")

// guard judges an address at the last moment, when the socket exists and is
// about to be connected.
func (c *Client) guard(ctx context.Context, network, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil || (network != "tcp4" && network != "tcp6") {
		return errRefused
	}
	if plain := ctx.Value(plainKey{}) != nil; !c.policy.allows(target.Addr(), plain) {
		return errRefused
	}
	return nil
}

// Do makes one call and returns its answer, a redirect or an error status
// included. Its error is an *Error.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	start := time.Now()
	req, err := c.request(r)
	if err != nil {
		return nil, err
	}
	limit := r.Timeout
	if limit <= 0 {
		limit = DefaultTimeout
	}
	timed, cancel := context.WithTimeoutCause(ctx, limit, limitError(limit))
	defer cancel()

	run := &call{cancel: cancel}
	run.trace = httptrace.ClientTrace{GetConn: run.getConn, GotConn: run.gotConn}
	traced := httptrace.WithClientTrace(timed, &run.trace)
	if req.URL.Scheme == "http" {
		traced = context.WithValue(traced, plainKey{}, true)
	}

	answer, err := c.transport.RoundTrip(req.WithContext(traced))
	if err != nil {
		return nil, run.failure(ctx, timed, req, err)
	}
	out := &Response{Status: answer.StatusCode, Header: answer.Header}
	keep := min(cmp.Or(r.Keep, MaxResponse), MaxKeep)
	if err := out.read(answer, keep, r.Search, cancel); err != nil {
		return nil, run.failure(ctx, timed, req, err)
	}
	out.Duration = time.Since(start)
	return out, nil
}
