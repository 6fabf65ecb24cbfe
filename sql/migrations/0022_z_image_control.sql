-- Control pictures of Z-Image: a network for several kinds, which its publisher trained with Turbo. It borrows the transformer's
-- embedders and refiners, which count once. In 16 bits 2.89 GiB, and 0.5 for the work of a step with negative prompts.

insert into worker.guides (slug, family, capabilities, vram_gib, licence, commercial_use) values
  ('controlnet-union-z-image', 'z-image', '{control:canny,control:pose,control:depth}', 3.4, 'Apache-2.0', true)
on conflict (slug) do nothing;  -- an administrator may have added it by hand

update worker.base_models base
set capabilities = base.capabilities || array(
  select gained from unnest('{control:canny,control:pose,control:depth}'::text[]) with ordinality gains (gained, position)
  where gained <> all (base.capabilities) order by position)
where base.slug in ('z-image', 'z-image-turbo');
