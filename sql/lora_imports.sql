-- LoRAs that were made elsewhere. `worker lora import` calls these two as the database's owner: one before the upload, one after.
-- The object is registered as deletable from the start, but is offered to sweepers only after an hour: what a command that died
-- has left is deleted like the rest. Publication takes it off that list, under the subject's lock.

create or replace function worker.lora_of(p_subject_id uuid, p_base text, p_sha256 text) returns uuid
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select id from public.subjects_models
  where subject_id is not distinct from p_subject_id and base = p_base and sha256 = p_sha256 and retired_at is null
  order by created_at limit 1
$$;
comment on function worker.lora_of is 'Return the unretired LoRA with this file, of this subject or of none; NULL if there is none.';

create or replace function worker.begin_lora_import(p_subject_id uuid, p_base text, p_family text, p_sha256 text) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_base worker.base_models;
  v_error text;
  v_import_id uuid := gen_random_uuid();
  v_object worker.staged_objects;
begin
  select * into v_base from worker.base_models where slug = p_base;
  v_error := case
    when worker.installation_error() is not null then worker.installation_error()
    when v_base.slug is null then
      format('base: %s not found; base models: %s', quote_literal(p_base), (select string_agg(slug, ', ' order by slug) from worker.base_models))
    when v_base.family <> p_family then format('the file is a LoRA for %s, but base %s is %s', p_family, p_base, v_base.family)
    when 'lora' <> all (v_base.capabilities) then format('base: %s cannot be used with LoRAs', p_base)
    when p_subject_id is not null then worker.consent_error(p_subject_id, 'generation') end;
  if v_error is not null then
    raise exception '%', v_error using errcode = '22023';
  elsif worker.lora_of(p_subject_id, p_base, p_sha256) is not null then
    return jsonb_build_object('model_id', worker.lora_of(p_subject_id, p_base, p_sha256));
  end if;
  insert into worker.staged_objects (bucket, key, kind, job_id, attempt, owner_id, state, offer_after)
  select bucket_models, format('%s/%s/1/lora.safetensors', coalesce(p_subject_id::text, '_'), v_import_id), 'lora_import', v_import_id, 1,
         (select owner_id from public.subjects where id = p_subject_id), 'deleting', clock_timestamp() + worker.timing('lora_import')
  from worker.config
  returning * into v_object;
  return jsonb_build_object('import_id', v_import_id, 'bucket', v_object.bucket, 'key', v_object.key);
end $$;
comment on function worker.begin_lora_import is
  'Register the object of a LoRA that is about to be uploaded. Returns import_id, bucket and key, or the model_id of the same file; raises 22023 for one that may not be imported.';

create or replace function worker.publish_lora_import(p_import_id uuid, p_subject_id uuid, p_base text, p_lora jsonb) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_subject public.subjects;
  v_model public.subjects_models;
  v_key text;
  v_error text;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'a LoRA cannot be published at isolation level %: use READ COMMITTED', current_setting('transaction_isolation') using errcode = '25001';
  end if;
  perform from public.subjects where id = p_subject_id for no key update;
  perform from worker.base_models where slug = p_base for no key update;  -- versions of LoRAs of no subject are counted one by one
  -- Statements of their own, after the locks: a revocation that committed while we waited is seen.
  v_error := coalesce(worker.installation_error(), case when p_subject_id is not null then worker.consent_error(p_subject_id, 'generation') end);
  select * into v_subject from public.subjects where id = p_subject_id;
  v_error := coalesce(v_error, 'the trigger word asks for ' || (
    select asks from worker.screening_rules where id = worker.find_violation(p_lora ->> 'trigger_word', 'prompt')));
  if v_error is not null then
    update worker.staged_objects set offer_after = clock_timestamp() where kind = 'lora_import' and job_id = p_import_id and state = 'deleting';
    return jsonb_build_object('error', v_error);
  elsif worker.lora_of(p_subject_id, p_base, p_lora ->> 'sha256') is not null then
    return jsonb_build_object('model_id', worker.lora_of(p_subject_id, p_base, p_lora ->> 'sha256'));
  end if;
  update worker.staged_objects set state = 'published'
  where kind = 'lora_import' and job_id = p_import_id and state = 'deleting'
    and created_at > clock_timestamp() - worker.timing('lora_import')  -- not offered to a sweeper yet
  returning key into v_key;
  if v_key is null then
    return jsonb_build_object('error', 'the upload took too long: import the file again');
  end if;
  insert into public.subjects_models (subject_id, version, base, family, path, sha256, rank, trigger_word, metrics, created_at)
  select p_subject_id, coalesce((select max(version) from public.subjects_models where subject_id is not distinct from p_subject_id and family = base.family), 0) + 1,
         base.slug, base.family, v_key, p_lora ->> 'sha256', (p_lora ->> 'rank')::integer,
         coalesce(p_lora ->> 'trigger_word', v_subject.trigger_word), '{"imported": true}', clock_timestamp()
  from worker.base_models base where base.slug = p_base
  returning * into v_model;
  if p_subject_id is not null then
    insert into worker.internal_jobs (owner_id, subject_id, payload)
    values (v_subject.owner_id, p_subject_id, jsonb_build_object('model_id', v_model.id));
  end if;
  return jsonb_build_object('model_id', v_model.id, 'version', v_model.version);
end $$;
comment on function worker.publish_lora_import is
  'Publish an uploaded LoRA if its person still consents; returns model_id and version, or error. p_lora has sha256, rank and trigger_word.';
