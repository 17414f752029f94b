package handlers

import (
	"net/http"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

type event struct {
	ID              uuid.UUID           `json:"id"`
	Source          string              `json:"source"`
	ReceivedAt      string              `json:"received_at"`
	Verdict         string              `json:"verdict"`
	Match           string              `json:"match"`
	Rule            string              `json:"rule"`
	Reason          *string             `json:"reason"`
	Outcome         *string             `json:"outcome"`
	Type            *string             `json:"type"`
	ProviderEventID *string             `json:"provider_event_id"`
	Token           *string             `json:"token"`
	CorrelationID   *uuid.UUID          `json:"correlation_id"`
	DuplicateOf     *uuid.UUID          `json:"duplicate_of"`
	Payment         *relay.ShownPayment `json:"payment"`
	Form            map[string]any      `json:"form"`
}

type eventDetail struct {
	event
	Headers map[string]string `json:"headers"`
	Body    *string           `json:"body"`        // where it is UTF-8
	Base64  []byte            `json:"body_base64"` // where it is not

	Explanation *explanation `json:"explanation"`
}

func showEvent(e *store.EventRecord) event {
	return event{
		ID: e.ID, Source: e.Source, ReceivedAt: stamp(e.ReceivedAt), Verdict: string(e.Verdict), Match: string(e.Match),
		Rule: e.Rule, Reason: nullable(e.Reason), Outcome: nullable(e.Outcome), Type: nullable(e.Type),
		ProviderEventID: nullable(e.ProviderEventID), Token: nullable(e.Token), CorrelationID: e.CorrelationID,
		DuplicateOf: e.DuplicateOf, Payment: e.Payment.Shown(), Form: e.Form,
	}
}

var (
	verdicts = []relay.Verdict{relay.Verified, relay.Unsigned, relay.Rejected, relay.Fetched}
	matches  = []relay.Match{
		relay.Matched, relay.Parked, relay.Late, relay.MatchedAgain, relay.Duplicate,
		relay.Ignored, relay.GuardFailed, relay.Ambiguous, relay.OtherProject, relay.Unmatched,
	}
)

func (h *Handlers) listEvents(c echo.Context) error {
	p, err := pageOf(c)
	if err != nil {
		return err
	}
	var f store.EventFilter
	if err := textParams(c, map[string]*string{"source": &f.Source, "token": &f.Token}); err != nil {
		return err
	}
	if f.Verdict, err = oneOf(c, "verdict", verdicts...); err != nil {
		return err
	}
	if f.Match, err = oneOf(c, "match", matches...); err != nil {
		return err
	}
	if f.From, err = timeParam(c, "from"); err != nil {
		return err
	}
	if f.To, err = timeParam(c, "to"); err != nil {
		return err
	}
	rows, err := h.cfg.Store.Events(c.Request().Context(), callerOf(c).project.ID, f, p)
	if err != nil {
		return err
	}
	if err := h.knownFilter(c, len(rows), directory.KindSource, f.Source); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, page(rows, p, func(e *store.EventRecord) uuid.UUID { return e.ID }, showEvent))
}

// eventOf reads the event that the path names.
func (h *Handlers) eventOf(c echo.Context) (*store.EventRecord, error) {
	id, err := idParam(c)
	if err != nil {
		return nil, err
	}
	return h.cfg.Store.Event(c.Request().Context(), callerOf(c).project.ID, id)
}

func (h *Handlers) getEvent(c echo.Context) error {
	e, err := h.eventOf(c)
	if err != nil {
		return err
	}
	out := eventDetail{event: showEvent(e), Headers: provider.ShownHeaders(e.Headers)}
	if out.Explanation, err = h.explain(c.Request().Context(), callerOf(c).project.ID, e); err != nil {
		return err
	}
	switch {
	case e.Body == nil: // blanked by retention
	case utf8.Valid(e.Body):
		body := string(e.Body)
		out.Body = &body
	default:
		out.Base64 = e.Body
	}
	return c.JSON(http.StatusOK, out)
}
