package bench

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// fakeProc writes what /proc would tell: one line per process, and the
// machine's.
func fakeProc(t *testing.T, dir string, stolen int, processes ...fakeProcess) {
	t.Helper()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range processes {
		write(filepath.Join(strconv.Itoa(p.pid), "stat"), fmt.Sprintf("%d (a) b (c) S %d 1 1 0 -1 0 0 0 0 0 %d %d %d 0 20 0 1 0 0 0",
			p.pid, p.parent, p.own-p.own/2, p.own/2, p.ended))
	}
	write("stat", fmt.Sprintf("cpu  9 9 9 9 9 9 9 %d 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n", stolen))
}

// fakeProcess has its times in ticks of 10 ms.
type fakeProcess struct{ pid, parent, own, ended int }

// Everybody's CPU time goes to whom it belongs, and that of others is seen
// whether they live on, end, or begin in between.
func TestUsage(t *testing.T) {
	t.Parallel()
	target := Target{RelayPID: 100, SinkPID: 101, PostgresPID: 200}
	before, after := t.TempDir(), t.TempDir()
	fakeProc(t, before, 50,
		fakeProcess{1, 0, 100, 5000}, fakeProcess{2, 0, 10, 0}, fakeProcess{30, 2, 1000, 0},
		fakeProcess{99, 1, 10, 0}, fakeProcess{100, 99, 10, 0}, fakeProcess{101, 99, 20, 0},
		fakeProcess{200, 99, 30, 400}, fakeProcess{201, 200, 50, 0}, fakeProcess{202, 200, 60, 0},
		fakeProcess{300, 1, 700, 100}, fakeProcess{301, 300, 50, 0})
	fakeProc(t, after, 80,
		fakeProcess{1, 0, 100, 5000}, fakeProcess{2, 0, 10, 0}, fakeProcess{30, 2, 1900, 0}, // the kernel's
		fakeProcess{99, 1, 40, 0}, fakeProcess{100, 99, 210, 0}, fakeProcess{101, 99, 60, 0},
		// 202 has ended at 90 ticks, 203 is new.
		fakeProcess{200, 99, 31, 490}, fakeProcess{201, 200, 150, 0}, fakeProcess{203, 200, 7, 0},
		// 301 has ended at 80 ticks; 302 came and is still there.
		fakeProcess{300, 1, 710, 180}, fakeProcess{302, 300, 300, 0})
	b, err := procfs(before).usage(target, 99)
	if err != nil {
		t.Fatal(err)
	}
	a, err := procfs(after).usage(target, 99)
	if err != nil {
		t.Fatal(err)
	}
	got := a.since(b)
	want := usage{
		relay: 2, postgres: 0.01 + 1 + 0.3 + 0.07, generator: 0.3, sink: 0.4,
		foreign: 0.1 + 0.3 + 3, stolen: 0.3,
	}
	for name, pair := range map[string][2]float64{
		"relay": {got.relay, want.relay}, "postgres": {got.postgres, want.postgres}, "generator": {got.generator, want.generator},
		"sink": {got.sink, want.sink}, "foreign": {got.foreign, want.foreign}, "stolen": {got.stolen, want.stolen},
	} {
		if math.Abs(pair[0]-pair[1]) > 1e-9 {
			t.Errorf("%s: got %v s, want %v", name, pair[0], pair[1])
		}
	}
	if _, err := procfs(after).usage(Target{RelayPID: 100, SinkPID: 101, PostgresPID: 999}, 99); err == nil {
		t.Error("got figures of a process that has ended")
	}
}

func TestUsageOfStrangeFiles(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"too short": "7 (x) S 1 2", "no numbers": "7 (x) S 1 1 1 0 -1 0 0 0 0 0 a b 0 0 20 0 1 0", "empty": ""} {
		if _, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	dir := t.TempDir()
	if _, err := procfs(dir).stolen(); err == nil {
		t.Error("got stolen time of a machine that tells none")
	}
}

// The process of this test has an entry of the real kind.
func TestUsageOfThisMachine(t *testing.T) {
	t.Parallel()
	self := os.Getpid()
	u, err := proc.usage(Target{RelayPID: self, SinkPID: self, PostgresPID: self}, self)
	if err != nil || u.foreign <= 0 {
		t.Errorf("got %+v, %v: want what others have used", u, err)
	}
	if err := proc.resetPeak(self); err != nil {
		t.Fatal(err)
	}
	if rss, err := proc.peakRSS(self); err != nil || rss < 1<<20 {
		t.Errorf("memory: got %d bytes, %v", rss, err)
	}
}
