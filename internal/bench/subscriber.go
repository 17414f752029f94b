package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"relay.example/relay/internal/relay"
)

// subscriber is a third party that is told of everything, for the time of one
// load: its waits are registered before it subscribes. It is not the sink,
// which would take a hook for a resume.
type subscriber struct {
	server *http.Server
	id     string // of its subscription
	told   atomic.Int64
}

// subscriptions are those of the project that is measured.
const subscriptions = "/api/" + relay.DefaultProject + "/subscriptions"

// heard is the usual load, with a subscriber.
func heard() side {
	s, who := called(usual), &subscriber{}
	s.ready, s.done, s.after = who.subscribe, who.toldAll, who.leave
	return s
}

func (s *subscriber) subscribe(ctx context.Context, b *bench) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("serving a subscriber: %w", err)
	}
	s.told.Store(0)
	s.server = &http.Server{Handler: http.HandlerFunc(s.take), ReadHeaderTimeout: relay.DefaultTimeout}
	go func() { _ = s.server.Serve(l) }()
	var made struct {
		ID string `json:"_id"`
	}
	asked := map[string]any{"event": relay.Everything, "target": "http://" + l.Addr().String()}
	err = b.ask(ctx, http.MethodPost, subscriptions, asked, &made)
	s.id = made.ID
	return err
}

func (s *subscriber) take(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // so that the connection is kept
	s.told.Add(1)
}

// hooksEach is how many hooks a callback of the load has: correlation.completed
// and checkout.completed with it, delivery.delivered and conversation.resumed
// with the recorded call.
const hooksEach = 4

// toldWithin bounds how long hooks may take once the load has ended: few go to
// one target at a time, so that a long busy load owes many by then.
const toldWithin = 2 * time.Minute

// toldAll returns when no hook is owed any more.
func (s *subscriber) toldAll(ctx context.Context, b *bench, l *load) error {
	for deadline := time.Now().Add(toldWithin); time.Now().Before(deadline); pause(ctx, look) {
		if s.told.Load() < hooksEach*l.accepted {
			continue // asking is work too
		}
		var owed struct {
			Data []struct{} `json:"data"`
		}
		if err := b.call(ctx, http.MethodGet, "hooks?limit=1", nil, &owed); err != nil {
			return err
		}
		if len(owed.Data) == 0 {
			return ctx.Err()
		}
	}
	return fmt.Errorf("%d hooks of %d callbacks came within %s, want %d of each, and none owed: see what the relay logged", s.told.Load(), l.accepted, toldWithin, hooksEach)
}

// leave ends the subscription.
func (s *subscriber) leave(ctx context.Context, b *bench) error {
	err := b.ask(ctx, http.MethodDelete, subscriptions+"/"+s.id, nil, nil)
	_ = s.server.Close()
	return err
}
