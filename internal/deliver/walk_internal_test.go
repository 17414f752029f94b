package deliver

import (
	"slices"
	"testing"
	"time"

	"relay.example/relay/internal/store"
)

// A walk goes on while the lanes that it passes over are full, and begins anew
// when one of them has room, though not all the time.
func TestWalk(t *testing.T) {
	t.Parallel()
	at := time.Now()
	there := at.Add(time.Hour) // by the database's clock
	for _, tt := range []struct {
		name string
		from walk
		busy []int64
		anew bool
		past []int64
	}{
		{"the first", walk{}, []int64{1}, true, []int64{1}},
		{"no lane is full any more", walk{began: at, past: []int64{1}}, nil, false, nil},
		{"nothing has changed", walk{ended: true, began: at.Add(-time.Minute / 3), past: []int64{1, 2}}, []int64{1, 2}, false, []int64{1, 2}},
		{"one more is full", walk{began: at.Add(-time.Second / 2), past: []int64{2}}, []int64{1, 2}, false, []int64{1, 2}},
		{"one has room", walk{ended: true, began: at.Add(-walkRest), past: []int64{1, 2}}, []int64{2}, true, []int64{2}},
		{"one has room so soon", walk{ended: true, began: at.Add(-walkRest + 1), past: []int64{1, 2}}, []int64{2}, false, []int64{1, 2}},
		{
			"one has room, and a walk takes long",
			walk{ended: true, began: at.Add(-2*time.Second + 1), took: time.Second, past: []int64{1, 2}},
			[]int64{2},
			false,
			[]int64{1, 2},
		},
		{"not before it has come to its end", walk{began: at.Add(-walkAgain), past: []int64{1, 2}}, []int64{2}, false, []int64{1, 2}},
		{"from time to time", walk{ended: true, began: at.Add(-walkAgain), took: time.Hour, past: []int64{1}}, []int64{1}, true, []int64{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			from := tt.from
			from.until = there
			got := from.next(tt.busy, at)
			if anew := got.until.IsZero() && got.began.Equal(at); anew != tt.anew || !slices.Equal(got.past, tt.past) {
				t.Errorf("got %+v, want it to begin anew: %t, past %v", got, tt.anew, tt.past)
			}
		})
	}
}

// At its end a walk stays a little behind, for what is committed late, and
// never goes back.
func TestWalkEnds(t *testing.T) {
	t.Parallel()
	at := time.Now()
	there := at.Add(time.Hour)
	w := walk{began: at.Add(-time.Second), until: there.Add(-time.Minute)}
	w = w.through(store.Piece{To: there}, at)
	if w.ended || !w.until.Equal(there) {
		t.Errorf("after a piece in between: got %+v", w)
	}
	w.until = there.Add(-time.Minute)
	w = w.through(store.Piece{To: there, Last: true}, at)
	if !w.ended || w.took != time.Second || !w.until.Equal(there.Add(-walkOverlap)) {
		t.Errorf("at its end: got %+v", w)
	}
	w = w.through(store.Piece{To: there.Add(walkOverlap / 2), Last: true}, at.Add(time.Minute))
	if w.took != time.Second || !w.until.Equal(there.Add(-walkOverlap/2)) {
		t.Errorf("at its end once more: got %+v", w)
	}
	w.until = there.Add(time.Minute)
	if w = w.through(store.Piece{To: there, Last: true}, at); !w.until.Equal(there.Add(time.Minute)) {
		t.Errorf("past what it was told: got %+v, want it where it was", w)
	}
}
