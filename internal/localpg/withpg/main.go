// Command withpg runs a command with a throw-away PostgreSQL server:
//
//	withpg go test ./...
//
// The command finds the server in RELAY_TEST_DATABASE_URL. When it has ended,
// the server and its data are gone, and withpg ends with its exit code.
// Signals are passed on to it. The server trades durability for speed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"relay.example/relay/internal/localpg"
)

// stopGrace is how long sessions that the command left may take to end.
const stopGrace = 10 * time.Second

// throwAway are settings for data that nobody will miss. Tests run side by
// side, each with a pool, so many connections are allowed. What the planner
// knows of a table is for the tests to say, not for whoever comes by while a
// slow one runs.
var throwAway = map[string]string{
	"fsync":              "off",
	"full_page_writes":   "off",
	"synchronous_commit": "off",
	"autovacuum":         "off",
	"max_connections":    "300",
}

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	code, err := run(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "withpg:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	if len(args) == 0 {
		return 2, errors.New("no command given: withpg [--] command args…")
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	dir, err := os.MkdirTemp("", "relay-withpg-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	server, err := start(dir, signals)
	if err != nil {
		return 1, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		err = errors.Join(err, server.Stop(ctx))
	}()
	return execute(args, append(os.Environ(), "RELAY_TEST_DATABASE_URL="+server.URL()), signals)
}

// start gives up at the first signal.
func start(dir string, signals <-chan os.Signal) (*localpg.Server, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() {
		select {
		case sig := <-signals:
			cancel(fmt.Errorf("stopped by signal: %s", sig))
		case <-ctx.Done():
		}
	}()
	return localpg.Start(ctx, localpg.Config{DataDir: dir, Settings: throwAway})
}

// execute runs the command to its end and returns its exit code, or like a
// shell 128 and the number of the signal that ended it.
func execute(args, env []string, signals <-chan os.Signal) (int, error) {
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...) // it ends by itself or by a signal
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 127, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			_ = cmd.Process.Signal(sig) // it may just have ended
		case err := <-ended:
			return exitCode(err)
		}
	}
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}
