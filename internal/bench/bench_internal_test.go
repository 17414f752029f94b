package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

// The sink tells each user's first call and how many came.
func TestSink(t *testing.T) {
	t.Parallel()
	listen := func() net.Listener {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	calls, questions := listen(), listen()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- new(Sink).Serve(ctx, calls, questions) }()
	k, err := dial(calls.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().UnixNano()
	for _, body := range []string{`{"user_id":"b-7"}`, `{"user_id":"b-7"}`, `{"user_id":"b-2000"}`, `{"user_id":"somebody"}`, `{"user_id":"b--1"}`} {
		status, answer, err := k.post("/", nil, []byte(body))
		if err != nil || status != http.StatusOK || !json.Valid(answer) {
			t.Fatalf("%s: got %d, %s, %v", body, status, answer, err)
		}
	}
	c := sinkClient{questions.Addr().String()}
	if users, err := c.count(ctx); err != nil || users != 2 {
		t.Errorf("users: got %d, %v, want 2", users, err)
	}
	got, err := c.arrivals(ctx)
	if err != nil || len(got) != 2 || got[7].count != 2 || got[2000].count != 1 || got[7].at < before || got[7].at > got[2000].at {
		t.Errorf("arrivals: got %v, %v", got, err)
	}
	if err := c.reset(ctx); err != nil {
		t.Fatal(err)
	}
	if users, err := c.count(ctx); err != nil || users != 0 {
		t.Errorf("after a reset: got %d users, %v", users, err)
	}
	// A call that comes in a later phase is a double all the same.
	if _, _, err := k.post("/", nil, []byte(`{"user_id":"b-2000"}`)); err != nil {
		t.Fatal(err)
	}
	if users, err := c.count(ctx); err != nil || users != 0 {
		t.Errorf("after a late double: got %d users, %v, want none that is new", users, err)
	}
	if got, err := c.arrivals(ctx); err != nil || got[2000].count != 2 {
		t.Errorf("after a late double: got %v, %v, want two calls", got[2000], err)
	}
	_ = k.Close()
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// A sink that is told of its calls answers what it is told to.
func TestSinkOnCall(t *testing.T) {
	t.Parallel()
	var users []int
	s := &Sink{OnCall: func(user int, body []byte) string {
		users = append(users, user, len(body))
		if user == 2 {
			return ""
		}
		return "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
	}}
	client, server := net.Pipe()
	go s.answer(server)
	k := &conn{Conn: client, r: bufio.NewReader(client)}
	if status, _, err := k.post("/", nil, []byte(`{"user_id":"`+UserID(1)+`"}`)); err != nil || status != http.StatusInternalServerError {
		t.Errorf("got %d, %v, want the answer that was given", status, err)
	}
	if _, _, err := k.post("/", nil, []byte(`{"user_id":"`+UserID(2)+`"}`)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the connection cut", err)
	}
	if want := []int{1, 17, 2, 17}; !slices.Equal(users, want) {
		t.Errorf("calls: got %v, want %v", users, want)
	}
}

// A callback of the bench is as long as was asked for, and is what the preset
// takes for a payment of its wait.
func TestCallback(t *testing.T) {
	t.Parallel()
	preset, _ := provider.Lookup("stripe")
	e, err := preset.Endpoint(provider.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	var made event
	for user := range 1000 {
		size := minBody + user*23
		token := relay.NewToken()
		body := made.write(1, user, token, size)
		if len(body) != size || !json.Valid(body) {
			t.Fatalf("user %d: got %d bytes, want %d of JSON: %s", user, len(body), size, body)
		}
		readings, err := e.Read(&provider.Request{Method: http.MethodPost, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		r := readings[0]
		if r.Outcome != relay.Completed || r.Candidates[0].Value != token || r.Payment.Currency != "EUR" || len(r.References) != 2 {
			t.Fatalf("user %d: got %+v", user, r)
		}
	}
	if err := errors.Join(checkBody(minBody), checkBody(maxBody)); err != nil {
		t.Error(err)
	}
	if checkBody(minBody-1) == nil || checkBody(maxBody+1) == nil {
		t.Error("got sizes accepted that no callback has")
	}
}

// Callbacks of one run differ in all that identifies them; the same one can
// be made again.
func TestCallbacksDiffer(t *testing.T) {
	t.Parallel()
	var made event
	seen := map[string]int{}
	for user := range 1000 {
		var e struct {
			ID   string `json:"id"`
			Data struct {
				Object struct {
					ID     string `json:"id"`
					Intent string `json:"payment_intent"`
				} `json:"object"`
			} `json:"data"`
		}
		if err := json.Unmarshal(made.write(7, user, "t", minBody), &e); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{e.ID, e.Data.Object.ID, e.Data.Object.Intent} {
			if other, ok := seen[id]; ok || len(id) < 20 {
				t.Errorf("users %d and %d: got %q for both", other, user, id)
			}
			seen[id] = user
		}
	}
	first := bytes.Clone(made.write(7, 3, "t", minBody))
	if again := made.write(7, 3, "t", minBody); !bytes.Equal(first, again) {
		t.Error("got another callback for the same user of the same run")
	}
	if another := anotherEvent(first); bytes.Equal(first, another) || len(first) != len(another) || !bytes.Equal(first[40:], another[40:]) {
		t.Errorf("another event of the payment: got %s", another)
	}
}

// Bodies shorten about as much as real ones do in the block format that the
// store packs them in: neither like noise nor like copies.
func TestCallbackPacks(t *testing.T) {
	t.Parallel()
	var made event
	for _, size := range []int{1536, 3072, 20480} {
		body := made.write(1, 1, relay.NewToken(), size)
		if got := float64(len(s2.EncodeSnappy(nil, body))) / float64(size); got < 0.3 || got > 0.9 {
			t.Errorf("%d bytes: packed to %.2f of it, want 0.3 to 0.9", size, got)
		}
	}
}

// An open loop counts from the time a request was due, also when everything
// before it is stuck.
func TestOpenLoopCountsFromDue(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	c := &caller{address: strings.TrimPrefix(server.URL, "http://")}
	const rate, seconds = 200.0, 0.25
	var users atomic.Int64
	const held = 100 * time.Millisecond // by a relay that stalls at first
	released := make(chan struct{})
	start := time.Now()
	time.AfterFunc(held, func() { close(released) })
	l, err := c.openLoop(t.Context(), rate, time.Duration(seconds*float64(time.Second)), func(*conn) (int, int, bool, error) {
		<-released
		return int(users.Add(1)), http.StatusOK, true, nil
	})
	if err != nil || l.accepted != int64(rate*seconds) {
		t.Fatalf("got %d accepted, %v, want %v", l.accepted, err, rate*seconds)
	}
	for i, s := range l.sent {
		due := time.Unix(0, s.due)
		if atLeast := start.Add(held).Sub(due); l.answers[i] < atLeast {
			t.Errorf("due %s after the start: got %s, want %s or more", due.Sub(start), l.answers[i], atLeast)
		}
	}
	slices.SortFunc(l.sent, func(a, b sending) int { return cmp.Compare(a.due, b.due) })
	for i, s := range l.sent {
		want := time.Duration(float64(i) / rate * float64(time.Second))
		if after := time.Duration(s.due - l.sent[0].due); after != want {
			t.Errorf("request %d was due %s after the first, want %s, whatever is stuck", i, after, want)
		}
	}
}

// What was accepted and never seen at the sink is lost, what was seen again
// is a duplicate, and latencies count from the due time.
func TestArrivals(t *testing.T) {
	t.Parallel()
	l := &load{accepted: 3, sent: []sending{{1, 1e9}, {2, 2e9}, {3, 3e9}}}
	var p Phase
	p.noteArrivals(l, map[int]arrival{1: {at: 1.5e9, count: 1}, 3: {at: 3.5e9, count: 3}, 9: {at: 1, count: 5}})
	if p.Lost != 1 || p.Duplicates != 2 || p.ResumeP50 != 500 {
		t.Errorf("got %+v, want 1 lost, 2 duplicates, 500 ms", p)
	}
}

func TestPercentiles(t *testing.T) {
	t.Parallel()
	var ds []time.Duration
	for i := range 101 {
		ds = append(ds, time.Duration(100-i)*time.Millisecond)
	}
	if p50, p99 := percentiles(ds); p50 != 50 || p99 != 99 {
		t.Errorf("got %v and %v, want 50 and 99", p50, p99)
	}
}
