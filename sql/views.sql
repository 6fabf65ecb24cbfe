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

create or replace view worker.queue_depth with (security_invoker = true) as
select
  routes.route,
  count(queue.id) filter (where queue.status = 'queued') as waiting,
  date_trunc('second', clock_timestamp() - min(queue.created) filter (where queue.status = 'queued' and isfinite(queue.created))) as oldest,
  count(queue.id) filter (where queue.status = 'picked') as running,
  (select count(*) from worker.pods where routes.route = any (pods.routes) and worker.is_alive(pods)) as pods
from (select entrypoint as route from worker.pgqueuer union select unnest(routes) from worker.pods where worker.is_alive(pods)) routes
left join worker.pgqueuer queue on queue.entrypoint = routes.route
group by routes.route
order by routes.route;
comment on view worker.queue_depth is 'Each route: jobs that wait, age of the oldest, jobs that run, and live pods that offer it.';

create or replace view worker.stranded_jobs with (security_invoker = true) as
select split_part(queue.dedupe_key, ':', 1) as kind, split_part(queue.dedupe_key, ':', 2)::uuid as id, queue.entrypoint as route,
  queue.created as since, routes.why
from worker.pgqueuer queue
join (select entrypoint, worker.why_stranded(entrypoint) as why
      from (select distinct entrypoint from worker.pgqueuer where status = 'queued') waiting) routes using (entrypoint)
where queue.status = 'queued' and routes.why is not null
order by queue.created, queue.id;
comment on view worker.stranded_jobs is 'Queued jobs that no live pod can run, and why.';
