-- Echo: says words again, beside a person's picture.

create or replace function worker.echo__named_keys(p_job jsonb) returns table (column_name text, key text, rule text)
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select 'picture_path', p_job ->> 'picture_path', 'person' where p_job ->> 'picture_path' is not null $$;
comment on function worker.echo__named_keys is 'The picture shows a person, who is asked like the subject.';

create or replace function worker.echo__texts(p_job jsonb) returns table (column_name text, words text, screens text)
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select 'words', p_job ->> 'words', 'prompt' $$;
comment on function worker.echo__texts is 'The words are screened like a prompt.';

do $$
begin
  perform worker.register_job_table('echo', 'public.echo_jobs', 'generation', false, 'gpu', interval '10 minutes');
  perform worker.declare_policy('echo', 'users can view their own echo jobs', 'select', 'owner_id = (select auth.uid())');
  perform worker.declare_policy('echo', 'users can request echoes of their own subjects', 'insert', 'owner_id = (select auth.uid())');
end $$;
