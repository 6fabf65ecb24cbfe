-- publish_lora: the convenience copy of a subject's newest LoRA at {subject_id}/lora.safetensors. A light job of the
-- worker's own, queued in the transaction that publishes a training.

-- One copy at a time for each subject. Not by the subject's row, which a revocation locks.
create or replace function worker.lock_lora_copy(p_kind text, p_id uuid, p_attempt integer) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_subject_id uuid := (select subject_id from worker.internal_jobs where p_kind = 'publish_lora' and id = p_id and status = 'running' and attempt = p_attempt);
begin
  insert into worker.lora_copies (subject_id) select v_subject_id where v_subject_id is not null on conflict do nothing;
  perform from worker.lora_copies where subject_id = v_subject_id for update;
end $$;
comment on function worker.lock_lora_copy is
  'Lock the convenience copy of the subject of an attempt until the transaction ends; does nothing for an attempt that lost its lease.';

-- For pods of 0.1.0.
create or replace function worker.subject_lock_key(p_subject_id uuid) returns bigint
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select hashtextextended('convenience copy of ' || p_subject_id, 0) $$;
comment on function worker.subject_lock_key is
  'Return the key of the advisory lock with which pods of 0.1.0 copy a subject''s LoRA.';

-- The handler calls lora_to_copy before and after copying.
create or replace function worker.lora_to_copy(p_kind text, p_id uuid, p_attempt integer) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'source', models.path,
    'target', models.subject_id || '/lora.safetensors',
    'consented', worker.consent_error(models.subject_id, 'training') is null,
    'newest', models.retired_at is null and not exists (
      select from public.subjects_models newer
      where newer.subject_id = models.subject_id and newer.retired_at is null and newer.created_at > models.created_at))
  from worker.internal_jobs job join public.subjects_models models on models.id = (job.payload ->> 'model_id')::uuid
  where p_kind = 'publish_lora' and job.id = p_id and job.status = 'running' and job.attempt = p_attempt
$$;
comment on function worker.lora_to_copy is
  'Return source and target of a convenience copy, and whether it may be made; NULL for an attempt that lost its lease.';

create or replace function worker.publish_lora__plain_columns() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select '{payload}'::text[] $$;
comment on function worker.publish_lora__plain_columns is 'Return payload, which names a LoRA of the job''s own subject.';

do $$
begin
  perform worker.register_job_table('publish_lora', 'worker.internal_jobs', null, true, 'light', interval '15 minutes');
  -- It overwrites and deletes a key that names no attempt and is never staged.
  update worker.job_kinds set needs_marked_buckets = true where kind = 'publish_lora' and not needs_marked_buckets;
end $$;
