-- An index for every list's own order, every filter of the pages and the search. Lists show what is not deleted, so
-- most indexes hold only that; ties are broken by id, which is last in each.

-- Words as the search compares them: lower case, without accents, split where there is no letter and no digit.
-- (Neither is declared STRICT: PostgreSQL would not put its body into the statement then, and a call costs ten times it.)
CREATE FUNCTION crm.plain(given text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE WHEN octet_length(given) = length(given)
         THEN lower(regexp_replace(given, '[^[:alnum:]]+', ' ', 'g'))  -- a quarter of what translate() takes
         ELSE lower(regexp_replace(
             replace(replace(replace(translate(
                 regexp_replace(normalize(given, NFKD), U&'[\0300-\036f]+', '', 'g'),
                 'ŁłØøĐđÐðĦħŦŧı', 'LlOoDdDdHhTti'),   -- letters that Unicode takes for whole
                 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'),
             '[^[:alnum:]]+', ' ', 'g'))
    END;
CREATE FUNCTION crm.words(given text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    array_to_tsvector(array_remove(string_to_array(left(crm.plain(given), 500), ' '), ''));
-- What somebody looks for: records that have every word, or one that begins so. A single letter stands for itself.
CREATE FUNCTION crm.asked_words(given text) RETURNS tsquery LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN (
    SELECT coalesce(string_agg('''' || word || CASE WHEN length(word) > 1 THEN ''':*' ELSE '''' END, ' & '), '')::tsquery
    FROM unnest(array_remove(string_to_array(left(crm.plain(given), 200), ' '), '')) word);

-- What the search looks into is `searched` of kinds.py.
CREATE INDEX accounts_words ON crm.accounts USING gin (crm.words(name || ' ' || city)) WHERE deleted_at IS NULL;
CREATE INDEX contacts_words ON crm.contacts USING gin (crm.words(full_name || ' ' || email || ' ' || phone))
    WHERE deleted_at IS NULL;
CREATE INDEX products_words ON crm.products USING gin (crm.words(name || ' ' || sku)) WHERE deleted_at IS NULL;
CREATE INDEX queries_words ON crm.queries USING gin (crm.words(subject)) WHERE deleted_at IS NULL;
CREATE INDEX requests_words ON crm.requests USING gin (crm.words(subject)) WHERE deleted_at IS NULL;
CREATE INDEX tasks_words ON crm.tasks USING gin (crm.words(subject)) WHERE deleted_at IS NULL;
CREATE INDEX deals_words ON crm.deals USING gin (crm.words(name)) WHERE deleted_at IS NULL;

-- Lists in their own order, and by their title.
CREATE INDEX accounts_updated ON crm.accounts (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX accounts_name ON crm.accounts (name, id) WHERE deleted_at IS NULL;
CREATE INDEX contacts_updated ON crm.contacts (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX contacts_name ON crm.contacts (full_name, id) WHERE deleted_at IS NULL;
CREATE INDEX contacts_email ON crm.contacts (email, id) WHERE deleted_at IS NULL;
CREATE INDEX affiliations_updated ON crm.affiliations (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX products_updated ON crm.products (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX products_name ON crm.products (name, id) WHERE deleted_at IS NULL;
CREATE INDEX prices_valid ON crm.prices (valid_from, id) WHERE deleted_at IS NULL;
CREATE INDEX queries_updated ON crm.queries (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX requests_updated ON crm.requests (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX interactions_created ON crm.interactions (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_updated ON crm.tasks (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX deals_updated ON crm.deals (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX taggings_updated ON crm.taggings (updated_at, id) WHERE deleted_at IS NULL;

-- Cases by what people filter them by; the queue's own order is in 010-cases.sql.
CREATE INDEX queries_status ON crm.queries (status, updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX requests_status ON crm.requests (status, updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX queries_due ON crm.queries (resolution_due_at, id) WHERE deleted_at IS NULL;
CREATE INDEX requests_due ON crm.requests (resolution_due_at, id) WHERE deleted_at IS NULL;
CREATE INDEX queries_assignee ON crm.queries (assignee_id, updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX requests_assignee ON crm.requests (assignee_id, updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX queries_team ON crm.queries (team_id, updated_at, id) WHERE deleted_at IS NULL AND team_id IS NOT NULL;
CREATE INDEX requests_team ON crm.requests (team_id, updated_at, id) WHERE deleted_at IS NULL AND team_id IS NOT NULL;

-- What belongs to what; whole, where a foreign key or a merge looks for deleted ones too.
CREATE INDEX contacts_account ON crm.contacts (account_id, updated_at, id);
CREATE INDEX affiliations_contact ON crm.affiliations (contact_id);
CREATE INDEX affiliations_account ON crm.affiliations (account_id);
CREATE INDEX queries_contact ON crm.queries (contact_id, updated_at, id);
CREATE INDEX requests_contact ON crm.requests (contact_id, updated_at, id);
CREATE INDEX queries_account ON crm.queries (account_id, updated_at, id);
CREATE INDEX requests_account ON crm.requests (account_id, updated_at, id);
CREATE INDEX queries_product ON crm.queries (product_id, updated_at, id);
CREATE INDEX requests_product ON crm.requests (product_id, updated_at, id);
CREATE INDEX queries_merged ON crm.queries (merged_into_id) WHERE merged_into_id IS NOT NULL;
CREATE INDEX requests_merged ON crm.requests (merged_into_id) WHERE merged_into_id IS NOT NULL;
CREATE INDEX interactions_contact ON crm.interactions (contact_id, created_at, id);
CREATE INDEX interactions_query ON crm.interactions (query_id, created_at, id) WHERE query_id IS NOT NULL;
CREATE INDEX interactions_request ON crm.interactions (request_id, created_at, id) WHERE request_id IS NOT NULL;
CREATE INDEX interactions_account ON crm.interactions (account_id, created_at, id);
CREATE INDEX tasks_assignee ON crm.tasks (assignee_id, due_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_due ON crm.tasks (due_at, id) WHERE deleted_at IS NULL AND done_at IS NULL;
CREATE INDEX tasks_record ON crm.tasks (record_id) WHERE record_id IS NOT NULL;
CREATE INDEX deals_account ON crm.deals (account_id, updated_at, id);
CREATE INDEX deals_contact ON crm.deals (contact_id) WHERE contact_id IS NOT NULL;
CREATE INDEX deals_stage ON crm.deals (stage, updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX deals_owner ON crm.deals (owner_id, updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX taggings_tag ON crm.taggings (tag_id);
CREATE INDEX users_contact ON crm.users (contact_id) WHERE contact_id IS NOT NULL;
CREATE INDEX users_team ON crm.users (team_id) WHERE team_id IS NOT NULL;

-- The recycle bin.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['teams', 'accounts', 'contacts', 'users', 'affiliations', 'products', 'prices',
        'queries', 'requests', 'interactions', 'tasks', 'deals', 'tags', 'taggings', 'policies']
    LOOP
        EXECUTE format('CREATE INDEX %I ON crm.%I (deleted_at, id) WHERE deleted_at IS NOT NULL', name || '_bin', name);
    END LOOP;
END $$;
