package egress_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"relay.example/relay/internal/egress"
)

// secret stands wherever a URL or a body may hold one. No error may tell it.
const secret = "s3cret"

const secretPath = "/hook/" + secret + "?token=" + secret

// wantFailure checks an error of Do and that it tells nothing of the URL. It
// returns whether the failure is permanent.
func wantFailure(t *testing.T, err error, reason egress.Reason, sent bool) (permanent bool) {
	t.Helper()
	var failure *egress.Error
	if !errors.As(err, &failure) {
		t.Fatalf("got error %v, want an *egress.Error", err)
	}
	if failure.Reason != reason || failure.Sent != sent {
		t.Errorf("got %q with Sent %t, want reason %s with Sent %t (cause: %v)",
			failure, failure.Sent, reason, sent, failure.Unwrap())
	}
	if text := err.Error(); strings.Contains(text, secret) || strings.Contains(text, "/hook") {
		t.Errorf("the error tells the URL: %q", text)
	}
	return failure.Permanent()
}

func post(url string) egress.Request {
	return egress.Request{Method: http.MethodPost, URL: url + secretPath, Body: []byte(secret)}
}

func TestDo(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", r.Header.Get("X-Mine"))
		w.WriteHeader(http.StatusAccepted)
		_, _ = fmt.Fprintf(w, "%s %s %s %d", r.Method, r.URL, body, r.ContentLength)
	})
	header := http.Header{"X-Mine": {"yes"}}
	got, err := local(t).Do(t.Context(), egress.Request{
		Method: http.MethodPut, URL: s.URL + "/a%20b?c=d", Header: header, Body: []byte("hello"),
	})
	if err != nil {
		t.Fatalf("Do: %v", err)
	}
	if got.Status != http.StatusAccepted || got.Header.Get("X-Seen") != "yes" || got.Truncated || got.Duration <= 0 {
		t.Errorf("got %+v, want a whole 202 with the header seen", got)
	}
	if want := "PUT /a%20b?c=d hello 5"; string(got.Body) != want {
		t.Errorf("got body %q, want %q", got.Body, want)
	}
	if diff := cmp.Diff(http.Header{"X-Mine": {"yes"}}, header); diff != "" {
		t.Errorf("the caller's header was changed (-want +got):\n%s", diff)
	}
}

func TestRedirectsAreAnswers(t *testing.T) {
	var calls atomic.Int64
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	got, err := local(t).Do(t.Context(), post(s.URL))
	if err != nil {
		t.Fatalf("Do: %v", err)
	}
	if got.Status != http.StatusTemporaryRedirect || calls.Load() != 1 {
		t.Errorf("got status %d after %d calls, want 307 after 1", got.Status, calls.Load())
	}
}

func TestAnswersAreBounded(t *testing.T) {
	tests := []struct {
		name      string
		length    int
		chunked   bool
		truncated bool
		reused    bool
	}{
		{"nothing", 0, false, false, true},
		{"nothing, chunked", 0, true, false, true},
		{"little", 10, false, false, true},
		{"little, chunked", 10, true, false, true},
		{"what is kept", egress.MaxResponse, false, false, true},
		{"what is kept, chunked", egress.MaxResponse, true, false, true},
		{"one more", egress.MaxResponse + 1, false, true, true},
		{"one more, chunked", egress.MaxResponse + 1, true, true, true},
		{"what is drained, less one", egress.MaxDrain - 1, false, true, true},
		{"far more", egress.MaxDrain * 4, false, true, false},
		{"far more, chunked", egress.MaxDrain * 4, true, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var opened atomic.Int64
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if tt.chunked {
					_ = http.NewResponseController(w).Flush()
				} else {
					w.Header().Set("Content-Length", fmt.Sprint(tt.length))
				}
				_, _ = io.WriteString(w, strings.Repeat("x", tt.length))
			}))
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					opened.Add(1)
				}
			}
			s.Start()
			defer s.Close()
			c := local(t)
			for range 3 {
				got, err := c.Do(t.Context(), post(s.URL))
				if err != nil {
					t.Fatalf("Do: %v", err)
				}
				if want := min(tt.length, egress.MaxResponse); len(got.Body) != want || got.Truncated != tt.truncated {
					t.Errorf("got %d bytes with Truncated %t, want %d with %t", len(got.Body), got.Truncated, want, tt.truncated)
				}
			}
			if reused := opened.Load() == 1; reused != tt.reused {
				t.Errorf("3 calls opened %d connections, want reuse %t", opened.Load(), tt.reused)
			}
		})
	}
}

