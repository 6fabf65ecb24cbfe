-- Registration: what makes a table a job table, and what a kind of job must have. The kinds are in sql/kinds/.

-- A kind whose table was dropped by hand must not stop the housekeeping, nor a revocation. The lock keeps the table until the
-- transaction ends: a name alone may be gone when the next statement reads it.
create or replace function worker.live_kinds() returns setof worker.job_kinds
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind worker.job_kinds;
begin
  for v_kind in select * from worker.job_kinds where to_regclass(table_name) is not null order by kind loop
    begin
      execute format('lock table %s in access share mode', v_kind.table_name);
    exception when undefined_table then
      continue;  -- dropped while this waited for it
    end;
    return next v_kind;
  end loop;
end $$;
comment on function worker.live_kinds is 'Return the kinds of job whose table exists, and keep their tables until the transaction ends.';

-- LIKE copies the columns when a table is created; a later change must be applied to each table.
create or replace function worker.alter_job_tables(p_ddl text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text;
begin
  for v_table in select 'worker.life_cycle' union select distinct table_name from worker.live_kinds() order by 1 loop
    execute format(p_ddl, v_table);
  end loop;
end $$;
comment on function worker.alter_job_tables is 'Apply DDL, with %s for the table, to every job table and to their template.';

create or replace function worker.request_columns(p_table text) returns table (column_name text, type_name text, is_array boolean)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select own.attname::text, format_type(own.atttypid, own.atttypmod), own.attndims > 0 or types.typcategory = 'A'
  from pg_catalog.pg_attribute own join pg_catalog.pg_type types on types.oid = own.atttypid
  where own.attrelid = p_table::regclass and own.attnum > 0 and not own.attisdropped
    and own.attname not in (
      select attname from pg_catalog.pg_attribute where attrelid = 'worker.life_cycle'::regclass and attnum > 0 and not attisdropped)
$$;
comment on function worker.request_columns is 'Return the columns that a kind adds to the life cycle: the request.';

create or replace function worker.grant_job_table(p_table text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_request text := (select string_agg(quote_ident(name), ', ') from (
    select unnest('{id,owner_id,subject_id}'::text[]) as name union all select column_name from worker.request_columns(p_table)) names);
begin
  execute format('revoke all on %s from public, anon, authenticated, service_role, likeness_worker', p_table);
  if p_table like 'public.%' then
    execute format('grant select, insert (%s) on %s to authenticated', v_request, p_table);
    execute format('grant select, insert (%s, priority, run_after, max_failures, max_runtime), update (priority, run_after, max_failures, max_runtime) on %s to service_role',
      v_request, p_table);
  end if;
end $$;
comment on function worker.grant_job_table is 'Grant clients INSERT on the request columns of a job table; only functions write the life cycle.';

-- ------------------------------------------------------------------------------------------------- what a kind must have

create or replace function worker.check_hooks(p_kind text) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_hook record;
  v_hooks text[] := '{}';
begin
  for v_hook in
    select found.oid::regprocedure::text as signature, substr(found.proname, length(p_kind) + 3) as hook, known.arguments, known.result,
      found.proargtypes = '' and known.arguments = '' or oidvectortypes(found.proargtypes) = known.arguments as takes_these,
      pg_get_function_result(found.oid) as returns, found.provolatile = 'v' as writes, known.may_write, found.prosecdef as is_definer,
      found.proconfig is not distinct from array['search_path=pg_catalog, pg_temp'] as has_search_path
    from pg_catalog.pg_proc found left join worker.hook_signatures() known on known.hook = substr(found.proname, length(p_kind) + 3)
    where found.pronamespace = 'worker'::regnamespace and starts_with(found.proname, p_kind || '__')
    order by 1
  loop
    if v_hook.result is null then
      raise exception 'kind %: % is not a hook', p_kind, v_hook.signature
        using errcode = '22023', hint = 'Hooks: ' || (select string_agg(hook, ', ' order by hook) from worker.hook_signatures());
    elsif not v_hook.takes_these or v_hook.returns is distinct from v_hook.result then  -- NULL: a procedure or an aggregate
      raise exception 'kind %: hook % must accept (%) and return %, not %', p_kind, v_hook.signature, v_hook.arguments, v_hook.result, v_hook.returns
        using errcode = '22023';
    elsif v_hook.writes <> v_hook.may_write then
      raise exception 'kind %: hook % must be %', p_kind, v_hook.signature, case when v_hook.may_write then 'volatile' else 'stable or immutable' end
        using errcode = '22023';
    elsif v_hook.is_definer or not v_hook.has_search_path then
      raise exception 'kind %: hook % must be security invoker with search_path = pg_catalog, pg_temp and no other setting', p_kind, v_hook.signature using errcode = '22023';
    end if;
    v_hooks := v_hooks || v_hook.hook;
  end loop;
  return v_hooks;
end $$;
comment on function worker.check_hooks is
  'Return the hooks of a kind, as found in the catalog; raises 22023 for one that is unknown or has another signature or setting.';

create or replace function worker.check_life_cycle(p_kind text, p_table text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_missing text;
begin
  if to_regclass(p_table) is null then
    raise exception 'kind %: table % not found', p_kind, p_table using errcode = '42P01', hint = 'Create it in a numbered migration.';
  end if;
  select string_agg(template.attname, ', ' order by template.attnum) into v_missing
  from pg_catalog.pg_attribute template
  where template.attrelid = 'worker.life_cycle'::regclass and template.attnum > 0 and not template.attisdropped
    and not exists (
      select from pg_catalog.pg_attribute own
      where own.attrelid = p_table::regclass and own.attname = template.attname and own.atttypid = template.atttypid
        and own.attnotnull = template.attnotnull and own.atthasdef = template.atthasdef and not own.attisdropped);
  if v_missing is null then
    select string_agg(pg_get_constraintdef(template.oid), ', ' order by template.conname) into v_missing
    from pg_catalog.pg_constraint template
    where template.conrelid = 'worker.life_cycle'::regclass and template.contype in ('c', 'p')
      and not exists (
        select from pg_catalog.pg_constraint own
        where own.conrelid = p_table::regclass and pg_get_constraintdef(own.oid) = pg_get_constraintdef(template.oid));
  end if;
  if v_missing is not null then
    raise exception 'kind %: table % lacks % of the life cycle', p_kind, p_table, v_missing
      using errcode = '22023', hint = 'Create it with (like worker.life_cycle including all, …).';
  end if;
end $$;
comment on function worker.check_life_cycle is 'Raise 22023 unless a table has every column and constraint of the life cycle as in the template.';

-- So that a kind cannot miss a person or a prompt. The hooks are called with a request that fills every such column.
create or replace function worker.check_columns(p_kind text, p_table text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_forgotten text[];
  v_probe jsonb;
begin
  select coalesce(array_agg(column_name), '{}'), coalesce(jsonb_object_agg(column_name, case
      when is_array then case when type_name like 'uuid%' then jsonb_build_array(gen_random_uuid()) else '["1"]' end
      when type_name = 'uuid' then to_jsonb(gen_random_uuid())
      when type_name in ('json', 'jsonb') then '{}'
      else '"x"' end), '{}')
  into v_forgotten, v_probe from worker.undeclared_columns(p_kind, p_table);
  v_forgotten := array(
    select column_name from unnest(v_forgotten) column_name
    except select column_name from worker.named_keys(p_kind, v_probe)
    except select column_name from worker.texts(p_kind, v_probe)
    order by column_name);
  if v_forgotten <> '{}' then
    raise exception 'kind %: column % of % is not declared by any hook', p_kind, array_to_string(v_forgotten, ', '), p_table
      using errcode = '22023', hint = format('Object keys and LoRAs go into worker.%1$s__named_keys, words that reach a model into worker.%1$s__texts, everything else into worker.%1$s__plain_columns.', p_kind);
  end if;
end $$;
comment on function worker.check_columns is 'Raise 22023 unless a hook declares every request column that could name a person or hold words.';

-- Nobody would run its jobs: pods offer a route with a base model for the slot gpu alone.
create or replace function worker.check_slot(p_kind text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind worker.job_kinds;
begin
  select * into v_kind from worker.job_kinds where kind = p_kind;
  if v_kind.uses_base and v_kind.slot <> 'gpu' then
    raise exception 'kind %: column base of % needs the slot gpu, not %', p_kind, v_kind.table_name, v_kind.slot
      using errcode = '22023', hint = 'Register the kind with the slot gpu, or give the column another name if it holds no base model.';
  end if;
end $$;
comment on function worker.check_slot is 'Raise 22023 for a kind whose jobs run on a base model, but not on the GPU.';

-- base and preset_id are the core's own.
create or replace function worker.undeclared_columns(p_kind text, p_table text) returns table (column_name text, type_name text, is_array boolean)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select column_name, type_name, is_array from worker.request_columns(p_table)
  where (is_array or type_name !~ '^(smallint|integer|bigint|real|double precision|numeric|boolean|interval|date|time|timestamp)')
    and column_name not in ('base', 'preset_id') and column_name <> all (worker.plain_columns(p_kind))
$$;
comment on function worker.undeclared_columns is
  'Return the request columns that are not numbers, times or booleans, and that the kind does not declare plain.';

create or replace function worker.check_registration(p_kind text, p_table text, p_purpose text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_package text := nullif(current_setting('worker.package', true), '');
  v_known worker.job_kinds;
begin
  select * into v_known from worker.job_kinds where kind = p_kind;
  -- One spelling for each table, because kinds, and tables for apps (public), are compared by it.
  if p_table is null or p_table !~ '^[a-z_][a-z0-9_]*[.][a-z_][a-z0-9_]*$' then
    raise exception 'kind %: table % must be written schema.table, in plain lower case', p_kind, coalesce(quote_literal(p_table), 'null') using errcode = '22023';
  elsif v_known.kind is not null and v_known.package is distinct from v_package then
    raise exception 'kind % already belongs to %', p_kind, coalesce('package ' || v_known.package, 'the core') using errcode = '42710';
  elsif exists (select from worker.job_kinds where table_name = p_table and kind <> p_kind) then
    raise exception 'kind %: table % already belongs to kind %', p_kind, p_table, (select kind from worker.job_kinds where table_name = p_table)
      using errcode = '42710', hint = 'Every kind has a table of its own.';
  elsif v_package is not null and p_purpose is null then
    raise exception 'kind %: purpose must be training or generation', p_kind
      using errcode = '22023', hint = 'People consent to one of them; only kinds of the core may have none.';
  end if;
  perform worker.check_life_cycle(p_kind, p_table);
end $$;
comment on function worker.check_registration is 'Raise unless this package, or the core, may register the kind and its table.';

-- ------------------------------------------------------------------------------------------------------------ registering

create or replace function worker.make_job_table(p_kind text, p_table text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := split_part(p_table, '.', 2);
  v_old text;
  v_new text;
begin
  select string_agg(format('old.%I', attname), ', '), string_agg(format('new.%I', attname), ', ') into v_old, v_new
  from pg_catalog.pg_attribute
  where attrelid = p_table::regclass and attnum > 0 and not attisdropped and attname <> all (worker.changing_columns());
  if not exists (select from pg_catalog.pg_constraint where conrelid = p_table::regclass and conname = v_name || '_subject_id_fkey') then
    execute format('alter table %s add constraint %I foreign key (subject_id) references public.subjects (id)', p_table, v_name || '_subject_id_fkey');
  end if;
  execute format('create index if not exists %I on %s (subject_id)', v_name || '_subject_id', p_table);
  execute format('create index if not exists %I on %s (owner_id, created_at desc)', v_name || '_owner_id_created_at', p_table);
  execute format('create index if not exists %I on %s (created_at)', v_name || '_created_at', p_table);
  execute format('create index if not exists %I on %s (status, id) where status in (''queued'', ''running'')', v_name || '_open_id', p_table);
  execute format('drop index if exists %I.%I', split_part(p_table, '.', 1), v_name || '_open');  -- of earlier releases, without the id
  execute format('create index if not exists %I on %s (%s phase collate "C") where status = ''queued''', v_name || '_waiting_route', p_table,
    case when exists (select from worker.request_columns(p_table) where column_name = 'base') then 'base, guides,' end);
  execute format('drop index if exists %I.%I', split_part(p_table, '.', 1), v_name || '_waiting');  -- the same, without the guides
  execute format('create index if not exists %I on %s (error_code) where status = ''queued'' and error_code is not null', v_name || '_requeued', p_table);
  execute format('create index if not exists %I on %s (owner_id, fingerprint) where status = ''completed'' and fingerprint is not null', v_name || '_fingerprint', p_table);
  execute format('create index if not exists %I on %s (owner_id) where status in (''queued'', ''running'')', v_name || '_owner_open', p_table);
  execute format('create index if not exists %I on %s (owner_id, created_at) where status = ''failed'' and error_code = ''prompt_blocked''', v_name || '_owner_blocked', p_table);
  execute format('create or replace trigger _100_before_insert before insert on %s for each row execute function worker.before_job_insert(%L, %L)',
                 p_table, p_kind, worker.column_defaults(p_table));
  execute format('create or replace trigger _200_after_insert after insert on %s referencing new table as new_rows for each statement execute function worker.after_job_insert(%L)', p_table, p_kind);
  -- Most updates change no request column. They are compared by their bytes, which works for every type; the function decides.
  -- Not by the operator *<>: a dump leaves out the casts to record that it needs, and the restore would lose the trigger.
  execute format('create or replace trigger _300_before_update before update on %s for each row when (record_image_ne(row(%s), row(%s)) or new.attempt < old.attempt) execute function worker.before_job_update()',
    p_table, v_old, v_new);
  execute format('create or replace trigger _400_order after update of priority, run_after on %s for each row when ((old.priority, old.run_after) is distinct from (new.priority, new.run_after)) execute function worker.after_order_update(%L)', p_table, p_kind);
  perform worker.grant_job_table(p_table);
  if p_table like 'public.%' then
    execute format('alter table %s enable row level security', p_table);
    perform worker.publish_changes(p_table);
  end if;
end $$;
comment on function worker.make_job_table is
  'Add to a table what every job table has: a foreign key, indexes, triggers, grants, row-level security, Realtime. Idempotent.';

-- Every migration runs it again.
create or replace function worker.register_job_table(
  p_kind text, p_table text, p_purpose text, p_subject_required boolean, p_slot text, p_max_runtime interval
) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  perform worker.check_registration(p_kind, p_table, p_purpose);
  insert into worker.job_kinds (kind, table_name, purpose, subject_required, slot, max_runtime, package, hooks, uses_base)
  values (p_kind, p_table, p_purpose, p_subject_required, p_slot, p_max_runtime,
          nullif(current_setting('worker.package', true), ''), worker.check_hooks(p_kind),
          exists (select from worker.request_columns(p_table) where column_name = 'base'))
  on conflict (kind) do update set table_name = excluded.table_name, purpose = excluded.purpose,
    subject_required = excluded.subject_required, slot = excluded.slot, hooks = excluded.hooks, uses_base = excluded.uses_base;
  perform worker.check_slot(p_kind);
  perform worker.check_columns(p_kind, p_table);
  perform worker.guided_by(p_kind);  -- one that failed would fail again whenever a pod works out its routes
  delete from worker.kind_policies where kind = p_kind;
  delete from worker.kind_grants where kind = p_kind;
  perform worker.make_job_table(p_kind, p_table);
end $$;
comment on function worker.register_job_table is
  'Register a kind of job and its table: checks, hooks, and what every job table has. Idempotent. Declare policies and grants after it.';

-- rights.sql calls it after all files: one that ran after the registration may have changed a hook, a column or a trigger.
create or replace function worker.check_kinds() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind worker.job_kinds;
begin
  for v_kind in select * from worker.live_kinds() order by kind loop
    if v_kind.package is not null and v_kind.purpose is null then
      raise exception 'kind %: package % removed its purpose', v_kind.kind, v_kind.package using errcode = '22023';
    end if;
    perform worker.check_life_cycle(v_kind.kind, v_kind.table_name);
    update worker.job_kinds set hooks = worker.check_hooks(kind),
      uses_base = exists (select from worker.request_columns(table_name) where column_name = 'base')
    where kind = v_kind.kind;
    perform worker.check_slot(v_kind.kind);
    perform worker.check_columns(v_kind.kind, v_kind.table_name);
    perform worker.guided_by(v_kind.kind);
    perform worker.make_job_table(v_kind.kind, v_kind.table_name);
  end loop;
end $$;
comment on function worker.check_kinds is 'Check every kind of job again, and restore what its table must have.';

create or replace function worker.declare_policy(p_kind text, p_name text, p_command text, p_condition text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows refcursor;
begin
  -- A cursor accepts one statement: a condition that ended the policy and began another statement would run later, unchecked.
  open v_rows for execute format('select from %s where (%s)', worker.table_of(p_kind), p_condition);
  close v_rows;
  insert into worker.kind_policies (kind, policy_name, command, condition) values (p_kind, p_name, p_command, p_condition);
end $$;
comment on function worker.declare_policy is
  'Declare a policy on a kind''s table for authenticated: its name, select or insert, and its condition. rls.sql creates it.';

create or replace function worker.declare_grant(p_kind text, p_privilege text, p_object text, p_grantee text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_object text := case p_privilege when 'execute' then to_regprocedure(p_object)::text when 'select' then to_regclass(p_object)::text end;
begin
  if v_object is null then
    raise exception 'kind %: cannot declare a grant of % on %', p_kind, p_privilege, p_object
      using errcode = '22023', hint = 'Declare execute on a function, with its argument types, or select on a table or view.';
  end if;
  insert into worker.kind_grants (kind, privilege, object, grantee) values (p_kind, p_privilege, p_object, p_grantee);
end $$;
comment on function worker.declare_grant is
  'Declare that a role may execute a function of the kind, or select from a table or view of it. rights.sql grants it, again at every migration.';
