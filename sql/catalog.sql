-- What should be in the catalog, and what is. A dump and restore, the dashboard or a hand may lose or change policies, triggers,
-- rights and publications, and nothing else would notice: the ledger of applied files is copied with the rest. So each migration
-- records what it leaves (worker.expected_objects); `worker doctor` compares, and `worker migrate --repair` mends.

-- ------------------------------------------------------------------------------------------------------- what there is

create or replace function worker.app_functions() returns setof oid
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select oid from pg_catalog.pg_proc where pronamespace = 'public'::regnamespace
    and proname in ('grant_consent', 'reject_consent', 'revoke_consent', 'cancel_job', 'retry_job')
$$;
comment on function worker.app_functions is 'Return the functions of schema public that apps call.';

create or replace function worker.realtime_tables() returns setof text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select unnest('{public.subjects,public.subjects_models}'::text[])
  union select table_name from worker.job_kinds where table_name like 'public.%' and to_regclass(table_name) is not null
$$;
comment on function worker.realtime_tables is 'Return the tables whose changes clients may watch over Realtime.';

create or replace function worker.own_relations() returns table (relation oid, name text, relkind "char")
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select found.oid, format('%I.%I', schemas.nspname, found.relname), found.relkind
  from pg_catalog.pg_class found join pg_catalog.pg_namespace schemas on schemas.oid = found.relnamespace
  where found.relkind in ('r', 'p', 'v', 'm', 'S')
    and (schemas.nspname = 'worker'
      or schemas.nspname = 'public' and (
        found.relname in (select table_name from worker.policies where schema_name = 'public')
        or 'public.' || found.relname in (select table_name from worker.job_kinds)
        or 'relation public.' || found.relname in (select object from worker.package_objects)))
$$;
comment on function worker.own_relations is 'Return the tables, views and sequences of this project and of the packages that add kinds.';

create or replace function worker.own_functions() returns setof oid
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select oid from pg_catalog.pg_proc
  where pronamespace = 'worker'::regnamespace or oid in (select worker.app_functions())
    or pronamespace = 'public'::regnamespace and 'function ' || oid::regprocedure in (select object from worker.package_objects)
$$;
comment on function worker.own_functions is 'Return the functions of this project and of the packages that add kinds.';

