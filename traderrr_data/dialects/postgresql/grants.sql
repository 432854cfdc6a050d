-- What the roles may do with the tables: run this after every upgrade, as the owner. It may be run again.

GRANT SELECT ON
  traderrr_data_version, traderrr_data_compat,
  bar_revisions, daily_data, intraday_data, metadata, portfolio_performance, portfolio_positions, signal_history,
  system_events
TO traderrr_app, traderrr_read;

GRANT INSERT, UPDATE, DELETE ON
  bar_revisions, daily_data, intraday_data, metadata, portfolio_performance, portfolio_positions, signal_history,
  system_events
TO traderrr_app;

GRANT USAGE ON SEQUENCE
  bar_revisions_id_seq, metadata_id_seq, portfolio_performance_id_seq, portfolio_positions_id_seq,
  signal_history_id_seq, system_events_id_seq
TO traderrr_app;
