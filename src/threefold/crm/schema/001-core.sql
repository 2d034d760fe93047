-- The customer data of the paper: accounts and contacts, what they ask (queries) and report (requests),
-- the products it is about, and every interaction.
--
-- Keys are UUIDv7, made by whoever creates the row: a device without connection can make them too, and they
-- index in order of time. `version` grows by one with every change, so a lost update shows; the times are for
-- people, and nothing rests on them.
-- Works on PostgreSQL 15 to 18.

CREATE SCHEMA crm;

CREATE TABLE crm.accounts (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (name <> ''),
    industry    text NOT NULL,
    country     text NOT NULL CHECK (length(country) = 2),
    city        text NOT NULL,
    employees   integer NOT NULL CHECK (employees > 0),
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE crm.contacts (
    id          uuid PRIMARY KEY,
    account_id  uuid NOT NULL REFERENCES crm.accounts,
    full_name   text NOT NULL CHECK (full_name <> ''),
    email       text NOT NULL CHECK (email LIKE '%_@_%'),
    phone       text,
    role        text NOT NULL,
    language    text NOT NULL DEFAULT 'en',
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX contacts_account ON crm.contacts (account_id);
CREATE INDEX contacts_email ON crm.contacts (lower(email));

CREATE TABLE crm.products (
    id          uuid PRIMARY KEY,
    sku         text NOT NULL UNIQUE,
    name        text NOT NULL CHECK (name <> ''),
    category    text NOT NULL,
    price_cents bigint NOT NULL CHECK (price_cents >= 0),
    currency    text NOT NULL DEFAULT 'EUR' CHECK (length(currency) = 3),
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- A case outlives the person who opened it: contact_id has no foreign key, so that erasing a contact
-- (a customer's right) neither deletes nor rewrites the company's history.

CREATE TABLE crm.queries (          -- a question, to be answered
    id          uuid PRIMARY KEY,
    account_id  uuid NOT NULL REFERENCES crm.accounts,
    contact_id  uuid NOT NULL,
    product_id  uuid REFERENCES crm.products,
    subject     text NOT NULL CHECK (subject <> ''),
    body        text NOT NULL,
    status      text NOT NULL CHECK (status IN ('new', 'open', 'waiting', 'answered', 'closed')),
    priority    smallint NOT NULL CHECK (priority BETWEEN 1 AND 4),
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX queries_account ON crm.queries (account_id);
CREATE INDEX queries_contact ON crm.queries (contact_id);
CREATE INDEX queries_unanswered ON crm.queries (priority, created_at) WHERE status IN ('new', 'open', 'waiting');

CREATE TABLE crm.requests (         -- something to be done: a repair, a delivery, a change of contract
    id          uuid PRIMARY KEY,
    account_id  uuid NOT NULL REFERENCES crm.accounts,
    contact_id  uuid NOT NULL,
    product_id  uuid REFERENCES crm.products,
    kind        text NOT NULL CHECK (kind IN ('repair', 'delivery', 'return', 'change', 'complaint')),
    summary     text NOT NULL CHECK (summary <> ''),
    status      text NOT NULL CHECK (status IN ('new', 'assigned', 'in progress', 'done', 'cancelled')),
    due_at      timestamptz,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX requests_account ON crm.requests (account_id);
CREATE INDEX requests_contact ON crm.requests (contact_id);
CREATE INDEX requests_due ON crm.requests (due_at) WHERE status IN ('new', 'assigned', 'in progress');

CREATE TABLE crm.interactions (     -- what was said, by whom, how
    id          uuid PRIMARY KEY,
    account_id  uuid NOT NULL REFERENCES crm.accounts,
    contact_id  uuid NOT NULL,
    query_id    uuid REFERENCES crm.queries,
    request_id  uuid REFERENCES crm.requests,
    channel     text NOT NULL CHECK (channel IN ('mail', 'call', 'chat', 'visit', 'note')),
    direction   text NOT NULL CHECK (direction IN ('in', 'out')),
    body        text NOT NULL,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (query_id IS NULL OR request_id IS NULL)
);
CREATE INDEX interactions_account ON crm.interactions (account_id, created_at);
CREATE INDEX interactions_contact ON crm.interactions (contact_id);
CREATE INDEX interactions_query ON crm.interactions (query_id) WHERE query_id IS NOT NULL;
CREATE INDEX interactions_request ON crm.interactions (request_id) WHERE request_id IS NOT NULL;
