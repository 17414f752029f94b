package handlers

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The cookie by which a browser that comes back is known where the provider's
// redirect names nothing. It holds the token of the wait that was opened last
// at this source, which is in the link too, and proves nothing.
const (
	returnCookie = "relay_wait"
	rememberFor  = 2 * time.Hour // a checkout that takes longer comes back to a page that asks for the newest link
)

// gaveUp stands in the query of the address to which checkouts that the relay
// creates send back who has not paid. It chooses words, and nothing else.
const gaveUp = "back"

// setReturnCookie gives the browser the cookie for its way back from a source.
func (h *Handlers) setReturnCookie(c echo.Context, w *store.Standing, src *directory.Source) {
	project := h.cfg.Directory.Current().ProjectByID(w.ProjectID)
	if project == nil {
		return
	}
	public, err := url.Parse(h.cfg.PublicURL)
	if err != nil {
		return
	}
	c.SetCookie(&http.Cookie{ //nolint:gosec // Secure wherever the relay is reached by https; it holds no secret
		Name: returnCookie, Value: w.Token,
		Path:     strings.TrimSuffix(public.Path, "/") + "/return/" + project.Name + "/" + src.Name,
		MaxAge:   int(rememberFor.Seconds()),
		HttpOnly: true, Secure: public.Scheme == "https", SameSite: http.SameSiteLaxMode,
	})
}

// returned tells what is true of a wait, not what a redirect claims.
func (h *Handlers) returned(c echo.Context) error {
	w, err := h.byToken(c)
	if err != nil || w == nil {
		return err
	}
	return h.showOrTell(c, w)
}

// showOrTell shows the page, or tells its script the news.
func (h *Handlers) showOrTell(c echo.Context, w *store.Standing) error {
	if wantsNews(c.Request()) {
		return h.tellNews(c, w)
	}
	return h.showStatus(c, w)
}

// returnedFrom does the same for checkouts that send everybody back to one
// address of their source.
func (h *Handlers) returnedFrom(c echo.Context) error {
	w, err := h.byReturn(c)
	if relay.IsKind(err, relay.NotFound) {
		return h.showUnknown(c)
	}
	if err != nil {
		return err
	}
	return h.showOrTell(c, w)
}

// byReturn finds the wait of somebody who comes back from a source: by the
// provider's id in the address, else by the cookie. Whatever is not there, the
// source included, is not found in the same words.
func (h *Handlers) byReturn(c echo.Context) (*store.Standing, error) {
	ctx := c.Request().Context()
	src, err := h.findSource(ctx, c.Param("project"), c.Param("source"))
	if err != nil {
		return nil, err
	}
	if ref := c.QueryParam("ref"); ref != "" && len(ref) <= relay.MaxReference {
		w, err := h.cfg.Store.StandingByReference(ctx, src.ProjectID, store.RefHash(src.ID, ref), src.Endpoint.AskableKey(ref))
		if !relay.IsKind(err, relay.NotFound) {
			return w, err
		}
	}
	cookie, err := c.Cookie(returnCookie)
	if err != nil || !relay.IsToken(cookie.Value) {
		return nil, errNobodyReturned
	}
	w, err := h.cfg.Store.StandingByToken(ctx, cookie.Value)
	if err == nil && (w.ProjectID != src.ProjectID || !w.Accepts(src.ID)) {
		return nil, errNobodyReturned
	}
	return w, err
}

// errNobodyReturned is shown as a page.
var errNobodyReturned = relay.Errorf(relay.NotFound, "not_found", "no wait is known by this address")
