-- The life of a job, in order: queue, start, report, stage, complete.
--
-- Lock order everywhere: subjects (by id), job, queue row, staged rows, ledger. Consent is evaluated in a later statement
-- than the lock on the subjects. What pods call waits 4 s for a lock at most and is asked again, so that two statements
-- that are blocked by somebody's open transaction never hold both of a pod's connections. The fence is status = 'running' AND attempt. Rights stand in rights.sql, one line a function.

-- ------------------------------------------------------------------------------------------------------ small questions

-- The table of a kind; raises for a kind nobody registered.
create or replace function worker.table_of(p_kind text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text := (select table_name from worker.job_kinds where kind = p_kind);
begin
  if v_table is null then
    raise exception 'no such kind of job: %', coalesce(p_kind, 'null')
      using errcode = '22023', hint = 'Kinds: ' || (select string_agg(kind, ', ' order by kind) from worker.job_kinds);
  end if;
  return v_table;
end $$;
comment on function worker.table_of is 'The table of a kind of job.';

-- The columns that the life of a job changes; all others are the request.
create or replace function worker.changing_columns() returns text[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select array_agg(attname::text) from pg_catalog.pg_attribute
  where attrelid = 'worker.life_cycle'::regclass and attnum > 0 and not attisdropped
    and attname not in ('id', 'owner_id', 'subject_id', 'preset', 'created_at')
$$;
comment on function worker.changing_columns is 'The columns that the life of a job changes; all others are the request.';

create or replace function worker.lock_job(p_kind text, p_id uuid) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job jsonb;
begin
  execute format('select to_jsonb(job) from %s job where id = $1 for update', worker.table_of(p_kind)) into v_job using p_id;
  return v_job;
end $$;
comment on function worker.lock_job is 'Lock a job and return its row, NULL when there is none.';

-- Housekeeping holds several jobs at once, so it never waits for one: the next round comes soon.
create or replace function worker.try_lock_job(p_kind text, p_id uuid) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job jsonb;
begin
  execute format('select to_jsonb(job) from %s job where id = $1 for update skip locked', worker.table_of(p_kind)) into v_job using p_id;
  return v_job;
end $$;
comment on function worker.try_lock_job is 'Lock a job and return its row, NULL when there is none or it is locked.';

-- Locks the job; NULL unless this attempt is the one that runs.
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
comment on function worker.lock_lease is 'Lock a job and return its row, NULL unless this attempt is the one that runs: the fence.';

create or replace function worker.route(p_kind text, p_job jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select p_kind || coalesce('/' || (p_job ->> 'base'), '') $$;
comment on function worker.route is 'The queue''s entrypoint of a job: kind/base, or the kind alone.';

create or replace function worker.log_event(p_kind text, p_id uuid, p_attempt integer, p_event text, p_detail jsonb default '{}') returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  insert into worker.job_events (kind, job_id, attempt, event, detail)
  values (p_kind, p_id, p_attempt, p_event, jsonb_strip_nulls(p_detail))
$$;
comment on function worker.log_event is 'Note what happened to a job.';

-- A refusal in the ledger, one for each person that objects.
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
comment on function worker.log_refusal is 'Write a refusal to the consent ledger.';

-- ----------------------------------------------------------------------------------------------------------------- queue

create or replace function worker.enqueue(p_kind text, p_job jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  with queued as (
    insert into worker.pgqueuer (priority, execute_after, status, entrypoint, dedupe_key, payload)
    values ((p_job ->> 'priority')::integer * 1000, coalesce((p_job ->> 'run_after')::timestamptz, now()), 'queued',
            worker.route(p_kind, p_job), p_kind || ':' || (p_job ->> 'id'), convert_to(p_job ->> 'id', 'UTF8'))
    on conflict (dedupe_key) where status in ('queued', 'picked') and dedupe_key is not null do nothing
    returning id, entrypoint, priority
  )
  insert into worker.pgqueuer_log (job_id, status, entrypoint, priority)
  select id, 'queued', entrypoint, priority from queued;
end $$;
comment on function worker.enqueue is 'Put a job on the queue, once.';

create or replace function worker.dequeue_row(p_kind text, p_id uuid, p_status worker.pgqueuer_status) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  with gone as (
    delete from worker.pgqueuer where dedupe_key = p_kind || ':' || p_id returning id, entrypoint, priority
  )
  insert into worker.pgqueuer_log (job_id, status, entrypoint, priority)
  select id, p_status, entrypoint, priority from gone
$$;
comment on function worker.dequeue_row is 'Take an ended job off the queue and log how it ended.';

-- Everything an attempt wrote and did not publish is garbage from now on; checkpoints live as long as their job.
create or replace function worker.end_attempt(p_kind text, p_id uuid, p_attempt integer, p_job_ended boolean) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  update worker.staged_objects set state = 'deleting', offer_after = clock_timestamp()
  where kind = p_kind and job_id = p_id
    and ((attempt = p_attempt and state = 'staged') or (p_job_ended and state in ('staged', 'checkpoint')))
$$;
comment on function worker.end_attempt is 'What an ended attempt staged and did not publish becomes garbage.';

-- The one place where a job ends. The caller holds the job's lock.
create or replace function worker.settle(
  p_kind text, p_job jsonb, p_status text, p_code text, p_error text, p_gpu_seconds double precision default 0, p_result jsonb default null
) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid := p_job ->> 'id';
  v_attempt integer := p_job ->> 'attempt';
begin
  execute format(
    'update %s set status = $2, error_code = $3, error = $4, gpu_seconds = gpu_seconds + $5, result = $6,
       progress = case when $2 = ''completed'' then 1 else progress end, phase = $2, finished_at = clock_timestamp()
     where id = $1', worker.table_of(p_kind))
    using v_id, p_status, p_code, p_error, coalesce(p_gpu_seconds, 0), p_result;
  perform worker.dequeue_row(p_kind, v_id,
    (case p_status when 'completed' then 'successful' when 'cancelled' then 'canceled' else 'exception' end)::worker.pgqueuer_status);
  perform worker.end_attempt(p_kind, v_id, v_attempt, true);
  perform worker.log_event(p_kind, v_id, v_attempt, p_status, jsonb_build_object('code', p_code, 'error', p_error));
  if p_code = 'consent_denied' then
    perform worker.log_refusal(p_kind, v_id, p_error);
  end if;
end $$;
comment on function worker.settle is 'End a job: row, queue, staged objects, events, ledger. The one place where a job ends.';

-- A job that must stop ends here, whoever ends it: cancelled, or refused when a person took consent back.
create or replace function worker.settle_stopped(p_kind text, p_job jsonb, p_gpu_seconds double precision default 0) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  if p_job ->> 'cancel_code' = 'consent_denied' then
    perform worker.settle(p_kind, p_job, 'failed', 'consent_denied',
      coalesce(worker.job_consent_error(p_kind, (p_job ->> 'id')::uuid), 'a person took consent back while the job ran'), p_gpu_seconds);
    return 'consent_denied';
  end if;
  perform worker.settle(p_kind, p_job, 'cancelled', null, null, p_gpu_seconds);
  return 'cancelled';
end $$;
comment on function worker.settle_stopped is 'End a job whose stop was requested: cancelled, or failed / consent_denied.';

-- Back to the queue. The caller holds the job's lock. failures counts when p_code is a failure.
create or replace function worker.requeue(
  p_kind text, p_job jsonb, p_failures integer, p_delay interval, p_code text, p_error text, p_phase text, p_gpu_seconds double precision default 0
) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid := p_job ->> 'id';
begin
  execute format(
    'update %s set status = ''queued'', failures = failures + $2, run_after = clock_timestamp() + $3,
       error_code = coalesce($4, error_code), error = coalesce($5, error),
       phase = $6, pod_id = null, progress = 0, gpu_seconds = gpu_seconds + $7
     where id = $1', worker.table_of(p_kind))
    using v_id, p_failures, p_delay, p_code, p_error, p_phase, coalesce(p_gpu_seconds, 0);
  with back as (
    update worker.pgqueuer set status = 'queued', queue_manager_id = null, updated = now(), slot = null,
      execute_after = clock_timestamp() + p_delay, attempts = attempts + 1
    where dedupe_key = p_kind || ':' || v_id returning id, entrypoint, priority
  )
  insert into worker.pgqueuer_log (job_id, status, entrypoint, priority)
  select id, 'queued', entrypoint, priority from back;
  perform worker.end_attempt(p_kind, v_id, (p_job ->> 'attempt')::integer, false);
  perform worker.log_event(p_kind, v_id, (p_job ->> 'attempt')::integer, 'requeued',
    jsonb_build_object('code', p_code, 'error', p_error, 'phase', p_phase));
  perform pg_notify('likeness_queue', '');
end $$;
comment on function worker.requeue is 'Put a job back on the queue after an attempt.';

-- ----------------------------------------------------------------------------------------------------------------- start

-- The LoRAs of a generation job: those it names, else the subject's newest of its base, else the newest of the base's family.
create or replace function worker.models_of(p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
      'id', models.id, 'subject_id', models.subject_id, 'version', models.version, 'path', models.path, 'sha256', models.sha256,
      'rank', models.rank, 'trigger_word', models.trigger_word, 'scale', coalesce((p_job -> 'lora_scales' ->> (wanted.ord - 1)::integer)::real, 1))
      order by wanted.ord), '[]')
  from (
    select item::uuid as id, ord from jsonb_array_elements_text(
      case when jsonb_typeof(p_job -> 'model_ids') = 'array' then p_job -> 'model_ids' else '[]' end) with ordinality as named (item, ord)
    union all
    (select current_one.id, 1 from public.subjects_models current_one
     join worker.base_models base on base.slug = p_job ->> 'base' and base.family = current_one.family
     where coalesce(jsonb_typeof(p_job -> 'model_ids'), 'null') = 'null'
       and current_one.subject_id = (p_job ->> 'subject_id')::uuid and current_one.retired_at is null
     order by current_one.base = p_job ->> 'base' desc, current_one.version desc limit 1)
  ) wanted join public.subjects_models models using (id)
$$;
comment on function worker.models_of is 'The LoRAs of a generation job, in order, with their scales.';

create or replace function worker.photos_of(p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object('path', photo.path, 'caption', photo.caption) order by photo.path), '[]')
  from (
    select named.key as path, known.caption
    from worker.items(p_job, 'sample_paths') named (key)
    left join public.subject_photos known on known.path = named.key and known.subject_id = (p_job ->> 'subject_id')::uuid
    union
    select path, caption from public.subject_photos
    where coalesce(jsonb_typeof(p_job -> 'sample_paths'), 'null') = 'null'
      and subject_id = (p_job ->> 'subject_id')::uuid and status <> 'rejected'
  ) photo
$$;
comment on function worker.photos_of is 'The photographs of a training job: those it names, else all that are not rejected.';

-- Why the photographs of a training job are too few, or NULL. They may come and go between INSERT and start: asked at both.
create or replace function worker.photos_error(p_job jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('training needs at least 3 photographs, there are %s: insert them into subject_photos, or name them in sample_paths', photo_count)
  from (select jsonb_array_length(worker.photos_of(p_job)) as photo_count) counted
  where photo_count < 3
$$;
comment on function worker.photos_error is 'Why the photographs of a training job are too few, or NULL.';

-- Where an attempt may write.
create or replace function worker.staging_prefix(p_kind text, p_job jsonb, p_attempt integer) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case p_kind
    when 'training' then format('%s/%s/%s/', p_job ->> 'subject_id', p_job ->> 'id', p_attempt)
    else format('%s/%s/generated/%s/%s/', p_job ->> 'owner_id', coalesce(p_job ->> 'subject_id', '_'), p_job ->> 'id', p_attempt)
  end
$$;
comment on function worker.staging_prefix is 'The prefix of every key an attempt may write; it names the attempt.';

-- Why a job cannot be done although nobody objects: [code, message], or NULL.
create or replace function worker.inputs_error(p_kind text, p_job jsonb) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_error text := worker.request_error(p_kind, p_job);
begin
  if v_error is not null then
    return array['invalid_input', v_error];
  elsif p_kind = 'training' and worker.photos_error(p_job) is not null then
    return array['input_missing', worker.photos_error(p_job)];
  elsif p_kind = 'training' and jsonb_array_length(worker.photos_of(p_job)) > 200 then
    return array['invalid_input', 'training takes at most 200 photographs: name the best in sample_paths'];
  elsif p_kind = 'generation' and p_job ->> 'subject_id' is not null
        and coalesce(jsonb_typeof(p_job -> 'model_ids'), 'null') = 'null' and worker.models_of(p_job) = '[]' then
    return array['input_missing', format('the subject has no trained LoRA for %s yet: insert into training_jobs first', p_job ->> 'base')];
  end if;
  return null;
end $$;
comment on function worker.inputs_error is 'Why a job cannot be done although nobody objects: code and message, or NULL.';

create or replace function worker.start_payload(p_kind text, p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'kind', p_kind, 'id', p_job -> 'id', 'attempt', p_job -> 'attempt', 'job', p_job,
    'purpose', (select purpose from worker.job_kinds where kind = p_kind),
    'subjects', (select coalesce(jsonb_agg(subject_id order by subject_id), '[]') from worker.job_subjects
                 where kind = p_kind and job_id = (p_job ->> 'id')::uuid),
    'subject', (select jsonb_build_object('id', id, 'trigger_word', trigger_word) from public.subjects where id = (p_job ->> 'subject_id')::uuid),
    'base', (select to_jsonb(base) from worker.base_models base where slug = p_job ->> 'base'),
    'preset', p_job -> 'preset',
    'photos', case when p_kind = 'training' then worker.photos_of(p_job) else '[]' end,
    'models', case when p_kind = 'generation' then worker.models_of(p_job) else '[]' end,
    'checkpoint', (select jsonb_build_object('step', step, 'bucket', bucket, 'key', key) from worker.staged_objects
                   where kind = p_kind and job_id = (p_job ->> 'id')::uuid and state = 'checkpoint' order by step desc limit 1),
    'prefix', worker.staging_prefix(p_kind, p_job, (p_job ->> 'attempt')::integer))
$$;
comment on function worker.start_payload is 'Everything a handler needs to know about a started attempt.';

-- Start an attempt. NULL when there is nothing to run: not picked by this pod, ended, stopped, or refused (then it is settled).
create or replace function worker.start_job(p_kind text, p_id uuid, p_pod_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_job jsonb;
  v_error text;
  v_inputs_error text[];
  v_started jsonb;
  v_payload jsonb;
begin
  -- The ids never change after the insert, so they may be read unlocked; the people are locked before the job.
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
    perform worker.settle_stopped(p_kind, v_job);
    return null;
  elsif (select paused from worker.job_kinds where kind = p_kind) then
    perform worker.requeue(p_kind, v_job, 0, interval '30 seconds', null, null, 'paused by an administrator');
    return null;
  end if;
  v_error := worker.job_consent_error(p_kind, p_id);
  if v_error is not null then
    perform worker.settle(p_kind, v_job, 'failed', 'consent_denied', v_error);
    return null;
  end if;
  begin
    v_inputs_error := worker.inputs_error(p_kind, v_job);
    if v_inputs_error is null then
      execute format(
        'update %s job set status = ''running'', attempt = attempt + 1, pod_id = $2, started_at = clock_timestamp(), progress = 0,
           phase = ''starting'', metrics = null, error_code = null, error = null
         where id = $1 returning to_jsonb(job)', worker.table_of(p_kind)) into v_started using p_id, p_pod_id;
      v_payload := worker.start_payload(p_kind, v_started);
    end if;
  exception when data_exception then
    -- Else every pod would fail over it, again and again.
    v_inputs_error := array['invalid_input', 'the request cannot be read: ' || sqlerrm];
  end;
  if v_inputs_error is not null then
    perform worker.settle(p_kind, v_job, 'failed', v_inputs_error[1], v_inputs_error[2]);
    return null;
  end if;
  perform worker.log_event(p_kind, p_id, (v_started ->> 'attempt')::integer, 'started',
    jsonb_build_object('pod_id', p_pod_id, 'pod', (select name from worker.pods where id = p_pod_id), 'resumed_step', v_payload -> 'checkpoint' -> 'step'));
  return v_payload;
end $$;
comment on function worker.start_job is 'Start an attempt of a job; the attempt is the fencing token. NULL when there is nothing to run.';

-- ---------------------------------------------------------------------------------------------------------- while it runs

-- What the pod should do about a running job.
create or replace function worker.lease_state(p_job jsonb) returns text
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_job is null then 'lost'
    when p_job ->> 'cancel_requested_at' is not null then 'cancel'
    when (p_job ->> 'started_at')::timestamptz + (p_job ->> 'max_runtime')::interval < clock_timestamp() then 'timeout'
    else 'ok'
  end
$$;
comment on function worker.lease_state is 'ok, cancel, timeout or lost: what the pod should do about a running job.';

-- The same for a lease or, with attempt null, for a claim not yet started.
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
  execute format('select to_jsonb(job) from %s job where id = $1 and status = ''running'' and attempt = $2', worker.table_of(p_lease ->> 'kind'))
    into v_job using (p_lease ->> 'id')::uuid, (p_lease ->> 'attempt')::integer;
  return worker.lease_state(v_job);
end $$;
comment on function worker.held_state is 'The state of a lease, or of a claim not yet started.';

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
comment on function worker.report_job is 'Progress of an attempt. Answers ok, cancel, timeout or lost.';

-- Register keys before they are uploaded. Safe to repeat.
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
  v_prefix := worker.staging_prefix(p_kind, v_job, p_attempt);
  select object ->> 'key' into v_wrong from jsonb_array_elements(p_objects) object
  where not starts_with(object ->> 'key', v_prefix) or object ->> 'key' like '%..%' limit 1;
  if v_wrong is not null then
    raise exception 'key % does not begin with %: an attempt writes under its own prefix only', quote_literal(v_wrong), v_prefix using errcode = '22023';
  end if;
  insert into worker.staged_objects (bucket, key, kind, job_id, attempt, owner_id)
  select object ->> 'bucket', object ->> 'key', p_kind, p_id, p_attempt, (v_job ->> 'owner_id')::uuid
  from jsonb_array_elements(p_objects) object
  on conflict (bucket, key) do nothing;
  return worker.lease_state(v_job);
end $$;
comment on function worker.stage_objects is 'Register object keys of an attempt before they are uploaded; refuses keys that do not name the attempt.';

-- A checkpoint was uploaded: the next attempt resumes from it, and the ones before it are garbage.
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
comment on function worker.save_checkpoint is 'An uploaded checkpoint becomes the one to resume from.';

-- -------------------------------------------------------------------------------------------------------------- complete

-- Every object that a result names.
create or replace function worker.result_keys(p_kind text, p_result jsonb) returns setof text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select key #>> '{}' from jsonb_path_query(p_result,
    case p_kind
      when 'generation' then 'lax $.pictures[*].keyvalue() ? (@.key == "upscaled" || @.key == "raw").value'
      when 'training' then 'lax $.keyvalue() ? (@.key == "lora" || @.key == "losses" || @.key == "loss_curve").value'
      else 'lax $.objects[*]' end::jsonpath) key
$$;
comment on function worker.result_keys is 'Every object key that a result names.';

-- Why a result cannot be published, or NULL.
create or replace function worker.result_error(p_kind text, p_job jsonb, p_result jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_picture jsonb;
  v_unknown text;
begin
  if jsonb_typeof(p_result) is distinct from 'object' then
    return 'the result is not an object';
  end if;
  if p_kind = 'generation' then
    if jsonb_typeof(p_result -> 'pictures') is distinct from 'array'
       or jsonb_array_length(p_result -> 'pictures') <> (p_job ->> 'num_images')::integer then
      return format('the result does not hold %s pictures', p_job ->> 'num_images');
    end if;
    for v_picture in select value from jsonb_array_elements(p_result -> 'pictures') loop
      if v_picture ->> 'upscaled' is null or v_picture ->> 'raw' is null or v_picture ->> 'upscaled' = v_picture ->> 'raw' then
        return 'a picture does not name its upscaled file and its raw file';
      elsif ((v_picture ->> 'width')::integer = (v_picture ->> 'raw_width')::integer * (p_job ->> 'upscale')::integer) is not true
         or ((v_picture ->> 'height')::integer = (v_picture ->> 'raw_height')::integer * (p_job ->> 'upscale')::integer) is not true then
        return format('a picture is not upscaled by %s', p_job ->> 'upscale');
      end if;
    end loop;
  elsif p_kind = 'training' and (p_result ->> 'lora' is null or p_result ->> 'sha256' !~ '^[0-9a-f]{64}$'
        or p_result ->> 'sha256' is null or (p_result ->> 'rank')::integer is null) then
    return 'the result does not name the LoRA, its sha256 and its rank';
  end if;
  select named.object_key into v_unknown from worker.result_keys(p_kind, p_result) named (object_key)
  where named.object_key is not null and not exists (
    select from worker.staged_objects staged
    where staged.key = named.object_key and staged.kind = p_kind and staged.job_id = (p_job ->> 'id')::uuid
      and staged.attempt = (p_job ->> 'attempt')::integer and staged.state = 'staged') limit 1;
  return 'not staged by this attempt: ' || v_unknown;
exception when data_exception then
  return 'the result is malformed';
end $$;
comment on function worker.result_error is 'Why a result cannot be published, or NULL.';

-- A trained LoRA becomes the subject's newest version; its convenience copy is made by a light job of its own.
create or replace function worker.publish_training(p_job jsonb, p_result jsonb) returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_base worker.base_models;
  v_subject_id uuid := p_job ->> 'subject_id';
  v_model_id uuid;
begin
  select * into v_base from worker.base_models where slug = p_job ->> 'base';
  -- The time of now, not of the transaction's beginning: it may have waited for an earlier version to be published.
  insert into public.subjects_models (subject_id, job_id, version, base, family, path, sha256, rank, trigger_word, metrics, created_at)
  select v_subject_id, (p_job ->> 'id')::uuid, coalesce(max(version), 0) + 1, v_base.slug, v_base.family, p_result ->> 'lora',
         p_result ->> 'sha256', (p_result ->> 'rank')::integer, p_result ->> 'trigger_word', coalesce(p_result -> 'metrics', '{}'),
         clock_timestamp()
  from public.subjects_models where subject_id = v_subject_id and family = v_base.family
  returning id into v_model_id;
  insert into worker.internal_jobs (owner_id, subject_id, payload)
  values ((p_job ->> 'owner_id')::uuid, v_subject_id, jsonb_build_object('model_id', v_model_id));
  return v_model_id;
end $$;
comment on function worker.publish_training is 'A trained LoRA becomes the subject''s newest version.';

-- Publish the result of an attempt: ok, lost, cancelled, consent_denied or invalid. Never an exception for what a pod may send.
create or replace function worker.complete_job(p_kind text, p_id uuid, p_attempt integer, p_result jsonb, p_gpu_seconds double precision default 0) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_job jsonb;
  v_error text;
  v_result jsonb := p_result;
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
    return worker.settle_stopped(p_kind, v_job, p_gpu_seconds);
  end if;
  -- A statement of its own, after the lock: a revocation that committed while we waited is seen.
  v_error := worker.job_consent_error(p_kind, p_id);
  if v_error is not null then
    perform worker.settle(p_kind, v_job, 'failed', 'consent_denied', v_error, p_gpu_seconds);
    return 'consent_denied';
  end if;
  if worker.result_error(p_kind, v_job, p_result) is not null then
    return 'invalid';
  end if;
  update worker.staged_objects set state = 'published'
  where kind = p_kind and job_id = p_id and attempt = p_attempt and state = 'staged'
    and key in (select worker.result_keys(p_kind, p_result));
  if p_kind = 'training' then
    v_result := v_result || jsonb_build_object('model_id', worker.publish_training(v_job, p_result));
  end if;
  perform worker.settle(p_kind, v_job, 'completed', null, null, p_gpu_seconds, v_result);
  return 'ok';
end $$;
comment on function worker.complete_job is 'Publish the result of an attempt, if it still holds the job and everybody in it still agrees.';

-- --------------------------------------------------------------------------------------------------- the convenience copy

create or replace function worker.subject_lock_key(p_subject_id uuid) returns bigint
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select hashtextextended('convenience copy of ' || p_subject_id, 0) $$;
comment on function worker.subject_lock_key is 'The advisory lock that copying and erasing a subject''s LoRA take: never the row, so that no copy makes a revocation wait.';

-- What to copy and whether it still may be; NULL to an attempt that lost its lease. Asked before and after copying.
create or replace function worker.lora_to_copy(p_kind text, p_id uuid, p_attempt integer) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'source', models.path,
    'target', models.subject_id || '/lora.safetensors',
    'consented', worker.consent_error(models.subject_id, 'training') is null,
    'newest', models.retired_at is null and not exists (
      select from public.subjects_models newer
      where newer.subject_id = models.subject_id and newer.retired_at is null and newer.created_at > models.created_at))
  from worker.internal_jobs job join public.subjects_models models on models.id = (job.payload ->> 'model_id')::uuid
  where p_kind = 'publish_lora' and job.id = p_id and job.status = 'running' and job.attempt = p_attempt
$$;
comment on function worker.lora_to_copy is 'Source and target of a convenience copy, and whether it may be made.';
