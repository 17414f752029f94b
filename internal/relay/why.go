package relay

// why says of each rule what it found, in one sentence for people. It is the
// one table of all rules: a test holds that none lacks its sentence, and that
// no sentence is about a rule that nothing applies.
var why = map[string]string{
	"rejected":                 "It is not proven genuine, so nothing in it was looked at.",
	"same_event":               "The source has sent this event before; the first one decided.",
	"type_ignored":             "Its type has no outcome at this provider, so it means nothing to a wait.",
	"unreadable":               "It is genuine, but its body cannot be read.",
	"url_and_body_differ":      "A token in its URL names one wait and one in its body another, so it was given to neither.",
	"url_and_reference_differ": "A token in the URL of its callback names one wait, and the provider's ids in it another, so it was given to neither.",
	"fetched_apart":            "It says only what it is about: its provider was asked, and what that says is an event of its own, with the verdict `fetched`.",
	"no_api_key":               "It says only what it is about, and its source has no `api_key` to ask the provider with: give it one, and replay the event.",
	"too_many_to_ask":          "It says only what it is about, nobody has signed it, and too many like it came at once to ask its provider about all: replay it.",
	"references_differ":        "The provider's ids in it name different waits, so it was given to none of them.",
	"token_of_another_project": "Its token belongs to a wait of another project, so nothing was done here.",
	"names_nobody":             "It holds neither a token, nor a key, nor one of the provider's ids that could name a wait.",
	"nobody_waits":             "It names somebody, but no wait of this source went by any of its names when it came.",
	"nobody_waits_yet":         "It names somebody, and no wait of this source goes by any of its names yet: for 72 h it is matched as soon as one does.",
	"asked_nobody_waits_yet":   "Its provider was asked whose it is, and no wait of this source goes by any name in the answer yet: for 72 h it is matched as soon as one does.",
	"asked_in_vain":            "Its provider was asked whose it is, and knew of nobody; no wait of this source goes by any of its own names yet: for 72 h it is matched as soon as one does.",
	"nobody_came":              "It names somebody, and for 72 h no wait of this source went by any of its names.",
	"parked_full":              "It names somebody that no wait of this source went by, and 10,000 newer events of the source waited like it.",
	"when":                     "It named a wait, but the filter `when` of that wait's flow did not hold, or could not be decided.",
	"plan_unusable":            "It named a wait, but what that wait is to do could not be read; the relay's log says why.",
	"same_payment":             "Another event has told of this payment already.",
	"closed":                   "It named a pending wait, and its outcome ended that wait.",
	"on_the_way":               "It named a pending wait, and its outcome leaves that wait open.",
	"deadline_extended":        "It named a pending wait, and was the first to say that it is being processed: the deadline was moved, once.",
	"already_processing":       "It named a pending wait whose deadline an earlier event had moved: that happens once.",
	"aftermath":                "It named a wait and tells of a refund or a dispute, which counts in any state and changes none.",
	"completed_late":           "It named a wait that had ended otherwise: its success came late and was taken, once.",
	"late_mismatch":            "It named a wait that had ended otherwise: money came late, and is not what was expected.",
	"other_payment":            "It named a wait that was paid already: this is a second payment.",
	"already_closed":           "It named a wait that had ended, and says nothing new about it.",
}

// Why says in one sentence why a rule decided as it did, or "" of a name that
// is no rule of this program: a newer one may have written it.
func Why(rule string) string { return why[rule] }
