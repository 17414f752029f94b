package main

import (
	"bufio"
	"slices"
	"strings"
	"testing"
	"time"
)

// at is a moment of a made-up run, in seconds.
func at(seconds float64) time.Time {
	return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
}

func TestExplained(t *testing.T) {
	t.Parallel()
	outages := []outage{{from: at(10), to: at(15)}, {from: at(40), to: at(41)}}
	for name, c := range map[string]struct {
		first, second float64
		want          bool
	}{
		"under way when it broke":        {9.9, 40.5, true},
		"during the outage":              {12, 42, true},
		"in the socket of the dying":     {15.4, 46, true},
		"long before":                    {7, 20, false},
		"repeated before anything broke": {9, 9.5, false},
		"between two outages":            {20, 21, false},
		"by the second one":              {39, 70, true},
	} {
		if got := explained(outages, at(c.first), at(c.second)); got != c.want {
			t.Errorf("%s: got %t, want %t", name, got, c.want)
		}
	}
}

func TestLongestGap(t *testing.T) {
	t.Parallel()
	payments := []payment{{acked: at(5)}, {acked: at(1)}, {acked: at(30)}}
	for ended, want := range map[float64]time.Duration{6: 4 * time.Second, 40: 25 * time.Second, 0.5: 500 * time.Millisecond} {
		if got := longestGap(payments, at(0), at(ended)); got != want {
			t.Errorf("until %v s: got %s, want %s", ended, got, want)
		}
	}
}

// TestJudge holds that each thing that must not be makes a row wrong.
func TestJudge(t *testing.T) {
	t.Parallel()
	good := books{accepted: 10, resumed: 10, outages: []outage{{from: at(10), to: at(12)}, {from: at(20), to: at(21)}}}
	for name, c := range map[string]struct {
		fault  fault
		change func(*books)
		wrong  bool
	}{
		"good":                      {fault{calm: true}, func(*books) {}, false},
		"refused where all is calm": {fault{calm: true}, func(b *books) { b.shed = 1 }, true},
		"cut off where all is calm": {fault{calm: true}, func(b *books) { b.broken = 1 }, true},
		"turned where all is calm":  {fault{calm: true}, func(b *books) { b.turned = 1 }, true},
		"twice where all is calm":   {fault{calm: true}, func(b *books) { b.twice = 1 }, true},
		"refused by a fault":        {fault{dies: 1}, func(b *books) { b.shed = 100 }, false},
		"twice within the bound":    {fault{dies: 1}, func(b *books) { b.twice = underWay }, false},
		"twice beyond the bound":    {fault{dies: 1}, func(b *books) { b.twice = underWay + 1 }, true},
		"an answer that took long":  {fault{dies: 1}, func(b *books) { b.slowest = answerLimit + time.Second }, true},
		"back soon":                 {fault{dies: 1, back: soon}, func(b *books) { b.gap = 2*time.Second + soon }, false},
		"not back soon":             {fault{dies: 1, back: soon}, func(b *books) { b.gap = 2*time.Second + soon + 1 }, true},
		"nothing accepted":          {fault{dies: 1}, func(b *books) { b.accepted = 0 }, true},
	} {
		b := good
		c.change(&b)
		c.fault.judge(&b)
		if got := len(b.faults) > 0; got != c.wrong {
			t.Errorf("%s: got %q, want a complaint: %t", name, b.faults, c.wrong)
		}
	}
}

func TestAwaitReady(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ said, want string }{
		"ready":     {"R\x00\x00\x00\x08\x00\x00\x00\x00Z\x00\x00\x00\x05I", ""},
		"refused":   {"E\x00\x00\x00\x0bC53300\x00", "53300"},
		"cut off":   {"R\x00\x00", "EOF"},
		"too large": {"R\x7f\x00\x00\x00", "bytes"},
	} {
		err := awaitReady(bufio.NewReader(strings.NewReader(c.said)))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: got %v, want nil", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q in it", name, err, c.want)
		}
	}
}

func TestModuleOf(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]int64{
		`{"user_id":"b-1","module_id":17,"x":1}`: 17, `{"module_id":null}`: 0, `{}`: 0, `{"module_id":5`: 5,
	} {
		if got := moduleOf([]byte(body)); got != want {
			t.Errorf("%s: got %d, want %d", body, got, want)
		}
	}
}

// TestCompareTalk holds that the order of a conversation is looked at.
func TestCompareTalk(t *testing.T) {
	t.Parallel()
	kill := []outage{{from: at(10), to: at(11)}}
	for name, c := range map[string]struct {
		steps          []int64
		from           float64 // of the first call; the others follow by a second each
		resumed, twice int
		wrong          bool
	}{
		"in order":                {[]int64{1, 2, 3}, 0, 3, 0, false},
		"repeated by a kill":      {[]int64{1, 2, 2, 3}, 8.5, 3, 1, false},
		"repeated without one":    {[]int64{1, 2, 2, 3}, 0, 3, 1, true},
		"out of order":            {[]int64{1, 3, 2}, 0, 1, 0, true},
		"repeated after the next": {[]int64{1, 2, 1}, 9, 2, 0, true},
		"the first one missing":   {[]int64{2}, 0, 0, 0, true},
	} {
		b := books{outages: kill}
		var calls []call
		for i, step := range c.steps {
			calls = append(calls, call{at: at(c.from + float64(i)), module: step})
		}
		b.compareTalk(7, calls)
		if b.resumed != c.resumed || b.twice != c.twice || len(b.faults) > 0 != c.wrong {
			t.Errorf("%s: got %d resumed, %d twice, %q, want %d, %d, a complaint: %t", name, b.resumed, b.twice, b.faults, c.resumed, c.twice, c.wrong)
		}
	}
}

// TestJudgeTrend holds that what grows is seen, and what only wavers is not.
func TestJudgeTrend(t *testing.T) {
	t.Parallel()
	flat := func(i int) sample {
		n := float64(i)
		return sample{
			memory: 100 << 20, goroutines: 60, accepted: 1000 * n, tables: 2000 * 1000 * n, indexes: 1000 * 1000 * n,
			ack: time.Duration(20+i%3) * time.Millisecond, resume: 5 * time.Millisecond,
		}
	}
	for name, change := range map[string]func(i int, s *sample){
		"":                                  func(int, *sample) {},
		"memory of a node":                  func(i int, s *sample) { s.memory += float64(i) * (6 << 20) },
		"goroutines of a node":              func(i int, s *sample) { s.goroutines += 5 * float64(i) },
		"growth of the tables per callback": func(i int, s *sample) { s.tables += 150_000 * float64(i*i) },
		"99th percentile of a resume":       func(i int, s *sample) { s.resume *= time.Duration(i * i) },
	} {
		var samples []sample
		for i := range 30 {
			s := flat(i)
			change(i, &s)
			samples = append(samples, s)
		}
		var b books
		b.judgeTrend("a soak", samples, slices.Concat(ofNodes, ofAnswers, ofDatabase))
		switch {
		case name == "" && len(b.faults) > 0:
			t.Errorf("flat: got %q, want no complaint", b.faults)
		case name != "" && (len(b.faults) != 1 || !strings.HasPrefix(b.faults[0], name)):
			t.Errorf("%s: got %q, want one complaint of it", name, b.faults)
		}
	}
	var b books
	if b.judgeTrend("a soak", nil, ofNodes); len(b.faults) != 1 {
		t.Errorf("no samples: got %q, want a complaint", b.faults)
	}
}
