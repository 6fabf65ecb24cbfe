-- What a job asks for: whose pictures and LoRAs it names, which base, and whether all of that may be.
-- Used when a job is inserted, and again when it is started. All take the job's row as jsonb, so that every kind is covered.

-- An array column of a job's row as a set; NULL and missing columns are empty.
create or replace function worker.items(p_job jsonb, p_column text) returns setof text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select value from jsonb_array_elements_text(
    case when jsonb_typeof(p_job -> p_column) = 'array' then p_job -> p_column else '[]' end)
$$;
comment on function worker.items is 'An array column of a job''s row as a set.';

-- NULL when the key is one this owner may name, else why not. The worker's own S3 key knows no RLS: this is the check.
create or replace function worker.key_error(p_owner_id uuid, p_key text, p_inputs_allowed boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_parts text[] := string_to_array(p_key, '/');
begin
  if p_key is null or length(p_key) > 900 or p_key !~ '^[A-Za-z0-9._ ()+@=,-]+(/[A-Za-z0-9._ ()+@=,-]+){3,}$' or '..' = any (v_parts) or '.' = any (v_parts) then
    return 'is not a plain key such as {owner_id}/{subject_id}/photos/1.jpg';
  elsif p_owner_id is null or v_parts[1] <> p_owner_id::text then
    return 'must begin with the owner''s id';
  elsif v_parts[3] = 'generated' and not exists (
    select from worker.staged_objects
    where bucket = (select bucket_uploads from worker.config) and key = p_key and owner_id = p_owner_id and state = 'published') then
    -- Else a key could name another owner's job, and its answer would tell of those people's consent.
    return 'is no picture of a completed job of this owner';
  elsif v_parts[2] = '_' then
    if p_inputs_allowed and v_parts[3] in ('inputs', 'generated') then
      return null;
    end if;
    return 'must lie under a subject: pictures of people always need one';
  elsif not exists (select from public.subjects where id = worker.key_subject(p_key) and owner_id = p_owner_id) then
    return 'must lie under {owner_id}/{subject_id}/ of a subject of the same owner';
  end if;
  return null;
end $$;
comment on function worker.key_error is 'NULL when the owner may name this object key, else why not.';

-- The subject that a key lies under, or NULL.
create or replace function worker.key_subject(p_key text) returns uuid
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select substring(p_key from '^[^/]+/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})/')::uuid $$;
comment on function worker.key_subject is 'The subject that a key lies under, or NULL.';

-- Every object key that the client names in a job.
create or replace function worker.named_keys(p_job jsonb) returns setof text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select worker.items(p_job, 'sample_paths')
  union select worker.items(p_job, 'reference_paths')
  union select p_job ->> 'control_path' where p_job ->> 'control_path' is not null
$$;
comment on function worker.named_keys is 'Every object key that the client names in a job.';

-- Every person a job touches: its subject, the people of its LoRAs, of its pictures, and of pictures drawn by earlier jobs.
create or replace function worker.subjects_of(p_job jsonb) returns setof uuid
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select (p_job ->> 'subject_id')::uuid where p_job ->> 'subject_id' is not null
  union
  select models.subject_id from public.subjects_models models
  where models.id in (select worker.items(p_job, 'model_ids')::uuid) and models.subject_id is not null
  union
  select subjects.id from worker.named_keys(p_job) keys (key)
  join public.subjects on subjects.id = worker.key_subject(keys.key)
  union
  -- By the published object and its kind: ids are the clients' to choose, so an id alone proves nothing.
  select touched.subject_id from worker.named_keys(p_job) keys (key)
  join worker.staged_objects drawn on drawn.bucket = (select bucket_uploads from worker.config)
    and drawn.key = keys.key and drawn.state = 'published'
  join worker.job_subjects touched on touched.kind = drawn.kind and touched.job_id = drawn.job_id
$$;
comment on function worker.subjects_of is 'Every person a job touches.';

-- The base a job runs on when it names none: that of its LoRAs, else the default.
create or replace function worker.default_base(p_kind text, p_job jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    case when p_kind = 'generation' then (
      select models.base from public.subjects_models models
      where case when cardinality(array(select worker.items(p_job, 'model_ids'))) > 0
                 then models.id in (select worker.items(p_job, 'model_ids')::uuid)
                 else models.subject_id = (p_job ->> 'subject_id')::uuid and models.retired_at is null end
      order by models.created_at desc limit 1)
    end,
    (select default_base from worker.config))
$$;
comment on function worker.default_base is 'The base a job runs on when it names none.';

-- What the chosen base cannot do, or NULL.
create or replace function worker.base_error(p_kind text, p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_base worker.base_models;
  v_wanted text;
begin
  select * into v_base from worker.base_models where slug = p_job ->> 'base';
  if v_base.slug is null then
    return format('base: %s is not known here; known are %s', coalesce(quote_literal(p_job ->> 'base'), 'null'),
                  (select string_agg(slug, ', ' order by slug) from worker.base_models));
  end if;
  for v_wanted in
    select 'train' where p_kind = 'training'
    union all select 'lora' where p_kind = 'generation' and (p_job ->> 'subject_id' is not null or jsonb_typeof(p_job -> 'model_ids') = 'array' and jsonb_array_length(p_job -> 'model_ids') > 0)
    union all select 'ip_adapter' where jsonb_typeof(p_job -> 'reference_paths') = 'array'
    union all select 'control:' || (p_job ->> 'control_kind') where p_job ->> 'control_kind' is not null
  loop
    if v_wanted <> all (v_base.capabilities) then
      return format('base: %s cannot do %s; it can do %s%s', v_base.slug, v_wanted, array_to_string(v_base.capabilities, ', '),
                    case when v_wanted = 'train' and v_base.train_base is not null then format('; train on %s', v_base.train_base) else '' end);
    end if;
  end loop;
  return null;
end $$;
comment on function worker.base_error is 'What the chosen base cannot do, or NULL.';

-- Why the LoRAs a job names may not be used, or NULL. Another owner's and an unknown one give the same answer.
create or replace function worker.models_error(p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_id text;
  v_family text;
  v_base_family text := (select family from worker.base_models where slug = p_job ->> 'base');
begin
  for v_id in select worker.items(p_job, 'model_ids') loop
    select models.family into v_family
    from public.subjects_models models left join public.subjects on subjects.id = models.subject_id
    where models.id = v_id::uuid and (models.subject_id is null or subjects.owner_id = (p_job ->> 'owner_id')::uuid);
    if not found then
      return format('model_ids: no such LoRA of this owner: %s', coalesce(v_id, 'null'));
    elsif v_family <> v_base_family then
      return format('model_ids: LoRA %s is for %s, but base %s is %s', v_id, v_family, p_job ->> 'base', v_base_family);
    end if;
  end loop;
  return null;
end $$;
comment on function worker.models_error is 'Why the LoRAs a job names may not be used, or NULL.';

-- Why the keys a job names may not be used, or NULL.
create or replace function worker.keys_error(p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner_id uuid := (p_job ->> 'owner_id')::uuid;
  v_key text;
  v_error text;
begin
  for v_key in select worker.items(p_job, 'sample_paths') loop
    -- A LoRA belongs to one person, so it learns from that person's photographs alone.
    v_error := worker.key_error(v_owner_id, v_key, false);
    if v_error is null and v_key not like format('%s/%s/photos/%%', v_owner_id, p_job ->> 'subject_id') then
      v_error := 'must lie under {owner_id}/{subject_id}/photos/ of the job''s own subject';
    end if;
    if v_error is not null then
      return format('sample_paths: %s %s', quote_literal(left(v_key, 200)), v_error);
    end if;
  end loop;
  for v_key in select worker.items(p_job, 'reference_paths') loop
    v_error := worker.key_error(v_owner_id, v_key, false);
    if v_error is not null then
      return format('reference_paths: %s %s', quote_literal(left(v_key, 200)), v_error);
    end if;
  end loop;
  if p_job ->> 'control_path' is not null then
    v_error := worker.key_error(v_owner_id, p_job ->> 'control_path', true);
    if v_error is not null then
      return format('control_path: %s %s', quote_literal(left(p_job ->> 'control_path', 200)), v_error);
    end if;
  end if;
  return null;
end $$;
comment on function worker.keys_error is 'Why the object keys a job names may not be used, or NULL.';

create or replace function worker.preset_error(p_kind text, p_job jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select 'preset_id: no such preset of this owner for ' || p_kind
  where p_job ->> 'preset_id' is not null and p_job ->> 'preset' is null and not exists (
    select from public.presets
    where id = (p_job ->> 'preset_id')::uuid and kind = p_kind
      and (owner_id is null or owner_id = (p_job ->> 'owner_id')::uuid))
$$;
comment on function worker.preset_error is 'Why the preset a job names may not be used, or NULL.';

-- Why a request cannot be done, or NULL: whose things it names, then what its base can do.
create or replace function worker.request_error(p_kind text, p_job jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    worker.keys_error(p_job),
    worker.preset_error(p_kind, p_job),
    worker.models_error(p_job),
    case when p_job ? 'base' then worker.base_error(p_kind, p_job) end,
    case when p_kind = 'generation' and p_job ->> 'preset_id' is null and btrim(p_job ->> 'prompt') = '' then
      'prompt: give a prompt, a preset or both' end)
$$;
comment on function worker.request_error is 'Why a request cannot be done, or NULL.';

-- ------------------------------------------------------------------------------------------------ triggers of job tables

-- How many jobs of an owner meet a condition of ours, over all kinds that apps insert.
create or replace function worker.count_jobs(p_owner_id uuid, p_condition text) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text;
  v_count bigint;
  v_total bigint := 0;
begin
  for v_table in select distinct table_name from worker.job_kinds where table_name like 'public.%' loop
    execute format('select count(*) from %s where owner_id = $1 and %s', v_table, p_condition) into v_count using p_owner_id;
    v_total := v_total + v_count;
  end loop;
  return v_total;
end $$;
comment on function worker.count_jobs is 'How many jobs of an owner meet a condition.';

create or replace function worker.check_open_jobs(p_owner_id uuid) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit integer := (select open_jobs_per_owner from worker.config);
begin
  -- One at a time for each owner, or two requests could both take the last place.
  perform pg_advisory_xact_lock(hashtextextended('open jobs of ' || p_owner_id, 0));
  -- Each refused request is a row for ever, of the ledger too, and nobody may feel a way around the words.
  if worker.count_jobs(p_owner_id,
       $q$created_at > now() - interval '1 hour' and status = 'failed' and error_code in ('consent_denied', 'prompt_blocked') and attempt = 0$q$) >= 10 * v_limit then
    raise exception 'too many refused requests: at most % an hour', 10 * v_limit using errcode = 'PT429';
  end if;
  if worker.count_jobs(p_owner_id, $q$status in ('queued', 'running')$q$) >= v_limit then
    raise exception 'too many open jobs: at most % at a time', v_limit
      using errcode = 'PT429', hint = 'Wait until one has ended, or cancel one with cancel_job(kind, id).';
  end if;
end $$;
comment on function worker.check_open_jobs is 'Raise PT429 (HTTP 429) when the owner has too many open jobs.';

-- What a preset brings to a job: a snapshot of itself, and its settings for columns that the request leaves open. The
-- job's own CHECKs then hold for both, and a preset that is edited or deleted later changes no request.
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
comment on function worker.preset_columns is 'What a preset brings to a job: a snapshot, and settings for columns that the request leaves open.';

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
      raise exception 'subject_id: no such subject of yours' using errcode = '42501';
    end if;
    new.owner_id := v_subject.owner_id;
  end if;
  if v_kind.table_name like 'public.%' then
    if new.owner_id is null then
      raise exception 'owner_id: whose job is this? name a subject or an owner' using errcode = '23502';
    end if;
    execute format('select exists (select from %s where id = $1)', v_kind.table_name) into v_known using new.id;
    if not v_known then  -- a request that is repeated with its id takes no new place
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
    perform from public.subjects where id in (select worker.subjects_of(to_jsonb(new))) order by id for key share;
    select worker.consent_error(touched, v_kind.purpose) into v_error
    from worker.subjects_of(to_jsonb(new)) touched
    where worker.consent_error(touched, v_kind.purpose) is not null limit 1;
  end if;
  if v_error is null then
    v_error := worker.prompt_error(to_jsonb(new));
    v_code := 'prompt_blocked';
  end if;
  if v_error is not null then
    -- The row arrives, refused, so that the app has something to show and the ledger an entry.
    new.status := 'failed';
    new.phase := 'refused';
    new.error_code := v_code;
    new.error := v_error;
    new.finished_at := clock_timestamp();
  end if;
  if v_kind.kind = 'training' and new.status = 'queued' then
    v_error := worker.photos_error(to_jsonb(new));
    if v_error is not null then
      raise exception '%', v_error using errcode = '22023';
    end if;
  end if;
  return new;
end $$;
comment on function worker.before_job_insert is 'Fill owner and base, check the request, refuse people without consent and blocked prompts.';

create or replace function worker.after_job_insert() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  -- After, not before: with ON CONFLICT DO NOTHING a BEFORE trigger also runs for rows that are never inserted.
  insert into worker.job_subjects (kind, job_id, subject_id)
  select tg_argv[0], new.id, touched from worker.subjects_of(to_jsonb(new)) touched
  on conflict do nothing;
  if new.status = 'queued' then
    perform worker.enqueue(tg_argv[0], to_jsonb(new));
  else
    perform worker.log_event(tg_argv[0], new.id, 0, 'refused', jsonb_build_object('code', new.error_code, 'error', new.error));
    perform worker.log_refusal(tg_argv[0], new.id, new.error);
  end if;
  return null;
end $$;
comment on function worker.after_job_insert is 'Note who is touched, and put the job on the queue.';

create or replace function worker.before_job_update() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_changed text;
begin
  -- Request columns are all that the life cycle does not own, plus the three that say who.
  select string_agg(coalesce(old_column.key, new_column.key), ', ') into v_changed
  from jsonb_each(to_jsonb(old)) old_column full join jsonb_each(to_jsonb(new)) new_column using (key)
  where old_column.value is distinct from new_column.value
    and not (coalesce(old_column.key, new_column.key) = any (worker.changing_columns()));
  if v_changed is not null then
    raise exception 'a request does not change after it was made: %', v_changed
      using errcode = '42501', hint = 'Cancel this job and insert another.';
  end if;
  if new.attempt < old.attempt then
    raise exception 'attempt is the fencing token and never goes down' using errcode = '42501';
  end if;
  return new;
end $$;
comment on function worker.before_job_update is 'Request columns never change after INSERT, for any role.';

create or replace function worker.after_order_update() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  update worker.pgqueuer set priority = new.priority * 1000, execute_after = coalesce(new.run_after, now())
  where dedupe_key = tg_argv[0] || ':' || new.id and status = 'queued';
  perform pg_notify('likeness_queue', '');
  return null;
end $$;
comment on function worker.after_order_update is 'Carry a changed priority or run_after over to the queue.';

create or replace function worker.on_photo_write() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner_id uuid := (select owner_id from public.subjects where id = new.subject_id);
  v_error text;
begin
  if v_owner_id is null or (auth.uid() is not null and v_owner_id <> auth.uid()) then
    raise exception 'subject_id: no such subject of yours' using errcode = '42501';
  end if;
  v_error := worker.key_error(v_owner_id, new.path, false);
  if v_error is null and new.path not like format('%s/%s/photos/%%', v_owner_id, new.subject_id) then
    v_error := format('must lie under %s/%s/photos/', v_owner_id, new.subject_id);
  end if;
  if v_error is not null then
    raise exception 'path: % %', quote_literal(left(new.path, 200)), v_error using errcode = '22023';
  end if;
  return new;
end $$;
comment on function worker.on_photo_write is 'A photograph lies under its own subject''s prefix.';
