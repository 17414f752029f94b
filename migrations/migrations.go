// Package migrations holds the schema of the relay as golang-migrate pairs:
// one change each, one transaction each, with the reason in a comment. A
// shipped one is never edited.
package migrations

import "embed"

// Files holds the pairs NNNN_name.up.sql and NNNN_name.down.sql.
//
//go:embed *.sql
var Files embed.FS
