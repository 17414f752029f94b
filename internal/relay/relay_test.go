package relay_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
)

func TestToken(t *testing.T) {
	t.Parallel()
	shape := regexp.MustCompile(`^[0-9A-Za-z]{22}$`)
	seen, used := map[string]bool{}, map[rune]bool{}
	for range 20_000 {
		token := relay.NewToken()
		if !shape.MatchString(token) || !relay.IsToken(token) {
			t.Fatalf("got %q, want 22 of [0-9A-Za-z]", token)
		}
		if seen[token] {
			t.Fatalf("the token %q was minted twice", token)
		}
		seen[token] = true
		for _, digit := range token[:21] { // the last one holds what is left of 128 bits
			used[digit] = true
		}
	}
	if len(used) != 62 {
		t.Errorf("tokens use %d characters, want all 62", len(used))
	}
	good := strings.Repeat("a", 22)
	for _, bad := range []string{
		"", good[1:], good + "a", good[:21] + "-", good[:21] + "\x00", " " + good[1:], good[:20] + "é", good[:21] + "\n",
	} {
		if relay.IsToken(bad) {
			t.Errorf("IsToken(%q): got true, want false", bad)
		}
	}
}

func TestNewIDsAreInOrder(t *testing.T) {
	t.Parallel()
	last := relay.NewID()
	for range 1000 {
		next := relay.NewID()
		if next.Version() != 7 || next.String() <= last.String() {
			t.Fatalf("got %s after %s, want a later UUIDv7", next, last)
		}
		last = next
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "45m": 45 * time.Minute, "36h": 36 * time.Hour, "3d": 72 * time.Hour,
		"0s": 0, "1h30m": 90 * time.Minute, "100ms": 100 * time.Millisecond, "-5m": -5 * time.Minute,
		"36500d": 36500 * 24 * time.Hour,
	} {
		if got, err := relay.ParseDuration(text); err != nil || time.Duration(got) != want {
			t.Errorf("ParseDuration(%q): got %s, %v, want %s", text, time.Duration(got), err, want)
		}
	}
	for _, bad := range []string{"", "5", "d", "1.5d", "3days", "1d12h", "36501d", "99999999999999999999d", "1 h", "5M", "∞"} {
		if got, err := relay.ParseDuration(bad); err == nil {
			t.Errorf("ParseDuration(%q): got %s, want a refusal", bad, got)
		} else if !strings.Contains(err.Error(), "90s, 45m, 36h or 3d") {
			t.Errorf("ParseDuration(%q): got %q, want it to show how to write one", bad, err)
		}
	}
}

func TestParseRate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"50/s": 20 * time.Millisecond, "0.5/s": 2 * time.Second, "90/m": time.Minute / 90, "500/h": 7200 * time.Millisecond,
		"100000/s": relay.MinInterval, "1/h": time.Hour,
	} {
		if got, err := relay.ParseRate(text); got != want || err != nil {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "50", "/s", "50/d", "50/", "0/s", "-1/s", "NaN/s", "Inf/s", "100001/s", "0.01/h", "fast", "5/s/s"} {
		if got, err := relay.ParseRate(text); !relay.IsKind(err, relay.Invalid) {
			t.Errorf("%q: got %v, %v, want a refusal", text, got, err)
		}
	}
}

func TestDurationPrints(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 90 * time.Second: "90s", 120 * time.Second: "2m", 45 * time.Minute: "45m",
		36 * time.Hour: "36h", 72 * time.Hour: "3d", 1500 * time.Millisecond: "1.5s", -24 * time.Hour: "-1d",
	} {
		if got := relay.Duration(d).String(); got != want {
			t.Errorf("Duration(%s): got %q, want %q", d, got, want)
		}
	}
}

