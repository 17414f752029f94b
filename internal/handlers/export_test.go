package handlers

import "github.com/google/uuid"

// MaxBody and RejectedBurst are bounds that tests go up to.
const (
	MaxBody       = maxBody
	MaxHeaders    = maxHeaders
	RejectedBurst = rejectedBurst
	MaxOfWait     = maxOfWait
)

// FillNews takes the places of all streams but so many, until the test ends.
func (h *Handlers) FillNews(but int) {
	for range maxStreams - but {
		h.news.join(uuid.New(), "")
	}
}

// Routes lists the public routes as "METHOD pattern", so that a matrix over
// all of them notices a new one.
func (h *Handlers) Routes() (out []string) {
	for _, r := range h.public().Routes() {
		out = append(out, r.Method+" "+r.Path)
	}
	return out
}

// AddressOf is the address that a request comes from.
var AddressOf = addressOf
