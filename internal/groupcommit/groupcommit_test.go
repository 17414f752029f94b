package groupcommit_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"relay.example/relay/internal/groupcommit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type committer = groupcommit.Committer[int, int]

// doubled is what commits of these tests answer, unless they say otherwise.
func doubled(batch []int) []groupcommit.Result[int] {
	out := make([]groupcommit.Result[int], len(batch))
	for i, n := range batch {
		out[i].Value = 2 * n
	}
	return out
}

// start runs a committer until the test ends or stop is called; stop returns
// once Run has.
func start(t *testing.T, c *committer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: got %v, want nil", err)
			}
		case <-time.After(patience):
			t.Errorf("Run did not return within %v", patience)
		}
	})
	t.Cleanup(stop)
	return stop
}

// patience is how long a test waits for what should come soon: longer than any
// machine stands still, since waiting costs nothing when it does come.
const patience = 2 * time.Minute

// eventually polls a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestUnderLoad holds that everybody gets the answer to what they asked, that
// batches form, and that they keep their bounds.
func TestUnderLoad(t *testing.T) {
	t.Parallel()
	const callers, calls, maxBatch, committers = 100, 50, 16, 2
	var running, most, commits, biggest atomic.Int64
	c := groupcommit.New(groupcommit.Config{MaxBatch: maxBatch, MaxWaiting: callers, Committers: committers}, nil,
		func(batch []int) []groupcommit.Result[int] {
			raise(&most, running.Add(1))
			defer running.Add(-1)
			raise(&biggest, int64(len(batch)))
			commits.Add(1)
			if len(batch) == 0 {
				t.Error("an empty batch was committed")
			}
			time.Sleep(100 * time.Microsecond) // what a commit costs: the others gather meanwhile
			return doubled(batch)
		})
	stop := start(t, c)
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range calls {
				n := caller*calls + i
				if got, err := c.Do(t.Context(), n); err != nil || got != 2*n {
					t.Errorf("Do(%d): got %d, %v, want %d", n, got, err, 2*n)
				}
			}
		})
	}
	wg.Wait()
	stop()
	if got := most.Load(); got > committers {
		t.Errorf("%d commits ran at once, want at most %d", got, committers)
	}
	if got := biggest.Load(); got > maxBatch || got < 2 {
		t.Errorf("the biggest batch had %d requests, want 2 to %d", got, maxBatch)
	}
	if got := commits.Load(); got > callers*calls/2 {
		t.Errorf("%d requests took %d commits: want them grouped", callers*calls, got)
	}
}

func raise(to *atomic.Int64, n int64) {
	for {
		old := to.Load()
		if n <= old || to.CompareAndSwap(old, n) {
			return
		}
	}
}

// gated is a committer of one whose commits wait to be let go.
func gated(maxBatch, maxWaiting int) (c *committer, batches chan []int, let chan struct{}) {
	batches, let = make(chan []int), make(chan struct{})
	return groupcommit.New(groupcommit.Config{MaxBatch: maxBatch, MaxWaiting: maxWaiting, Committers: 1}, nil,
		func(batch []int) []groupcommit.Result[int] {
			batches <- append([]int(nil), batch...)
			<-let
			return doubled(batch)
		}), batches, let
}

// TestBatchesGatherWhileACommitRuns holds that one request waits for nobody,
// and that what comes meanwhile goes together, in order, up to MaxBatch.
func TestBatchesGatherWhileACommitRuns(t *testing.T) {
	t.Parallel()
	c, batches, let := gated(3, 10)
	stop := start(t, c)
	var wg sync.WaitGroup
	do := func(n int) {
		wg.Go(func() {
			if got, err := c.Do(t.Context(), n); err != nil || got != 2*n {
				t.Errorf("Do(%d): got %d, %v, want %d", n, got, err, 2*n)
			}
		})
		if n > 1 {
			eventually(t, "the request waits", func() bool { return c.Waiting() == n-1 })
		}
	}
	do(1)
	for _, want := range [][]int{{1}, {2, 3, 4}, {5}} {
		got := <-batches
		if len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != want[len(want)-1] {
			t.Errorf("got the batch %v, want %v", got, want)
		}
		if want[0] == 1 {
			for n := 2; n <= 5; n++ {
				do(n)
			}
		}
		let <- struct{}{}
	}
	wg.Wait()
	stop()
}

