package standardwebhooks_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	official "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"relay.example/relay/internal/standardwebhooks"
)

// The example that the specification's libraries test themselves with.
func TestKnownSignature(t *testing.T) {
	s, err := standardwebhooks.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := s.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestOfficialLibraryVerifies(t *testing.T) {
	text := standardwebhooks.NewSecret()
	s, err := standardwebhooks.ParseSecret(text)
	if err != nil {
		t.Fatalf("its own secret: %v", err)
	}
	receiver, err := official.NewWebhook(text)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"outcome":"completed"}`)
	h := http.Header{}
	s.SetHeader(h, "0193f3a1-7b5c-7def-8123-456789abcdef", time.Now(), body)
	if err := receiver.Verify(body, h); err != nil {
		t.Errorf("the official library refuses it: %v", err)
	}
	if receiver.Verify([]byte(`{"outcome":"failed"}`), h) == nil {
		t.Error("another body verifies as well")
	}
	for name, header := range map[string][2]string{
		"another id":   {standardwebhooks.IDHeader, "0193f3a1-7b5c-7def-8123-456789abcdf0"},
		"another time": {standardwebhooks.TimestampHeader, strconv.FormatInt(time.Now().Add(-time.Minute).Unix(), 10)},
	} {
		changed := h.Clone()
		changed.Set(header[0], header[1])
		if receiver.Verify(body, changed) == nil {
			t.Errorf("%s verifies as well", name)
		}
	}
}

func TestNewSecretsDiffer(t *testing.T) {
	if a, b := standardwebhooks.NewSecret(), standardwebhooks.NewSecret(); a == b || !strings.HasPrefix(a, "whsec_") {
		t.Errorf("got %.12s… and %.12s…, want two secrets that begin with whsec_", a, b)
	}
}

func TestParseSecret(t *testing.T) {
	random := func(n int) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", n))) }
	tests := []struct {
		name, text string
		good       bool
	}{
		{"the shortest", "whsec_" + random(24), true},
		{"the longest", "whsec_" + random(64), true},
		{"without its prefix", random(32), true},
		{"empty", "", false},
		{"nothing behind the prefix", "whsec_", false},
		{"too short", "whsec_" + random(23), false},
		{"too long", "whsec_" + random(65), false},
		{"no base64", "whsec_ hunter2 hunter2 hunter2 hunter2", false},
		{"of the asymmetric kind", "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", false},
		{"a line break", "whsec_" + random(24) + "\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := standardwebhooks.ParseSecret(tt.text)
			if tt.good && err != nil || !tt.good && !errors.Is(err, standardwebhooks.ErrSecret) {
				t.Errorf("got %v, want it taken: %t", err, tt.good)
			}
		})
	}
}
