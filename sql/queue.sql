-- How a job gets on the queue and off it, and the one place where a job ends. Locks as in functions.sql. A queue row is found
-- by its dedupe_key and its status, because the unique index has both.

-- Sorted, so that the same guides make the same route. A slug contains no plus sign.
create or replace function worker.guides_in_route(p_guides text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select coalesce(string_agg('+' || guide, '' order by guide collate "C"), '') from unnest(p_guides) guide $$;
comment on function worker.guides_in_route is 'Return how a route ends that needs these guides.';

create or replace function worker.base_of_route(p_route text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select nullif(split_part(split_part(p_route, '/', 2), '+', 1), '') $$;
comment on function worker.base_of_route is 'Return the base model in a route; NULL for that of a kind alone.';

create or replace function worker.guides_of_route(p_route text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select case when p_route like '%+%' then (string_to_array(p_route, '+'))[2:] end $$;
comment on function worker.guides_of_route is 'Return the guides in a route, as in the column guides of its jobs; NULL for none.';

create or replace function worker.route(p_kind text, p_job jsonb) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_route text := p_kind || coalesce('/' || (p_job ->> 'base'), '');
begin
  if p_job ->> 'guides' is not null then
    v_route := v_route || worker.guides_in_route(array(select worker.items(p_job, 'guides')));
  end if;
  return v_route;
end $$;
comment on function worker.route is
  'Return the route of a job, its entrypoint in the queue: kind/base, kind/base+guide+guide with the guides that it needs, or the kind alone.';

-- Each step looks up the next route in an index: as many steps as there are routes, however many jobs wait.
create or replace function worker.queued_routes() returns setof text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with recursive routes as (
    select min(entrypoint) as route from worker.pgqueuer where status = 'queued'
    union all
    select (select min(entrypoint) from worker.pgqueuer where status = 'queued' and entrypoint > routes.route) from routes
    where routes.route is not null
  )
  select route from routes where route is not null
$$;
comment on function worker.queued_routes is 'Return the routes of the jobs that wait, each once.';

-- Within the range that pods can read, whatever the job's row holds.
create or replace function worker.queue_time(p_run_after timestamptz) returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp
as $$ select least(greatest(coalesce(p_run_after, now()), '1970-01-01 00:00:00+00'), '9998-12-31 00:00:00+00') $$;
comment on function worker.queue_time is 'Return from when on a job may be claimed: its run_after, else now.';

create or replace function worker.queue_row(p_kind text, p_job jsonb) returns worker.pgqueuer
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_row worker.pgqueuer;
begin
  v_row.priority := (p_job ->> 'priority')::integer * 1000;
  v_row.execute_after := worker.queue_time((p_job ->> 'run_after')::timestamptz);
  v_row.entrypoint := worker.route(p_kind, p_job);
  v_row.dedupe_key := p_kind || ':' || (p_job ->> 'id');
  v_row.payload := convert_to(p_job ->> 'id', 'UTF8');
  return v_row;
end $$;
comment on function worker.queue_row is 'Return the queue row of a job, as far as the job decides it.';

-- One statement and one NOTIFY for all of them; they are queued in this order.
create or replace function worker.enqueue_rows(p_rows worker.pgqueuer[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  with queued as (
    insert into worker.pgqueuer (priority, execute_after, status, entrypoint, dedupe_key, payload)
    select priority, execute_after, 'queued', entrypoint, dedupe_key, payload from unnest(p_rows)
    on conflict (dedupe_key) where status in ('queued', 'picked') and dedupe_key is not null do nothing
    returning id, entrypoint, priority
  )
  insert into worker.pgqueuer_log (job_id, status, entrypoint, priority)
  select id, 'queued', entrypoint, priority from queued;
end $$;
comment on function worker.enqueue_rows is 'Put jobs on the queue, except those that are there already.';

create or replace function worker.fn_pgqueuer_changed() returns trigger
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_notify('likeness_queue', entrypoint) from (select distinct entrypoint from new_rows) routes;
  return null;
end $$;
comment on function worker.fn_pgqueuer_changed is 'Wake the pods: something of these routes may have become claimable.';

create or replace function worker.enqueue(p_kind text, p_job jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  perform worker.enqueue_rows(array[worker.queue_row(p_kind, p_job)]);
end $$;
comment on function worker.enqueue is 'Put a job on the queue, unless it is there already.';

create or replace function worker.dequeue_row(p_kind text, p_id uuid, p_status worker.pgqueuer_status) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  with gone as (
    delete from worker.pgqueuer where dedupe_key = p_kind || ':' || p_id and status in ('queued', 'picked')
    returning id, entrypoint, priority
  )
  insert into worker.pgqueuer_log (job_id, status, entrypoint, priority)
  select id, p_status, entrypoint, priority from gone
$$;
comment on function worker.dequeue_row is 'Take an ended job off the queue and log how it ended.';

-- The caller holds the job's lock. Sums end where the columns' CHECKs do, here and below: a job must be able to end.
create or replace function worker.requeue(
  p_kind text, p_job jsonb, p_failures integer, p_delay interval, p_code text, p_error text, p_phase text, p_gpu_seconds double precision default 0
) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid := p_job ->> 'id';
begin
  execute format(
    'update %s set status = ''queued'', failures = least(failures + $2, 20), run_after = clock_timestamp() + $3,
       error_code = coalesce($4, error_code), error = coalesce($5, error),
       phase = $6, pod_id = null, progress = 0, gpu_seconds = least(gpu_seconds + $7, 1e12)
     where id = $1', worker.table_of(p_kind))
    using v_id, p_failures, p_delay, p_code, p_error, p_phase, least(greatest(coalesce(p_gpu_seconds, 0), 0), 1e7);
  with back as (
    update worker.pgqueuer set status = 'queued', queue_manager_id = null, updated = now(), slot = null,
      execute_after = clock_timestamp() + p_delay, attempts = attempts + 1
    where dedupe_key = p_kind || ':' || v_id and status in ('queued', 'picked') returning id, entrypoint, priority
  )
  insert into worker.pgqueuer_log (job_id, status, entrypoint, priority)
  select id, 'queued', entrypoint, priority from back;
  perform worker.discard_staged_objects(p_kind, v_id, (p_job ->> 'attempt')::integer, false);
  perform worker.log_event(p_kind, v_id, (p_job ->> 'attempt')::integer, 'requeued',
    jsonb_build_object('code', p_code, 'error', p_error, 'phase', p_phase));
  perform pg_notify('likeness_queue', worker.route(p_kind, p_job));
end $$;
comment on function worker.requeue is 'Put a job back on the queue after an attempt, p_delay from now; p_failures is added to its failures.';

create or replace function worker.discard_staged_objects(p_kind text, p_id uuid, p_attempt integer, p_job_ended boolean) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  update worker.staged_objects set state = 'deleting', offer_after = clock_timestamp()
  where kind = p_kind and job_id = p_id
    and ((attempt = p_attempt and state = 'staged') or (p_job_ended and state in ('staged', 'checkpoint')))
$$;
comment on function worker.discard_staged_objects is
  'Mark as deletable what an ended attempt staged and did not publish; checkpoints are kept until the job ends.';

-- The caller holds the job's lock.
create or replace function worker.finish_job(
  p_kind text, p_job jsonb, p_status text, p_code text, p_error text, p_gpu_seconds double precision default 0, p_result jsonb default null
) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid := p_job ->> 'id';
  v_attempt integer := p_job ->> 'attempt';
begin
  execute format(
    'update %s set status = $2, error_code = $3, error = $4, gpu_seconds = least(gpu_seconds + $5, 1e12), result = $6,
       progress = case when $2 = ''completed'' then 1 else progress end, phase = $2, finished_at = clock_timestamp()
     where id = $1', worker.table_of(p_kind))
    using v_id, p_status, p_code, p_error, least(greatest(coalesce(p_gpu_seconds, 0), 0), 1e7), p_result;
  perform worker.dequeue_row(p_kind, v_id,
    (case p_status when 'completed' then 'successful' when 'cancelled' then 'canceled' else 'exception' end)::worker.pgqueuer_status);
  perform worker.discard_staged_objects(p_kind, v_id, v_attempt, true);
  perform worker.log_event(p_kind, v_id, v_attempt, p_status, jsonb_build_object('code', p_code, 'error', p_error));
  if p_code = 'consent_denied' then
    perform worker.log_refusal(p_kind, v_id, p_error);
  end if;
end $$;
comment on function worker.finish_job is 'End a job: row, queue, staged objects, events, ledger. The only function that ends jobs.';

create or replace function worker.finish_stopped_job(p_kind text, p_job jsonb, p_gpu_seconds double precision default 0) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  if p_job ->> 'cancel_code' = 'consent_denied' then
    perform worker.finish_job(p_kind, p_job, 'failed', 'consent_denied',
      coalesce(worker.job_consent_error(p_kind, (p_job ->> 'id')::uuid), 'a person revoked consent while the job ran'), p_gpu_seconds);
    return 'consent_denied';
  end if;
  perform worker.finish_job(p_kind, p_job, 'cancelled', null, null, p_gpu_seconds);
  return 'cancelled';
end $$;
comment on function worker.finish_stopped_job is 'End a job whose stop was requested: as cancelled, or as failed with consent_denied.';
