// Command sbom writes the bill of materials of a Go program, as CycloneDX
// JSON, to standard output: the modules that Go noted in the program itself.
// What is in the list was linked; what was only downloaded is not.
//
//	sbom -name relay -version v1.2.0 -commit 0123abc -time 1767225600 program
//
// The same program and arguments give the same bytes.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// release is what a program does not know of itself.
type release struct {
	name, version, commit string
	time                  int64 // of the commit, in Unix seconds
}

func run(args []string, out io.Writer) error {
	var r release
	flags := flag.NewFlagSet("sbom", flag.ContinueOnError)
	flags.StringVar(&r.name, "name", "", "name of the program")
	flags.StringVar(&r.version, "version", "", "version of the release")
	flags.StringVar(&r.commit, "commit", "", "commit that it was built from")
	flags.Int64Var(&r.time, "time", 0, "time of the commit, in Unix seconds")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || r.name == "" || r.version == "" {
		return errors.New("give -name, -version and the path of one program")
	}
	bill, err := describe(flags.Arg(0), r)
	if err != nil {
		return err
	}
	return cdx.NewBOMEncoder(out, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bill, cdx.SpecVersion1_6)
}

// describe reads a program.
func describe(path string, r release) (*cdx.BOM, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading what was linked: %w", err)
	}
	sum, err := digest(path)
	if err != nil {
		return nil, err
	}
	program := cdx.Component{
		BOMRef: purl(info.Main.Path, r.version), PackageURL: purl(info.Main.Path, r.version),
		Type: cdx.ComponentTypeApplication, Name: r.name, Version: r.version,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}}, Properties: properties(info, r.commit),
	}
	components := []cdx.Component{module("std", strings.TrimPrefix(info.GoVersion, "go"), "")}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		components = append(components, module(m.Path, m.Version, m.Sum))
	}
	refs := make([]string, len(components))
	for i, c := range components {
		refs[i] = c.BOMRef
	}
	bill := cdx.NewBOM()
	bill.Metadata = &cdx.Metadata{Timestamp: time.Unix(r.time, 0).UTC().Format(time.RFC3339), Component: &program}
	bill.Components = &components
	// Which module wants which is not noted in a program.
	bill.Dependencies = &[]cdx.Dependency{{Ref: program.BOMRef, Dependencies: &refs}}
	return bill, nil
}

// module is a library that was linked. sum is what go.sum has of it.
func module(path, version, sum string) cdx.Component {
	c := cdx.Component{
		BOMRef: purl(path, version), PackageURL: purl(path, version),
		Type: cdx.ComponentTypeLibrary, Name: path, Version: version, Scope: cdx.ScopeRequired,
	}
	if sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go:sum", Value: sum}}
	}
	return c
}

// purl names a module as the package URL specification has it.
func purl(path, version string) string { return "pkg:golang/" + path + "@" + version }

// properties are the commit and how the program was built.
func properties(info *debug.BuildInfo, commit string) *[]cdx.Property {
	list := []cdx.Property{{Name: "commit", Value: commit}, {Name: "go:version", Value: info.GoVersion}}
	for _, s := range info.Settings {
		list = append(list, cdx.Property{Name: "go:build:" + s.Key, Value: s.Value})
	}
	return &list
}

func digest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
