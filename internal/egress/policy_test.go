package egress_test

import (
	"errors"
	"strings"
	"testing"

	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/relay"
)

func TestCheckURL(t *testing.T) {
	const good, bad, refused = "", "url_invalid", "address_refused"
	tests := []struct {
		name, policy, url string
		want              string
	}{
		{"a name", "", "https://bots.example/path?x=1", good},
		{"a name with a port", "", "https://bots.example:8443", good},
		{"a public address", "", "https://93.184.215.14", good},
		{"a public IPv6 address", "", "https://[2606:4700::1111]:443/", good},
		{"an international name", "", "https://xn--bcher-kva.example", good},

		{"plain http", "", "http://bots.example", bad},
		{"another scheme", "", "ftp://bots.example", bad},
		{"no scheme", "", "bots.example/x", bad},
		{"no host", "", "https:///x", bad},
		{"opaque", "", "https:bots.example", bad},
		{"user and password", "", "https://u:p@bots.example", bad},
		{"port zero", "", "https://bots.example:0", bad},
		{"port beyond", "", "https://bots.example:65536", bad},
		{"not ASCII", "", "https://１２７.0.0.1", bad},
		{"escaped host", "", "https://%C2%B2.example", bad},
		{"unreadable", "", "https://bots.example/%zz", bad},
		{"too long", "", "https://bots.example/" + strings.Repeat("a", egress.MaxURL), bad},
		{"public but odd", "", "https://134744072", bad},

		{"loopback", "", "https://127.0.0.1", refused},
		{"loopback, other", "", "https://127.8.9.10", refused},
		{"loopback by name", "", "https://localhost:8443", refused},
		{"loopback by name below", "", "https://x.LOCALHOST.", refused},
		{"loopback IPv6", "", "https://[::1]", refused},
		{"loopback decimal", "", "https://2130706433", refused},
		{"loopback octal", "", "https://0177.0.0.1", refused},
		{"loopback hexadecimal", "", "https://0x7f000001", refused},
		{"loopback in mixed parts", "", "https://0x7F.1", refused},
		{"loopback short", "", "https://127.1", refused},
		{"loopback with a dot at its end", "", "https://127.0.0.1.", refused},
		{"loopback mapped", "", "https://[::ffff:127.0.0.1]", refused},
		{"loopback mapped in hexadecimal", "", "https://[::ffff:7f00:1]", refused},
		{"loopback compatible", "", "https://[::127.0.0.1]", refused},
		{"loopback translated", "", "https://[::ffff:0:127.0.0.1]", refused},
		{"loopback by 6to4", "", "https://[2002:7f00:1::1]", refused},
		{"loopback by NAT64", "", "https://[64:ff9b::127.0.0.1]", refused},
		{"loopback by Teredo", "", "https://[2001:0:5ef5:79fd::80ff:fffe]", refused},
		{"10/8", "", "https://10.0.0.1", refused},
		{"172.16/12", "", "https://172.31.255.255", refused},
		{"192.168/16", "", "https://192.168.1.1", refused},
		{"10/8 mapped", "", "https://[::ffff:10.0.0.1]", refused},
		{"10/8 by 6to4", "", "https://[2002:a00:1::]", refused},
		{"10/8 by NAT64", "", "https://[64:ff9b::a00:1]", refused},
		{"ULA", "", "https://[fd12::1]", refused},
		{"link-local", "", "https://169.254.1.1", refused},
		{"link-local IPv6", "", "https://[fe80::1]", refused},
		{"link-local with a zone", "", "https://[fe80::1%25eth0]", refused},
		{"site-local", "", "https://[fec0::1]", refused},
		{"metadata", "", "https://169.254.169.254/latest", refused},
		{"metadata decimal", "", "https://2852039166", refused},
		{"metadata IPv6", "", "https://[fd00:ec2::254]", refused},
		{"metadata, Azure", "", "https://168.63.129.16", refused},
		{"unspecified", "", "https://0.0.0.0", refused},
		{"unspecified, number", "", "https://0", refused},
		{"unspecified IPv6", "", "https://[::]", refused},
		{"this network", "", "https://0.1.2.3", refused},
		{"carrier NAT", "", "https://100.64.0.1", refused},
		{"benchmarking", "", "https://198.19.0.1", refused},
		{"benchmarking IPv6", "", "https://[2001:2::1]", refused},
		{"documentation", "", "https://192.0.2.1", refused},
		{"documentation IPv6", "", "https://[2001:db8::1]", refused},
		{"multicast", "", "https://224.0.0.1", refused},
		{"multicast IPv6", "", "https://[ff02::1]", refused},
		{"future use", "", "https://240.0.0.1", refused},
		{"broadcast", "", "https://255.255.255.255", refused},
		{"local NAT64", "", "https://[64:ff9b:1::1]", refused},
		{"public by NAT64", "", "https://[64:ff9b::8.8.8.8]", good},

		{"true: loopback", "true", "http://127.0.0.1:8080", good},
		{"true: localhost", "true", "http://localhost:8080", good},
		{"true: RFC 1918", "true", "https://10.0.0.1", good},
		{"true: ULA", "true", "http://[fd12::1]", good},
		{"true: plain http to a name", "true", "http://bots.example", good},
		{"true: link-local", "true", "http://169.254.1.1", refused},
		{"true: metadata", "true", "http://169.254.169.254", refused},
		{"true: metadata IPv6", "true", "http://[fd00:ec2::254]", refused},
		{"true: metadata mapped", "true", "http://[::ffff:169.254.169.254]", refused},
		{"true: carrier NAT", "true", "http://100.64.0.1", refused},
		{"true: unspecified", "true", "http://0.0.0.0", refused},

		{"list: inside", "10.1.0.0/16, 100.64.0.0/10", "http://10.1.2.3", good},
		{"list: second", "10.1.0.0/16, 100.64.0.0/10", "http://100.64.1.1", good},
		{"list: outside", "10.1.0.0/16", "https://10.2.0.1", refused},
		{"list: one address", "127.0.0.1", "http://127.0.0.1", good},
		{"list: loopback is not implied", "10.1.0.0/16", "http://localhost", refused},
		{"list: public by https", "10.1.0.0/16", "https://8.8.8.8", good},
		{"list: public by http", "10.1.0.0/16", "http://8.8.8.8", refused},
		{"list: http to a name waits for its address", "10.1.0.0/16", "http://bots.example", good},
		{"list: by 6to4", "10.1.0.0/16", "https://[2002:a01:203::]", good},
		{"list: metadata inside", "100.64.0.0/10", "https://100.100.100.200", refused},
		{"list: metadata inside ULA", "fc00::/7", "https://[fd00:ec2::254]", refused},
		{"list: ULA", "fc00::/7", "http://[fd12::1]", good},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := egress.CheckURL(tt.url, policy(t, tt.policy))
			var refusal *relay.Error
			got := ""
			if errors.As(err, &refusal) {
				got = refusal.Code
			}
			if got != tt.want {
				t.Errorf("CheckURL(%.60q): got %q (%v), want %q", tt.url, got, err, tt.want)
			}
		})
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	tests := []struct{ name, list, want string }{
		{"a word", "yes", "is no network"},
		{"an empty item", "10.0.0.0/8,", "is no network"},
		{"a name", "bots.example", "is no network"},
		{"an address with a zone", "fe80::1%eth0", "is no network"},
		{"link-local", "169.254.0.0/16", "never called"},
		{"a part of link-local", "169.254.169.0/24", "never called"},
		{"link-local IPv6", "fe80::/64", "never called"},
		{"everything", "0.0.0.0/0", "never called"},
		{"everything IPv6", "::/0", "never called"},
		{"multicast", "239.0.0.0/8", "never called"},
		{"unspecified", "0.0.0.0", "never called"},
		{"unspecified IPv6", "::", "never called"},
		{"broadcast", "255.255.255.255", "never called"},
		{"metadata", "169.254.169.254/32", "never called"},
		{"metadata IPv6", "fd00:ec2::254", "never called"},
		{"metadata, Alibaba", "100.100.100.200", "never called"},
		{"mapped", "::ffff:10.0.0.0/104", "write the IPv4 network"},
		{"6to4", "2002:a00::/24", "write the IPv4 network"},
		{"too many", strings.Repeat("10.0.0.0/8,", 64) + "10.0.0.0/8", "more than 64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := egress.ParsePolicy(tt.list)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParsePolicy(%.40q): got error %v, want %q", tt.list, err, tt.want)
			}
		})
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{"https://0x7f.1/", "http://[::ffff:1.2.3.4%25a]:1", "https://a@b", "https://1.2.3.4.5", "https://0x/"} {
		f.Add(seed)
	}
	p, err := egress.ParsePolicy("10.0.0.0/8")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		err := egress.CheckURL(raw, p)
		if err != nil && !relay.IsKind(err, relay.Invalid) {
			t.Errorf("CheckURL(%q): got %v, want a refusal", raw, err)
		}
	})
}

// TestRefusalNamesTheSetting holds that who is refused a private address is
// told which setting allows it, and only where one can.
func TestRefusalNamesTheSetting(t *testing.T) {
	const setting = "RELAY_ALLOW_PRIVATE_TARGETS"
	for url, want := range map[string]bool{
		"http://bots.example": true, "https://10.0.0.1": true, "https://localhost": true, "https://100.64.0.1": true,
		"https://169.254.169.254": false, "https://[::ffff:169.254.169.254]": false, "https://100.100.100.200": false, "ftp://bots.example": false,
	} {
		err := egress.CheckURL(url, egress.Policy{})
		if err == nil || strings.Contains(err.Error(), setting) != want {
			t.Errorf("CheckURL(%q): got %v, want it to name %s: %t", url, err, setting, want)
		}
	}
}
