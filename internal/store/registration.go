package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// Registration is one wait to be registered.
type Registration struct {
	Wait       relay.Wait // ID, Token, PlanID and all that the caller gave
	ExpiresIn  time.Duration
	OnConflict string          // supersede, keep or reject
	Plan       []byte          // the document behind Wait.PlanID
	Nudges     []time.Duration // after the registration, in the order of the plan
	Checkout   *Checkout       // what was made to pay by; nil: nothing was

	IdempotencyKey uuid.UUID // IdempotencyHash, or zero
	Request        [32]byte  // SHA-256 of the body that came with it
}

// Registered is what became of a registration.
type Registered struct {
	Wait relay.Wait
	New  bool // false: the wait was there already (idempotency key, or keep)
}

// The refusals of a registration.
var (
	errKeyInUse = relay.Errorf(relay.Conflict, "key_in_use",
		"another pending wait of this source has the same key: choose another, or wait until it is resolved")
	errIdempotencyMismatch = relay.Errorf(relay.Conflict, "idempotency_key_reused",
		"this Idempotency-Key was used with another body within 24 h: send a new key")
	errOvertaken = relay.Errorf(relay.Busy, "overtaken",
		"others were changing the same at each try: try again")
	errWaitPending = relay.Errorf(relay.Conflict, "wait_pending",
		"a wait of this flow and user is pending, and on_conflict is reject")
)

// PlanID is the id under which a project's plan document is stored.
func PlanID(projectID int64, doc []byte) uuid.UUID { return hash128("plan", projectID, string(doc)) }

// ScopeHash is the id of what a newer wait supersedes.
func ScopeHash(projectID int64, scope string) uuid.UUID { return hash128("scope", projectID, scope) }

// IdempotencyHash is the stored form of a project's Idempotency-Key.
func IdempotencyHash(projectID int64, key string) uuid.UUID {
	return hash128("idempotency", projectID, key)
}

// RegistrationResult is the answer to one registration of a batch.
type RegistrationResult struct {
	Registered
	Err error
}

// Register registers a batch of waits in one transaction and two round trips.
// Waits of one batch must differ in scope, key and idempotency key: see
// Collides.
func (s *Store) Register(ctx context.Context, regs []Registration) ([]RegistrationResult, error) {
	conn, err := s.hot.Acquire(ctx)
	if err != nil {
		return nil, translate("registering waits", err)
	}
	defer release(conn)
	found, err := lockOlder(ctx, conn.Conn(), regs)
	if err != nil {
		return nil, translate("registering waits: looking for older ones", err)
	}
	if found.overtaken(regs) {
		return nil, errOvertaken
	}
	results, fresh, superseded := found.judge(regs)
	var b pgx.Batch
	queueSuperseded(&b, superseded)
	queueRegistrations(&b, regs, fresh, results)
	queueNudges(&b, regs, fresh)
	queueCheckouts(&b, regs, fresh)
	queueIdempotency(&b, regs, results)
	to := s.tell()
	queueNews(&b, found.newsOf(to, regs, fresh))
	b.Queue("COMMIT")
	err = conn.SendBatch(ctx, &b).Close()
	s.isOut(to)
	return results, translate("registering waits", err)
}

// newsOf lists what is told of fresh waits, and of those that they supersede.
func (o *older) newsOf(to *telling, regs []Registration, fresh []int) (list []news) {
	if to.nobody() {
		return nil
	}
	for _, i := range fresh {
		w := &regs[i].Wait
		if old := o.pending[w.Scope]; old != nil && to.hears(w.ProjectID, relay.WaitSuperseded) {
			list = append(list, news{kind: relay.WaitSuperseded, wait: old.ID})
		}
		if to.hears(w.ProjectID, relay.WaitCreated) {
			list = append(list, news{kind: relay.WaitCreated, wait: w.ID})
		}
	}
	return list
}

// Collides reports whether two registrations cannot be in one batch.
func Collides(a, b *Registration) bool {
	return a.Wait.Scope == b.Wait.Scope ||
		a.IdempotencyKey != uuid.Nil && a.IdempotencyKey == b.IdempotencyKey ||
		a.Wait.Key != "" && a.Wait.Key == b.Wait.Key && a.Wait.ProjectID == b.Wait.ProjectID
}