// Who needs more of an answer says so, up to what is read at all.
func TestKeep(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 8*egress.MaxDrain))
	})
	for keep, want := range map[int]int{0: egress.MaxResponse, 10: 10, 100_000: 100_000, 10 * egress.MaxDrain: egress.MaxKeep} {
		r := post(s.URL)
		r.Keep = keep
		got, err := local(t).Do(t.Context(), r)
		if err != nil {
			t.Fatalf("Do: %v", err)
		}
		if len(got.Body) != want || !got.Truncated {
			t.Errorf("keeping %d: got %d bytes with Truncated %t, want %d of more", keep, len(got.Body), got.Truncated, want)
		}
	}
}

// A rest that trickles in is not waited for: the answer is known.
func TestSlowRestIsNotWaitedFor(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", egress.MaxResponse+1))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	r := post(s.URL)
	r.Timeout = time.Minute
	got, err := local(t).Do(t.Context(), r)
	if err != nil {
		t.Fatalf("Do: %v", err)
	}
	if !got.Truncated || got.Duration > 30*time.Second {
		t.Errorf("got Truncated %t after %s, want true at once", got.Truncated, got.Duration)
	}
}

// What a name resolves to is judged when it is dialled.
func TestGuardAtDial(t *testing.T) {
	tests := []struct{ name, policy, scheme, address string }{
		{"loopback", "", "https", "127.0.0.1"},
		{"RFC 1918", "", "https", "10.0.0.1"},
		{"metadata", "true", "https", "169.254.169.254"},
		{"unspecified", "true", "http", "0.0.0.0"},
		{"mapped", "", "https", "::ffff:127.0.0.1"},
		{"6to4", "", "https", "2002:7f00:1::1"},
		{"NAT64", "", "https", "64:ff9b::7f00:1"},
		{"metadata IPv6", "true", "https", "fd00:ec2::254"},
		// The next one is public, so that only its scheme can be the reason.
		{"plain http outside the list", "10.1.0.0/16", "http", "8.8.8.8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, egress.Config{Policy: policy(t, tt.policy), Resolver: names(t, always(tt.address))})
			_, err := c.Do(t.Context(), post(tt.scheme+"://bots.test"))
			if wantFailure(t, err, egress.AddressRefused, false) {
				t.Error("got a permanent failure, want one that another look-up may cure")
			}
		})
	}
}

// A name that was good once is judged again by what it has become.
func TestGuardAgainstRebinding(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") })
	var moved atomic.Bool
	c := client(t, egress.Config{
		Policy: policy(t, "127.0.0.1/32"),
		Resolver: names(t, func() netip.Addr {
			if moved.Load() {
				return netip.MustParseAddr("127.0.0.2")
			}
			return netip.MustParseAddr("127.0.0.1")
		}),
	})
	url := "http://bots.test" + s.URL[strings.LastIndex(s.URL, ":"):]
	if _, err := c.Do(t.Context(), post(url)); err != nil {
		t.Fatalf("before it moved: %v", err)
	}
	moved.Store(true)
	_, err := c.Do(t.Context(), post(url))
	wantFailure(t, err, egress.AddressRefused, false)
}

