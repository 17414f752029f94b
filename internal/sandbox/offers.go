package sandbox

import (
	"context"
	"net/http"
	"slices"
	"time"

	"relay.example/relay/internal/relay"
)

// The bounds of beginning something from a chat page.
const (
	maxOfferForm = 4 << 10
	offerTimeout = 10 * time.Second
)

// Offer is something that the user of a chat can have the bot begin, by a
// button of the page.
type Offer struct {
	Name  string // which button was pressed
	Label string // what stands on it
	// Begin does what the bot would do, and returns what the bot then says and
	// the link that it shows. Its error is shown on the page.
	Begin func(ctx context.Context, user string) (text, link string, err error)
}

// begin does what a button of a chat page says. What must not be seen by a
// browser, such as the key to register with, stays with whoever made the offer.
func (s *Sandbox) begin(w http.ResponseWriter, r *http.Request) error {
	// Another site's page may not press the button.
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return relay.Errorf(relay.Invalid, "form_invalid", "press a button of the chat page itself")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxOfferForm)
	page := s.chatPageOf(r)
	i := slices.IndexFunc(page.Offers, func(o Offer) bool { return o.Name == r.PostFormValue("offer") })
	if i < 0 || len(page.Conversation.UserID) > maxUserID {
		return relay.Errorf(relay.Invalid, "form_invalid", "open the chat page again and press one of its buttons")
	}
	ctx, cancel := context.WithTimeout(r.Context(), offerTimeout)
	defer cancel()
	text, link, err := page.Offers[i].Begin(ctx, page.Conversation.UserID)
	if err != nil {
		page.Problem = "That did not begin: " + err.Error()
		return showPage(w, http.StatusBadGateway, "chat.html", page)
	}
	s.Pause(Certainly, page.Conversation.UserID, text, link)
	http.Redirect(w, r, page.Path, http.StatusSeeOther)
	return nil
}
