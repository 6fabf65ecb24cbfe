-- Locks that a migration takes before it changes anything, so that statements in progress end and none begins. Otherwise a
-- statement and the migration could each wait for a table that the other holds. Subjects come first, because a revocation
-- continues with jobs; then the job tables, because an INSERT holds one when it reads the kinds and the queue.
-- Then what differs in the catalog from what the migration before left is noted: this one does not record that as right.
set local lock_timeout = '3s';

do $$
declare
  v_table text;
begin
  if to_regclass('worker.job_kinds') is not null then
    lock table public.subjects in share row exclusive mode;
    for v_table in execute 'select table_name from worker.job_kinds where to_regclass(table_name) is not null order by 1' loop
      execute format('lock table %s in access exclusive mode', v_table);
    end loop;
    lock table worker.job_kinds, worker.pgqueuer in access exclusive mode;
  end if;
  if to_regprocedure('worker.note_catalog()') is not null then
    perform worker.note_catalog();
  end if;
end $$;
