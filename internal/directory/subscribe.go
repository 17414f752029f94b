package directory

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// addressKey is the credential of a source that subscribes: a part of the
// address that it is called at, which it makes itself. Its platform's secret
// may be known to others.
const addressKey = "address_key"

// mintAddressKey gives a source that subscribes its key, once, and takes it
// from one that does not any more.
func mintAddressKey(src *relay.Source) {
	switch {
	case src.Subscribe == nil:
		delete(src.Credentials, addressKey)
	case src.Credentials[addressKey] == "":
		src.Credentials[addressKey] = rand.Text()
	}
}

// givenCredentials are those that people give.
func givenCredentials(src relay.Source) map[string]string {
	given := maps.Clone(src.Credentials)
	delete(given, addressKey)
	return given
}

// AddressKey is the parameter of the URL that holds the key of a source that
// subscribes, and is to be kept nowhere; "" of the others.
func (s *Source) AddressKey() string {
	if s.Credentials[addressKey] == "" {
		return ""
	}
	return platform.AddressKey
}

// Addressed reports whether a callback came by the right address for the
// secret that proves it: one that a platform gave with a subscription may be
// known to others there, and counts only with the source's own key. One that
// people have given, be it the same, counts at any address for as long as it is
// good.
func (s *Source) Addressed(secretID uuid.UUID, query url.Values, now time.Time) bool {
	i := slices.IndexFunc(s.Secrets, func(secret relay.SourceSecret) bool { return secret.ID == secretID })
	if i < 0 || slices.ContainsFunc(s.Secrets, func(x relay.SourceSecret) bool {
		return !x.Subscribed && x.Secret == s.Secrets[i].Secret && x.LiveAt(now)
	}) {
		return true
	}
	key := s.Credentials[addressKey]
	return key != "" && subtle.ConstantTimeCompare([]byte(query.Get(platform.AddressKey)), []byte(key)) == 1
}

// subscribe makes the remote subscriptions of a project what its sources, as
// the change has made them so far, ask for.
func (e *editor) subscribe(ctx context.Context, project string) error {
	if !e.touchesSubscriptions(project) {
		return nil
	}
	now, err := e.after(ctx)
	if err != nil {
		return err
	}
	err = wantRemotes(ctx, e.c, now.Project(project))
	if relay.IsKind(err, relay.Invalid) && !e.puts(KindSource) {
		return relay.Errorf(relay.Conflict, "in_use", "a source would no longer be subscribed: %s", relay.DetailOf(err))
	}
	return err
}

// puts reports whether the change makes or changes something of a kind.
func (e *editor) puts(kind Kind) bool {
	return slices.ContainsFunc(e.edits, func(edit Edit) bool { return edit.Kind == kind && edit.Verb != "delete" })
}

// touchesSubscriptions reports whether the change may be about one: nearly no
// change is.
func (e *editor) touchesSubscriptions(project string) bool {
	return slices.ContainsFunc(e.edits, func(edit Edit) bool {
		return edit.Project == project && (edit.Kind == KindSource || edit.Kind == KindDestination)
	})
}

func wantRemotes(ctx context.Context, c *store.Change, p *Project) error {
	wanted, err := p.remotes()
	if err != nil {
		return err
	}
	accounts := store.RemoteAccounts{}
	for _, d := range p.destinations {
		if d.Platform != nil && d.Platform.Subscribes() {
			accounts[store.RemoteKey{DestinationID: d.ID, Place: d.Platform.Place(d.account)}] = d.remoteAccount()
		}
	}
	return c.WantRemotes(ctx, p.ID, wanted, accounts)
}

// remotes lists the subscriptions that the sources of a project ask for.
func (p *Project) remotes() (wanted []relay.RemoteSubscription, err error) {
	for _, src := range p.Sources() {
		if src.Subscribe == nil {
			continue
		}
		d, err := p.subscriber(src)
		if err != nil {
			return nil, relay.At("sources."+src.Name, err)
		}
		for _, event := range src.Subscribe.Events {
			wanted = append(wanted, relay.RemoteSubscription{
				ProjectID: p.ID, SourceID: src.ID, DestinationID: d.ID, Place: d.Platform.Place(d.account), Event: event,
				Account: d.remoteAccount(), Address: cmp.Or(src.PublicURL, src.path), Key: src.Credentials[addressKey], Wanted: true,
			})
		}
	}
	return wanted, nil
}

// subscriber returns the destination by whose account a source subscribes.
func (p *Project) subscriber(src *Source) (*Destination, error) {
	if src.Provider != subscribing {
		return nil, relay.Errorf(relay.Invalid, "subscribe_unused",
			"subscribe: hooks of a subscription are read by provider: %s: leave it out, or change the provider", subscribing)
	}
	d := p.destinations[src.Subscribe.Destination]
	switch {
	case d == nil:
		return nil, relay.Errorf(relay.Invalid, "unknown_destination",
			"subscribe.destination: this project has no destination %q: name one of the platform %s%s", src.Subscribe.Destination, subscribing,
			relay.DidYouMean(src.Subscribe.Destination, p.Names(KindDestination)))
	case d.Platform == nil || !d.Platform.Subscribes():
		return nil, relay.Errorf(relay.Invalid, "subscribe_impossible",
			"subscribe.destination: at %s nothing can be subscribed to: name a destination of the platform %s", d.Destination.Platform, subscribing)
	}
	if err := d.Platform.CheckSubscription(d.account, src.Subscribe.Events); err != nil {
		return nil, relay.Errorf(relay.Invalid, "subscribe_impossible", "subscribe: %s: %v", d.Name, err)
	}
	return d, nil
}

// subscribing is the provider, and the platform, of sources that subscribe.
const subscribing = "smartify"

func (d *Destination) remoteAccount() relay.RemoteAccount {
	return relay.RemoteAccount{Platform: d.Platform.Name, BaseURL: d.BaseURL, Settings: d.account.Settings}
}
