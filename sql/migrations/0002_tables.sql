-- The tables. Schema public is what an app sees, under row-level security; schema worker is guarded by grants.

do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'likeness_worker') then
    create role likeness_worker nologin;
  end if;
  -- From PostgreSQL 16 on, a role's creator is a member who may not SET ROLE to it: only this grant says so.
  if not pg_catalog.pg_has_role(current_user, 'likeness_worker',
                                case when current_setting('server_version_num')::integer >= 160000 then 'set' else 'member' end) then
    execute 'grant likeness_worker to ' || quote_ident(current_user);
  end if;
end $$;

-- NOTIFY is a wake-up, not a message: statement-level, INSERT only, one constant payload. pgqueuer's own trigger also
-- fires on every DELETE, even of no rows, and never on the UPDATEs that make a job claimable again.
drop trigger tg_pgqueuer_changed on worker.pgqueuer;
create or replace function worker.fn_pgqueuer_changed() returns trigger
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_catalog.pg_notify('likeness_queue', '');
  return null;
end $$;
comment on function worker.fn_pgqueuer_changed is 'Something may have become claimable: wake the pods.';
create trigger tg_pgqueuer_changed after insert on worker.pgqueuer
  for each statement execute function worker.fn_pgqueuer_changed();
comment on table worker.pgqueuer is 'The queue: one row an open job, entrypoint = route, payload = job id, dedupe_key = kind:id.';
comment on table worker.pgqueuer_log is 'When each queue row was queued, picked and settled.';
comment on table worker.pgqueuer_schedules is 'pgqueuer''s own; not used here.';
comment on table worker.pgqueuer_statistics is 'pgqueuer''s own; not used here.';

-- A row that is no job of ours would stop the housekeeping, which reads kind and id from the key.
alter table worker.pgqueuer add constraint pgqueuer_row_is_a_job
  check (dedupe_key is not null and dedupe_key ~ '^[a-z_]+:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$');

-- ---------------------------------------------------------------------------------------------- what an installation is

create table worker.config (
  singleton boolean primary key default true constraint config_is_one_row check (singleton),
  consent_mode text not null default 'admin'
    constraint config_consent_mode_is_known check (consent_mode in ('admin', 'owner_attests')),
  default_base text not null default 'flux-dev',
  open_jobs_per_owner integer not null default 10
    constraint config_open_jobs_per_owner_positive check (open_jobs_per_owner > 0),
  bucket_uploads text not null default 'uploads',
  bucket_models text not null default 'model_artifacts',
  keep_logs_for interval not null default '30 days'
);
comment on table worker.config is 'One row: what an administrator decides for the whole installation.';
comment on column worker.config.consent_mode is
  'admin: consent is granted by service_role only; owner_attests: also by the subject''s owner, who must confirm.';
insert into worker.config default values;

create table worker.job_kinds (
  kind text primary key constraint job_kinds_kind_is_a_word check (kind ~ '^[a-z][a-z_]{1,30}$'),
  table_name text not null,
  purpose text constraint job_kinds_purpose_is_known check (purpose in ('training', 'generation')),
  subject_required boolean not null,
  slot text not null constraint job_kinds_slot_is_known check (slot in ('gpu', 'light')),
  max_runtime interval not null,
  paused boolean not null default false
);
comment on table worker.job_kinds is 'The kinds of job; purpose NULL means that no consent is needed. paused: nothing of the kind is started.';

create table worker.base_models (
  slug text primary key constraint base_models_slug_is_a_folder_name check (slug ~ '^[a-z0-9][a-z0-9._-]{0,100}$'),
  family text not null,
  train_base text references worker.base_models (slug),
  capabilities text[] not null,
  sizes text[] not null default '{}',
  defaults jsonb not null default '{}',
  min_vram_gib real not null default 0,
  licence text not null,
  commercial_use boolean not null
);
comment on table worker.base_models is
  'What each base can do. LoRAs fit a family; train_base is set where a base only serves and another one of its family is trained.';
create index base_models_train_base on worker.base_models (train_base);
insert into worker.base_models (slug, family, train_base, capabilities, sizes, defaults, min_vram_gib, licence, commercial_use) values
  ('flux-dev', 'flux', null, '{train,lora}', '{1024x1024,832x1216,1216x832}',
   '{"steps": 28, "guidance": 3.5, "width": 1024, "height": 1024}', 24, 'FLUX.1 [dev] Non-Commercial', false),
  ('flux-schnell', 'flux', 'flux-dev', '{lora}', '{1024x1024,832x1216,1216x832}',
   '{"steps": 4, "guidance": 0, "width": 1024, "height": 1024}', 24, 'Apache-2.0', true);

