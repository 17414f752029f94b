package directory

import (
	"maps"
	"slices"
)

// The fields that are read, for the test of the page that documents them.
type (
	DestinationFields = destinationFields
	SourceFields      = sourceFields
)

// SourceSettings lists the fields that a preset may need besides.
func SourceSettings() []string { return slices.Collect(maps.Keys(sourceSettings)) }
