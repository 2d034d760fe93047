-- The audit by date; and the one way an entry goes for good: it is older than administrators said that it is kept
-- (crm.settings, whose every change is in the data log). Nothing said, nothing goes.
CREATE INDEX audit_at ON edge.audit (at, id);

CREATE OR REPLACE FUNCTION edge.keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.at < now() - (SELECT make_interval(days => audit_days) FROM crm.settings) THEN
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.address = '' AND NEW.detail = '{}'
       AND (NEW.id, NEW.at, NEW.what, NEW.kind) = (OLD.id, OLD.at, OLD.what, OLD.kind)
       AND (NEW.user_id, NEW.device_id, NEW.record_id) IS NOT DISTINCT FROM (OLD.user_id, OLD.device_id, OLD.record_id)
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the audit is only added to' USING ERRCODE = 'insufficient_privilege';
END $$;
