package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"relay.example/relay/internal/egress"
	"relay.example/relay/internal/platform"
	"relay.example/relay/internal/provider"
	"relay.example/relay/internal/relay"
)

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return relay.Errorf(relay.Invalid, "invalid_name",
			"name: %q does not do: up to 63 of a-z, 0-9, - and _, beginning with a letter or digit", name)
	}
	return nil
}

// split parts an object into the fields that every kind of it has and the
// ones that depend on its platform or provider.
func split(raw json.RawMessage, common ...string) (known json.RawMessage, own map[string]json.RawMessage, err error) {
	var all map[string]json.RawMessage
	if err := relay.Decode(raw, &all); err != nil {
		return nil, nil, err
	}
	own = map[string]json.RawMessage{}
	for name, value := range all {
		if !slices.Contains(common, name) {
			own[name] = value
			delete(all, name)
		}
	}
	known, err = json.Marshal(all)
	return known, own, err
}

// isNull reports whether a field was given as null.
func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

// settingText reads a field of a platform's or provider's own: they are all
// strings.
func settingText(name string, raw json.RawMessage) (text string, err error) {
	if err := json.Unmarshal(raw, &text); err != nil {
		return "", relay.Errorf(relay.Invalid, "wrong_type", "%s: want a string", name)
	}
	return text, nil
}

// settingValue reads a destination's own field of any kind, and returns it as
// it is kept.
func settingValue(of platform.Setting, raw json.RawMessage) (string, error) {
	switch of.Kind {
	case platform.Number:
		if n, err := strconv.ParseUint(strings.Trim(string(raw), `"`), 10, 53); err == nil {
			return strconv.FormatUint(n, 10), nil // 7, "7" and "007" are the same
		}
		return "", relay.Errorf(relay.Invalid, "wrong_type", "%s: want a whole number", of.Name)
	case platform.Headers:
		var headers map[string]string
		if err := json.Unmarshal(raw, &headers); err != nil {
			return "", relay.Errorf(relay.Invalid, "wrong_type", "%s: want an object of texts", of.Name)
		}
		kept, err := json.Marshal(headers) // in the order of names
		return string(kept), err
	default:
		return settingText(of.Name, raw)
	}
}

// destinationFields are the fields that destinations of every platform have.
type destinationFields struct {
	Name           string         `json:"name"`
	Platform       string         `json:"platform"`
	BaseURL        string         `json:"base_url"`
	MaxConcurrency int            `json:"max_concurrency"`
	Rate           rate           `json:"rate"`
	Timeout        relay.Duration `json:"timeout"`
	OnUnknown      string         `json:"on_unknown"`
}

func (e *editor) putDestination(ctx context.Context, p *Project, raw json.RawMessage) (name string, err error) {
	known, own, err := split(raw, "name", "platform", "base_url", "max_concurrency", "rate", "timeout", "on_unknown")
	if err != nil {
		return "", err
	}
	var f destinationFields
	if err := relay.Decode(known, &f); err != nil {
		return "", err
	}
	if err := checkName(f.Name); err != nil {
		return f.Name, err
	}
	on, err := lookupPlatform(f.Platform, own)
	if err != nil {
		return f.Name, err
	}
	if err := checkDestination(f, on); err != nil {
		return f.Name, err
	}
	d := relay.Destination{
		ProjectID: p.ID, Name: f.Name, Platform: f.Platform, BaseURL: strings.TrimSuffix(f.BaseURL, "/"),
		MaxConcurrency: f.MaxConcurrency, Rate: string(f.Rate), Timeout: f.Timeout, OnUnknown: f.OnUnknown,
		Settings: map[string]string{}, Secrets: map[string]string{},
	}
	old := p.destinations[f.Name]
	if err := fillSettings(&d, on, own, old); err != nil {
		return f.Name, err
	}
	if err := e.checkAddress(accountOf(d), on); err != nil {
		return f.Name, err
	}
	if err := on.CheckAccount(accountOf(d)); err != nil {
		return f.Name, relay.Errorf(relay.Invalid, "invalid_destination", "%v", err)
	}
	var fields []string
	if old != nil {
		fields = append(changedFields(old.Destination, d), changedFields(old.Secrets, d.Secrets)...)
		if old.Destination.Platform != d.Platform {
			fields = append(fields, "platform")
		}
	}
	if !e.note(KindDestination, p.Name, f.Name, old != nil, fields) {
		return f.Name, nil
	}
	if err := e.c.PutDestination(ctx, d); err != nil || old == nil || sameAccount(old.Destination, d) {
		return f.Name, err
	}
	// Others may be let in where these were not.
	_, err = e.c.ReleaseDestination(ctx, old.ID)
	return f.Name, err
}

