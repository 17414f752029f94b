package plan

// MaxWeight bounds what a Cache keeps.
const MaxWeight = maxWeight

// Weight reckons the memory that p takes.
func (p *Plan) Weight() int { return p.weight() }

// Held returns how many plans the cache keeps, and what they weigh.
func (c *Cache) Held() (plans, weight int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, p := range c.plans {
		weight += p.weight()
	}
	return len(c.plans), weight
}
