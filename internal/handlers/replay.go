package handlers

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// replayed is the answer to a replay. The work follows in the background.
type replayed struct {
	ID      *uuid.UUID `json:"id"` // null of a dry run
	Matched int        `json:"matched"`
	Skipped int        `json:"skipped"`
	DryRun  bool       `json:"dry_run"`
	Limit   int        `json:"limit"`
}

func showReplay(r store.Replay) replayed {
	out := replayed{Matched: r.Matched, Skipped: r.Skipped, DryRun: r.ID == uuid.Nil, Limit: store.ReplayLimit}
	if r.ID != uuid.Nil {
		out.ID = &r.ID
	}
	return out
}

// replayEvent has one event matched again.
func (h *Handlers) replayEvent(c echo.Context) error {
	if _, err := decode(c, &struct{}{}, true); err != nil {
		return err
	}
	e, err := h.eventOf(c)
	if err != nil {
		return err
	}
	if e.Body == nil {
		return relay.Errorf(relay.Conflict, "event_blanked",
			"the bytes of this event are not kept any more: have the provider send it again")
	}
	r, err := h.cfg.Store.StartReplay(c.Request().Context(), callerOf(c).project.ID, store.EventFilter{ID: e.ID}, false)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusAccepted, showReplay(r))
}

// getReplay tells how far a replay has come.
func (h *Handlers) getReplay(c echo.Context) error {
	id, err := idParam(c)
	if err != nil {
		return err
	}
	r, err := h.cfg.Store.Replay(c.Request().Context(), callerOf(c).project.ID, id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, struct {
		ID        uuid.UUID `json:"id"`
		Remaining int       `json:"remaining"`
		Changed   int       `json:"changed"`
		CreatedAt string    `json:"created_at"`
		DoneAt    *string   `json:"done_at"`
	}{r.ID, r.Remaining, r.Changed, stamp(r.CreatedAt), optionalStamp(r.DoneAt)})
}

// replayEvents has the events of a filter matched again.
func (h *Handlers) replayEvents(c echo.Context) error {
	var req struct {
		Source  string        `json:"source"`
		Verdict relay.Verdict `json:"verdict"`
		Match   relay.Match   `json:"match"`
		Token   string        `json:"token"`
		From    timeField     `json:"from"`
		To      timeField     `json:"to"`
		DryRun  bool          `json:"dry_run"`
	}
	if _, err := decode(c, &req, false); err != nil {
		return err
	}
	if req.Verdict != "" && !slices.Contains(verdicts, req.Verdict) {
		return relay.Errorf(relay.Invalid, "invalid_verdict", "verdict: %q is none of %s", req.Verdict, listed(verdicts))
	}
	if req.Match != "" && !slices.Contains(matches, req.Match) {
		return relay.Errorf(relay.Invalid, "invalid_match", "match: %q is none of %s", req.Match, listed(matches))
	}
	if err := checkText("source", req.Source, maxUserID); err != nil {
		return err
	}
	if err := checkText("token", req.Token, maxUserID); err != nil {
		return err
	}
	if err := h.knownName(c, directory.KindSource, req.Source); err != nil {
		return err
	}
	f := store.EventFilter{
		Source: req.Source, Verdict: req.Verdict, Match: req.Match, Token: req.Token, From: req.From.Time, To: req.To.Time,
	}
	if f == (store.EventFilter{}) {
		return relay.Errorf(relay.Invalid, "filter_required",
			"say which events: give at least one of source, verdict, match, token, from, to")
	}
	r, err := h.cfg.Store.StartReplay(c.Request().Context(), callerOf(c).project.ID, f, req.DryRun)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusAccepted, showReplay(r))
}

// knownName refuses a name that the caller's project has nothing by: a filter
// that is misspelt would find nothing, and look as if nothing were there. ""
// names none.
func (h *Handlers) knownName(c echo.Context, kind directory.Kind, name string) error {
	who := callerOf(c)
	if name == "" || slices.Contains(who.project.Names(kind), name) {
		return nil
	}
	fresh, err := h.cfg.Directory.Refresh(c.Request().Context())
	if err != nil {
		return err
	}
	who.use(fresh)
	names := who.project.Names(kind)
	if slices.Contains(names, name) {
		return nil
	}
	said := fmt.Sprintf("%s: this project has no %s %q%s", kind, kind, name, relay.DidYouMean(name, names))
	switch kind {
	case directory.KindSource:
		return relay.Errorf(relay.Invalid, "unknown_source", "%s", said)
	case directory.KindDestination:
		return relay.Errorf(relay.Invalid, "unknown_destination", "%s", said)
	default:
		return relay.Errorf(relay.Invalid, "unknown_flow", "%s", said)
	}
}

// knownFilter is knownName for a filter that has found so many rows: what is
// deleted still has a history, and is found by its name. Where other filters
// narrow the list, those may be why nothing is found.
func (h *Handlers) knownFilter(c echo.Context, found int, kind directory.Kind, name string) error {
	if found > 0 {
		return nil
	}
	for filter := range c.QueryParams() {
		if filter != string(kind) && filter != "limit" {
			return nil
		}
	}
	return h.knownName(c, kind, name)
}
