-- An identical request is answered from storage: a job keeps the fingerprint of what its result depends on.

do $$
declare
  v_table text;
begin
  -- Every table that was made like worker.life_cycle, also one whose kind is registered only after this migration.
  for v_table in
    select own.oid::regclass::text from pg_catalog.pg_class own join pg_catalog.pg_attribute made on made.attrelid = own.oid
    where own.relkind = 'r' and made.attname = 'cancel_requested_at' and not made.attisdropped order by 1
  loop
    execute format('alter table %s add column fingerprint text', v_table);
  end loop;
end $$;

alter table public.generation_jobs add column cache boolean not null default true;
