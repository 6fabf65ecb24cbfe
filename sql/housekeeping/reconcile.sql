-- Consistency of the queue with the jobs, a slice at a time: five hundred queued jobs of each kind, and five hundred queue rows.

create or replace function worker.reconcile() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_done worker.housekeeping;
  v_kind worker.job_kinds;
  v_slice uuid[];
  v_deferred uuid[];
  v_job_ids jsonb := '{}';
  v_last_queue_id bigint;
  v_rows integer;
begin
  select * into v_done from worker.housekeeping;
  select max(id), count(*) into v_last_queue_id, v_rows
  from (select id from worker.pgqueuer where id > v_done.queue_id order by id limit 500) slice;
  for v_kind in select * from worker.live_kinds() order by kind loop
    execute format(
      'select coalesce(array_agg(id order by id), ''{}'') from (
         select id from %s where status = ''queued'' and id > $1 order by id limit 500) slice', v_kind.table_name)
      into v_slice using coalesce(v_done.job_ids ->> v_kind.kind, '00000000-0000-0000-0000-000000000000')::uuid;
    v_job_ids := v_job_ids || jsonb_build_object(v_kind.kind, v_slice[500]);
    perform worker.add_queue_rows(v_kind, v_slice);
    select array_agg(job_id), array_agg(job_id) filter (where status = 'queued' and execute_after > statement_timestamp()) into v_slice, v_deferred
    from (select *, split_part(dedupe_key, ':', 2)::uuid as job_id from worker.pgqueuer where id > v_done.queue_id and id <= v_last_queue_id) queue
    where split_part(dedupe_key, ':', 1) = v_kind.kind;
    perform worker.delete_queue_rows(v_kind, v_slice);
    perform worker.clamp_deferred_jobs(v_kind, v_deferred);
  end loop;
  update worker.housekeeping set job_ids = jsonb_strip_nulls(v_job_ids), queue_id = case when v_rows = 500 then v_last_queue_id else 0 end;
end $$;
comment on function worker.reconcile is
  'Add missing queue rows of queued jobs, and delete the queue rows of ended ones: the next slice, from the beginning again after the last.';

create or replace function worker.add_queue_rows(p_kind worker.job_kinds, p_ids uuid[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job_id uuid;
  v_job jsonb;
begin
  for v_job_id in execute format(
    'select id from %s job where id = any ($2) and status = ''queued''
       and created_at not between statement_timestamp() - worker.timing(''queue_row_missing'') and statement_timestamp()
       and not exists (
         select from worker.pgqueuer where dedupe_key = $1 || '':'' || job.id and status in (''queued'', ''picked'')) order by id', p_kind.table_name)
    using p_kind.kind, p_ids
  loop
    v_job := worker.try_lock_job(p_kind.kind, v_job_id);
    if v_job ->> 'status' = 'queued' then
      perform worker.enqueue(p_kind.kind, v_job);
    end if;
  end loop;
end $$;
comment on function worker.add_queue_rows is 'Put those of these queued jobs on the queue that are not there.';

create or replace function worker.delete_queue_rows(p_kind worker.job_kinds, p_ids uuid[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job_id uuid;
begin
  for v_job_id in execute format(
    'select id from %s where id = any ($1) and status in (''completed'', ''failed'', ''cancelled'') order by id', p_kind.table_name)
    using p_ids
  loop
    if worker.try_lock_job(p_kind.kind, v_job_id) ->> 'status' in ('completed', 'failed', 'cancelled') then
      perform worker.dequeue_row(p_kind.kind, v_job_id, 'canceled');
    end if;
  end loop;
end $$;
comment on function worker.delete_queue_rows is 'Take those of these jobs off the queue that have ended.';
