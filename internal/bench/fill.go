package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store/fill"
)

// eventsPerWait is how many events a closed wait has: the one that closed it,
// and one that came after it.
const eventsPerWait = 2

// Fill makes the database of a relay that runs as full as years of use would:
// with pending waits, and with old events, their closed waits and deliveries.
// The relay makes one of each itself; the others are copies.
func Fill(ctx context.Context, t Target, p Plan, url string, waits, events int) error {
	if waits < 0 || events < 0 {
		return fmt.Errorf("a database cannot be filled with %d waits and %d events", waits, events)
	}
	b := newBench(t, p)
	if err := b.configure(ctx); err != nil {
		return err
	}
	pending, err := b.registerOne(ctx, map[string]any{"user_id": "p", "flow": "bench", "key": "order", "expires_in": "30d"})
	if err != nil {
		return err
	}
	closed, err := b.closeOne(ctx)
	if err != nil {
		return err
	}
	start, said := time.Now(), time.Now()
	f := fill.Filling{
		URL: url, Pending: waits, Closed: events / eventsPerWait, PendingLike: pending.ID, ClosedLike: closed.ID,
		Progress: func(made, of int) {
			if time.Since(said) > 10*time.Second || made == of {
				p.Say("filled in %d of %d waits, %s", made, of, time.Since(start).Round(time.Second))
				said = time.Now()
			}
		},
	}
	return fill.Run(ctx, f)
}

// registered is what is read of a wait that the API shows.
type registered struct {
	ID         uuid.UUID `json:"id"`
	Token      string    `json:"token"`
	Deliveries []struct {
		Status relay.DeliveryStatus `json:"status"`
	} `json:"deliveries"`
}

func (b *bench) registerOne(ctx context.Context, body map[string]any) (w registered, err error) {
	err = b.call(ctx, http.MethodPost, "correlations", body, &w)
	return w, err
}

// anotherEvent tells of the same payment under another event's id.
func anotherEvent(body []byte) []byte {
	another := bytes.Clone(body)
	at := bytes.Index(another, []byte("evt_1")) + len("evt_1")
	slices.Reverse(another[at : at+23])
	return another
}

// closeOne registers a wait, calls it back twice, and returns when it has been
// resumed.
func (b *bench) closeOne(ctx context.Context) (w registered, err error) {
	if w, err = b.registerOne(ctx, map[string]any{"user_id": "c", "flow": "bench"}); err != nil {
		return w, err
	}
	k, err := dial(b.t.Relay)
	if err != nil {
		return w, err
	}
	defer func() { _ = k.Close() }()
	first := k.event.write(b.c.run, 0, w.Token, b.c.size)
	for _, body := range [][]byte{bytes.Clone(first), anotherEvent(first)} {
		status, err := b.c.send(k, body)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("the relay answered %d", status)
		}
		if err != nil {
			return w, fmt.Errorf("calling a wait back: %w", err)
		}
	}
	for deadline := time.Now().Add(catchUp); time.Now().Before(deadline); pause(ctx, 10*time.Millisecond) {
		if err := b.call(ctx, http.MethodGet, "correlations/"+w.ID.String(), nil, &w); err != nil {
			return w, err
		}
		if len(w.Deliveries) > 0 && w.Deliveries[0].Status == relay.Delivered {
			return w, nil
		}
	}
	return w, fmt.Errorf("a wait that was called back was not resumed within %s: see what the relay logged", catchUp)
}
