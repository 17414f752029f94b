package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"relay.example/relay/internal/bench"
	"relay.example/relay/internal/localpg"
)

// The bounds of a server's life.
const (
	startLimit = 60 * time.Second // a start, recovery included
	stopLimit  = 20 * time.Second // a fast stop; then it is killed
)

// server is a Postgres to be broken. It is not localpg's: it listens on
// loopback, where proxies can stand before it, and nobody brings it up again
// but the fault that ended it.
type server struct {
	programs *localpg.Programs
	home     string // its directory; the data lies in data below it
	address  string // host:port
	settings []string
	log      *os.File

	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// newServer makes a server's directory, which may be a disk of its own.
func newServer(ctx context.Context, programs *localpg.Programs, home string, settings ...string) (*server, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	s := &server{programs: programs, home: home, address: address, settings: settings}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	if err := programs.Give(home); err != nil {
		return nil, err
	}
	s.log, err = os.OpenFile(home+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return s, err
}

func (s *server) data() string { return filepath.Join(s.home, "data") }

// create makes a new database cluster with the relay's database in it.
func (s *server) create(ctx context.Context) error {
	if err := s.run(ctx, "", "initdb", "--pgdata="+s.data(), "--username="+role, "--encoding=UTF8", "--locale=C",
		"--auth=trust", "--no-instructions"); err != nil {
		return err
	}
	return s.run(ctx, "CREATE DATABASE "+role+";\n", "postgres", "--single", "-D", s.data(), "postgres")
}

// follow makes a standby of another server, which must run.
func (s *server) follow(ctx context.Context, primary *server) error {
	host, port, err := net.SplitHostPort(primary.address)
	if err != nil {
		return err
	}
	return s.run(ctx, "", "pg_basebackup", "--pgdata="+s.data(), "--host="+host, "--port="+port, "--username="+role,
		"--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast")
}

// promote makes a standby take writes, and returns once it does.
func (s *server) promote(ctx context.Context) error {
	return s.run(ctx, "", "pg_ctl", "promote", "-D", s.data())
}

// refollow starts what was the primary, and was stopped, as the standby of the
// server that was promoted.
func (s *server) refollow(ctx context.Context, primary *server) error {
	host, port, err := net.SplitHostPort(primary.address)
	if err != nil {
		return err
	}
	signal := filepath.Join(s.data(), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		return err
	}
	if err := s.programs.Give(signal); err != nil {
		return err
	}
	return s.start(ctx, fmt.Sprintf("primary_conninfo=host=%s port=%s user=%s", host, port, role))
}

// awaitFollower waits until a standby is fed from this server.
func (s *server) awaitFollower(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("no standby followed within %s", startLimit))
	defer cancel()
	for {
		fed, err := s.ask(ctx, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
		if err == nil && fed != "0" {
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// remake makes a server anew, as the standby of another one.
func (s *server) remake(ctx context.Context, primary *server) error {
	if err := errors.Join(s.stop(), os.RemoveAll(s.data())); err != nil {
		return err
	}
	if err := s.follow(ctx, primary); err != nil {
		return err
	}
	return s.start(ctx)
}

// set changes a setting while the server runs: its sessions see it with their
// next transaction.
func (s *server) set(ctx context.Context, setting string) error {
	_, err := s.ask(ctx, "ALTER SYSTEM SET "+setting, "SELECT pg_reload_conf()")
	return err
}

// ask runs statements, each in a transaction of its own, and returns what they
// print. No driver is needed for that.
func (s *server) ask(ctx context.Context, statements ...string) (string, error) {
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		return "", err
	}
	args := []string{"--host=" + host, "--port=" + port, "--username=" + role, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--field-separator= "}
	for _, statement := range statements {
		args = append(args, "--command="+statement)
	}
	cmd := s.programs.Command(ctx, s.home, "psql", append(args, role)...)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("asking Postgres %q: %w", statements[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (s *server) run(ctx context.Context, input, program string, args ...string) error {
	cmd := s.programs.Command(ctx, s.home, program, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w: %s", program, err, out)
	}
	return nil
}

// start starts the server and waits until it takes connections. One whose
// last sessions have not ended yet, or whose disk is full, ends at once and is
// started again.
func (s *server) start(ctx context.Context, settings ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("it took no connections within %s", startLimit))
	defer cancel()
	for {
		if s.ended() {
			if err := s.spawn(settings); err != nil {
				return err
			}
		}
		c, err := openSession(ctx, s.address)
		if err == nil {
			return c.Close()
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("starting Postgres, see %s: %w, last: %w", s.log.Name(), context.Cause(ctx), err)
		}
	}
}

func (s *server) spawn(settings []string) error {
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		return err
	}
	args := []string{"-D", s.data(), "-c", "listen_addresses=" + host, "-c", "port=" + port, "-c", "unix_socket_directories="}
	for _, setting := range append(s.settings, settings...) {
		args = append(args, "-c", setting)
	}
	cmd := s.programs.Command(context.WithoutCancel(context.Background()), s.home, "postgres", args...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting Postgres: %w", err)
	}
	done := make(chan struct{})
	s.cmd, s.done = cmd, done
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
	return nil
}

// ended reports whether no process of the server runs.
func (s *server) ended() bool {
	if s.cmd == nil {
		return true
	}
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// stop is a fast stop: sessions are told 57P01 and cut off.
func (s *server) stop() error {
	if s.ended() {
		return nil
	}
	_ = s.cmd.Process.Signal(syscall.SIGINT) // it may just have ended
	select {
	case <-s.done:
		return nil
	case <-time.After(stopLimit):
		return errors.Join(fmt.Errorf("the database server did not stop within %s", stopLimit), s.kill())
	}
}

// kill ends the postmaster and all of its sessions with SIGKILL, the
// postmaster first: it could start nothing in their place any more.
func (s *server) kill() error {
	if s.ended() {
		return nil
	}
	sessions, err := bench.Children(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	_ = s.cmd.Process.Kill() // it may just have ended
	<-s.done
	for _, pid := range sessions {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have seen its postmaster die
	}
	return nil
}
