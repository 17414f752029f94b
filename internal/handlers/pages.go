package handlers

import (
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/templates"
)

// goTo leads from the link in the chat to where the wait is fulfilled. What it
// notes of that is written later: nobody waits for it.
func (h *Handlers) goTo(c echo.Context) error {
	w, err := h.byToken(c)
	if err != nil || w == nil {
		return err
	}
	if w.Status != relay.Pending {
		return h.showStatus(c, w)
	}
	to, err := h.placeOf(c, w)
	if err != nil {
		return err
	}
	if to == nil {
		return h.showStatus(c, w)
	}
	if asksFor(c.Request()) {
		h.setReturnCookie(c, w, to.source)
	}
	if byPerson(c.Request()) {
		h.openings.note(&w.Wait, time.Now())
	}
	return c.Redirect(http.StatusFound, to.link)
}

// place is where a wait is fulfilled.
type place struct {
	source *directory.Source
	link   string
}

// placeOf finds the link of a wait, of the source that the query names or the
// first that has one; nil where there is none.
func (h *Handlers) placeOf(c echo.Context, w *store.Standing) (*place, error) {
	p, err := h.cfg.Plans.Get(c.Request().Context(), w.PlanID)
	if err != nil {
		return nil, err
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
		if src.Name == relay.FormSource && p.HostedForm() != nil {
			return &place{src, h.pathPrefix + "/f/" + w.Token}, nil
		}
		if p.Create != nil && src.Provider == "stripe" {
			return h.createdPlace(c, w, src)
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
			return nil, err
		}
		return &place{src, link}, nil
	}
	return nil, nil //nolint:nilnil // many waits have no link
}

// createdPlace finds what was made at a source for a wait to be paid by.
func (h *Handlers) createdPlace(c echo.Context, w *store.Standing, src *directory.Source) (*place, error) {
	made, err := h.cfg.Store.CheckoutOf(c.Request().Context(), w.ID)
	if relay.IsKind(err, relay.NotFound) || err == nil && (made.SourceID != src.ID || made.URL == "") {
		return nil, nil //nolint:nilnil // it was erased
	}
	// A session carries the token itself, and its address bears no addition.
	if err != nil || strings.HasPrefix(made.Object, "cs_") {
		return &place{src, made.URL}, err
	}
	link, err := src.Endpoint.Preset().PlaceToken(made.URL, w.Token, src.TokenField)
	return &place{src, link}, err
}

// isWebLink tells what a browser may be sent to.
func isWebLink(link string) bool {
	u, err := url.Parse(link)
	return err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http")
}

// byToken finds the wait of the path, or has answered that there is none.
func (h *Handlers) byToken(c echo.Context) (*store.Standing, error) {
	token := c.Param("token")
	if !relay.IsToken(token) {
		return nil, h.showUnknown(c)
	}
	w, err := h.cfg.Store.StandingByToken(c.Request().Context(), token)
	if relay.IsKind(err, relay.NotFound) {
		return nil, h.showUnknown(c)
	}
	return w, err
}

// showUnknown answers whoever comes with a link that leads to no wait.
func (h *Handlers) showUnknown(c echo.Context) error {
	return h.showPage(c, http.StatusNotFound, templates.StatusPage, templates.Status{Page: h.beginPage(c, nil, nil), State: "unknown"})
}

// showRefusal tells a person that the page cannot be had now, or that what was
// sent cannot be taken.
func (h *Handlers) showRefusal(c echo.Context, code int) error {
	state := "refused"
	if code >= http.StatusInternalServerError {
		state = "unavailable"
	}
	return h.showPage(c, code, templates.StatusPage, templates.Status{Page: h.beginPage(c, nil, nil), State: state})
}

// showStatus shows a wait to the person who waits.
func (h *Handlers) showStatus(c echo.Context, w *store.Standing) error {
	page, code, err := h.statusOf(c, w)
	if err != nil {
		return err
	}
	return h.showPage(c, code, templates.StatusPage, page)
}

