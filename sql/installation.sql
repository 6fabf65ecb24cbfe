-- Whose buckets these are. A copy of this database has the same jobs, attempts and keys, so whatever deletes or overwrites objects
-- first asks here. There are two kinds of proof:
--
-- home    the server's identifier and the database's oid. A dump restored elsewhere, a branch, a template copy and an upgraded
--         cluster have another one; SQL alone refuses, until `worker installation moved` or `adopt`.
-- marker  a copy of the server's files has the same home. So each bucket holds likeness-installation.json with a nonce that pods
--         renew; a database that does not know the nonce is not the one that renewed it last. A renewal commits next_nonce, writes
--         the markers, then commits nonce: wherever it breaks, the marker holds a nonce that is known.
--
-- After a cold start, when this may be a fresh copy, the marker is only read at first: the live original renews it meanwhile, and
-- the copy gives way. Deletions and copies wait until the installation is settled; jobs do not.

create or replace function worker.current_home() returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select system_identifier || '/' || (select oid from pg_catalog.pg_database where datname = current_database())
  from pg_catalog.pg_control_system()
$$;
comment on function worker.current_home is 'Return what identifies this database: the identifier of its server and its oid.';

create or replace function worker.personal_buckets() returns text[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select array(
    select distinct bucket from worker.config cross join jsonb_each_text(to_jsonb(config)) columns (name, bucket)
    where starts_with(name, 'bucket_') order by bucket)
$$;
comment on function worker.personal_buckets is
  'Return the buckets that jobs write to, every column bucket_… of worker.config: each has files of people and needs a marker.';

-- ---------------------------------------------------------------------------------------------------------- the questions

create or replace function worker.marker_problem(p_bucket text, p_state text, p_detail text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case p_state
    when 'unmarked' then
      format('bucket %s is not marked as this installation''s; as the database owner: worker storage init', p_bucket)
    when 'unreadable' then format('the marker of bucket %s cannot be read: %s', p_bucket, p_detail)
    when 'foreign' then case when p_detail = (select id::text from worker.installation)
      then format('bucket %s is in use by another copy of this database; if that one is gone: worker installation moved; '
                  'if this is the copy: buckets of its own, then worker installation adopt', p_bucket)
      else format('bucket %s belongs to another installation, %s; give this one buckets of its own', p_bucket, p_detail) end
  end
$$;
comment on function worker.marker_problem is 'Return what is wrong with a bucket''s marker and which command fixes it; NULL for our own.';

create or replace function worker.installation_error() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select case
    when not exists (select from worker.installation where home = worker.current_home()) then
      'this database was copied, restored or moved; if the old one is gone: worker installation moved; if this is a copy: '
      'buckets of its own, then worker installation adopt'
    else (select worker.marker_problem(bucket, state, detail) from worker.bucket_markers
          where state = 'foreign' and bucket = any (worker.personal_buckets()) order by bucket limit 1)
  end
$$;
comment on function worker.installation_error is
  'Return why this database may neither start jobs nor change storage, and the command that fixes it; NULL if it may.';

-- The last tick shows that pods have been alive all the time; a copy of the server's files runs on a server that was just started.
create or replace function worker.is_cold(p_last_tick timestamptz) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select greatest(p_last_tick, renewed_at) < clock_timestamp() - worker.timing('cold_start')
      or server_started_at <> pg_postmaster_start_time()
  from worker.installation
$$;
comment on function worker.is_cold is 'Return true if this may be a fresh copy: nothing has ticked or marked in the last minute, or the server process is another one.';

create or replace function worker.unsettled_for() returns interval
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when worker.is_cold(last_tick) then interval '0' else clock_timestamp() - unsettled_since end
  from worker.installation, worker.clock
$$;
comment on function worker.unsettled_for is 'Return the time since the last cold start.';

-- Three quarters of the waiting time pass before the first renewal, so that a live original comes first; the last quarter is for
-- another copy that renewed at the same moment.
create or replace function worker.may_renew() returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$ select worker.unsettled_for() >= 1.5 * worker.timing('marker_period') $$;
comment on function worker.may_renew is 'Return true if no other database would have renewed the markers unnoticed.';

create or replace function worker.is_settled() returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select worker.unsettled_for() >= 2 * worker.timing('marker_period')
     and coalesce(renewed_at > greatest(unsettled_since, clock_timestamp() - 2 * worker.timing('marker_period')), false)
  from worker.installation
$$;
comment on function worker.is_settled is 'Return true if this database has renewed its markers lately and held them since the last cold start.';

create or replace function worker.storage_hold(p_bucket text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    worker.installation_error(),
    case when p_bucket <> all (worker.personal_buckets()) then format('bucket %s is not one of this installation''s', p_bucket) end,
    case when not exists (select from worker.bucket_markers where bucket = p_bucket) then
      format('no pod has looked for the marker of bucket %s yet', p_bucket) end,
    (select worker.marker_problem(bucket, state, detail) from worker.bucket_markers where bucket = p_bucket),
    case when not worker.is_settled() then format(
      'nothing is deleted or copied until pods have renewed the markers of this installation and held them for %s',
      2 * worker.timing('marker_period')) end)
$$;
comment on function worker.storage_hold is
  'Return why objects of a bucket may not be deleted or overwritten now, or NULL. Every kind that does so asks this, after note_markers.';

create or replace function worker.deletable_buckets() returns text[]
language sql stable set search_path = pg_catalog, pg_temp
as $$ select array(select bucket from unnest(worker.personal_buckets()) bucket where worker.storage_hold(bucket) is null) $$;
comment on function worker.deletable_buckets is 'Return the buckets from which pods may delete objects now.';

create or replace function worker.start_delay(p_kind text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    worker.installation_error(),
    (select worker.storage_hold(bucket) from worker.job_kinds cross join unnest(worker.personal_buckets()) bucket
     where kind = p_kind and needs_marked_buckets and worker.storage_hold(bucket) is not null order by bucket limit 1))
$$;
comment on function worker.start_delay is 'Return why no job of a kind may start now, because it is not known whose the buckets are; NULL if it may.';

-- ------------------------------------------------------------------------------------------------- what pods see and report

-- p_seen is what a bucket holds: {id, nonce}, {absent: true} or {unreadable: why}.
create or replace function worker.marker_state(p_seen jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_seen ? 'absent' then 'unmarked'
    when p_seen ? 'unreadable' then 'unreadable'
    when p_seen ->> 'id' = id::text and p_seen ->> 'nonce' = any ((earlier_nonces || nonce || next_nonce)::text[]) then 'ours'
    else 'foreign' end
  from worker.installation
$$;
comment on function worker.marker_state is 'Return whose the marker is that was seen in a bucket: ours, foreign, unmarked or unreadable.';

create or replace function worker.judge_markers(p_seen jsonb) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select jsonb_object_agg(bucket, jsonb_build_object('state', state, 'problem', worker.marker_problem(bucket, state, detail)))
  from jsonb_each(p_seen) as found (bucket, seen)
  cross join lateral (select worker.marker_state(seen) as state, coalesce(seen ->> 'unreadable', seen ->> 'id') as detail) judged
$$;
comment on function worker.judge_markers is
  'Return state and problem of each marker that was seen, by bucket. Records nothing: the asker''s settings may be wrong.';

create or replace function worker.note_markers(p_seen jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  insert into worker.bucket_markers (bucket, state, detail)
  select bucket, worker.marker_state(seen), coalesce(seen ->> 'unreadable', seen ->> 'id') from jsonb_each(p_seen) as found (bucket, seen)
  where bucket = any (worker.personal_buckets()) order by bucket
  on conflict (bucket) do update set state = excluded.state, detail = excluded.detail, seen_at = clock_timestamp();
  -- Only a marker that was seen to stay ours shows that nobody else renews it.
  update worker.installation set unsettled_since = clock_timestamp()
  where not worker.is_settled() and exists (
    select from worker.bucket_markers where bucket = any (worker.personal_buckets()) and state in ('foreign', 'unreadable'));
  return (select jsonb_object_agg(bucket, jsonb_build_object('state', state, 'hold', worker.storage_hold(bucket)))
          from worker.bucket_markers where p_seen ? bucket);
end $$;
comment on function worker.note_markers is
  'Record what a pod sees in its buckets; returns by bucket its state, and why nothing there may be deleted or overwritten (hold), or NULL.';

-- ------------------------------------------------------------------------------------------------------------- renewals

-- A time in the future, of a clock that was ahead, proves nothing; and until then nobody would look, renew or delete.
create or replace function worker.note_cold_start(p_last_tick timestamptz) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  update worker.installation
  set unsettled_since = clock_timestamp(), server_started_at = pg_postmaster_start_time(),
      looked_at = case when looked_at <= clock_timestamp() then looked_at end,
      renewed_at = case when renewed_at <= clock_timestamp() then renewed_at end
  where worker.is_cold(p_last_tick) or greatest(unsettled_since, looked_at, renewed_at) > clock_timestamp()
$$;
comment on function worker.note_cold_start is 'Record a cold start, at the first tick after it.';

-- One pod looks for all. p_settled_as is what an earlier answer to this same process said: a process that outlived a restart of the
-- server is not connected to a copy.
create or replace function worker.claim_look(p_settled_as text) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_period interval := worker.timing('marker_period');
  v_every interval;
  v_claimed boolean;
begin
  update worker.installation set server_started_at = pg_postmaster_start_time(), unsettled_since = clock_timestamp() - 2 * v_period
  where p_settled_as = id || '/' || era and worker.installation_error() is null
    and (server_started_at <> pg_postmaster_start_time() or unsettled_since > clock_timestamp() - 2 * v_period);
  v_every := case when cardinality(worker.deletable_buckets()) = cardinality(worker.personal_buckets()) then v_period else v_period / 4 end;
  update worker.installation set looked_at = clock_timestamp()
  where coalesce(looked_at <= clock_timestamp() - v_every, true);
  v_claimed := found;
  return (select jsonb_build_object(
    'wait_s', case when v_claimed then 0 else extract(epoch from least(v_every, greatest(interval '0.05 seconds', looked_at + v_every - clock_timestamp()))) end,
    'settled_as', case when worker.is_settled() then id || '/' || era end) from worker.installation);
end $$;
comment on function worker.claim_look is
  'Return how long to wait before looking at the markers (0: this pod looks now), and settled_as, if this installation is settled.';

-- A bucket that cannot be read keeps its old nonce, so it must not fall behind the others.
create or replace function worker.begin_renewal() returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_installation worker.installation;
begin
  select * into v_installation from worker.installation for update;
  if worker.installation_error() is not null or not worker.may_renew() or exists (
    select from worker.bucket_markers where bucket = any (worker.personal_buckets()) and state = 'unreadable') then
    return null;
  end if;
  update worker.installation set next_nonce = coalesce(next_nonce, gen_random_uuid()) where nonce is not null
  returning * into v_installation;
  return jsonb_build_object('id', v_installation.id, 'nonce', v_installation.next_nonce);
end $$;
comment on function worker.begin_renewal is
  'Return the marker to write now, whose nonce is known from here on; NULL if none may be written. Repeats an unfinished renewal.';

-- An upload that was sent long ago may arrive after later ones: nonces of the last hour are still known.
create or replace function worker.finish_renewal(p_nonce uuid) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  update worker.installation
  set earlier_nonces = (nonce || earlier_nonces)[:12], nonce = next_nonce, next_nonce = null, renewed_at = clock_timestamp()
  where next_nonce = p_nonce
$$;
comment on function worker.finish_renewal is 'Record that every marked bucket holds this nonce. Safe to repeat.';

-- ---------------------------------------------------------------------------------------------------- the owner's commands

-- A nonce that was just made is known to no copy, so there is nobody to wait for.
create or replace function worker.make_first_nonce() returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  update worker.installation
  set nonce = gen_random_uuid(), renewed_at = clock_timestamp(), server_started_at = pg_postmaster_start_time(),
      unsettled_since = clock_timestamp() - 2 * worker.timing('marker_period')
  where nonce is null
$$;
comment on function worker.make_first_nonce is 'Make the nonce for buckets that nobody has marked before, unless there is one.';

create or replace function worker.first_marker() returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  if worker.installation_error() is not null then
    raise exception '%', worker.installation_error() using errcode = '55000';
  end if;
  perform worker.make_first_nonce();
  return (select jsonb_build_object('id', id, 'nonce', nonce) from worker.installation);
end $$;
comment on function worker.first_marker is 'Return the marker for a bucket without one; raises 55000 if this database may not mark any. For worker storage init.';

create or replace function worker.new_era() returns text
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select left(replace(gen_random_uuid()::text, '-', ''), 8) $$;
comment on function worker.new_era is 'Return what the prefixes of a moved or adopted installation end in, so that keys of a lost timeline are never used again.';

create or replace function worker.move_installation() returns jsonb
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  delete from worker.bucket_markers;
  update worker.installation
  set home = worker.current_home(), era = worker.new_era(), nonce = case when nonce is not null then gen_random_uuid() end,
      earlier_nonces = (array_remove(array[next_nonce, nonce] || earlier_nonces, null))[:12], next_nonce = null,
      renewed_at = null, looked_at = null, unsettled_since = clock_timestamp(), server_started_at = pg_postmaster_start_time()
  returning jsonb_build_object('id', id, 'nonce', nonce, 'era', era);
$$;
comment on function worker.move_installation is
  'Make this database the home of its installation, in a new era; returns the marker for its buckets, without a nonce if none was ever marked. For worker installation moved.';

create or replace function worker.adopt_installation() returns jsonb
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  update worker.installation set id = gen_random_uuid(), nonce = null, next_nonce = null, earlier_nonces = '{}';
  select worker.move_installation();
  select worker.make_first_nonce();
  select jsonb_build_object('id', id, 'nonce', nonce, 'era', era) from worker.installation;
$$;
comment on function worker.adopt_installation is
  'Make this database an installation of its own, in a new era; returns the marker for its buckets, which must be unmarked. For worker installation adopt.';
