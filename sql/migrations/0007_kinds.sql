-- Kinds of job from files and packages of their own.

alter table worker.job_kinds drop constraint job_kinds_kind_is_a_word;
alter table worker.job_kinds add constraint job_kinds_kind_is_a_word
  check (kind ~ '^[a-z][a-z0-9_]{0,29}[a-z0-9]$' and kind not like '%\_\_%');
alter table worker.job_kinds add column package text;
alter table worker.job_kinds add column hooks text[] not null default '{}';
alter table worker.job_kinds add column uses_base boolean not null default true;
alter table worker.job_kinds add column table_missing_since timestamptz;

alter table worker.pgqueuer drop constraint pgqueuer_row_is_a_job;
alter table worker.pgqueuer add constraint pgqueuer_row_is_a_job
  check (dedupe_key is not null and dedupe_key ~ '^[a-z0-9_]+:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$');

create table worker.kind_policies (
  kind text not null references worker.job_kinds (kind),
  policy_name text not null,
  command text not null constraint kind_policies_command_is_known check (command in ('select', 'insert')),
  condition text not null,
  primary key (kind, policy_name)
);
comment on table worker.kind_policies is 'The policies that a kind declares for its table; rls.sql creates them.';

create table worker.kind_grants (
  kind text not null references worker.job_kinds (kind),
  privilege text not null constraint kind_grants_privilege_is_known check (privilege in ('execute', 'select')),
  object text not null,
  grantee text not null constraint kind_grants_grantee_is_known
    check (grantee in ('authenticated', 'service_role', 'likeness_worker')),
  primary key (kind, privilege, object, grantee)
);
comment on table worker.kind_grants is 'The rights that a kind declares on functions, tables and views of its own; rights.sql grants them.';

create table worker.kind_versions (
  package text not null,
  name text not null,
  checksum text not null,
  applied_at timestamptz not null default now(),
  primary key (package, name)
);
comment on table worker.kind_versions is 'The SQL files of packages that were applied: numbered ones once, the others whenever they change.';

create table worker.package_objects (
  package text not null,
  object text not null,
  primary key (package, object)
);
comment on table worker.package_objects is 'The objects that the SQL of a package created, and may therefore change.';

-- The previous release registered the kinds, or later files of this one will; presets refer to kinds only after that.
alter table public.presets drop constraint presets_kind_is_known;
alter table public.presets add constraint presets_kind_is_known foreign key (kind) references worker.job_kinds (kind);
create index presets_kind on public.presets (kind);

update worker.job_events set event = 'cancel_requested' where event = 'stop requested';
alter table worker.job_events add constraint job_events_event_is_known check (event in (
  'refused', 'started', 'phase', 'checkpoint', 'requeued', 'cancel_requested', 'retried', 'completed', 'failed', 'cancelled'));

-- Replaced by hooks, or renamed.
drop function if exists worker.named_keys(jsonb), worker.subjects_of(jsonb), worker.keys_error(jsonb), worker.models_error(jsonb),
  worker.prompt_error(jsonb), worker.merged_prompt(jsonb), worker.models_of(jsonb), worker.photos_of(jsonb), worker.photos_error(jsonb),
  worker.staging_prefix(text, jsonb, integer), worker.publish_training(jsonb, jsonb),
  worker.settle(text, jsonb, text, text, text, double precision, jsonb), worker.settle_stopped(text, jsonb, double precision),
  worker.charge_failure(text, jsonb, text, text, interval, double precision), worker.give_back(uuid, interval, text[], text),
  worker.end_attempt(text, uuid, integer, boolean);
delete from worker.schema_versions where name = 'endings';
