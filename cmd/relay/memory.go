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
	memoryRest     = int64(8 << 20)  // with what is no heap, and some to spare
	rhythmInterval = time.Second     // between looks at the live heap
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
		debug.SetMemoryLimit(memoryGoal(memoryNow(), memoryLimit))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// memoryUse is what the runtime holds that collecting cannot give back.
type memoryUse struct {
	live int64 // of the heap, at the last collection
	rest int64 // stacks of goroutines, and the runtime's own
}

// memoryGoal is where the runtime begins to collect more often than
// garbagePercent asks for. It grows with what is in use, so that a node that
// holds much is not kept busy collecting what is no garbage.
func memoryGoal(now memoryUse, limit int64) int64 {
	return min(limit, max(memoryFloor, liveTwice*now.live+now.rest+memoryRest))
}

func memoryNow() memoryUse {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/total:bytes"},
		// Of the total, the heap, and what was given back already.
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	bytes := func(i int) int64 { return int64(samples[i].Value.Uint64()) }
	return memoryUse{live: bytes(0), rest: max(0, bytes(1)-bytes(2)-bytes(3)-bytes(4)-bytes(5))}
}
