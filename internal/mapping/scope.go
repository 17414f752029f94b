package mapping

import "relay.example/relay/internal/relay"

// Scope is what expressions see, the same for every provider. It serves one
// delivery: several values may be rendered over it one after the other, but
// it is not safe for use by several goroutines, and its fields are not to be
// changed after the first render.
type Scope struct {
	Outcome     relay.Outcome
	Payment     *relay.Payment // nil: `payment` and all its fields are null
	Form        map[string]any // by the provider's field name and by slugged label
	Correlation Correlation

	// Format and Body are the callback as it came. They are decoded when the
	// first expression looks at `event`, and never otherwise: a caller may
	// leave them out where UsesEvent says no.
	Format relay.Format
	Body   []byte

	env     *names
	decoded bool
}

// Correlation is what expressions see of the wait. An empty string is null.
type Correlation struct {
	ID           string
	Token        string
	UserID       string
	Conversation string
	Flow         string
	Key          string
	Locale       string
	Status       relay.Status
	Data         any
	CustomVars   map[string]any
}

// names is the environment that expressions are compiled against and run in.
// The types are those that are certain; what may be null is any.
type names struct {
	Outcome     string         `expr:"outcome"`
	Payment     *payment       `expr:"payment"`
	Form        map[string]any `expr:"form"`
	Correlation *correlation   `expr:"correlation"`
	Event       any            `expr:"event"`
}

type payment struct {
	ID          any `expr:"id"`
	Amount      any `expr:"amount"`
	AmountText  any `expr:"amount_text"`
	AmountMinor any `expr:"amount_minor"`
	Currency    any `expr:"currency"`
	Method      any `expr:"method"`
	Email       any `expr:"email"`
	Live        any `expr:"live"`
	Account     any `expr:"account"`
}

type correlation struct {
	ID           any            `expr:"id"`
	Token        any            `expr:"token"`
	UserID       any            `expr:"user_id"`
	Conversation any            `expr:"conversation"`
	Flow         any            `expr:"flow"`
	Key          any            `expr:"key"`
	Locale       any            `expr:"locale"`
	Status       any            `expr:"status"`
	Data         any            `expr:"data"`
	CustomVars   map[string]any `expr:"custom_vars"`
}

// names returns the environment, made once for all expressions of the scope.
func (s *Scope) names(withEvent bool) *names {
	if s.env == nil {
		s.env = &names{
			Outcome:     string(s.Outcome),
			Payment:     paymentNames(s.Payment),
			Form:        s.Form,
			Correlation: correlationNames(&s.Correlation),
		}
	}
	if withEvent && !s.decoded {
		s.env.Event, s.decoded = DecodeEvent(s.Format, s.Body, s.Form), true
	}
	return s.env
}

func paymentNames(p *relay.Payment) *payment {
	if p == nil {
		return nil
	}
	out := &payment{
		ID: present(p.ID), Amount: p.Amount(), AmountText: p.AmountText(),
		Currency: present(p.Currency), Method: present(p.Method),
		Email: present(p.Email), Account: present(p.Account),
	}
	if p.AmountMinor != nil {
		out.AmountMinor = *p.AmountMinor
	}
	if p.Live != nil {
		out.Live = *p.Live
	}
	return out
}

func correlationNames(c *Correlation) *correlation {
	return &correlation{
		ID: present(c.ID), Token: present(c.Token), UserID: present(c.UserID),
		Conversation: present(c.Conversation), Flow: present(c.Flow), Key: present(c.Key),
		Locale: present(c.Locale), Status: present(string(c.Status)),
		Data: c.Data, CustomVars: c.CustomVars,
	}
}

// present returns s, or null when it is empty.
func present(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// object returns p as expressions that name the whole of it see it.
func (p *payment) object() map[string]any {
	return map[string]any{
		"id": p.ID, "amount": p.Amount, "amount_text": p.AmountText, "amount_minor": p.AmountMinor,
		"currency": p.Currency, "method": p.Method, "email": p.Email, "live": p.Live, "account": p.Account,
	}
}

// object returns c as expressions that name the whole of it see it.
func (c *correlation) object() map[string]any {
	out := map[string]any{
		"id": c.ID, "token": c.Token, "user_id": c.UserID, "conversation": c.Conversation, "flow": c.Flow,
		"key": c.Key, "locale": c.Locale, "status": c.Status, "data": c.Data, "custom_vars": nil,
	}
	if c.CustomVars != nil {
		out["custom_vars"] = c.CustomVars
	}
	return out
}