// sameAccount reports whether a destination lets us in, or not, as before.
func sameAccount(before, after relay.Destination) bool {
	return before.Platform == after.Platform && before.BaseURL == after.BaseURL &&
		maps.Equal(before.Settings, after.Settings) && maps.Equal(before.Secrets, after.Secrets)
}

// lookupPlatform finds a destination's platform.
func lookupPlatform(name string, own map[string]json.RawMessage) (*platform.Platform, error) {
	if p, ok := platform.Lookup(name); ok {
		return p, nil
	}
	names := strings.Join(platform.Names(), ", ")
	if name != "" {
		return nil, relay.Errorf(relay.Invalid, "unknown_platform", "platform: %q is none of %s%s", name, names, relay.DidYouMean(name, platform.Names()))
	}
	var fields []string // of any platform
	for _, name := range platform.Names() {
		p, _ := platform.Lookup(name)
		for _, setting := range p.Settings {
			fields = append(fields, setting.Name)
		}
	}
	return nil, relay.Errorf(relay.Invalid, "unknown_platform", "platform is missing: give one of %s%s", names, misspelt(own, fields))
}

// misspelt names the fields that nothing reads, beside one that is missing:
// they may be what was meant for it.
func misspelt(own map[string]json.RawMessage, known []string) string {
	unknown := slices.DeleteFunc(slices.Sorted(maps.Keys(own)), func(field string) bool { return slices.Contains(known, field) })
	if len(unknown) == 0 {
		return ""
	}
	return "; there is no field " + strings.Join(unknown, ", ")
}

// checkAddress checks what a destination's calls would go to.
func (e *editor) checkAddress(account platform.Account, on *platform.Platform) error {
	address, field := on.Address(account), cmp.Or(on.AddressSetting, "base_url")
	if address == "" {
		return relay.Errorf(relay.Invalid, "base_url_required", "base_url: %s has no address of its own: give that of your account", on.Name)
	}
	if err := egress.CheckURL(address, e.cfg.Policy); err != nil {
		return relay.Errorf(relay.Invalid, "address_refused", "%s: %s", field, relay.DetailOf(err))
	}
	return nil
}

func checkDestination(f destinationFields, on *platform.Platform) error {
	if f.MaxConcurrency < 0 || f.MaxConcurrency > relay.MaxConcurrency {
		return relay.Errorf(relay.Invalid, "invalid_max_concurrency", "max_concurrency: %d is not between 1 and %d", f.MaxConcurrency, relay.MaxConcurrency)
	}
	if f.Timeout < 0 || time.Duration(f.Timeout) > relay.MaxTimeout || f.Timeout > 0 && time.Duration(f.Timeout) < 100*time.Millisecond {
		return relay.Errorf(relay.Invalid, "invalid_timeout", "timeout: %s is not between 100ms and %s", f.Timeout, relay.MaxTimeout)
	}
	switch f.OnUnknown {
	case "", relay.RetryUnknown, relay.HoldUnknown:
	case relay.ConfirmUnknown:
		if on.Confirms {
			break
		}
		return relay.Errorf(relay.Invalid, "invalid_on_unknown", "on_unknown: %s cannot be asked whether it took a call: choose retry or hold", on.Name)
	default:
		return relay.Errorf(relay.Invalid, "invalid_on_unknown", "on_unknown: %q is none of retry, hold, confirm", f.OnUnknown)
	}
	return f.Rate.check()
}

// rate is calls per time, as people write them: "50/s".
type rate string

// UnmarshalJSON reads a string, and says of anything else how to write it.
func (r *rate) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, (*string)(r)); err != nil {
		return relay.Errorf(relay.Invalid, "wrong_type", "write it like \"50/s\"")
	}
	return nil
}

func (r rate) check() error {
	if r == "" {
		return nil
	}
	_, err := relay.ParseRate(string(r))
	return err
}

