-- Meshes: 3D models from pictures of things. A base model that does one thing alone, and a bucket of their own.

do $$
begin
  if to_regclass('public.mesh_jobs') is not null then
    raise exception 'table public.mesh_jobs already exists and does not belong to this project'
      using hint = 'Rename it, or install into another database: nothing was changed.';
  end if;
end $$;

-- Without it, a kind that needs no capability, such as one that draws, could name a base model that cannot draw.
alter table worker.base_models
  add column only_for text constraint base_models_only_for_is_one_of_its_capabilities check (only_for is null or only_for = any (capabilities));

alter table worker.config add column bucket_meshes text not null default '3d-models';

create table public.mesh_jobs (
  like worker.life_cycle including all,
  base text references worker.base_models (slug),
  image_urls text[] constraint mesh_jobs_image_urls_1_to_4 check (cardinality(image_urls) between 1 and 4)
    constraint mesh_jobs_image_urls_is_a_list check (array_ndims(image_urls) = 1),
  image_paths text[] constraint mesh_jobs_image_paths_1_to_4 check (cardinality(image_paths) between 1 and 4)
    constraint mesh_jobs_image_paths_is_a_list check (array_ndims(image_paths) = 1),
  quality text not null default 'balanced'
    constraint mesh_jobs_quality_is_fast_balanced_or_quality check (quality in ('fast', 'balanced', 'quality')),
  format text not null default 'glb' constraint mesh_jobs_format_is_glb_obj_or_stl check (format in ('glb', 'obj', 'stl')),
  texture text not null default 'vertex' constraint mesh_jobs_texture_is_vertex_or_baked check (texture in ('vertex', 'baked')),
  max_faces integer constraint mesh_jobs_max_faces_between_100_and_1000000 check (max_faces between 100 and 1000000),
  metadata jsonb not null default '{}'
    constraint mesh_jobs_metadata_is_an_object_of_up_to_16000_bytes
    check (jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 16000)
    constraint mesh_jobs_metadata_nested_up_to_20_levels check (not jsonb_path_exists(metadata, 'strict $.**{20}'))
    constraint mesh_jobs_metadata_has_no_number_of_255_digits check (metadata::text !~ '[0-9]{255}'),
  constraint mesh_jobs_either_image_urls_or_image_paths check ((image_urls is null) <> (image_paths is null)),
  constraint mesh_jobs_stl_has_no_texture_to_bake check (format <> 'stl' or texture = 'vertex')
);
create index mesh_jobs_base on public.mesh_jobs (base);

-- In float32: 419 million weights, 1.56 GiB. Reading the picture adds at most 0.7 (3072 tokens attend to each other in 16 heads), densities
-- 1.0 for a chunk of points, which shrinks to half of what is free, and 0.2 for the largest grid; libraries and the allocator take 0.5. A
-- computed figure. 0 would let pods without a GPU offer it.
insert into worker.base_models (slug, family, capabilities, only_for, sizes, defaults, min_vram_gib, licence, commercial_use) values
  ('triposr', 'triposr', '{mesh}', 'mesh', '{}', '{}', 4, 'MIT', true)
on conflict (slug) do nothing;  -- an operator may have added it by hand
