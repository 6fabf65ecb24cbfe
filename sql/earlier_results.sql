-- The cache of results: a request that is identical to one that was completed for the same owner is answered with copies of its
-- objects. What identical means is the kind's: its handler makes a fingerprint of everything that the result depends on. Who may be
-- shown is decided here, as for every other job.

create or replace function worker.earlier_objects(p_kind text, p_id uuid, p_result jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when bool_and(published.key is not null) then jsonb_agg(jsonb_build_object('bucket', published.bucket, 'key', published.key)) end
  from worker.result_keys(p_kind, p_result) named (object_key)
  left join worker.staged_objects published
    on published.key = named.object_key and published.kind = p_kind and published.job_id = p_id and published.state = 'published'
    and published.bucket = any (worker.personal_buckets())  -- not one of before a move
  where named.object_key is not null
$$;
comment on function worker.earlier_objects is 'Return the objects of a completed job''s result; NULL where one of them is not in storage any more, or there is none.';

-- A job may show only people who are asked for it, whoever was in the earlier one; and no LoRA that was retired since.
create or replace function worker.may_be_served(p_kind text, p_job jsonb, p_earlier_id uuid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select worker.job_consent_error(p_kind, (p_job ->> 'id')::uuid) is null
    and not exists (
      select from worker.job_subjects earlier where earlier.kind = p_kind and earlier.job_id = p_earlier_id
        and not exists (select from worker.job_subjects own where own.kind = p_kind and own.job_id = (p_job ->> 'id')::uuid and own.subject_id = earlier.subject_id))
    and not exists (
      select from worker.named_keys(p_kind, p_job) named join public.subjects_models models on models.id::text = named.key
      where named.rule = 'lora' and models.retired_at is not null)
$$;
comment on function worker.may_be_served is 'Return true if the result of an earlier job of the same request may be given to this one.';

create or replace function worker.find_result(p_kind text, p_id uuid, p_attempt integer, p_fingerprint text) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
  v_earlier record;
  v_objects jsonb;
begin
  if v_job is null then
    return null;
  end if;
  execute format('update %s set fingerprint = $2 where id = $1', worker.table_of(p_kind)) using p_id, p_fingerprint;
  for v_earlier in execute format(
    'select id, result from %s where owner_id = $1 and fingerprint = $2 and status = ''completed'' order by finished_at desc limit 5', worker.table_of(p_kind))
    using (v_job ->> 'owner_id')::uuid, p_fingerprint
  loop
    v_objects := worker.earlier_objects(p_kind, v_earlier.id, v_earlier.result);
    if v_objects is not null and worker.may_be_served(p_kind, v_job, v_earlier.id) then
      return jsonb_build_object('job_id', v_earlier.id, 'result', v_earlier.result, 'objects', v_objects);
    end if;
  end loop;
  return null;
end $$;
comment on function worker.find_result is
  'Record the fingerprint of an attempt''s request; returns job, result and objects of an earlier one of the same owner that may answer it, or NULL.';
