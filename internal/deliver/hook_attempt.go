package deliver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/groupcommit"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/standardwebhooks"
	"relay.example/relay/internal/store"
)

// send makes one attempt and records it, without waiting for that.
func (h *Hooks) send(ctx context.Context, l *hookLane, hook relay.Hook, probe bool) {
	now := h.cfg.Directory.Current()
	sub, project := now.Subscription(hook.SubscriptionID), now.ProjectByID(hook.ProjectID)
	if sub == nil || project == nil {
		h.dropped(l, probe)
		h.giveBack(ctx, []relay.Hook{hook}) // nobody's any more
		return
	}
	a := relay.HookAttempt{ProjectID: hook.ProjectID, HookID: hook.ID, Lease: hook.Lease}
	var answered bool
	var retryAfter time.Duration
	resp, err := h.call(ctx, sub, project.Name, &hook)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errShutdown):
		h.dropped(l, probe) // it is sent again when its lease ends
		return
	case err != nil:
		a.Class, a.Reason = unheard(err)
	default:
		a.Class, a.Reason, retryAfter, answered = heard(resp, time.Now())
		a.HTTPStatus = resp.Status
	}
	a.Next, a.Delay = relay.NextTry(a.Class, hook.Attempts+1, retryAfter, relay.RetryUnknown, relay.Jitter())
	h.ended(l, sub, answered, probe, a.Reason)
	h.cfg.Metrics.HookAttempted(a.Class)
	err = h.recorder.Post(a, func(r groupcommit.Result[store.RecordedHook]) { h.recorded(&hook, a, r) })
	if err != nil {
		h.recorded(&hook, a, groupcommit.Result[store.RecordedHook]{Err: err})
	}
}

func (h *Hooks) dropped(l *hookLane, probe bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.breaker.dropped(probe)
}

// ended tells a lane's breaker what a call came to.
func (h *Hooks) ended(l *hookLane, sub *relay.Subscription, answered, probe bool, reason string) {
	h.mu.Lock()
	changed := l.breaker.ended(answered, probe, time.Now())
	open := l.breaker.open()
	h.mu.Unlock()
	switch {
	case changed && open:
		h.cfg.Log.Warn("a subscriber does not answer: this node calls it no more but for a probe, at most every 30 s",
			"project_id", sub.ProjectID, "subscription_id", sub.ID, "reason", reason)
	case changed:
		h.cfg.Log.Info("a subscriber answers again", "project_id", sub.ProjectID, "subscription_id", sub.ID)
	}
}

// hookBody is a hook as it is sent: Tiledesk's envelope, with the kind of news
// and its number beside.
type hookBody struct {
	Timestamp int64                   `json:"timestamp"` // ms
	Event     relay.News              `json:"event"`
	Sequence  int64                   `json:"sequence"`
	Payload   json.RawMessage         `json:"payload"`
	Hook      relay.ShownSubscription `json:"hook"`
}

// call sends a hook once: the same bytes each time, signed anew.
func (h *Hooks) call(ctx context.Context, sub *relay.Subscription, project string, hook *relay.Hook) (*egress.Response, error) {
	body, err := json.Marshal(hookBody{
		Timestamp: hook.HappenedAt.UnixMilli(), Event: hook.Event, Sequence: hook.Number,
		Payload: hook.Payload, Hook: sub.Shown(project),
	})
	if err != nil {
		return nil, fmt.Errorf("writing a hook: %w", err)
	}
	secret, err := standardwebhooks.ParseSecret(sub.SigningSecret)
	if err != nil {
		return nil, fmt.Errorf("signing a hook: %w", err)
	}
	header := http.Header{}
	header.Set("Content-Type", "application/json")
	header.Set("User-Agent", hookAgent)
	header.Set("X-Hook-Secret", sub.Secret)
	secret.SetHeader(header, hook.ID.String(), time.Now(), body)
	return h.cfg.Client.Do(ctx, egress.Request{Method: http.MethodPost, URL: sub.Target, Header: header, Body: body, Timeout: hookTimeout})
}

// heard says what an answer means: 2xx that it was heard, 410 that it never
// will be, and anything else that it may be later, since a receiver that is
// just being mended says all sorts of things. answered tells the breaker that
// somebody is there.
func heard(resp *egress.Response, now time.Time) (class relay.Class, reason string, retryAfter time.Duration, answered bool) {
	answer := platform.ByStatus(platform.Response{Status: resp.Status, Header: resp.Header}, now)
	answered = answer.Class != relay.Retry
	switch {
	case answer.Class == relay.OK:
		return relay.OK, answer.Reason, 0, true
	case resp.Status == http.StatusGone:
		return relay.Permanent, "gone", 0, true
	default:
		return relay.Retry, answer.Reason, answer.RetryAfter, answered
	}
}

// unheard says what an attempt without an answer means.
func unheard(err error) (relay.Class, string) {
	var failure *egress.Error
	if !errors.As(err, &failure) {
		return relay.Permanent, "it cannot be written"
	}
	switch {
	case failure.Sent:
		return relay.NoAnswer, failure.Told()
	case failure.Permanent():
		return relay.Permanent, failure.Told()
	default:
		return relay.Retry, failure.Told()
	}
}

// recorded counts what was recorded, and tells of what is dead.
func (h *Hooks) recorded(hook *relay.Hook, a relay.HookAttempt, r groupcommit.Result[store.RecordedHook]) {
	switch {
	case r.Err != nil:
		h.cfg.Log.Error("attempt of a hook not recorded: it will be made again when its lease ends",
			"hook_id", hook.ID, "project_id", hook.ProjectID, "class", a.Class, "error", r.Err)
	case r.Value.Stale:
		h.cfg.Log.Warn("attempt of a hook not recorded: its lease was lost, and another node makes it again",
			"hook_id", hook.ID, "project_id", hook.ProjectID, "class", a.Class)
	default:
		h.cfg.Metrics.HookEnded(r.Value.Status)
		if r.Value.Status == relay.Dead {
			h.cfg.Log.Warn("hook is dead: a subscriber was not told",
				"hook_id", hook.ID, "project_id", hook.ProjectID, "subscription_id", hook.SubscriptionID,
				"event", hook.Event, "class", a.Class, "reason", a.Reason)
		}
	}
}
