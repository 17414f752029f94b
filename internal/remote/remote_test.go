package remote_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/sandbox"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// TestSubscribes makes, keeps and ends subscriptions as the configuration asks
// for them.
func TestSubscribes(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	others := s.box.Subscribe("message.create", "https://another.example/hook")
	theirs := "message.create " + others.Target
	n.subscribed(t, "message.create", "request.close")
	s.wantRow(t, "message.create wanted 0, request.close wanted 0")
	n.put(t, directory.KindFlow, object{"name": "address", "destination": "bot", "source": "chat", "on": object{"default": object{"text": "Thanks"}}})
	if got := n.warnings(t); !strings.Contains(got, "not subscribed") {
		t.Errorf("before the subscription the flow warns of %q", got)
	}
	n.keep(t, 2)
	if got := n.warnings(t); got != "" {
		t.Errorf("with it the flow warns of %q, want nothing", got)
	}
	s.wantTargets(t, theirs, "message.create "+target+"message.create", "request.close "+target+"request.close")
	s.wantRow(t, "message.create wanted known 0, request.close wanted known 0")
	if src := n.source(t); len(src.Secrets) != 1 || src.Secrets[0].Secret != others.Secret || src.AwaitsSecret() {
		t.Errorf("the source has the secrets %+v, want the one that all share, once", src.Secrets)
	}

	// What is as it should be is looked at, and left alone.
	before := s.box.SmartifySubscriptions()
	s.due(t)
	n.keep(t, 2)
	n.keep(t, 0)
	if got := s.box.SmartifySubscriptions(); !slices.Equal(got, before) {
		t.Errorf("after a look: got %+v, want %+v", got, before)
	}

	// An event less, and then another account that is let in.
	n.put(t, directory.KindSource, chat("message.create"))
	n.keep(t, 1)
	s.wantTargets(t, theirs, "message.create "+target+"message.create")
	n.put(t, directory.KindSource, chat("message.create"))
	n.keep(t, 0) // nothing has changed

	check(t, n.directory.Delete(t.Context(), "default", directory.KindFlow, "address"))
	check(t, n.directory.Delete(t.Context(), "default", directory.KindSource, "chat"))
	s.wantRow(t, "message.create unwanted known 0")
	n.keep(t, 1)
	s.wantTargets(t, theirs)
	s.wantRow(t, "")
}

// TestTwoNodes has nodes work side by side: one subscription is made.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	nodes := []*node{s.node(t), s.node(t), s.node(t)}
	if err := s.box.Switch(sandbox.Smartify, sandbox.Switches{Latency: relay.Delay(50e6)}); err != nil {
		t.Fatal(err)
	}
	nodes[0].subscribed(t, "message.create")
	var g errgroup.Group
	taken := make([]int, len(nodes))
	for i, n := range nodes {
		g.Go(func() (err error) {
			taken[i], err = n.KeepOnce(t.Context())
			return err
		})
	}
	check(t, g.Wait())
	if got := taken[0] + taken[1] + taken[2]; got != 1 {
		t.Errorf("the row was taken %d times, want once", got)
	}
	s.wantTargets(t, "message.create "+target+"message.create")
	for i, n := range nodes {
		if got := len(n.source(t).Secrets); got != 1 {
			t.Errorf("node %d knows %d secrets, want 1", i, got)
		}
	}
}

// TestCrash loses the answer to a subscription, and what was learned of it.
// The next look finds it by its address and makes another, whose secret it
// knows; the others' stay.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		crash func(t *testing.T, s *shop, n *node)
		first string // the row after it
	}{
		{"no answer", func(t *testing.T, s *shop, n *node) {
			s.loseAnswer(t)
			n.keep(t, 1)
		}, "message.create wanted 1 create: reset"},
		{"the node dies before it has written", func(t *testing.T, s *shop, n *node) {
			n.keep(t, 1)
			storetest.Exec(t, s.url, `UPDATE remote_subscriptions SET remote_id = NULL, secret_id = NULL`)
			storetest.Exec(t, s.url, `DELETE FROM source_secrets`)
		}, "message.create wanted 0"},
		{"somebody deletes the secret", func(t *testing.T, s *shop, n *node) {
			n.keep(t, 1)
			src := n.source(t)
			check(t, n.directory.Change(t.Context(), func(c *store.Change) error {
				return c.DeleteSecret(t.Context(), src.ID, src.Secrets[0].ID)
			}))
			if due := storetest.Query[int](t, s.url, `SELECT count(*) FROM remote_subscriptions WHERE due_at <= now()`); due != 1 {
				t.Errorf("%d subscriptions are due, want that of the secret", due)
			}
		}, "message.create wanted 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			n := s.node(t)
			theirs := s.box.Subscribe("message.create", "https://another.example/hook")
			n.subscribed(t, "message.create")
			tt.crash(t, s, n)
			s.wantRow(t, tt.first)
			s.wantTargets(t, "message.create "+theirs.Target, "message.create "+target+"message.create")
			lost := s.box.SmartifySubscriptions()[1]
			s.due(t)
			n.keep(t, 1)
			s.wantTargets(t, "message.create "+theirs.Target, "message.create "+target+"message.create")
			s.wantRow(t, "message.create wanted known 0")
			if now := s.box.SmartifySubscriptions()[1]; now.ID == lost.ID || len(n.source(t).Secrets) != 1 {
				t.Errorf("got %s with %d secrets, want another than %s and its secret", now.ID, len(n.source(t).Secrets), lost.ID)
			}
		})
	}
}

