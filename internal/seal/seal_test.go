package seal_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"relay.example/relay/internal/seal"
)

func ring(t *testing.T, keys ...string) *seal.Ring {
	t.Helper()
	r, err := seal.ParseRing(strings.Join(keys, ","))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	r := ring(t, seal.NewKey())
	for _, plain := range []string{"", "whsec_abc", strings.Repeat("x", 100_000), "\x00\xff"} {
		sealed := r.Seal([]byte(plain), "source/1/stripe")
		if len(plain) > 3 && bytes.Contains(sealed, []byte(plain)) {
			t.Errorf("%.10q: the sealed value holds the plain one", plain)
		}
		got, err := r.Open(sealed, "source/1/stripe")
		if err != nil || string(got) != plain {
			t.Errorf("%.10q: got %.10q, %v, want it back", plain, got, err)
		}
	}
	if a, b := r.Seal([]byte("x"), "c"), r.Seal([]byte("x"), "c"); bytes.Equal(a, b) {
		t.Error("two seals of one value are equal: want a nonce of its own for each")
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	key := seal.NewKey()
	r := ring(t, key)
	sealed := r.Seal([]byte("whsec_abc"), "source/1/stripe")
	t.Run("a value moved to another row", func(t *testing.T) {
		t.Parallel()
		for _, place := range []string{"source/2/stripe", "", "source/1/stripe "} {
			if got, err := r.Open(sealed, place); err == nil {
				t.Errorf("%q: got %q, want an error", place, got)
			}
		}
	})
	t.Run("any byte changed", func(t *testing.T) {
		t.Parallel()
		for i := range sealed {
			changed := bytes.Clone(sealed)
			changed[i] ^= 1
			if got, err := r.Open(changed, "source/1/stripe"); err == nil {
				t.Errorf("byte %d: got %q, want an error", i, got)
			}
		}
	})
	t.Run("any length but its own", func(t *testing.T) {
		t.Parallel()
		for n := range sealed {
			if got, err := r.Open(sealed[:n], "source/1/stripe"); err == nil {
				t.Errorf("%d bytes: got %q, want an error", n, got)
			}
		}
		if got, err := r.Open(append(bytes.Clone(sealed), 0), "source/1/stripe"); err == nil {
			t.Errorf("a byte more: got %q, want an error", got)
		}
	})
	t.Run("an unknown key", func(t *testing.T) {
		t.Parallel()
		other := ring(t, seal.NewKey())
		_, err := other.Open(sealed, "source/1/stripe")
		if !errors.Is(err, seal.ErrUnknownKey) {
			t.Fatalf("got %v, want ErrUnknownKey", err)
		}
		if !strings.Contains(err.Error(), seal.KeyID(sealed)) || strings.Contains(err.Error(), key) {
			t.Errorf("got %q, want it to name the key by its id and never by itself", err)
		}
		if other.Knows(sealed) || !r.Knows(sealed) {
			t.Error("Knows: want true of the ring that sealed, false of another")
		}
	})
}

func TestRotation(t *testing.T) {
	t.Parallel()
	older, newer := seal.NewKey(), seal.NewKey()
	before := ring(t, older)
	sealed := before.Seal([]byte("v"), "c")
	both := ring(t, newer, older)
	if got, err := both.Open(sealed, "c"); err != nil || string(got) != "v" {
		t.Fatalf("after the new key came first: got %q, %v, want v", got, err)
	}
	if both.Current(sealed) || !before.Current(sealed) {
		t.Error("Current: want only what the first key sealed")
	}
	resealed := both.Seal([]byte("v"), "c")
	if !both.Current(resealed) || seal.KeyID(resealed) == seal.KeyID(sealed) {
		t.Errorf("sealed again with key %s, before %s: want the first key of the ring", seal.KeyID(resealed), seal.KeyID(sealed))
	}
	if got, err := ring(t, newer).Open(resealed, "c"); err != nil || string(got) != "v" {
		t.Errorf("without the old key: got %q, %v, want v", got, err)
	}
	if _, err := before.Open(resealed, "c"); !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("a node that has not got the new key: got %v, want ErrUnknownKey", err)
	}
	// The order of the ring does not matter to opening.
	if _, err := ring(t, older, newer).Open(resealed, "c"); err != nil {
		t.Errorf("in the other order: %v", err)
	}
}

func TestParseRing(t *testing.T) {
	t.Parallel()
	good := seal.NewKey()
	for name, list := range map[string]string{
		"nothing": "", "a comma too many": good + ",", "too short": "c2hvcnQ=", "too long": strings.Repeat("A", 44) + "AAAA",
		"no base64": strings.Repeat("!", 44), "a passphrase": "correct horse battery staple",
	} {
		_, err := seal.ParseRing(list)
		if err == nil {
			t.Errorf("%s: got a ring, want an error", name)
			continue
		}
		if strings.Contains(err.Error(), good) || len(list) > 1 && strings.Contains(err.Error(), list) {
			t.Errorf("%s: the error quotes the keys: %v", name, err)
		}
		if !strings.Contains(err.Error(), "relay keys new") {
			t.Errorf("%s: got %q, want it to say how to make a key", name, err)
		}
	}
	if _, err := seal.ParseRing(" " + good + " , " + seal.NewKey() + "\n"); err != nil {
		t.Errorf("with blanks around: %v", err)
	}
	if a, b := seal.NewKey(), seal.NewKey(); a == b {
		t.Errorf("NewKey gave %q twice", a)
	}
}

func TestKeyIDOfWhatIsNone(t *testing.T) {
	t.Parallel()
	if got := seal.KeyID([]byte{1, 2, 3}); got != "none" {
		t.Errorf("got %q, want none", got)
	}
	r := ring(t, seal.NewKey())
	if r.Current(nil) || r.Knows(nil) {
		t.Error("the ring knows what is no sealed value")
	}
}
