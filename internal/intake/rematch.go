package intake

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// The bounds of matching stored events again.
const (
	rematchBatch   = 100                   // events decided in one transaction, with their bytes in memory
	rematchTimeout = 6 * time.Second       // of one of them
	maxLooks       = 1024                  // commits whose names wait to be looked for; beyond, the sweep finds them
	lookPause      = 50 * time.Millisecond // in which the names of several commits gather
	parkedPass     = 5_000                 // names of parked events that one sweep looks at
)

// parksUnder lists the names that a parked event can be found by: what was
// read of the first places, each once.
func parksUnder(c *relay.Callback) (names []store.ParkedName) {
	add := func(value string, keyOnly bool) {
		ref := store.RefHash(c.SourceID, value)
		at := slices.IndexFunc(names, func(n store.ParkedName) bool { return n.Ref == ref })
		switch {
		case at >= 0:
			names[at].KeyOnly = names[at].KeyOnly && keyOnly
		case len(names) < store.MaxParkedNames:
			names = append(names, store.ParkedName{Ref: ref, KeyOnly: keyOnly})
		}
	}
	for _, candidate := range c.Reading.Candidates {
		add(candidate.Value, true)
	}
	for _, reference := range c.Reading.References {
		add(reference.Value, false)
	}
	return names
}

// lookFor has parked events looked for by names that have just been
// committed, some time soon. It never blocks and may forget: the sweep looks
// at all that is parked.
func (in *Intake) lookFor(refs []uuid.UUID) {
	if len(refs) == 0 || in.cfg.Directory == nil {
		return
	}
	select {
	case in.looks <- refs:
	default:
	}
}

// committedNames lists the names under which a batch may have made two sides
// meet that did not see each other: those that it taught, and those of the
// events that it parked.
func committedNames(decisions []store.Decision) (refs []uuid.UUID) {
	for i := range decisions {
		refs = append(refs, decisions[i].Teaches...)
		for _, name := range decisions[i].Parks {
			refs = append(refs, name.Ref)
		}
	}
	return refs
}

// runLooks looks for parked events until ctx is done.
func (in *Intake) runLooks(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case refs := <-in.looks:
			pause := time.NewTimer(lookPause)
			select {
			case <-ctx.Done():
			case <-pause.C:
			}
			pause.Stop()
			if err := in.look(ctx, in.gatherLooks(refs)); err != nil {
				in.cfg.Log.Warn("parked events not looked for; the next sweep does", "error", err)
			}
		}
	}
}

// gatherLooks adds what else is to be looked for, and waits for nothing.
func (in *Intake) gatherLooks(refs []uuid.UUID) []uuid.UUID {
	for len(refs) < parkedPass {
		select {
		case more := <-in.looks:
			refs = append(refs, more...)
		default:
			return refs
		}
	}
	return refs
}

// look finds the parked events of some names and matches them. It is repeated
// for as long as it finds a full batch and gets on with it; a batch that was
// begun is finished when ctx ends.
func (in *Intake) look(ctx context.Context, refs []uuid.UUID) error {
	for {
		looking, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), rematchTimeout, errCommitTimeout)
		events, err := in.cfg.Store.Awaited(looking, refs, rematchBatch)
		cancel()
		if err != nil {
			return err
		}
		changed, err := in.rematch(events, false)
		if err != nil || len(events) < rematchBatch || changed == 0 || ctx.Err() != nil {
			return err
		}
	}
}

// MatchParkedOnce looks at the next piece of all that is parked, and matches
// what a wait has come for meanwhile: what a crash between a commit and the
// look after it has left. It is called by one goroutine at a time.
func (in *Intake) MatchParkedOnce(ctx context.Context) (int, error) {
	if in.cfg.Directory == nil {
		return 0, nil
	}
	events, next, err := in.cfg.Store.AwaitedFrom(ctx, in.parked, parkedPass)
	if err != nil {
		return 0, err
	}
	in.parked = next
	return in.rematch(events, false)
}

// rematch decides stored events anew, and returns how many of them changed. By
// hand, what their providers are to be asked is asked anew.
func (in *Intake) rematch(events []store.EventKey, byHand bool) (changed int, err error) {
	for chunk := range slices.Chunk(events, rematchBatch) {
		n, err := in.rematchChunk(chunk, byHand)
		if changed += n; err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// rematchChunk commits one chunk, whatever it takes. An event that the
// database refuses as it is read today stays what it was.
func (in *Intake) rematchChunk(events []store.EventKey, byHand bool) (changed int, err error) {
	changed, err = in.rematchTogether(events, byHand)
	switch {
	case !store.Poisoned(err):
		return changed, err
	case len(events) == 1:
		in.cfg.Log.Error("event not matched again: it cannot be stored as it is read today",
			"project_id", events[0].ProjectID, "event_id", events[0].ID, "error", err)
		return 0, nil
	}
	for i := range events {
		n, err := in.rematchChunk(events[i:i+1], byHand)
		if changed += n; err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// rematchTogether commits events in one transaction. One of them runs at a
// time: it holds a connection while it reads a plan on another, and many that
// did so at once would wait for each other.
func (in *Intake) rematchTogether(events []store.EventKey, byHand bool) (int, error) {
	in.rematching.Lock()
	defer in.rematching.Unlock()
	ctx, cancel := context.WithTimeoutCause(context.Background(), rematchTimeout, errCommitTimeout)
	defer cancel()
	return retry(ctx, func() (int, error) { return in.rematchOnce(ctx, events, byHand) })
}

func (in *Intake) rematchOnce(ctx context.Context, events []store.EventKey, byHand bool) (changed int, err error) {
	if len(events) == 0 {
		return 0, nil
	}
	read := in.readAgain
	if byHand {
		read = in.readForHand
	}
	done, deliveries, err := in.cfg.Store.Rematch(ctx, uuid.New(), events, byHand, read, in.decide)
	if err != nil {
		return 0, err
	}
	in.cfg.HandOver(deliveries)
	var decisions []store.Decision
	for _, r := range done {
		if r.Changed {
			decisions = append(decisions, r.Decision)
		}
	}
	in.lookFor(committedNames(decisions))
	return len(decisions), nil
}

// DecideAgain decides one stored event anew, as it is read today: the provider
// has said whose it is.
func (in *Intake) DecideAgain(event store.EventKey) error {
	_, err := in.rematch([]store.EventKey{event}, false)
	return err
}

// readForHand reads a stored event as readAgain does, and forgets an answer
// that named nobody where its provider is to be asked once more.
func (in *Intake) readForHand(k *store.Kept) (relay.Callback, store.Names, bool) {
	c, names, ok := in.readAgain(k)
	if !ok || c.Answer == nil || c.Named {
		return c, names, ok
	}
	forgetting := c
	forgetting.Answer = nil
	if in.inquiry(&forgetting) != nil {
		c = forgetting
	}
	return c, names, ok
}

// readAgain reads a stored event by today's configuration. One that is still
// not genuine, or whose source cannot be used, stays as it is.
func (in *Intake) readAgain(k *store.Kept) (relay.Callback, store.Names, bool) {
	c, err := in.cfg.Directory.Current().ReadAgain(k.Callback, time.Now())
	if err != nil {
		in.cfg.Log.Debug("event not read again", "project_id", k.ProjectID, "event_id", k.ID, "error", err)
		return c, store.Names{}, false
	}
	if c.DedupeKey == nil { // else it has one, which a change of the configuration does not move
		c.DedupeKey = dedupeKey(&c)
	}
	return c, namesOf(&c), true
}
