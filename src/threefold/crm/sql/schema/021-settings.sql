-- What administrators set for the whole CRM. One row each, with an id that is always the same: so they have versions,
-- and every change of them is in the data log, like any other record.

-- When somebody is there: until now a row without a history, or none for the default.
CREATE TEMP TABLE office_before ON COMMIT DROP AS SELECT zone, opens, closes, days FROM crm.office;
DROP TABLE crm.office;
CREATE TABLE crm.office (
    id          uuid PRIMARY KEY DEFAULT '00000000-0000-7000-8000-00000000000f'
                CHECK (id = '00000000-0000-7000-8000-00000000000f'),
    zone        text NOT NULL DEFAULT 'UTC',
    opens       time NOT NULL DEFAULT '09:00',
    closes      time NOT NULL DEFAULT '17:00' CHECK (closes > opens),
    days        smallint[] NOT NULL DEFAULT '{0,1,2,3,4}' CHECK (cardinality(days) BETWEEN 1 AND 7),  -- Monday is 0
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device')
);
CALL crm.log_table('office');
INSERT INTO crm.office (zone, opens, closes, days) SELECT zone, opens, closes, days FROM office_before;
INSERT INTO crm.office DEFAULT VALUES ON CONFLICT DO NOTHING;

CREATE TABLE crm.settings (
    id          uuid PRIMARY KEY DEFAULT '00000000-0000-7000-8000-00000000005e'
                CHECK (id = '00000000-0000-7000-8000-00000000005e'),
    files_per_customer integer NOT NULL DEFAULT 500 CHECK (files_per_customer BETWEEN 0 AND 1000000),
    mib_per_customer   integer NOT NULL DEFAULT 1024 CHECK (mib_per_customer BETWEEN 0 AND 1000000),
    audit_days         integer CHECK (audit_days >= 30),    -- null: what was seen and done is kept for ever
    version     integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  uuid DEFAULT crm.acting('user'),
    created_on  uuid DEFAULT crm.acting('device'),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  uuid DEFAULT crm.acting('user'),
    updated_on  uuid DEFAULT crm.acting('device')
);
CALL crm.log_table('settings');
INSERT INTO crm.settings DEFAULT VALUES;
