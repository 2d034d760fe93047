-- What the edge keeps: which devices a person has, how they sign in, which requests were seen before.
--
-- Secrets are kept as SHA-256 (invitations, sessions: 256 bits of chance, so a fast hash is enough) or argon2id
-- (passwords: chosen by people). Whoever reads this schema can sign in as nobody.
-- Times are the database's own (now()), so that they mean the same after a fail-over to another machine.

CREATE SCHEMA edge;

CREATE TABLE edge.devices (         -- a key that never left the device it was made in
    id          uuid PRIMARY KEY,
    user_id     uuid NOT NULL REFERENCES crm.users ON DELETE CASCADE,
    name        text NOT NULL CHECK (name <> ''),
    thumbprint  text NOT NULL UNIQUE,       -- RFC 7638, of the public key
    jwk         jsonb NOT NULL,
    enrolled_at timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz,
    revoked_by  uuid
);
CREATE INDEX devices_user ON edge.devices (user_id);

CREATE TABLE edge.passkeys (
    id          bytea PRIMARY KEY,          -- the authenticator's own
    user_id     uuid NOT NULL REFERENCES crm.users ON DELETE CASCADE,
    name        text NOT NULL CHECK (name <> ''),
    public_key  bytea NOT NULL,
    sign_count  bigint NOT NULL,
    backed_up   boolean NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    used_at     timestamptz
);
CREATE INDEX passkeys_user ON edge.passkeys (user_id);

CREATE TABLE edge.passwords (
    user_id     uuid PRIMARY KEY REFERENCES crm.users ON DELETE CASCADE,
    hash        text NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now()
);

-- By whose device tried which address, whether there is such a person or not: else the delay would tell.
CREATE TABLE edge.attempts (
    account     bytea PRIMARY KEY,          -- SHA-256 of the device's person's id and the e-mail address in lower case
    failures    integer NOT NULL,
    tried_at    timestamptz NOT NULL DEFAULT now(),
    wait_until  timestamptz NOT NULL
);
CREATE INDEX attempts_old ON edge.attempts (tried_at);

CREATE TABLE edge.invitations (
    id          uuid PRIMARY KEY,
    token_hash  bytea NOT NULL UNIQUE,
    user_id     uuid NOT NULL REFERENCES crm.users ON DELETE CASCADE,
    role        text NOT NULL,              -- it had when it was invited; another since: the invitation is void
    made_by     uuid,
    made_at     timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz,
    device_id   uuid,
    withdrawn_at timestamptz
);
CREATE INDEX invitations_made ON edge.invitations (made_at DESC, id DESC);
CREATE INDEX invitations_user ON edge.invitations (user_id);

CREATE TABLE edge.challenges (      -- what an authenticator has to sign: once, soon, for this device
    hash        bytea PRIMARY KEY,
    purpose     text NOT NULL CHECK (purpose IN ('enrol', 'signin')),
    thumbprint  text NOT NULL,
    user_id     uuid,
    expires_at  timestamptz NOT NULL
);
CREATE INDEX challenges_old ON edge.challenges (expires_at);

CREATE TABLE edge.sessions (
    id          uuid PRIMARY KEY,
    token_hash  bytea NOT NULL UNIQUE,
    user_id     uuid NOT NULL REFERENCES crm.users ON DELETE CASCADE,
    device_id   uuid NOT NULL REFERENCES edge.devices ON DELETE CASCADE,
    how         text NOT NULL CHECK (how IN ('enrolment', 'passkey', 'password')),
    bearer      boolean NOT NULL,           -- an API client's: the token travels in Authorization, never in a cookie
    created_at  timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now(),
    idle_until  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    ended_at    timestamptz
);
CREATE INDEX sessions_user ON edge.sessions (user_id) WHERE ended_at IS NULL;
CREATE INDEX sessions_device ON edge.sessions (device_id) WHERE ended_at IS NULL;
CREATE INDEX sessions_old ON edge.sessions (expires_at);

-- Which proofs were seen. Logged: a replay has to be refused after a fail-over, too. A proof's row is committed before
-- its request begins to work, so it precedes the request's own change in the WAL: wherever the change survives, the
-- proof does (admission.py).
CREATE TABLE edge.proofs (
    id          uuid PRIMARY KEY,           -- 128 bits of SHA-256 over key and jti
    forget_at   timestamptz NOT NULL
);
CREATE INDEX proofs_old ON edge.proofs (forget_at);

-- What a change was answered with, under the key that the client gave it; committed with the change.
CREATE TABLE edge.replies (
    user_id     uuid NOT NULL REFERENCES crm.users ON DELETE CASCADE,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,             -- of method, address and body
    status      smallint NOT NULL CHECK (status BETWEEN 200 AND 399),
    media_type  text NOT NULL,
    headers     jsonb NOT NULL,
    body        bytea NOT NULL,
    about       uuid[] NOT NULL,            -- the records that were changed, and whose they are
    replays     integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, key)
);
CREATE INDEX replies_old ON edge.replies (created_at);

CREATE TABLE edge.audit (           -- who saw and did what; what was changed, and how, says crm.log
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    what        text NOT NULL CHECK (what <> ''),
    user_id     uuid,
    device_id   uuid,
    kind        text NOT NULL DEFAULT '',
    record_id   uuid,
    address     text NOT NULL DEFAULT '',
    detail      jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_user ON edge.audit (user_id, id DESC);
CREATE INDEX audit_record ON edge.audit (record_id, id DESC) WHERE record_id IS NOT NULL;
CREATE INDEX audit_what ON edge.audit (what, id DESC);

-- Nobody rewrites it. Erasing a person takes out what tells of it (address, detail) and leaves that it was.
CREATE FUNCTION edge.keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.address = '' AND NEW.detail = '{}'
       AND (NEW.id, NEW.at, NEW.what, NEW.kind) = (OLD.id, OLD.at, OLD.what, OLD.kind)
       AND (NEW.user_id, NEW.device_id, NEW.record_id) IS NOT DISTINCT FROM (OLD.user_id, OLD.device_id, OLD.record_id)
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the audit is only added to' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_kept BEFORE UPDATE OR DELETE ON edge.audit FOR EACH ROW EXECUTE FUNCTION edge.keep_audit();
CREATE TRIGGER audit_kept_whole BEFORE TRUNCATE ON edge.audit FOR EACH STATEMENT EXECUTE FUNCTION edge.keep_audit();
