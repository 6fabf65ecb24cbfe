-- Stranded jobs, which no live pod can run: fail those that a pod has tried and could not run, write to the others why they wait.

create or replace function worker.why_stranded(p_route text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_package text;
  v_base worker.base_models;
  v_needed real;
  v_guides text[] := coalesce(worker.guides_of_route(p_route), '{}');
  v_missing text;
  v_weights text;
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
  select * into v_base from worker.base_models where slug = worker.base_of_route(p_route);
  if v_base.slug is null then
    return 'no live pod offers ' || p_route || ': check its WORKER_KINDS';
  end if;
  v_weights := worker.weights_slug(v_base);
  select guide into v_missing from unnest(v_guides) guide where guide not in (select slug from worker.guides) limit 1;
  if v_missing is not null then
    return format('guide %s is not in worker.guides any more: insert it again, or cancel the job', v_missing);
  end if;
  v_needed := worker.required_vram_gib(v_base, worker.required_capabilities(split_part(p_route, '/', 1))) + worker.guides_vram_gib(v_guides);
  if v_needed > coalesce(v_largest, 0) then
    -- Rounded down: "needs 24.5, the largest pod has 24.5" would explain nothing.
    return worker.memory_requirement(v_base)
      || coalesce((select string_agg(format(', and %s %s more', slug, vram_gib), '' order by slug) from worker.guides where slug = any (v_guides) and vram_gib > 0), '') || '; '
      || coalesce('the largest pod has ' || trim_scale(trunc(v_largest::numeric, 1)), 'no live pod has a GPU that is ready');
  elsif not exists (select from worker.pods where worker.is_alive(pods)
                    and v_needed <= coalesce(vram_gib, 0) and v_weights = any (models_present)) then
    return v_weights || ' not found on a live pod or in the bucket: worker models push ' || v_weights;
  end if;
  select guide into v_missing from unnest(v_guides) guide
  where not exists (select from worker.pods where worker.is_alive(pods) and guide = any (models_present)) limit 1;
  if v_missing is not null then
    return format('no pod has %1$s: worker models pull --as %1$s, then worker models push %1$s', v_missing);
  elsif v_guides <> '{}' and not exists (select from worker.pods where worker.is_alive(pods)
        and v_needed <= coalesce(vram_gib, 0) and models_present @> (v_weights || v_guides)) then
    return format('no pod has %s together, and the memory for them: worker models push makes them available to all', array_to_string(v_weights || v_guides, ' and '));
  end if;
  return 'the pods that have ' || v_base.slug || ' do not offer ' || p_route || ': their logs say why';
end $$;
comment on function worker.why_stranded is 'Return why no live pod offers a route; NULL when one does.';

-- A job is failed when a pod released it for its own fault (is_fault_of_pod) and its route is not listed by any pod; not while
-- every pod restarts, nor while a pod that lists the route is only silent. Some at a time, here and below: each job is locked
-- until the housekeeping commits, and one that reached its pod's statement_timeout would start again and again.
create or replace function worker.fail_stranded_jobs(p_kind worker.job_kinds) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_job_id uuid;
  v_job jsonb;
  v_count integer := 0;
begin
  if not exists (select from worker.pods where worker.is_alive(pods)) then
    return false;
  end if;
  for v_job_id in execute format(
    'select id from %s job where status = ''queued'' and error_code is not null and worker.is_fault_of_pod(error_code)
       and not exists (select from worker.pods where worker.route($1, to_jsonb(job)) = any (routes))
     order by error_code limit 100', p_kind.table_name) using p_kind.kind
  loop
    v_job := worker.try_lock_job(p_kind.kind, v_job_id);
    if v_job ->> 'status' = 'queued' and worker.is_fault_of_pod(v_job ->> 'error_code') then
      perform worker.finish_job(p_kind.kind, v_job, 'failed', v_job ->> 'error_code', v_job ->> 'error');
      v_count := v_count + 1;
    end if;
  end loop;
  return v_count = 100;
end $$;
comment on function worker.fail_stranded_jobs is
  'Fail the jobs that a pod could not run for lack of a model or of memory, and whose route no pod offers any more, a hundred at a time. Returns whether more may be left.';

-- The jobs of a route whose phase is not yet what it should be are those beside one value, or those of one beginning, in an index
-- by phase. So it makes no difference how many wait and say so already. ORDER BY with LIMIT, here and above, is the index's order:
-- otherwise the planner may look through all jobs for the first few.
create or replace function worker.explain_waiting(p_kind worker.job_kinds) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit constant integer := 100;
  v_rows integer;
  v_more boolean := false;
  v_prefix constant text := 'waiting: no live pod can take this: ';
  v_route text;
  v_base text;
  v_guides text[];
  v_why text;
  v_condition text;
begin
  for v_route in select route from worker.queued_routes() route where split_part(route, '/', 1) = p_kind.kind loop
    v_why := worker.why_stranded(v_route);
    v_base := worker.base_of_route(v_route);
    v_guides := worker.guides_of_route(v_route);
    foreach v_condition in array
      case when v_why is null then array['phase collate "C" like ' || quote_literal(v_prefix || '%')]
      else array['phase collate "C" < $2', 'phase collate "C" > $2', 'phase is null'] end
    loop
      execute format(
        'with others as materialized (
           select id from %1$s where status = ''queued'' and %2$s and %3$s order by %4$s phase collate "C" limit $3 for update skip locked)
         update %1$s job set phase = $2 from others where job.id = others.id', p_kind.table_name,
        case when not p_kind.uses_base then 'true' else case when v_base is null then 'base is null' else 'base = $1' end
          || case when v_guides is null then ' and guides is null' else ' and guides = $4' end end, v_condition,
        case when p_kind.uses_base then 'guides,' end)
        using v_base, coalesce(v_prefix || v_why, 'waiting'), v_limit, v_guides;
      get diagnostics v_rows = row_count;
      v_more := v_more or v_rows = v_limit;
    end loop;
  end loop;
  return v_more;
end $$;
comment on function worker.explain_waiting is
  'Write to phase that no live pod can run a job, and why, until one can, to a hundred jobs of a route at a time. Returns whether more may be left.';
