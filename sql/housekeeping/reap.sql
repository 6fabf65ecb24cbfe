-- Taking over from dead pods.

-- A pod is dead if its lock has been free for a while without a heartbeat since, or if it has been silent for long. After an
-- outage both grace periods start again. Not the opposite of is_alive, which looks at the last heartbeat alone: after an outage
-- a silent pod is neither dead nor alive.
create or replace function worker.is_dead(p_pod worker.pods, p_grace_from timestamptz) returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select (p_pod.has_lock and p_pod.lock_free_since < clock_timestamp() - worker.timing('pod_lock_free'))
      or greatest(p_pod.last_heartbeat, p_grace_from) < clock_timestamp() - worker.timing('pod_silent')
$$;
comment on function worker.is_dead is 'Return true if a pod is considered dead: others take over its jobs.';

create or replace function worker.reap() returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_clock worker.clock;
  v_pod_id uuid;
  v_kind worker.job_kinds;
  v_job_id uuid;
  v_job jsonb;
  v_count integer := 0;
begin
  -- 1. Delete the rows of dead pods. A row that is locked is one of a pod that calls at this moment.
  select * into v_clock from worker.clock;
  delete from worker.pods where id in (
    select id from worker.pods where worker.is_dead(pods, v_clock.grace_from) for update skip locked);
  -- 2. Note whose lock is free: the next ticks consider that pod dead, unless a heartbeat arrives.
  update worker.pods set lock_free_since = clock_timestamp() where id in (
    select id from worker.pods where has_lock and lock_free_since is null and worker.lock_is_free(id) for update skip locked);
  -- 3. End the attempts that ran on pods without a row: each counts as a failure.
  for v_kind in select * from worker.live_kinds() order by kind loop
    for v_job_id in execute format(
      'select id from %s job where status = ''running'' and not exists (select from worker.pods where pods.id = job.pod_id) order by id', v_kind.table_name)
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      continue when v_job is null or v_job ->> 'status' <> 'running' or exists (select from worker.pods where id = (v_job ->> 'pod_id')::uuid);
      -- The pod cannot report its GPU seconds any more, so those in its last metrics count; a pod may write anything there.
      perform worker.end_failed_attempt(v_kind.kind, v_job, 'worker_lost', 'the worker process that ran this attempt died unexpectedly',
        worker.backoff_after_lost_pod((v_job ->> 'failures')::integer),
        case when jsonb_typeof(v_job -> 'metrics' -> 'seconds') = 'number' then round(least(greatest((v_job -> 'metrics' ->> 'seconds')::numeric, 0), 1e7), 3)::double precision else 0 end);
      v_count := v_count + 1;
    end loop;
  end loop;
  -- 4. Requeue what such pods had claimed and not started.
  for v_pod_id in
    select distinct queue_manager_id from worker.pgqueuer
    where status = 'picked' and not exists (select from worker.pods where id = queue_manager_id)
  loop
    v_count := v_count + worker.release_unheld_jobs(v_pod_id, interval '0', '{}', 'requeued: its pod died before it began');
  end loop;
  return v_count;
end $$;
comment on function worker.reap is
  'Take over the jobs of dead pods: a running job counts a failure, a claim that was not started does not; returns how many.';
