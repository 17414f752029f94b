package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"relay.example/relay/internal/relay"
)

// Standing is one wait with what became of it, as its user is shown it.
type Standing struct {
	relay.Wait
	ResolvedAt *time.Time
	ResolvedBy string
	EventID    *uuid.UUID
	LateAt     *time.Time
	Payment    *relay.Payment
	Form       map[string]any
	Reconciled *bool // whether its provider has said what became of the payment; nil: nobody asked
}

// Correlation is one wait as its owner is shown it: with what it does.
type Correlation struct {
	Standing
	Plan relay.Plan
}

// Ending is how a wait ends other than by a callback: by its deadline, or by
// hand.
type Ending struct {
	Wait       *relay.Wait
	Step       relay.Step
	By         string // deadline or api
	Resolution *Resolution
	Fires      *relay.Delivery
	Asks       *relay.Question // the wait stays pending until the provider was asked
	Payable    bool            // a session may be there by which it could still be paid
}

// Overdue is a wait whose deadline has passed.
type Overdue struct {
	*relay.Wait
	Asks       string // what a provider can be asked for; "": nothing is known
	AsksSource int64  // whose provider
	Reconciled *bool  // nil: nobody has asked
}

func scanOverdue(row pgx.CollectableRow) (*Overdue, error) {
	w := &Overdue{Wait: &relay.Wait{}}
	return w, row.Scan(append(waitFields(w.Wait), &w.Asks, &w.AsksSource, &w.Reconciled)...)
}

// Resolution is what a person gave to `resolve` in place of a callback.
type Resolution struct {
	Payment *relay.Payment `json:"payment,omitempty"`
	Form    map[string]any `json:"form,omitempty"`
}

const (
	standingColumns = waitColumns + `,
	c.resolved_at, coalesce(c.resolved_by, ''), c.event_id, c.late_at, c.resolution, e.payment, e.form, c.reconciled`
	standingJoin = `
	LEFT JOIN events e ON e.project_id = c.project_id AND e.id = c.event_id`
	correlationColumns = standingColumns + `, p.doc`
	correlationJoins   = standingJoin + `
	LEFT JOIN plans p ON p.id = c.plan_id`
)

func scanStanding(row pgx.CollectableRow) (*Standing, error) {
	c := &Standing{}
	return c, c.scan(row)
}

func scanCorrelation(row pgx.CollectableRow) (*Correlation, error) {
	c := &Correlation{}
	var plan []byte
	if err := c.scan(row, &plan); err != nil || plan == nil {
		return c, err
	}
	return c, json.Unmarshal(plan, &c.Plan)
}

// scan reads standingColumns, and what stands behind them.
func (c *Standing) scan(row pgx.CollectableRow, more ...any) error {
	var resolution, payment, form []byte
	err := row.Scan(append(append(waitFields(&c.Wait), &c.ResolvedAt, &c.ResolvedBy, &c.EventID, &c.LateAt,
		&resolution, &payment, &form, &c.Reconciled), more...)...)
	if err != nil {
		return err
	}
	var by Resolution
	for _, part := range []struct {
		raw []byte
		to  any
	}{{payment, &c.Payment}, {form, &c.Form}, {resolution, &by}} {
		if part.raw == nil {
			continue
		}
		if err := json.Unmarshal(part.raw, part.to); err != nil {
			return err
		}
	}
	if by.Payment != nil {
		c.Payment = by.Payment
	}
	if by.Form != nil {
		c.Form = by.Form
	}
	return nil
}

// Correlation returns one wait of a project.
func (s *Store) Correlation(ctx context.Context, projectID int64, id uuid.UUID) (*Correlation, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+correlationColumns+`
		FROM correlations c `+correlationJoins+`
		WHERE c.project_id = $1 AND c.id = $2`, projectID, id)
	c, err := pgx.CollectExactlyOneRow(rows, scanCorrelation)
	c, err = oneOrNotFound(c, err, "correlation")
	return c, translate("reading a correlation", err)
}

// StandingByToken returns the wait that a token names, whatever its project:
// the token is all that a browser has.
func (s *Store) StandingByToken(ctx context.Context, token string) (*Standing, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+standingColumns+`
		FROM correlations c `+standingJoin+`
		WHERE c.token = $1`, token)
	c, err := pgx.CollectExactlyOneRow(rows, scanStanding)
	c, err = oneOrNotFound(c, err, "token")
	return c, translate("reading a correlation", err)
}

// Neighbours are the waits of the same scope that had a part in what became of
// one; zero ids where there are none.
type Neighbours struct {
	Superseded uuid.UUID // the older one that it superseded
	Newer      uuid.UUID // the next one: it superseded this one, if any did
	PaidLate   uuid.UUID // an older one whose late success came last before this one's end
}

