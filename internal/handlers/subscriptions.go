package handlers

import (
	"net/http"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// headerHookSecret carries the secret of a new subscription, as Tiledesk does.
const headerHookSecret = "X-Hook-Secret"

func showSubscription(c echo.Context, sub *relay.Subscription) relay.ShownSubscription {
	return sub.Shown(callerOf(c).project.Name)
}

// postSubscription makes a subscription. Its secrets are in this answer and
// nowhere else; one that is there already is answered as it is shown.
func (h *Handlers) postSubscription(c echo.Context) error {
	var req struct {
		Event  relay.News `json:"event"`
		Target string     `json:"target"`
	}
	if _, err := decode(c, &req, false); err != nil {
		return err
	}
	sub, err := h.cfg.Directory.Subscribe(c.Request().Context(), callerOf(c).project, req.Event, req.Target)
	if err != nil {
		return err
	}
	out := showSubscription(c, &sub)
	if out.Secret, out.SigningSecret = sub.Secret, sub.SigningSecret; out.Secret != "" {
		c.Response().Header().Set(headerHookSecret, out.Secret)
	}
	return c.JSON(http.StatusOK, out)
}

func (h *Handlers) listSubscriptions(c echo.Context) error {
	out := []relay.ShownSubscription{}
	for _, sub := range callerOf(c).project.Subscriptions() {
		out = append(out, showSubscription(c, sub))
	}
	return c.JSON(http.StatusOK, out)
}

func (h *Handlers) getSubscription(c echo.Context) error {
	sub, err := h.subscription(c)
	if err != nil {
		return err
	}
	if sub == nil {
		return relay.Errorf(relay.NotFound, "not_found", "this project has no such subscription")
	}
	return c.JSON(http.StatusOK, showSubscription(c, sub))
}

// deleteSubscription ends a subscription; of one that is gone the answer is
// null, as Tiledesk's is.
func (h *Handlers) deleteSubscription(c echo.Context) error {
	sub, err := h.subscription(c)
	if err != nil {
		return err
	}
	if sub == nil {
		return c.JSON(http.StatusOK, nil)
	}
	if err := h.cfg.Directory.Unsubscribe(c.Request().Context(), sub); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, showSubscription(c, sub))
}

// subscription finds the subscription of the path, or nil: another node may
// have made it within this second, so an unknown one is looked for once more.
func (h *Handlers) subscription(c echo.Context) (*relay.Subscription, error) {
	id, _ := uuid.Parse(c.Param("id")) // what is no id becomes one that nobody has
	project := callerOf(c).project.ID
	if sub := h.cfg.Directory.Current().Subscription(id); sub != nil && sub.ProjectID == project {
		return sub, nil
	}
	now, err := h.cfg.Directory.Refresh(c.Request().Context())
	if err != nil {
		return nil, err
	}
	if sub := now.Subscription(id); sub != nil && sub.ProjectID == project {
		return sub, nil
	}
	return nil, nil //nolint:nilnil // nobody has it
}

// hook is one hook that was not delivered yet, or never will be.
type hook struct {
	ID             uuid.UUID  `json:"id"`
	SubscriptionID uuid.UUID  `json:"subscription_id"`
	Event          string     `json:"event"`
	CorrelationID  *uuid.UUID `json:"correlation_id"`
	Sequence       *int64     `json:"sequence"` // null: no node has taken it yet
	Status         string     `json:"status"`
	Attempts       int        `json:"attempts"`
	NextAttemptAt  *string    `json:"next_attempt_at"`
	LastClass      *string    `json:"last_class"`
	LastStatus     *int       `json:"last_http_status"`
	LastReason     *string    `json:"last_reason"`
	HappenedAt     string     `json:"happened_at"`
	DiedAt         *string    `json:"died_at"`
}

func showHook(r *store.HookRecord) hook {
	out := hook{
		ID: r.ID, SubscriptionID: r.SubscriptionID, Event: string(r.Event), CorrelationID: r.CorrelationID,
		Sequence: r.Number, Status: string(relay.Scheduled), Attempts: r.Attempts,
		LastClass: nullable(r.Class), LastStatus: r.HTTPStatus, LastReason: nullable(r.Reason),
		HappenedAt: stamp(r.HappenedAt), DiedAt: optionalStamp(r.DiedAt),
	}
	if r.Dead {
		out.Status = string(relay.Dead)
	}
	if !r.Leased { // under a lease due_at is the lease's end
		out.NextAttemptAt = optionalStamp(r.DueAt)
	}
	return out
}

func (h *Handlers) listHooks(c echo.Context) error {
	p, err := pageOf(c)
	if err != nil {
		return err
	}
	var f store.HookFilter
	if f.SubscriptionID, err = subscriptionID(c.QueryParam("subscription_id")); err != nil {
		return err
	}
	status, err := oneOf(c, "status", relay.Scheduled, relay.Dead)
	if err != nil {
		return err
	}
	if status != "" {
		dead := status == relay.Dead
		f.Dead = &dead
	}
	rows, err := h.cfg.Store.Hooks(c.Request().Context(), callerOf(c).project.ID, f, p)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, page(rows, p, func(r *store.HookRecord) uuid.UUID { return r.ID }, showHook))
}

// retryHooks retries dead hooks, of one subscription or of all.
func (h *Handlers) retryHooks(c echo.Context) error {
	var req struct {
		SubscriptionID string `json:"subscription_id"`
		DryRun         bool   `json:"dry_run"`
	}
	if _, err := decode(c, &req, false); err != nil {
		return err
	}
	id, err := subscriptionID(req.SubscriptionID)
	if err != nil {
		return err
	}
	n, err := h.cfg.Store.RetryHooks(c.Request().Context(), callerOf(c).project.ID, store.HookFilter{SubscriptionID: id}, req.DryRun)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusAccepted, map[string]any{"matched": n, "dry_run": req.DryRun, "limit": store.BulkLimit})
}

// subscriptionID reads the id of a filter; none is zero.
func subscriptionID(text string) (uuid.UUID, error) {
	if text == "" {
		return uuid.Nil, nil
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return id, relay.Errorf(relay.Invalid, "invalid_subscription_id", "subscription_id: %.40q is no UUID", text)
	}
	return id, nil
}
