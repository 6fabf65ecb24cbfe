create table public.bench_jobs (
  like worker.life_cycle including all,
  seconds double precision not null default 0 constraint bench_jobs_seconds_not_negative check (seconds >= 0)
);
comment on table public.bench_jobs is 'Requests to keep the GPU for a while.';
comment on column public.bench_jobs.seconds is 'How long.';
