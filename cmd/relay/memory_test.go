package main

import (
	"math"
	"testing"
)

// TestMemoryGoal holds that a small heap lets garbage gather, and that a large
// one is never asked to fit where it cannot.
func TestMemoryGoal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ live, limit, want int64 }{
		{0, math.MaxInt64, memoryFloor},
		{8 << 20, math.MaxInt64, memoryFloor},
		{100 << 20, math.MaxInt64, 216 << 20},
		{100 << 20, 200 << 20, 200 << 20},
		{0, 40 << 20, 40 << 20},
	} {
		if got := memoryGoal(tt.live, tt.limit); got != tt.want {
			t.Errorf("a live heap of %d MiB: got a goal of %d MiB, want %d", tt.live>>20, got>>20, tt.want>>20)
		}
	}
	if liveBytes() < 0 {
		t.Error("the live heap has no size")
	}
}
