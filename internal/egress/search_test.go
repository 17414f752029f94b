package egress_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"relay.example/relay/internal/egress"
)

// TestSearch looks for a text in answers of every length, in every place where
// the reading could cut it in two.
func TestSearch(t *testing.T) {
	const needle, keep, window = `"0193-the-delivery"`, 1 << 10, 16 << 10
	in := func(before, after int) string {
		return strings.Repeat("x", before) + needle + strings.Repeat("y", after)
	}
	tests := []struct {
		name       string
		body       string
		found      bool
		unsearched bool
		truncated  bool
	}{
		{"empty", "", false, false, false},
		{"all of it", needle, true, false, false},
		{"within what is kept", in(10, 100), true, false, false},
		{"not there, within what is kept", "nothing", false, false, false},
		{"not there, beyond", strings.Repeat("x", 100<<10), false, false, true},
		{"across the end of what is kept", in(keep-5, 0), true, false, true},
		{"right behind what is kept", in(keep, 50<<10), true, false, true},
		{"across a window", in(keep+window-len(needle)-3, 50<<10), true, false, true},
		{"across the next window", in(keep+2*window-2*len(needle), 50<<10), true, false, true},
		{"at the very end", in(300<<10, 0), true, false, true},
		{"a beginning of it at the end", strings.Repeat("x", keep) + needle[:9], false, false, true},
		{"too long", strings.Repeat("x", egress.MaxSearch+window), false, true, true},
	}
	for _, tt := range tests {
		for _, chunked := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					if chunked {
						w.(http.Flusher).Flush()
					}
					_, _ = io.WriteString(w, tt.body)
				})
				got, err := local(t).Do(t.Context(), egress.Request{Method: http.MethodGet, URL: s.URL, Keep: keep, Search: needle})
				if err != nil {
					t.Fatal(err)
				}
				if got.Found != tt.found || got.Unsearched != tt.unsearched || got.Truncated != tt.truncated {
					t.Errorf("got found %t, unsearched %t, truncated %t, want %t, %t, %t",
						got.Found, got.Unsearched, got.Truncated, tt.found, tt.unsearched, tt.truncated)
				}
				if want := tt.body[:min(len(tt.body), keep)]; string(got.Body) != want {
					t.Errorf("got %d bytes of the answer, want its first %d", len(got.Body), len(want))
				}
			})
		}
	}
}

// An answer that breaks off while it is searched is none.
func TestSearchOfABrokenAnswer(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		_, _ = io.WriteString(w, strings.Repeat("x", 20_000))
		panic(http.ErrAbortHandler)
	})
	_, err := local(t).Do(t.Context(), egress.Request{Method: http.MethodGet, URL: s.URL, Keep: 100, Search: "nothing"})
	wantFailure(t, err, egress.Reset, true)
}