// older is what a batch of registrations finds.
type older struct {
	replays map[uuid.UUID]replay      // by idempotency key
	pending map[uuid.UUID]*relay.Wait // by scope
	keys    map[uuid.UUID]keyHolder   // by active key ref
	waits   map[uuid.UUID]*relay.Wait // replayed, by id
}

type keyHolder struct{ wait, scope uuid.UUID }

type replay struct {
	request []byte
	wait    uuid.UUID
}

// lockOlder opens the transaction, takes the idempotency keys and locks the
// pending waits that the new ones would supersede.
func lockOlder(ctx context.Context, conn *pgx.Conn, regs []Registration) (*older, error) {
	var (
		keys, keyWaits, scopes, refs []uuid.UUID
		requests                     [][]byte
		projects                     []int64
	)
	for i := range regs {
		r := &regs[i]
		scopes = append(scopes, r.Wait.Scope)
		refs = append(refs, KeyRefs(&r.Wait)...)
		if r.IdempotencyKey != uuid.Nil {
			keys, keyWaits = append(keys, r.IdempotencyKey), append(keyWaits, r.Wait.ID)
			requests, projects = append(requests, r.Request[:]), append(projects, r.Wait.ProjectID)
		}
	}
	var b pgx.Batch
	b.Queue("BEGIN")
	b.Queue(`
		INSERT INTO idempotency_keys AS k (key, correlation_id, request, project_id)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bigint[]) AS x (key, correlation_id, request, project_id)
		ORDER BY x.key
		ON CONFLICT (key) DO UPDATE
		SET correlation_id = excluded.correlation_id, request = excluded.request, created_at = now()
		WHERE k.created_at < now() - interval '24 hours'`, keys, keyWaits, requests, projects)
	b.Queue(`SELECT key, request, correlation_id FROM idempotency_keys WHERE key = ANY($1::uuid[])`, keys)
	b.Queue(`
		SELECT `+waitColumns+`
		FROM correlations c
		WHERE c.id IN (SELECT correlation_id FROM deadlines WHERE scope = ANY($1::uuid[])
		               UNION
		               SELECT correlation_id FROM idempotency_keys WHERE key = ANY($2::uuid[]))
		ORDER BY c.id
		FOR UPDATE`, scopes, keys)
	b.Queue(`
		SELECT r.ref, c.id, c.scope
		FROM correlation_refs r JOIN correlations c ON c.id = r.correlation_id
		WHERE ref = ANY($1::uuid[]) AND key_active`, refs)
	br := conn.SendBatch(ctx, &b)
	found, err := readOlder(br)
	if closeErr := br.Close(); err == nil {
		err = closeErr
	}
	return found, err
}

func readOlder(br pgx.BatchResults) (*older, error) {
	o := &older{
		replays: map[uuid.UUID]replay{}, pending: map[uuid.UUID]*relay.Wait{},
		keys: map[uuid.UUID]keyHolder{}, waits: map[uuid.UUID]*relay.Wait{},
	}
	for range 2 { // BEGIN, INSERT INTO idempotency_keys
		if _, err := br.Exec(); err != nil {
			return nil, err
		}
	}
	rows, _ := br.Query()
	var key, id uuid.UUID
	var request []byte
	if _, err := pgx.ForEachRow(rows, []any{&key, &request, &id}, func() error {
		o.replays[key] = replay{request: bytes.Clone(request), wait: id}
		return nil
	}); err != nil {
		return nil, err
	}
	rows, _ = br.Query()
	waits, err := pgx.CollectRows(rows, scanWait)
	if err != nil {
		return nil, err
	}
	for _, w := range waits {
		o.waits[w.ID] = w
		if w.Status == relay.Pending {
			o.pending[w.Scope] = w
		}
	}
	rows, _ = br.Query()
	var holder keyHolder
	_, err = pgx.ForEachRow(rows, []any{&key, &holder.wait, &holder.scope}, func() error {
		o.keys[key] = holder
		return nil
	})
	return o, err
}

// overtaken reports whether another node registered a wait of the same scope
// while this one waited for the lock of the wait before: the key is held by
// one that is to be superseded, and that this transaction has not locked.
func (o *older) overtaken(regs []Registration) bool {
	for i := range regs {
		w := &regs[i].Wait
		for _, ref := range KeyRefs(w) {
			holder, ok := o.keys[ref]
			if old := o.pending[w.Scope]; ok && holder.scope == w.Scope && (old == nil || old.ID != holder.wait) {
				return true
			}
		}
	}
	return false
}

