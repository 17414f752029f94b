package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// maxIDs bounds the ids that a sink remembers.
const maxIDs = 8 << 20

// Sink stands where the bot platform would be: it answers every call at once,
// and remembers when each user's first call came and how many came.
type Sink struct {
	// OnCall, where given, is told of each call of a user whom UserID named,
	// and returns its answer, a whole HTTP response; it may take its time. An
	// empty answer cuts the connection. Calls come side by side, and the body
	// is good until it returns.
	OnCall func(user int, body []byte) (answer string)

	known atomic.Int64 // users that were first called since reset

	mu   sync.Mutex
	seen []arrival // by number of the user
}

type arrival struct {
	at    int64 // Unix nanoseconds of the first call
	count uint32
}

// SinkAnswer is what Certainly answers when it has acted.
const SinkAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 26\r\n\r\n" + `{"error":[],"message":"1"}`

// Serve takes calls on one listener and questions about them on another,
// until ctx is done.
func (s *Sink) Serve(ctx context.Context, calls, questions net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, s.known.Load())
	})
	mux.HandleFunc("GET /arrivals", s.writeArrivals)
	mux.HandleFunc("POST /reset", func(http.ResponseWriter, *http.Request) { s.reset() })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() {
		_ = calls.Close()
		_ = server.Close()
	})
	defer stop()
	go func() { _ = server.Serve(questions) }()
	for {
		c, err := calls.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the sink: %w", err)
		}
		go s.answer(c)
	}
}

func (s *Sink) answer(c net.Conn) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReaderSize(c, 16<<10)
	var body []byte
	for {
		_, length, err := readHead(r)
		if err != nil {
			return
		}
		body = append(body[:0], make([]byte, length)...)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		user, known := userOf(body)
		answer := SinkAnswer
		if known {
			s.note(user, time.Now().UnixNano())
			if s.OnCall != nil {
				answer = s.OnCall(user, body)
			}
		}
		if _, err := io.WriteString(c, answer); err != nil || answer == "" {
			return
		}
	}
}

var userField = []byte(`"user_id":"` + userPrefix)

// UserID is the id of a user by number.
func UserID(n int) string { return userPrefix + strconv.Itoa(n) }

// userOf reads the user's number out of a call. known is false where nobody
// was named by UserID.
func userOf(body []byte) (user int, known bool) {
	_, rest, found := bytes.Cut(body, userField)
	digits, _, closed := bytes.Cut(rest, []byte{'"'})
	if !found || !closed {
		return 0, false
	}
	n, err := strconv.Atoi(string(digits))
	return n, err == nil && n >= 0 && n < maxIDs
}

// note remembers one call.
func (s *Sink) note(n int, at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.seen) <= n {
		s.seen = append(s.seen, make([]arrival, max(1024, len(s.seen)))...)
	}
	a := &s.seen[n]
	if a.count++; a.count == 1 {
		a.at = at
		s.known.Add(1)
	}
}

// reset begins to count users anew. Those that were called before stay known:
// another call of theirs is a double, however late.
func (s *Sink) reset() { s.known.Store(0) }

// writeArrivals answers with 16 bytes per call: user, time, count.
func (s *Sink) writeArrivals(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := bufio.NewWriter(w)
	var row [16]byte
	for n, a := range s.seen {
		if a.count == 0 {
			continue
		}
		binary.BigEndian.PutUint32(row[0:], uint32(n))
		binary.BigEndian.PutUint64(row[4:], uint64(a.at))
		binary.BigEndian.PutUint32(row[12:], a.count)
		_, _ = out.Write(row[:])
	}
	_ = out.Flush()
}

// sinkClient asks a sink in another process.
type sinkClient struct{ address string }

func (c sinkClient) get(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.address+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the sink: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	return io.ReadAll(resp.Body)
}

// count returns how many users were called.
func (c sinkClient) count(ctx context.Context) (int64, error) {
	raw, err := c.get(ctx, http.MethodGet, "/count")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(raw), 10, 64)
}

func (c sinkClient) reset(ctx context.Context) error {
	_, err := c.get(ctx, http.MethodPost, "/reset")
	return err
}

func (c sinkClient) arrivals(ctx context.Context) (map[int]arrival, error) {
	raw, err := c.get(ctx, http.MethodGet, "/arrivals")
	if err != nil {
		return nil, err
	}
	out := make(map[int]arrival, len(raw)/16)
	for ; len(raw) >= 16; raw = raw[16:] {
		out[int(binary.BigEndian.Uint32(raw))] = arrival{
			at: int64(binary.BigEndian.Uint64(raw[4:])), count: binary.BigEndian.Uint32(raw[12:]),
		}
	}
	return out, nil
}
