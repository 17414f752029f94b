package interleave

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// door stands between one actor's node and Postgres. It reads what the client
// says and, while it is shut, passes on one step at a time, when the play lets
// it. It needs nothing of the store but that it connects to a given URL.
type door struct {
	network, address string // of the server
	listener         net.Listener
	url              string
	actor            atomic.Pointer[actor] // nil while the door stands open
	sessions         sync.Map              // of pid: the processes behind the door
	refused          sync.Map              // of SQLSTATE: what the server has refused since the schedule began
}

// deadlockTimeout is how long Postgres waits before it looks for a circle: the
// default, a second, would be most of a play's time.
const deadlockTimeout = "10ms"

// newDoor opens a door to the database at base.
func newDoor(t testing.TB, base string) *door {
	t.Helper()
	cfg, err := pgconn.ParseConfig(base)
	if err != nil {
		t.Fatal(err)
	}
	d := &door{}
	d.network, d.address = pgconn.NetworkAddress(cfg.Host, cfg.Port)
	var listening net.ListenConfig
	if d.listener, err = listening.Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.listener.Close() })
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Del("host")
	q.Del("port")
	q.Set("sslmode", "disable")
	q.Set("deadlock_timeout", deadlockTimeout)
	u.Host, u.RawQuery = d.listener.Addr().String(), q.Encode()
	d.url = u.String()
	go d.serve()
	return d
}

// serve ends with the listener.
func (d *door) serve() {
	for {
		client, err := d.listener.Accept()
		if err != nil {
			return
		}
		go d.pass(client)
	}
}

// pass carries one session until either side ends it.
func (d *door) pass(client net.Conn) {
	defer client.Close()
	var dialer net.Dialer
	server, err := dialer.Dial(d.network, d.address)
	if err != nil {
		return
	}
	defer server.Close()
	s := &session{door: d, client: client, server: server, answered: make(chan answer, 64), statements: map[string]string{}}
	go s.answers()
	s.requests()
}

// session is one connection of a node.
type session struct {
	door           *door
	client, server net.Conn
	pid            atomic.Int32
	answered       chan answer       // what ends a statement or a burst; closed with the server's side
	statements     map[string]string // prepared, by name
	inTransaction  bool              // as the server said last
	wrote          tables            // in the transaction that is open
}

// answer is what the server has come to.
type answer struct {
	failed bool // the statement failed: the rest of the burst is passed over
	ready  byte // of ReadyForQuery: I, T or E; else 0
}

// message is one message of the protocol, with its head.
type message struct {
	kind byte
	raw  []byte
}

// body is what follows the head.
func (m message) body() []byte { return m.raw[5:] }

func readMessage(r io.Reader) (message, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return message{}, err
	}
	raw := make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
	copy(raw, head)
	_, err := io.ReadFull(r, raw[5:])
	return message{head[0], raw}, err
}

// answers passes on what the server says.
func (s *session) answers() {
	defer close(s.answered)
	defer s.client.Close()
	defer func() { s.door.sessions.Delete(s.pid.Load()) }()
	for started := false; ; {
		m, err := readMessage(s.server)
		if err != nil {
			return
		}
		if m.kind == 'K' { // BackendKeyData
			s.pid.Store(int32(binary.BigEndian.Uint32(m.body())))
			s.door.sessions.Store(s.pid.Load(), s)
		}
		if _, err := s.client.Write(m.raw); err != nil {
			return
		}
		switch m.kind {
		case 'C', 'I', 's': // a statement is complete
			if started {
				s.answered <- answer{}
			}
		case 'E':
			if started {
				s.door.refused.Store(sqlState(m.body()), true)
				s.answered <- answer{failed: true}
			}
		case 'Z': // ready for the next burst
			if started {
				s.answered <- answer{ready: m.body()[0]}
			}
			started = true
		}
	}
}

// sqlState reads the code out of an ErrorResponse: fields, each with its kind.
func sqlState(body []byte) string {
	for field := range strings.SplitSeq(string(body), "\x00") {
		if state, ok := strings.CutPrefix(field, "C"); ok {
			return state
		}
	}
	return ""
}

var errGone = errors.New("the session has ended")

// requests passes on what the client says, until it says no more.
func (s *session) requests() {
	head := make([]byte, 4)
	if _, err := io.ReadFull(s.client, head); err != nil {
		return
	}
	first := make([]byte, binary.BigEndian.Uint32(head))
	copy(first, head)
	if _, err := io.ReadFull(s.client, first[4:]); err != nil {
		return
	}
	if _, err := s.server.Write(first); err != nil {
		return
	}
	var b burst
	for {
		m, err := readMessage(s.client)
		if err != nil {
			return
		}
		switch m.kind {
		case 'p', 'X': // a password; the end
			if _, err := s.server.Write(m.raw); err != nil || m.kind == 'X' {
				return
			}
			continue
		case 'P':
			name, rest := cString(m.body())
			s.statements[name], _ = cString(rest)
		case 'B':
			_, rest := cString(m.body())
			name, _ := cString(rest)
			b.bound = s.statements[name]
		case 'Q':
			b.bound, _ = cString(m.body())
		}
		b.add(m)
		if m.kind != 'S' && m.kind != 'Q' {
			continue
		}
		if err := s.passBurst(&b); err != nil {
			return
		}
		b = burst{}
	}
}

