package directory

import (
	"maps"
	"slices"
	"time"
)

const (
	RefreshInterval = refreshInterval
	PollInterval    = pollInterval
)

// SetPoll changes how often Run looks for what nobody told of, before it runs.
func (d *Directory) SetPoll(every time.Duration) { d.poll = every }

// SetRefreshTimeout changes how long Refresh may read, before it is called.
func (d *Directory) SetRefreshTimeout(limit time.Duration) { d.refreshIn = limit }

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