// fillSettings sorts a destination's own fields into public and secret ones.
// A secret that is left out, or empty, stays what it was; null takes it away.
func fillSettings(d *relay.Destination, on *platform.Platform, own map[string]json.RawMessage, old *Destination) error {
	if err := onlyKnown(on, own); err != nil { // before what is missing: it may be the same field, misspelt
		return err
	}
	for _, setting := range on.Settings {
		raw, given := own[setting.Name]
		value := ""
		if given {
			var err error
			if value, err = settingValue(setting, raw); err != nil {
				return err
			}
		}
		switch {
		case given && setting.Secret && value != "":
			d.Secrets[setting.Name] = value
		case given && !setting.Secret:
			d.Settings[setting.Name] = value
		case isNull(raw): // taken away
		case setting.Secret && old != nil && old.Platform == on && old.Secrets[setting.Name] != "":
			d.Secrets[setting.Name] = old.Secrets[setting.Name]
		}
		if setting.Required && d.Secrets[setting.Name] == "" && d.Settings[setting.Name] == "" {
			return relay.Errorf(relay.Invalid, "setting_required", "%s: %s needs it", setting.Name, on.Name)
		}
	}
	return nil
}

// onlyKnown refuses fields that destinations of the platform do not have.
func onlyKnown(on *platform.Platform, own map[string]json.RawMessage) error {
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if !slices.ContainsFunc(on.Settings, func(s platform.Setting) bool { return s.Name == name }) {
			return relay.Errorf(relay.Invalid, "unknown_field", "%s: a destination of %s has no such field: remove it, or correct its name%s", name, on.Name,
				relay.DidYouMean(name, destinationNames(on)))
		}
	}
	return nil
}

// destinationNames lists the fields that destinations of a platform have.
func destinationNames(on *platform.Platform) []string {
	names := relay.FieldsOf[destinationFields]()
	for _, s := range on.Settings {
		names = append(names, s.Name)
	}
	return names
}

// sourceFields are the fields that sources of every provider have.
type sourceFields struct {
	Name       string          `json:"name"`
	Provider   json.RawMessage `json:"provider"`
	Secret     string          `json:"secret"`
	Secrets    []string        `json:"secrets"`
	Tolerance  relay.Duration  `json:"tolerance"`
	TokenField string          `json:"token_field"`
	KeyField   string          `json:"key_field"`
	PublicURL  string          `json:"public_url"`
	WebhookIDs []string        `json:"webhook_ids"`

	Subscribe *relay.Subscribe `json:"subscribe"`
}

// sourceSettings are the fields that a preset may need besides; those that
// are secret are sealed.
var sourceSettings = map[string]struct{ secret bool }{
	"username":      {},
	"password":      {secret: true},
	"api_key":       {secret: true},
	"base_url":      {},
	"client_id":     {},
	"client_secret": {secret: true},
}

func (e *editor) putSource(ctx context.Context, p *Project, raw json.RawMessage) (name string, err error) {
	known, own, err := split(raw, "name", "provider", "secret", "secrets", "tolerance", "token_field", "key_field", "public_url", "webhook_ids", "subscribe")
	if err != nil {
		return "", err
	}
	var f sourceFields
	if err := relay.Decode(known, &f); err != nil {
		return "", err
	}
	if err := checkName(f.Name); err != nil {
		return f.Name, err
	}
	if f.Name == relay.FormSource {
		return f.Name, relay.Errorf(relay.Conflict, "built_in", "the source %q is built in: choose another name", f.Name)
	}
	src := relay.Source{
		ProjectID: p.ID, Name: f.Name, Tolerance: f.Tolerance, TokenField: f.TokenField, KeyField: f.KeyField,
		PublicURL: f.PublicURL, WebhookIDs: f.WebhookIDs, Subscribe: f.Subscribe, Settings: map[string]string{}, Credentials: map[string]string{},
	}
	if src.Provider, src.Preset, err = readProvider(f.Provider, own); err != nil {
		return f.Name, err
	}
	old := p.sources[f.Name]
	if err := fillSourceSettings(&src, own, old); err != nil {
		return f.Name, err
	}
	secrets := givenSecrets(f)
	if err := checkSource(src, old, secrets); err != nil {
		return f.Name, err
	}
	if err := e.checkAPI(&src); err != nil {
		return f.Name, err
	}
	mintAddressKey(&src)
	return f.Name, e.writeSource(ctx, p, src, old, secrets)
}

// givenSecrets lists the secrets of a source as they were given, each once.
func givenSecrets(f sourceFields) (secrets []string) {
	if f.Secret != "" {
		secrets = []string{f.Secret}
	}
	for _, secret := range f.Secrets {
		if !slices.Contains(secrets, secret) {
			secrets = append(secrets, secret)
		}
	}
	return secrets
}

