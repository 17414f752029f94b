package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
	"relay.example/relay/internal/trigger"
)

// The bounds of what is sent to a relay.
const (
	triggerTimeout = 15 * time.Second // for one answer
	triggerAnswer  = 4 << 10          // bytes of it that are shown
	lateEvery      = 500 * time.Millisecond
)

// triggerCommand plays a provider: it signs callbacks and posts them to a relay
// that runs. It knows no more than a provider does, so it needs no API key and
// no database.
type triggerCommand struct {
	Provider string `arg:"" help:"As 'relay providers' lists it."`
	Type     string `arg:"" optional:"" help:"What the provider calls the event, or an outcome. Without one they are listed."`

	Token      string `help:"Whose callback it is: the wait's token, or its key."`
	URL        string `help:"The source's webhook_url, or the wait's callback_url. Without one: http://127.0.0.1:8080/in/default/PROVIDER."`
	Secret     string `help:"The source's secret; for standard-webhooks-v1a the sender's private key, whsk_…."`
	SecretFile string `help:"A file that holds it, so that the list of processes does not."`
	SignedURL  string `help:"The source's public_url, where the provider signs another address than the one that is called."`
	Username   string `help:"Basic credentials that the source wants besides."`
	Password   string `help:"To --username."`
	TokenField string `default:"conversation_token" help:"The source's token_field."`
	Amount     string `default:"20.50" help:"Of the payment, in units."`
	Currency   string `default:"EUR" help:"Of the payment."`
	Event      string `help:"The provider's id of the event, as far as it has one. Without it: a new one."`
	Payment    string `help:"The provider's id of the payment. A refund finds its wait by it where it carries no token."`

	Duplicate bool          `help:"Send the callback, and then once more."`
	Early     bool          `xor:"when" help:"Send it before its wait is there, under a key (--token, or a new one) to register the wait with."`
	Late      bool          `xor:"when" help:"Send it once the wait has expired or was cancelled."`
	Reorder   bool          `help:"Send it together with the one that comes before it (or after it, where it is the first itself), the later one first."`
	Patience  time.Duration `default:"15m" help:"How long --late waits."`
}

// Run sends what was asked for, or lists what there is.
func (c *triggerCommand) Run(ctx context.Context, p *program) error {
	preset, ok := provider.Lookup(c.Provider)
	if ok && preset.CallbackByURL {
		if err := c.tokenOfURL(); err != nil {
			return err
		}
	}
	switch {
	case !ok:
		return fmt.Errorf("there is no provider %q: 'relay providers' lists them%s", c.Provider, alike(c.Provider))
	case preset.Internal:
		return fmt.Errorf("%s is the relay's own: open the wait's url and submit its form", c.Provider)
	case c.Type == "":
		return c.list(p)
	}
	callback, ok := trigger.Find(c.Provider, c.Type)
	if !ok {
		return fmt.Errorf("%s has no callback %q: 'relay trigger %s' lists them", c.Provider, c.Type, c.Provider)
	}
	if err := c.check(callback); err != nil {
		return err
	}
	s, err := c.sender(preset, p)
	if err != nil {
		return err
	}
	sequence, err := c.sequence(callback)
	if err != nil {
		return err
	}
	if c.Late {
		if err := s.awaitEnd(ctx); err != nil {
			return err
		}
	}
	if err := s.sendAll(ctx, sequence, c.Duplicate); err != nil {
		return err
	}
	if c.Early {
		fmt.Fprintf(p.stdout, "now register its wait with \"key\": %q; the callback is kept for 72 h\n", s.facts.Token)
	}
	return nil
}

// tokenOfURL takes the token from a wait's callback_url, which says whose
// callback it is.
func (c *triggerCommand) tokenOfURL() error {
	inURL := trigger.TokenIn(c.URL)
	switch {
	case inURL == "":
		return nil
	case c.Token != "" && c.Token != inURL:
		return errors.New("--url ends in the token of one wait, and --token names another: leave --token out")
	}
	c.Token = inURL
	return nil
}

