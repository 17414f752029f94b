// Package localpg keeps a private PostgreSQL server for one relay. Start
// returns once the server accepts connections; Run keeps it up; when Stop or
// Run has returned nil, no process of it is left.
//
// The model. Config.DataDir belongs to this package alone:
//
//	relay-postgres.lock   held by the relay that owns the server; marks the directory as ours
//	cluster/              the database, renamed into place once it is complete
//	initdb-…/             a database being made, or the rest of an interrupted try
//	postgres.log          what the server said, bounded
//	.s.PGSQL.5432         the socket, where the path is short enough for one
//
// What is always true:
//
//   - A directory that holds anything and not our lock file is never touched.
//   - cluster/ is complete: an interrupted initdb leaves only a directory of
//     its own, which the next start removes.
//   - One relay per directory: the lock is the kernel's (flock) and ends with
//     the process that holds it.
//   - Nobody reaches the server but its own account and root: it listens on
//     no network, and its socket lies in a directory of mode 0700.
//
// When things fail. A server that dies is started again, at most maxRestarts
// times within restartWindow. A relay that is killed leaves its server
// running; the next Start on the directory adopts it, with the settings it
// has, and stops it like its own. A postmaster.pid left by a power cut or by
// a killed server does not keep the next one from starting; a server that is
// still there does, because PostgreSQL itself checks the shared memory that
// the file names.
//
// PostgreSQL refuses to run as root. Under root the server runs as the
// account postgres, or else nobody, with no other groups, and the directory
// is given to that account.
package localpg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// The bounds of supervision.
const (
	startLimit    = 5 * time.Minute // one start: recovery replays at most max_wal_size, 1 GB
	stopGrace     = 15 * time.Second
	maxRestarts   = 5
	restartWindow = 10 * time.Minute
	logCheck      = time.Minute // how often Run looks at the size of the log
)

// Config says where the server lives and how it is tuned.
type Config struct {
	// DataDir holds the database and all that belongs to it. It is made
	// when it is missing; it must be empty or our own. Files of others do
	// not fit in, so a relay with more to keep gives a directory below its own.
	DataDir string

	// Logger is told of starts, ends and adoptions. Nil discards them.
	Logger *slog.Logger

	// Settings are PostgreSQL parameters that override the defaults, such as
	// max_connections. Those that keep the server private cannot be set.
	Settings map[string]string
}

// defaults suit one relay on a small machine. The log holds neither the
// statements nor the details of errors: both can hold keys and form fields.
var defaults = map[string]string{
	"shared_buffers":          "128MB",
	"max_connections":         "100",
	"timezone":                "UTC",
	"log_timezone":            "UTC",
	"log_error_verbosity":     "terse",
	"log_min_error_statement": "panic",
}

// private are the parameters that Server sets itself: where the data lies,
// who can reach it, and where it logs.
var private = []string{
	"config_file", "data_directory", "external_pid_file", "hba_file", "ident_file",
	"listen_addresses", "log_destination", "logging_collector", "port",
	"unix_socket_directories", "unix_socket_group", "unix_socket_permissions",
}

func (c Config) check() error {
	if c.DataDir == "" {
		return errors.New("localpg: no data directory given")
	}
	for name := range c.Settings {
		if slices.Contains(private, strings.ToLower(name)) {
			return fmt.Errorf("localpg: setting %s is not free: it keeps the server private", name)
		}
	}
	return nil
}

// Server is a running private PostgreSQL. Its methods may be called by
// several goroutines.
type Server struct {
	log      *slog.Logger
	home     *home
	binaries binaries
	settings map[string]string
	socket   string // the directory that holds the socket

	stopping chan struct{} // closed by the first Stop
	stopOnce sync.Once

	mu       sync.Mutex // held while the server is started, adopted or stopped
	proc     *process   // the latest server process, possibly dead
	released bool       // stopped for good, and the lock is given back
}

// Start makes the database when there is none, starts its server or adopts
// the one that runs, and returns when it accepts connections. Start is given
// up when ctx ends, and leaves nothing running then.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	acct, err := serverAccount()
	if err != nil {
		return nil, err
	}
	home, err := openHome(cfg.DataDir, acct)
	if err != nil {
		return nil, err
	}
	s := &Server{log: log, home: home, settings: cfg.Settings, stopping: make(chan struct{})}
	if err := s.begin(ctx); err != nil {
		return nil, errors.Join(err, home.close())
	}
	return s, nil
}

