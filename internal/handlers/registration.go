package handlers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The bounds of what comes with a wait.
const (
	maxUserID         = 255 // bytes, of user_id, conversation and Idempotency-Key
	maxLocale         = 35  // bytes: the longest language tag that RFC 5646 asks to be supported
	maxData           = 64 << 10
	idempotencyHeader = "Idempotency-Key"
)

// registration is the body of POST /v1/correlations: what is the wait's own,
// and any field of a flow, which then overrides the flow's.
type registration struct {
	UserID       *text           `json:"user_id"`
	Conversation *text           `json:"conversation"`
	Flow         string          `json:"flow"`
	Key          *text           `json:"key"`
	Data         json.RawMessage `json:"data"`
	Locale       string          `json:"locale"`
	ModuleID     any             `json:"module_id"`
	WaitVars     map[string]any  `json:"custom_vars"`
	flowFields
}

// flowFields are the fields of a flow that a wait may override. custom_vars
// is not among them: the wait's own stand above the flow's when they render.
type flowFields struct {
	Destination   string                  `json:"destination"`
	Source        relay.Names             `json:"source"`
	Link          relay.Links             `json:"link"`
	Form          *relay.Form             `json:"form"`
	Create        *relay.Create           `json:"create"`
	ExpiresIn     relay.Duration          `json:"expires_in"`
	Expect        *relay.Expect           `json:"expect"`
	When          string                  `json:"when"`
	OnConflict    string                  `json:"on_conflict"`
	ProcessingFor relay.Duration          `json:"processing_for"`
	RetryFor      relay.Duration          `json:"retry_for"`
	ReturnURL     string                  `json:"return_url"`
	Nudge         relay.Nudges            `json:"nudge"`
	On            map[string]relay.Action `json:"on"`
}

func (f flowFields) flow() relay.Flow {
	return relay.Flow{
		Destination: f.Destination, Source: f.Source, Link: f.Link, Form: f.Form, Create: f.Create, ExpiresIn: f.ExpiresIn, Expect: f.Expect, When: f.When,
		OnConflict: f.OnConflict, ProcessingFor: f.ProcessingFor, RetryFor: f.RetryFor, ReturnURL: f.ReturnURL, Nudge: f.Nudge, On: f.On,
	}
}

// overrides reports whether anything but the wait's own fields was given.
func (r *registration) overrides() bool {
	f := r.flowFields
	return r.ModuleID != nil || f.Destination != "" || f.Source != nil || !f.Link.IsZero() || f.Form != nil || f.Create != nil || f.Expect != nil || f.When != "" ||
		f.ProcessingFor != 0 || f.RetryFor != 0 || f.ReturnURL != "" || f.Nudge != nil || f.On != nil
}

// postCorrelation registers a wait.
func (h *Handlers) postCorrelation(c echo.Context) error {
	var req registration
	body, err := decode(c, &req, false)
	if err != nil {
		return err
	}
	who := callerOf(c)
	if err := req.check(); err != nil {
		return err
	}
	ctx := c.Request().Context()
	resolved, err := h.resolveFlow(ctx, who, &req)
	if err != nil {
		return err
	}
	key := c.Request().Header.Get(idempotencyHeader)
	if err := checkText(idempotencyHeader, key, maxUserID); err != nil {
		return err
	}
	done, err := h.register(ctx, who, &req, resolved, repeatable{key, body})
	if err != nil {
		return err
	}
	status := http.StatusOK
	if done.New {
		status = http.StatusCreated
	}
	p, err := h.cfg.Plans.Get(ctx, done.Wait.PlanID) // one that was there may do something else than was asked for now
	if err != nil {
		return err
	}
	shown := h.showRegistered(who.snapshot, &done.Wait, &p.Plan)
	shown.Warnings = append(shown.Warnings, directory.Strays(p, sourcesOf(who.snapshot, &done.Wait))...)
	return c.JSON(status, shown)
}

// repeatable is by what a repeated request is known: the same key, with the
// same body. Without a key it is not.
type repeatable struct {
	key  string
	body []byte
}

