package deliver

// LeaseMargin is the lease that must be left after the timeout of a send.
const LeaseMargin = leaseMargin

// LaneFull is how many deliveries one lane holds.
const LaneFull = laneFull

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
