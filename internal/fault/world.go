package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"relay.example/relay/internal/leaks"
	"relay.example/relay/internal/localpg"
	"relay.example/relay/internal/seal"
)

// credentials are drawn for each world. None may ever stand in a log.
type credentials struct{ apiKey, certainly, stripe string }

func newCredentials() credentials {
	return credentials{apiKey: rand.Text(), certainly: rand.Text(), stripe: "whsec_" + rand.Text()}
}

// nodes is how many share the work.
const nodes = 3

// diskSize is the disk of a database that is to run full, in bytes.
const diskSize = 320 << 20

// configuration is what the nodes are told at their start.
const configuration = `
destinations:
  - {name: bot, platform: certainly, base_url: "${PLATFORM}", token: "${CERTAINLY_TOKEN}"}
  - {name: stuck, platform: certainly, base_url: "${PLATFORM}/stuck", token: "${CERTAINLY_TOKEN}"}
sources:
  - {name: stripe, provider: stripe, secret: "${STRIPE_WEBHOOK_SECRET}"}
flows:
  - name: checkout
    destination: bot
    source: stripe
    link: https://buy.stripe.example/test
    on: {completed: {module_id: 1}, expired: {module_id: 2}, default: {module_id: 3}}
  - name: stuck
    destination: stuck
    source: stripe
    on: {completed: {module_id: 99}, default: {module_id: 3}}
`

// The modules of the configuration that are looked for.
const (
	expiredModule = 2
	stuckModule   = 99
)

// shape is what kind of database a world has.
type shape int

const (
	alone     shape = iota // one server
	followed               // with a synchronous standby
	smallDisk              // one server on a small disk of its own
)

// world is three nodes, their database, the platform and the ways between.
type world struct {
	dir      string
	seed     uint64
	shape    shape
	say      func(string, ...any)
	secrets  credentials
	drawn    []string // more of them, drawn later
	platform *platform
	servers  []*server // the primary first
	nodes    []*node
	balancer *balancer

	next     atomic.Int64 // the next user
	mounted  string
	watching context.CancelFunc
	watchers sync.WaitGroup
}

// errNoMount says that this process may not mount a disk.
var errNoMount = errors.New("no small disk can be mounted here")

// newWorld starts everything. program is the built relay.
func newWorld(ctx context.Context, program string, of shape, seed uint64, say func(string, ...any)) (w *world, err error) {
	w = &world{seed: seed, shape: of, say: say, secrets: newCredentials(), watching: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "relay-fault-"); err != nil {
		return w, err
	}
	if err := os.Chmod(w.dir, 0o711); err != nil {
		return w, err
	}
	for _, step := range []func(context.Context) error{
		w.startServers,
		func(ctx context.Context) (err error) { w.platform, err = startPlatform(ctx); return err },
		func(ctx context.Context) error { return w.startNodes(ctx, program) },
	} {
		if err := step(ctx); err != nil {
			return w, err
		}
	}
	return w, nil
}

func (w *world) startServers(ctx context.Context) error {
	programs, err := localpg.FindPrograms(ctx)
	if err != nil {
		return err
	}
	home := filepath.Join(w.dir, "postgres")
	settings := []string{"shared_buffers=64MB", "max_connections=100"}
	if w.shape == smallDisk {
		settings = append(settings, "max_wal_size=64MB", "min_wal_size=32MB", "wal_recycle=off")
		if err := w.mount(home); err != nil {
			return err
		}
	}
	primary, err := newServer(ctx, programs, home, settings...)
	if err != nil {
		return err
	}
	w.servers = append(w.servers, primary)
	if err := primary.create(ctx); err != nil {
		return err
	}
	if err := primary.start(ctx); err != nil {
		return err
	}
	if w.shape != followed {
		return nil
	}
	return w.addStandby(ctx, programs, settings)
}

// addStandby makes the standby of the primary, which from then on answers
// only what both have.
func (w *world) addStandby(ctx context.Context, programs *localpg.Programs, settings []string) error {
	primary := w.servers[0]
	standby, err := newServer(ctx, programs, filepath.Join(w.dir, "standby"), settings...)
	if err != nil {
		return err
	}
	w.servers = append(w.servers, standby)
	if err := standby.follow(ctx, primary); err != nil {
		return err
	}
	if err := standby.start(ctx); err != nil {
		return err
	}
	if err := primary.stop(); err != nil {
		return err
	}
	return primary.start(ctx, "synchronous_standby_names=*")
}

// exchange notes that the standby has become the primary and the primary its
// standby. From then on the new one answers only what both have.
func (w *world) exchange(ctx context.Context) error {
	w.servers[0], w.servers[1] = w.servers[1], w.servers[0]
	if err := w.servers[0].awaitFollower(ctx); err != nil {
		return err
	}
	return errors.Join(w.servers[1].set(ctx, "synchronous_standby_names = ''"), w.servers[0].set(ctx, "synchronous_standby_names = '*'"))
}

