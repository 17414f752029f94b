package egress

import (
	"errors"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"relay.example/relay/internal/relay"
)

// MaxURL is the longest URL, in bytes, that is called.
const MaxURL = 4 << 10

// The codes of what CheckURL refuses.
const (
	codeBadURL  = "url_invalid"
	codeRefused = "address_refused"
)

// CheckURL says, when a destination is configured, whether calls to a URL can
// be allowed: its scheme, its host, and its address where the host is one. A
// name is judged when it is dialled, by every address that it then has. Its
// error is a *relay.Error that says what to do and repeats nothing of the URL
// but its host.
func CheckURL(raw string, p Policy) error {
	_, err := checkURL(raw, p)
	return err
}

func checkURL(raw string, p Policy) (*url.URL, error) {
	if len(raw) > MaxURL {
		return nil, relay.Errorf(relay.Invalid, codeBadURL, "a URL may be %d bytes long", MaxURL)
	}
	u, err := url.Parse(raw)
	if err != nil {
		// The parser's own error quotes the URL.
		return nil, relay.Errorf(relay.Invalid, codeBadURL, "this is no URL: write it like https://bots.example/path")
	}
	plain := u.Scheme == "http"
	switch {
	case plain && !p.allowsPlain():
		return nil, relay.Errorf(relay.Invalid, codeBadURL, "plain http is not allowed: use https, or allow it with RELAY_ALLOW_PRIVATE_TARGETS")
	case !plain && u.Scheme != "https":
		return nil, relay.Errorf(relay.Invalid, codeBadURL, "a URL must begin with https://")
	case u.User != nil:
		return nil, relay.Errorf(relay.Invalid, codeBadURL, "a URL may hold no user name and password: use the destination's own fields for them")
	}
	if err := checkPort(u.Port()); err != nil {
		return nil, err
	}
	return u, checkHost(u.Hostname(), p, plain)
}

func checkPort(port string) error {
	if port == "" {
		return nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return relay.Errorf(relay.Invalid, codeBadURL, "a port is a number from 1 to 65535")
	}
	return nil
}

func checkHost(host string, p Policy, plain bool) error {
	if host == "" {
		return relay.Errorf(relay.Invalid, codeBadURL, "the URL names no host")
	}
	if !isHost(host) {
		// Letters beyond ASCII are folded before they are looked up, and some
		// fold to digits and dots.
		return relay.Errorf(relay.Invalid, codeBadURL, "a host is written in ASCII letters, digits, dots and dashes: write an international name in its xn-- form")
	}
	addr, odd := literal(host)
	switch {
	case !addr.IsValid():
		return nil
	case forbidden(unwrap(addr)):
		return relay.Errorf(relay.Invalid, codeRefused, "%s is an address that is never called: use another", host)
	case !p.allows(addr, plain):
		return relay.Errorf(relay.Invalid, codeRefused,
			"%s is not an address that may be called: use a public one, or allow its network with RELAY_ALLOW_PRIVATE_TARGETS", host)
	case odd:
		return relay.Errorf(relay.Invalid, codeBadURL, "%s is read as an address by some and as a name by others: write %s", host, addr)
	default:
		return nil
	}
}

// isHost reports whether host has the characters of a name or of an address.
func isHost(host string) bool {
	return len(host) <= 253 && !strings.ContainsFunc(host, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		digit := r >= '0' && r <= '9'
		return !letter && !digit && !strings.ContainsRune(".-_:%", r)
	})
}

// literal returns the address that a host stands for, if it is one or is
// known to be. odd tells of spellings that only some resolvers take for an
// address: parts left out, decimal, octal, hexadecimal, a dot at the end.
func literal(host string) (addr netip.Addr, odd bool) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr, false
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), false
	}
	addr, err := looseIPv4(name)
	return addr, err == nil
}

var errNotIPv4 = errors.New("not an IPv4 address")

// looseIPv4 reads an IPv4 address the way inet_aton does: one to four numbers,
// decimal, octal after 0 or hexadecimal after 0x, the last of which fills all
// the bytes that are left.
func looseIPv4(host string) (netip.Addr, error) {
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return netip.Addr{}, errNotIPv4
	}
	var sum uint64
	for i, part := range parts {
		n, err := looseNumber(part)
		if err != nil {
			return netip.Addr{}, errNotIPv4
		}
		last := i == len(parts)-1
		width := 8
		if last {
			width = 8 * (5 - len(parts))
		}
		if n>>width != 0 {
			return netip.Addr{}, errNotIPv4
		}
		sum = sum<<width | n
	}
	return fromUint32(uint32(sum)), nil // four bytes by construction
}

func looseNumber(s string) (uint64, error) {
	if hex, ok := strings.CutPrefix(s, "0x"); ok {
		return strconv.ParseUint("0"+hex, 16, 64)
	}
	if len(s) > 1 && s[0] == '0' {
		return strconv.ParseUint(s, 8, 64)
	}
	return strconv.ParseUint(s, 10, 64)
}
