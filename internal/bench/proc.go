package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// clockTick is the unit of CPU times in /proc, in seconds: USER_HZ is 100 on
// every Linux that Go runs on.
const clockTick = 0.01

// procfs is where the kernel tells of processes: /proc, but for tests.
type procfs string

const proc = procfs("/proc")

// kernelThreads is the parent of the kernel's own threads.
const kernelThreads = 2

// usage is what had been used of the machine at one moment, in CPU seconds.
type usage struct {
	relay     float64
	postgres  float64 // the postmaster and all its children, ended ones too
	generator float64
	sink      float64
	foreign   float64 // all other processes, those that have ended and been waited for too
	stolen    float64 // by the host of a virtual machine
}

func (u usage) since(b usage) usage {
	return usage{
		relay: u.relay - b.relay, postgres: u.postgres - b.postgres,
		generator: u.generator - b.generator, sink: u.sink - b.sink,
		// What somebody had used and nobody waited for is gone from the sum.
		foreign: max(0, u.foreign-b.foreign), stolen: u.stolen - b.stolen,
	}
}

// usage reads the CPU time of everybody. What others took is the sum of theirs,
// not what the machine's total leaves over: most kernels sample that total at
// the timer's tick, while the time of a process is exact, and the difference of
// the two may be less than nothing.
func (p procfs) usage(t Target, generator int) (u usage, err error) {
	all, err := p.processes()
	if err != nil {
		return u, err
	}
	for _, proc := range all {
		switch {
		case proc.pid == t.RelayPID:
			u.relay = proc.own
		case proc.pid == t.SinkPID:
			u.sink = proc.own
		case proc.pid == generator:
			u.generator = proc.own
		case proc.pid == t.PostgresPID:
			u.postgres += proc.own + proc.ended
		case proc.parent == t.PostgresPID:
			u.postgres += proc.own
		case proc.pid == kernelThreads || proc.parent == kernelThreads:
			// Whom a kernel thread works for cannot be told. Most write our pages.
		default:
			u.foreign += proc.own + proc.ended
		}
	}
	for _, pid := range []int{t.RelayPID, t.PostgresPID, t.SinkPID, generator} {
		if !slices.ContainsFunc(all, func(proc process) bool { return proc.pid == pid }) {
			return u, fmt.Errorf("process %d has ended, and with it what was to be measured", pid)
		}
	}
	u.stolen, err = p.stolen()
	return u, err
}

// process is what /proc tells of one, in CPU seconds.
type process struct {
	pid, parent int
	own         float64
	ended       float64 // children that have ended, and been waited for
}

// processes reads all of them. Those that end meanwhile are passed over.
func (p procfs) processes() ([]process, error) {
	paths, err := filepath.Glob(filepath.Join(string(p), "[0-9]*", "stat"))
	if err != nil {
		return nil, err
	}
	all := make([]process, 0, len(paths))
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		one, err := parseStat(raw)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		all = append(all, one)
	}
	return all, nil
}

// parseStat reads /proc/PID/stat. The command in parentheses may hold
// anything.
func parseStat(raw []byte) (p process, err error) {
	number, _, _ := bytes.Cut(raw, []byte(" "))
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 15 {
		return p, fmt.Errorf("it has %d fields after the command, want 15 or more", len(fields))
	}
	if p.pid, err = strconv.Atoi(string(number)); err != nil {
		return p, err
	}
	if p.parent, err = strconv.Atoi(fields[1]); err != nil {
		return p, err
	}
	var ticks [4]float64 // utime, stime, cutime, cstime
	for i := range ticks {
		if ticks[i], err = strconv.ParseFloat(fields[11+i], 64); err != nil {
			return p, err
		}
	}
	p.own, p.ended = (ticks[0]+ticks[1])*clockTick, (ticks[2]+ticks[3])*clockTick
	return p, nil
}

// stolenField is the place of stolen time in the first line of /proc/stat.
const stolenField = 8

// stolen returns the CPU seconds that the host gave to others.
func (p procfs) stolen() (float64, error) {
	raw, err := os.ReadFile(filepath.Join(string(p), "stat"))
	if err != nil {
		return 0, fmt.Errorf("reading the machine's CPU time: %w", err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	fields := strings.Fields(line)
	if len(fields) <= stolenField {
		return 0, fmt.Errorf("reading the machine's CPU time: %s/stat begins with %q", p, line)
	}
	ticks, err := strconv.ParseFloat(fields[stolenField], 64)
	if err != nil {
		return 0, fmt.Errorf("reading the machine's CPU time: %w", err)
	}
	return ticks * clockTick, nil
}

// PeakRSS returns the most memory that a process has had resident since its
// start, in bytes.
func PeakRSS(pid int) (int64, error) { return proc.peakRSS(pid) }

// Children returns the processes whose parent a process is.
func Children(pid int) (pids []int, err error) {
	all, err := proc.processes()
	for _, p := range all {
		if p.parent == pid {
			pids = append(pids, p.pid)
		}
	}
	return pids, err
}

// peakRSS returns the most memory that a process has had resident, in bytes,
// since resetPeak.
func (p procfs) peakRSS(pid int) (int64, error) {
	raw, err := os.ReadFile(filepath.Join(string(p), strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("reading a process's memory: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s/%d/status has no VmHWM", p, pid)
}

// resetPeak makes peakRSS begin anew.
func (p procfs) resetPeak(pid int) error {
	return os.WriteFile(filepath.Join(string(p), strconv.Itoa(pid), "clear_refs"), []byte("5"), 0)
}
