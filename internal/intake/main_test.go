package intake_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// node is one Intake over a store, and what it handed over.
type node struct {
	*intake.Intake
	mu         sync.Mutex
	handedOver []relay.Delivery
}

// newNode returns a node that does not run yet.
func newNode(t *testing.T, s *store.Store) *node {
	t.Helper()
	n := &node{}
	in, err := intake.New(intake.Config{
		Store: s, Plans: plan.NewCache(s.Plan), HandOver: n.take, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Intake = in
	return n
}

func (n *node) take(deliveries []relay.Delivery) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handedOver = append(n.handedOver, deliveries...)
}

// run runs a node until the test ends, or stop is called.
func (n *node) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Run(ctx); err != nil {
			t.Errorf("intake ended with %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// project configures a project on a fresh schema.
func project(t *testing.T) (*storetest.Project, string) {
	t.Helper()
	url := storetest.URL(t, true)
	return storetest.NewProject(t, storetest.Open(t, url, storetest.Keys(t)), "shop", "http://127.0.0.1:1"), url
}

// together commits callbacks as one batch, in the order given.
func together(t *testing.T, n *node, callbacks ...relay.Callback) []relay.Receipt {
	t.Helper()
	receipts, errs := n.CommitTogether(callbacks)
	for i, err := range errs {
		if err != nil {
			t.Fatalf("committing callback %d of a batch: %v", i, err)
		}
	}
	return receipts
}

const statusSQL = `SELECT status || coalesce('/' || late_outcome, '') FROM correlations WHERE id = $1`

// firedSQL lists what a wait fired, in order of creation.
const firedSQL = `SELECT coalesce(string_agg(outcome || '>' || action, ' ' ORDER BY created_at, id), '') FROM deliveries WHERE correlation_id = $1`
