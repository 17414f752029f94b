package deployments

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

const composeFile = "docker-compose.yml"

// imageName is what compose calls the relay's image.
const imageName = "relay:local"

// oneRelease is an image of a certain major version.
var oneRelease = regexp.MustCompile(`^[a-z/]+:\d+(\.\d+)*(-[a-z]+)?$`)

func checkCompose(f *findings, p program, i image) {
	project, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  "/",
		ConfigFiles: []types.ConfigFile{{Filename: "/" + composeFile, Content: []byte(f.read(composeFile))}},
		Environment: types.Mapping{},
	}, func(o *loader.Options) { o.ResolvePaths = false })
	if err != nil {
		f.add(composeFile, "%v", err)
		return
	}
	ours := 0
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		s := project.Services[name]
		checkService(f, p, s)
		if s.Image == imageName {
			ours++
			checkOurs(f, p, i, s)
		} else {
			f.want(oneRelease.MatchString(s.Image), composeFile, "%s: the image %s has no major version", name, s.Image)
		}
	}
	f.want(ours == 2, composeFile, "%d services are of the image %s, want the relay and the sandbox", ours, imageName)
	for _, name := range []string{"postgres", "relay", "sandbox"} {
		s, ok := project.Services[name]
		f.want(ok && s.HealthCheck != nil && !s.HealthCheck.Disable, composeFile, "%s is not there, or its health is not checked", name)
	}
}

// secretNames are of variables whose value would be a secret in the file.
var secretNames = regexp.MustCompile(`^DATABASE_URL$|(KEY|PASSWORD|SECRET|TOKEN)$`)

// checkService holds any service to what is true of all: on loopback only, and
// without a secret.
func checkService(f *findings, p program, s types.ServiceConfig) {
	for _, port := range s.Ports {
		f.want(port.HostIP == "127.0.0.1", composeFile, "%s: port %d is published on %q, want 127.0.0.1", s.Name, port.Target, port.HostIP)
	}
	f.want(!s.Privileged && s.NetworkMode != "host", composeFile, "%s: it has the machine's network or rights", s.Name)
	for _, name := range slices.Sorted(maps.Keys(s.Environment)) {
		p.checkSetting(f, composeFile, name)
		f.want(!secretNames.MatchString(name), composeFile, "%s: %s is in the file, want it in a volume (%s_FILE)", s.Name, name, name)
	}
	for _, v := range s.Volumes {
		if v.Type == types.VolumeTypeBind {
			source := strings.TrimPrefix(v.Source, "./")
			f.want(f.exists(source) && v.ReadOnly, composeFile, "%s: %s does not exist, or may be written", s.Name, v.Source)
		}
	}
}

// checkOurs holds a service of the relay's image to the program.
func checkOurs(f *findings, p program, i image, s types.ServiceConfig) {
	p.checkCommand(f, composeFile, s.Command)
	f.want(s.User == "" && s.Entrypoint == nil, composeFile, "%s: user or entrypoint is not the image's", s.Name)
	f.want(s.ReadOnly && slices.Equal(s.CapDrop, []string{"ALL"}), composeFile, "%s: want read_only and cap_drop: [ALL]", s.Name)
	if s.HealthCheck != nil {
		checkHealth(f, composeFile, s.HealthCheck.Test)
	}
	if len(s.Command) == 0 || s.Command[0] != "serve" {
		return
	}
	for _, port := range s.Ports {
		f.want(slices.Contains(i.ports, int32(port.Target)), composeFile, "%s: the relay does not listen on %d", s.Name, port.Target)
	}
	given := func(name string) string {
		if v := s.Environment[name]; v != nil {
			return *v
		}
		return ""
	}
	var grace time.Duration
	if s.StopGracePeriod != nil {
		grace = time.Duration(*s.StopGracePeriod)
	}
	p.checkGrace(f, composeFile, grace, given)
}

// spare is what a relay may need besides the times that its settings name: to
// return its leases and to close its connections.
const spare = 5 * time.Second

// checkGrace holds the time until a relay is killed to what it takes to stop.
func (p program) checkGrace(f *findings, file string, grace time.Duration, given func(string) string) {
	needed := spare
	for _, name := range []string{"RELAY_DRAIN_DELAY", "RELAY_SHUTDOWN_TIMEOUT"} {
		text := given(name)
		if text == "" {
			text = p.settings[name]
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			f.add(file, "%s: %v", name, err)
		}
		needed += d
	}
	f.want(grace >= needed, file, "the relay is killed after %s, and takes up to %s to stop", grace, needed)
}
