package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// fault is one way in which parts die, and how they are healed.
type fault struct {
	name   string
	shape  shape
	rounds int           // how often; 0 is once
	hold   time.Duration // from inject to heal
	inject func(ctx context.Context, w *world, round int) error
	heal   func(ctx context.Context, w *world, round int) error

	// calm says that nobody may notice: nothing refused, cut off or sent twice.
	calm bool
	// dies is how many nodes lose what they were doing, in all rounds: it
	// bounds what is sent twice.
	dies int
	// back is how soon after an outage callbacks are answered 200 again; 0 does
	// not ask.
	back time.Duration
	// mend brings the world back to its shape once the books are compared, and
	// may find something on its way; nil where healing did that.
	mend func(ctx context.Context, w *world, b *books) error
	// long leaves it out of the short form.
	long bool
}

// faults is the list, in the order in which they are tried.
var faults = []fault{
	{
		name: "nothing is broken", hold: time.Second, calm: true,
		inject: func(context.Context, *world, int) error { return nil },
		heal:   func(context.Context, *world, int) error { return nil },
	},
	{
		name: "a node killed (kill -9), each in turn", rounds: nodes, hold: 3 * time.Second, dies: nodes,
		inject: func(_ context.Context, w *world, i int) error { return w.nodes[i].kill() },
		heal:   func(ctx context.Context, w *world, i int) error { return w.nodes[i].start(ctx) },
	},
	{
		name: "a node stopped (SIGTERM), each in turn", rounds: nodes, hold: time.Second, calm: true,
		inject: func(_ context.Context, w *world, i int) error {
			w.platform.is(slow)
			return w.nodes[i].terminate()
		},
		heal: func(ctx context.Context, w *world, i int) error {
			w.platform.is(well)
			return w.nodes[i].start(ctx)
		},
	},
	inFull(toxic("connections to Postgres cut, one node", "reset_peer", `"timeout": 0`, 1, 5*time.Second)),
	toxic("connections to Postgres cut, all nodes", "reset_peer", `"timeout": 0`, nodes, 5*time.Second),
	inFull(toxic("connections to Postgres delayed by 150 ms each way, all nodes", "latency", `"latency": 150, "jitter": 20`, nodes, 8*time.Second)),
	inFull(toxic("connections to Postgres half-open, one node", "timeout", `"timeout": 0`, 1, 10*time.Second)),
	toxic("connections to Postgres half-open, all nodes", "timeout", `"timeout": 0`, nodes, 10*time.Second),
	{
		name: "Postgres stopped (fast) and started", hold: 2 * time.Second, dies: nodes, long: true,
		inject: func(_ context.Context, w *world, _ int) error { return w.servers[0].stop() },
		heal:   startServer,
	},
	{
		name: "Postgres killed (kill -9, all processes) and started", hold: 2 * time.Second, dies: nodes,
		inject: func(_ context.Context, w *world, _ int) error { return w.servers[0].kill() },
		heal:   startServer,
	},
	outOfConnections(),
	{
		name: "Postgres takes no writes (default_transaction_read_only)", hold: 5 * time.Second, dies: nodes, back: soon,
		inject: func(ctx context.Context, w *world, _ int) error {
			return w.servers[0].set(ctx, "default_transaction_read_only = on")
		},
		heal: func(ctx context.Context, w *world, _ int) error {
			return w.servers[0].set(ctx, "default_transaction_read_only = off")
		},
	},
	{
		name: "platform answers 500", hold: 5 * time.Second, dies: 0,
		inject: platformIs(sick), heal: platformIs(well),
	},
	{
		name: "platform cuts connections", hold: 5 * time.Second, dies: nodes, long: true,
		inject: platformIs(gone), heal: platformIs(well),
	},
	{
		name: "platform hangs for 30 s", hold: 12 * time.Second, dies: nodes, long: true,
		inject: platformIs(stuck), heal: platformIs(well),
	},
	diskFull(),
	{
		name: "primary stopped, standby promoted, and back (planned switchover)", shape: followed, rounds: 2, hold: time.Second, dies: 2 * nodes, back: soon, long: true,
		inject: func(_ context.Context, w *world, _ int) error { return w.servers[0].stop() },
		heal:   switchOver,
	},
	{
		name: "primary takes no writes, standby promoted, connections left open", shape: followed, hold: 2 * time.Second, dies: nodes, back: soon,
		inject: func(ctx context.Context, w *world, _ int) error {
			return w.servers[0].set(ctx, "default_transaction_read_only = on")
		},
		heal: func(ctx context.Context, w *world, _ int) error { return w.servers[1].promote(ctx) },
		mend: leaveOldPrimary,
	},
	{
		name: "primary killed, synchronous standby promoted", shape: followed, hold: 3 * time.Second, dies: nodes,
		inject: func(_ context.Context, w *world, _ int) error { return w.servers[0].kill() },
		heal:   func(ctx context.Context, w *world, _ int) error { return w.servers[1].promote(ctx) },
	},
}

// soon is for a client that tries again every second, a new connection, and
// what a busy machine adds.
const soon = 5 * time.Second

// switchOver has the standby take writes, and what was the primary follow it.
func switchOver(ctx context.Context, w *world, _ int) error {
	was, next := w.servers[0], w.servers[1]
	if err := next.promote(ctx); err != nil {
		return err
	}
	if err := was.refollow(ctx, next); err != nil {
		return err
	}
	return w.exchange(ctx)
}

