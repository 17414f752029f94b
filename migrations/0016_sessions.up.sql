-- What a platform has let the relay in with, where that is more than the
-- destination's own credentials: Tiledesk makes a new user for each anonymous
-- sign-in, so that nodes share one, and the next start finds it.
CREATE TABLE destination_sessions (
    destination_id bigint CONSTRAINT destination_sessions_pkey PRIMARY KEY
                          CONSTRAINT destination_sessions_destination_fkey REFERENCES destinations (id) ON DELETE CASCADE,
    -- Of the destination when it was opened: other credentials, or a resume,
    -- begin another session.
    releases       bigint NOT NULL,
    sealed         bytea NOT NULL,
    opened_at      timestamptz NOT NULL DEFAULT now()
);
