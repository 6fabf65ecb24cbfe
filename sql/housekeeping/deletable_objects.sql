-- Deletable objects: what ended attempts left in storage, state deleting. A pod deletes them, because the database cannot.

-- Pods of the release before called it without markers, which prove nothing, so they delete nothing.
drop function if exists worker.claim_deletable_objects(integer);

-- The state of an object was committed before a pod reads it here. An object is offered again if no pod confirms its deletion.
-- p_seen is what the pod has just read in its buckets, as for note_markers.
create or replace function worker.claim_deletable_objects(p_limit integer, p_seen jsonb default '{}') returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select worker.note_markers(p_seen);
  with due as (
    select id from worker.staged_objects where state = 'deleting' and offer_after <= clock_timestamp()
      and p_seen ? bucket and bucket = any (worker.deletable_buckets())
    order by offer_after limit p_limit for update skip locked
  ), taken as (
    update worker.staged_objects object set offer_after = clock_timestamp() + worker.timing('deletion_unconfirmed')
    from due where object.id = due.id returning object.id, object.bucket, object.key
  )
  select coalesce(jsonb_agg(jsonb_build_object('id', id, 'bucket', bucket, 'key', key)), '[]') from taken
$$;
comment on function worker.claim_deletable_objects is 'Return objects of ended attempts that the calling pod is to delete from storage, of buckets whose marker it has just seen to be ours.';

-- An object is offered again after the longest upload deadline and twice more: the PUT of a pod that was suspended may arrive late.
create or replace function worker.mark_objects_deleted(p_ids bigint[]) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  delete from worker.staged_objects where id = any (p_ids) and state = 'deleting' and deletions >= 3;
  update worker.staged_objects
  set deletions = deletions + 1,
      offer_after = clock_timestamp() + (array[worker.timing('second_deletion'), worker.timing('third_deletion'), worker.timing('last_deletion')])[deletions + 1]
  where id = any (p_ids) and state = 'deleting';
$$;
comment on function worker.mark_objects_deleted is 'Record that these objects were deleted from storage.';
