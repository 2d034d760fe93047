-- Two records that were one: which stayed, which went, and every value that changed on the way, so that the merge can
-- be undone. `edits`: [{"kind", "ids": [...], "old": {...}, "new": {...}}, ...], in the order they were made; null once
-- a person among them was erased.
CREATE TABLE crm.merges (
    id         uuid PRIMARY KEY,
    kind       text NOT NULL,
    kept_id    uuid NOT NULL,
    dropped_id uuid NOT NULL,
    edits      jsonb,
    at         timestamptz NOT NULL DEFAULT now(),
    by         uuid DEFAULT crm.acting('user'),
    undone_at  timestamptz,
    undone_by  uuid
);
CREATE INDEX merges_newest ON crm.merges (kind, at DESC, id DESC);
CREATE INDEX merges_kept ON crm.merges (kept_id);
CREATE INDEX merges_dropped ON crm.merges (dropped_id);

-- Telephone numbers as duplicates are compared: digits alone, without the ways to write 'international'.
CREATE FUNCTION crm.digits(given text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ltrim(translate(given, translate(given, '0123456789', ''), ''), '0');

-- Duplicates are found by a hash of what they share: eight bytes to compare, whatever the language, because these
-- indexes are paid for with every contact that comes in. Who reads them compares the words themselves as well.
CREATE FUNCTION crm.email_key(email text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN hashtextextended(lower(email), 0);
-- A name without case, accents, blanks and what people put between its parts.
CREATE FUNCTION crm.bare(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE WHEN octet_length(name) = length(name) THEN translate(lower(name), ' .,-''&()/', '')
         ELSE replace(crm.plain(name), ' ', '') END;
CREATE FUNCTION crm.name_key(name text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN hashtextextended(crm.bare(name), 0);
CREATE FUNCTION crm.person_key(full_name text, phone text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN hashtextextended(crm.bare(full_name) || E'\n' || crm.digits(phone), 0);
CREATE INDEX contacts_same_email ON crm.contacts (crm.email_key(email), id) WHERE deleted_at IS NULL;
CREATE INDEX contacts_same_person ON crm.contacts (crm.person_key(full_name, phone), id)
    WHERE deleted_at IS NULL AND phone <> '';
CREATE INDEX accounts_same_name ON crm.accounts (crm.name_key(name), id) WHERE deleted_at IS NULL;

-- One change to many records, all or nothing. `items`: [{"kind", "id", "version" after it, "old": {...}, "new": {...}}];
-- null once a person among them was erased.
CREATE TABLE crm.batches (
    id         uuid PRIMARY KEY,
    kind       text NOT NULL,
    what       text NOT NULL CHECK (what IN ('set', 'tag', 'untag', 'delete')),
    changes    jsonb NOT NULL,
    records    integer NOT NULL,
    items      jsonb,
    at         timestamptz NOT NULL DEFAULT now(),
    by         uuid DEFAULT crm.acting('user'),
    undone_at  timestamptz,
    undone_by  uuid,
    left_over  jsonb            -- what undoing could not reverse, and why
);
CREATE INDEX batches_newest ON crm.batches (at DESC, id DESC);
