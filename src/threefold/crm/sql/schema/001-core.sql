-- The customer data of the paper: accounts and contacts, what they ask (queries) and report (requests), the products
-- it is about, every interaction - and what a team needs around them.
--
-- Keys are UUIDv7, made by whoever creates the row: a device without connection can make them too, and they
-- index in order of time. `version` grows by one with every change: a lost update shows, and the data log
-- (002-data-log.sql) hangs on it. The times are for people, and nothing rests on them.
-- The fields are those of kinds.py; a test holds the two against each other.
-- Works on PostgreSQL 15 to 18.

CREATE SCHEMA IF NOT EXISTS crm;  -- migrate.py has made it for its own table

-- Who is writing, set for each transaction by the CRM; empty where somebody works on the database itself.
CREATE FUNCTION crm.acting(what text) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('crm.' || what, true), '')::uuid;

CREATE TABLE crm.teams (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (name <> ''),
    description text NOT NULL DEFAULT '',
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);

CREATE TABLE crm.accounts (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (name <> ''),
    industry    text NOT NULL DEFAULT '',
    country     text NOT NULL DEFAULT '' CHECK (length(country) IN (0, 2)),
    city        text NOT NULL DEFAULT '',
    employees   integer CHECK (employees > 0),
    website     text NOT NULL DEFAULT '',
    owner_id    uuid,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);

CREATE TABLE crm.contacts (
    id          uuid PRIMARY KEY,
    account_id  uuid REFERENCES crm.accounts,
    full_name   text NOT NULL CHECK (full_name <> ''),
    email       text NOT NULL CHECK (email LIKE '%_@_%'),
    phone       text NOT NULL DEFAULT '',
    role        text NOT NULL DEFAULT '',
    language    text NOT NULL DEFAULT 'en',
    do_not_contact boolean NOT NULL DEFAULT false,
    consent_mail   boolean NOT NULL DEFAULT false,
    consent_phone  boolean NOT NULL DEFAULT false,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);

CREATE TABLE crm.users (            -- people who sign in; how they do is the connectivity module's
    id          uuid PRIMARY KEY,
    full_name   text NOT NULL CHECK (full_name <> ''),
    email       text NOT NULL CHECK (email LIKE '%_@_%'),
    role        text NOT NULL CHECK (role IN ('administrator', 'employee', 'customer')),
    team_id     uuid REFERENCES crm.teams,
    contact_id  uuid,
    active      boolean NOT NULL DEFAULT true,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz,
    CHECK ((role = 'customer') = (contact_id IS NOT NULL))
);
CREATE UNIQUE INDEX users_email ON crm.users (lower(email)) WHERE deleted_at IS NULL;

CREATE TABLE crm.affiliations (     -- which contact has which role in which account
    id          uuid PRIMARY KEY,
    contact_id  uuid NOT NULL,
    account_id  uuid NOT NULL,
    role        text NOT NULL DEFAULT '',
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);

CREATE TABLE crm.products (
    id          uuid PRIMARY KEY,
    sku         text NOT NULL,
    name        text NOT NULL CHECK (name <> ''),
    category    text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    price_cents bigint NOT NULL CHECK (price_cents >= 0),
    currency    text NOT NULL DEFAULT 'EUR' CHECK (length(currency) = 3),
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);
CREATE UNIQUE INDEX products_sku ON crm.products (sku) WHERE deleted_at IS NULL;

CREATE TABLE crm.prices (
    id          uuid PRIMARY KEY,
    product_id  uuid NOT NULL REFERENCES crm.products,
    currency    text NOT NULL CHECK (length(currency) = 3),
    price_cents bigint NOT NULL CHECK (price_cents >= 0),
    valid_from  date NOT NULL,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);
CREATE UNIQUE INDEX prices_of_product ON crm.prices (product_id, currency, valid_from) WHERE deleted_at IS NULL;

-- A case outlives the person who opened it: contact_id has no foreign key, so that erasing a contact
-- (a customer's right) neither deletes nor rewrites the company's history.

CREATE TABLE crm.queries (          -- a question, to be answered
    id          uuid PRIMARY KEY,
    account_id  uuid REFERENCES crm.accounts,
    contact_id  uuid NOT NULL,
    product_id  uuid REFERENCES crm.products,
    subject     text NOT NULL CHECK (subject <> ''),
    body        text NOT NULL DEFAULT '',
    status      text NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'open', 'waiting', 'answered', 'closed')),
    priority    smallint NOT NULL DEFAULT 3 CHECK (priority BETWEEN 1 AND 4),
    assignee_id uuid,
    team_id     uuid,
    watchers    uuid[] NOT NULL DEFAULT '{}',
    first_response_due_at timestamptz,
    first_responded_at    timestamptz,
    resolution_due_at     timestamptz,
    resolved_at           timestamptz,
    paused_at             timestamptz,
    paused_seconds        integer NOT NULL DEFAULT 0,
    escalated_at          timestamptz,
    merged_into_id        uuid REFERENCES crm.queries,
    satisfaction          smallint CHECK (satisfaction BETWEEN 1 AND 5),
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);

