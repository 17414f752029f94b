package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
)

// keysCommand is about the keys that seal secrets at rest, and about the one
// key of the API that no project can make: the instance key.
type keysCommand struct {
	New    keysNewCommand    `cmd:"" help:"Print a fresh key for RELAY_ENCRYPTION_KEY."`
	Status keysStatusCommand `cmd:"" help:"Show how many secrets are sealed with which key."`
	Reseal keysResealCommand `cmd:"" help:"Seal everything anew with the first key, so that the others can go."`

	Instance keysInstanceCommand `cmd:"" help:"Make an API key that may create projects and act for any of them (header Relay-Project), or list or revoke such keys."`
}

type keysInstanceCommand struct {
	databaseFlags
	Name   string    `default:"instance" help:"What to call it in lists."`
	List   bool      `xor:"what" help:"List the instance keys instead."`
	Revoke uuid.UUID `xor:"what" help:"Revoke the instance key of this id instead."`
}

// Run makes, lists or revokes instance keys. They belong to no project, and so
// to who has the database.
func (c *keysInstanceCommand) Run(ctx context.Context, p *program) error {
	return withStore(ctx, p, &c.databaseFlags, func(s *store.Store) error {
		switch {
		case c.List:
			return listInstanceKeys(ctx, p.stdout, s)
		case c.Revoke != uuid.Nil:
			return revokeInstanceKey(ctx, s, c.Revoke)
		default:
			return makeInstanceKey(ctx, p.stdout, s, c.Name)
		}
	})
}

// makeInstanceKey prints the key; it is stored nowhere but as a hash.
func makeInstanceKey(ctx context.Context, w io.Writer, s *store.Store, name string) error {
	text := relay.MintAPIKey()
	key := relay.NewAPIKey(text, 0, name, relay.ScopeInstance)
	if err := s.Configure(ctx, func(change *store.Change) error { return change.PutKey(ctx, key) }); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

func listInstanceKeys(ctx context.Context, w io.Writer, s *store.Store) error {
	c, err := s.Configuration(ctx)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, k := range c.Keys {
		if k.Scope == relay.ScopeInstance {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", k.ID, k.Name, k.Hint, k.CreatedAt.UTC().Format(time.RFC3339))
		}
	}
	return table.Flush()
}

func revokeInstanceKey(ctx context.Context, s *store.Store, id uuid.UUID) error {
	return s.Configure(ctx, func(change *store.Change) error {
		for _, k := range change.Before.Keys {
			if k.ID == id && k.Scope == relay.ScopeInstance {
				return change.DeleteKey(ctx, id)
			}
		}
		return fmt.Errorf("there is no instance key %s: --list shows them; a project's keys are deleted with DELETE /v1/api-keys/{id}", id)
	})
}

type keysNewCommand struct{}

// Run prints a key.
func (keysNewCommand) Run(p *program) error {
	_, err := fmt.Fprintln(p.stdout, seal.NewKey())
	return err
}

type keysStatusCommand struct{ databaseFlags }

// Run prints the keys in use.
func (c *keysStatusCommand) Run(ctx context.Context, p *program) error {
	return withStore(ctx, p, &c.databaseFlags, func(s *store.Store) error { return printKeys(ctx, p, s) })
}

type keysResealCommand struct{ databaseFlags }

// Run seals everything with the first key.
func (c *keysResealCommand) Run(ctx context.Context, p *program) error {
	return withStore(ctx, p, &c.databaseFlags, func(s *store.Store) error {
		n, err := s.Reseal(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(p.stdout, "sealed anew: %d\n", n)
		return printKeys(ctx, p, s)
	})
}

func printKeys(ctx context.Context, p *program, s *store.Store) error {
	counts, err := s.SealedWith(ctx)
	if err != nil {
		return err
	}
	if len(counts) == 0 {
		fmt.Fprintln(p.stdout, "no secrets are stored")
	}
	for _, c := range counts {
		state := "opens"
		switch {
		case !c.Known:
			state = "MISSING from RELAY_ENCRYPTION_KEY"
		case c.Current:
			state = "seals"
		}
		fmt.Fprintf(p.stdout, "key %s: %d secrets, %s\n", c.KeyID, c.Count, state)
	}
	return nil
}

// withStore opens the database of a short command.
func withStore(ctx context.Context, p *program, f *databaseFlags, work func(*store.Store) error) (err error) {
	db, err := openDatabase(ctx, f, newLogger(p.stderr, f.Log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.close()) }()
	s, err := db.open(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	return work(s)
}