// judge decides each registration: answered from what is there, refused, or
// fresh, in which case it may supersede an older wait.
func (o *older) judge(regs []Registration) (results []RegistrationResult, fresh []int, superseded []uuid.UUID) {
	results = make([]RegistrationResult, len(regs))
	for i := range regs {
		r := &regs[i]
		// The same id: it was reserved (see Reserve), and is fresh until it is there.
		if seen, ok := o.replays[r.IdempotencyKey]; ok && (seen.wait != r.Wait.ID || o.waits[seen.wait] != nil) {
			results[i] = o.replayed(seen, r)
			continue
		}
		old := o.pending[r.Wait.Scope]
		switch {
		case old != nil && r.OnConflict == relay.Keep:
			results[i].Wait = *old
			continue
		case old != nil && r.OnConflict == relay.Reject:
			results[i].Err = errWaitPending
			continue
		case o.keyTaken(&r.Wait, old):
			results[i].Err = errKeyInUse
			continue
		case old != nil:
			superseded = append(superseded, old.ID)
		}
		results[i].New = true
		fresh = append(fresh, i)
	}
	return results, fresh, superseded
}

func (o *older) replayed(seen replay, r *Registration) RegistrationResult {
	w := o.waits[seen.wait]
	if w == nil || !bytes.Equal(seen.request, r.Request[:]) {
		return RegistrationResult{Err: errIdempotencyMismatch}
	}
	return RegistrationResult{Registered: Registered{Wait: *w}}
}

// queueIdempotency corrects the keys whose registration made no new wait: a
// refused one frees its key, one that kept the older wait points to it.
func queueIdempotency(b *pgx.Batch, regs []Registration, results []RegistrationResult) {
	var freed, kept, keptWaits []uuid.UUID
	for i := range regs {
		r, key := &results[i], regs[i].IdempotencyKey
		switch {
		case key == uuid.Nil || r.New || errors.Is(r.Err, errIdempotencyMismatch):
		case r.Err != nil:
			freed = append(freed, key)
		default:
			kept, keptWaits = append(kept, key), append(keptWaits, r.Wait.ID)
		}
	}
	if len(freed) > 0 {
		b.Queue(`DELETE FROM idempotency_keys WHERE key = ANY($1::uuid[])`, freed)
	}
	if len(kept) > 0 {
		b.Queue(`
			UPDATE idempotency_keys k SET correlation_id = x.correlation_id
			FROM unnest($1::uuid[], $2::uuid[]) AS x (key, correlation_id)
			WHERE k.key = x.key`, kept, keptWaits)
	}
}

// keyTaken reports whether a pending wait other than old, which is about to
// be superseded, holds the key at one of the sources.
func (o *older) keyTaken(w, old *relay.Wait) bool {
	for _, ref := range KeyRefs(w) {
		if holder, ok := o.keys[ref]; ok && (old == nil || holder.wait != old.ID) {
			return true
		}
	}
	return false
}

