package main

import (
	"context"
	"errors"
	"fmt"

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

	Instance keysInstanceCommand `cmd:"" help:"Make an API key that may create projects and act for any of them (header Relay-Project)."`
}

type keysInstanceCommand struct {
	databaseFlags
	Name string `default:"instance" help:"What to call it in lists."`
}

// Run makes an instance key and prints it; it is stored nowhere but as a hash.
func (c *keysInstanceCommand) Run(ctx context.Context, p *program) error {
	return withStore(ctx, p, &c.databaseFlags, func(s *store.Store) error {
		text := relay.MintAPIKey()
		key := relay.NewAPIKey(text, 0, c.Name, relay.ScopeInstance)
		if err := s.Configure(ctx, func(change *store.Change) error { return change.PutKey(ctx, key) }); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stdout, text)
		return err
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
