-- When somebody is there, for the service levels that count office hours only: one row, or none for the default.
CREATE TABLE crm.office (
    only_one   boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    zone       text NOT NULL,
    opens      time NOT NULL,
    closes     time NOT NULL CHECK (closes > opens),
    days       smallint[] NOT NULL CHECK (cardinality(days) BETWEEN 1 AND 7),   -- Monday is 0
    updated_at timestamptz NOT NULL DEFAULT now(),
    updated_by uuid DEFAULT crm.acting('user')
);

-- What a case is due for next: an answer, while nobody answered, and then its resolution.
CREATE FUNCTION crm.next_due(responded timestamptz, first_response timestamptz, resolution timestamptz)
    RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN responded IS NULL THEN least(first_response, resolution) ELSE resolution END;

-- The queue: what is due first, for all, for one employee, for one team; and what nobody escalated yet. One index
-- holds running cases, the other those that wait for the customer.
CREATE INDEX queries_running ON crm.queries
    (crm.next_due(first_responded_at, first_response_due_at, resolution_due_at), id)
    WHERE status IN ('new', 'open') AND deleted_at IS NULL;
CREATE INDEX queries_waiting ON crm.queries
    (crm.next_due(first_responded_at, first_response_due_at, resolution_due_at), id)
    WHERE status = 'waiting' AND deleted_at IS NULL;
CREATE INDEX queries_running_of ON crm.queries
    (assignee_id, crm.next_due(first_responded_at, first_response_due_at, resolution_due_at), id)
    WHERE status IN ('new', 'open', 'waiting') AND deleted_at IS NULL;
CREATE INDEX queries_running_in ON crm.queries
    (team_id, crm.next_due(first_responded_at, first_response_due_at, resolution_due_at), id)
    WHERE status IN ('new', 'open', 'waiting') AND deleted_at IS NULL;
CREATE INDEX queries_not_escalated ON crm.queries
    (crm.next_due(first_responded_at, first_response_due_at, resolution_due_at))
    WHERE status IN ('new', 'open') AND escalated_at IS NULL AND deleted_at IS NULL;

CREATE INDEX requests_running ON crm.requests
    (crm.next_due(first_responded_at, first_response_due_at, resolution_due_at), id)
    WHERE status IN ('new', 'assigned', 'in progress') AND deleted_at IS NULL;
CREATE INDEX requests_waiting ON crm.requests
    (crm.next_due(first_responded_at, first_response_due_at, resolution_due_at), id)
    WHERE status = 'waiting' AND deleted_at IS NULL;
CREATE INDEX requests_running_of ON crm.requests
    (assignee_id, crm.next_due(first_responded_at, first_response_due_at, resolution_due_at), id)
    WHERE status IN ('new', 'assigned', 'in progress', 'waiting') AND deleted_at IS NULL;
CREATE INDEX requests_running_in ON crm.requests
    (team_id, crm.next_due(first_responded_at, first_response_due_at, resolution_due_at), id)
    WHERE status IN ('new', 'assigned', 'in progress', 'waiting') AND deleted_at IS NULL;
CREATE INDEX requests_not_escalated ON crm.requests
    (crm.next_due(first_responded_at, first_response_due_at, resolution_due_at))
    WHERE status IN ('new', 'assigned', 'in progress') AND escalated_at IS NULL AND deleted_at IS NULL;
