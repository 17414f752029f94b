package interleave

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Stage is where actors meet: a door for each to one database, and a seat from
// which to see who waits for whom.
type Stage struct {
	t      testing.TB
	doors  []*door
	seat   *pgx.Conn
	actors []*actor
	steps  []string // what was let through in the schedule that runs

	mu      sync.Mutex
	changed chan struct{} // a hint that some actor has moved
}

// NewStage makes a stage for some actors. It is used by one test at a time,
// and ends with it.
func NewStage(t testing.TB, url string, actors int) *Stage {
	t.Helper()
	s := &Stage{t: t, changed: make(chan struct{}, 1)}
	for range actors {
		s.doors = append(s.doors, newDoor(t, url))
	}
	var err error
	if s.seat, err = pgx.Connect(t.Context(), url); err != nil {
		t.Fatalf("connecting to the test server: %v", err)
	}
	t.Cleanup(func() { _ = s.seat.Close(context.Background()) })
	return s
}

// URL is where the node of an actor, counted from 0, reaches the database.
func (s *Stage) URL(actor int) string { return s.doors[actor].url }

// openDoors lets everybody go on as they like, in no order.
func (s *Stage) openDoors() {
	for i, a := range s.actors {
		s.doors[i].actor.Store(nil)
		s.mu.Lock()
		standing := a.at != nil
		a.at, a.unbound = nil, true
		s.mu.Unlock()
		if standing {
			a.pass <- struct{}{}
		}
	}
}

// dismiss ends a run: whoever has not come to the end goes there, in no order.
func (s *Stage) dismiss() {
	s.openDoors()
	deadline := time.NewTimer(stepLimit)
	defer deadline.Stop()
	for {
		if _, moving := s.look(); len(moving) == 0 {
			return
		}
		select {
		case <-s.changed:
		case <-deadline.C:
			return
		}
	}
}

// Leave ends the part of an actor: what it does from now on is nobody's turn.
// It is for code that goes on to read what it has done, for an answer.
func (s *Stage) Leave(actor int) { s.doors[actor].actor.Store(nil) }

// Refused reports whether Postgres has refused anything in this schedule with
// an SQLSTATE, say 40P01, also where the code has made good for it.
func (s *Stage) Refused(state string) bool {
	return slices.ContainsFunc(s.doors, func(d *door) bool {
		_, ok := d.refused.Load(state)
		return ok
	})
}

// actor is one of those that run side by side. Its fields are guarded by
// Stage.mu.
type actor struct {
	stage   *Stage
	name    byte
	at      *step // before its door, or nil
	inside  *step // the last that was let through
	pass    chan struct{}
	held    bool // it waited for a lock when it was looked at last; of the play alone
	unbound bool // nobody says any more whose turn it is
	done    bool
	err     error
}

// arrive stands before the door until the step is let through.
func (a *actor) arrive(st *step) {
	a.stage.mu.Lock()
	unbound := a.unbound
	if !unbound {
		a.at = st
	}
	a.stage.mu.Unlock()
	if unbound {
		return
	}
	a.stage.hint()
	<-a.pass
}

func (s *Stage) hint() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// begin starts the actors, behind doors that are shut.
func (s *Stage) begin(do []func() error) {
	s.actors, s.steps = nil, nil
	for i := range do {
		a := &actor{stage: s, name: 'A' + byte(i), pass: make(chan struct{})}
		s.actors = append(s.actors, a)
		s.doors[i].refused.Clear()
		s.doors[i].actor.Store(a)
		go func() {
			err := do[i]()
			s.doors[i].actor.Store(nil)
			s.mu.Lock()
			a.done, a.err = true, err
			s.mu.Unlock()
			s.hint()
		}()
	}
}

// release lets the step of an actor through.
func (s *Stage) release(a *actor) {
	s.mu.Lock()
	st := a.at
	a.at, a.inside, a.held = nil, st, false
	s.mu.Unlock()
	s.steps = append(s.steps, string(a.name)+" "+st.String())
	a.pass <- struct{}{}
}

