package main

import (
	"math"
	"runtime"
	"testing"
)

// TestMemoryGoal holds that a small heap lets garbage gather, and that a large
// one is never asked to fit where it cannot.
func TestMemoryGoal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ live, rest, limit, want int64 }{
		{0, 0, math.MaxInt64, memoryFloor},
		{8 << 20, 8 << 20, math.MaxInt64, memoryFloor},
		{100 << 20, 0, math.MaxInt64, 208 << 20},
		{100 << 20, 90 << 20, math.MaxInt64, 298 << 20},
		{100 << 20, 0, 200 << 20, 200 << 20},
		{0, 0, 40 << 20, 40 << 20},
	} {
		if got := memoryGoal(memoryUse{tt.live, tt.rest}, tt.limit); got != tt.want {
			t.Errorf("a live heap of %d MiB: got a goal of %d MiB, want %d", tt.live>>20, got>>20, tt.want>>20)
		}
	}
	runtime.GC()
	if now := memoryNow(); now.live <= 0 || now.rest <= 0 {
		t.Errorf("got %+v, want sizes: the runtime's metrics were renamed", now)
	}
}
