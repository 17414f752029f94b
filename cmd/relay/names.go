package main

import (
	"context"
	"log/slog"

	"relay.example/relay/internal/directory"
)

// named is a handler of log lines that writes projects and sources by their
// names, as everybody else calls them: most of the program knows their ids
// alone, and need not know a configuration for the sake of its log. What is
// deleted keeps its id.
type named struct {
	slog.Handler
	configuration func() *directory.Snapshot
}

// nameIn returns a log whose lines name what is in the configuration.
func nameIn(configuration func() *directory.Snapshot, log *slog.Logger) *slog.Logger {
	return slog.New(named{log.Handler(), configuration})
}

// Handle writes one line.
func (n named) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(n.name(a))
		return true
	})
	return n.Handler.Handle(ctx, out)
}

// WithAttrs returns a handler whose lines all have some attributes, with the
// names of now.
func (n named) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		out[i] = n.name(a)
	}
	return named{n.Handler.WithAttrs(out), n.configuration}
}

// WithGroup returns a handler whose lines have their attributes in a group.
func (n named) WithGroup(name string) slog.Handler {
	return named{n.Handler.WithGroup(name), n.configuration}
}

func (n named) name(a slog.Attr) slog.Attr {
	if a.Value.Kind() != slog.KindInt64 {
		return a
	}
	switch id := a.Value.Int64(); a.Key {
	case "project_id":
		if p := n.configuration().ProjectByID(id); p != nil {
			return slog.String("project", p.Name)
		}
	case "source_id":
		if s := n.configuration().SourceByID(id); s != nil {
			return slog.String("source", s.Name)
		}
	}
	return a
}
