-- The sampler of a picture by its name, and the layer of CLIP that is read.

alter table public.generation_jobs
  add column sampler text constraint generation_jobs_sampler_is_a_name_of_up_to_40_characters check (sampler ~ '^[A-Za-z0-9+ _-]{1,40}$'),
  add column clip_skip integer constraint generation_jobs_clip_skip_between_1_and_12 check (clip_skip between 1 and 12);
