package sandbox_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relay.example/relay/internal/sandbox"
)

// event is what a reader of callbacks looks at.
type event struct {
	ID       string `json:"id"`
	Object   string `json:"object"`
	Type     string `json:"type"`
	Created  int64  `json:"created"`
	Livemode bool   `json:"livemode"`
	Data     struct {
		Object map[string]any `json:"object"`
	} `json:"data"`
}

func readEvent(t *testing.T, body []byte) event {
	t.Helper()
	var e event
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatalf("got no JSON: %v in %s", err, body)
	}
	return e
}

func TestStripeEventKinds(t *testing.T) {
	opts := sandbox.StripeOptions{
		Token: "tok22", Amount: 2050, SessionID: "cs_test_1", IntentID: "pi_1", EventID: "evt_1", PaymentLink: "plink_1", At: noon,
	}
	token := map[string]any{"conversation_token": "tok22"}
	for _, tc := range []struct {
		kind   string
		object string
		want   map[string]any
	}{
		{"checkout.session.completed", "checkout.session", map[string]any{
			"id": "cs_test_1", "client_reference_id": "tok22", "payment_intent": "pi_1", "payment_link": "plink_1",
			"payment_status": "paid", "status": "complete", "amount_total": 2050.0, "currency": "eur", "livemode": false,
		}},
		{"checkout.session.async_payment_succeeded", "checkout.session", map[string]any{"payment_status": "paid", "status": "complete"}},
		{"checkout.session.async_payment_failed", "checkout.session", map[string]any{"payment_status": "unpaid", "status": "complete"}},
		{"checkout.session.expired", "checkout.session", map[string]any{"payment_status": "unpaid", "status": "expired"}},
		{"payment_intent.succeeded", "payment_intent", map[string]any{
			"id": "pi_1", "status": "succeeded", "amount_received": 2050.0, "metadata": token, "last_payment_error": nil,
		}},
		{"payment_intent.payment_failed", "payment_intent", map[string]any{"id": "pi_1", "status": "requires_payment_method", "amount_received": 0.0}},
		{"payment_intent.processing", "payment_intent", map[string]any{"id": "pi_1", "status": "processing"}},
		{"payment_intent.canceled", "payment_intent", map[string]any{"id": "pi_1", "status": "canceled", "canceled_at": float64(noon.Unix())}},
		{"charge.refunded", "charge", map[string]any{"id": "ch_1", "payment_intent": "pi_1", "refunded": true, "amount_refunded": 2050.0, "metadata": token}},
		{"charge.dispute.created", "dispute", map[string]any{"id": "du_1", "charge": "ch_1", "payment_intent": "pi_1", "amount": 2050.0}},
		{"customer.created", "customer", map[string]any{"metadata": map[string]any{}}},
	} {
		t.Run(tc.kind, func(t *testing.T) {
			got := readEvent(t, sandbox.StripeEvent(tc.kind, opts))
			if got.ID != "evt_1" || got.Object != "event" || got.Type != tc.kind || got.Created != noon.Unix() {
				t.Errorf("envelope: got %s %s %s %d, want evt_1 event %s %d", got.ID, got.Object, got.Type, got.Created, tc.kind, noon.Unix())
			}
			if got.Data.Object["object"] != tc.object {
				t.Errorf("got an object %v, want %s", got.Data.Object["object"], tc.object)
			}
			for field, want := range tc.want {
				if diff := cmp.Diff(want, got.Data.Object[field]); diff != "" {
					t.Errorf("field %s (-want +got):\n%s", field, diff)
				}
			}
		})
	}
}

func TestStripeEventFillsInWhatIsMissing(t *testing.T) {
	one := readEvent(t, sandbox.StripeEvent("checkout.session.completed", sandbox.StripeOptions{Live: true, Currency: "JPY"}))
	other := readEvent(t, sandbox.StripeEvent("checkout.session.completed", sandbox.StripeOptions{}))
	if one.ID == other.ID || one.Data.Object["id"] == other.Data.Object["id"] {
		t.Errorf("got the same ids twice: %s, %v", one.ID, one.Data.Object["id"])
	}
	if id, _ := one.Data.Object["id"].(string); !strings.HasPrefix(id, "cs_live_") || !one.Livemode {
		t.Errorf("live session: got %s, livemode %t, want cs_live_…, true", id, one.Livemode)
	}
	if one.Data.Object["currency"] != "jpy" || one.Data.Object["client_reference_id"] != nil {
		t.Errorf("got currency %v, reference %v, want jpy, null", one.Data.Object["currency"], one.Data.Object["client_reference_id"])
	}
	if age := time.Since(time.Unix(other.Created, 0)); age < 0 || age > time.Minute {
		t.Errorf("got an event created %s ago, want now", age)
	}
	free := readEvent(t, sandbox.StripeEvent("checkout.session.completed", sandbox.StripeOptions{PaymentStatus: "no_payment_required"}))
	if free.Data.Object["payment_intent"] != nil {
		t.Errorf("free session: got intent %v, want null", free.Data.Object["payment_intent"])
	}
}

func TestStripeEventQuotesWhatItIsGiven(t *testing.T) {
	nasty := `"},"@type" <&>` + "\n"
	got := readEvent(t, sandbox.StripeEvent("checkout.session.completed", sandbox.StripeOptions{Token: nasty}))
	if got.Data.Object["client_reference_id"] != nasty {
		t.Errorf("got %q, want %q", got.Data.Object["client_reference_id"], nasty)
	}
}

func TestStripeSessionHasItsFullSize(t *testing.T) {
	if got := len(sandbox.StripeEvent("checkout.session.completed", sandbox.StripeOptions{Token: strings.Repeat("t", 22)})); got < 1500 || got > 4000 {
		t.Errorf("got %d bytes, want between 1500 and 4000", got)
	}
}

// TestSignStripe holds the signature against what another program makes of the
// same secret, time and body:
//
//	printf '1790000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_test
func TestSignStripe(t *testing.T) {
	const want = "t=1790000000,v1=e32657f3e678d33b41ec084c16ac0e125d25480a06cb3902286dc5942c6fd259"
	if got := sandbox.SignStripe("whsec_test", []byte(`{"id":"evt_1"}`), time.Unix(1_790_000_000, 0)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func BenchmarkStripeEvent(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		sandbox.StripeEvent("checkout.session.completed", sandbox.StripeOptions{Token: "tok22", Amount: 2050})
	}
}
