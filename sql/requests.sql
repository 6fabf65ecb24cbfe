-- Checks of a request: the people, object keys, LoRAs, preset and base model that it names. They run when a job is inserted
-- and again when it starts. All accept the job's row as jsonb, so that they work for every kind.

create or replace function worker.items(p_job jsonb, p_column text) returns setof text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select value from jsonb_array_elements_text(
    case when jsonb_typeof(p_job -> p_column) = 'array' then p_job -> p_column else '[]' end)
$$;
comment on function worker.items is 'Return the elements of an array column of a job''s row; none for a NULL or missing column.';

-- The worker's own S3 key bypasses RLS, so key_error is the check of whose objects a job reads.
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
    -- Otherwise a key could name another owner's job, and the answer would reveal those people's consent.
    return 'is not a picture of a completed job of this owner';
  elsif v_parts[2] = '_' then
    if p_inputs_allowed and v_parts[3] in ('inputs', 'generated') then
      return null;
    end if;
    return 'must be under a subject: pictures of people always need one';
  elsif not exists (select from public.subjects where id = worker.key_subject(p_key) and owner_id = p_owner_id) then
    return 'must be under {owner_id}/{subject_id}/ of a subject of the same owner';
  end if;
  return null;
end $$;
comment on function worker.key_error is 'Return why the owner may not name this object key, or NULL.';

create or replace function worker.key_subject(p_key text) returns uuid
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select substring(p_key from '^[^/]+/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})/')::uuid $$;
comment on function worker.key_subject is 'Return the subject under whose prefix a key is, or NULL.';