CREATE TABLE crm.requests (         -- something to be done: a repair, a delivery, a change of contract
    id          uuid PRIMARY KEY,
    account_id  uuid REFERENCES crm.accounts,
    contact_id  uuid NOT NULL,
    product_id  uuid REFERENCES crm.products,
    kind        text NOT NULL CHECK (kind IN ('repair', 'delivery', 'return', 'change', 'complaint')),
    subject     text NOT NULL CHECK (subject <> ''),
    body        text NOT NULL DEFAULT '',
    status      text NOT NULL DEFAULT 'new'
                CHECK (status IN ('new', 'assigned', 'in progress', 'waiting', 'done', 'cancelled')),
    priority    smallint NOT NULL DEFAULT 3 CHECK (priority BETWEEN 1 AND 4),
    due_at      timestamptz,
    assignee_id uuid,
    team_id     uuid,
    watchers    uuid[] NOT NULL DEFAULT '{}',
    first_response_due_at timestamptz,
    first_responded_at    timestamptz,
    resolution_due_at     timestamptz,
    resolved_at           timestamptz,
    paused_at             timestamptz,
    paused_seconds        integer NOT NULL DEFAULT 0,
    escalated_at          timestamptz,
    merged_into_id        uuid REFERENCES crm.requests,
    satisfaction          smallint CHECK (satisfaction BETWEEN 1 AND 5),
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);

CREATE TABLE crm.interactions (     -- what was said, by whom, how
    id          uuid PRIMARY KEY,
    account_id  uuid REFERENCES crm.accounts,
    contact_id  uuid NOT NULL,
    query_id    uuid REFERENCES crm.queries,
    request_id  uuid REFERENCES crm.requests,
    channel     text NOT NULL DEFAULT 'note' CHECK (channel IN ('mail', 'call', 'chat', 'visit', 'note')),
    direction   text NOT NULL DEFAULT 'out' CHECK (direction IN ('in', 'out')),
    internal    boolean NOT NULL DEFAULT false,
    body        text NOT NULL,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz,
    CHECK (query_id IS NULL OR request_id IS NULL)
);

CREATE TABLE crm.tasks (
    id          uuid PRIMARY KEY,
    subject     text NOT NULL CHECK (subject <> ''),
    body        text NOT NULL DEFAULT '',
    due_at      timestamptz,
    done_at     timestamptz,
    assignee_id uuid,
    record_kind text,
    record_id   uuid,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz,
    CHECK ((record_kind IS NULL) = (record_id IS NULL))
);

CREATE TABLE crm.deals (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (name <> ''),
    account_id  uuid NOT NULL REFERENCES crm.accounts,
    contact_id  uuid,
    stage       text NOT NULL DEFAULT 'lead'
                CHECK (stage IN ('lead', 'qualified', 'proposal', 'negotiation', 'won', 'lost')),
    value_cents bigint NOT NULL DEFAULT 0 CHECK (value_cents >= 0),
    currency    text NOT NULL DEFAULT 'EUR' CHECK (length(currency) = 3),
    close_on    date,
    owner_id    uuid,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);

CREATE TABLE crm.tags (
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (name <> ''),
    colour      text NOT NULL DEFAULT '',
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);
CREATE UNIQUE INDEX tags_name ON crm.tags (lower(name)) WHERE deleted_at IS NULL;

CREATE TABLE crm.taggings (
    id          uuid PRIMARY KEY,
    tag_id      uuid NOT NULL REFERENCES crm.tags,
    record_kind text NOT NULL,
    record_id   uuid NOT NULL,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);
CREATE UNIQUE INDEX taggings_record ON crm.taggings (record_id, tag_id) WHERE deleted_at IS NULL;

CREATE TABLE crm.policies (         -- service levels: how soon a case of that priority is answered and resolved
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (name <> ''),
    record_kind text NOT NULL CHECK (record_kind IN ('queries', 'requests')),
    priority    smallint NOT NULL CHECK (priority BETWEEN 1 AND 4),
    first_response_minutes integer NOT NULL CHECK (first_response_minutes > 0),
    resolution_minutes     integer NOT NULL CHECK (resolution_minutes > 0),
    office_hours   boolean NOT NULL DEFAULT false,
    escalate_to_id uuid,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);
CREATE UNIQUE INDEX policies_of_case ON crm.policies (record_kind, priority) WHERE deleted_at IS NULL;
