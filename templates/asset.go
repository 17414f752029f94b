package templates

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
)

// Asset is a file that pages load.
type Asset struct {
	ContentType string
	Body        []byte
}

// readAssets reads the scripts. The name under which one is served holds its
// hash: it can be cached for ever.
func readAssets() (map[string]Asset, error) {
	names, err := fs.Glob(files, "*.js")
	if err != nil {
		return nil, fmt.Errorf("listing the scripts: %w", err)
	}
	assets := map[string]Asset{}
	for _, name := range names {
		body, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading the script %s: %w", name, err)
		}
		sum := sha256.Sum256(body)
		served := strings.TrimSuffix(name, ".js") + "-" + hex.EncodeToString(sum[:8]) + ".js"
		assets[served] = Asset{ContentType: "text/javascript; charset=utf-8", Body: body}
	}
	return assets, nil
}

// Asset returns the file that is served under a name.
func (p *Pages) Asset(name string) (Asset, bool) {
	a, ok := p.assets[name]
	return a, ok
}

// Script returns the path, below the relay's root, of the script of a name:
// form.js.
func (p *Pages) Script(name string) string {
	begin := strings.TrimSuffix(name, ".js") + "-"
	for served := range p.assets {
		if strings.HasPrefix(served, begin) {
			return "assets/" + served
		}
	}
	return ""
}
