-- Which database this is, and which buckets are its own. A copy of the database has all these rows too: what tells the copies
-- apart is where they run, and who renewed the marker in the bucket last.

do $$
begin
  if not has_function_privilege('pg_control_system()', 'execute') then
    raise exception 'permission denied for function pg_control_system, which tells a database from its copies'
      using errcode = '42501', hint = format('As a superuser: grant execute on function pg_control_system() to %I', current_user);
  end if;
end $$;

create table worker.installation (
  singleton boolean primary key default true constraint installation_is_one_row check (singleton),
  id uuid not null default gen_random_uuid(),
  home text not null,
  era text not null default '' constraint installation_era_is_short_hex check (era ~ '^[0-9a-f]{0,16}$'),
  nonce uuid,
  next_nonce uuid,
  earlier_nonces uuid[] not null default '{}',
  renewed_at timestamptz,
  looked_at timestamptz,
  server_started_at timestamptz not null default pg_postmaster_start_time(),
  unsettled_since timestamptz not null default clock_timestamp()
);
comment on table worker.installation is
  'One row: which database this is, and the nonces that it has written into the markers of its buckets.';
insert into worker.installation (home)
select system_identifier || '/' || (select oid from pg_catalog.pg_database where datname = current_database()) from pg_control_system();

create table worker.bucket_markers (
  bucket text primary key,
  state text not null constraint bucket_markers_state_is_known check (state in ('ours', 'foreign', 'unmarked', 'unreadable')),
  detail text,
  seen_at timestamptz not null default clock_timestamp()
);
comment on table worker.bucket_markers is 'What a pod or command last found in each bucket: likeness-installation.json of this installation, of another one, or none.';

alter table worker.job_kinds add column needs_marked_buckets boolean not null default false;
