package handlers

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/mapping"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
)

// previewRequest is what would happen to a flow: a stored event, or one that
// is made up. What is given besides a stored event stands above what its wait
// says.
type previewRequest struct {
	EventID      *uuid.UUID      `json:"event_id"`
	Outcome      string          `json:"outcome"`
	Payment      *givenPayment   `json:"payment"`
	Form         map[string]any  `json:"form"`
	Event        json.RawMessage `json:"event"`
	UserID       *text           `json:"user_id"`
	Conversation *text           `json:"conversation"`
	Key          *text           `json:"key"`
	Data         json.RawMessage `json:"data"`
	Locale       string          `json:"locale"`
	WaitVars     map[string]any  `json:"custom_vars"`
}

// previewed is what would be called: an action, and those that stand behind
// it, in the order in which they would be tried.
type previewed struct {
	Outcome relay.Outcome     `json:"outcome"` // mismatch where a payment is not what the flow expects
	Holds   bool              `json:"holds"`   // the flow's `when`; where it does not, nothing is called
	Actions []previewedAction `json:"actions"`
}

type previewedAction struct {
	Name        string             `json:"name"` // under `on:`
	Destination string             `json:"destination"`
	Platform    string             `json:"platform"`
	Requests    []previewedRequest `json:"requests"` // on the usual way
	Notes       []mapping.Note     `json:"notes"`    // expressions without a value
	Error       *string            `json:"error"`    // why it cannot be called
}

