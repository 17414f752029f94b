package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
)

// serveCommand runs a node.
type serveCommand struct {
	nodeFlags
	Config string `type:"existingfile" help:"A relay.yaml to apply at start."`
}

// Run serves until ctx is done.
func (c *serveCommand) Run(ctx context.Context, p *program) error {
	return c.serve(ctx, p, nil)
}

// serve runs a node until ctx is done. ready is told once it takes requests.
func (c *serveCommand) serve(ctx context.Context, p *program, ready func(*node)) (err error) {
	if err := errors.Join(c.databaseFlags.check(), c.check()); err != nil {
		return err
	}
	log := newLogger(p.stderr, c.Log)
	for _, name := range strangers(os.Environ()) {
		log.Warn("an environment variable is named like a setting and is none: see relay --help", "name", name)
	}
	var file *relayFile
	if c.Config != "" { // a mistake in it is told before a database is changed
		if file, err = readFile(c.Config, p.lookup); err != nil {
			return err
		}
	}
	db, err := openDatabase(ctx, &c.databaseFlags, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.close()) }()
	s, err := db.store(ctx, c.Migrate)
	if err != nil {
		return err
	}
	defer s.Close()
	n, err := newNode(ctx, &c.nodeFlags, s, log)
	if err != nil {
		return err
	}
	if err := c.prepare(ctx, file, n, log); err != nil {
		n.close()
		return err
	}
	if ready != nil {
		ready(n)
	}
	return withDatabase(ctx, db, n.run)
}

// prepare puts the first key and the given configuration in place.
func (c *serveCommand) prepare(ctx context.Context, file *relayFile, n *node, log *slog.Logger) error {
	if c.APIKey != "" {
		if err := n.putKey(ctx, c.APIKey); err != nil {
			return err
		}
	}
	if file == nil {
		return nil
	}
	edits, err := file.apply(ctx, n.directory, applyOptions{})
	if err != nil {
		return err
	}
	for _, e := range edits {
		log.Info("configuration applied", "verb", e.Verb, "kind", e.Kind, "project", e.Project, "name", e.Name)
		for _, id := range e.DroppedSecrets {
			log.Warn("a secret was dropped: the configuration does not name it", "project", e.Project, "source", e.Name, "secret_id", id)
		}
	}
	return nil
}

// withDatabase supervises the private server for as long as work runs, and
// ends work when the server cannot be kept up.
func withDatabase(ctx context.Context, db *database, work func(context.Context) error) error {
	working, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	// It ends after the work, which still needs the database while it stops.
	supervising, stop := context.WithCancel(context.WithoutCancel(ctx))
	supervised := make(chan struct{})
	go func() {
		defer close(supervised)
		if err := db.run(supervising); err != nil {
			fail(err)
		}
	}()
	err := work(working)
	stop()
	<-supervised
	return err
}
