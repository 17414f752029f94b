package intake

import (
	"context"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// CommitTogether commits callbacks as one batch.
func (in *Intake) CommitTogether(batch []relay.Callback) ([]relay.Receipt, []error) {
	for i := range batch {
		batch[i].DedupeKey = dedupeKey(&batch[i])
	}
	receipts, errs := make([]relay.Receipt, len(batch)), make([]error, len(batch))
	for i, r := range in.commitCallbacks(batch) {
		receipts[i], errs[i] = r.Value, r.Err
	}
	return receipts, errs
}

// RegisterTogether registers waits as one batch.
func (in *Intake) RegisterTogether(regs []store.Registration) ([]store.Registered, []error) {
	registered, errs := make([]store.Registered, len(regs)), make([]error, len(regs))
	for i, r := range in.commitRegistrations(regs) {
		registered[i], errs[i] = r.Value, r.Err
	}
	return registered, errs
}

// LookNow looks for all that commits have asked to be looked for, and tells
// how many did.
func (in *Intake) LookNow() (asked int, err error) {
	for ; ; asked++ {
		select {
		case refs := <-in.looks:
			if err := in.look(context.Background(), refs); err != nil {
				return asked, err
			}
		default:
			return asked, nil
		}
	}
}
