package handlers

import (
	"time"

	"github.com/google/uuid"
)

// MaxBody and RejectedBurst are bounds that tests go up to.
const (
	MaxBody       = maxBody
	MaxHeaders    = maxHeaders
	RejectedBurst = rejectedBurst
	MaxOfWait     = maxOfWait
	AnswerTimeout = answerTimeout
)

// SetAnswerTimeout changes within what a callback is answered, before a server
// runs.
func (h *Handlers) SetAnswerTimeout(d time.Duration) { h.answerIn = d }

// FillNews takes the places of all streams but so many, until the test ends.
func (h *Handlers) FillNews(but int) {
	for range maxStreams - but {
		h.news.join(uuid.New(), "")
	}
}

// RejectedBudget is what is kept of forgeries.
func RejectedBudget() func(sourceID int64, came time.Time) (kept bool) {
	return newRejectedBudget().allow
}

// SpendRejected takes what may be kept of a source's forgeries, for an hour.
func (h *Handlers) SpendRejected(sourceID int64) {
	for h.rejected.allow(sourceID, time.Now().Add(time.Hour)) {
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
