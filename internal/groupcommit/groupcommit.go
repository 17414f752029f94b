// Package groupcommit turns many concurrent requests into few commits. A
// committer takes whatever has gathered while its last commit ran, at most
// MaxBatch, and commits it together: at low load a batch is one request and
// waits for nobody, under load the batches grow by themselves. There is no
// timer and nothing to tune, unless nobody waits for the answers: then a pause
// between the commits makes fewer of them.
//
// When more wait than one commit takes, the commits go to those who can still
// be answered in time: a committer that worked off its queue from the front
// would, once the queue is as long as its callers are patient, commit for
// nobody but those who have just given up.
//
// What is always true: a request that Do answered without an error is
// committed. One that it answered with an error may or may not be, as with
// any commit whose answer was lost.
package groupcommit

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// ErrFull is returned when more requests wait than Config.MaxWaiting, or more
// of their bytes than Config.MaxWaitingBytes.
var ErrFull = errors.New("too many requests wait for a commit")

// ErrLate is returned, where more requests wait than one commit takes, to
// those whose time would be over before theirs had ended.
var ErrLate = errors.New("too many requests wait for a commit to take this one in time")

// ErrStopped is returned once Run has stopped.
var ErrStopped = errors.New("the committer has stopped")

// Config bounds a Committer.
type Config struct {
	MaxBatch   int // requests in one commit
	MaxWaiting int // requests waiting for the next commits
	Committers int // commits at the same time, at most

	// Crowd is how many requests must wait for another committer to join the
	// first, unless that one is stuck. One commits in larger batches, which
	// cost less; another helps when they are large anyway.
	Crowd int

	// Pause is the first committer's rest after each commit. It delays answers under
	// load, and is for requests that are posted.
	Pause time.Duration

	// MaxBytes and MaxWaitingBytes bound the same by the size of the requests,
	// where New is given one.
	MaxBytes, MaxWaitingBytes int
}

// Committer groups requests of type Req whose commit yields a Res each. It is
// safe for concurrent use.
type Committer[Req, Res any] struct {
	cfg    Config
	size   func(Req) int
	commit func([]Req) []Result[Res]
	queue  chan *request[Req, Res]
	bytes  atomic.Int64 // of the requests in the queue

	crowded chan struct{} // asks the other committers for a batch each
	took    atomic.Int64  // how long the last commit took, in nanoseconds
	since   atomic.Int64  // when the first committer's commit began, in Unix nanoseconds; 0: it has none

	// mu orders Do against stopping: once stopping is set under the write
	// lock, nothing enters the queue any more.
	mu       sync.RWMutex
	stopping bool
}

// Result is what a commit says of one of its requests.
type Result[Res any] struct {
	Value Res
	Err   error
}

type request[Req, Res any] struct {
	req      Req
	size     int
	deadline time.Time // after which nobody waits for the answer; zero: none
	then     func(Result[Res])
}

// New returns a Committer; Run makes it work. commit is called from
// cfg.Committers goroutines at once, with 1 to cfg.MaxBatch requests, and
// answers each of them in the same order. It bounds its own time. size, where
// given, says how many bytes a request holds in memory.
func New[Req, Res any](cfg Config, size func(Req) int, commit func([]Req) []Result[Res]) *Committer[Req, Res] {
	if size == nil {
		size = func(Req) int { return 0 }
	}
	return &Committer[Req, Res]{
		cfg:    cfg,
		size:   size,
		commit: commit,
		queue:  make(chan *request[Req, Res], cfg.MaxWaiting),

		crowded: make(chan struct{}, max(0, cfg.Committers-1)),
	}
}

// Do enters req into the next commit and waits for it. When ctx ends first,
// Do returns the cause, and the request is still committed, unless so many
// wait that others go first.
func (c *Committer[Req, Res]) Do(ctx context.Context, req Req) (res Res, err error) {
	done := make(chan Result[Res], 1)
	r := &request[Req, Res]{req: req, size: c.size(req), then: func(result Result[Res]) { done <- result }}
	r.deadline, _ = ctx.Deadline()
	if err := c.enter(r); err != nil {
		return res, err
	}
	select {
	case result := <-done:
		return result.Value, result.Err
	case <-ctx.Done():
		return res, context.Cause(ctx)
	}
}

