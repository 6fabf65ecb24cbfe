-- Failures, releases, cancellations and retries of jobs. Locks as in functions.sql; retry_policy.sql says what is retried.

-- ---------------------------------------------------------------------------------------------------- fail, release, stop

create or replace function worker.end_failed_attempt(
  p_kind text, p_job jsonb, p_code text, p_error text, p_delay interval, p_gpu_seconds double precision
) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_failures integer := (p_job ->> 'failures')::integer + 1;
begin
  if p_job ->> 'cancel_requested_at' is not null then
    return worker.finish_stopped_job(p_kind, p_job, p_gpu_seconds);
  elsif not worker.is_retried(p_code)
        or v_failures >= (p_job ->> 'max_failures')::integer then
    execute format('update %s set failures = least(failures + 1, 20) where id = $1', worker.table_of(p_kind)) using (p_job ->> 'id')::uuid;
    perform worker.finish_job(p_kind, p_job, 'failed', p_code, p_error, p_gpu_seconds);
    return 'failed';
  end if;
  perform worker.requeue(p_kind, p_job, 1, p_delay, p_code, p_error, 'waiting to try again', p_gpu_seconds);
  return 'queued';
end $$;
comment on function worker.end_failed_attempt is
  'Count a failure and end the attempt: requeue the job, or fail it when that was the last attempt or the error is never retried.';

create or replace function worker.fail_job(
  p_kind text, p_id uuid, p_attempt integer, p_code text, p_error text, p_retry_after interval default null, p_gpu_seconds double precision default 0
) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
begin
  if v_job is null then
    return 'lost';
  end if;
  return worker.end_failed_attempt(p_kind, v_job, p_code, left(p_error, 2000),
    coalesce(p_retry_after, worker.backoff((v_job ->> 'failures')::integer + 1)), p_gpu_seconds);
end $$;
comment on function worker.fail_job is
  'End an attempt that failed: requeue the job after a pause, or fail it; returns queued, failed, cancelled, consent_denied or lost.';

-- For a shutdown, or a pod that cannot do this job. With a p_code that is the pod's fault, the tick fails the job when no
-- live pod lists its route.
create or replace function worker.release_job(
  p_kind text, p_id uuid, p_attempt integer, p_reason text, p_code text default null, p_gpu_seconds double precision default 0
) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
begin
  if v_job is null then
    return 'lost';
  elsif v_job ->> 'cancel_requested_at' is not null then
    return worker.finish_stopped_job(p_kind, v_job, p_gpu_seconds);
  end if;
  perform worker.requeue(p_kind, v_job, 0, interval '0', p_code, case when p_code is not null then p_reason end, left(p_reason, 200), p_gpu_seconds);
  return 'queued';
end $$;
comment on function worker.release_job is 'Requeue a job, which does not count as a failure; returns queued, cancelled, consent_denied or lost.';

-- For a row that a pod cannot read: otherwise it would be claimed again and again. A pod may end only what it has claimed.
create or replace function worker.set_aside_job(p_kind text, p_id uuid, p_pod_id uuid, p_error text) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_job jsonb := worker.lock_job(p_kind, p_id);
begin
  perform from worker.pgqueuer
  where dedupe_key = p_kind || ':' || p_id and queue_manager_id = p_pod_id and status = 'picked' for update;
  if not found or v_job is null or v_job ->> 'status' not in ('queued', 'running') then
    return 'lost';
  elsif v_job ->> 'cancel_requested_at' is not null then
    return worker.finish_stopped_job(p_kind, v_job);
  end if;
  perform worker.finish_job(p_kind, v_job, 'failed', 'invalid_input', left(p_error, 2000));
  return 'failed';
end $$;
comment on function worker.set_aside_job is
  'End a job that this pod has claimed and cannot read, as failed with invalid_input; returns failed, cancelled, consent_denied or lost.';

