-- Packages that add kinds of job: their SQL files run one by one, and each may change only its package's own objects.

-- One row for each thing that a package could change. parent is the table or package that it belongs to, or else something
-- that packages cannot own a part of.
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
    md5(concat_ws(' ', relkind, relpersistence, relreplident, relowner::regrole, relacl::text, relrowsecurity, relforcerowsecurity, reloptions::text,
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
  -- Counted by the writes of this transaction, so that those of others do not matter; TRUNCATE gives a table a new file.
  select 'rows of ' || name, name, concat_ws(' ',
    case when name not in ('public.presets', 'worker.base_models', 'worker.guides') then pg_stat_get_xact_tuples_inserted(oid) end,
    case when name not in ('worker.base_models', 'worker.guides') then pg_stat_get_xact_tuples_updated(oid) end,
    pg_stat_get_xact_tuples_deleted(oid), pg_relation_filenode(oid))
  from relations
  where relkind = 'r' and name not in ('worker.job_kinds', 'worker.kind_policies', 'worker.kind_grants')
  union all
  -- A child's rows are read as the parent's.
  select 'inheritance ' || inhrelid::regclass || ' of ' || name, name, null from relations join pg_catalog.pg_inherits on inhparent = relations.oid
  union all
  select 'publication ' || pubname || ' of ' || name, name, null
  from pg_catalog.pg_publication_tables join relations on name = format('%I.%I', schemaname, tablename)
  union all
  select 'type ' || pg_type.oid::regtype, null, concat_ws(' ', typowner::regrole, typacl::text, typdefault, typnotnull, format_type(typbasetype, typtypmod),
    (select string_agg(enumlabel, ',' order by enumsortorder) from pg_catalog.pg_enum where enumtypid = pg_type.oid),
    (select string_agg(pg_get_constraintdef(oid), ',' order by conname) from pg_catalog.pg_constraint where contypid = pg_type.oid))
  from pg_catalog.pg_type join schemas on schemas.oid = typnamespace where typtype in ('e', 'd', 'r')
  union all
  -- Outside of the schemas, but effective in every call.
  select 'function in pg_catalog ' || oid::regprocedure, 'the database', null from pg_catalog.pg_proc
  where pronamespace = 'pg_catalog'::regnamespace and oid >= 16384
  union all
  select 'cast ' || castsource::regtype || ' to ' || casttarget::regtype, 'the database', concat_ws(' ', castfunc::regprocedure, castcontext, castmethod)
  from pg_catalog.pg_cast where oid >= 16384
  union all
  select 'extension ' || extname, 'the database', extversion from pg_catalog.pg_extension
  union all
  select 'event trigger ' || evtname, 'the database', concat_ws(' ', evtevent, evtfoid::regprocedure, evtenabled) from pg_catalog.pg_event_trigger
  union all
  select 'publication ' || pubname, 'the database', to_jsonb(pg_publication)::text from pg_catalog.pg_publication
  union all
  select concat_ws(' ', 'default privileges', defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype), 'the database', defaclacl::text
  from pg_catalog.pg_default_acl
  union all
  select concat_ws(' ', 'membership', roleid::regrole, member::regrole, grantor::regrole), 'the database', (to_jsonb(pg_auth_members) - 'oid')::text
  from pg_catalog.pg_auth_members
  union all
  select 'role ' || rolname, 'the database', to_jsonb(pg_roles)::text from pg_catalog.pg_roles
  union all
  select concat_ws(' ', 'settings', setdatabase, setrole::regrole), 'the database', setconfig::text from pg_catalog.pg_db_role_setting
  union all
  select 'kind ' || kind, coalesce('package ' || package, 'the core'), to_jsonb(kinds)::text from worker.job_kinds kinds
  union all
  select format('policy %s declared for kind %s', policy_name, kind), coalesce('package ' || package, 'the core'), to_jsonb(declared)::text
  from worker.kind_policies declared join worker.job_kinds using (kind)
  union all
  select format('grant of %s on %s to %s declared for kind %s', privilege, object, grantee, kind), coalesce('package ' || package, 'the core'), null
  from worker.kind_grants declared join worker.job_kinds using (kind)
  union all
  select 'base ' || slug, null, to_jsonb(base)::text from worker.base_models base
  union all
  select 'guide ' || slug, null, to_jsonb(guide)::text from worker.guides guide
  union all
  select 'row of worker.config', 'the core', to_jsonb(config)::text from worker.config
$$;
comment on function worker.catalog_objects is
  'Return functions, tables, rows written, types, triggers, policies, grants, roles, kinds and bases, each with a definition to compare.';

-- EXECUTE refuses COMMIT in a file, which would survive a later error; the SET clause gives it a search_path without surprises.
-- Deferred triggers fire here and not at the end of the transaction, so that their changes are checked.
create or replace function worker.run_package_file(p_text text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  execute p_text;
  set constraints all immediate;
end $$;
comment on function worker.run_package_file is 'Run the text of a package''s SQL file.';

create or replace function worker.apply_package_file(p_package text, p_name text, p_checksum text, p_text text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_before jsonb := (select jsonb_object_agg(object, definition) from worker.catalog_objects());
  v_comparison text := pg_get_functiondef('worker.catalog_objects'::regproc) || pg_get_functiondef('worker.foreign_change'::regproc);
  v_settings jsonb := (select jsonb_object_agg(name, setting) from pg_catalog.pg_settings);
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
      using errcode = '42501', hint = 'A package''s SQL must keep running as the database''s owner.';
  end if;
  select string_agg(name, ', ' order by name) into v_foreign from pg_catalog.pg_settings
  where v_settings ? name and setting is distinct from v_settings ->> name;
  if v_foreign is not null then
    raise exception 'package %, %: it left settings of the session changed: %', p_package, p_name, v_foreign
      using errcode = '42501', hint = 'A function may have settings of its own; a file may not.';
  end if;
  -- Compared here, because neither would notice that it was replaced.
  v_foreign := case when v_comparison <> pg_get_functiondef('worker.catalog_objects'::regproc) || pg_get_functiondef('worker.foreign_change'::regproc)
    then 'worker.catalog_objects or worker.foreign_change' else worker.foreign_change(p_package, v_before) end;
  if v_foreign is not null then
    raise exception 'package %, %: it changed objects that are not its own: %', p_package, p_name, v_foreign
      using errcode = '42501', hint = 'A package creates tables, functions and kinds of its own, and changes nothing else.';
  end if;
  delete from worker.package_objects where package = p_package and object not in (select objects.object from worker.catalog_objects() objects);
  insert into worker.package_objects (package, object)
  select p_package, object from worker.catalog_objects() where not v_before ? object on conflict do nothing;
  insert into worker.kind_versions (package, name, checksum) values (p_package, p_name, p_checksum)
  on conflict (package, name) do update set checksum = excluded.checksum, applied_at = now();
  perform set_config('worker.package', '', true);
end $$;
comment on function worker.apply_package_file is
  'Run a SQL file of a package and record it; raises if it fails, or changes anything that is not the package''s own.';

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
      parent is not null and parent <> 'package ' || p_package
        and not exists (select from now parents where parents.object = 'relation ' || now.parent and (parents.is_new or parents.object in (select object from own)))
      -- kind__hook of a kind of its own, not of mesh_fine by a package that has mesh; else kind_something.
      or object like 'function worker.%' and not exists (
        select from worker.job_kinds where package = p_package
          and case when object like '%!_!_%' escape '!' then starts_with(now.object, 'function worker.' || kind || '__') else starts_with(now.object, 'function worker.' || kind || '_') end)
      or object like 'function %' and exists (
        select from jsonb_object_keys(p_before) known (object)
        where known.object not in (select object from own) and split_part(known.object, '(', 1) = split_part(now.object, '(', 1)))
  )
  select string_agg(what || ' ' || object, ', ' order by object) from wrong where what is not null
$$;
comment on function worker.foreign_change is
  'Return what a package changed although it is not its own, or NULL; p_before holds the catalog''s objects as they were.';

-- rights.sql calls it. Rights on a package's objects are revoked first: in schema public, roles have some by default.
create or replace function worker.grant_declared_rights() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_object record;
begin
  for v_object in
    select 'function ' || found.oid::regprocedure as name from pg_catalog.pg_proc found
    join worker.package_objects made on made.object = 'function ' || found.oid::regprocedure
    union all
    select 'table ' || found.oid::regclass from pg_catalog.pg_class found
    join worker.package_objects made on made.object = 'relation ' || found.oid::regclass
    where found.oid::regclass::text not in (select table_name from worker.job_kinds)
  loop
    execute format('revoke all on %s from public, anon, authenticated, service_role, likeness_worker', v_object.name);
  end loop;
  for v_object in
    select declared.kind, declared.privilege, declared.grantee, kinds.package, case declared.privilege
        when 'execute' then 'function ' || to_regprocedure(declared.object) else 'relation ' || to_regclass(declared.object) end as name
    from worker.kind_grants declared join worker.live_kinds() kinds using (kind)
  loop
    continue when v_object.name is null;  -- dropped by hand
    if v_object.package is not null and not exists (
      select from worker.package_objects made where made.package = v_object.package and made.object = v_object.name) then
      raise exception 'package %: kind % declares a grant on %, which is not its own', v_object.package, v_object.kind, v_object.name using errcode = '42501';
    end if;
    execute format('grant %s on %s to %I', v_object.privilege, regexp_replace(v_object.name, '^relation', 'table'), v_object.grantee);
  end loop;
end $$;
comment on function worker.grant_declared_rights is 'Grant the rights that kinds declare; on a package''s objects, grant nothing else.';
