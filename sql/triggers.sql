-- Triggers of tables other than job tables, whose triggers are in kinds.sql. Postgres fires them in the order of their names.

do $$
declare
  v_table text;
begin
  foreach v_table in array '{public.subjects,public.presets,public.subject_photos}'::text[] loop
    execute format('create or replace trigger _050_account before insert on %s for each row execute function worker.check_account()', v_table);
    execute format('create or replace trigger _060_defaults before insert on %s for each row execute function worker.fill_defaults(%L)',
                   v_table, worker.column_defaults(v_table));
  end loop;
end $$;

create or replace trigger _100_starts_without_consent before insert on public.subjects
  for each row execute function worker.on_subject_insert();
create or replace trigger _100_guards_consent before update on public.subjects
  for each row execute function worker.on_subject_update();
create or replace trigger _200_loss_of_consent after update on public.subjects
  referencing old table as old_rows new table as new_rows
  for each statement execute function worker.after_subject_update();

create or replace trigger _100_path before insert or update of path, subject_id on public.subject_photos
  for each row execute function worker.on_photo_write();

create or replace trigger _100_append_only before update or delete on worker.consent_events
  for each row execute function worker.refuse_change();
create or replace trigger _100_never_emptied before truncate on worker.consent_events
  for each statement execute function worker.refuse_change();

-- Realtime: the tables that a client may watch. Those of kinds are added when the kind is registered.
do $$
declare
  v_table text;
begin
  for v_table in select worker.realtime_tables() loop
    perform worker.publish_changes(v_table);
  end loop;
end $$;
