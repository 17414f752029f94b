package handlers

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// The budgets of what people send in by hosted forms, per node. A person needs
// a few tries; many people may share one address.
const (
	formSendsPerSecond    = 0.2 // of one form
	formSendsBurst        = 10
	addressSendsPerSecond = 5 // from one address
	addressSendsBurst     = 100
	senders               = 20_000 // forms, and addresses, whose budgets are remembered
	sendRetryAfter        = 60     // seconds
)

// sendBudget says who has sent too much. It forgets all when it is full: that
// is kinder than to refuse, and its memory is bounded.
type sendBudget struct {
	mu        sync.Mutex
	forms     map[string]*rate.Limiter
	addresses map[netip.Addr]*rate.Limiter
}

func newSendBudget() *sendBudget {
	return &sendBudget{forms: map[string]*rate.Limiter{}, addresses: map[netip.Addr]*rate.Limiter{}}
}

func (b *sendBudget) allow(token string, from netip.Addr, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	form := limiterOf(b.forms, token, formSendsPerSecond, formSendsBurst)
	address := limiterOf(b.addresses, from, addressSendsPerSecond, addressSendsBurst)
	return form.AllowN(now, 1) && address.AllowN(now, 1)
}

func limiterOf[K comparable](m map[K]*rate.Limiter, of K, perSecond rate.Limit, burst int) *rate.Limiter {
	l := m[of]
	if l == nil {
		if len(m) >= senders {
			clear(m)
		}
		l = rate.NewLimiter(perSecond, burst)
		m[of] = l
	}
	return l
}

// addressOf is the address that a request comes from. What X-Forwarded-For
// says is believed only of proxies that we were told to trust: anybody else
// may write anything into it. An IPv6 address stands for its network, of which
// one person has all.
func addressOf(r *http.Request, trusted []netip.Prefix) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	from := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && trusts(trusted, from); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		from = hop.Unmap()
	}
	if from.Is6() {
		network, _ := from.WithZone("").Prefix(64)
		return network.Addr()
	}
	return from
}

func trusts(trusted []netip.Prefix, proxy netip.Addr) bool {
	return slices.ContainsFunc(trusted, func(network netip.Prefix) bool { return network.Contains(proxy) })
}