// Post enters req into a later commit without waiting for that: then is told
// what came of it, from the goroutine that commits, and must not block. Where
// MaxWaiting requests wait already, Post waits for room, whatever their size.
func (c *Committer[Req, Res]) Post(req Req, then func(Result[Res])) error {
	r := &request[Req, Res]{req: req, size: c.size(req), then: then}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.stopping {
		return ErrStopped
	}
	c.bytes.Add(int64(r.size))
	c.queue <- r // Run closes it under the write lock: until then it is emptied
	c.callHelp()
	return nil
}

func (c *Committer[Req, Res]) enter(r *request[Req, Res]) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.stopping {
		return ErrStopped
	}
	if c.bytes.Add(int64(r.size)) > int64(c.cfg.MaxWaitingBytes) && r.size > 0 {
		c.bytes.Add(-int64(r.size))
		return ErrFull
	}
	select {
	case c.queue <- r:
		c.callHelp()
		return nil
	default:
		c.bytes.Add(-int64(r.size))
		return ErrFull
	}
}

// stuck is when a commit has taken so long that others should not wait for it:
// it may be held up by a lock that concerns nobody else.
const stuck = 50 * time.Millisecond

// callHelp asks another committer to take a batch, where there is one that is
// free. The caller holds mu.
func (c *Committer[Req, Res]) callHelp() {
	since := c.since.Load()
	if len(c.queue) < c.cfg.Crowd && (since == 0 || time.Now().UnixNano()-since < int64(stuck)) {
		return
	}
	select {
	case c.crowded <- struct{}{}:
	default:
	}
}

// Run commits until ctx is done; then it takes no more requests, commits what
// had been taken, and returns.
func (c *Committer[Req, Res]) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error {
		work := c.worker()
		watch := time.AfterFunc(stuck, c.callForWaiting)
		defer watch.Stop()
		for first := range c.queue {
			c.since.Store(time.Now().UnixNano())
			watch.Reset(stuck)
			work(first)
			watch.Stop()
			c.since.Store(0)
			time.Sleep(c.cfg.Pause)
		}
		return nil
	})
	for range cap(c.crowded) {
		g.Go(func() error {
			work := c.worker()
			for range c.crowded {
				select {
				case first, ok := <-c.queue:
					if ok {
						work(first)
					}
				default: // the others were faster
				}
			}
			return nil
		})
	}
	<-ctx.Done()
	c.mu.Lock()
	c.stopping = true
	close(c.queue)
	close(c.crowded)
	c.mu.Unlock()
	return g.Wait()
}

// callForWaiting is for those that came before a commit was known to be stuck.
func (c *Committer[Req, Res]) callForWaiting() {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.stopping && len(c.queue) > 0 {
		c.callHelp()
	}
}

// worker returns what commits a batch that begins with first. It keeps room
// for one, so each goroutine has its own.
func (c *Committer[Req, Res]) worker() func(first *request[Req, Res]) {
	batch := make([]*request[Req, Res], 0, c.cfg.MaxBatch)
	reqs := make([]Req, 0, c.cfg.MaxBatch)
	return func(first *request[Req, Res]) {
		batch = c.gather(append(batch[:0], first))
		reqs = reqs[:0]
		for _, r := range batch {
			reqs = append(reqs, r.req)
		}
		began := time.Now()
		results := c.commit(reqs)
		c.took.Store(int64(time.Since(began)))
		for i, result := range results {
			batch[i].then(result)
		}
		clear(batch)
		clear(reqs)
	}
}

// gather adds what is already waiting, and waits for nothing. The last one
// may take the batch past MaxBytes, by its own size. The first one is committed
// whether it is late or not: else nobody would learn that commits are quick
// again.
func (c *Committer[Req, Res]) gather(batch []*request[Req, Res]) []*request[Req, Res] {
	size := c.leave(batch[0])
	for len(batch) < c.cfg.MaxBatch && (size < c.cfg.MaxBytes || size == 0) {
		select {
		case r, ok := <-c.queue:
			if !ok {
				return batch
			}
			held := c.leave(r)
			if c.late(r) {
				r.then(Result[Res]{Err: ErrLate})
				continue
			}
			size += held
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// late reports whether a request has to stand back: its caller will have given
// up before a commit like the last one ends, and enough others wait.
func (c *Committer[Req, Res]) late(r *request[Req, Res]) bool {
	return !r.deadline.IsZero() && len(c.queue) >= c.cfg.MaxBatch && time.Until(r.deadline) < time.Duration(c.took.Load())
}

// leave takes a request's size off the queue, and returns it.
func (c *Committer[Req, Res]) leave(r *request[Req, Res]) int {
	c.bytes.Add(-int64(r.size))
	return r.size
}
