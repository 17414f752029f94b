package provider

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"hash/crc32"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// PayPal signs with RSA, and names the address of its certificate. There is no
// secret: what ties a callback to this source is the webhook's id, which is
// part of what is signed, and what ties it to PayPal is the certificate.
var paypal = scheme{
	check: checkPayPal, headers: paypalHeaders, byWebhookID: true,
}

var paypalHeaders = []string{paypalAlgorithm, paypalCertificate, paypalID, paypalSignature, paypalTime}

// The headers of a callback.
const (
	paypalAlgorithm   = "Paypal-Auth-Algo"
	paypalCertificate = "Paypal-Cert-Url"
	paypalID          = "Paypal-Transmission-Id"
	paypalSignature   = "Paypal-Transmission-Sig"
	paypalTime        = "Paypal-Transmission-Time"
)

// paypalDomain is where PayPal's certificates stand, and whose they are.
const paypalDomain = ".paypal.com"

// paypalClaim is what the headers of a callback say.
type paypalClaim struct {
	id, time    string
	certificate string // an address that is PayPal's
	signature   []byte
}

// readPayPal reads all that can be looked at without a certificate: nothing is
// fetched for a callback that is rejected anyway.
func readPayPal(req *Request) (*paypalClaim, error) {
	texts := map[string]string{}
	for _, name := range paypalHeaders {
		text, err := single(req, name)
		if err != nil {
			return nil, err
		}
		texts[name] = text
	}
	if !strings.EqualFold(texts[paypalAlgorithm], "SHA256withRSA") {
		return nil, rejectAt(BadHeader, "the header "+paypalAlgorithm)
	}
	sent, err := base64.StdEncoding.DecodeString(texts[paypalSignature])
	if err != nil {
		return nil, rejectAt(BadHeader, "the header "+paypalSignature)
	}
	if !isPayPals(texts[paypalCertificate]) {
		return nil, rejectAt(BadCertificate, "the header "+paypalCertificate)
	}
	return &paypalClaim{texts[paypalID], texts[paypalTime], texts[paypalCertificate], sent}, nil
}

func checkPayPal(s *scope, keys []signingKey, now time.Time) (int, error) {
	claim, err := readPayPal(s.req)
	if err != nil {
		return 0, err
	}
	public, err := paypalKey(s.req, claim.certificate, now)
	if err != nil {
		return 0, err
	}
	sum := strconv.FormatUint(uint64(crc32.ChecksumIEEE(s.req.Body)), 10)
	for i := range keys {
		message := sha256.Sum256([]byte(strings.Join([]string{claim.id, claim.time, keys[i].text, sum}, "|")))
		if rsa.VerifyPKCS1v15(public, crypto.SHA256, message[:], claim.signature) == nil {
			s.req.Certificate.proven.Store(true)
			return keys[i].index, nil
		}
	}
	return 0, rejectAt(SignatureMismatch, "webhook_ids")
}

// paypalKey returns the key of a certificate that is PayPal's and in force.
func paypalKey(req *Request, address string, now time.Time) (*rsa.PublicKey, error) {
	if req.Certificate == nil || req.Certificate.address != address {
		return nil, rejectAt(NoCertificate, "the header "+paypalCertificate)
	}
	leaf, err := req.Certificate.verified(now)
	if err != nil || !ofPayPal(leaf) {
		return nil, reject(BadCertificate)
	}
	public, isRSA := leaf.PublicKey.(*rsa.PublicKey)
	if !isRSA {
		return nil, reject(BadCertificate)
	}
	return public, nil
}

// ofPayPal reports whether a certificate names PayPal.
func ofPayPal(leaf *x509.Certificate) bool {
	names := leaf.DNSNames
	if len(names) == 0 {
		names = []string{leaf.Subject.CommonName}
	}
	return slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(strings.ToLower(name), paypalDomain) })
}

// notShown stands for a signature that is kept.
const notShown = "(not shown)"

// ShownHeaders returns the headers of a stored callback as they may be shown.
// PayPal's signature is left out: no secret and no clock ends it, and a replay
// alone needs it.
func ShownHeaders(kept map[string]string) map[string]string {
	if kept[paypalSignature] == "" {
		return kept
	}
	shown := maps.Clone(kept)
	shown[paypalSignature] = notShown
	return shown
}

// isPayPals reports whether an address may be asked for a certificate: a
// stranger names it, so that nothing but the plainest form passes. One place
// has one such form, or a stranger could have each remembered.
func isPayPals(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "https" && u.User == nil && u.Port() == "" && u.Opaque == "" &&
		u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && len(address) <= 255 && u.String() == address &&
		strings.HasSuffix(u.Host, paypalDomain) && hostName.MatchString(u.Host) && plainPath.MatchString(u.EscapedPath())
}

// plainPath has names alone: no escapes, no parameters, nothing that a server
// takes out again, such as // and a dot before a name.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+$`)
