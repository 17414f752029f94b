package store_test

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"relay.example/relay/internal/store/storetest"
)

// The clock of a budget stands still while a test has moved what was spent
// into a future that does not come.
func TestTakeBudget(t *testing.T) {
	t.Parallel()
	const minute = time.Minute
	for _, tt := range []struct {
		name        string
		spent       string // up to when, as SQL
		line        string
		interval    time.Duration
		most, asked int
		granted     int
		wait        time.Duration // of the first in the line
		longer      time.Duration // of the line after it
	}{
		{"untouched, one a minute", "'-infinity'", "'-infinity'", minute, 5, 5, 1, minute, 4 * minute},
		{"untouched, a hundred a second", "'-infinity'", "'-infinity'", 10 * time.Millisecond, 300, 300, 100, 10 * time.Millisecond, 2 * time.Second},
		{"no more than asked for", "'-infinity'", "'-infinity'", 10 * time.Millisecond, 3, 3, 3, 0, 0},
		{"spent", "now() + interval '1 minute'", "'-infinity'", minute, 5, 1, 0, 2 * minute, minute},
		{"behind those in the line", "now() + interval '1 minute'", "now() + interval '3 minutes'", minute, 5, 1, 0, 3 * minute, minute},
		{"a line that is as long as it gets", "now() + interval '1 minute'", "now() + interval '1 hour'", minute, 5, 9, 0, 5 * minute, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, url := project(t)
			storetest.Exec(t, url, `INSERT INTO rate_budgets (destination_id, spent_until, line_until) VALUES ($1, `+tt.spent+`, `+tt.line+`)`, p.DestinationID)
			got := must(p.Store.TakeBudget(t.Context(), p.DestinationID, tt.interval, tt.most, tt.asked))(t)
			near := func(a, b time.Duration) bool { return a <= b+time.Second && a >= b-20*time.Second }
			if got.Granted != tt.granted || tt.granted < tt.asked && !near(got.Line, tt.wait) {
				t.Errorf("got %+v, want %d granted and a line of %v", got, tt.granted, tt.wait)
			}
			next := must(p.Store.TakeBudget(t.Context(), p.DestinationID, minute, 0, 1))(t)
			if want := tt.wait + tt.longer; tt.granted < tt.asked && !near(next.Line, max(want, minute)) && !near(next.Line, want) {
				t.Errorf("the next one: got a line of %v, want %v", next.Line, want)
			}
		})
	}
}

// However many nodes take at once, together they get what the rate allows.
func TestNodesShareABudget(t *testing.T) {
	t.Parallel()
	p, _ := project(t)
	const nodes, takes, interval = 4, 50, 20 * time.Millisecond
	granted := make([]int, nodes)
	began := time.Now()
	var g errgroup.Group
	for i := range nodes {
		g.Go(func() error {
			for range takes {
				b, err := p.Store.TakeBudget(context.Background(), p.DestinationID, interval, 7, 7)
				if err != nil {
					return err
				}
				granted[i] += b.Granted
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, n := range granted {
		sum += n
	}
	took := time.Since(began)
	if most := int((took+time.Second)/interval) + 1; sum > most {
		t.Errorf("%d calls were granted in %v, want at most %d", sum, took, most)
	}
	if least := int(min(took, time.Second) / interval); sum < least {
		t.Errorf("%d calls were granted in %v, want at least %d", sum, took, least)
	}
}
