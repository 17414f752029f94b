package plan

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
)

// The bounds of what a node keeps compiled. Flows share one plan each; only
// waits with actions of their own have more. Compiled, a plan takes up to some
// 50 times the memory of its JSON, most of it for expressions: a usual flow 20
// KB, a form of ten fields in two languages 90 KB, the largest form 3 MB.
const (
	maxCached   = 4096
	maxWeight   = 128 << 20 // bytes, as weight reckons them
	planWeight  = 4 << 10   // of any plan
	weightOfOne = 48        // of each byte of a plan's JSON
)

// weight reckons the memory that p takes, rather too much than too little.
func (p *Plan) weight() int { return planWeight + weightOfOne*p.size }

// Cache keeps compiled plans. A plan never changes under its id, so an entry
// is never stale. It is safe for concurrent use.
type Cache struct {
	load func(context.Context, uuid.UUID) (*relay.Plan, error)

	mu     sync.RWMutex
	plans  map[uuid.UUID]*Plan
	weight int // of all of them
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
	if c.plans[id] != nil {
		return
	}
	for other, old := range c.plans { // any one: the next use reads it back
		if len(c.plans) < maxCached && c.weight+p.weight() <= maxWeight {
			break
		}
		delete(c.plans, other)
		c.weight -= old.weight()
	}
	c.plans[id] = p
	c.weight += p.weight()
}
