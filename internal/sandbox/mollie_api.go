package sandbox

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
)

// The stand-in for Mollie's API lives under /mollie: a source's base_url ends
// in that. It tells of payments that nobody has made: what became of one, and
// the token in its metadata, stand in its id, as 'relay trigger mollie-classic'
// sends it.

var molliePayment = regexp.MustCompile(`^tr_(open|pending|authorized|paid|failed|canceled|expired|refunded|chargedback)_([A-Za-z0-9_-]{1,64})$`)

type mollieMoney struct {
	Value    string `json:"value"`
	Currency string `json:"currency"`
}

// getMolliePayment answers GET /v2/payments/{id}. Any key will do.
func (s *Sandbox) getMolliePayment(r *http.Request) answer {
	if key, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); !bearer || key == "" {
		return mollieRefusal(http.StatusUnauthorized, "Unauthorized Request", "Missing authentication, or failed to authenticate")
	}
	s.counters.asked.Add(1)
	id := r.PathValue("id")
	found := molliePayment.FindStringSubmatch(id)
	if found == nil {
		return mollieRefusal(http.StatusNotFound, "Not Found", "No payment exists with token "+id+".")
	}
	payment := map[string]any{
		"resource": "payment", "id": id, "mode": "test", "status": found[1], "method": "ideal", "profileId": "pfl_sandbox",
		"description": "A payment of the sandbox", "metadata": found[2], "webhookUrl": nil, "amount": mollieMoney{"20.50", "EUR"},
	}
	switch found[1] {
	case "refunded":
		payment["status"], payment["amountRefunded"] = "paid", mollieMoney{"20.50", "EUR"}
	case "chargedback":
		payment["status"], payment["amountChargedBack"] = "paid", mollieMoney{"20.50", "EUR"}
	}
	text, _ := json.Marshal(payment) //nolint:errchkjson // texts cannot fail
	return jsonAnswer(http.StatusOK, string(text))
}

func mollieRefusal(status int, title, detail string) answer {
	text, _ := json.Marshal(map[string]any{"status": status, "title": title, "detail": detail}) //nolint:errchkjson // texts and a number cannot fail
	return jsonAnswer(status, string(text))
}
