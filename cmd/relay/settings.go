package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"relay.example/relay/internal/egress"
)

// setting is one setting, as flag, environment variable and file.
type setting struct {
	env, flag, fallback, help string
}

// settings is the one list of them. The table in docs/operating.md and the flags of the
// commands are held against it by a test.
var settings = []setting{
	{"DATABASE_URL", "database-url", "", "Postgres URL, or `embedded` for a private server"},
	{"RELAY_LISTEN", "listen", "127.0.0.1:8080", "address of callbacks, API and pages"},
	{"RELAY_OPS_LISTEN", "ops-listen", "127.0.0.1:9090", "address of health checks, metrics and profiles for operators"},
	{"RELAY_PUBLIC_URL", "public-url", "http:// and RELAY_LISTEN", "how the world reaches RELAY_LISTEN; it stands in links and callback addresses"},
	{"RELAY_API_KEY", "api-key", "", "a first admin key for the project `default`, at least 20 characters"},
	{"RELAY_ENCRYPTION_KEY", "encryption-key", "", "comma list of base64 keys of 32 bytes; the first seals, all open"},
	{"RELAY_DATA_DIR", "data-dir", "/var/lib/relay for root, else ~/.local/share/relay", "home of the private Postgres and its encryption key"},
	{"RELAY_ALLOW_PRIVATE_TARGETS", "allow-private-targets", "", "private networks that may be called: a CIDR list, or `true` for loopback, RFC 1918, ULA and plain http"},
	{"RELAY_TRUSTED_PROXIES", "trusted-proxies", "", "CIDR list of the proxies before RELAY_LISTEN whose X-Forwarded-For is believed"},
	{"RELAY_MIGRATE", "migrate", "auto", "`auto` brings the schema up at start, `check` refuses to start on another one"},
	{"RELAY_DRAIN_DELAY", "drain-delay", "5s", "how long to serve on after SIGTERM while /readyz says 503"},
	{"RELAY_SHUTDOWN_TIMEOUT", "shutdown-timeout", "20s", "how long requests and sends in flight may take after that"},
	{"RELAY_LOG", "log", "text", "`text` or `json`"},
}

// fromEnvironment resolves a flag that was not given from NAME, or from the
// file that NAME_FILE names.
func fromEnvironment(lookup func(string) (string, bool)) kong.Resolver {
	byFlag := map[string]string{}
	for _, s := range settings {
		byFlag[s.flag] = s.env
	}
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		env, ok := byFlag[flag.Name]
		if !ok {
			return nil, nil // not from here
		}
		value, given := lookup(env)
		path, inFile := lookup(env + "_FILE")
		switch {
		case given && inFile && value != "":
			return nil, fmt.Errorf("%s and %s_FILE are both set: keep one", env, env)
		case given && value != "":
			return value, nil
		case inFile && path != "":
			raw, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("%s_FILE: %w", env, err)
			}
			return strings.TrimSpace(string(raw)), nil
		}
		return nil, nil
	})
}

// notSettings are names of the relay's own that serve does not read, and what
// Kubernetes sets for a service called relay.
var notSettings = regexp.MustCompile(`^RELAY_(VECTORS|TEST_DATABASE_URL|(.+_)?SERVICE_(HOST|PORT(_.+)?)|(.+_)?PORT(_[0-9]+_.+)?)$`)

// strangers lists the variables of an environment that are named like settings
// and are none: a misspelt one would have no effect, silently.
func strangers(environ []string) (names []string) {
	known := map[string]bool{}
	for _, s := range settings {
		known[s.env], known[s.env+"_FILE"] = true, true
	}
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "RELAY_") && !known[name] && !notSettings.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// helpWithSettings adds the table of settings to the help of the program.
func helpWithSettings(options kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil {
		return err
	}
	if ctx.Selected() != nil {
		return nil
	}
	fmt.Fprintln(ctx.Stdout, "\nSettings (each also as NAME_FILE; a flag wins):")
	table := tabwriter.NewWriter(ctx.Stdout, 2, 4, 2, ' ', 0)
	for _, s := range settings {
		fmt.Fprintf(table, "  %s\t--%s\t%s\n", s.env, s.flag, s.help)
	}
	return table.Flush()
}

// embedded is the DATABASE_URL that asks for a private Postgres.
const embedded = "embedded"

// databaseFlags are the settings of every command that uses the database.
type databaseFlags struct {
	DatabaseURL   string `help:"Postgres URL, or embedded for a private server (DATABASE_URL)."`
	EncryptionKey string `help:"Keys that seal secrets (RELAY_ENCRYPTION_KEY)."`
	DataDir       string `help:"Home of the private Postgres (RELAY_DATA_DIR)."`
	Log           string `enum:"text,json" default:"text" help:"text or json (RELAY_LOG)."`
}

