-- Pods: registration, routes, heartbeats, deregistration. Locks as in functions.sql.

create or replace function worker.pod_lock_key(p_pod_id uuid) returns bigint
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select ('x' || left(replace(p_pod_id::text, '-', ''), 16))::bit(64)::bigint $$;
comment on function worker.pod_lock_key is
  'Return the 64-bit key of the advisory lock that a pod''s session connection holds (shared) while its process lives.';

-- The lock is looked up in pg_locks and never acquired: acquiring it would make the pod's own reconnect wait. Anybody who can
-- connect may hold a lock of any key, but only a pod's login is believed to be the pod.
create or replace function worker.lock_is_free(p_pod_id uuid) returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select not exists (
    select from pg_catalog.pg_locks
    where locktype = 'advisory' and granted and mode = 'ShareLock' and objsubid = 1
      and database = (select oid from pg_catalog.pg_database where datname = current_database())
      and (classid::bigint << 32 | objid::bigint) = worker.pod_lock_key(p_pod_id)
      and exists (select from pg_catalog.pg_stat_activity holder
                  where holder.pid = pg_locks.pid and pg_has_role(holder.usesysid, 'likeness_worker', 'member')))
$$;
comment on function worker.lock_is_free is 'Return true if a pod''s advisory lock is free.';

-- Two pods tick, because one of them may have died. is_ticker checks locks itself, because only a tick sets lock_free_since,
-- and both tickers may have died at once.
create or replace function worker.is_ticker(p_pod_id uuid) returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select p_pod_id in (
    select id from worker.pods
    where last_heartbeat between clock_timestamp() - worker.timing('ticker_heartbeat') and clock_timestamp() and lock_free_since is null
      and not (has_lock and worker.lock_is_free(id))
    order by registered_at, id limit 2)
$$;
comment on function worker.is_ticker is 'Return true if a pod is one of the two longest-running pods, which tick.';

-- Not the opposite of is_dead, which decides whether a pod's jobs are taken over. This is for views, phases and reports: it
-- does not look at locks, so for a moment a pod can be both. The tick deletes the row of a dead pod; where no pod is left to
-- tick the row stays, and this is false.
create or replace function worker.is_alive(p_pod worker.pods) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$ select p_pod.last_heartbeat > statement_timestamp() - worker.timing('pod_silent') $$;
comment on function worker.is_alive is 'Return true if a pod''s last heartbeat is recent.';

create or replace function worker.register_pod(
  p_pod_id uuid, p_name text, p_routes text[], p_vram_gib double precision, p_models_present text[], p_has_lock boolean, p_version text
) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  insert into worker.pods (id, name, routes, vram_gib, models_present, has_lock, version)
  values (p_pod_id, p_name, p_routes, p_vram_gib, p_models_present, p_has_lock, p_version)
  on conflict (id) do update set name = excluded.name, routes = excluded.routes, vram_gib = excluded.vram_gib,
    models_present = excluded.models_present, has_lock = excluded.has_lock, version = excluded.version,
    last_heartbeat = clock_timestamp(), lock_free_since = null;
  return jsonb_build_object('tick', worker.is_ticker(p_pod_id));
end $$;
comment on function worker.register_pod is 'Record what a pod is and which routes it offers, again whenever that changes; returns whether to tick.';

-- A job that is locked now is left for the next call: this function runs beside others that hold several jobs.
create or replace function worker.release_unheld_jobs(p_pod_id uuid, p_unnamed_for interval, p_named text[], p_reason text) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_row record;
  v_job jsonb;
  v_count integer := 0;
begin
  for v_row in
    select dedupe_key, split_part(dedupe_key, ':', 1) as kind, split_part(dedupe_key, ':', 2)::uuid as job_id
    from worker.pgqueuer
    where queue_manager_id = p_pod_id and status = 'picked' and dedupe_key <> all (p_named)
      and heartbeat <= clock_timestamp() - p_unnamed_for
    order by 2, 3
  loop
    v_job := worker.try_lock_job(v_row.kind, v_row.job_id);
    -- Look again now that the job is locked: it may have ended meanwhile.
    continue when v_job is null or not exists (
      select from worker.pgqueuer where dedupe_key = v_row.dedupe_key and queue_manager_id = p_pod_id and status = 'picked');
    -- A running job of a dead pod is left to the reaper, which counts a failure, even if it could not lock the job just now.
    continue when v_job ->> 'status' = 'running' and not exists (select from worker.pods where id = p_pod_id);
    v_count := v_count + 1;
    if v_job ->> 'status' not in ('queued', 'running') then
      perform worker.dequeue_row(v_row.kind, v_row.job_id, 'canceled');
    elsif v_job ->> 'cancel_requested_at' is not null then
      perform worker.finish_stopped_job(v_row.kind, v_job);
    else
      perform worker.requeue(v_row.kind, v_job, 0, interval '0', null, null, p_reason);
    end if;
  end loop;
  return v_count;