func TestRefusedBeforeDialling(t *testing.T) {
	good := "https://bots.test"
	tests := []struct {
		name   string
		change func(*egress.Request)
		reason egress.Reason
	}{
		{"no URL", func(r *egress.Request) { r.URL = "https://%zz" + secretPath }, egress.BadURL},
		{"user in the URL", func(r *egress.Request) { r.URL = "https://" + secret + "@bots.test" }, egress.BadURL},
		{"plain http", func(r *egress.Request) { r.URL = "http://bots.test" + secretPath }, egress.BadURL},
		{"address", func(r *egress.Request) { r.URL = "https://127.1" + secretPath }, egress.AddressRefused},
		{"header", func(r *egress.Request) { r.Header = http.Header{"Authorization": {secret + "\n"}} }, egress.BadRequest},
		{"method", func(r *egress.Request) { r.Method = secret + " /" }, egress.BadRequest},
		{"long body", func(r *egress.Request) { r.Body = make([]byte, egress.MaxRequest+1) }, egress.BadRequest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := post(good)
			tt.change(&r)
			_, err := client(t, egress.Config{}).Do(t.Context(), r)
			if !wantFailure(t, err, tt.reason, false) {
				t.Error("got a failure that may pass, want a permanent one")
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	stuck := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Query().Has("half") {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	})
	deaf := accept(t, func(_ int, c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	silent := names(t, func() netip.Addr { return netip.Addr{} })
	tests := []struct {
		name string
		url  string
		sent bool
	}{
		{"no answer", stuck.URL + secretPath, true},
		{"half an answer", stuck.URL + secretPath + "&half", true},
		{"no TLS", "https://" + deaf + secretPath, false},
		{"no address", "https://bots.test" + secretPath, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := client(t, egress.Config{Policy: policy(t, "true"), Resolver: silent})
			const limit = 4 * time.Second // a busy machine has sent it by then
			r := egress.Request{Method: http.MethodPost, URL: tt.url, Body: []byte(secret), Timeout: limit}
			_, err := c.Do(t.Context(), r)
			wantFailure(t, err, egress.Timeout, tt.sent)
			if !strings.Contains(err.Error(), "within "+limit.String()) {
				t.Errorf("got %q, want it to name the limit", err)
			}
		})
	}
}

func TestCanceled(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := local(t).Do(ctx, post("http://127.0.0.1:1"))
		wantFailure(t, err, egress.Canceled, false)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want it to be context.Canceled", err)
		}
	})
	t.Run("after it was sent", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			cancel()
			<-r.Context().Done()
		})
		_, err := local(t).Do(ctx, post(s.URL))
		wantFailure(t, err, egress.Canceled, true)
	})
	t.Run("by the caller's deadline", func(t *testing.T) {
		ctx := expiring{t.Context(), make(chan struct{})}
		s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			close(ctx.done)
			<-r.Context().Done()
		})
		_, err := local(t).Do(ctx, post(s.URL))
		wantFailure(t, err, egress.Timeout, true)
	})
}

// expiring is a context whose deadline passes when done is closed: not before
// what it is about has come to be.
type expiring struct {
	context.Context //nolint:containedctx // it is one
	done            chan struct{}
}

func (c expiring) Done() <-chan struct{} { return c.done }