type previewedRequest struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`
	Body    any               `json:"body"`
}

// previewFlow shows the calls that an event would make, to the byte but for
// the secrets and for the ids of what is not there. Nothing is sent or kept.
func (h *Handlers) previewFlow(c echo.Context) error {
	var req previewRequest
	if _, err := decode(c, &req, false); err != nil {
		return err
	}
	who := callerOf(c)
	f := who.project.Flow(c.Param("name"))
	if f == nil {
		return missing(directory.KindFlow, c.Param("name"))
	}
	if f.Err != nil {
		return relay.At("flow "+f.Name, f.Err)
	}
	d, err := h.imagine(c, &req, f)
	if err != nil {
		return err
	}
	p, out := f.Resolved.Compiled, previewed{Actions: []previewedAction{}}
	scope := plan.ScopeOf(&d.Wait, d.Outcome, d.Payment, d.Form, d.Format, d.Body)
	if out.Outcome, out.Holds = p.Judge(d.Outcome, scope); !out.Holds {
		return c.JSON(http.StatusOK, out)
	}
	action := string(out.Outcome)
	if req.Outcome == relay.CompletedLate {
		action = relay.CompletedLate
	}
	d.Outcome = out.Outcome
	name, a, ok := p.ActionFor(relay.Step{Fires: out.Outcome, Action: action})
	for ok {
		out.Actions = append(out.Actions, h.previewAction(who.snapshot, p, name, a, d))
		name, a, ok = p.Fallback(name)
	}
	return c.JSON(http.StatusOK, out)
}

// imagine makes the delivery that a request speaks of.
func (h *Handlers) imagine(c echo.Context, req *previewRequest, f *directory.Flow) (*relay.Delivery, error) {
	d := &relay.Delivery{ID: relay.NewID(), Wait: relay.Wait{
		ID: relay.NewID(), Token: relay.NewToken(), Flow: f.Name, Status: relay.Pending, PlanID: f.Resolved.PlanID,
	}}
	if req.EventID != nil {
		if err := h.remember(c, d, *req.EventID); err != nil {
			return nil, err
		}
	}
	if err := req.describe(&d.Wait); err != nil {
		return nil, err
	}
	switch req.Outcome {
	case "":
	case relay.CompletedLate:
		d.Outcome = relay.Completed
	default:
		d.Outcome = relay.Outcome(req.Outcome)
	}
	if !slices.Contains(deliveryOutcomes, d.Outcome) {
		return nil, relay.Errorf(relay.Invalid, "invalid_outcome", "outcome: say what happens: one of %v, or %s", deliveryOutcomes, relay.CompletedLate)
	}
	paid, err := req.Payment.normal()
	if err != nil {
		return nil, err
	}
	if paid != nil {
		d.Payment = paid
	}
	if req.Form != nil {
		d.Form = req.Form
	}
	if len(req.Event) > 0 {
		d.Format, d.Body = relay.FormatJSON, req.Event
	}
	return d, nil
}

// remember takes what is stored of an event, and of the wait that it belongs
// to.
func (h *Handlers) remember(c echo.Context, d *relay.Delivery, id uuid.UUID) error {
	ctx, project := c.Request().Context(), callerOf(c).project
	e, err := h.cfg.Store.Event(ctx, project.ID, id)
	if err != nil {
		return err
	}
	d.EventID, d.Outcome, d.Payment, d.Form, d.Format, d.Body = e.ID, e.Outcome, e.Payment, e.Form, e.Format, e.Body
	if e.CorrelationID == nil {
		return nil
	}
	w, err := h.cfg.Store.Correlation(ctx, project.ID, *e.CorrelationID)
	if err != nil {
		return err
	}
	d.Wait = w.Wait
	return nil
}

// describe puts what is given into the wait that is imagined.
func (req *previewRequest) describe(w *relay.Wait) error {
	for _, f := range []struct {
		name  string
		given *text
		max   int
		to    *string
	}{
		{"user_id", req.UserID, maxUserID, &w.UserID},
		{"conversation", req.Conversation, maxUserID, &w.Conversation},
		{"key", req.Key, relay.MaxReference, &w.Key},
	} {
		if f.given == nil {
			continue
		}
		if err := checkText(f.name, string(*f.given), f.max); err != nil {
			return err
		}
		*f.to = string(*f.given)
	}
	if w.UserID == "" {
		return relay.Errorf(relay.Invalid, "user_id_required", "user_id: say whose conversation would be resumed")
	}
	if len(req.Data) > 0 {
		w.Data = req.Data
	}
	if req.Locale != "" {
		w.Locale = req.Locale
	}
	if req.WaitVars == nil {
		return nil
	}
	vars, err := json.Marshal(req.WaitVars)
	w.CustomVars = vars
	return err
}

// previewAction shows the calls of one action. What keeps it from being called
// is shown with it: the preview is there to find that out.
func (h *Handlers) previewAction(s *directory.Snapshot, p *plan.Plan, name string, a relay.Action, d *relay.Delivery) previewedAction {
	out := previewedAction{Name: name, Requests: []previewedRequest{}, Notes: []mapping.Note{}}
	to := s.Destination(a.DestinationID)
	if to == nil || to.Platform == nil {
		out.Error = nullable("its destination is not there")
		return out
	}
	out.Destination, out.Platform = to.Name, to.Platform.Name
	scope := plan.ScopeOf(&d.Wait, d.Outcome, d.Payment, d.Form, d.Format, d.Body)
	call, notes, err := p.Render(name, scope, plan.WaitVars(&d.Wait), to.Platform)
	out.Notes = append(out.Notes, notes...)
	if err == nil {
		call.UserID, call.Conversation, call.DeliveryID, call.At = d.Wait.UserID, scope.Correlation.Conversation, d.ID.String(), time.Now()
		var list []platform.Request
		if list, err = to.Platform.Preview(to.Account(), call); err == nil {
			for _, r := range list {
				out.Requests = append(out.Requests, showRequest(r))
			}
		}
	}
	if err != nil {
		out.Error = nullable(err.Error())
	}
	return out
}

func showRequest(r platform.Request) previewedRequest {
	out := previewedRequest{Method: r.Method, URL: r.URL, Headers: make(map[string]string, len(r.Header))}
	for name, values := range r.Header {
		out.Headers[name] = strings.Join(values, ", ")
	}
	if json.Valid(r.Body) {
		out.Body = json.RawMessage(r.Body)
	}
	return out
}
