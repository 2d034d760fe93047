-- The data log: of every record, what was changed, when, by whom and on which device; written by the database itself
-- in the transaction that makes the change, so that neither the CRM nor somebody at psql can forget it.
--
-- The entries of one record are a chain. With || for joined bytes:
--     digest = sha256(salt || text of the contents)
--     hash   = sha256(hash of the entry before || id || version || sha256(header) || digest)
-- `crm.log_hash` is that header in full. An erased entry has lost its contents and its salt and keeps its digest: the
-- chain still proves itself, and nobody can guess from it what was there.
--
-- The contents are, by op:
--     create  the record as it was created, as row_to_json writes it. They are not stored (`changes` is null): the
--             record walked back through its changes gives them, and must give this digest, which proves it as well
--     update  {"field": [old, new], ...}, without `version`
--     delete  the same, from what was there to nulls: a row that is gone can still be read, and walked back
-- So a column that is added later comes last and is null in the rows that are there; none is renamed or dropped.
--
-- tx and position give the order of the changes feed, and are not proved: a logical copy may have to renumber them.

CREATE TABLE crm.log (
    record_id uuid NOT NULL,
    version   integer NOT NULL,
    kind      text NOT NULL,
    op        text NOT NULL CHECK (op IN ('create', 'update', 'delete')),
    at        timestamptz NOT NULL,
    actor     uuid,
    device    uuid,
    reason    text,
    changes   jsonb,
    salt      bytea,
    digest    bytea NOT NULL,
    hash      bytea NOT NULL,
    tx        xid8 NOT NULL,
    position  bigint GENERATED ALWAYS AS IDENTITY (CACHE 100),
    PRIMARY KEY (record_id, version)
);
CREATE INDEX log_order ON crm.log (tx, position);

CREATE FUNCTION crm.log_hash(
    before bytea, record_id uuid, version integer, kind text, op text, at timestamptz, actor uuid, device uuid,
    reason text, digest bytea
) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE RETURN sha256(
    before || uuid_send(record_id) || int4send(version) || sha256(convert_to(
        concat(kind, E'\n', op, E'\n', (extract(epoch FROM at) * 1000000)::bigint, E'\n', actor, E'\n', device, E'\n',
               reason), 'UTF8')) || digest);

-- One function for all tables. The time zone is set so that times have one spelling.
CREATE FUNCTION crm.write_log() RETURNS trigger LANGUAGE plpgsql SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
DECLARE
    v_kind   CONSTANT text := TG_TABLE_NAME;
    v_at     CONSTANT timestamptz := now();
    v_actor  CONSTANT uuid := crm.acting('user');
    v_device CONSTANT uuid := crm.acting('device');
    v_reason CONSTANT text := nullif(current_setting('crm.reason', true), '');
    v_op     CONSTANT text := CASE TG_OP WHEN 'INSERT' THEN 'create' WHEN 'UPDATE' THEN 'update' ELSE 'delete' END;
    v_tx     CONSTANT xid8 := pg_current_xact_id();
    v_header CONSTANT bytea := sha256(convert_to(
        concat(v_kind, E'\n', v_op, E'\n', (extract(epoch FROM v_at) * 1000000)::bigint, E'\n', v_actor, E'\n',
               v_device, E'\n', v_reason), 'UTF8'));
    -- One salt an entry from one secret a statement, which is kept nowhere: chance is dear, and hashing is not.
    v_secret CONSTANT bytea := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
    v_rows   bigint;
    v_logged bigint;
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- Nearly always version 1, the start of a chain; otherwise a row that was deleted comes back, and goes on.
        INSERT INTO crm.log (record_id, version, kind, op, at, actor, device, reason, salt, digest, hash, tx)
        SELECT id, version, v_kind, v_op, v_at, v_actor, v_device, v_reason, salt, digest,
               sha256(CASE version WHEN 1 THEN '' ELSE
                          (SELECT hash FROM crm.log b WHERE b.record_id = s.id AND b.version = s.version - 1) END
                      || uuid_send(id) || int4send(version) || v_header || digest), v_tx
        FROM (
            SELECT id, version, salt, sha256(salt || convert_to(contents, 'UTF8')) AS digest
            FROM (
                SELECT id, version, substr(sha256(v_secret || uuid_send(id)), 1, 16) AS salt,
                       row_to_json(n)::text AS contents
                FROM new_rows n OFFSET 0
            ) c OFFSET 0
        ) s;
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO crm.log (record_id, version, kind, op, at, actor, device, reason, changes, salt, digest, hash, tx)
        SELECT s.id, s.version, v_kind, v_op, v_at, v_actor, v_device, v_reason, s.changes, s.salt, s.digest,
               sha256(b.hash || uuid_send(s.id) || int4send(s.version) || v_header || s.digest), v_tx
        FROM (
            SELECT id, version, changes, salt, sha256(salt || convert_to(changes::text, 'UTF8')) AS digest
            FROM (
                SELECT n.id, n.version, substr(sha256(v_secret || uuid_send(n.id)), 1, 16) AS salt,
                       (SELECT coalesce(jsonb_object_agg(a.key, jsonb_build_array(a.value, z.value)), '{}')
                        FROM jsonb_each(to_jsonb(o)) a JOIN jsonb_each(to_jsonb(n)) z USING (key)
                        WHERE a.value <> z.value AND a.key <> 'version') AS changes
                FROM new_rows n JOIN old_rows o USING (id) OFFSET 0
            ) c OFFSET 0
        ) s JOIN crm.log b ON b.record_id = s.id AND b.version = s.version - 1;
        GET DIAGNOSTICS v_logged = ROW_COUNT;
        SELECT count(*) INTO v_rows FROM new_rows;
    ELSE
        INSERT INTO crm.log (record_id, version, kind, op, at, actor, device, reason, changes, salt, digest, hash, tx)
        SELECT s.id, s.version, v_kind, v_op, v_at, v_actor, v_device, v_reason, s.changes, s.salt, s.digest,
               sha256(b.hash || uuid_send(s.id) || int4send(s.version) || v_header || s.digest), v_tx
        FROM (
            SELECT id, version, changes, salt, sha256(salt || convert_to(changes::text, 'UTF8')) AS digest
            FROM (
                SELECT o.id, o.version + 1 AS version, substr(sha256(v_secret || uuid_send(o.id)), 1, 16) AS salt,
                       (SELECT jsonb_object_agg(key, jsonb_build_array(value, NULL))
                        FROM jsonb_each(jsonb_strip_nulls(to_jsonb(o)) - 'version')) AS changes
                FROM old_rows o OFFSET 0
            ) c OFFSET 0
        ) s JOIN crm.log b ON b.record_id = s.id AND b.version = s.version - 1;
        GET DIAGNOSTICS v_logged = ROW_COUNT;
        SELECT count(*) INTO v_rows FROM old_rows;
    END IF;
    IF v_logged <> v_rows THEN
        RAISE EXCEPTION '% of % changed rows of crm.% have no entry in crm.log to go on from',
            v_rows - v_logged, v_rows, v_kind;
    END IF;
    RETURN NULL;
