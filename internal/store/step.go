package store

import (
	"context"
	"errors"
	"time"
)

// stepTimeout bounds a step of background work: a claim, or the record of what
// came of it.
const stepTimeout = 5 * time.Second

var errStepTimeout = errors.New("the database did not answer in time")

// Step returns a context for one step of background work in the database,
// which a shutdown does not cancel: of a claim that was cut off nobody would
// know the leases, and what has happened is to be recorded.
func Step(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), stepTimeout, errStepTimeout)
}