func TestFull(t *testing.T) {
	t.Parallel()
	c, batches, let := gated(1, 2)
	start(t, c)
	results := make(chan error, 3)
	do := func() { _, err := c.Do(t.Context(), 1); results <- err }
	go do()
	<-batches // one is being committed
	go do()
	go do()
	eventually(t, "two wait", func() bool { return c.Waiting() == 2 })
	if _, err := c.Do(t.Context(), 9); !errors.Is(err, groupcommit.ErrFull) {
		t.Errorf("the third that waits: got %v, want ErrFull", err)
	}
	let <- struct{}{}
	for range 2 {
		<-batches
		let <- struct{}{}
	}
	for range 3 {
		if err := <-results; err != nil {
			t.Errorf("one that was taken: got %v, want nil", err)
		}
	}
}

// TestEachGetsItsOwnError holds that the error of one request is not told to
// the others of its batch.
func TestEachGetsItsOwnError(t *testing.T) {
	t.Parallel()
	odd := errors.New("odd")
	first := make(chan struct{})
	c := groupcommit.New(groupcommit.Config{MaxBatch: 8, MaxWaiting: 8, Committers: 1}, nil, func(batch []int) []groupcommit.Result[int] {
		<-first
		out := doubled(batch)
		for i, n := range batch {
			if n%2 == 1 {
				out[i] = groupcommit.Result[int]{Err: odd}
			}
		}
		return out
	})
	start(t, c)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			got, err := c.Do(t.Context(), n)
			if n%2 == 1 && !errors.Is(err, odd) || n%2 == 0 && (err != nil || got != 2*n) {
				t.Errorf("Do(%d): got %d, %v", n, got, err)
			}
		})
	}
	close(first)
	wg.Wait()
}

// TestCallerGivesUp holds that a caller who goes away gets the cause at once,
// and that its request is committed all the same.
func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	c, batches, let := gated(1, 2)
	start(t, c)
	gone := errors.New("the client went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan error, 2)
	go func() { _, err := c.Do(t.Context(), 1); result <- err }()
	<-batches
	waiting := make(chan error, 1)
	go func() { _, err := c.Do(ctx, 2); waiting <- err }()
	eventually(t, "it waits", func() bool { return c.Waiting() == 1 })
	cancel(gone)
	if err := <-waiting; !errors.Is(err, gone) {
		t.Errorf("got %v, want the cause", err)
	}
	let <- struct{}{}
	if got := <-batches; len(got) != 1 || got[0] != 2 {
		t.Errorf("after its caller had gone: got the batch %v, want [2]", got)
	}
	let <- struct{}{} // nobody takes the answer, and nobody hangs
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// TestCrowd holds that commits go to those who can still be answered, where
// more wait than one takes; and to everybody where they do not.
func TestCrowd(t *testing.T) {
	t.Parallel()
	const takes, patience = 2 * time.Second, 3 * time.Second
	for _, tt := range []struct {
		name       string
		early      int // come while there is no time left for them after the first commit
		wantBatch  []int
		wantRefuse int
	}{
		{"few wait", 3, []int{1, 2, 3}, 0},
		{"a crowd waits", 8, []int{1, 101, 102, 103}, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var batches [][]int
				c := groupcommit.New(groupcommit.Config{MaxBatch: 4, MaxWaiting: 100, Committers: 1}, nil,
					func(batch []int) []groupcommit.Result[int] {
						batches = append(batches, slices.Clone(batch))
						time.Sleep(takes)
						return doubled(batch)
					})
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- c.Run(ctx) }()
				var refused atomic.Int64
				come := func(n int) {
					go func() {
						ctx, cancel := context.WithTimeout(ctx, patience)
						defer cancel()
						if _, err := c.Do(ctx, n); errors.Is(err, groupcommit.ErrLate) {
							refused.Add(1)
						}
					}()
					synctest.Wait()
				}
				come(0) // its commit takes its time
				for n := range tt.early {
					come(n + 1)
				}
				time.Sleep(takes - time.Millisecond)
				if tt.early > 3 {
					for n := range 6 {
						come(n + 101)
					}
				}
				time.Sleep(time.Millisecond)
				synctest.Wait()
				if got := int(refused.Load()); got != tt.wantRefuse {
					t.Errorf("got %d refused, want %d", got, tt.wantRefuse)
				}
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if got := batches[1]; !slices.Equal(got, tt.wantBatch) {
					t.Errorf("got the batch %v, want %v", got, tt.wantBatch)
				}
			})
		})
	}
}

