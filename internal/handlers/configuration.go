package handlers

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// put creates or replaces the object that the path names.
func (h *Handlers) put(kind directory.Kind, show echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		var object map[string]json.RawMessage
		if _, err := decode(c, &object, false); err != nil {
			return err
		}
		raw, err := withName(object, c.Param("name"))
		if err != nil {
			return err
		}
		who := callerOf(c)
		if err := h.cfg.Directory.Put(c.Request().Context(), who.project.Name, kind, raw); err != nil {
			return err
		}
		who.use(h.cfg.Directory.Current())
		return show(c)
	}
}

// withName puts the name of the path into an object that may repeat it.
func withName(object map[string]json.RawMessage, name string) (json.RawMessage, error) {
	quoted, err := json.Marshal(name)
	if err != nil {
		return nil, err
	}
	if given, ok := object["name"]; ok && !bytes.Equal(given, quoted) {
		return nil, relay.Errorf(relay.Invalid, "name_differs", "name: the path says %q: leave the field out, or make them equal", name)
	}
	if object == nil {
		return nil, relay.Errorf(relay.Invalid, "wrong_type", "the body: want an object")
	}
	object["name"] = quoted
	return json.Marshal(object)
}

func (h *Handlers) remove(kind directory.Kind) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := h.cfg.Directory.Delete(c.Request().Context(), callerOf(c).project.Name, kind, c.Param("name")); err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	}
}

func missing(kind directory.Kind, name string) error {
	return relay.Errorf(relay.NotFound, "not_found", "there is no %s %q in this project", kind, name)
}

// source is a source as it is shown: its secrets are not.
type source struct {
	Name           string          `json:"name"`
	Provider       any             `json:"provider"`
	WebhookURL     *string         `json:"webhook_url"` // null: hosted forms come from the relay itself
	Events         []string        `json:"events"`
	Setup          []string        `json:"setup"`
	AwaitingSecret bool            `json:"awaiting_secret"`
	Tolerance      *relay.Duration `json:"tolerance"` // null: the usual one
	TokenField     *string         `json:"token_field"`
	KeyField       *string         `json:"key_field"`
	PublicURL      *string         `json:"public_url"`
	WebhookIDs     []string        `json:"webhook_ids"`
	Username       *string         `json:"username"` // of the Basic credentials; the password is not shown
	BaseURL        *string         `json:"base_url"` // null: the provider's own
	CanAsk         bool            `json:"can_ask"`  // its provider, with its api_key

	Subscribe     *relay.Subscribe `json:"subscribe"`
	Subscriptions []subscribed     `json:"subscriptions"` // at its platform

	LastEventAt *string  `json:"last_event_at"`
	LastError   *string  `json:"last_error"`
	LastErrorAt *string  `json:"last_error_at"` // null: it is wrong now
	Secrets     []secret `json:"secrets"`
	Warnings    []string `json:"warnings"`
	CreatedAt   string   `json:"created_at"`
	UpdatedAt   string   `json:"updated_at"`
}

type secret struct {
	ID         uuid.UUID `json:"id"`
	CreatedAt  string    `json:"created_at"`
	ExpiresAt  *string   `json:"expires_at"`
	LastUsedAt *string   `json:"last_used_at"`
}

// subscribed is how one event stands that a source is to be told of.
type subscribed struct {
	Event       string  `json:"event"`
	Status      string  `json:"status"`
	CheckedAt   *string `json:"checked_at"` // when it was last as it should be
	LastError   *string `json:"last_error"` // of the last try; null: that went well
	LastErrorAt *string `json:"last_error_at"`
}

// The values of subscribed.Status.
const (
	subscriptionPending = "pending" // being made
	subscriptionActive  = "active"  // there, and its secret known
	subscriptionFailing = "failing" // wanted, and the last try has failed
	subscriptionEnding  = "ending"  // not wanted any more, and perhaps still there
)

func showSubscribed(r *store.RemoteState) subscribed {
	out := subscribed{
		Event: r.Event, Status: subscriptionPending, CheckedAt: optionalStamp(r.CheckedAt),
		LastError: nullable(r.LastError), LastErrorAt: optionalStamp(r.LastErrorAt),
	}
	switch {
	case !r.Wanted:
		out.Status = subscriptionEnding
	case r.LastError != "":
		out.Status = subscriptionFailing
	case r.There:
		out.Status = subscriptionActive
	}
	return out
}

func showSecret(s relay.SourceSecret) secret {
	return secret{ID: s.ID, CreatedAt: stamp(s.CreatedAt), ExpiresAt: optionalStamp(s.ExpiresAt)}
}

