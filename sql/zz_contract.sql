-- A minimal version of what the hooks of kinds will return, so that the worker's half can be tested: dropped at the merge.

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
    'inputs', case p_kind
      when 'training' then jsonb_build_object('photos', worker.photos_of(p_job), 'min_photos', 3)
      when 'generation' then jsonb_build_object('models', worker.models_of(p_job))
      else '{}' end,
    'checkpoint', (select jsonb_build_object('step', step, 'bucket', bucket, 'key', key) from worker.staged_objects
                   where kind = p_kind and job_id = (p_job ->> 'id')::uuid and state = 'checkpoint' order by step desc limit 1),
    'prefix', worker.staging_prefix(p_kind, p_job, (p_job ->> 'attempt')::integer))
$$;

create or replace function worker.peek(p_routes text[], p_limit integer) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
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
      'subject_id', v_job ->> 'subject_id',
      'inputs', case when v_row.kind = 'generation' then jsonb_build_object('models', worker.models_of(v_job)) else '{}' end);
  end loop;
  return v_jobs;
end $$;

create or replace function worker.usable_bases(p_kind text, p_slugs text[], p_vram_gib double precision) returns text[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(slug order by slug), '{}') from worker.base_models
  where slug = any (p_slugs) and worker.fits_memory(min_vram_gib, p_vram_gib)
    and (p_kind <> 'training' or 'train' = any (capabilities))
$$;
comment on function worker.usable_bases is 'Which of these bases fit that memory and can do the kind.';
revoke all on function worker.usable_bases from public, anon, authenticated, service_role;
grant execute on function worker.usable_bases to likeness_worker;
