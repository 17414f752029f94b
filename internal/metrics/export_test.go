package metrics

import "time"

// MaxSources is how many sources have a label of their own.
const MaxSources = maxSources

// BacklogAge is how long a read backlog is told.
const BacklogAge = backlogAge

// SetBacklog changes how long a read backlog is told, and how long reading it
// may take.
func SetBacklog(m *Metrics, age, timeout time.Duration) {
	m.backlog.mu.Lock()
	defer m.backlog.mu.Unlock()
	m.backlog.age, m.backlog.timeout = age, timeout
}

// Forget makes the next scrape read the backlog anew.
func Forget(m *Metrics) {
	m.backlog.mu.Lock()
	defer m.backlog.mu.Unlock()
	m.backlog.readAt = time.Time{}
}
