package deliver

import (
	"context"
	"time"

	"relay.example/relay/internal/groupcommit"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The bounds of recording attempts, of deliveries as of hooks.
const (
	recordTry     = 4 * time.Second       // of one statement
	recordTimeout = 10 * time.Second      // of all tries: results are not thrown away for a hiccup
	firstRetry    = 50 * time.Millisecond // the pause before the second try; it doubles
	recordBatch   = 256
	recordPause   = 4 * time.Millisecond // between batches: nobody waits for them
)

// newRecorder returns what gathers attempts and commits them. What was sent and
// not recorded is sent again after a crash: one batch that waits here, and one
// that is being committed. Beyond them, sends wait for the database.
func newRecorder[A, R any](commit func([]A) []groupcommit.Result[R]) *groupcommit.Committer[A, R] {
	bounds := groupcommit.Config{MaxBatch: recordBatch, MaxWaiting: recordBatch, Committers: 1, Pause: recordPause}
	return groupcommit.New(bounds, nil, commit)
}

// recording makes a commit of the statement that records attempts. What the
// database cannot take now is tried again for a while, since every result that
// is lost is a call made twice; a batch that it refuses is taken apart, so that
// one odd answer cannot hold up the others.
func recording[A, R any](record func(context.Context, []A) ([]R, error)) func([]A) []groupcommit.Result[R] {
	return func(batch []A) []groupcommit.Result[R] {
		recorded, err := recordPatiently(batch, record)
		results := make([]groupcommit.Result[R], 0, len(batch))
		if store.Poisoned(err) && len(batch) > 1 {
			for i := range batch {
				results = append(results, recording(record)(batch[i:i+1])...)
			}
			return results
		}
		for i := range batch {
			if err != nil {
				results = append(results, groupcommit.Result[R]{Err: err})
				continue
			}
			results = append(results, groupcommit.Result[R]{Value: recorded[i]})
		}
		return results
	}
}

// recordPatiently tries again while another time may do.
func recordPatiently[A, R any](batch []A, record func(context.Context, []A) ([]R, error)) (recorded []R, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	for wait := firstRetry; ; wait *= 2 {
		recorded, err = recordOnce(ctx, batch, record)
		if !store.Conflicted(err) && !relay.IsKind(err, relay.Busy) || !pause(ctx, wait) {
			return recorded, err
		}
	}
}

func recordOnce[A, R any](ctx context.Context, batch []A, record func(context.Context, []A) ([]R, error)) ([]R, error) {
	ctx, cancel := context.WithTimeout(ctx, recordTry)
	defer cancel()
	return record(ctx, batch)
}

// pause waits for d and reports whether there is time left.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
