package intake_test

import (
	"context"
	"flag"
	"strconv"
	"sync"
	"testing"
	"time"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/intake"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/seal"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// The bounds of random histories, which the flags of rapid change. Half of them
// are played one after the other, and half at once.
const (
	histories  = 75 // of each half: about 25 s of two cores with the race detector
	steps      = 18 // on average; shorter ones shrink sooner, since each try plays one again
	shrinkTime = 2 * time.Minute
)

// patience is how long a test waits for what should come soon: longer than any
// machine stands still, since waiting costs nothing when it does come.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"rapid.checks": strconv.Itoa(histories), "rapid.steps": strconv.Itoa(steps), "rapid.shrinktime": shrinkTime.String(),
	} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	storetest.Main(m)
}

// node is one Intake over a store, and what it handed over.
type node struct {
	*intake.Intake
	directory  *directory.Directory
	plans      *plan.Cache
	mu         sync.Mutex
	handedOver []relay.Delivery
}

// newNode returns a node that does not run yet.
func newNode(t *testing.T, s *store.Store) *node {
	t.Helper()
	n := &node{plans: plan.NewCache(s.Plan)}
	log := leaks.Logger(t)
	d, err := directory.New(directory.Config{Store: s, PublicURL: "http://relay.example", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	in, err := intake.New(intake.Config{Store: s, Plans: n.plans, Directory: d, HandOver: n.take, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	n.Intake, n.directory = in, d
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

// sealKey is one key for all tests: two nodes of one database share theirs.
var sealKey = seal.NewKey()

func keys(t *testing.T) *seal.Ring {
	t.Helper()
	ring, err := seal.ParseRing(sealKey)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// project configures a project on a fresh schema.
func project(t *testing.T) (*storetest.Project, string) {
	t.Helper()
	url := storetest.URL(t, true)
	return storetest.NewProject(t, storetest.Open(t, url, keys(t)), "shop", "http://127.0.0.1:1"), url
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
