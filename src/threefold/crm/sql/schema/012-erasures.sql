-- Persons that were erased. The ledger file outside of the database (erasure.py) is what counts after a recovery; this
-- table says, within the database, that an entry of the ledger has been carried out here.
CREATE TABLE crm.erasures (
    contact_id uuid PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    by         uuid DEFAULT crm.acting('user'),
    reason     text NOT NULL DEFAULT '',
    records    integer NOT NULL     -- touched by it
);
