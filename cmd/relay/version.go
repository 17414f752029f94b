package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// What `make release` and the Dockerfile have the linker write here. Go notes
// both by itself only where it builds in a clone with git at hand, which an
// image's build has not.
var (
	linkedVersion string // v1.2.0
	linkedCommit  string // in full
)

// edition says which program this is.
type edition struct{ version, commit string }

// thisEdition is what the linker was told, else what Go noted, else unknown.
func thisEdition() edition {
	b := edition{version: linkedVersion, commit: linkedCommit}
	if info, ok := debug.ReadBuildInfo(); ok {
		b.version = cmp.Or(b.version, info.Main.Version)
		b.commit = cmp.Or(b.commit, revision(info))
	}
	return edition{version: cmp.Or(b.version, "unknown"), commit: cmp.Or(b.commit, "unknown")}
}

// revision is the commit that Go noted, or empty.
func revision(info *debug.BuildInfo) string {
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

// short is as much of the commit as tells it from others.
func (b edition) short() string { return b.commit[:min(12, len(b.commit))] }

func (b edition) String() string {
	return fmt.Sprintf("relay %s, commit %s, %s %s/%s", b.version, b.short(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
