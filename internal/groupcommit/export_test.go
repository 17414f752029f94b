package groupcommit

// Waiting returns how many requests wait for a commit.
func (c *Committer[Req, Res]) Waiting() int { return len(c.queue) }