// KeyRefs lists the names that a wait's own key gives it, one per source.
func KeyRefs(w *relay.Wait) []uuid.UUID {
	if w.Key == "" {
		return nil
	}
	refs := make([]uuid.UUID, 0, len(w.SourceIDs))
	for _, source := range w.SourceIDs {
		refs = append(refs, RefHash(source, w.Key))
	}
	slices.SortFunc(refs, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(refs)
}

func queueSuperseded(b *pgx.Batch, ids []uuid.UUID) {
	if len(ids) == 0 {
		return
	}
	b.Queue(`
		UPDATE correlations SET status = 'superseded', resolved_at = clock_timestamp(), resolved_by = 'newer_wait'
		WHERE id = ANY($1::uuid[]) AND status = 'pending'`, ids)
	b.Queue(`DELETE FROM deadlines WHERE correlation_id = ANY($1::uuid[])`, ids)
	queueForward(b, ids)
	b.Queue(`
		UPDATE correlation_refs SET key_active = false
		WHERE correlation_id = ANY($1::uuid[]) AND key_active IS NOT NULL`, ids)
	queueSessionEnds(b, ids)
}

// queueRegistrations queues the rows of the fresh waits. When the batch has
// been read, their results have the times that the database gave them.
func queueRegistrations(b *pgx.Batch, regs []Registration, fresh []int, results []RegistrationResult) {
	if len(fresh) == 0 {
		return
	}
	n := len(fresh)
	var (
		ids, plans, scopes     = make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
		projects               = make([]int64, n)
		tokens, users, sources = make([]string, n), make([]string, n), make([]string, n)
		flows, conversations   = make([]*string, n), make([]*string, n)
		keys, locales          = make([]*string, n), make([]*string, n)
		vars, data             = make([]*string, n), make([]*string, n)
		seconds                = make([]float64, n)
		refs, refWaits         []uuid.UUID
		refProjects            []int64
		planIDs                []uuid.UUID
		planDocs               []string
		planProjects           []int64
	)
	for at, i := range fresh {
		r, w := &regs[i], &regs[i].Wait
		ids[at], plans[at], scopes[at], projects[at] = w.ID, w.PlanID, w.Scope, w.ProjectID
		tokens[at], users[at], sources[at] = w.Token, w.UserID, int64Array(w.SourceIDs)
		flows[at], conversations[at], keys[at], locales[at] = optional(w.Flow), optional(w.Conversation), optional(w.Key), optional(w.Locale)
		vars[at], data[at] = optional(string(w.CustomVars)), optional(string(w.Data))
		seconds[at] = r.ExpiresIn.Seconds()
		for _, ref := range KeyRefs(w) {
			refs, refWaits, refProjects = append(refs, ref), append(refWaits, w.ID), append(refProjects, w.ProjectID)
		}
		if !slices.Contains(planIDs, w.PlanID) {
			planIDs, planDocs, planProjects = append(planIDs, w.PlanID), append(planDocs, string(r.Plan)), append(planProjects, w.ProjectID)
		}
	}
	b.Queue(`
		WITH w AS (
		    INSERT INTO correlations (id, plan_id, scope, project_id, token, user_id, source_ids, flow, conversation,
		                              key, locale, custom_vars, data, created_at, expires_at)
		    SELECT x.id, x.plan_id, x.scope, x.project_id, x.token, x.user_id, x.source_ids::bigint[], x.flow, x.conversation,
		           x.key, x.locale, x.custom_vars::json, x.data::json, now(), now() + x.seconds * interval '1 second'
		    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
		                $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::float8[])
		      AS x (id, plan_id, scope, project_id, token, user_id, source_ids, flow, conversation,
		            key, locale, custom_vars, data, seconds)
		    RETURNING id, project_id, scope, created_at, expires_at
		), d AS (
		    INSERT INTO deadlines (correlation_id, project_id, expires_at, scope)
		    SELECT id, project_id, expires_at, scope FROM w
		)
		SELECT id, created_at, expires_at FROM w`,
		ids, plans, scopes, projects, tokens, users, sources, flows, conversations,
		keys, locales, vars, data, seconds).Query(func(rows pgx.Rows) error { return readFresh(rows, regs, fresh, results) })
	// used_at is refreshed once a day, so that a plan in use is never the
	// oldest thing that retention finds.
	b.Queue(`
		INSERT INTO plans AS p (id, project_id, doc)
		SELECT x.id, x.project_id, x.doc::json
		FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS x (id, project_id, doc)
		ORDER BY x.id
		ON CONFLICT (id) DO UPDATE SET used_at = now() WHERE p.used_at < now() - interval '1 day'`,
		planIDs, planProjects, planDocs)
	if len(refs) > 0 {
		b.Queue(`
			INSERT INTO correlation_refs (ref, correlation_id, project_id, key_active)
			SELECT *, true FROM unnest($1::uuid[], $2::uuid[], $3::bigint[])`, refs, refWaits, refProjects)
	}
}

// readFresh reads the times that the database gave to fresh waits.
func readFresh(rows pgx.Rows, regs []Registration, fresh []int, results []RegistrationResult) error {
	at := make(map[uuid.UUID]int, len(fresh))
	for _, i := range fresh {
		at[regs[i].Wait.ID] = i
	}
	var id uuid.UUID
	var created, expires time.Time
	_, err := pgx.ForEachRow(rows, []any{&id, &created, &expires}, func() error {
		i := at[id]
		w := regs[i].Wait
		w.Status, w.CreatedAt, w.ExpiresAt = relay.Pending, created, expires
		results[i].Registered = Registered{Wait: w, New: true}
		return nil
	})
	return err
}

// int64Array writes a Postgres array literal: unnest flattens arrays of
// arrays, so an array per row travels as text.
func int64Array(ids []int64) string {
	out := []byte{'{'}
	for i, id := range ids {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(out, id, 10)
	}
	return string(append(out, '}'))
}
