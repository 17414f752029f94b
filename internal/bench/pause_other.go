//go:build !linux

package bench

import "time"

// pauseUntil waits for t. Not every system has a way that is closer than the
// runtime's timers.
func pauseUntil(t time.Time) { time.Sleep(time.Until(t)) }
