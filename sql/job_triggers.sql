-- Triggers of the job tables: a row is checked and completed before it is inserted and queued after, and its request columns
-- never change.

-- The job's own CHECKs then apply to the preset's settings, and editing or deleting a preset later does not change a request.
create or replace function worker.preset_columns(p_kind text, p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select coalesce(jsonb_object_agg(setting.key, setting.value) filter (
             where setting.key in ('width', 'height', 'steps', 'guidance', 'sampler', 'clip_skip', 'rank', 'learning_rate', 'resolution', 'class_name')
               and p_job -> setting.key = 'null'), '{}')
           || jsonb_build_object('preset', jsonb_build_object('prompt', preset.prompt, 'negative_prompt', preset.negative_prompt))
    from public.presets preset left join lateral jsonb_each(preset.settings) setting on true
    where preset.id = (p_job ->> 'preset_id')::uuid and preset.kind = p_kind
      and (preset.owner_id is null or preset.owner_id = (p_job ->> 'owner_id')::uuid)
    group by preset.id
  ), '{}')
$$;
comment on function worker.preset_columns is
  'Return what a preset adds to a job: a snapshot of itself, and settings for columns that the request leaves open.';

-- The service key may name an owner without an account, for requests about nobody.
create or replace function worker.owner_of_request(p_kind worker.job_kinds, p_subject_id uuid, p_owner_id uuid) returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid := auth.uid();
  v_owner_id uuid := coalesce(v_user, p_owner_id);
begin
  if p_subject_id is not null then
    select subjects.owner_id into v_owner_id from public.subjects where id = p_subject_id;
    if not found or (v_user is not null and v_owner_id is distinct from v_user) then
      raise exception 'subject_id: subject not found for this user' using errcode = '42501';
    end if;
  elsif p_kind.subject_required then
    raise exception 'subject_id: a % job needs a subject', p_kind.kind using errcode = '23502';
  end if;
  if p_kind.table_name like 'public.%' then
    if v_owner_id is null then
      raise exception 'owner_id is missing: set subject_id or owner_id' using errcode = '23502';
    end if;
    if not worker.lock_account(v_owner_id) and v_user is not null then
      raise exception 'the account of this user was deleted' using errcode = '42501', hint = 'Sign in again.';
    end if;
  end if;
  return v_owner_id;
end $$;
comment on function worker.owner_of_request is
  'Return whose job a request becomes: its subject''s owner, else the signed-in user, else the owner it names. Raises if it may not be theirs.';

create or replace function worker.left_open(p_kind worker.job_kinds, p_job jsonb, p_defaults jsonb) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_filled jsonb := worker.defaults_for_nulls(p_job, p_defaults);
begin
  if p_job -> 'base' = 'null' then
    v_filled := v_filled || jsonb_build_object('base', worker.default_base(p_kind.kind, p_job || v_filled));
  end if;
  if p_job ->> 'preset_id' is not null then
    v_filled := v_filled || worker.preset_columns(p_kind.kind, p_job || v_filled);
  end if;
  return v_filled;
end $$;
comment on function worker.left_open is 'Return the columns that a request leaves open: their defaults, the base model, and what the preset says.';

create or replace function worker.consent_refusal(p_kind worker.job_kinds, p_job jsonb) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_people uuid[] := array(select worker.subjects_of(p_kind.kind, p_job));
  v_person uuid;
  v_error text;
begin
  -- Held until this transaction ends, so that a revocation either sees this job or is seen by it.
  perform from public.subjects where id = any (v_people) order by id for key share;
  foreach v_person in array v_people loop
    v_error := worker.consent_error(v_person, p_kind.purpose);
    exit when v_error is not null;
  end loop;
  return v_error;
end $$;
comment on function worker.consent_refusal is 'Lock the people in a request; returns why one of them may not be used, or NULL.';

create or replace function worker.refusal(p_kind worker.job_kinds, p_job jsonb) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_code text := 'consent_denied';
  v_error text;
begin
  if p_kind.purpose is not null then
    v_error := worker.consent_refusal(p_kind, p_job);
  end if;
  if v_error is null then
    v_code := 'prompt_blocked';
    v_error := worker.prompt_error(p_kind.kind, p_job);
  end if;
  if v_error is not null then
    return jsonb_build_object('status', 'failed', 'phase', 'refused', 'error_code', v_code, 'error', v_error, 'finished_at', clock_timestamp());
  end if;
  return '{}';
end $$;
comment on function worker.refusal is
  'Return the columns of a refused request, which is inserted as failed so that the app can show why; an empty object if it is not refused.';

create or replace function worker.check_request(p_error text) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_error is not null then
    raise exception '%', p_error using errcode = '22023';
  end if;
end $$;
comment on function worker.check_request is 'Raise 22023 for a request with an error.';

-- Its statements find rows by their keys, so that no plan depends on a value, and none needs to be made for each row.
create or replace function worker.before_job_insert() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  v_kind worker.job_kinds;
  v_job jsonb;
  v_filled jsonb;
  v_capabilities text[];
