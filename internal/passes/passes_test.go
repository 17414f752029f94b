package passes_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/passes"
)

// Each pass is made as early as what the one before said allows.
func TestLoop(t *testing.T) {
	t.Parallel()
	errAway := errors.New("the database is away")
	for _, c := range []struct {
		name string
		more bool
		err  error
		wake bool // a hint comes after a second
		want time.Duration
	}{
		{name: "nothing is left", want: time.Minute},
		{name: "there may be more", more: true, want: 0},
		{name: "it failed", err: errAway, want: time.Minute},
		{name: "it failed with a full batch", more: true, err: errAway, want: time.Minute},
		{name: "something came", wake: true, want: time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				wake := make(chan struct{})
				if c.wake {
					time.AfterFunc(time.Second, func() { wake <- struct{}{} })
				}
				var made []time.Time
				var told []error
				passes.Loop{
					Every: time.Minute, Wake: wake,
					Pass: func(context.Context) (bool, error) {
						if made = append(made, time.Now()); len(made) == 2 {
							stop()
						}
						return c.more, c.err
					},
					Failed: func(err error) { told = append(told, err) },
				}.Run(ctx)
				if len(made) != 2 {
					t.Fatalf("got %d passes, want the one that stopped it to be the last of 2", len(made))
				}
				if got := made[1].Sub(made[0]); got != c.want {
					t.Errorf("got the second pass after %s, want it after %s", got, c.want)
				}
				// The second failed too, when the loop was stopped already.
				if want := c.err != nil; want != slices.Equal(told, []error{errAway}) || !want && told != nil {
					t.Errorf("got told %v, want the first failure alone: %v", told, c.err)
				}
			})
		})
	}
}

func TestStoppedBeforeItBegins(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	passes.Loop{Every: time.Minute, Pass: func(context.Context) (bool, error) {
		t.Error("got a pass, want none")
		return false, nil
	}}.Run(ctx)
}

func TestFull(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]bool{0: false, 7: false, 8: true, 9: true} {
		more, err := passes.Full(8, func(context.Context) (int, error) { return n, nil })(t.Context())
		if more != want || err != nil {
			t.Errorf("%d of a batch of 8: got %t, %v, want %t", n, more, err, want)
		}
	}
}

func TestSlow(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	slow := passes.NewSlow(2*time.Second, 10*time.Second)
	slow.Note(1, began, began.Add(2*time.Second))
	slow.Note(2, began, began.Add(3*time.Second))
	slow.Note(3, began, began.Add(5*time.Second))
	for _, c := range []struct {
		after time.Duration
		want  []int64
	}{
		{5 * time.Second, []int64{2, 3}},
		{13*time.Second - 1, []int64{2, 3}},
		{13 * time.Second, []int64{3}},
		{15 * time.Second, []int64{}}, // not nil
	} {
		got := slow.Resting(began.Add(c.after))
		slices.Sort(got)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", c.after, diff)
		}
	}
}
