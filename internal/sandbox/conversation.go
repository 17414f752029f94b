package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// The bounds of what is kept. The conversation that has been silent longest
// is dropped first, and within one its oldest messages.
const (
	maxConversations     = 10_000
	maxMessages          = 200       // in one conversation
	maxConversationBytes = 1 << 20   // messages of one conversation; the newest always stays
	maxVariableBytes     = 256 << 10 // of one conversation; beyond, those of its latest call stay
	maxBookBytes         = 128 << 20 // everything together
	maxUserID            = 512       // bytes; no platform knows a longer one
	messageOverhead      = 512       // what a message weighs besides its text, roughly
)

// The kinds of a message.
const (
	KindPause     = "pause"     // the bot asked something and waits
	KindResume    = "resume"    // a call moved the conversation to a module
	KindVariables = "variables" // a call set variables and moved nothing
	KindText      = "text"      // a call made the bot, or an agent, say something
	KindKnown     = "known"     // a call made its user known to the platform
	KindOpened    = "opened"    // a call opened a conversation that nobody had begun
	KindNotMoved  = "not_moved" // a call was answered with 200 and did nothing
	KindBreak     = "break"     // the bot broke off, because what it called did not answer as it must
	KindRefused   = "refused"   // a call was refused, or met by a fault that does not act
)

// Who a message is from: what the user of the bot sees, or says, or what only
// the platform sees.
const (
	FromBot   = "bot"
	FromRelay = "relay"
	FromUser  = "user"
)

// Conversation is what one platform knows of one user. What a reader gets is
// a copy, but for the bytes of values, which nobody changes.
type Conversation struct {
	UserID     string                     `json:"user_id"`
	Platform   string                     `json:"platform"`
	ModuleID   *int64                     `json:"module_id"` // where it is now; null before the first move
	CustomVars map[string]json.RawMessage `json:"custom_vars"`
	Waiting    bool                       `json:"waiting"` // paused, and not resumed since
	Resumed    int                        `json:"resumed"` // how often a call moved it
	Messages   []Message                  `json:"messages"`
}

// Message is one thing that happened in a conversation.
type Message struct {
	At         time.Time                  `json:"at"`
	From       string                     `json:"from"`
	Kind       string                     `json:"kind"`
	Text       string                     `json:"text,omitempty"`
	Link       string                     `json:"link,omitempty"`
	ModuleID   *int64                     `json:"module_id"`
	WaitTime   *float64                   `json:"wait_time,omitempty"` // seconds; recorded, not waited for
	CustomVars map[string]json.RawMessage `json:"custom_vars,omitempty"`
	Status     int                        `json:"status,omitempty"` // of the answer; 0 where none was given
	Request    *Request                   `json:"request,omitempty"`
}

// Request is the call that caused a message, without its credentials.
type Request struct {
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

func (m *Message) size() int {
	n := messageOverhead + len(m.Text) + len(m.Link) + variablesSize(m.CustomVars)
	if m.Request != nil {
		n += len(m.Request.Path) + len(m.Request.Body)
		for name, value := range m.Request.Headers {
			n += len(name) + len(value)
		}
	}
	return n
}

func variablesSize(vars map[string]json.RawMessage) int {
	n := 0
	for name, value := range vars {
		n += len(name) + len(value)
	}
	return n
}

// headersToKeep joins repeated headers and leaves out what proves identity.
func headersToKeep(h http.Header) map[string]string {
	kept := make(map[string]string, len(h))
	for name, values := range h {
		switch name {
		case "Authorization", "Proxy-Authorization", "Cookie":
		default:
			kept[name] = strings.Join(values, ", ")
		}
	}
	return kept
}

// key names a conversation: two platforms may know the same user id.
type key struct{ platform, user string }

// entry is a conversation in the book. Its maps and slices never leave it:
// readers get copies.
type entry struct {
	key          key
	seq          uint64 // order of creation, by which lists are paged
	conversation Conversation
	messageBytes int
	varBytes     int

	later, earlier *entry // neighbours in the order of the last touch
}

func (e *entry) size() int {
	return messageOverhead + len(e.key.user) + e.messageBytes + e.varBytes
}

// apply adds m and does to the conversation what its kind says.
func (e *entry) apply(m Message) {
	c := &e.conversation
	switch m.Kind {
	case KindPause:
		c.Waiting = true
	case KindResume:
		c.Waiting, c.ModuleID, c.Resumed = false, m.ModuleID, c.Resumed+1
		e.merge(m.CustomVars)
	case KindVariables:
		e.merge(m.CustomVars)
	}
	c.Messages = append(c.Messages, m)
	e.messageBytes += m.size()
	for len(c.Messages) > maxMessages || (e.messageBytes > maxConversationBytes && len(c.Messages) > 1) {
		e.messageBytes -= c.Messages[0].size()
		c.Messages[0] = Message{} // lets its bytes go before the slice does
		c.Messages = c.Messages[1:]
	}
}

// merge overwrites variables of the same name and keeps the others.
func (e *entry) merge(vars map[string]json.RawMessage) {
	c := &e.conversation
	maps.Copy(c.CustomVars, vars)
	e.varBytes = variablesSize(c.CustomVars)
	if e.varBytes > maxVariableBytes {
		c.CustomVars = maps.Clone(vars)
		e.varBytes = variablesSize(vars)
	}
}

// book keeps the conversations of all platforms within the bounds.
type book struct {
	mu      sync.Mutex // guards all below; held for work in memory only
	entries map[key]*entry
	touched entry // head of the ring: earlier of it is the last touched, later the most silent
	waiters map[key]chan struct{}
	seq     uint64
	bytes   int
}

func newBook() *book {
	b := &book{waiters: map[key]chan struct{}{}}
	b.clear()
	return b
}

// clear forgets every conversation. Whoever awaits one goes on waiting.
func (b *book) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries, b.bytes = map[key]*entry{}, 0
	b.touched.later, b.touched.earlier = &b.touched, &b.touched
}

