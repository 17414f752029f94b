-- What was made at a provider for a wait to be paid by, when it was
-- registered. Apart from the wait, which most callbacks rewrite: an address of
-- Stripe's is half a kilobyte.
CREATE TABLE checkouts (
    correlation_id uuid CONSTRAINT checkouts_pkey PRIMARY KEY,
    project_id     bigint NOT NULL,
    source_id      bigint NOT NULL,
    object         text NOT NULL, -- the provider's id of it
    url            text NOT NULL
);