// TestTheSourceIsGone deletes the source while its subscription may be there,
// unknown to anybody, and the destination with it.
func TestTheSourceIsGone(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	n.subscribed(t, "message.create")
	s.loseAnswer(t)
	n.keep(t, 1)
	check(t, n.directory.Delete(t.Context(), "default", directory.KindSource, "chat"))
	check(t, n.directory.Delete(t.Context(), "default", directory.KindDestination, "bot"))
	s.wantTargets(t, "message.create "+target+"message.create")
	n.keep(t, 1)
	s.wantTargets(t)
	s.wantRow(t, "")

	// A project takes all of it along.
	n.subscribed(t, "message.create")
	n.keep(t, 1)
	storetest.Exec(t, s.url, `UPDATE projects SET name = 'shop-b' WHERE name = 'default'`)
	check(t, n.directory.Load(t.Context()))
	check(t, n.directory.DeleteProject(t.Context(), "shop-b"))
	n.keep(t, 1)
	s.wantTargets(t)
}

// TestStaleLease has a node come back after its lease was taken from it: it
// writes nothing, and what it has made is found by the other.
func TestStaleLease(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n, other := s.node(t), s.node(t)
	n.subscribed(t, "message.create")
	s.onMade(func() {
		storetest.Exec(t, s.url, `UPDATE remote_subscriptions SET leased_until = now() - interval '1 second'`)
		s.onMade(nil)
		other.keep(t, 1)
	})
	n.keep(t, 1)
	s.wantTargets(t, "message.create "+target+"message.create")
	s.wantRow(t, "message.create wanted known 0")
	id := storetest.Query[string](t, s.url, `SELECT remote_id FROM remote_subscriptions`)
	if there := s.box.SmartifySubscriptions()[0].ID; there != id {
		t.Errorf("the row knows %s, want %s, which is there", id, there)
	}
}

// TestChangedMeanwhile changes what is wanted while a node is at it.
func TestChangedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n, other := s.node(t), s.node(t)
	n.subscribed(t, "message.create")
	s.onMade(func() {
		s.onMade(nil)
		other.put(t, directory.KindSource, chat("request.close"))
		other.keep(t, 1) // the one that the node is at stays its own
	})
	n.keep(t, 1)
	s.wantRow(t, "message.create unwanted known 0, request.close wanted known 0")
	n.keep(t, 1)
	s.wantTargets(t, "request.close "+target+"request.close")
}

// TestElsewhere moves the destination to another project, and the relay to
// another address.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	n.subscribed(t, "message.create")
	n.keep(t, 1)

	moved := s.nodeAt(t, "https://moved.example")
	check(t, moved.store.LookAtRemotes(t.Context())) // as at its start
	moved.keep(t, 1)
	s.wantTargets(t, "message.create https://moved.example/in/default/chat?event=message.create")

	// The account before is known still, and let in.
	moved.put(t, directory.KindDestination, s.bot(object{"project_id": "aaaaaaaaaaaaaaaaaaaaaaaa"}))
	moved.keep(t, 2)
	s.wantTargets(t)
	s.wantRow(t, "message.create wanted 1 list: bad_request")
}

