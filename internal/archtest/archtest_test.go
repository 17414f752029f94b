// Package archtest holds the arrows between the packages: who may import whom
// within this module, and which package alone may use which library. A
// package that is not in the table fails the test until its charter is
// written there.
//
// Only files that end up in the program are held to the arrows. A test may
// import what it needs to see a package from outside, say a real database.
package archtest_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "relay.example/relay"

// root is the module's directory, seen from the test's.
const root = "../.."

// charter names the packages of this module that a package may import.
type charter struct {
	pkg     string
	imports []string
}

// charters holds all packages. Arrows point one way only: a package comes
// after all that it imports.
var charters = []charter{
	{"internal/relay", nil},
	{"internal/seal", nil},
	{"internal/standardwebhooks", nil},
	{"internal/groupcommit", nil},
	{"internal/passes", nil},
	{"internal/localpg", nil},
	{"internal/archtest", nil},
	{"internal/leaks", nil},
	{"migrations", nil},
	{"templates", nil},

	{"internal/localpg/withpg", names("localpg")},
	{"internal/mapping", names("relay")},
	{"internal/platform", names("relay standardwebhooks")},
	{"internal/egress", names("relay")},
	{"internal/sandbox", names("relay")},
	{"internal/provider", names("relay mapping")},
	{"internal/store", append(names("relay seal groupcommit"), "migrations")},
	{"internal/store/storetest", append(names("relay seal standardwebhooks localpg store"), "migrations")},
	{"internal/store/fill", nil},
	{"internal/store/interleave", nil}, // for tests alone: nobody below may import it
	{"internal/trigger", names("relay provider")},
	{"internal/form", names("relay mapping")},
	{"internal/plan", names("relay mapping platform form")},
	{"internal/metrics", names("relay store")},

	{"internal/checkout", names("relay egress store passes")},
	{"internal/directory", append(names("relay store provider platform egress plan checkout standardwebhooks"), "templates")},
	{"internal/intake", names("relay store plan mapping groupcommit directory metrics")},
	{"internal/deliver", names("relay store plan mapping platform egress groupcommit passes directory metrics standardwebhooks")},
	{"internal/sweeper", names("relay store passes plan directory metrics")},
	{"internal/inquiry", names("relay store passes plan platform egress directory intake metrics")},
	{"internal/remote", names("relay store passes platform egress directory")},
	{"internal/handlers", append(names("relay store provider platform form plan mapping directory intake egress metrics checkout"), "templates")},
	{"internal/bench", names("relay store store/fill provider plan directory intake egress handlers")},
	{"internal/fault", names("leaks localpg seal sandbox bench")},

	{"cmd/relay", append(names("relay seal groupcommit localpg mapping platform egress sandbox provider "+
		"store plan metrics directory intake deliver sweeper inquiry remote handlers checkout store/fill bench trigger"), "migrations", "templates")},
}

// names writes out a list of packages under internal.
func names(list string) []string {
	var paths []string
	for _, name := range strings.Fields(list) {
		paths = append(paths, "internal/"+name)
	}
	return paths
}

// keepers names, for each library that one package wraps, who may import it.
var keepers = []struct {
	library string
	by      []string
}{
	{"github.com/jackc/pgx", []string{"internal/store", "internal/store/storetest", "internal/store/fill", "internal/store/interleave"}},
	{"github.com/golang-migrate/migrate", []string{"internal/store", "internal/store/storetest"}},
	{"database/sql", []string{"internal/store", "internal/store/storetest"}},
	{"github.com/labstack/echo", []string{"internal/handlers"}},
	{"github.com/expr-lang/expr", []string{"internal/mapping"}},
	{"github.com/prometheus", []string{"internal/metrics", "cmd/relay"}},
	{"github.com/stripe/stripe-go", []string{"internal/checkout"}},
	{"github.com/Shopify/toxiproxy", []string{"internal/fault"}},
}

// leaf is internal/relay, which knows neither network nor database.
var leaf = struct {
	pkg   string
	knows []string
}{"internal/relay", []string{"github.com/google/uuid"}}

func TestArrows(t *testing.T) {
	for pkg, imports := range packages(t) {
		i := slices.IndexFunc(charters, func(c charter) bool { return c.pkg == pkg })
		if i < 0 {
			t.Errorf("package %s has no charter: say in the table of internal/archtest what it may import", pkg)
			continue
		}
		for _, imported := range imports {
			inner, ours := strings.CutPrefix(imported.path, module+"/")
			if ours && !slices.Contains(charters[i].imports, inner) {
				t.Errorf("%s imports %s: got an arrow that is not in the table, want one of %v",
					imported.file, inner, charters[i].imports)
			}
		}
	}
}

func TestLibrariesStayWithTheirKeepers(t *testing.T) {
	for pkg, imports := range packages(t) {
		for _, imported := range imports {
			for _, keeper := range keepers {
				if within(imported.path, keeper.library) && !slices.Contains(keeper.by, pkg) {
					t.Errorf("%s imports %s: got package %s, want only %v", imported.file, imported.path, pkg, keeper.by)
				}
			}
			if pkg == leaf.pkg && !standard(imported.path) && !slices.Contains(leaf.knows, imported.path) {
				t.Errorf("%s imports %s: want the standard library and %v only", imported.file, imported.path, leaf.knows)
			}
		}
	}
}

// TestTableIsOrdered keeps the table itself free of circles: each package may
// import only what stands above it.
func TestTableIsOrdered(t *testing.T) {
	var above []string
	for _, c := range charters {
		for _, imported := range c.imports {
			if !slices.Contains(above, imported) {
				t.Errorf("%s may import %s, which does not stand above it", c.pkg, imported)
			}
		}
		above = append(above, c.pkg)
	}
}

// within reports whether an import path is the library or a part of it, in
// any major version (…/pgx/v5).
func within(imported, library string) bool {
	return imported == library || strings.HasPrefix(imported, library+"/")
}

// standard reports whether an import path is Go's own: only others have a dot
// in their first element.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

type imported struct{ file, path string }

// packages returns the imports of all packages of the module, by the path of
// the package within it.
func packages(t *testing.T) map[string][]imported {
	t.Helper()
	found := map[string][]imported{}
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != root && notOurs(file, entry.Name()):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		imports, err := importsOf(file, rel)
		found[path.Dir(rel)] = append(found[path.Dir(rel)], imports...)
		return err
	})
	if err != nil {
		t.Fatalf("reading the packages: %v", err)
	}
	return found
}

// notOurs reports whether a directory lies outside the module: what Go itself
// passes over, and modules of their own.
func notOurs(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil || name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")
}

func importsOf(file, rel string) ([]imported, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var imports []imported
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		imports = append(imports, imported{rel, name})
	}
	return imports, nil
}
