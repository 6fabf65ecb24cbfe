-- GPU memory: what base models need, and which of them fit a pod. All figures are GiB that are free when the pod's GPU process
-- starts. Pods of 0.1.0 compare otherwise: fits_memory in release_0_1.sql.

create or replace function worker.required_vram_gib(p_base worker.base_models, p_capabilities text[]) returns real
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case when 'train' = any (p_capabilities) then coalesce(p_base.min_training_vram_gib, p_base.min_vram_gib) else p_base.min_vram_gib end
$$;
comment on function worker.required_vram_gib is
  'Return how much GPU memory must be free for jobs that need these capabilities of a base model: with train, the figure for training.';

-- The sentence that `worker doctor`, a pod's log and the phase of a waiting job have in common.
create or replace function worker.memory_requirement(p_base worker.base_models) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select p_base.slug || case
    when greatest(generating, training) = 0 then ' needs no GPU memory'
    when training is null then format(' needs %s GiB of free GPU memory to generate', generating)
    when training = generating then format(' needs %s GiB of free GPU memory to train and to generate', generating)
    else format(' needs %s GiB of free GPU memory to train, %s to generate', training, generating) end
  from (select worker.required_vram_gib(p_base, '{}') as generating,
               case when 'train' = any (p_base.capabilities) then worker.required_vram_gib(p_base, '{train}') end as training) figures
$$;
comment on function worker.memory_requirement is 'Return in words how much free GPU memory a base model needs, and for what.';

-- A kind whose hook fails here offers nothing; the pod's other kinds must not end with it, nor the housekeeping.
create or replace function worker.required_capabilities(p_kind text) returns text[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return worker.capabilities(p_kind, '{}');
exception when others or assert_failure or query_canceled then
  if worker.is_transient(sqlstate) then
    raise;
  end if;
  raise warning 'kind %: its hook capabilities failed with SQLSTATE %', p_kind, sqlstate;
  return null;
end $$;
comment on function worker.required_capabilities is
  'Return the capabilities that every job of a kind needs of its base model; NULL, with a warning, if the kind''s hook fails.';

-- A base model that is only for one capability is none for a job that asks for nothing.
create or replace function worker.base_can(p_base worker.base_models, p_capabilities text[]) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select p_base.capabilities @> p_capabilities and (p_base.only_for is null or p_base.only_for = any (p_capabilities)) $$;
comment on function worker.base_can is 'Return true if jobs that need these capabilities can run on a base model.';

create or replace function worker.weights_slug(p_base worker.base_models) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select coalesce(p_base.weights_of, p_base.slug) $$;
comment on function worker.weights_slug is 'Return the base model whose folder has the weights of a base model: its own, unless it has those of another.';

-- What a guide gives is asked for by each job itself: which routes that makes is usable_routes' to say.
create or replace function worker.base_serves(p_base worker.base_models, p_kind text) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select required is not null and worker.base_can(p_base, required || array(
    select p_base.only_for where split_part(p_base.only_for, ':', 1) = any (worker.guided_by(p_kind))))
  from worker.required_capabilities(p_kind) required
$$;
comment on function worker.base_serves is 'Return true if jobs of a kind can run on a base model, if need be with a guide.';

create or replace function worker.usable_bases(p_kind text, p_slugs text[], p_vram_gib double precision) returns text[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(base.slug order by base.slug), '{}')
  from worker.required_capabilities(p_kind) required
  join worker.base_models base on worker.base_serves(base, p_kind) and worker.required_vram_gib(base, required) <= coalesce(p_vram_gib, 0)
  where worker.weights_slug(base) = any (p_slugs)
$$;
comment on function worker.usable_bases is
  'Return the base models with the weights of these that have the capabilities that every job of a kind needs, and fit into this much free GPU memory; NULL is a CPU.';
