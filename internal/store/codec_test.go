package store_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"relay.example/relay/internal/store"
	"relay.example/relay/internal/store/storetest"
)

// TestArraysArrive holds that the server reads every kind of array as it was
// meant, and as the driver itself would have sent it.
func TestArraysArrive(t *testing.T) {
	t.Parallel()
	conn := connect(t, storetest.URL(t, false))
	if err := store.RegisterCodecs(conn); err != nil {
		t.Fatal(err)
	}
	text, id := "ä\"{},\\", uuid.MustParse("00000000-0000-0000-0000-000000000001")
	for name, tt := range map[string]struct {
		value any
		of    string
		want  *string
	}{
		"texts":           {[]string{"a", "", text}, "text", ptr(`{a,"","ä\"{},\\"}`)},
		"texts or NULL":   {[]*string{nil, &text, ptr("NULL")}, "text", ptr(`{NULL,"ä\"{},\\","NULL"}`)},
		"only NULL":       {[]*string{nil, nil}, "text", ptr(`{NULL,NULL}`)},
		"uuids":           {[]uuid.UUID{id, uuid.Max}, "uuid", ptr(`{` + id.String() + `,` + uuid.Max.String() + `}`)},
		"uuids or NULL":   {[]*uuid.UUID{nil, &id}, "uuid", ptr(`{NULL,` + id.String() + `}`)},
		"bytes":           {[][]byte{{0, 255}, {}, nil}, "bytea", ptr(`{"\\x00ff","\\x",NULL}`)},
		"whole numbers":   {[]int64{0, -1, 1<<63 - 1, -1 << 63}, "bigint", ptr(`{0,-1,9223372036854775807,-9223372036854775808}`)},
		"an empty array":  {[]string{}, "text", ptr(`{}`)},
		"no array":        {[]string(nil), "text", nil},
		"times":           {[]time.Time{time.Date(1969, 12, 31, 23, 59, 59, 999_999_999, time.UTC)}, "timestamptz", ptr(`{"1969-12-31 23:59:59.999999+00"}`)},
		"times of a zone": {[]time.Time{time.Date(2026, 1, 1, 1, 0, 0, 1_500, time.FixedZone("", 3600))}, "timestamptz", ptr(`{"2026-01-01 00:00:00.000001+00"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			var got *string
			err := conn.QueryRow(context.Background(), `SELECT set_config('timezone', 'UTC', false)`).Scan(nil)
			if err == nil {
				err = conn.QueryRow(context.Background(), `SELECT ($1::`+tt.of+`[])::text`, tt.value).Scan(&got)
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestArraysOfOneLargeElement holds that room is not made for every element as
// if it were as large as the first.
func TestArraysOfOneLargeElement(t *testing.T) {
	t.Parallel()
	conn := connect(t, storetest.URL(t, false))
	if err := store.RegisterCodecs(conn); err != nil {
		t.Fatal(err)
	}
	values := make([]string, 256)
	values[0] = strings.Repeat("x", 1<<20)
	out, err := conn.TypeMap().Encode(pgtype.TextArrayOID, pgx.BinaryFormatCode, values, nil)
	if err != nil {
		t.Fatal(err)
	}
	if cap(out) > 4<<20 {
		t.Errorf("%d bytes took room for %d", len(out), cap(out))
	}
}

func ptr[T any](v T) *T { return &v }
