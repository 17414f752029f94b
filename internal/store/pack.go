package store

import (
	"fmt"

	"github.com/klauspost/compress/s2"
)

// minPacked is the shortest body worth packing, in bytes: below it the saving
// is less than a page's line pointer.
const minPacked = 256

// maxPacked is the longest body that unpack makes room for: intake takes none
// that is longer.
const maxPacked = 16 << 20

// pack shortens a body for the database. JSON callbacks come to about 60 % in
// a few microseconds; every byte saved is saved in the WAL, in the table and
// in the backup, and most bodies stay below the size at which Postgres would
// compress them itself, ten times as slowly. The format is Snappy's block
// format, which any language reads. A body that does not get shorter is kept
// as it is.
func pack(body []byte) (stored []byte, packed bool) {
	if len(body) < minPacked {
		return body, false
	}
	if out := s2.EncodeSnappy(nil, body); len(out) < len(body) {
		return out, true
	}
	return body, false
}

// unpack reverses pack.
func unpack(stored []byte, packed bool) ([]byte, error) {
	if !packed || stored == nil {
		return stored, nil
	}
	n, err := s2.DecodedLen(stored)
	if err != nil || n > maxPacked {
		return nil, fmt.Errorf("a stored body is damaged: %w", err)
	}
	body, err := s2.Decode(nil, stored)
	if err != nil {
		return nil, fmt.Errorf("a stored body is damaged: %w", err)
	}
	return body, nil
}