-- One row for each right of a role that the SQL files govern. Owners and rights that are nobody's default are left out, and so is
-- who granted what: another owner's restored database has the same rights.
create or replace function worker.own_grants() returns table (object text, definition text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with lists as (
    select 'schema worker' as name, nspacl as acl, nspowner as owner from pg_catalog.pg_namespace where nspname = 'worker'
    union all
    select case own.relkind when 'S' then 'sequence ' else 'table ' end || own.name, found.relacl, found.relowner
    from worker.own_relations() own join pg_catalog.pg_class found on found.oid = own.relation
    union all
    select format('column %s.%I', own.name, columns.attname), columns.attacl, found.relowner
    from worker.own_relations() own join pg_catalog.pg_class found on found.oid = own.relation
    join pg_catalog.pg_attribute columns on columns.attrelid = own.relation and columns.attnum > 0 and not columns.attisdropped
    union all
    select 'function ' || found.oid::regprocedure, coalesce(found.proacl, acldefault('f', found.proowner)), found.proowner
    from worker.own_functions() own join pg_catalog.pg_proc found on found.oid = own
  )
  select format('right %s on %s of %s', rights.privilege_type, lists.name, coalesce(grantees.rolname, 'everyone')),
    case when bool_or(rights.is_grantable) then 'with grant option' else '' end
  from lists cross join lateral aclexplode(lists.acl) rights
  left join pg_catalog.pg_roles grantees on grantees.oid = rights.grantee
  where rights.grantee <> lists.owner
    and (rights.grantee = 0 or grantees.rolname in ('anon', 'authenticated', 'service_role', 'likeness_worker'))
  group by 1
$$;
comment on function worker.own_grants is 'Return the rights of clients and pods on the objects of this project.';

-- The parts of tables: what a restore creates last, and so loses first.
create or replace function worker.own_table_parts() returns table (object text, definition text, repair text, step integer)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with tables as (select relation, name from worker.own_relations() where relkind in ('r', 'p'))
  select format('column %s.%I', name, attname),
    concat_ws(' ', format_type(atttypid, atttypmod), case when attcollation <> typcollation then attcollation::regcollation::text end,
      case when attnotnull then 'not null' end, attidentity, attgenerated, 'default ' || pg_get_expr(adbin, adrelid)),
    case when attidentity = '' and attgenerated = '' then
      format('alter table %1$s alter column %2$I %3$s, alter column %2$I %4$s not null', name, attname,
        coalesce('set default ' || pg_get_expr(adbin, adrelid), 'drop default'), case when attnotnull then 'set' else 'drop' end) end,
    2
  from tables join pg_catalog.pg_attribute on attrelid = relation and attnum > 0 and not attisdropped
  join pg_catalog.pg_type on pg_type.oid = atttypid
  left join pg_catalog.pg_attrdef on adrelid = attrelid and adnum = attnum
  union all
  -- NOT NULL constraints, which PostgreSQL 18 lists too, are columns' here. A foreign key is enforced by triggers. Without
  -- parentheses, because a restored expression has others: (a and b) and c, which was a and b and c.
  select format('constraint %I on %s', conname, name),
    concat_ws(' ', translate(pg_get_constraintdef(pg_constraint.oid), '()', ''), case when exists (
      select from pg_catalog.pg_trigger where tgconstraint = pg_constraint.oid and tgenabled <> 'O') then 'DISABLED' end),
    format('alter table %1$s drop constraint if exists %2$I, add constraint %2$I %3$s', name, conname, pg_get_constraintdef(pg_constraint.oid)),
    case contype when 'f' then 4 else 3 end
  from tables join pg_catalog.pg_constraint on conrelid = relation where contype in ('c', 'f', 'p', 'u', 'x')
  union all
  select format('index %s', indexrelid::regclass),
    concat_ws(' ', pg_get_indexdef(indexrelid), case when not (indisvalid and indisready) then 'INVALID' end),
    format('drop index if exists %s; %s', indexrelid::regclass, pg_get_indexdef(indexrelid)), 3
  from tables join pg_catalog.pg_index on indrelid = relation
  where not exists (select from pg_catalog.pg_constraint where conindid = indexrelid and conrelid = indrelid and contype in ('p', 'u', 'x'))
  union all
  select format('trigger %I on %s', tgname, name),
    concat_ws(' ', pg_get_triggerdef(pg_trigger.oid), case tgenabled when 'O' then null when 'D' then 'DISABLED' else tgenabled::text end),
    format('%s; alter table %s enable trigger %I',
      regexp_replace(pg_get_triggerdef(pg_trigger.oid), '^CREATE TRIGGER', 'CREATE OR REPLACE TRIGGER'), name, tgname), 5
  from tables join pg_catalog.pg_trigger on tgrelid = relation where not tgisinternal
$$;
comment on function worker.own_table_parts is 'Return the columns, constraints, indexes and triggers of this project''s tables, with SQL that mends each.';

-- Text that depends on nothing but the object: no oids, no owner, no settings of the session.
create or replace function worker.own_objects() returns table (object text, definition text, repair text, step integer)
language sql stable set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off set standard_conforming_strings = on set bytea_output = hex set extra_float_digits = 1
set datestyle = 'ISO, MDY' set intervalstyle = postgres set timezone = 'UTC'
as $$
  select 'role ' || rolname, case when rolbypassrls then 'bypasses row-level security' else '' end,
    case rolname when 'likeness_worker' then 'create role likeness_worker nologin' end, 0
  from pg_catalog.pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'likeness_worker')
  union all
  select 'membership of the schema''s owner in likeness_worker', '', 'grant likeness_worker to current_user', 0
  from pg_catalog.pg_namespace where nspname = 'worker' and pg_has_role(nspowner, to_regrole('likeness_worker'), 'member')
  union all
  select 'usage of schema public by ' || rolname, '', format('grant usage on schema public to %I', rolname), 6
  from pg_catalog.pg_roles where rolname in ('anon', 'authenticated', 'service_role') and has_schema_privilege(oid, 'public', 'usage')
  union all
  select 'function ' || found.oid::regprocedure, pg_get_functiondef(found.oid), pg_get_functiondef(found.oid), 1
  from worker.own_functions() own join pg_catalog.pg_proc found on found.oid = own where found.prokind in ('f', 'p')
  union all
  select 'type ' || oid::regtype, (select string_agg(enumlabel, ', ' order by enumsortorder) from pg_catalog.pg_enum where enumtypid = pg_type.oid), null, 0
  from pg_catalog.pg_type where typnamespace = 'worker'::regnamespace and typtype in ('e', 'd', 'r')
  union all
  select case own.relkind when 'S' then 'sequence ' when 'v' then 'view ' when 'm' then 'view ' else 'table ' end || own.name,
    concat_ws(' ', found.relpersistence, found.relreplident, found.reloptions::text,
      case when own.relkind in ('v', 'm') then pg_get_viewdef(own.relation) end),
    -- views.sql creates it; a view with other columns it could not replace.
    case own.relkind when 'v' then format('drop view if exists %s', own.name) end, 7
  from worker.own_relations() own join pg_catalog.pg_class found on found.oid = own.relation
  union all
  select parts.object, parts.definition, parts.repair, parts.step from worker.own_table_parts() parts
  union all
  select 'row-level security of ' || tables.name, case when tables.relforcerowsecurity then 'forced' else '' end,
    format('alter table %s enable row level security, no force row level security', tables.name), 6
  from (select found.*, format('%I.%I', nspname, relname) as name from pg_catalog.pg_class found
        join pg_catalog.pg_namespace on pg_namespace.oid = relnamespace) tables
  where tables.relrowsecurity and tables.name in (select format('%I.%I', schema_name, table_name) from worker.policies)
  union all
  -- Of other projects' tables, such as storage.objects, only the policies that are this project's.
  select format('policy %I on %I.%I', policyname, schemaname, tablename), concat_ws(' / ', permissive, roles::text, cmd, qual, with_check), null, 7
  from pg_catalog.pg_policies
  where exists (select from worker.own_relations() own where own.name = format('%I.%I', schemaname, tablename))
    or (schemaname, tablename, policyname) in (select schema_name, table_name, policy_name from worker.policies)
  union all
  select format('publication supabase_realtime of %I.%I', schemaname, tablename), '', null, 7
  from pg_catalog.pg_publication_tables
  where pubname = 'supabase_realtime' and schemaname || '.' || tablename in (select worker.realtime_tables())
  union all
  select grants.object, grants.definition, null, 7 from worker.own_grants() grants
