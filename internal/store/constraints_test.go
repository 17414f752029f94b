package store_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"relay.example/relay/internal/store/storetest"
)

// possible rows, as SQL expressions by column. The cases below change a column
// or two into what must not be.
var possible = map[string]map[string]string{
	"projects":     {"name": `'shop'`},
	"api_keys":     {"id": `gen_random_uuid()`, "project_id": `1`, "name": `'k'`, "scope": `'read'`, "hash": `'\x01'`, "hint": `'x'`},
	"destinations": {"project_id": `1`, "name": `'bot'`, "platform": `'certainly'`, "doc": `'{}'`},
	"sources":      {"project_id": `1`, "name": `'pay'`, "provider": `'stripe'`, "doc": `'{}'`},
	"source_secrets": {
		"id": `gen_random_uuid()`, "project_id": `1`, "source_id": `(SELECT min(id) FROM sources)`, "sealed": `'\x01'`, "digest": `'\x01'`,
	},
	"flows":         {"project_id": `1`, "name": `'checkout'`, "doc": `'{}'`},
	"configuration": {"only_row": `true`, "version": `1`},
	"correlations": {
		"id": `gen_random_uuid()`, "project_id": `1`, "token": `'aaaaaaaaaaaaaaaaaaaaaa'`, "plan_id": `gen_random_uuid()`,
		"source_ids": `'{1}'`, "user_id": `'u'`, "scope": `gen_random_uuid()`, "expires_at": `now()`,
	},
	"deadlines": {
		"correlation_id": `gen_random_uuid()`, "project_id": `1`, "expires_at": `now()`, "scope": `'00000000-0000-0000-0000-000000000001'`,
	},
	"correlation_refs": {
		"ref": `'00000000-0000-0000-0000-000000000001'`, "correlation_id": `gen_random_uuid()`, "project_id": `1`, "key_active": `true`,
	},
	"events": {
		"project_id": `1`, "id": `gen_random_uuid()`, "source_id": `1`, "received_at": `now()`, "verdict": `'verified'`,
		"match": `'matched'`, "rule": `'closed'`, "format": `'json'`,
	},
	"deliveries": {
		"project_id": `1`, "id": `gen_random_uuid()`, "correlation_id": `gen_random_uuid()`, "destination_id": `1`,
		"outcome": `'completed'`, "action": `'completed'`, "due_at": `now()`, "retry_for": `1`, "give_up_at": `now()`,
	},
	"retention_cursors": {"project_id": `1`, "kind": `'event_body'`},
	"attempts": {
		"delivery_id": `gen_random_uuid()`, "number": `1`, "project_id": `1`, "started_at": `now()`, "duration_ms": `1`, "class": `'ok'`,
	},
	"questions": {
		"id": `gen_random_uuid()`, "project_id": `1`, "source_id": `1`, "event_id": `'00000000-0000-0000-0000-000000000001'`,
		"about": `'pi_1'`, "due_at": `now()`, "give_up_at": `now()`,
	},
	"checkouts": {
		"correlation_id": `gen_random_uuid()`, "project_id": `1`, "source_id": `1`, "object": `'cs_1'`, "url": `'https://a.example'`,
	},
	"hooks": {
		"project_id": `1`, "id": `gen_random_uuid()`, "subscription_id": `gen_random_uuid()`, "event": `'delivery.dead'`,
		"payload": `'{"id": 1}'`, "give_up_at": `now()`,
	},
	"remote_subscriptions": {
		"id": `gen_random_uuid()`, "project_id": `1`, "source_id": `1`, "destination_id": `1`, "place": `'p'`, "event": `'e'`,
		"sealed": `'\x01'`, "digest": `'\x01'`,
	},
	"subscriptions": {
		"id": `gen_random_uuid()`, "project_id": `1`, "event": `'e'`, "target": `'https://a.example'`, "secret": `'\x01'`, "signing_secret": `'\x01'`,
	},
}

type columns map[string]string

type impossible struct {
	constraint, table, state string
	change                   columns
	after                    columns // a row that is there already
}

