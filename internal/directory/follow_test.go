package directory_test

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// TestChangesReachOtherNodes holds what promise 19 rests on, that changes are
// told: the other node looks for none by itself. How soon they come is measured
// by internal/fault.
func TestChangesReachOtherNodes(t *testing.T) {
	t.Parallel()
	author := newNode(t)
	other := join(t, author.url, author.keys)
	other.SetPoll(never)
	other.run(t)
	has := func(name string) func() bool {
		return func() bool { return other.Current().Project(relay.DefaultProject).Destination(name) != nil }
	}
	// The first one may come before the other node listens: it looks once
	// it does.
	author.apply(t, document(list(`{"name":"first","platform":"certainly","token":"t"}`), nil, nil), directory.Options{})
	eventually(t, "the first change", has("first"))
	for i := range 3 {
		name := fmt.Sprintf("d%d", i)
		author.apply(t, document(list(`{"name":"`+name+`","platform":"certainly","token":"t"}`), nil, nil), directory.Options{})
		eventually(t, "the change "+name, has(name))
	}
	if err := author.Delete(t.Context(), relay.DefaultProject, directory.KindDestination, "d0"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletion", func() bool { return !has("d0")() })
}

// never is a poll that does not come in the time of a test.
const never = 24 * time.Hour

// TestLostNotification holds that polling finds a change that nobody told of.
func TestLostNotification(t *testing.T) {
	t.Parallel()
	if directory.PollInterval > 5*time.Second {
		t.Errorf("a node polls every %s, want every 5 s", directory.PollInterval)
	}
	n := configured(t)
	n.SetPoll(50 * time.Millisecond)
	n.run(t)
	old := n.Current()
	eventually(t, "the node listens", func() bool { return n.Current() != old })
	n.exec(t, `UPDATE flows SET doc = '{"destination":"bot","source":"pay","expires_in":"7m","on":{"completed":{"module_id":5}}}'`)
	n.exec(t, `UPDATE configuration SET version = version + 1`)
	eventually(t, "a change without a notification",
		func() bool { return n.project(t).Flow("checkout").ExpiresIn.String() == "7m" })
}

// TestListensAgain holds that a node whose connection was cut listens again.
func TestListensAgain(t *testing.T) {
	t.Parallel()
	n := configured(t)
	other := join(t, n.url, n.keys)
	other.SetPoll(never)
	other.run(t)
	schema := storetest.Query[string](t, n.url, `SELECT current_schema()::text`)
	listeners := func() int {
		return storetest.Query[int](t, n.url, `SELECT count(*)::int FROM pg_stat_activity
			WHERE query LIKE 'LISTEN "relay_configuration_' || $1 || '"%'`, schema)
	}
	eventually(t, "it listens", func() bool { return listeners() == 1 })
	storetest.Query[int](t, n.url, `SELECT count(pg_terminate_backend(pid))::int FROM pg_stat_activity
		WHERE query LIKE 'LISTEN "relay_configuration_' || $1 || '"%'`, schema)
	n.apply(t, document(list(`{"name":"meanwhile","platform":"certainly","token":"t"}`), nil, nil), directory.Options{})
	eventually(t, "what happened while it did not listen",
		func() bool { return other.project(t).Destination("meanwhile") != nil })
	eventually(t, "it listens again", func() bool { return listeners() == 1 })
	n.apply(t, document(list(`{"name":"after","platform":"certainly","token":"t"}`), nil, nil), directory.Options{})
	eventually(t, "what came after", func() bool { return other.project(t).Destination("after") != nil })
}

// refreshed refreshes a node.
func refreshed(t *testing.T, d *directory.Directory) *directory.Snapshot {
	t.Helper()
	s, err := d.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRefresh holds that one who meets what the node does not know makes it
// look, and that a crowd makes it look once a second.
func TestRefresh(t *testing.T) {
	t.Parallel()
	author := newNode(t)
	other := join(t, author.url, author.keys)
	knows := func(source string) bool {
		return refreshed(t, other.Directory).Project(relay.DefaultProject).Source(source) != nil
	}
	author.apply(t, document(nil, list(pay), nil), directory.Options{})
	if other.project(t).Source("pay") != nil {
		t.Fatal("the other node knows the source before it looked: this test shows nothing")
	}
	began := time.Now()
	if !knows("pay") {
		t.Error("the first refresh did not find the source")
	}
	if other.RefreshedAt().Before(began) {
		t.Error("a refresh read and did not note when: want a crowd to read once")
	}

	author.apply(t, document(nil, list(`{"name":"late","provider":"html-form"}`), nil), directory.Options{})
	other.SetRefreshedAt(time.Now().Add(time.Hour)) // however slow this machine is, less than a second ago
	if knows("late") {
		t.Error("a second refresh within the same second read again: want it rate-limited")
	}
	other.SetRefreshedAt(time.Now().Add(-directory.RefreshInterval))
	if !knows("late") {
		t.Error("a refresh a second later did not find the source")
	}

	same := other.Current()
	other.SetRefreshedAt(time.Now().Add(-directory.RefreshInterval))
	if refreshed(t, other.Directory) != same {
		t.Error("a refresh without a change made a new snapshot")
	}
}

// TestRefreshWithoutDatabase holds that a node goes on with what it knows.
func TestRefreshWithoutDatabase(t *testing.T) {
	t.Parallel()
	n := configured(t)
	n.store.Close()
	got, err := n.Refresh(t.Context())
	if got.Project(relay.DefaultProject).Flow("checkout") == nil {
		t.Error("without its database the node forgot its configuration")
	}
	if !relay.IsKind(err, relay.Busy) {
		t.Errorf("Refresh: got %v, want busy: nobody can tell what there is", err)
	}
	if err := n.Load(t.Context()); err == nil {
		t.Error("Load: got no error without a database")
	}
	if n.project(t).Flow("checkout") == nil {
		t.Error("a failed Load threw away what there was")
	}
}

// TestLiveSecretsEnd holds that a secret ends at its time, read again or not.
func TestLiveSecretsEnd(t *testing.T) {
	t.Parallel()
	n := configured(t)
	src := n.project(t).Source("pay")
	err := n.Change(t.Context(), func(c *store.Change) error {
		id, err := c.PutSecret(t.Context(), src.ProjectID, src.ID, "s-2")
		if err != nil {
			return err
		}
		return c.ExpireOtherSecrets(t.Context(), src.ID, id, time.Hour)
	})
	if err != nil {
		t.Fatal(err)
	}
	src = n.project(t).Source("pay")
	end := src.Secrets[1].ExpiresAt
	if end == nil || src.Secrets[0].ExpiresAt != nil {
		t.Fatalf("got %+v, want the older secret to end and the current one not to", src.Secrets)
	}
	for _, test := range []struct {
		name string
		at   time.Time
		want []string
	}{
		{"before", end.Add(-time.Nanosecond), list("s-2", "s-1")},
		{"at its end", *end, list("s-2")},
		{"after", end.Add(time.Hour), list("s-2")},
	} {
		got, ids := src.LiveSecrets(test.at)
		if !slices.Equal(got, test.want) || len(ids) != len(got) || ids[0] != src.Secrets[0].ID {
			t.Errorf("%s: got %v, want %v with their ids", test.name, got, test.want)
		}
	}
}

func TestAwaitsSecret(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.apply(t, document(nil, list(`{"name":"later","provider":"stripe"}`, `{"name":"never","provider":"html-form"}`, pay), nil), directory.Options{})
	for name, want := range map[string]bool{"later": true, "never": false, "pay": false, "form": false} {
		if got := n.project(t).Source(name).AwaitsSecret(); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

// TestReadingWhileChanging holds that whoever holds a snapshot sees one
// configuration: here, both destinations have the same token.
func TestReadingWhileChanging(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	reader := join(t, n.url, n.keys)
	reader.run(t)
	set := func(token string) {
		n.apply(t, document(list(`{"name":"a","platform":"certainly","token":"`+token+`"}`, `{"name":"b","platform":"certainly","token":"`+token+`"}`),
			list(pay), list(strings.Replace(checkout, `"bot"`, `"a"`, 1))), directory.Options{})
	}
	set("t0")
	eventually(t, "the reader knows them", func() bool { return reader.project(t).Flow("checkout") != nil })
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				s := reader.Current()
				p := s.Project(relay.DefaultProject)
				a, b := p.Destination("a"), p.Destination("b")
				if a.Account().Settings["token"] != b.Account().Settings["token"] {
					t.Errorf("got the tokens %q and %q in one snapshot", a.Account().Settings["token"], b.Account().Settings["token"])
				}
				if f := p.Flow("checkout"); f.Err != nil || s.Destination(f.Resolved.Compiled.On["completed"].DestinationID) != a {
					t.Errorf("the flow of a snapshot does not lead to its destination: %v", f.Err)
				}
				if len(plain(p.Source("pay"))) != 1 || s.SourceByID(p.Source("pay").ID) != p.Source("pay") {
					t.Error("the source of a snapshot is not whole")
				}
			}
		})
	}
	for i := range 15 {
		set(fmt.Sprintf("t%d", i+1))
	}
	stop.Store(true)
	wg.Wait()
	eventually(t, "the last token", func() bool {
		return reader.project(t).Destination("a").Account().Settings["token"] == "t15"
	})
}

