package intake

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/store"
)

// namesOf says under which names a callback may find its wait. A forgery and
// a type that means nothing look for none. What nobody has signed goes by the
// token alone: a key may be guessed, and an order number often can.
func namesOf(c *relay.Callback) (n store.Names) {
	switch {
	case c.Verdict == relay.Rejected:
		return n
	case c.Verdict == relay.Unsigned && c.Reading.Fetch != "":
		// Who knows a token may have more asked than who knows none.
	case c.Reading.Outcome == "":
		return n
	}
	for _, candidate := range c.Reading.Candidates {
		if relay.IsToken(candidate.Value) {
			n.Tokens = append(n.Tokens, candidate.Value)
		}
		if c.Verdict != relay.Unsigned {
			n.Refs = append(n.Refs, store.RefHash(c.SourceID, candidate.Value))
		}
	}
	if told := toldRef(c); told != uuid.Nil {
		n.Refs = append(n.Refs, told)
	}
	if c.Verdict == relay.Unsigned {
		return n
	}
	for _, reference := range c.Reading.References {
		n.Refs = append(n.Refs, store.RefHash(c.SourceID, reference.Value))
	}
	return n
}

// toldRef is the name under which a wait remembers what fires once and does
// not close it: a mismatch, or a second payment. The same payment told by
// another event type then fires nothing more. So with a refund or a dispute
// that was fetched: the same may be fetched for callbacks by several URLs.
func toldRef(c *relay.Callback) uuid.UUID {
	switch id := c.Reading.Payment.Identity(); {
	case c.Reading.Outcome == relay.Completed && id != "":
		return store.RefHash(c.SourceID, "told\x00"+id)
	case c.Verdict == relay.Fetched && aftermath(c.Reading.Outcome) && c.Reading.EventID != "":
		return store.RefHash(c.SourceID, "told after\x00"+c.Reading.EventID)
	default:
		return uuid.Nil
	}
}

func aftermath(o relay.Outcome) bool { return o == relay.Refunded || o == relay.Disputed }

// told reports whether w remembers the payment of c.
func told(c *relay.Callback, w *relay.Wait, facts *store.Facts) bool {
	for _, hit := range facts.ByRef[toldRef(c)] {
		if hit.Wait == w {
			return true
		}
	}
	return false
}

// dedupeKey identifies a callback at its source. A forgery takes none, or it
// could keep the real event out. Where no signature covers the id, the id
// alone proves nothing: the token is part of the key.
func dedupeKey(c *relay.Callback) *[16]byte {
	if c.Verdict == relay.Rejected {
		return nil
	}
	token := ""
	if len(c.Reading.Candidates) > 0 {
		token = c.Reading.Candidates[0].Value
	}
	var identity string
	switch id := c.Reading.EventID; {
	case c.For != uuid.Nil && id == "":
		identity = "fetched body\x00" + token + "\x00" + bodyHash(c)
	case c.For != uuid.Nil:
		// The same state of a payment by another URL is another event: which
		// of them tells of a wait is not known yet.
		identity = "fetched\x00" + token + "\x00" + id
	case c.Reading.Fetch != "" && c.Verdict == relay.Unsigned:
		// The same callback may tell of a refund months later, when the bytes
		// of the first one are gone: that is another question then.
		// Its body may claim any token: only those of the URL go with what is
		// fetched, and tell it from another.
		identity = "knock\x00" + c.ReceivedAt.UTC().Format(time.DateOnly) + "\x00" + namesInURL(c) + "\x00" + c.Reading.Fetch
	case id != "" && c.Verdict != relay.Unsigned:
		identity = "id\x00" + id
	case id != "":
		identity = "token and id\x00" + token + "\x00" + id
	default:
		identity = "token and body\x00" + token + "\x00" + bodyHash(c)
	}
	key := store.DedupeHash(c.SourceID, identity)
	return &key
}

// bodyHash tells a body from others. One may hold several events: its items
// are not each other's duplicates.
func bodyHash(c *relay.Callback) string {
	sum := sha256.Sum256(c.Body)
	return hex.EncodeToString(sum[:]) + "\x00" + strconv.Itoa(c.Item)
}

// namesInURL are the names that stand in a callback's URL, with their places.
func namesInURL(c *relay.Callback) string {
	var names strings.Builder
	for _, candidate := range c.Reading.Candidates {
		if inURL(candidate.Place) {
			names.WriteString(candidate.Place + "\x00" + candidate.Value + "\x00")
		}
	}
	return names.String()
}

// found is what a callback's names lead to.
type found struct {
	wait  *relay.Wait
	match relay.Match // where wait is nil
	rule  string
}

