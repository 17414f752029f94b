package bench

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm wakes its owner at given times. The runtime's own timers wake an idle
// process up to a millisecond late, which would count as the relay's; a timer
// of the kernel that the runtime polls like a connection, some 0.1 ms.
type alarm struct{ timer *os.File }

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return &alarm{os.NewFile(uintptr(fd), "timer")}, nil
}

// wait returns at t.
func (a *alarm) wait(t time.Time) error {
	left := time.Until(t)
	if left <= 0 {
		return nil
	}
	conn, err := a.timer.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(left.Nanoseconds())}
	if err := conn.Control(func(fd uintptr) { set = unix.TimerfdSettime(int(fd), 0, &at, nil) }); err != nil {
		return err
	}
	if set != nil {
		return os.NewSyscallError("timerfd_settime", set)
	}
	var rung [8]byte // how often
	_, err = a.timer.Read(rung[:])
	return err
}

func (a *alarm) close() { _ = a.timer.Close() }
