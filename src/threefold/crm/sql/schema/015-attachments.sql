-- Files at records. The same bytes are kept once, by their hash; they go when the last file that has them goes for good.
CREATE TABLE crm.blobs (
    sha256 bytea PRIMARY KEY CHECK (octet_length(sha256) = 32),
    size   integer NOT NULL CHECK (size BETWEEN 1 AND 10485760),
    bytes  bytea NOT NULL
);
ALTER TABLE crm.blobs ALTER COLUMN bytes SET STORAGE EXTERNAL;      -- pictures and archives do not compress

CREATE TABLE crm.attachments (
    id          uuid PRIMARY KEY,
    record_kind text NOT NULL,
    record_id   uuid NOT NULL,
    name        text NOT NULL CHECK (name <> ''),
    media_type  text NOT NULL,
    size        integer NOT NULL,
    sha256      bytea NOT NULL REFERENCES crm.blobs,
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device'),
    deleted_at  timestamptz
);
CREATE INDEX attachments_record ON crm.attachments (record_id, created_at, id);
CREATE INDEX attachments_blob ON crm.attachments (sha256);
CALL crm.log_table('attachments');
