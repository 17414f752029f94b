// Package interleave forces every order in which a few actors can meet in
// Postgres. It is for tests alone, and no part of the program.
//
// # The model
//
// An actor is real code with a node of its own: a store, opened at one of the
// stage's URLs, and what works on it. Between that store and Postgres stands a
// door that passes on one step at a time: one statement, also of those that
// travel together, or one commit. After each step everybody comes to rest:
// done, before the door with the next step, or waiting for a lock, as Postgres
// itself says. Then Explore chooses whose step is next, and over many runs of
// the same scene it chooses everything that can be chosen. Only orders that
// provably come to the same are left out: two steps that touch no table in
// common, swapped (partial orders, after Flanagan and Godefroid).
//
// A schedule is written as the names of those whose turn it was: AABBA. One
// that fails is printed with its statements, and Only plays it alone.
//
// # Adding a scene
//
// Give each run rows of its own, so that all can share one schema. Let the
// actors do what nodes do, and nothing else: no sleep, no goroutine that asks
// the database for something in an order of its own. When all are done, check
// what must be true in every order, and return in a word how it came out:
// which words were heard shows that the actors met at all. Choose names so
// that each run meets its locks in the same order; where a run cannot repeat
// what an earlier one did, Explore fails.
package interleave

import (
	"slices"
	"testing"
)

// Scene is one run: what the actors do side by side, and what is looked at
// when all are done.
type Scene struct {
	Actors []func() error
	// Rest checks what has come of it, given what each actor returned, and
	// says how it came out. It reports to the test that it is given.
	Rest func(t testing.TB, errs []error) string
	// Switches bounds how often the turn may be taken from one that could go
	// on: most mistakes show with one or two. 0: no bound, every order.
	Switches int
}

// Found is what an exploration has seen.
type Found struct {
	Schedules int               // that were played to their end
	Pruned    int               // that were given up: they would have come to the same as one played before
	Outcomes  map[string]int    // what Rest said, and how often
	First     map[string]string // by outcome: the first schedule that led to it
}

// maxSchedules bounds one exploration. Beyond it a scene is too large: let its
// actors do less.
const maxSchedules = 2_000

// Only plays one schedule, as a failure has printed it.
func (s *Stage) Only(t testing.TB, scene Scene, schedule string) string {
	t.Helper()
	outcome, _ := s.play(t, scene, func(point int, ready []*actor, _ bool) *actor {
		if point >= len(schedule) {
			return ready[0]
		}
		at := slices.IndexFunc(ready, func(a *actor) bool { return a.name == schedule[point] })
		if at < 0 {
			t.Fatalf("schedule %s does not fit at %d:\n%s", schedule, point, s)
		}
		return ready[at]
	})
	t.Logf("%s:\n%s", outcome, s)
	return outcome
}

// Explore plays a scene in every order. set makes the scene anew for each run.
func (s *Stage) Explore(t testing.TB, set func(testing.TB) Scene) Found {
	t.Helper()
	found := Found{Outcomes: map[string]int{}, First: map[string]string{}}
	var tree tree
	for more := true; more; more = tree.advance() {
		if found.Schedules+found.Pruned >= maxSchedules {
			t.Fatalf("more than %d schedules: let the actors do less", maxSchedules)
		}
		scene := set(t)
		outcome, schedule := s.play(t, scene, func(point int, ready []*actor, blocked bool) *actor {
			return tree.choose(t, s, scene.Switches, point, ready, blocked)
		})
		if t.Failed() {
			t.Fatalf("schedule %s went wrong:\n%s", schedule, s)
		}
		if tree.pruned {
			found.Pruned++
			continue
		}
		found.Schedules++
		if found.Outcomes[outcome]++; found.Outcomes[outcome] == 1 {
			found.First[outcome] = schedule
		}
	}
	return found
}

// play runs a scene once. choose says at each point whose step is next; once
// it says nobody, everybody goes on as they like.
func (s *Stage) play(t testing.TB, scene Scene, choose func(point int, ready []*actor, blocked bool) *actor) (outcome, schedule string) {
	t.Helper()
	s.begin(scene.Actors)
	defer s.dismiss() // where the test fails here, nobody is left standing
	var turns []byte
	for {
		ready, blocked := s.settle()
		if len(ready) == 0 {
			break
		}
		a := choose(len(turns), ready, blocked)
		if a == nil {
			s.openDoors()
			continue
		}
		turns = append(turns, a.name)
		s.release(a)
	}
	errs := make([]error, len(s.actors))
	for i, a := range s.actors {
		errs[i] = a.err
	}
	return scene.Rest(t, errs), string(turns)
}

