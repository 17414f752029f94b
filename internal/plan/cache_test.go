package plan_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/uuid"

	"relay.example/relay/internal/plan"
	"relay.example/relay/internal/relay"
)

// formPlan is a plan with a form whose texts hold an expression each.
func formPlan(t testing.TB, fields, languages int) *relay.Plan {
	t.Helper()
	texts := map[string]string{}
	for i := range languages {
		texts[fmt.Sprintf("a%c", 'a'+i)] = "A text {{ correlation.data.name }}"
	}
	var list []map[string]any
	for i := range fields {
		f := map[string]any{"name": fmt.Sprintf("f%d", i), "label": texts, "help": texts}
		if i > 0 {
			f["show_if"] = `form.f0 == "a"`
		}
		list = append(list, f)
	}
	raw, err := json.Marshal(map[string]any{"form": map[string]any{"fields": list}})
	if err != nil {
		t.Fatal(err)
	}
	p := &relay.Plan{}
	if err := json.Unmarshal(raw, p); err != nil {
		t.Fatal(err)
	}
	return p
}

func compiled(t testing.TB, doc *relay.Plan) *plan.Plan {
	t.Helper()
	p, err := plan.Compile(doc)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestWeight measures what plans take, alone in the process: it is the
// reckoning that the bound of the cache stands on.
func TestWeight(t *testing.T) {
	docs := map[string]*relay.Plan{
		"a usual flow": {On: map[string]relay.Action{"completed": {Text: "Paid {{ payment.amount_text }} {{ payment.currency }}"}}},
		"a usual form": formPlan(t, 10, 2), "a large form": formPlan(t, 60, 8), "one text": {ReturnURL: "https://shop.test/" + strings.Repeat("a", 10_000)},
	}
	for name, doc := range docs {
		compiled(t, doc) // what is made once is made now
		const copies = 8
		kept := make([]*plan.Plan, copies)
		before := live()
		for i := range kept {
			kept[i] = compiled(t, doc)
		}
		each := (live() - before) / copies
		if weight := kept[0].Weight(); each > int64(weight) {
			t.Errorf("%s takes %d bytes, got a weight of %d, want no less", name, each, weight)
		}
		runtime.KeepAlive(kept)
	}
}

// live is the memory that is in use.
func live() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestCacheIsBoundedByWeight(t *testing.T) {
	t.Parallel()
	c := plan.NewCache(nil)
	large, small := compiled(t, formPlan(t, 60, 8)), compiled(t, &relay.Plan{})
	fit := plan.MaxWeight / large.Weight()
	for range 3 * fit {
		c.Put(uuid.New(), large)
	}
	if plans, weight := c.Held(); plans != fit || weight > plan.MaxWeight {
		t.Errorf("got %d large plans of %d bytes, want the %d that have room in %d", plans, weight, fit, plan.MaxWeight)
	}
	last := uuid.New()
	for range 5000 {
		c.Put(uuid.New(), small)
	}
	c.Put(last, small)
	c.Put(last, small) // it is there already
	plans, weight := c.Held()
	if plans != 4096 || weight > plan.MaxWeight {
		t.Errorf("got %d plans of %d bytes, want at most 4096", plans, weight)
	}
	if p, err := c.Get(t.Context(), last); err != nil || p != small {
		t.Errorf("got %v, %v, want the last one kept", p, err)
	}
}
