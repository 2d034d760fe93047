-- Lists that somebody wants to see again. user_id null: for everybody who works here.
CREATE TABLE crm.views (
    id         uuid PRIMARY KEY,
    user_id    uuid,
    kind       text NOT NULL,
    name       text NOT NULL CHECK (name <> ''),
    asked      text NOT NULL DEFAULT '',        -- the list's query string
    columns    text[] NOT NULL DEFAULT '{}',    -- empty: the kind's own
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by uuid DEFAULT crm.acting('user'),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX views_name ON crm.views (kind, coalesce(user_id, '00000000-0000-0000-0000-000000000000'), lower(name));