func showSource(s *directory.Source) source {
	out := source{
		Name: s.Name, Provider: s.Provider, TokenField: nullable(s.TokenField), KeyField: nullable(s.KeyField),
		PublicURL: nullable(s.PublicURL), WebhookIDs: append([]string{}, s.WebhookIDs...), Username: nullable(s.Settings["username"]),
		BaseURL: nullable(s.Settings["base_url"]), CanAsk: s.CanAsk(), Subscribe: s.Subscribe, Subscriptions: []subscribed{}, AwaitingSecret: s.AwaitsSecret(), Events: []string{}, Setup: []string{},
		Secrets: all(s.Secrets, showSecret).Data, Warnings: s.Warnings(), CreatedAt: stamp(s.CreatedAt), UpdatedAt: stamp(s.UpdatedAt),
	}
	if s.Provider == relay.InlineProvider {
		out.Provider = s.Preset
	}
	if s.Tolerance != 0 {
		out.Tolerance = &s.Tolerance
	}
	if s.Err != nil {
		out.LastError = nullable(s.Err.Error())
		return out
	}
	preset := s.Endpoint.Preset()
	out.Events, out.Setup = append(out.Events, preset.Events...), append(out.Setup, preset.Setup...)
	if !preset.Internal {
		out.WebhookURL = &s.URL
	}
	return out
}

func (h *Handlers) listSources(c echo.Context) error {
	shown, err := h.showSources(c, callerOf(c).project.Sources()...)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, list[source]{Data: shown})
}

func (h *Handlers) getSource(c echo.Context) error {
	s := callerOf(c).project.Source(c.Param("name"))
	if s == nil {
		return missing(directory.KindSource, c.Param("name"))
	}
	shown, err := h.showSources(c, s)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, shown[0])
}

// showSources shows sources with when they were last heard of. That changes
// all the time, and is no part of the configuration that nodes hold.
func (h *Handlers) showSources(c echo.Context, sources ...*directory.Source) ([]source, error) {
	ctx, project := c.Request().Context(), callerOf(c).project
	seen, err := h.cfg.Store.Activity(ctx, project.ID)
	if err != nil {
		return nil, err
	}
	remotes, err := h.cfg.Store.Remotes(ctx, project.ID)
	if err != nil {
		return nil, err
	}
	out := make([]source, 0, len(sources))
	for _, s := range sources {
		shown := showSource(s)
		for i := range remotes {
			if remotes[i].SourceID == s.ID {
				shown.Subscriptions = append(shown.Subscriptions, showSubscribed(&remotes[i]))
			}
		}
		if a, ok := seen[s.ID]; ok {
			shown.LastEventAt = optionalStamp(a.LastEventAt)
			if s.Err == nil {
				shown.LastError, shown.LastErrorAt = nullable(a.LastError), optionalStamp(a.LastErrorAt)
			}
			for i := range shown.Secrets {
				shown.Secrets[i].LastUsedAt = optionalStamp(a.SecretsUsed[shown.Secrets[i].ID])
			}
		}
		out = append(out, shown)
	}
	return out, nil
}

// postSecret gives a source a new current secret.
func (h *Handlers) postSecret(c echo.Context) error {
	var req struct {
		Secret         string       `json:"secret"`
		ExpireOthersIn *relay.Delay `json:"expire_others_in"`
	}
	if _, err := decode(c, &req, false); err != nil {
		return err
	}
	src := callerOf(c).project.Source(c.Param("name"))
	if src == nil {
		return missing(directory.KindSource, c.Param("name"))
	}
	if src.Err == nil {
		if err := src.Endpoint.Preset().CheckSecret(req.Secret); err != nil {
			return relay.Errorf(relay.Invalid, "invalid_secret", "secret: %s", relay.DetailOf(err))
		}
	}
	if req.ExpireOthersIn != nil && *req.ExpireOthersIn < 0 {
		return relay.Errorf(relay.Invalid, "invalid_duration", "expire_others_in: cannot be negative")
	}
	ctx := c.Request().Context()
	var id uuid.UUID
	err := h.cfg.Directory.Change(ctx, func(change *store.Change) (err error) {
		if id, err = change.PutSecret(ctx, src.ProjectID, src.ID, req.Secret); err != nil || req.ExpireOthersIn == nil {
			return err
		}
		return change.ExpireOtherSecrets(ctx, src.ID, id, time.Duration(*req.ExpireOthersIn))
	})
	if err != nil {
		return err
	}
	if now := h.cfg.Directory.Current().SourceByID(src.ID); now != nil {
		for _, s := range now.Secrets {
			if s.ID == id {
				return c.JSON(http.StatusCreated, showSecret(s))
			}
		}
	}
	return missing(directory.KindSource, src.Name) // deleted in the same moment
}

