-- Three roles with no more rights than they need, and nobody in them: run this once before the first upgrade, as an
-- administrator, in the database and with the search_path of the tables. It may be run again.
--
--   traderrr_owner  migrates; owns the tables
--   traderrr_app    reads and writes rows
--   traderrr_read   reads
--
-- Then make logins of your own:
--
--   CREATE ROLE deployer LOGIN PASSWORD '...' IN ROLE traderrr_owner;
--   ALTER ROLE deployer SET role = 'traderrr_owner';  -- what it makes belongs to the role
--   CREATE ROLE dashboard LOGIN PASSWORD '...' IN ROLE traderrr_app;
--   CREATE ROLE analyst LOGIN PASSWORD '...' IN ROLE traderrr_read;
--
-- and, after every upgrade, run the grants.

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['traderrr_owner', 'traderrr_app', 'traderrr_read'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', name);
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), name);
  END LOOP;
  EXECUTE format('GRANT CREATE ON SCHEMA %I TO traderrr_owner', current_schema());
  -- Large batches come in through temporary tables, and `check` makes some.
  EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO traderrr_owner, traderrr_app', current_database());
END
$$;
