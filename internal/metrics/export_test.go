package metrics

import "time"

// MaxSources is how many sources have a label of their own.
const MaxSources = maxSources

// Forget makes the next scrape read the backlog anew.
func Forget(m *Metrics) {
	m.backlog.mu.Lock()
	defer m.backlog.mu.Unlock()
	m.backlog.readAt = time.Time{}
}
