-- The housekeeping of the database, one file a duty; this runs them all.

-- Every 2 s by two pods; the one that comes second does nothing. Answers how many objects wait to be deleted in storage; NULL
-- to the one that came second.
create or replace function worker.tick() returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_last timestamptz;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('likeness tick', 0)) then
    return null;
  end if;
  select last_tick into v_last from worker.clock for update;
  if v_last < clock_timestamp() - worker.timing('tick_gap') then
    -- No pod looked for a while: a restart or an outage, after which no silence proves anything.
    update worker.clock set grace_from = clock_timestamp();
    update worker.pods set lock_free_since = null;
  end if;
  update worker.clock set last_tick = clock_timestamp();
  perform worker.reap();
  perform worker.expire_consent();
  perform worker.note_missing_tables();
  perform worker.explain_waiting(kinds) from worker.live_kinds() kinds;
  perform worker.reconcile();
  perform worker.prune();
  return (select count(*) from worker.staged_objects where state = 'deleting' and offer_after <= clock_timestamp());
end $$;
comment on function worker.tick is 'Housekeeping: reap, expire consent, explain what waits, reconcile, prune. Every 2 s, by two pods.';
