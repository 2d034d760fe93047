-- CSV imports: the file while it is being looked at, and afterwards what came of it. Faults never quote a cell.
CREATE TABLE crm.imports (
    id          uuid PRIMARY KEY,
    kind        text NOT NULL,
    filename    text NOT NULL,
    status      text NOT NULL DEFAULT 'uploaded'
                CHECK (status IN ('uploaded', 'checked', 'running', 'done', 'refused', 'failed', 'cancelled')),
    encoding    text NOT NULL,
    delimiter   text NOT NULL,
    header      text[] NOT NULL,
    mapping     jsonb NOT NULL,          -- {"column": "field"}
    duplicates  text NOT NULL DEFAULT 'skip' CHECK (duplicates IN ('refuse', 'skip', 'update', 'create')),
    rows        integer NOT NULL DEFAULT 0,      -- in the file
    done        integer NOT NULL DEFAULT 0,      -- of them, so far
    created     integer NOT NULL DEFAULT 0,
    updated     integer NOT NULL DEFAULT 0,
    skipped     integer NOT NULL DEFAULT 0,
    faulty      integer NOT NULL DEFAULT 0,
    faults      jsonb NOT NULL DEFAULT '[]',     -- the first thousand: [{"row", "column", "what", "hint"}]
    data        bytea,                           -- the file, until it is done
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    finished_at timestamptz
);
ALTER TABLE crm.imports ALTER COLUMN data SET STORAGE EXTERNAL;     -- compressing it would cost more than it saves
CREATE INDEX imports_newest ON crm.imports (created_at DESC, id DESC);

-- UUIDv7 for many rows of one moment, in the order of the rows: 48 bits of time, 26 of the row, and 48 bits of chance
-- (12 hexadecimal digits) that are drawn once for all of them, because drawing costs more than all the rest.
CREATE FUNCTION crm.row_id(ms bigint, row_number bigint, chance text) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (lpad(to_hex(ms), 12, '0') || '7' || lpad(to_hex(row_number >> 14 & 4095), 3, '0')
            || to_hex(32768 + (row_number & 16383)) || chance)::uuid;
