-- The housekeeping of the database, one file per duty; this runs them all.

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
  perform worker.note_cold_start(v_last);
  if v_last < clock_timestamp() - worker.timing('tick_gap') then
    -- No tick for a while: after a restart or an outage, silence does not prove that a pod is dead.
    update worker.clock set grace_from = clock_timestamp();
    update worker.pods set lock_free_since = null;
  end if;
  update worker.clock set last_tick = clock_timestamp();
  perform worker.reap();
  perform worker.expire_consent();
  perform worker.revoke_for_deleted_accounts();
  perform worker.note_missing_tables();
  perform worker.fail_stranded_jobs(kinds) from worker.live_kinds() kinds;
  perform worker.explain_waiting(kinds) from worker.live_kinds() kinds;
  perform worker.reconcile();
  perform worker.prune();
  return (select count(*) from worker.staged_objects where state = 'deleting' and offer_after <= clock_timestamp()
            and bucket = any (worker.deletable_buckets()));
end $$;
comment on function worker.tick is
  'Run the housekeeping: reap, expire consent, revoke it for deleted accounts, note missing tables, fail stranded jobs, explain why others wait, reconcile, prune. Returns how many objects pods may delete from storage now; NULL while another tick runs.';
