package handlers

import (
	"net/http"
	"net/http/pprof"

	"github.com/labstack/echo/v4"
)

// healthz says that the process runs.
func (h *Handlers) healthz(c echo.Context) error { return c.String(http.StatusOK, "ok\n") }

// readyz says whether this node wants requests. It stays 200 while Postgres
// fails over, so that callers get our 503 with its Retry-After and not a
// balancer's.
func (h *Handlers) readyz(c echo.Context) error {
	if h.draining.Load() {
		return c.String(http.StatusServiceUnavailable, "draining\n")
	}
	return c.String(http.StatusOK, "ready\n")
}

// ops is all routes of the operations listener.
func (h *Handlers) ops() *echo.Echo {
	e := h.echo()
	e.GET("/healthz", h.healthz)
	e.GET("/readyz", h.readyz)
	if h.cfg.Metrics != nil {
		e.GET("/metrics", echo.WrapHandler(h.cfg.Metrics.Handler()))
	}
	e.GET("/debug/pprof/", echo.WrapHandler(http.HandlerFunc(pprof.Index)))
	e.GET("/debug/pprof/:profile", echo.WrapHandler(http.HandlerFunc(pprof.Index)))
	e.GET("/debug/pprof/cmdline", echo.WrapHandler(http.HandlerFunc(pprof.Cmdline)))
	e.GET("/debug/pprof/profile", echo.WrapHandler(http.HandlerFunc(pprof.Profile)))
	e.GET("/debug/pprof/symbol", echo.WrapHandler(http.HandlerFunc(pprof.Symbol)))
	e.GET("/debug/pprof/trace", echo.WrapHandler(http.HandlerFunc(pprof.Trace)))
	return e
}
