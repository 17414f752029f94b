// Package deployments holds the files that bring the relay to other machines,
// the Dockerfile, docker-compose.yml and deploy/kubernetes, to their schemas
// and to the program, on a machine that has neither Docker nor Kubernetes.
//
// Each file is read as the engine would read it: by BuildKit's parser,
// compose's loader with its schema, and Kubernetes' own types with no field
// unknown. Then come the facts that no schema knows: that a probe asks a port
// and a path that exist, that a pod is given the time that a relay takes to
// stop, that a name like a setting is one, that nothing is reachable from
// outside by accident.
//
// What an engine refuses beyond the schema, such as a label with a bad
// character or a required field that is missing, is found only there.
package deployments

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
)

// Check returns what is wrong with the files of a repository, each with its
// file. folders are those that the program is built from.
func Check(root fs.FS, folders []string) []string {
	f := &findings{root: root}
	p := readProgram(f)
	i := checkImage(f, p, folders)
	checkCompose(f, p, i)
	checkKubernetes(f, p, i)
	return f.list
}

// findings collects what is wrong.
type findings struct {
	root fs.FS
	list []string
}

func (f *findings) add(file, format string, args ...any) {
	f.list = append(f.list, file+": "+fmt.Sprintf(format, args...))
}

// want adds a finding unless something holds.
func (f *findings) want(holds bool, file, format string, args ...any) {
	if !holds {
		f.add(file, format, args...)
	}
}

// read reads a file of the repository. One that is not there is a finding and
// empty.
func (f *findings) read(file string) string {
	text, err := fs.ReadFile(f.root, file)
	if err != nil {
		f.add(file, "%v", err)
	}
	return string(text)
}

func (f *findings) exists(file string) bool {
	_, err := fs.Stat(f.root, file)
	return err == nil
}

// program is what the repository says of the program. The table of settings is
// held against the code by a test of the program's own.
type program struct {
	settings map[string]string // docs/operating.md's table, and their defaults
	commands string            // README's list
	routes   []string          // of the operations listener
	linked   []string          // what the linker may set
	language string            // go.mod's version of Go
}

var (
	settingRow  = regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| *([^|]*?) *\\|")
	opsRoute    = regexp.MustCompile(`e\.GET\("([^"]+)"`)
	linkedName  = regexp.MustCompile(`(?m)^\t(linked\w+) +string`)
	goDirective = regexp.MustCompile(`(?m)^go (\d+\.\d+)`)
)

func readProgram(f *findings) program {
	p := program{settings: map[string]string{}}
	readme := f.read("README.md")
	for _, row := range settingRow.FindAllStringSubmatch(f.read("docs/operating.md"), -1) {
		p.settings[row[1]] = row[2]
	}
	_, p.commands, _ = strings.Cut(readme, "## Commands")
	for _, m := range opsRoute.FindAllStringSubmatch(f.read("internal/handlers/ops.go"), -1) {
		p.routes = append(p.routes, m[1])
	}
	for _, m := range linkedName.FindAllStringSubmatch(f.read("cmd/relay/version.go"), -1) {
		p.linked = append(p.linked, m[1])
	}
	if m := goDirective.FindStringSubmatch(f.read("go.mod")); m != nil {
		p.language = m[1]
	}
	f.want(len(p.settings) >= 12 && p.commands != "" && len(p.routes) >= 2 && len(p.linked) == 2 && p.language != "",
		"README.md", "the program was not understood: %+v", p)
	return p
}

// checkSetting holds a name that looks like a setting of the relay's to be
// one.
func (p program) checkSetting(f *findings, file, name string) {
	if !strings.HasPrefix(name, "RELAY_") && !strings.HasPrefix(name, "DATABASE_URL") {
		return
	}
	_, known := p.settings[strings.TrimSuffix(name, "_FILE")]
	f.want(known, file, "%s is no setting: docs/operating.md's table has them all", name)
}

// checkCommand holds arguments to begin with a command that README lists. The
// hidden one of the health checks is checkHealth's.
func (p program) checkCommand(f *findings, file string, args []string) {
	if len(args) == 0 {
		f.add(file, "no command is given")
		return
	}
	f.want(strings.Contains(p.commands, "`relay "+args[0]), file, "relay %s is no command: README.md lists them", args[0])
}
