package sandbox

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"relay.example/relay/internal/relay"
)

// Subscriptions of Smartify, and the hooks they are sent. The traps are those
// of the server: the secret is made at its start and the same for all; it is
// told once; to make a subscription that is there gives one of the same event,
// perhaps with another target; nothing is checked; and a hook that is sent
// again carries the last subscription's `hook` and `token`.

// The bounds of hooks.
const (
	maxSubscriptions = 1000
	hookTimeout      = 60 * time.Second // the server has none
	maxHooks         = 64               // being sent at a time; more wait
)

// hookPauses are what the server waits before it sends a hook again.
var hookPauses = []time.Duration{2500 * time.Millisecond, 4500 * time.Millisecond}

// SmartifySubscription is one subscription as the server knows it.
type SmartifySubscription struct {
	ID      string `json:"_id"`
	Event   string `json:"event"`
	Target  string `json:"target"`
	Project string `json:"id_project"`
	Secret  string `json:"-"`
}

// hooks are the subscriptions of the one project, and what is sent to them.
type hooks struct {
	mu      sync.Mutex // guards the two below; held for work in memory only
	list    []SmartifySubscription
	secret  string // of this run of the server
	client  *http.Client
	pauses  []time.Duration
	sending chan struct{} // holds one for each hook that is being sent
}

