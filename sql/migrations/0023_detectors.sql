-- Detectors: guides that make a map of a photo, which another guide reads. They serve the base models of every family.

alter table worker.guides alter column family drop not null;

-- They are on the GPU before the base model is, and need less than any: nothing beside it.
insert into worker.guides (slug, family, capabilities, vram_gib, licence, commercial_use) values
  ('depth-anything-v2-small', null, '{detect:depth}', 0, 'Apache-2.0', true),
  ('vitpose-base-simple', null, '{detect:pose}', 0, 'Apache-2.0', true)
on conflict (slug) do nothing;  -- an administrator may have added it by hand

alter table public.generation_jobs
  add column control_from text constraint generation_jobs_control_from_is_map_or_photo check (control_from in ('map', 'photo')),
  add constraint generation_jobs_control_from_with_control_path check (control_from is null or control_path is not null);
