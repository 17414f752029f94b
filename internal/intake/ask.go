package intake

import (
	"context"
	"errors"
	"hash/maphash"
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
	// What was fetched for a callback may name nobody either.
	proven := c.Verdict == relay.Verified || c.Verdict == relay.Fetched && c.For != uuid.Nil
	if in.cfg.Directory == nil || !proven || c.Answer != nil {
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
	if src == nil || !src.CanAsk() {
		return store.Decision{Match: relay.Unmatched, Rule: "no_api_key", Token: token}
	}
	after, strange, room := in.askAfter(c, facts)
	if !room {
		delete(facts.Originals, *c.DedupeKey) // it is not kept: a copy behind it is no copy
		return tooMany(token)
	}
	return store.Decision{Match: relay.Ignored, Rule: "fetched_apart", Token: token, Asks: &relay.Question{
		ID: relay.NewID(), ProjectID: c.ProjectID, SourceID: c.SourceID, EventID: c.ID, About: c.Reading.Fetch, After: after, Fetches: true,
		Strange: strange,
	}}
}

// repeat is a copy of a callback whose original is known. One that says only
// what it is about has that asked again: it may have changed since. What is
// signed is sent again only since its acknowledgement was lost.
func (in *Intake) repeat(c *relay.Callback, original uuid.UUID, facts *store.Facts) store.Decision {
	d := store.Decision{
		Match: relay.Duplicate, Rule: "same_event", Outcome: c.Reading.Outcome, DuplicateOf: original, Token: firstToken(c),
	}
	if c.Reading.Fetch == "" || c.Verdict != relay.Unsigned || facts.ToBeAsked(original) {
		return d
	}
	after, _, room := in.askAfter(c, facts)
	if !room {
		return tooMany(d.Token)
	}
	d.Asks = &relay.Question{
		ID: relay.NewID(), ProjectID: c.ProjectID, SourceID: c.SourceID, EventID: original, After: after, Fetches: true, Repeats: true,
	}
	return d
}

// askAfter says in how long the provider may be asked about c, whether a
// stranger could have caused that, and whether there is room for the question
// at all.
func (in *Intake) askAfter(c *relay.Callback, facts *store.Facts) (after time.Duration, strange, room bool) {
	if c.Verdict != relay.Unsigned {
		return 0, false, true
	}
	w := namedByURL(c, facts)
	if w == nil && in.crowds.full(c.SourceID) {
		return 0, true, false
	}
	after, room = in.knocks.take(c.SourceID, w, in.cfg.Now())
	return after, w == nil, room
}

// tooMany refuses a callback before it is kept: its sender comes again, which
// nobody does who was told that all is well.
func tooMany(token string) store.Decision {
	return store.Decision{Match: relay.Unmatched, Rule: "too_many_to_ask", Token: token, Refused: true}
}

// errTooMany is what the sender of such a callback is told.
var errTooMany = relay.Errorf(relay.Busy, "too_many_to_ask",
	"the provider is to be asked about too many callbacks like this one: send it again later")

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
// source. What is beyond is asked later, and what would be asked too late is
// refused. So strangers, who can make up any number of ids, have a provider
// asked about few of them, and take nothing from those who know a token. It is
// kept by each node for itself, in the room of a fixed number: waits that
// share a place share what they may ask. Which do is not known to strangers:
// the seed is this process's own.
type knocks struct {
	seed   maphash.Seed
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
	// maxBehind is how long a question may have to stand back: 3,000 of a
	// source, 60 of a wait.
	maxBehind = 10 * time.Minute
)

// take takes one question out of what may be asked, and returns in how long
// its turn is; false: too many stand before it.
func (k *knocks) take(sourceID int64, w *relay.Wait, now time.Time) (after time.Duration, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	turn := k.place(sourceID, w).ReserveN(now, 1)
	if after = turn.DelayFrom(now); after > maxBehind {
		turn.CancelAt(now)
		return 0, false
	}
	return after, true
}

// place is where the questions of a wait are counted, or those of a source
// that name none. The caller holds mu.
func (k *knocks) place(sourceID int64, w *relay.Wait) *rate.Limiter {
	// Waits and sources have half of the places each.
	at, every, burst := maphash.Comparable(k.seed, sourceID)%(knockPlaces/2), rate.Limit(sourceRate), sourceBurst
	if w != nil {
		at = knockPlaces/2 + maphash.Comparable(k.seed, w.ID)%(knockPlaces/2)
		every, burst = rate.Every(waitEvery), waitBurst
	}
	if k.places[at] == nil {
		k.places[at] = rate.NewLimiter(every, burst)
	}
	return k.places[at]
}

// crowds remembers of which sources as many questions wait as may that
// strangers could have caused. knocks alone would let them gather for as long
// as a provider is out of reach, and forgets all with its node. A source is
// counted at most once in crowdEvery, and not in the transaction of its
// callbacks, which may so be a second ahead of it: at most what knocks lets
// pass in that, on each node.
type crowds struct {
	mu   sync.Mutex
	seen map[int64]crowdSeen // by source
}

type crowdSeen struct {
	at   time.Time
	full bool
}

// The bounds of crowds.
const (
	crowdEvery   = time.Second
	crowdTimeout = time.Second // of counting, in the time of a callback that is still to be committed
)

func (cs *crowds) full(sourceID int64) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.seen[sourceID].full
}

// toCount reports whether it is the caller who counts now.
func (cs *crowds) toCount(sourceID int64, now time.Time) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	last, counted := cs.seen[sourceID]
	if counted && now.Sub(last.at) < crowdEvery {
		return false
	}
	if cs.seen == nil {
		cs.seen = map[int64]crowdSeen{}
	}
	cs.seen[sourceID] = crowdSeen{now, last.full}
	return true
}

func (cs *crowds) note(sourceID int64, now time.Time, full bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.seen[sourceID] = crowdSeen{now, full}
}

// lookAtCrowd counts what waits of a source of whose callbacks one came that
// nobody has signed. Where it cannot, what was known before holds.
func (in *Intake) lookAtCrowd(ctx context.Context, sourceID int64) {
	now := in.cfg.Now()
	if !in.crowds.toCount(sourceID, now) {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, crowdTimeout, errCrowdTimeout)
	defer cancel()
	waiting, err := in.cfg.Store.StrangersWaiting(ctx, sourceID, relay.MaxStrangeWaiting)
	if err != nil {
		in.cfg.Log.Debug("questions of a source not counted", "source_id", sourceID, "error", err)
		return
	}
	in.crowds.note(sourceID, now, waiting >= relay.MaxStrangeWaiting)
}

var errCrowdTimeout = errors.New("the database did not count in time")

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
