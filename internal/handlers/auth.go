package handlers

import (
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
)

// projectHeader names the project that an instance key acts for.
const projectHeader = "Relay-Project"

// caller is who makes a request, kept in its context.
type caller struct {
	key      *relay.APIKey
	project  *directory.Project
	snapshot *directory.Snapshot
}

const callerKey = "relay.caller"

func callerOf(c echo.Context) *caller { return c.Get(callerKey).(*caller) } //nolint:forcetypeassert // authenticate has set it

// authenticate finds out who asks: by a Bearer key, or by Basic with the key
// as password and any user name, since some bot platforms can only do that.
func (h *Handlers) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		text := credentials(c)
		if text == "" {
			return relay.Errorf(relay.Unauthorized, "api_key_required", "send Authorization: Bearer <api key>")
		}
		snapshot := h.cfg.Directory.Current()
		key := snapshot.Key(text)
		if key == nil {
			var err error
			snapshot, err = h.cfg.Directory.Refresh(c.Request().Context())
			if key = snapshot.Key(text); key == nil && err != nil {
				return err
			}
		}
		if key == nil {
			return relay.Errorf(relay.Unauthorized, "invalid_api_key", "this API key is not known, or was revoked: use another")
		}
		project, err := projectOf(c, snapshot, key)
		if err != nil {
			return err
		}
		c.Set(callerKey, &caller{key: key, project: project, snapshot: snapshot})
		return next(c)
	}
}

func credentials(c echo.Context) string {
	r := c.Request()
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	const scheme = "bearer "
	header := r.Header.Get(echo.HeaderAuthorization)
	if len(header) > len(scheme) && strings.EqualFold(header[:len(scheme)], scheme) {
		return header[len(scheme):]
	}
	return ""
}

// projectOf finds the project that a request is about: the one of its key, or
// of an instance key the one that its path or its header names.
func projectOf(c echo.Context, s *directory.Snapshot, key *relay.APIKey) (*directory.Project, error) {
	asked, place := c.Request().Header.Get(projectHeader), projectHeader
	if named := c.Param("project"); named != "" {
		if asked != "" && asked != named {
			return nil, relay.Errorf(relay.Invalid, "name_differs", "%s: the path says %q", projectHeader, named)
		}
		asked, place = named, "the path"
	}
	if key.Scope == relay.ScopeInstance {
		if asked == "" {
			asked = relay.DefaultProject
		}
		if p := s.Project(asked); p != nil {
			return p, nil
		}
		return nil, relay.Errorf(relay.NotFound, "unknown_project", "%s: there is no project %q", place, asked)
	}
	p := s.ProjectByID(key.ProjectID)
	if p == nil || asked != "" && asked != p.Name {
		return nil, relay.Errorf(relay.Forbidden, "other_project", "this API key belongs to another project than %s names", place)
	}
	return p, nil
}

// allows says which scopes may do what one scope may do.
var allows = map[relay.Scope][]relay.Scope{
	relay.ScopeCreate:   {relay.ScopeCreate, relay.ScopeWrite, relay.ScopeAdmin, relay.ScopeInstance},
	relay.ScopeRead:     {relay.ScopeRead, relay.ScopeWrite, relay.ScopeAdmin, relay.ScopeInstance},
	relay.ScopeWrite:    {relay.ScopeWrite, relay.ScopeAdmin, relay.ScopeInstance},
	relay.ScopeAdmin:    {relay.ScopeAdmin, relay.ScopeInstance},
	relay.ScopeInstance: {relay.ScopeInstance},
}

// may finds out who asks, and lets a route be used by keys that have at least
// one of the given scopes.
func (h *Handlers) may(scopes ...relay.Scope) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return h.authenticate(func(c echo.Context) error {
			who := callerOf(c)
			for _, scope := range scopes {
				if slices.Contains(allows[scope], who.key.Scope) {
					if err := knownQuery(c); err != nil {
						return err
					}
					return next(c)
				}
			}
			return relay.Errorf(relay.Forbidden, "scope_too_small",
				"this API key has the scope %q: this needs %q", who.key.Scope, scopes[0])
		})
	}
}
