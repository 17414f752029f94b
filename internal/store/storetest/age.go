package storetest

import (
	"testing"
	"time"
)

// ages are the columns of rows that grow old: their ids hold the time, and so
// do those that point at them.
var ages = map[string]struct{ ids, times []string }{
	"correlations":     {[]string{"id", "event_id"}, []string{"created_at", "expires_at", "resolved_at", "late_at"}},
	"deadlines":        {[]string{"correlation_id"}, []string{"expires_at"}},
	"correlation_refs": {[]string{"correlation_id"}, nil},
	"events":           {[]string{"id", "correlation_id", "duplicate_of"}, []string{"received_at"}},
	"parked_refs":      {[]string{"event_id"}, []string{"parked_at"}},
	"deliveries":       {[]string{"id", "correlation_id", "event_id"}, []string{"created_at", "finished_at", "started_at", "give_up_at", "due_at"}},
	"attempts":         {[]string{"delivery_id"}, []string{"started_at"}},
	"openings":         {[]string{"correlation_id"}, []string{"opened_at"}},
	"nudges":           {[]string{"correlation_id"}, []string{"due_at"}},
	"checkouts":        {[]string{"correlation_id"}, []string{"end_due_at", "end_tried_at"}},
	"hooks":            {[]string{"id", "correlation_id"}, []string{"happened_at", "due_at", "give_up_at", "died_at"}},
	"questions":        {[]string{"event_id", "correlation_id"}, []string{"created_at", "asked_at", "due_at", "give_up_at"}},
}

// Age makes all that is there as if it had come so much earlier.
func Age(t testing.TB, url string, by time.Duration) {
	t.Helper()
	Exec(t, url, `
		CREATE OR REPLACE FUNCTION aged(id uuid, ms bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
		    SELECT (lpad(to_hex(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint - ms), 12, '0')
		            || substr(replace(id::text, '-', ''), 13))::uuid
		$$`)
	for table, columns := range ages {
		set := ""
		for _, id := range columns.ids {
			set += ", " + id + " = aged(" + id + ", $1::bigint)"
		}
		for _, at := range columns.times {
			set += ", " + at + " = " + at + " - $1::bigint * interval '1 millisecond'"
		}
		Exec(t, url, `UPDATE `+table+` SET `+set[2:], by.Milliseconds())
	}
}