// FuzzDuration holds that what is printed is read back as the same.
func FuzzDuration(f *testing.F) {
	for _, d := range []int64{1, -1, int64(time.Second), int64(24 * time.Hour), -int64(48 * time.Hour), 1_000_001} {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, d int64) {
		if d == 0 || d > int64(36500*24*time.Hour) || d < -int64(36500*24*time.Hour) {
			return
		}
		text, err := relay.Duration(d).MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back relay.Duration
		if err := back.UnmarshalText(text); err != nil || int64(back) != d {
			t.Fatalf("%d was printed as %q and read back as %d, %v", d, text, back, err)
		}
	})
}

func TestZeroDurations(t *testing.T) {
	t.Parallel()
	var d relay.Duration
	if err := d.UnmarshalText([]byte("0s")); err == nil {
		t.Error("a Duration of 0s: got no error, want it refused")
	}
	var delay relay.Delay
	if err := delay.UnmarshalText([]byte("0s")); err != nil || delay != 0 {
		t.Errorf("a Delay of 0s: got %d, %v, want zero", delay, err)
	}
}

func TestDurationOr(t *testing.T) {
	t.Parallel()
	if got := relay.Duration(0).Or(time.Hour); got != time.Hour {
		t.Errorf("zero: got %s, want the fallback", got)
	}
	if got := relay.Duration(time.Minute).Or(time.Hour); got != time.Minute {
		t.Errorf("1m: got %s, want itself", got)
	}
}

// The id of a fallback comes right behind that of what it stands for, and
// before all that was made later.
func TestFallbackID(t *testing.T) {
	t.Parallel()
	for range 1000 {
		first, later := relay.NewID(), relay.NewID()
		behind := relay.FallbackID(first)
		if a, b, c := first.String(), behind.String(), later.String(); a >= b || b >= c {
			t.Fatalf("got %s, %s, %s, want them in order", a, b, c)
		}
	}
	full := uuid.MustParse("0193f3a1-7b5c-7def-8123-4567ffffffff")
	if got := relay.FallbackID(full).String(); got != "0193f3a1-7b5c-7def-8123-456800000000" {
		t.Errorf("got %s, want it carried on", got)
	}
}

func TestNextTry(t *testing.T) {
	t.Parallel()
	const almost = 1 - 1e-9
	for _, test := range []struct {
		name       string
		class      relay.Class
		n          int
		retryAfter time.Duration
		onUnknown  string
		random     float64
		wantStatus relay.DeliveryStatus
		want       time.Duration // to the microsecond
	}{
		{"ok", relay.OK, 1, time.Hour, "", 1, relay.Delivered, 0},
		{"permanent", relay.Permanent, 1, time.Hour, "", 1, relay.Dead, 0},
		{"credentials are looked at again, and held", relay.Credentials, 9, 0, "", 1, relay.Scheduled, time.Second},
		{"first", relay.Retry, 1, 0, "", almost, relay.Scheduled, time.Second},
		{"second", relay.Retry, 2, 0, "", almost, relay.Scheduled, 2 * time.Second},
		{"ninth is below the cap", relay.Retry, 9, 0, "", almost, relay.Scheduled, 256 * time.Second},
		{"tenth is at the cap", relay.Retry, 10, 0, "", almost, relay.Scheduled, 5 * time.Minute},
		{"thousandth is at the cap", relay.Retry, 1000, 0, "", almost, relay.Scheduled, 5 * time.Minute},
		{"jitter is full", relay.Retry, 10, 0, "", 0, relay.Scheduled, 0},
		{"jitter is even", relay.Retry, 10, 0, "", 0.5, relay.Scheduled, 150 * time.Second},
		{"asked to wait longer", relay.Retry, 1, 7 * time.Minute, "", almost, relay.Scheduled, 7 * time.Minute},
		{"asked to wait shorter", relay.Retry, 5, time.Second, "", almost, relay.Scheduled, 16 * time.Second},
		{"asked to wait too long", relay.Retry, 1, 24 * time.Hour, "", almost, relay.Scheduled, 15 * time.Minute},
		{"no answer is tried again", relay.NoAnswer, 1, 0, "", almost, relay.Scheduled, time.Second},
		{"no answer is tried again by the policy", relay.NoAnswer, 1, 0, relay.RetryUnknown, almost, relay.Scheduled, time.Second},
		{"no answer is held", relay.NoAnswer, 1, time.Hour, relay.HoldUnknown, almost, relay.Unknown, 0},
		{"no answer is asked for, but not at once", relay.NoAnswer, 1, 0, relay.ConfirmUnknown, almost, relay.Scheduled, 5 * time.Second},
		{"no answer is asked for, later each time", relay.NoAnswer, 5, 0, relay.ConfirmUnknown, almost, relay.Scheduled, 16 * time.Second},
		{"what never arrived is not held", relay.Retry, 1, 0, relay.HoldUnknown, almost, relay.Scheduled, time.Second},
		{"what was taken is not held", relay.OK, 1, 0, relay.HoldUnknown, almost, relay.Delivered, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			status, delay := relay.NextTry(test.class, test.n, test.retryAfter, test.onUnknown, test.random)
			if status != test.wantStatus || delay.Round(time.Microsecond) != test.want {
				t.Errorf("got %s after %s, want %s after %s", status, delay, test.wantStatus, test.want)
			}
		})
	}
	for n := 1; n < 200; n++ {
		for range 20 {
			if _, d := relay.NextTry(relay.Retry, n, 0, relay.HoldUnknown, relay.Jitter()); d < 0 || d > 5*time.Minute {
				t.Fatalf("attempt %d: got a delay of %s, want 0 to 5m", n, d)
			}
		}
	}
}

