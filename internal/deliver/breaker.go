package deliver

import "time"

// The bounds of a breaker.
const (
	breakerFailures = 10               // calls in a row that open it
	firstProbe      = time.Second      // until the first probe; it doubles with each that fails
	maxProbe        = 30 * time.Second // between probes
)

// breaker keeps a node from calling a destination that does not answer. It
// opens when breakerFailures calls in a row have failed in a way that says
// nothing about the call itself: no connection, no answer in time, or one that
// asks to try again. Then one call at a time probes, and the first answer
// closes it.
//
// It is each node's own, and in memory: what it knows is worth a few calls.
// Three numbers under the lane's lock are less than any library's breaker asks
// of its caller, and none tells whether a probe is due without taking it, which
// claims need. It is not safe for concurrent use.
type breaker struct {
	failures int       // in a row
	probes   int       // in a row that have failed
	until    time.Time // when the next probe is due; zero: it is closed
	probing  bool      // one is under way
}

func (b *breaker) open() bool { return !b.until.IsZero() }

// fresh reports whether there is nothing to remember.
func (b *breaker) fresh() bool { return b.failures == 0 && !b.open() }

// wantsProbe reports whether the next call is to be a probe.
func (b *breaker) wantsProbe(now time.Time) bool {
	return b.open() && !b.probing && !now.Before(b.until)
}

// permit reports whether a call may be made, and whether it is a probe.
func (b *breaker) permit(now time.Time) (permitted, probe bool) {
	probe = b.wantsProbe(now)
	b.probing = b.probing || probe
	return probe || !b.open(), probe
}

// ended notes what a call came to, and reports whether that opened or closed
// the breaker. What was under way when it opened cannot open it further.
func (b *breaker) ended(answered, probe bool, now time.Time) (changed bool) {
	wasOpen := b.open()
	switch {
	case answered:
		*b = breaker{}
	case probe:
		b.probing = false
		b.probes++
		b.until = now.Add(b.pause())
	case !wasOpen:
		if b.failures++; b.failures >= breakerFailures {
			b.until = now.Add(b.pause())
		}
	}
	return b.open() != wasOpen
}

// dropped notes that a permitted call was not made after all.
func (b *breaker) dropped(probe bool) {
	if probe {
		b.probing = false
	}
}

func (b *breaker) pause() time.Duration {
	if b.probes >= 5 { // 1 s × 2⁵ is past the cap
		return maxProbe
	}
	return firstProbe << b.probes
}
