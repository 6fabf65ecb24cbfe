-- UNO: FLUX.1 with a LoRA that reads references. A base model may have the weights of another, so that they are stored once, and a
-- guide may be for some base models alone. References may be URLs.

alter table worker.base_models
  add column weights_of text references worker.base_models (slug)
    constraint base_models_weights_of_names_another check (weights_of <> slug);

create index base_models_weights_of on worker.base_models (weights_of);

alter table worker.guides
  add column bases text[] constraint guides_bases_names_some check (cardinality(bases) > 0);

-- What FLUX.1 [dev] needs and is licensed for, which an administrator may have changed. Steps, guidance and size are the defaults of
-- the original program (bytedance/UNO, inference.py).
insert into worker.base_models (slug, family, train_base, weights_of, only_for, capabilities, sizes, defaults, min_vram_gib, licence, commercial_use)
select 'uno', family, slug, slug, 'reference', '{lora,reference}', '{512x512,704x704,1024x1024}',
       '{"steps": 25, "guidance": 4, "width": 512, "height": 512}', min_vram_gib, licence, false
from worker.base_models where slug = 'flux-dev'
on conflict (slug) do nothing;  -- an operator may have added it by hand

-- On the GPU while attached, in 16 bits: the LoRA of rank 512, 956 million weights, 1.78 GiB; and at most 1,600 tokens of references
-- (four of 320 x 320 pixels), 17.4 hidden states of 3,072 numbers each, 0.16 GiB.
insert into worker.guides (slug, family, capabilities, vram_gib, licence, commercial_use, bases)
values ('uno-lora', 'flux', '{reference}', 2, 'CC BY-NC 4.0', false, '{uno}')
on conflict (slug) do nothing;

alter table public.generation_jobs
  add column reference_urls text[] constraint generation_jobs_reference_urls_1_to_4 check (cardinality(reference_urls) between 1 and 4)
    constraint generation_jobs_reference_urls_is_a_list check (array_ndims(reference_urls) = 1),
  add constraint generation_jobs_references_are_paths_or_urls check (reference_paths is null or reference_urls is null);