end $$;
comment on function worker.release_unheld_jobs is
  'Requeue the jobs and claims that a pod holds but has not named for a while, which does not count as a failure; returns how many.';

create or replace function worker.deregister_pod(p_pod_id uuid) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  -- The pod before its jobs, as in heartbeat and reap.
  perform from worker.pods where id = p_pod_id for update;
  -- Wait for each job, in order, so that none is left to the reaper, which would count a failure.
  perform worker.lock_job(kind, job_id) from (
    select split_part(dedupe_key, ':', 1) as kind, split_part(dedupe_key, ':', 2)::uuid as job_id
    from worker.pgqueuer where queue_manager_id = p_pod_id and status = 'picked' order by 1, 2) held;
  perform worker.release_unheld_jobs(p_pod_id, interval '0', '{}', 'requeued: its pod left');
  delete from worker.pods where id = p_pod_id;
end $$;
comment on function worker.deregister_pod is 'Delete the row of a pod that leaves, and requeue what it holds, which does not count as a failure.';

create or replace function worker.peek(p_routes text[], p_limit integer) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_row record;
  v_jobs jsonb := '[]';
  v_job jsonb;
  v_inputs jsonb;
begin
  for v_row in
    select split_part(dedupe_key, ':', 1) as kind, split_part(dedupe_key, ':', 2)::uuid as job_id
    from worker.pgqueuer
    where entrypoint = any (p_routes) and status = 'queued' and execute_after <= clock_timestamp()
      and split_part(dedupe_key, ':', 1) in (select kind from worker.live_kinds())
    order by priority desc, id limit p_limit
  loop
    execute format('select to_jsonb(job) from %s job where id = $1', worker.table_of(v_row.kind)) into v_job using v_row.job_id;
    continue when v_job is null or worker.job_consent_error(v_row.kind, v_row.job_id) is not null;
    begin
      v_inputs := worker.prefetch(v_row.kind, v_job);
    exception when others or assert_failure or query_canceled then
      continue;  -- the job itself fails with it; what waits behind it is prefetched all the same
    end;
    v_jobs := v_jobs || jsonb_build_object('kind', v_row.kind, 'id', v_row.job_id, 'base', (select worker.weights_slug(base) from worker.base_models base where slug = v_job ->> 'base'), 'guides', coalesce(nullif(v_job -> 'guides', 'null'), '[]'),
      'purpose', (select purpose from worker.job_kinds where kind = v_row.kind),
      'subject_id', v_job ->> 'subject_id', 'inputs', v_inputs, 'checkpoint', worker.newest_checkpoint(v_row.kind, v_row.job_id),
      'models', coalesce(v_inputs -> 'loras', '[]'));  -- for pods of 0.1.0
  end loop;
  return v_jobs;
end $$;
comment on function worker.peek is 'Return what the first jobs of these routes will need, for prefetching; only jobs whose people consent.';

-- A pod claims jobs of starved routes first, before those of the loaded base model. min and max are each one step in an
-- index, and the log is not looked at for a route on which no job waits so long.
create or replace function worker.starved_routes(p_routes text[], p_wait interval) returns text[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(route), '{}')
  from (select distinct unnest(p_routes) as route) offered
  where case
    when (select min(execute_after) from worker.pgqueuer where entrypoint = route and status = 'queued') < statement_timestamp() - p_wait
    then (select max(created) from worker.pgqueuer_log
          where entrypoint = route and status = 'picked' and created > statement_timestamp() - p_wait and created <= statement_timestamp()) is null
    end
$$;
comment on function worker.starved_routes is 'Return the routes whose oldest job has waited for p_wait while no pod claimed any job of the route.';

-- Bounded, because no pod waits that long without asking again, and an infinite time has no number.
create or replace function worker.next_due_s(p_routes text[]) returns double precision
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select extract(epoch from min(execute_after) - now())::double precision
  from unnest(p_routes) route cross join lateral (
    select execute_after from worker.pgqueuer
    where entrypoint = route and status = 'queued' and execute_after > now() and execute_after < now() + interval '1 hour'
    order by execute_after limit 1) deferred
