package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/templates"
)

// Document is what one project's configuration should be, as people write it.
type Document struct {
	Project string `json:"project"`
	ProjectFields
	Destinations []json.RawMessage `json:"destinations"`
	Sources      []json.RawMessage `json:"sources"`
	Flows        []json.RawMessage `json:"flows"`
}

// ProjectFields are those of a project itself. What is nil stays as it is.
type ProjectFields struct {
	Retention *relay.Retention `json:"retention"`
	Look      *relay.Look      `json:"look"`
}

// Options of Apply.
type Options struct {
	DryRun bool // report what would change, and change nothing
	Prune  bool // delete what the documents do not name, in their projects
}

// Kind is a sort of object.
type Kind string

// The kinds of object.
const (
	KindProject     Kind = "project"
	KindDestination Kind = "destination"
	KindSource      Kind = "source"
	KindFlow        Kind = "flow"
)

// Edit is one difference between what was and what was asked for.
type Edit struct {
	Verb    string // create, update, delete
	Kind    Kind
	Project string
	Name    string
	Fields  []string // that an update changes

	// DroppedSecrets are those that callbacks of a source can no longer be
	// signed with, since the document does not name them.
	DroppedSecrets []uuid.UUID
}

// ProjectPlace begins the place of a mistake in one of several documents; the
// project's name follows it.
const ProjectPlace = "project "

// Apply makes the configuration what the documents say, as one transaction,
// and returns what it changed. When anything in them is refused, nothing is
// changed.
func (d *Directory) Apply(ctx context.Context, docs []Document, o Options) (edits []Edit, err error) {
	err = d.change(ctx, func(e *editor) error {
		for _, doc := range docs {
			if err := e.apply(ctx, doc, o.Prune); err != nil && len(docs) > 1 {
				return relay.At(ProjectPlace+cmp.Or(doc.Project, relay.DefaultProject), err)
			} else if err != nil {
				return err
			}
		}
		edits = e.edits
		if o.DryRun {
			return store.ErrDryRun
		}
		return nil
	})
	return edits, err
}

// Put creates or replaces one object of an existing project.
func (d *Directory) Put(ctx context.Context, project string, kind Kind, raw json.RawMessage) error {
	doc := Document{Project: project}
	switch kind {
	case KindDestination:
		doc.Destinations = []json.RawMessage{raw}
	case KindSource:
		doc.Sources = []json.RawMessage{raw}
	case KindFlow:
		doc.Flows = []json.RawMessage{raw}
	case KindProject:
		return fmt.Errorf("a project is put by PutProject, not as a %s", kind)
	}
	_, err := d.Apply(ctx, []Document{doc}, Options{})
	return err
}

// Delete removes one object that nothing else depends on.
func (d *Directory) Delete(ctx context.Context, project string, kind Kind, name string) error {
	return d.change(ctx, func(e *editor) error {
		p := e.before.Project(project)
		if p == nil {
			return relay.Errorf(relay.NotFound, "not_found", "there is no project %q", project)
		}
		if err := e.remove(ctx, p, kind, name); err != nil {
			return err
		}
		if err := e.subscribe(ctx, p.Name); err != nil {
			return err
		}
		broken, err := e.broken(ctx, p.Name)
		if err != nil || len(broken) == 0 {
			return err
		}
		return relay.Errorf(relay.Conflict, "in_use", "the flow %q depends on it: change or delete the flow first", broken[0].Name)
	})
}

// PutProject creates a project, or changes the given fields of an existing
// one. Without a retention that stays as it is: what it has cleared does not
// come back.
func (d *Directory) PutProject(ctx context.Context, name string, fields ProjectFields) error {
	return d.change(ctx, func(e *editor) error {
		_, err := e.project(ctx, name, fields)
		return err
	})
}

// DeleteProject ends a project that has no pending waits.
func (d *Directory) DeleteProject(ctx context.Context, name string) error {
	if name == relay.DefaultProject {
		return relay.Errorf(relay.Conflict, "project_in_use", "the project %q always exists", name)
	}
	return d.change(ctx, func(e *editor) error {
		p := e.before.Project(name)
		if p == nil {
			return relay.Errorf(relay.NotFound, "not_found", "there is no project %q", name)
		}
		return e.c.DeleteProject(ctx, p.ID)
	})
}

// Change runs any other change of the configuration, and reads it back so
// that its author sees it at once.
func (d *Directory) Change(ctx context.Context, fn func(*store.Change) error) error {
	if err := d.cfg.Store.Configure(ctx, fn); err != nil {
		return err
	}
	return d.Load(ctx)
}