// register registers a wait that was checked and resolved: every way in ends
// here.
func (h *Handlers) register(ctx context.Context, who *caller, req *registration, resolved *directory.Resolved, by repeatable) (store.Registered, error) {
	reg, err := newRegistration(who.project.ID, req, resolved, by)
	if err != nil {
		return store.Registered{}, err
	}
	h.cfg.Plans.Put(reg.Wait.PlanID, resolved.Compiled)
	return h.commit(ctx, reg, resolved)
}

// commit commits a wait, after what its flow creates was made.
func (h *Handlers) commit(ctx context.Context, reg store.Registration, resolved *directory.Resolved) (store.Registered, error) {
	if resolved.Creator != nil {
		there, err := h.create(ctx, &reg, resolved)
		if err != nil {
			return store.Registered{}, err
		}
		if there != nil {
			return store.Registered{Wait: *there}, nil
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.answerIn, errAnswerTimeout)
	defer cancel()
	return h.cfg.Intake.Register(ctx, reg)
}

func (r *registration) check() error {
	if r.UserID == nil || *r.UserID == "" {
		return relay.Errorf(relay.Invalid, "user_id_required", "user_id: say whose conversation waits")
	}
	for _, f := range []struct {
		name  string
		value *text
		max   int
	}{{"user_id", r.UserID, maxUserID}, {"conversation", r.Conversation, maxUserID}, {"key", r.Key, relay.MaxReference}} {
		if f.value == nil {
			continue
		}
		if err := checkText(f.name, string(*f.value), f.max); err != nil {
			return err
		}
		if *f.value == "" {
			return relay.Errorf(relay.Invalid, "invalid_value", "%s: leave it out rather than empty", f.name)
		}
	}
	if len(r.Data) > maxData {
		return relay.Errorf(relay.Invalid, "data_too_large", "data: more than %d bytes", maxData)
	}
	return checkText("locale", r.Locale, maxLocale)
}

func checkText(name, value string, longest int) error {
	if len(value) > longest || !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
		return relay.Errorf(relay.Invalid, "invalid_value", "%s: at most %d bytes of UTF-8 without NUL", name, longest)
	}
	return nil
}

// resolveFlow finds what the wait will do: the flow's own plan where nothing
// is overridden, else one made for this wait.
func (h *Handlers) resolveFlow(ctx context.Context, who *caller, req *registration) (*directory.Resolved, error) {
	var base relay.Flow
	if req.Flow != "" {
		f := who.project.Flow(req.Flow)
		if f == nil {
			fresh, err := h.cfg.Directory.Refresh(ctx)
			if err != nil {
				return nil, err
			}
			who.use(fresh)
			f = who.project.Flow(req.Flow)
		}
		if f == nil {
			return nil, relay.Errorf(relay.Invalid, "unknown_flow", "flow: this project has no flow %q: create it first, or correct the name%s", req.Flow,
				relay.DidYouMean(req.Flow, who.project.Names(directory.KindFlow)))
		}
		if f.Err != nil {
			return nil, relay.At("flow "+req.Flow, f.Err)
		}
		if !req.overrides() {
			return f.Resolved, h.checkVars(who, f.Resolved, req)
		}
		base = f.Flow
	}
	over, err := directory.WithModule(req.flow(), req.ModuleID)
	if err != nil {
		return nil, err
	}
	resolved, err := who.snapshot.Resolve(who.project, base.Override(over))
	if err != nil {
		return nil, err
	}
	return resolved, h.checkVars(who, resolved, req)
}

// use goes on with a newer view of the configuration.
func (who *caller) use(s *directory.Snapshot) {
	if p := s.ProjectByID(who.project.ID); p != nil {
		who.snapshot, who.project = s, p
	}
}

func (h *Handlers) checkVars(who *caller, resolved *directory.Resolved, req *registration) error {
	if len(req.WaitVars) == 0 {
		return nil
	}
	return resolved.Compiled.CheckVars(req.WaitVars, who.snapshot.PlatformOf)
}

