package store

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// registerCodecs teaches a connection direct ways for what the hot statements
// send and read by the hundred. Left alone, the driver takes a uuid.UUID for a
// text by its database/sql methods, and an array for a list of interfaces that
// it asks for their types one by one: together a tenth of all CPU under load.
func registerCodecs(conn *pgx.Conn) error {
	m := conn.TypeMap()
	m.RegisterType(&pgtype.Type{Name: "uuid", OID: pgtype.UUIDOID, Codec: uuidCodec{}})
	for _, a := range []struct {
		name     string
		oid, one uint32
	}{
		{"_uuid", pgtype.UUIDArrayOID, pgtype.UUIDOID},
		{"_text", pgtype.TextArrayOID, pgtype.TextOID},
		{"_bytea", pgtype.ByteaArrayOID, pgtype.ByteaOID},
		{"_int8", pgtype.Int8ArrayOID, pgtype.Int8OID},
		{"_timestamptz", pgtype.TimestamptzArrayOID, pgtype.TimestamptzOID},
	} {
		one, ok := m.TypeForOID(a.one)
		if !ok {
			return errors.New("the driver does not know the type of " + a.name)
		}
		m.RegisterType(&pgtype.Type{Name: a.name, OID: a.oid, Codec: &arrayCodec{pgtype.ArrayCodec{ElementType: one}}})
	}
	return nil
}

// arrayCodec is the driver's codec, with a direct way for slices.
type arrayCodec struct{ pgtype.ArrayCodec }

// PlanEncode sends slices in binary. A nil pointer or nil bytes are NULL.
func (c *arrayCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if one := c.ElementType.OID; format == pgtype.BinaryFormatCode {
		switch value.(type) {
		case []uuid.UUID:
			return encodeSlice[uuid.UUID]{one, appendUUID}
		case []*uuid.UUID:
			return encodeSlice[*uuid.UUID]{one, orNull(appendUUID)}
		case []string:
			return encodeSlice[string]{one, appendText}
		case []*string:
			return encodeSlice[*string]{one, orNull(appendText)}
		case [][]byte:
			return encodeSlice[[]byte]{one, appendBytes}
		case []int64:
			return encodeSlice[int64]{one, appendInt}
		case []time.Time:
			return encodeSlice[time.Time]{one, appendTime}
		}
	}
	return c.ArrayCodec.PlanEncode(m, oid, format, value)
}

// encodeSlice writes a slice as a Postgres array of one dimension. add
// appends one element's bytes, or reports that it is NULL.
type encodeSlice[T any] struct {
	one uint32 // OID of an element
	add func([]byte, T) (out []byte, null bool)
}

// maxGuessed bounds the room, in bytes, that is made for elements unseen.
const maxGuessed = 64 << 10

// Encode appends the array. Its form: the number of dimensions, whether there
// are NULLs, the element's type; of the dimension its length and first index;
// then every element behind its length, -1 for NULL.
func (p encodeSlice[T]) Encode(value any, buf []byte) ([]byte, error) {
	vs := value.([]T) //nolint:forcetypeassert // planned for it alone
	if vs == nil {
		return nil, nil
	}
	u32 := binary.BigEndian.AppendUint32
	if len(vs) == 0 {
		return u32(u32(u32(buf, 0), 0), p.one), nil
	}
	buf = u32(u32(u32(buf, 1), 1), p.one)
	buf = u32(u32(buf, uint32(len(vs))), 1)
	for i, v := range vs {
		at := len(buf)
		buf = u32(buf, 0)
		out, null := p.add(buf, v)
		if buf = out; null {
			binary.BigEndian.PutUint32(buf[at:], ^uint32(0))
			continue
		}
		binary.BigEndian.PutUint32(buf[at:], uint32(len(buf)-at-4))
		if i == 0 { // the others are of about its size, or much smaller
			buf = slices.Grow(buf, min((len(buf)-at)*(len(vs)-1), maxGuessed))
		}
	}
	return buf, nil
}

func appendUUID(buf []byte, v uuid.UUID) ([]byte, bool) { return append(buf, v[:]...), false }
func appendText(buf []byte, v string) ([]byte, bool)    { return append(buf, v...), false }
func appendBytes(buf, v []byte) ([]byte, bool)          { return append(buf, v...), v == nil }

func appendInt(buf []byte, v int64) ([]byte, bool) {
	return binary.BigEndian.AppendUint64(buf, uint64(v)), false
}

// postgresEpoch is where timestamps count from, in microseconds.
var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

func appendTime(buf []byte, v time.Time) ([]byte, bool) {
	return appendInt(buf, v.UnixMicro()-postgresEpoch)
}

// orNull makes of add one for pointers.
func orNull[T any](add func([]byte, T) ([]byte, bool)) func([]byte, *T) ([]byte, bool) {
	return func(buf []byte, v *T) ([]byte, bool) {
		if v == nil {
			return buf, true
		}
		return add(buf, *v)
	}
}

// uuidCodec is the driver's codec, with a direct way for uuid.UUID.
type uuidCodec struct{ pgtype.UUIDCodec }

// PlanEncode sends a uuid.UUID in binary.
func (c uuidCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(uuid.UUID); ok && format == pgtype.BinaryFormatCode {
		return encodeUUID{}
	}
	return c.UUIDCodec.PlanEncode(m, oid, format, value)
}

// PlanScan reads a uuid.UUID in binary.
func (c uuidCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if _, ok := target.(*uuid.UUID); ok && format == pgtype.BinaryFormatCode {
		return scanUUID{}
	}
	return c.UUIDCodec.PlanScan(m, oid, format, target)
}

type encodeUUID struct{}

// Encode appends the bytes of one value.
func (encodeUUID) Encode(value any, buf []byte) ([]byte, error) {
	id := value.(uuid.UUID) //nolint:forcetypeassert // planned for it alone
	return append(buf, id[:]...), nil
}

type scanUUID struct{}

var errNotUUID = errors.New("a uuid column holds NULL or no 16 bytes")

// Scan reads one value.
func (scanUUID) Scan(src []byte, dst any) error {
	id := dst.(*uuid.UUID) //nolint:forcetypeassert // planned for it alone
	if len(src) != len(id) {
		return errNotUUID
	}
	copy(id[:], src)
	return nil
}