func (d *Directory) change(ctx context.Context, fn func(*editor) error) error {
	return d.Change(ctx, func(c *store.Change) error {
		return fn(&editor{c: c, cfg: d.cfg, before: newSnapshot(c.Before, d.cfg)})
	})
}

// editor carries one open change.
type editor struct {
	c      *store.Change
	cfg    Config
	before *Snapshot
	edits  []Edit
}

func (e *editor) apply(ctx context.Context, doc Document, prune bool) error {
	if doc.Project == "" {
		doc.Project = relay.DefaultProject
	}
	projectID, err := e.project(ctx, doc.Project, doc.ProjectFields)
	if err != nil {
		return err
	}
	before := e.before.Project(doc.Project)
	if before == nil {
		before = &Project{Project: relay.Project{ID: projectID, Name: doc.Project}}
	}
	var named [3][]string
	for i, raw := range doc.Destinations {
		name, err := e.putDestination(ctx, before, raw)
		if err != nil {
			return relay.At(place("destinations", i, raw), err)
		}
		named[0] = append(named[0], name)
	}
	for i, raw := range doc.Sources {
		name, err := e.putSource(ctx, before, raw)
		if err != nil {
			return relay.At(place("sources", i, raw), err)
		}
		named[1] = append(named[1], name)
	}
	if prune { // before the flows: they see what is left
		if err := e.prune(ctx, before, named); err != nil {
			return err
		}
	}
	if named[2], err = e.putFlows(ctx, before, doc.Flows); err != nil {
		return err
	}
	if err := uniqueNames(named); err != nil {
		return err
	}
	if prune {
		if err := e.pruneFlows(ctx, before, named[2]); err != nil {
			return err
		}
	}
	if err := e.subscribe(ctx, doc.Project); err != nil {
		return err
	}
	broken, err := e.broken(ctx, doc.Project)
	if err != nil || len(broken) == 0 {
		return err
	}
	return relay.Errorf(relay.Conflict, "in_use", "the flow %q would no longer work: %s", broken[0].Name, relay.DetailOf(broken[0].Err))
}

// place names an object of a list as far as it can be read.
func place(list string, i int, raw json.RawMessage) string {
	var object struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(raw, &object); err != nil || object.Name == "" {
		return fmt.Sprintf("%s[%d]", list, i)
	}
	return list + "." + object.Name
}

func uniqueNames(named [3][]string) error {
	for _, names := range named {
		seen := map[string]bool{}
		for _, name := range names {
			if seen[name] {
				return relay.Errorf(relay.Invalid, "duplicate_name", "the name %q stands there twice: names are unique within a project", name)
			}
			seen[name] = true
		}
	}
	return nil
}

func (e *editor) project(ctx context.Context, name string, fields ProjectFields) (id int64, err error) {
	if fields.Retention != nil {
		if err := fields.Retention.Check(); err != nil {
			return 0, relay.At("retention", err)
		}
	}
	if err := checkLook(fields.Look); err != nil {
		return 0, err
	}
	p := e.before.Project(name)
	if p == nil {
		p = &Project{Project: relay.Project{Name: name}}
		if p.ID, err = e.newProject(ctx, name); err != nil {
			return 0, err
		}
	}
	changed, err := e.putProjectFields(ctx, p, fields)
	if len(changed) > 0 && e.before.Project(name) != nil {
		e.note(KindProject, name, name, true, changed)
	}
	return p.ID, err
}

// putProjectFields writes what differs from what is there, and names it.
func (e *editor) putProjectFields(ctx context.Context, p *Project, fields ProjectFields) (changed []string, err error) {
	if fields.Look != nil && len(changedFields(p.Look, *fields.Look)) > 0 {
		changed, err = append(changed, "look"), e.c.SetLook(ctx, p.ID, *fields.Look)
	}
	if err == nil && fields.Retention != nil && *fields.Retention != p.Retention {
		changed, err = append(changed, "retention"), e.c.SetRetention(ctx, p.ID, *fields.Retention)
	}
	return changed, err
}

// checkLook holds a look against the pages that it is for.
func checkLook(l *relay.Look) error {
	if l == nil {
		return nil
	}
	texts, err := templates.TextKeys()
	if err != nil {
		return err
	}
	if err := l.Check(texts); err != nil {
		return relay.At("look", err)
	}
	return nil
}

func (e *editor) newProject(ctx context.Context, name string) (int64, error) {
	if err := checkName(name); err != nil {
		return 0, relay.At("project", err)
	}
	e.note(KindProject, name, name, false, nil)
	return e.c.PutProject(ctx, name)
}

