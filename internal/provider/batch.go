package provider

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"
)

// splitter cuts a batch into its events: the path to a list, and from each
// element the path to the event in it.
type splitter struct {
	list  []step
	inner []step
}

func parseSplitter(text string) (*splitter, error) {
	steps, err := parsePath(text)
	if err != nil {
		return nil, err
	}
	every := -1
	for i, s := range steps {
		switch {
		case s.kind == stepOnly, s.kind == stepEvery && every >= 0:
			return nil, errors.New("each has one [*] and no [only]")
		case s.kind == stepEvery:
			every = i
		}
	}
	if every < 0 {
		return nil, errors.New("each needs a [*] where the events stand")
	}
	return &splitter{list: steps[:every], inner: steps[every+1:]}, nil
}

func (s *splitter) split(doc gjson.Result) ([]gjson.Result, error) {
	list := follow(doc, s.list)
	if !list.IsArray() {
		return nil, &Unreadable{BadBatch, "the list of events is missing: this preset reads batches"}
	}
	var items []gjson.Result
	whole := true
	list.ForEach(func(_, el gjson.Result) bool {
		item := follow(el, s.inner)
		whole = item.IsObject()
		items = append(items, item)
		return whole && len(items) <= MaxItems
	})
	if !whole {
		return nil, &Unreadable{BadBatch, "an event of the batch is not an object"}
	}
	if len(items) > MaxItems {
		return nil, &Unreadable{TooManyItems, fmt.Sprintf("a batch holds at most %d events", MaxItems)}
	}
	return items, nil
}

// follow walks a path that has members and indexes to the value it names.
func follow(v gjson.Result, steps []step) gjson.Result {
	for i := range steps {
		s, found := &steps[i], gjson.Result{}
		at := 0
		v.ForEach(func(key, m gjson.Result) bool {
			hit := s.kind == stepMember && v.IsObject() && s.names(key.Str) ||
				v.IsArray() && s.picks(at, m)
			if hit {
				found = m
			}
			at++
			return !hit
		})
		v = found
	}
	return v
}

// followAll walks a path in which [*] stands for every element to all values
// that it names, as many as a form may have.
func followAll(v gjson.Result, steps []step) []gjson.Result {
	every := slices.IndexFunc(steps, func(s step) bool { return s.kind == stepEvery })
	if every < 0 {
		if v = follow(v, steps); v.Exists() {
			return []gjson.Result{v}
		}
		return nil
	}
	var found []gjson.Result
	list := follow(v, steps[:every])
	if !list.IsArray() {
		return nil
	}
	list.ForEach(func(_, el gjson.Result) bool {
		found = append(found, followAll(el, steps[every+1:])...)
		return len(found) < MaxFields
	})
	return found
}
