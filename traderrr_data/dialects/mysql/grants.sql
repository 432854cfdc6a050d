-- What the roles may do with the tables: run this after every upgrade, as an administrator, with the database of the
-- tables as the current one. It may be run again.

GRANT SELECT ON traderrr_data_version TO traderrr_app, traderrr_read;
GRANT SELECT ON traderrr_data_compat TO traderrr_app, traderrr_read;

GRANT SELECT, INSERT, UPDATE, DELETE ON bar_revisions TO traderrr_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON daily_data TO traderrr_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON intraday_data TO traderrr_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON metadata TO traderrr_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON portfolio_performance TO traderrr_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON portfolio_positions TO traderrr_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON signal_history TO traderrr_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON system_events TO traderrr_app;

GRANT SELECT ON bar_revisions TO traderrr_read;
GRANT SELECT ON daily_data TO traderrr_read;
GRANT SELECT ON intraday_data TO traderrr_read;
GRANT SELECT ON metadata TO traderrr_read;
GRANT SELECT ON portfolio_performance TO traderrr_read;
GRANT SELECT ON portfolio_positions TO traderrr_read;
GRANT SELECT ON signal_history TO traderrr_read;
GRANT SELECT ON system_events TO traderrr_read;
