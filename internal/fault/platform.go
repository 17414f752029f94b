package main

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"relay.example/relay/internal/bench"
)

// mood is how the platform answers at the moment.
type mood int32

const (
	well  mood = iota
	slow       // after takes
	sick       // 500 at once
	stuck      // after hangs, when its caller has long given up
	gone       // cuts the connection
)

// hangs is for how long a stuck platform keeps its callers waiting: three
// times what a call may take.
const hangs = 30 * time.Second

// takes is how long a slow platform takes: longer than a node serves on after
// SIGTERM, so that calls are under way when it has to finish.
const takes = drainDelay + time.Second

const sickAnswer = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"

// platform stands where the bot platform would be, and keeps the book of what
// it carried out.
type platform struct {
	sink    bench.Sink
	address string
	mood    atomic.Int32
	jammed  atomic.Bool // calls about stuckModule hang, whatever the mood
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu    sync.Mutex
	calls map[int][]call // by user
}

// call is one call that the platform carried out.
type call struct {
	at     time.Time
	module int64
}

func startPlatform(ctx context.Context) (*platform, error) {
	calls, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	questions, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	p := &platform{address: calls.Addr().String(), calls: map[int][]call{}, stop: stop}
	p.sink.OnCall = func(user int, body []byte) string { return p.answer(ctx, user, body) }
	p.done.Go(func() { _ = p.sink.Serve(ctx, calls, questions) })
	return p, nil
}

func (p *platform) is(m mood) { p.mood.Store(int32(m)) }

func (p *platform) answer(ctx context.Context, user int, body []byte) string {
	module := moduleOf(body)
	if module == stuckModule && p.jammed.Load() {
		_ = pause(ctx, hangs) // and nothing is carried out
		return ""
	}
	switch mood(p.mood.Load()) {
	case slow:
		p.note(user, module)
		_ = pause(ctx, takes)
	case sick:
		return sickAnswer
	case gone:
		return ""
	case stuck:
		p.note(user, module) // it was carried out, whoever still listens
		_ = pause(ctx, hangs)
	default:
		p.note(user, module)
	}
	return bench.SinkAnswer
}

func (p *platform) note(user int, module int64) {
	c := call{at: time.Now(), module: module}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[user] = append(p.calls[user], c)
}

// of returns the calls about a user.
func (p *platform) of(user int) []call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[user]
}

func (p *platform) close() {
	p.stop()
	p.done.Wait()
}

// moduleOf reads where a conversation was told to go on; 0 where it is not.
func moduleOf(body []byte) (module int64) {
	_, rest, _ := bytes.Cut(body, []byte(`"module_id":`))
	for _, c := range rest {
		if c < '0' || c > '9' {
			break
		}
		module = 10*module + int64(c-'0')
	}
	return module
}