// find looks up the wait of a callback (promise 7). Every place is tried in
// order, as a token and then as a caller's key, until one names a wait of this
// project that listens to this source; then the provider's own ids. A wait
// named by the URL and another named by the body are no match at all.
func find(c *relay.Callback, facts *store.Facts) found {
	var byURL, byBody, foreign found
	for _, candidate := range c.Reading.Candidates {
		into := &byBody
		if inURL(candidate.Place) {
			into = &byURL
		}
		if into.wait != nil {
			continue
		}
		if f := lookUp(c, candidate.Value, facts); f.wait != nil {
			*into = f
		} else if f.match == relay.OtherProject {
			foreign = f
		}
	}
	switch {
	case byURL.wait != nil && byBody.wait != nil && byURL.wait != byBody.wait:
		return found{match: relay.Ambiguous, rule: "url_and_body_differ"}
	case byURL.wait != nil && c.Verdict == relay.Fetched:
		// What a provider was asked about is often told by whoever knows the
		// URL: one payment does not pay for two waits.
		if f := byReference(c, facts); f.match == relay.Ambiguous || f.wait != nil && f.wait != byURL.wait {
			return found{match: relay.Ambiguous, rule: "url_and_reference_differ"}
		}
		return byURL
	case byURL.wait != nil:
		return byURL
	case byBody.wait != nil:
		return byBody
	}
	if f := byReference(c, facts); f.wait != nil || f.match == relay.Ambiguous {
		return f
	}
	if foreign.match != "" {
		return foreign
	}
	return foundNobody(c)
}

func inURL(place string) bool { return place == "path" || strings.HasPrefix(place, "query:") }

// lookUp tries one value as a token, then as a caller's key.
func lookUp(c *relay.Callback, value string, facts *store.Facts) found {
	if w := facts.ByToken[value]; w != nil {
		switch {
		case w.ProjectID != c.ProjectID:
			return found{match: relay.OtherProject, rule: "token_of_another_project"}
		case w.Accepts(c.SourceID):
			return found{wait: w, rule: "token"}
		}
	}
	if c.Verdict == relay.Unsigned {
		return found{}
	}
	if key := lastKey(facts.ByRef[store.RefHash(c.SourceID, value)]); key != nil {
		return found{wait: key.Wait, rule: "key"}
	}
	return found{}
}

// newer prefers the pending wait of a key, then the one that had it last.
func newer(a, b store.RefHit) bool {
	if pending := a.Wait.Status == relay.Pending; pending != (b.Wait.Status == relay.Pending) {
		return pending
	}
	return a.Wait.ID.String() > b.Wait.ID.String()
}

// byReference finds the one wait that learned any of the provider's ids, or
// whose caller gave one of them as its key.
func byReference(c *relay.Callback, facts *store.Facts) (f found) {
	for _, reference := range c.Reading.References {
		hits := facts.ByRef[store.RefHash(c.SourceID, reference.Value)]
		if key := lastKey(hits); key != nil {
			hits = []store.RefHit{*key}
		}
		for _, hit := range hits {
			if f.wait != nil && f.wait != hit.Wait {
				return found{match: relay.Ambiguous, rule: "references_differ"}
			}
			if f = (found{wait: hit.Wait, rule: "reference"}); hit.Key {
				f.rule = "key"
			}
		}
	}
	return f
}

// lastKey returns the hit of the pending wait with this key, else of the one
// that had it last, or nil.
func lastKey(hits []store.RefHit) (best *store.RefHit) {
	for _, hit := range hits {
		if hit.Key && (best == nil || newer(hit, *best)) {
			best = &hit
		}
	}
	return best
}

// foundNobody says what becomes of an event that no wait goes by. What is
// proven and names somebody may only be early (promise 4): a caller registers
// its key, or another event teaches the reference. What nobody has signed can
// only be found by a token, and no token exists before its wait. What is said in
// a chat answers no question that is asked later.
func foundNobody(c *relay.Callback) found {
	switch {
	case len(c.Reading.Candidates) == 0 && len(c.Reading.References) == 0:
		return found{match: relay.Unmatched, rule: "names_nobody"}
	case c.Verdict == relay.Unsigned, c.Reading.Live:
		return found{match: relay.Unmatched, rule: "nobody_waits"}
	case c.Answer != nil && c.Named:
		return found{match: relay.Parked, rule: "asked_nobody_waits_yet"}
	case c.Answer != nil:
		return found{match: relay.Parked, rule: "asked_in_vain"}
	default:
		return found{match: relay.Parked, rule: "nobody_waits_yet"}
	}
}

// teaches lists the references that a matched event names its wait by and
// that the wait is not yet known by.
func teaches(c *relay.Callback, w *relay.Wait, facts *store.Facts) (refs []uuid.UUID) {
	if c.Verdict == relay.Unsigned {
		return nil
	}
next:
	for _, reference := range c.Reading.References {
		ref := store.RefHash(c.SourceID, reference.Value)
		for _, hit := range facts.ByRef[ref] {
			if hit.Wait == w {
				continue next
			}
		}
		// Known from here on, also to the rest of the batch.
		facts.ByRef[ref] = append(facts.ByRef[ref], store.RefHit{Wait: w})
		refs = append(refs, ref)
	}
	return refs
}
