-- Consistency of the queue with the jobs.

create or replace function worker.reconcile() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind worker.job_kinds;
  v_job_id uuid;
  v_job jsonb;
begin
  for v_kind in select * from worker.live_kinds() order by kind loop
    for v_job_id in execute format(
      'select id from %s job where status = ''queued'' and created_at < clock_timestamp() - worker.timing(''queue_row_missing'')
         and not exists (select from worker.pgqueuer where dedupe_key = $1 || '':'' || job.id) order by id', v_kind.table_name) using v_kind.kind
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      if v_job ->> 'status' = 'queued' then
        perform worker.enqueue(v_kind.kind, v_job);
      end if;
    end loop;
    for v_job_id in execute format(
      'select job.id from worker.pgqueuer queue join %s job on job.id = split_part(queue.dedupe_key, '':'', 2)::uuid
       where split_part(queue.dedupe_key, '':'', 1) = $1 and job.status in (''completed'', ''failed'', ''cancelled'') order by 1', v_kind.table_name) using v_kind.kind
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      if v_job ->> 'status' in ('completed', 'failed', 'cancelled') then
        perform worker.dequeue_row(v_kind.kind, v_job_id, 'canceled');
      end if;
    end loop;
  end loop;
end $$;
comment on function worker.reconcile is 'Add missing queue rows of queued jobs, and delete the queue rows of ended ones.';
