-- The life of a job, in order: start, report, stage, complete.
--
-- Lock order: account, pod, subjects (by id), job, quota turn, queue row, staged rows, ledger. The tick skips pods, subjects and
-- jobs that are locked. Consent is evaluated in a later statement than the lock on the subjects. A function that pods call waits
-- 4 s for a lock at most and is called again, so that two statements blocked by another open transaction never hold both of a
-- pod's connections. The fence is status = 'running'
-- AND attempt. Rights are in rights.sql, one line per function. hooks.sql calls the functions of each kind of job.

-- ------------------------------------------------------------------------------------------------------------- lookups

create or replace function worker.table_of(p_kind text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text := (select table_name from worker.job_kinds where kind = p_kind);
begin
  if v_table is null then
    raise exception 'unknown kind of job: %', coalesce(p_kind, 'null')
      using errcode = '22023', hint = 'Kinds: ' || (select string_agg(kind, ', ' order by kind) from worker.job_kinds);
  end if;
  return v_table;
end $$;
comment on function worker.table_of is 'Return the table of a kind of job; raises 22023 for an unknown kind.';

create or replace function worker.changing_columns() returns text[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select array_agg(attname::text) from pg_catalog.pg_attribute
  where attrelid = 'worker.life_cycle'::regclass and attnum > 0 and not attisdropped
    and attname not in ('id', 'owner_id', 'subject_id', 'preset', 'guides', 'created_at')
$$;
comment on function worker.changing_columns is 'Return the columns that change during the life of a job; all others are the request.';

create or replace function worker.lock_job(p_kind text, p_id uuid) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job jsonb;
begin
  if to_regclass(worker.table_of(p_kind)) is not null then
    execute format('select to_jsonb(job) from %s job where id = $1 for update', worker.table_of(p_kind)) into v_job using p_id;
  end if;
  return v_job;
end $$;
comment on function worker.lock_job is 'Lock a job and return its row; NULL when the job or its table does not exist.';

-- Housekeeping holds several jobs at once, so it skips a locked one: the next tick comes soon. Only where it ends an expired
-- consent it waits for that person's jobs (stop_jobs_of).
create or replace function worker.try_lock_job(p_kind text, p_id uuid) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job jsonb;
begin
  if to_regclass(worker.table_of(p_kind)) is not null then
    execute format('select to_jsonb(job) from %s job where id = $1 for update skip locked', worker.table_of(p_kind)) into v_job using p_id;
  end if;
  return v_job;
end $$;
comment on function worker.try_lock_job is 'Lock a job and return its row; NULL when the job or its table does not exist, or the job is locked.';

create or replace function worker.lock_lease(p_kind text, p_id uuid, p_attempt integer) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job jsonb := worker.lock_job(p_kind, p_id);
begin
  if v_job ->> 'status' = 'running' and (v_job ->> 'attempt')::integer = p_attempt then
    return v_job;
  end if;
  return null;
end $$;
comment on function worker.lock_lease is 'Lock a job and return its row; NULL unless this attempt is running (the fence).';

create or replace function worker.log_event(p_kind text, p_id uuid, p_attempt integer, p_event text, p_detail jsonb default '{}') returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  insert into worker.job_events (kind, job_id, attempt, event, detail)
  values (p_kind, p_id, p_attempt, case p_event when 'stop requested' then 'cancel_requested' else p_event end,  -- release 0.1.0's name
          jsonb_strip_nulls(p_detail))
$$;
comment on function worker.log_event is 'Record an event of a job.';

create or replace function worker.log_refusal(p_kind text, p_id uuid, p_reason text) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  insert into worker.consent_events (subject_id, event, purposes, reason, job_kind, job_id, actor)
  select touched.subject_id, 'refusal', array[kinds.purpose], coalesce(worker.consent_error(touched.subject_id, kinds.purpose), p_reason),
         p_kind, p_id, worker.actor()
  from worker.job_subjects touched join worker.job_kinds kinds using (kind)
  where touched.kind = p_kind and touched.job_id = p_id and kinds.purpose is not null
    and worker.consent_error(touched.subject_id, kinds.purpose) is not null
$$;
comment on function worker.log_refusal is 'Write a refusal to the consent ledger, one entry for each person without consent.';

-- ----------------------------------------------------------------------------------------------------------------- start

create or replace function worker.newest_checkpoint(p_kind text, p_id uuid) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('step', step, 'bucket', bucket, 'key', key) from worker.staged_objects
  where kind = p_kind and job_id = p_id and state = 'checkpoint' order by step desc limit 1
$$;
comment on function worker.newest_checkpoint is 'Return step, bucket and key of the checkpoint that the next attempt of a job resumes from, or NULL.';

create or replace function worker.start_payload(p_kind text, p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'kind', p_kind, 'id', p_job -> 'id', 'attempt', p_job -> 'attempt', 'job', p_job, 'route', worker.route(p_kind, p_job),
    'purpose', (select purpose from worker.job_kinds where kind = p_kind),
    'subjects', (select coalesce(jsonb_agg(subject_id order by subject_id), '[]') from worker.job_subjects
                 where kind = p_kind and job_id = (p_job ->> 'id')::uuid),
    'subject', (select jsonb_build_object('id', id, 'trigger_word', trigger_word) from public.subjects where id = (p_job ->> 'subject_id')::uuid),
    'base', (select to_jsonb(base) from worker.base_models base where slug = p_job ->> 'base'),
    'preset', p_job -> 'preset',
    'inputs', inputs,
    -- For pods of 0.1.0.
    'photos', coalesce(inputs -> 'photos', '[]'), 'models', coalesce(inputs -> 'loras', '[]'),
    'checkpoint', worker.newest_checkpoint(p_kind, (p_job ->> 'id')::uuid),
    'prefix', worker.prefix(p_kind, p_job, (p_job ->> 'attempt')::integer))
  from worker.payload(p_kind, p_job) inputs
$$;
comment on function worker.start_payload is 'Return everything that a handler needs to know about a started attempt.';

-- A later release of a kind may name more people than at the INSERT, and a row may have been inserted without its trigger: so
-- the people of a job are determined again when it is started and when it is published.
create or replace function worker.note_subjects(p_kind text, p_id uuid) returns text[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text := worker.table_of(p_kind);
  v_people uuid[];
begin
  if to_regclass(v_table) is not null then
    -- What names a table is planned each time, so it is kept short.
    execute format('select array(select worker.subjects_of($1, to_jsonb(job))) from %s job where id = $2', v_table) into v_people using p_kind, p_id;
    insert into worker.job_subjects (kind, job_id, subject_id)
    select p_kind, p_id, touched from unnest(v_people) touched
    where not exists (select from worker.job_subjects known where known.kind = p_kind and known.job_id = p_id and known.subject_id = touched)
    order by touched on conflict do nothing;
  end if;
  return null;
exception when others or assert_failure or query_canceled then
  if worker.is_transient(sqlstate) then
    raise;
  end if;
  return worker.hook_failure(p_kind, sqlstate, sqlerrm);
end $$;
comment on function worker.note_subjects is 'Add people that a job touches and that are not in job_subjects yet. Returns error code and message if a hook failed, or NULL.';

-- Otherwise every pod would fail on such a job, again and again.
create or replace function worker.hook_failure(p_kind text, p_sqlstate text, p_message text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case
    when left(p_sqlstate, 2) = '22' then array['invalid_input', 'the request cannot be read: ' || p_message]
    when p_sqlstate = '57014' then array['internal', format('a hook of kind %s was cancelled, or took longer than statement_timeout', p_kind)]
    else array['internal', format('a hook of kind %s failed with SQLSTATE %s', p_kind, p_sqlstate)] end
$$;
comment on function worker.hook_failure is 'Return the error code and message of a job whose hook failed.';

create or replace function worker.start_job(p_kind text, p_id uuid, p_pod_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_job jsonb;
  v_error text;
  v_inputs_error text[] := worker.note_subjects(p_kind, p_id);
  v_started jsonb;
  v_payload jsonb;
begin
  -- A request never changes, so its people may be read unlocked; they are locked before the job.
  perform from public.subjects
  where id in (select subject_id from worker.job_subjects where kind = p_kind and job_id = p_id)
  order by id for share;
  v_job := worker.lock_job(p_kind, p_id);
  perform from worker.pgqueuer
  where dedupe_key = p_kind || ':' || p_id and queue_manager_id = p_pod_id and status = 'picked' for update;
  if not found then
    return null;
  end if;
  if v_job ->> 'status' = 'running' and (v_job ->> 'pod_id')::uuid = p_pod_id then
    return worker.start_payload(p_kind, v_job);  -- the first reply was lost
  elsif v_job is null or v_job ->> 'status' <> 'queued' then
    perform worker.dequeue_row(p_kind, p_id, 'canceled');
    return null;
  elsif v_job ->> 'cancel_requested_at' is not null then
    perform worker.finish_stopped_job(p_kind, v_job);
    return null;
  elsif (select paused from worker.job_kinds where kind = p_kind) then
    perform worker.requeue(p_kind, v_job, 0, worker.timing('paused_kind'), null, null, 'paused by an administrator');
    return null;
  elsif worker.start_delay(p_kind) is not null then
    perform worker.requeue(p_kind, v_job, 0, worker.timing('start_refused'), null, null, left('waits: ' || worker.start_delay(p_kind), 200));
    return null;
  end if;
  v_error := worker.job_consent_error(p_kind, p_id);
  if v_error is not null then
    perform worker.finish_job(p_kind, v_job, 'failed', 'consent_denied', v_error);
    return null;
  end if;
  if v_inputs_error is null then
    begin
      v_error := worker.request_error(p_kind, v_job);
      v_inputs_error := case when v_error is not null then array['invalid_input', v_error] else worker.inputs_error(p_kind, v_job) end;
      if v_inputs_error is null then
        execute format(
          'update %s job set status = ''running'', attempt = attempt + 1, pod_id = $2, started_at = clock_timestamp(), progress = 0,
             phase = ''starting'', metrics = null, error_code = null, error = null
           where id = $1 returning to_jsonb(job)', worker.table_of(p_kind)) into v_started using p_id, p_pod_id;
        v_payload := worker.start_payload(p_kind, v_started);
      end if;
    exception when others or assert_failure or query_canceled then
      if worker.is_transient(sqlstate) then
        raise;
      end if;
      v_inputs_error := worker.hook_failure(p_kind, sqlstate, sqlerrm);
    end;
  end if;
  if v_inputs_error is not null then
    perform worker.finish_job(p_kind, v_job, 'failed', v_inputs_error[1], v_inputs_error[2]);
    return null;
  end if;
  perform worker.log_event(p_kind, p_id, (v_started ->> 'attempt')::integer, 'started',
    jsonb_build_object('pod_id', p_pod_id, 'pod', (select name from worker.pods where id = p_pod_id), 'resumed_step', v_payload -> 'checkpoint' -> 'step'));
  return v_payload;
end $$;
comment on function worker.start_job is
  'Start an attempt of a job and return its payload; NULL when there is nothing to run: not claimed by this pod, ended, stopped or refused.';

-- ---------------------------------------------------------------------------------------------------------- while it runs

-- A difference: a sum could leave the range of timestamps, and with that error no heartbeat of the pod would be answered.
create or replace function worker.lease_state(p_job jsonb) returns text
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_job is null then 'lost'
    when p_job ->> 'cancel_requested_at' is not null then 'cancel'
    when (p_job ->> 'max_runtime')::interval
         < clock_timestamp() - least(greatest((p_job ->> 'started_at')::timestamptz, '1970-01-01 00:00:00+00'), clock_timestamp()) then 'timeout'
    else 'ok'
  end
$$;
comment on function worker.lease_state is 'Return what the pod should do about a running job: ok, cancel, timeout or lost.';

create or replace function worker.held_state(p_pod_id uuid, p_lease jsonb) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job jsonb;
begin
  if p_lease ->> 'attempt' is null then
    return case when exists (
      select from worker.pgqueuer where dedupe_key = (p_lease ->> 'kind') || ':' || (p_lease ->> 'id')
        and queue_manager_id = p_pod_id and status = 'picked') then 'ok' else 'lost' end;
  end if;
  if to_regclass(worker.table_of(p_lease ->> 'kind')) is not null then
    execute format('select to_jsonb(job) from %s job where id = $1 and status = ''running'' and attempt = $2', worker.table_of(p_lease ->> 'kind'))
      into v_job using (p_lease ->> 'id')::uuid, (p_lease ->> 'attempt')::integer;
  end if;
  return worker.lease_state(v_job);
end $$;
comment on function worker.held_state is 'Return the state of a lease or, with attempt null, of a claim not yet started.';

create or replace function worker.report_job(
  p_kind text, p_id uuid, p_attempt integer, p_progress double precision, p_phase text, p_metrics jsonb default null
) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
begin
  if v_job is null then
    return 'lost';
  end if;
  execute format('update %s set progress = greatest(0, least(1, $2)), phase = left($3, 200), metrics = coalesce($4, metrics) where id = $1',
    worker.table_of(p_kind)) using p_id, p_progress, p_phase, p_metrics;
  if p_phase is distinct from v_job ->> 'phase' then
    perform worker.log_event(p_kind, p_id, p_attempt, 'phase', jsonb_build_object('phase', left(p_phase, 200)));
  end if;
  return worker.lease_state(v_job);
end $$;
comment on function worker.report_job is 'Record the progress of an attempt; returns ok, cancel, timeout or lost.';

create or replace function worker.stage_objects(p_kind text, p_id uuid, p_attempt integer, p_objects jsonb) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
  v_prefix text;
  v_wrong text;
begin
  if v_job is null then
    return 'lost';
  end if;
  v_prefix := worker.prefix(p_kind, v_job, p_attempt);
  select object ->> 'key' into v_wrong from jsonb_array_elements(p_objects) object
  where not starts_with(object ->> 'key', v_prefix) or object ->> 'key' like '%..%' or object ->> 'key' ~ '(^|/)[.]?(/|$)' limit 1;
  if v_wrong is not null then
    raise exception 'key % does not begin with %: an attempt writes under its own prefix only', quote_literal(v_wrong), v_prefix using errcode = '22023';
  end if;
  -- What is staged and not published is deleted: in another bucket that would be somebody else's object.
  select object ->> 'bucket' into v_wrong from jsonb_array_elements(p_objects) object
  where object ->> 'bucket' <> all (worker.personal_buckets()) limit 1;
  if v_wrong is not null then
    raise exception 'bucket % is not in worker.config: the settings BUCKET_… must be the same there and on every pod', quote_literal(v_wrong)
      using errcode = '22023';
  end if;
  insert into worker.staged_objects (bucket, key, kind, job_id, attempt, owner_id)
  select object ->> 'bucket', object ->> 'key', p_kind, p_id, p_attempt, (v_job ->> 'owner_id')::uuid
  from jsonb_array_elements(p_objects) object
  on conflict (bucket, key) do nothing;
  return worker.lease_state(v_job);
end $$;
comment on function worker.stage_objects is
  'Register object keys of an attempt before they are uploaded; raises 22023 for a key outside its prefix or another bucket. Safe to repeat.';

create or replace function worker.save_checkpoint(p_kind text, p_id uuid, p_attempt integer, p_step integer, p_bucket text, p_key text) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
begin
  if v_job is null then
    return 'lost';
  end if;
  update worker.staged_objects set state = 'checkpoint', step = p_step
  where bucket = p_bucket and key = p_key and kind = p_kind and job_id = p_id and attempt = p_attempt and state in ('staged', 'checkpoint');
  if not found then
    raise exception 'checkpoint % was not staged by this attempt', quote_literal(p_key) using errcode = '22023';
  end if;
  update worker.staged_objects set state = 'deleting', offer_after = clock_timestamp()
  where kind = p_kind and job_id = p_id and state = 'checkpoint' and (attempt < p_attempt or step < p_step);
  perform worker.log_event(p_kind, p_id, p_attempt, 'checkpoint', jsonb_build_object('step', p_step));
  return worker.lease_state(v_job);
end $$;
comment on function worker.save_checkpoint is
  'Make an uploaded checkpoint the one that the next attempt resumes from, and mark earlier ones as deletable.';

-- -------------------------------------------------------------------------------------------------------------- complete

-- A malformed result is answered with invalid, never with an exception.
create or replace function worker.complete_job(p_kind text, p_id uuid, p_attempt integer, p_result jsonb, p_gpu_seconds double precision default 0) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_hook_error text[] := worker.note_subjects(p_kind, p_id);
  v_job jsonb;
  v_error text;
  v_result jsonb;
begin
  -- Two holders of FOR SHARE that both update would deadlock; this lock also makes a revocation wait, or be waited for.
  perform from public.subjects
  where id in (select subject_id from worker.job_subjects where kind = p_kind and job_id = p_id)
  order by id for no key update;
  v_job := worker.lock_job(p_kind, p_id);
  if v_job ->> 'status' = 'completed' and (v_job ->> 'attempt')::integer = p_attempt then
    return 'ok';  -- the first reply was lost
  elsif v_job is null or v_job ->> 'status' <> 'running' or (v_job ->> 'attempt')::integer is distinct from p_attempt then
    return 'lost';
  elsif v_job ->> 'cancel_requested_at' is not null then
    return worker.finish_stopped_job(p_kind, v_job, p_gpu_seconds);
  end if;
  -- A statement of its own, after the lock: a revocation that committed while we waited is seen.
  v_error := worker.job_consent_error(p_kind, p_id);
  if v_error is not null then
    perform worker.finish_job(p_kind, v_job, 'failed', 'consent_denied', v_error, p_gpu_seconds);
    return 'consent_denied';
  elsif v_hook_error is not null then
    return 'invalid';
  end if;
  begin
    if worker.result_error(p_kind, v_job, p_result) is not null then
      return 'invalid';
    end if;
    update worker.staged_objects set state = 'published'
    where kind = p_kind and job_id = p_id and attempt = p_attempt and state = 'staged'
      and key in (select worker.result_keys(p_kind, p_result));
    v_result := worker.publish(p_kind, v_job, p_result);
  exception when others or assert_failure or query_canceled then
    if worker.is_transient(sqlstate) then
      raise;
    end if;
    raise warning 'kind %: publishing job % failed with SQLSTATE %', p_kind, p_id, sqlstate;
    return 'invalid';  -- the pod fails the job as internal
  end;
  perform worker.finish_job(p_kind, v_job, 'completed', null, null, p_gpu_seconds, v_result);
  return 'ok';
end $$;
comment on function worker.complete_job is
  'Publish the result of an attempt if it holds the lease and every person in the job still consents; returns ok, lost, cancelled, consent_denied or invalid.';
