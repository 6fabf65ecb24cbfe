-- Old names of functions, which pods of release 0.1.0 call. The release after this one deletes this file.

create or replace function worker.leave_pod(p_pod_id uuid) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select worker.deregister_pod(p_pod_id) $$;
comment on function worker.leave_pod is 'The old name of deregister_pod.';

create or replace function worker.take_garbage(p_limit integer) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select worker.claim_deletable_objects(p_limit) $$;
comment on function worker.take_garbage is 'The old name of claim_deletable_objects.';

create or replace function worker.garbage_gone(p_ids bigint[]) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select worker.mark_objects_deleted(p_ids) $$;
comment on function worker.garbage_gone is 'The old name of mark_objects_deleted.';
