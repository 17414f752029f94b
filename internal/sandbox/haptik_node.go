package sandbox

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // what Haptik signs with
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"relay.example/relay/internal/relay"
)

// HaptikNode is an integration node of Haptik's bot: what it calls when a user
// comes to it.
type HaptikNode struct {
	URL    func() string // asked at each call: a relay may not know its port before it listens; nil: there is no node
	Secret string        // signs the calls; "": they are not signed, as at Haptik
}

// The bounds of a node's call.
const (
	nodeTimeout = 30 * time.Second // then Haptik breaks off
	maxNodeRead = 64 << 10
)

var nodeClient = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// comeToNode lets the user of a chat come to the node, and shows the chat.
func (s *Sandbox) comeToNode(w http.ResponseWriter, r *http.Request) error {
	k := keyOf(r)
	switch {
	case k.platform != Haptik || s.node.URL == nil:
		return relay.Errorf(relay.NotFound, "node_not_found", "only Haptik's bot has a node here, once it is told what that calls")
	case len(k.user) > maxUserID:
		return relay.Errorf(relay.NotFound, "user_not_found", "name a user of at most %d bytes", maxUserID)
	}
	s.haptikUsers.add(k.user)
	m := s.visitNode(r.Context(), k.user)
	m.At, m.From = s.now().UTC(), FromBot
	s.book.add(k, m)
	http.Redirect(w, r, chatPath(k.platform, k.user), http.StatusSeeOther)
	return nil
}

// visitNode calls what the node calls, and is what the bot does then.
func (s *Sandbox) visitNode(ctx context.Context, user string) Message {
	reply, err := s.callNode(ctx, user)
	if err != nil {
		return Message{Kind: KindBreak, Text: err.Error()}
	}
	if !reply.Status {
		return Message{Kind: KindText, Text: strings.Join(reply.Response, "\n")}
	}
	m := Message{Kind: KindPause}
	var words []string
	for _, said := range reply.Response {
		if m.Link == "" && said != "" && isWebLink(said) {
			m.Link = said
		} else {
			words = append(words, said)
		}
	}
	m.Text = orElse(strings.Join(words, "\n"), "Please go on here:")
	return m
}

// nodeReply is what Haptik reads of an answer.
type nodeReply struct {
	Status   bool     `json:"status"`
	Response []string `json:"response"`
}

// callNode makes the call. Its errors are what Haptik breaks off the bot for,
// and do not name the address.
func (s *Sandbox) callNode(ctx context.Context, user string) (reply nodeReply, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, nodeTimeout, errors.New("no answer within 30 s"))
	defer cancel()
	body := nodeCall(user)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.node.URL(), bytes.NewReader(body))
	if err != nil {
		return reply, errors.New("the node's address is not valid")
	}
	req.Header.Set("Content-Type", "application/json")
	if s.node.Secret != "" {
		mac := hmac.New(sha1.New, []byte(s.node.Secret))
		mac.Write(body)
		req.Header.Set("X-Hub-Signature", "sha1="+hex.EncodeToString(mac.Sum(nil)))
	}
	resp, err := nodeClient.Do(req)
	if err != nil {
		return reply, fmt.Errorf("no answer: %w", withoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxNodeRead))
	switch {
	case err != nil:
		return reply, errors.New("the answer was cut off")
	case resp.StatusCode != http.StatusOK:
		return reply, fmt.Errorf("the answer has the status %d", resp.StatusCode)
	case json.Unmarshal(raw, &reply) != nil:
		return reply, errors.New("the answer is not in Haptik's form")
	case len(reply.Response) == 0:
		return reply, errors.New("the answer has nothing to show")
	}
	return reply, nil
}

// nodeCall is what Haptik sends of a user who has chosen a chair. Coming again
// without another choice is the same call, byte for byte.
func nodeCall(user string) []byte {
	return []byte(`{"node":"pay_now","event":"API_INTEGRATION","user":{"user_id":"8812","user_name":` + quote(user) +
		`,"full_name":"","device_platform":5,"language_code":"en","auth_id":` + quote(user) + `,"auth_code":""},` +
		`"conversation_no":1,"conversation_details":{},"user_details":{},` +
		`"entities":{"product":[{"detection":"message","original_text":"chairs","entity_value":"chair"}]},"env_variables":{}}`)
}