// Bounds of one step. Each is far more than a step takes.
const (
	glance    = time.Millisecond // between two looks at who waits for whom
	stepLimit = 3 * time.Minute  // longer than what storetest lets a statement wait
)

// settle returns once nobody moves: every actor stands before its door, is
// done, or waits for a lock that one before a door holds. It returns those
// before their doors, and whether others wait for locks.
func (s *Stage) settle() (ready []*actor, blocked bool) {
	s.t.Helper()
	deadline := time.Now().Add(stepLimit)
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for ask := false; ; {
		ready, moving := s.look()
		if len(moving) == 0 {
			return ready, false
		}
		// Who waited before may have been let go on; who has just been let
		// through most likely gets on, and is asked about a little later.
		ask = ask || !slices.ContainsFunc(moving, func(a *actor) bool { return !a.held })
		if len(ready) > 0 && ask && s.allHeld(moving) {
			for _, a := range moving {
				a.held = true
			}
			return ready, true
		}
		select {
		case <-s.changed:
			ask = false
		case <-tick.C:
			ask = true
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("nobody gets on within %s:\n%s", stepLimit, s)
		}
	}
}

// look returns who stands before a door, and who is neither there nor done.
func (s *Stage) look() (ready, moving []*actor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.actors {
		switch {
		case a.done:
		case a.at != nil:
			ready = append(ready, a)
		default:
			moving = append(moving, a)
		}
	}
	return ready, moving
}

// allHeld reports whether each of those that move waits for a lock, and none
// of them in a circle: Postgres would end that.
func (s *Stage) allHeld(moving []*actor) bool {
	s.t.Helper()
	byPID := map[int32]*actor{}
	for i, a := range s.actors {
		s.doors[i].sessions.Range(func(pid, _ any) bool {
			byPID[pid.(int32)] = a //nolint:forcetypeassert // nothing else is stored
			return true
		})
	}
	var pids []int32
	s.mu.Lock()
	for _, a := range moving {
		if a.inside != nil {
			pids = append(pids, a.inside.pid)
		}
	}
	s.mu.Unlock()
	if len(pids) < len(moving) {
		return false // some have not come to their first step
	}
	waitsFor := map[*actor][]*actor{}
	rows, _ := s.seat.Query(context.Background(), `SELECT pid, pg_blocking_pids(pid) FROM unnest($1::integer[]) AS pid`, pids)
	var pid int32
	var blockers []int32
	_, err := pgx.ForEachRow(rows, []any{&pid, &blockers}, func() error {
		for _, b := range blockers {
			if other := byPID[b]; other != nil {
				waitsFor[byPID[pid]] = append(waitsFor[byPID[pid]], other)
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatalf("looking who waits for whom: %v", err)
	}
	for _, a := range moving {
		if len(waitsFor[a]) == 0 || inCircle(a, waitsFor) {
			return false
		}
	}
	return true
}

// inCircle reports whether an actor waits for itself.
func inCircle(a *actor, waitsFor map[*actor][]*actor) bool {
	seen := map[*actor]bool{}
	next := waitsFor[a]
	for len(next) > 0 {
		var further []*actor
		for _, b := range next {
			if b == a {
				return true
			}
			if !seen[b] {
				seen[b] = true
				further = append(further, waitsFor[b]...)
			}
		}
		next = further
	}
	return false
}

// String tells how far everybody has come.
func (s *Stage) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, line := range s.steps {
		fmt.Fprintln(&b, "  "+line)
	}
	for _, a := range s.actors {
		switch {
		case a.done:
			fmt.Fprintf(&b, "  %c is done: %v\n", a.name, a.err)
		case a.at != nil:
			fmt.Fprintf(&b, "  %c is about to %s\n", a.name, a.at)
		default:
			fmt.Fprintf(&b, "  %c moves, after %v\n", a.name, a.inside)
		}
	}
	return b.String()
}
