package intake

import "relay.example/relay/internal/relay"

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
