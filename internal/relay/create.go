package relay

// Create is what is made at the provider when a wait is registered: one of the
// two, with the provider's own parameters, which may hold expressions.
type Create struct {
	CheckoutSession map[string]any `json:"checkout_session,omitempty"`
	PaymentLink     map[string]any `json:"payment_link,omitempty"`
}

// CreateKind is a sort of object that is made at a provider.
type CreateKind string

// The kinds, under the names that people write.
const (
	CreateSession CreateKind = "checkout_session"
	CreateLink    CreateKind = "payment_link"
)

// What returns the kind and its parameters; ok is false unless exactly one is
// given.
func (c *Create) What() (kind CreateKind, parameters map[string]any, ok bool) {
	switch {
	case c.CheckoutSession != nil && c.PaymentLink == nil:
		return CreateSession, c.CheckoutSession, true
	case c.PaymentLink != nil && c.CheckoutSession == nil:
		return CreateLink, c.PaymentLink, true
	default:
		return "", nil, false
	}
}
