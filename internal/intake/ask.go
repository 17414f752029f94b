package intake

import (
	"slices"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// inquiry is what the provider is to be asked about an event that is parked,
// or nil. It is committed with the event. One that was asked about keeps its
// answer, and is not asked about again, but by hand where that named nobody.
func (in *Intake) inquiry(c *relay.Callback) *relay.Question {
	if in.cfg.Directory == nil || c.Verdict != relay.Verified || c.Answer != nil {
		return nil
	}
	src := in.cfg.Directory.Current().SourceByID(c.SourceID)
	if src == nil {
		return nil
	}
	q, ok := src.InquiryOf(&c.Reading)
	if !ok {
		return nil
	}
	return &relay.Question{
		ID: relay.NewID(), ProjectID: c.ProjectID, SourceID: c.SourceID, EventID: c.ID, About: q.About, After: q.After,
	}
}

// askable is what the provider can be asked for when the wait of d, which is
// pending still, is about to expire; "" where that is nothing, or no news.
func (in *Intake) askable(c *relay.Callback, d *store.Decision) string {
	if in.cfg.Directory == nil || d.Wait.Status != relay.Pending || len(d.Teaches) == 0 {
		return ""
	}
	src := in.cfg.Directory.Current().SourceByID(c.SourceID)
	if src == nil {
		return ""
	}
	about := src.Askable(&c.Reading)
	if about == "" || !slices.Contains(d.Teaches, store.RefHash(c.SourceID, about)) {
		return ""
	}
	return about
}