func (e *editor) writeSource(ctx context.Context, p *Project, src relay.Source, old *Source, secrets []string) error {
	var fields []string
	replace := len(secrets) > 0
	if old != nil {
		fields = append(changedFields(old.Source, src), changedFields(givenCredentials(old.Source), givenCredentials(src))...)
		if old.Provider != src.Provider {
			fields = append(fields, "provider")
		}
		if replace = replace && !slices.Equal(secrets, standingSecrets(old)); replace {
			fields = append(fields, "secrets")
		}
	}
	if !e.note(KindSource, p.Name, src.Name, old != nil, fields) {
		return nil
	}
	id, err := e.c.PutSource(ctx, src)
	if err != nil || !replace {
		return err
	}
	dropped, err := e.replaceSecrets(ctx, p, id, old, secrets)
	e.edits[len(e.edits)-1].DroppedSecrets = dropped
	return err
}

// replaceSecrets makes a source's secrets the given ones, the first current.
// One that is on its way out keeps the time that its rotation gave it.
func (e *editor) replaceSecrets(
	ctx context.Context, p *Project, sourceID int64, old *Source, secrets []string,
) (dropped []uuid.UUID, err error) {
	for _, secret := range slices.Backward(secrets) { // the newest is current
		if _, err := e.c.PutSecret(ctx, p.ID, sourceID, secret); err != nil {
			return nil, err
		}
	}
	if old == nil {
		return nil, nil
	}
	for _, before := range old.Secrets {
		if before.ExpiresAt != nil || before.Subscribed || slices.Contains(secrets, before.Secret) {
			continue
		}
		if err := e.c.DeleteSecret(ctx, sourceID, before.ID); err != nil {
			return nil, err
		}
		dropped = append(dropped, before.ID)
	}
	return dropped, nil
}

// standingSecrets are the secrets that a source was given and that no rotation
// has put an end to.
func standingSecrets(s *Source) (out []string) {
	for _, secret := range s.Secrets {
		if secret.ExpiresAt == nil && !secret.Subscribed {
			out = append(out, secret.Secret)
		}
	}
	return out
}

// readProvider reads a preset's name, or an inline preset.
func readProvider(raw json.RawMessage, own map[string]json.RawMessage) (name string, inline json.RawMessage, err error) {
	if len(raw) == 0 {
		return "", nil, relay.Errorf(relay.Invalid, "provider_required", "provider is missing: name a preset, or give one inline%s",
			misspelt(own, slices.Collect(maps.Keys(sourceSettings))))
	}
	if err := json.Unmarshal(raw, &name); err == nil {
		return name, nil, nil
	}
	return relay.InlineProvider, raw, nil
}

// credentialsOf names the setting that goes with a secret one: both are one
// credential.
var credentialsOf = map[string]string{"password": "username", "client_secret": "client_id"}

// fillSourceSettings sorts a source's own fields into public and secret ones.
// A secret that is left out, or empty, stays what it was, and so does the name
// that goes with it; null takes both away.
func fillSourceSettings(src *relay.Source, own map[string]json.RawMessage, old *Source) error {
	for name, raw := range own {
		setting, ok := sourceSettings[name]
		if !ok {
			return relay.Errorf(relay.Invalid, "unknown_field", "%s: a source has no such field: remove it, or correct its name%s", name,
				relay.DidYouMean(name, slices.AppendSeq(relay.FieldsOf[sourceFields](), maps.Keys(sourceSettings))))
		}
		value, err := settingText(name, raw)
		switch {
		case err != nil:
			return err
		case value == "":
		case setting.secret:
			src.Credentials[name] = value
		default:
			src.Settings[name] = value
		}
	}
	// What was given for one provider is not sent to another.
	if old == nil || old.Provider != src.Provider {
		return nil
	}
	for name, value := range old.Credentials {
		if src.Credentials[name] == "" && !isNull(own[name]) && !isNull(own[credentialsOf[name]]) {
			src.Credentials[name] = value
		}
	}
	for secret, name := range credentialsOf {
		if value := old.Settings[name]; value != "" && src.Settings[name] == "" && src.Credentials[secret] != "" {
			src.Settings[name] = value
		}
	}
	return nil
}