// statusOf makes the page that tells what became of a wait.
func (h *Handlers) statusOf(c echo.Context, w *store.Standing) (page templates.Status, code int, err error) {
	state, code := string(w.Status), http.StatusOK
	switch {
	case w.LateOutcome == relay.Completed:
		state = string(relay.Completed)
	case w.Status == relay.StatusExpired, w.Status == relay.StatusCancelled, w.Status == relay.StatusSuperseded:
		code = http.StatusGone
	}
	p, err := h.cfg.Plans.Get(c.Request().Context(), w.PlanID)
	if err != nil {
		return page, 0, err
	}
	outcome := relay.Outcome(state)
	if !outcome.Terminal() {
		outcome = ""
	}
	back := p.WayBack(plan.ScopeOf(&w.Wait, outcome, w.Payment, w.Form, relay.FormatJSON, nil))
	if relay.CheckReturnURL(back) != nil { // rendered from what came with the wait
		back = ""
	}
	page = templates.Status{Page: h.beginPage(c, w, nil), State: state, ReturnURL: template.URL(back)} //nolint:gosec // checked right above
	if w.Status == relay.Pending {
		page.Refresh = pendingRefresh
		page.State = h.pendingState(c, w)
		page.Now, page.Script, page.Live = stateOf(&w.Wait), h.pages.Script("return.js"), true
		if !strings.HasPrefix(c.Path(), "/return/") { // which alone tells news
			page.News = page.Root + "return/" + w.Token
		}
	}
	return page, code, nil
}

// pendingRefresh is after how many seconds a page looks again whether its wait
// has ended.
const pendingRefresh = 3

// pendingState says what a wait that is pending waits for.
func (h *Handlers) pendingState(c echo.Context, w *store.Standing) string {
	switch {
	case w.Extended:
		return "processing"
	case c.QueryParams().Has(gaveUp):
		return "unpaid"
	case h.ofMoney(w):
		return "confirming"
	default:
		return string(relay.Pending)
	}
}

// ofMoney reports whether a source of the wait tells of payments: who can give
// one back was given one.
func (h *Handlers) ofMoney(w *store.Standing) bool {
	for _, id := range w.SourceIDs {
		if src := h.cfg.Directory.Current().SourceByID(id); src != nil && src.Err == nil &&
			slices.Contains(src.Endpoint.Preset().Outcomes(), relay.Refunded) {
			return true
		}
	}
	return false
}

// beginPage begins a page for the person who asks. w is the wait that it is
// about, or nil; offered are the languages of what it shows, nil where that is
// the pages' own texts alone.
func (h *Handlers) beginPage(c echo.Context, w *store.Standing, offered []string) templates.Page {
	locale, look := "", templates.Look{}
	if w != nil {
		locale, look = w.Locale, h.lookOf(w)
	}
	wanted := templates.Wanted(locale, c.Request().Header.Get("Accept-Language"))
	page := h.pages.Page(wanted, offered, look)
	if c.Param("source") != "" { // its address is one deeper than that of others
		page.Root = "../../"
	}
	return page
}

// lookOf is how the pages of a wait look: as its flow's or its project's do now.
func (h *Handlers) lookOf(w *store.Standing) templates.Look {
	return h.lookOfFlow(w.ProjectID, w.Flow)
}

func (h *Handlers) lookOfFlow(projectID int64, flow string) templates.Look {
	p := h.cfg.Directory.Current().ProjectByID(projectID)
	if p == nil {
		return templates.Look{}
	}
	l := p.LookOf(flow)
	out := templates.Look{
		Name: l.Name, Color: l.Color, DarkColor: l.OnDark(), Embed: l.Embed, Texts: make(map[string]templates.Texts, len(l.Texts)),
	}
	if l.LogoName != "" {
		out.Logo = "assets/" + l.LogoName
	}
	for key, words := range l.Texts {
		out.Texts[key] = templates.Texts(words)
	}
	return out
}

// shown is a page with what its headers need of it.
type shown interface{ Policy() string }

func (h *Handlers) showPage(c echo.Context, code int, name string, page shown) error {
	body, err := h.pages.Render(name, page)
	if err != nil {
		return err
	}
	header := c.Response().Header()
	header.Set("Content-Security-Policy", page.Policy())
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Length", strconv.Itoa(len(body))) // said to HEAD too
	return c.HTMLBlob(code, body)
}

// asset serves what pages load. Its name holds its hash, so that it never
// changes under it.
func (h *Handlers) asset(c echo.Context) error {
	a, ok := h.pages.Asset(c.Param("name"))
	if logo, isLogo := h.cfg.Directory.Current().Logo(c.Param("name")); isLogo {
		a, ok = templates.Asset{ContentType: logo.ContentType, Body: logo.Image}, true
	}
	if !ok {
		return relay.Errorf(relay.NotFound, "not_found", "there is no such file")
	}
	c.Response().Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	c.Response().Header().Set("X-Content-Type-Options", "nosniff")
	return c.Blob(http.StatusOK, a.ContentType, a.Body)
}
