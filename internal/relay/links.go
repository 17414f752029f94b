package relay

import (
	"net/url"
	"slices"
	"strings"
)

// chatSchemes are those of messengers, which a browser hands over to the app.
// An app's own name with a dot, as RFC 8252 has it (com.example.shop), does
// too. What a browser would run or read itself is never a way back.
var chatSchemes = []string{"whatsapp", "tg", "viber", "line", "fb-messenger", "msteams", "slack", "weixin", "sms"}

// CheckReturnURL refuses what does not lead back to a chat: it is for people
// who have just paid to be clicked.
func CheckReturnURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
	case u.Scheme == "https" || u.Scheme == "http":
		if u.Host != "" {
			return nil
		}
	case strings.Contains(u.Scheme, "."), slices.Contains(chatSchemes, u.Scheme):
		return nil
	}
	return Errorf(Invalid, "invalid_link",
		"return_url: give an absolute https URL, or one of an app: %s:, or a scheme with a dot such as com.example.shop:", strings.Join(chatSchemes, ":, "))
}
