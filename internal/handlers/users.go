package handlers

import (
	"net/http"
	"net/url"
	"time"

	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The bounds of what one request erases itself.
const (
	eraseBatch = 100             // waits in one transaction, each with its events and deliveries
	eraseTime  = 5 * time.Second // then the rest follows in the background
)

// erased is the answer to an erasure: what this request has done.
type erased struct {
	Correlations int  `json:"correlations"`
	Cancelled    int  `json:"cancelled"`
	Events       int  `json:"events"`
	Deliveries   int  `json:"deliveries"`
	Skipped      int  `json:"skipped"`
	Done         bool `json:"done"` // false: the rest follows in the background
}

// eraseUser erases a person. Once the wish is noted it is fulfilled, whatever
// becomes of this request.
func (h *Handlers) eraseUser(c echo.Context) error {
	ctx, project := c.Request().Context(), callerOf(c).project
	userID, err := pathText(c, "user_id")
	if err != nil {
		return err
	}
	if err := h.cfg.Store.StartErasure(ctx, project.ID, userID); err != nil {
		return err
	}
	var all store.Erased
	done := false
	for until := time.Now().Add(eraseTime); !done && time.Now().Before(until) && ctx.Err() == nil; {
		piece, last, err := h.cfg.Store.EraseNext(ctx, project.ID, userID, eraseBatch)
		if store.Conflicted(err) {
			continue
		}
		if err != nil {
			return err
		}
		all.Add(piece)
		done = last
	}
	h.cfg.Wake() // what waited for its turn behind them may be due
	return c.JSON(http.StatusAccepted, erased{
		Correlations: all.Correlations, Cancelled: all.Cancelled, Events: all.Events,
		Deliveries: all.Deliveries, Skipped: all.Skipped, Done: done,
	})
}

// pathText reads a part of the path that may hold any character. The router
// takes it apart as it was escaped, where that is not the usual way.
func pathText(c echo.Context, name string) (text string, err error) {
	text = c.Param(name)
	if c.Request().URL.RawPath != "" {
		if text, err = url.PathUnescape(text); err != nil {
			return "", relay.Errorf(relay.Malformed, "malformed_path", "%s: the path is not escaped as a URL has it", name)
		}
	}
	if text == "" {
		return "", relay.Errorf(relay.NotFound, "not_found", "%s: name it in the path", name)
	}
	return text, checkText(name, text, maxUserID)
}