create table worker.pods (
  id uuid primary key,
  name text not null,
  routes text[] not null,
  vram_gib real,
  models_present text[] not null default '{}',
  has_lock boolean not null,
  version text not null,
  registered_at timestamptz not null default clock_timestamp(),
  last_heartbeat timestamptz not null default clock_timestamp(),
  lock_free_since timestamptz
);
comment on table worker.pods is 'Live worker processes. A row goes when its pod leaves or is held for dead.';

create table worker.clock (
  singleton boolean primary key default true constraint clock_is_one_row check (singleton),
  last_tick timestamptz not null default clock_timestamp(),
  grace_from timestamptz not null default clock_timestamp()
);
comment on table worker.clock is 'When the last tick ran. After a gap (a restart, an outage) every grace starts anew at grace_from.';
insert into worker.clock default values;

-- ------------------------------------------------------------------------------------------------------------- people

create table public.subjects (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid default auth.uid() references auth.users (id) on delete set null,
  name text not null constraint subjects_name_1_to_200_characters check (length(name) between 1 and 200),
  trigger_word text constraint subjects_trigger_word_is_one_word check (trigger_word ~ '^[[:alnum:]_]{2,40}$'),
  subject_is_adult boolean not null default false,
  consent_status text not null default 'pending'
    constraint subjects_consent_status_is_known check (consent_status in ('pending', 'approved', 'rejected', 'revoked')),
  consent_purposes text[] not null default '{}'
    constraint subjects_consent_purposes_are_known check (consent_purposes <@ '{training,generation}'::text[]),
  consent_expires_at timestamptz,
  erased_at timestamptz,
  created_at timestamptz not null default now(),
  constraint subjects_approved_is_for_adults check (consent_status <> 'approved' or subject_is_adult),
  constraint subjects_approved_names_purposes check (consent_status <> 'approved' or consent_purposes <> '{}')
);
comment on table public.subjects is
  'People and products. Consent columns change only through grant_consent, reject_consent and revoke_consent.';
create index subjects_owner_id on public.subjects (owner_id);
create index subjects_consent_expires_at on public.subjects (consent_expires_at) where consent_status = 'approved';

create table public.subject_photos (
  id uuid primary key default gen_random_uuid(),
  subject_id uuid not null references public.subjects (id),
  path text not null,
  caption text constraint subject_photos_caption_up_to_1000_characters check (length(caption) <= 1000),
  status text not null default 'new'
    constraint subject_photos_status_is_known check (status in ('new', 'accepted', 'rejected')),
  reason text,
  prepared_path text,
  width integer,
  height integer,
  face jsonb,
  sha256 text,
  phash text,
  created_at timestamptz not null default now(),
  constraint subject_photos_path_once_a_subject unique (subject_id, path)
);
comment on table public.subject_photos is 'Photographs in the uploads bucket, under {owner_id}/{subject_id}/photos/.';

create table public.subjects_models (
  id uuid primary key default gen_random_uuid(),
  subject_id uuid references public.subjects (id),
  job_id uuid,
  version integer not null,
  base text not null references worker.base_models (slug),
  family text not null,
  path text not null,
  sha256 text not null constraint subjects_models_sha256_is_hex check (sha256 ~ '^[0-9a-f]{64}$'),
  rank integer not null,
  trigger_word text,
  metrics jsonb not null default '{}',
  created_at timestamptz not null default now(),
  retired_at timestamptz,
  constraint subjects_models_version_once_a_family unique (subject_id, family, version)
);
comment on table public.subjects_models is 'Trained LoRAs. The newest unretired row of a family is the subject''s current one.';
create index subjects_models_base on public.subjects_models (base);
create unique index subjects_models_job_id on public.subjects_models (job_id);

create table public.presets (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid default auth.uid() references auth.users (id) on delete cascade,
  name text not null constraint presets_name_1_to_100_characters check (length(name) between 1 and 100),
  kind text not null constraint presets_kind_is_known check (kind in ('training', 'generation')),
  prompt text not null default '' constraint presets_prompt_up_to_2000_characters check (length(prompt) <= 2000),
  negative_prompt text constraint presets_negative_prompt_up_to_2000_characters check (length(negative_prompt) <= 2000),
  settings jsonb not null default '{}'
    constraint presets_settings_is_a_small_object check (jsonb_typeof(settings) = 'object' and octet_length(settings::text) <= 4000),
  created_at timestamptz not null default now()
);
comment on table public.presets is
  'A look to reuse. owner_id NULL: everybody''s. In prompt, {prompt} stands for the request''s and {trigger} for the person''s trigger word.';
create index presets_owner_id on public.presets (owner_id);

-- --------------------------------------------------------------------------------------------------------------- jobs