// check refuses a callback that could be nobody's.
func (c *triggerCommand) check(callback *trigger.Callback) error {
	switch {
	case !relay.IsCurrency(c.Currency):
		return fmt.Errorf("--currency: %q is no ISO 4217 code such as EUR", c.Currency)
	case callback.ByReference && c.Payment == "" && !c.Reorder:
		return fmt.Errorf("%s carries no token with %s: give --payment, the id that the payment itself was sent with", c.Provider, callback.Type)
	case callback.Outcome != "" && !callback.ByReference && c.Token == "" && !c.Early:
		return errors.New("whose callback is it? Give --token, the wait's token or its key, or its callback_url as --url where it has one")
	case (callback.ByReference || c.Late) && c.Token == "" && (c.Reorder || c.Late):
		return errors.New("--late and --reorder want to know whose callback it is: give --token")
	}
	return nil
}

func (c *triggerCommand) list(p *program) error {
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	for _, callback := range trigger.Callbacks(c.Provider) {
		fmt.Fprintf(w, "%s\t%s\n", callback.Type, outcomeName(&callback))
	}
	return w.Flush()
}

func outcomeName(c *trigger.Callback) string {
	switch {
	case c.Outcome != "":
		return string(c.Outcome)
	case c.Fetched != "":
		return string(c.Fetched) + ", once the provider is asked"
	default:
		return "no outcome"
	}
}

// sequence is what is sent, in this order.
func (c *triggerCommand) sequence(callback *trigger.Callback) ([]*trigger.Callback, error) {
	if !c.Reorder {
		return []*trigger.Callback{callback}, nil
	}
	other, before, ok := trigger.Neighbour(c.Provider, callback)
	switch {
	case !ok:
		return nil, fmt.Errorf("--reorder: %s sends nothing before %s", c.Provider, callback.Type)
	case before:
		return []*trigger.Callback{callback, other}, nil
	default:
		return []*trigger.Callback{other, callback}, nil
	}
}

// sender sends the callbacks of one source.
type sender struct {
	endpoint *provider.Endpoint
	target   *url.URL // that is called
	signed   string   // that the provider signs, where that is another
	secret   string
	facts    trigger.Facts
	patience time.Duration
	stdout   io.Writer
	client   *http.Client
}

