-- Files in the recycle bin, by when and by whom; and how much one person has put here.
ALTER TABLE crm.attachments ADD COLUMN deleted_by uuid;
CREATE INDEX attachments_bin ON crm.attachments (deleted_at, id) WHERE deleted_at IS NOT NULL;
CREATE INDEX attachments_by ON crm.attachments (created_by) INCLUDE (size) WHERE deleted_at IS NULL;
