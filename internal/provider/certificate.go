package provider

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"relay.example/relay/internal/relay"
)

// The bounds of certificates.
const (
	MaxCertificate  = 64 << 10       // bytes of one, with those it was issued by
	maxCertificates = 64             // addresses that are remembered
	certificateAge  = 24 * time.Hour // after which one is fetched again
	maxChain        = 8

	// Addresses that are not remembered are asked so often, all together. A
	// stranger can name any of the provider's: it must not be flooded by us.
	certificateBurst = 10
	certificateEvery = time.Second

	// Each that is remembered has a budget of its own, so that no stranger can
	// use it up: it is asked again no sooner than this after the last time.
	certificateRetry = time.Minute
)

// Fetch gets what stands at an address that a preset's provider has, up to
// MaxCertificate bytes. It must follow no redirect.
type Fetch func(ctx context.Context, address string) ([]byte, error)

// Certificates gets the certificates that some providers sign with, and
// remembers by their address those that are the provider's and lead to a root.
// One that is in force is used for as long as it is: once it is old it is
// fetched again beside the callbacks, which do not wait for that. Any number of
// goroutines may use it.
type Certificates struct {
	fetch Fetch
	roots *x509.CertPool
	once  singleflight.Group
	rate  *rate.Limiter

	mu    sync.Mutex
	known map[string]*Certificate
}

// Certificate is what stood at an address. Nothing is believed of it before
// verified.
type Certificate struct {
	address string
	leaf    *x509.Certificate
	others  *x509.CertPool
	roots   *x509.CertPool
	got     time.Time
	used    time.Time // held by the mutex of Certificates
	asked   time.Time // likewise: when its address was asked last

	// proven says that it has proven a callback: others make room before it.
	proven atomic.Bool

	// inForce is when it is known to lead to a root: to find that out takes
	// several times what a signature takes.
	inForce atomic.Pointer[period]
}

// period has both its ends within it.
type period struct{ from, until time.Time }

func (p *period) holds(t time.Time) bool { return p != nil && !t.Before(p.from) && !t.After(p.until) }

// NewCertificates returns an empty memory of certificates. They must lead to
// one of roots; nil stands for the system's.
func NewCertificates(fetch Fetch, roots *x509.CertPool) *Certificates {
	return &Certificates{
		fetch: fetch, roots: roots, known: map[string]*Certificate{},
		rate: rate.NewLimiter(rate.Every(certificateEvery), certificateBurst),
	}
}