// maxNeighbours is how many waits of the same user, older and newer, are
// looked through for those of the same scope.
const maxNeighbours = 200

// NeighboursOf finds the neighbours of c.
func (s *Store) NeighboursOf(ctx context.Context, c *Correlation) (n Neighbours, err error) {
	var superseded, newer, paidLate *uuid.UUID
	err = s.pool.QueryRow(ctx, `
		WITH older AS MATERIALIZED (
		    SELECT id, resolved_by, late_at
		    FROM (SELECT id, scope, resolved_by, late_at FROM correlations
		          WHERE project_id = $1 AND user_id = $2 AND id < $4 ORDER BY id DESC LIMIT $5) o
		    WHERE scope = $3
		), newer AS (
		    SELECT id
		    FROM (SELECT id, scope FROM correlations
		          WHERE project_id = $1 AND user_id = $2 AND id > $4 ORDER BY id LIMIT $5) o
		    WHERE scope = $3
		)
		SELECT (SELECT CASE WHEN resolved_by = 'newer_wait' THEN id END FROM older ORDER BY id DESC LIMIT 1),
		       (SELECT id FROM newer ORDER BY id LIMIT 1),
		       (SELECT id FROM older WHERE late_at <= $6::timestamptz ORDER BY late_at DESC LIMIT 1)`,
		c.ProjectID, c.UserID, c.Scope, c.ID, maxNeighbours, c.ResolvedAt).Scan(&superseded, &newer, &paidLate)
	for _, found := range []struct{ from, to *uuid.UUID }{{superseded, &n.Superseded}, {newer, &n.Newer}, {paidLate, &n.PaidLate}} {
		if found.from != nil {
			*found.to = *found.from
		}
	}
	return n, translate("reading the waits next to one", err)
}

// ErasedAt returns when the user of a wait was erased, or nil.
func (s *Store) ErasedAt(ctx context.Context, wait uuid.UUID) (at *time.Time, err error) {
	err = s.pool.QueryRow(ctx, `SELECT erased_at FROM correlations WHERE id = $1`, wait).Scan(&at)
	return at, translate("reading when a user was erased", err)
}

// CorrelationFilter narrows a list; zero fields do not.
type CorrelationFilter struct {
	Status relay.Status
	Flow   string
	UserID string
	Key    string
	Late   bool
}

// Page is a position in a list: the newest first, at most Limit rows after
// (that is, older than) Before.
type Page struct {
	Before uuid.UUID // zero: from the newest
	Limit  int
}

// before is the id that every row of the page is smaller than.
func (p Page) before() uuid.UUID {
	if p.Before == uuid.Nil {
		return uuid.Max
	}
	return p.Before
}

// Correlations lists waits of a project, newest first.
func (s *Store) Correlations(ctx context.Context, projectID int64, f CorrelationFilter, p Page) ([]*Correlation, error) {
	rows, _ := s.pool.Query(ctx, `
		SELECT `+correlationColumns+`
		FROM correlations c `+correlationJoins+`
		WHERE c.project_id = $1 AND c.id < $2
		  AND ($3 = '' OR c.status = $3)
		  AND ($4 = '' OR c.flow = $4)
		  AND ($5 = '' OR c.user_id = $5)
		  AND ($6 = '' OR c.key = $6)
		  AND (NOT $7 OR c.late_at IS NOT NULL)
		ORDER BY c.id DESC
		LIMIT $8`, projectID, p.before(), string(f.Status), f.Flow, f.UserID, f.Key, f.Late, p.Limit)
	list, err := pgx.CollectRows(rows, scanCorrelation)
	return list, translate("listing correlations", err)
}

