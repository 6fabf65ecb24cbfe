-- Checks what this project needs and what it must not overwrite. Runs after server.sql, before all other files.
do $$
declare
  v_missing text;
  v_table text;
begin
  select string_agg(what, ', ') into v_missing from (
    select 'role ' || name as what from unnest(array['anon', 'authenticated', 'service_role']) name
    where not exists (select from pg_catalog.pg_roles where rolname = name)
    union all select 'table ' || name from unnest(array['auth.users', 'storage.objects']) name where to_regclass(name) is null
    union all select 'function ' || name from unnest(array['auth.uid()', 'storage.foldername(text)']) name where to_regprocedure(name) is null
  ) needed;
  if v_missing is not null then
    raise exception 'this database lacks what Supabase provides: %', v_missing
      using hint = 'On plain Postgres, `worker migrate --supabase-stubs` creates stubs for them first.';
  end if;
  if to_regclass('worker.config') is not null and to_regclass('worker.life_cycle') is not null then
    -- Tables without the record of applied files: a copy of the schema alone, or a dump that left this table out.
    if to_regclass('worker.schema_versions') is not null then
      execute 'select min(name) from worker.schema_versions' into v_table;
    end if;
    if v_table is null then
      raise exception 'the tables are here, but worker.schema_versions is missing or empty: this is a copy without its rows'
        using hint = 'Copy the rows of schema worker too, or drop schema worker and this project''s tables in public, then migrate.';
    end if;
  else
    foreach v_table in array array['subjects', 'subject_photos', 'subjects_models', 'presets', 'training_jobs', 'generation_jobs'] loop
      if to_regclass('public.' || v_table) is not null then
        raise exception 'table public.% already exists and does not belong to this project', v_table
          using hint = 'Rename it, or install into another database: nothing was changed.';
      end if;
    end loop;
    -- rights.sql revokes all rights in schema worker, and other files replace functions of these names.
    select string_agg(what, ', ' order by what) into v_table from (
      select 'function ' || oid::regprocedure as what from pg_catalog.pg_proc
      where pronamespace = 'public'::regnamespace and proname in ('grant_consent', 'reject_consent', 'revoke_consent', 'cancel_job', 'retry_job')
      union all select 'table ' || oid::regclass from pg_catalog.pg_class where relnamespace = to_regnamespace('worker') and relkind in ('r', 'p', 'v', 'm', 'f')
      union all select 'function ' || oid::regprocedure from pg_catalog.pg_proc where pronamespace = to_regnamespace('worker')
    ) theirs;
    if v_table is not null then
      raise exception '% already exists and does not belong to this project', v_table
        using hint = 'Rename it, or install into another database: nothing was changed.';
    end if;
  end if;
end $$;

create schema if not exists worker;
create table if not exists worker.schema_versions (
  name text primary key,
  checksum text not null,
  applied_at timestamptz not null default now()
);
comment on table worker.schema_versions is 'The SQL files that were applied: numbered ones once, the others whenever they change.';
