package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// clockTick is the unit of CPU times in /proc, in seconds: USER_HZ is 100 on
// every Linux that Go runs on.
const clockTick = 0.01

// usage is what processes had used of the machine at one moment.
type usage struct {
	relay    float64 // CPU seconds
	postgres float64 // of the postmaster and all its children, ended ones too
	machine  float64 // of everybody
	self     float64 // load generator and sink
	wal      int64   // bytes written so far
}

func (a usage) since(b usage) usage {
	return usage{
		relay: a.relay - b.relay, postgres: a.postgres - b.postgres, machine: a.machine - b.machine,
		self: a.self - b.self, wal: a.wal - b.wal,
	}
}

// processCPU returns the CPU seconds of a process and, with children, of all
// its living and ended children.
func processCPU(pid int, children bool) (float64, error) {
	own, ended, err := readStat(pid)
	if err != nil || !children {
		return own, err
	}
	total := own + ended
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range all {
		child, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil || parentOf(child) != pid {
			continue
		}
		if cpu, _, err := readStat(child); err == nil { // it may have ended meanwhile
			total += cpu
		}
	}
	return total, nil
}

// readStat returns a process's own CPU seconds and those of its ended
// children.
func readStat(pid int) (own, ended float64, err error) {
	fields, err := statFields(pid)
	if err != nil {
		return 0, 0, err
	}
	var ticks [4]float64 // utime, stime, cutime, cstime
	for i := range ticks {
		if ticks[i], err = strconv.ParseFloat(fields[11+i], 64); err != nil {
			return 0, 0, fmt.Errorf("reading /proc/%d/stat: %w", pid, err)
		}
	}
	return (ticks[0] + ticks[1]) * clockTick, (ticks[2] + ticks[3]) * clockTick, nil
}

func parentOf(pid int) int {
	fields, err := statFields(pid)
	if err != nil {
		return 0
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}

// statFields returns the fields of /proc/PID/stat after the command, whose
// name may hold anything.
func statFields(pid int) ([]string, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, fmt.Errorf("reading a process's CPU time: %w", err)
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
	}
	return fields, nil
}

// machineCPU returns the busy CPU seconds of the whole machine.
func machineCPU() (float64, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("reading the machine's CPU time: %w", err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	var busy float64
	for i, field := range strings.Fields(line)[1:] {
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, fmt.Errorf("reading /proc/stat: %w", err)
		}
		if i != 3 && i != 4 && i < 8 { // neither idle nor iowait; guests are in user
			busy += ticks * clockTick
		}
	}
	return busy, nil
}

// peakRSS returns the most memory that a process has had resident, in bytes,
// since resetPeak.
func peakRSS(pid int) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("reading a process's memory: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no VmHWM", pid)
}

// resetPeak makes peakRSS begin anew.
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}
