package directory

import (
	"context"
	"net/http"
	"time"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// refetchTimeout bounds what one piece of a replay fetches: no further address
// is asked after it. A piece has 10 s in all, and what was fetched is of use
// only if there is time left to decide and to record it.
const refetchTimeout = 4 * time.Second

// Certificates are those that some providers sign with; nil where none are
// fetched.
func (d *Directory) Certificates() *provider.Certificates { return d.cfg.Certificates }

// FetchCertificates gets the certificates that stored callbacks name, for
// ReadAgain, which fetches nothing: it is called while rows are locked. Each
// address is asked once. A certificate that cannot be had leaves its callbacks
// rejected; they can be replayed again.
func (d *Directory) FetchCertificates(ctx context.Context, callbacks []relay.Callback) {
	ctx, cancel := context.WithTimeout(ctx, refetchTimeout)
	defer cancel()
	asked := map[string]bool{}
	failed := 0
	var why error
	for i := range callbacks {
		endpoint, req := d.Current().certified(&callbacks[i])
		address := ""
		if endpoint != nil {
			address = endpoint.CertificateAddress(req)
		}
		if address == "" || asked[address] {
			continue
		}
		asked[address] = true
		err := ctx.Err()
		if err == nil {
			err = d.cfg.Certificates.Fill(ctx, endpoint, req, time.Now())
		}
		if err != nil {
			failed, why = failed+1, err
		}
	}
	if failed > 0 {
		d.cfg.Log.Warn("certificates that rejected callbacks name cannot be had: replay those callbacks again", "missing", failed, "error", why)
	}
}

// certified returns how a stored callback is verified, and as much of its
// request as names a certificate; nil where it cannot be read any more.
func (s *Snapshot) certified(c *relay.Callback) (*provider.Endpoint, *provider.Request) {
	src := s.SourceByID(c.SourceID)
	if src == nil || src.Err != nil {
		return nil, nil
	}
	header, err := headersOf(c)
	if err != nil {
		return nil, nil
	}
	return src.Endpoint, &provider.Request{Method: http.MethodPost, Header: header}
}