END $$;

-- Whoever updates a row, its version grows by one and it says when and by whom: the chain hangs on that.
CREATE FUNCTION crm.stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id <> OLD.id THEN
        RAISE EXCEPTION 'the id of a record stays what it is';
    END IF;
    NEW.version := OLD.version + 1;
    NEW.created_at := OLD.created_at;
    NEW.created_by := OLD.created_by;
    NEW.created_on := OLD.created_on;
    NEW.updated_at := now();
    NEW.updated_by := crm.acting('user');
    NEW.updated_on := crm.acting('device');
    RETURN NEW;
END $$;

CREATE FUNCTION crm.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of crm.% would go past the data log', TG_OP, TG_TABLE_NAME;
END $$;

-- Erasing takes the contents of an entry, and nothing else may ever change in it.
CREATE FUNCTION crm.keep_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.changes IS NOT NULL OR NEW.salt IS NOT NULL
       OR (NEW.record_id, NEW.version, NEW.kind, NEW.op, NEW.at, NEW.digest, NEW.hash, NEW.tx, NEW.position)
          IS DISTINCT FROM
          (OLD.record_id, OLD.version, OLD.kind, OLD.op, OLD.at, OLD.digest, OLD.hash, OLD.tx, OLD.position)
       OR (NEW.actor, NEW.device, NEW.reason) IS DISTINCT FROM (OLD.actor, OLD.device, OLD.reason)
    THEN
        RAISE EXCEPTION 'entries of crm.log are never changed';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER kept BEFORE UPDATE ON crm.log FOR EACH ROW EXECUTE FUNCTION crm.keep_log();
CREATE TRIGGER never_deleted BEFORE DELETE ON crm.log FOR EACH ROW EXECUTE FUNCTION crm.refuse();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON crm.log FOR EACH STATEMENT EXECUTE FUNCTION crm.refuse();

-- Puts a table of records under the log; later files call it for theirs.
CREATE PROCEDURE crm.log_table(name text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER stamped BEFORE UPDATE ON crm.%I FOR EACH ROW EXECUTE FUNCTION crm.stamp()', name);
    EXECUTE format('CREATE TRIGGER log_insert AFTER INSERT ON crm.%I REFERENCING NEW TABLE AS new_rows'
                   ' FOR EACH STATEMENT EXECUTE FUNCTION crm.write_log()', name);
    EXECUTE format('CREATE TRIGGER log_update AFTER UPDATE ON crm.%I REFERENCING OLD TABLE AS old_rows'
                   ' NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION crm.write_log()', name);
    EXECUTE format('CREATE TRIGGER log_delete AFTER DELETE ON crm.%I REFERENCING OLD TABLE AS old_rows'
                   ' FOR EACH STATEMENT EXECUTE FUNCTION crm.write_log()', name);
    EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON crm.%I'
                   ' FOR EACH STATEMENT EXECUTE FUNCTION crm.refuse()', name);
END $$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['teams', 'accounts', 'contacts', 'users', 'affiliations', 'products', 'prices',
        'queries', 'requests', 'interactions', 'tasks', 'deals', 'tags', 'taggings', 'policies']
    LOOP
        CALL crm.log_table(name);
    END LOOP;
END $$;

-- What one deletion took along, so that restoring it brings back exactly that.
CREATE TABLE crm.deletions (
    id        uuid NOT NULL,            -- of the deletion
    kind      text NOT NULL,
    record_id uuid NOT NULL,
    root      boolean NOT NULL,         -- what was deleted itself, and not with something else
    PRIMARY KEY (record_id)
);
CREATE INDEX deletions_together ON crm.deletions (id);