// add applies m to its conversation, wakes those who await it, and drops
// what no longer fits.
func (b *book) add(k key, m Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entryOf(k)
	b.touch(e)
	before := e.size()
	e.apply(m)
	b.bytes += e.size() - before
	for len(b.entries) > maxConversations || b.bytes > maxBookBytes {
		b.dropMostSilent()
	}
	b.wakeLocked(k)
}

// wake lets everybody who awaits the conversation look again. One that stops
// waiting calls it too, so that no channel stays behind: the others register
// anew.
func (b *book) wake(k key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wakeLocked(k)
}

func (b *book) wakeLocked(k key) {
	if changed, ok := b.waiters[k]; ok {
		close(changed)
		delete(b.waiters, k)
	}
}

// entryOf returns the conversation of k, a new one where there is none.
func (b *book) entryOf(k key) *entry {
	if e, ok := b.entries[k]; ok {
		return e
	}
	b.seq++
	e := &entry{key: k, seq: b.seq, conversation: Conversation{
		UserID: k.user, Platform: k.platform, CustomVars: map[string]json.RawMessage{},
	}}
	e.later, e.earlier = e, e
	b.entries[k] = e
	b.bytes += e.size()
	return e
}

// touch makes e the conversation touched last.
func (b *book) touch(e *entry) {
	e.unlink()
	e.later, e.earlier = &b.touched, b.touched.earlier
	e.later.earlier, e.earlier.later = e, e
}

func (e *entry) unlink() { e.later.earlier, e.earlier.later = e.earlier, e.later }

func (b *book) dropMostSilent() {
	e := b.touched.later
	e.unlink()
	delete(b.entries, e.key)
	b.bytes -= e.size()
}

// get returns a copy of one conversation.
func (b *book) get(k key) (Conversation, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.copyOf(k)
}

func (b *book) copyOf(k key) (Conversation, bool) {
	e, ok := b.entries[k]
	if !ok {
		return Conversation{}, false
	}
	c := e.conversation
	c.CustomVars, c.Messages = maps.Clone(c.CustomVars), slices.Clone(c.Messages)
	return c, true
}

// getOrWait returns a copy of one conversation, and a channel that is closed
// at its next message.
func (b *book) getOrWait(k key) (Conversation, bool, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.copyOf(k)
	changed, found := b.waiters[k]
	if !found {
		changed = make(chan struct{})
		b.waiters[k] = changed
	}
	return c, ok, changed
}

// Summary is a conversation in a list: all but its messages.
type Summary struct {
	UserID   string `json:"user_id"`
	Platform string `json:"platform"`
	ModuleID *int64 `json:"module_id"`
	Waiting  bool   `json:"waiting"`
	Resumed  int    `json:"resumed"`
	Messages int    `json:"messages"`

	seq uint64
}

// list returns up to limit conversations created before the given one (0:
// from the newest), newest first, and where to go on (0: nowhere).
func (b *book) list(before uint64, limit int) ([]Summary, uint64) {
	all := b.summaries()
	slices.SortFunc(all, func(x, y Summary) int { return cmp.Compare(y.seq, x.seq) })
	if before > 0 {
		all = slices.DeleteFunc(all, func(s Summary) bool { return s.seq >= before })
	}
	if len(all) <= limit {
		return all, 0
	}
	return all[:limit], all[limit-1].seq
}

func (b *book) summaries() []Summary {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Summary, 0, len(b.entries))
	for _, e := range b.entries {
		c := &e.conversation
		all = append(all, Summary{
			UserID: c.UserID, Platform: c.Platform, ModuleID: c.ModuleID,
			Waiting: c.Waiting, Resumed: c.Resumed, Messages: len(c.Messages), seq: e.seq,
		})
	}
	return all
}

// Conversation returns what a platform knows of a user.
func (s *Sandbox) Conversation(platform, userID string) (Conversation, bool) {
	return s.book.get(key{platform, userID})
}

// Await returns a conversation as soon as it is enough, or an error when ctx
// ends first. It asks again after each message, so enough should be cheap.
func (s *Sandbox) Await(ctx context.Context, platform, userID string, enough func(Conversation) bool) (Conversation, error) {
	k := key{platform, userID}
	defer s.book.wake(k)
	for {
		c, ok, changed := s.book.getOrWait(k)
		if ok && enough(c) {
			return c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return c, fmt.Errorf("awaiting the conversation of %q at %s: %w", userID, platform, context.Cause(ctx))
		}
	}
}

// Pause records that the bot asked its user for something elsewhere and now
// waits: what a flow's bot does after it has registered its wait. The link
// may be empty.
func (s *Sandbox) Pause(platform, userID, text, link string) {
	if platform == Haptik { // its bot has spoken with them
		s.haptikUsers.add(userID)
	}
	s.book.add(key{platform, userID}, Message{
		At: s.now().UTC(), From: FromBot, Kind: KindPause, Text: text, Link: link,
	})
	if platform == Smartify {
		s.tellMessage(userID, smartifyBot, text, nil, 200)
	}
}

// Reset forgets all conversations and sets the counts to zero.
func (s *Sandbox) Reset() {
	s.book.clear()
	s.haptikUsers.clear()
	s.counters.reset()
}
