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

-- Its subject, the people of its LoRAs, of its pictures, and of pictures drawn by earlier jobs.
create or replace function worker.subjects_of(p_kind text, p_job jsonb) returns setof uuid
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select (p_job ->> 'subject_id')::uuid where p_job ->> 'subject_id' is not null
  union
  select models.subject_id from public.subjects_models models
  where models.id in (select named.key::uuid from worker.named_keys(p_kind, p_job) named where named.rule = 'lora') and models.subject_id is not null
  union
  select subjects.id from worker.named_keys(p_kind, p_job) named
  join public.subjects on named.rule <> 'lora' and subjects.id = worker.key_subject(named.key)
  union
  -- By the published object and its kind: ids are the clients' to choose, so an id alone proves nothing.
  select touched.subject_id from worker.named_keys(p_kind, p_job) named
  join worker.staged_objects drawn on drawn.bucket = (select bucket_uploads from worker.config)
    and named.rule <> 'lora' and drawn.key = named.key and drawn.state = 'published'
  join worker.job_subjects touched on touched.kind = drawn.kind and touched.job_id = drawn.job_id
$$;
comment on function worker.subjects_of is 'Every person a job touches.';

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
  foreach v_wanted in array worker.capabilities(p_kind, p_job) loop
    if v_wanted <> all (v_base.capabilities) then
      return format('base: %s cannot do %s; it can do %s%s', v_base.slug, v_wanted, array_to_string(v_base.capabilities, ', '),
                    case when v_wanted = 'train' and v_base.train_base is not null then format('; train on %s', v_base.train_base) else '' end);
    end if;
  end loop;
  return null;
end $$;
comment on function worker.base_error is 'What the chosen base cannot do, or NULL.';

-- Another owner's LoRA and an unknown one give the same answer.
create or replace function worker.models_error(p_kind text, p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_named record;
  v_family text;
  v_base_family text := (select family from worker.base_models where slug = p_job ->> 'base');
begin
  for v_named in select named.column_name, named.key from worker.named_keys(p_kind, p_job) named where named.rule = 'lora' loop
    select models.family into v_family
    from public.subjects_models models left join public.subjects on subjects.id = models.subject_id
    where models.id = v_named.key::uuid and (models.subject_id is null or subjects.owner_id = (p_job ->> 'owner_id')::uuid);
    if not found then
      return format('%s: no such LoRA of this owner: %s', v_named.column_name, coalesce(v_named.key, 'null'));
    elsif v_family <> v_base_family then
      return format('%s: LoRA %s is for %s, but base %s is %s', v_named.column_name, v_named.key, v_family, p_job ->> 'base', v_base_family);
    end if;
  end loop;
  return null;
end $$;
comment on function worker.models_error is 'Why the LoRAs a job names may not be used, or NULL.';

create or replace function worker.keys_error(p_kind text, p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner_id uuid := (p_job ->> 'owner_id')::uuid;
  v_named record;
  v_error text;
begin
  for v_named in select named.* from worker.named_keys(p_kind, p_job) named where named.rule <> 'lora' loop
    v_error := case
      when v_named.rule not in ('own_photo', 'person', 'input') then format('has the unknown rule %s', quote_literal(v_named.rule))
      else worker.key_error(v_owner_id, v_named.key, v_named.rule = 'input') end;
    if v_error is null and v_named.rule = 'own_photo' and v_named.key not like format('%s/%s/photos/%%', v_owner_id, p_job ->> 'subject_id') then
      v_error := 'must lie under {owner_id}/{subject_id}/photos/ of the job''s own subject';
    end if;
    if v_error is not null then
      return format('%s: %s %s', v_named.column_name, quote_literal(left(v_named.key, 200)), v_error);
    end if;
  end loop;
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

-- Whose things it names, then what its base can do, then what the kind itself objects to.
create or replace function worker.request_error(p_kind text, p_job jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    worker.keys_error(p_kind, p_job),
    worker.preset_error(p_kind, p_job),
    worker.models_error(p_kind, p_job),
    case when p_job ? 'base' then worker.base_error(p_kind, p_job) end,
    worker.hook_error(p_kind, 'request_error', p_job))
$$;
comment on function worker.request_error is 'Why a request cannot be done, or NULL.';

-- It names the rule and never quotes.
create or replace function worker.prompt_error(p_kind text, p_job jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('the %s asks for %s (rule %s); change it and insert another job', replace(said.column_name, '_', ' '), rule.asks, rule.id)
  from worker.texts(p_kind, p_job) with ordinality as said (column_name, words, screens, place)
  join worker.screening_rules rule on said.words is not null and rule.id = worker.find_violation(said.words, said.screens)
  order by said.place limit 1
$$;
comment on function worker.prompt_error is 'Why a job''s words may not be drawn or learned, or NULL.';
