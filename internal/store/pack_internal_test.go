package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestDictionaryStays holds that the dictionary is never changed: the bodies
// that were stored with it could not be read any more.
func TestDictionaryStays(t *testing.T) {
	t.Parallel()
	const want = "c53d334a246125871cd3b418eadff0d0458319359841ff20fffd96bb844449e6"
	sum := sha256.Sum256(words1Text)
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("words1.txt was changed (its SHA-256 is %s): undo it, and put what is better into a second dictionary", got)
	}
	// What it was read from then, it is read from now.
	const stored = "c6012c7b226964223a226576745f372e3a081ea6088644006e93083253003e8800f9563a6f07506b334a71576d325a7238546e5962354c68567850632ea203550a1c70616964227d7d7d"
	raw, err := hex.DecodeString(stored)
	if err != nil {
		t.Fatal(err)
	}
	got, err := unpack(raw, words1)
	if err != nil || string(got) != storedBody {
		t.Errorf("a stored body: got %q, %v, want %q", got, err, storedBody)
	}
}

const storedBody = `{"id":"evt_7","object":"event","type":"checkout.session.completed","data":{"object":{"id":"cs_7","object":"checkout.session",` +
	`"client_reference_id":"k3JqWm2Zr8TnYb5LhVxPcd","payment_status":"paid"}}}`

func TestPack(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 4096)
	for i := range noise {
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		noise[i] = sum[0]
	}
	for name, tt := range map[string]struct {
		body    []byte
		packing int64
		most    int // bytes it may come to
	}{
		"none":            {nil, plain, 0},
		"short":           {[]byte(`{"id":"evt_1"}`), plain, 14},
		"noise":           {noise, plain, len(noise)},
		"an event":        {[]byte(storedBody), words1, len(storedBody) / 2},
		"what nobody has": {[]byte(strings.Repeat("Ünbekannt! ", 100)), words1, 100},
		"the largest":     {bytes.Repeat([]byte(storedBody), maxPacked/len(storedBody)), words1, maxPacked / 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stored, packing := pack(tt.body)
			if packing != tt.packing || len(stored) > tt.most {
				t.Errorf("got %d bytes packed as %d, want at most %d as %d", len(stored), packing, tt.most, tt.packing)
			}
			got, err := unpack(stored, packing)
			if err != nil || !bytes.Equal(got, tt.body) {
				t.Errorf("got %d other bytes back (%v), want the %d of the body", len(got), err, len(tt.body))
			}
		})
	}
}

// TestUnpackDamaged holds that damage is an error, and costs no more memory
// than a body may have.
func TestUnpackDamaged(t *testing.T) {
	t.Parallel()
	good, _ := pack([]byte(storedBody))
	for i := range good {
		if _, err := unpack(good[:i], words1); i > 0 && err == nil {
			t.Errorf("cut off at %d bytes: got no error", i)
		}
	}
	if _, err := unpack([]byte{0xff, 0xff, 0xff, 0x7f, 0}, words1); err == nil {
		t.Error("256 MiB were promised: got no error")
	}
	if _, err := unpack(good, words1+1); !errors.Is(err, errPacking) {
		t.Errorf("an unknown packing: got %v, want %v", err, errPacking)
	}
}

func FuzzUnpack(f *testing.F) {
	good, _ := pack([]byte(storedBody))
	f.Add(good)
	f.Fuzz(func(t *testing.T, stored []byte) {
		body, err := unpack(stored, words1)
		if err == nil && len(body) > maxPacked {
			t.Error(fmt.Sprint("unpacked to ", len(body), " bytes"))
		}
	})
}
