package handlers

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/relay"
)

// retryAfter is what a 503 asks its receiver to wait, in seconds: about as
// long as a failover's first attempts take.
const retryAfter = 2

// problem is an answer by RFC 9457.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// statusOf maps the kinds of refusal to HTTP.
var statusOf = map[relay.Kind]int{
	relay.Invalid:      http.StatusUnprocessableEntity,
	relay.Malformed:    http.StatusBadRequest,
	relay.Unauthorized: http.StatusUnauthorized,
	relay.Forbidden:    http.StatusForbidden,
	relay.NotFound:     http.StatusNotFound,
	relay.Conflict:     http.StatusConflict,
	relay.TooLarge:     http.StatusRequestEntityTooLarge,
	relay.Unsupported:  http.StatusUnsupportedMediaType,
	relay.Busy:         http.StatusServiceUnavailable,
}

// statusError is a refusal whose status a preset has chosen.
type statusError struct {
	status  int
	refusal *relay.Error
}

func (e *statusError) Error() string { return e.refusal.Error() }
func (e *statusError) Unwrap() error { return e.refusal }

type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

func stack() []byte { return debug.Stack() }

// answerError turns an error into its answer. What it does not know becomes
// a plain 500 and is logged, once.
func (h *Handlers) answerError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	p := h.problemOf(err, c)
	switch p.Status {
	case http.StatusServiceUnavailable:
		c.Response().Header().Set("Retry-After", strconv.Itoa(retryAfter))
	case http.StatusUnauthorized:
		if !signs(c) { // who signs has no API key to send
			c.Response().Header().Set("WWW-Authenticate", `Bearer realm="relay", Basic realm="relay"`)
		}
	}
	if isPage(c) && wantsHTML(c.Request()) {
		if err := h.showRefusal(c, p.Status); err != nil {
			h.cfg.Log.Debug("answer not written", "route", c.Path(), "error", err)
		}
		return
	}
	c.Response().Header().Set(echo.HeaderContentType, "application/problem+json")
	if err := c.JSON(p.Status, p); err != nil {
		h.cfg.Log.Debug("answer not written", "route", c.Path(), "error", err)
	}
}

// signs reports whether the callers of the request's route prove themselves by
// a signature: providers, and bots.
func signs(c echo.Context) bool {
	return strings.HasPrefix(c.Path(), "/in/") || strings.HasPrefix(c.Path(), "/bots/")
}

// isPage reports whether the request's route is one of those that people open.
func isPage(c echo.Context) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(c.Path(), "/"), "/")
	return slices.Contains([]string{"f", "go", "return"}, first)
}

// problemOf is what an error is answered with. It logs one line per request
// that failed on our side, with the route's pattern, never its path: paths hold
// tokens.
func (h *Handlers) problemOf(err error, c echo.Context) problem {
	var known *relay.Error
	var chosen *statusError
	var routing *echo.HTTPError
	switch {
	case errors.As(err, &chosen):
		return newProblem(chosen.status, chosen.refusal.Code, chosen.refusal.Detail)
	case errors.As(err, &known):
		if known.Kind == relay.Busy {
			// An outage sheds every request: one line a second tells as much.
			h.shed.Do(func() {
				h.cfg.Log.Warn("requests are shed", "method", c.Request().Method, "route", c.Path(), "code", known.Code, "error", err)
			})
		}
		return newProblem(statusOf[known.Kind], known.Code, known.Detail)
	case errors.As(err, &routing):
		return routingProblem(routing)
	}
	attrs := []any{"method", c.Request().Method, "route", c.Path(), "error", err}
	var panicked *panicError
	if errors.As(err, &panicked) {
		attrs = append(attrs, "stack", string(panicked.stack))
	}
	h.cfg.Log.Error("request failed", attrs...)
	return newProblem(http.StatusInternalServerError, "internal_error", "the relay failed; the reason is in its log")
}

func routingProblem(err *echo.HTTPError) problem {
	switch err.Code {
	case http.StatusNotFound:
		return newProblem(err.Code, "not_found", "there is no such route")
	case http.StatusMethodNotAllowed:
		return newProblem(err.Code, "method_not_allowed", "this route does not take this method")
	default:
		return newProblem(err.Code, "refused", http.StatusText(err.Code))
	}
}

func newProblem(status int, code, detail string) problem {
	return problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}
