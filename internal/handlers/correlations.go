package handlers

import (
	"cmp"
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// stamp writes a time as the API does: RFC 3339 in UTC, as finely as the
// database keeps it.
func stamp(t time.Time) string { return t.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano) }

func optionalStamp(t *time.Time) *string {
	if t == nil {
		return nil
	}
	s := stamp(*t)
	return &s
}

// nullable makes an empty string null.
func nullable[T ~string](s T) *string {
	if s == "" {
		return nil
	}
	out := string(s)
	return &out
}

// correlation is one wait in a list.
type correlation struct {
	registered
	Conversation string              `json:"conversation"`
	Data         json.RawMessage     `json:"data"`
	CustomVars   json.RawMessage     `json:"custom_vars"`
	Locale       *string             `json:"locale"`
	Outcome      *string             `json:"outcome"`
	ResolvedAt   *string             `json:"resolved_at"`
	ResolvedBy   *string             `json:"resolved_by"`
	LateOutcome  *string             `json:"late_outcome"`
	LateAt       *string             `json:"late_at"`
	EventID      *uuid.UUID          `json:"event_id"`
	Payment      *relay.ShownPayment `json:"payment"`
	Form         map[string]any      `json:"form"`
	Reconciled   *bool               `json:"reconciled"` // whether the provider has answered before the end; null: nobody asked
}

// correlationDetail is one wait with all that happened to it.
type correlationDetail struct {
	correlation
	OpenedAt   *string    `json:"opened_at"` // when a person first opened its link
	Deliveries []delivery `json:"deliveries"`
	Timeline   []moment   `json:"timeline"`
}

func (h *Handlers) showCorrelation(who *caller, c *store.Correlation) correlation {
	outcome := ""
	if c.Status != relay.Pending && c.Status != relay.StatusSuperseded {
		outcome = string(c.Status)
	}
	return correlation{
		registered:   h.showRegistered(who.snapshot, &c.Wait, &c.Plan),
		Conversation: cmp.Or(c.Conversation, c.UserID), Data: c.Data, CustomVars: c.CustomVars, Locale: nullable(c.Locale),
		Outcome: nullable(outcome), ResolvedAt: optionalStamp(c.ResolvedAt), ResolvedBy: nullable(c.ResolvedBy),
		LateOutcome: nullable(c.LateOutcome), LateAt: optionalStamp(c.LateAt), EventID: c.EventID,
		Payment: c.Payment.Shown(), Form: c.Form, Reconciled: c.Reconciled,
	}
}

func (h *Handlers) listCorrelations(c echo.Context) error {
	who := callerOf(c)
	p, err := pageOf(c)
	if err != nil {
		return err
	}
	var f store.CorrelationFilter
	if err := textParams(c, map[string]*string{"flow": &f.Flow, "user_id": &f.UserID, "key": &f.Key}); err != nil {
		return err
	}
	if f.Status, err = oneOf(c, "status", relay.Statuses...); err != nil {
		return err
	}
	if late := c.QueryParam("late"); late != "" {
		if f.Late, err = strconv.ParseBool(late); err != nil {
			return relay.Errorf(relay.Invalid, "invalid_late", "late: %q is neither true nor false", late)
		}
	}
	rows, err := h.cfg.Store.Correlations(c.Request().Context(), who.project.ID, f, p)
	if err != nil {
		return err
	}
	if err := h.knownFilter(c, len(rows), directory.KindFlow, f.Flow); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, page(rows, p,
		func(r *store.Correlation) uuid.UUID { return r.ID },
		func(r *store.Correlation) correlation { return h.showCorrelation(who, r) }))
}

func (h *Handlers) getCorrelation(c echo.Context) error {
	ctx, who := c.Request().Context(), callerOf(c)
	id, err := idParam(c)
	if err != nil {
		return err
	}
	w, err := h.cfg.Store.Correlation(ctx, who.project.ID, id)
	if err != nil {
		return err
	}
	past, err := h.historyOf(ctx, w)
	if err != nil {
		return err
	}
	out := correlationDetail{correlation: h.showCorrelation(who, w), OpenedAt: optionalStamp(past.openedAt), Deliveries: []delivery{}, Timeline: past.timeline()}
	for _, d := range past.deliveries {
		out.Deliveries = append(out.Deliveries, showDelivery(d))
	}
	return c.JSON(http.StatusOK, out)
}

