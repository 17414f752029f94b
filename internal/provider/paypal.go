package provider

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"hash/crc32"
	"net/url"
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

func checkPayPal(s *scope, keys []signingKey, now time.Time) (int, error) {
	texts := map[string]string{}
	for _, name := range paypalHeaders {
		text, err := single(s.req, name)
		if err != nil {
			return 0, err
		}
		texts[name] = text
	}
	if !strings.EqualFold(texts[paypalAlgorithm], "SHA256withRSA") {
		return 0, rejectAt(BadHeader, "the header "+paypalAlgorithm)
	}
	sent, err := base64.StdEncoding.DecodeString(texts[paypalSignature])
	if err != nil {
		return 0, rejectAt(BadHeader, "the header "+paypalSignature)
	}
	public, err := paypalKey(s.req, texts[paypalCertificate], now)
	if err != nil {
		return 0, err
	}
	sum := strconv.FormatUint(uint64(crc32.ChecksumIEEE(s.req.Body)), 10)
	for i := range keys {
		message := sha256.Sum256([]byte(strings.Join([]string{texts[paypalID], texts[paypalTime], keys[i].text, sum}, "|")))
		if rsa.VerifyPKCS1v15(public, crypto.SHA256, message[:], sent) == nil {
			return keys[i].index, nil
		}
	}
	return 0, rejectAt(SignatureMismatch, "webhook_ids")
}

// paypalKey returns the key of a certificate that is PayPal's and in force.
func paypalKey(req *Request, address string, now time.Time) (*rsa.PublicKey, error) {
	switch {
	case !isPayPals(address):
		return nil, rejectAt(BadCertificate, "the header "+paypalCertificate)
	case req.Certificate == nil || req.Certificate.address != address:
		return nil, rejectAt(NoCertificate, "the header "+paypalCertificate)
	}
	leaf, err := req.Certificate.verified(now)
	if err != nil {
		return nil, reject(BadCertificate)
	}
	names := leaf.DNSNames
	if len(names) == 0 {
		names = []string{leaf.Subject.CommonName}
	}
	public, isRSA := leaf.PublicKey.(*rsa.PublicKey)
	if !isRSA || !slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(strings.ToLower(name), paypalDomain) }) {
		return nil, reject(BadCertificate)
	}
	return public, nil
}

// isPayPals reports whether an address may be asked for a certificate: a
// stranger names it, so that nothing but the plainest form passes.
func isPayPals(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "https" && u.User == nil && u.Port() == "" && u.Opaque == "" &&
		u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && len(address) <= 255 && u.String() == address &&
		strings.HasSuffix(u.Host, paypalDomain) && hostName.MatchString(u.Host) && strings.HasPrefix(u.Path, "/")
}
