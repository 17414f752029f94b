package relay_test

import (
	"strings"
	"testing"
	"time"

	"relay.example/relay/internal/relay"
)

func TestRetention(t *testing.T) {
	t.Parallel()
	days := func(n int) relay.Duration { return relay.Duration(time.Duration(n) * 24 * time.Hour) }
	for _, c := range []struct {
		name    string
		given   relay.Retention
		refused string // a part of the refusal; "": none
	}{
		{"nothing given", relay.Retention{}, ""},
		{"the least", relay.Retention{EventBody: days(3), AttemptBody: days(1), Correlation: days(30)}, ""},
		{"the most", relay.Retention{EventBody: days(3650), AttemptBody: days(3650), Correlation: days(3650)}, ""},
		{"correlation too short", relay.Retention{Correlation: days(29)}, "correlation: 29d is not between 30d and 3650d"},
		{"correlation too long", relay.Retention{Correlation: days(3651)}, "correlation: "},
		{"event_body too short", relay.Retention{EventBody: days(2)}, "event_body: 2d is not between 3d and 400d (correlation)"},
		{"event_body beyond its rows", relay.Retention{EventBody: days(61), Correlation: days(60)}, "event_body: 61d is not between 3d and 60d"},
		{"attempt_body too short", relay.Retention{AttemptBody: relay.Duration(23 * time.Hour)}, "attempt_body: 23h is not between 1d"},
		{"attempt_body beyond its rows", relay.Retention{AttemptBody: days(31), Correlation: days(30)}, "attempt_body: 31d"},
		{"negative", relay.Retention{EventBody: days(-30)}, "event_body: -30d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := c.given.Check()
			if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
				t.Errorf("got %v, want a refusal with %q", err, c.refused)
			}
		})
	}
	if got := (relay.Retention{}).InForce(); got != relay.DefaultRetention {
		t.Errorf("by default: got %+v, want %+v", got, relay.DefaultRetention)
	}
}
