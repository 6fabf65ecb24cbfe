-- Policies are created only if they differ from the catalog, because on Supabase each policy statement locks every auth and
-- storage table until commit. rls.sql creates them, last; the kinds of job declare theirs before.

-- The catalog's text of a policy is stored, so that a policy changed by hand is detected and recreated.
create or replace function worker.ensure_policy(
  p_name text, p_table text, p_command text, p_role text, p_using text default null, p_check text default null
) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_definition text := concat_ws(' / ', p_command, p_role, p_using, p_check);
  v_catalog text := worker.policy_in_catalog(p_name, p_table);
  v_owner oid := (select relowner from pg_catalog.pg_class where oid = p_table::regclass);
  v_statement text := format('create policy %I on %s for %s to %s', p_name, p_table, p_command, p_role)
    || coalesce(' using (' || p_using || ')', '') || coalesce(' with check (' || p_check || ')', '');
begin
  if v_catalog is not null and exists (
    select from worker.policies
    where schema_name || '.' || table_name = p_table and policy_name = p_name
      and definition = v_definition and catalog_definition = v_catalog) then
    return false;
  end if;
  begin
    execute format('drop policy if exists %I on %s', p_name, p_table);
    execute v_statement;
    v_catalog := worker.policy_in_catalog(p_name, p_table);
  exception when insufficient_privilege then
    -- Not decided by the owner alone: Supabase lets postgres create policies on tables of its own services.
    if pg_has_role(v_owner, 'usage') then
      raise;
    end if;
    raise warning '% belongs to %, so the policy "%" was not created: apps cannot % there with a user''s token',
      p_table, v_owner::regrole, p_name, case p_command when 'insert' then 'upload' when 'select' then 'see pictures' else p_command end
      using hint = format('As %s: %s;', v_owner::regrole, v_statement);
    v_catalog := '';  -- tried again by every migration
  end;
  insert into worker.policies (schema_name, table_name, policy_name, definition, catalog_definition)
  values (split_part(p_table, '.', 1), split_part(p_table, '.', 2), p_name, v_definition, v_catalog)
  on conflict (schema_name, table_name, policy_name)
  do update set definition = excluded.definition, catalog_definition = excluded.catalog_definition;
  return v_catalog <> '';
end $$;
comment on function worker.ensure_policy is 'Create a policy unless it exists exactly as written; returns true if it was created. Warns if the table belongs to another role.';

create or replace function worker.policy_in_catalog(p_name text, p_table text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select concat_ws(' / ', permissive, roles::text, cmd, qual, with_check) from pg_catalog.pg_policies
  where schemaname || '.' || tablename = p_table and policyname = p_name
$$;
comment on function worker.policy_in_catalog is 'Return a policy as the catalog shows it.';

create or replace function worker.ensure_kind_policies() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_policy record;
begin
  for v_policy in
    select known.policy_name, kinds.table_name
    from worker.policies known join worker.live_kinds() kinds on kinds.table_name = known.schema_name || '.' || known.table_name
    where not exists (select from worker.kind_policies declared where declared.kind = kinds.kind and declared.policy_name = known.policy_name)
  loop
    execute format('drop policy if exists %I on %s', v_policy.policy_name, v_policy.table_name);
    delete from worker.policies where policy_name = v_policy.policy_name and schema_name || '.' || table_name = v_policy.table_name;
  end loop;
  for v_policy in
    select declared.*, kinds.table_name from worker.kind_policies declared join worker.live_kinds() kinds using (kind) order by kind, policy_name
  loop
    perform worker.ensure_policy(v_policy.policy_name, v_policy.table_name, v_policy.command, 'authenticated',
      case when v_policy.command <> 'insert' then v_policy.condition end, case when v_policy.command = 'insert' then v_policy.condition end);
  end loop;
end $$;
comment on function worker.ensure_kind_policies is
  'Create the policies that the kinds of job declare for their tables, and drop those that they no longer declare.';