func newRegistration(projectID int64, req *registration, resolved *directory.Resolved, by repeatable) (reg store.Registration, err error) {
	w := relay.Wait{
		ID: relay.NewID(), ProjectID: projectID, SourceIDs: resolved.SourceIDs, Token: relay.NewToken(),
		Flow: req.Flow, PlanID: resolved.PlanID, UserID: string(*req.UserID), Locale: req.Locale,
		Scope: store.ScopeHash(projectID, resolved.Scope+"\x00"+string(*req.UserID)),
	}
	if req.Conversation != nil {
		w.Conversation = string(*req.Conversation)
	}
	if req.Key != nil {
		w.Key = string(*req.Key)
	}
	if len(req.WaitVars) > 0 {
		if w.CustomVars, err = json.Marshal(req.WaitVars); err != nil {
			return reg, err
		}
	}
	if data := bytes.TrimSpace(req.Data); len(data) > 0 && !bytes.Equal(data, []byte("null")) {
		w.Data = data
	}
	flow := resolved.Flow
	expiresIn, onConflict := flow.ExpiresIn, flow.OnConflict
	if req.ExpiresIn != 0 {
		expiresIn = req.ExpiresIn
	}
	if req.OnConflict != "" {
		onConflict = req.OnConflict
	}
	reg = store.Registration{Wait: w, ExpiresIn: expiresIn.Or(relay.DefaultExpiresIn), OnConflict: onConflict, Plan: resolved.Plan}
	for _, n := range resolved.Compiled.Nudge {
		reg.Nudges = append(reg.Nudges, time.Duration(n.After))
	}
	if err := checkOverrides(req); err != nil {
		return reg, err
	}
	if by.key != "" {
		reg.IdempotencyKey, reg.Request = store.IdempotencyHash(projectID, by.key), sha256.Sum256(by.body)
	}
	return reg, nil
}

// checkOverrides holds the two fields that a wait may set without a plan of
// its own against the same rules as a flow's.
func checkOverrides(req *registration) error {
	return directory.CheckTimes(relay.Flow{ExpiresIn: req.ExpiresIn, OnConflict: req.OnConflict})
}

// registered is the answer to POST /v1/correlations: flat, so that a bot
// platform can map it into its variables.
type registered struct {
	ID          uuid.UUID    `json:"id"`
	Token       string       `json:"token"`
	Status      relay.Status `json:"status"`
	URL         *string      `json:"url"`
	CallbackURL *string      `json:"callback_url"`
	Flow        *string      `json:"flow"`
	UserID      string       `json:"user_id"`
	Key         *string      `json:"key"`
	ModuleID    any          `json:"module_id"`
	ExpiresAt   string       `json:"expires_at"`
	CreatedAt   string       `json:"created_at"`
	Warnings    []string     `json:"warnings"`
}

func (h *Handlers) showRegistered(s *directory.Snapshot, w *relay.Wait, p *relay.Plan) registered {
	return registered{
		ID: w.ID, Token: w.Token, Status: w.Status, Flow: nullable(w.Flow), UserID: w.UserID, Key: nullable(w.Key),
		URL: h.linkOf(w, p), CallbackURL: h.callbackURL(s, w), ModuleID: p.On[string(relay.Completed)].ModuleID,
		ExpiresAt: stamp(w.ExpiresAt), CreatedAt: stamp(w.CreatedAt), Warnings: directory.Warnings(p, sourcesOf(s, w), w.Key),
	}
}

// sourcesOf are the sources of a wait that are still there.
func sourcesOf(s *directory.Snapshot, w *relay.Wait) (sources []*directory.Source) {
	for _, id := range w.SourceIDs {
		if src := s.SourceByID(id); src != nil {
			sources = append(sources, src)
		}
	}
	return sources
}

// linkOf is what the bot shows, where there is something to lead to.
func (h *Handlers) linkOf(w *relay.Wait, p *relay.Plan) *string {
	if len(p.Link) == 0 && p.Form == nil && p.Create == nil {
		return nil
	}
	link := h.cfg.PublicURL + "/go/" + w.Token
	return &link
}

// callbackURL is the address of a wait at a source whose callbacks are
// identified by it.
func (h *Handlers) callbackURL(s *directory.Snapshot, w *relay.Wait) *string {
	for _, id := range w.SourceIDs {
		src := s.SourceByID(id)
		if src != nil && src.Endpoint != nil && src.Endpoint.Preset().CallbackByURL && !src.Endpoint.Preset().Internal {
			address := src.URL + "/" + w.Token
			secrets, _ := src.LiveSecrets(time.Now())
			if proof := src.Endpoint.CallbackQuery(w.Token, secrets); proof != "" {
				address += "?" + proof
			}
			return &address
		}
	}
	return nil
}