// TestImpossibleStates tries to write what the state machines do not have.
func TestImpossibleStates(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t, true)
	now, id := `now()`, `gen_random_uuid()`
	cases := []impossible{
		{"projects_name_check", "projects", "a name with capitals", columns{"name": `'Shop'`}, nil},
		{"projects_name_key", "projects", "a name twice", nil, columns{}},
		{"api_keys_scope_check", "api_keys", "an unknown scope", columns{"scope": `'root'`}, nil},
		{"api_keys_instance_check", "api_keys", "an instance key with a project", columns{"scope": `'instance'`}, nil},
		{"api_keys_instance_check", "api_keys", "a project key without project", columns{"project_id": `NULL`}, nil},
		{"api_keys_hash_key", "api_keys", "a key twice", nil, columns{}},
		{"configuration_only_row_check", "configuration", "a second row", columns{"only_row": `false`}, nil},
		{"destinations_name_check", "destinations", "an empty name", columns{"name": `''`}, nil},
		{"destinations_held_check", "destinations", "held without a reason", columns{"held_at": now}, nil},
		{"destinations_name_key", "destinations", "a name twice", nil, columns{}},
		{"sources_name_check", "sources", "a name with a slash", columns{"name": `'a/b'`}, nil},
		{"sources_name_key", "sources", "a name twice", nil, columns{}},
		{"source_secrets_digest_key", "source_secrets", "a secret twice", nil, columns{}},
		{"flows_name_check", "flows", "a long name", columns{"name": `repeat('a', 64)`}, nil},
		{"flows_name_key", "flows", "a name twice", nil, columns{}},
		{"subscriptions_target_key", "subscriptions", "a target twice", nil, columns{}},

		{"remote_subscriptions_key", "remote_subscriptions", "an event twice", nil, columns{}},
		{"remote_subscriptions_lease_check", "remote_subscriptions", "a lease without an end", columns{"lease": id}, nil},
		{"remote_subscriptions_failures_check", "remote_subscriptions", "a failure without a reason", columns{"failures": `1`}, nil},
		{"remote_subscriptions_error_check", "remote_subscriptions", "a reason without a time", columns{"failures": `1`, "last_error": `'x'`}, nil},

		{"retention_cursors_kind_check", "retention_cursors", "an unknown kind", columns{"kind": `'body'`}, nil},

		{"correlations_token_key", "correlations", "a token twice", nil, columns{}},
		{"correlations_token_check", "correlations", "a short token", columns{"token": `'a'`}, nil},
		{"correlations_token_check", "correlations", "a token with a dash", columns{"token": `'aaaaaaaaaaaaaaaaaaaaa-'`}, nil},
		{"correlation_status_check", "correlations", "an unknown status", columns{"status": `'paid'`, "resolved_at": now, "resolved_by": `'event'`}, nil},
		{"correlations_resolved_check", "correlations", "closed without a time", columns{"status": `'completed'`}, nil},
		{"correlations_resolved_check", "correlations", "closed by nobody", columns{"status": `'completed'`, "resolved_at": now}, nil},
		{"correlations_resolved_check", "correlations", "pending and resolved", columns{"resolved_at": now, "resolved_by": `'event'`}, nil},
		{"resolver_check", "correlations", "closed by an unknown", columns{"status": `'completed'`, "resolved_at": now, "resolved_by": `'me'`}, nil},
		{"correlations_late_check", "correlations", "late while pending", columns{"late_outcome": `'completed'`, "late_at": now}, nil},
		{
			"correlations_late_check", "correlations", "late after completed",
			columns{"status": `'completed'`, "resolved_at": now, "resolved_by": `'event'`, "late_outcome": `'completed'`, "late_at": now},
			nil,
		},
		{
			"correlations_late_check", "correlations", "late without a time",
			columns{"status": `'expired'`, "resolved_at": now, "resolved_by": `'deadline'`, "late_outcome": `'completed'`},
			nil,
		},
		{
			"correlations_late_check", "correlations", "a late failure",
			columns{"status": `'expired'`, "resolved_at": now, "resolved_by": `'deadline'`, "late_outcome": `'failed'`, "late_at": now},
			nil,
		},
		{"correlations_asks_check", "correlations", "something to ask for, and nobody to ask", columns{"asks": `'cs_1'`}, nil},
		{"deadlines_scope_key", "deadlines", "two pending waits of one scope", nil, columns{}},
		{"correlation_refs_key_in_use", "correlation_refs", "a key of two pending waits", nil, columns{}},

		{"verdict_check", "events", "an unknown verdict", columns{"verdict": `'guessed'`}, nil},
		{"match_check", "events", "an unknown match", columns{"match": `'perhaps'`}, nil},
		{"outcome_check", "events", "an unknown outcome", columns{"outcome": `'paid'`}, nil},
		{"body_format_check", "events", "an unknown format", columns{"format": `'xml'`}, nil},
		{"events_rejected_check", "events", "a forgery that matched", columns{"verdict": `'rejected'`, "correlation_id": id}, nil},

		{"outcome_check", "deliveries", "an unknown outcome", columns{"outcome": `'paid'`}, nil},
		{"delivery_status_check", "deliveries", "an unknown status", columns{"status": `'lost'`, "due_at": `NULL`}, nil},
		{"attempt_class_check", "deliveries", "an unknown class", columns{"attempts": `1`, "started_at": `now()`, "class": `'fine'`}, nil},
		{"deliveries_attempt_check", "deliveries", "an attempt without a time", columns{"attempts": `1`, "class": `'ok'`}, nil},
		{"deliveries_attempt_check", "deliveries", "a class without an attempt", columns{"class": `'ok'`}, nil},
		{"deliveries_due_check", "deliveries", "scheduled and never due", columns{"due_at": `NULL`}, nil},
		{"deliveries_due_check", "deliveries", "sending and never due", columns{"status": `'sending'`, "due_at": `NULL`, "conversation": id}, nil},
		{"deliveries_due_check", "deliveries", "delivered and due", columns{"status": `'delivered'`, "finished_at": now}, nil},
		{"deliveries_lease_check", "deliveries", "leased and not due", columns{"status": `'held'`, "due_at": `NULL`, "lease": id}, nil},
		{"deliveries_finished_check", "deliveries", "dead without an end", columns{"status": `'dead'`, "due_at": `NULL`}, nil},
		{"deliveries_finished_check", "deliveries", "scheduled with an end", columns{"finished_at": now}, nil},
		{"attempt_class_check", "attempts", "an unknown class", columns{"class": `'fine'`}, nil},

		{"hooks_due_check", "hooks", "numbered and never due", columns{"number": `1`}, nil},
		{"hooks_due_check", "hooks", "due without a number", columns{"due_at": now}, nil},
		{"hooks_due_check", "hooks", "dead and due", columns{"number": `1`, "due_at": now, "died_at": now}, nil},
		{"hooks_lease_check", "hooks", "leased and not due", columns{"lease": id}, nil},
		{"hooks_attempt_check", "hooks", "an attempt without a class", columns{"attempts": `1`}, nil},
		{"attempt_class_check", "hooks", "an unknown class", columns{"attempts": `1`, "class": `'fine'`}, nil},

		{"checkouts_end_lease_check", "checkouts", "leased and not to be ended", columns{"end_lease": id}, nil},
		{"checkouts_end_result_check", "checkouts", "a try without a result", columns{"end_tries": `1`, "end_tried_at": now}, nil},
		{"checkouts_end_result_check", "checkouts", "a try without a time", columns{"end_tries": `1`, "end_result": `'ended'`}, nil},
		{"checkout_end_check", "checkouts", "an unknown result", columns{"end_tries": `1`, "end_tried_at": now, "end_result": `'perhaps'`}, nil},

		{"questions_event_key", "questions", "two about one event", nil, columns{}},
		{
			"questions_correlation_key", "questions", "two about one wait",
			columns{"event_id": `NULL`, "correlation_id": `'00000000-0000-0000-0000-000000000001'`},
			columns{"event_id": `NULL`, "correlation_id": `'00000000-0000-0000-0000-000000000001'`},
		},
		{"questions_subject_check", "questions", "about nothing", columns{"event_id": `NULL`}, nil},
		{"questions_subject_check", "questions", "about an event and a wait", columns{"correlation_id": id}, nil},
		{"questions_lease_check", "questions", "leased and done", columns{"due_at": `NULL`, "result": `'moot'`, "lease": id}, nil},
		{"questions_done_check", "questions", "done without a result", columns{"due_at": `NULL`}, nil},
		{
			"questions_fetches_check", "questions", "a fetch for no callback",
			columns{"event_id": `NULL`, "correlation_id": id, "fetches": `true`},
			nil,
		},
		{"questions_strange_check", "questions", "a stranger's that is not fetched", columns{"strange": `true`}, nil},
		{"questions_tries_check", "questions", "a try without a time", columns{"tries": `1`}, nil},
		{"question_result_check", "questions", "an unknown result", columns{"result": `'perhaps'`}, nil},
	}
	for _, tt := range cases {
		t.Run(tt.table+" "+tt.state, func(t *testing.T) {
			ctx := context.Background()
			tx, err := connect(t, url).Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(ctx) }()
			if tt.after != nil {
				if _, err := tx.Exec(ctx, insertSQL(tt.table, tt.after)); err != nil {
					t.Fatalf("the possible row is refused: %v", err)
				}
			}
			_, err = tx.Exec(ctx, insertSQL(tt.table, tt.change))
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.ConstraintName != tt.constraint {
				t.Errorf("got %v, want a refusal by %s", err, tt.constraint)
			}
		})
	}
	t.Run("every constraint has a case", func(t *testing.T) {
		all := storetest.Query[[]string](t, url, `
			SELECT array_agg(conname ORDER BY conname) FROM pg_constraint
			WHERE connamespace = current_schema()::regnamespace AND contype IN ('c', 'u')`)
		for _, name := range all {
			if !slices.ContainsFunc(cases, func(c impossible) bool { return c.constraint == name }) {
				t.Errorf("%s has no case", name)
			}
		}
	})
	t.Run("what is possible is taken", func(t *testing.T) {
		for _, table := range slices.Sorted(maps.Keys(possible)) {
			if table == "configuration" { // its row is there
				continue
			}
			storetest.Exec(t, url, insertSQL(table, nil))
		}
	})
}

func insertSQL(table string, change columns) string {
	row := maps.Clone(possible[table])
	maps.Copy(row, change)
	var names, values []string
	for _, name := range slices.Sorted(maps.Keys(row)) {
		names, values = append(names, name), append(values, row[name])
	}
	return `INSERT INTO ` + table + ` (` + strings.Join(names, ", ") + `) VALUES (` + strings.Join(values, ", ") + `)`
}
