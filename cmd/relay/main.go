// Command relay receives the callbacks of payments and forms and resumes the
// bot conversations that wait for them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

func main() {
	// Output that nobody reads any more must not end a relay that works.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signalled(context.Background())
	defer stop()
	err := run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr)
	var code exitError
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

// signalled returns a context that the first signal to stop ends. The second
// one says that there is no time to drain: everything still stops in order. The
// third ends the process at once.
func signalled(parent context.Context) (context.Context, context.CancelFunc) {
	hurry := make(chan struct{})
	ctx, cancel := context.WithCancel(context.WithValue(parent, hurryKey{}, hurry))
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		cancel()
		<-signals
		close(hurry)
		<-signals
		os.Exit(1)
	}()
	return ctx, cancel
}

type hurryKey struct{}

// hurried is closed when there is no time to drain.
func hurried(ctx context.Context) <-chan struct{} {
	hurry, _ := ctx.Value(hurryKey{}).(chan struct{})
	return hurry // nil: never
}

// exitError ends the process after everything has been said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// program is what every command works with: the world outside.
type program struct {
	lookup func(string) (string, bool)
	stdout io.Writer
	stderr io.Writer
}

// commands is the command line.
type commands struct {
	Serve     serveCommand     `cmd:"" help:"Run a node: take callbacks, resume conversations."`
	Demo      demoCommand      `cmd:"" help:"Start everything privately, play one form and one checkout, and stay up."`
	Sandbox   sandboxCommand   `cmd:"" help:"Run stand-ins for the bot platforms and a pay page."`
	Migrate   migrateCommand   `cmd:"" help:"Bring the database schema up, one step down, or show where it stands."`
	Apply     applyCommand     `cmd:"" help:"Make the configuration what a relay.yaml says."`
	Keys      keysCommand      `cmd:"" help:"Make encryption keys, see which are in use, seal anew."`
	Providers providersCommand `cmd:"" help:"List the providers, or show how one is set up."`
	Trigger   triggerCommand   `cmd:"" help:"Send a signed callback as a provider would, to try a flow out."`
	Bench     benchCommand     `cmd:"" help:"Measure the relay on this machine."`
	Ping      pingCommand      `cmd:"" hidden:"" help:"Ask whether the relay beside it wants requests."`

	Version kong.VersionFlag `help:"Print version, commit and Go's version."`
}

// run is the whole program; main and the tests call it.
func run(ctx context.Context, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer) error {
	var cli commands
	p := &program{lookup: lookup, stdout: stdout, stderr: stderr}
	parser, err := kong.New(&cli,
		kong.Name("relay"),
		kong.Description("Receives the callbacks of payments and forms and resumes the bot conversations that wait for them."),
		kong.Vars{"version": thisEdition().String()},
		kong.UsageOnError(),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exitError(code)) }),
		kong.Bind(p),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Resolvers(fromEnvironment(lookup)),
		kong.Help(helpWithSettings),
	)
	if err != nil {
		return fmt.Errorf("building the command line: %w", err)
	}
	command, err := parse(parser, args)
	if err != nil || command == nil {
		return err
	}
	return command.Run()
}

// parse reads the arguments. Asking for help ends the program without an
// error and without a command.
func parse(parser *kong.Kong, args []string) (command *kong.Context, err error) {
	defer func() {
		switch code := recover().(type) {
		case nil:
		case exitError:
			if code != 0 {
				err = code
			}
			command = nil
		default:
			panic(code)
		}
	}()
	return parser.Parse(args)
}
