package egress

import (
	"encoding/binary"
	"net/netip"
)

// The networks below come from the IANA registries of special-purpose
// addresses. They are variables only because Go has no constant of the type.
var (
	// never is refused whatever a policy says, and a policy may not list it.
	never = prefixes(
		"0.0.0.0/8",          // this host, on Linux the same as loopback
		"169.254.0.0/16",     // link-local, with most clouds' metadata
		"224.0.0.0/4",        // multicast
		"255.255.255.255/32", // broadcast
		"::/128",             // unspecified
		"fe80::/10",          // link-local
		"ff00::/8",           // multicast
	)

	// metadata is what an attacker who can name a URL wants most: it hands out
	// the machine's credentials. These lie in networks that a policy may list,
	// and stay refused there.
	metadata = prefixes(
		"100.100.100.200/32",     // Alibaba
		"168.63.129.16/32",       // Azure, otherwise a public address
		"192.0.0.192/32",         // Oracle
		"fd00:ec2::/32",          // AWS, with its other local services
		"fd20:ce::254/128",       // Google
		"fd00:c1::a9fe:a9fe/128", // Oracle
	)

	// private is what `true` allows.
	private = prefixes("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")

	// reserved is neither private nor of the open internet.
	reserved = prefixes(
		"100.64.0.0/10",   // carrier-grade NAT
		"192.0.0.0/24",    // protocol assignments
		"192.0.2.0/24",    // documentation
		"192.88.99.0/24",  // 6to4 relays, deprecated
		"198.18.0.0/15",   // benchmarking
		"198.51.100.0/24", // documentation
		"203.0.113.0/24",  // documentation
		"240.0.0.0/4",     // future use
		"2001::/23",       // protocol assignments, benchmarking, ORCHID
		"2001:db8::/32",   // documentation
		"3fff::/20",       // documentation
	)

	// global6 is all of IPv6 that is assigned for global use.
	global6 = netip.MustParsePrefix("2000::/3")
)

// The IPv6 networks whose addresses carry an IPv4 address, which is where the
// packets end up.
var (
	sixToFour  = netip.MustParsePrefix("2002::/16")
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	teredo     = netip.MustParsePrefix("2001::/32")
	compatible = netip.MustParsePrefix("::/96") // deprecated, and some stacks still know it
	translated = netip.MustParsePrefix("::ffff:0:0:0/96")
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// within reports whether one of the networks holds addr.
func within(networks []netip.Prefix, addr netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// unwrap returns the IPv4 address that addr carries, or addr.
func unwrap(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if !addr.Is6() {
		return addr
	}
	raw := addr.As16()
	switch {
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(raw[2:6]))
	case teredo.Contains(addr):
		// A Teredo client's address stands at the end, every bit inverted.
		return fromUint32(^binary.BigEndian.Uint32(raw[12:]))
	case nat64.Contains(addr), translated.Contains(addr):
		return netip.AddrFrom4([4]byte(raw[12:]))
	case compatible.Contains(addr) && binary.BigEndian.Uint32(raw[12:]) > 1:
		// :: and ::1 are what they are.
		return netip.AddrFrom4([4]byte(raw[12:]))
	}
	return addr
}

func fromUint32(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}