$$;
comment on function worker.own_objects is
  'Return every object of this project in the catalog, with a definition to compare, and SQL that mends it where the SQL files do not.';

-- ------------------------------------------------------------------------------------------------------ what is wrong

-- A data-only restore sets rows, but not the sequence behind a column.
create or replace function worker.late_sequences() returns table (sequence_name text, newest bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_column record;
  v_next bigint;
begin
  for v_column in
    select name, attname, pg_get_serial_sequence(name, attname) as sequence_name
    from worker.own_relations() join pg_catalog.pg_attribute on attrelid = relation and attnum > 0 and not attisdropped
    where relkind = 'r' and pg_get_serial_sequence(name, attname) is not null
  loop
    execute format('select last_value + is_called::integer from %s', v_column.sequence_name) into v_next;
    execute format('select max(%I) from %s', v_column.attname, v_column.name) into newest;
    sequence_name := v_column.sequence_name;
    if newest >= v_next then
      return next;
    end if;
  end loop;
end $$;
comment on function worker.late_sequences is 'Return the sequences whose next value is taken already, and the newest value in use.';

-- What is wrong whatever was recorded.
create or replace function worker.catalog_faults() returns table (object text, problem text, repair text, step integer)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  -- Rights guard schema worker: with row-level security, pods and the queue see no rows, and no error says so.
  select 'row-level security of ' || own.name, 'on, so pods see no rows',
    format('alter table %s disable row level security, no force row level security', own.name), 6
  from worker.own_relations() own join pg_catalog.pg_class found on found.oid = own.relation
  where found.relnamespace = 'worker'::regnamespace and (found.relrowsecurity or found.relforcerowsecurity)
  union all
  select owned.object, 'owned by ' || owned.owner::regrole, format('alter %s owner to %s', owned.object, schemas.nspowner::regrole), 6
  from (
    select 'function ' || found.oid::regprocedure as object, found.proowner as owner
    from worker.own_functions() own join pg_catalog.pg_proc found on found.oid = own where found.prokind = 'f'
    union all
    select case own.relkind when 'S' then 'sequence ' when 'v' then 'view ' when 'm' then 'materialized view ' else 'table ' end || own.name, found.relowner
    from worker.own_relations() own join pg_catalog.pg_class found on found.oid = own.relation
  ) owned join pg_catalog.pg_namespace schemas on schemas.nspname = 'worker'
  where owned.owner <> schemas.nspowner
  union all
  select 'sequence ' || sequence_name, 'behind its column, which has ' || newest, format('select setval(%L, %s)', sequence_name, newest), 6
  from worker.late_sequences()
$$;
comment on function worker.catalog_faults is 'Return what is wrong whatever was recorded: row-level security in schema worker, other owners, sequences that are behind.';

create or replace function worker.catalog_damage() returns table (object text, problem text, repair text, step integer)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with found as (
    select * from worker.own_objects()
  ), gone as (
    -- Jobs of a kind whose table was dropped are skipped, and the views do without: worker.note_missing_tables.
    select table_name from worker.job_kinds where to_regclass(table_name) is null
  )
  select recorded.object, case when found.object is null then 'missing' when found.definition like '% DISABLED' then 'disabled'
      when found.definition like '% INVALID' then 'invalid' else 'changed' end, recorded.repair, recorded.step
  from worker.expected_objects recorded left join found on found.object = recorded.object
  where recorded.is_own
    and (found.object is null or recorded.definition is not null and found.definition <> recorded.definition
      -- Each major version words expressions its own way; functions are stored as they were written.
      and (recorded.server_major = current_setting('server_version_num')::integer / 10000 or recorded.object !~ '^(view|column|constraint|index|trigger|policy) '))
    and not exists (select from gone where strpos(recorded.object, table_name) > 0 or recorded.object in ('view worker.jobs', 'view worker.job_details'))
    and (recorded.object not like 'publication %' or exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime'))
  union all
  select found.object, 'added', null, found.step from found
  where found.object ~ '^(right|policy) ' and not exists (select from worker.expected_objects recorded where recorded.object = found.object and recorded.is_own)
  union all
  select faults.object, faults.problem, faults.repair, faults.step from worker.catalog_faults() faults
  union all
  select 'the record of what should be here', 'empty', null, 0 where not exists (select from worker.expected_objects)
$$;
comment on function worker.catalog_damage is
  'Return what differs in the catalog from what the newest migration left: what, how, and SQL that mends it where the SQL files do not.';

-- ------------------------------------------------------------------------------------------------ recording and mending

-- locks.sql calls it, before a migration changes anything.
create or replace function worker.note_catalog() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from worker.expected_objects) then
    return;
  end if;
  update worker.expected_objects recorded set before = coalesce(found.definition, '')
  from worker.catalog_damage() damage left join worker.own_objects() found on found.object = damage.object
  where recorded.object = damage.object;
  -- Not by ON CONFLICT: the primary key may be among what was lost.
  insert into worker.expected_objects (object, step, server_major, is_own)
  select found.object, found.step, 0, false from worker.own_objects() found
  where found.object ~ '^(column|constraint|index|trigger) '
    and not exists (select from worker.expected_objects recorded where recorded.object = found.object);
end $$;
comment on function worker.note_catalog is 'Note what is damaged, and what an app added to tables of this project, before a migration.';

-- The last file of a migration calls it. Damage that the migration did not mend stays recorded as it should be.
create or replace function worker.record_catalog() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_major integer := current_setting('server_version_num')::integer / 10000;
begin
  with found as materialized (
    select own.object, own.definition, own.repair, own.step from worker.own_objects() own
    where not exists (select from worker.expected_objects recorded where recorded.object = own.object and not recorded.is_own)
      and (own.object not like 'policy %' or own.object in (select format('policy %I on %I.%I', policy_name, schema_name, table_name) from worker.policies))
  ), recording as (
    insert into worker.expected_objects as recorded (object, definition, repair, step, server_major)
    select object, definition, repair, step, v_major from found
    on conflict (object) do update
    set definition = excluded.definition, repair = excluded.repair, step = excluded.step, server_major = excluded.server_major
    where recorded.before is distinct from excluded.definition
  )
  delete from worker.expected_objects
  where not is_own or (definition is null or before is null) and object not in (select object from found);
  -- These are expected even where another role kept this migration from creating them.
  insert into worker.expected_objects (object, step, server_major)
  select format('policy %I on %I.%I', policy_name, schema_name, table_name), 7, v_major from worker.policies
  union all select 'publication supabase_realtime of ' || own, 7, v_major from worker.realtime_tables() own
  on conflict do nothing;
  update worker.expected_objects set before = null where before is not null;
end $$;
comment on function worker.record_catalog is 'Record what a migration leaves in the catalog, for worker.catalog_damage.';

-- Before the SQL files run, which create views and rights again; and after them for owners, because they create as this login.
-- Bodies are not checked, because a function may be made before those that it calls.
create or replace function worker.repair_catalog(p_owners_only boolean default false) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set check_function_bodies = off
as $$
declare
  v_damage record;
begin
  for v_damage in
    select * from worker.catalog_damage() where repair is not null and (not p_owners_only or problem like 'owned by %') order by step, object
  loop
    begin
      execute v_damage.repair;
    exception when lock_not_available then
      raise;
    when others then
      raise warning '%, %, could not be repaired: %', v_damage.object, v_damage.problem, sqlerrm;
    end;
  end loop;
end $$;
comment on function worker.repair_catalog is 'Mend what the SQL files do not create again: what numbered migrations made, owners, sequences.';

-- --------------------------------------------------------------------------------------------------------- what is others'

create or replace function worker.publish_changes(p_table text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner regrole := (select pubowner from pg_catalog.pg_publication where pubname = 'supabase_realtime' and not puballtables);
begin
  if v_owner is null or exists (
    select from pg_catalog.pg_publication_tables where pubname = 'supabase_realtime' and schemaname || '.' || tablename = p_table) then
    return;
  end if;
  execute format('alter publication supabase_realtime add table %s', p_table);
exception when insufficient_privilege then
  raise warning 'publication supabase_realtime belongs to %: Realtime tells clients no changes of %, so apps must poll it', v_owner, p_table
    using hint = format('As a superuser: alter publication supabase_realtime owner to %I; then worker migrate --repair.', current_user);
end $$;
comment on function worker.publish_changes is
  'Add a table to the publication supabase_realtime where there is one; warns if it belongs to another role.';
