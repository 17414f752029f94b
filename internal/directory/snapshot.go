package directory

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// Snapshot is the configuration at one moment. It never changes.
type Snapshot struct {
	version      int64
	projects     map[string]*Project
	projectsByID map[int64]*Project
	keys         map[[32]byte]*relay.APIKey
	destinations map[int64]*Destination // deleted ones too
	sources      map[int64]*Source
	logos        map[string]Logo
	releasing    []*Destination // a few, and most of the time none
	certificates *provider.Certificates

	subscriptions map[uuid.UUID]*relay.Subscription
}

// Project is one tenant's part of a Snapshot.
type Project struct {
	relay.Project
	sources      map[string]*Source
	destinations map[string]*Destination
	flows        map[string]*Flow
	keys         []*relay.APIKey
	look         Look
	looks        map[string]Look // of flows that have their own

	subscriptions []*relay.Subscription
}

// Look is how pages look, with the name of its logo.
type Look struct {
	relay.Look
	LogoName string // under which Snapshot.Logo has the image; "": there is none
}

// Logo is an image, ready to be served.
type Logo struct {
	ContentType string
	Image       []byte
}

// Source is an inbound endpoint, compiled.
type Source struct {
	relay.Source
	Endpoint *provider.Endpoint // nil where Err says why
	Err      error
	URL      string // what to paste at the provider
	signed   string // what the provider signs: public_url, or URL
	path     string // of URL, without the address of this relay
}

// Destination is a platform account, ready to be called.
type Destination struct {
	relay.Destination
	Platform *platform.Platform // nil: this program does not know the platform
	account  platform.Account
	interval time.Duration
}

// Flow is a reusable wait, resolved and compiled. Err says why it cannot be
// used, where what it depends on was taken away.
type Flow struct {
	relay.Flow
	Resolved *Resolved
	Err      error
}

func newSnapshot(c *store.Configuration, cfg Config) *Snapshot {
	s := &Snapshot{
		version:      c.Version,
		projects:     map[string]*Project{},
		projectsByID: map[int64]*Project{},
		keys:         map[[32]byte]*relay.APIKey{},
		destinations: map[int64]*Destination{},
		sources:      map[int64]*Source{},
		certificates: cfg.Certificates,
		logos:        map[string]Logo{},

		subscriptions: map[uuid.UUID]*relay.Subscription{},
	}
	for _, p := range c.Projects {
		project := &Project{
			Project: p, sources: map[string]*Source{}, destinations: map[string]*Destination{}, flows: map[string]*Flow{},
			look: s.newLook(p.Look), looks: map[string]Look{},
		}
		s.projects[p.Name], s.projectsByID[p.ID] = project, project
	}
	for _, k := range c.Keys {
		s.keys[k.Hash] = &k
		if p := s.projectsByID[k.ProjectID]; p != nil {
			p.keys = append(p.keys, &k)
		}
	}
	for _, sub := range c.Subscriptions {
		if p := s.projectsByID[sub.ProjectID]; p != nil {
			p.subscriptions = append(p.subscriptions, &sub)
			s.subscriptions[sub.ID] = &sub
		}
	}
	for _, d := range c.Destinations {
		s.addDestination(d)
	}
	for _, src := range c.Sources {
		s.addSource(src, cfg.PublicURL)
	}
	for projectID, flows := range c.Flows {
		p := s.projectsByID[projectID]
		if p == nil {
			continue // of a deleted project
		}
		for _, f := range flows {
			flow := &Flow{Flow: f}
			flow.Resolved, flow.Err = s.Resolve(p, f)
			p.flows[f.Name] = flow
			if f.Look != nil {
				p.looks[f.Name] = s.newLook(f.Look.Over(p.Look))
			}
		}
	}
	return s
}

// newLook reads the logo of a look. Its name holds its hash: it never changes
// under it, and nobody finds one by guessing.
func (s *Snapshot) newLook(l relay.Look) Look {
	contentType, image, err := l.Image()
	if err != nil {
		return Look{Look: l} // it has none: a wrong one was refused
	}
	sum := sha256.Sum256(image)
	name := hex.EncodeToString(sum[:16])
	s.logos[name] = Logo{contentType, image}
	return Look{l, name}
}

// Logo returns the image of that name.
func (s *Snapshot) Logo(name string) (l Logo, ok bool) {
	l, ok = s.logos[name]
	return l, ok
}

// LookOf is how the pages of a flow's waits look; "" is no flow.
func (p *Project) LookOf(flow string) Look {
	if l, ok := p.looks[flow]; ok {
		return l
	}
	return p.look
}

func (s *Snapshot) addDestination(d relay.Destination) {
	out := &Destination{Destination: d, account: accountOf(d)}
	out.Platform, _ = platform.Lookup(d.Platform)
	if d.Rate != "" {
		out.interval, _ = relay.ParseRate(d.Rate) // it was checked when it was written
	}
	s.destinations[d.ID] = out
	if d.Releasing && d.Held == nil {
		s.releasing = append(s.releasing, out)
	}
	if p := s.projectsByID[d.ProjectID]; p != nil && !d.Deleted {
		p.destinations[d.Name] = out
	}
}

func accountOf(d relay.Destination) platform.Account {
	settings := map[string]string{}
	maps.Copy(settings, d.Settings)
	maps.Copy(settings, d.Secrets)
	return platform.Account{BaseURL: d.BaseURL, Settings: settings}
}

