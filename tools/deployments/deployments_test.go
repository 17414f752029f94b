package deployments_test

import (
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"relay.example/relay/tools/deployments"
)

// repository is the root of the whole, seen from the test's folder.
const repository = "../.."

// folders lists those that the program is built from, files that it embeds
// included: Go embeds from a package's own folder only.
func folders(t *testing.T) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}", "./cmd/relay")
	list.Dir = repository
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var found []string
	for _, pkg := range strings.Fields(string(out)) {
		found = append(found, strings.TrimPrefix(pkg, "relay.example/relay/"))
	}
	if len(found) < 10 || !slices.Contains(found, "cmd/relay") {
		t.Fatalf("go list: got %v, want the program's packages", found)
	}
	return found
}

// TestDeployments checks the files as they are.
func TestDeployments(t *testing.T) {
	t.Parallel()
	for _, finding := range deployments.Check(os.DirFS(repository), folders(t)) {
		t.Error(finding)
	}
}

// changed is a repository with one file changed.
type changed struct {
	fs.FS
	file string
	with fstest.MapFS
}

func (c changed) Open(name string) (fs.File, error) {
	if name == c.file {
		return c.with.Open(name)
	}
	return c.FS.Open(name)
}

// TestBroken breaks the files, one way at a time, and holds that each is
// found.
func TestBroken(t *testing.T) {
	t.Parallel()
	const (
		image      = "Dockerfile"
		compose    = "docker-compose.yml"
		nodes      = "deploy/kubernetes/deployment.yaml"
		migrate    = "deploy/kubernetes/migrate.yaml"
		service    = "deploy/kubernetes/service.yaml"
		network    = "deploy/kubernetes/network.yaml"
		kustomized = "deploy/kubernetes/kustomization.yaml"
	)
	tests := []struct{ name, file, old, new, want string }{
		{"unknown instruction", image, "WORKDIR", "WORKDIRS", "unknown instruction"},
		{"old Go", image, "GO_VERSION=1.", "GO_VERSION=0.", "want a patch release"},
		{"moving Go", image, "golang:${GO_VERSION}", "golang:latest", "golang:${GO_VERSION}"},
		{"missing source", image, "COPY cmd ./cmd", "COPY cmds ./cmd", "COPY cmds: it does not exist"},
		{"forgotten folder", image, "COPY templates ./templates\n", "", "built from templates"},
		{"forgotten sums", image, "COPY go.mod go.sum ./", "COPY go.mod ./", "go.sum is not copied"},
		{"held back", ".dockerignore", "!/migrations\n", "", ".dockerignore holds it back"},
		{"unknown stage", image, "--from=build /out", "--from=builder /out", "no stage above"},
		{"linked to nothing", image, "main.linkedCommit", "main.commit", "the linker sets"},
		{"released with nothing", ".ci/release", "main.linkedVersion", "main.version", "the linker sets"},
		{"root", image, "USER 65532:65532", "USER 0:0", "none of them root's"},
		{"user by name", image, "USER 65532:65532", "USER relay", "two numbers"},
		{"a shell", image, `ENTRYPOINT ["/relay"]`, "ENTRYPOINT /relay", "needs a shell"},
		{"a base", image, "FROM scratch", "FROM debian", "want scratch"},
		{"loopback in the image", image, "RELAY_OPS_LISTEN=:9090", "RELAY_OPS_LISTEN=127.0.0.1:9090", "want :9090"},
		{"misspelt setting", image, "RELAY_LISTEN=", "RELAY_LISTN=", "RELAY_LISTN is no setting"},
		{"port not exposed", image, "EXPOSE 8080 9090", "EXPOSE 8080", "EXPOSE [8080]"},
		{"unknown command", image, `CMD ["serve"]`, `CMD ["server"]`, "relay server is no command"},

		{"not YAML", compose, "services:", "services", compose},
		{"unknown field", compose, "    healthcheck:", "    health_check:", "health_check"},
		{"unknown service", compose, "      postgres: {condition", "      database: {condition", "database"},
		{"unknown volume", compose, "- data:/var", "- date:/var", "date"},
		{"published to all", compose, `"127.0.0.1:8080:8080"`, `"8080:8080"`, "want 127.0.0.1"},
		{"port of nobody", compose, `"127.0.0.1:9090:9090"`, `"127.0.0.1:9090:9091"`, "does not listen on 9091"},
		{"secret in the file", compose, "POSTGRES_PASSWORD_FILE:", "POSTGRES_PASSWORD:", "POSTGRES_PASSWORD is in the file"},
		{"setting in compose", compose, "RELAY_API_KEY_FILE", "RELAY_APIKEY_FILE", "RELAY_APIKEY_FILE is no setting"},
		{"moving image", compose, "image: postgres:17-alpine", "image: postgres", "no major version"},
		{"killed early", compose, "stop_grace_period: 30s", "stop_grace_period: 10s", "killed after 10s"},
		{"health without a shell", compose, "[CMD, /relay, ping]", "[CMD-SHELL, curl -f localhost:9090/readyz]", "nothing else to run"},
		{"missing configuration", compose, "./deploy/compose/relay.yaml:", "./deploy/relay.yaml:", "does not exist"},
		{"no sandbox", compose, "command: [serve, --config", "command: [bake, --config", "relay bake is no command"},

		{"unknown field of a pod", nodes, "enableServiceLinks:", "enableServiceLink:", "enableServiceLink"},
		{"field of a wrong type", nodes, "replicas: 3", "replicas: three", "replicas"},
		{"unknown version", nodes, "apps/v1", "apps/v1beta1", "unknown kind"},
		{"two replicas", nodes, "replicas: 3", "replicas: 2", "three replicas"},
		{"probe of nothing", nodes, "{path: /healthz, port: ops}", "{path: /health, port: ops}", "livenessProbe asks for /health"},
		{"probe of the public port", nodes, "{path: /healthz, port: ops}", "{path: /healthz, port: http}", "livenessProbe asks the port http"},
		{"liveness by readiness", nodes, "{path: /healthz, port: ops}", "{path: /readyz, port: ops}", "livenessProbe asks for /readyz"},
		{"no readiness by HTTP", nodes, "readinessProbe:\n            httpGet: {path: /readyz, port: ops}", "readinessProbe:\n            tcpSocket: {port: ops}", "no readinessProbe"},
		{"pod killed early", nodes, "GracePeriodSeconds: 40", "GracePeriodSeconds: 29", "killed after 29s"},
		{"longer drain", nodes, "env:", "env:\n            - {name: RELAY_DRAIN_DELAY, value: 30s}", "takes up to 55s"},
		{"setting of a pod", nodes, "name: RELAY_LOG", "name: RELAY_LOGS", "RELAY_LOGS is no setting"},
		{"migrating nodes", nodes, "value: check", "value: auto", "want check"},
		{"another user", nodes, "runAsUser: 65532", "runAsUser: 1000", "the image's user 65532"},
		{"root file system", nodes, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "read-only root"},
		{"capabilities", nodes, "drop: [ALL]", "drop: [NET_RAW]", "all capabilities dropped"},
		{"memory", nodes, "value: 200MiB", "value: 2GiB", "under the limit"},
		{"file of nothing", nodes, "/run/relay/public-url", "/run/relay/url", "/run/relay/url"},
		{"file that is not mounted", migrate, "key: database-url", "key: database", "DATABASE_URL_FILE"},
		{"migrating down", migrate, "[migrate, up]", "[migrate, down]", "migrate up"},
		{"selector of nothing", service, "component: node\n  ports", "component: nodes\n  ports", "selects no pod"},
		{"port of a service", service, "targetPort: http", "targetPort: web", "no container has the port web"},
		{"open to the world", service, "spec:\n  clusterIP", "spec:\n  type: LoadBalancer\n  clusterIP", "reachable from outside"},
		{"operations for all", network, "      from:\n        - namespaceSelector:\n            matchLabels: {kubernetes.io/metadata.name: monitoring}\n", "", "everybody reaches"},
		{"budget of nothing", "deploy/kubernetes/disruption.yaml", "matchLabels:\n      app.kubernetes.io/name: relay", "matchLabels:\n      app.kubernetes.io/name: rely", "the budget selects no pod"},
		{"operations by ingress", "deploy/kubernetes/ingress.example.yaml", "                name: relay\n                port: {name: http}", "                name: relay-ops\n                port: {name: ops}", "no public port"},
		{"secret applied", kustomized, "  - service.yaml", "  - service.yaml\n  - secret.example.yaml", "all but the examples"},
		{"manifest forgotten", kustomized, "  - network.yaml\n", "", "all but the examples"},
		{"unknown field of kustomization", kustomized, "namespace: relay", "namespaces: relay", "namespaces"},
		{"secret that works", "deploy/kubernetes/secret.example.yaml", "api-key: REPLACE-ME", "api-key: a-key-that-would-do-well", "api-key is not REPLACE-ME"},
	}
	from, built := os.DirFS(repository), folders(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text, err := fs.ReadFile(from, tt.file)
			if err != nil {
				t.Fatal(err)
			}
			broken := strings.Replace(string(text), tt.old, tt.new, 1)
			if broken == string(text) {
				t.Fatalf("%s does not hold %q: nothing was broken", tt.file, tt.old)
			}
			found := deployments.Check(changed{from, tt.file, fstest.MapFS{tt.file: {Data: []byte(broken)}}}, built)
			if !slices.ContainsFunc(found, func(finding string) bool { return strings.Contains(finding, tt.want) }) {
				t.Errorf("got %q, want a finding that says %q", found, tt.want)
			}
		})
	}
}