// begin brings a locked home to a server that accepts connections.
func (s *Server) begin(ctx context.Context) error {
	major, err := s.home.clusterVersion()
	if err != nil {
		return err
	}
	if s.binaries, err = installed(ctx).choose(ctx, s.home.account, major); err != nil {
		return err
	}
	if major == noCluster {
		s.log.InfoContext(ctx, "making a private PostgreSQL database", "version", s.binaries.version, "dir", s.home.path)
		if err := s.home.createCluster(ctx, s.binaries); err != nil {
			return err
		}
	}
	if s.socket, err = socketDir(s.home.path, s.home.account); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.up(ctx)
}

// up adopts the server that runs on the directory, or starts one. The caller
// holds mu.
func (s *Server) up(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit,
		fmt.Errorf("no connections accepted within %s", startLimit))
	defer cancel()

	proc, socket, err := s.home.survivor(ctx)
	switch {
	case err == nil:
		s.proc, s.socket = proc, socket
		s.log.InfoContext(ctx, "adopted the private PostgreSQL that was running", "pid", proc.pid())
		return nil
	case !errors.Is(err, errNoSurvivor):
		return err
	}
	if err := removeStaleSocket(s.socket); err != nil {
		return err
	}
	if proc, err = s.launch(ctx); err != nil {
		return err
	}
	s.proc = proc
	s.log.InfoContext(ctx, "private PostgreSQL is up", "pid", proc.pid(), "version", s.binaries.version)
	return nil
}

// URL is the connection string of the database relay, over the Unix socket.
// While the server is being started again, URL and PID wait for it.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Not every client reads + as a space, so spaces are written as %20.
	host := strings.ReplaceAll(url.QueryEscape(s.socket), "+", "%20")
	return "postgres://" + role + "@/" + role + "?host=" + host + "&port=" + port + "&sslmode=disable"
}

// PID is the process id of the server, which changes when it is restarted.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc.pid()
}

// Stop ends the server: sessions are cut off and committed data is on disk.
// When ctx ends first the server stops at once and recovers at its next
// start; nothing that was committed is lost. A second Stop does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() { close(s.stopping) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return nil
	}
	if err := s.proc.stop(ctx); err != nil {
		return err
	}
	s.released = true
	s.log.InfoContext(ctx, "private PostgreSQL stopped")
	return errors.Join(removeSocketDir(s.socket, s.home.path), s.home.close())
}

// Run keeps the server up until ctx is done, then stops it within stopGrace
// and returns. It returns an error when the server dies too often; it is
// stopped then, too. The parts that need the database must have ended before
// ctx does.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := s.untilStopped(ctx)
	defer cancel()
	restarts := budget{most: maxRestarts, window: restartWindow}
	for {
		ended := s.watch(ctx)
		for ended != nil && ctx.Err() == nil {
			delay, ok := restarts.take(time.Now())
			if !ok {
				return errors.Join(fmt.Errorf("private PostgreSQL ended more than %d times within %s, last: %w",
					maxRestarts, restartWindow, ended), s.stopWithin(stopGrace))
			}
			s.log.WarnContext(ctx, "private PostgreSQL ended, starting it again", "error", ended, "delay", delay)
			ended = s.restart(ctx, delay)
		}
		if ctx.Err() != nil {
			return s.stopWithin(stopGrace)
		}
	}
}

// untilStopped derives a context that also ends when Stop is called.
func (s *Server) untilStopped(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// watch returns when ctx is done (nil) or the server process has ended (why).
func (s *Server) watch(ctx context.Context) error {
	s.mu.Lock()
	proc := s.proc
	s.mu.Unlock()
	tick := time.NewTicker(logCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-proc.done:
			return proc.why
		case <-tick.C:
			if err := s.home.trimLog(); err != nil {
				s.log.WarnContext(ctx, "cannot trim the log of the private PostgreSQL", "error", err)
			}
		}
	}
}

// restart waits for delay and brings the server up again.
func (s *Server) restart(ctx context.Context, delay time.Duration) error {
	if err := pause(ctx, delay); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return nil
	}
	return s.up(ctx)
}

// stopWithin is Stop after the caller's own context has ended.
func (s *Server) stopWithin(grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	return s.Stop(ctx)
}

// budget allows a number of restarts within a window that moves with time.
type budget struct {
	most   int
	window time.Duration
	taken  []time.Time
}

// take returns the delay before the next restart: 100 ms, doubled for each
// one within the window. ok is false when the window is full.
func (b *budget) take(now time.Time) (delay time.Duration, ok bool) {
	b.taken = slices.DeleteFunc(b.taken, func(t time.Time) bool { return now.Sub(t) > b.window })
	if len(b.taken) >= b.most {
		return 0, false
	}
	delay = 100 * time.Millisecond << len(b.taken)
	b.taken = append(b.taken, now)
	return delay, true
}

// pause waits for d, or returns the cause of ctx's end.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
