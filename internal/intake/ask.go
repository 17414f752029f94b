package intake

import (
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

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

// fetch has what a callback is about asked of its provider: the callback says
// no more, and does nothing by itself.
func (in *Intake) fetch(c *relay.Callback, facts *store.Facts) store.Decision {
	token, src := firstToken(c), in.cfg.Directory.Current().SourceByID(c.SourceID)
	switch {
	case src == nil || !src.CanAsk():
		return store.Decision{Match: relay.Unmatched, Rule: "no_api_key", Token: token}
	case c.Verdict == relay.Unsigned && !in.knocks.allow(c, namedByURL(c, facts)):
		return store.Decision{Match: relay.Unmatched, Rule: "too_many_to_ask", Token: token}
	}
	return store.Decision{Match: relay.Ignored, Rule: "fetched_apart", Token: token, Asks: &relay.Question{
		ID: relay.NewID(), ProjectID: c.ProjectID, SourceID: c.SourceID, EventID: c.ID, About: c.Reading.Fetch, Fetches: true,
	}}
}

// repeated is the question that a copy of such a callback raises again: what
// it is about may have changed since. What is signed is sent again only since
// its acknowledgement was lost.
func repeated(c *relay.Callback, original uuid.UUID) *relay.Question {
	if c.Reading.Fetch == "" || c.Verdict != relay.Unsigned {
		return nil
	}
	return &relay.Question{ID: relay.NewID(), ProjectID: c.ProjectID, SourceID: c.SourceID, EventID: original, Fetches: true, Repeats: true}
}

// namedByURL is the wait that a callback names by its token, or nil.
func namedByURL(c *relay.Callback, facts *store.Facts) *relay.Wait {
	for _, candidate := range c.Reading.Candidates {
		if f := lookUp(c, candidate.Value, facts); f.wait != nil {
			return f.wait
		}
	}
	return nil
}

// knocks bounds how many questions callbacks raise that nobody has signed:
// those that name a wait by its token for each wait, the others for each
// source. So strangers, who can make up any number of ids, have a provider
// asked about few of them, and take nothing from those who know a token. It is
// kept by each node for itself, in the room of a fixed number: waits that
// share a place share what they may ask.
type knocks struct {
	mu     sync.Mutex
	places [knockPlaces]*rate.Limiter
}

// The bounds of knocks.
const (
	knockPlaces = 4096
	waitEvery   = 10 * time.Second // a question of one wait, and as many at once:
	waitBurst   = 20
	sourceRate  = 5 // questions a second of one source that name no wait, and as many at once:
	sourceBurst = 100
)

// allow reports whether the provider is asked about one more.
func (k *knocks) allow(c *relay.Callback, w *relay.Wait) bool {
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, c.SourceID)
	every, burst := rate.Limit(sourceRate), sourceBurst
	if w != nil {
		_, _ = h.Write(w.ID[:])
		every, burst = rate.Every(waitEvery), waitBurst
	}
	// Waits and sources have half of the places each.
	place := h.Sum64() % (knockPlaces / 2)
	if w != nil {
		place += knockPlaces / 2
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.places[place] == nil {
		k.places[place] = rate.NewLimiter(every, burst)
	}
	return k.places[place].Allow()
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
