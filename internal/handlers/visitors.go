package handlers

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// programs are parts of the User-Agent, in small letters, of programs that
// open links before a person does, or in place of one: the previews of
// messengers and mail, scanners, search engines. Nearly all others of the kind
// name a page about themselves, and are known by its address.
var programs = []string{
	"+http://", "+https://",
	"facebookexternalhit", "facebookcatalog", "facebot", "telegrambot", "slackbot", "slack-imgproxy", "discordbot", "twitterbot",
	"linkedinbot", "skypeuripreview", "microsoftpreview", "bingpreview", "mattermost-bot", "redditbot", "pinterestbot", "vkshare", "embedly",
	"iframely", "googlebot", "google-pagerenderer", "googleimageproxy", "google-safety", "bingbot", "applebot", "yandexbot", "duckduckbot",
	"baiduspider", "gptbot", "bytespider", "barracuda", "proofpoint", "mimecast", "urldefense", "safelinks", "virustotal", "urlscan",
	"headlesschrome", "phantomjs", "snapchat url preview",
}

// libraries are how the User-Agent of an HTTP library, and of the messenger
// that calls itself like one, begins.
var libraries = []string{
	"curl/", "wget/", "python-", "go-http-client/", "java/", "okhttp/", "axios/", "node", "ruby", "libwww", "apache-httpclient", "whatsapp/",
}

// byPerson reports whether a request looks like a person's who opens a link.
// A scanner that poses as a browser is taken for a person.
func byPerson(r *http.Request) bool {
	agent := strings.ToLower(r.UserAgent())
	return asksFor(r) && agent != "" &&
		!slices.ContainsFunc(libraries, func(begin string) bool { return strings.HasPrefix(agent, begin) }) &&
		!slices.ContainsFunc(programs, func(part string) bool { return strings.Contains(agent, part) })
}

// asksFor reports whether a page is asked for now. Who asks for its head, or
// fetches it ahead, has not gone there.
func asksFor(r *http.Request) bool { return r.Method == http.MethodGet && !aheadOfTime(r.Header) }

// aheadOfTime reports whether a browser fetches a page that nobody has asked
// for yet.
func aheadOfTime(h http.Header) bool {
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		for _, purpose := range []string{"prefetch", "prerender", "preview"} {
			if strings.Contains(strings.ToLower(h.Get(name)), purpose) {
				return true
			}
		}
	}
	return false
}

// maxOpenings bounds the openings that wait to be written: about 1 MiB. Beyond
// them an opening is not noted.
const maxOpenings = 10_000

// openings collects the waits whose link was opened. They are written in the
// background: who opens a link does not wait for it, and a node that dies
// loses those of its last second.
type openings struct {
	mu   sync.Mutex
	seen map[uuid.UUID]store.Opening
}

func newOpenings() *openings { return &openings{seen: map[uuid.UUID]store.Opening{}} }

func (o *openings) note(w *relay.Wait, at time.Time) {
	o.add([]store.Opening{{ProjectID: w.ProjectID, CorrelationID: w.ID, At: at}})
}

// add keeps the earliest opening of each wait, as far as there is room.
func (o *openings) add(list []store.Opening) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, one := range list {
		before, known := o.seen[one.CorrelationID]
		if !known && len(o.seen) >= maxOpenings || known && before.At.Before(one.At) {
			continue
		}
		o.seen[one.CorrelationID] = one
	}
}

// take empties the collection.
func (o *openings) take() []store.Opening {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]store.Opening, 0, len(o.seen))
	for _, one := range o.seen {
		list = append(list, one)
	}
	clear(o.seen)
	return list
}
