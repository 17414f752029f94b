package handlers

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/templates"
)

// The bounds of a call of a bot.
const (
	maxNodeBody = 256 << 10 // bytes: what a stranger can make us hash, for each secret of the project
	// maxVisits is how often, in 24 h, the same user may come to the same node
	// with nothing changed, and a repeated call of a visit still be known.
	maxVisits = 64
)

const (
	haptikPlatform  = "haptik"
	haptikSignature = "X-Hub-Signature"
	// nodeSecret is the destination's setting that a bot's nodes sign with. It
	// stands there, and not at a source, because it belongs to the account that
	// the answer is for: only a node of that account may begin its waits.
	nodeSecret = "node_secret"
)

// nodes proves calls of Haptik's integration nodes, which are signed as its
// webhooks are.
type nodes struct {
	webhooks *provider.Endpoint
	nobody   string // is tried where no secret is: that takes as long as a wrong one
}

func newNodes() (*nodes, error) {
	preset, ok := provider.Lookup(haptikPlatform)
	if !ok {
		return nil, errors.New("there is no preset haptik")
	}
	webhooks, err := preset.Endpoint(provider.Settings{})
	if err != nil {
		return nil, fmt.Errorf("preparing the proof of Haptik's nodes: %w", err)
	}
	return &nodes{webhooks, rand.Text()}, nil
}

// signers returns the destinations of a project (nil: there is none) whose
// node_secret has signed a call: none, unless it is genuine.
func (n *nodes) signers(p *directory.Project, req *provider.Request, now time.Time) (signers []*directory.Destination) {
	byNode := func(d *directory.Destination) bool {
		return d.Destination.Platform == haptikPlatform && d.Secrets[nodeSecret] != ""
	}
	var all []*directory.Destination
	if p != nil {
		all = slices.DeleteFunc(p.Destinations(), func(d *directory.Destination) bool { return !byNode(d) })
	}
	var secrets []string
	for _, d := range all {
		if !slices.Contains(secrets, d.Secrets[nodeSecret]) {
			secrets = append(secrets, d.Secrets[nodeSecret])
		}
	}
	if len(secrets) == 0 {
		secrets = []string{n.nobody}
	}
	used, err := n.webhooks.Verify(req, secrets, now)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(d *directory.Destination) bool { return d.Secrets[nodeSecret] != secrets[used] })
}

