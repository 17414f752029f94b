package deliver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"relay.example/relay/internal/relay"
)

// The same recorder serves deliveries and hooks: what the database says of a
// batch decides whether it is recorded, tried again or taken apart.
func TestRecording(t *testing.T) {
	t.Parallel()
	var (
		busy     = relay.Errorf(relay.Busy, "database_unavailable", "the database is away")
		deadlock = &pgconn.PgError{Code: "40P01"}
		odd      = &pgconn.PgError{Code: "22021"}
		broken   = errors.New("a statement that is wrong")
	)
	for _, c := range []struct {
		name  string
		fails func(batch []int, after time.Duration) error
		want  []string
		tries int
	}{
		{"recorded", func([]int, time.Duration) error { return nil }, []string{"1", "2", "3"}, 1},
		{"a deadlock", func(_ []int, after time.Duration) error {
			if after == 0 {
				return deadlock
			}
			return nil
		}, []string{"1", "2", "3"}, 2},
		{"away for a while", func(_ []int, after time.Duration) error { // tried after 50, 150 and 350 ms
			if after < 300*time.Millisecond {
				return busy
			}
			return nil
		}, []string{"1", "2", "3"}, 4},
		// After 50 ms and twice as long each time, until 10 s are over.
		{"away", func([]int, time.Duration) error { return busy }, []string{busy.Error(), busy.Error(), busy.Error()}, 8},
		{"one is refused", func(batch []int, _ time.Duration) error {
			for _, n := range batch {
				if n == 2 {
					return odd
				}
			}
			return nil
		}, []string{"1", odd.Error(), "3"}, 4},
		{"a fault of ours", func([]int, time.Duration) error { return broken }, []string{broken.Error(), broken.Error(), broken.Error()}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began, tries := time.Now(), 0
				commit := recording(func(_ context.Context, batch []int) ([]string, error) {
					tries++
					if err := c.fails(batch, time.Since(began)); err != nil {
						return nil, err
					}
					said := make([]string, len(batch))
					for i, n := range batch {
						said[i] = string(rune('0' + n))
					}
					return said, nil
				})
				var got []string
				for _, r := range commit([]int{1, 2, 3}) {
					if r.Err != nil {
						r.Value = r.Err.Error()
					}
					got = append(got, r.Value)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("what became of the batch (-want +got):\n%s", diff)
				}
				if tries != c.tries {
					t.Errorf("got %d statements, want %d", tries, c.tries)
				}
			})
		})
	}
}
