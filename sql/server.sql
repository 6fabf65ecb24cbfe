-- Checks the server, the database and the login, before anything is created.
set transaction isolation level read committed;
set local client_encoding = 'UTF8';

do $$
declare
  v_version integer := current_setting('server_version_num')::integer;
  v_locale text;
  v_owner text;
begin
  if v_version < 150000 then
    raise exception 'PostgreSQL % is too old: 15 or newer is required', current_setting('server_version')
      using hint = 'Upgrade the server; Supabase offers 15 and 17.';
  elsif pg_is_in_recovery() then
    raise exception 'this server is a replica, which cannot be changed'
      using errcode = '25006', hint = 'Migrate the primary: correct DATABASE_URL.';
  elsif current_setting('transaction_read_only')::boolean then
    raise exception 'this database is read-only' using errcode = '25006',
      hint = 'On Supabase, its disk is full: free or add space. Elsewhere, default_transaction_read_only is on: set it off.';
  elsif current_setting('server_encoding') <> 'UTF8' then
    v_locale := case when v_version >= 170000 then 'locale_provider builtin builtin_locale ''C.UTF-8'' locale ''C'''
      else (select format('locale %L', min(collcollate)) from pg_catalog.pg_collation where collcollate in ('C.UTF-8', 'C.utf8')) end;
    raise exception 'database % has the encoding %, but prompts and names are stored as UTF8', current_database(), current_setting('server_encoding')
      using hint = format('Create another database and migrate that one: create database likeness template template0 encoding ''UTF8'' %s;',
                          coalesce(v_locale, 'locale ''C'''));
  end if;
  select nspowner::regrole::text into v_owner from pg_catalog.pg_namespace where nspname = 'worker' and not pg_has_role(nspowner, 'usage');
  if v_owner is not null then
    raise exception 'schema worker belongs to %, and % is not a member of that role', v_owner, current_user
      using errcode = '42501', hint = format('Migrate with the URL of the database''s owner, %s, not of a pod.', v_owner);
  elsif to_regnamespace('worker') is null and not has_database_privilege(current_database(), 'create') then
    raise exception '% may not create schemas in database %', current_user, current_database()
      using errcode = '42501', hint = 'Migrate with the URL of the database''s owner, not of a pod.';
  elsif not exists (select from pg_catalog.pg_roles where rolname = 'likeness_worker')
    and not (select rolcreaterole or rolsuper from pg_catalog.pg_roles where rolname = current_user) then
    raise exception 'role likeness_worker is missing, and % may not create roles', current_user
      using errcode = '42501', hint = format('As a superuser: create role likeness_worker nologin; grant likeness_worker to %I with admin option;', current_user);
  end if;
end $$;
