package deliver

// LeaseMargin is the lease that must be left after the timeout of a send.
const LeaseMargin = leaseMargin

// MaxQueued is how many deliveries all lanes hold together.
const MaxQueued = maxQueued

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
