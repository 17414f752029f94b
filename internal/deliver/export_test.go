package deliver

// LeaseMargin is the lease that must be left after the timeout of a send.
const LeaseMargin = leaseMargin

// LaneFull is how many deliveries a lane holds at the most: where no other
// holds any.
const LaneFull = maxQueued / (laneShare + 1)

// Running reports whether Run takes what is handed over.
func (e *Engine) Running() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.stopping
}

// Queued returns how many deliveries the lanes hold.
func (e *Engine) Queued() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.queued
}

// BreakerFailures is how many calls in a row open a breaker.
const BreakerFailures = breakerFailures

// Walked reports whether claims have come to the end of what is due, past
// lanes that are full.
func (e *Engine) Walked() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.walk.ended
}

// MostReleased is how many of a destination's released deliveries a node takes
// into its memory.
const MostReleased = releaseAhead + claimSize

// HookConcurrency is how many calls are made to one target at a time.
const HookConcurrency = hookConcurrency

// MaxHooks is how many hooks a node holds.
const MaxHooks = maxHooks

// HookShare is how many hooks of one project a node holds, where it holds none
// of others, and about what a claim may add.
const HookShare = maxHooks/(laneShare+1) + claimSize

// Held returns how many hooks are held, and of how many targets something is
// remembered.
func (h *Hooks) Held() (hooks, lanes int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.hooks, len(h.lanes)
}