// putFlows checks flows against the configuration as the change has made it.
func (e *editor) putFlows(ctx context.Context, p *Project, flows []json.RawMessage) (names []string, err error) {
	now, err := e.after(ctx)
	if err != nil {
		return nil, err
	}
	for i, raw := range flows {
		f, err := decodeFlow(raw)
		if err == nil {
			err = checkLook(f.Look)
		}
		if err == nil {
			_, err = now.Resolve(now.Project(p.Name), f)
		}
		if err != nil {
			return nil, relay.At(place("flows", i, raw), err)
		}
		names = append(names, f.Name)
		var old relay.Flow
		if before := p.flows[f.Name]; before != nil {
			old = before.Flow
			old.CreatedAt, old.UpdatedAt = f.CreatedAt, f.UpdatedAt
		}
		if e.note(KindFlow, p.Name, f.Name, p.flows[f.Name] != nil, changedFields(old, f)) {
			if err := e.c.PutFlow(ctx, p.ID, f); err != nil {
				return nil, err
			}
		}
	}
	return names, nil
}

// note records an edit and reports whether there is one.
func (e *editor) note(kind Kind, project, name string, existed bool, fields []string) bool {
	switch {
	case !existed:
		e.edits = append(e.edits, Edit{Verb: "create", Kind: kind, Project: project, Name: name})
	case len(fields) > 0:
		e.edits = append(e.edits, Edit{Verb: "update", Kind: kind, Project: project, Name: name, Fields: fields})
	default:
		return false
	}
	return true
}

// prune deletes the sources and destinations that the documents do not name.
func (e *editor) prune(ctx context.Context, p *Project, named [3][]string) error {
	for _, d := range p.Destinations() {
		if !slices.Contains(named[0], d.Name) {
			if err := e.remove(ctx, p, KindDestination, d.Name); err != nil {
				return err
			}
		}
	}
	for _, src := range p.Sources() {
		if src.Name != relay.FormSource && !slices.Contains(named[1], src.Name) {
			if err := e.remove(ctx, p, KindSource, src.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *editor) pruneFlows(ctx context.Context, p *Project, named []string) error {
	for _, f := range p.Flows() {
		if !slices.Contains(named, f.Name) {
			if err := e.remove(ctx, p, KindFlow, f.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *editor) remove(ctx context.Context, p *Project, kind Kind, name string) (err error) {
	missing := relay.Errorf(relay.NotFound, "not_found", "there is no %s %q in this project", kind, name)
	switch kind {
	case KindFlow:
		if p.flows[name] == nil {
			return missing
		}
		err = e.c.DeleteFlow(ctx, p.ID, name)
	case KindSource:
		if p.sources[name] == nil {
			return missing
		}
		if name == relay.FormSource {
			return relay.Errorf(relay.Conflict, "built_in", "the source %q is built in and always exists", name)
		}
		err = e.c.DeleteSource(ctx, p.sources[name].ID)
	case KindDestination:
		if p.destinations[name] == nil {
			return missing
		}
		err = e.c.DeleteDestination(ctx, p.destinations[name].ID)
	case KindProject:
		return fmt.Errorf("a project is deleted by DeleteProject, not as a %s", kind)
	}
	e.edits = append(e.edits, Edit{Verb: "delete", Kind: kind, Project: p.Name, Name: name})
	return err
}

// broken lists the flows from which the change would take what they need. A
// flow that did not work before is no reason to refuse a change: it could
// never be mended.
func (e *editor) broken(ctx context.Context, project string) (flows []*Flow, err error) {
	now, err := e.after(ctx)
	if err != nil {
		return nil, err
	}
	before := e.before.Project(project)
	for _, f := range now.Project(project).Flows() {
		if f.Err != nil && before != nil && before.flows[f.Name] != nil && before.flows[f.Name].Err == nil {
			flows = append(flows, f)
		}
	}
	return flows, nil
}

// after is the configuration as the change has made it so far.
func (e *editor) after(ctx context.Context) (*Snapshot, error) {
	c, err := e.c.Read(ctx)
	if err != nil {
		return nil, err
	}
	return newSnapshot(c, e.cfg), nil
}

// changedFields names the top-level fields in which two objects differ, as
// JSON writes them.
func changedFields(before, after any) []string {
	a, b := fieldsOf(before), fieldsOf(after)
	var out []string
	for name, value := range b {
		if string(a[name]) != string(value) {
			out = append(out, name)
		}
	}
	for name := range a {
		if _, still := b[name]; !still {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func fieldsOf(v any) (fields map[string]json.RawMessage) {
	raw, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(raw, &fields)
	}
	if err != nil {
		return nil // equal objects are equally unreadable
	}
	return fields
}