// TestStop holds that what was taken is committed, and nothing more is taken.
func TestStop(t *testing.T) {
	t.Parallel()
	c, batches, let := gated(2, 10)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- c.Run(ctx) }()
	results := make(chan error, 4)
	for n := range 4 {
		go func() { _, err := c.Do(context.Background(), n); results <- err }()
		if n == 0 {
			<-batches
		}
	}
	eventually(t, "three wait", func() bool { return c.Waiting() == 3 })
	cancel()
	eventually(t, "it takes no more", func() bool {
		// One that slips in before Run has noticed is committed as well.
		late, end := context.WithCancel(context.Background())
		end()
		_, err := c.Do(late, 9)
		return errors.Is(err, groupcommit.ErrStopped)
	})
	select {
	case err := <-stopped:
		t.Fatalf("Run returned %v while a commit ran", err)
	default:
	}
	let <- struct{}{}
	for done := false; !done; {
		select {
		case <-batches:
			let <- struct{}{}
		case err := <-stopped:
			if err != nil {
				t.Errorf("Run: got %v, want nil", err)
			}
			done = true
		}
	}
	for range 4 {
		if err := <-results; err != nil {
			t.Errorf("a request that was taken: got %v, want it committed", err)
		}
	}
	if _, err := c.Do(context.Background(), 1); !errors.Is(err, groupcommit.ErrStopped) {
		t.Errorf("after Run: got %v, want ErrStopped", err)
	}
}

// TestStopUnderFire holds that each request is either refused or committed,
// whenever the end comes.
func TestStopUnderFire(t *testing.T) {
	t.Parallel()
	for range 20 {
		var committed, answered atomic.Int64
		c := groupcommit.New(groupcommit.Config{MaxBatch: 4, MaxWaiting: 64, Committers: 2}, nil, func(batch []int) []groupcommit.Result[int] {
			committed.Add(int64(len(batch)))
			return doubled(batch)
		})
		stop := start(t, c)
		var wg sync.WaitGroup
		began := make(chan struct{})
		var once sync.Once
		for range 16 {
			wg.Go(func() {
				for {
					switch _, err := c.Do(context.Background(), 1); {
					case err == nil:
						answered.Add(1)
						once.Do(func() { close(began) })
					case errors.Is(err, groupcommit.ErrStopped):
						return
					default:
						t.Errorf("got %v, want ErrStopped", err)
						return
					}
				}
			})
		}
		<-began
		stop()
		wg.Wait()
		if answered.Load() != committed.Load() {
			t.Errorf("%d were committed and %d answered: want the same", committed.Load(), answered.Load())
		}
	}
}

// Requests are bounded by their size as well: a batch ends with the one that
// fills it, and what waits beyond the bound is refused, not kept.
func TestBytesAreBounded(t *testing.T) {
	t.Parallel()
	entered, release := make(chan []int, 8), make(chan struct{})
	c := groupcommit.New(groupcommit.Config{MaxBatch: 64, MaxWaiting: 64, Committers: 1, MaxBytes: 100, MaxWaitingBytes: 250},
		func(n int) int { return n },
		func(batch []int) []groupcommit.Result[int] {
			entered <- slices.Clone(batch)
			<-release
			return doubled(batch)
		})
	stop := start(t, c)
	var wg sync.WaitGroup
	do := func(n int) {
		wg.Go(func() {
			if _, err := c.Do(t.Context(), n); err != nil {
				t.Errorf("Do(%d): got %v, want it committed", n, err)
			}
		})
	}
	do(1)
	<-entered // the committer is busy; what follows waits
	for i, n := range []int{60, 60, 60, 60} {
		do(n)
		for c.Waiting() <= i {
			runtime.Gosched()
		}
	}
	if _, err := c.Do(t.Context(), 60); !errors.Is(err, groupcommit.ErrFull) {
		t.Errorf("past the bytes that may wait: got %v, want ErrFull", err)
	}
	close(release)
	for range 2 {
		if batch := <-entered; len(batch) != 2 {
			t.Errorf("got the batch %v, want two of 60 bytes: the second fills it", batch)
		}
	}
	wg.Wait()
	stop()
}