begin
  select * into v_kind from worker.job_kinds where kind = tg_argv[0];
  -- A job starts at the beginning, whatever the client sent. (Clients have no right to these columns anyway.)
  new.status := 'queued';
  new.attempt := 0;
  new.failures := 0;
  new.finished_at := null;
  new.max_runtime := coalesce(new.max_runtime, v_kind.max_runtime);
  new.phase := 'waiting';
  new.owner_id := worker.owner_of_request(v_kind, new.subject_id, new.owner_id);
  v_job := to_jsonb(new);
  v_filled := worker.left_open(v_kind, v_job, tg_argv[1]::jsonb);
  v_job := v_job || v_filled;
  if v_kind.uses_base then
    v_capabilities := worker.capabilities(v_kind.kind, v_job);
  end if;
  perform worker.check_request(worker.request_error(v_kind.kind, v_job, v_capabilities));
  new.guides := null;
  if v_capabilities <> '{}' and 'guided_by' = any (v_kind.hooks) then
    new.guides := worker.wanted_guides(v_kind.kind, v_job, v_capabilities);
  end if;
  v_filled := v_filled || worker.refusal(v_kind, v_job);
  if not v_filled ? 'error' then
    perform worker.check_request(worker.hook_error(v_kind.kind, 'insert_error', v_job));
  end if;
  return jsonb_populate_record(new, v_filled);
end $$;
comment on function worker.before_job_insert is 'Fill in defaults, owner and base model, check the request, refuse people without consent and blocked prompts.';

-- After the statement: with ON CONFLICT DO NOTHING, a BEFORE trigger also runs for rows that are never inserted, and they need no place.
create or replace function worker.after_job_insert() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner record;
  v_queued worker.pgqueuer[];
begin
  if tg_table_schema = 'public' then
    for v_owner in
      select owner_id, count(*) filter (where status = 'queued') as queued,
        count(*) filter (where status = 'failed' and error_code = 'prompt_blocked') as blocked,
        count(*) filter (where status = 'failed' and error_code = 'consent_denied') as denied
      from new_rows group by owner_id order by owner_id
    loop
      perform worker.check_quota(v_owner.owner_id, v_owner.queued, v_owner.blocked, v_owner.denied);
    end loop;
  end if;
  insert into worker.job_subjects (kind, job_id, subject_id)
  select tg_argv[0], job.id, touched from new_rows job cross join lateral worker.subjects_of(tg_argv[0], to_jsonb(job)) touched
  on conflict do nothing;
  v_queued := array(select worker.queue_row(tg_argv[0], to_jsonb(job)) from new_rows job where status = 'queued');
  if v_queued <> '{}' then
    perform worker.enqueue_rows(v_queued);
  end if;
  perform worker.log_event(tg_argv[0], job.id, 0, 'refused', jsonb_build_object('code', job.error_code, 'error', job.error)),
          worker.log_refusal(tg_argv[0], job.id, job.error)
  from new_rows job where status <> 'queued';
  return null;
end $$;
comment on function worker.after_job_insert is
  'Check the owners'' quotas, record the people in the jobs, and put them on the queue; refused ones are recorded as such.';

create or replace function worker.before_job_update() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_changed text;
begin
  -- The request is every column that the life of a job does not change.
  select string_agg(coalesce(old_column.key, new_column.key), ', ') into v_changed
  from jsonb_each(to_jsonb(old)) old_column full join jsonb_each(to_jsonb(new)) new_column using (key)
  where old_column.value is distinct from new_column.value
    and not (coalesce(old_column.key, new_column.key) = any (worker.changing_columns()));
  if v_changed is not null then
    raise exception 'a request cannot be changed after INSERT: %', v_changed
      using errcode = '42501', hint = 'Cancel this job and insert another.';
  end if;
  if new.attempt < old.attempt then
    raise exception 'attempt cannot decrease: only the newest attempt may write' using errcode = '42501';
  end if;
  return new;
end $$;
comment on function worker.before_job_update is 'Raise 42501 when a request column changes after INSERT, for any role.';

create or replace function worker.after_order_update() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  update worker.pgqueuer set priority = new.priority * 1000, execute_after = worker.queue_time(new.run_after)
  where dedupe_key = tg_argv[0] || ':' || new.id and status = 'queued';
  perform pg_notify('likeness_queue', worker.route(tg_argv[0], to_jsonb(new)));
  return null;
end $$;
comment on function worker.after_order_update is 'Copy a changed priority or run_after to the queue.';

create or replace function worker.on_photo_write() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner_id uuid := (select owner_id from public.subjects where id = new.subject_id);
  v_error text;
begin
  if v_owner_id is null or (auth.uid() is not null and v_owner_id <> auth.uid()) then
    raise exception 'subject_id: subject not found for this user' using errcode = '42501';
  elsif tg_op = 'INSERT' then
    perform worker.lock_account(v_owner_id);
  end if;
  v_error := worker.key_error(v_owner_id, new.path, false);
  if v_error is null and new.path not like format('%s/%s/photos/%%', v_owner_id, new.subject_id) then
    v_error := format('must be under %s/%s/photos/', v_owner_id, new.subject_id);
  end if;
  if v_error is not null then
    raise exception 'path: % %', quote_literal(left(new.path, 200)), v_error using errcode = '22023';
  end if;
  return new;
end $$;
comment on function worker.on_photo_write is 'Raise 22023 unless a photo''s key is under its own subject''s prefix.';
