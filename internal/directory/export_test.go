package directory

import (
	"maps"
	"slices"
	"time"
)

const RefreshInterval = refreshInterval

// RefreshedAt says when the node last looked for what it did not know.
func (d *Directory) RefreshedAt() time.Time { return d.refreshedAt }

// SetRefreshedAt makes the node believe that it last looked then.
func (d *Directory) SetRefreshedAt(then time.Time) { d.refreshedAt = then }

// The fields that are read, for the test of the page that documents them.
type (
	DestinationFields = destinationFields
	SourceFields      = sourceFields
)

// SourceSettings lists the fields that a preset may need besides.
func SourceSettings() []string { return slices.Collect(maps.Keys(sourceSettings)) }
