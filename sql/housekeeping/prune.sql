-- Old logs.

create or replace function worker.prune() returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  delete from worker.pgqueuer_log where id in (
    select id from worker.pgqueuer_log where created < now() - (select greatest(least(keep_logs_for, interval '1000 years'), interval '0') from worker.config) limit 1000);
  delete from worker.job_events where id in (
    select id from worker.job_events where at < now() - (select greatest(least(keep_logs_for, interval '1000 years'), interval '0') from worker.config) limit 1000);
$$;
comment on function worker.prune is 'Delete old logs, a thousand rows at a time.';