// TestBrokenRows holds that a row which this program cannot use is out of use
// itself, and nothing else: not the node, not the other flows, and not the
// way to mend it.
func TestBrokenRows(t *testing.T) {
	t.Parallel()
	n := configured(t)
	n.apply(t, document(list(`{"name":"old","platform":"certainly","token":"t"}`), list(`{"name":"gone","provider":"stripe"}`), list(
		`{"name":"by-source","destination":"bot","source":"gone","module_id":1}`,
		`{"name":"by-platform","destination":"old","source":"pay","module_id":1}`,
		`{"name":"by-rule","destination":"bot","source":"pay","module_id":1}`,
	)), directory.Options{})
	n.exec(t, `UPDATE sources SET provider = 'bankrupt' WHERE name = 'gone'`)
	n.exec(t, `UPDATE destinations SET platform = 'geocities' WHERE name = 'old'`)
	n.exec(t, `UPDATE flows SET doc = '{"destination":"bot","source":"pay","when":"no_longer_a_name","on":{}}' WHERE name = 'by-rule'`)

	fresh := join(t, n.url, n.keys)
	p := fresh.project(t)
	if got := p.Flow("checkout"); got.Err != nil || got.Resolved == nil {
		t.Errorf("a flow that has nothing to do with it: %v", got.Err)
	}
	for _, name := range list("by-source", "by-platform", "by-rule") {
		if f := p.Flow(name); f.Err == nil || f.Resolved != nil {
			t.Errorf("%s: got a usable flow, want one that says why not", name)
		}
	}
	src := p.Source("gone")
	if src.Err == nil || src.Endpoint != nil || src.AwaitsSecret() || !strings.Contains(src.Err.Error(), "bankrupt") {
		t.Errorf("the source: got %v, want it to name the provider", src.Err)
	}
	if d := p.Destination("old"); d.Platform != nil || fresh.Current().PlatformOf(d.ID) != nil {
		t.Errorf("the destination: got the platform %v, want none", d.Platform)
	}
	// Anything else can be changed meanwhile, and each can be mended alone.
	for _, change := range []directory.Document{
		document(list(`{"name":"another","platform":"certainly","token":"t"}`), nil, nil),
		document(nil, list(`{"name":"gone","provider":"generic-hmac"}`), nil),
		document(nil, nil, list(`{"name":"by-rule","destination":"bot","source":"pay","module_id":2}`)),
	} {
		fresh.apply(t, change, directory.Options{})
	}
	if err := fresh.Delete(t.Context(), relay.DefaultProject, directory.KindFlow, "by-platform"); err != nil {
		t.Errorf("deleting what is broken: %v", err)
	}
	for _, f := range fresh.project(t).Flows() {
		if f.Err != nil {
			t.Errorf("%s is still broken: %v", f.Name, f.Err)
		}
	}
	// And what works is still protected.
	if err := fresh.Delete(t.Context(), relay.DefaultProject, directory.KindSource, "gone"); !isCode(err, "in_use") {
		t.Errorf("got %v, want in_use", err)
	}
}