// TestCredentials changes what lets us in: what failed is tried at once, also
// to end what nobody wants any more.
func TestCredentials(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	n.put(t, directory.KindDestination, s.bot(object{"password": "wrong"}))
	n.put(t, directory.KindSource, chat("message.create"))
	n.keep(t, 1)
	s.wantRow(t, "message.create wanted 1 list: bad_credentials")
	n.keep(t, 0) // not at once again
	if b, err := n.store.Backlog(t.Context()); err != nil || b.RemotesFailing != 1 {
		t.Errorf("the backlog tells of %d that fail (%v), want 1", b.RemotesFailing, err)
	}
	s.wantLastError(t, relay.SubscriptionFailed)
	n.put(t, directory.KindDestination, s.bot(nil))
	n.keep(t, 1)
	s.wantRow(t, "message.create wanted known 0")
	s.wantLastError(t, "")

	n.put(t, directory.KindDestination, s.bot(object{"password": "wrong"}))
	check(t, n.directory.Delete(t.Context(), "default", directory.KindSource, "chat"))
	n.keep(t, 1)
	s.wantRow(t, "message.create unwanted known 1 list: bad_credentials")
	n.put(t, directory.KindDestination, s.bot(nil))
	n.keep(t, 1)
	s.wantRow(t, "")
	s.wantTargets(t)
}

// TestMended mends the subscriptions of a source one by one: the source says
// that one fails until none does, and keeps what else was wrong with it.
func TestMended(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	n.subscribed(t, "message.create", "request.close")
	n.keep(t, 2)
	refuse := func(times int64) {
		var faults []sandbox.Fault // none: it is mended
		if times > 0 {
			faults = []sandbox.Fault{{Answer: "server_error", Times: times, Match: sandbox.Match{Path: "/subscriptions", Method: "GET"}}}
		}
		check(t, s.box.Switch(sandbox.Smartify, sandbox.Switches{Faults: faults}))
		s.due(t)
		n.keep(t, 2)
	}
	refuse(2)
	s.wantLastError(t, relay.SubscriptionFailed)
	refuse(1)
	s.wantLastError(t, relay.SubscriptionFailed)
	refuse(0)
	s.wantLastError(t, "")
	storetest.Exec(t, s.url, `UPDATE source_activity SET last_error = 'bad_signature', last_error_at = now()`)
	refuse(0)
	s.wantLastError(t, "bad_signature")
}

// TestGivesUp stops to end what nobody wants after a week, and nothing sooner.
func TestGivesUp(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	n.subscribed(t, "message.create")
	n.keep(t, 1)
	check(t, n.directory.Delete(t.Context(), "default", directory.KindSource, "chat"))
	check(t, s.box.Switch(sandbox.Smartify, sandbox.Switches{Faults: []sandbox.Fault{{Answer: "server_error"}}}))
	n.keep(t, 1)
	s.wantRow(t, "message.create unwanted known 1 list: platform_failed")
	storetest.Exec(t, s.url, `UPDATE remote_subscriptions SET unwanted_at = now() - interval '7 days 1 second'`)
	s.due(t)
	n.keep(t, 1)
	s.wantRow(t, "")
	if !strings.Contains(s.log.String(), "delete it at the platform by hand") {
		t.Error("nobody is told that the subscription stays")
	}
}

// TestNewSecret restarts the server, and has somebody delete the subscription:
// the next one has another secret, and the one before holds for a while.
func TestNewSecret(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	n.subscribed(t, "message.create")
	n.keep(t, 1)
	s.box.RestartSmartify()
	s.box.Unsubscribe(s.box.SmartifySubscriptions()[0].ID)
	s.due(t)
	n.keep(t, 1)
	src := n.source(t)
	if len(src.Secrets) != 2 || src.Secrets[0].ExpiresAt != nil || src.Secrets[1].ExpiresAt == nil ||
		src.Secrets[0].Secret != s.box.SmartifySubscriptions()[0].Secret {
		t.Errorf("got the secrets %+v, want the new one, and the old one for a while", src.Secrets)
	}

	// Secrets that people set are theirs, these are not.
	given := chat("message.create")
	given["secret"] = "given by hand"
	n.put(t, directory.KindSource, given)
	if got := len(n.source(t).Secrets); got != 3 {
		t.Errorf("with one by hand there are %d secrets, want 3", got)
	}
	hand := n.source(t).Secrets[slices.IndexFunc(n.source(t).Secrets, func(x relay.SourceSecret) bool { return !x.Subscribed })]
	check(t, n.directory.Change(t.Context(), func(c *store.Change) error {
		return c.ExpireOtherSecrets(t.Context(), src.ID, hand.ID, 0)
	}))
	if now := n.source(t).Secrets; !slices.ContainsFunc(now, func(x relay.SourceSecret) bool { return x.Subscribed && x.ExpiresAt == nil }) {
		t.Errorf("after a rotation there are %+v, want that of the subscription among them", now)
	}
	given["secret"] = "another by hand"
	n.put(t, directory.KindSource, given)
	if got := len(n.source(t).Secrets); got != 3 {
		t.Errorf("with another in its place there are %d secrets, want 3", got)
	}
}

