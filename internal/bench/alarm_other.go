//go:build !linux

package bench

import "time"

// alarm wakes its owner at given times. Not every system has a way that is
// closer than the runtime's timers.
type alarm struct{}

func newAlarm() (*alarm, error) { return &alarm{}, nil }

// wait returns at t.
func (*alarm) wait(t time.Time) error {
	time.Sleep(time.Until(t))
	return nil
}

func (*alarm) close() {}
