-- Who sees what. Row-level security on every table in public, and policies on storage.objects.
--
-- Last, and under a short lock_timeout: on Supabase each policy statement locks every auth and storage table until commit.
set local lock_timeout = '3s';

-- A set, so that it runs once and not for each row.
create or replace function worker.my_published_objects() returns table (bucket text, key text)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select bucket, key from worker.staged_objects where owner_id = (select auth.uid()) and state = 'published' $$;
revoke all on function worker.my_published_objects from public, anon, authenticated, service_role;
grant execute on function worker.my_published_objects to authenticated;
comment on function worker.my_published_objects is 'Return the published objects of the signed-in user''s jobs.';

create or replace function worker.uploads_bucket() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select bucket_uploads from worker.config $$;
revoke all on function worker.uploads_bucket from public, anon, authenticated, service_role;
grant execute on function worker.uploads_bucket to authenticated;
comment on function worker.uploads_bucket is 'Return the bucket that apps upload to.';

-- ---------------------------------------------------------------------------------------------------------- table rights

-- Only where it is off: the statement locks out every reader, and a reader of people may wait for what this migration holds.
do $$
declare
  v_table regclass;
begin
  foreach v_table in array '{public.subjects,public.subject_photos,public.subjects_models,public.presets}'::regclass[] loop
    if not (select relrowsecurity from pg_catalog.pg_class where oid = v_table) then
      execute format('alter table %s enable row level security', v_table);
    end if;
  end loop;
end $$;

revoke all on public.subjects, public.subject_photos, public.subjects_models, public.presets from public, anon, authenticated, service_role, likeness_worker;

grant select, insert (id, name, trigger_word, subject_is_adult), update (name, trigger_word) on public.subjects to authenticated;
grant select, insert (id, owner_id, name, trigger_word, subject_is_adult), update (name, trigger_word) on public.subjects to service_role;

grant select, insert (id, subject_id, path, caption), update (caption), delete on public.subject_photos to authenticated;
grant select, insert, update, delete on public.subject_photos to service_role;

grant select on public.subjects_models to authenticated;
grant select, update (retired_at) on public.subjects_models to service_role;

grant select, insert (id, name, kind, prompt, negative_prompt, settings), update (name, prompt, negative_prompt, settings), delete on public.presets to authenticated;
grant select, insert, update, delete on public.presets to service_role;

-- -------------------------------------------------------------------------------------------------------------- policies

-- In a block, because psql shows what a `select` returns. A policy whose text changes in any way is recreated.
do $policies$
begin
  perform worker.ensure_policy('users can view their own subjects', 'public.subjects', 'select', 'authenticated',
    'owner_id = (select auth.uid())');
  perform worker.ensure_policy('users can create subjects of their own', 'public.subjects', 'insert', 'authenticated',
    null, 'owner_id = (select auth.uid())');
  perform worker.ensure_policy('users can rename their own subjects', 'public.subjects', 'update', 'authenticated',
    'owner_id = (select auth.uid())', 'owner_id = (select auth.uid())');

  perform worker.ensure_policy('users can view photos of their own subjects', 'public.subject_photos', 'select', 'authenticated',
    'subject_id in (select id from public.subjects where owner_id = (select auth.uid()))');
  perform worker.ensure_policy('users can add photos to their own subjects', 'public.subject_photos', 'insert', 'authenticated',
    null, 'subject_id in (select id from public.subjects where owner_id = (select auth.uid()))');
  perform worker.ensure_policy('users can caption photos of their own subjects', 'public.subject_photos', 'update', 'authenticated',
    'subject_id in (select id from public.subjects where owner_id = (select auth.uid()))',
    'subject_id in (select id from public.subjects where owner_id = (select auth.uid()))');
  perform worker.ensure_policy('users can remove photos of their own subjects', 'public.subject_photos', 'delete', 'authenticated',
    'subject_id in (select id from public.subjects where owner_id = (select auth.uid()))');

  perform worker.ensure_policy('users can view LoRAs of their own subjects', 'public.subjects_models', 'select', 'authenticated',
    'subject_id in (select id from public.subjects where owner_id = (select auth.uid()))');

  perform worker.ensure_policy('users can view their own presets and everybody''s', 'public.presets', 'select', 'authenticated',
    'owner_id is null or owner_id = (select auth.uid())');
  perform worker.ensure_policy('users can create presets of their own', 'public.presets', 'insert', 'authenticated',
    null, 'owner_id = (select auth.uid())');
  perform worker.ensure_policy('users can change their own presets', 'public.presets', 'update', 'authenticated',
    'owner_id = (select auth.uid())', 'owner_id = (select auth.uid())');
  perform worker.ensure_policy('users can delete their own presets', 'public.presets', 'delete', 'authenticated',
    'owner_id = (select auth.uid())');

  perform worker.ensure_kind_policies();

  -- {owner_id}/{subject_id}/photos/… and {owner_id}/_/inputs/… in the uploads bucket are the app's own; other objects are visible once they are published.
  -- Never with segments that are empty, . or ..: a storage server may resolve them to another user's key.
  perform worker.ensure_policy('likeness: users can upload photos and inputs of their own', 'storage.objects', 'insert', 'authenticated',
    null, $$bucket_id = (select worker.uploads_bucket()) and name !~ '(^|/)[.]{0,2}(/|$)'
    and (storage.foldername(name))[1] = (select auth.uid())::text
    and (((storage.foldername(name))[2] in (select id::text from public.subjects where owner_id = (select auth.uid())) and (storage.foldername(name))[3] = 'photos')
         or ((storage.foldername(name))[2] = '_' and (storage.foldername(name))[3] = 'inputs'))$$);
  perform worker.ensure_policy('likeness: users can view what is theirs', 'storage.objects', 'select', 'authenticated',
    $$(bucket_id = (select worker.uploads_bucket()) and name !~ '(^|/)[.]{0,2}(/|$)'
     and (storage.foldername(name))[1] = (select auth.uid())::text
     and (((storage.foldername(name))[2] in (select id::text from public.subjects where owner_id = (select auth.uid())) and (storage.foldername(name))[3] = 'photos')
          or ((storage.foldername(name))[2] = '_' and (storage.foldername(name))[3] = 'inputs')))
    or (bucket_id, name) in (select bucket, key from worker.my_published_objects())$$);
end $policies$;
