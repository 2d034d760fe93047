-- Receivers of changes, and what is on its way to them.
CREATE TABLE crm.webhooks (
    id          uuid PRIMARY KEY,
    url         text NOT NULL,
    description text NOT NULL DEFAULT '',
    kinds       text[] NOT NULL,             -- empty: all
    secret      text NOT NULL,
    active      boolean NOT NULL DEFAULT true,
    version     integer NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user')
);

CREATE TABLE crm.deliveries (
    id          uuid PRIMARY KEY,            -- the receiver's Webhook-Id: the same at every try
    webhook_id  uuid NOT NULL REFERENCES crm.webhooks ON DELETE CASCADE,
    number      bigint GENERATED ALWAYS AS IDENTITY,     -- the order of the changes
    body        bytea NOT NULL,              -- as it is signed
    kind        text NOT NULL,
    record_id   uuid NOT NULL,
    record_version integer NOT NULL,
    status      text NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'delivered', 'dead')),
    attempts    integer NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT now(),
    answered    integer,                     -- the last answer's status
    error       text NOT NULL DEFAULT '',    -- of the last try
    created_at  timestamptz NOT NULL DEFAULT now(),
    settled_at  timestamptz,
    UNIQUE (webhook_id, record_id, record_version)   -- one change is told to one receiver once
);
CREATE INDEX deliveries_due ON crm.deliveries (webhook_id, due_at, number) WHERE status = 'waiting';
CREATE INDEX deliveries_newest ON crm.deliveries (webhook_id, created_at DESC, id DESC);
CREATE INDEX deliveries_dead ON crm.deliveries (created_at DESC, id DESC) WHERE status = 'dead';
CREATE INDEX deliveries_settled ON crm.deliveries (settled_at) WHERE status = 'delivered';

-- How far the changes feed has been turned into deliveries.
CREATE TABLE crm.webhook_feed (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    cursor   text
);
INSERT INTO crm.webhook_feed DEFAULT VALUES;
