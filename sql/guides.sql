-- Guides: models that steer a base model by pictures (worker.guides). A capability's part before the colon is its sort: a job needs at
-- most one guide of each sort, and the kind's hook guided_by names the sorts. A capability of a base model that no guide of its
-- family gives is built into the base. A guide without a family, a detector, serves every base model: it makes what another guide reads.

-- So that UNO's LoRA is not used with every base model of its family, nor another guide for what UNO does with that LoRA.
create or replace function worker.guide_serves(p_guide worker.guides, p_base worker.base_models) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select p_guide.family is null or p_guide.family = p_base.family and case
    when p_guide.bases is not null then p_base.slug = any (p_guide.bases)
    else not exists (select from worker.guides own where p_base.slug = any (own.bases) and own.capabilities && p_guide.capabilities) end
$$;
comment on function worker.guide_serves is
  'Return true if a guide is for a base model: it is for all, names it, or names none and is of its family, and no guide that names the base gives the same.';

create or replace function worker.sorts(p_capabilities text[]) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select array(select distinct split_part(capability, ':', 1) from unnest(p_capabilities) capability) $$;
comment on function worker.sorts is 'Return the sorts of these capabilities: what is before the colon.';

create or replace function worker.is_detected(p_capability text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (select from worker.guides where family is null and p_capability = any (capabilities));
end $$;
comment on function worker.is_detected is 'Return true for a capability that a guide gives to every base model.';

-- Called at INSERT for most jobs, of which most need none.
create or replace function worker.wanted_guides(p_kind text, p_job jsonb, p_capabilities text[]) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from worker.guides where capabilities && p_capabilities) then
    return null;
  end if;
  return (
    select array_agg(distinct found.slug collate "C" order by found.slug collate "C")
    from (select split_part(capability, ':', 1) as sort, array_agg(capability) as together from unnest(p_capabilities) capability group by 1) asked
    join worker.base_models base on base.slug = p_job ->> 'base'
    cross join lateral (
      select guide.slug from worker.guides guide
      where worker.guide_serves(guide, base) and guide.capabilities @> asked.together and asked.sort = any (worker.guided_by(p_kind))
      order by cardinality(guide.capabilities), guide.slug collate "C" limit 1) found);
end $$;
comment on function worker.wanted_guides is
  'Return the guides that a job needs, sorted, or NULL: for each sort of capability one that gives all that the job asks for, the most specific, by name.';

create or replace function worker.guide_for(p_job jsonb, p_capability text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select slug from worker.guides where slug = any (array(select worker.items(p_job, 'guides'))) and p_capability = any (capabilities)
$$;
comment on function worker.guide_for is 'Return which of a job''s guides gives it a capability; NULL where that is built into the base model.';

create or replace function worker.guides_vram_gib(p_guides text[]) returns real
language sql stable set search_path = pg_catalog, pg_temp
as $$ select coalesce(sum(vram_gib), 0)::real from worker.guides where slug = any (p_guides) $$;
comment on function worker.guides_vram_gib is 'Return how much GPU memory these guides need besides their base model.';

create or replace function worker.usable_routes(p_kind text, p_slugs text[], p_vram_gib double precision) returns text[]
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  with recursive offers as (
    select base, '{}'::text[] as guides, worker.required_capabilities(p_kind) as given, worker.guided_by(p_kind) as sorts,
           worker.required_vram_gib(base, worker.required_capabilities(p_kind)) as vram_gib
    from unnest(worker.usable_bases(p_kind, p_slugs, p_vram_gib)) usable (slug) join worker.base_models base using (slug)
    union all
    select offers.base, offers.guides || guide.slug, offers.given || guide.capabilities,
           array(select unnest(offers.sorts) except select unnest(worker.sorts(guide.capabilities))), offers.vram_gib + guide.vram_gib
    from offers join worker.guides guide on worker.guide_serves(guide, offers.base) and guide.slug = any (p_slugs)
      and guide.capabilities && (offers.base).capabilities and worker.sorts(guide.capabilities) <@ offers.sorts
      and guide.slug collate "C" > coalesce(offers.guides[cardinality(offers.guides)], '')
      and offers.vram_gib + guide.vram_gib <= coalesce(p_vram_gib, 0)
  ), with_detectors as (
    select offers.base, array(select slug from unnest(offers.guides || detector.slug) slug order by slug collate "C") as guides, offers.given
    from offers join worker.guides detector on detector.family is null and detector.slug = any (p_slugs)
      and worker.sorts(detector.capabilities) <@ offers.sorts and offers.vram_gib + detector.vram_gib <= coalesce(p_vram_gib, 0)
    where exists (
      select from worker.guides reader cross join unnest(reader.capabilities) gives cross join unnest(detector.capabilities) makes
      where reader.slug = any (offers.guides) and split_part(gives, ':', 2) = split_part(makes, ':', 2))
  )
  select coalesce(array_agg(route order by route), '{}') from (
    select p_kind || '/' || (base).slug || worker.guides_in_route(guides) as route
    from (select base, guides, given from offers union all select base, guides, given from with_detectors) choices
    -- What a base model is only for is built in, needed by every job of the kind, or given by one of the guides.
    where (base).only_for is null or (base).only_for = any (given) or not exists (
      select from worker.guides guide where worker.guide_serves(guide, base) and (base).only_for = any (guide.capabilities))) routes
$$;
comment on function worker.usable_routes is
  'Return the routes of a kind that a pod can offer with these models and this much free GPU memory: each usable base model alone, and with every choice of guides that fit beside it, detectors beside a guide that reads what they make. NULL is a CPU.';
