package sandbox

import "sync"

// users are those that a platform has been told of. Beyond the bound it knows
// all of them. Any number of goroutines may use it.
type users struct {
	mu    sync.Mutex
	names map[string]bool
}

func (u *users) add(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.names == nil {
		u.names = map[string]bool{}
	}
	if len(u.names) < maxConversations {
		u.names[name] = true
	}
}

func (u *users) has(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.names[name] || len(u.names) == maxConversations
}

func (u *users) clear() {
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.names)
}
