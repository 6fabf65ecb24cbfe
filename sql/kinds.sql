-- What makes a table a job table.

-- A life-cycle column on every job table: LIKE copies once. '%s' stands for the table.
create or replace function worker.alter_job_tables(p_ddl text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text;
begin
  for v_table in select 'worker.life_cycle' union select distinct table_name from worker.job_kinds order by 1 loop
    execute format(p_ddl, v_table);
  end loop;
end $$;
comment on function worker.alter_job_tables is 'Apply DDL (with %s for the table) to every job table and their template.';

create or replace function worker.grant_job_table(p_table text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_request text;
begin
  select string_agg(quote_ident(attname), ', ') into v_request from pg_catalog.pg_attribute
  where attrelid = p_table::regclass and attnum > 0 and not attisdropped
    and (attname in ('id', 'owner_id', 'subject_id') or attname not in (select attname from pg_catalog.pg_attribute where attrelid = 'worker.life_cycle'::regclass and attnum > 0));
  execute format('revoke all on %s from public, anon, authenticated, service_role, likeness_worker', p_table);
  if p_table like 'public.%' then
    execute format('grant select, insert (%s) on %s to authenticated', v_request, p_table);
    execute format('grant select, insert (%s, priority, run_after, max_failures, max_runtime), update (priority, run_after, max_failures, max_runtime) on %s to service_role',
      v_request, p_table);
  end if;
end $$;
comment on function worker.grant_job_table is 'Clients insert requests; the life cycle is the functions'' alone.';

-- Makes a table a job table: foreign key, indexes, triggers, grants, Realtime. Idempotent; every migration runs it again.
create or replace function worker.register_job_table(
  p_kind text, p_table text, p_purpose text, p_subject_required boolean, p_slot text, p_max_runtime interval
) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := split_part(p_table, '.', 2);
begin
  insert into worker.job_kinds (kind, table_name, purpose, subject_required, slot, max_runtime)
  values (p_kind, p_table, p_purpose, p_subject_required, p_slot, p_max_runtime)
  on conflict (kind) do update set table_name = excluded.table_name, purpose = excluded.purpose,
    subject_required = excluded.subject_required, slot = excluded.slot;
  if not exists (select from pg_catalog.pg_constraint where conrelid = p_table::regclass and conname = v_name || '_subject_id_fkey') then
    execute format('alter table %s add constraint %I foreign key (subject_id) references public.subjects (id)', p_table, v_name || '_subject_id_fkey');
  end if;
  execute format('create index if not exists %I on %s (subject_id)', v_name || '_subject_id', p_table);
  execute format('create index if not exists %I on %s (owner_id, created_at desc)', v_name || '_owner_id_created_at', p_table);
  execute format('create index if not exists %I on %s (status) where status in (''queued'', ''running'')', v_name || '_open', p_table);
  execute format('create or replace trigger _100_before_insert before insert on %s for each row execute function worker.before_job_insert(%L)', p_table, p_kind);
  execute format('create or replace trigger _200_after_insert after insert on %s for each row execute function worker.after_job_insert(%L)', p_table, p_kind);
  execute format('create or replace trigger _300_before_update before update on %s for each row execute function worker.before_job_update()', p_table);
  execute format('create or replace trigger _400_order after update of priority, run_after on %s for each row when ((old.priority, old.run_after) is distinct from (new.priority, new.run_after)) execute function worker.after_order_update(%L)', p_table, p_kind);
  perform worker.grant_job_table(p_table);
  if p_table like 'public.%' then
    execute format('alter table %s enable row level security', p_table);
    if exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime' and not puballtables)
       and not exists (select from pg_catalog.pg_publication_tables where pubname = 'supabase_realtime' and schemaname || '.' || tablename = p_table) then
      execute format('alter publication supabase_realtime add table %s', p_table);
    end if;
  end if;
end $$;
comment on function worker.register_job_table is 'Make a table a job table: keys, triggers, grants, Realtime. Idempotent.';