func (s *Snapshot) addSource(src relay.Source, publicURL string) {
	p := s.projectsByID[src.ProjectID]
	if p == nil {
		return
	}
	path := "/in/" + url.PathEscape(p.Name) + "/" + url.PathEscape(src.Name)
	out := &Source{Source: src, URL: publicURL + path, path: path}
	out.signed = cmp.Or(src.PublicURL, out.URL)
	if preset, err := PresetOf(src); err != nil {
		out.Err = err
	} else {
		out.Endpoint, out.Err = preset.Endpoint(settingsOf(src))
	}
	p.sources[src.Name], s.sources[src.ID] = out, out
}

// PresetOf returns the preset of a source, built in or inline.
func PresetOf(src relay.Source) (*provider.Preset, error) {
	if src.Provider == relay.InlineProvider {
		return provider.Parse(src.Preset)
	}
	preset, ok := provider.Lookup(src.Provider)
	if !ok {
		return nil, fmt.Errorf("%q is none of %s%s", src.Provider, strings.Join(providers(), ", "), relay.DidYouMean(src.Provider, providers()))
	}
	return preset, nil
}

// providers lists the presets that a source may name.
func providers() []string {
	return slices.DeleteFunc(provider.Names(), func(name string) bool {
		preset, _ := provider.Lookup(name)
		return preset.Internal
	})
}

func settingsOf(src relay.Source) provider.Settings {
	return provider.Settings{
		TokenField: src.TokenField,
		KeyField:   src.KeyField,
		Tolerance:  time.Duration(src.Tolerance),
		Username:   src.Settings["username"],
		Password:   src.Credentials["password"],
		WebhookIDs: src.WebhookIDs,
	}
}

// Project returns the project of that name, or nil.
func (s *Snapshot) Project(name string) *Project { return s.projects[name] }

// ProjectByID returns the project of that id, or nil.
func (s *Snapshot) ProjectByID(id int64) *Project { return s.projectsByID[id] }

// Projects lists all projects by name.
func (s *Snapshot) Projects() []*Project {
	return sortedBy(s.projects, func(p *Project) string { return p.Name })
}

// Destination returns the destination of that id, deleted or not, or nil.
func (s *Snapshot) Destination(id int64) *Destination { return s.destinations[id] }

// Releasing lists the destinations whose hold is over, and by which deliveries
// may still be held.
func (s *Snapshot) Releasing() []*Destination { return s.releasing }

// Subscription returns the subscription of that id, or nil.
func (s *Snapshot) Subscription(id uuid.UUID) *relay.Subscription { return s.subscriptions[id] }

// Subscriptions are all subscriptions by id, of all projects. The map is not
// to be changed.
func (s *Snapshot) Subscriptions() map[uuid.UUID]*relay.Subscription { return s.subscriptions }

// SourceByID returns the source of that id, or nil.
func (s *Snapshot) SourceByID(id int64) *Source { return s.sources[id] }

// Key returns the API key of that text, or nil. It is looked up by its hash:
// the time that takes tells nothing of the keys that exist.
func (s *Snapshot) Key(text string) *relay.APIKey { return s.keys[sha256.Sum256([]byte(text))] }

// Source returns the source of that name, or nil.
func (p *Project) Source(name string) *Source { return p.sources[name] }

// Sources lists the sources by name, the built-in one too.
func (p *Project) Sources() []*Source {
	return sortedBy(p.sources, func(s *Source) string { return s.Name })
}

// Destination returns the destination of that name, or nil.
func (p *Project) Destination(name string) *Destination { return p.destinations[name] }

// Destinations lists the destinations by name.
func (p *Project) Destinations() []*Destination {
	return sortedBy(p.destinations, func(d *Destination) string { return d.Name })
}

// Flow returns the flow of that name, or nil.
func (p *Project) Flow(name string) *Flow { return p.flows[name] }

// Flows lists the flows by name.
func (p *Project) Flows() []*Flow { return sortedBy(p.flows, func(f *Flow) string { return f.Name }) }

// Keys lists the project's API keys, oldest first.
func (p *Project) Keys() []*relay.APIKey { return p.keys }

// Subscriptions lists the project's subscriptions, oldest first.
func (p *Project) Subscriptions() []*relay.Subscription { return p.subscriptions }

// Names lists what the project has of a kind, by name.
func (p *Project) Names(kind Kind) []string {
	switch kind {
	case KindDestination:
		return slices.Sorted(maps.Keys(p.destinations))
	case KindSource:
		return slices.Sorted(maps.Keys(p.sources))
	default:
		return slices.Sorted(maps.Keys(p.flows))
	}
}

func sortedBy[V any](m map[string]V, name func(V) string) []V {
	out := make([]V, 0, len(m))
	for _, v := range m {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b V) int { return cmp.Compare(name(a), name(b)) })
	return out
}

// LiveSecrets returns the secrets that verify at a time, the current first,
// with their ids.
func (s *Source) LiveSecrets(now time.Time) (secrets []string, ids []uuid.UUID) {
	for _, secret := range s.Secrets {
		if secret.LiveAt(now) {
			secrets, ids = append(secrets, secret.Secret), append(ids, secret.ID)
		}
	}
	return secrets, ids
}

// AwaitsSecret reports whether callbacks cannot be verified yet.
func (s *Source) AwaitsSecret() bool {
	return s.Endpoint != nil && s.Endpoint.AwaitsKey(len(s.Secrets))
}

// Account is what the platform needs to be called.
func (d *Destination) Account() platform.Account { return d.account }

// Timeout bounds one attempt.
func (d *Destination) Timeout() time.Duration {
	return d.Destination.Timeout.Or(relay.DefaultTimeout)
}

// Concurrency bounds the attempts at the same time, per node.
func (d *Destination) Concurrency() int {
	return cmp.Or(d.MaxConcurrency, relay.DefaultConcurrency)
}

// Interval is the time from one call to the next that the rate allows, of all
// nodes together; 0 where there is no rate.
func (d *Destination) Interval() time.Duration { return d.interval }
