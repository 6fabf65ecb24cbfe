-- The life of a job, in order: queue, start, report, stage, complete, fail, give back, heartbeat, reap, sweep, tick.
--
-- Lock order everywhere: subjects (by id), job, queue row, staged rows, ledger. Consent is evaluated in a later statement
-- than the lock on the subjects. The fence is status = 'running' AND attempt. Rights stand at the end of the file.

-- ------------------------------------------------------------------------------------------------------ small questions

-- The table of a kind; raises for a kind nobody registered.
create or replace function worker.table_of(p_kind text) returns text
language plpgsql stable set search_path = ''
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
language sql stable set search_path = ''
as $$
  select array_agg(attname::text) from pg_catalog.pg_attribute
  where attrelid = 'worker.life_cycle'::regclass and attnum > 0 and not attisdropped
    and attname not in ('id', 'owner_id', 'subject_id', 'created_at')
$$;
comment on function worker.changing_columns is 'The columns that the life of a job changes; all others are the request.';

create or replace function worker.lock_job(p_kind text, p_id uuid) returns jsonb
language plpgsql volatile set search_path = ''
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
language plpgsql volatile set search_path = ''
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
language plpgsql volatile set search_path = ''
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
language sql immutable set search_path = ''
as $$ select p_kind || coalesce('/' || (p_job ->> 'base'), '') $$;
comment on function worker.route is 'The queue''s entrypoint of a job: kind/base, or the kind alone.';

create or replace function worker.log_event(p_kind text, p_id uuid, p_attempt integer, p_event text, p_detail jsonb default '{}') returns void
language sql volatile set search_path = ''
as $$
  insert into worker.job_events (kind, job_id, attempt, event, detail)
  values (p_kind, p_id, p_attempt, p_event, jsonb_strip_nulls(p_detail))
$$;
comment on function worker.log_event is 'Note what happened to a job.';

-- A refusal in the ledger, one for each person that objects.
create or replace function worker.log_refusal(p_kind text, p_id uuid, p_reason text) returns void
language sql volatile set search_path = ''
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
language plpgsql volatile set search_path = ''
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
language sql volatile set search_path = ''
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
language sql volatile set search_path = ''
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
language plpgsql volatile set search_path = ''
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
language plpgsql volatile set search_path = ''
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
language plpgsql volatile set search_path = ''
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

-- ------------------------------------------------------------------------------------------------------------------ pods

-- The 64-bit key of the advisory lock that a pod's session connection holds (shared) while the process lives.
create or replace function worker.pod_lock_key(p_pod_id uuid) returns bigint
language sql immutable set search_path = ''
as $$ select ('x' || left(replace(p_pod_id::text, '-', ''), 16))::bit(64)::bigint $$;
comment on function worker.pod_lock_key is 'The advisory lock that a living pod''s session holds.';

-- Read in pg_locks and never taken: taking it would make the pod's own reconnect wait.
create or replace function worker.lock_is_free(p_pod_id uuid) returns boolean
language sql volatile set search_path = ''
as $$
  select not exists (
    select from pg_catalog.pg_locks
    where locktype = 'advisory' and granted and objsubid = 1
      and database = (select oid from pg_catalog.pg_database where datname = current_database())
      and (classid::bigint << 32 | objid::bigint) = worker.pod_lock_key(p_pod_id))
$$;
comment on function worker.lock_is_free is 'Whether nobody holds a pod''s advisory lock.';

-- Two, because the one that ticks may be the one that died.
create or replace function worker.is_ticker(p_pod_id uuid) returns boolean
language sql stable set search_path = ''
as $$
  select p_pod_id in (
    select id from worker.pods
    where last_heartbeat > clock_timestamp() - interval '20 seconds' and lock_free_since is null
    order by registered_at, id limit 2)
$$;
comment on function worker.is_ticker is 'Whether this pod is one of the two longest-living ones, which tick.';

