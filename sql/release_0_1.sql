-- Functions that only release 0.1.0 calls, most of them old names. The release after this one deletes this file.
--
-- First those that its pods call, then those that its functions call: a call that waits for this migration's locks continues
-- with the body that it began with.

create or replace function worker.leave_pod(p_pod_id uuid) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select worker.deregister_pod(p_pod_id) $$;
comment on function worker.leave_pod is 'The old name of deregister_pod.';

create or replace function worker.heartbeat(p_pod_id uuid, p_leases jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_last timestamptz := (select last_heartbeat from worker.pods where id = p_pod_id);
begin
  return worker.pod_heartbeat(p_pod_id, p_leases, '[]') || jsonb_build_object(
    -- overlapping, because an event is stamped before it is committed
    'ended_subjects', (select coalesce(jsonb_agg(distinct subject_id), '[]') from worker.consent_events
                       where event in ('revoke', 'expiry', 'reject', 'erasure') and at > coalesce(v_last, clock_timestamp()) - worker.timing('consent_overlap')));
end $$;
comment on function worker.heartbeat is 'The heartbeat of pods that do not name whose files they hold; returns whose consent ended lately.';

create or replace function worker.take_garbage(p_limit integer) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select '[]'::jsonb $$;
comment on function worker.take_garbage is 'Return nothing: pods of 0.1.0 cannot show whose bucket they would delete from.';

create or replace function worker.garbage_gone(p_ids bigint[]) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select worker.mark_objects_deleted(p_ids) $$;
comment on function worker.garbage_gone is 'The old name of mark_objects_deleted.';

-- Its pods know one figure for all jobs, min_vram_gib, and give the total memory of their GPU; what drivers and error correction
-- use of it, up to a tenth, is allowed for as before. They do not quantise: for them a base model whose figure
-- 0019_quantised lowered from 24.5 to 10.5, and 0024_quantised_encoders to 7.5, needs what it needed; those with other figures they do
-- not know.
create or replace function worker.fits_memory(p_needed_gib double precision, p_vram_gib double precision) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select case when p_needed_gib in (7.5, 10.5) then 24.5 else p_needed_gib end <= coalesce(p_vram_gib, 0) * 1.1 $$;
comment on function worker.fits_memory is 'Return true if a pod of 0.1.0 with so much GPU memory may run a base model that needs so much; NULL is a CPU.';

create or replace function worker.give_back(p_pod_id uuid, p_unnamed_for interval, p_named text[], p_reason text) returns integer
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select worker.release_unheld_jobs(p_pod_id, p_unnamed_for, p_named, p_reason) $$;
comment on function worker.give_back is 'The old name of release_unheld_jobs.';

create or replace function worker.settle(
  p_kind text, p_job jsonb, p_status text, p_code text, p_error text, p_gpu_seconds double precision default 0, p_result jsonb default null
) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select worker.finish_job(p_kind, p_job, p_status, p_code, p_error, p_gpu_seconds, p_result) $$;
comment on function worker.settle is 'The old name of finish_job.';

create or replace function worker.settle_stopped(p_kind text, p_job jsonb, p_gpu_seconds double precision default 0) returns text
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select worker.finish_stopped_job(p_kind, p_job, p_gpu_seconds) $$;
comment on function worker.settle_stopped is 'The old name of finish_stopped_job.';

create or replace function worker.charge_failure(
  p_kind text, p_job jsonb, p_code text, p_error text, p_delay interval, p_gpu_seconds double precision
) returns text
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select worker.end_failed_attempt(p_kind, p_job, p_code, p_error, p_delay, p_gpu_seconds) $$;
comment on function worker.charge_failure is 'The old name of end_failed_attempt.';

create or replace function worker.staging_prefix(p_kind text, p_job jsonb, p_attempt integer) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$ select worker.prefix(p_kind, p_job, p_attempt) $$;
comment on function worker.staging_prefix is 'The old name of prefix.';

create or replace function worker.models_of(p_job jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return worker.generation_loras(p_job);
end $$;
comment on function worker.models_of is 'The old name of generation_loras.';

create or replace function worker.photos_of(p_job jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return worker.training_photos(p_job);
end $$;
comment on function worker.photos_of is 'The old name of training_photos.';

create or replace function worker.publish_training(p_job jsonb, p_result jsonb) returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  return worker.training__publish(p_job, p_result) ->> 'model_id';
end $$;
comment on function worker.publish_training is 'The old name of training__publish.';

create or replace function worker.end_attempt(p_kind text, p_id uuid, p_attempt integer, p_job_ended boolean) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select worker.discard_staged_objects(p_kind, p_id, p_attempt, p_job_ended) $$;
comment on function worker.end_attempt is 'The old name of discard_staged_objects.';
