package handlers

import (
	"bytes"
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/templates"
)

// goTo leads from the link in the chat to where the wait is fulfilled.
func (h *Handlers) goTo(c echo.Context) error {
	w, err := h.byToken(c)
	if err != nil || w == nil {
		return err
	}
	if w.Status != relay.Pending {
		return h.showStatus(c, w)
	}
	p, err := h.cfg.Plans.Get(c.Request().Context(), w.PlanID)
	if err != nil {
		return err
	}
	scope := plan.ScopeOf(&w.Wait, "", nil, nil, relay.FormatJSON, nil)
	for _, id := range w.SourceIDs {
		src := h.cfg.Directory.Current().SourceByID(id)
		if src == nil || src.Err != nil {
			continue
		}
		if asked := c.QueryParam("source"); asked != "" && asked != src.Name {
			continue
		}
		link, ok := p.LinkOf(src.Name, scope)
		if !ok {
			continue
		}
		if !isWebLink(link) { // rendered from what came with the wait
			h.cfg.Log.Warn("the link of a wait leads nowhere", "correlation_id", w.ID, "source_id", id)
			continue
		}
		if link, err = src.Endpoint.Preset().PlaceToken(link, w.Token, src.TokenField); err != nil {
			return err
		}
		return c.Redirect(http.StatusFound, link)
	}
	return h.showStatus(c, w)
}

// isWebLink tells what a browser may be sent to.
func isWebLink(link string) bool {
	u, err := url.Parse(link)
	return err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http")
}

// returned tells what is true of a wait, not what a redirect claims.
func (h *Handlers) returned(c echo.Context) error {
	w, err := h.byToken(c)
	if err != nil || w == nil {
		return err
	}
	return h.showStatus(c, w)
}

// byToken finds the wait of the path, or has answered that there is none.
func (h *Handlers) byToken(c echo.Context) (*store.Correlation, error) {
	token := c.Param("token")
	if !relay.IsToken(token) {
		return nil, h.showPage(c, http.StatusNotFound, templates.Status{State: "unknown"})
	}
	w, err := h.cfg.Store.CorrelationByToken(c.Request().Context(), token)
	if relay.IsKind(err, relay.NotFound) {
		return nil, h.showPage(c, http.StatusNotFound, templates.Status{State: "unknown"})
	}
	return w, err
}

// showStatus shows a wait to the person who waits.
func (h *Handlers) showStatus(c echo.Context, w *store.Correlation) error {
	state, code := string(w.Status), http.StatusOK
	switch {
	case w.LateOutcome == relay.Completed:
		state = string(relay.Completed)
	case w.Status == relay.StatusExpired, w.Status == relay.StatusCancelled, w.Status == relay.StatusSuperseded:
		code = http.StatusGone
	}
	p, err := h.cfg.Plans.Get(c.Request().Context(), w.PlanID)
	if err != nil {
		return err
	}
	outcome := relay.Outcome(state)
	if !outcome.Terminal() {
		outcome = ""
	}
	back := p.WayBack(plan.ScopeOf(&w.Wait, outcome, w.Payment, w.Form, relay.FormatJSON, nil))
	return h.showPage(c, code, templates.Status{State: state, ReturnURL: back})
}

func (h *Handlers) showPage(c echo.Context, code int, page templates.Status) error {
	var out bytes.Buffer
	if err := h.pages.ExecuteTemplate(&out, templates.StatusPage, page); err != nil {
		return err
	}
	header := c.Response().Header()
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	return c.HTMLBlob(code, out.Bytes())
}