-- The columns every job table has (LIKE copies them once; worker.alter_job_tables carries later changes).
create table worker.life_cycle (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid,
  subject_id uuid,
  status text not null default 'queued'
    constraint status_is_known check (status in ('queued', 'running', 'completed', 'failed', 'cancelled')),
  attempt integer not null default 0,
  failures integer not null default 0,
  max_failures integer not null default 3 constraint max_failures_between_1_and_20 check (max_failures between 1 and 20),
  priority integer not null default 0 constraint priority_between_minus_1000_and_1000 check (priority between -1000 and 1000),
  run_after timestamptz,
  max_runtime interval constraint max_runtime_between_1_second_and_1_day
    check (max_runtime between interval '1 second' and interval '1 day'),
  progress real not null default 0 constraint progress_between_0_and_1 check (progress between 0 and 1),
  phase text,
  cancel_requested_at timestamptz,
  cancel_code text constraint cancel_code_is_known check (cancel_code in ('cancelled', 'consent_denied')),
  error_code text,
  error text,
  result jsonb,
  metrics jsonb,
  gpu_seconds double precision not null default 0,
  pod_id uuid,
  preset jsonb,
  created_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz,
  constraint ended_jobs_have_an_end check ((status in ('completed', 'failed', 'cancelled')) = (finished_at is not null)),
  constraint failed_jobs_have_a_code check (status <> 'failed' or error_code is not null)
);
comment on table worker.life_cycle is 'The template of every job table; holds no rows.';
comment on column worker.life_cycle.id is 'Settable by the client: the idempotency key.';
comment on column worker.life_cycle.attempt is 'The fencing token: one more at every start, never less.';
comment on column worker.life_cycle.failures is 'Attempts that ended badly, a dead worker included; a shutdown is not one.';
comment on column worker.life_cycle.run_after is 'Not before this time; set to the time of the next try after a failure.';
comment on column worker.life_cycle.cancel_requested_at is 'The running attempt must stop; cancel_code says why.';
comment on column worker.life_cycle.preset is 'The preset as it was when the job was inserted; its settings filled the columns that were left open.';
comment on column worker.life_cycle.gpu_seconds is 'Summed over all attempts, failed ones too.';

create table public.training_jobs (
  like worker.life_cycle including all,
  base text references worker.base_models (slug),
  preset_id uuid,
  sample_paths text[] constraint training_jobs_sample_paths_3_to_200 check (cardinality(sample_paths) between 3 and 200)
    constraint training_jobs_sample_paths_is_a_list check (array_ndims(sample_paths) = 1),
  trigger_word text constraint training_jobs_trigger_word_is_one_word check (trigger_word ~ '^[[:alnum:]_]{2,40}$'),
  steps integer constraint training_jobs_steps_between_1_and_10000 check (steps between 1 and 10000),
  rank integer constraint training_jobs_rank_between_1_and_128 check (rank between 1 and 128),
  learning_rate real constraint training_jobs_learning_rate_above_0_up_to_1 check (learning_rate > 0 and learning_rate <= 1),
  resolution integer constraint training_jobs_resolution_between_64_and_2048 check (resolution between 64 and 2048),
  seed bigint constraint training_jobs_seed_between_0_and_4294967295 check (seed between 0 and 4294967295)
);
comment on table public.training_jobs is 'Requests to train a LoRA of a subject. sample_paths NULL: all photos that are not rejected.';
create index training_jobs_base on public.training_jobs (base);

create table public.generation_jobs (
  like worker.life_cycle including all,
  base text references worker.base_models (slug),
  preset_id uuid,
  prompt text not null default '' constraint generation_jobs_prompt_up_to_2000_characters check (length(prompt) <= 2000),
  negative_prompt text constraint generation_jobs_negative_prompt_up_to_2000_characters check (length(negative_prompt) <= 2000),
  model_ids uuid[] constraint generation_jobs_model_ids_up_to_4 check (cardinality(model_ids) <= 4)
    constraint generation_jobs_model_ids_is_a_list check (array_ndims(model_ids) = 1),
  lora_scales real[] constraint generation_jobs_lora_scales_between_minus_2_and_2
    check (lora_scales is null or (-2 <= all (lora_scales) and 2 >= all (lora_scales)))
    constraint generation_jobs_lora_scales_is_a_list check (array_ndims(lora_scales) = 1),
  reference_paths text[] constraint generation_jobs_reference_paths_1_to_4 check (cardinality(reference_paths) between 1 and 4)
    constraint generation_jobs_reference_paths_is_a_list check (array_ndims(reference_paths) = 1),
  reference_scale real constraint generation_jobs_reference_scale_between_0_and_2 check (reference_scale between 0 and 2),
  control_path text,
  control_kind text,
  control_scale real constraint generation_jobs_control_scale_between_0_and_2 check (control_scale between 0 and 2),
  width integer constraint generation_jobs_width_between_64_and_2048_in_16s check (width between 64 and 2048 and width % 16 = 0),
  height integer constraint generation_jobs_height_between_64_and_2048_in_16s check (height between 64 and 2048 and height % 16 = 0),
  steps integer constraint generation_jobs_steps_between_1_and_100 check (steps between 1 and 100),
  guidance real constraint generation_jobs_guidance_between_0_and_30 check (guidance between 0 and 30),
  seed bigint constraint generation_jobs_seed_between_0_and_4294967295 check (seed between 0 and 4294967295),
  num_images integer not null default 1 constraint generation_jobs_num_images_between_1_and_16 check (num_images between 1 and 16),
  upscale integer not null default 4 constraint generation_jobs_upscale_is_2_or_4 check (upscale in (2, 4)),
  quality integer not null default 92 constraint generation_jobs_quality_between_1_and_100 check (quality between 1 and 100),
  output_format text not null default 'png'
    constraint generation_jobs_output_format_is_png_jpeg_or_webp check (output_format in ('png', 'jpeg', 'webp')),
  constraint generation_jobs_control_path_and_kind_together check ((control_path is null) = (control_kind is null)),
  constraint generation_jobs_lora_scales_match_model_ids
    check (lora_scales is null or (model_ids is not null and cardinality(lora_scales) = cardinality(model_ids)))
);
comment on table public.generation_jobs is
  'Requests for pictures. model_ids NULL: the subject''s current LoRA. steps, guidance, width, height NULL: the base''s own defaults.';