func (h *Handlers) deleteSecret(c echo.Context) error {
	id, err := idParam(c)
	if err != nil {
		return err
	}
	src := callerOf(c).project.Source(c.Param("name"))
	if src == nil {
		return missing(directory.KindSource, c.Param("name"))
	}
	ctx := c.Request().Context()
	err = h.cfg.Directory.Change(ctx, func(change *store.Change) error { return change.DeleteSecret(ctx, src.ID, id) })
	if err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// showDestination shows a destination flat, as it is written; of its secrets
// only which ones are set.
func showDestination(d *directory.Destination) map[string]any {
	out := map[string]any{
		"name": d.Name, "platform": d.Destination.Platform, "base_url": nullable(d.BaseURL), "max_concurrency": d.Concurrency(),
		"rate": nullable(d.Rate), "timeout": relay.Duration(d.Timeout()), "on_unknown": "retry",
		"held": nil, "created_at": stamp(d.CreatedAt), "updated_at": stamp(d.UpdatedAt),
	}
	if d.Held != nil {
		out["held"] = hold{Since: stamp(d.Held.Since), Reason: d.Held.Reason}
	}
	if d.OnUnknown != "" {
		out["on_unknown"] = d.OnUnknown
	}
	if d.Platform != nil && d.BaseURL == "" {
		out["base_url"] = nullable(d.Platform.DefaultBaseURL)
	}
	for name, value := range d.Settings {
		out[name] = value
	}
	if d.Platform != nil {
		for _, s := range d.Platform.Settings {
			if value := d.Settings[s.Name]; s.Kind == platform.Number && value != "" {
				out[s.Name] = json.Number(value)
			}
		}
	}
	set := slices.AppendSeq([]string{}, maps.Keys(d.Secrets)) // rather empty than null
	slices.Sort(set)
	out["secrets_set"] = set
	return out
}

func (h *Handlers) listDestinations(c echo.Context) error {
	return c.JSON(http.StatusOK, all(callerOf(c).project.Destinations(), showDestination))
}

func (h *Handlers) getDestination(c echo.Context) error {
	d := callerOf(c).project.Destination(c.Param("name"))
	if d == nil {
		return missing(directory.KindDestination, c.Param("name"))
	}
	return c.JSON(http.StatusOK, showDestination(d))
}

// hold is why a destination is not called.
type hold struct {
	Since  string `json:"since"`
	Reason string `json:"reason"`
}

// resumeDestination has a destination that is held called again. One that is
// not stays as it is.
func (h *Handlers) resumeDestination(c echo.Context) error {
	d := callerOf(c).project.Destination(c.Param("name"))
	if d == nil {
		return missing(directory.KindDestination, c.Param("name"))
	}
	released, err := h.cfg.Directory.Resume(c.Request().Context(), d)
	if err != nil {
		return err
	}
	h.cfg.Wake()
	return c.JSON(http.StatusOK, map[string]any{"name": d.Name, "released": released})
}

// flow is a flow as it is shown.
type flow struct {
	Name string `json:"name"`
	relay.Flow
	CanFire   []relay.Outcome `json:"can_fire"`
	Warnings  []string        `json:"warnings"`
	Error     *string         `json:"error,omitempty"`
	CreatedAt string          `json:"created_at"`
	UpdatedAt string          `json:"updated_at"`
}

func showFlow(f *directory.Flow) flow {
	out := flow{
		Name: f.Name, Flow: f.Flow, CanFire: []relay.Outcome{}, Warnings: []string{},
		CreatedAt: stamp(f.CreatedAt), UpdatedAt: stamp(f.UpdatedAt),
	}
	if f.Err != nil {
		out.Error = nullable(f.Err.Error())
		return out
	}
	out.CanFire, out.Warnings = f.Resolved.CanFire, f.Resolved.Warnings
	return out
}

func (h *Handlers) listFlows(c echo.Context) error {
	return c.JSON(http.StatusOK, all(callerOf(c).project.Flows(), showFlow))
}

func (h *Handlers) getFlow(c echo.Context) error {
	f := callerOf(c).project.Flow(c.Param("name"))
	if f == nil {
		return missing(directory.KindFlow, c.Param("name"))
	}
	return c.JSON(http.StatusOK, showFlow(f))
}