var hostName = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)+$`)

// Fill gives a callback the certificate that it names, where its preset needs
// one and the address is its provider's. Verify says what is wrong with it; an
// error of kind Busy says that it could not be had, and that nobody can tell.
func (c *Certificates) Fill(ctx context.Context, e *Endpoint, req *Request, now time.Time) error {
	address := e.CertificateAddress(req)
	if c == nil || address == "" {
		return nil
	}
	cert, err := c.get(ctx, address, now)
	if err != nil {
		return errors.Join(relay.Errorf(relay.Busy, "certificate_unavailable", "the certificate of this callback could not be had: send it again"), err)
	}
	req.Certificate = cert
	return nil
}

// Recall does as Fill does with what is remembered alone: it fetches nothing.
func (c *Certificates) Recall(e *Endpoint, req *Request, now time.Time) {
	if address := e.CertificateAddress(req); c != nil && address != "" {
		req.Certificate, _ = c.remembered(address, now)
	}
}

// CertificateAddress is where the certificate stands that a callback names; ""
// where its preset needs none, or where the callback is rejected without it.
func (e *Endpoint) CertificateAddress(req *Request) string {
	if e.auth.scheme != &paypal || len(e.webhooks) == 0 {
		return ""
	}
	claim, err := readPayPal(req)
	if err != nil {
		return ""
	}
	return claim.certificate
}

func (c *Certificates) get(ctx context.Context, address string, now time.Time) (*Certificate, error) {
	cert, old := c.remembered(address, now)
	if cert == nil {
		return c.wait(ctx, address, now)
	}
	if old && c.mayAsk(address, now) {
		// Nobody waits for it: where it cannot be had, the one at hand goes on.
		c.once.DoChan(address, func() (any, error) { return c.ask(context.WithoutCancel(ctx), address, now) })
	}
	return cert, nil
}

// wait asks an address. Who waits for the same one shares one answer, and the
// caller that asks for it may go away.
func (c *Certificates) wait(ctx context.Context, address string, now time.Time) (*Certificate, error) {
	got, err, _ := c.once.Do(address, func() (any, error) {
		if !c.mayAsk(address, now) {
			return nil, errors.New("too many certificates are asked for")
		}
		return c.ask(context.WithoutCancel(ctx), address, now)
	})
	cert, _ := got.(*Certificate)
	return cert, err
}

func (c *Certificates) ask(ctx context.Context, address string, now time.Time) (*Certificate, error) {
	text, err := c.fetch(ctx, address)
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate(text)
	if err != nil {
		return nil, err
	}
	cert.address, cert.roots, cert.got, cert.asked = address, c.roots, now, now
	// Another is judged by Verify, and forgotten: a stranger chose its address.
	if cert.trusted(now) {
		c.remember(cert, now)
	}
	return cert, nil
}

// remembered returns the certificate of an address if it may be used: for a day
// whatever it is, since a replay judges by a time that is over, and longer while
// it is in force. old says that it is to be fetched again.
func (c *Certificates) remembered(address string, now time.Time) (cert *Certificate, old bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert = c.known[address]
	if cert == nil {
		return nil, false
	}
	old = now.Sub(cert.got) > certificateAge
	if old && !cert.inForce.Load().holds(now) {
		return nil, false
	}
	cert.used = now
	return cert, old
}

// mayAsk reports whether an address may be asked now, and counts that it is.
func (c *Certificates) mayAsk(address string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert := c.known[address]
	if cert == nil {
		return c.rate.AllowN(now, 1)
	}
	if now.Sub(cert.asked) < certificateRetry {
		return false
	}
	cert.asked = now
	return true
}

// remember keeps a certificate, and forgets another where there are too many.
func (c *Certificates) remember(cert *Certificate, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if before := c.known[cert.address]; before != nil {
		cert.proven.Store(before.proven.Load())
	} else if len(c.known) >= maxCertificates {
		delete(c.known, c.leastUsed().address)
	}
	cert.used = now
	c.known[cert.address] = cert
}

// leastUsed is the certificate that was used longest ago, of those that have
// proven no callback where there are any.
func (c *Certificates) leastUsed() *Certificate {
	return slices.MinFunc(slices.Collect(maps.Values(c.known)), func(a, b *Certificate) int {
		if proven := a.proven.Load(); proven != b.proven.Load() {
			if proven {
				return 1
			}
			return -1
		}
		return a.used.Compare(b.used)
	})
}

// parseCertificate reads PEM: the certificate itself, then those that it was
// issued by.
func parseCertificate(text []byte) (*Certificate, error) {
	if len(text) > MaxCertificate {
		return nil, errors.New("what stands there is too long for a certificate")
	}
	cert := &Certificate{others: x509.NewCertPool()}
	for range maxChain {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		parsed, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("what stands there is no certificate")
		}
		if cert.leaf == nil {
			cert.leaf = parsed
		} else {
			cert.others.AddCert(parsed)
		}
		text = rest
	}
	if cert.leaf == nil {
		return nil, errors.New("what stands there is no certificate")
	}
	return cert, nil
}

// trusted reports whether it is PayPal's and led to a root at some time until
// now: the last one at which it was in force itself.
func (c *Certificate) trusted(now time.Time) bool {
	if now.After(c.leaf.NotAfter) {
		now = c.leaf.NotAfter
	}
	_, err := c.verified(now)
	return err == nil && ofPayPal(c.leaf)
}

// verified returns the certificate if it leads to a root and was in force at
// that time. Whose it is the caller has to look at.
func (c *Certificate) verified(now time.Time) (*x509.Certificate, error) {
	if c.inForce.Load().holds(now) {
		return c.leaf, nil
	}
	chains, err := c.leaf.Verify(x509.VerifyOptions{
		Roots: c.roots, Intermediates: c.others, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, err
	}
	c.inForce.Store(commonPeriod(chains[0]))
	return c.leaf, nil
}

// commonPeriod is when all of a chain are in force, its root too.
func commonPeriod(chain []*x509.Certificate) *period {
	p := &period{chain[0].NotBefore, chain[0].NotAfter}
	for _, cert := range chain[1:] {
		if cert.NotBefore.After(p.from) {
			p.from = cert.NotBefore
		}
		if cert.NotAfter.Before(p.until) {
			p.until = cert.NotAfter
		}
	}
	return p
}