func (c *triggerCommand) sender(preset *provider.Preset, p *program) (*sender, error) {
	s := &sender{stdout: p.stdout, patience: c.Patience, client: &http.Client{
		Timeout:       triggerTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	var err error
	if s.facts, err = c.facts(preset); err != nil {
		return nil, err
	}
	address := c.URL
	if address == "" {
		address = "http://127.0.0.1:8080/in/default/" + c.Provider
	}
	if s.target, err = webAddress("--url", address); err != nil {
		return nil, err
	}
	if c.SignedURL != "" {
		if _, err = webAddress("--signed-url", c.SignedURL); err != nil {
			return nil, err
		}
		s.signed = c.SignedURL
	}
	if s.secret, err = c.readSecret(); err != nil {
		return nil, err
	}
	if preset.Signed() && preset.KeyField() == "secret" && s.secret == "" && c.Username == "" {
		return nil, fmt.Errorf("%s callbacks are proven by the source's secret: give --secret or --secret-file", preset.Title)
	}
	s.endpoint, err = preset.Endpoint(provider.Settings{TokenField: c.TokenField, Username: c.Username, Password: c.Password})
	return s, err
}

// facts are what the callbacks tell. Those that are early go by a key.
func (c *triggerCommand) facts(preset *provider.Preset) (trigger.Facts, error) {
	token := c.Token
	if c.Early {
		if !preset.Signed() {
			return trigger.Facts{}, fmt.Errorf("--early: nobody signs the callbacks of %s, and the relay keeps none for a wait that is not there", preset.Name)
		}
		if preset.Live {
			return trigger.Facts{}, fmt.Errorf("--early: what %s tells is for who waits at that time, and the relay keeps none of it for a wait that is not there", preset.Name)
		}
		token = orNew(token)
	}
	return trigger.Facts{
		Token: token, Field: c.TokenField, Event: orNew(c.Event), Payment: orNew(c.Payment),
		Amount: c.Amount, Currency: strings.ToUpper(c.Currency), At: time.Now(),
	}, nil
}

func orNew(id string) string {
	if id == "" {
		return relay.NewToken()
	}
	return id
}

func webAddress(flag, text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%s must be an http or https URL, such as https://relay.example/in/default/stripe", flag)
	}
	return u, nil
}

func (c *triggerCommand) readSecret() (string, error) {
	if c.SecretFile == "" {
		return c.Secret, nil
	}
	if c.Secret != "" {
		return "", errors.New("--secret and --secret-file are both given: keep one")
	}
	raw, err := os.ReadFile(c.SecretFile)
	if err != nil {
		return "", fmt.Errorf("--secret-file: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// sendAll sends callbacks of one payment one after the other, and at the end
// the first of them again.
func (s *sender) sendAll(ctx context.Context, sequence []*trigger.Callback, again bool) error {
	var first *provider.Request
	for i, callback := range sequence {
		facts := s.facts
		if i > 0 {
			facts.Event = relay.NewToken()
		}
		req, err := s.request(callback, &facts)
		if err != nil {
			return err
		}
		if i == 0 {
			first = req
		}
		if err := s.send(ctx, callback, req); err != nil {
			return err
		}
	}
	if again {
		return s.send(ctx, sequence[0], first)
	}
	return nil
}

// request makes a callback a genuine one, and has it go to the address that is
// called.
func (s *sender) request(callback *trigger.Callback, facts *trigger.Facts) (*provider.Request, error) {
	facts.At = time.Now()
	req, err := callback.Request(s.endpoint.Preset(), s.target, facts)
	if err != nil {
		return nil, err
	}
	called, before := req.URL, req.Query.Encode()
	if s.signed != "" {
		req.URL = s.signed
	}
	if err := s.endpoint.Sign(req, s.secret, facts.At); errors.Is(err, provider.ErrProviderSigns) {
		return nil, fmt.Errorf("only %s itself can sign its callbacks: have its sandbox or its dashboard send one", s.endpoint.Preset().Title)
	} else if err != nil {
		return nil, fmt.Errorf("%w; is the secret one of %s?", err, s.endpoint.Preset().Title)
	}
	if query := req.Query.Encode(); query != before { // the signature stands there
		address, _, _ := strings.Cut(called, "?")
		called = address + "?" + query
	}
	req.URL = called
	return req, nil
}

// send posts one callback, and says what the relay answered.
func (s *sender) send(ctx context.Context, callback *trigger.Callback, req *provider.Request) error {
	status, text, err := s.exchange(ctx, req.Method, req.URL, req.Header, req.Body)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "%s (%s)%s: %d %s\n", callback.Type, outcomeName(callback), s.payment(), status, text)
	if status != s.endpoint.Preset().AcceptStatus {
		return fmt.Errorf("the relay did not take the callback: %d %s", status, http.StatusText(status))
	}
	return nil
}

// payment names the payment that a callback tells of, for its refund; that of
// a form tells of none.
func (s *sender) payment() string {
	if !s.endpoint.Preset().TellsPayments() {
		return ""
	}
	return " of payment " + s.facts.Payment
}

// exchange makes one request. The address stays out of the error: it may hold
// a secret.
func (s *sender) exchange(ctx context.Context, method, address string, header http.Header, body []byte) (status int, text string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return 0, "", errors.New("the address cannot be called: look at --url")
	}
	req.Header = header.Clone()
	resp, err := s.client.Do(req)
	if err != nil {
		var where *url.Error
		if errors.As(err, &where) {
			err = where.Err
		}
		return 0, "", fmt.Errorf("no answer from %s: %w; does the relay run there? Say where with --url", s.target.Host, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, triggerAnswer))
	return resp.StatusCode, strings.TrimSpace(string(answer)), err
}

// awaitEnd returns when the wait has ended without a payment. The page that
// its user comes back to tells.
func (s *sender) awaitEnd(ctx context.Context) error {
	base, _, ok := strings.Cut(s.target.Path, "/in/")
	if !ok {
		return errors.New("--late: the address in --url is none of a relay: there is no /in/ in it")
	}
	page := url.URL{Scheme: s.target.Scheme, Host: s.target.Host, Path: base + "/return/" + s.facts.Token}
	ctx, cancel := context.WithTimeoutCause(ctx, s.patience, fmt.Errorf("--late: the wait has not ended within %s: let it expire or cancel it, or raise --patience", s.patience))
	defer cancel()
	tick := time.NewTicker(lateEvery)
	defer tick.Stop()
	for said := false; ; said = true {
		status, _, err := s.exchange(ctx, http.MethodGet, page.String(), http.Header{}, nil)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case status == http.StatusGone:
			return nil
		case status == http.StatusNotFound:
			return errors.New("--late: no wait has that token; a key will not do, take the token of the wait's answer")
		case !said:
			fmt.Fprintln(s.stdout, "waiting until the wait has ended …")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
