-- An identical request is answered from storage: a job keeps the fingerprint of what its result depends on.

do $$
declare
  v_table text;
begin
  -- Every table that was made like worker.life_cycle, also one whose kind is registered only after this migration.
  for v_table in
    select own.oid::regclass::text from pg_catalog.pg_class own
    where own.relkind = 'r' and not exists (
      select attname from pg_catalog.pg_attribute where attrelid = 'worker.life_cycle'::regclass and attnum > 0 and not attisdropped
      except select attname from pg_catalog.pg_attribute where attrelid = own.oid and attnum > 0 and not attisdropped) order by 1
  loop
    execute format('alter table %s add column fingerprint text', v_table);
  end loop;
end $$;

alter table public.generation_jobs add column cache boolean not null default true;