func (c expiring) Err() error {
	select {
	case <-c.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// accept runs a server that is less than HTTP and returns its address. handle
// gets the connections, counted from 1, each in a goroutine of its own.
func accept(t *testing.T, handle func(n int, c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				handle(n, c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); conns.Wait() })
	return l.Addr().String()
}

// readRequest reads one request and reports whether there was one.
func readRequest(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

func TestBrokenAnswers(t *testing.T) {
	tests := []struct {
		name   string
		answer string
		reason egress.Reason
	}{
		{"none", "", egress.Reset},
		{"half", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", egress.Reset},
		{"not HTTP", "hello " + secret + "\r\n\r\n", egress.Protocol},
		{"an upgrade", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", egress.Protocol},
		{"endless headers", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*egress.MaxHeader), egress.Protocol},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := accept(t, func(_ int, c net.Conn) {
				readRequest(bufio.NewReader(c))
				_, _ = io.WriteString(c, tt.answer)
			})
			_, err := local(t).Do(t.Context(), post("http://"+addr))
			wantFailure(t, err, tt.reason, true)
		})
	}
}

// A kept connection that dies under a request must not make net/http send it
// again by itself, whatever the request looks like.
func TestNothingIsSentTwice(t *testing.T) {
	idempotent := http.Header{"Idempotency-Key": {"1"}}
	tests := []struct {
		name    string
		request egress.Request
	}{
		{"POST", egress.Request{Method: http.MethodPost, Body: []byte("x")}},
		{"POST without a body", egress.Request{Method: http.MethodPost}},
		{"POST with an idempotency key", egress.Request{Method: http.MethodPost, Body: []byte("x"), Header: idempotent}},
		{"GET", egress.Request{Method: http.MethodGet}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var requests atomic.Int64
			addr := accept(t, func(_ int, c net.Conn) {
				r := bufio.NewReader(c)
				for readRequest(r) {
					if requests.Add(1) > 1 {
						return // the connection dies with the request unanswered
					}
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
			c := local(t)
			r := tt.request
			r.URL = "http://" + addr + secretPath
			if _, err := c.Do(t.Context(), r); err != nil {
				t.Fatalf("the first: %v", err)
			}
			_, err := c.Do(t.Context(), r)
			wantFailure(t, err, egress.Reset, true)
			if got := requests.Load(); got != 2 {
				t.Errorf("the server saw %d requests, want 2", got)
			}
		})
	}
}

func TestNoConnection(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, err = local(t).Do(t.Context(), post("http://"+addr))
	wantFailure(t, err, egress.Connect, false)
	if want := "connect " + addr + ": connection refused"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestNoSuchHost(t *testing.T) {
	// The resolver knows no IPv6 and is only asked for a name that is none.
	c := client(t, egress.Config{Resolver: names(t, always("8.8.8.8"))})
	_, err := c.Do(t.Context(), post("https://a..b"))
	wantFailure(t, err, egress.DNS, false)
}

func TestTLS(t *testing.T) {
	newServer := func(t *testing.T, change func(*httptest.Server)) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.Proto)
		}))
		s.Config.ErrorLog = log.New(io.Discard, "", 0) // it reports the handshakes that are meant to fail
		change(s)
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	trust := func(s *httptest.Server) *x509.CertPool {
		pool := x509.NewCertPool()
		pool.AddCert(s.Certificate())
		return pool
	}
	t.Run("HTTP/2", func(t *testing.T) {
		s := newServer(t, func(s *httptest.Server) { s.EnableHTTP2 = true })
		c := client(t, egress.Config{Policy: policy(t, "127.0.0.0/8"), RootCAs: trust(s)})
		var calls sync.WaitGroup
		for range 8 {
			calls.Go(func() {
				got, err := c.Do(t.Context(), post(s.URL))
				if err != nil || string(got.Body) != "HTTP/2.0" {
					t.Errorf("got %+v and error %v, want HTTP/2.0", got, err)
				}
			})
		}
		calls.Wait()
	})
	t.Run("unknown authority", func(t *testing.T) {
		s := newServer(t, func(*httptest.Server) {})
		_, err := local(t).Do(t.Context(), post(s.URL))
		wantFailure(t, err, egress.TLS, false)
		if !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("got %q, want it to say unknown authority", err)
		}
	})
	t.Run("another name", func(t *testing.T) {
		s := newServer(t, func(*httptest.Server) {})
		c := client(t, egress.Config{Policy: policy(t, "true"), RootCAs: trust(s), Resolver: names(t, always("127.0.0.1"))})
		_, err := c.Do(t.Context(), post("https://bots.test"+s.URL[strings.LastIndex(s.URL, ":"):]))
		wantFailure(t, err, egress.TLS, false)
		if !strings.Contains(err.Error(), "for another name") {
			t.Errorf("got %q, want it to say that the name differs", err)
		}
	})
	t.Run("too old", func(t *testing.T) {
		s := newServer(t, func(s *httptest.Server) {
			s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		})
		c := client(t, egress.Config{Policy: policy(t, "true"), RootCAs: trust(s)})
		_, err := c.Do(t.Context(), post(s.URL))
		wantFailure(t, err, egress.TLS, false)
	})
	t.Run("given up over HTTP/2", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := newServer(t, func(s *httptest.Server) {
			s.EnableHTTP2 = true
			s.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				cancel()
				<-r.Context().Done()
			})
		})
		_, err := client(t, egress.Config{Policy: policy(t, "true"), RootCAs: trust(s)}).Do(ctx, post(s.URL))
		wantFailure(t, err, egress.Canceled, true)
	})
}

func BenchmarkDo(b *testing.B) {
	s := serve(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"error":[],"message":"1"}`)
	})
	c := local(b)
	r := egress.Request{
		Method: http.MethodPost, URL: s.URL + "/actionsvc/trigger-response/",
		Header: http.Header{"Content-Type": {"application/json"}, "Authorization": {"JWT x"}},
		Body:   []byte(`{"user_id":"u-829","module_id":1068935,"wait_time":3,"custom_vars":{},"is_async":true}`),
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Do(b.Context(), r); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkTransport is the same call by a bare http.Transport, with nothing
// guarded and nothing bounded: what the guard costs is the difference.
func BenchmarkTransport(b *testing.B) {
	s := serve(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"error":[],"message":"1"}`)
	})
	tr := &http.Transport{MaxIdleConnsPerHost: 128, DisableCompression: true}
	b.Cleanup(tr.CloseIdleConnections)
	body := `{"user_id":"u-829","module_id":1068935,"wait_time":3,"custom_vars":{},"is_async":true}`
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, s.URL, strings.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			answer, err := tr.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.ReadAll(answer.Body)
			_ = answer.Body.Close()
		}
	})
}