create or replace function worker.register_pod(
  p_pod_id uuid, p_name text, p_routes text[], p_vram_gib double precision, p_models_present text[], p_has_lock boolean, p_version text
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
  insert into worker.pods (id, name, routes, vram_gib, models_present, has_lock, version)
  values (p_pod_id, p_name, p_routes, p_vram_gib, p_models_present, p_has_lock, p_version)
  on conflict (id) do update set name = excluded.name, routes = excluded.routes, vram_gib = excluded.vram_gib,
    models_present = excluded.models_present, has_lock = excluded.has_lock, version = excluded.version,
    last_heartbeat = clock_timestamp(), lock_free_since = null;
  return jsonb_build_object('tick', worker.is_ticker(p_pod_id));
end $$;
comment on function worker.register_pod is 'A pod says what it is and which routes it takes; again whenever that changes.';

-- Give back, uncharged, what a pod holds and does not name: running jobs and claims that were not started.
-- A job that is locked just now is left for the next time: this runs beside others that hold several jobs.
create or replace function worker.give_back(p_pod_id uuid, p_unnamed_for interval, p_named text[], p_reason text) returns integer
language plpgsql volatile set search_path = ''
as $$
declare
  v_row record;
  v_job jsonb;
  v_count integer := 0;
begin
  for v_row in
    select dedupe_key, split_part(dedupe_key, ':', 1) as kind, split_part(dedupe_key, ':', 2)::uuid as job_id
    from worker.pgqueuer
    where queue_manager_id = p_pod_id and status = 'picked' and dedupe_key <> all (p_named)
      and heartbeat <= clock_timestamp() - p_unnamed_for
    order by 2, 3
  loop
    v_job := worker.try_lock_job(v_row.kind, v_row.job_id);
    -- Look again now that the job is locked: it may have ended meanwhile.
    continue when v_job is null or not exists (
      select from worker.pgqueuer where dedupe_key = v_row.dedupe_key and queue_manager_id = p_pod_id and status = 'picked');
    v_count := v_count + 1;
    if v_job ->> 'status' not in ('queued', 'running') then
      perform worker.dequeue_row(v_row.kind, v_row.job_id, 'canceled');
    elsif v_job ->> 'cancel_requested_at' is not null then
      perform worker.settle_stopped(v_row.kind, v_job);
    else
      perform worker.requeue(v_row.kind, v_job, 0, interval '0', null, null, p_reason);
    end if;
  end loop;
  return v_count;
end $$;
comment on function worker.give_back is 'Give back, uncharged, what a pod holds and has not named for a while.';

create or replace function worker.leave_pod(p_pod_id uuid) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
  -- Wait for each job, in order, so that none is left behind to be charged by the reaper.
  perform worker.lock_job(kind, job_id) from (
    select split_part(dedupe_key, ':', 1) as kind, split_part(dedupe_key, ':', 2)::uuid as job_id
    from worker.pgqueuer where queue_manager_id = p_pod_id and status = 'picked' order by 1, 2) held;
  perform worker.give_back(p_pod_id, interval '0', '{}', 'given back: its pod left');
  delete from worker.pods where id = p_pod_id;
end $$;
comment on function worker.leave_pod is 'A pod says goodbye: what it still holds goes back, uncharged.';

-- What waits at the head of some routes, for warming caches; people's files only of those who agree.
create or replace function worker.peek(p_routes text[], p_limit integer) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_row record;
  v_jobs jsonb := '[]';
  v_job jsonb;
begin
  for v_row in
    select split_part(dedupe_key, ':', 1) as kind, split_part(dedupe_key, ':', 2)::uuid as job_id
    from worker.pgqueuer
    where entrypoint = any (p_routes) and status = 'queued' and execute_after <= clock_timestamp()
    order by priority desc, id limit p_limit
  loop
    execute format('select to_jsonb(job) from %s job where id = $1', worker.table_of(v_row.kind)) into v_job using v_row.job_id;
    continue when v_job is null or worker.job_consent_error(v_row.kind, v_row.job_id) is not null;
    v_jobs := v_jobs || jsonb_build_object('kind', v_row.kind, 'id', v_row.job_id, 'base', v_job ->> 'base',
      'subject_id', v_job ->> 'subject_id', 'models', worker.models_of(v_job));
  end loop;
  return v_jobs;
end $$;
comment on function worker.peek is 'Base and LoRAs of the jobs that wait at the head of some routes, consent checked, for warming caches.';

-- Routes whose oldest job has waited for a while although no pod started anything of them: they come before affinity.
create or replace function worker.starved_routes(p_routes text[], p_wait interval) returns text[]
language sql volatile security definer set search_path = ''
as $$
  select coalesce(array_agg(route), '{}') from (
    select entrypoint as route from worker.pgqueuer
    where entrypoint = any (p_routes) and status = 'queued'
    group by entrypoint having min(execute_after) < clock_timestamp() - p_wait
  ) waiting
  where not exists (
    select from worker.pgqueuer_log picked
    where picked.entrypoint = waiting.route and picked.status = 'picked' and picked.created > clock_timestamp() - p_wait)
$$;
comment on function worker.starved_routes is 'Routes whose oldest job has waited too long while no pod took any.';

-- The major version of this schema. It goes up when pods of the release before cannot work with it.
create or replace function worker.schema_major() returns integer
language sql immutable set search_path = ''
as $$ select 1 $$;
comment on function worker.schema_major is 'The major version of this schema; pods refuse a newer one.';

-- ----------------------------------------------------------------------------------------------------------------- start

-- The LoRAs of a generation job: those it names, else the subject's current one for the base's family.
create or replace function worker.models_of(p_job jsonb) returns jsonb
language sql stable set search_path = ''
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
     order by current_one.version desc limit 1)
  ) wanted join public.subjects_models models using (id)
$$;
comment on function worker.models_of is 'The LoRAs of a generation job, in order, with their scales.';

create or replace function worker.photos_of(p_job jsonb) returns jsonb
language sql stable set search_path = ''
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

-- Where an attempt may write.
create or replace function worker.staging_prefix(p_kind text, p_job jsonb, p_attempt integer) returns text
language sql immutable set search_path = ''
as $$
  select case p_kind
    when 'training' then format('%s/%s/%s/', p_job ->> 'subject_id', p_job ->> 'id', p_attempt)
    else format('%s/%s/generated/%s/%s/', p_job ->> 'owner_id', coalesce(p_job ->> 'subject_id', '_'), p_job ->> 'id', p_attempt)
  end
$$;
comment on function worker.staging_prefix is 'The prefix of every key an attempt may write; it names the attempt.';

-- Why a job cannot be done although nobody objects: [code, message], or NULL.
create or replace function worker.inputs_error(p_kind text, p_job jsonb) returns text[]
language plpgsql stable set search_path = ''
as $$
declare
  v_error text := worker.request_error(p_kind, p_job);
begin
  if v_error is not null then
    return array['invalid_input', v_error];
  elsif p_kind = 'training' and jsonb_array_length(worker.photos_of(p_job)) < 3 then
    return array['input_missing', format('training needs at least 3 photographs, there are %s: insert them into subject_photos, or name them in sample_paths',
      jsonb_array_length(worker.photos_of(p_job)))];
  elsif p_kind = 'generation' and p_job ->> 'subject_id' is not null
        and coalesce(jsonb_typeof(p_job -> 'model_ids'), 'null') = 'null' and worker.models_of(p_job) = '[]' then
    return array['input_missing', format('the subject has no trained LoRA for %s yet: insert into training_jobs first', p_job ->> 'base')];
  end if;
  return null;
