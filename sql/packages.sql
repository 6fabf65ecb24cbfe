-- Kinds of job that an installed package brings: its SQL files run one by one, and none may change what is not its own.

-- Everything that a package could change, in one line each. An object that belongs to a table names it in parent.
create or replace function worker.catalog_objects() returns table (object text, parent text, definition text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with schemas as (
    select oid from pg_catalog.pg_namespace where nspname !~ '^pg_|^information_schema$'
  ), relations as (
    select pg_class.*, pg_class.oid::regclass::text as name from pg_catalog.pg_class join schemas on schemas.oid = relnamespace
    where relkind in ('r', 'p', 'v', 'm', 'S', 'f')
  )
  select 'schema ' || nspname, null, concat_ws(' ', nspowner::regrole, nspacl::text)
  from pg_catalog.pg_namespace join schemas using (oid)
  union all
  select 'function ' || found.oid::regprocedure, null,
    md5(concat_ws(' ', case when prokind in ('f', 'p') then pg_get_functiondef(found.oid) end, proowner::regrole, proacl::text))
  from pg_catalog.pg_proc found join schemas on schemas.oid = pronamespace
  union all
  select 'relation ' || name, null,
    md5(concat_ws(' ', relkind, relowner::regrole, relacl::text, relrowsecurity, relforcerowsecurity, reloptions::text,
                  case when relkind in ('v', 'm') then pg_get_viewdef(relations.oid) end))
  from relations
  union all
  select 'column ' || name || '.' || attname, name,
    concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, pg_get_expr(adbin, adrelid), attacl::text)
  from relations join pg_catalog.pg_attribute on attrelid = relations.oid and attnum > 0 and not attisdropped
  left join pg_catalog.pg_attrdef on adrelid = attrelid and adnum = attnum
  where relkind <> 'S'
  union all
  select 'constraint ' || name || '.' || conname, name, concat_ws(' ', pg_get_constraintdef(pg_constraint.oid), convalidated)
  from relations join pg_catalog.pg_constraint on conrelid = relations.oid
  union all
  select 'index ' || indexrelid::regclass, name, pg_get_indexdef(indexrelid) from relations join pg_catalog.pg_index on indrelid = relations.oid
  union all
  select 'trigger ' || name || '.' || tgname, name, concat_ws(' ', pg_get_triggerdef(pg_trigger.oid), tgenabled)
  from relations join pg_catalog.pg_trigger on tgrelid = relations.oid where not tgisinternal
  union all
  select 'rule ' || name || '.' || rulename, name, pg_get_ruledef(pg_rewrite.oid)
  from relations join pg_catalog.pg_rewrite on ev_class = relations.oid where rulename <> '_RETURN'
  union all
  select 'policy ' || name || '.' || polname, name,
    concat_ws(' ', polcmd, polpermissive, polroles::text, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
  from relations join pg_catalog.pg_policy on polrelid = relations.oid
  union all
  select 'event trigger ' || evtname, 'the database', concat_ws(' ', evtevent, evtfoid::regprocedure, evtenabled) from pg_catalog.pg_event_trigger
  union all
  select concat_ws(' ', 'default privileges', defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype), 'the database', defaclacl::text
  from pg_catalog.pg_default_acl
  union all
  select concat_ws(' ', 'membership', roleid::regrole, member::regrole), 'the database', admin_option::text from pg_catalog.pg_auth_members
  union all
  select 'role ' || rolname, 'the database', concat_ws(' ', rolsuper, rolbypassrls, rolcreaterole, rolinherit, rolcanlogin, rolconfig::text) from pg_catalog.pg_roles
  union all
  select 'kind ' || kind, case when package is null then 'the core' end, to_jsonb(kinds)::text from worker.job_kinds kinds
  union all
  select 'row of worker.config', 'the core', to_jsonb(config)::text from worker.config
$$;
comment on function worker.catalog_objects is 'Functions, tables, columns, constraints, indexes, triggers, policies, grants, roles and kinds, each with a definition to compare.';

-- EXECUTE refuses COMMIT in a file, which would survive a later error; the SET clause gives it a search_path without surprises.
create or replace function worker.run_package_file(p_text text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  execute p_text;
end $$;
comment on function worker.run_package_file is 'Run the text of a package''s SQL file.';

create or replace function worker.apply_package_file(p_package text, p_name text, p_checksum text, p_text text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_before jsonb := (select jsonb_object_agg(object, definition) from worker.catalog_objects());
  v_user text := current_user;
  v_sqlstate text;
  v_message text;
  v_hint text;
  v_foreign text;
begin
  perform set_config('worker.package', p_package, true);
  begin
    perform worker.run_package_file(p_text);
  exception when others then
    get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text, v_hint = pg_exception_hint;
    raise exception 'package %, %: %', p_package, p_name, v_message using errcode = v_sqlstate, hint = v_hint;
  end;
  if current_user <> v_user or current_setting('worker.package', true) is distinct from p_package then
    raise exception 'package %, %: it changed the role or worker.package', p_package, p_name
      using errcode = '42501', hint = 'A package''s SQL runs as the database''s owner and stays that.';
  end if;
  v_foreign := worker.foreign_change(p_package, v_before);
  if v_foreign is not null then
    raise exception 'package %, %: it changes what is not its own: %', p_package, p_name, v_foreign
      using errcode = '42501', hint = 'A package creates tables, functions and kinds of its own, and changes nothing else.';
  end if;
  insert into worker.package_objects (package, object)
  select p_package, object from worker.catalog_objects() where not v_before ? object on conflict do nothing;
  insert into worker.kind_versions (package, name, checksum) values (p_package, p_name, p_checksum)
  on conflict (package, name) do update set checksum = excluded.checksum, applied_at = now();
  perform set_config('worker.package', '', true);
end $$;
comment on function worker.apply_package_file is 'Run a SQL file of a package and record it; raises when it fails, or changes anything that is not the package''s own.';

create or replace function worker.foreign_change(p_package text, p_before jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with own as (
    select object from worker.package_objects where package = p_package
  ), now as (
    select objects.*, not p_before ? object as is_new from worker.catalog_objects() objects
  ), wrong as (
    select coalesce(now.object, earlier.key) as object, case
      when now.object is null then 'dropped'
      when now.definition is distinct from earlier.value then 'changed' end as what
    from jsonb_each_text(p_before) earlier left join now on now.object = earlier.key
    where earlier.key not in (select object from own)
    union all
    -- New, but a part of something that was there, or by a name that the core's calls could find.
    select object, 'added' from now
    where is_new and (
      parent is not null and not exists (select from now parents where parents.object = 'relation ' || now.parent and (parents.is_new or parents.object in (select object from own)))
      or object like 'function worker.%' and not exists (select from worker.job_kinds where package = p_package and starts_with(now.object, 'function worker.' || kind || '_'))
      or object like 'function %' and exists (
        select from jsonb_object_keys(p_before) known (object)
        where known.object not in (select object from own) and split_part(known.object, '(', 1) = split_part(now.object, '(', 1)))
  )
  select string_agg(what || ' ' || object, ', ' order by object) from wrong where what is not null
$$;
comment on function worker.foreign_change is 'What a package changed although it is not its own, or NULL. p_before holds the catalog''s objects as they were.';
