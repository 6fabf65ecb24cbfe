-- Generation: pictures from a prompt, with the LoRAs of people or products, always upscaled.

create or replace function worker.generation_loras(p_job jsonb) returns jsonb
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
     order by coalesce(current_one.base in (base.slug, base.weights_of), false) desc, current_one.version desc limit 1)
  ) wanted join public.subjects_models models using (id)
$$;
comment on function worker.generation_loras is
  'Return the LoRAs of a generation job with their scales: those it names, else the subject''s newest of the base model, else of its family.';

-- ------------------------------------------------------------------------------------------------------------- request

-- Edges are found without a detector.
create or replace function worker.generation_detects(p_job jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select p_job ->> 'control_kind' where p_job ->> 'control_from' = 'photo' and p_job ->> 'control_kind' <> 'canny' $$;
comment on function worker.generation_detects is 'Return what is to be detected in the control image: pose or depth; NULL for a finished map.';

create or replace function worker.generation__named_keys(p_job jsonb) returns table (column_name text, key text, rule text)
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(p_job ->> 'reference_paths', p_job ->> 'control_path', p_job ->> 'model_ids') is null then
    return;
  end if;
  return query
    select 'reference_paths', path, 'person' from worker.items(p_job, 'reference_paths') path
    union all select 'control_path', p_job ->> 'control_path', case when worker.generation_detects(p_job) = 'pose' then 'person' else 'input' end
      where p_job ->> 'control_path' is not null
    union all select 'model_ids', id, 'lora' from worker.items(p_job, 'model_ids') id;
end $$;
comment on function worker.generation__named_keys is
  'Return the references, which show people, the control image, which may show no person unless its pose is to be found, and the LoRAs.';

-- Early feedback on the words of the request and its preset. Unlike merged_prompt in worker/jobs/wording.py, this adds no trigger
-- word that the prompt lacks; the worker screens the prompt that the model reads. The scales of LoRAs are left out, because a
-- request is screened before the CHECKs of its table: scales that cannot be read are theirs to refuse.
create or replace function worker.generation__texts(p_job jsonb) returns table (column_name text, words text, screens text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_prompt text := coalesce(p_job ->> 'prompt', '');
  v_template text := coalesce(nullif(p_job -> 'preset' ->> 'prompt', ''), '{prompt}');
  v_merged text := case when v_template like '%{prompt}%' then replace(v_template, '{prompt}', v_prompt) else concat_ws(', ', v_prompt, v_template) end;
begin
  if v_merged like '%{trigger}%' then
    v_merged := replace(v_merged, '{trigger}', coalesce((
      select string_agg(lora ->> 'trigger_word', ' and ') from jsonb_array_elements(worker.generation_loras(p_job - 'lora_scales')) lora), ''));
  end if;
  return query values
    ('prompt', v_merged, 'prompt'),
    ('negative_prompt', concat_ws(', ', p_job ->> 'negative_prompt', p_job -> 'preset' ->> 'negative_prompt'), 'negative_prompt');
end $$;
comment on function worker.generation__texts is
  'Return prompt and negative prompt, each with the preset''s; the worker adds missing trigger words and screens again.';

create or replace function worker.generation__plain_columns() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select '{reference_urls,lora_scales,control_kind,control_from,sampler,output_format}'::text[] $$;
comment on function worker.generation__plain_columns is 'Return the columns that hold numbers, words from a fixed list, or URLs, which request_error checks.';

create or replace function worker.generation__default_base(p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_model_ids uuid[] := array(select worker.items(p_job, 'model_ids')::uuid);
  v_base text;
begin
  -- Two statements, so that each finds its LoRAs by an index.
  if v_model_ids <> '{}' then
    select base into v_base from public.subjects_models where id = any (v_model_ids) order by created_at desc limit 1;
  else
    select base into v_base from public.subjects_models
    where subject_id = (p_job ->> 'subject_id')::uuid and retired_at is null order by created_at desc limit 1;
  end if;
  return coalesce((
    select config.default_base from worker.config join worker.base_models base on base.slug = config.default_base
    where base.train_base = v_base), v_base);
end $$;
comment on function worker.generation__default_base is
  'Return the base model of the newest of its LoRAs; the default base model where LoRAs for that are trained on this one.';

create or replace function worker.generation__capabilities(p_job jsonb) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select 'lora' where p_job ->> 'subject_id' is not null or (jsonb_typeof(p_job -> 'model_ids') = 'array' and jsonb_array_length(p_job -> 'model_ids') > 0)
    union all select 'reference' where 'array' in (jsonb_typeof(p_job -> 'reference_paths'), jsonb_typeof(p_job -> 'reference_urls'))
    union all select 'control:' || (p_job ->> 'control_kind') where p_job ->> 'control_kind' is not null
    union all select 'detect:' || detected from worker.generation_detects(p_job) detected where detected is not null);
end $$;
comment on function worker.generation__capabilities is
  'Return what the base model must support: LoRAs, references and control images, if the request has them; and what a detector must find.';

create or replace function worker.generation__guided_by() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select '{reference,control,detect}'::text[] $$;
comment on function worker.generation__guided_by is 'Return the sorts of guides that a picture may need: one for references, one for the control image, one that makes its map of a photo.';

-- Nobody can know whom a URL shows, and a key of a subject names one who may not be what the picture is about: so references by URL,
-- and those of base models that draw nothing without references, need the subject, who is asked for consent.
create or replace function worker.generation_references_error(p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_error text;
begin
  select format('reference_urls: number %s %s', position, worker.url_error(url)) into v_error
  from worker.items(p_job, 'reference_urls') with ordinality urls (url, position)
  where worker.url_error(url) is not null order by position limit 1;
  if v_error is not null or p_job ->> 'subject_id' is not null then
    return v_error;
  elsif jsonb_typeof(p_job -> 'reference_urls') = 'array' then
    return 'reference_urls: name in subject_id whom or what the references show';
  elsif exists (select from worker.base_models where slug = p_job ->> 'base' and only_for = 'reference') then
    return format('subject_id: name whom or what the references of a %s job show', p_job ->> 'base');
  end if;
  return null;
end $$;
comment on function worker.generation_references_error is 'Return why the references of a request may not be used, besides what is checked of every key, or NULL.';

create or replace function worker.generation__request_error(p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_job ->> 'preset_id' is null and btrim(p_job ->> 'prompt') = '' then
    return 'prompt: give a prompt, a preset or both';
  end if;
  return worker.generation_references_error(p_job);
end $$;
comment on function worker.generation__request_error is
  'Return an error for a request without any prompt, and for references that do not say whom they show.';

-- ------------------------------------------------------------------------------------------------------------- payload

create or replace function worker.generation__inputs_error(p_job jsonb) returns text[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select array['input_missing', format('the subject has no trained LoRA for %s yet: insert into training_jobs first', p_job ->> 'base')]
  where p_job ->> 'subject_id' is not null and coalesce(jsonb_typeof(p_job -> 'model_ids'), 'null') = 'null'
    and 'reference' <> all (worker.generation__capabilities(p_job)) and worker.generation_loras(p_job) = '[]'
$$;
comment on function worker.generation__inputs_error is 'Return an error for a subject without a LoRA and without references.';

-- A guide that is NULL is built into the base model.
create or replace function worker.generation_guides(p_job jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_guides jsonb := '[]';
  v_control text := 'control:' || (p_job ->> 'control_kind');
begin
  if 'reference' = any (worker.generation__capabilities(p_job)) then
    v_guides := v_guides || jsonb_build_object(
      'capability', 'reference', 'guide', worker.guide_for(p_job, 'reference'),
      'paths', array(select worker.items(p_job, 'reference_paths')), 'urls', array(select worker.items(p_job, 'reference_urls')),
      'scale', coalesce((p_job ->> 'reference_scale')::real, 1), 'start', 0, 'end', 1);
  end if;
  if v_control is not null then
    v_guides := v_guides || jsonb_build_object(
      'capability', v_control, 'guide', worker.guide_for(p_job, v_control),
      'detector', worker.guide_for(p_job, 'detect:' || worker.generation_detects(p_job)), 'paths', jsonb_build_array(p_job ->> 'control_path'),
      'scale', coalesce((p_job ->> 'control_scale')::real, 1),
      'start', coalesce((p_job ->> 'control_start')::real, 0), 'end', coalesce((p_job ->> 'control_end')::real, 1));
  end if;
  return v_guides;
end $$;
comment on function worker.generation_guides is
  'Return what steers a picture: for references and for the control image the capability, the guide that gives it, the keys or URLs, scale and window of steps; and what makes the map of a photo.';

create or replace function worker.generation__payload(p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$ select jsonb_build_object('loras', worker.generation_loras(p_job), 'guides', worker.generation_guides(p_job)) $$;
comment on function worker.generation__payload is 'Return loras and guides: the LoRAs to generate with, and what else steers the picture.';

-- A picture that an earlier job generated may show more people than the one under whose prefix it is: it is not prefetched.
create or replace function worker.generation__prefetch(p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('loras', worker.generation_loras(p_job), 'pictures', array(
    select key from worker.generation__named_keys(p_job) named
    where named.rule in ('person', 'input') and worker.key_subject(named.key) is not null and split_part(named.key, '/', 3) <> 'generated'))
$$;
comment on function worker.generation__prefetch is 'Return loras and pictures: the LoRAs, and the keys of pictures of one person each, to prefetch.';

-- -------------------------------------------------------------------------------------------------------------- result

-- keyvalue() finds both names in one path, and raises a data exception for a picture that is not an object.
create or replace function worker.generation__result_keys(p_result jsonb) returns setof text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select key #>> '{}' from jsonb_path_query(p_result, 'lax $.pictures[*].keyvalue() ? (@.key == "upscaled" || @.key == "raw").value') key
$$;
comment on function worker.generation__result_keys is 'Return every picture, upscaled and raw.';

create or replace function worker.generation__result_error(p_job jsonb, p_result jsonb) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_picture jsonb;
begin
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
  return null;
end $$;
comment on function worker.generation__result_error is 'Return an error for too few pictures, or for one that is not upscaled.';

do $$
begin
  perform worker.register_job_table('generation', 'public.generation_jobs', 'generation', false, 'gpu', interval '30 minutes');
  perform worker.declare_policy('generation', 'users can view their own generation jobs', 'select', 'owner_id = (select auth.uid())');
  perform worker.declare_policy('generation', 'users can request pictures of their own subjects', 'insert', 'owner_id = (select auth.uid())');
end $$;
