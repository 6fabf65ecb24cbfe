-- Times in the future that this schema wrote itself: the database's clock was ahead, before a snapshot was restored or the host's
-- clock was corrected. Each would stop something until that time comes, so it is set to now. Times that an app chose stay.

create or replace function worker.clamp_pod_times() returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  update worker.pods
  set last_heartbeat = least(last_heartbeat, clock_timestamp()), registered_at = least(registered_at, clock_timestamp()),
      lock_free_since = case when lock_free_since <= clock_timestamp() then lock_free_since end
  where id in (
    select id from worker.pods where greatest(last_heartbeat, lock_free_since, registered_at) > clock_timestamp() for update skip locked)
$$;
comment on function worker.clamp_pod_times is 'Set times of pods that are in the future to now: a dead pod would be considered alive until then.';

create or replace function worker.clamp_future_times() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind worker.job_kinds;
begin
  -- A claim whose reply was lost would stay claimed.
  update worker.pgqueuer set heartbeat = clock_timestamp()
  where id in (select id from worker.pgqueuer where status = 'picked' and heartbeat > statement_timestamp() order by id for update skip locked)
    and heartbeat > clock_timestamp();
  -- An object would stay in storage. It is never offered later than last_deletion from now.
  with late as materialized (
    select id from worker.staged_objects
    where state = 'deleting' and offer_after > statement_timestamp() + worker.timing('last_deletion') + interval '1 minute'
    order by offer_after limit 1000 for update skip locked
  )
  update worker.staged_objects set offer_after = clock_timestamp() from late where staged_objects.id = late.id;
  -- An attempt would not end at its max_runtime.
  for v_kind in select * from worker.live_kinds() order by kind loop
    execute format(
      'update %1$s set started_at = clock_timestamp() where id in (
         select id from %1$s where status = ''running'' and started_at > clock_timestamp() order by id for update skip locked)', v_kind.table_name);
  end loop;
end $$;
comment on function worker.clamp_future_times is
  'Set future times to now: of claims, of objects to delete and of running attempts. Those of queued jobs: clamp_deferred_jobs.';

-- requeue and retry_job write both an event and run_after, and copy run_after to execute_after. So run_after is ours if the event
-- or the queue row is from the future, and execute_after is wrong if it is later than run_after.
create or replace function worker.clamp_deferred_jobs(p_kind worker.job_kinds, p_ids uuid[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job_id uuid;
  v_is_ours boolean;
begin
  for v_job_id, v_is_ours in execute format(
    'select job.id, job.run_after > clock_timestamp()
     from %s job join worker.pgqueuer queue on queue.dedupe_key = $1 || '':'' || job.id and queue.status = ''queued''
     where job.id = any ($2) and job.status = ''queued'' and queue.execute_after > clock_timestamp()
       and (coalesce(job.run_after, ''-infinity'') <= clock_timestamp()
            or exists (select from worker.job_events written where written.kind = $1 and written.job_id = job.id
                         and written.event in (''requeued'', ''retried'') and greatest(written.at, queue.updated) > clock_timestamp()))
     order by job.id', p_kind.table_name) using p_kind.kind, p_ids
  loop
    continue when worker.try_lock_job(p_kind.kind, v_job_id) ->> 'status' is distinct from 'queued';
    if v_is_ours then
      execute format('update %s set run_after = clock_timestamp() where id = $1', p_kind.table_name) using v_job_id;
    end if;
    update worker.pgqueuer set execute_after = clock_timestamp(), updated = clock_timestamp()
    where dedupe_key = p_kind.kind || ':' || v_job_id and status = 'queued';
  end loop;
end $$;
comment on function worker.clamp_deferred_jobs is 'Let those of these deferred jobs start now that wait only because the clock was ahead when they were queued.';
