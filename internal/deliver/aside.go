package deliver

import (
	"context"
	"errors"
	"slices"

	"github.com/google/uuid"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// asideBatch is how many deliveries one statement puts aside.
const asideBatch = 1_000

// stub is what it takes to put a delivery aside: its body is let go.
func stub(d *relay.Delivery) relay.Delivery {
	return relay.Delivery{
		ID: d.ID, ProjectID: d.ProjectID, DestinationID: d.DestinationID, Conversation: d.Conversation,
		Lease: d.Lease, LeaseEnds: d.LeaseEnds,
	}
}

// addLate remembers deliveries that are sent later, with the same bound as
// addSurplus.
func (e *Engine) addLate(late ...store.Later) {
	e.mu.Lock()
	e.late = append(e.late, late[:min(len(late), max(0, maxQueued-len(e.late)))]...)
	e.mu.Unlock()
	e.Wake()
}

// addSurplus remembers a delivery whose lease is to be given back. Beyond the
// bound the leases end by themselves. The caller holds mu.
func (e *Engine) addSurplus(d relay.Delivery) {
	if len(e.surplus) < maxQueued {
		e.surplus = append(e.surplus, stub(&d))
	}
}

// addHeld remembers a delivery whose destination is held, with the same bound.
func (e *Engine) addHeld(d relay.Delivery) {
	e.mu.Lock()
	if len(e.held) < maxQueued {
		e.held = append(e.held, stub(&d))
	}
	e.mu.Unlock()
	e.Wake()
}

// putAside gives to the table what is not sent from here.
func (e *Engine) putAside(ctx context.Context) {
	e.mu.Lock()
	surplus, held, late, over := e.surplus, e.held, e.late, e.over
	e.surplus, e.held, e.late, e.over = nil, nil, nil, nil
	e.mu.Unlock()
	for batch := range slices.Chunk(held, asideBatch) {
		e.holdDeliveries(ctx, batch)
	}
	for batch := range slices.Chunk(late, asideBatch) {
		e.postpone(ctx, batch)
	}
	for batch := range slices.Chunk(over, asideBatch) {
		e.giveUp(ctx, batch)
	}
	e.returnLeases(ctx, surplus)
}

// postpone gives deliveries back until later.
func (e *Engine) postpone(ctx context.Context, batch []store.Later) {
	ctx, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	if err := e.cfg.Store.Postpone(ctx, batch); err != nil {
		e.cfg.Log.Warn("deliveries not postponed; they are looked at again when their leases end", "count", len(batch), "error", err)
	}
}

// giveUp ends what a destination that does not answer did not take in its
// time, as another attempt would.
func (e *Engine) giveUp(ctx context.Context, batch []relay.Delivery) {
	ctx, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	dead, err := e.cfg.Store.GiveUp(ctx, batch)
	if err != nil {
		e.cfg.Log.Warn("deliveries not given up, though their time to try is over; they are looked at again when their leases end",
			"count", len(batch), "error", err)
		return
	}
	for _, d := range dead {
		e.cfg.Metrics.Ended(relay.Dead)
		e.cfg.Log.Warn("delivery is dead: its destination does not answer, and its time to try is over",
			"delivery_id", d.ID, "project_id", d.ProjectID)
	}
	if len(dead) > 0 {
		e.Wake() // the next ones of their conversations may be due
	}
}

func (e *Engine) returnLeases(ctx context.Context, held []relay.Delivery) {
	ctx, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	if err := e.cfg.Store.ReturnLeases(ctx, held); err != nil {
		e.cfg.Log.Warn("leases not returned; they end by themselves", "count", len(held), "error", err)
	}
}

// holdDeliveries makes deliveries held. Those whose destination was released
// meanwhile are due again.
func (e *Engine) holdDeliveries(ctx context.Context, batch []relay.Delivery) {
	holding, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	if err := e.cfg.Store.HoldDeliveries(holding, batch); err != nil {
		e.cfg.Log.Warn("deliveries not held, though their destination is; they are looked at again when their leases end",
			"count", len(batch), "error", err)
		return
	}
	e.returnLeases(ctx, batch)
}

// hold holds a destination that has refused its credentials. Of all nodes and
// calls that were refused together, one tells of it. Where this fails the next
// call is refused too, and holds it.
func (e *Engine) hold(ctx context.Context, to *directory.Destination, reason string) {
	if now := e.cfg.Directory.Current().Destination(to.ID); to.Deleted || now.Held != nil || now.Releases != to.Releases {
		return // by another, or these are not its credentials any more
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), holdTimeout)
	defer cancel()
	held, err := e.cfg.Directory.Hold(ctx, to, reason)
	if held {
		e.tellHeld(to, reason)
	}
	if err != nil {
		e.cfg.Log.Warn("a destination has refused its credentials, and could not be held or read again; the next call will",
			"project_id", to.ProjectID, "destination", to.Name, "error", err)
	}
}

// tellHeld alerts of a destination that is held now, once for each hold. What
// else is to be told of it, such as an event for those who subscribe to it,
// belongs here.
func (e *Engine) tellHeld(to *directory.Destination, reason string) {
	e.cfg.Log.Error("a destination is held, for it refuses its credentials: give it others, or resume it; until then its deliveries wait",
		"project_id", to.ProjectID, "destination", to.Name, "reason", reason)
}

// claimHeld claims deliveries of destinations whose hold is over, as many as
// their lanes have room for: a release of any length takes no long lock, and
// makes nothing due that cannot be sent soon. It returns how many it got of
// one destination at most.
func (e *Engine) claimHeld(ctx context.Context) (most int, err error) {
	for _, to := range e.cfg.Directory.Current().Releasing() {
		if !e.hasRoom(to.ID) {
			continue
		}
		freed, claimErr := e.cfg.Store.ClaimHeld(ctx, uuid.New(), to.ID, claimSize)
		if claimErr != nil {
			err = errors.Join(err, claimErr)
			continue
		}
		e.HandOver(freed)
		most = max(most, len(freed))
		if len(freed) == 0 {
			err = errors.Join(err, e.cfg.Directory.EndRelease(ctx, to))
		}
	}
	return most, err
}

// hasRoom reports whether a lane has room for what its destination held.
func (e *Engine) hasRoom(destinationID int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.lanes[destinationID]
	return e.queued < maxQueued/2 && (l == nil || !l.busy && len(l.queue) < releaseAhead)
}