// TestAddressed holds that a secret which others may know counts only at the
// source's own address.
func TestAddressed(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	n.subscribed(t, "message.create")
	n.keep(t, 1)
	given := chat("message.create")
	given["secret"] = "given by hand"
	n.put(t, directory.KindSource, given)
	src := n.source(t)
	key := keyOf(s.box.SmartifySubscriptions()[0].Target)
	for _, secret := range src.Secrets {
		for _, tt := range []struct {
			key  string
			want bool
		}{{key, true}, {"", !secret.Subscribed}, {key + "x", !secret.Subscribed}} {
			if got := src.Addressed(secret.ID, url.Values{"key": {tt.key}}, time.Now()); got != tt.want {
				t.Errorf("subscribed %t, with the key %q: got %t, want %t", secret.Subscribed, tt.key, got, tt.want)
			}
		}
	}
}

// TestSecretOfBoth has people give a source the secret that its subscription has
// too, before or after it came with that. Each goes its own way: theirs counts
// without a key and can be rotated, that of the subscription stays as it is.
func TestSecretOfBoth(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{true, false} {
		t.Run(map[bool]string{true: "given before", false: "given after"}[before], func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			n := s.node(t)
			given := chat("message.create")
			shared := s.box.Subscribe("request.close", "https://another.example/hook").Secret
			given["secret"] = shared
			n.put(t, directory.KindDestination, s.bot(nil))
			if before {
				n.put(t, directory.KindSource, given)
				n.keep(t, 1)
			} else {
				n.subscribed(t, "message.create")
				n.keep(t, 1)
				n.put(t, directory.KindSource, given)
			}
			s.wantRow(t, "message.create wanted known 0")
			addressed := func(want string) {
				t.Helper()
				src, got := n.source(t), []string{}
				secrets, ids := src.LiveSecrets(time.Now())
				used := slices.Index(secrets, shared) // the first that fits proves a callback
				for _, key := range []string{"", keyOf(s.box.SmartifySubscriptions()[1].Target)} {
					if used >= 0 && src.Addressed(ids[used], url.Values{"key": {key}}, time.Now()) {
						got = append(got, map[bool]string{true: "without", false: "with"}[key == ""])
					}
				}
				if got := strings.Join(got, " "); got != want {
					t.Errorf("it counts %q the key, want %q", got, want)
				}
			}
			addressed("without with")
			src := n.source(t)
			check(t, n.directory.Change(t.Context(), func(c *store.Change) error {
				id, err := c.PutSecret(t.Context(), src.ProjectID, src.ID, "another by hand")
				if err != nil {
					return err
				}
				return c.ExpireOtherSecrets(t.Context(), src.ID, id, 0)
			}))
			addressed("with")
			s.due(t)
			n.keep(t, 1)
			addressed("with")
			s.wantRow(t, "message.create wanted known 0")
		})
	}
}

// TestTakenUpAgain has a source give up its subscription and take it up again
// while the platform is away: that of before, by another key, is ended too.
func TestTakenUpAgain(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	n.subscribed(t, "message.create")
	n.keep(t, 1)
	old := s.box.SmartifySubscriptions()[0]
	check(t, s.box.Switch(sandbox.Smartify, sandbox.Switches{Faults: []sandbox.Fault{{Answer: "server_error", Times: 1}}}))
	n.put(t, directory.KindSource, chat())
	n.keep(t, 1)
	n.put(t, directory.KindSource, chat("message.create"))
	n.keep(t, 1)
	s.wantTargets(t, "message.create "+target+"message.create")
	if now := s.box.SmartifySubscriptions()[0]; keyOf(now.Target) == keyOf(old.Target) || keyOf(now.Target) != n.source(t).Credentials["address_key"] {
		t.Error("the subscription that is there has the key of before, want the source's own")
	}
	n.put(t, directory.KindSource, chat("message.create"))
	n.keep(t, 0) // nothing has changed
}