// mount puts a small disk where the database is to lie.
func (w *world) mount(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	if err := mountMemory(path, diskSize); err != nil {
		return fmt.Errorf("%w: %w", errNoMount, err)
	}
	w.mounted = path
	return nil
}

func (w *world) startNodes(ctx context.Context, program string) error {
	config := filepath.Join(w.dir, "relay.yaml")
	if err := os.WriteFile(config, []byte(configuration), 0o600); err != nil {
		return err
	}
	key := seal.NewKey()
	proxies := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.watching = stop
	for i := range nodes {
		n, err := w.newNode(ctx, proxies, i, program, key)
		if err != nil {
			return err
		}
		w.nodes = append(w.nodes, n)
		if i == 0 {
			n.args = []string{"--config", config}
		}
		if err := n.start(ctx); err != nil {
			return err
		}
		n.args = nil
		w.watchers.Go(func() { n.watch(watching) })
	}
	w.balancer = newBalancer(w.nodes)
	return nil
}

// newNode makes a node's ways to the servers, and its settings.
func (w *world) newNode(ctx context.Context, proxies *toxiproxy.ApiServer, i int, program, key string) (*node, error) {
	n := &node{name: fmt.Sprintf("node-%d", i+1), program: program}
	var hosts []string
	for _, s := range w.servers {
		p := toxiproxy.NewProxy(proxies, n.name, "127.0.0.1:0", s.address)
		if err := p.Start(); err != nil {
			return nil, err
		}
		n.proxies = append(n.proxies, p)
		hosts = append(hosts, p.Listen)
	}
	var addresses [2]string
	for i := range addresses {
		var err error
		if addresses[i], err = freeAddress(ctx); err != nil {
			return nil, err
		}
	}
	n.url, n.ops = "http://"+addresses[0], "http://"+addresses[1]
	n.env = append(withoutSettings(os.Environ()),
		"DATABASE_URL=postgres://"+role+"@"+strings.Join(hosts, ",")+"/"+role+"?sslmode=disable&target_session_attrs=read-write",
		"RELAY_LISTEN="+addresses[0], "RELAY_OPS_LISTEN="+addresses[1], "RELAY_API_KEY="+w.secrets.apiKey, "RELAY_ENCRYPTION_KEY="+key,
		"RELAY_ALLOW_PRIVATE_TARGETS=true", "RELAY_DRAIN_DELAY="+drainDelay.String(), "RELAY_LOG=json",
		"PLATFORM=http://"+w.platform.address, "CERTAINLY_TOKEN="+w.secrets.certainly, "STRIPE_WEBHOOK_SECRET="+w.secrets.stripe)
	var err error
	n.log, err = os.OpenFile(filepath.Join(w.dir, n.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return n, err
}

// newLoad makes payers for this world.
func (w *world) newLoad() *load {
	return &load{
		balancer: w.balancer, key: w.secrets.apiKey, secret: w.secrets.stripe, run: w.seed, next: &w.next,
		size: callback, flow: "checkout", wrong: map[string]int{},
	}
}

// get asks any node's API.
func (w *world) get(ctx context.Context, path string, into any) error {
	a, err := w.balancer.send(ctx, w.balancer.pick(), http.MethodGet, path, http.Header{"Authorization": {"Bearer " + w.secrets.apiKey}}, nil)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("%s was answered %d: %.200s", path, a.status, a.body)
	}
	return json.Unmarshal(a.body, into)
}

// owed reports whether any call is still to be made.
func (w *world) owed(ctx context.Context) (bool, error) {
	for _, status := range []string{"scheduled", "sending"} {
		var list struct{ Data []json.RawMessage }
		if err := w.get(ctx, "/v1/deliveries?limit=1&status="+status, &list); err != nil {
			return true, err
		}
		if len(list.Data) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// leaks lists what stands in the nodes' logs and may not.
func (w *world) leaks() (found []string, err error) {
	secrets := append([]string{w.secrets.apiKey, w.secrets.certainly, w.secrets.stripe}, w.drawn...)
	for _, n := range w.nodes {
		raw, err := os.ReadFile(n.log.Name())
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(raw)) {
			if what := leaks.In(line, secrets...); what != "" {
				found = append(found, fmt.Sprintf("%s: %q in %s", n.name, what, line))
			}
		}
	}
	return found, nil
}

// close ends everything, and removes its directory.
func (w *world) close() error {
	w.watching()
	w.watchers.Wait()
	var errs []error
	for _, n := range w.nodes {
		errs = append(errs, n.close())
	}
	if w.platform != nil {
		w.platform.close()
	}
	for _, s := range w.servers {
		errs = append(errs, s.kill(), s.log.Close())
	}
	if w.mounted != "" {
		errs = append(errs, unmount(w.mounted))
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

// unmount waits for the last session to let go of the disk.
func unmount(path string) error {
	for deadline := time.Now().Add(stopLimit); ; {
		err := unmountOnce(path)
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
