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

create or replace view worker.queue_depth with (security_invoker = true) as
select
  routes.route,
  count(queue.id) filter (where queue.status = 'queued') as waiting,
  date_trunc('second', clock_timestamp() - min(queue.created) filter (where queue.status = 'queued')) as oldest,
  count(queue.id) filter (where queue.status = 'picked') as running,
  (select count(*) from worker.pods where routes.route = any (pods.routes)) as pods
from (select entrypoint as route from worker.pgqueuer union select unnest(routes) from worker.pods) routes
left join worker.pgqueuer queue on queue.entrypoint = routes.route
group by routes.route
order by routes.route;
comment on view worker.queue_depth is 'Each route: what waits, since when, what runs, and how many live pods could take it.';

-- Views are recreated after the rights in functions.sql were set.
revoke all on worker.jobs, worker.queue_depth from public, anon, authenticated, service_role, likeness_worker;
