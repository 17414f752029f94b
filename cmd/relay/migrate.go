package main

import (
	"context"
	"errors"
	"fmt"

	"relay.example/relay/internal/store"
)

// migrateCommand moves the database schema.
type migrateCommand struct {
	databaseFlags
	Direction string `arg:"" enum:"up,down,status" help:"up, down or status."`
}

// Run moves the schema and prints where it stands.
func (c *migrateCommand) Run(ctx context.Context, p *program) (err error) {
	db, err := openDatabase(ctx, &c.databaseFlags, newLogger(p.stderr, c.Log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.close()) }()
	if err := db.await(ctx); err != nil {
		return err
	}
	switch c.Direction {
	case "up":
		err = store.MigrateUp(ctx, db.url)
	case "down":
		err = store.MigrateDown(ctx, db.url)
	}
	if err != nil {
		return err
	}
	status, err := store.Migrations(ctx, db.url)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "schema version %d, this program's %d", status.Version, status.Latest)
	switch {
	case status.Dirty:
		fmt.Fprint(p.stdout, ", dirty: a migration was interrupted; see docs/operating.md")
	case status.Current():
		fmt.Fprint(p.stdout, ", current")
	}
	fmt.Fprintln(p.stdout)
	return nil
}
