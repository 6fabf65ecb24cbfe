-- Old logs.

-- In the order of an index, and then by their ids, so that the rows to delete are not looked for among those to keep.
create or replace function worker.prune() returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_before timestamptz := now() - (select greatest(least(keep_logs_for, interval '1000 years'), interval '0') from worker.config);
  v_log_rows bigint[] := array(select id from worker.pgqueuer_log where created < v_before order by created limit 500);
  v_events bigint[] := array(select id from worker.job_events where at < v_before order by at limit 500);
begin
  delete from worker.pgqueuer_log where id = any (v_log_rows);
  delete from worker.job_events where id = any (v_events);
  return greatest(cardinality(v_log_rows), cardinality(v_events)) = 500;
end $$;
comment on function worker.prune is 'Delete old logs, five hundred rows at a time. Returns whether more may be left.';
