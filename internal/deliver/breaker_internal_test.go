package deliver

import (
	"testing"
	"time"
)

// step is one thing that a breaker is asked or told.
type step struct {
	after   time.Duration // the one before
	do      string        // call: ask; fail, answer: tell of a call; drop: it was not made
	want    string        // of a call: yes, or no
	changes bool          // where it is told
}

func TestBreaker(t *testing.T) {
	t.Parallel()
	var open []step // what opens it
	for i := range breakerFailures {
		open = append(open, step{do: "call", want: "yes"}, step{do: "fail", changes: i == breakerFailures-1})
	}
	after := func(steps ...step) []step { return append(append([]step{}, open...), steps...) }
	for name, steps := range map[string][]step{
		"an answer in between": append(append([]step{}, open[:2*breakerFailures-2]...),
			step{do: "answer"}, step{do: "fail"}, step{do: "call", want: "yes"}),
		"closed until it has opened": after(
			step{after: firstProbe - 1, do: "call", want: "no"},
			step{after: 1, do: "call", want: "yes, a probe"},
			step{do: "call", want: "no"},
		),
		"a probe that is answered closes it": after(
			step{after: firstProbe, do: "call", want: "yes, a probe"},
			step{do: "answer", changes: true},
			step{do: "call", want: "yes"},
			step{do: "fail"},
			step{do: "call", want: "yes"},
		),
		"probes that fail come less often": after(
			step{after: 1 * time.Second, do: "call", want: "yes, a probe"}, step{do: "fail"},
			step{after: 2*time.Second - 1, do: "call", want: "no"},
			step{after: 1, do: "call", want: "yes, a probe"}, step{do: "fail"},
			step{after: 4 * time.Second, do: "call", want: "yes, a probe"}, step{do: "fail"},
			step{after: 8 * time.Second, do: "call", want: "yes, a probe"}, step{do: "fail"},
			step{after: 16 * time.Second, do: "call", want: "yes, a probe"}, step{do: "fail"},
			step{after: maxProbe - 1, do: "call", want: "no"},
			step{after: 1, do: "call", want: "yes, a probe"}, step{do: "fail"},
			step{after: maxProbe, do: "call", want: "yes, a probe"},
		),
		"what was under way when it opened": after(
			step{do: "fail"},
			step{after: firstProbe, do: "call", want: "yes, a probe"},
			step{do: "straggler"},
			step{do: "call", want: "no"},
			step{do: "answer", changes: true},
		),
		"a probe that was not made": after(
			step{after: firstProbe, do: "call", want: "yes, a probe"},
			step{do: "drop"},
			step{do: "call", want: "yes, a probe"},
		),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b breaker
			now, probe := time.Now(), false
			for i, s := range steps {
				now = now.Add(s.after)
				switch s.do {
				case "call":
					permitted, isProbe := b.permit(now)
					got := map[bool]string{true: "yes", false: "no"}[permitted]
					if isProbe {
						got, probe = got+", a probe", true
					}
					if got != s.want {
						t.Fatalf("step %d: got %s, want %s", i, got, s.want)
					}
				case "drop":
					b.dropped(probe)
				default:
					mine := probe && s.do != "straggler"
					if changed := b.ended(s.do == "answer", mine, now); changed != s.changes {
						t.Fatalf("step %d: changed: got %t, want %t", i, changed, s.changes)
					}
					probe = probe && !mine
				}
			}
		})
	}
}