// TestPost holds that what was posted is answered from the committing side,
// that Post waits for room and for nothing else, and that what it took before
// the end is committed.
func TestPost(t *testing.T) {
	t.Parallel()
	const maxWaiting = 2
	c, batches, let := gated(1, maxWaiting)
	stop := start(t, c)
	answers := make(chan int, 10)
	post := func(n int) {
		t.Helper()
		err := c.Post(n, func(r groupcommit.Result[int]) { answers <- r.Value })
		if err != nil {
			t.Errorf("Post(%d): got %v, want nil", n, err)
		}
	}
	post(1)
	<-batches // it is being committed: two more may wait
	post(2)
	post(3)
	posted := make(chan struct{})
	go func() {
		defer close(posted)
		post(4)
	}()
	select {
	case <-posted:
		t.Fatalf("Post found room where %d wait already", maxWaiting)
	case <-time.After(20 * time.Millisecond):
	}
	go func() {
		for range 4 {
			let <- struct{}{}
		}
	}()
	go func() {
		for range 3 {
			<-batches
		}
	}()
	<-posted
	stop()
	close(answers)
	var got []int
	for n := range answers {
		got = append(got, n)
	}
	if want := []int{2, 4, 6, 8}; !slices.Equal(got, want) {
		t.Errorf("got the answers %v, want %v", got, want)
	}
	if err := c.Post(5, func(groupcommit.Result[int]) { t.Error("answered what was not taken") }); !errors.Is(err, groupcommit.ErrStopped) {
		t.Errorf("Post after the end: got %v, want ErrStopped", err)
	}
}

// TestPause holds that requests gather while a committer rests, and that the
// first one finds it awake.
func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		var at []time.Duration
		begin := time.Now()
		c := groupcommit.New(groupcommit.Config{MaxBatch: 16, MaxWaiting: 16, Committers: 1, Pause: 3500 * time.Microsecond}, nil,
			func(batch []int) []groupcommit.Result[int] {
				sizes, at = append(sizes, len(batch)), append(at, time.Since(begin))
				return doubled(batch)
			})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		for n := range 6 {
			if err := c.Post(n, func(groupcommit.Result[int]) {}); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if want := []int{1, 3, 2}; !slices.Equal(sizes, want) {
			t.Errorf("got batches of %v, want %v", sizes, want)
		}
		if want := []time.Duration{0, 3500 * time.Microsecond, 7 * time.Millisecond}; !slices.Equal(at, want) {
			t.Errorf("got commits at %v, want %v", at, want)
		}
	})
}

// TestSecondCommitter holds that a second committer helps with a crowd, and
// with whoever waits behind a commit that is stuck; and nobody else.
func TestSecondCommitter(t *testing.T) {
	t.Parallel()
	const crowd = 3
	for _, tt := range []struct {
		name  string
		more  int           // requests behind the first
		after time.Duration // that the first commit has taken when they come
		then  time.Duration // that they have waited
		want  []int         // batches that begin before the first has ended
	}{
		{"few", crowd - 1, 0, 0, []int{1}},
		{"a crowd", crowd, 0, 0, []int{1, crowd}},
		{"few, for a while", crowd - 1, 30 * time.Millisecond, 10 * time.Millisecond, []int{1}},
		{"few, for long", crowd - 1, 10 * time.Millisecond, 50 * time.Millisecond, []int{1, crowd - 1}},
		{"one, when it is late already", 1, 60 * time.Millisecond, 0, []int{1, 1}},
		{"none, for long", 0, 0, time.Second, []int{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var began []int
				let := make(chan struct{})
				c := groupcommit.New(groupcommit.Config{MaxBatch: 8, MaxWaiting: 8, Committers: 2, Crowd: crowd}, nil,
					func(batch []int) []groupcommit.Result[int] {
						mu.Lock()
						began = append(began, len(batch))
						mu.Unlock()
						<-let
						return doubled(batch)
					})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- c.Run(ctx) }()
				post := func() {
					if err := c.Post(1, func(groupcommit.Result[int]) {}); err != nil {
						t.Error(err)
					}
				}
				post()
				synctest.Wait()
				time.Sleep(tt.after)
				for range tt.more {
					post()
				}
				time.Sleep(tt.then)
				synctest.Wait()
				mu.Lock()
				got := slices.Clone(began)
				mu.Unlock()
				close(let)
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("got batches of %v, want %v", got, tt.want)
				}
			})
		})
	}
}