// TestTimeoutFitsTheLease holds what deliver relies on: a send begins only
// while its lease outlasts its timeout, so a longer one would never be sent.
func TestTimeoutFitsTheLease(t *testing.T) {
	t.Parallel()
	const queueing = 5 * time.Second // to wait for a worker, and to record
	if relay.MaxTimeout+queueing > relay.Lease {
		t.Errorf("MaxTimeout is %s and a lease %s: want %s to spare", relay.MaxTimeout, relay.Lease, queueing)
	}
	if relay.DefaultTimeout > relay.MaxTimeout {
		t.Errorf("DefaultTimeout %s is more than MaxTimeout %s", relay.DefaultTimeout, relay.MaxTimeout)
	}
}

func TestAmounts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		currency string
		minor    int64
		amount   any
		text     string
	}{
		{"EUR", 2050, 20.5, "20.50"},
		{"EUR", 5, 0.05, "0.05"},
		{"EUR", 0, 0.0, "0.00"},
		{"EUR", -2050, -20.5, "-20.50"},
		{"EUR", -5, -0.05, "-0.05"},
		{"eur", 100, 1.0, "1.00"},
		{"JPY", 2050, int64(2050), "2050"},
		{"jpy", -1, int64(-1), "-1"},
		{"BHD", 2050, 2.05, "2.050"},
		{"KWD", 1, 0.001, "0.001"},
		{"CLF", 12345, 1.2345, "1.2345"},
		{"QQQ", 2050, 20.5, "20.50"}, // nobody's currency: most have two digits
		{"EUR", math.MaxInt64, 92233720368547758.07, "92233720368547758.07"},
		{"EUR", math.MinInt64, -92233720368547758.08, "-92233720368547758.08"},
	} {
		t.Run(fmt.Sprintf("%d %s", test.minor, test.currency), func(t *testing.T) {
			t.Parallel()
			exp := relay.CurrencyExponent(test.currency)
			p := &relay.Payment{AmountMinor: &test.minor, Currency: test.currency, Exponent: exp}
			if diff := cmp.Diff(test.amount, p.Amount()); diff != "" {
				t.Errorf("Amount (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(any(test.text), p.AmountText()); diff != "" {
				t.Errorf("AmountText (-want +got):\n%s", diff)
			}
			if back, ok := relay.ParseMinor(test.text, exp); !ok || back != test.minor {
				t.Errorf("ParseMinor(%q, %d): got %d, %v, want %d", test.text, exp, back, ok, test.minor)
			}
		})
	}
	for name, p := range map[string]*relay.Payment{"no payment": nil, "no amount": {Currency: "EUR", Exponent: 2}} {
		if p.Amount() != nil || p.AmountText() != nil {
			t.Errorf("%s: got %v and %v, want null", name, p.Amount(), p.AmountText())
		}
	}
}

