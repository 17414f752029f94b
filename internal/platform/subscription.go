package platform

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"relay.example/relay/internal/relay"
)

// AddressKey is the parameter of a target that holds the key of its source,
// and AddressEvent the one that names the event.
const (
	AddressKey   = "key"
	AddressEvent = "event"
)

// Subscription is one that a source has at its platform, as it should be.
type Subscription struct {
	Event  string
	Target string   // where the platform is to send
	Former []string // keys that the source had before
	Wanted bool     // else it is to be gone
	ID     string   // of the one whose secret is known; "": of none
}

// Subscribed is what a subscription is known by once it is as it should be.
type Subscribed struct {
	ID     string
	Secret string // "": it was there, and its secret is known
}

// Target is the address at which a source is told of one event: it says which,
// since what a platform says of it may be of another subscription, and holds
// the source's key, since the secret may be known to others.
func Target(address, event, key string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address // it was made by us, or checked
	}
	query := u.Query()
	query.Set(AddressEvent, event)
	query.Set(AddressKey, key)
	u.RawQuery = query.Encode()
	return u.String()
}

// owns reports whether a target is one of ours: it holds the key of the same
// source, or one that it had before, which nobody else knows. Its address may be
// an older one.
func (s *Subscription) owns(target string) bool {
	key := keyIn(target)
	return key != "" && (key == keyIn(s.Target) || slices.Contains(s.Former, key))
}

func keyIn(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return ""
	}
	return u.Query().Get(AddressKey)
}

// Subscribes reports whether sources can be subscribed to events there.
func (p *Platform) Subscribes() bool { return p.subscribe != nil }

// CheckSubscription says whether an account can subscribe, and to these
// events. Its error names what is wrong and no value of a secret.
func (p *Platform) CheckSubscription(account Account, events []string) error {
	if p.subscribe == nil {
		return fmt.Errorf("%s takes no subscriptions", p.Name)
	}
	at, err := p.endpoint(account)
	if err != nil {
		return err
	}
	if len(events) == 0 || len(events) > relay.MaxSubscribed {
		return fmt.Errorf("name 1 to %d events", relay.MaxSubscribed)
	}
	for i, event := range events {
		if slices.Contains(events[:i], event) {
			return fmt.Errorf("the event %.40q stands there twice", event)
		}
		if err := p.checkEvent(event); err != nil {
			return err
		}
	}
	_, err = p.subscribe(at, Subscription{Event: events[0]})
	return err
}

// Place names the account at its server, without anything that is secret. A
// subscription belongs to a place.
func (p *Platform) Place(account Account) string {
	base := strings.TrimRight(p.Address(account), "/")
	return p.Name + " " + base + "/" + url.PathEscape(account.Settings["project_id"])
}

// Subscribe returns the first call of an exchange after which a subscription
// is as it should be, or it is known why not. It can be repeated at any point:
// what is there is looked at first.
func (p *Platform) Subscribe(account Account, s Subscription) (Step, error) {
	if p.subscribe == nil {
		return Step{}, errors.New("the platform takes no subscriptions")
	}
	at, err := p.endpoint(account)
	if err != nil {
		return Step{}, err
	}
	return p.subscribe(at, s)
}
