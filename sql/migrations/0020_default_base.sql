-- The base model of jobs that name none is FLUX.2 klein in new installations: it is free to use and fits a small card. An installation
-- that a job or a pod has used keeps what it has.

alter table worker.config alter column default_base set default 'klein';
update worker.config set default_base = 'klein'
where default_base = 'flux-dev'
  and not exists (select from public.training_jobs) and not exists (select from public.generation_jobs)
  and not exists (select from public.subjects_models) and not exists (select from worker.pods);
