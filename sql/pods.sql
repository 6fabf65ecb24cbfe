-- Pods, and the housekeeping they do: registering, heartbeats, taking over from the dead, sweeping, the tick.
-- Locks as in functions.sql; housekeeping holds several jobs at once and never waits for one.

-- ------------------------------------------------------------------------------------------------------------------ pods

-- The 64-bit key of the advisory lock that a pod's session connection holds (shared) while the process lives.
create or replace function worker.pod_lock_key(p_pod_id uuid) returns bigint
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select ('x' || left(replace(p_pod_id::text, '-', ''), 16))::bit(64)::bigint $$;
comment on function worker.pod_lock_key is 'The advisory lock that a living pod''s session holds.';

-- Read in pg_locks and never taken: taking it would make the pod's own reconnect wait.
create or replace function worker.lock_is_free(p_pod_id uuid) returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select not exists (
    select from pg_catalog.pg_locks
    where locktype = 'advisory' and granted and objsubid = 1
      and database = (select oid from pg_catalog.pg_database where datname = current_database())
      and (classid::bigint << 32 | objid::bigint) = worker.pod_lock_key(p_pod_id))
$$;
comment on function worker.lock_is_free is 'Whether nobody holds a pod''s advisory lock.';

-- Two, because the one that ticks may be the one that died. The locks are looked at here too: it is a tick that notes
-- lock_free_since, and both tickers may have died at once.
create or replace function worker.is_ticker(p_pod_id uuid) returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select p_pod_id in (
    select id from worker.pods
    where last_heartbeat > clock_timestamp() - interval '20 seconds' and lock_free_since is null
      and not (has_lock and worker.lock_is_free(id))
    order by registered_at, id limit 2)
$$;
comment on function worker.is_ticker is 'Whether this pod is one of the two longest-living ones, which tick.';

-- The tick removes the row of a silent pod; where no pod is left to tick, the row stays.
create or replace function worker.is_alive(p_pod worker.pods) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$ select p_pod.last_heartbeat > statement_timestamp() - interval '30 seconds' $$;
comment on function worker.is_alive is 'Whether a pod was heard of within the last 30 s.';

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
comment on function worker.register_pod is 'A pod says what it is and which routes it takes; again whenever that changes.';

-- Give back, uncharged, what a pod holds and does not name: running jobs and claims that were not started.
-- A job that is locked just now is left for the next time: this runs beside others that hold several jobs.
create or replace function worker.give_back(p_pod_id uuid, p_unnamed_for interval, p_named text[], p_reason text) returns integer
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
    -- What a dead pod ran is the reaper's, who charges it, also when it could not lock the job a moment ago.
    continue when v_job ->> 'status' = 'running' and not exists (select from worker.pods where id = p_pod_id);
    v_count := v_count + 1;
    if v_job ->> 'status' not in ('queued', 'running') then
      perform worker.dequeue_row(v_row.kind, v_row.job_id, 'canceled');
    elsif v_job ->> 'cancel_requested_at' is not null then
      perform worker.settle_stopped(v_row.kind, v_job);
    else
      perform worker.requeue(v_row.kind, v_job, 0, interval '0', null, null, p_reason);
    end if;
  end loop;
  return v_count;
end $$;
comment on function worker.give_back is 'Give back, uncharged, what a pod holds and has not named for a while.';

create or replace function worker.leave_pod(p_pod_id uuid) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  -- The pod before its jobs, as in heartbeat and reap.
  perform from worker.pods where id = p_pod_id for update;
  -- Wait for each job, in order, so that none is left behind to be charged by the reaper.
  perform worker.lock_job(kind, job_id) from (
    select split_part(dedupe_key, ':', 1) as kind, split_part(dedupe_key, ':', 2)::uuid as job_id
    from worker.pgqueuer where queue_manager_id = p_pod_id and status = 'picked' order by 1, 2) held;
  perform worker.give_back(p_pod_id, interval '0', '{}', 'given back: its pod left');
  delete from worker.pods where id = p_pod_id;
end $$;
comment on function worker.leave_pod is 'A pod says goodbye: what it still holds goes back, uncharged.';

-- What waits at the head of some routes, for warming caches; people's files only of those who agree.
create or replace function worker.peek(p_routes text[], p_limit integer) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_row record;
  v_jobs jsonb := '[]';
  v_job jsonb;
begin
  for v_row in
    select split_part(dedupe_key, ':', 1) as kind, split_part(dedupe_key, ':', 2)::uuid as job_id
    from worker.pgqueuer
    where entrypoint = any (p_routes) and status = 'queued' and execute_after <= clock_timestamp()
    order by priority desc, id limit p_limit
  loop
    execute format('select to_jsonb(job) from %s job where id = $1', worker.table_of(v_row.kind)) into v_job using v_row.job_id;
    continue when v_job is null or worker.job_consent_error(v_row.kind, v_row.job_id) is not null;
    v_jobs := v_jobs || jsonb_build_object('kind', v_row.kind, 'id', v_row.job_id, 'base', v_job ->> 'base',
      'subject_id', v_job ->> 'subject_id', 'models', worker.models_of(v_job));
  end loop;
  return v_jobs;