func TestParseMinor(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text string
		exp  int
		want int64
		ok   bool
	}{
		{"20.5", 2, 2050, true},
		{"20.50", 2, 2050, true},
		{"20.500", 2, 2050, true}, // nothing is lost
		{"20", 2, 2000, true},
		{"20.505", 2, 0, false},
		{"2050", 0, 2050, true},
		{"2050.0", 0, 2050, true},
		{"2050.5", 0, 0, false},
		{"2.05", 3, 2050, true},
		{"-0.05", 2, -5, true},
		{"", 2, 0, false},
		{".5", 2, 0, false},
		{"1,234", 2, 0, false},
		{"1e3", 2, 0, false},
		{"20.5.0", 2, 0, false},
		{"20.5.1", 4, 0, false},
		{"20 ", 2, 0, false},
		{"EUR 20", 2, 0, false},
		{"0x10", 2, 0, false},
		{"1_000", 2, 0, false},
		{"NaN", 2, 0, false},
		{"5.-1", 2, 0, false},
		{"99999999999999999999", 2, 0, false},
	} {
		if got, ok := relay.ParseMinor(test.text, test.exp); ok != test.ok || ok && got != test.want {
			t.Errorf("ParseMinor(%q, %d): got %d, %v, want %d, %v", test.text, test.exp, got, ok, test.want, test.ok)
		}
	}
}

// FuzzMinor holds that amounts are written and read without loss.
func FuzzMinor(f *testing.F) {
	for _, minor := range []int64{0, 1, -1, 99, -100, 2050, math.MaxInt64, math.MinInt64} {
		f.Add(minor, uint8(2))
	}
	f.Fuzz(func(t *testing.T, minor int64, exp uint8) {
		digits := int(exp % 5)
		text := relay.FormatMinor(minor, digits)
		if got, ok := relay.ParseMinor(text, digits); !ok || got != minor {
			t.Fatalf("%d with %d digits was written %q and read back as %d, %v", minor, digits, text, got, ok)
		}
	})
}

func TestErrors(t *testing.T) {
	t.Parallel()
	inner := relay.Errorf(relay.Conflict, "in_use", "the flow %q", "a")
	err := relay.At("flows.a", fmt.Errorf("while saving: %w", inner))
	var e *relay.Error
	if !errors.As(err, &e) || e.Kind != relay.Conflict || e.Code != "in_use" || e.Detail != `flows.a: the flow "a"` {
		t.Errorf("At: got %+v, want kind and code kept and the place before the detail", err)
	}
	if plain := relay.At("x", errors.New("broken")); plain.Error() != "x: broken" {
		t.Errorf("At of another error: got %q, want %q", plain, "x: broken")
	}
	if !relay.IsKind(fmt.Errorf("wrapped: %w", inner), relay.Conflict) || relay.IsKind(inner, relay.Invalid) || relay.IsKind(nil, relay.Conflict) {
		t.Error("IsKind: want true for the kind of a wrapped Error, else false")
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		names relay.Names
		out   string
	}{
		`"stripe"`:            {relay.Names{"stripe"}, `"stripe"`},
		`["stripe"]`:          {relay.Names{"stripe"}, `"stripe"`},
		`["stripe","paypal"]`: {relay.Names{"stripe", "paypal"}, `["stripe","paypal"]`},
		` "stripe" `:          {relay.Names{"stripe"}, `"stripe"`},
	} {
		var got relay.Names
		if err := json.Unmarshal([]byte(in), &got); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if diff := cmp.Diff(want.names, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
		if out, err := json.Marshal(got); err != nil || string(out) != want.out {
			t.Errorf("%s: written as %s, %v, want %s", in, out, err, want.out)
		}
	}
	for _, bad := range []string{`5`, `{"a":"b"}`, `[1]`, `[["a"]]`, `true`} {
		var got relay.Names
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s: got %v, want a refusal", bad, got)
		}
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]relay.Links{
		`"https://a.example"`:            {Any: "https://a.example"},
		`{"stripe":"https://a.example"}`: {BySource: map[string]string{"stripe": "https://a.example"}},
		`""`:                             {},
	} {
		// What was there before is not to shine through.
		got := relay.Links{Any: "old", BySource: map[string]string{"old": "old"}}
		if err := json.Unmarshal([]byte(in), &got); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
		if out, err := json.Marshal(got); err != nil || string(out) != in {
			t.Errorf("%s: written as %s, %v", in, out, err)
		}
	}
	for _, bad := range []string{`5`, `["https://a.example"]`, `{"a":5}`} {
		var got relay.Links
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s: got %v, want a refusal", bad, got)
		}
	}
	if !(relay.Links{}).IsZero() || !(relay.Links{BySource: map[string]string{}}).IsZero() || (relay.Links{Any: "x"}).IsZero() ||
		(relay.Links{BySource: map[string]string{"a": "b"}}).IsZero() {
		t.Error("IsZero: want true exactly where there is no link")
	}
}

