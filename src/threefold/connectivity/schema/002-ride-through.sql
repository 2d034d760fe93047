-- What the edge keeps of riding through a disaster: whether changes are taken, and what became of what was deferred.

CREATE TABLE edge.settings (        -- seen by every edge within a second
    name        text PRIMARY KEY,
    value       jsonb NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    changed_by  uuid
);

-- One row for each intake that was filed or rejected, written with what it brought: this is what makes it once. Kept:
-- a copy that lay in a store through an outage may come back at any time.
CREATE TABLE edge.intake (
    id          uuid PRIMARY KEY,           -- from author and key: intake.py
    user_id     uuid NOT NULL,              -- no reference: the row outlives the person
    device_id   uuid,
    state       text NOT NULL CHECK (state IN ('applied', 'rejected')),
    title       text NOT NULL DEFAULT '',
    link        text NOT NULL DEFAULT '',
    taken_at    timestamptz NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now(),
    problem     jsonb,                      -- why it was rejected
    sent        jsonb,                      -- what was, of a rejected one: nothing that was taken in is lost
    handled_at  timestamptz,
    handled_by  uuid,
    CHECK ((state = 'rejected') = (problem IS NOT NULL))
);
CREATE INDEX intake_user ON edge.intake (user_id, taken_at DESC);
CREATE INDEX intake_rejected ON edge.intake (taken_at) WHERE state = 'rejected' AND handled_at IS NULL;