-- A revocation, an expiry (stop_jobs_of) and cancel_job all come here. A pod hears the notification and sends a heartbeat at
-- once, whose answer is lease_state; a lost notification only makes it wait for the next heartbeat or report. The pod then
-- stops the attempt and calls release_job or any other function that ends it: finish_stopped_job decides how it ended. The
-- pod's side is in worker/errors.py, at Interruption.
create or replace function worker.request_stop(p_kind text, p_id uuid, p_code text, p_error text) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job jsonb := worker.lock_job(p_kind, p_id);
begin
  if v_job ->> 'status' = 'queued' then
    if p_code = 'consent_denied' then
      perform worker.finish_job(p_kind, v_job, 'failed', p_code, p_error);
      return 'failed';
    end if;
    perform worker.finish_job(p_kind, v_job, 'cancelled', null, null);
    return 'cancelled';
  elsif v_job ->> 'status' = 'running' then
    -- A revocation outranks a cancellation that came first: the reason must not be lost.
    execute format('update %s set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
        cancel_code = case when cancel_code = ''consent_denied'' then cancel_code else $2 end where id = $1', worker.table_of(p_kind))
      using p_id, p_code;
    perform worker.log_event(p_kind, p_id, (v_job ->> 'attempt')::integer, 'cancel_requested', jsonb_build_object('code', p_code));
    perform pg_notify('likeness_cancel', p_kind || ':' || p_id);
    return 'stopping';
  end if;
  return v_job ->> 'status';
end $$;
comment on function worker.request_stop is
  'Stop a job: a queued one ends now, a running one when its pod has stopped it; returns stopping, or the status of an ended job.';

create or replace function worker.cancel_job_as_service(p_kind text, p_id uuid) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_status text := worker.request_stop(p_kind, p_id, 'cancelled', null);
begin
  if v_status is null then
    raise exception '% job % not found', p_kind, p_id using errcode = '42501';
  end if;
  return v_status;
end $$;
comment on function worker.cancel_job_as_service is 'Cancel a job, as the administrator of the app.';

create or replace function worker.check_job_owner(p_kind text, p_id uuid) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner_id uuid;
begin
  if (select table_name from worker.job_kinds where kind = p_kind) like 'public.%' then
    execute format('select owner_id from %s where id = $1', worker.table_of(p_kind)) into v_owner_id using p_id;
  end if;
  if v_owner_id is null or v_owner_id is distinct from auth.uid() then
    raise exception 'job not found for this user' using errcode = '42501';
  end if;
end $$;
comment on function worker.check_job_owner is
  'Raise 42501 unless the job is the signed-in user''s; the error is the same for an unknown job and for another user''s.';

create or replace function worker.cancel_job_as_owner(p_kind text, p_id uuid) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform worker.check_job_owner(p_kind, p_id);
  return worker.cancel_job_as_service(p_kind, p_id);
end $$;
comment on function worker.cancel_job_as_owner is 'Cancel a job of one''s own.';

create or replace function public.cancel_job(kind text, id uuid) returns text
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user = 'authenticated' then
    return worker.cancel_job_as_owner(kind, id);
  end if;
  return worker.cancel_job_as_service(kind, id);
end $$;
comment on function public.cancel_job is
  'Cancel a job; returns cancelled (it had not started), stopping (its pod is told to stop), or the status with which it had ended.';

create or replace function worker.retry_job_as_service(p_kind text, p_id uuid) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_job jsonb := worker.lock_job(p_kind, p_id);
begin
  if v_job is null then
    raise exception '% job % not found', p_kind, p_id using errcode = '42501';
  elsif v_job ->> 'status' not in ('failed', 'cancelled') then
    raise exception 'a % job cannot be retried', v_job ->> 'status' using errcode = '22023', hint = 'Only failed and cancelled jobs can.';
  end if;
  execute format(
    'update %s job set status = ''queued'', failures = 0, run_after = now(), progress = 0, phase = ''waiting'', error_code = null, error = null,
       cancel_requested_at = null, cancel_code = null, finished_at = null, pod_id = null where id = $1 returning to_jsonb(job)', worker.table_of(p_kind))
    into v_job using p_id;
  if v_job ->> 'owner_id' is not null then
    perform worker.check_quota((v_job ->> 'owner_id')::uuid, 1, 0, 0);
  end if;
  perform worker.log_event(p_kind, p_id, (v_job ->> 'attempt')::integer, 'retried', jsonb_build_object('actor', worker.actor()));
  perform worker.enqueue(p_kind, v_job);
  return 'queued';
end $$;
comment on function worker.retry_job_as_service is 'Requeue a failed or cancelled job, as the administrator of the app.';

-- A blocked prompt would be blocked again, and it would no longer count among the refusals of the hour.
create or replace function worker.retry_job_as_owner(p_kind text, p_id uuid) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_code text;
begin
  perform worker.check_job_owner(p_kind, p_id);
  execute format('select error_code from %s where id = $1 and status = ''failed''', worker.table_of(p_kind)) into v_code using p_id;
  if v_code = 'prompt_blocked' then
    raise exception 'a job with a blocked prompt cannot be retried' using errcode = '22023', hint = 'Change the prompt and insert another job.';
  end if;
  if not worker.lock_account(auth.uid()) then
    raise exception 'the account of this user was deleted' using errcode = '42501', hint = 'Sign in again.';
  end if;
  return worker.retry_job_as_service(p_kind, p_id);
end $$;
comment on function worker.retry_job_as_owner is 'Requeue a failed or cancelled job of one''s own.';

create or replace function public.retry_job(kind text, id uuid) returns text
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user = 'authenticated' then
    return worker.retry_job_as_owner(kind, id);
  end if;
  return worker.retry_job_as_service(kind, id);
end $$;
comment on function public.retry_job is 'Requeue a failed or cancelled job; consent is checked again when it starts.';