$$;
comment on function worker.next_due_s is
  'Return the seconds until the next deferred job of these routes may start, or NULL if none does within an hour.';

-- The number increases when pods of the previous release cannot work with this schema.
create or replace function worker.schema_major() returns integer
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select 1 $$;
comment on function worker.schema_major is 'Return the major version of this schema; pods refuse a newer one.';

-- ------------------------------------------------------------------------------------------------------------- heartbeat

-- Whether a base fits, and what a kind needs, is asked again when one of these rows has changed.
create or replace function worker.routes_digest() returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select md5(concat((select string_agg(kinds::text, ',' order by kinds.kind) from worker.job_kinds kinds),
                    (select string_agg(bases::text, ',' order by bases.slug) from worker.base_models bases),
                    (select string_agg(guides::text, ',' order by guides.slug) from worker.guides)))
$$;
comment on function worker.routes_digest is 'Return a digest of all kinds, base models and guides: while it stays the same, so do the routes that a pod can offer.';

-- A job that is locked now is left for the next report: a heartbeat that waited would let its pod be considered dead.
create or replace function worker.record_progress(p_kind text, p_id uuid, p_attempt integer, p_report jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regclass(worker.table_of(p_kind)) is not null then
    execute format(
      'update %1$s set progress = coalesce($3, progress), metrics = $4
       where id = (select id from %1$s where id = $1 and status = ''running'' and attempt = $2
                     and (progress, metrics) is distinct from (coalesce($3, progress), $4) for update skip locked)',
      worker.table_of(p_kind))
      using p_id, p_attempt,
        -- rounded, because real has no such small numbers as jsonb
        case when jsonb_typeof(p_report -> 'progress') = 'number' then round(greatest(0, least(1, (p_report ->> 'progress')::numeric)), 6)::real end,
        nullif(p_report -> 'metrics', 'null');
  end if;
end $$;
comment on function worker.record_progress is 'Record progress (0 to 1) and metrics of an attempt, if it is running and nobody has locked its job.';

-- p_leases: [{kind, id, attempt, report}], attempt null for a claim not yet started; report: {progress, metrics}, may be missing.
-- p_held: [{subject_id, purpose}], the people whose files the pod has on its disk, and what for. Consent is asked now: the ledger's
-- times are those before a commit, and a grant of less is no event that ends consent.
create or replace function worker.pod_heartbeat(p_pod_id uuid, p_leases jsonb, p_held jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_known boolean;
  v_routes text[];
  v_lease jsonb;
  v_states jsonb := '[]';
  v_named text[] := array(select (lease ->> 'kind') || ':' || (lease ->> 'id') from jsonb_array_elements(p_leases) lease);
begin
  update worker.pods set last_heartbeat = clock_timestamp(), lock_free_since = null where id = p_pod_id returning routes into v_routes;
  v_known := found;
  for v_lease in select value from jsonb_array_elements(p_leases) loop
    v_states := v_states || (v_lease - 'report' || jsonb_build_object('state', worker.held_state(p_pod_id, v_lease)));
  end loop;
  -- No pod names a claim whose reply was lost: without this call it would stay claimed for ever.
  perform worker.release_unheld_jobs(p_pod_id, worker.timing('claim_unnamed'), v_named, 'requeued: its pod did not know of it');
  update worker.pgqueuer set heartbeat = clock_timestamp()
  where queue_manager_id = p_pod_id and status = 'picked' and dedupe_key = any (v_named);
  -- Last, because nothing is waited for while these jobs are locked.
  perform worker.record_progress(lease ->> 'kind', (lease ->> 'id')::uuid, (lease ->> 'attempt')::integer, lease -> 'report')
  from jsonb_array_elements(p_leases) lease where lease -> 'report' is not null;
  return jsonb_build_object(
    'known', v_known, 'leases', v_states, 'tick', worker.is_ticker(p_pod_id),
    'next_due_s', worker.next_due_s(v_routes), 'routes_digest', worker.routes_digest(),
    'ended', (select coalesce(jsonb_agg(held), '[]') from jsonb_array_elements(p_held) held
              where worker.consent_error((held ->> 'subject_id')::uuid, held ->> 'purpose') is not null));
end $$;
comment on function worker.pod_heartbeat is
  'Record that a pod is alive, and the progress of its attempts; returns the state of each lease, which people''s files may not be kept, when the next deferred job is due, and whether to tick.';