func TestOverride(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	base := relay.Flow{
		Name: "checkout", Destination: "bot", Source: relay.Names{"stripe"}, Link: relay.Links{Any: "https://a.example"},
		ExpiresIn: 1, Expect: &relay.Expect{Currency: "EUR", Live: &yes}, When: "true", OnConflict: relay.Keep,
		ProcessingFor: 2, RetryFor: 3, ReturnURL: "https://r.example",
		CustomVars: map[string]any{"a": "base", "b": "base"},
		On:         map[string]relay.Action{"completed": {ModuleID: 1.0, WaitTime: 5.0}, "failed": {Text: "base"}},
	}
	if diff := cmp.Diff(base, base.Override(relay.Flow{})); diff != "" {
		t.Errorf("overridden by nothing (-want +got):\n%s", diff)
	}
	over := relay.Flow{
		Destination: "other", Source: relay.Names{"paypal"}, Link: relay.Links{BySource: map[string]string{"paypal": "https://b.example"}},
		ExpiresIn: 10, Expect: &relay.Expect{Live: &no}, When: "false", OnConflict: relay.Reject,
		ProcessingFor: 20, RetryFor: 30, ReturnURL: "https://s.example",
		CustomVars: map[string]any{"b": "over", "c": "over"},
		On:         map[string]relay.Action{"completed": {ModuleID: 2.0}, "expired": {Text: "over"}},
	}
	want := over
	want.Name = "checkout"
	want.CustomVars = map[string]any{"a": "base", "b": "over", "c": "over"}
	want.On = map[string]relay.Action{"completed": {ModuleID: 2.0}, "failed": {Text: "base"}, "expired": {Text: "over"}}
	if diff := cmp.Diff(want, base.Override(over)); diff != "" {
		t.Errorf("overridden by everything (-want +got):\n%s", diff)
	}
	if len(base.On) != 2 || base.CustomVars["b"] != "base" || over.CustomVars["a"] != nil {
		t.Errorf("Override changed what it was given: %+v", base)
	}
}

func TestPlanCanonical(t *testing.T) {
	t.Parallel()
	var first string
	for range 50 {
		p := relay.Plan{
			CustomVars: map[string]any{"z": 1.0, "a": 2.0, "m": map[string]any{"y": 1.0, "b": 2.0}},
			On:         map[string]relay.Action{"failed": {Text: "x"}, "completed": {ModuleID: 1.0}, "expired": {}},
		}
		raw, err := p.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = string(raw)
		}
		if string(raw) != first {
			t.Fatalf("equal plans were written differently:\n%s\n%s", first, raw)
		}
	}
}