// leaveOldPrimary looks whether anybody still talks to what was the primary,
// and makes it the new one's standby. It may have written what the new one
// does not know, so it is made anew.
func leaveOldPrimary(ctx context.Context, w *world, b *books) error {
	was, next := w.servers[0], w.servers[1]
	left, err := was.ask(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'relay'")
	if err != nil {
		return err
	}
	b.find("connections that are left to what was the primary", left, "0", left == "0")
	if err := was.remake(ctx, next); err != nil {
		return err
	}
	return w.exchange(ctx)
}

// startServer starts the first server again.
func startServer(ctx context.Context, w *world, _ int) error { return w.servers[0].start(ctx) }

func platformIs(m mood) func(context.Context, *world, int) error {
	return func(_ context.Context, w *world, _ int) error {
		w.platform.is(m)
		return nil
	}
}

// toxic is a fault of the network between the first nodes and the database.
func toxic(name, kind, attributes string, touched int, hold time.Duration) fault {
	return fault{
		name: name, hold: hold, dies: touched,
		inject: func(_ context.Context, w *world, _ int) error {
			for _, n := range w.nodes[:touched] {
				if err := n.toxic(kind, attributes); err != nil {
					return err
				}
			}
			return nil
		},
		heal: func(ctx context.Context, w *world, _ int) error {
			for _, n := range w.nodes[:touched] {
				n.cure(ctx)
			}
			return nil
		},
	}
}

// inFull leaves a fault out of the short form, which has a worse one of its
// kind.
func inFull(f fault) fault {
	f.long = true
	return f
}

// outOfConnections has somebody else take every connection while the nodes
// have none.
func outOfConnections() fault {
	var taken *hog
	return fault{
		name: "Postgres out of connections", hold: 8 * time.Second, dies: nodes,
		inject: func(ctx context.Context, w *world, _ int) (err error) {
			for _, n := range w.nodes {
				n.disconnect()
			}
			taken, err = startHog(ctx, w.servers[0].address)
			for _, n := range w.nodes {
				err = errors.Join(err, n.reconnect())
			}
			return err
		},
		heal: func(context.Context, *world, int) error {
			taken.end()
			return nil
		},
	}
}

// diskFull fills the disk of the database, whose server ends then, and makes
// room again.
func diskFull() fault {
	filler := func(w *world) string { return filepath.Join(w.mounted, "filler") }
	return fault{
		name: "Postgres' disk full", shape: smallDisk, hold: 8 * time.Second, dies: nodes,
		inject: func(_ context.Context, w *world, _ int) error { return fill(filler(w)) },
		heal: func(ctx context.Context, w *world, _ int) error {
			if err := os.Remove(filler(w)); err != nil {
				return err
			}
			return w.servers[0].start(ctx)
		},
	}
}

// fill writes until no byte fits any more.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	zeros := make([]byte, 64<<10)
	for err == nil && len(zeros) > 0 {
		_, err = f.Write(zeros)
		if errors.Is(err, syscall.ENOSPC) {
			zeros, err = zeros[:len(zeros)/2], nil
		}
	}
	return errors.Join(err, f.Close())
}

// The times of one fault, and the rate of its load.
const (
	warm    = 2 * time.Second // of load before the first outage
	between = 2 * time.Second // from one round to the next
	tail    = 3 * time.Second // of load after the last one
	rate    = 200             // payers a second
)

// run breaks what the fault breaks while payers pay, and compares the books.
func (f fault) run(ctx context.Context, w *world) *books {
	b := &books{fault: f.name}
	l := w.newLoad()
	began := time.Now()
	l.begin(ctx, rate)
	err := f.play(ctx, w, b)
	ended := time.Now()
	err = errors.Join(err, l.end(ctx))
	if err != nil {
		b.complain("%v", err)
	}
	if ctx.Err() == nil {
		b.close(ctx, w, l, began, ended)
	}
	f.judge(b)
	if f.mend != nil && ctx.Err() == nil {
		if err := f.mend(ctx, w, b); err != nil {
			b.complain("mending: %v", err)
		}
	}
	return b
}

// play is the outages, with load before, between and after them.
func (f fault) play(ctx context.Context, w *world, b *books) error {
	if err := pause(ctx, warm); err != nil {
		return err
	}
	for round := range max(1, f.rounds) {
		if round > 0 {
			if err := pause(ctx, between); err != nil {
				return err
			}
		}
		o := outage{from: time.Now()}
		if err := f.inject(ctx, w, round); err != nil {
			return fmt.Errorf("breaking: %w", err)
		}
		if err := pause(ctx, f.hold); err != nil {
			return err
		}
		if err := f.heal(ctx, w, round); err != nil {
			return fmt.Errorf("healing: %w", err)
		}
		o.to = time.Now()
		b.outages = append(b.outages, o)
	}
	return pause(ctx, tail)
}

// answerLimit is within what a callback is answered, whatever has happened:
// the 3 s of promise 2, and what a busy machine adds.
const answerLimit = 5 * time.Second

// judge holds the books against what this fault may do.
func (f fault) judge(b *books) {
	if b.slowest > answerLimit {
		b.complain("a callback was answered after %s, want 3 s", b.slowest)
	}
	if f.calm && (b.shed > 0 || b.broken > 0 || b.turned > 0 || b.twice > 0) {
		b.complain("%d answered 503, %d not answered, %d met a closed door, %d sent twice: want none of them", b.shed, b.broken, b.turned, b.twice)
	}
	if away := b.longestOutage(); f.back > 0 && b.gap > away+f.back {
		b.complain("no callback was answered 200 for %s, with an outage of %s: want %s longer at most", b.gap, away, f.back)
	}
	if most := f.dies * underWay; !f.calm && f.dies > 0 && b.twice > most {
		b.complain("%d calls were made twice, want %d at most", b.twice, most)
	}
	if b.accepted == 0 && len(b.faults) == 0 {
		b.complain("no callback was answered 200: nothing is proven")
	}
}