func (f *databaseFlags) check() error {
	if f.DatabaseURL == "" {
		return errors.New("DATABASE_URL is not set: give the URL of your Postgres, " +
			"or `embedded` for a private one that the relay starts itself")
	}
	return nil
}

// dataDir is where the private Postgres lives.
func (f *databaseFlags) dataDir() (string, error) {
	if f.DataDir != "" {
		return filepath.Abs(f.DataDir)
	}
	if os.Geteuid() == 0 {
		// Not below /root: the server drops to an account that cannot enter it.
		return "/var/lib/relay", nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("RELAY_DATA_DIR is not set, and there is no home directory: %w", err)
	}
	return filepath.Join(home, ".local", "share", "relay"), nil
}

// nodeFlags are the settings of a node.
type nodeFlags struct {
	databaseFlags
	Listen              string `default:"127.0.0.1:8080" help:"Address of callbacks, API and pages (RELAY_LISTEN)."`
	OpsListen           string `default:"127.0.0.1:9090" help:"Address of health checks, metrics and profiles (RELAY_OPS_LISTEN)."`
	PublicURL           string `help:"How the world reaches the listen address (RELAY_PUBLIC_URL)."`
	APIKey              string `help:"A first admin key (RELAY_API_KEY)."`
	AllowPrivateTargets string `help:"Private networks that may be called (RELAY_ALLOW_PRIVATE_TARGETS)."`
	TrustedProxies      string `help:"Proxies whose X-Forwarded-For is believed (RELAY_TRUSTED_PROXIES)."`
	Migrate             string `enum:"auto,check" default:"auto" help:"auto or check (RELAY_MIGRATE)."`
	DrainDelay          span   `default:"5s" help:"Serve on for this long after SIGTERM (RELAY_DRAIN_DELAY)."`
	ShutdownTimeout     span   `default:"20s" help:"Finish within this time (RELAY_SHUTDOWN_TIMEOUT)."`
}

// span is a time span among the settings.
type span time.Duration

// Decode reads a span, or says which setting it is and how to write one.
func (s *span) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("time span", &text); err != nil {
		return err
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		name := "RELAY_" + strings.ToUpper(strings.ReplaceAll(ctx.Value.Name, "-", "_"))
		return fmt.Errorf("%s: %q is not a time span: write it like %s", name, text, ctx.Value.Default)
	}
	*s = span(d)
	return nil
}

// minKeyLength is the shortest RELAY_API_KEY, in characters.
const minKeyLength = 20

func (f *nodeFlags) check() error {
	if f.APIKey != "" && len(f.APIKey) < minKeyLength {
		return fmt.Errorf("RELAY_API_KEY has fewer than %d characters: it could be guessed", minKeyLength)
	}
	if f.DrainDelay < 0 || f.ShutdownTimeout <= 0 {
		return errors.New("RELAY_DRAIN_DELAY cannot be negative, RELAY_SHUTDOWN_TIMEOUT must be positive")
	}
	if _, err := egress.ParsePolicy(f.AllowPrivateTargets); err != nil {
		return fmt.Errorf("RELAY_ALLOW_PRIVATE_TARGETS: %w", err)
	}
	if _, err := f.trustedProxies(); err != nil {
		return err
	}
	if f.PublicURL == "" {
		return nil
	}
	u, err := url.Parse(f.PublicURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("RELAY_PUBLIC_URL must be an http or https URL without query or fragment, such as https://relay.example")
	}
	return nil
}

// trustedProxies are the networks of RELAY_TRUSTED_PROXIES; a lone address is
// a network of its own.
func (f *nodeFlags) trustedProxies() (networks []netip.Prefix, err error) {
	for text := range strings.SplitSeq(f.TrustedProxies, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		network, err := netip.ParsePrefix(text)
		if address, alone := netip.ParseAddr(text); alone == nil {
			network, err = address.Prefix(address.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("RELAY_TRUSTED_PROXIES: %q is no network: write it like 10.0.0.0/8", text)
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// publicURL is how the world reaches a listener.
func (f *nodeFlags) publicURL(l net.Listener) string {
	if f.PublicURL != "" {
		return strings.TrimRight(f.PublicURL, "/")
	}
	return "http://" + l.Addr().String()
}

// spelled writes a time span as people do: JSON would make it a number of
// nanoseconds.
func spelled(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

func newLogger(w io.Writer, format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{ReplaceAttr: spelled}))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}
