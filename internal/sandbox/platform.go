package sandbox

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// maxBody is the largest call that a platform reads; a larger one is 413.
const maxBody = 256 << 10

// maxHang ends a call that a fault lets hang, should its client never leave.
const maxHang = 15 * time.Minute

// platform is one stand-in: where its calls name the user, how it answers
// when told to fail, and its switches.
type platform struct {
	name     string
	user     func(*call) string               // whose conversation a call names
	answers  func(name string) (answer, bool) // its own faults by name
	faults   []string                         // their names
	token    string                           // at the start, and after a reset
	largest  int64                            // bytes of a call that it reads
	switches atomic.Pointer[switchboard]
}

func newPlatform(name string, user func(*call) string, answers func(string) (answer, bool), token string) *platform {
	p := &platform{name: name, user: user, answers: answers, faults: FaultNames(), token: token, largest: maxBody}
	p.switches.Store(&switchboard{token: token})
	return p
}

// fault is an answer that a platform can be told to give, by a name.
type fault struct {
	name   string
	answer answer
}

// newPlatformWith returns a platform whose faults are listed.
func newPlatformWith(name string, user func(*call) string, faults []fault, token string) *platform {
	p := newPlatform(name, user, func(name string) (answer, bool) {
		for _, f := range faults {
			if f.name == name {
				return f.answer, true
			}
		}
		return answer{}, false
	}, token)
	p.faults = nil
	for _, f := range faults {
		p.faults = append(p.faults, f.name)
	}
	p.faults = append(p.faults, brokenConnections...)
	return p
}

// field names the user by a field of the body.
func field(name string) func(*call) string {
	return func(c *call) string {
		user, _ := c.text(name)
		return user
	}
}

// call is one received call. The fields are nil where the body is no JSON
// object; the user id is empty where it names none.
type call struct {
	at     time.Time
	method string
	path   string
	header http.Header
	body   []byte
	fields map[string]json.RawMessage
	userID string
	value  func(string) string // of a part of the path
}

// answer is what goes back over the wire.
type answer struct {
	status int // 0: none, the connection ends as the manner says
	header map[string]string
	body   []byte
	manner manner
}

// manner is how a call ends that gets no answer.
type manner int

const (
	finish manner = iota // an orderly close
	hang                 // nothing, until the client gives up
	sever                // a TCP reset
)

// reply is what a call did, and its answer.
type reply struct {
	message Message
	answer  answer
}

// receives serves one endpoint of a platform. The call takes effect once the
// latency has passed, even if its client has left by then: no platform can
// know. It is recorded before it is answered.
func (s *Sandbox) receives(p *platform, act func(*switchboard, *call) reply) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := s.receive(w, r, p.largest, p.user)
		if err != nil {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		board := p.switches.Load()
		f := board.faultFor(c)
		pause(r.Context(), board.delay())
		done := board.carryOut(f, c, act)
		s.record(p.name, c, done)
		done.answer.write(w, r)
	}
}

// receive reads a call. The error is that it is too large, or that its body
// broke off: nobody is there to be told apart.
func (s *Sandbox) receive(w http.ResponseWriter, r *http.Request, largest int64, user func(*call) string) (*call, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largest))
	if err != nil {
		return nil, err
	}
	c := &call{at: s.now().UTC(), method: r.Method, path: r.URL.Path, header: r.Header, body: body, value: r.PathValue}
	if json.Unmarshal(body, &c.fields) != nil {
		c.fields = nil
	}
	c.userID = user(c)
	return c, nil
}

// text returns a field that is a JSON string.
func (c *call) text(field string) (string, bool) {
	var s *string
	if json.Unmarshal(c.fields[field], &s) != nil || s == nil {
		return "", false
	}
	return *s, true
}

// has reports whether a field is there, and is not null.
func (c *call) has(field string) bool {
	raw, ok := c.fields[field]
	return ok && string(raw) != "null"
}

// record keeps a call in the conversation it names, if it names one.
func (s *Sandbox) record(platform string, c *call, done reply) {
	s.counters.count(done.message.Kind)
	if done.message.Kind == "" || c.userID == "" || len(c.userID) > maxUserID {
		return
	}
	m := done.message
	m.At, m.Status = c.at, done.answer.status
	m.Request = &Request{Path: c.path, Headers: headersToKeep(c.header), Body: string(c.body)}
	s.book.add(key{platform, c.userID}, m)
}

func (a answer) write(w http.ResponseWriter, r *http.Request) {
	switch {
	case a.status != 0:
		for name, value := range a.header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body) // a client that left has nothing to be told
	case a.manner == hang:
		pause(r.Context(), maxHang)
		disconnect(w, finish)
	default:
		disconnect(w, a.manner)
	}
}

// withHeader returns a copy of a whose headers are overridden by h.
func (a answer) withHeader(h map[string]string) answer {
	all := maps.Clone(a.header)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, h)
	a.header = all
	return a
}

// disconnect ends the connection without an answer. Over HTTP/2, where there
// is none to take, it ends the stream.
func disconnect(w http.ResponseWriter, how manner) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok && how == sever {
		_ = tcp.SetLinger(0) // makes Close send a reset
	}
	_ = conn.Close()
}

// pause waits for d, or until the client has left.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// written writes an answer of texts, numbers, times and JSON that was read.
func written(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return "null" // none of these gets here
	}
	return string(raw)
}

func jsonAnswer(status int, body string) answer {
	return answer{
		status: status,
		header: map[string]string{"Content-Type": "application/json"},
		body:   []byte(body),
	}
}

// brokenConnections are the names of brokenConnection.
var brokenConnections = []string{"hang", "drop", "reset", "close_after_read"}

// brokenConnection names the faults that are the same at every platform, and
// whether a call that meets them takes effect.
func brokenConnection(name string) (a answer, acts, ok bool) {
	switch name {
	case "hang":
		return answer{manner: hang}, false, true
	case "drop":
		return answer{manner: sever}, false, true
	case "reset":
		return answer{manner: sever}, true, true
	case "close_after_read":
		return answer{manner: finish}, true, true
	default:
		return answer{}, false, false
	}
}
