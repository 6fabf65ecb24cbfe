create table public.echo_jobs (
  like worker.life_cycle including all,
  words text not null constraint echo_jobs_words_1_to_200_characters check (length(words) between 1 and 200),
  picture_path text,
  times integer not null default 3 constraint echo_jobs_times_between_1_and_1000 check (times between 1 and 1000),
  pause_ms integer not null default 0 constraint echo_jobs_pause_ms_between_0_and_1000 check (pause_ms between 0 and 1000)
);
comment on table public.echo_jobs is 'Requests to say words again.';
comment on column public.echo_jobs.words is 'What to say.';
comment on column public.echo_jobs.picture_path is 'The key of a picture to say it beside, under {owner_id}/{subject_id}/.';
comment on column public.echo_jobs.times is 'How often.';
comment on column public.echo_jobs.pause_ms is 'How long to wait after each time.';
