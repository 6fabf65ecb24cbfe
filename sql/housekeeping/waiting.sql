-- Stranded jobs, which no live pod can run: fail those that a pod has tried and could not run, write to the others why they wait.

create or replace function worker.why_stranded(p_route text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_package text;
  v_base worker.base_models;
  v_needed real;
  v_largest real := (select max(vram_gib) from worker.pods where worker.is_alive(pods));
begin
  if exists (select from worker.pods where p_route = any (routes) and worker.is_alive(pods)) then
    return null;
  elsif not exists (select from worker.pods where worker.is_alive(pods)) then
    return 'no pod is running';
  end if;
  select package into v_package from worker.job_kinds where kind = split_part(p_route, '/', 1);
  if v_package is not null and not exists (
    select from worker.pods cross join unnest(pods.routes) offered
    where worker.is_alive(pods) and split_part(offered, '/', 1) = split_part(p_route, '/', 1)) then
    return format('no live pod offers %s: check its WORKER_KINDS, and that package %s is installed', split_part(p_route, '/', 1), v_package);
  end if;
  select * into v_base from worker.base_models where slug = nullif(split_part(p_route, '/', 2), '');
  if v_base.slug is null then
    return 'no live pod offers ' || p_route || ': check its WORKER_KINDS';
  end if;
  v_needed := worker.required_vram_gib(v_base, worker.required_capabilities(split_part(p_route, '/', 1)));
  if v_needed > coalesce(v_largest, 0) then
    -- Rounded down: "needs 24.5, the largest pod has 24.5" would explain nothing.
    return worker.memory_requirement(v_base) || '; '
      || coalesce('the largest pod has ' || trim_scale(trunc(v_largest::numeric, 1)), 'no live pod has a GPU that is ready');
  elsif not exists (select from worker.pods where worker.is_alive(pods)
                    and v_needed <= coalesce(vram_gib, 0) and v_base.slug = any (models_present)) then
    return v_base.slug || ' not found on a live pod or in the bucket: worker models push ' || v_base.slug;
  end if;
  return 'the pods that have ' || v_base.slug || ' do not offer ' || p_route || ': their logs say why';
end $$;
comment on function worker.why_stranded is 'Return why no live pod offers a route; NULL when one does.';

-- A job is failed when a pod released it for its own fault (is_fault_of_pod) and its route is not listed by any pod; not while
-- every pod restarts, nor while a pod that lists the route is only silent. Some at a time, here and below: each job is locked
-- until the tick commits, and a tick that reached its pod's statement_timeout would start again and again.
create or replace function worker.fail_stranded_jobs(p_kind worker.job_kinds) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_route text;
  v_job_id uuid;
  v_job jsonb;
begin
  if not exists (select from worker.pods where worker.is_alive(pods)) then
    return;
  end if;
  for v_route in
    select distinct entrypoint from worker.pgqueuer
    where status = 'queued' and split_part(entrypoint, '/', 1) = p_kind.kind
      and not exists (select from worker.pods where entrypoint = any (routes))
  loop
    for v_job_id in execute format(
      'select job.id from worker.pgqueuer queue join %s job on job.id = split_part(queue.dedupe_key, '':'', 2)::uuid
       where queue.status = ''queued'' and queue.entrypoint = $1 and job.status = ''queued'' and worker.is_fault_of_pod(job.error_code)
       order by job.id limit 500', p_kind.table_name)
      using v_route
    loop
      v_job := worker.try_lock_job(p_kind.kind, v_job_id);
      if v_job ->> 'status' = 'queued' and worker.is_fault_of_pod(v_job ->> 'error_code') then
        perform worker.finish_job(p_kind.kind, v_job, 'failed', v_job ->> 'error_code', v_job ->> 'error');
      end if;
    end loop;
  end loop;
end $$;
comment on function worker.fail_stranded_jobs is
  'Fail the jobs that a pod could not run for lack of a model or of memory, and whose route no pod offers any more.';

create or replace function worker.explain_waiting(p_kind worker.job_kinds) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_route text;
  v_phase text;
  v_job_id uuid;
  v_job jsonb;
begin
  for v_route, v_phase in
    select entrypoint, 'waiting: no live pod can take this: ' || worker.why_stranded(entrypoint)
    from (select distinct entrypoint from worker.pgqueuer where status = 'queued' and split_part(entrypoint, '/', 1) = p_kind.kind) waiting
  loop
    if v_phase is null then  -- a live pod offers the route
      execute format(
        'update %1$s set phase = ''waiting'' where id in (
           select job.id from %1$s job where status = ''queued'' and phase like ''waiting: no live pod can take this: %%''
             and worker.route($1, to_jsonb(job)) = $2 order by job.id for update skip locked)', p_kind.table_name) using p_kind.kind, v_route;
      continue;
    end if;
    for v_job_id in execute format(
      'select job.id from worker.pgqueuer queue join %s job on job.id = split_part(queue.dedupe_key, '':'', 2)::uuid
       where queue.status = ''queued'' and queue.entrypoint = $1 and job.status = ''queued'' and job.phase is distinct from $2
       order by job.id limit 500', p_kind.table_name)
      using v_route, v_phase
    loop
      v_job := worker.try_lock_job(p_kind.kind, v_job_id);
      if v_job ->> 'status' = 'queued' then
        execute format('update %s set phase = $2 where id = $1', p_kind.table_name) using v_job_id, v_phase;
      end if;
    end loop;
  end loop;
end $$;
comment on function worker.explain_waiting is 'Write to phase that no live pod can run a job, and why, until one can.';