func newHooks(pauses []time.Duration) *hooks {
	if pauses == nil {
		pauses = hookPauses
	}
	return &hooks{
		secret: newObjectID(), pauses: pauses, sending: make(chan struct{}, maxHooks),
		client: &http.Client{
			Timeout:       hookTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// SmartifySubscriptions lists the subscriptions at the stand-in.
func (s *Sandbox) SmartifySubscriptions() []SmartifySubscription {
	s.hooks.mu.Lock()
	defer s.hooks.mu.Unlock()
	return slices.Clone(s.hooks.list)
}

// Subscribe adds a subscription, as somebody else who uses the same project.
func (s *Sandbox) Subscribe(event, target string) SmartifySubscription {
	s.hooks.mu.Lock()
	defer s.hooks.mu.Unlock()
	return s.hooks.add(s.tiledesk.ProjectID, event, target)
}

// Unsubscribe deletes a subscription, as somebody would by hand.
func (s *Sandbox) Unsubscribe(id string) {
	s.hooks.mu.Lock()
	defer s.hooks.mu.Unlock()
	s.hooks.list = slices.DeleteFunc(s.hooks.list, func(sub SmartifySubscription) bool { return sub.ID == id })
}

// RestartSmartify is a new run of the server: its subscriptions stay, and new
// ones have another secret.
func (s *Sandbox) RestartSmartify() {
	s.hooks.mu.Lock()
	defer s.hooks.mu.Unlock()
	s.hooks.secret = newObjectID()
}

func (h *hooks) add(project, event, target string) SmartifySubscription {
	sub := SmartifySubscription{ID: newObjectID(), Event: event, Target: target, Project: project, Secret: h.secret}
	h.list = append(h.list, sub)
	return sub
}

func (h *hooks) find(keep func(SmartifySubscription) bool) (int, bool) {
	i := slices.IndexFunc(h.list, keep)
	return i, i >= 0
}

// smartifyAdmin lets in who may see to subscriptions.
func (s *Sandbox) smartifyAdmin(act func(*call) reply) func(*switchboard, *call) reply {
	return func(b *switchboard, c *call) reply {
		who, no := s.smartifyEnters(b, c)
		switch {
		case no != nil:
			return *no
		case who != smartifyAgent:
			return *refused("a guest", jsonAnswer(403, `{"success":false,"msg":"you dont have the required role."}`))
		}
		s.hooks.mu.Lock()
		defer s.hooks.mu.Unlock()
		return act(c)
	}
}

func (s *Sandbox) smartifySubscribe(c *call) reply {
	event, _ := c.text("event")
	target, _ := c.text("target")
	h := s.hooks
	switch {
	case c.unreadable():
		return *refused("malformed JSON", jsonAnswer(500, `{"err":"error"}`))
	case target == "" || event == "" || len(h.list) >= maxSubscriptions:
		return *refused("no target", jsonAnswer(500, `{"success":false,"msg":"Error saving object."}`))
	}
	if _, there := h.find(func(sub SmartifySubscription) bool { return sub.Event == event && sub.Target == target }); there {
		first, _ := h.find(func(sub SmartifySubscription) bool { return sub.Event == event })
		return reply{answer: jsonAnswer(http.StatusOK, written(h.list[first]))}
	}
	sub := h.add(c.value("project"), event, target)
	body := written(struct {
		SmartifySubscription
		Secret string `json:"secret"`
	}{sub, sub.Secret})
	return reply{answer: jsonAnswer(http.StatusOK, body).withHeader(map[string]string{"x-hook-secret": sub.Secret})}
}

func (s *Sandbox) smartifySubscriptions(*call) reply {
	return reply{answer: jsonAnswer(http.StatusOK, written(append([]SmartifySubscription{}, s.hooks.list...)))}
}

func smartifyHistory(*call) reply { return reply{answer: jsonAnswer(http.StatusOK, `[]`)} }

// smartifyByID finds a subscription by its id, of whichever project.
func (s *Sandbox) smartifyByID(c *call) (int, *reply) {
	id := c.value("id")
	if !objectID.MatchString(id) {
		return 0, refused("no id", jsonAnswer(500, `{"success":false,"msg":"Error getting object."}`))
	}
	i, there := s.hooks.find(func(sub SmartifySubscription) bool { return sub.ID == id })
	if !there {
		return 0, refused("unknown id", jsonAnswer(404, `{"success":false,"msg":"Object not found."}`))
	}
	return i, nil
}

func (s *Sandbox) smartifySubscription(c *call) reply {
	i, no := s.smartifyByID(c)
	if no != nil {
		return *no
	}
	return reply{answer: jsonAnswer(http.StatusOK, written(s.hooks.list[i]))}
}

// smartifyUnsubscribe deletes a subscription; one that is gone is no error.
func (s *Sandbox) smartifyUnsubscribe(c *call) reply {
	i, no := s.smartifyByID(c)
	switch {
	case no != nil && no.answer.status == http.StatusNotFound:
		return reply{answer: jsonAnswer(http.StatusOK, `null`)}
	case no != nil:
		return *no
	}
	gone := s.hooks.list[i]
	s.hooks.list = slices.Delete(s.hooks.list, i, i+1)
	return reply{answer: jsonAnswer(http.StatusOK, written(gone))}
}

// smartifyReplace changes a subscription, or makes one of that id.
func (s *Sandbox) smartifyReplace(c *call) reply {
	i, no := s.smartifyByID(c)
	if no != nil && no.answer.status != http.StatusNotFound {
		return *no
	}
	if no != nil {
		s.hooks.add(c.value("project"), "", "")
		i = len(s.hooks.list) - 1
		s.hooks.list[i].ID = c.value("id")
	}
	sub := &s.hooks.list[i]
	if event, ok := c.text("event"); ok {
		sub.Event = event
	}
	if target, ok := c.text("target"); ok {
		sub.Target = target
	}
	return reply{answer: jsonAnswer(http.StatusOK, written(*sub))}
}

// emit sends a hook to all who have subscribed to an event. It returns at
// once, as the server does.
func (s *Sandbox) emit(event string, payload any) {
	if s.smartify.switches.Load().switches.NoHooks {
		return
	}
	subs := slices.DeleteFunc(s.SmartifySubscriptions(), func(sub SmartifySubscription) bool { return sub.Event != event })
	for i := range subs {
		go s.sendHook(subs[i], subs[len(subs)-1], payload)
	}
}

// sendHook sends one hook, and again where nobody took it: then with what the
// last subscription says, since the server keeps one object for all.
func (s *Sandbox) sendHook(to, last SmartifySubscription, payload any) {
	s.hooks.sending <- struct{}{}
	defer func() { <-s.hooks.sending }()
	about := to
	for try := 0; ; try++ {
		s.counters.hooks.Add(1)
		again, err := s.tryHook(to, about, payload)
		if !again || try == len(s.hooks.pauses) {
			if err != nil {
				s.log.Warn("smartify hook not sent", "event", to.Event, "err", withoutURL(err))
			}
			return
		}
		pause(context.Background(), s.hooks.pauses[try])
		about = last
	}
}

func (s *Sandbox) tryHook(to, about SmartifySubscription, payload any) (again bool, err error) {
	body := written(map[string]any{
		"timestamp": s.now().UnixMilli(), "payload": payload, "hook": about, "token": hookToken(about),
	})
	ctx, cancel := context.WithTimeout(context.Background(), hookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.Target, strings.NewReader(body))
	if err != nil {
		return true, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "tiledesk-webhooks")
	req.Header.Set("Origin", "https://tiledesk.com")
	req.Header.Set("X-Hook-Secret", to.Secret)
	resp, err := s.hooks.client.Do(req)
	if err != nil {
		return true, err
	}
	_ = resp.Body.Close()
	return resp.StatusCode < 200 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500, nil
}

// hookToken is what the server signs with the secret: it says nothing of the
// payload.
func hookToken(sub SmartifySubscription) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode([]byte(written(map[string]string{
		"aud": "https://tiledesk.com/subscriptions/" + sub.ID, "iss": "https://tiledesk.com", "sub": "subscription", "jti": rand.Text(),
	})))
	mac := hmac.New(sha256.New, []byte(sub.Secret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

// smartifyRequest is the conversation as a hook shows it.
func (s *Sandbox) smartifyRequest(conversation string, status int) map[string]any {
	lead := leadOf(conversation)
	return map[string]any{
		"_id": newObjectID(), "request_id": conversation, "id_project": s.tiledesk.ProjectID, "status": status, "hasBot": true,
		"participants": []string{smartifyBot}, "lead": map[string]string{"lead_id": lead}, "requester": map[string]string{"uuid_user": lead},
	}
}

// leadOf is the user of a conversation.
func leadOf(conversation string) string {
	sum := sha256.Sum256([]byte(conversation))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// smartifyBot is the one bot of the project, as the sender of a message.
const smartifyBot = "bot_65c5f3599faf2d04cd7dafff"

// tellMessage emits what was said in a conversation.
func (s *Sandbox) tellMessage(conversation, sender, text string, attributes json.RawMessage, status int) {
	if len(bytes.TrimSpace(attributes)) == 0 {
		attributes = json.RawMessage(`{}`)
	}
	s.emit("message.create", map[string]any{
		"_id": newObjectID(), "sender": sender, "senderFullname": "Guest ", "recipient": conversation, "text": text, "type": "text",
		"status": 100, "channel": map[string]string{"name": "chat21"}, "attributes": attributes, "id_project": s.tiledesk.ProjectID,
		"createdBy": sender, "createdAt": s.now().UTC(), "request": s.smartifyRequest(conversation, status),
	})
}

// Say has the user of a conversation of Smartify say something.
func (s *Sandbox) Say(conversation, text string) {
	s.book.add(key{Smartify, conversation}, Message{At: s.now().UTC(), From: FromUser, Kind: KindText, Text: text})
	s.tellMessage(conversation, leadOf(conversation), text, nil, 200)
}

// Close ends a conversation of Smartify.
func (s *Sandbox) Close(conversation string) {
	switches := s.smartify.switches.Load().view()
	switches.Closed = append(slices.Clone(switches.Closed), conversation)
	if err := s.smartify.arm(switches); err != nil {
		s.log.Warn("conversation not closed", "err", err)
		return
	}
	payload := s.smartifyRequest(conversation, smartifyEnded)
	payload["closed_at"], payload["messages"] = s.now().UTC(), s.said(conversation)
	s.emit("request.close", payload)
}

// smartifyEnded is the status of a conversation that is closed.
const smartifyEnded = 1000

func (s *Sandbox) postSay(w http.ResponseWriter, r *http.Request) error {
	var said struct {
		Text string `json:"text"`
	}
	if err := readJSON(w, r, &said); err != nil {
		return err
	}
	k, err := smartifyOf(r)
	if err != nil {
		return err
	}
	if said.Text == "" {
		return relay.Errorf(relay.Invalid, "text_required", "give the text that the user says")
	}
	s.Say(k.user, said.Text)
	return s.getConversation(w, r)
}

// The bounds of what is said on a chat page: maxSaid signs, of up to 12 bytes
// each as a form writes them.
const (
	maxSaid     = 2000
	maxSaidForm = 32 << 10
)

// sayInChat has the user say what was typed on the chat page.
func (s *Sandbox) sayInChat(w http.ResponseWriter, r *http.Request) error {
	// Another site's page may not speak for them.
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return relay.Errorf(relay.Invalid, "form_invalid", "say it on the chat page itself")
	}
	k, err := smartifyOf(r)
	if err != nil {
		return err
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxSaidForm)
	text := strings.TrimSpace(r.PostFormValue("text"))
	if n := utf8.RuneCountInString(text); n == 0 || n > maxSaid {
		page := s.chatPageOf(r)
		page.Problem = fmt.Sprintf("Nothing was said: type something of at most %d signs.", maxSaid)
		return showPage(w, http.StatusUnprocessableEntity, "chat.html", page)
	}
	s.Say(k.user, text)
	http.Redirect(w, r, chatPath(k.platform, k.user), http.StatusSeeOther)
	return nil
}

func (s *Sandbox) postClose(w http.ResponseWriter, r *http.Request) error {
	k, err := smartifyOf(r)
	if err != nil {
		return err
	}
	s.Close(k.user)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// smartifyOf reads of which conversation of Smartify a request is.
func smartifyOf(r *http.Request) (key, error) {
	k := keyOf(r)
	if k.platform != Smartify || len(k.user) > maxUserID {
		return k, relay.Errorf(relay.NotFound, "conversation_not_found", "only conversations at ?platform=smartify can do that")
	}
	return k, nil
}
