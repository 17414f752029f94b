package handlers

import (
	"net/http"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

type project struct {
	Name      string          `json:"name"`
	Retention relay.Retention `json:"retention"` // in force
	Look      relay.Look      `json:"look"`
	CreatedAt string          `json:"created_at"`
}

func showProject(p *directory.Project) project {
	return project{Name: p.Name, Retention: p.Retention.InForce(), Look: p.Look, CreatedAt: stamp(p.CreatedAt)}
}

func (h *Handlers) listProjects(c echo.Context) error {
	return c.JSON(http.StatusOK, all(callerOf(c).snapshot.Projects(), showProject))
}

func (h *Handlers) getProject(c echo.Context) error {
	p := h.cfg.Directory.Current().Project(c.Param("name"))
	if p == nil {
		return relay.Errorf(relay.NotFound, "not_found", "there is no project %q", c.Param("name"))
	}
	return c.JSON(http.StatusOK, showProject(p))
}

func (h *Handlers) putProject(c echo.Context) error {
	var req struct {
		Name string `json:"name"`
		directory.ProjectFields
	}
	if _, err := decode(c, &req, true); err != nil {
		return err
	}
	name := c.Param("name")
	if req.Name != "" && req.Name != name {
		return relay.Errorf(relay.Invalid, "name_differs", "name: the path says %q", name)
	}
	if err := h.cfg.Directory.PutProject(c.Request().Context(), name, req.ProjectFields); err != nil {
		return err
	}
	return h.getProject(c)
}

func (h *Handlers) deleteProject(c echo.Context) error {
	if err := h.cfg.Directory.DeleteProject(c.Request().Context(), c.Param("name")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

type apiKey struct {
	ID        uuid.UUID   `json:"id"`
	Name      string      `json:"name"`
	Scope     relay.Scope `json:"scope"`
	Hint      string      `json:"hint"`
	CreatedAt string      `json:"created_at"`
	Key       string      `json:"key,omitempty"` // only in the answer that makes it
}

func showKey(k *relay.APIKey) apiKey {
	return apiKey{ID: k.ID, Name: k.Name, Scope: k.Scope, Hint: k.Hint, CreatedAt: stamp(k.CreatedAt)}
}

func (h *Handlers) listKeys(c echo.Context) error {
	return c.JSON(http.StatusOK, all(callerOf(c).project.Keys(), showKey))
}

// postKey makes a key. Its text is in this answer and nowhere else.
func (h *Handlers) postKey(c echo.Context) error {
	var req struct {
		Name  string      `json:"name"`
		Scope relay.Scope `json:"scope"`
	}
	if _, err := decode(c, &req, false); err != nil {
		return err
	}
	switch req.Scope {
	case relay.ScopeRead, relay.ScopeCreate, relay.ScopeWrite, relay.ScopeAdmin:
	default: // an instance key is made by who has the database: `relay keys instance`
		return relay.Errorf(relay.Invalid, "invalid_scope", "scope: %q is none of read, create, write, admin", req.Scope)
	}
	if err := checkText("name", req.Name, maxUserID); err != nil {
		return err
	}
	text := relay.MintAPIKey()
	k := relay.NewAPIKey(text, callerOf(c).project.ID, req.Name, req.Scope)
	ctx := c.Request().Context()
	err := h.cfg.Directory.Change(ctx, func(change *store.Change) error { return change.PutKey(ctx, k) })
	if err != nil {
		return err
	}
	out := showKey(h.cfg.Directory.Current().Key(text))
	out.Key = text
	return c.JSON(http.StatusCreated, out)
}

func (h *Handlers) deleteKey(c echo.Context) error {
	id, err := idParam(c)
	if err != nil {
		return err
	}
	for _, k := range callerOf(c).project.Keys() {
		if k.ID != id {
			continue
		}
		ctx := c.Request().Context()
		err := h.cfg.Directory.Change(ctx, func(change *store.Change) error { return change.DeleteKey(ctx, id) })
		if err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	}
	return relay.Errorf(relay.NotFound, "not_found", "this project has no such API key")
}
