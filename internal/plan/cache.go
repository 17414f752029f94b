package plan

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
)

// maxCached bounds the plans a node keeps compiled. Flows share one plan each;
// only waits with actions of their own have more.
const maxCached = 4096

// Cache keeps compiled plans. A plan never changes under its id, so an entry
// is never stale. It is safe for concurrent use.
type Cache struct {
	load func(context.Context, uuid.UUID) (*relay.Plan, error)

	mu    sync.RWMutex
	plans map[uuid.UUID]*Plan
}

// NewCache returns a Cache that reads plans by load.
func NewCache(load func(context.Context, uuid.UUID) (*relay.Plan, error)) *Cache {
	return &Cache{load: load, plans: map[uuid.UUID]*Plan{}}
}

// Get returns the plan of an id, from memory where it is known.
func (c *Cache) Get(ctx context.Context, id uuid.UUID) (*Plan, error) {
	c.mu.RLock()
	p := c.plans[id]
	c.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	doc, err := c.load(ctx, id)
	if err != nil {
		return nil, err
	}
	if p, err = Compile(doc); err != nil {
		return nil, err
	}
	c.Put(id, p)
	return p, nil
}

// Put adds a plan that was just made.
func (c *Cache) Put(id uuid.UUID, p *Plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.plans) >= maxCached {
		for other := range c.plans { // any one: the next use reads it back
			delete(c.plans, other)
			break
		}
	}
	c.plans[id] = p
}
