-- Views for people who look at the queue with psql.

-- Built from job_kinds, so that a new kind is included. worker.jobs is at most 120 characters wide.
create or replace function worker.make_job_views() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_life text[] := array(
    select attname::text from pg_catalog.pg_attribute
    where attrelid = 'worker.life_cycle'::regclass and attnum > 0 and not attisdropped order by attnum);
  v_lines text;
  v_details text;
begin
  select string_agg(format(
      $sql$select id, %L::text as kind, status, attempt as try, to_char(progress * 100, 'FM990%%') as done,
                  left(coalesce(error_code, phase, ''), 24) as note, to_char(created_at, 'MM-DD HH24:MI') as created, created_at
           from %s$sql$, kind, table_name), ' union all ' order by kind),
    string_agg(format('select %L::text as kind, %s, jsonb_strip_nulls(to_jsonb(job) - %L::text[]) as request from %s job',
      kind, (select string_agg(quote_ident(name), ', ') from unnest(v_life) name), v_life, table_name), ' union all ' order by kind)
  into v_lines, v_details
  from worker.live_kinds();
  execute 'drop view if exists worker.jobs';
  execute format(
    'create view worker.jobs with (security_invoker = true) as
     select id, kind, status, try, done, note, created from (%s) all_jobs order by created_at desc', v_lines);
  comment on view worker.jobs is 'Every job, newest first, one line each.';
  execute 'drop view if exists worker.job_details';
  execute 'create view worker.job_details with (security_invoker = true) as ' || v_details;
  comment on view worker.job_details is 'Every job of every kind with its whole life cycle, and its request as one JSON object. For `worker job` and `worker status`.';
  revoke all on worker.jobs, worker.job_details from public, anon, authenticated, service_role, likeness_worker;
end $$;
comment on function worker.make_job_views is 'Create the views over all kinds of job: jobs and job_details.';

do $$
begin
  perform worker.make_job_views();
end $$;

-- One look at the queue, for all routes.
create or replace view worker.queue_depth with (security_invoker = true) as
select
  route,
  coalesce(queue.waiting, 0) as waiting,
  date_trunc('second', clock_timestamp() - queue.oldest) as oldest,
  coalesce(queue.running, 0) as running,
  coalesce(offered.pods, 0) as pods
from (
  select entrypoint as route, count(*) filter (where status = 'queued') as waiting, min(created) filter (where status = 'queued' and isfinite(created)) as oldest,
    count(*) filter (where status = 'picked') as running
  from worker.pgqueuer group by entrypoint
) queue
full join (
  select offers.route, count(*) as pods
  from worker.pods cross join lateral (select distinct unnest(pods.routes) as route) offers
  where worker.is_alive(pods) group by offers.route
) offered using (route)
order by route;
comment on view worker.queue_depth is 'Each route: jobs that wait, age of the oldest, jobs that run, and live pods that offer it.';

-- Materialized, so that the reason is found once for a route, not once for a job.
create or replace view worker.stranded_jobs with (security_invoker = true) as
with routes as materialized (
  select split_part(waiting.route, '/', 1) as kind, waiting.route, worker.why_stranded(waiting.route) as why
  from worker.queued_routes() waiting (route)
)
select routes.kind, right(queue.dedupe_key, 36)::uuid as id, routes.route, queue.created as since, routes.why
from routes
join worker.pgqueuer queue on queue.entrypoint = routes.route and queue.status = 'queued'
where routes.why is not null;
comment on view worker.stranded_jobs is 'Queued jobs that no live pod can run, and why.';