func cString(b []byte) (s string, rest []byte) {
	s, after, _ := strings.Cut(string(b), "\x00")
	return s, []byte(after)
}

// burst is what a client sends before it waits for the answer: statements, and
// the message that ends them.
type burst struct {
	bound  string // the statement that was bound last
	pieces []piece
	rest   []byte // after the last statement
	simple bool
}

// piece is one statement of a burst with all that belongs to it.
type piece struct {
	sql string
	raw []byte
}

func (b *burst) add(m message) {
	b.rest = append(b.rest, m.raw...)
	if b.simple = m.kind == 'Q'; m.kind == 'E' || b.simple {
		b.pieces = append(b.pieces, piece{b.bound, b.rest})
		b.rest = nil
	}
}

// flush asks the server to send what it has so far.
var flush = []byte{'H', 0, 0, 0, 4}

// passBurst passes on one burst, step by step while the door is shut.
func (s *session) passBurst(b *burst) error {
	steps := s.stepsOf(b)
	for i := range steps {
		if a := s.door.actor.Load(); a != nil && !steps[i].free {
			steps[i].pid = s.pid.Load()
			a.arrive(&steps[i])
		}
		last := i == len(steps)-1
		raw := steps[i].raw
		if !last {
			raw = append(raw, flush...)
		}
		if _, err := s.server.Write(raw); err != nil {
			return err
		}
		failed, err := s.await(steps[i].statements, last)
		if err != nil {
			return err
		}
		if failed { // and has let go of all locks
			steps[i].commits, steps[i].shows = true, s.wrote
		}
		if failed && !last { // the server passes over the rest
			for _, rest := range steps[i+1:] {
				if _, err := s.server.Write(rest.raw); err != nil {
					return err
				}
			}
			_, err := s.await(0, true)
			return err
		}
	}
	return nil
}

// await waits until the server has carried out some statements, or is ready
// for the next burst.
func (s *session) await(statements int, ready bool) (failed bool, err error) {
	for statements > 0 || ready {
		a, ok := <-s.answered
		switch {
		case !ok:
			return false, errGone
		case a.ready != 0:
			if s.inTransaction = a.ready != 'I'; !s.inTransaction {
				s.wrote = nil
			}
			return failed, nil
		case a.failed && !ready:
			return true, nil
		default:
			failed = failed || a.failed
			statements--
		}
	}
	return failed, nil
}

// stepsOf cuts a burst into steps: one a statement, and one for the commit of
// what it wrote. What opens a transaction goes with the statement after it;
// what only prepares, and what the pool does for itself, is no step.
func (s *session) stepsOf(b *burst) []step {
	var steps []step
	var opening []byte
	opened := 0
	inTransaction, wrote := s.inTransaction, s.wrote
	for _, p := range b.pieces {
		st := step{sql: strings.TrimSpace(p.sql), raw: append(opening, p.raw...), statements: 1 + opened}
		opening, opened = nil, 0
		switch word, _, _ := strings.Cut(strings.ToUpper(st.sql), " "); {
		case word == "BEGIN":
			inTransaction = true
			if !b.simple {
				opening, opened = st.raw, st.statements
				continue
			}
			st.free = true
		case word == "COMMIT", word == "ROLLBACK":
			inTransaction = false
			st.commits, st.shows = true, wrote
			wrote = nil
		case word == "SET", strings.HasPrefix(word, "--"): // a session's settings, a ping
			st.free = true
		default:
			st.reads, st.writes = tablesOf(st.sql)
			wrote = wrote.and(st.writes)
		}
		steps = append(steps, st)
	}
	switch {
	case len(steps) == 0: // nothing is executed
		steps = append(steps, step{raw: append(opening, b.rest...), statements: opened, free: true})
	case !b.simple && !inTransaction && len(wrote) > 0:
		steps = append(steps, step{sql: "COMMIT, implied", raw: b.rest, commits: true, shows: wrote})
		wrote = nil
	default:
		last := &steps[len(steps)-1]
		last.raw = append(last.raw, b.rest...)
	}
	s.wrote = wrote
	return steps
}

// String names a step in what a failure prints.
func (s *step) String() string {
	text := strings.Join(strings.Fields(s.sql), " ")
	if len(text) > maxShown {
		text = text[:maxShown] + "…"
	}
	return strconv.Quote(text)
}

// maxShown is how much of a statement is printed.
const maxShown = 100
