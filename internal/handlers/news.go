package handlers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// A page whose wait is pending is told when that has changed, by server-sent
// events. A node looks at all waits of its open pages together, by their ids,
// so that an open page costs callbacks nothing, and many cost little more than
// one.

// The bounds of the news.
const (
	maxStreams   = 1000                   // open pages, per node; the others look again by themselves
	maxOfWait    = 10                     // of them of one wait: whoever has a link leaves room for others
	newsFor      = 2 * time.Minute        // then the browser connects anew, maybe to another node
	newsInterval = 500 * time.Millisecond // between two looks at all waits together
	newsTimeout  = 2 * time.Second        // of one look
	heartbeat    = 15 * time.Second       // so that nothing on the way takes the stream for dead, and we notice who has left
	newsRetry    = 3 * time.Second        // before the browser connects anew
)

var errNewsFor = errors.New("a page that waits for news connects anew")

// wantsNews reports whether a page's script asks.
func wantsNews(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream")
}

// stateOf is what a page is told of its wait.
func stateOf(w *relay.Wait) string {
	switch {
	case w.LateOutcome == relay.Completed:
		return string(relay.Completed)
	case w.Status == relay.Pending && w.Extended:
		return string(relay.Processing)
	default:
		return string(w.Status)
	}
}

// stream is one open page.
type stream struct {
	wait  uuid.UUID
	state string      // that it was told of last; the looker's
	told  chan string // room for one: what is not read yet is replaced
}

// news are the open pages of a node.
type news struct {
	mu     sync.Mutex
	open   map[*stream]struct{}
	waits  map[uuid.UUID]int // how many of them are of a wait
	closed chan struct{}     // no more news
}

func newNews() *news {
	return &news{open: map[*stream]struct{}{}, waits: map[uuid.UUID]int{}, closed: make(chan struct{})}
}

// join opens a stream, unless there is no room, or the node stops.
func (n *news) join(wait uuid.UUID, state string) (*stream, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.open) >= maxStreams || n.waits[wait] >= maxOfWait || n.isClosed() {
		return nil, false
	}
	s := &stream{wait: wait, state: state, told: make(chan string, 1)}
	n.open[s] = struct{}{}
	n.waits[wait]++
	return s, true
}

func (n *news) leave(s *stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.open, s)
	if n.waits[s.wait]--; n.waits[s.wait] == 0 {
		delete(n.waits, s.wait)
	}
}

func (n *news) isClosed() bool {
	select {
	case <-n.closed:
		return true
	default:
		return false
	}
}

// close ends all streams.
func (n *news) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.isClosed() {
		close(n.closed)
	}
}

// awaited lists the waits of the open pages.
func (n *news) awaited() []uuid.UUID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.waits))
}

// tell tells each open page what is news to it.
func (n *news) tell(states map[uuid.UUID]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.open {
		state, known := states[s.wait]
		if !known || state == s.state {
			continue
		}
		s.state = state
		select {
		case <-s.told:
		default:
		}
		s.told <- state
	}
}

// lookForNews looks again and again, until ctx is done.
func (h *Handlers) lookForNews(ctx context.Context) error {
	tick := time.NewTicker(newsInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := h.lookOnce(ctx); err != nil && ctx.Err() == nil {
			h.cfg.Log.Debug("no news of waits just now", "error", err)
		}
	}
}

// lookOnce looks at the waits of all open pages.
func (h *Handlers) lookOnce(ctx context.Context) error {
	ids := h.news.awaited()
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, newsTimeout)
	defer cancel()
	waits, err := h.cfg.Store.StatesOf(ctx, ids)
	if err != nil {
		return err
	}
	states := make(map[uuid.UUID]string, len(waits))
	for i := range waits {
		states[waits[i].ID] = stateOf(&waits[i])
	}
	h.news.tell(states)
	return nil
}

// tellNews tells a page's script how its wait stands, and each change of that.
func (h *Handlers) tellNews(c echo.Context, w *store.Standing) error {
	state := stateOf(&w.Wait)
	s, ok := h.news.join(w.ID, state)
	if !ok {
		return relay.Errorf(relay.Busy, "too_many_streams", "this node tells no more pages of news: look again by yourself")
	}
	defer h.news.leave(s)
	out := newsWriter{c, http.NewResponseController(c.Response())}
	if err := out.begin(); err != nil {
		return err
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for err := out.write(fmt.Sprintf("retry: %d\nevent: state\ndata: %s\n\n", newsRetry.Milliseconds(), state)); err == nil; {
		select {
		case <-c.Request().Context().Done(): // it has left, or its time is over
			return nil
		case <-h.news.closed:
			return nil
		case <-beat.C:
			err = out.write(": still here\n\n")
		case state := <-s.told:
			err = out.write("event: state\ndata: " + state + "\n\n")
		}
	}
	return nil // nobody reads any more
}

// newsWriter writes an answer that goes on.
type newsWriter struct {
	c       echo.Context
	control *http.ResponseController
}

// begin makes the server's limits those of a stream. The end of reading would
// otherwise be taken for the end of the reader.
func (w newsWriter) begin() error {
	if err := w.control.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	header := w.c.Response().Header()
	header.Set(echo.HeaderContentType, "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // nginx would gather what is to arrive at once
	w.c.Response().WriteHeader(http.StatusOK)
	return nil
}

// write sends a piece at once; a reader that takes nothing is given up.
func (w newsWriter) write(piece string) error {
	if err := w.control.SetWriteDeadline(time.Now().Add(heartbeat)); err != nil {
		return err
	}
	if _, err := w.c.Response().Write([]byte(piece)); err != nil {
		return err
	}
	return w.control.Flush()
}