end $$;
comment on function worker.peek is 'Base and LoRAs of the jobs that wait at the head of some routes, consent checked, for warming caches.';

-- Routes whose oldest job has waited for a while although no pod started anything of them: they come before affinity.
create or replace function worker.starved_routes(p_routes text[], p_wait interval) returns text[]
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(route), '{}') from (
    select entrypoint as route from worker.pgqueuer
    where entrypoint = any (p_routes) and status = 'queued'
    group by entrypoint having min(execute_after) < clock_timestamp() - p_wait
  ) waiting
  where not exists (
    select from worker.pgqueuer_log picked
    where picked.entrypoint = waiting.route and picked.status = 'picked' and picked.created > clock_timestamp() - p_wait)
$$;
comment on function worker.starved_routes is 'Routes whose oldest job has waited too long while no pod took any.';

-- The major version of this schema. It goes up when pods of the release before cannot work with it.
create or replace function worker.schema_major() returns integer
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select 1 $$;
comment on function worker.schema_major is 'The major version of this schema; pods refuse a newer one.';

-- ------------------------------------------------------------------------------------------------------------- heartbeat

-- One statement for the pod and the leases it names: [{kind, id, attempt}], attempt null for a claim not yet started.
create or replace function worker.heartbeat(p_pod_id uuid, p_leases jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_last timestamptz;
  v_known boolean;
  v_lease jsonb;
  v_states jsonb := '[]';
  v_named text[] := array(select (lease ->> 'kind') || ':' || (lease ->> 'id') from jsonb_array_elements(p_leases) lease);
begin
  select last_heartbeat into v_last from worker.pods where id = p_pod_id for update;
  v_known := found;
  update worker.pods set last_heartbeat = clock_timestamp(), lock_free_since = null where id = p_pod_id;
  for v_lease in select value from jsonb_array_elements(p_leases) loop
    v_states := v_states || (v_lease || jsonb_build_object('state', worker.held_state(p_pod_id, v_lease)));
  end loop;
  -- A claim whose reply was lost is named by nobody: without this it would be kept alive for ever.
  perform worker.give_back(p_pod_id, interval '30 seconds', v_named, 'given back: its pod did not know of it');
  update worker.pgqueuer set heartbeat = clock_timestamp()
  where queue_manager_id = p_pod_id and status = 'picked' and dedupe_key = any (v_named);
  return jsonb_build_object(
    'known', v_known, 'leases', v_states, 'tick', worker.is_ticker(p_pod_id),
    -- a minute of overlap, because an event is stamped before it is committed
    'ended_subjects', (select coalesce(jsonb_agg(distinct subject_id), '[]') from worker.consent_events
                       where event in ('revoke', 'expiry', 'reject', 'erasure') and at > coalesce(v_last, clock_timestamp()) - interval '1 minute'));
end $$;
comment on function worker.heartbeat is 'A pod is alive and names its leases; answers the state of each, whose consent ended, and whether to tick.';

-- ------------------------------------------------------------------------------------------------- reap, sweep, reconcile

-- Whether a pod is held for dead. It registered with a lock, the lock was seen free, no heartbeat came since, and that was
-- 1.5 s ago; or it has been silent for 30 s. After an outage every grace starts anew.
create or replace function worker.is_dead(p_pod worker.pods, p_grace_from timestamptz) returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select (p_pod.has_lock and p_pod.lock_free_since < clock_timestamp() - interval '1.5 seconds')
      or greatest(p_pod.last_heartbeat, p_grace_from) < clock_timestamp() - interval '30 seconds'
$$;
comment on function worker.is_dead is 'Whether a pod is held for dead.';

-- Take over from dead pods: running jobs are charged a failure, claims not yet started go back uncharged.
create or replace function worker.reap() returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_clock worker.clock;
  v_pod_id uuid;
  v_kind worker.job_kinds;
  v_job_id uuid;
  v_job jsonb;
  v_count integer := 0;
begin
  select * into v_clock from worker.clock;
  for v_pod_id in select pods.id from worker.pods where worker.is_dead(pods, v_clock.grace_from) order by id loop
    delete from worker.pods where id = v_pod_id and worker.is_dead(pods, v_clock.grace_from);
  end loop;
  update worker.pods set lock_free_since = clock_timestamp()
  where has_lock and lock_free_since is null and worker.lock_is_free(id);
  for v_kind in select * from worker.job_kinds order by kind loop
    for v_job_id in execute format(
      'select id from %s job where status = ''running'' and not exists (select from worker.pods where pods.id = job.pod_id) order by id', v_kind.table_name)
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      continue when v_job is null or v_job ->> 'status' <> 'running' or exists (select from worker.pods where id = (v_job ->> 'pod_id')::uuid);
      perform worker.charge_failure(v_kind.kind, v_job, 'worker_lost', 'the process that ran this attempt ended without a word',
        case when (v_job ->> 'failures')::integer = 0 then interval '0' else worker.backoff((v_job ->> 'failures')::integer) end,
        case when jsonb_typeof(v_job -> 'metrics' -> 'seconds') = 'number' then least((v_job -> 'metrics' ->> 'seconds')::numeric, 1e7)::double precision else 0 end);
      v_count := v_count + 1;
    end loop;
  end loop;
  for v_pod_id in
    select distinct queue_manager_id from worker.pgqueuer
    where status = 'picked' and not exists (select from worker.pods where id = queue_manager_id)
  loop
    v_count := v_count + worker.give_back(v_pod_id, interval '0', '{}', 'given back: its pod died before it began');
  end loop;
  return v_count;
end $$;
comment on function worker.reap is 'Take over the jobs of dead pods.';

-- Objects to delete in storage. Their state was committed before anybody reads it here. Not offered again for a minute.
create or replace function worker.take_garbage(p_limit integer) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  with due as (
    select id from worker.staged_objects where state = 'deleting' and offer_after <= clock_timestamp()
    order by offer_after limit p_limit for update skip locked
  ), taken as (
    update worker.staged_objects garbage set offer_after = clock_timestamp() + interval '1 minute'
    from due where garbage.id = due.id returning garbage.id, garbage.bucket, garbage.key
  )
  select coalesce(jsonb_agg(jsonb_build_object('id', id, 'bucket', bucket, 'key', key)), '[]') from taken
$$;
comment on function worker.take_garbage is 'Objects of ended attempts to delete in storage.';

-- Deleted once; offered again after the longest upload deadline, an hour and a day: a resumed pod's PUT may come late.
create or replace function worker.garbage_gone(p_ids bigint[]) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  delete from worker.staged_objects where id = any (p_ids) and state = 'deleting' and deletions >= 3;
  update worker.staged_objects
  set deletions = deletions + 1,
      offer_after = clock_timestamp() + (array['15 minutes', '1 hour', '1 day']::interval[])[deletions + 1]
  where id = any (p_ids) and state = 'deleting';
$$;
comment on function worker.garbage_gone is 'These objects were deleted in storage.';

-- A base asks for what is printed on the card; its driver and error correction keep up to a tenth of that for themselves.
create or replace function worker.fits_memory(p_needed_gib double precision, p_vram_gib double precision) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select p_needed_gib <= coalesce(p_vram_gib, 0) * 1.1 $$;
comment on function worker.fits_memory is 'Whether a base that needs so much GPU memory may run on a pod with so much; NULL is a CPU.';

create or replace function worker.why_stranded(p_route text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_base worker.base_models;
  v_largest double precision := (select max(vram_gib) from worker.pods where worker.is_alive(pods));
begin
  if exists (select from worker.pods where p_route = any (routes) and worker.is_alive(pods)) then
    return null;
  elsif not exists (select from worker.pods where worker.is_alive(pods)) then
    return 'no pod is running';
  end if;
  select * into v_base from worker.base_models where slug = nullif(split_part(p_route, '/', 2), '');
  if v_base.slug is null then
    return 'no live pod takes ' || p_route || ': look at its WORKER_KINDS';
  elsif not exists (select from worker.pods where worker.is_alive(pods) and worker.fits_memory(v_base.min_vram_gib, vram_gib)) then
    return format('%s needs %s GiB of GPU memory, %s', v_base.slug, v_base.min_vram_gib,
      coalesce('the largest pod has ' || trim_scale(round(v_largest::numeric, 1)), 'no live pod has a GPU that is ready'));
  elsif not exists (select from worker.pods where worker.is_alive(pods)
                    and worker.fits_memory(v_base.min_vram_gib, vram_gib) and v_base.slug = any (models_present)) then
    return 'no live pod has ' || v_base.slug || ', nor has the bucket: worker models push ' || v_base.slug;
  end if;
  return 'the pods that have ' || v_base.slug || ' do not take ' || p_route || ': their logs say why';
end $$;
comment on function worker.why_stranded is 'Why no live pod takes a route; NULL when one does.';

-- Say so where nobody can take a job; fail one that was given back and that no pod lists any more, but not while every pod
-- restarts, nor where one that lists it is only silent. Some at a time: each is locked until the tick commits, and a tick
-- that ran into its pod's statement_timeout would begin anew for ever.
create or replace function worker.explain_waiting(p_kind worker.job_kinds) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_pods_live boolean := exists (select from worker.pods where worker.is_alive(pods));
  v_gone boolean;
  v_route text;
  v_phase text;
  v_job_id uuid;
  v_job jsonb;
begin
  for v_route, v_phase in
    select entrypoint, 'waiting: no live pod can take this: ' || worker.why_stranded(entrypoint)
    from (select distinct entrypoint from worker.pgqueuer where status = 'queued' and split_part(entrypoint, '/', 1) = p_kind.kind) waiting
  loop
    if v_phase is null then
      execute format(
        'update %1$s set phase = ''waiting'' where id in (
           select job.id from %1$s job where status = ''queued'' and phase like ''waiting: no live pod can take this: %%''
             and worker.route($1, to_jsonb(job)) = $2 order by job.id for update skip locked)', p_kind.table_name) using p_kind.kind, v_route;
      continue;
    end if;
    v_gone := v_pods_live and not exists (select from worker.pods where v_route = any (routes));
    for v_job_id in execute format(
      'select job.id from worker.pgqueuer queue join %s job on job.id = split_part(queue.dedupe_key, '':'', 2)::uuid
       where queue.status = ''queued'' and queue.entrypoint = $1 and job.status = ''queued''
         and ($3 and job.error_code in (''model_missing'', ''out_of_memory'') or job.phase is distinct from $2)
       order by job.id limit 500', p_kind.table_name)
      using v_route, v_phase, v_gone
    loop
      v_job := worker.try_lock_job(p_kind.kind, v_job_id);
      continue when v_job is null or v_job ->> 'status' <> 'queued';
      if v_gone and v_job ->> 'error_code' in ('model_missing', 'out_of_memory') then
        perform worker.settle(p_kind.kind, v_job, 'failed', v_job ->> 'error_code', v_job ->> 'error');
      else
        execute format('update %s set phase = $2 where id = $1', p_kind.table_name) using v_job_id, v_phase;
      end if;
    end loop;
  end loop;
end $$;
comment on function worker.explain_waiting is 'Say in phase that no live pod can take a job, and why.';

-- Queue and jobs agree: every queued job has a queue row, and only open jobs have one.
create or replace function worker.reconcile() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind worker.job_kinds;
  v_job_id uuid;
  v_job jsonb;
begin
  for v_kind in select * from worker.job_kinds order by kind loop
    perform worker.explain_waiting(v_kind);
    for v_job_id in execute format(
      'select id from %s job where status = ''queued'' and created_at < clock_timestamp() - interval ''10 seconds''
         and not exists (select from worker.pgqueuer where dedupe_key = $1 || '':'' || job.id) order by id', v_kind.table_name) using v_kind.kind
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      if v_job ->> 'status' = 'queued' then
        perform worker.enqueue(v_kind.kind, v_job);
      end if;
    end loop;
    for v_job_id in execute format(
      'select job.id from worker.pgqueuer queue join %s job on job.id = split_part(queue.dedupe_key, '':'', 2)::uuid
       where split_part(queue.dedupe_key, '':'', 1) = $1 and job.status in (''completed'', ''failed'', ''cancelled'') order by 1', v_kind.table_name) using v_kind.kind
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      if v_job ->> 'status' in ('completed', 'failed', 'cancelled') then
        perform worker.dequeue_row(v_kind.kind, v_job_id, 'canceled');
      end if;
    end loop;
  end loop;
end $$;
comment on function worker.reconcile is 'Queue and jobs agree.';

create or replace function worker.prune() returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  delete from worker.pgqueuer_log where id in (
    select id from worker.pgqueuer_log where created < now() - (select keep_logs_for from worker.config) limit 1000);
  delete from worker.job_events where id in (
    select id from worker.job_events where at < now() - (select keep_logs_for from worker.config) limit 1000);
$$;
comment on function worker.prune is 'Forget old logs, a thousand rows at a time.';

-- Housekeeping, every 2 s by two pods (and by pg_cron where installed); whoever comes second does nothing. Answers how many
-- objects wait to be deleted in storage, which only a pod can do; NULL to the one that came second.
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
  if v_last < clock_timestamp() - interval '5 seconds' then
    -- Nobody looked for a while: a restart or an outage, after which no silence proves anything.
    update worker.clock set grace_from = clock_timestamp();
    update worker.pods set lock_free_since = null;
  end if;
  update worker.clock set last_tick = clock_timestamp();
  perform worker.reap();
  perform worker.expire_consent();
  perform worker.reconcile();
  perform worker.prune();
  return (select count(*) from worker.staged_objects where state = 'deleting' and offer_after <= clock_timestamp());
end $$;
comment on function worker.tick is 'Housekeeping: reap, expire consent, reconcile, prune. Every 2 s, by two pods.';
