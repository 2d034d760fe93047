-- What only the pages ask for: who works here (most users may be customers), to choose an assignee from.
CREATE INDEX users_staff ON crm.users (full_name, id) WHERE role <> 'customer' AND deleted_at IS NULL;

-- Orders that a list may be put into besides its own.
CREATE INDEX deals_by_value ON crm.deals (value_cents, id) WHERE deleted_at IS NULL;
CREATE INDEX deals_by_close ON crm.deals (close_on, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_by_due ON crm.tasks (due_at, id) WHERE deleted_at IS NULL;

-- The ledger of erasures as administrators look at it.
CREATE INDEX erasures_newest ON crm.erasures (at, contact_id);

-- Customers who may come in, as administrators look through them.
CREATE INDEX users_customers ON crm.users (full_name, id) WHERE role = 'customer' AND deleted_at IS NULL;

-- All of them: every customer who was invited is one.
CREATE INDEX users_name ON crm.users (full_name, id) WHERE deleted_at IS NULL;
