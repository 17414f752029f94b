package bench

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

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
	_ = k.Close()
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
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
	c := &caller{secret: secret}
	for _, size := range []int{1536, 20_000} {
		c.pad(size)
		token := relay.NewToken()
		body := c.callback(1_000_000, token)
		if len(body) != size {
			t.Errorf("got %d bytes, want %d", len(body), size)
		}
		readings, err := e.Read(&provider.Request{Method: http.MethodPost, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		r := readings[0]
		if r.Outcome != relay.Completed || r.Candidates[0].Value != token || r.Payment.Currency != "EUR" || len(r.References) != 2 {
			t.Errorf("got %+v", r)
		}
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

func TestCompare(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/kept.json"
	kept := &Report{Version: "abc", Machine: "one", Phases: []Phase{{Name: "x", Accepted: 100, WAL: 1000}}}
	if err := kept.Write(path); err != nil {
		t.Fatal(err)
	}
	read, err := ReadReport(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	(&Report{Phases: []Phase{{Name: "x", Accepted: 150, WAL: 900}, {Name: "new"}}}).Compare(&out, read)
	for _, want := range []string{"against abc on one", "accepted   +50%", "WAL   -10%"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %q, want %q in it", out.String(), want)
		}
	}
	if strings.Contains(out.String(), "new") {
		t.Errorf("a phase that was not kept is compared: %q", out.String())
	}
}
