-- The tick: taking over from dead pods, and the housekeeping of the database, one file per duty. They are two calls, so that
-- taking over never waits for housekeeping. One pod at a time does either: it locks a row that no client can lock.

create or replace function worker.take_over() returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_clock worker.clock;
begin
  select * into v_clock from worker.clock for update skip locked;
  if not found then
    return null;
  end if;
  perform worker.note_cold_start(v_clock.last_tick);
  if v_clock.last_tick not between clock_timestamp() - worker.timing('tick_gap') and clock_timestamp()
     or v_clock.grace_from > clock_timestamp() then
    -- After a restart or an outage, silence does not prove that a pod is dead. Nor does it when the clock was set back.
    update worker.clock set grace_from = clock_timestamp();
    update worker.pods set lock_free_since = null
    where id in (select id from worker.pods where lock_free_since is not null for update skip locked);
  end if;
  perform worker.clamp_pod_times();
  perform worker.reap();
  -- Now, not at the beginning: that this took long is no outage.
  update worker.clock set last_tick = clock_timestamp();
  return jsonb_build_object(
    -- counted up to a limit: a pod deletes no more than that at a time
    'deletable', (select count(*) from (
      select from worker.staged_objects where state = 'deleting' and offer_after <= statement_timestamp()
        and bucket = any ((select worker.deletable_buckets())::text[])
      order by offer_after limit 1000) due),
    'housekeeping', exists (
      select from worker.housekeeping
      where (next_run between clock_timestamp() and clock_timestamp() + worker.timing('housekeeping_every')) is not true)
      or exists (select from public.subjects where consent_status = 'approved' and consent_expires_at <= statement_timestamp()));
end $$;
comment on function worker.take_over is
  'Take over the jobs of dead pods. Returns deletable, how many objects pods may delete from storage now, and housekeeping, whether run_housekeeping is due; NULL while another call runs.';

create or replace function worker.run_housekeeping() returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '4s'
as $$
declare
  v_more boolean;
begin
  perform from worker.housekeeping for update skip locked;
  if not found then
    return false;
  end if;
  perform worker.expire_consent();
  perform worker.revoke_for_deleted_accounts();
  perform worker.note_missing_tables();
  perform worker.clamp_future_times();
  select bool_or(worker.fail_stranded_jobs(kinds)) or bool_or(worker.explain_waiting(kinds)) into v_more from worker.live_kinds() kinds;
  perform worker.reconcile();
  v_more := worker.prune() or v_more;
  update worker.housekeeping set next_run = case when not v_more then clock_timestamp() + worker.timing('housekeeping_every') end;
  return true;
end $$;
comment on function worker.run_housekeeping is
  'Expire consent, revoke it for deleted accounts, note missing tables, clamp times of a clock that was ahead, fail stranded jobs, explain why others wait, reconcile, prune. Returns false while another call runs.';

-- Housekeeping comes first, because its locks and those of taking over are held until the end.
create or replace function worker.tick() returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform worker.run_housekeeping();
  return (worker.take_over() ->> 'deletable')::integer;
end $$;
comment on function worker.tick is
  'Run the housekeeping and take over the jobs of dead pods, in one transaction. Returns how many objects pods may delete from storage now; NULL while another call takes over. Pods call run_housekeeping and take_over instead.';