-- By the letters that a server reads: %2D is a hyphen, and %252D where it is decoded twice.
create or replace function worker.decoded_url(p_url text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_url text := lower(p_url);
begin
  while v_url ~ '%[0-9a-f]{2}' loop
    v_url := (
      select string_agg(case when text[1] = '%00' then ' ' when text[1] ~ '^%[0-9a-f]{2}$' then chr(('x' || right(text[1], 2))::bit(8)::integer)
                             else text[1] end, '' order by position)
      from regexp_matches(v_url, '%[0-9a-f]{2}|[^%]+|%', 'g') with ordinality parts (text, position));
  end loop;
  return v_url;
end $$;
comment on function worker.decoded_url is 'Return a URL in lower case, without percent-encoding.';

-- A URL in this project's own storage would name a person's picture around the check of consent: their own, or one that a job drew,
-- whose key may have no subject in it. Of any other URL nobody can know what it shows. The pod that fetches it checks much more.
create or replace function worker.url_error(p_url text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_url is null or length(p_url) > 2000 or p_url !~ '^https?://[^/@[:space:]]+([/?][^[:space:]]*)?$' then
    return 'is not an https URL of up to 2000 characters';
  elsif exists (
    select from regexp_matches(worker.decoded_url(p_url), '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}', 'g') ids (id)
    where exists (select from public.subjects where subjects.id = ids.id[1]::uuid)
      or exists (select from worker.job_kinds kinds join worker.job_subjects touched on touched.kind = kinds.kind and touched.job_id = ids.id[1]::uuid)) then
    return 'is a picture of a subject: name its key instead, so that consent is checked';
  end if;
  return null;
end $$;
comment on function worker.url_error is 'Return why a request may not name this URL, or NULL.';

create or replace function worker.redirect_error(p_url text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select worker.url_error(p_url) $$;
comment on function worker.redirect_error is 'Return why a pod may not follow a redirect to this URL, or NULL.';

create or replace function worker.subjects_of(p_kind text, p_job jsonb) returns setof uuid
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_subject_id uuid := p_job ->> 'subject_id';
  v_models uuid[];
  v_keys text[];
begin
  select array_agg(named.key::uuid) filter (where named.rule = 'lora'), array_agg(named.key) filter (where named.rule <> 'lora')
  into v_models, v_keys from worker.named_keys(p_kind, p_job) named;
  if v_models is null and v_keys is null then
    return query select v_subject_id where v_subject_id is not null;
    return;
  end if;
  return query
    select v_subject_id where v_subject_id is not null
    union
    select models.subject_id from public.subjects_models models where models.id = any (v_models) and models.subject_id is not null
    union
    select subjects.id from unnest(v_keys) named (key) join public.subjects on subjects.id = worker.key_subject(named.key)
    union
    -- By the published object and its kind: clients choose the ids, so an id alone proves nothing.
    select touched.subject_id from unnest(v_keys) named (key)
    join worker.staged_objects drawn on drawn.bucket = (select bucket_uploads from worker.config)
      and drawn.key = named.key and drawn.state = 'published'
    join worker.job_subjects touched on touched.kind = drawn.kind and touched.job_id = drawn.job_id;
end $$;
comment on function worker.subjects_of is
  'Return every person in a job: its subject, and the people of its LoRAs, of its pictures, and of pictures generated by earlier jobs.';

-- p_capabilities, here and in request_error: those that the job asks for, where they are known already.
drop function if exists worker.base_error(text, jsonb);
create or replace function worker.base_error(p_kind text, p_job jsonb, p_capabilities text[] default null) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_base worker.base_models;
  v_capabilities text[] := coalesce(p_capabilities, worker.capabilities(p_kind, p_job));
  v_wanted text;
begin
  select * into v_base from worker.base_models where slug = p_job ->> 'base';
  if v_base.slug is null then
    return format('base: %s not found; base models: %s', coalesce(quote_literal(p_job ->> 'base'), 'null'),
                  (select string_agg(slug, ', ' order by slug) from worker.base_models
                   where only_for is null or only_for = any (v_capabilities)));
  end if;
  foreach v_wanted in array v_capabilities loop
    if v_wanted <> all (v_base.capabilities) and not worker.is_detected(v_wanted) then
      return format('base: %s cannot do %s; it can do %s%s', v_base.slug, v_wanted, array_to_string(v_base.capabilities, ', '),
                    case when v_wanted = 'train' and v_base.train_base is not null then format('; train on %s', v_base.train_base) else '' end);
    end if;
  end loop;
  if v_base.only_for is not null and v_base.only_for <> all (v_capabilities) then
    return format('base: %s can do nothing but %s', v_base.slug, v_base.only_for);
  end if;
  return null;
end $$;
comment on function worker.base_error is 'Return why the base model of a job cannot be used, or NULL.';

-- The error is the same for another owner's LoRA and for an unknown one.
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
      return format('%s: LoRA not found for this owner: %s', v_named.column_name, coalesce(v_named.key, 'null'));
    elsif v_family <> v_base_family then
      return format('%s: LoRA %s is for %s, but base %s is %s', v_named.column_name, v_named.key, v_family, p_job ->> 'base', v_base_family);
    end if;
  end loop;
  return null;
end $$;
comment on function worker.models_error is 'Return why the LoRAs that a job names may not be used, or NULL.';

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
      v_error := 'must be under {owner_id}/{subject_id}/photos/ of the job''s own subject';
    end if;
    if v_error is not null then
      return format('%s: %s %s', v_named.column_name, quote_literal(left(v_named.key, 200)), v_error);
    end if;
  end loop;
  return null;
end $$;
comment on function worker.keys_error is 'Return why the object keys that a job names may not be used, or NULL.';

create or replace function worker.preset_error(p_kind text, p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_job ->> 'preset_id' is not null and p_job ->> 'preset' is null and not exists (
    select from public.presets
    where id = (p_job ->> 'preset_id')::uuid and kind = p_kind
      and (owner_id is null or owner_id = (p_job ->> 'owner_id')::uuid)) then
    return 'preset_id: preset not found for this owner and kind ' || p_kind;
  end if;
  return null;
end $$;
comment on function worker.preset_error is 'Return why the preset that a job names may not be used, or NULL.';

-- Ownership is checked first, then the base model, then what the kind itself checks.
drop function if exists worker.request_error(text, jsonb);
create or replace function worker.request_error(p_kind text, p_job jsonb, p_capabilities text[] default null) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_names_objects boolean := exists (select from worker.named_keys(p_kind, p_job));
begin
  return coalesce(
    case when v_names_objects then worker.keys_error(p_kind, p_job) end,
    case when p_job ->> 'preset_id' is not null then worker.preset_error(p_kind, p_job) end,
    case when v_names_objects then worker.models_error(p_kind, p_job) end,
    case when p_job ? 'base' then worker.base_error(p_kind, p_job, p_capabilities) end,
    worker.hook_error(p_kind, 'request_error', p_job));
end $$;
comment on function worker.request_error is 'Return why a request cannot be done, or NULL.';

-- The message names the rule and never quotes the text.
create or replace function worker.prompt_error(p_kind text, p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_said record;
  v_rule_id text;
begin
  for v_said in select * from worker.texts(p_kind, p_job) where words <> '' loop
    v_rule_id := worker.find_violation(v_said.words, v_said.screens);
    if v_rule_id is not null then
      return format('the %s asks for %s (rule %s); change it and insert another job', replace(v_said.column_name, '_', ' '),
                    (select asks from worker.screening_rules where id = v_rule_id), v_rule_id);
    end if;
  end loop;
  return null;
end $$;
comment on function worker.prompt_error is 'Return why the texts of a job are blocked, or NULL.';