// EndWait ends one wait by hand. decide sees it locked, as it is now, and
// returns how it ends or why it cannot.
func (s *Store) EndWait(
	ctx context.Context, lease uuid.UUID, projectID int64, id uuid.UUID,
	decide func(*relay.Wait) (Ending, error),
) ([]relay.Delivery, error) {
	var deliveries []relay.Delivery
	to := s.tell()
	err := s.inTxAgain(ctx, "ending a wait", func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			SELECT `+waitColumns+`
			FROM correlations c
			WHERE c.project_id = $1 AND c.id = $2
			FOR UPDATE`, projectID, id)
		w, err := pgx.CollectExactlyOneRow(rows, scanWait)
		if w, err = oneOrNotFound(w, err, "correlation"); err != nil {
			return err
		}
		ending, err := decide(w)
		if err != nil {
			return err
		}
		ending.Payable = true
		deliveries, err = endWaits(ctx, tx, to, lease, []Ending{ending})
		return err
	})
	s.isOut(to)
	return deliveries, err
}

// postponed is when a wait that decide left pending is looked at again: when
// its provider's time to answer is over. Until then it is out of the way of
// the waits behind it.
const postponed = relay.ReconcileFor

// ExpireDue ends waits whose deadline has passed, the most overdue first, at
// most limit of them. Waits that another node is working on are left to it,
// and those that decide leaves pending are postponed, some of them with a
// question to their provider. It returns how many it took.
//
// The deadlines are locked before their waits, against the order of all
// others; as neither lock is waited for, nobody deadlocks. A deadline that was
// moved or deleted since the statement began is seen as it is now.
func (s *Store) ExpireDue(
	ctx context.Context, lease uuid.UUID, limit int, decide func(context.Context, []*Overdue) ([]Ending, error),
) (taken int, deliveries []relay.Delivery, err error) {
	conn, err := s.hot.Acquire(ctx)
	if err != nil {
		return 0, nil, translate("expiring waits", err)
	}
	defer release(conn)
	to := s.tell()
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `
			SELECT `+waitColumns+`, coalesce(c.asks, ''), coalesce(c.asks_source, 0), c.reconciled
			FROM correlations c
			WHERE c.id = ANY (ARRAY(
			    SELECT correlation_id FROM deadlines
			    WHERE expires_at <= now()
			    ORDER BY expires_at
			    LIMIT $1
			    FOR UPDATE SKIP LOCKED))
			FOR UPDATE SKIP LOCKED`, limit)
		waits, err := pgx.CollectRows(rows, scanOverdue)
		if err != nil || len(waits) == 0 {
			return err
		}
		taken = len(waits)
		endings, err := decide(ctx, waits)
		if err != nil {
			return err
		}
		notePayable(waits, endings)
		if err := reconcile(ctx, tx, endings); err != nil {
			return err
		}
		if deliveries, err = endWaits(ctx, tx, to, lease, endings); err != nil {
			return err
		}
		return postpone(ctx, tx, waits)
	})
	s.isOut(to)
	return taken, deliveries, translate("expiring waits", err)
}

// notePayable notes which of the endings may leave a session behind: a wait
// whose provider can be asked for nothing has none.
func notePayable(waits []*Overdue, endings []Ending) {
	asks := make(map[uuid.UUID]bool, len(waits))
	for _, w := range waits {
		asks[w.ID] = w.Asks != ""
	}
	for i := range endings {
		endings[i].Payable = asks[endings[i].Wait.ID]
	}
}

// postpone moves the next look at the waits that are pending still. Their
// deadline as people see it stays what it was.
func postpone(ctx context.Context, tx pgx.Tx, waits []*Overdue) error {
	var ids []uuid.UUID
	for _, w := range waits {
		if w.Status == relay.Pending {
			ids = append(ids, w.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `
		UPDATE deadlines SET expires_at = clock_timestamp() + $2 * interval '1 second'
		WHERE correlation_id = ANY($1::uuid[])`, ids, postponed.Seconds())
	return err
}

// endWaits writes endings of waits that the transaction has locked.
func endWaits(ctx context.Context, tx pgx.Tx, to *telling, lease uuid.UUID, endings []Ending) ([]relay.Delivery, error) {
	leaseEnds := time.Now().Add(relay.Lease)
	var changes []waitChange
	var deliveries []relay.Delivery
	for _, e := range endings {
		change := waitChange{wait: e.Wait, step: e.Step, by: e.By, payable: e.Payable}
		if e.Resolution != nil {
			change.resolution, change.paymentID = mustJSON(e.Resolution), e.Resolution.Payment.Identity()
		}
		changes = append(changes, change)
		if e.Fires != nil {
			deliveries = append(deliveries, *e.Fires)
		}
	}
	var b pgx.Batch
	queueChanges(&b, to, changes, deliveries, lease, leaseEnds)
	queueNews(&b, newsOf(to, changes))
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return nil, err
	}
	return leased(deliveries), nil
}

// Plan returns the document of a plan.
func (s *Store) Plan(ctx context.Context, id uuid.UUID) (*relay.Plan, error) {
	var doc []byte
	// On the hot pool: those who ask hold a wait, and must not queue behind lists.
	err := s.hot.QueryRow(ctx, `SELECT doc FROM plans WHERE id = $1`, id).Scan(&doc)
	if _, err = oneOrNotFound(doc, err, "plan"); err != nil {
		return nil, translate("reading a plan", err)
	}
	p := &relay.Plan{}
	if err := json.Unmarshal(doc, p); err != nil {
		return nil, translate("reading a plan", err)
	}
	return p, nil
}
