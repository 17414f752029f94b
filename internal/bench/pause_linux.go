package bench

import (
	"syscall"
	"time"
)

// pauseUntil waits for t. The runtime's own timers wake an idle process up to
// a millisecond late, which would count as the relay's; the kernel's some 60
// µs.
func pauseUntil(t time.Time) {
	for {
		left := time.Until(t)
		if left <= 0 {
			return
		}
		rest := syscall.NsecToTimespec(left.Nanoseconds())
		_ = syscall.Nanosleep(&rest, nil) // a signal ends it early
	}
}
