-- Bench: keeps the GPU for a while, with the subject's LoRA where there is one.

create or replace function worker.bench__plain_columns() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select '{}'::text[] $$;
comment on function worker.bench__plain_columns is 'Return nothing: every column is a number.';

create or replace function worker.bench__payload(p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('loras', coalesce(jsonb_agg(jsonb_build_object(
    'id', models.id, 'subject_id', models.subject_id, 'path', models.path, 'sha256', models.sha256)), '[]'))
  from public.subjects_models models where models.subject_id = (p_job ->> 'subject_id')::uuid
$$;
comment on function worker.bench__payload is 'Return loras: the LoRAs of the subject.';

create or replace function worker.bench__prefetch(p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$ select worker.bench__payload(p_job) $$;
comment on function worker.bench__prefetch is 'Return loras: the LoRAs to prefetch.';

do $$
begin
  perform worker.register_job_table('bench', 'public.bench_jobs', 'generation', false, 'gpu', interval '1 hour');
end $$;
