package egress_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
	"relay.example/relay/internal/egress"
)

// TestMain sets a proxy that does not exist: a client that read it would fail
// every test that calls a name.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		if err := os.Setenv(name, "http://127.0.0.1:1"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

func policy(t testing.TB, s string) egress.Policy {
	t.Helper()
	p, err := egress.ParsePolicy(s)
	if err != nil {
		t.Fatalf("ParsePolicy(%q): %v", s, err)
	}
	return p
}

func client(t testing.TB, cfg egress.Config) *egress.Client {
	t.Helper()
	c := egress.New(cfg)
	t.Cleanup(c.Close)
	return c
}

// local returns a client that may call this machine.
func local(t testing.TB) *egress.Client {
	return client(t, egress.Config{Policy: policy(t, "true")})
}

func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// names returns a resolver that asks addresses for the address of every name.
// An invalid address is answered with silence.
func names(t testing.TB, addresses func() netip.Addr) *net.Resolver {
	t.Helper()
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		answerQueries(server, addresses)
	}()
	// A look-up goes on after its caller has given up, until its questions end.
	open, end := context.WithCancel(context.Background())
	t.Cleanup(func() { end(); _ = server.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		if open.Err() != nil {
			return nil, open.Err()
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, "udp4", server.LocalAddr().String())
		if err == nil {
			context.AfterFunc(open, func() { _ = conn.Close() })
		}
		return conn, err
	}}
}

func answerQueries(server net.PacketConn, addresses func() netip.Addr) {
	buf := make([]byte, 512)
	for {
		n, from, err := server.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		answer := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true},
			Questions: m.Questions,
		}
		header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET}
		addr := addresses()
		switch {
		case !addr.IsValid():
			continue
		case q.Type == dnsmessage.TypeA && addr.Is4():
			answer.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}}}
		case q.Type == dnsmessage.TypeAAAA && addr.Is6():
			answer.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}}}
		}
		packed, err := answer.Pack()
		if err != nil {
			return
		}
		if _, err := server.WriteTo(packed, from); err != nil {
			return
		}
	}
}

// always answers every name with one address.
func always(addr string) func() netip.Addr {
	return func() netip.Addr { return netip.MustParseAddr(addr) }
}