func TestCanFire(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.apply(t, document(list(bot), list(pay, `{"name":"stripe","provider":"stripe"}`, `{"name":"contact","provider":"html-form"}`), nil), directory.Options{})
	const e = `,"expect":{"currency":"EUR"}`
	for fields, want := range map[string]string{
		`"source":"contact"`:                  "completed cancelled expired paid_again",
		`"source":"pay"`:                      "completed failed cancelled expired processing paid_again",
		`"source":"stripe"` + e:               "completed failed cancelled expired attempt_failed processing mismatch refunded disputed paid_again",
		`"source":"stripe"`:                   "completed failed cancelled expired attempt_failed processing refunded disputed paid_again",
		`"source":["contact","stripe"]`:       "completed failed cancelled expired attempt_failed processing refunded disputed paid_again",
		`"source":["contact","stripe"]` + e:   "completed failed cancelled expired attempt_failed processing mismatch refunded disputed paid_again",
		`"source":["contact","contact"]`:      "completed cancelled expired paid_again",
		`"link":{"contact":"https://a.test"}`: "completed cancelled expired paid_again",
	} {
		n.apply(t, document(nil, nil, list(`{"name":"x","module_id":1,`+fields+`}`)), directory.Options{})
		var got []string
		for _, o := range n.project(t).Flow("x").Resolved.CanFire {
			got = append(got, string(o))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", fields, got, want)
		}
	}
	// What can fire may have an action, and nothing else.
	for _, o := range relay.ActionNames {
		doc := document(nil, nil, list(`{"name":"x","source":"contact","on":{"`+o+`":{"text":"x"}}}`))
		_, err := n.Apply(t.Context(), []directory.Document{doc}, directory.Options{DryRun: true})
		reachable := slices.Contains(list("completed", "cancelled", "expired", "paid_again", "completed_late", "default"), o)
		if reachable && err != nil || !reachable && !isCode(err, "outcome_unreachable") {
			t.Errorf("on.%s of a form: got %v, want it taken: %v", o, err, reachable)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.apply(t, document(list(bot), list(pay, `{"name":"contact","provider":"html-form"}`, `{"name":"stripe","provider":"stripe","secret":"whsec_1"}`), nil),
		directory.Options{})
	for on, want := range map[string][]string{
		`{}`:                            list("completed, expired, cancelled, failed: no action"),
		`{"completed":{"module_id":1}}`: list("expired, cancelled, failed: no action"),
		`{"default":{"module_id":1}}`:   {},
		`{"default":{"action":"none"}}`: {},
		`{"completed":{"module_id":1},"expired":{"text":"x"},"cancelled":{"action":"none"},"failed":{"text":"x"}}`: {},
	} {
		n.apply(t, document(nil, nil, list(`{"name":"x","source":"pay","on":`+on+`}`)), directory.Options{})
		if diff := cmp.Diff(want, n.project(t).Flow("x").Resolved.Warnings); diff != "" {
			t.Errorf("%s (-want +got):\n%s", on, diff)
		}
	}
	// Also what the sources never tell of: a person may end a wait with it.
	for source, want := range map[string]string{
		"contact": "expired, cancelled, failed: no action",
		"stripe":  "expired, cancelled, failed: no action",
	} {
		n.apply(t, document(nil, nil, list(`{"name":"x","source":"`+source+`","module_id":1}`)), directory.Options{})
		if diff := cmp.Diff(list(want), n.project(t).Flow("x").Resolved.Warnings); diff != "" {
			t.Errorf("%s (-want +got):\n%s", source, diff)
		}
	}
}

// TestWarningsOfSources holds that what keeps callbacks from being of use is
// told before somebody waits for one.
func TestWarningsOfSources(t *testing.T) {
	t.Parallel()
	const dear = `"expect":{"amount":"20.50"},"on":{"mismatch":{"text":"x"},"default":{"module_id":1}}`
	for _, test := range []struct{ name, sources, flow, want string }{
		{"no secret", `{"name":"s","provider":"typeform"}`, ``, "s: it has no secret yet, so that all its callbacks are answered 401"},
		{"no webhook_ids", `{"name":"s","provider":"paypal"}`, ``, "s: it has no webhook_ids yet, so that all its callbacks are answered 401"},
		{"nothing signed", `{"name":"s","provider":"html-form"}`, ``, ""},
		{"nothing but what to ask for", `{"name":"s","provider":"mollie-classic"}`, dear, "s: its callbacks decide nothing without an api_key"},
		{"the same with a key", `{"name":"s","provider":"mollie-classic","api_key":"live_1"}`, dear, ""},
		{"any amount", `{"name":"s","provider":"mollie-classic","api_key":"live_1"}`, ``, "s: nobody signs its callbacks, and any payment"},
		{
			"any amount of a currency", `{"name":"s","provider":"mollie-classic","api_key":"live_1"}`,
			`"expect":{"currency":"EUR"},"on":{"mismatch":{"text":"x"},"default":{"module_id":1}}`, "s: nobody signs its callbacks, and any payment",
		},
		{"any amount of what is signed", `{"name":"s","provider":"mollie-nextgen","secret":"x"}`, ``, ""},
		{"a fetched form", `{"name":"s","provider":"surveymonkey","secret":"a&b","api_key":"k"}`, ``, ""},
		{"a secret that Stripe gives nobody", `{"name":"s","provider":"stripe","secret":"my secret"}`, ``, "s: its secret does not begin with whsec_"},
		{"one that it does", `{"name":"s","provider":"stripe","secret":"whsec_1"}`, ``, ""},
		{"attempts of Stripe", `{"name":"s","provider":"stripe","secret":"whsec_1"}`, `"on":{"attempt_failed":{"text":"x"},"default":{"module_id":1}}`, "s: a failed attempt may name nobody"},
		{"attempts that nobody is told of", `{"name":"s","provider":"stripe","secret":"whsec_1"}`, `"on":{"attempt_failed":{"action":"none"},"default":{"module_id":1}}`, ""},
		{"attempts of Stripe, with a key", `{"name":"s","provider":"stripe","secret":"whsec_1","api_key":"rk_1"}`, `"on":{"attempt_failed":{"text":"x"},"default":{"module_id":1}}`, ""},
		{"attempts of one that names whose", `{"name":"s","provider":"adyen","secret":"` + strings.Repeat("a1", 32) + `"}`, `"on":{"attempt_failed":{"text":"x"},"default":{"module_id":1}}`, ""},
		{"an expectation without an action", `{"name":"s","provider":"stripe","secret":"whsec_1"}`, `"expect":{"currency":"EUR"}`, "mismatch: no action"},
		{"an expectation with one", `{"name":"s","provider":"stripe","secret":"whsec_1"}`, `"expect":{"currency":"EUR"},"on":{"mismatch":{"text":"x"},"default":{"module_id":1}}`, ""},
		{"a link without a place", `{"name":"s","provider":"generic-hmac","secret":"x"}`, `"link":"https://a.example/pay"`, "s: its link carries no token"},
		{"a link with the token", `{"name":"s","provider":"generic-hmac","secret":"x"}`, `"link":"https://a.example/pay?t={{ correlation.token }}"`, ""},
		{"a link with the key", `{"name":"s","provider":"generic-hmac","secret":"x"}`, `"link":"https://a.example/{{ correlation.key }}"`, ""},
		{"a link with a place", `{"name":"s","provider":"stripe","secret":"whsec_1"}`, `"link":"https://a.example/pay"`, ""},
		{"a callback's own URL", `{"name":"s","provider":"html-form"}`, `"link":"https://a.example/pay"`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			fields := test.flow
			if !strings.Contains(fields, `"on"`) {
				fields = strings.TrimPrefix(fields+`,"on":{"default":{"module_id":1}}`, ",")
			}
			n.apply(t, document(list(bot), list(test.sources), list(`{"name":"x","source":"s",`+fields+`}`)), directory.Options{})
			got := strings.Join(n.project(t).Flow("x").Resolved.Warnings, "\n")
			if (test.want == "") != (got == "") || !strings.HasPrefix(got, test.want) || strings.Contains(got, "\n") {
				t.Errorf("got the warnings %q, want %q alone", got, test.want)
			}
		})
	}
	// One of several sources.
	n := newNode(t)
	n.apply(t, document(list(bot), list(`{"name":"stripe","provider":"stripe","secret":"whsec_1"}`, `{"name":"square","provider":"square","secret":"x"}`,
		`{"name":"contact","provider":"html-form"}`),
		list(`{"name":"x","source":["stripe","square","contact"],"expect":{"live":true},"on":{"mismatch":{"text":"x"},"default":{"module_id":1}}}`)), directory.Options{})
	want := list("square: it never tells payment.live, which is expected: each of its payments or forms is a mismatch",
		"contact: it never tells of a payment, which is expected: each of its payments or forms is a mismatch")
	if diff := cmp.Diff(want, n.project(t).Flow("x").Resolved.Warnings); diff != "" {
		t.Errorf("several sources (-want +got):\n%s", diff)
	}
}

// TestWarningsOfStrayFields holds that a field which the hosted form has not is
// told when the flow is saved.
func TestWarningsOfStrayFields(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.apply(t, document(list(bot), list(`{"name":"contact","provider":"html-form"}`), nil), directory.Options{})
	const asks = `"form":{"fields":[{"name":"email"},{"name":"size"}]}`
	warned := func(name string) string { return "form." + name + ": the form has no such field, so that it is null" }
	for _, test := range []struct {
		name, flow string
		want       []string
	}{
		{"all are there", asks + `,"when":"form.size != 'x'","on":{"default":{"text":"{{ form.email }}"}}`, []string{}},
		{
			"everywhere", asks + `,"when":"form.siz != 'x'","return_url":"https://a.example/{{ form.eMail }}",
				"on":{"default":{"text":"{{ form.mail + form['to'] }}","fallback":{"text":"{{ form.mail }} {{ form.fall }}"}}}`,
			list(warned("eMail"), warned("fall"), warned("mail"), warned("siz"), warned("to")),
		},
		{"by its label", `"form":{"fields":[{"name":"eMail","label":"Your address?"}]},"on":{"default":{"text":"{{ form.email + form.your_address }}"}}`, []string{}},
		{"a label for each", `"form":{"fields":[{"name":"a","label":"{{ correlation.data.q }}"}]},"on":{"default":{"text":"{{ form.b }}"}}`, []string{}},
		{"another source may tell it", asks + `,"source":["form","contact"],"on":{"default":{"text":"{{ form.other }}"}}`, []string{}},
		{"no hosted form", `"source":"contact","on":{"default":{"text":"{{ form.other }}"}}`, []string{}},
	} {
		n.apply(t, document(nil, nil, list(`{"name":"x","destination":"bot",`+test.flow+`}`)), directory.Options{})
		if diff := cmp.Diff(test.want, n.project(t).Flow("x").Resolved.Warnings); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestResolveDefaults holds what may be left out, and what a wait without a
// flow is about.
func TestResolveDefaults(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.apply(t, document(list(bot), list(pay), nil), directory.Options{})
	s, p := n.Current(), n.project(t)
	module := func(id any) relay.Flow {
		return relay.Flow{On: map[string]relay.Action{"completed": {ModuleID: id}}}
	}
	r, err := s.Resolve(p, module(5.0))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.SourceIDs) != 1 || r.SourceIDs[0] != p.Source("pay").ID || r.Compiled.On["completed"].DestinationID != p.Destination("bot").ID {
		t.Errorf("got the sources %v, want the only ones there are; the built-in source does not count", r.SourceIDs)
	}
	again, err := s.Resolve(p, module(5.0))
	if err != nil || again.PlanID != r.PlanID || again.Scope != r.Scope {
		t.Errorf("the same once more: got plan %s and scope %q, %v, want the same", again.PlanID, again.Scope, err)
	}
	other, err := s.Resolve(p, module(6.0))
	if err != nil || other.PlanID == r.PlanID || other.Scope == r.Scope {
		t.Errorf("another module: got plan %s and scope %q, %v, want others", other.PlanID, other.Scope, err)
	}
	inFlow := module(5.0)
	inFlow.Name = "checkout"
	named, err := s.Resolve(p, inFlow)
	if err != nil || named.PlanID != r.PlanID || named.Scope == r.Scope {
		t.Errorf("in a flow: got plan %s and scope %q, %v, want the same plan in another scope", named.PlanID, named.Scope, err)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	project := n.project(t).ID
	const text = "rk_0123456789abcdef0123"
	key := relay.APIKey{ID: relay.NewID(), ProjectID: project, Name: "bot", Scope: relay.ScopeCreate, Hash: sha256.Sum256([]byte(text)), Hint: "rk_0"}
	instance := relay.APIKey{ID: relay.NewID(), Name: "ops", Scope: relay.ScopeInstance, Hash: sha256.Sum256([]byte("other")), Hint: "o"}
	err := n.Change(t.Context(), func(c *store.Change) error {
		if err := c.PutKey(t.Context(), key); err != nil {
			return err
		}
		return c.PutKey(t.Context(), instance)
	})
	if err != nil {
		t.Fatal(err)
	}
	got := n.Current().Key(text)
	if got == nil || got.ID != key.ID || got.Scope != relay.ScopeCreate || got.ProjectID != project {
		t.Errorf("got %+v, want the key", got)
	}
	if ops := n.Current().Key("other"); ops == nil || ops.ProjectID != 0 {
		t.Errorf("got %+v, want the instance key", ops)
	}
	for _, stranger := range list("", "rk_", text+" ", strings.ToUpper(text)) {
		if got := n.Current().Key(stranger); got != nil {
			t.Errorf("Key(%q): got %+v, want none", stranger, got)
		}
	}
	if got := n.project(t).Keys(); len(got) != 1 || got[0].ID != key.ID {
		t.Errorf("the project's keys: got %v, want its own one", got)
	}
	if strings.Contains(storetest.Query[string](t, n.url, `SELECT string_agg(api_keys::text, ' ') FROM api_keys`), text) {
		t.Error("the key stands in the database in clear")
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	log := leaks.Logger(t)
	for name, cfg := range map[string]directory.Config{
		"no store": {PublicURL: publicURL, Log: log}, "no log": {Store: s, PublicURL: publicURL}, "no public URL": {Store: s, Log: log},
	} {
		if _, err := directory.New(cfg); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	d, err := directory.New(directory.Config{Store: s, PublicURL: publicURL, Log: log})
	if err != nil || d.Current() == nil || len(d.Current().Projects()) != 0 {
		t.Errorf("before Load: got %v, want a directory that is empty", err)
	}
}
