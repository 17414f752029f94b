package checkout

import "net/http"

// roundTrip is a function as a way to Stripe.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Meet has a function take the calls in Stripe's place.
func (m *Maker) Meet(calls func(*http.Request) (*http.Response, error)) { m.calls = roundTrip(calls) }
