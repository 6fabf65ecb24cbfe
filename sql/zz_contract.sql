-- CONTRACT ONLY: wrappers with the new names, until the functions themselves are renamed. This file goes at the merge.

create or replace function worker.deregister_pod(p_pod_id uuid) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select worker.leave_pod(p_pod_id) $$;
comment on function worker.deregister_pod is 'leave_pod under its new name.';

create or replace function worker.claim_deletable_objects(p_limit integer) returns jsonb
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select worker.take_garbage(p_limit) $$;
comment on function worker.claim_deletable_objects is 'take_garbage under its new name.';

create or replace function worker.mark_objects_deleted(p_ids bigint[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select worker.garbage_gone(p_ids) $$;
comment on function worker.mark_objects_deleted is 'garbage_gone under its new name.';

revoke execute on function worker.deregister_pod, worker.claim_deletable_objects, worker.mark_objects_deleted from public;
grant execute on function worker.deregister_pod, worker.claim_deletable_objects, worker.mark_objects_deleted to likeness_worker;
