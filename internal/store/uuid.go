package store

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// registerUUID teaches a connection to send and read uuid.UUID as the 16
// bytes that it is. Left alone, the driver takes it for a text by its
// database/sql methods, which cost a twentieth of all CPU under load.
func registerUUID(_ context.Context, conn *pgx.Conn) error {
	one := &pgtype.Type{Name: "uuid", OID: pgtype.UUIDOID, Codec: uuidCodec{}}
	conn.TypeMap().RegisterType(one)
	conn.TypeMap().RegisterType(&pgtype.Type{
		Name: "_uuid", OID: pgtype.UUIDArrayOID, Codec: &pgtype.ArrayCodec{ElementType: one},
	})
	return nil
}

// uuidCodec is the driver's codec, with a direct way for uuid.UUID.
type uuidCodec struct{ pgtype.UUIDCodec }

// PlanEncode sends a uuid.UUID in binary.
func (c uuidCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if format == pgtype.BinaryFormatCode {
		switch value.(type) {
		case uuid.UUID:
			return encodeUUID{}
		case *uuid.UUID:
			return encodePointer{}
		}
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

type encodePointer struct{}

// Encode appends the bytes of one value, or nothing for NULL.
func (encodePointer) Encode(value any, buf []byte) ([]byte, error) {
	id := value.(*uuid.UUID) //nolint:forcetypeassert // planned for it alone
	if id == nil {
		return nil, nil
	}
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