// TestSlowProjectDelaysNobody has a project with a slow platform be due with
// all it may have: another's subscription is made by the next pass.
func TestSlowProjectDelaysNobody(t *testing.T) {
	t.Parallel()
	s, quick := newShop(t), newShop(t)
	n := s.node(t)
	check(t, s.box.Switch(sandbox.Smartify, sandbox.Switches{Latency: relay.Delay(1600 * time.Millisecond)}))
	var events []string
	for i := range relay.MaxSubscribed {
		events = append(events, fmt.Sprint("event.emit.", i))
	}
	n.subscribed(t, events...)
	check(t, n.directory.PutProject(t.Context(), "shop-b", directory.ProjectFields{}))
	for _, of := range []struct {
		kind directory.Kind
		is   object
	}{{directory.KindDestination, quick.bot(nil)}, {directory.KindSource, chat("message.create")}} {
		raw, err := json.Marshal(of.is)
		check(t, err)
		check(t, n.directory.Put(t.Context(), "shop-b", of.kind, raw))
	}
	n.keep(t, 8)
	n.keepOn(t, 1)
	quick.wantTargets(t, "message.create https://relay.example/in/shop-b/chat?event=message.create")
}

// TestShutdown ends the call that is under way, gives the lease back, and
// holds nothing against the platform.
func TestShutdown(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	n.subscribed(t, "message.create")
	ctx, stop := context.WithCancelCause(t.Context())
	s.onMade(func() { stop(errors.New("shutdown")) })
	if _, err := n.KeepOnce(ctx); err != nil {
		t.Fatal(err)
	}
	s.onMade(nil)
	s.wantRow(t, "message.create wanted 0")
	n.keep(t, 1)
	s.wantRow(t, "message.create wanted known 0")
	s.wantTargets(t, "message.create "+target+"message.create")
}

// TestRefused refuses what could never be.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	n := s.node(t)
	n.put(t, directory.KindDestination, s.bot(nil))
	n.put(t, directory.KindDestination, object{"name": "guest", "platform": "smartify", "base_url": s.base, "project_id": sandbox.SmartifyProject})
	n.put(t, directory.KindDestination, object{"name": "hook", "platform": "webhook", "url": s.base})
	with := func(subscribe, more object) object {
		out := object{"name": "chat", "provider": "smartify", "subscribe": subscribe}
		for name, value := range more {
			out[name] = value
		}
		return out
	}
	good := list("message.create")
	for _, tt := range []struct {
		name   string
		source object
		code   string
		says   string
	}{
		{"no destination", with(object{"events": good}, nil), "unknown_destination", "subscribe.destination"},
		{"another's destination", with(object{"destination": "nobody", "events": good}, nil), "unknown_destination", "nobody"},
		{"a guest", with(object{"destination": "guest", "events": good}, nil), "subscribe_impossible", "username and password"},
		{"another platform", with(object{"destination": "hook", "events": good}, nil), "subscribe_impossible", "webhook"},
		{"another provider", with(object{"destination": "bot", "events": good}, object{"provider": "generic-hmac"}), "subscribe_unused", "provider"},
		{"no events", with(object{"destination": "bot"}, nil), "subscribe_impossible", "1 to 16 events"},
		{"twice", with(object{"destination": "bot", "events": list("message.create", "message.create")}, nil), "subscribe_impossible", "twice"},
		{"misspelt", with(object{"destination": "bot", "events": list("message.created")}, nil), "subscribe_impossible", "is no event"},
		{"of older pages", with(object{"destination": "bot", "events": list("faqBot.create")}, nil), "subscribe_impossible", "faqbot.create"},
		{"one that is answered", with(object{"destination": "bot", "events": list("operator.select")}, nil), "subscribe_impossible", "answer"},
	} {
		var refused *relay.Error
		err := n.tryPut(t, directory.KindSource, tt.source)
		if !errors.As(err, &refused) || refused.Code != tt.code || !strings.Contains(refused.Detail, tt.says) {
			t.Errorf("%s: got %v, want %s that says %q", tt.name, err, tt.code, tt.says)
		}
	}
	n.put(t, directory.KindSource, chat("message.create", "event.emit.paid", "message.create.request.channel.web"))
	var refused *relay.Error
	if err := n.directory.Delete(t.Context(), "default", directory.KindDestination, "bot"); !errors.As(err, &refused) || refused.Code != "in_use" {
		t.Errorf("deleting its destination: got %v, want in_use", err)
	}
	if err := n.tryPut(t, directory.KindDestination, s.bot(object{"username": "", "password": nil})); !errors.As(err, &refused) || refused.Code != "in_use" {
		t.Errorf("taking its credentials away: got %v, want in_use", err)
	}
}

func list(names ...string) []string { return names }
