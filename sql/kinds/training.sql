-- Training: a LoRA of one person or product from its photos.

create or replace function worker.training_min_photos() returns integer
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select 3 $$;
comment on function worker.training_min_photos is 'Return the number of photos that a training needs at least.';

create or replace function worker.training_photos(p_job jsonb) returns jsonb
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
comment on function worker.training_photos is
  'Return the photos of a training job: those it names, else all of the subject''s that are not rejected.';

-- ------------------------------------------------------------------------------------------------------------- request

create or replace function worker.training__named_keys(p_job jsonb) returns table (column_name text, key text, rule text)
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select 'sample_paths', path, 'own_photo' from worker.items(p_job, 'sample_paths') path $$;
comment on function worker.training__named_keys is
  'Return the photos that the request names: a LoRA belongs to one person, so it learns from that person''s photos alone.';

create or replace function worker.training__texts(p_job jsonb) returns table (column_name text, words text, screens text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  values
    ('trigger_word', coalesce(p_job ->> 'trigger_word', (select trigger_word from public.subjects where id = (p_job ->> 'subject_id')::uuid)), 'prompt'),
    ('class_name', p_job ->> 'class_name', 'prompt')
$$;
comment on function worker.training__texts is
  'Return trigger word and class name, which become part of captions; captions of photos are screened when the job starts.';

create or replace function worker.training__capabilities(p_job jsonb) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select '{train}'::text[] $$;
comment on function worker.training__capabilities is 'Return train, which distilled base models do not have.';

-- Photos may be inserted and deleted between INSERT and start, so both check this.
create or replace function worker.training__insert_error(p_job jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('training needs at least %s photos, but there are %s: insert them into subject_photos, or name them in sample_paths',
                worker.training_min_photos(), photo_count)
  from (select jsonb_array_length(worker.training_photos(p_job)) as photo_count) counted
  where photo_count < worker.training_min_photos()
$$;
comment on function worker.training__insert_error is 'Return an error for too few photos.';

-- ------------------------------------------------------------------------------------------------------------- payload

create or replace function worker.training__inputs_error(p_job jsonb) returns text[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case
    when worker.training__insert_error(p_job) is not null then array['input_missing', worker.training__insert_error(p_job)]
    when jsonb_array_length(worker.training_photos(p_job)) > 200 then
      array['invalid_input', 'training accepts at most 200 photos: name the best in sample_paths']
  end
$$;
comment on function worker.training__inputs_error is 'Return an error for too few photos, or too many.';

create or replace function worker.training__payload(p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$ select jsonb_build_object('photos', worker.training_photos(p_job), 'min_photos', worker.training_min_photos()) $$;
comment on function worker.training__payload is 'Return photos, [{path, caption}], and min_photos: with fewer in storage the job fails.';

create or replace function worker.training__prefetch(p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$ select worker.training__payload(p_job) $$;
comment on function worker.training__prefetch is 'Return the photos to prefetch, as the payload has them.';

create or replace function worker.training__prefix(p_job jsonb, p_attempt integer) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select format('%s/%s/%s/', p_job ->> 'subject_id', p_job ->> 'id', p_attempt) $$;
comment on function worker.training__prefix is 'Return a prefix under the subject, whose versions of the LoRA are kept together.';

-- -------------------------------------------------------------------------------------------------------------- result

create or replace function worker.training__result_keys(p_result jsonb) returns setof text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select key #>> '{}' from jsonb_path_query(p_result, 'lax $.keyvalue() ? (@.key == "lora" || @.key == "losses" || @.key == "loss_curve").value') key
$$;
comment on function worker.training__result_keys is 'Return the LoRA, its losses and their curve.';

create or replace function worker.training__result_error(p_job jsonb, p_result jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select 'the result does not name the LoRA, its sha256 and its rank'
  where p_result ->> 'lora' is null or p_result ->> 'sha256' is null or p_result ->> 'sha256' !~ '^[0-9a-f]{64}$'
     or (p_result ->> 'rank')::integer is null
$$;
comment on function worker.training__result_error is 'Return an error for a result without the LoRA, its checksum or its rank.';

create or replace function worker.training__publish(p_job jsonb, p_result jsonb) returns jsonb
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
  return jsonb_build_object('model_id', v_model_id);
end $$;
comment on function worker.training__publish is
  'Make the LoRA the subject''s newest version, and insert a light job that copies it to {subject_id}/lora.safetensors.';

do $$
begin
  perform worker.register_job_table('training', 'public.training_jobs', 'training', true, 'gpu', interval '4 hours');
  -- Policies never test status: a refused job arrives as failed, and its owner must be able to insert and read it.
  perform worker.declare_policy('training', 'users can view their own training jobs', 'select', 'owner_id = (select auth.uid())');
  perform worker.declare_policy('training', 'users can request training of their own subjects', 'insert', 'owner_id = (select auth.uid())');
end $$;
