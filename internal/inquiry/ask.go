package inquiry

import (
	"context"
	"net/http"
	"slices"
	"time"

	"relay.example/relay/internal/directory"
	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// answer is what one request has come to.
type answer struct {
	result     relay.Answered
	reason     string // where it cannot be used: from a closed list, nothing of what was sent or received
	retryAfter time.Duration
	stopped    bool             // by a shutdown: nothing was learned
	final      bool             // the next one will not be another
	noNews     bool             // the provider knows what a callback is about, and nothing new of it yet
	body       []byte           // about an event
	fetched    []relay.Callback // about a wait, or of what a callback is about, in the order to tell them: what says nothing is none
}

// The reasons besides those of egress and platform.
const (
	reasonNoKey      = "no_api_key"
	reasonTooLong    = "answer_too_long"
	reasonUnreadable = "answer_unreadable"
	reasonUnread     = "event_not_read"
	reasonUnasked    = "nothing_to_ask" // the event is gone, or does not say any more what it is about
)

// nothing is kept as the answer of a provider that knows nothing.
const nothing = "{}"

func failed(reason string) answer { return answer{result: relay.AnswerFailed, reason: reason} }

// ask makes one request.
func (a *Asker) ask(ctx context.Context, q *relay.Question) answer {
	src := a.cfg.Directory.Current().SourceByID(q.SourceID)
	if src == nil || !src.CanAsk() {
		return failed(reasonNoKey) // or this node does not know it yet
	}
	var about *relay.Callback
	address, longest := src.QuestionURL(q), maxAnswer
	if q.Fetches {
		var err error
		if about, err = a.callbackOf(ctx, q); err != nil {
			return a.notRead(q, err)
		}
		var ok bool
		longest = maxFetched
		if address, ok = src.FetchURL(about, q.About); !ok {
			return answer{result: relay.AnswerFailed, reason: reasonUnasked, final: true}
		}
	}
	resp, err := a.cfg.Client.Do(ctx, egress.Request{
		Method: http.MethodGet, URL: address, Header: src.QuestionHeader(), Timeout: a.timeout, Keep: longest,
	})
	if err != nil {
		return a.unanswered(ctx, q, err)
	}
	said := platform.ByStatus(platform.Response{Status: resp.Status, Header: resp.Header}, time.Now())
	switch {
	case said.Class == relay.OK && resp.Truncated && q.Fetches:
		return a.tooLong(ctx, q, src)
	case said.Class == relay.OK && resp.Truncated:
		return failed(reasonTooLong)
	case said.Class == relay.OK && q.Fetches:
		return a.readFetched(ctx, q, src, about, resp.Body)
	case said.Class == relay.OK && q.OfWait():
		return a.readWait(q, src, resp.Body)
	case said.Class == relay.OK:
		return readEvent(src, resp.Body)
	case resp.Status == http.StatusNotFound:
		return answer{result: relay.AnswerNone, body: []byte(nothing), final: anybodys(about)}
	case said.Class == relay.Credentials:
		a.tellRefused(ctx, q, src)
		return answer{result: relay.AnswerRefused, reason: said.Reason}
	default:
		// What anybody may have sent is not asked for again and again.
		final := anybodys(about) && said.Class == relay.Permanent
		return answer{result: relay.AnswerFailed, reason: said.Reason, retryAfter: said.RetryAfter, final: final}
	}
}

// anybodys reports whether anybody may have sent what is asked about.
func anybodys(about *relay.Callback) bool { return about != nil && about.Verdict == relay.Unsigned }

// callbackOf reads the callback that a fetch is for.
func (a *Asker) callbackOf(ctx context.Context, q *relay.Question) (*relay.Callback, error) {
	step, cancel := store.Step(ctx)
	defer cancel()
	e, err := a.cfg.Store.Event(step, q.ProjectID, q.EventID)
	if err != nil {
		return nil, err
	}
	c := e.Callback()
	return &c, nil
}

// notRead says why a question could not be made.
func (a *Asker) notRead(q *relay.Question, err error) answer {
	if relay.IsKind(err, relay.NotFound) {
		return answer{result: relay.AnswerFailed, reason: reasonUnasked, final: true}
	}
	a.cfg.Log.Warn("the event of a question was not read; it is asked later", "question_id", q.ID, "project_id", q.ProjectID, "error", err)
	return failed(reasonUnread)
}

// unanswered says why there is no answer. The error's own text names a host
// and is for the log; its reason is kept.
func (a *Asker) unanswered(ctx context.Context, q *relay.Question, err error) answer {
	if ctx.Err() != nil {
		return answer{stopped: true}
	}
	a.cfg.Log.Debug("provider not asked", "question_id", q.ID, "source_id", q.SourceID, "error", err)
	return failed(egress.ReasonOf(err))
}

// readEvent reads whether the answer about an event names anybody.
func readEvent(src *directory.Source, body []byte) answer {
	named, err := src.Endpoint.AddAnswer(&relay.Reading{}, body)
	switch {
	case err != nil:
		return failed(reasonUnreadable)
	case named:
		return answer{result: relay.AnswerFound, body: body}
	default:
		return answer{result: relay.AnswerNone, body: body}
	}
}

// readWait makes a callback of the answer about a wait, where that is news and
// its outcome means anything to one.
func (a *Asker) readWait(q *relay.Question, src *directory.Source, body []byte) answer {
	body, err := src.Endpoint.AnswerAsCallback(body)
	if err != nil {
		return failed(reasonUnreadable)
	}
	if body == nil {
		return answer{result: relay.AnswerFound}
	}
	return news(src, relay.Callback{
		ProjectID: q.ProjectID, SourceID: q.SourceID, Verdict: relay.Fetched, Body: body, ReceivedAt: time.Now(),
	})
}

// readFetched makes a callback of the answer about what a callback says
// nothing of, where that is news and its outcome means anything to a wait.
func (a *Asker) readFetched(ctx context.Context, q *relay.Question, src *directory.Source, about *relay.Callback, body []byte) answer {
	c, err := src.Fetched(about, body, time.Now())
	switch {
	case directory.TooLong(err):
		return a.tooLong(ctx, q, src)
	case err != nil:
		return failed(reasonUnreadable)
	case c == nil:
		return answer{result: relay.AnswerFound, noNews: true, final: anybodys(about)}
	default:
		return news(src, *c)
	}
}

// news reads what was fetched as any callback.
func news(src *directory.Source, c relay.Callback) answer {
	told, err := src.ReadFetched(c)
	if err != nil {
		return failed(reasonUnreadable)
	}
	told = slices.DeleteFunc(told, func(c relay.Callback) bool { return c.Reading.Outcome == "" })
	return answer{result: relay.AnswerFound, fetched: told}
}

// tooLong ends a question whose answer, or what its preset makes of it, is
// longer than a callback may be, which it will be each time, and makes it known.
func (a *Asker) tooLong(ctx context.Context, q *relay.Question, src *directory.Source) answer {
	a.long.Do(func() {
		a.cfg.Log.Warn("what a provider says of a callback is longer than what is read; the callback does nothing",
			"project_id", q.ProjectID, "source", src.Name, "event_id", q.EventID, "max_bytes", maxFetched)
	})
	a.noteError(ctx, q, reasonTooLong)
	return answer{result: relay.AnswerFailed, reason: reasonTooLong, final: true}
}

// apiKeyRefused is the last_error of a source whose provider refuses its key.
const apiKeyRefused = "api_key_refused"

// tellRefused makes it known that a source's api_key is not accepted.
func (a *Asker) tellRefused(ctx context.Context, q *relay.Question, src *directory.Source) {
	a.refused.Do(func() {
		a.cfg.Log.Warn("a provider refuses the api_key of a source: give it one that may read; its questions are asked again",
			"project_id", q.ProjectID, "source", src.Name)
	})
	a.noteError(ctx, q, apiKeyRefused)
}

// noteError makes a code the last_error of the source that a question is of.
func (a *Asker) noteError(ctx context.Context, q *relay.Question, code string) {
	step, cancel := store.Step(ctx)
	defer cancel()
	seen := store.SourceActivity{ProjectID: q.ProjectID, SourceID: q.SourceID, LastError: code, LastErrorAt: time.Now()}
	if err := a.cfg.Store.NoteActivity(step, []store.SourceActivity{seen}); err != nil {
		a.cfg.Log.Debug("source activity not written", "error", err)
	}
}
