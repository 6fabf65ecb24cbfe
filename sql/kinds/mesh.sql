-- Mesh: a 3D model of a thing, from one of its pictures.

comment on table public.mesh_jobs is 'Requests for 3D models of things. The pictures are tried in order: the first with a usable foreground is used.';
comment on column public.mesh_jobs.base is 'The model that makes the mesh. Left open: triposr.';
comment on column public.mesh_jobs.image_urls is 'One to four https URLs of pictures that show no person. Either these or image_paths.';
comment on column public.mesh_jobs.image_paths is 'One to four keys of pictures, under {owner_id}/_/inputs/ or under a subject, whose consent is then checked.';
comment on column public.mesh_jobs.quality is 'fast, balanced or quality: the surface is sampled at 128, 256 or 384 points a side.';
comment on column public.mesh_jobs.format is 'glb, obj or stl. STL files have no colours.';
comment on column public.mesh_jobs.texture is 'vertex: a colour for each vertex; baked: a picture that covers the mesh, which then has at most 20,000 faces.';
comment on column public.mesh_jobs.max_faces is 'The mesh is simplified to so many faces. Left open: as many as the quality gives.';
comment on column public.mesh_jobs.metadata is 'The app''s own: shop, product, variant, titles. Returned in the result as it is; the worker does not read it.';

create or replace function worker.mesh__named_keys(p_job jsonb) returns table (column_name text, key text, rule text)
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select 'image_paths', path, 'input' from worker.items(p_job, 'image_paths') path $$;
comment on function worker.mesh__named_keys is 'Return the pictures, which show a thing, or a person who is asked.';

create or replace function worker.mesh__plain_columns() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select '{image_urls,quality,format,texture,metadata}'::text[] $$;
comment on function worker.mesh__plain_columns is
  'Return the columns with words from a fixed list, metadata, which no model reads, and URLs: request_error refuses those of people''s pictures here.';

create or replace function worker.mesh__default_base(p_job jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select 'triposr' $$;
comment on function worker.mesh__default_base is 'Return the model of a job that names none.';

create or replace function worker.mesh__capabilities(p_job jsonb) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select '{mesh}'::text[] $$;
comment on function worker.mesh__capabilities is 'Return mesh, which models that draw do not have.';

create or replace function worker.mesh__request_error(p_job jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('image_urls: number %s %s', position, worker.url_error(url))
  from worker.items(p_job, 'image_urls') with ordinality urls (url, position)
  where worker.url_error(url) is not null order by position limit 1
$$;
comment on function worker.mesh__request_error is 'Return an error for a URL that is none, or that names a picture of a subject.';

-- A picture that an earlier job generated may show more people than the one under whose prefix it is: it is not prefetched.
create or replace function worker.mesh__prefetch(p_job jsonb) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('pictures', array(
    select path from worker.items(p_job, 'image_paths') path
    where worker.key_subject(path) is not null and split_part(path, '/', 3) <> 'generated'))
$$;
comment on function worker.mesh__prefetch is 'Return pictures: the keys of pictures of one person each, to prefetch.';

create or replace function worker.mesh__result_keys(p_result jsonb) returns setof text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select key #>> '{}' from jsonb_path_query(p_result, 'lax $.files.*') key $$;
comment on function worker.mesh__result_keys is 'Return every file: the mesh, its preview and turntable, and what an OBJ refers to.';

create or replace function worker.mesh__result_error(p_job jsonb, p_result jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select 'the result names no ' || name from unnest('{mesh,preview,turntable}'::text[]) name
  where p_result -> 'files' ->> name is null limit 1
$$;
comment on function worker.mesh__result_error is 'Return an error for a result without a mesh, preview or turntable.';

create or replace function worker.mesh__publish(p_job jsonb, p_result jsonb) returns jsonb
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select jsonb_build_object('metadata', p_job -> 'metadata') $$;
comment on function worker.mesh__publish is 'Return the app''s metadata, for the result: the row''s own, which no worker has read and written again.';

do $$
begin
  perform worker.register_job_table('mesh', 'public.mesh_jobs', 'generation', false, 'gpu', interval '15 minutes');
  perform worker.declare_policy('mesh', 'users can view their own mesh jobs', 'select', 'owner_id = (select auth.uid())');
  perform worker.declare_policy('mesh', 'users can request meshes of their own', 'insert', 'owner_id = (select auth.uid())');
end $$;
