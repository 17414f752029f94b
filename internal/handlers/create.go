package handlers

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/checkout"
	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// create makes what a wait is paid by, before there is the wait: where that
// fails there is none. It returns the wait that is there already by the same
// Idempotency-Key. A repeated request, also one that follows a request nobody
// knows the end of, is one order to the provider, because the key is bound to
// the wait's id first.
func (h *Handlers) create(ctx context.Context, reg *store.Registration, by *directory.Resolved) (there *relay.Wait, err error) {
	if h.cfg.Checkouts == nil {
		return nil, notCreated("this node makes nothing at providers: ask another")
	}
	if there, err = h.cfg.Store.Reserve(ctx, reg); err != nil || there != nil {
		return there, err
	}
	src, w := by.Creator, &reg.Wait
	if reg.IdempotencyKey != uuid.Nil {
		w.Token = relay.RepeatedToken(src.APIKey(), w.ID)
	}
	order := checkout.Order{
		Token: w.Token, TokenField: src.TokenField, Key: "relay-" + w.ID.String(), ReturnURL: h.cfg.PublicURL + "/return/" + w.Token,
		Made: relay.MadeAt(w.ID), ExpiresIn: reg.ExpiresIn, API: src.API(), APIKey: src.APIKey(),
	}
	asked := *w
	asked.Status = relay.Pending
	order.Kind, order.Parameters = by.Compiled.Creation(plan.ScopeOf(&asked, "", nil, nil, relay.FormatJSON, nil))
	made, err := h.cfg.Checkouts.Make(ctx, order)
	if err != nil {
		return nil, h.explainCreate(ctx, reg, src, err)
	}
	reg.Checkout = &store.Checkout{SourceID: src.ID, Object: made.ID, URL: made.URL, Reference: order.Kind == relay.CreateSession}
	return nil, nil //nolint:nilnil // it is to be registered
}

// explainCreate makes an answer of what the provider says. Where that is known
// to have made nothing, the key is free for another try.
func (h *Handlers) explainCreate(ctx context.Context, reg *store.Registration, src *directory.Source, err error) error {
	var why *checkout.Error
	if !errors.As(err, &why) {
		return err
	}
	if why.Reason == checkout.KeyRefused {
		h.activity.failure(src, time.Now(), "api_key_refused")
	}
	if why.Answered {
		if err := h.cfg.Store.Release(ctx, reg); err != nil {
			h.cfg.Log.Debug("a reserved wait is not given up yet", "error", err)
		}
	}
	h.uncreated.Do(func() {
		h.cfg.Log.Warn("waits are not registered: what they are paid by was not made", "project_id", src.ProjectID, "source", src.Name, "reason", why.Reason)
	})
	return notCreated(why.Detail)
}

// notCreated refuses a registration because of its provider.
func notCreated(detail string) error {
	return &statusError{http.StatusBadGateway, relay.Errorf(relay.Busy, "create_failed", "nothing was made to pay by, and no wait: %s", detail)}
}
