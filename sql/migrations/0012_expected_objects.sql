-- What a migration leaves in the catalog, so that a later look can tell what was lost since.

create table worker.expected_objects (
  object text primary key,
  definition text,
  repair text,
  step integer not null,
  server_major integer not null,
  before text,
  is_own boolean not null default true
);
comment on table worker.expected_objects is
  'The catalog''s objects as the newest migration left them: worker.catalog_damage compares, worker.repair_catalog mends.';
comment on column worker.expected_objects.object is 'What it is, in words: trigger _100_path on public.subject_photos.';
comment on column worker.expected_objects.definition is 'Its definition as the catalog shows it; NULL if its existence is enough.';
comment on column worker.expected_objects.repair is 'SQL that creates it as it was; NULL if the SQL files do that, or nobody can.';
comment on column worker.expected_objects.step is 'When to repair it: functions before triggers, and columns before constraints.';
comment on column worker.expected_objects.server_major is
  'The major version that wrote the definition: another may word the same expression differently.';
comment on column worker.expected_objects.before is
  'During a migration: the definition that it found, where that differed; empty if the object was missing.';
comment on column worker.expected_objects.is_own is 'During a migration: false for an object that was there and is an app''s own.';
