-- Three roles with no more rights than they need, and nobody in them: run this once before the first upgrade, as an
-- administrator, with the database of the tables as the current one. It may be run again. Roles need MariaDB 10.1 or
-- MySQL 8.
--
--   traderrr_owner  migrates
--   traderrr_app    reads and writes rows
--   traderrr_read   reads
--
-- Then make accounts of your own (on MySQL: SET DEFAULT ROLE traderrr_app TO dashboard):
--
--   CREATE USER deployer IDENTIFIED BY '...';
--   GRANT traderrr_owner TO deployer;
--   SET DEFAULT ROLE traderrr_owner FOR deployer;
--   CREATE USER dashboard IDENTIFIED BY '...';
--   GRANT traderrr_app TO dashboard;
--   SET DEFAULT ROLE traderrr_app FOR dashboard;
--
-- and, after every upgrade, run the grants.

CREATE ROLE IF NOT EXISTS traderrr_owner, traderrr_app, traderrr_read;

GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, CREATE TEMPORARY TABLES ON *
TO traderrr_owner;

-- Batches come in through temporary tables.
GRANT CREATE TEMPORARY TABLES ON * TO traderrr_app;