create index generation_jobs_base on public.generation_jobs (base);

create table worker.internal_jobs (
  like worker.life_cycle including all,
  payload jsonb not null default '{}'
);
comment on table worker.internal_jobs is 'Light jobs of the worker''s own, such as the convenience copy of a new LoRA.';

create table worker.job_subjects (
  kind text not null references worker.job_kinds (kind),
  job_id uuid not null,
  subject_id uuid not null references public.subjects (id),
  primary key (kind, job_id, subject_id)
);
comment on table worker.job_subjects is 'Every person a job touches: its subject, its LoRAs'' subjects, its pictures'' subjects. Filled by trigger, read by every check.';
create index job_subjects_subject_id on worker.job_subjects (subject_id, kind);

create table worker.job_events (
  id bigint generated always as identity primary key,
  kind text not null,
  job_id uuid not null,
  attempt integer not null,
  at timestamptz not null default clock_timestamp(),
  event text not null,
  detail jsonb not null default '{}'
);
comment on table worker.job_events is 'What happened to each job, attempt by attempt.';
create index job_events_job on worker.job_events (kind, job_id, id);
create index job_events_at on worker.job_events (at);

create table worker.staged_objects (
  id bigint generated always as identity primary key,
  bucket text not null,
  key text not null,
  kind text not null,
  job_id uuid not null,
  attempt integer not null,
  owner_id uuid,
  state text not null default 'staged'
    constraint staged_objects_state_is_known check (state in ('staged', 'checkpoint', 'published', 'deleting')),
  step integer,
  created_at timestamptz not null default clock_timestamp(),
  deletions integer not null default 0,
  offer_after timestamptz not null default clock_timestamp(),
  constraint staged_objects_key_once unique (bucket, key),
  constraint staged_objects_checkpoints_have_a_step check ((state = 'checkpoint') <= (step is not null))
);
comment on table worker.staged_objects is
  'Every object a pod writes for a job, registered before its upload. What does not become published is deleted in storage.';
create index staged_objects_job on worker.staged_objects (kind, job_id, attempt);
create index staged_objects_deleting on worker.staged_objects (offer_after) where state = 'deleting';
create index staged_objects_published on worker.staged_objects (owner_id) where state = 'published';

-- ------------------------------------------------------------------------------------------------------ consent ledger

create table worker.consent_events (
  id bigint generated always as identity primary key,
  subject_id uuid not null,
  event text not null constraint consent_events_event_is_known
    check (event in ('grant', 'reject', 'revoke', 'expiry', 'refusal', 'erasure')),
  purposes text[] not null default '{}',
  expires_at timestamptz,
  reason text constraint consent_events_reason_up_to_300_characters check (length(reason) <= 300),
  evidence_digest text,
  job_kind text,
  job_id uuid,
  actor text not null,
  at timestamptz not null default clock_timestamp()
);
comment on table worker.consent_events is
  'The consent ledger: append-only, nothing personal, no foreign key, so that it outlives the subject. evidence_digest is the SHA-256 of the evidence, or of the reason that was given; reason holds words of our own alone.';
create index consent_events_subject_id on worker.consent_events (subject_id, id);
create index consent_events_at on worker.consent_events (at);

create table worker.policies (
  schema_name text not null,
  table_name text not null,
  policy_name text not null,
  definition text not null,
  catalog_definition text not null,
  primary key (schema_name, table_name, policy_name)
);
comment on table worker.policies is
  'The policies this project made, as written and as the catalog gave them back, so that only those that differ are made again.';
