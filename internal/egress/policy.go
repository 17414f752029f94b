package egress

import (
	"fmt"
	"net/netip"
	"strings"
)

// maxListed is the largest number of networks that a policy may list.
const maxListed = 64

// Policy says which addresses may be called besides the open internet. The
// zero Policy allows none besides it, and https only.
type Policy struct {
	private   bool           // loopback, RFC 1918 and ULA
	plainHTTP bool           // http without TLS, wherever a call may go
	listed    []netip.Prefix // these networks, by plain http too
}

// ParsePolicy reads RELAY_ALLOW_PRIVATE_TARGETS: "" or false for nothing more
// than the open internet; true for loopback, RFC 1918, ULA and plain http; or
// networks with commas between them, such as 10.1.0.0/16, which may then be
// called, by plain http too. A network with addresses that are never called,
// link-local, multicast, cloud metadata and their like, is refused.
func ParsePolicy(s string) (Policy, error) {
	switch strings.TrimSpace(s) {
	case "", "false":
		return Policy{}, nil
	case "true":
		return Policy{private: true, plainHTTP: true}, nil
	}
	items := strings.Split(s, ",")
	if len(items) > maxListed {
		return Policy{}, fmt.Errorf("%d networks are listed, more than %d: write wider ones", len(items), maxListed)
	}
	var p Policy
	for _, item := range items {
		network, err := parseNetwork(strings.TrimSpace(item))
		if err != nil {
			return Policy{}, err
		}
		p.listed = append(p.listed, network)
	}
	return p, nil
}

// parseNetwork reads one network, or one address.
func parseNetwork(s string) (netip.Prefix, error) {
	network, err := netip.ParsePrefix(s)
	if addr, addrErr := netip.ParseAddr(s); addrErr == nil && addr.Zone() == "" {
		network, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no network: write true, or networks such as 10.1.0.0/16 with commas between them", s)
	}
	network = network.Masked()
	if inner := unwrap(network.Addr()); network.Addr().Is6() && inner.Is4() {
		return netip.Prefix{}, fmt.Errorf("%s carries IPv4 addresses: write the IPv4 network that they stand for", network)
	}
	for _, n := range never {
		if n.Overlaps(network) {
			return netip.Prefix{}, neverError(network, n)
		}
	}
	for _, n := range metadata {
		if n.Contains(network.Addr()) && n.Bits() <= network.Bits() {
			return netip.Prefix{}, neverError(network, n)
		}
	}
	return network, nil
}

func neverError(network, never netip.Prefix) error {
	return fmt.Errorf("%s cannot be allowed: it has addresses of %s, which are never called; list only what is needed", network, never)
}

// forbidden reports whether no policy can allow addr.
func forbidden(addr netip.Addr) bool { return within(never, addr) || within(metadata, addr) }

// allows reports whether addr may be called, and by plain http if plain.
func (p Policy) allows(addr netip.Addr, plain bool) bool {
	addr = unwrap(addr)
	switch {
	case !addr.IsValid() || forbidden(addr):
		return false
	case within(p.listed, addr):
		return true
	case plain && !p.plainHTTP:
		return false
	case within(private, addr):
		return p.private
	default:
		return !within(reserved, addr) && (addr.Is4() || global6.Contains(addr))
	}
}

// allowsPlain reports whether there is any address that may be called by
// plain http.
func (p Policy) allowsPlain() bool { return p.plainHTTP || len(p.listed) > 0 }
