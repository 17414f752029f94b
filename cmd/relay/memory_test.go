package main

import "testing"

// TestMemoryGoal holds that a small heap lets garbage gather, and that a large
// one is never asked to fit where it cannot.
func TestMemoryGoal(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ live, want int64 }{
		{0, memoryFloor},
		{8 << 20, memoryFloor},
		{100 << 20, 216 << 20},
	} {
		if got := memoryGoal(tt.live); got != tt.want {
			t.Errorf("a live heap of %d MiB: got a goal of %d MiB, want %d", tt.live>>20, got>>20, tt.want>>20)
		}
	}
	if liveBytes() < 0 {
		t.Error("the live heap has no size")
	}
}