// checkSource compiles a source as a callback will use it. old is what it was,
// or nil.
func checkSource(src relay.Source, old *Source, secrets []string) error {
	preset, err := PresetOf(src)
	if err != nil {
		return relay.At("provider", asInvalid("unknown_provider", err))
	}
	if preset.Internal {
		return relay.Errorf(relay.Invalid, "unknown_provider", "provider: %q is built in and needs no source", preset.Name)
	}
	endpoint, err := preset.Endpoint(settingsOf(src))
	if err != nil {
		return asInvalid("invalid_source", err)
	}
	if src.Provider == relay.InlineProvider && endpoint.NamesNoWait() {
		return relay.Errorf(relay.Invalid, "invalid_preset",
			"provider: correlation is missing: nothing says whose callback it is; list the places where the token comes back, such as json:order.token, or say callback_by_url: true")
	}
	if src.Tolerance < 0 || time.Duration(src.Tolerance) > 24*time.Hour {
		return relay.Errorf(relay.Invalid, "invalid_duration", "tolerance: %s is not between 0s and 24h", src.Tolerance)
	}
	if src.PublicURL != "" {
		if err := checkLink("public_url", src.PublicURL); err != nil {
			return err
		}
	}
	if src.Credentials["api_key"] != "" && endpoint.API() == "" {
		return relay.Errorf(relay.Invalid, "api_key_unused", "api_key: %s is asked nothing: leave it out, or give null where it is kept", preset.Name)
	}
	return checkSecrets(preset, old, secrets)
}

// checkSecrets checks the secrets that a source is given, else those that it
// keeps: its provider may be another one now.
func checkSecrets(preset *provider.Preset, old *Source, secrets []string) error {
	for _, secret := range secrets {
		if err := preset.CheckSecret(secret); err != nil {
			return relay.At("secret", asInvalid("invalid_secret", err))
		}
	}
	if len(secrets) > 0 || old == nil {
		return nil
	}
	for _, secret := range standingSecrets(old) {
		err := preset.CheckSecret(secret)
		if err != nil && old.Err == nil && old.Endpoint.Preset().CheckSecret(secret) == nil {
			return relay.Errorf(relay.Invalid, "unusable_secret",
				"provider: the source keeps the secret of %s, which is none of %s: give the one of the new provider with it, "+
					"or delete the old one first", old.Endpoint.Preset().Name, preset.Name)
		}
	}
	return nil
}

// checkAPI checks where a source's provider is asked, as destinations are
// checked.
func (e *editor) checkAPI(src *relay.Source) error {
	base := src.Settings["base_url"]
	if base == "" {
		return nil
	}
	u, err := url.Parse(base)
	if err != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return relay.Errorf(relay.Invalid, "invalid_source", "base_url: write an address with at most a path: https://api.example.com")
	}
	if err := egress.CheckURL(base, e.cfg.Policy); err != nil {
		return relay.Errorf(relay.Invalid, "address_refused", "base_url: %s", relay.DetailOf(err))
	}
	src.Settings["base_url"] = strings.TrimSuffix(base, "/")
	return nil
}

// asInvalid makes an error that people caused a refusal they can act upon.
func asInvalid(code string, err error) error {
	if relay.IsKind(err, relay.Invalid) {
		return err
	}
	return relay.Errorf(relay.Invalid, code, "%v", err)
}

// decodeFlow reads a flow as people write it.
func decodeFlow(raw json.RawMessage) (relay.Flow, error) {
	var f struct {
		Name string `json:"name"`
		relay.Flow
		ModuleID any `json:"module_id"`
	}
	if err := relay.Decode(raw, &f); err != nil {
		return relay.Flow{Name: f.Name}, err
	}
	f.Flow.Name = f.Name
	if err := checkName(f.Name); err != nil {
		return f.Flow, err
	}
	return WithModule(f.Flow, f.ModuleID)
}

// WithModule lets a top-level module_id stand for on.completed.module_id.
func WithModule(f relay.Flow, moduleID any) (relay.Flow, error) {
	if moduleID == nil {
		return f, nil
	}
	if _, both := f.On[string(relay.Completed)]; both {
		return f, relay.Errorf(relay.Invalid, "module_id_twice",
			"module_id stands for on.completed.module_id: give one of the two")
	}
	f.On = maps.Clone(f.On)
	if f.On == nil {
		f.On = map[string]relay.Action{}
	}
	f.On[string(relay.Completed)] = relay.Action{ModuleID: moduleID}
	return f, nil
}
