package store

import (
	_ "embed"
	"fmt"

	"github.com/klauspost/compress/s2"

	"relay.example/relay/internal/relay"
)

// minPacked is the shortest body worth packing, in bytes: below it the saving
// is less than a page's line pointer.
const minPacked = 128

// maxPacked is the longest body that unpack makes room for: intake takes none
// that is longer.
const maxPacked = 16 << 20

// How a body is packed: what stands in the column of that name.
const (
	plain  = 0
	words1 = 1 // in S2's block format with the first dictionary
)

// What every body says anyway: the field names of the providers' events, in
// the order in which they come. Every stored body points into it, so it is
// never changed: a better one becomes the second.
//
//go:embed words1.txt
var words1Text []byte

var words1Dict = s2.MakeDictManual(words1Text, 0)

// pack shortens a body for the database, in two microseconds, to about a third
// where it is a provider's JSON. Every byte saved is saved in the WAL, in the
// table and in the backup, and most bodies stay below the size at which
// Postgres would compress them itself, ten times as slowly. A body that does
// not get shorter is kept as it is.
func pack(body []byte) (stored []byte, packing int64) {
	if len(body) < minPacked {
		return body, plain
	}
	if out := words1Dict.Encode(nil, body); len(out) < len(body) {
		return out, words1
	}
	return body, plain
}

// errPacking is of kind Busy: a node that knows better will come.
var errPacking = relay.Errorf(relay.Busy, "unknown_packing",
	"a stored body is packed in a way that this version of the relay does not know: run the version that wrote it, or a later one")

// unpack reverses pack.
func unpack(stored []byte, packing int64) ([]byte, error) {
	switch {
	case packing == plain || stored == nil:
		return stored, nil
	case packing != words1:
		return nil, errPacking
	}
	n, err := s2.DecodedLen(stored)
	if err != nil || n > maxPacked {
		return nil, fmt.Errorf("a stored body is damaged: %w", err)
	}
	body, err := words1Dict.Decode(nil, stored)
	if err != nil {
		return nil, fmt.Errorf("a stored body is damaged: %w", err)
	}
	return body, nil
}
