-- A kind of job whose table was dropped by hand is skipped everywhere (worker.live_kinds), with one warning in the server's log.

-- Whoever reads one of the views meanwhile makes this wait: it gives up soon, and the next tick tries again.
create or replace function worker.note_missing_tables() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
as $$
declare
  v_kind worker.job_kinds;
  v_changed boolean;
begin
  update worker.job_kinds set table_missing_since = null where table_missing_since is not null and to_regclass(table_name) is not null;
  v_changed := found;
  for v_kind in select * from worker.job_kinds where table_missing_since is null and to_regclass(table_name) is null order by kind loop
    raise warning 'kind % is skipped: table % not found', v_kind.kind, v_kind.table_name;
    update worker.job_kinds set table_missing_since = clock_timestamp() where kind = v_kind.kind;
    delete from worker.pgqueuer where split_part(dedupe_key, ':', 1) = v_kind.kind;
    v_changed := true;
  end loop;
  if v_changed then
    perform worker.make_job_views();
  end if;
exception when lock_not_available then
  raise warning 'the views over all kinds of job are in use: they follow at the next tick';
end $$;
comment on function worker.note_missing_tables is 'Skip the kinds of job whose table was dropped: their queue rows are deleted, and the views are created without them, until it is back.';