// cancelCorrelation ends a wait as cancelled.
func (h *Handlers) cancelCorrelation(c echo.Context) error {
	var req struct {
		Silent bool `json:"silent"`
	}
	if _, err := decode(c, &req, true); err != nil {
		return err
	}
	return h.endByHand(c, relay.Cancelled, nil, req.Silent)
}

// resolveCorrelation ends a wait as a person says.
func (h *Handlers) resolveCorrelation(c echo.Context) error {
	var req struct {
		Outcome relay.Outcome  `json:"outcome"`
		Payment *givenPayment  `json:"payment"`
		Form    map[string]any `json:"form"`
		Silent  bool           `json:"silent"`
	}
	if _, err := decode(c, &req, false); err != nil {
		return err
	}
	if !slices.Contains(relay.TerminalOutcomes, req.Outcome) {
		return relay.Errorf(relay.Invalid, "invalid_outcome", "outcome: %q is none of %s", req.Outcome, listed(relay.TerminalOutcomes))
	}
	paid, err := req.Payment.normal()
	if err != nil {
		return err
	}
	return h.endByHand(c, req.Outcome, &store.Resolution{Payment: paid, Form: req.Form}, req.Silent)
}

// givenPayment is a payment as a person writes it.
type givenPayment struct {
	ID          string       `json:"id"`
	Amount      *json.Number `json:"amount"`
	AmountMinor *int64       `json:"amount_minor"`
	Currency    string       `json:"currency"`
	Method      string       `json:"method"`
	Email       string       `json:"email"`
	Live        *bool        `json:"live"`
	Account     string       `json:"account"`
}

// normal makes the normal form of p, which may be nil.
func (p *givenPayment) normal() (*relay.Payment, error) {
	if p == nil {
		return nil, nil //nolint:nilnil // no payment is a value of its own here
	}
	for name, value := range map[string]string{"payment.id": p.ID, "payment.currency": p.Currency} {
		if err := checkText(name, value, relay.MaxReference); err != nil {
			return nil, err
		}
	}
	out := &relay.Payment{
		ID: p.ID, AmountMinor: p.AmountMinor, Currency: p.Currency, Exponent: relay.CurrencyExponent(p.Currency),
		Method: p.Method, Email: p.Email, Live: p.Live, Account: p.Account,
	}
	if p.Amount == nil {
		return out, nil
	}
	if p.AmountMinor != nil {
		return nil, relay.Errorf(relay.Invalid, "amount_twice", "payment: give amount or amount_minor")
	}
	amount, err := p.Amount.Float64()
	minor := int64(math.Round(amount * math.Pow10(out.Exponent)))
	if err != nil || math.Abs(amount) > 1e12 {
		return nil, relay.Errorf(relay.Invalid, "invalid_amount", "payment.amount: want an amount in units, such as 20.5")
	}
	out.AmountMinor = &minor
	return out, nil
}

// endByHand ends one wait and answers with what it has become. Its outcome's
// action fires unless the caller wants silence.
func (h *Handlers) endByHand(c echo.Context, outcome relay.Outcome, with *store.Resolution, silent bool) error {
	ctx, who := c.Request().Context(), callerOf(c)
	id, err := idParam(c)
	if err != nil {
		return err
	}
	// The plan of a wait never changes: it is read before the wait is locked,
	// so that nobody who holds a lock waits for another connection.
	found, err := h.cfg.Store.Correlation(ctx, who.project.ID, id)
	if err != nil {
		return err
	}
	p, err := h.cfg.Plans.Get(ctx, found.PlanID)
	if err != nil {
		return err
	}
	decide := func(w *relay.Wait) (store.Ending, error) {
		if w.Status != relay.Pending {
			return store.Ending{}, relay.Errorf(relay.Conflict, "not_pending", "the wait is %s already", w.Status)
		}
		paymentID := ""
		if with != nil && with.Payment != nil {
			paymentID = with.Payment.ID
		}
		ending := store.Ending{Wait: w, Step: w.Apply(outcome, paymentID), By: "api", Resolution: with}
		if silent {
			return ending, nil
		}
		if ending.Fires = p.Delivery(w, ending.Step); ending.Fires != nil && with != nil {
			ending.Fires.Payment, ending.Fires.Form = with.Payment, with.Form
		}
		return ending, nil
	}
	deliveries, err := h.cfg.Store.EndWait(ctx, uuid.New(), who.project.ID, id, decide)
	if err != nil {
		return err
	}
	h.cfg.HandOver(deliveries)
	return h.getCorrelation(c)
}
