package sandbox

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"relay.example/relay/internal/relay"
)

// indexLength is how many conversations the index shows, the newest ones.
const indexLength = 50

//go:embed pages
var pageFiles embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"variables": variableLines,
	"seconds":   seconds,
}).ParseFS(pageFiles, "pages/*.html"))

// variable is one line of a list of variables.
type variable struct{ Name, Value string }

// variableLines sorts variables by name, and shows strings without quotes.
func variableLines(vars map[string]json.RawMessage) []variable {
	var lines []variable
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		text := string(vars[name])
		_ = json.Unmarshal(vars[name], &text) // what is no string is shown as it is written
		lines = append(lines, variable{name, text})
	}
	return lines
}

// seconds shows a wait, or nothing for none.
func seconds(wait *float64) string {
	if wait == nil || *wait == 0 {
		return ""
	}
	return strconv.FormatFloat(*wait, 'f', -1, 64) + " s"
}

// showPage renders a page whole before anything of it is sent. Pages load
// nothing but their style sheet and script, run none but that, and do not pass
// on their address, which may hold a token.
func showPage(w http.ResponseWriter, status int, name string, data any) error {
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, name, data); err != nil {
		return fmt.Errorf("rendering page %s: %w", name, err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // a browser that left has nothing to be told
	return nil
}

// showFile serves what pages load.
func (s *Sandbox) showFile(name string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "max-age=3600")
		http.ServeFileFS(w, r, pageFiles, "pages/"+name)
		return nil
	}
}

// indexLine is one conversation on the index.
type indexLine struct {
	Summary
	Chat string // its address, escaped: a user id may hold a slash
}

func (s *Sandbox) showIndex(w http.ResponseWriter, _ *http.Request) error {
	newest, _ := s.book.list(0, indexLength)
	lines := make([]indexLine, 0, len(newest))
	for _, c := range newest {
		lines = append(lines, indexLine{c, chatPath(c.Platform, c.UserID)})
	}
	return showPage(w, http.StatusOK, "index.html", map[string]any{
		"Conversations": lines, "Counts": s.Counts(), "Begin": len(s.offers) > 0,
	})
}

func chatPath(platform, userID string) string {
	return "/sandbox/chat/" + url.PathEscape(userID) + "?platform=" + url.QueryEscape(platform)
}

// nodePath is where a chat's user comes to the node of its bot, or "" where
// that has none.
func (s *Sandbox) nodePath(k key) string {
	if k.platform != Haptik || s.node.URL == nil {
		return ""
	}
	return "/sandbox/chat/" + url.PathEscape(k.user) + "/node?platform=" + url.QueryEscape(k.platform)
}

// sayPath is where a chat's user speaks, or "" at a platform that tells nobody
// of it.
func sayPath(k key) string {
	if k.platform != Smartify || len(k.user) > maxUserID {
		return ""
	}
	return "/sandbox/chat/" + url.PathEscape(k.user) + "/say?platform=" + url.QueryEscape(k.platform)
}

// chatPage is what the page of a conversation shows.
type chatPage struct {
	Conversation Conversation
	Found        bool
	Still        bool // it is not to change by itself
	Path         string
	Offers       []Offer
	Problem      string // why what was asked for did not begin
	Say          string // where what its user says goes, or ""
	Node         string // where its user comes to the node of its bot, or ""
}

// showChat shows a conversation as its user sees it, and between the lines
// what the relay's calls did. It follows what happens unless asked to hold
// still.
func (s *Sandbox) showChat(w http.ResponseWriter, r *http.Request) error {
	page, status := s.chatPageOf(r), http.StatusOK
	if !page.Found && page.Offers == nil && page.Say == "" {
		status = http.StatusNotFound
	}
	return showPage(w, status, "chat.html", page)
}

func (s *Sandbox) chatPageOf(r *http.Request) chatPage {
	k := keyOf(r)
	page := chatPage{
		Still: r.URL.Query().Get("refresh") == "off", Path: chatPath(k.platform, k.user), Say: sayPath(k), Node: s.nodePath(k),
	}
	if page.Conversation, page.Found = s.book.get(k); !page.Found {
		page.Conversation = Conversation{UserID: k.user, Platform: k.platform}
	}
	if k.platform == Certainly {
		page.Offers = s.offers
	}
	return page
}

// amountText shows an amount as 20.50 EUR.
func amountText(minor int64, currency string) string {
	return relay.FormatMinor(minor, relay.CurrencyExponent(currency)) + " " + currency
}
