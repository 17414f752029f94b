// Command fault breaks a relay and compares its books. It runs three nodes of
// the built program over one Postgres, with proxies between them, lets payers
// pay at a steady rate, breaks one part after the other and heals it, and
// prints a table: what was answered 200, what was resumed, what was lost, what
// was told twice and why that may be.
//
//	fault [--short] [--only NAME] [--markdown FILE]
//	fault --only 'hangs beside' --hang 1h
//	fault --soak 30m
//
// It fails when anything that was answered 200 is not resumed, when something
// is told twice that no fault explains, when an answer is neither 200 nor 503
// with Retry-After, or when a log holds a secret.
//
// The payers, the platform and the proxies live in this process; nodes and
// servers are processes of their own, which are ended with it.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"relay.example/relay/internal/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "fault:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	relay    string
	only     string
	short    bool
	seed     uint64
	markdown string
	hang     time.Duration
	soak     time.Duration
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("fault", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.relay, "relay", ".bin/relay", "the built program")
	flags.StringVar(&o.only, "only", "", "run only what has this in its name")
	flags.BoolVar(&o.short, "short", false, "the short form, for CI")
	flags.Uint64Var(&o.seed, "seed", 0, "of all that is drawn; 0 draws one")
	flags.StringVar(&o.markdown, "markdown", "", "write the table into this page, between its marks")
	flags.DurationVar(&o.hang, "hang", 0, "let a platform hang for so long beside one that does not; 0: 5m, in the short form 20s")
	flags.DurationVar(&o.soak, "soak", 0, "break nothing for so long, and look for what grows")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.seed == 0 {
		o.seed = rand.Uint64() //nolint:gosec // moments, no secrets
	}
	return o, nil
}

// report is what a run has come to.
type report struct {
	rows  []*books
	leaks []string
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(stderr, "%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	say("seed %d", o.seed)
	shapes := []shape{alone, smallDisk, followed}
	if !slices.ContainsFunc(shapes, func(of shape) bool { return len(o.wanted(of)) > 0 }) {
		return fmt.Errorf("--only %q names nothing that is tried", o.only)
	}
	var r report
	for _, shape := range shapes {
		if err := r.tryShape(ctx, o, shape, say); err != nil {
			return err
		}
	}
	r.write(stdout)
	if err := r.wrong(); err != nil {
		return err
	}
	if o.markdown == "" {
		return nil
	}
	var page bytes.Buffer
	r.write(&page)
	return bench.Splice(o.markdown, "faults", page.Bytes())
}

// wanted lists what is to be tried with one shape of database.
func (o options) wanted(of shape) (out []trial) {
	if o.soak > 0 {
		if of != alone {
			return nil
		}
		return []trial{{name: "soak", run: func(ctx context.Context, w *world, _ scale) *books { return soak(ctx, w, o.soak) }}}
	}
	for _, t := range trials() {
		if t.shape == of && strings.Contains(t.name, o.only) && (!o.short || !t.long) {
			out = append(out, t)
		}
	}
	return out
}

func (o options) scale() scale {
	s := full
	if o.short {
		s = short
	}
	s.jam = cmp.Or(o.hang, s.jam)
	return s
}

// tryShape tries everything with one kind of database, on one world.
func (r *report) tryShape(ctx context.Context, o options, of shape, say func(string, ...any)) (err error) {
	wanted := o.wanted(of)
	if len(wanted) == 0 {
		return nil
	}
	w, err := newWorld(ctx, o.relay, of, o.seed, say)
	if errors.Is(err, errNoMount) {
		// Said aloud, in the table too: what was not tried is not shown.
		for _, t := range wanted {
			say("SKIPPED: %s: %v", t.name, err)
			r.rows = append(r.rows, &books{fault: t.name, note: "**not tried**: " + err.Error()})
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	for _, t := range wanted {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := t.run(ctx, w, o.scale())
		say("%s: %d answered 200, %d lost, %d twice, %d shed, %d broken, gap %s, rest %s",
			b.fault, b.accepted, b.lost(), b.twice, b.shed, b.broken, seconds(b.gap), seconds(b.rest))
		for _, f := range b.findings {
			say("  %s: %s (%s)", f.what, f.measured, f.bound)
		}
		for i, complaint := range b.faults {
			if i == 10 {
				say("  and %d more", len(b.faults)-i)
				break
			}
			say("  WRONG: %s", complaint)
		}
		r.rows = append(r.rows, b)
	}
	leaks, err := w.leaks()
	r.leaks = append(r.leaks, leaks...)
	return err
}

// write writes the tables.
func (r *report) write(w io.Writer) {
	var rows, figures [][]string
	for _, b := range r.rows {
		rows = append(rows, b.row())
		for _, f := range b.findings {
			figures = append(figures, []string{f.what, f.measured, f.bound})
		}
	}
	bench.WriteTable(w, head, rows)
	if len(figures) > 0 {
		fmt.Fprintln(w)
		bench.WriteTable(w, []string{"figure", "measured", "bound"}, figures)
	}
}

// wrong is an error that names the rows that are not as they should be.
func (r *report) wrong() error {
	var errs []error
	for _, b := range r.rows {
		if len(b.faults) > 0 {
			errs = append(errs, fmt.Errorf("%s: %s", b.fault, b.faults[0]))
		}
	}
	if len(r.leaks) > 0 {
		errs = append(errs, fmt.Errorf("%d lines of the logs hold a secret, the first: %s", len(r.leaks), r.leaks[0]))
	}
	return errors.Join(errs...)
}
