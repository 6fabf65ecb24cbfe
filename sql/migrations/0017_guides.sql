-- Guides: models that steer a base model by pictures, such as an IP-Adapter (references) or a ControlNet (poses, edges, depth).

create table worker.guides (
  slug text primary key constraint guides_slug_is_a_folder_name check (slug ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$'),
  family text not null,
  capabilities text[] not null constraint guides_capabilities_are_named check (cardinality(capabilities) > 0),
  vram_gib real not null constraint guides_vram_gib_between_0_and_1024 check (vram_gib between 0 and 1024),
  licence text not null,
  commercial_use boolean not null
);
comment on table worker.guides is 'Models that steer the base models of a family by pictures. Add your own.';

-- On the GPU while attached, in 16 bits: the weights, the image encoder of an IP-Adapter, and 0.1 to 0.4 for the work of a step. The
-- encoder ViT-H has 632 million weights, 1.18 GiB; CLIP-L's half for pictures 304 million, 0.57.
--   ip-adapter-sd15      0.04 + 1.18 + 0.1      ip-adapter-sdxl    0.65 + 1.18 + 0.1     ip-adapter-flux   0.91 + 0.57 + 0.1
--   controlnet-*-sd15    0.67 + 0.3             the union of SDXL  2.34 + 0.4            of FLUX.1         3.99 + 0.3
insert into worker.guides (slug, family, capabilities, vram_gib, licence, commercial_use) values
  ('ip-adapter-sd15', 'sd15', '{reference}', 1.4, 'Apache-2.0', true),
  ('ip-adapter-sdxl', 'sdxl', '{reference}', 2, 'Apache-2.0', true),
  ('ip-adapter-flux', 'flux', '{reference}', 1.6, 'Apache-2.0 (adapter), MIT (encoder)', true),
  ('controlnet-canny-sd15', 'sd15', '{control:canny}', 1, 'OpenRAIL', true),
  ('controlnet-pose-sd15', 'sd15', '{control:pose}', 1, 'OpenRAIL', true),
  ('controlnet-depth-sd15', 'sd15', '{control:depth}', 1, 'OpenRAIL', true),
  ('controlnet-union-sdxl', 'sdxl', '{control:canny,control:pose,control:depth}', 2.8, 'Apache-2.0', true),
  ('controlnet-union-flux', 'flux', '{control:canny,control:pose,control:depth}', 4.3, 'FLUX.1 [dev] Non-Commercial License', false);

-- The capability is named after what it gives, not after one way to give it.
update worker.base_models set capabilities = array_replace(capabilities, 'ip_adapter', 'reference') where 'ip_adapter' = any (capabilities);

-- What each of the published base models can do with the guides above; FLUX.2 klein reads references itself. Capabilities that an
-- administrator added stay, and so do other base models: see docs/models.md.
update worker.base_models base
set capabilities = base.capabilities || array(
  select gained from unnest(can.gained) with ordinality gains (gained, position) where gained <> all (base.capabilities) order by position)
from (values
  ('sd15', '{reference,control:canny,control:pose,control:depth}'::text[]),
  ('sdxl', '{reference,control:canny,control:pose,control:depth}'),
  ('flux-dev', '{reference,control:canny,control:pose,control:depth}'),
  ('flux-schnell', '{reference,control:canny,control:pose,control:depth}'),
  ('klein', '{reference}'),
  ('klein-base', '{reference}')) can (slug, gained)
where base.slug = can.slug;

-- Chosen when a job is inserted, so that its route stays the same whatever happens to worker.guides; like preset a part of the request.
do $$
declare
  v_table text;
begin
  for v_table in
    select 'worker.life_cycle'
    union select unnest('{public.training_jobs,public.generation_jobs,worker.internal_jobs}'::text[])
    union select table_name from worker.job_kinds where to_regclass(table_name) is not null
    order by 1
  loop
    execute format('alter table %s add column guides text[]', v_table);
  end loop;
end $$;

alter table public.generation_jobs
  add column control_start real constraint generation_jobs_control_start_between_0_and_1 check (control_start between 0 and 1),
  add column control_end real constraint generation_jobs_control_end_between_0_and_1 check (control_end between 0 and 1),
  add constraint generation_jobs_control_start_before_control_end check (coalesce(control_start, 0) < coalesce(control_end, 1));
