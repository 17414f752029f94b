package relay_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
)

// Of a wait there are three tries in a minute, even when each takes its 10 s;
// of an event as many as its 72 h hold, and not too many.
func TestNextQuestion(t *testing.T) {
	t.Parallel()
	const almost, timeout = 1 - 1e-9, 10 * time.Second
	for name, tt := range map[string]struct {
		q     relay.Question
		left  time.Duration
		tries int
		least time.Duration // that the slowest schedule takes
	}{
		"of a wait":    {relay.Question{CorrelationID: uuid.New()}, relay.ReconcileFor, relay.MaxWaitTries, 30 * time.Second},
		"of an event":  {relay.Question{EventID: uuid.New()}, relay.InquireFor, 30, 40 * time.Hour},
		"out of time":  {relay.Question{EventID: uuid.New()}, time.Minute, 4, 30 * time.Second},
		"out of time!": {relay.Question{CorrelationID: uuid.New()}, 0, 1, 0},
	} {
		q, left, n, took := tt.q, tt.left, 0, time.Duration(0)
		for again := true; again && (n == 0 || took < left); { // what comes later is not asked
			n++
			q.Left = left - took
			var delay time.Duration
			took += timeout
			delay, again = q.NextQuestion(n, 0, almost)
			took += delay
		}
		if n != tt.tries || took < tt.least || q.OfWait() && took > relay.ReconcileFor {
			t.Errorf("%s: got %d tries in %s, want %d in at least %s", name, n, took, tt.tries, tt.least)
		}
	}
	q := relay.Question{EventID: uuid.New(), Left: time.Hour}
	if delay, again := q.NextQuestion(1, 2*time.Minute, 0); !again || delay != 2*time.Minute {
		t.Errorf("asked to wait: got %s, %t, want the 2 min", delay, again)
	}
	if delay, again := q.NextQuestion(1, 0, 0); !again || delay != time.Second {
		t.Errorf("without jitter: got %s, %t, want half of the 2 s", delay, again)
	}
}