// tree is how far an exploration has come: the points of the schedule that
// runs, with what was tried at each.
type tree struct {
	points []*point
	pruned bool // the schedule that runs
}

// point is one choice.
type point struct {
	ready  map[byte]*step // whose turn it could be
	chosen byte
	wanted map[byte]bool // whose turn it has to be once
	tried  map[byte]bool // whose turn it was
	asleep map[byte]bool // whose turn would come to what was tried before
	held   bool          // somebody waits for a lock: what is let through may let them go on
}

// choose follows the schedule that is set, and goes on as it can.
func (tr *tree) choose(t testing.TB, s *Stage, switches, at int, ready []*actor, blocked bool) *actor {
	t.Helper()
	if tr.pruned = false; at == len(tr.points) {
		p := tr.next(ready, blocked)
		if switches > 0 {
			tr.wantFew(p, switches)
		} else {
			tr.want(p)
		}
		if p.chosen = p.awake(); p.chosen == 0 {
			tr.pruned = true
			return nil
		}
		tr.points = append(tr.points, p)
	}
	for _, a := range ready {
		if a.name == tr.points[at].chosen {
			return a
		}
	}
	t.Fatalf("a run does not repeat what an earlier one did: it is not %c's turn:\n%s", tr.points[at].chosen, s)
	return nil
}

// next is the point behind the last one. Who was tried there, or slept, and
// does not care about the step that was chosen instead, sleeps on.
func (tr *tree) next(ready []*actor, blocked bool) *point {
	p := &point{ready: map[byte]*step{}, wanted: map[byte]bool{}, tried: map[byte]bool{}, asleep: map[byte]bool{}, held: blocked}
	for _, a := range ready {
		p.ready[a.name] = a.at
	}
	if len(tr.points) == 0 {
		return p
	}
	last := tr.points[len(tr.points)-1]
	for name := range p.ready {
		p.asleep[name] = (last.asleep[name] || last.tried[name]) && name != last.chosen && !last.meets(name, p)
	}
	return p
}

// meets reports whether the step that was chosen at p and the one that an
// actor takes at a later point may come to something else in the other order. A
// commit may let those go on who wait for a lock: that meets everything.
func (p *point) meets(name byte, later *point) bool {
	one, other := p.ready[p.chosen], later.ready[name]
	return p.held && one.commits || later.held && other.commits || !independent(one, other)
}

// want has somebody take the first turn at a point, and those that meet, all
// of them, in turn.
func (tr *tree) want(p *point) {
	tr.race(p)
	for name := byte('A'); name <= 'Z' && len(p.wanted) == 0; name++ {
		if p.ready[name] != nil && !p.asleep[name] {
			p.wanted[name] = true
		}
	}
}

// wantFew has everybody take the turn at a point, while there are switches
// left, or where who had it cannot go on.
func (tr *tree) wantFew(p *point, switches int) {
	p.asleep = nil
	var last *point
	for _, next := range append(slices.Clone(tr.points), p) {
		if last != nil && next.ready[last.chosen] != nil && next.chosen != last.chosen && next != p {
			switches--
		}
		if next != p {
			last = next
		}
	}
	for name := range p.ready {
		if last == nil || p.ready[last.chosen] == nil || name == last.chosen || switches > 0 {
			p.wanted[name] = true
		}
	}
}

// race wants, wherever a step was let through that meets one of those that are
// next now, the other one to have been first, too.
func (tr *tree) race(now *point) {
	for _, p := range tr.points {
		for name := range now.ready {
			switch {
			case name == p.chosen || !p.meets(name, now):
			case p.ready[name] != nil:
				p.wanted[name] = true
			default:
				for other := range p.ready {
					p.wanted[other] = true
				}
			}
		}
	}
}

// awake returns the first whose turn it has yet to be, or 0.
func (p *point) awake() byte {
	for name := byte('A'); name <= 'Z'; name++ {
		if p.wanted[name] && !p.asleep[name] && !p.tried[name] {
			return name
		}
	}
	return 0
}

// advance sets the next schedule: the last choice that could be another. It
// returns false when all were made.
func (tr *tree) advance() bool {
	for len(tr.points) > 0 {
		p := tr.points[len(tr.points)-1]
		p.tried[p.chosen] = true
		if p.chosen = p.awake(); p.chosen != 0 {
			return true
		}
		tr.points = tr.points[:len(tr.points)-1]
	}
	return false
}
