package sandbox_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"relay.example/relay/internal/sandbox"
)

// What became of a payment stands in its id; any key may ask, and nobody
// without one.
func TestMolliePayments(t *testing.T) {
	t.Parallel()
	box := sandbox.New(sandbox.Config{})
	for _, tt := range []struct {
		id, key  string
		status   int
		payment  string
		refunded string
	}{
		{"tr_paid_1", "test_key", http.StatusOK, "paid", ""},
		{"tr_open_1", "test_key", http.StatusOK, "open", ""},
		{"tr_refunded_1", "test_key", http.StatusOK, "paid", "20.50"},
		{"tr_1", "test_key", http.StatusNotFound, "", ""},
		{"tr_paid_1", "", http.StatusUnauthorized, "", ""},
	} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/mollie/v2/payments/"+tt.id, nil)
		if tt.key != "" {
			req.Header.Set("Authorization", "Bearer "+tt.key)
		}
		rec := httptest.NewRecorder()
		box.ServeHTTP(rec, req)
		var got struct {
			Status         any
			Metadata       string
			AmountRefunded struct{ Value string }
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v in %s", tt.id, err, rec.Body)
		}
		if rec.Code != tt.status || rec.Code == http.StatusOK && (got.Status != tt.payment || !strings.HasSuffix(tt.id, "_"+got.Metadata) || got.Metadata == "" || got.AmountRefunded.Value != tt.refunded) {
			t.Errorf("%s: got %d %+v, want %d %s", tt.id, rec.Code, got, tt.status, tt.payment)
		}
	}
}
