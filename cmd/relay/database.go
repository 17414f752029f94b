package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"relay.example/relay/internal/localpg"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
)

// The connections of one process. The hot ones carry two intake committers,
// one of registrations, two recorders, the poller and the sweeper.
const (
	hotConnections = 12
	connections    = 8
	databaseWait   = 60 * time.Second // for a database that is starting, too
	databaseTold   = 10 * time.Second // between two lines about that
	stopWait       = 30 * time.Second // for the private server to stop
)

// database is what a command needs to use the database.
type database struct {
	url   string
	keys  *seal.Ring
	local *localpg.Server // nil: somebody else's server
	log   *slog.Logger
}

// openDatabase starts the private server where it is asked for, and reads the
// encryption keys.
func openDatabase(ctx context.Context, f *databaseFlags, log *slog.Logger) (db *database, err error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	db = &database{url: f.DatabaseURL, log: log}
	if f.EncryptionKey != "" {
		if db.keys, err = seal.ParseRing(f.EncryptionKey); err != nil {
			return nil, fmt.Errorf("RELAY_ENCRYPTION_KEY: %w", err)
		}
	}
	if f.DatabaseURL != embedded {
		return db, nil
	}
	dir, err := f.dataDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("making RELAY_DATA_DIR: %w", err)
	}
	if db.keys == nil {
		if db.keys, err = localKeys(dir); err != nil {
			return nil, err
		}
	}
	db.local, err = localpg.Start(ctx, localpg.Config{DataDir: filepath.Join(dir, "postgres"), Logger: log})
	if err != nil {
		return nil, err
	}
	db.url = db.local.URL()
	return db, nil
}

// localKeys reads the keys of a private server from the file beside it, which
// is made when it is missing.
func localKeys(dir string) (*seal.Ring, error) {
	path := filepath.Join(dir, "encryption.key")
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		raw = []byte(seal.NewKey() + "\n")
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("the encryption key of the private server: %w", err)
	}
	return seal.ParseRing(strings.TrimSpace(string(raw)))
}

// store waits for the database, brings its schema up or checks it, and opens
// it.
func (db *database) store(ctx context.Context, migrate string) (*store.Store, error) {
	if db.keys == nil { // before anything is changed
		return nil, errNoKeys
	}
	if err := db.await(ctx); err != nil {
		return nil, err
	}
	if migrate == "auto" {
		if err := store.MigrateUp(ctx, db.url); err != nil {
			return nil, err
		}
	}
	s, err := db.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkSealed(ctx, s); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

var errNoKeys = errors.New("RELAY_ENCRYPTION_KEY is not set: make one with `relay keys new` and keep it safe; " +
	"without it the stored secrets cannot be read")

// open opens the store, for which the keys and this program's schema are
// needed.
func (db *database) open(ctx context.Context) (*store.Store, error) {
	if db.keys == nil {
		return nil, errNoKeys
	}
	status, err := store.Migrations(ctx, db.url)
	if err != nil {
		return nil, err
	}
	if !status.Current() {
		return nil, fmt.Errorf("the database schema is at %d (dirty: %t), this program needs %d: run `relay migrate up`",
			status.Version, status.Dirty, status.Latest)
	}
	return store.Open(ctx, store.Config{URL: db.url, Keys: db.keys, HotConnections: hotConnections, Connections: connections})
}

// await gives a database that is starting time to do so. A URL that cannot be
// read, or a server that refuses us, is told at once.
func (db *database) await(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, databaseWait)
	defer cancel()
	var told time.Time
	for {
		_, err := store.Migrations(waiting, db.url)
		if err == nil || !store.Starting(err) {
			return err
		}
		if ctx.Err() == nil && time.Since(told) >= databaseTold {
			db.log.Info("waiting for the database", "error", err)
			told = time.Now()
		}
		select {
		case <-waiting.Done(): // by its own time, or because ctx is done
			if ctx.Err() != nil {
				return errors.New("stopped while waiting for the database")
			}
			return fmt.Errorf("the database did not come up within %s: %w", databaseWait, err)
		case <-time.After(time.Second):
		}
	}
}

// checkSealed refuses to run without a key that stored secrets need.
func checkSealed(ctx context.Context, s *store.Store) error {
	counts, err := s.SealedWith(ctx)
	if err != nil {
		return err
	}
	for _, c := range counts {
		if !c.Known {
			return fmt.Errorf("%d stored secrets are sealed with the key %s, which is not in RELAY_ENCRYPTION_KEY: add it to the list",
				c.Count, c.KeyID)
		}
	}
	return nil
}

// run supervises the private server until ctx is done.
func (db *database) run(ctx context.Context) error {
	if db.local == nil {
		<-ctx.Done()
		return nil
	}
	return db.local.Run(ctx)
}

// close stops the private server.
func (db *database) close() error {
	if db.local == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	return db.local.Stop(ctx)
}
