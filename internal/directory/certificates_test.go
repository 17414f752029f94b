package directory_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// Many addresses that answer slowly, or not at all, hold a replay up for no
// longer than it is told; what needs no certificate, or names a stranger's,
// asks for none.
func TestFetchingCertificatesIsBounded(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.apply(t, document(nil, list(`{"name":"paypal","provider":"paypal","webhook_ids":["WH-1"]}`, pay), nil), directory.Options{})
	var asked []string
	d, err := directory.New(directory.Config{
		Store: n.store, PublicURL: publicURL, Log: leaks.Logger(t),
		Certificates: provider.NewCertificates(func(_ context.Context, address string) ([]byte, error) {
			asked = append(asked, address)
			time.Sleep(1500 * time.Millisecond) // in a bubble
			return nil, errors.New("not found")
		}, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	source := func(name string) int64 { return d.Current().Project(relay.DefaultProject).Source(name).ID }
	naming := func(source int64, address string) relay.Callback {
		return relay.Callback{SourceID: source, Headers: fmt.Appendf(nil, `{"Paypal-Cert-Url": %q, "Paypal-Auth-Algo": "SHA256withRSA",
			"Paypal-Transmission-Id": "1", "Paypal-Transmission-Time": "2026-03-14T09:26:53Z", "Paypal-Transmission-Sig": "AAAA"}`, address)}
	}
	callbacks := []relay.Callback{
		naming(source("pay"), "https://api.paypal.com/of-another-provider"), naming(source("paypal"), "https://evil.example/cert"),
		naming(-1, "https://api.paypal.com/of-no-source"),
		{SourceID: source("paypal"), Headers: []byte("{")},
		{SourceID: source("paypal")},
	}
	for i := range 8 {
		address := fmt.Sprintf("https://api.paypal.com/%d", i)
		callbacks = append(callbacks, naming(source("paypal"), address), naming(source("paypal"), address))
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		d.FetchCertificates(t.Context(), callbacks)
		if took := time.Since(start); took != 4500*time.Millisecond {
			t.Errorf("took %s, want the 4 s to their end and no address after them", took)
		}
	})
	if got := fmt.Sprint(asked); got != "[https://api.paypal.com/0 https://api.paypal.com/1 https://api.paypal.com/2]" {
		t.Errorf("asked %s, want the first three addresses, each once", got)
	}
}
