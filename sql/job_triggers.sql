-- Triggers of the job tables: a row is checked and completed before it is inserted and queued after, and its request columns
-- never change.

create or replace function worker.count_jobs(p_owner_id uuid, p_condition text) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text;
  v_count bigint;
  v_total bigint := 0;
begin
  for v_table in select distinct table_name from worker.live_kinds() where table_name like 'public.%' loop
    execute format('select count(*) from %s where owner_id = $1 and %s', v_table, p_condition) into v_count using p_owner_id;
    v_total := v_total + v_count;
  end loop;
  return v_total;
end $$;
comment on function worker.count_jobs is 'Return how many jobs of an owner meet a SQL condition, over all kinds that apps insert.';

create or replace function worker.check_open_jobs(p_owner_id uuid) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit integer := (select open_jobs_per_owner from worker.config);
begin
  -- One transaction at a time for each owner; otherwise two requests could both get the last place.
  perform pg_advisory_xact_lock(hashtextextended('open jobs of ' || p_owner_id, 0));
  -- Refused requests are kept for ever, also in the ledger, and a user must not find a way around the words by trying.
  if worker.count_jobs(p_owner_id,
       $q$created_at > now() - worker.timing('refusals_counted') and status = 'failed' and error_code in ('consent_denied', 'prompt_blocked') and attempt = 0$q$) >= 10 * v_limit then
    raise exception 'too many refused requests: at most % an hour', 10 * v_limit using errcode = 'PT429';
  end if;
  if worker.count_jobs(p_owner_id, $q$status in ('queued', 'running')$q$) >= v_limit then
    raise exception 'too many open jobs: at most % at a time', v_limit
      using errcode = 'PT429', hint = 'Wait until one has ended, or cancel one with cancel_job(kind, id).';
  end if;
end $$;
comment on function worker.check_open_jobs is 'Raise PT429 (HTTP 429) when the user has too many open jobs, or too many refused ones.';

-- The job's own CHECKs then apply to the preset's settings, and editing or deleting a preset later does not change a request.
create or replace function worker.preset_columns(p_kind text, p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select coalesce(jsonb_object_agg(setting.key, setting.value) filter (
             where setting.key in ('width', 'height', 'steps', 'guidance', 'rank', 'learning_rate', 'resolution', 'class_name')
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

create or replace function worker.before_job_insert() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind worker.job_kinds;
  v_user uuid := auth.uid();
  v_subject public.subjects;
  v_known boolean;
  v_error text;
  v_code text := 'consent_denied';
begin
  select * into v_kind from worker.job_kinds where kind = tg_argv[0];
  if new.subject_id is null then
    new.owner_id := coalesce(v_user, new.owner_id);
    if v_kind.subject_required then
      raise exception 'subject_id: a % job needs a subject', v_kind.kind using errcode = '23502';
    end if;
  else
    select * into v_subject from public.subjects where id = new.subject_id;
    if v_subject.id is null or (v_user is not null and v_subject.owner_id is distinct from v_user) then
      raise exception 'subject_id: subject not found for this user' using errcode = '42501';
    end if;
    new.owner_id := v_subject.owner_id;
  end if;
  if v_kind.table_name like 'public.%' then
    if new.owner_id is null then
      raise exception 'owner_id is missing: set subject_id or owner_id' using errcode = '23502';
    end if;
    execute format('select exists (select from %s where id = $1)', v_kind.table_name) into v_known using new.id;
    if not v_known then  -- a request repeated with the same id needs no new place
      perform worker.check_open_jobs(new.owner_id);
    end if;
  end if;
  -- A job starts at the beginning, whatever the client sent. (Clients have no right to these columns anyway.)
  new.status := 'queued';
  new.attempt := 0;
  new.failures := 0;
  new.finished_at := null;
  new.max_runtime := coalesce(new.max_runtime, v_kind.max_runtime);
  new.phase := 'waiting';
  if to_jsonb(new) ? 'base' then
    new := jsonb_populate_record(new, jsonb_build_object('base',
      coalesce(to_jsonb(new) ->> 'base', worker.default_base(v_kind.kind, to_jsonb(new)))));
  end if;
  new := jsonb_populate_record(new, worker.preset_columns(v_kind.kind, to_jsonb(new)));
  v_error := worker.request_error(v_kind.kind, to_jsonb(new));
  if v_error is not null then
    raise exception '%', v_error using errcode = '22023';
  end if;
  if v_kind.purpose is not null then
    -- Held until this transaction ends, so that a revocation either sees this job or is seen by it.
    perform from public.subjects where id in (select worker.subjects_of(v_kind.kind, to_jsonb(new))) order by id for key share;
    select worker.consent_error(touched, v_kind.purpose) into v_error
    from worker.subjects_of(v_kind.kind, to_jsonb(new)) touched
    where worker.consent_error(touched, v_kind.purpose) is not null limit 1;
  end if;
  if v_error is null then
    v_error := worker.prompt_error(v_kind.kind, to_jsonb(new));
    v_code := 'prompt_blocked';
  end if;
  if v_error is not null then
    -- The row is inserted as failed, so that the app can show why, and the ledger has an entry.
    new.status := 'failed';
    new.phase := 'refused';
    new.error_code := v_code;
    new.error := v_error;
    new.finished_at := clock_timestamp();
  end if;
  if new.status = 'queued' then
    v_error := worker.hook_error(v_kind.kind, 'insert_error', to_jsonb(new));
    if v_error is not null then
      raise exception '%', v_error using errcode = '22023';
    end if;
  end if;
  return new;
end $$;
comment on function worker.before_job_insert is 'Fill in owner and base model, check the request, refuse people without consent and blocked prompts.';

create or replace function worker.after_job_insert() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  -- After, not before: with ON CONFLICT DO NOTHING a BEFORE trigger also runs for rows that are never inserted.
  insert into worker.job_subjects (kind, job_id, subject_id)
  select tg_argv[0], new.id, touched from worker.subjects_of(tg_argv[0], to_jsonb(new)) touched
  on conflict do nothing;
  if new.status = 'queued' then
    perform worker.enqueue(tg_argv[0], to_jsonb(new));
  else
    perform worker.log_event(tg_argv[0], new.id, 0, 'refused', jsonb_build_object('code', new.error_code, 'error', new.error));
    perform worker.log_refusal(tg_argv[0], new.id, new.error);
  end if;
  return null;
end $$;
comment on function worker.after_job_insert is 'Record the people in the job, and put it on the queue.';

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
  perform pg_notify('likeness_queue', '');
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