end $$;
comment on function worker.inputs_error is 'Why a job cannot be done although nobody objects: code and message, or NULL.';

create or replace function worker.start_payload(p_kind text, p_job jsonb) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'kind', p_kind, 'id', p_job -> 'id', 'attempt', p_job -> 'attempt', 'job', p_job,
    'purpose', (select purpose from worker.job_kinds where kind = p_kind),
    'subjects', (select coalesce(jsonb_agg(subject_id order by subject_id), '[]') from worker.job_subjects
                 where kind = p_kind and job_id = (p_job ->> 'id')::uuid),
    'subject', (select jsonb_build_object('id', id, 'trigger_word', trigger_word) from public.subjects where id = (p_job ->> 'subject_id')::uuid),
    'base', (select to_jsonb(base) from worker.base_models base where slug = p_job ->> 'base'),
    'preset', (select jsonb_build_object('prompt', prompt, 'negative_prompt', negative_prompt, 'settings', settings)
               from public.presets where id = (p_job ->> 'preset_id')::uuid),
    'photos', case when p_kind = 'training' then worker.photos_of(p_job) else '[]' end,
    'models', case when p_kind = 'generation' then worker.models_of(p_job) else '[]' end,
    'checkpoint', (select jsonb_build_object('step', step, 'bucket', bucket, 'key', key) from worker.staged_objects
                   where kind = p_kind and job_id = (p_job ->> 'id')::uuid and state = 'checkpoint' order by step desc limit 1),
    'prefix', worker.staging_prefix(p_kind, p_job, (p_job ->> 'attempt')::integer))
$$;
comment on function worker.start_payload is 'Everything a handler needs to know about a started attempt.';

