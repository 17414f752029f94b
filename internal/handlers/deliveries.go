package handlers

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

type delivery struct {
	ID            uuid.UUID  `json:"id"`
	CorrelationID uuid.UUID  `json:"correlation_id"`
	EventID       *uuid.UUID `json:"event_id"`
	Destination   string     `json:"destination"`
	Status        string     `json:"status"`
	Outcome       string     `json:"outcome"`
	Action        string     `json:"action"` // the name under `on:`
	Attempts      int        `json:"attempts"`
	NextAttemptAt *string    `json:"next_attempt_at"`
	LastClass     *string    `json:"last_class"`
	LastReason    *string    `json:"last_reason"`
	CreatedAt     string     `json:"created_at"`
	FinishedAt    *string    `json:"finished_at"`
}

type deliveryDetail struct {
	delivery
	AttemptLog []attempt `json:"attempt_log"`
}

type attempt struct {
	Number     int     `json:"number"`
	StartedAt  string  `json:"started_at"`
	DurationMS int     `json:"duration_ms"`
	Class      string  `json:"class"`
	HTTPStatus *int    `json:"http_status"`
	Reason     *string `json:"reason"`
	Response   *string `json:"response"`
	Notes      any     `json:"notes"`
}

func showDelivery(d *store.DeliveryRecord) delivery {
	out := delivery{
		ID: d.ID, CorrelationID: d.CorrelationID, EventID: d.EventID, Destination: d.Destination,
		Status: string(d.Status), Outcome: string(d.Outcome), Action: d.Action, Attempts: d.Attempts,
		LastClass: nullable(d.Class), LastReason: nullable(d.Reason), CreatedAt: stamp(d.CreatedAt), FinishedAt: optionalStamp(d.FinishedAt),
	}
	if !d.Leased { // under a lease due_at is the lease's end
		out.NextAttemptAt = optionalStamp(d.DueAt)
	}
	return out
}

func showAttempt(a store.AttemptRecord) attempt {
	out := attempt{
		Number: a.Number, StartedAt: stamp(a.StartedAt), DurationMS: a.DurationMS, Class: string(a.Class),
		HTTPStatus: a.HTTPStatus, Reason: nullable(a.Reason), Response: nullable(a.Response),
	}
	if a.Notes != nil {
		out.Notes = json.RawMessage(a.Notes)
	}
	return out
}

// deliveryStatuses lists the states that a filter may name.
var deliveryStatuses = []relay.DeliveryStatus{
	relay.Scheduled, relay.Sending, relay.Delivered, relay.Unknown, relay.Held, relay.Dead, relay.Skipped,
}

// deliveryOutcomes lists what may have fired a delivery.
var deliveryOutcomes = []relay.Outcome{
	relay.Completed, relay.Failed, relay.Cancelled, relay.Expired, relay.AttemptFailed, relay.Nudged,
	relay.Processing, relay.Mismatch, relay.Refunded, relay.Disputed, relay.PaidAgain,
}

func (h *Handlers) listDeliveries(c echo.Context) error {
	p, err := pageOf(c)
	if err != nil {
		return err
	}
	var f store.DeliveryFilter
	if err := textParams(c, map[string]*string{"destination": &f.Destination}); err != nil {
		return err
	}
	if f.Outcome, err = oneOf(c, "outcome", deliveryOutcomes...); err != nil {
		return err
	}
	if f.Status, err = oneOf(c, "status", deliveryStatuses...); err != nil {
		return err
	}
	if id := c.QueryParam("correlation_id"); id != "" {
		if f.CorrelationID, err = uuid.Parse(id); err != nil {
			return relay.Errorf(relay.Invalid, "invalid_correlation_id", "correlation_id: %q is no UUID", id)
		}
	}
	if f.From, err = timeParam(c, "from"); err != nil {
		return err
	}
	if f.To, err = timeParam(c, "to"); err != nil {
		return err
	}
	rows, err := h.cfg.Store.Deliveries(c.Request().Context(), callerOf(c).project.ID, f, p)
	if err != nil {
		return err
	}
	if err := h.knownFilter(c, len(rows), directory.KindDestination, f.Destination); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, page(rows, p, func(d *store.DeliveryRecord) uuid.UUID { return d.ID }, showDelivery))
}

func (h *Handlers) getDelivery(c echo.Context) error {
	id, err := idParam(c)
	if err != nil {
		return err
	}
	d, attempts, err := h.cfg.Store.Delivery(c.Request().Context(), callerOf(c).project.ID, id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, deliveryDetail{delivery: showDelivery(d), AttemptLog: all(attempts, showAttempt).Data})
}

func (h *Handlers) retryDelivery(c echo.Context) error {
	var req struct {
		Force bool `json:"force"`
	}
	if _, err := decode(c, &req, true); err != nil {
		return err
	}
	id, err := idParam(c)
	if err != nil {
		return err
	}
	if err := h.cfg.Store.RetryDelivery(c.Request().Context(), callerOf(c).project.ID, id, req.Force); err != nil {
		return err
	}
	h.cfg.Wake()
	return h.getDelivery(c)
}

func (h *Handlers) skipDelivery(c echo.Context) error {
	id, err := idParam(c)
	if err != nil {
		return err
	}
	if err := h.cfg.Store.SkipDelivery(c.Request().Context(), callerOf(c).project.ID, id); err != nil {
		return err
	}
	h.cfg.Metrics.Ended(relay.Skipped)
	h.cfg.Wake() // the next one of the conversation is due
	return h.getDelivery(c)
}

// retryDeliveries retries the deliveries that came to rest without success,
// by filter.
func (h *Handlers) retryDeliveries(c echo.Context) error {
	var req struct {
		Status      relay.DeliveryStatus `json:"status"`
		Destination string               `json:"destination"`
		Outcome     relay.Outcome        `json:"outcome"`
		From        timeField            `json:"from"`
		To          timeField            `json:"to"`
		DryRun      bool                 `json:"dry_run"`
	}
	if _, err := decode(c, &req, false); err != nil {
		return err
	}
	switch req.Status {
	case "", relay.Dead, relay.Held, relay.Unknown:
	default:
		return relay.Errorf(relay.Invalid, "invalid_status", "status: %q is none of dead, held, unknown", req.Status)
	}
	if req.Outcome != "" && !slices.Contains(deliveryOutcomes, req.Outcome) {
		return relay.Errorf(relay.Invalid, "invalid_outcome", "outcome: %q is none of %s", req.Outcome, listed(deliveryOutcomes))
	}
	if err := checkText("destination", req.Destination, maxUserID); err != nil {
		return err
	}
	f := store.DeliveryFilter{Status: req.Status, Destination: req.Destination, Outcome: req.Outcome, From: req.From.Time, To: req.To.Time}
	n, err := h.cfg.Store.RetryDeliveries(c.Request().Context(), callerOf(c).project.ID, f, req.DryRun)
	if err != nil {
		return err
	}
	if err := h.knownFilter(c, n, directory.KindDestination, req.Destination); err != nil {
		return err
	}
	if !req.DryRun {
		h.cfg.Wake()
	}
	return c.JSON(http.StatusAccepted, map[string]any{"matched": n, "dry_run": req.DryRun, "limit": store.BulkLimit})
}
