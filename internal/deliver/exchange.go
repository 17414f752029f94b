package deliver

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
)

// exchange makes the calls of one attempt, from its first step to its answer.
// All of them together have the time of one attempt, so that the lease
// outlasts them as it outlasts a single call. The mark, where the policy wants
// one, is made right before the first call that may do something: what ended
// before has certainly done nothing.
func (e *Engine) exchange(ctx context.Context, d *relay.Delivery, to *directory.Destination, step platform.Step, a relay.Attempt) (relay.Attempt, bool) {
	marks, marked := !relay.RetriesUnknown(to.OnUnknown), false
	left := to.Timeout()
	for calls := 1; ; calls++ {
		if step.Acts && marks && !marked {
			if marked = e.mark(ctx, *d); !marked {
				return a, false
			}
		}
		if calls > 1 {
			e.charge(ctx, to)
		}
		next, status, err := e.step(ctx, to, &step, left, &a)
		a.Duration = time.Since(a.StartedAt)
		if err != nil && !marked && errors.Is(context.Cause(ctx), errShutdown) {
			return a, false
		}
		if err != nil {
			a.Class, a.Reason = unanswered(err, to, step.Acts)
			a.HTTPStatus, a.Response = 0, ""
			return e.judged(a, *d, to, step.Name, 0), true
		}
		left = to.Timeout() - a.Duration
		switch {
		case next.Ended():
			a.Class, a.Reason, a.HTTPStatus = next.Answer.Class, next.Answer.Reason, status
			return e.judged(a, *d, to, step.Name, next.Answer.RetryAfter), true
		case calls == platform.MaxCalls:
			a.Class, a.Reason = relay.Retry, platform.TooManyCalls
			return e.judged(a, *d, to, step.Name, 0), true
		case left <= 0:
			a.Class, a.Reason = relay.Retry, string(egress.Timeout)+": no time was left for another call (timeout of destination "+to.Name+")"
			return e.judged(a, *d, to, next.Name, 0), true
		}
		step = next
	}
}

// step makes one call and says what follows. A session that another exchange
// has opened saves the call that would open one.
func (e *Engine) step(ctx context.Context, to *directory.Destination, s *platform.Step, left time.Duration, a *relay.Attempt) (next platform.Step, status int, err error) {
	if !s.Opens {
		return e.send(ctx, to, s, left, a)
	}
	begun := time.Now()
	done, err := e.sessions.turn(ctx, to, left)
	if err != nil {
		return next, 0, err
	}
	defer done()
	if known := e.knownSession(ctx, to, s.Refused); known != "" {
		e.sessions.keep(to, known)
		return s.With(known), 0, nil
	}
	if next, status, err = e.send(ctx, to, s, max(left-time.Since(begun), time.Millisecond), a); err == nil && next.Session != "" {
		e.keepSession(ctx, to, next.Session)
	}
	return next, status, err
}

func (e *Engine) send(ctx context.Context, to *directory.Destination, s *platform.Step, left time.Duration, a *relay.Attempt) (platform.Step, int, error) {
	resp, err := e.cfg.Client.Do(ctx, egress.Request{
		Method: s.Request.Method, URL: s.Request.URL, Header: s.Request.Header, Body: s.Request.Body,
		Timeout: left, Keep: s.Keep, Search: s.Search,
	})
	if err != nil {
		return platform.Step{}, 0, err
	}
	quoted := to.Platform.Quoted(to.Account(), s.Request.Header, resp.Body)
	a.Response = string(quoted[:min(len(quoted), maxResponse)])
	next := to.Platform.Next(s, platform.Response{
		Status: resp.Status, Header: resp.Header, Body: resp.Body, Found: resp.Found, Unsearched: resp.Unsearched,
	}, time.Now())
	if !s.Acts && resp.Status < http.StatusMultipleChoices {
		a.Response = "" // it holds a session, or what people have said
	}
	return next, resp.Status, nil
}

// charge counts a further call of an exchange against the destination's rate.
// It is not waited for: an exchange that is put off between its calls would
// begin anew, and never end where there is a call a minute. Those who come
// after it wait the longer.
func (e *Engine) charge(ctx context.Context, to *directory.Destination) {
	if to.Interval() == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, budgetTimeout)
	defer cancel()
	if err := e.cfg.Store.ChargeBudget(ctx, to.ID, to.Interval()); err != nil {
		e.cfg.Log.Warn("a call was not counted against the rate of its destination",
			"project_id", to.ProjectID, "destination", to.Name, "error", err)
	}
}

// sessions are what platforms have let us in with: one for each destination.
// They are kept in the table too, for other nodes and the next start, since
// each one that is opened leaves something behind at the platform.
type sessions struct {
	mu            sync.Mutex // guards all below; held for work in memory only
	byDestination map[int64]*session
}

type session struct {
	token    string
	releases int64         // of the destination: what others refuse, or a change of it, ends the session
	opening  chan struct{} // holds one while an exchange opens one; the others wait for what it gets
}

func (s *sessions) of(to *directory.Destination) *session {
	if s.byDestination == nil {
		s.byDestination = map[int64]*session{}
	}
	found := s.byDestination[to.ID]
	if found == nil {
		found = &session{opening: make(chan struct{}, 1)}
		s.byDestination[to.ID] = found
	}
	if found.releases != to.Releases {
		found.token, found.releases = "", to.Releases
	}
	return found
}

// known returns the session of a destination that this node knows, or "".
func (s *sessions) known(to *directory.Destination) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(to).token
}

func (s *sessions) keep(to *directory.Destination, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(to).token = token
}

// turn waits until nobody else opens a session at a destination.
func (s *sessions) turn(ctx context.Context, to *directory.Destination, limit time.Duration) (done func(), err error) {
	s.mu.Lock()
	opening := s.of(to).opening
	s.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case opening <- struct{}{}:
		return func() { <-opening }, nil
	case <-timer.C:
		return nil, errNoTurn
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// errNoTurn ends an attempt that has waited in vain for another one to sign in.
var errNoTurn = errors.New("another attempt is signing in, and has no answer yet")

// sessionTimeout bounds what is done in the table for a session.
const sessionTimeout = 2 * time.Second

// knownSession returns the session that another exchange has opened, on this
// node or another, and that was not refused; or "".
func (e *Engine) knownSession(ctx context.Context, to *directory.Destination, refused string) string {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	stored, err := e.cfg.Store.Session(ctx, to.ID, to.Releases)
	if err != nil && !relay.IsKind(err, relay.NotFound) {
		e.cfg.Log.Warn("the session of a destination cannot be read, and another one is opened",
			"project_id", to.ProjectID, "destination", to.Name, "error", err)
	}
	if stored != "" && stored != refused {
		return stored
	}
	if known := e.sessions.known(to); known != refused {
		return known
	}
	return ""
}

func (e *Engine) keepSession(ctx context.Context, to *directory.Destination, token string) {
	e.sessions.keep(to, token)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sessionTimeout)
	defer cancel()
	if err := e.cfg.Store.PutSession(ctx, to.ID, to.Releases, token); err != nil {
		e.cfg.Log.Warn("the session of a destination is not kept: another node, or the next start, opens another one",
			"project_id", to.ProjectID, "destination", to.Name, "error", err)
	}
}
