package deployments

import (
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

const dockerfile = "Dockerfile"

// image is what the Dockerfile says of a container.
type image struct {
	user       int64
	env        map[string]string
	ports      []int32 // of RELAY_LISTEN and RELAY_OPS_LISTEN
	entrypoint []string
}

var (
	linkedTo = regexp.MustCompile(`-X main\.(\w+)=`)
	goImage  = regexp.MustCompile(`^golang:\$\{GO_VERSION\}(-\w+)?$`)
	numbers  = regexp.MustCompile(`^([1-9]\d*):([1-9]\d*)$`)
)

func checkImage(f *findings, p program, folders []string) image {
	i := image{env: map[string]string{}}
	parsed, err := parser.Parse(strings.NewReader(f.read(dockerfile)))
	if err != nil {
		f.add(dockerfile, "%v", err)
		return i
	}
	stages, args, err := instructions.Parse(parsed.AST, nil)
	if err != nil || len(stages) == 0 {
		f.add(dockerfile, "no stages, %v", err)
		return i
	}
	checkCompiler(f, p, stages[0], args)
	for n, stage := range stages {
		for _, c := range stage.Commands {
			if c, ok := c.(*instructions.CopyCommand); ok {
				checkCopy(f, c, stages[:n])
			}
		}
	}
	checkFolders(f, stages[0], folders)
	checkLinked(f, p, dockerfile)
	checkLinked(f, p, ".ci/release")
	return readImage(f, p, i, stages[len(stages)-1])
}

// checkCompiler holds the image's Go to go.mod's, and to a version that does
// not move.
func checkCompiler(f *findings, p program, stage instructions.Stage, args []instructions.ArgCommand) {
	f.want(goImage.MatchString(stage.BaseName), dockerfile, "the program is built in %s, want golang:${GO_VERSION}", stage.BaseName)
	for _, a := range args {
		for _, pair := range a.Args {
			if pair.Key == "GO_VERSION" && pair.Value != nil {
				f.want(strings.HasPrefix(*pair.Value, p.language+".") && strings.Count(*pair.Value, ".") == 2, dockerfile,
					"GO_VERSION is %s, want a patch release of go.mod's %s", *pair.Value, p.language)
				return
			}
		}
	}
	f.add(dockerfile, "GO_VERSION has no value")
}

// checkCopy holds what is copied to exist: in the repository, and not held
// back by .dockerignore, or in a stage above.
func checkCopy(f *findings, c *instructions.CopyCommand, above []instructions.Stage) {
	if c.From != "" {
		f.want(slices.ContainsFunc(above, func(s instructions.Stage) bool { return s.Name == c.From }), dockerfile,
			"COPY --from=%s: no stage above has that name", c.From)
		return
	}
	patterns, err := ignorefile.ReadAll(strings.NewReader(f.read(".dockerignore")))
	if err != nil {
		f.add(".dockerignore", "%v", err)
		return
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		f.add(".dockerignore", "%v", err)
		return
	}
	for _, source := range c.SourcePaths {
		source = path.Clean(source)
		if !f.exists(source) {
			f.add(dockerfile, "COPY %s: it does not exist", source)
			continue
		}
		held, err := ignored.MatchesOrParentMatches(anyFile(f.root, source))
		f.want(err == nil && !held, dockerfile, "COPY %s: .dockerignore holds it back", source)
	}
}

// anyFile is a file, or one inside a folder.
func anyFile(root fs.FS, name string) string {
	found := name
	_ = fs.WalkDir(root, name, func(file string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			found = file
			return fs.SkipAll
		}
		return err
	})
	return found
}

// checkFolders holds all that the program is built from to be copied.
func checkFolders(f *findings, build instructions.Stage, folders []string) {
	var copied []string
	for _, c := range build.Commands {
		if c, ok := c.(*instructions.CopyCommand); ok {
			for _, source := range c.SourcePaths {
				copied = append(copied, path.Clean(source))
			}
		}
	}
	for _, folder := range folders {
		inside := func(c string) bool { return c == folder || strings.HasPrefix(folder, c+"/") }
		f.want(slices.ContainsFunc(copied, inside), dockerfile, "the program is built from %s, which is not copied", folder)
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		f.want(slices.Contains(copied, file), dockerfile, "%s is not copied", file)
	}
}

// checkLinked holds what the linker is told to name variables that exist: it
// passes over others in silence.
func checkLinked(f *findings, p program, file string) {
	var told []string
	for _, m := range linkedTo.FindAllStringSubmatch(f.read(file), -1) {
		told = append(told, m[1])
	}
	f.want(slices.Equal(told, p.linked), file, "the linker sets %v, want %v of cmd/relay/version.go", told, p.linked)
}

// readImage reads the last stage.
func readImage(f *findings, p program, i image, stage instructions.Stage) image {
	f.want(stage.BaseName == "scratch", dockerfile, "the image is made from %s, want scratch", stage.BaseName)
	var user string
	var exposed []string
	for _, c := range stage.Commands {
		switch c := c.(type) {
		case *instructions.UserCommand:
			user = c.User
		case *instructions.ExposeCommand:
			exposed = append(exposed, c.Ports...)
		case *instructions.EnvCommand:
			for _, pair := range c.Env {
				p.checkSetting(f, dockerfile, pair.Key)
				i.env[pair.Key] = pair.Value
			}
		case *instructions.EntrypointCommand:
			i.entrypoint = c.CmdLine
			f.want(!c.PrependShell, dockerfile, "ENTRYPOINT needs a shell, which the image has not")
		case *instructions.CmdCommand:
			p.checkCommand(f, dockerfile, c.CmdLine)
			f.want(!c.PrependShell, dockerfile, "CMD needs a shell, which the image has not")
		case *instructions.HealthCheckCommand:
			checkHealth(f, dockerfile, c.Health.Test)
		}
	}
	if m := numbers.FindStringSubmatch(user); m != nil {
		i.user, _ = strconv.ParseInt(m[1], 10, 64)
	}
	f.want(i.user > 0, dockerfile, "USER is %q, want two numbers, none of them root's", user)
	f.want(i.env["RELAY_OPS_LISTEN"] == ":9090", dockerfile, "RELAY_OPS_LISTEN is %q, want :9090", i.env["RELAY_OPS_LISTEN"])
	for _, name := range []string{"RELAY_LISTEN", "RELAY_OPS_LISTEN"} {
		port := strings.TrimPrefix(i.env[name], ":")
		n, err := strconv.ParseInt(port, 10, 32)
		f.want(err == nil && slices.Contains(exposed, port), dockerfile, "%s is %q, EXPOSE %v", name, i.env[name], exposed)
		i.ports = append(i.ports, int32(n))
	}
	return i
}

// checkHealth holds a check of health to what the image can run.
func checkHealth(f *findings, file string, test []string) {
	f.want(len(test) >= 3 && test[0] == "CMD" && test[1] == "/relay" && test[2] == "ping", file,
		"the health check is %q, want CMD /relay ping: the image has nothing else to run", test)
}
