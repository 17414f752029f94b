package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The rhythm of garbage collection. At Go's own, a relay under load, whose
// live heap is a few megabytes, collects forty times a second and spends a
// sixth of its CPU on it.
const (
	garbagePercent = 400             // of the live heap may gather …
	memoryFloor    = int64(60 << 20) // … while the runtime holds less than this,
	liveTwice      = int64(2)        // or than this many times the live heap:
	memoryRest     = int64(16 << 20) // stacks and the like beside it
	rhythmInterval = time.Second     // between looks at the live heap
	liveHeap       = "/gc/heap/live:bytes"
)

// memoryLimit is the operator's own, by GOMEMLIMIT; without one it is no bound.
var memoryLimit = debug.SetMemoryLimit(-1)

// collectLazily lets garbage gather while memory is small, and as usual once
// the live heap is large, until ctx is done. An operator who has set GOGC
// wants another rhythm, and is left alone.
func collectLazily(ctx context.Context) error {
	if _, set := os.LookupEnv("GOGC"); set {
		<-ctx.Done()
		return nil
	}
	debug.SetGCPercent(garbagePercent)
	tick := time.NewTicker(rhythmInterval)
	defer tick.Stop()
	for {
		debug.SetMemoryLimit(memoryGoal(liveBytes(), memoryLimit))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// memoryGoal is where the runtime begins to collect more often than
// garbagePercent asks for. It grows with the live heap, so that a node that
// holds much is not kept busy collecting what is no garbage.
func memoryGoal(live, limit int64) int64 {
	return min(limit, max(memoryFloor, liveTwice*live+memoryRest))
}

func liveBytes() int64 {
	sample := []metrics.Sample{{Name: liveHeap}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}