-- Start an attempt. NULL when there is nothing to run: not picked by this pod, ended, stopped, or refused (then it is settled).
create or replace function worker.start_job(p_kind text, p_id uuid, p_pod_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_job jsonb;
  v_error text;
  v_inputs_error text[];
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
  v_inputs_error := worker.inputs_error(p_kind, v_job);
  if v_inputs_error is not null then
    perform worker.settle(p_kind, v_job, 'failed', v_inputs_error[1], v_inputs_error[2]);
    return null;
  end if;
  execute format(
    'update %s job set status = ''running'', attempt = attempt + 1, pod_id = $2, started_at = clock_timestamp(), progress = 0,
       phase = ''starting'', metrics = null, error_code = null, error = null
     where id = $1 returning to_jsonb(job)', worker.table_of(p_kind)) into v_job using p_id, p_pod_id;
  perform worker.log_event(p_kind, p_id, (v_job ->> 'attempt')::integer, 'started',
    jsonb_build_object('pod_id', p_pod_id, 'pod', (select name from worker.pods where id = p_pod_id)));
  return worker.start_payload(p_kind, v_job);
end $$;
comment on function worker.start_job is 'Start an attempt of a job; the attempt is the fencing token. NULL when there is nothing to run.';

-- ---------------------------------------------------------------------------------------------------------- while it runs

-- What the pod should do about a running job.
create or replace function worker.lease_state(p_job jsonb) returns text
language sql volatile set search_path = ''
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
language plpgsql volatile set search_path = ''
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
language plpgsql volatile security definer set search_path = ''
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
language plpgsql volatile security definer set search_path = ''
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
language plpgsql volatile security definer set search_path = ''
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
  where kind = p_kind and job_id = p_id and state = 'checkpoint' and step < p_step;
  perform worker.log_event(p_kind, p_id, p_attempt, 'checkpoint', jsonb_build_object('step', p_step));
  return worker.lease_state(v_job);
end $$;
comment on function worker.save_checkpoint is 'An uploaded checkpoint becomes the one to resume from.';

-- -------------------------------------------------------------------------------------------------------------- complete

-- Every object that a result names.
create or replace function worker.result_keys(p_kind text, p_result jsonb) returns setof text
language sql immutable set search_path = ''
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
language plpgsql stable set search_path = ''
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
      elsif (v_picture ->> 'width')::integer is distinct from (v_picture ->> 'raw_width')::integer * (p_job ->> 'upscale')::integer
         or (v_picture ->> 'height')::integer is distinct from (v_picture ->> 'raw_height')::integer * (p_job ->> 'upscale')::integer then
        return format('a picture is not upscaled by %s', p_job ->> 'upscale');
      end if;
    end loop;
  elsif p_kind = 'training' and (p_result ->> 'lora' is null or p_result ->> 'sha256' !~ '^[0-9a-f]{64}$'
        or p_result ->> 'sha256' is null or (p_result ->> 'rank')::integer is null) then
    return 'the result does not name the LoRA, its sha256 and its rank';
  end if;
  select key into v_unknown from worker.result_keys(p_kind, p_result) key
  where not exists (
    select from worker.staged_objects staged
    where staged.key = key and staged.kind = p_kind and staged.job_id = (p_job ->> 'id')::uuid
      and staged.attempt = (p_job ->> 'attempt')::integer and staged.state = 'staged') limit 1;
  return 'not staged by this attempt: ' || v_unknown;
exception when data_exception then
  return 'the result is malformed';
end $$;
comment on function worker.result_error is 'Why a result cannot be published, or NULL.';

-- A trained LoRA becomes the subject's newest version; its convenience copy is made by a light job of its own.
create or replace function worker.publish_training(p_job jsonb, p_result jsonb) returns uuid
language plpgsql volatile set search_path = ''
as $$
declare
  v_base worker.base_models;
  v_subject_id uuid := p_job ->> 'subject_id';
  v_model_id uuid;
begin
  select * into v_base from worker.base_models where slug = p_job ->> 'base';
  insert into public.subjects_models (subject_id, job_id, version, base, family, path, sha256, rank, trigger_word, metrics)
  select v_subject_id, (p_job ->> 'id')::uuid, coalesce(max(version), 0) + 1, v_base.slug, v_base.family, p_result ->> 'lora',
         p_result ->> 'sha256', (p_result ->> 'rank')::integer, p_result ->> 'trigger_word', coalesce(p_result -> 'metrics', '{}')
  from public.subjects_models where subject_id = v_subject_id and family = v_base.family
  returning id into v_model_id;
  insert into worker.internal_jobs (owner_id, subject_id, payload)
  values ((p_job ->> 'owner_id')::uuid, v_subject_id, jsonb_build_object('model_id', v_model_id));
  return v_model_id;
end $$;
comment on function worker.publish_training is 'A trained LoRA becomes the subject''s newest version.';

-- Publish the result of an attempt: ok, lost, cancelled, consent_denied or invalid. Never an exception for what a pod may send.
create or replace function worker.complete_job(p_kind text, p_id uuid, p_attempt integer, p_result jsonb, p_gpu_seconds double precision default 0) returns text
language plpgsql volatile security definer set search_path = ''
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
  elsif v_job is null or v_job ->> 'status' <> 'running' or (v_job ->> 'attempt')::integer <> p_attempt then
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

-- ---------------------------------------------------------------------------------------------------- fail, release, stop

-- 10 s, 40 s, 160 s … up to 10 minutes, with jitter.
create or replace function worker.backoff(p_failures integer) returns interval
language sql volatile set search_path = ''
as $$ select least(interval '10 minutes', interval '10 seconds' * power(4, least(p_failures, 8) - 1)) * (0.8 + 0.4 * random()) $$;
comment on function worker.backoff is 'How long to wait after the n-th failure.';

-- Charge one failure: queued again, or failed when that was the last try or trying again cannot help.
create or replace function worker.charge_failure(
  p_kind text, p_job jsonb, p_code text, p_error text, p_delay interval, p_gpu_seconds double precision
) returns text
language plpgsql volatile set search_path = ''
as $$
declare
  v_failures integer := (p_job ->> 'failures')::integer + 1;
begin
  if p_job ->> 'cancel_requested_at' is not null then
    return worker.settle_stopped(p_kind, p_job, p_gpu_seconds);
  elsif p_code in ('consent_denied', 'prompt_blocked', 'output_blocked', 'invalid_input', 'input_missing')
        or v_failures >= (p_job ->> 'max_failures')::integer then
    execute format('update %s set failures = failures + 1 where id = $1', worker.table_of(p_kind)) using (p_job ->> 'id')::uuid;
    perform worker.settle(p_kind, p_job, 'failed', p_code, p_error, p_gpu_seconds);
    return 'failed';
  end if;
  perform worker.requeue(p_kind, p_job, 1, p_delay, p_code, p_error, 'waiting to try again', p_gpu_seconds);
  return 'queued';
end $$;
comment on function worker.charge_failure is 'Charge one failure: queued again, or failed for good.';

create or replace function worker.fail_job(
  p_kind text, p_id uuid, p_attempt integer, p_code text, p_error text, p_retry_after interval default null, p_gpu_seconds double precision default 0
) returns text
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
begin
  if v_job is null then
    return 'lost';
  end if;
  return worker.charge_failure(p_kind, v_job, p_code, left(p_error, 2000),
    coalesce(p_retry_after, worker.backoff((v_job ->> 'failures')::integer + 1)), p_gpu_seconds);
end $$;
comment on function worker.fail_job is 'An attempt ended badly: queued again after a while, or failed. Answers queued, failed, cancelled, consent_denied or lost.';

-- Back to the queue, uncharged: a shutdown, or a pod that cannot do this job. p_code (model_missing, out_of_memory) says why,
-- and lets the tick fail the job when no live pod lists its route.
create or replace function worker.release_job(
  p_kind text, p_id uuid, p_attempt integer, p_reason text, p_code text default null, p_gpu_seconds double precision default 0
) returns text
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
begin
  if v_job is null then
    return 'lost';
  elsif v_job ->> 'cancel_requested_at' is not null then
    return worker.settle_stopped(p_kind, v_job, p_gpu_seconds);
  end if;
  perform worker.requeue(p_kind, v_job, 0, interval '0', p_code, case when p_code is not null then p_reason end, left(p_reason, 200), p_gpu_seconds);
  return 'queued';
end $$;
comment on function worker.release_job is 'Give a job back, uncharged.';

-- Stop a job: a queued one ends now, a running one is told to stop and ends when its pod has stopped.
create or replace function worker.request_stop(p_kind text, p_id uuid, p_code text, p_error text) returns text
language plpgsql volatile set search_path = ''
as $$
declare
  v_job jsonb := worker.lock_job(p_kind, p_id);
begin
  if v_job ->> 'status' = 'queued' then
    if p_code = 'consent_denied' then
      perform worker.settle(p_kind, v_job, 'failed', p_code, p_error);
      return 'failed';
    end if;
    perform worker.settle(p_kind, v_job, 'cancelled', null, null);
    return 'cancelled';
  elsif v_job ->> 'status' = 'running' then
    -- A revocation outranks a cancellation that came first: the reason must not be lost.
    execute format('update %s set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
        cancel_code = case when cancel_code = ''consent_denied'' then cancel_code else $2 end where id = $1', worker.table_of(p_kind))
      using p_id, p_code;
    perform worker.log_event(p_kind, p_id, (v_job ->> 'attempt')::integer, 'stop requested', jsonb_build_object('code', p_code));
    perform pg_notify('likeness_cancel', p_kind || ':' || p_id);
    return 'stopping';
  end if;
  return v_job ->> 'status';
end $$;
comment on function worker.request_stop is 'Stop a job: a queued one ends now, a running one is told to stop.';

create or replace function worker.cancel_job_as_service(p_kind text, p_id uuid) returns text
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_status text := worker.request_stop(p_kind, p_id, 'cancelled', null);
begin
  if v_status is null then
    raise exception 'no % job %', p_kind, p_id using errcode = '42501';
  end if;
  return v_status;
end $$;
comment on function worker.cancel_job_as_service is 'Cancel a job, as the administrator of the app.';

create or replace function worker.check_job_owner(p_kind text, p_id uuid) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_owner_id uuid;
begin
  if (select table_name from worker.job_kinds where kind = p_kind) like 'public.%' then
    execute format('select owner_id from %s where id = $1', worker.table_of(p_kind)) into v_owner_id using p_id;
  end if;
  if v_owner_id is null or v_owner_id is distinct from auth.uid() then
    raise exception 'no such job of yours' using errcode = '42501';
  end if;
end $$;
comment on function worker.check_job_owner is 'Raise 42501 unless the job is the signed-in user''s; unknown and another''s give the same answer.';

create or replace function worker.cancel_job_as_owner(p_kind text, p_id uuid) returns text
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform worker.check_job_owner(p_kind, p_id);
  return worker.cancel_job_as_service(p_kind, p_id);
end $$;
comment on function worker.cancel_job_as_owner is 'Cancel a job of one''s own.';

create or replace function public.cancel_job(kind text, id uuid) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if current_user = 'authenticated' then
    return worker.cancel_job_as_owner(kind, id);
  end if;
  return worker.cancel_job_as_service(kind, id);
end $$;
comment on function public.cancel_job is 'Cancel a job: cancelled (it had not begun), stopping (its pod is being told), or how it had ended.';

create or replace function worker.retry_job_as_service(p_kind text, p_id uuid) returns text
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_job jsonb := worker.lock_job(p_kind, p_id);
begin
  if v_job is null then
    raise exception 'no % job %', p_kind, p_id using errcode = '42501';
  elsif v_job ->> 'status' not in ('failed', 'cancelled') then
    raise exception 'a % job cannot be tried again', v_job ->> 'status' using errcode = '22023', hint = 'Only failed and cancelled jobs can.';
  end if;
  if v_job ->> 'owner_id' is not null then
    perform worker.check_open_jobs((v_job ->> 'owner_id')::uuid);
  end if;
  execute format(
    'update %s job set status = ''queued'', failures = 0, run_after = null, progress = 0, phase = ''waiting'', error_code = null, error = null,
       cancel_requested_at = null, cancel_code = null, finished_at = null, pod_id = null where id = $1 returning to_jsonb(job)', worker.table_of(p_kind))
    into v_job using p_id;
  perform worker.log_event(p_kind, p_id, (v_job ->> 'attempt')::integer, 'retried', jsonb_build_object('actor', worker.actor()));
  perform worker.enqueue(p_kind, v_job);
  return 'queued';
end $$;
comment on function worker.retry_job_as_service is 'Put a failed or cancelled job back on the queue, as the administrator of the app.';

create or replace function worker.retry_job_as_owner(p_kind text, p_id uuid) returns text
language plpgsql volatile security definer set search_path = ''
as $$
begin
  perform worker.check_job_owner(p_kind, p_id);
  return worker.retry_job_as_service(p_kind, p_id);
end $$;
comment on function worker.retry_job_as_owner is 'Put a failed or cancelled job of one''s own back on the queue.';

create or replace function public.retry_job(kind text, id uuid) returns text
language plpgsql volatile security invoker set search_path = ''
as $$
begin
  if current_user = 'authenticated' then
    return worker.retry_job_as_owner(kind, id);
  end if;
  return worker.retry_job_as_service(kind, id);
end $$;
comment on function public.retry_job is 'Put a failed or cancelled job back on the queue; consent is checked again when it starts.';

-- ------------------------------------------------------------------------------------------------------------- heartbeat

-- One statement for the pod and the leases it names: [{kind, id, attempt}], attempt null for a claim not yet started.
create or replace function worker.heartbeat(p_pod_id uuid, p_leases jsonb) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_last timestamptz;
  v_known boolean;
  v_lease jsonb;
  v_states jsonb := '[]';
  v_named text[] := array(select (lease ->> 'kind') || ':' || (lease ->> 'id') from jsonb_array_elements(p_leases) lease);
begin
  select last_heartbeat into v_last from worker.pods where id = p_pod_id for update;
  v_known := found;
  update worker.pods set last_heartbeat = clock_timestamp(), lock_free_since = null where id = p_pod_id;
  for v_lease in select value from jsonb_array_elements(p_leases) loop
    v_states := v_states || (v_lease || jsonb_build_object('state', worker.held_state(p_pod_id, v_lease)));
  end loop;
  -- A claim whose reply was lost is named by nobody: without this it would be kept alive for ever.
  perform worker.give_back(p_pod_id, interval '30 seconds', v_named, 'given back: its pod did not know of it');
  update worker.pgqueuer set heartbeat = clock_timestamp()
  where queue_manager_id = p_pod_id and status = 'picked' and dedupe_key = any (v_named);
  return jsonb_build_object(
    'known', v_known, 'leases', v_states, 'tick', worker.is_ticker(p_pod_id),
    -- a minute of overlap, because an event is stamped before it is committed
    'ended_subjects', (select coalesce(jsonb_agg(distinct subject_id), '[]') from worker.consent_events
                       where event in ('revoke', 'expiry', 'reject', 'erasure') and at > coalesce(v_last, clock_timestamp()) - interval '1 minute'));
end $$;
comment on function worker.heartbeat is 'A pod is alive and names its leases; answers the state of each, whose consent ended, and whether to tick.';

-- ------------------------------------------------------------------------------------------------- reap, sweep, reconcile

-- Whether a pod is held for dead. It registered with a lock, the lock was seen free, no heartbeat came since, and that was
-- 1.5 s ago; or it has been silent for 30 s. After an outage every grace starts anew.
create or replace function worker.is_dead(p_pod worker.pods, p_grace_from timestamptz) returns boolean
language sql volatile set search_path = ''
as $$
  select (p_pod.has_lock and p_pod.lock_free_since < clock_timestamp() - interval '1.5 seconds')
      or greatest(p_pod.last_heartbeat, p_grace_from) < clock_timestamp() - interval '30 seconds'
$$;
comment on function worker.is_dead is 'Whether a pod is held for dead.';

-- Take over from dead pods: running jobs are charged a failure, claims not yet started go back uncharged.
create or replace function worker.reap() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_clock worker.clock;
  v_pod_id uuid;
  v_kind worker.job_kinds;
  v_job_id uuid;
  v_job jsonb;
  v_count integer := 0;
begin
  select * into v_clock from worker.clock;
  for v_pod_id in select pods.id from worker.pods where worker.is_dead(pods, v_clock.grace_from) order by id loop
    delete from worker.pods where id = v_pod_id and worker.is_dead(pods, v_clock.grace_from);
  end loop;
  update worker.pods set lock_free_since = clock_timestamp()
  where has_lock and lock_free_since is null and worker.lock_is_free(id);
  for v_kind in select * from worker.job_kinds order by kind loop
    for v_job_id in execute format(
      'select id from %s job where status = ''running'' and not exists (select from worker.pods where pods.id = job.pod_id) order by id', v_kind.table_name)
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      continue when v_job is null or v_job ->> 'status' <> 'running' or exists (select from worker.pods where id = (v_job ->> 'pod_id')::uuid);
      perform worker.charge_failure(v_kind.kind, v_job, 'worker_lost', 'the process that ran this attempt ended without a word',
        case when (v_job ->> 'failures')::integer = 0 then interval '0' else worker.backoff((v_job ->> 'failures')::integer) end,
        coalesce((v_job -> 'metrics' ->> 'seconds')::double precision, 0));
      v_count := v_count + 1;
    end loop;
  end loop;
  for v_pod_id in
    select distinct queue_manager_id from worker.pgqueuer
    where status = 'picked' and not exists (select from worker.pods where id = queue_manager_id)
  loop
    v_count := v_count + worker.give_back(v_pod_id, interval '0', '{}', 'given back: its pod died before it began');
  end loop;
  return v_count;
end $$;
comment on function worker.reap is 'Take over the jobs of dead pods.';

-- Objects to delete in storage. Their state was committed before anybody reads it here. Not offered again for a minute.
create or replace function worker.take_garbage(p_limit integer) returns jsonb
language sql volatile security definer set search_path = ''
as $$
  with due as (
    select id from worker.staged_objects where state = 'deleting' and offer_after <= clock_timestamp()
    order by offer_after limit p_limit for update skip locked
  ), taken as (
    update worker.staged_objects garbage set offer_after = clock_timestamp() + interval '1 minute'
    from due where garbage.id = due.id returning garbage.id, garbage.bucket, garbage.key
  )
  select coalesce(jsonb_agg(jsonb_build_object('id', id, 'bucket', bucket, 'key', key)), '[]') from taken
$$;
comment on function worker.take_garbage is 'Objects of ended attempts to delete in storage.';

-- Deleted once; offered again after the longest upload deadline, an hour and a day: a resumed pod's PUT may come late.
create or replace function worker.garbage_gone(p_ids bigint[]) returns void
language sql volatile security definer set search_path = ''
as $$
  delete from worker.staged_objects where id = any (p_ids) and state = 'deleting' and deletions >= 3;
  update worker.staged_objects
  set deletions = deletions + 1,
      offer_after = clock_timestamp() + (array['15 minutes', '1 hour', '1 day']::interval[])[deletions + 1]
  where id = any (p_ids) and state = 'deleting';
$$;
comment on function worker.garbage_gone is 'These objects were deleted in storage.';

-- Say so where nobody can take a job; fail one that was given back and that no live pod lists any more.
create or replace function worker.explain_waiting(p_kind worker.job_kinds) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_job_id uuid;
  v_job jsonb;
begin
  for v_job_id in execute format(
    'select id from %1$s job where status = ''queued'' and (phase is null or phase like ''waiting%%'' or error_code is not null)
       and (phase is distinct from ''waiting: no running pod offers '' || worker.route($1, to_jsonb(job)))
       and not exists (select from worker.pods where worker.route($1, to_jsonb(job)) = any (routes)) order by id', p_kind.table_name)
    using p_kind.kind
  loop
    v_job := worker.try_lock_job(p_kind.kind, v_job_id);
    continue when v_job is null or v_job ->> 'status' <> 'queued';
    if v_job ->> 'error_code' in ('model_missing', 'out_of_memory') then
      perform worker.settle(p_kind.kind, v_job, 'failed', v_job ->> 'error_code', v_job ->> 'error');
    else
      execute format('update %s set phase = $2 where id = $1', p_kind.table_name)
        using v_job_id, 'waiting: no running pod offers ' || worker.route(p_kind.kind, v_job);
    end if;
  end loop;
  execute format(
    'update %s job set phase = ''waiting'' where status = ''queued'' and phase like ''waiting: no running pod%%''
       and exists (select from worker.pods where worker.route($1, to_jsonb(job)) = any (routes))', p_kind.table_name)
    using p_kind.kind;
end $$;
comment on function worker.explain_waiting is 'Say in phase that no live pod can take a job.';

-- Queue and jobs agree: every queued job has a queue row, and only open jobs have one.
create or replace function worker.reconcile() returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_kind worker.job_kinds;
  v_job_id uuid;
  v_job jsonb;
begin
  for v_kind in select * from worker.job_kinds order by kind loop
    perform worker.explain_waiting(v_kind);
    for v_job_id in execute format(
      'select id from %s job where status = ''queued'' and created_at < clock_timestamp() - interval ''10 seconds''
         and not exists (select from worker.pgqueuer where dedupe_key = $1 || '':'' || job.id) order by id', v_kind.table_name) using v_kind.kind
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      if v_job ->> 'status' = 'queued' then
        perform worker.enqueue(v_kind.kind, v_job);
      end if;
    end loop;
    for v_job_id in execute format(
      'select job.id from worker.pgqueuer queue join %s job on queue.dedupe_key = $1 || '':'' || job.id
       where split_part(queue.dedupe_key, '':'', 1) = $1 and job.status in (''completed'', ''failed'', ''cancelled'') order by 1', v_kind.table_name) using v_kind.kind
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      if v_job ->> 'status' in ('completed', 'failed', 'cancelled') then
        perform worker.dequeue_row(v_kind.kind, v_job_id, 'canceled');
      end if;
    end loop;
  end loop;
end $$;
comment on function worker.reconcile is 'Queue and jobs agree.';

create or replace function worker.prune() returns void
language sql volatile set search_path = ''
as $$
  delete from worker.pgqueuer_log where id in (
    select id from worker.pgqueuer_log where created < now() - (select keep_logs_for from worker.config) limit 1000);
  delete from worker.job_events where id in (
    select id from worker.job_events where at < now() - (select keep_logs_for from worker.config) limit 1000);
$$;
comment on function worker.prune is 'Forget old logs, a thousand rows at a time.';

-- Housekeeping, every 2 s by two pods (and by pg_cron where installed); whoever comes second does nothing. Answers how many
-- objects wait to be deleted in storage, which only a pod can do; NULL to the one that came second.
create or replace function worker.tick() returns integer
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_last timestamptz;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('likeness tick', 0)) then
    return null;
  end if;
  select last_tick into v_last from worker.clock for update;
  if v_last < clock_timestamp() - interval '5 seconds' then
    -- Nobody looked for a while: a restart or an outage, after which no silence proves anything.
    update worker.clock set grace_from = clock_timestamp();
    update worker.pods set lock_free_since = null;
  end if;
  update worker.clock set last_tick = clock_timestamp();
  perform worker.expire_consent();
  perform worker.reap();
  perform worker.reconcile();
  perform worker.prune();
  return (select count(*) from worker.staged_objects where state = 'deleting' and offer_after <= clock_timestamp());
end $$;
comment on function worker.tick is 'Housekeeping: reap, expire consent, reconcile, prune. Every 2 s, by two pods.';

-- --------------------------------------------------------------------------------------------------- the convenience copy

create or replace function worker.subject_lock_key(p_subject_id uuid) returns bigint
language sql immutable set search_path = ''
as $$ select hashtextextended('convenience copy of ' || p_subject_id, 0) $$;
comment on function worker.subject_lock_key is 'The advisory lock that copying and erasing a subject''s LoRA take: never the row, so that no copy makes a revocation wait.';

-- What to copy and whether it still may be; NULL to an attempt that lost its lease. Asked before and after copying.
create or replace function worker.lora_to_copy(p_kind text, p_id uuid, p_attempt integer) returns jsonb
language sql volatile security definer set search_path = ''
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

-- ---------------------------------------------------------------------------------------------------------------- kinds

-- A life-cycle column on every job table: LIKE copies once. '%s' stands for the table.
create or replace function worker.alter_job_tables(p_ddl text) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_table text;
begin
  for v_table in select 'worker.life_cycle' union select distinct table_name from worker.job_kinds order by 1 loop
    execute format(p_ddl, v_table);
  end loop;
end $$;
comment on function worker.alter_job_tables is 'Apply DDL (with %s for the table) to every job table and their template.';

create or replace function worker.grant_job_table(p_table text) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_request text;
begin
  select string_agg(quote_ident(attname), ', ') into v_request from pg_catalog.pg_attribute
  where attrelid = p_table::regclass and attnum > 0 and not attisdropped
    and (attname in ('id', 'owner_id', 'subject_id') or attname not in (select attname from pg_catalog.pg_attribute where attrelid = 'worker.life_cycle'::regclass and attnum > 0));
  execute format('revoke all on %s from public, anon, authenticated, service_role, likeness_worker', p_table);
  if p_table like 'public.%' then
    execute format('grant select, insert (%s) on %s to authenticated', v_request, p_table);
    execute format('grant select, insert (%s, priority, run_after, max_failures, max_runtime), update (priority, run_after, max_failures, max_runtime) on %s to service_role',
      v_request, p_table);
  end if;
end $$;
comment on function worker.grant_job_table is 'Clients insert requests; the life cycle is the functions'' alone.';

-- Makes a table a job table: foreign key, indexes, triggers, grants, Realtime. Idempotent; every migration runs it again.
create or replace function worker.register_job_table(
  p_kind text, p_table text, p_purpose text, p_subject_required boolean, p_slot text, p_max_runtime interval
) returns void
language plpgsql volatile set search_path = ''
as $$
declare
  v_name text := split_part(p_table, '.', 2);
begin
  insert into worker.job_kinds (kind, table_name, purpose, subject_required, slot, max_runtime)
  values (p_kind, p_table, p_purpose, p_subject_required, p_slot, p_max_runtime)
  on conflict (kind) do update set table_name = excluded.table_name, purpose = excluded.purpose,
    subject_required = excluded.subject_required, slot = excluded.slot;
  if not exists (select from pg_catalog.pg_constraint where conrelid = p_table::regclass and conname = v_name || '_subject_id_fkey') then
    execute format('alter table %s add constraint %I foreign key (subject_id) references public.subjects (id)', p_table, v_name || '_subject_id_fkey');
  end if;
  execute format('create index if not exists %I on %s (subject_id)', v_name || '_subject_id', p_table);
  execute format('create index if not exists %I on %s (owner_id, created_at desc)', v_name || '_owner_id_created_at', p_table);
  execute format('create index if not exists %I on %s (status) where status in (''queued'', ''running'')', v_name || '_open', p_table);
  execute format('create or replace trigger _100_before_insert before insert on %s for each row execute function worker.before_job_insert(%L)', p_table, p_kind);
  execute format('create or replace trigger _200_after_insert after insert on %s for each row execute function worker.after_job_insert(%L)', p_table, p_kind);
  execute format('create or replace trigger _300_before_update before update on %s for each row execute function worker.before_job_update()', p_table);
  execute format('create or replace trigger _400_priority after update of priority on %s for each row when (old.priority <> new.priority) execute function worker.after_priority_update(%L)', p_table, p_kind);
  perform worker.grant_job_table(p_table);
  if p_table like 'public.%' then
    execute format('alter table %s enable row level security', p_table);
    if exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime' and not puballtables)
       and not exists (select from pg_catalog.pg_publication_tables where pubname = 'supabase_realtime' and schemaname || '.' || tablename = p_table) then
      execute format('alter publication supabase_realtime add table %s', p_table);
    end if;
  end if;
end $$;
comment on function worker.register_job_table is 'Make a table a job table: keys, triggers, grants, Realtime. Idempotent.';

-- ---------------------------------------------------------------------------------------------------------------- rights

-- Everything is revoked from everybody, whatever the project's default privileges gave; then each line below grants.
do $$
declare
  v_function record;
begin
  for v_function in
    select p.oid::regprocedure as signature from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'worker'
       or (n.nspname = 'public' and p.proname in ('grant_consent', 'reject_consent', 'revoke_consent', 'cancel_job', 'retry_job'))
  loop
    execute format('revoke all on function %s from public, anon, authenticated, service_role, likeness_worker', v_function.signature);
  end loop;
end $$;

revoke all on schema worker from public, anon, authenticated, service_role;
grant usage on schema worker to authenticated, service_role, likeness_worker;
revoke all on all tables in schema worker from public, anon, authenticated, service_role, likeness_worker;
revoke all on all sequences in schema worker from public, anon, authenticated, service_role, likeness_worker;

-- What apps call. The wrappers run as their caller, who needs the one function that is meant for that role.
grant execute on function public.cancel_job, public.retry_job, public.grant_consent, public.revoke_consent to authenticated, service_role;
grant execute on function public.reject_consent to service_role;
grant execute on function worker.cancel_job_as_owner, worker.retry_job_as_owner, worker.grant_consent_as_owner,
  worker.revoke_consent_as_owner to authenticated;
grant execute on function worker.cancel_job_as_service, worker.retry_job_as_service, worker.grant_consent_as_service,
  worker.revoke_consent_as_service, worker.reject_consent_as_service to service_role;

-- What pods call. They own nothing, and may neither cancel nor touch consent.
grant execute on function worker.consent_error, worker.pod_lock_key, worker.subject_lock_key, worker.register_pod, worker.leave_pod, worker.peek,
  worker.start_job, worker.report_job, worker.stage_objects, worker.save_checkpoint, worker.complete_job, worker.fail_job,
  worker.release_job, worker.heartbeat, worker.tick, worker.reap, worker.take_garbage, worker.garbage_gone, worker.lora_to_copy,
  worker.starved_routes, worker.schema_major
  to likeness_worker;
grant select, insert, update, delete on worker.pgqueuer, worker.pgqueuer_log, worker.pgqueuer_schedules, worker.pgqueuer_statistics to likeness_worker;
grant usage on sequence worker.pgqueuer_id_seq, worker.pgqueuer_log_id_seq, worker.pgqueuer_schedules_id_seq, worker.pgqueuer_statistics_id_seq to likeness_worker;
grant select on worker.job_kinds, worker.base_models, worker.config, worker.schema_versions to likeness_worker;
grant select on worker.config, worker.base_models, worker.job_kinds, worker.pods, worker.job_events, worker.consent_events to service_role;