// nodeReply is what a node shows its user. It has no conversation_details and
// no user_details: both are optional, hold 500 characters together, and are
// the bot's own.
type nodeReply struct {
	Status   bool     `json:"status"`
	Response []string `json:"response"` // an empty one would be a "bot break"

	// For who builds the bot and looks at what was answered; of a refusal alone.
	Code   string `json:"code,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// haptikNode registers the wait of a user who has come to an integration node,
// and answers with the link. A call that nobody has signed is refused before
// its body is read; where the signature is wrong, the answer is the same
// whether or not there is such a project. From then on a refusal is a 200 too,
// since Haptik would break off the bot at anything else.
func (h *Handlers) haptikNode(c echo.Context) error {
	if c.Request().Header.Get(haptikSignature) == "" {
		return relay.Errorf(relay.Unauthorized, "signature_required",
			"sign the call: enter a secret in Haptik's node, and the same as %s of the haptik destination", nodeSecret)
	}
	body, err := readAtMost(c, maxNodeBody)
	if err != nil {
		return err
	}
	who, signers, err := h.provenNode(c, body)
	if err != nil {
		return err
	}
	call, err := readNodeCall(body)
	if err != nil {
		return h.refuseNode(c, who, call, err)
	}
	link, err := h.linkForNode(c, who, signers, call, body)
	if err != nil {
		return h.refuseNode(c, who, call, err)
	}
	return c.JSON(http.StatusOK, nodeReply{Status: true, Response: []string{link}})
}

// provenNode finds out of which project's bot a call is. A failure may be a
// secret that was just changed on another node of ours: the configuration is
// re-read once.
func (h *Handlers) provenNode(c echo.Context, body []byte) (*caller, []*directory.Destination, error) {
	now, s := time.Now(), h.cfg.Directory.Current()
	req := &provider.Request{Method: c.Request().Method, Header: c.Request().Header, Body: body}
	signers := h.nodes.signers(s.Project(c.Param("project")), req, now)
	if len(signers) == 0 {
		var err error
		s, err = h.cfg.Directory.Refresh(c.Request().Context())
		if signers = h.nodes.signers(s.Project(c.Param("project")), req, now); len(signers) == 0 && err != nil {
			return nil, nil, err
		}
	}
	if len(signers) == 0 {
		return nil, nil, relay.Errorf(relay.Unauthorized, "bad_signature",
			"no haptik destination of such a project has the secret that this call was signed with: compare the secret of Haptik's node with the destination's %s, and the address", nodeSecret)
	}
	return &caller{project: s.Project(c.Param("project")), snapshot: s}, signers, nil
}

// nodeCall is what is read of a node's call.
type nodeCall struct {
	authID   *text
	language string
	data     json.RawMessage
}

// keptOfNode are the fields of a call that expressions see as
// correlation.data. The others are kept nowhere: env_variables and the user's
// auth_code are secrets, and user_details hold whatever was ever asked.
var keptOfNode = []string{"node", "conversation_no", "conversation_details", "entities"}

func readNodeCall(body []byte) (call nodeCall, err error) {
	var fields, user map[string]json.RawMessage
	if err := relay.Decode(body, &fields); err != nil {
		return call, err
	}
	if raw, ok := fields["user"]; ok {
		if err := relay.Decode(raw, &user); err != nil {
			return call, relay.At("user", err)
		}
	}
	// Only texts are languages; the user can be told without one.
	if json.Unmarshal(user["language_code"], &call.language) != nil || len(call.language) > maxLocale {
		call.language = ""
	}
	if raw, ok := user["auth_id"]; ok {
		if err := json.Unmarshal(raw, &call.authID); err != nil {
			return call, relay.At("user.auth_id", err)
		}
	}
	if call.authID == nil || *call.authID == "" {
		return call, relay.Errorf(relay.Invalid, "auth_id_required",
			"user.auth_id is empty, and nobody could be told by that: let the bot's page sign its users in, so that Haptik knows an auth_id of theirs")
	}
	kept := map[string]json.RawMessage{}
	for _, name := range keptOfNode {
		if raw, ok := fields[name]; ok {
			kept[name] = raw
		}
	}
	call.data, err = json.Marshal(kept)
	return call, err
}

// linkForNode registers the wait of a call, and returns what its user is to
// open.
func (h *Handlers) linkForNode(c echo.Context, who *caller, signers []*directory.Destination, call nodeCall, body []byte) (string, error) {
	ctx := c.Request().Context()
	req := &registration{UserID: call.authID, Flow: c.Param("flow"), Data: call.data, Locale: call.language}
	if err := req.check(); err != nil {
		return "", err
	}
	resolved, err := h.resolveFlow(ctx, who, req)
	if err != nil {
		return "", err
	}
	if err := mayBegin(req.Flow, resolved, signers); err != nil {
		return "", err
	}
	if h.linkOf(&relay.Wait{}, &resolved.Compiled.Plan) == nil {
		return "", relay.Errorf(relay.Invalid, "link_required", "flow %s: it has neither a link nor a form: there is nothing that the bot could show", req.Flow)
	}
	done, err := h.registerVisit(ctx, who, req, resolved, body)
	if err != nil {
		return "", err
	}
	p, err := h.cfg.Plans.Get(ctx, done.Wait.PlanID)
	if err != nil {
		return "", err
	}
	link := h.linkOf(&done.Wait, &p.Plan)
	if link == nil {
		return "", relay.Errorf(relay.Conflict, "wait_pending", "flow %s keeps an older wait of this user, which has no link: end that first", req.Flow)
	}
	return *link, nil
}

// mayBegin refuses a flow that would answer somebody else than the bot which
// calls.
func mayBegin(flow string, resolved *directory.Resolved, signers []*directory.Destination) error {
	to := resolved.Destination
	switch {
	case slices.ContainsFunc(signers, func(d *directory.Destination) bool { return d.ID == to.ID }):
		return nil
	case to.Destination.Platform != haptikPlatform:
		return relay.Errorf(relay.Invalid, "other_destination",
			"flow %s: its destination %s is of the platform %s, so that this bot would never hear of the outcome: name a flow whose destination is a haptik one", flow, to.Name, to.Destination.Platform)
	default:
		return relay.Errorf(relay.Invalid, "other_destination",
			"flow %s: its destination %s has another %s than this node was given: name a flow of this bot's destination %s", flow, to.Name, nodeSecret, signers[0].Name)
	}
}

// registerVisit registers the wait of a user who has come to a node. A call
// carries no id, and Haptik documents no retry; so the same bytes are the same
// visit for as long as its wait is pending. When that has ended, they are a
// user who has come again, whom its link would lead nowhere.
func (h *Handlers) registerVisit(ctx context.Context, who *caller, req *registration, resolved *directory.Resolved, body []byte) (store.Registered, error) {
	sum := sha256.Sum256(body)
	// No Idempotency-Key of the API has a NUL: the two never meet.
	visit := haptikPlatform + "\x00" + req.Flow + "\x00" + string(sum[:]) + "\x00"
	last := ""
	for range maxVisits {
		done, err := h.register(ctx, who, req, resolved, repeatable{visit + last, body})
		if err != nil || done.New || done.Wait.Status == relay.Pending {
			return done, err
		}
		last = done.Wait.ID.String()
	}
	return h.register(ctx, who, req, resolved, repeatable{})
}

// refuseNode answers a node whose call was signed: its user reads that there
// is no link, in their language, and who builds the bot reads why.
func (h *Handlers) refuseNode(c echo.Context, who *caller, call nodeCall, cause error) error {
	p := h.problemOf(cause, c)
	h.linkless.Do(func() {
		h.cfg.Log.Warn("a bot's call gets no link", "project_id", who.project.ID, "flow", c.Param("flow"), "code", p.Code)
	})
	page := h.pages.Page(templates.Wanted(call.language, ""), nil, h.lookOfFlow(who.project.ID, c.Param("flow")))
	says, err := page.Text("no_link")
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, nodeReply{Response: []string{says}, Code: p.Code, Detail: p.Detail})
}
