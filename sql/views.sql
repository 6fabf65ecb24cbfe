-- What a person looks at with psql.

-- One line a job over all kinds, at most 120 characters wide. Built from job_kinds, so a new kind appears by itself.
do $$
declare
  v_parts text;
begin
  select string_agg(format(
      $sql$select id, %L::text as kind, status, attempt as try, to_char(progress * 100, 'FM990%%') as done,
                  left(coalesce(error_code, phase, ''), 24) as note, to_char(created_at, 'MM-DD HH24:MI') as created, created_at
           from %s$sql$ || case when kind_count > 1 then format(' where kind = %L', kind) else '' end,
      kind, table_name), ' union all ' order by kind)
  into v_parts
  from (select kind, table_name, count(*) over (partition by table_name) as kind_count from worker.job_kinds) kinds;
  execute 'drop view if exists worker.jobs';
  execute format(
    'create view worker.jobs with (security_invoker = true) as
     select id, kind, status, try, done, note, created from (%s) all_jobs order by created_at desc', v_parts);
end $$;
comment on view worker.jobs is 'Every job, newest first, one line each.';

-- All there is to know of every job: its life cycle, and its request as one value. For `worker job` and `worker status`.
do $$
declare
  v_life text[] := array(
    select attname::text from pg_catalog.pg_attribute
    where attrelid = 'worker.life_cycle'::regclass and attnum > 0 and not attisdropped order by attnum);
  v_parts text;
begin
  select string_agg(format('select %L::text as kind, %s, jsonb_strip_nulls(to_jsonb(job) - %L::text[]) as request from %s job',
      kind, (select string_agg(quote_ident(name), ', ') from unnest(v_life) name), v_life, table_name)
      || case when kind_count > 1 then format(' where kind = %L', kind) else '' end, ' union all ' order by kind)
  into v_parts
  from (select kind, table_name, count(*) over (partition by table_name) as kind_count from worker.job_kinds) kinds;
  execute 'drop view if exists worker.job_details';
  execute 'create view worker.job_details with (security_invoker = true) as ' || v_parts;
end $$;
comment on view worker.job_details is 'Every job of every kind with its whole life cycle, and its request as one JSON object.';

create or replace view worker.queue_depth with (security_invoker = true) as
select
  routes.route,
  count(queue.id) filter (where queue.status = 'queued') as waiting,
  date_trunc('second', clock_timestamp() - min(queue.created) filter (where queue.status = 'queued')) as oldest,
  count(queue.id) filter (where queue.status = 'picked') as running,
  (select count(*) from worker.pods where routes.route = any (pods.routes) and worker.is_alive(pods)) as pods
from (select entrypoint as route from worker.pgqueuer union select unnest(routes) from worker.pods where worker.is_alive(pods)) routes
left join worker.pgqueuer queue on queue.entrypoint = routes.route
group by routes.route
order by routes.route;
comment on view worker.queue_depth is 'Each route: what waits, since when, what runs, and how many live pods could take it.';

create or replace view worker.stranded_jobs with (security_invoker = true) as
select split_part(queue.dedupe_key, ':', 1) as kind, split_part(queue.dedupe_key, ':', 2)::uuid as id, queue.entrypoint as route,
  queue.created as since, routes.why
from worker.pgqueuer queue
join (select entrypoint, worker.why_stranded(entrypoint) as why
      from (select distinct entrypoint from worker.pgqueuer where status = 'queued') waiting) routes using (entrypoint)
where queue.status = 'queued' and routes.why is not null
order by queue.created, queue.id;
comment on view worker.stranded_jobs is 'Open jobs that no live pod can take, and why.';

-- Views are recreated after the rights in functions.sql were set.
revoke all on worker.jobs, worker.job_details, worker.queue_depth, worker.stranded_jobs from public, anon, authenticated, service_role, likeness_worker;
-- Both say nothing of people. A pod's login may look at the queue and at the other pods: `worker doctor` and `status` do.
grant select on worker.queue_depth, worker.stranded_jobs to likeness_worker;
