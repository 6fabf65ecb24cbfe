-- A database of release 0.1.0: its schema, and rows in every state. Made by make.py with that release; not edited.
--
-- For a database with Supabase's `auth` and `storage`, or their stubs: plain statements, to be run all at once as the
-- owner or a superuser, on PostgreSQL 15 or later. The rows of screened_terms.sql are left out (four tables, thousands
-- of words), and so is its row in schema_versions: the next migration writes them again, as every one does.
-- Heartbeats and leases are as old as the dump: a test that restores it says which pods are alive.

set check_function_bodies = off;
set search_path = '';

do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'likeness_worker') then
    create role likeness_worker nologin;
  end if;
  if not pg_catalog.pg_has_role(current_user, 'likeness_worker', case
      when current_setting('server_version_num')::integer >= 160000 then 'set' else 'member' end) then
    execute 'grant likeness_worker to ' || quote_ident(current_user);
  end if;
end $$;

INSERT INTO auth.users (id, email) VALUES
	('61ef437f-86d7-54e9-9077-1b10009d8ccf', NULL),
	('75bf8c9c-74cd-58d1-85d7-5ca647f9cc3b', NULL);

CREATE SCHEMA worker;

CREATE TYPE worker.pgqueuer_status AS ENUM (
    'queued',
    'picked',
    'successful',
    'exception',
    'canceled',
    'deleted',
    'failed'
);

CREATE FUNCTION public.cancel_job(kind text, id uuid) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if current_user = 'authenticated' then
    return worker.cancel_job_as_owner(kind, id);
  end if;
  return worker.cancel_job_as_service(kind, id);
end $$;

COMMENT ON FUNCTION public.cancel_job(kind text, id uuid) IS 'Cancel a job: cancelled (it had not begun), stopping (its pod is being told), or how it had ended.';

CREATE FUNCTION public.grant_consent(subject_id uuid, purposes text[] DEFAULT '{training,generation}'::text[], expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, evidence text DEFAULT NULL::text, confirmed boolean DEFAULT false, adult boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  -- current_user is the caller here; inside a definer function it would be the owner, and a role in the claims can be forged.
  if current_user = 'authenticated' then
    perform worker.grant_consent_as_owner(subject_id, purposes, expires_at, evidence, confirmed, adult);
  else
    perform worker.grant_consent_as_service(subject_id, purposes, expires_at, evidence, confirmed, adult);
  end if;
end $$;

COMMENT ON FUNCTION public.grant_consent(subject_id uuid, purposes text[], expires_at timestamp with time zone, evidence text, confirmed boolean, adult boolean) IS 'Record that a person agreed to purposes (training, generation), until expires_at. evidence is kept as a digest only.';

CREATE FUNCTION public.reject_consent(subject_id uuid, reason text DEFAULT NULL::text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select worker.reject_consent_as_service(subject_id, reason) $$;

COMMENT ON FUNCTION public.reject_consent(subject_id uuid, reason text) IS 'Record that a person did not agree (service_role).';

CREATE FUNCTION public.retry_job(kind text, id uuid) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if current_user = 'authenticated' then
    return worker.retry_job_as_owner(kind, id);
  end if;
  return worker.retry_job_as_service(kind, id);
end $$;

COMMENT ON FUNCTION public.retry_job(kind text, id uuid) IS 'Put a failed or cancelled job back on the queue; consent is checked again when it starts.';

CREATE FUNCTION public.revoke_consent(subject_id uuid, reason text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if current_user = 'authenticated' then
    perform worker.revoke_consent_as_owner(subject_id, reason);
  else
    perform worker.revoke_consent_as_service(subject_id, reason);
  end if;
end $$;

COMMENT ON FUNCTION public.revoke_consent(subject_id uuid, reason text) IS 'Take a person''s consent back, at once: queued jobs fail, running ones stop, nothing more is published. Of reason a digest is kept.';

CREATE FUNCTION worker.actor() RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select coalesce(auth.uid()::text, session_user::text) $$;

COMMENT ON FUNCTION worker.actor() IS 'Who is acting, for the ledger: the signed-in user, else the role of the session.';

CREATE FUNCTION worker.after_job_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  -- After, not before: with ON CONFLICT DO NOTHING a BEFORE trigger also runs for rows that are never inserted.
  insert into worker.job_subjects (kind, job_id, subject_id)
  select tg_argv[0], new.id, touched from worker.subjects_of(to_jsonb(new)) touched
  on conflict do nothing;
  if new.status = 'queued' then
    perform worker.enqueue(tg_argv[0], to_jsonb(new));
  else
    perform worker.log_event(tg_argv[0], new.id, 0, 'refused', jsonb_build_object('code', new.error_code, 'error', new.error));
    perform worker.log_refusal(tg_argv[0], new.id, new.error);
  end if;
  return null;
end $$;

COMMENT ON FUNCTION worker.after_job_insert() IS 'Note who is touched, and put the job on the queue.';

CREATE FUNCTION worker.after_order_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  update worker.pgqueuer set priority = new.priority * 1000, execute_after = coalesce(new.run_after, now())
  where dedupe_key = tg_argv[0] || ':' || new.id and status = 'queued';
  perform pg_notify('likeness_queue', '');
  return null;
end $$;

COMMENT ON FUNCTION worker.after_order_update() IS 'Carry a changed priority or run_after over to the queue.';

CREATE FUNCTION worker.after_subject_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_lost uuid[] := array(
    select new_row.id from old_rows old_row join new_rows new_row using (id)
    where old_row.consent_status = 'approved'
      and (new_row.consent_status <> 'approved' or new_row.erased_at is not null or new_row.owner_id is null
           or not old_row.consent_purposes <@ new_row.consent_purposes));
begin
  if v_lost <> '{}' then
    perform worker.stop_jobs_of(v_lost);
  end if;
  return null;
end $$;

COMMENT ON FUNCTION worker.after_subject_update() IS 'A loss of consent reaches the open jobs, of all the people of the statement at once.';

CREATE FUNCTION worker.alter_job_tables(p_ddl text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_table text;
begin
  for v_table in select 'worker.life_cycle' union select distinct table_name from worker.job_kinds order by 1 loop
    execute format(p_ddl, v_table);
  end loop;
end $$;

COMMENT ON FUNCTION worker.alter_job_tables(p_ddl text) IS 'Apply DDL (with %s for the table) to every job table and their template.';

CREATE FUNCTION worker.backoff(p_failures integer) RETURNS interval
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select least(interval '10 minutes', interval '10 seconds' * power(4, least(p_failures, 8) - 1)) * (0.8 + 0.4 * random()) $$;

COMMENT ON FUNCTION worker.backoff(p_failures integer) IS 'How long to wait after the n-th failure.';

CREATE FUNCTION worker.base_error(p_kind text, p_job jsonb) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_base worker.base_models;
  v_wanted text;
begin
  select * into v_base from worker.base_models where slug = p_job ->> 'base';
  if v_base.slug is null then
    return format('base: %s is not known here; known are %s', coalesce(quote_literal(p_job ->> 'base'), 'null'),
                  (select string_agg(slug, ', ' order by slug) from worker.base_models));
  end if;
  for v_wanted in
    select 'train' where p_kind = 'training'
    union all select 'lora' where p_kind = 'generation' and (p_job ->> 'subject_id' is not null or jsonb_typeof(p_job -> 'model_ids') = 'array' and jsonb_array_length(p_job -> 'model_ids') > 0)
    union all select 'ip_adapter' where jsonb_typeof(p_job -> 'reference_paths') = 'array'
    union all select 'control:' || (p_job ->> 'control_kind') where p_job ->> 'control_kind' is not null
  loop
    if v_wanted <> all (v_base.capabilities) then
      return format('base: %s cannot do %s; it can do %s%s', v_base.slug, v_wanted, array_to_string(v_base.capabilities, ', '),
                    case when v_wanted = 'train' and v_base.train_base is not null then format('; train on %s', v_base.train_base) else '' end);
    end if;
  end loop;
  return null;
end $$;

COMMENT ON FUNCTION worker.base_error(p_kind text, p_job jsonb) IS 'What the chosen base cannot do, or NULL.';

CREATE FUNCTION worker.before_job_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_kind worker.job_kinds;
  v_user uuid := auth.uid();
  v_subject public.subjects;
  v_known boolean;
  v_error text;
  v_code text := 'consent_denied';
begin
  select * into v_kind from worker.job_kinds where kind = tg_argv[0];
  if new.subject_id is null then
    new.owner_id := coalesce(v_user, new.owner_id);
    if v_kind.subject_required then
      raise exception 'subject_id: a % job needs a subject', v_kind.kind using errcode = '23502';
    end if;
  else
    select * into v_subject from public.subjects where id = new.subject_id;
    if v_subject.id is null or (v_user is not null and v_subject.owner_id is distinct from v_user) then
      raise exception 'subject_id: no such subject of yours' using errcode = '42501';
    end if;
    new.owner_id := v_subject.owner_id;
  end if;
  if v_kind.table_name like 'public.%' then
    if new.owner_id is null then
      raise exception 'owner_id: whose job is this? name a subject or an owner' using errcode = '23502';
    end if;
    execute format('select exists (select from %s where id = $1)', v_kind.table_name) into v_known using new.id;
    if not v_known then  -- a request that is repeated with its id takes no new place
      perform worker.check_open_jobs(new.owner_id);
    end if;
  end if;
  -- A job starts at the beginning, whatever the client sent. (Clients have no right to these columns anyway.)
  new.status := 'queued';
  new.attempt := 0;
  new.failures := 0;
  new.finished_at := null;
  new.max_runtime := coalesce(new.max_runtime, v_kind.max_runtime);
  new.phase := 'waiting';
  if to_jsonb(new) ? 'base' then
    new := jsonb_populate_record(new, jsonb_build_object('base',
      coalesce(to_jsonb(new) ->> 'base', worker.default_base(v_kind.kind, to_jsonb(new)))));
  end if;
  new := jsonb_populate_record(new, worker.preset_columns(v_kind.kind, to_jsonb(new)));
  v_error := worker.request_error(v_kind.kind, to_jsonb(new));
  if v_error is not null then
    raise exception '%', v_error using errcode = '22023';
  end if;
  if v_kind.purpose is not null then
    -- Held until this transaction ends, so that a revocation either sees this job or is seen by it.
    perform from public.subjects where id in (select worker.subjects_of(to_jsonb(new))) order by id for key share;
    select worker.consent_error(touched, v_kind.purpose) into v_error
    from worker.subjects_of(to_jsonb(new)) touched
    where worker.consent_error(touched, v_kind.purpose) is not null limit 1;
  end if;
  if v_error is null then
    v_error := worker.prompt_error(to_jsonb(new));
    v_code := 'prompt_blocked';
  end if;
  if v_error is not null then
    -- The row arrives, refused, so that the app has something to show and the ledger an entry.
    new.status := 'failed';
    new.phase := 'refused';
    new.error_code := v_code;
    new.error := v_error;
    new.finished_at := clock_timestamp();
  end if;
  if v_kind.kind = 'training' and new.status = 'queued' then
    v_error := worker.photos_error(to_jsonb(new));
    if v_error is not null then
      raise exception '%', v_error using errcode = '22023';
    end if;
  end if;
  return new;
end $_$;

COMMENT ON FUNCTION worker.before_job_insert() IS 'Fill owner and base, check the request, refuse people without consent and blocked prompts.';

CREATE FUNCTION worker.before_job_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_changed text;
begin
  -- Request columns are all that the life cycle does not own, plus the three that say who.
  select string_agg(coalesce(old_column.key, new_column.key), ', ') into v_changed
  from jsonb_each(to_jsonb(old)) old_column full join jsonb_each(to_jsonb(new)) new_column using (key)
  where old_column.value is distinct from new_column.value
    and not (coalesce(old_column.key, new_column.key) = any (worker.changing_columns()));
  if v_changed is not null then
    raise exception 'a request does not change after it was made: %', v_changed
      using errcode = '42501', hint = 'Cancel this job and insert another.';
  end if;
  if new.attempt < old.attempt then
    raise exception 'attempt is the fencing token and never goes down' using errcode = '42501';
  end if;
  return new;
end $$;

COMMENT ON FUNCTION worker.before_job_update() IS 'Request columns never change after INSERT, for any role.';

CREATE FUNCTION worker.broken_rule(p_text text, p_screens text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_folded text := worker.fold_prompt(p_text);
  v_parted text := nullif(worker.part_words(v_folded), v_folded);
begin
  return coalesce(
    worker.broken_term(v_folded, p_screens),
    worker.broken_term(v_parted, p_screens),
    case when p_screens = 'prompt' and (worker.names_a_minors_age(v_folded) or worker.names_a_minors_age(v_parted))
      then (select age_rule_id from worker.prompt_folding) end);
end $$;

COMMENT ON FUNCTION worker.broken_rule(p_text text, p_screens text) IS 'The first rule that a text breaks, or NULL.';

CREATE FUNCTION worker.broken_term(p_folded text, p_screens text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_folding worker.prompt_folding;
  v_pieces text[];
  v_start integer := 1;
  v_words text;
  v_signs text;
  v_letters text;
  v_skeleton text;
  v_next text;
  v_rule_id text;
begin
  select * into v_folding from worker.prompt_folding;
  v_pieces := array(
    select part[1] from regexp_matches(p_folded, '([ ,]*(?:[a-z]+|[0-9]+|[' || v_folding.symbols || ']))', 'g') with ordinality as matched (part, position)
    order by position);
  v_signs := v_folding.signs || v_folding.i_or_l;
  v_letters := v_folding.sign_letters || repeat('i', length(v_folding.i_or_l));
  for v_first in 1 .. cardinality(v_pieces) loop
    v_words := '';
    for v_last in v_first .. cardinality(v_pieces) loop
      v_words := ltrim(v_words || v_pieces[v_last], ' ,');
      v_skeleton := translate(v_words, v_signs || 'l ,', v_letters || 'i');
      select skeleton into v_next from worker.screened_terms
      where screens = p_screens and skeleton >= v_skeleton order by skeleton limit 1;
      exit when v_next is null or not starts_with(v_next, v_skeleton);
      if v_next = v_skeleton then
        select rule_id into v_rule_id from worker.screened_terms
        where screens = p_screens and skeleton = v_skeleton and (v_words ~ '[^0-9 ,].*[^0-9 ,]' or length(letters) = 1)
          and letters like translate(translate(v_words, v_folding.i_or_l, '___'), v_signs || ' ,', v_letters)
          and worker.is_whole(p_folded, v_start + length(v_pieces[v_first]) - length(ltrim(v_pieces[v_first], ' ,')), v_words, is_phrase);
        if found and not worker.is_allowed(v_pieces, v_first, v_last, p_screens) then
          return v_rule_id;
        end if;
      end if;
    end loop;
    v_start := v_start + length(v_pieces[v_first]);
  end loop;
  return null;
end $$;

COMMENT ON FUNCTION worker.broken_term(p_folded text, p_screens text) IS 'The rule of the first screened term in a folded text, or NULL.';

CREATE FUNCTION worker.cancel_job_as_owner(p_kind text, p_id uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  perform worker.check_job_owner(p_kind, p_id);
  return worker.cancel_job_as_service(p_kind, p_id);
end $$;

COMMENT ON FUNCTION worker.cancel_job_as_owner(p_kind text, p_id uuid) IS 'Cancel a job of one''s own.';

CREATE FUNCTION worker.cancel_job_as_service(p_kind text, p_id uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_status text := worker.request_stop(p_kind, p_id, 'cancelled', null);
begin
  if v_status is null then
    raise exception 'no % job %', p_kind, p_id using errcode = '42501';
  end if;
  return v_status;
end $$;

COMMENT ON FUNCTION worker.cancel_job_as_service(p_kind text, p_id uuid) IS 'Cancel a job, as the administrator of the app.';

CREATE FUNCTION worker.changing_columns() RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select array_agg(attname::text) from pg_catalog.pg_attribute
  where attrelid = 'worker.life_cycle'::regclass and attnum > 0 and not attisdropped
    and attname not in ('id', 'owner_id', 'subject_id', 'preset', 'created_at')
$$;

COMMENT ON FUNCTION worker.changing_columns() IS 'The columns that the life of a job changes; all others are the request.';

CREATE FUNCTION worker.charge_failure(p_kind text, p_job jsonb, p_code text, p_error text, p_delay interval, p_gpu_seconds double precision) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_failures integer := (p_job ->> 'failures')::integer + 1;
begin
  if p_job ->> 'cancel_requested_at' is not null then
    return worker.settle_stopped(p_kind, p_job, p_gpu_seconds);
  elsif p_code in ('consent_denied', 'prompt_blocked', 'output_blocked', 'invalid_input', 'input_missing')
        or v_failures >= (p_job ->> 'max_failures')::integer then
    execute format('update %s set failures = failures + 1 where id = $1', worker.table_of(p_kind)) using (p_job ->> 'id')::uuid;
    perform worker.settle(p_kind, p_job, 'failed', p_code, p_error, p_gpu_seconds);
    return 'failed';
  end if;
  perform worker.requeue(p_kind, p_job, 1, p_delay, p_code, p_error, 'waiting to try again', p_gpu_seconds);
  return 'queued';
end $_$;

COMMENT ON FUNCTION worker.charge_failure(p_kind text, p_job jsonb, p_code text, p_error text, p_delay interval, p_gpu_seconds double precision) IS 'Charge one failure: queued again, or failed for good.';

CREATE FUNCTION worker.check_grant(p_purposes text[], p_expires_at timestamp with time zone) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if p_purposes is null or p_purposes = '{}' or not p_purposes <@ '{training,generation}'::text[] then
    raise exception 'purposes must be one or both of training and generation, not %', coalesce(p_purposes::text, 'null')
      using errcode = '22023', hint = 'grant_consent(subject_id, ''{training,generation}'')';
  elsif p_expires_at <= clock_timestamp() then
    raise exception 'expires_at must lie in the future, not at %', p_expires_at using errcode = '22023';
  end if;
end $$;

COMMENT ON FUNCTION worker.check_grant(p_purposes text[], p_expires_at timestamp with time zone) IS 'Raise 22023 when purposes or expiry of a grant make no sense.';

CREATE FUNCTION worker.check_job_owner(p_kind text, p_id uuid) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_owner_id uuid;
begin
  if (select table_name from worker.job_kinds where kind = p_kind) like 'public.%' then
    execute format('select owner_id from %s where id = $1', worker.table_of(p_kind)) into v_owner_id using p_id;
  end if;
  if v_owner_id is null or v_owner_id is distinct from auth.uid() then
    raise exception 'no such job of yours' using errcode = '42501';
  end if;
end $_$;

COMMENT ON FUNCTION worker.check_job_owner(p_kind text, p_id uuid) IS 'Raise 42501 unless the job is the signed-in user''s; unknown and another''s give the same answer.';

CREATE FUNCTION worker.check_open_jobs(p_owner_id uuid) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_limit integer := (select open_jobs_per_owner from worker.config);
begin
  -- One at a time for each owner, or two requests could both take the last place.
  perform pg_advisory_xact_lock(hashtextextended('open jobs of ' || p_owner_id, 0));
  -- Each refused request is a row for ever, of the ledger too, and nobody may feel a way around the words.
  if worker.count_jobs(p_owner_id,
       $q$created_at > now() - interval '1 hour' and status = 'failed' and error_code in ('consent_denied', 'prompt_blocked') and attempt = 0$q$) >= 10 * v_limit then
    raise exception 'too many refused requests: at most % an hour', 10 * v_limit using errcode = 'PT429';
  end if;
  if worker.count_jobs(p_owner_id, $q$status in ('queued', 'running')$q$) >= v_limit then
    raise exception 'too many open jobs: at most % at a time', v_limit
      using errcode = 'PT429', hint = 'Wait until one has ended, or cancel one with cancel_job(kind, id).';
  end if;
end $_$;

COMMENT ON FUNCTION worker.check_open_jobs(p_owner_id uuid) IS 'Raise PT429 (HTTP 429) when the owner has too many open jobs.';

CREATE FUNCTION worker.complete_job(p_kind text, p_id uuid, p_attempt integer, p_result jsonb, p_gpu_seconds double precision DEFAULT 0) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '4s'
    AS $$
declare
  v_job jsonb;
  v_error text;
  v_result jsonb := p_result;
begin
  -- Two holders of FOR SHARE that both update would deadlock; this lock also makes a revocation wait, or be waited for.
  perform from public.subjects
  where id in (select subject_id from worker.job_subjects where kind = p_kind and job_id = p_id)
  order by id for no key update;
  v_job := worker.lock_job(p_kind, p_id);
  if v_job ->> 'status' = 'completed' and (v_job ->> 'attempt')::integer = p_attempt then
    return 'ok';  -- the first reply was lost
  elsif v_job is null or v_job ->> 'status' <> 'running' or (v_job ->> 'attempt')::integer is distinct from p_attempt then
    return 'lost';
  elsif v_job ->> 'cancel_requested_at' is not null then
    return worker.settle_stopped(p_kind, v_job, p_gpu_seconds);
  end if;
  -- A statement of its own, after the lock: a revocation that committed while we waited is seen.
  v_error := worker.job_consent_error(p_kind, p_id);
  if v_error is not null then
    perform worker.settle(p_kind, v_job, 'failed', 'consent_denied', v_error, p_gpu_seconds);
    return 'consent_denied';
  end if;
  if worker.result_error(p_kind, v_job, p_result) is not null then
    return 'invalid';
  end if;
  update worker.staged_objects set state = 'published'
  where kind = p_kind and job_id = p_id and attempt = p_attempt and state = 'staged'
    and key in (select worker.result_keys(p_kind, p_result));
  if p_kind = 'training' then
    v_result := v_result || jsonb_build_object('model_id', worker.publish_training(v_job, p_result));
  end if;
  perform worker.settle(p_kind, v_job, 'completed', null, null, p_gpu_seconds, v_result);
  return 'ok';
end $$;

COMMENT ON FUNCTION worker.complete_job(p_kind text, p_id uuid, p_attempt integer, p_result jsonb, p_gpu_seconds double precision) IS 'Publish the result of an attempt, if it still holds the job and everybody in it still agrees.';

CREATE FUNCTION worker.consent_error(p_subject_id uuid, p_purpose text) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_subject public.subjects;
begin
  select * into v_subject from public.subjects where id = p_subject_id;
  return case
    when v_subject.id is null then 'the person is unknown'
    when v_subject.erased_at is not null then 'the person''s data was erased'
    when not v_subject.subject_is_adult then 'the person is not stated to be an adult'
    when v_subject.consent_status = 'pending' then 'the person has not agreed yet: consent is pending'
    when v_subject.consent_status = 'rejected' then 'the person did not agree: consent was rejected'
    when v_subject.consent_expires_at <= clock_timestamp() then 'the person''s consent has expired'
    when v_subject.consent_status = 'revoked' then 'the person took consent back: it was revoked'
    when v_subject.owner_id is null then 'the account that held the person''s consent is gone'
    when p_purpose is null or p_purpose <> all (v_subject.consent_purposes) then
      format('the person has not agreed to %s, only to %s', coalesce(p_purpose, 'this'),
             array_to_string(v_subject.consent_purposes, ' and '))
  end;
end $$;

COMMENT ON FUNCTION worker.consent_error(p_subject_id uuid, p_purpose text) IS 'NULL when the person may be used for the purpose, else why not. Call it in a later statement than the lock.';

CREATE FUNCTION worker.count_jobs(p_owner_id uuid, p_condition text) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_table text;
  v_count bigint;
  v_total bigint := 0;
begin
  for v_table in select distinct table_name from worker.job_kinds where table_name like 'public.%' loop
    execute format('select count(*) from %s where owner_id = $1 and %s', v_table, p_condition) into v_count using p_owner_id;
    v_total := v_total + v_count;
  end loop;
  return v_total;
end $_$;

COMMENT ON FUNCTION worker.count_jobs(p_owner_id uuid, p_condition text) IS 'How many jobs of an owner meet a condition.';

CREATE FUNCTION worker.default_base(p_kind text, p_job jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select coalesce(
    case when p_kind = 'generation' then (
      select models.base from public.subjects_models models
      where case when cardinality(array(select worker.items(p_job, 'model_ids'))) > 0
                 then models.id in (select worker.items(p_job, 'model_ids')::uuid)
                 else models.subject_id = (p_job ->> 'subject_id')::uuid and models.retired_at is null end
      order by models.created_at desc limit 1)
    end,
    (select default_base from worker.config))
$$;

COMMENT ON FUNCTION worker.default_base(p_kind text, p_job jsonb) IS 'The base a job runs on when it names none.';

CREATE FUNCTION worker.dequeue_row(p_kind text, p_id uuid, p_status worker.pgqueuer_status) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  with gone as (
    delete from worker.pgqueuer where dedupe_key = p_kind || ':' || p_id returning id, entrypoint, priority
  )
  insert into worker.pgqueuer_log (job_id, status, entrypoint, priority)
  select id, p_status, entrypoint, priority from gone
$$;

COMMENT ON FUNCTION worker.dequeue_row(p_kind text, p_id uuid, p_status worker.pgqueuer_status) IS 'Take an ended job off the queue and log how it ended.';

CREATE FUNCTION worker.end_attempt(p_kind text, p_id uuid, p_attempt integer, p_job_ended boolean) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  update worker.staged_objects set state = 'deleting', offer_after = clock_timestamp()
  where kind = p_kind and job_id = p_id
    and ((attempt = p_attempt and state = 'staged') or (p_job_ended and state in ('staged', 'checkpoint')))
$$;

COMMENT ON FUNCTION worker.end_attempt(p_kind text, p_id uuid, p_attempt integer, p_job_ended boolean) IS 'What an ended attempt staged and did not publish becomes garbage.';

CREATE FUNCTION worker.enqueue(p_kind text, p_job jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  with queued as (
    insert into worker.pgqueuer (priority, execute_after, status, entrypoint, dedupe_key, payload)
    values ((p_job ->> 'priority')::integer * 1000, coalesce((p_job ->> 'run_after')::timestamptz, now()), 'queued',
            worker.route(p_kind, p_job), p_kind || ':' || (p_job ->> 'id'), convert_to(p_job ->> 'id', 'UTF8'))
    on conflict (dedupe_key) where status in ('queued', 'picked') and dedupe_key is not null do nothing
    returning id, entrypoint, priority
  )
  insert into worker.pgqueuer_log (job_id, status, entrypoint, priority)
  select id, 'queued', entrypoint, priority from queued;
end $$;

COMMENT ON FUNCTION worker.enqueue(p_kind text, p_job jsonb) IS 'Put a job on the queue, once.';

CREATE FUNCTION worker.ensure_policy(p_name text, p_table text, p_command text, p_role text, p_using text DEFAULT NULL::text, p_check text DEFAULT NULL::text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_definition text := concat_ws(' / ', p_command, p_role, p_using, p_check);
  v_catalog text := worker.policy_in_catalog(p_name, p_table);
begin
  if v_catalog is not null and exists (
    select from worker.policies
    where schema_name || '.' || table_name = p_table and policy_name = p_name
      and definition = v_definition and catalog_definition = v_catalog) then
    return false;
  end if;
  execute format('drop policy if exists %I on %s', p_name, p_table);
  execute format('create policy %I on %s for %s to %s', p_name, p_table, p_command, p_role)
    || coalesce(' using (' || p_using || ')', '') || coalesce(' with check (' || p_check || ')', '');
  insert into worker.policies (schema_name, table_name, policy_name, definition, catalog_definition)
  values (split_part(p_table, '.', 1), split_part(p_table, '.', 2), p_name, v_definition, worker.policy_in_catalog(p_name, p_table))
  on conflict (schema_name, table_name, policy_name)
  do update set definition = excluded.definition, catalog_definition = excluded.catalog_definition;
  return true;
end $$;

COMMENT ON FUNCTION worker.ensure_policy(p_name text, p_table text, p_command text, p_role text, p_using text, p_check text) IS 'Make a policy unless it is there just as written.';

CREATE FUNCTION worker.expire_consent() RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_count integer;
begin
  perform set_config('worker.changing_consent', 'yes', true);
  with due as (
    select id from public.subjects
    where consent_status = 'approved' and consent_expires_at <= clock_timestamp() order by id for update skip locked
  ), ended as (
    update public.subjects set consent_status = 'revoked', consent_purposes = '{}'
    from due where subjects.id = due.id returning subjects.id, subjects.consent_expires_at
  )
  insert into worker.consent_events (subject_id, event, expires_at, actor)
  select id, 'expiry', consent_expires_at, worker.actor() from ended order by id;
  get diagnostics v_count = row_count;
  perform set_config('worker.changing_consent', '', true);
  return v_count;
end $$;

COMMENT ON FUNCTION worker.expire_consent() IS 'End every consent whose time is up.';

CREATE TABLE worker.job_kinds (
    kind text NOT NULL,
    table_name text NOT NULL,
    purpose text,
    subject_required boolean NOT NULL,
    slot text NOT NULL,
    max_runtime interval NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    CONSTRAINT job_kinds_kind_is_a_word CHECK ((kind ~ '^[a-z][a-z_]{1,30}$'::text)),
    CONSTRAINT job_kinds_purpose_is_known CHECK ((purpose = ANY (ARRAY['training'::text, 'generation'::text]))),
    CONSTRAINT job_kinds_slot_is_known CHECK ((slot = ANY (ARRAY['gpu'::text, 'light'::text])))
);

COMMENT ON TABLE worker.job_kinds IS 'The kinds of job; purpose NULL means that no consent is needed. paused: nothing of the kind is started.';

COMMENT ON COLUMN worker.job_kinds.kind IS 'What cancel_job, retry_job and WORKER_KINDS call it.';

COMMENT ON COLUMN worker.job_kinds.table_name IS 'Where requests of the kind are inserted.';

COMMENT ON COLUMN worker.job_kinds.purpose IS 'What every person in the job must have agreed to; NULL: no consent is needed.';

COMMENT ON COLUMN worker.job_kinds.subject_required IS 'Whether a request without subject_id is refused.';

COMMENT ON COLUMN worker.job_kinds.slot IS 'gpu: one at a time on a pod; light: beside the GPU''s work.';

COMMENT ON COLUMN worker.job_kinds.max_runtime IS 'The limit of an attempt whose request names none.';

COMMENT ON COLUMN worker.job_kinds.paused IS 'Nothing of the kind is started; what runs goes on.';

CREATE FUNCTION worker.explain_waiting(p_kind worker.job_kinds) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_pods_live boolean := exists (select from worker.pods where worker.is_alive(pods));
  v_gone boolean;
  v_route text;
  v_phase text;
  v_job_id uuid;
  v_job jsonb;
begin
  for v_route, v_phase in
    select entrypoint, 'waiting: no live pod can take this: ' || worker.why_stranded(entrypoint)
    from (select distinct entrypoint from worker.pgqueuer where status = 'queued' and split_part(entrypoint, '/', 1) = p_kind.kind) waiting
  loop
    if v_phase is null then
      execute format(
        'update %1$s set phase = ''waiting'' where id in (
           select job.id from %1$s job where status = ''queued'' and phase like ''waiting: no live pod can take this: %%''
             and worker.route($1, to_jsonb(job)) = $2 order by job.id for update skip locked)', p_kind.table_name) using p_kind.kind, v_route;
      continue;
    end if;
    v_gone := v_pods_live and not exists (select from worker.pods where v_route = any (routes));
    for v_job_id in execute format(
      'select job.id from worker.pgqueuer queue join %s job on job.id = split_part(queue.dedupe_key, '':'', 2)::uuid
       where queue.status = ''queued'' and queue.entrypoint = $1 and job.status = ''queued''
         and ($3 and job.error_code in (''model_missing'', ''out_of_memory'') or job.phase is distinct from $2)
       order by job.id limit 500', p_kind.table_name)
      using v_route, v_phase, v_gone
    loop
      v_job := worker.try_lock_job(p_kind.kind, v_job_id);
      continue when v_job is null or v_job ->> 'status' <> 'queued';
      if v_gone and v_job ->> 'error_code' in ('model_missing', 'out_of_memory') then
        perform worker.settle(p_kind.kind, v_job, 'failed', v_job ->> 'error_code', v_job ->> 'error');
      else
        execute format('update %s set phase = $2 where id = $1', p_kind.table_name) using v_job_id, v_phase;
      end if;
    end loop;
  end loop;
end $_$;

COMMENT ON FUNCTION worker.explain_waiting(p_kind worker.job_kinds) IS 'Say in phase that no live pod can take a job, and why.';

CREATE FUNCTION worker.fail_job(p_kind text, p_id uuid, p_attempt integer, p_code text, p_error text, p_retry_after interval DEFAULT NULL::interval, p_gpu_seconds double precision DEFAULT 0) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '4s'
    AS $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
begin
  if v_job is null then
    return 'lost';
  end if;
  return worker.charge_failure(p_kind, v_job, p_code, left(p_error, 2000),
    coalesce(p_retry_after, worker.backoff((v_job ->> 'failures')::integer + 1)), p_gpu_seconds);
end $$;

COMMENT ON FUNCTION worker.fail_job(p_kind text, p_id uuid, p_attempt integer, p_code text, p_error text, p_retry_after interval, p_gpu_seconds double precision) IS 'An attempt ended badly: queued again after a while, or failed. Answers queued, failed, cancelled, consent_denied or lost.';

CREATE TABLE worker.prompt_folding (
    singleton boolean DEFAULT true NOT NULL,
    ignored text NOT NULL,
    look_alikes text NOT NULL,
    letters text NOT NULL,
    symbols text NOT NULL,
    signs text NOT NULL,
    sign_letters text NOT NULL,
    i_or_l text NOT NULL,
    longest_phrase integer NOT NULL,
    larger_numbers text NOT NULL,
    numbers text NOT NULL,
    innocent_ages text NOT NULL,
    ages text NOT NULL,
    age_rule_id text NOT NULL,
    CONSTRAINT prompt_folding_is_one_row CHECK (singleton)
);

COMMENT ON TABLE worker.prompt_folding IS 'One row: what is taken away from a text before it is compared, and how ages are written.';

COMMENT ON COLUMN worker.prompt_folding.singleton IS 'There is one row.';

COMMENT ON COLUMN worker.prompt_folding.ignored IS 'A set of a regular expression: combining marks, invisible characters, apostrophes.';

COMMENT ON COLUMN worker.prompt_folding.look_alikes IS 'Upper case, and characters that look like a letter. Common ones that stay come first: that is faster.';

COMMENT ON COLUMN worker.prompt_folding.letters IS 'The letter of each of look_alikes.';

COMMENT ON COLUMN worker.prompt_folding.symbols IS 'What may be part of a word beside letters and digits.';

COMMENT ON COLUMN worker.prompt_folding.signs IS 'Digits and symbols that stand for one letter each.';

COMMENT ON COLUMN worker.prompt_folding.sign_letters IS 'The letter of each of signs.';

COMMENT ON COLUMN worker.prompt_folding.i_or_l IS 'Signs that stand for i or for l.';

COMMENT ON COLUMN worker.prompt_folding.longest_phrase IS 'Pieces of the longest innocent phrase.';

COMMENT ON COLUMN worker.prompt_folding.larger_numbers IS 'A regular expression: numbers that end in a small one, such as twenty one, and those that only count.';

COMMENT ON COLUMN worker.prompt_folding.numbers IS 'A regular expression: numbers below 18. They are written N then.';

COMMENT ON COLUMN worker.prompt_folding.innocent_ages IS 'A regular expression: what is taken out before ages are looked for.';

COMMENT ON COLUMN worker.prompt_folding.ages IS 'A regular expression: where N is somebody''s age.';

COMMENT ON COLUMN worker.prompt_folding.age_rule_id IS 'The rule that such an age breaks.';

CREATE FUNCTION worker.finds_age(p_reading text, p_edge text, p_folding worker.prompt_folding) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_text text;
begin
  v_text := regexp_replace(p_reading, p_edge || '(?:' || p_folding.larger_numbers || ')' || p_edge, '', 'g');
  v_text := regexp_replace(v_text, '(?<![0-9])' || p_edge || '(?:' || p_folding.numbers || ')' || p_edge || '(?![0-9])', 'N', 'g');
  -- Spelled words have lost their punctuation, where what is innocent ends.
  return v_text ~ (p_edge || '(?:' || p_folding.ages || ')' || p_edge)
    and (p_edge = '' or regexp_replace(v_text, p_edge || '(?:' || p_folding.innocent_ages || ')' || p_edge, '', 'g') ~ (p_edge || '(?:' || p_folding.ages || ')' || p_edge));
end $$;

COMMENT ON FUNCTION worker.finds_age(p_reading text, p_edge text, p_folding worker.prompt_folding) IS 'Whether the age patterns are found between two edges: of words, or anywhere.';

CREATE FUNCTION worker.fits_memory(p_needed_gib double precision, p_vram_gib double precision) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select p_needed_gib <= coalesce(p_vram_gib, 0) * 1.1 $$;

COMMENT ON FUNCTION worker.fits_memory(p_needed_gib double precision, p_vram_gib double precision) IS 'Whether a base that needs so much GPU memory may run on a pod with so much; NULL is a CPU.';

CREATE FUNCTION worker.fn_pgqueuer_changed() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  perform pg_catalog.pg_notify('likeness_queue', '');
  return null;
end $$;

COMMENT ON FUNCTION worker.fn_pgqueuer_changed() IS 'Something may have become claimable: wake the pods.';

CREATE FUNCTION worker.fold_breaks(p_text text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select btrim(regexp_replace(p_text, '(?: ,|, )[, ]*', ', ', 'g'), ' ,')
$$;

COMMENT ON FUNCTION worker.fold_breaks(p_text text) IS 'Punctuation that does not touch both sides as ", ", and none at the ends.';

CREATE FUNCTION worker.fold_prompt(p_text text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_folding worker.prompt_folding;
  v_text text;
begin
  select * into v_folding from worker.prompt_folding;
  -- Looks come first: NFKD makes a sigma of what looks like a c (U+03F2).
  v_text := regexp_replace(p_text, '(?<=[a-z])I|(?<=[A-Z])l(?=[A-Z])', '|', 'g');  -- "chiId", "CHlLD"
  v_text := normalize(translate(v_text, v_folding.look_alikes, v_folding.letters), NFKD);
  v_text := translate(regexp_replace(v_text, v_folding.ignored, '', 'g'), v_folding.look_alikes, v_folding.letters);
  v_text := regexp_replace(v_text, '[-_ \t\n\r\f\v\u2010-\u2015]+', ' ', 'g');
  return worker.fold_breaks(regexp_replace(v_text, '[^a-z0-9 ' || v_folding.symbols || ']+', ',', 'g'));
end $$;

COMMENT ON FUNCTION worker.fold_prompt(p_text text) IS 'Lower-case letters, digits and the symbols that stand for letters. Between words stands one space, "," for punctuation that touches both sides, and ", " for other punctuation.';

CREATE FUNCTION worker.garbage_gone(p_ids bigint[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  delete from worker.staged_objects where id = any (p_ids) and state = 'deleting' and deletions >= 3;
  update worker.staged_objects
  set deletions = deletions + 1,
      offer_after = clock_timestamp() + (array['15 minutes', '1 hour', '1 day']::interval[])[deletions + 1]
  where id = any (p_ids) and state = 'deleting';
$$;

COMMENT ON FUNCTION worker.garbage_gone(p_ids bigint[]) IS 'These objects were deleted in storage.';

CREATE FUNCTION worker.give_back(p_pod_id uuid, p_unnamed_for interval, p_named text[], p_reason text) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_row record;
  v_job jsonb;
  v_count integer := 0;
begin
  for v_row in
    select dedupe_key, split_part(dedupe_key, ':', 1) as kind, split_part(dedupe_key, ':', 2)::uuid as job_id
    from worker.pgqueuer
    where queue_manager_id = p_pod_id and status = 'picked' and dedupe_key <> all (p_named)
      and heartbeat <= clock_timestamp() - p_unnamed_for
    order by 2, 3
  loop
    v_job := worker.try_lock_job(v_row.kind, v_row.job_id);
    -- Look again now that the job is locked: it may have ended meanwhile.
    continue when v_job is null or not exists (
      select from worker.pgqueuer where dedupe_key = v_row.dedupe_key and queue_manager_id = p_pod_id and status = 'picked');
    -- What a dead pod ran is the reaper's, who charges it, also when it could not lock the job a moment ago.
    continue when v_job ->> 'status' = 'running' and not exists (select from worker.pods where id = p_pod_id);
    v_count := v_count + 1;
    if v_job ->> 'status' not in ('queued', 'running') then
      perform worker.dequeue_row(v_row.kind, v_row.job_id, 'canceled');
    elsif v_job ->> 'cancel_requested_at' is not null then
      perform worker.settle_stopped(v_row.kind, v_job);
    else
      perform worker.requeue(v_row.kind, v_job, 0, interval '0', null, null, p_reason);
    end if;
  end loop;
  return v_count;
end $$;

COMMENT ON FUNCTION worker.give_back(p_pod_id uuid, p_unnamed_for interval, p_named text[], p_reason text) IS 'Give back, uncharged, what a pod holds and has not named for a while.';

CREATE FUNCTION worker.grant_consent_as_owner(p_subject_id uuid, p_purposes text[], p_expires_at timestamp with time zone, p_evidence text, p_confirmed boolean, p_adult boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if (select consent_mode from worker.config) <> 'owner_attests' then
    raise exception 'consent is granted by an administrator here'
      using errcode = '42501', hint = 'worker.config.consent_mode is admin.';
  elsif not exists (select from public.subjects where id = p_subject_id and owner_id = auth.uid()) then
    raise exception 'no such subject of yours' using errcode = '42501';
  elsif exists (select from public.subjects where id = p_subject_id and consent_status = 'rejected') then
    raise exception 'an administrator noted that the person did not agree' using errcode = '42501';
  elsif p_confirmed is not true or p_adult is not true then
    raise exception 'state both: confirmed => true (the person agreed) and adult => true (the person is an adult)'
      using errcode = '22023';
  end if;
  perform worker.grant_consent_as_service(p_subject_id, p_purposes, p_expires_at, p_evidence, p_confirmed, p_adult);
end $$;

COMMENT ON FUNCTION worker.grant_consent_as_owner(p_subject_id uuid, p_purposes text[], p_expires_at timestamp with time zone, p_evidence text, p_confirmed boolean, p_adult boolean) IS 'Record that a person agreed, attested by the subject''s owner (consent_mode owner_attests).';

CREATE FUNCTION worker.grant_consent_as_service(p_subject_id uuid, p_purposes text[], p_expires_at timestamp with time zone, p_evidence text, p_confirmed boolean, p_adult boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_subject public.subjects;
begin
  perform worker.check_grant(p_purposes, p_expires_at);
  select * into v_subject from public.subjects where id = p_subject_id for update;
  if v_subject.id is null then
    raise exception 'no subject %', p_subject_id using errcode = '42501';
  elsif v_subject.erased_at is not null then
    raise exception 'subject % was erased; make a new one', p_subject_id using errcode = '22023';
  elsif not (v_subject.subject_is_adult or coalesce(p_adult, false)) then
    raise exception 'subject % is not stated to be an adult', p_subject_id
      using errcode = '22023', hint = 'Only adults can agree: grant_consent(…, adult => true) states it.';
  end if;
  perform worker.set_consent(p_subject_id, 'approved', p_purposes, p_expires_at, p_adult, 'grant', null, p_evidence);
end $$;

COMMENT ON FUNCTION worker.grant_consent_as_service(p_subject_id uuid, p_purposes text[], p_expires_at timestamp with time zone, p_evidence text, p_confirmed boolean, p_adult boolean) IS 'Record that a person agreed, as the administrator of the app.';

CREATE FUNCTION worker.grant_job_table(p_table text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION worker.grant_job_table(p_table text) IS 'Clients insert requests; the life cycle is the functions'' alone.';

CREATE FUNCTION worker.heartbeat(p_pod_id uuid, p_leases jsonb) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_last timestamptz;
  v_known boolean;
  v_lease jsonb;
  v_states jsonb := '[]';
  v_named text[] := array(select (lease ->> 'kind') || ':' || (lease ->> 'id') from jsonb_array_elements(p_leases) lease);
begin
  select last_heartbeat into v_last from worker.pods where id = p_pod_id for update;
  v_known := found;
  update worker.pods set last_heartbeat = clock_timestamp(), lock_free_since = null where id = p_pod_id;
  for v_lease in select value from jsonb_array_elements(p_leases) loop
    v_states := v_states || (v_lease || jsonb_build_object('state', worker.held_state(p_pod_id, v_lease)));
  end loop;
  -- A claim whose reply was lost is named by nobody: without this it would be kept alive for ever.
  perform worker.give_back(p_pod_id, interval '30 seconds', v_named, 'given back: its pod did not know of it');
  update worker.pgqueuer set heartbeat = clock_timestamp()
  where queue_manager_id = p_pod_id and status = 'picked' and dedupe_key = any (v_named);
  return jsonb_build_object(
    'known', v_known, 'leases', v_states, 'tick', worker.is_ticker(p_pod_id),
    -- a minute of overlap, because an event is stamped before it is committed
    'ended_subjects', (select coalesce(jsonb_agg(distinct subject_id), '[]') from worker.consent_events
                       where event in ('revoke', 'expiry', 'reject', 'erasure') and at > coalesce(v_last, clock_timestamp()) - interval '1 minute'));
end $$;

COMMENT ON FUNCTION worker.heartbeat(p_pod_id uuid, p_leases jsonb) IS 'A pod is alive and names its leases; answers the state of each, whose consent ended, and whether to tick.';

CREATE FUNCTION worker.held_state(p_pod_id uuid, p_lease jsonb) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_job jsonb;
begin
  if p_lease ->> 'attempt' is null then
    return case when exists (
      select from worker.pgqueuer where dedupe_key = (p_lease ->> 'kind') || ':' || (p_lease ->> 'id')
        and queue_manager_id = p_pod_id and status = 'picked') then 'ok' else 'lost' end;
  end if;
  execute format('select to_jsonb(job) from %s job where id = $1 and status = ''running'' and attempt = $2', worker.table_of(p_lease ->> 'kind'))
    into v_job using (p_lease ->> 'id')::uuid, (p_lease ->> 'attempt')::integer;
  return worker.lease_state(v_job);
end $_$;

COMMENT ON FUNCTION worker.held_state(p_pod_id uuid, p_lease jsonb) IS 'The state of a lease, or of a claim not yet started.';

CREATE FUNCTION worker.inputs_error(p_kind text, p_job jsonb) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_error text := worker.request_error(p_kind, p_job);
begin
  if v_error is not null then
    return array['invalid_input', v_error];
  elsif p_kind = 'training' and worker.photos_error(p_job) is not null then
    return array['input_missing', worker.photos_error(p_job)];
  elsif p_kind = 'training' and jsonb_array_length(worker.photos_of(p_job)) > 200 then
    return array['invalid_input', 'training takes at most 200 photographs: name the best in sample_paths'];
  elsif p_kind = 'generation' and p_job ->> 'subject_id' is not null
        and coalesce(jsonb_typeof(p_job -> 'model_ids'), 'null') = 'null' and worker.models_of(p_job) = '[]' then
    return array['input_missing', format('the subject has no trained LoRA for %s yet: insert into training_jobs first', p_job ->> 'base')];
  end if;
  return null;
end $$;

COMMENT ON FUNCTION worker.inputs_error(p_kind text, p_job jsonb) IS 'Why a job cannot be done although nobody objects: code and message, or NULL.';

CREATE TABLE worker.pods (
    id uuid NOT NULL,
    name text NOT NULL,
    routes text[] NOT NULL,
    vram_gib real,
    models_present text[] DEFAULT '{}'::text[] NOT NULL,
    has_lock boolean NOT NULL,
    version text NOT NULL,
    registered_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    last_heartbeat timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    lock_free_since timestamp with time zone
);

COMMENT ON TABLE worker.pods IS 'Live worker processes. A row goes when its pod leaves or is held for dead.';

COMMENT ON COLUMN worker.pods.id IS 'Made anew by each process.';

COMMENT ON COLUMN worker.pods.name IS 'WORKER_NAME of the pod.';

COMMENT ON COLUMN worker.pods.routes IS 'What it takes now: kind/base, or the kind alone.';

COMMENT ON COLUMN worker.pods.vram_gib IS 'Memory of its GPU; NULL on a CPU.';

COMMENT ON COLUMN worker.pods.models_present IS 'Models within its reach: on its disk or in the bucket.';

COMMENT ON COLUMN worker.pods.has_lock IS 'Whether its session connection holds the advisory lock that says it lives.';

COMMENT ON COLUMN worker.pods.version IS 'The release of the worker.';

COMMENT ON COLUMN worker.pods.registered_at IS 'When it came.';

COMMENT ON COLUMN worker.pods.last_heartbeat IS 'A pod that is silent for 30 s is held for dead.';

COMMENT ON COLUMN worker.pods.lock_free_since IS 'Since when nobody holds its lock; 1.5 s later it is held for dead, unless a heartbeat came.';

CREATE FUNCTION worker.is_alive(p_pod worker.pods) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select p_pod.last_heartbeat > statement_timestamp() - interval '30 seconds' $$;

COMMENT ON FUNCTION worker.is_alive(p_pod worker.pods) IS 'Whether a pod was heard of within the last 30 s.';

CREATE FUNCTION worker.is_allowed(p_pieces text[], p_first integer, p_last integer, p_screens text) RETURNS boolean
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select exists (
    select from worker.prompt_folding
    cross join generate_series(greatest(1, p_last - longest_phrase + 1), p_first) begins
    cross join generate_series(p_last, least(cardinality(p_pieces), begins + longest_phrase - 1)) ends
    -- One at a time, by the index: a join goes through the whole list where Postgres doesn't know yet how long it is.
    cross join lateral (
      select from worker.allowed_phrases
      where screens = p_screens and phrase = ltrim(array_to_string(p_pieces[begins : ends], ''), ' ,') limit 1) allowed)
$$;

COMMENT ON FUNCTION worker.is_allowed(p_pieces text[], p_first integer, p_last integer, p_screens text) IS 'Whether an innocent phrase covers these pieces of a text.';

CREATE FUNCTION worker.is_dead(p_pod worker.pods, p_grace_from timestamp with time zone) RETURNS boolean
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select (p_pod.has_lock and p_pod.lock_free_since < clock_timestamp() - interval '1.5 seconds')
      or greatest(p_pod.last_heartbeat, p_grace_from) < clock_timestamp() - interval '30 seconds'
$$;

COMMENT ON FUNCTION worker.is_dead(p_pod worker.pods, p_grace_from timestamp with time zone) IS 'Whether a pod is held for dead.';

CREATE FUNCTION worker.is_ticker(p_pod_id uuid) RETURNS boolean
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select p_pod_id in (
    select id from worker.pods
    where last_heartbeat > clock_timestamp() - interval '20 seconds' and lock_free_since is null
      and not (has_lock and worker.lock_is_free(id))
    order by registered_at, id limit 2)
$$;

COMMENT ON FUNCTION worker.is_ticker(p_pod_id uuid) IS 'Whether this pod is one of the two longest-living ones, which tick.';

CREATE FUNCTION worker.is_whole(p_folded text, p_start integer, p_words text, p_is_phrase boolean) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
  select left(p_folded, p_start - 1) !~ case when p_words ~ '[0-9]' then '[a-z][0-9]*$' else '[a-z]$' end
    and substr(p_folded, p_start + length(p_words)) !~ case when p_words ~ '[0-9]' then '^[0-9]*[a-z]' else '^[a-z]' end
    and (p_words !~ '(^|[ ,])[^a-z ,]+([ ,]|$)' and (p_is_phrase or strpos(p_words, ', ') = 0) or p_words ~ '^[^ ,]([ ,]+[^ ,])*$')
$_$;

COMMENT ON FUNCTION worker.is_whole(p_folded text, p_start integer, p_words text, p_is_phrase boolean) IS 'Whether a stretch of a folded text is a word or phrase of its own, perhaps in a disguise.';

CREATE FUNCTION worker.items(p_job jsonb, p_column text) RETURNS SETOF text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select value from jsonb_array_elements_text(
    case when jsonb_typeof(p_job -> p_column) = 'array' then p_job -> p_column else '[]' end)
$$;

COMMENT ON FUNCTION worker.items(p_job jsonb, p_column text) IS 'An array column of a job''s row as a set.';

CREATE FUNCTION worker.job_consent_error(p_kind text, p_job_id uuid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select worker.consent_error(touched.subject_id, kinds.purpose)
  from worker.job_subjects touched
  join worker.job_kinds kinds on kinds.kind = touched.kind and kinds.purpose is not null
  where touched.kind = p_kind and touched.job_id = p_job_id
    and worker.consent_error(touched.subject_id, kinds.purpose) is not null
  order by touched.subject_id
  limit 1
$$;

COMMENT ON FUNCTION worker.job_consent_error(p_kind text, p_job_id uuid) IS 'The first objection of any person that a job touches, or NULL.';

CREATE FUNCTION worker.key_error(p_owner_id uuid, p_key text, p_inputs_allowed boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_parts text[] := string_to_array(p_key, '/');
begin
  if p_key is null or length(p_key) > 900 or p_key !~ '^[A-Za-z0-9._ ()+@=,-]+(/[A-Za-z0-9._ ()+@=,-]+){3,}$' or '..' = any (v_parts) or '.' = any (v_parts) then
    return 'is not a plain key such as {owner_id}/{subject_id}/photos/1.jpg';
  elsif p_owner_id is null or v_parts[1] <> p_owner_id::text then
    return 'must begin with the owner''s id';
  elsif v_parts[3] = 'generated' and not exists (
    select from worker.staged_objects
    where bucket = (select bucket_uploads from worker.config) and key = p_key and owner_id = p_owner_id and state = 'published') then
    -- Else a key could name another owner's job, and its answer would tell of those people's consent.
    return 'is no picture of a completed job of this owner';
  elsif v_parts[2] = '_' then
    if p_inputs_allowed and v_parts[3] in ('inputs', 'generated') then
      return null;
    end if;
    return 'must lie under a subject: pictures of people always need one';
  elsif not exists (select from public.subjects where id = worker.key_subject(p_key) and owner_id = p_owner_id) then
    return 'must lie under {owner_id}/{subject_id}/ of a subject of the same owner';
  end if;
  return null;
end $_$;

COMMENT ON FUNCTION worker.key_error(p_owner_id uuid, p_key text, p_inputs_allowed boolean) IS 'NULL when the owner may name this object key, else why not.';

CREATE FUNCTION worker.key_subject(p_key text) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select substring(p_key from '^[^/]+/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})/')::uuid $$;

COMMENT ON FUNCTION worker.key_subject(p_key text) IS 'The subject that a key lies under, or NULL.';

CREATE FUNCTION worker.keys_error(p_job jsonb) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_owner_id uuid := (p_job ->> 'owner_id')::uuid;
  v_key text;
  v_error text;
begin
  for v_key in select worker.items(p_job, 'sample_paths') loop
    -- A LoRA belongs to one person, so it learns from that person's photographs alone.
    v_error := worker.key_error(v_owner_id, v_key, false);
    if v_error is null and v_key not like format('%s/%s/photos/%%', v_owner_id, p_job ->> 'subject_id') then
      v_error := 'must lie under {owner_id}/{subject_id}/photos/ of the job''s own subject';
    end if;
    if v_error is not null then
      return format('sample_paths: %s %s', quote_literal(left(v_key, 200)), v_error);
    end if;
  end loop;
  for v_key in select worker.items(p_job, 'reference_paths') loop
    v_error := worker.key_error(v_owner_id, v_key, false);
    if v_error is not null then
      return format('reference_paths: %s %s', quote_literal(left(v_key, 200)), v_error);
    end if;
  end loop;
  if p_job ->> 'control_path' is not null then
    v_error := worker.key_error(v_owner_id, p_job ->> 'control_path', true);
    if v_error is not null then
      return format('control_path: %s %s', quote_literal(left(p_job ->> 'control_path', 200)), v_error);
    end if;
  end if;
  return null;
end $$;

COMMENT ON FUNCTION worker.keys_error(p_job jsonb) IS 'Why the object keys a job names may not be used, or NULL.';

CREATE FUNCTION worker.lease_state(p_job jsonb) RETURNS text
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case
    when p_job is null then 'lost'
    when p_job ->> 'cancel_requested_at' is not null then 'cancel'
    when (p_job ->> 'started_at')::timestamptz + (p_job ->> 'max_runtime')::interval < clock_timestamp() then 'timeout'
    else 'ok'
  end
$$;

COMMENT ON FUNCTION worker.lease_state(p_job jsonb) IS 'ok, cancel, timeout or lost: what the pod should do about a running job.';

CREATE FUNCTION worker.leave_pod(p_pod_id uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  -- The pod before its jobs, as in heartbeat and reap.
  perform from worker.pods where id = p_pod_id for update;
  -- Wait for each job, in order, so that none is left behind to be charged by the reaper.
  perform worker.lock_job(kind, job_id) from (
    select split_part(dedupe_key, ':', 1) as kind, split_part(dedupe_key, ':', 2)::uuid as job_id
    from worker.pgqueuer where queue_manager_id = p_pod_id and status = 'picked' order by 1, 2) held;
  perform worker.give_back(p_pod_id, interval '0', '{}', 'given back: its pod left');
  delete from worker.pods where id = p_pod_id;
end $$;

COMMENT ON FUNCTION worker.leave_pod(p_pod_id uuid) IS 'A pod says goodbye: what it still holds goes back, uncharged.';

CREATE FUNCTION worker.lock_is_free(p_pod_id uuid) RETURNS boolean
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select not exists (
    select from pg_catalog.pg_locks
    where locktype = 'advisory' and granted and objsubid = 1
      and database = (select oid from pg_catalog.pg_database where datname = current_database())
      and (classid::bigint << 32 | objid::bigint) = worker.pod_lock_key(p_pod_id))
$$;

COMMENT ON FUNCTION worker.lock_is_free(p_pod_id uuid) IS 'Whether nobody holds a pod''s advisory lock.';

CREATE FUNCTION worker.lock_job(p_kind text, p_id uuid) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_job jsonb;
begin
  execute format('select to_jsonb(job) from %s job where id = $1 for update', worker.table_of(p_kind)) into v_job using p_id;
  return v_job;
end $_$;

COMMENT ON FUNCTION worker.lock_job(p_kind text, p_id uuid) IS 'Lock a job and return its row, NULL when there is none.';

CREATE FUNCTION worker.lock_lease(p_kind text, p_id uuid, p_attempt integer) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_job jsonb := worker.lock_job(p_kind, p_id);
begin
  if v_job ->> 'status' = 'running' and (v_job ->> 'attempt')::integer = p_attempt then
    return v_job;
  end if;
  return null;
end $$;

COMMENT ON FUNCTION worker.lock_lease(p_kind text, p_id uuid, p_attempt integer) IS 'Lock a job and return its row, NULL unless this attempt is the one that runs: the fence.';

CREATE FUNCTION worker.log_event(p_kind text, p_id uuid, p_attempt integer, p_event text, p_detail jsonb DEFAULT '{}'::jsonb) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  insert into worker.job_events (kind, job_id, attempt, event, detail)
  values (p_kind, p_id, p_attempt, p_event, jsonb_strip_nulls(p_detail))
$$;

COMMENT ON FUNCTION worker.log_event(p_kind text, p_id uuid, p_attempt integer, p_event text, p_detail jsonb) IS 'Note what happened to a job.';

CREATE FUNCTION worker.log_refusal(p_kind text, p_id uuid, p_reason text) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  insert into worker.consent_events (subject_id, event, purposes, reason, job_kind, job_id, actor)
  select touched.subject_id, 'refusal', array[kinds.purpose], coalesce(worker.consent_error(touched.subject_id, kinds.purpose), p_reason),
         p_kind, p_id, worker.actor()
  from worker.job_subjects touched join worker.job_kinds kinds using (kind)
  where touched.kind = p_kind and touched.job_id = p_id and kinds.purpose is not null
    and worker.consent_error(touched.subject_id, kinds.purpose) is not null
$$;

COMMENT ON FUNCTION worker.log_refusal(p_kind text, p_id uuid, p_reason text) IS 'Write a refusal to the consent ledger.';

CREATE FUNCTION worker.lora_to_copy(p_kind text, p_id uuid, p_attempt integer) RETURNS jsonb
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select jsonb_build_object(
    'source', models.path,
    'target', models.subject_id || '/lora.safetensors',
    'consented', worker.consent_error(models.subject_id, 'training') is null,
    'newest', models.retired_at is null and not exists (
      select from public.subjects_models newer
      where newer.subject_id = models.subject_id and newer.retired_at is null and newer.created_at > models.created_at))
  from worker.internal_jobs job join public.subjects_models models on models.id = (job.payload ->> 'model_id')::uuid
  where p_kind = 'publish_lora' and job.id = p_id and job.status = 'running' and job.attempt = p_attempt
$$;

COMMENT ON FUNCTION worker.lora_to_copy(p_kind text, p_id uuid, p_attempt integer) IS 'Source and target of a convenience copy, and whether it may be made.';

CREATE FUNCTION worker.merged_prompt(p_job jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select concat_ws(', ', triggers, replace(
    case when template like '%{prompt}%' then replace(template, '{prompt}', prompt) else concat_ws(', ', prompt, template) end,
    '{trigger}', coalesce(triggers, '')))
  from (
    select coalesce(p_job ->> 'prompt', '') as prompt, coalesce(nullif(p_job -> 'preset' ->> 'prompt', ''), '{prompt}') as template,
      (select string_agg(model ->> 'trigger_word', ' and ') from jsonb_array_elements(worker.models_of(p_job - 'lora_scales')) model) as triggers
  ) parts
$$;

COMMENT ON FUNCTION worker.merged_prompt(p_job jsonb) IS 'The request''s prompt in its preset, with the trigger words.';

CREATE FUNCTION worker.models_error(p_job jsonb) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_id text;
  v_family text;
  v_base_family text := (select family from worker.base_models where slug = p_job ->> 'base');
begin
  for v_id in select worker.items(p_job, 'model_ids') loop
    select models.family into v_family
    from public.subjects_models models left join public.subjects on subjects.id = models.subject_id
    where models.id = v_id::uuid and (models.subject_id is null or subjects.owner_id = (p_job ->> 'owner_id')::uuid);
    if not found then
      return format('model_ids: no such LoRA of this owner: %s', coalesce(v_id, 'null'));
    elsif v_family <> v_base_family then
      return format('model_ids: LoRA %s is for %s, but base %s is %s', v_id, v_family, p_job ->> 'base', v_base_family);
    end if;
  end loop;
  return null;
end $$;

COMMENT ON FUNCTION worker.models_error(p_job jsonb) IS 'Why the LoRAs a job names may not be used, or NULL.';

CREATE FUNCTION worker.models_of(p_job jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select coalesce(jsonb_agg(jsonb_build_object(
      'id', models.id, 'subject_id', models.subject_id, 'version', models.version, 'path', models.path, 'sha256', models.sha256,
      'rank', models.rank, 'trigger_word', models.trigger_word, 'scale', coalesce((p_job -> 'lora_scales' ->> (wanted.ord - 1)::integer)::real, 1))
      order by wanted.ord), '[]')
  from (
    select item::uuid as id, ord from jsonb_array_elements_text(
      case when jsonb_typeof(p_job -> 'model_ids') = 'array' then p_job -> 'model_ids' else '[]' end) with ordinality as named (item, ord)
    union all
    (select current_one.id, 1 from public.subjects_models current_one
     join worker.base_models base on base.slug = p_job ->> 'base' and base.family = current_one.family
     where coalesce(jsonb_typeof(p_job -> 'model_ids'), 'null') = 'null'
       and current_one.subject_id = (p_job ->> 'subject_id')::uuid and current_one.retired_at is null
     order by current_one.base = p_job ->> 'base' desc, current_one.version desc limit 1)
  ) wanted join public.subjects_models models using (id)
$$;

COMMENT ON FUNCTION worker.models_of(p_job jsonb) IS 'The LoRAs of a generation job, in order, with their scales.';

CREATE FUNCTION worker.my_published_objects() RETURNS TABLE(bucket text, key text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select bucket, key from worker.staged_objects where owner_id = (select auth.uid()) and state = 'published' $$;

COMMENT ON FUNCTION worker.my_published_objects() IS 'Objects of the signed-in user''s completed jobs.';

CREATE FUNCTION worker.named_keys(p_job jsonb) RETURNS SETOF text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select worker.items(p_job, 'sample_paths')
  union select worker.items(p_job, 'reference_paths')
  union select p_job ->> 'control_path' where p_job ->> 'control_path' is not null
$$;

COMMENT ON FUNCTION worker.named_keys(p_job jsonb) IS 'Every object key that the client names in a job.';

CREATE FUNCTION worker.names_a_minors_age(p_folded text) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_folding worker.prompt_folding;
  v_as_numbers text := replace(regexp_replace(p_folded, '([0-9](?=[a-z])|[a-z](?=[0-9]{2} ?y)|(?<![^ ,])aged?(?=[0-9]))', '\1 ', 'g'), 'l', 'i');
  v_as_letters text;
  v_spelled text;
begin
  select * into v_folding from worker.prompt_folding;
  select string_agg(
    case when part[1] ~ '^[0-9]+$' then part[1]
      when part[1] ~ '^([lio][0-9]|1[lio])$' then translate(part[1], 'lio', '110')
      else translate(part[1], v_folding.signs || v_folding.i_or_l || 'l', v_folding.sign_letters || repeat('i', length(v_folding.i_or_l) + 1))
    end || part[2], '' order by place)
  into v_as_letters
  from regexp_matches(regexp_replace(p_folded, '(?<![^ ,])((?:[lio][0-9]|1[lio])(?=y)|[1-9][0-9]?(?=[ymwd]|l[^ ,]))', '\1 ', 'g'), '([^ ,]+)([ ,]*)', 'g') with ordinality as words (part, place);
  select replace(string_agg(replace(run[1], ' ', ''), ' ' order by place), 'l', 'i')
  into v_spelled
  from regexp_matches(regexp_replace(p_folded, '[ ,]+', ' ', 'g'), '(?<![^ ])(?:[^ ]+ |(?:[0-9] ){0,2})(?:[^ 0-9] ){2,}[^ ]*', 'g') with ordinality as runs (run, place);
  return worker.finds_age(v_as_numbers, '\y', v_folding)
    or (v_as_letters <> v_as_numbers and worker.finds_age(v_as_letters, '\y', v_folding))
    or (v_spelled is not null and worker.finds_age(v_spelled, '', v_folding));
end $_$;

COMMENT ON FUNCTION worker.names_a_minors_age(p_folded text) IS 'Whether a folded text, with its digits as numbers, with those in words as letters, or spelled, says that somebody is younger than 18.';

CREATE FUNCTION worker.on_photo_write() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_owner_id uuid := (select owner_id from public.subjects where id = new.subject_id);
  v_error text;
begin
  if v_owner_id is null or (auth.uid() is not null and v_owner_id <> auth.uid()) then
    raise exception 'subject_id: no such subject of yours' using errcode = '42501';
  end if;
  v_error := worker.key_error(v_owner_id, new.path, false);
  if v_error is null and new.path not like format('%s/%s/photos/%%', v_owner_id, new.subject_id) then
    v_error := format('must lie under %s/%s/photos/', v_owner_id, new.subject_id);
  end if;
  if v_error is not null then
    raise exception 'path: % %', quote_literal(left(new.path, 200)), v_error using errcode = '22023';
  end if;
  return new;
end $$;

COMMENT ON FUNCTION worker.on_photo_write() IS 'A photograph lies under its own subject''s prefix.';

CREATE FUNCTION worker.on_subject_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if new.consent_status <> 'pending' or new.consent_purposes <> '{}' or new.consent_expires_at is not null
     or new.erased_at is not null then
    raise exception 'a subject starts without consent'
      using errcode = '42501', hint = 'Insert it, then call grant_consent(subject_id, …).';
  end if;
  -- A word no tokenizer knows, and another one for each person, so that two LoRAs in a picture do not answer to one name.
  new.trigger_word := coalesce(new.trigger_word, 'ohwx' || left(replace(new.id::text, '-', ''), 6));
  return new;
end $$;

COMMENT ON FUNCTION worker.on_subject_insert() IS 'A subject starts without consent, and with a trigger word.';

CREATE FUNCTION worker.on_subject_update() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if old.owner_id is not null and new.owner_id is null then
    -- The account was deleted: nobody is left who may keep or use this person's likeness.
    new.consent_status := 'revoked';
    new.consent_purposes := '{}';
    insert into worker.consent_events (subject_id, event, reason, actor)
    values (new.id, 'revoke', 'the owner''s account was deleted', worker.actor());
  elsif coalesce(current_setting('worker.changing_consent', true), '') <> 'yes' then
    if (old.consent_status, old.consent_purposes, old.consent_expires_at, old.subject_is_adult)
       is distinct from (new.consent_status, new.consent_purposes, new.consent_expires_at, new.subject_is_adult) then
      raise exception 'consent columns change only through functions'
        using errcode = '42501', hint = 'Use grant_consent, reject_consent or revoke_consent.';
    end if;
  end if;
  if old.owner_id is distinct from new.owner_id and new.owner_id is not null then
    raise exception 'a subject keeps its owner' using errcode = '42501';
  end if;
  return new;
end $$;

COMMENT ON FUNCTION worker.on_subject_update() IS 'Guards the consent columns; an owner''s deleted account takes consent back.';

CREATE FUNCTION worker.part_words(p_folded text) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select worker.fold_breaks(regexp_replace(
    regexp_replace(p_folded, '[^a-z0-9 ]+', ',', 'g'),
    '(?<![a-z])([a-z])[ ,]*[0-9]+[ ,]*(?=[a-z](?![a-z]))', '\1 ', 'g'))
$$;

COMMENT ON FUNCTION worker.part_words(p_folded text) IS 'A folded text as if its signs, and digits between single letters, stood between words: "n|u|d|e" is "n,u,d,e".';

CREATE FUNCTION worker.peek(p_routes text[], p_limit integer) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_row record;
  v_jobs jsonb := '[]';
  v_job jsonb;
begin
  for v_row in
    select split_part(dedupe_key, ':', 1) as kind, split_part(dedupe_key, ':', 2)::uuid as job_id
    from worker.pgqueuer
    where entrypoint = any (p_routes) and status = 'queued' and execute_after <= clock_timestamp()
    order by priority desc, id limit p_limit
  loop
    execute format('select to_jsonb(job) from %s job where id = $1', worker.table_of(v_row.kind)) into v_job using v_row.job_id;
    continue when v_job is null or worker.job_consent_error(v_row.kind, v_row.job_id) is not null;
    v_jobs := v_jobs || jsonb_build_object('kind', v_row.kind, 'id', v_row.job_id, 'base', v_job ->> 'base',
      'subject_id', v_job ->> 'subject_id', 'models', worker.models_of(v_job));
  end loop;
  return v_jobs;
end $_$;

COMMENT ON FUNCTION worker.peek(p_routes text[], p_limit integer) IS 'Base and LoRAs of the jobs that wait at the head of some routes, consent checked, for warming caches.';

CREATE FUNCTION worker.photos_error(p_job jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('training needs at least 3 photographs, there are %s: insert them into subject_photos, or name them in sample_paths', photo_count)
  from (select jsonb_array_length(worker.photos_of(p_job)) as photo_count) counted
  where photo_count < 3
$$;

COMMENT ON FUNCTION worker.photos_error(p_job jsonb) IS 'Why the photographs of a training job are too few, or NULL.';

CREATE FUNCTION worker.photos_of(p_job jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select coalesce(jsonb_agg(jsonb_build_object('path', photo.path, 'caption', photo.caption) order by photo.path), '[]')
  from (
    select named.key as path, known.caption
    from worker.items(p_job, 'sample_paths') named (key)
    left join public.subject_photos known on known.path = named.key and known.subject_id = (p_job ->> 'subject_id')::uuid
    union
    select path, caption from public.subject_photos
    where coalesce(jsonb_typeof(p_job -> 'sample_paths'), 'null') = 'null'
      and subject_id = (p_job ->> 'subject_id')::uuid and status <> 'rejected'
  ) photo
$$;

COMMENT ON FUNCTION worker.photos_of(p_job jsonb) IS 'The photographs of a training job: those it names, else all that are not rejected.';

CREATE FUNCTION worker.pod_lock_key(p_pod_id uuid) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select ('x' || left(replace(p_pod_id::text, '-', ''), 16))::bit(64)::bigint $$;

COMMENT ON FUNCTION worker.pod_lock_key(p_pod_id uuid) IS 'The advisory lock that a living pod''s session holds.';

CREATE FUNCTION worker.policy_in_catalog(p_name text, p_table text) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select concat_ws(' / ', permissive, roles::text, cmd, qual, with_check) from pg_catalog.pg_policies
  where schemaname || '.' || tablename = p_table and policyname = p_name
$$;

COMMENT ON FUNCTION worker.policy_in_catalog(p_name text, p_table text) IS 'A policy as the catalog shows it.';

CREATE FUNCTION worker.preset_columns(p_kind text, p_job jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select coalesce((
    select coalesce(jsonb_object_agg(setting.key, setting.value) filter (
             where setting.key in ('width', 'height', 'steps', 'guidance', 'rank', 'learning_rate', 'resolution', 'class_name')
               and p_job -> setting.key = 'null'), '{}')
           || jsonb_build_object('preset', jsonb_build_object('prompt', preset.prompt, 'negative_prompt', preset.negative_prompt))
    from public.presets preset left join lateral jsonb_each(preset.settings) setting on true
    where preset.id = (p_job ->> 'preset_id')::uuid and preset.kind = p_kind
      and (preset.owner_id is null or preset.owner_id = (p_job ->> 'owner_id')::uuid)
    group by preset.id
  ), '{}')
$$;

COMMENT ON FUNCTION worker.preset_columns(p_kind text, p_job jsonb) IS 'What a preset brings to a job: a snapshot, and settings for columns that the request leaves open.';

CREATE FUNCTION worker.preset_error(p_kind text, p_job jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select 'preset_id: no such preset of this owner for ' || p_kind
  where p_job ->> 'preset_id' is not null and p_job ->> 'preset' is null and not exists (
    select from public.presets
    where id = (p_job ->> 'preset_id')::uuid and kind = p_kind
      and (owner_id is null or owner_id = (p_job ->> 'owner_id')::uuid))
$$;

COMMENT ON FUNCTION worker.preset_error(p_kind text, p_job jsonb) IS 'Why the preset a job names may not be used, or NULL.';

CREATE FUNCTION worker.prompt_error(p_job jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select format('%s asks for %s (rule %s); change it and insert another job', said.what, rule.asks, rule.id)
  from (
    select 1 as place, 'the prompt' as what, worker.merged_prompt(p_job) as words, 'prompt' as screens where p_job ? 'prompt'
    union all select 2, 'the trigger word', coalesce(p_job ->> 'trigger_word',
      (select trigger_word from public.subjects where id = (p_job ->> 'subject_id')::uuid)), 'prompt' where p_job ? 'trigger_word'
    union all select 3, 'the class name', p_job ->> 'class_name', 'prompt'
    union all select 4, 'the negative prompt', concat_ws(', ', p_job ->> 'negative_prompt', p_job -> 'preset' ->> 'negative_prompt'), 'negative_prompt'
  ) said
  join worker.screening_rules rule on rule.id = worker.broken_rule(said.words, said.screens)
  order by said.place limit 1
$$;

COMMENT ON FUNCTION worker.prompt_error(p_job jsonb) IS 'Why a job''s words may not be drawn or learned, or NULL.';

CREATE FUNCTION worker.prune() RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  delete from worker.pgqueuer_log where id in (
    select id from worker.pgqueuer_log where created < now() - (select keep_logs_for from worker.config) limit 1000);
  delete from worker.job_events where id in (
    select id from worker.job_events where at < now() - (select keep_logs_for from worker.config) limit 1000);
$$;

COMMENT ON FUNCTION worker.prune() IS 'Forget old logs, a thousand rows at a time.';

CREATE FUNCTION worker.publish_training(p_job jsonb, p_result jsonb) RETURNS uuid
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_base worker.base_models;
  v_subject_id uuid := p_job ->> 'subject_id';
  v_model_id uuid;
begin
  select * into v_base from worker.base_models where slug = p_job ->> 'base';
  -- The time of now, not of the transaction's beginning: it may have waited for an earlier version to be published.
  insert into public.subjects_models (subject_id, job_id, version, base, family, path, sha256, rank, trigger_word, metrics, created_at)
  select v_subject_id, (p_job ->> 'id')::uuid, coalesce(max(version), 0) + 1, v_base.slug, v_base.family, p_result ->> 'lora',
         p_result ->> 'sha256', (p_result ->> 'rank')::integer, p_result ->> 'trigger_word', coalesce(p_result -> 'metrics', '{}'),
         clock_timestamp()
  from public.subjects_models where subject_id = v_subject_id and family = v_base.family
  returning id into v_model_id;
  insert into worker.internal_jobs (owner_id, subject_id, payload)
  values ((p_job ->> 'owner_id')::uuid, v_subject_id, jsonb_build_object('model_id', v_model_id));
  return v_model_id;
end $$;

COMMENT ON FUNCTION worker.publish_training(p_job jsonb, p_result jsonb) IS 'A trained LoRA becomes the subject''s newest version.';

CREATE FUNCTION worker.reap() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_clock worker.clock;
  v_pod_id uuid;
  v_kind worker.job_kinds;
  v_job_id uuid;
  v_job jsonb;
  v_count integer := 0;
begin
  select * into v_clock from worker.clock;
  for v_pod_id in select pods.id from worker.pods where worker.is_dead(pods, v_clock.grace_from) order by id loop
    delete from worker.pods where id = v_pod_id and worker.is_dead(pods, v_clock.grace_from);
  end loop;
  update worker.pods set lock_free_since = clock_timestamp()
  where has_lock and lock_free_since is null and worker.lock_is_free(id);
  for v_kind in select * from worker.job_kinds order by kind loop
    for v_job_id in execute format(
      'select id from %s job where status = ''running'' and not exists (select from worker.pods where pods.id = job.pod_id) order by id', v_kind.table_name)
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      continue when v_job is null or v_job ->> 'status' <> 'running' or exists (select from worker.pods where id = (v_job ->> 'pod_id')::uuid);
      perform worker.charge_failure(v_kind.kind, v_job, 'worker_lost', 'the process that ran this attempt ended without a word',
        case when (v_job ->> 'failures')::integer = 0 then interval '0' else worker.backoff((v_job ->> 'failures')::integer) end,
        case when jsonb_typeof(v_job -> 'metrics' -> 'seconds') = 'number' then least((v_job -> 'metrics' ->> 'seconds')::numeric, 1e7)::double precision else 0 end);
      v_count := v_count + 1;
    end loop;
  end loop;
  for v_pod_id in
    select distinct queue_manager_id from worker.pgqueuer
    where status = 'picked' and not exists (select from worker.pods where id = queue_manager_id)
  loop
    v_count := v_count + worker.give_back(v_pod_id, interval '0', '{}', 'given back: its pod died before it began');
  end loop;
  return v_count;
end $$;

COMMENT ON FUNCTION worker.reap() IS 'Take over the jobs of dead pods.';

CREATE FUNCTION worker.reconcile() RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_kind worker.job_kinds;
  v_job_id uuid;
  v_job jsonb;
begin
  for v_kind in select * from worker.job_kinds order by kind loop
    perform worker.explain_waiting(v_kind);
    for v_job_id in execute format(
      'select id from %s job where status = ''queued'' and created_at < clock_timestamp() - interval ''10 seconds''
         and not exists (select from worker.pgqueuer where dedupe_key = $1 || '':'' || job.id) order by id', v_kind.table_name) using v_kind.kind
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      if v_job ->> 'status' = 'queued' then
        perform worker.enqueue(v_kind.kind, v_job);
      end if;
    end loop;
    for v_job_id in execute format(
      'select job.id from worker.pgqueuer queue join %s job on job.id = split_part(queue.dedupe_key, '':'', 2)::uuid
       where split_part(queue.dedupe_key, '':'', 1) = $1 and job.status in (''completed'', ''failed'', ''cancelled'') order by 1', v_kind.table_name) using v_kind.kind
    loop
      v_job := worker.try_lock_job(v_kind.kind, v_job_id);
      if v_job ->> 'status' in ('completed', 'failed', 'cancelled') then
        perform worker.dequeue_row(v_kind.kind, v_job_id, 'canceled');
      end if;
    end loop;
  end loop;
end $_$;

COMMENT ON FUNCTION worker.reconcile() IS 'Queue and jobs agree.';

CREATE FUNCTION worker.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  raise exception '% is append-only', tg_table_name using errcode = '42501';
end $$;

COMMENT ON FUNCTION worker.refuse_change() IS 'The ledger is append-only.';

CREATE FUNCTION worker.register_job_table(p_kind text, p_table text, p_purpose text, p_subject_required boolean, p_slot text, p_max_runtime interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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

COMMENT ON FUNCTION worker.register_job_table(p_kind text, p_table text, p_purpose text, p_subject_required boolean, p_slot text, p_max_runtime interval) IS 'Make a table a job table: keys, triggers, grants, Realtime. Idempotent.';

CREATE FUNCTION worker.register_pod(p_pod_id uuid, p_name text, p_routes text[], p_vram_gib double precision, p_models_present text[], p_has_lock boolean, p_version text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  insert into worker.pods (id, name, routes, vram_gib, models_present, has_lock, version)
  values (p_pod_id, p_name, p_routes, p_vram_gib, p_models_present, p_has_lock, p_version)
  on conflict (id) do update set name = excluded.name, routes = excluded.routes, vram_gib = excluded.vram_gib,
    models_present = excluded.models_present, has_lock = excluded.has_lock, version = excluded.version,
    last_heartbeat = clock_timestamp(), lock_free_since = null;
  return jsonb_build_object('tick', worker.is_ticker(p_pod_id));
end $$;

COMMENT ON FUNCTION worker.register_pod(p_pod_id uuid, p_name text, p_routes text[], p_vram_gib double precision, p_models_present text[], p_has_lock boolean, p_version text) IS 'A pod says what it is and which routes it takes; again whenever that changes.';

CREATE FUNCTION worker.reject_consent_as_service(p_subject_id uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  perform from public.subjects where id = p_subject_id for update;
  if not found then
    raise exception 'no subject %', p_subject_id using errcode = '42501';
  end if;
  perform worker.set_consent(p_subject_id, 'rejected', '{}', null, false, 'reject', null, p_reason);
end $$;

COMMENT ON FUNCTION worker.reject_consent_as_service(p_subject_id uuid, p_reason text) IS 'Record that a person did not agree.';

CREATE FUNCTION worker.release_job(p_kind text, p_id uuid, p_attempt integer, p_reason text, p_code text DEFAULT NULL::text, p_gpu_seconds double precision DEFAULT 0) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '4s'
    AS $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
begin
  if v_job is null then
    return 'lost';
  elsif v_job ->> 'cancel_requested_at' is not null then
    return worker.settle_stopped(p_kind, v_job, p_gpu_seconds);
  end if;
  perform worker.requeue(p_kind, v_job, 0, interval '0', p_code, case when p_code is not null then p_reason end, left(p_reason, 200), p_gpu_seconds);
  return 'queued';
end $$;

COMMENT ON FUNCTION worker.release_job(p_kind text, p_id uuid, p_attempt integer, p_reason text, p_code text, p_gpu_seconds double precision) IS 'Give a job back, uncharged.';

CREATE FUNCTION worker.report_job(p_kind text, p_id uuid, p_attempt integer, p_progress double precision, p_phase text, p_metrics jsonb DEFAULT NULL::jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '4s'
    AS $_$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
begin
  if v_job is null then
    return 'lost';
  end if;
  execute format('update %s set progress = greatest(0, least(1, $2)), phase = left($3, 200), metrics = coalesce($4, metrics) where id = $1',
    worker.table_of(p_kind)) using p_id, p_progress, p_phase, p_metrics;
  if p_phase is distinct from v_job ->> 'phase' then
    perform worker.log_event(p_kind, p_id, p_attempt, 'phase', jsonb_build_object('phase', left(p_phase, 200)));
  end if;
  return worker.lease_state(v_job);
end $_$;

COMMENT ON FUNCTION worker.report_job(p_kind text, p_id uuid, p_attempt integer, p_progress double precision, p_phase text, p_metrics jsonb) IS 'Progress of an attempt. Answers ok, cancel, timeout or lost.';

CREATE FUNCTION worker.request_error(p_kind text, p_job jsonb) RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select coalesce(
    worker.keys_error(p_job),
    worker.preset_error(p_kind, p_job),
    worker.models_error(p_job),
    case when p_job ? 'base' then worker.base_error(p_kind, p_job) end,
    case when p_kind = 'generation' and p_job ->> 'preset_id' is null and btrim(p_job ->> 'prompt') = '' then
      'prompt: give a prompt, a preset or both' end)
$$;

COMMENT ON FUNCTION worker.request_error(p_kind text, p_job jsonb) IS 'Why a request cannot be done, or NULL.';

CREATE FUNCTION worker.request_stop(p_kind text, p_id uuid, p_code text, p_error text) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_job jsonb := worker.lock_job(p_kind, p_id);
begin
  if v_job ->> 'status' = 'queued' then
    if p_code = 'consent_denied' then
      perform worker.settle(p_kind, v_job, 'failed', p_code, p_error);
      return 'failed';
    end if;
    perform worker.settle(p_kind, v_job, 'cancelled', null, null);
    return 'cancelled';
  elsif v_job ->> 'status' = 'running' then
    -- A revocation outranks a cancellation that came first: the reason must not be lost.
    execute format('update %s set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
        cancel_code = case when cancel_code = ''consent_denied'' then cancel_code else $2 end where id = $1', worker.table_of(p_kind))
      using p_id, p_code;
    perform worker.log_event(p_kind, p_id, (v_job ->> 'attempt')::integer, 'stop requested', jsonb_build_object('code', p_code));
    perform pg_notify('likeness_cancel', p_kind || ':' || p_id);
    return 'stopping';
  end if;
  return v_job ->> 'status';
end $_$;

COMMENT ON FUNCTION worker.request_stop(p_kind text, p_id uuid, p_code text, p_error text) IS 'Stop a job: a queued one ends now, a running one is told to stop.';

CREATE FUNCTION worker.requeue(p_kind text, p_job jsonb, p_failures integer, p_delay interval, p_code text, p_error text, p_phase text, p_gpu_seconds double precision DEFAULT 0) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_id uuid := p_job ->> 'id';
begin
  execute format(
    'update %s set status = ''queued'', failures = failures + $2, run_after = clock_timestamp() + $3,
       error_code = coalesce($4, error_code), error = coalesce($5, error),
       phase = $6, pod_id = null, progress = 0, gpu_seconds = gpu_seconds + $7
     where id = $1', worker.table_of(p_kind))
    using v_id, p_failures, p_delay, p_code, p_error, p_phase, coalesce(p_gpu_seconds, 0);
  with back as (
    update worker.pgqueuer set status = 'queued', queue_manager_id = null, updated = now(), slot = null,
      execute_after = clock_timestamp() + p_delay, attempts = attempts + 1
    where dedupe_key = p_kind || ':' || v_id returning id, entrypoint, priority
  )
  insert into worker.pgqueuer_log (job_id, status, entrypoint, priority)
  select id, 'queued', entrypoint, priority from back;
  perform worker.end_attempt(p_kind, v_id, (p_job ->> 'attempt')::integer, false);
  perform worker.log_event(p_kind, v_id, (p_job ->> 'attempt')::integer, 'requeued',
    jsonb_build_object('code', p_code, 'error', p_error, 'phase', p_phase));
  perform pg_notify('likeness_queue', '');
end $_$;

COMMENT ON FUNCTION worker.requeue(p_kind text, p_job jsonb, p_failures integer, p_delay interval, p_code text, p_error text, p_phase text, p_gpu_seconds double precision) IS 'Put a job back on the queue after an attempt.';

CREATE FUNCTION worker.result_error(p_kind text, p_job jsonb, p_result jsonb) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_picture jsonb;
  v_unknown text;
begin
  if jsonb_typeof(p_result) is distinct from 'object' then
    return 'the result is not an object';
  end if;
  if p_kind = 'generation' then
    if jsonb_typeof(p_result -> 'pictures') is distinct from 'array'
       or jsonb_array_length(p_result -> 'pictures') <> (p_job ->> 'num_images')::integer then
      return format('the result does not hold %s pictures', p_job ->> 'num_images');
    end if;
    for v_picture in select value from jsonb_array_elements(p_result -> 'pictures') loop
      if v_picture ->> 'upscaled' is null or v_picture ->> 'raw' is null or v_picture ->> 'upscaled' = v_picture ->> 'raw' then
        return 'a picture does not name its upscaled file and its raw file';
      elsif ((v_picture ->> 'width')::integer = (v_picture ->> 'raw_width')::integer * (p_job ->> 'upscale')::integer) is not true
         or ((v_picture ->> 'height')::integer = (v_picture ->> 'raw_height')::integer * (p_job ->> 'upscale')::integer) is not true then
        return format('a picture is not upscaled by %s', p_job ->> 'upscale');
      end if;
    end loop;
  elsif p_kind = 'training' and (p_result ->> 'lora' is null or p_result ->> 'sha256' !~ '^[0-9a-f]{64}$'
        or p_result ->> 'sha256' is null or (p_result ->> 'rank')::integer is null) then
    return 'the result does not name the LoRA, its sha256 and its rank';
  end if;
  select named.object_key into v_unknown from worker.result_keys(p_kind, p_result) named (object_key)
  where named.object_key is not null and not exists (
    select from worker.staged_objects staged
    where staged.key = named.object_key and staged.kind = p_kind and staged.job_id = (p_job ->> 'id')::uuid
      and staged.attempt = (p_job ->> 'attempt')::integer and staged.state = 'staged') limit 1;
  return 'not staged by this attempt: ' || v_unknown;
exception when data_exception then
  return 'the result is malformed';
end $_$;

COMMENT ON FUNCTION worker.result_error(p_kind text, p_job jsonb, p_result jsonb) IS 'Why a result cannot be published, or NULL.';

CREATE FUNCTION worker.result_keys(p_kind text, p_result jsonb) RETURNS SETOF text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
  select key #>> '{}' from jsonb_path_query(p_result,
    case p_kind
      when 'generation' then 'lax $.pictures[*].keyvalue() ? (@.key == "upscaled" || @.key == "raw").value'
      when 'training' then 'lax $.keyvalue() ? (@.key == "lora" || @.key == "losses" || @.key == "loss_curve").value'
      else 'lax $.objects[*]' end::jsonpath) key
$_$;

COMMENT ON FUNCTION worker.result_keys(p_kind text, p_result jsonb) IS 'Every object key that a result names.';

CREATE FUNCTION worker.retry_job_as_owner(p_kind text, p_id uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  perform worker.check_job_owner(p_kind, p_id);
  return worker.retry_job_as_service(p_kind, p_id);
end $$;

COMMENT ON FUNCTION worker.retry_job_as_owner(p_kind text, p_id uuid) IS 'Put a failed or cancelled job of one''s own back on the queue.';

CREATE FUNCTION worker.retry_job_as_service(p_kind text, p_id uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_job jsonb := worker.lock_job(p_kind, p_id);
begin
  if v_job is null then
    raise exception 'no % job %', p_kind, p_id using errcode = '42501';
  elsif v_job ->> 'status' not in ('failed', 'cancelled') then
    raise exception 'a % job cannot be tried again', v_job ->> 'status' using errcode = '22023', hint = 'Only failed and cancelled jobs can.';
  end if;
  if v_job ->> 'owner_id' is not null then
    perform worker.check_open_jobs((v_job ->> 'owner_id')::uuid);
  end if;
  execute format(
    'update %s job set status = ''queued'', failures = 0, run_after = now(), progress = 0, phase = ''waiting'', error_code = null, error = null,
       cancel_requested_at = null, cancel_code = null, finished_at = null, pod_id = null where id = $1 returning to_jsonb(job)', worker.table_of(p_kind))
    into v_job using p_id;
  perform worker.log_event(p_kind, p_id, (v_job ->> 'attempt')::integer, 'retried', jsonb_build_object('actor', worker.actor()));
  perform worker.enqueue(p_kind, v_job);
  return 'queued';
end $_$;

COMMENT ON FUNCTION worker.retry_job_as_service(p_kind text, p_id uuid) IS 'Put a failed or cancelled job back on the queue, as the administrator of the app.';

CREATE FUNCTION worker.revoke_consent_as_owner(p_subject_id uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if not exists (select from public.subjects where id = p_subject_id and owner_id = auth.uid()) then
    raise exception 'no such subject of yours' using errcode = '42501';
  end if;
  perform worker.revoke_consent_as_service(p_subject_id, p_reason);
end $$;

COMMENT ON FUNCTION worker.revoke_consent_as_owner(p_subject_id uuid, p_reason text) IS 'Take consent back for a subject of one''s own.';

CREATE FUNCTION worker.revoke_consent_as_service(p_subject_id uuid, p_reason text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_status text;
begin
  select consent_status into v_status from public.subjects where id = p_subject_id for update;
  if v_status is null then
    raise exception 'no subject %', p_subject_id using errcode = '42501';
  elsif v_status <> 'revoked' then
    perform worker.set_consent(p_subject_id, 'revoked', '{}', null, false, 'revoke', null, p_reason);
  end if;
end $$;

COMMENT ON FUNCTION worker.revoke_consent_as_service(p_subject_id uuid, p_reason text) IS 'Take a person''s consent back: queued jobs fail, running ones are interrupted, nothing more is published.';

CREATE FUNCTION worker.route(p_kind text, p_job jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select p_kind || coalesce('/' || (p_job ->> 'base'), '') $$;

COMMENT ON FUNCTION worker.route(p_kind text, p_job jsonb) IS 'The queue''s entrypoint of a job: kind/base, or the kind alone.';

CREATE FUNCTION worker.save_checkpoint(p_kind text, p_id uuid, p_attempt integer, p_step integer, p_bucket text, p_key text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '4s'
    AS $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
begin
  if v_job is null then
    return 'lost';
  end if;
  update worker.staged_objects set state = 'checkpoint', step = p_step
  where bucket = p_bucket and key = p_key and kind = p_kind and job_id = p_id and attempt = p_attempt and state in ('staged', 'checkpoint');
  if not found then
    raise exception 'checkpoint % was not staged by this attempt', quote_literal(p_key) using errcode = '22023';
  end if;
  update worker.staged_objects set state = 'deleting', offer_after = clock_timestamp()
  where kind = p_kind and job_id = p_id and state = 'checkpoint' and (attempt < p_attempt or step < p_step);
  perform worker.log_event(p_kind, p_id, p_attempt, 'checkpoint', jsonb_build_object('step', p_step));
  return worker.lease_state(v_job);
end $$;

COMMENT ON FUNCTION worker.save_checkpoint(p_kind text, p_id uuid, p_attempt integer, p_step integer, p_bucket text, p_key text) IS 'An uploaded checkpoint becomes the one to resume from.';

CREATE FUNCTION worker.schema_major() RETURNS integer
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select 1 $$;

COMMENT ON FUNCTION worker.schema_major() IS 'The major version of this schema; pods refuse a newer one.';

CREATE FUNCTION worker.set_consent(p_subject_id uuid, p_status text, p_purposes text[], p_expires_at timestamp with time zone, p_adult boolean, p_event text, p_reason text, p_evidence text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    -- An older snapshot would not see the jobs that must be told to stop.
    raise exception 'consent changes at READ COMMITTED only, not at %', current_setting('transaction_isolation') using errcode = '25001';
  end if;
  perform set_config('worker.changing_consent', 'yes', true);
  update public.subjects
  set consent_status = p_status,
      consent_purposes = p_purposes,
      consent_expires_at = p_expires_at,
      subject_is_adult = subject_is_adult or coalesce(p_adult, false)
  where id = p_subject_id;
  perform set_config('worker.changing_consent', '', true);
  insert into worker.consent_events (subject_id, event, purposes, expires_at, reason, evidence_digest, actor)
  values (p_subject_id, p_event, p_purposes, p_expires_at, p_reason,
          encode(sha256(convert_to(p_evidence, 'UTF8')), 'hex'), worker.actor());
end $$;

COMMENT ON FUNCTION worker.set_consent(p_subject_id uuid, p_status text, p_purposes text[], p_expires_at timestamp with time zone, p_adult boolean, p_event text, p_reason text, p_evidence text) IS 'Change the consent columns and write the ledger. Only for the functions below.';

CREATE FUNCTION worker.settle(p_kind text, p_job jsonb, p_status text, p_code text, p_error text, p_gpu_seconds double precision DEFAULT 0, p_result jsonb DEFAULT NULL::jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_id uuid := p_job ->> 'id';
  v_attempt integer := p_job ->> 'attempt';
begin
  execute format(
    'update %s set status = $2, error_code = $3, error = $4, gpu_seconds = gpu_seconds + $5, result = $6,
       progress = case when $2 = ''completed'' then 1 else progress end, phase = $2, finished_at = clock_timestamp()
     where id = $1', worker.table_of(p_kind))
    using v_id, p_status, p_code, p_error, coalesce(p_gpu_seconds, 0), p_result;
  perform worker.dequeue_row(p_kind, v_id,
    (case p_status when 'completed' then 'successful' when 'cancelled' then 'canceled' else 'exception' end)::worker.pgqueuer_status);
  perform worker.end_attempt(p_kind, v_id, v_attempt, true);
  perform worker.log_event(p_kind, v_id, v_attempt, p_status, jsonb_build_object('code', p_code, 'error', p_error));
  if p_code = 'consent_denied' then
    perform worker.log_refusal(p_kind, v_id, p_error);
  end if;
end $_$;

COMMENT ON FUNCTION worker.settle(p_kind text, p_job jsonb, p_status text, p_code text, p_error text, p_gpu_seconds double precision, p_result jsonb) IS 'End a job: row, queue, staged objects, events, ledger. The one place where a job ends.';

CREATE FUNCTION worker.settle_stopped(p_kind text, p_job jsonb, p_gpu_seconds double precision DEFAULT 0) RETURNS text
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
  if p_job ->> 'cancel_code' = 'consent_denied' then
    perform worker.settle(p_kind, p_job, 'failed', 'consent_denied',
      coalesce(worker.job_consent_error(p_kind, (p_job ->> 'id')::uuid), 'a person took consent back while the job ran'), p_gpu_seconds);
    return 'consent_denied';
  end if;
  perform worker.settle(p_kind, p_job, 'cancelled', null, null, p_gpu_seconds);
  return 'cancelled';
end $$;

COMMENT ON FUNCTION worker.settle_stopped(p_kind text, p_job jsonb, p_gpu_seconds double precision) IS 'End a job whose stop was requested: cancelled, or failed / consent_denied.';

CREATE FUNCTION worker.stage_objects(p_kind text, p_id uuid, p_attempt integer, p_objects jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '4s'
    AS $$
declare
  v_job jsonb := worker.lock_lease(p_kind, p_id, p_attempt);
  v_prefix text;
  v_wrong text;
begin
  if v_job is null then
    return 'lost';
  end if;
  v_prefix := worker.staging_prefix(p_kind, v_job, p_attempt);
  select object ->> 'key' into v_wrong from jsonb_array_elements(p_objects) object
  where not starts_with(object ->> 'key', v_prefix) or object ->> 'key' like '%..%' limit 1;
  if v_wrong is not null then
    raise exception 'key % does not begin with %: an attempt writes under its own prefix only', quote_literal(v_wrong), v_prefix using errcode = '22023';
  end if;
  insert into worker.staged_objects (bucket, key, kind, job_id, attempt, owner_id)
  select object ->> 'bucket', object ->> 'key', p_kind, p_id, p_attempt, (v_job ->> 'owner_id')::uuid
  from jsonb_array_elements(p_objects) object
  on conflict (bucket, key) do nothing;
  return worker.lease_state(v_job);
end $$;

COMMENT ON FUNCTION worker.stage_objects(p_kind text, p_id uuid, p_attempt integer, p_objects jsonb) IS 'Register object keys of an attempt before they are uploaded; refuses keys that do not name the attempt.';

CREATE FUNCTION worker.staging_prefix(p_kind text, p_job jsonb, p_attempt integer) RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select case p_kind
    when 'training' then format('%s/%s/%s/', p_job ->> 'subject_id', p_job ->> 'id', p_attempt)
    else format('%s/%s/generated/%s/%s/', p_job ->> 'owner_id', coalesce(p_job ->> 'subject_id', '_'), p_job ->> 'id', p_attempt)
  end
$$;

COMMENT ON FUNCTION worker.staging_prefix(p_kind text, p_job jsonb, p_attempt integer) IS 'The prefix of every key an attempt may write; it names the attempt.';

CREATE FUNCTION worker.start_job(p_kind text, p_id uuid, p_pod_id uuid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '4s'
    AS $_$
declare
  v_job jsonb;
  v_error text;
  v_inputs_error text[];
  v_started jsonb;
  v_payload jsonb;
begin
  -- The ids never change after the insert, so they may be read unlocked; the people are locked before the job.
  perform from public.subjects
  where id in (select subject_id from worker.job_subjects where kind = p_kind and job_id = p_id)
  order by id for share;
  v_job := worker.lock_job(p_kind, p_id);
  perform from worker.pgqueuer
  where dedupe_key = p_kind || ':' || p_id and queue_manager_id = p_pod_id and status = 'picked' for update;
  if not found then
    return null;
  end if;
  if v_job ->> 'status' = 'running' and (v_job ->> 'pod_id')::uuid = p_pod_id then
    return worker.start_payload(p_kind, v_job);  -- the first reply was lost
  elsif v_job is null or v_job ->> 'status' <> 'queued' then
    perform worker.dequeue_row(p_kind, p_id, 'canceled');
    return null;
  elsif v_job ->> 'cancel_requested_at' is not null then
    perform worker.settle_stopped(p_kind, v_job);
    return null;
  elsif (select paused from worker.job_kinds where kind = p_kind) then
    perform worker.requeue(p_kind, v_job, 0, interval '30 seconds', null, null, 'paused by an administrator');
    return null;
  end if;
  v_error := worker.job_consent_error(p_kind, p_id);
  if v_error is not null then
    perform worker.settle(p_kind, v_job, 'failed', 'consent_denied', v_error);
    return null;
  end if;
  begin
    v_inputs_error := worker.inputs_error(p_kind, v_job);
    if v_inputs_error is null then
      execute format(
        'update %s job set status = ''running'', attempt = attempt + 1, pod_id = $2, started_at = clock_timestamp(), progress = 0,
           phase = ''starting'', metrics = null, error_code = null, error = null
         where id = $1 returning to_jsonb(job)', worker.table_of(p_kind)) into v_started using p_id, p_pod_id;
      v_payload := worker.start_payload(p_kind, v_started);
    end if;
  exception when data_exception then
    -- Else every pod would fail over it, again and again.
    v_inputs_error := array['invalid_input', 'the request cannot be read: ' || sqlerrm];
  end;
  if v_inputs_error is not null then
    perform worker.settle(p_kind, v_job, 'failed', v_inputs_error[1], v_inputs_error[2]);
    return null;
  end if;
  perform worker.log_event(p_kind, p_id, (v_started ->> 'attempt')::integer, 'started',
    jsonb_build_object('pod_id', p_pod_id, 'pod', (select name from worker.pods where id = p_pod_id), 'resumed_step', v_payload -> 'checkpoint' -> 'step'));
  return v_payload;
end $_$;

COMMENT ON FUNCTION worker.start_job(p_kind text, p_id uuid, p_pod_id uuid) IS 'Start an attempt of a job; the attempt is the fencing token. NULL when there is nothing to run.';

CREATE FUNCTION worker.start_payload(p_kind text, p_job jsonb) RETURNS jsonb
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select jsonb_build_object(
    'kind', p_kind, 'id', p_job -> 'id', 'attempt', p_job -> 'attempt', 'job', p_job,
    'purpose', (select purpose from worker.job_kinds where kind = p_kind),
    'subjects', (select coalesce(jsonb_agg(subject_id order by subject_id), '[]') from worker.job_subjects
                 where kind = p_kind and job_id = (p_job ->> 'id')::uuid),
    'subject', (select jsonb_build_object('id', id, 'trigger_word', trigger_word) from public.subjects where id = (p_job ->> 'subject_id')::uuid),
    'base', (select to_jsonb(base) from worker.base_models base where slug = p_job ->> 'base'),
    'preset', p_job -> 'preset',
    'photos', case when p_kind = 'training' then worker.photos_of(p_job) else '[]' end,
    'models', case when p_kind = 'generation' then worker.models_of(p_job) else '[]' end,
    'checkpoint', (select jsonb_build_object('step', step, 'bucket', bucket, 'key', key) from worker.staged_objects
                   where kind = p_kind and job_id = (p_job ->> 'id')::uuid and state = 'checkpoint' order by step desc limit 1),
    'prefix', worker.staging_prefix(p_kind, p_job, (p_job ->> 'attempt')::integer))
$$;

COMMENT ON FUNCTION worker.start_payload(p_kind text, p_job jsonb) IS 'Everything a handler needs to know about a started attempt.';

CREATE FUNCTION worker.starved_routes(p_routes text[], p_wait interval) RETURNS text[]
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select coalesce(array_agg(route), '{}') from (
    select entrypoint as route from worker.pgqueuer
    where entrypoint = any (p_routes) and status = 'queued'
    group by entrypoint having min(execute_after) < clock_timestamp() - p_wait
  ) waiting
  where not exists (
    select from worker.pgqueuer_log picked
    where picked.entrypoint = waiting.route and picked.status = 'picked' and picked.created > clock_timestamp() - p_wait)
$$;

COMMENT ON FUNCTION worker.starved_routes(p_routes text[], p_wait interval) IS 'Routes whose oldest job has waited too long while no pod took any.';

CREATE FUNCTION worker.stop_jobs_of(p_subject_ids uuid[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_kind worker.job_kinds;
  v_job record;
begin
  for v_kind in select * from worker.job_kinds where purpose is not null order by kind loop
    for v_job in execute format(
      'select job.id, min(worker.consent_error(touched.subject_id, $2)) as error
       from %s job join worker.job_subjects touched on touched.kind = $1 and touched.job_id = job.id
       where touched.subject_id = any ($3) and job.status in (''queued'', ''running'')
         and worker.consent_error(touched.subject_id, $2) is not null
       group by job.id order by job.id', v_kind.table_name)
      using v_kind.kind, v_kind.purpose, p_subject_ids
    loop
      perform worker.request_stop(v_kind.kind, v_job.id, 'consent_denied', v_job.error);
    end loop;
  end loop;
end $_$;

COMMENT ON FUNCTION worker.stop_jobs_of(p_subject_ids uuid[]) IS 'Fail the queued jobs of people without consent, and interrupt the running ones.';

CREATE FUNCTION worker.subject_lock_key(p_subject_id uuid) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select hashtextextended('convenience copy of ' || p_subject_id, 0) $$;

COMMENT ON FUNCTION worker.subject_lock_key(p_subject_id uuid) IS 'The advisory lock that copying and erasing a subject''s LoRA take: never the row, so that no copy makes a revocation wait.';

CREATE FUNCTION worker.subjects_of(p_job jsonb) RETURNS SETOF uuid
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  select (p_job ->> 'subject_id')::uuid where p_job ->> 'subject_id' is not null
  union
  select models.subject_id from public.subjects_models models
  where models.id in (select worker.items(p_job, 'model_ids')::uuid) and models.subject_id is not null
  union
  select subjects.id from worker.named_keys(p_job) keys (key)
  join public.subjects on subjects.id = worker.key_subject(keys.key)
  union
  -- By the published object and its kind: ids are the clients' to choose, so an id alone proves nothing.
  select touched.subject_id from worker.named_keys(p_job) keys (key)
  join worker.staged_objects drawn on drawn.bucket = (select bucket_uploads from worker.config)
    and drawn.key = keys.key and drawn.state = 'published'
  join worker.job_subjects touched on touched.kind = drawn.kind and touched.job_id = drawn.job_id
$$;

COMMENT ON FUNCTION worker.subjects_of(p_job jsonb) IS 'Every person a job touches.';

CREATE FUNCTION worker.table_of(p_kind text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_table text := (select table_name from worker.job_kinds where kind = p_kind);
begin
  if v_table is null then
    raise exception 'no such kind of job: %', coalesce(p_kind, 'null')
      using errcode = '22023', hint = 'Kinds: ' || (select string_agg(kind, ', ' order by kind) from worker.job_kinds);
  end if;
  return v_table;
end $$;

COMMENT ON FUNCTION worker.table_of(p_kind text) IS 'The table of a kind of job.';

CREATE FUNCTION worker.take_garbage(p_limit integer) RETURNS jsonb
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  with due as (
    select id from worker.staged_objects where state = 'deleting' and offer_after <= clock_timestamp()
    order by offer_after limit p_limit for update skip locked
  ), taken as (
    update worker.staged_objects garbage set offer_after = clock_timestamp() + interval '1 minute'
    from due where garbage.id = due.id returning garbage.id, garbage.bucket, garbage.key
  )
  select coalesce(jsonb_agg(jsonb_build_object('id', id, 'bucket', bucket, 'key', key)), '[]') from taken
$$;

COMMENT ON FUNCTION worker.take_garbage(p_limit integer) IS 'Objects of ended attempts to delete in storage.';

CREATE FUNCTION worker.tick() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_last timestamptz;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('likeness tick', 0)) then
    return null;
  end if;
  select last_tick into v_last from worker.clock for update;
  if v_last < clock_timestamp() - interval '5 seconds' then
    -- Nobody looked for a while: a restart or an outage, after which no silence proves anything.
    update worker.clock set grace_from = clock_timestamp();
    update worker.pods set lock_free_since = null;
  end if;
  update worker.clock set last_tick = clock_timestamp();
  perform worker.reap();
  perform worker.expire_consent();
  perform worker.reconcile();
  perform worker.prune();
  return (select count(*) from worker.staged_objects where state = 'deleting' and offer_after <= clock_timestamp());
end $$;

COMMENT ON FUNCTION worker.tick() IS 'Housekeeping: reap, expire consent, reconcile, prune. Every 2 s, by two pods.';

CREATE FUNCTION worker.try_lock_job(p_kind text, p_id uuid) RETURNS jsonb
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
declare
  v_job jsonb;
begin
  execute format('select to_jsonb(job) from %s job where id = $1 for update skip locked', worker.table_of(p_kind)) into v_job using p_id;
  return v_job;
end $_$;

COMMENT ON FUNCTION worker.try_lock_job(p_kind text, p_id uuid) IS 'Lock a job and return its row, NULL when there is none or it is locked.';

CREATE FUNCTION worker.uploads_bucket() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$ select bucket_uploads from worker.config $$;

COMMENT ON FUNCTION worker.uploads_bucket() IS 'The bucket that apps upload to.';

CREATE FUNCTION worker.why_stranded(p_route text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
declare
  v_base worker.base_models;
  v_largest double precision := (select max(vram_gib) from worker.pods where worker.is_alive(pods));
begin
  if exists (select from worker.pods where p_route = any (routes) and worker.is_alive(pods)) then
    return null;
  elsif not exists (select from worker.pods where worker.is_alive(pods)) then
    return 'no pod is running';
  end if;
  select * into v_base from worker.base_models where slug = nullif(split_part(p_route, '/', 2), '');
  if v_base.slug is null then
    return 'no live pod takes ' || p_route || ': look at its WORKER_KINDS';
  elsif not exists (select from worker.pods where worker.is_alive(pods) and worker.fits_memory(v_base.min_vram_gib, vram_gib)) then
    return format('%s needs %s GiB of GPU memory, %s', v_base.slug, v_base.min_vram_gib,
      coalesce('the largest pod has ' || trim_scale(round(v_largest::numeric, 1)), 'no live pod has a GPU that is ready'));
  elsif not exists (select from worker.pods where worker.is_alive(pods)
                    and worker.fits_memory(v_base.min_vram_gib, vram_gib) and v_base.slug = any (models_present)) then
    return 'no live pod has ' || v_base.slug || ', nor has the bucket: worker models push ' || v_base.slug;
  end if;
  return 'the pods that have ' || v_base.slug || ' do not take ' || p_route || ': their logs say why';
end $$;

COMMENT ON FUNCTION worker.why_stranded(p_route text) IS 'Why no live pod takes a route; NULL when one does.';

CREATE TABLE public.generation_jobs (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    owner_id uuid,
    subject_id uuid,
    status text DEFAULT 'queued'::text NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    max_failures integer DEFAULT 3 NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    run_after timestamp with time zone,
    max_runtime interval,
    progress real DEFAULT 0 NOT NULL,
    phase text,
    cancel_requested_at timestamp with time zone,
    cancel_code text,
    error_code text,
    error text,
    result jsonb,
    metrics jsonb,
    gpu_seconds double precision DEFAULT 0 NOT NULL,
    pod_id uuid,
    preset jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    base text,
    preset_id uuid,
    prompt text DEFAULT ''::text NOT NULL,
    negative_prompt text,
    model_ids uuid[],
    lora_scales real[],
    reference_paths text[],
    reference_scale real,
    control_path text,
    control_kind text,
    control_scale real,
    width integer,
    height integer,
    steps integer,
    guidance real,
    seed bigint,
    num_images integer DEFAULT 1 NOT NULL,
    upscale integer DEFAULT 4 NOT NULL,
    quality integer DEFAULT 92 NOT NULL,
    output_format text DEFAULT 'png'::text NOT NULL,
    CONSTRAINT cancel_code_is_known CHECK ((cancel_code = ANY (ARRAY['cancelled'::text, 'consent_denied'::text]))),
    CONSTRAINT ended_jobs_have_an_end CHECK (((status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT failed_jobs_have_a_code CHECK (((status <> 'failed'::text) OR (error_code IS NOT NULL))),
    CONSTRAINT generation_jobs_control_path_and_kind_together CHECK (((control_path IS NULL) = (control_kind IS NULL))),
    CONSTRAINT generation_jobs_control_scale_between_0_and_2 CHECK (((control_scale >= (0)::double precision) AND (control_scale <= (2)::double precision))),
    CONSTRAINT generation_jobs_guidance_between_0_and_30 CHECK (((guidance >= (0)::double precision) AND (guidance <= (30)::double precision))),
    CONSTRAINT generation_jobs_height_between_64_and_2048_in_16s CHECK ((((height >= 64) AND (height <= 2048)) AND ((height % 16) = 0))),
    CONSTRAINT generation_jobs_lora_scales_between_minus_2_and_2 CHECK (((lora_scales IS NULL) OR ((('-2'::integer)::double precision <= ALL (lora_scales)) AND ((2)::double precision >= ALL (lora_scales))))),
    CONSTRAINT generation_jobs_lora_scales_is_a_list CHECK ((array_ndims(lora_scales) = 1)),
    CONSTRAINT generation_jobs_lora_scales_match_model_ids CHECK (((lora_scales IS NULL) OR ((model_ids IS NOT NULL) AND (cardinality(lora_scales) = cardinality(model_ids))))),
    CONSTRAINT generation_jobs_model_ids_is_a_list CHECK ((array_ndims(model_ids) = 1)),
    CONSTRAINT generation_jobs_model_ids_up_to_4 CHECK ((cardinality(model_ids) <= 4)),
    CONSTRAINT generation_jobs_negative_prompt_up_to_2000_characters CHECK ((length(negative_prompt) <= 2000)),
    CONSTRAINT generation_jobs_num_images_between_1_and_16 CHECK (((num_images >= 1) AND (num_images <= 16))),
    CONSTRAINT generation_jobs_output_format_is_png_jpeg_or_webp CHECK ((output_format = ANY (ARRAY['png'::text, 'jpeg'::text, 'webp'::text]))),
    CONSTRAINT generation_jobs_prompt_up_to_2000_characters CHECK ((length(prompt) <= 2000)),
    CONSTRAINT generation_jobs_quality_between_1_and_100 CHECK (((quality >= 1) AND (quality <= 100))),
    CONSTRAINT generation_jobs_reference_paths_1_to_4 CHECK (((cardinality(reference_paths) >= 1) AND (cardinality(reference_paths) <= 4))),
    CONSTRAINT generation_jobs_reference_paths_is_a_list CHECK ((array_ndims(reference_paths) = 1)),
    CONSTRAINT generation_jobs_reference_scale_between_0_and_2 CHECK (((reference_scale >= (0)::double precision) AND (reference_scale <= (2)::double precision))),
    CONSTRAINT generation_jobs_seed_between_0_and_4294967295 CHECK (((seed >= 0) AND (seed <= '4294967295'::bigint))),
    CONSTRAINT generation_jobs_steps_between_1_and_100 CHECK (((steps >= 1) AND (steps <= 100))),
    CONSTRAINT generation_jobs_upscale_is_2_or_4 CHECK ((upscale = ANY (ARRAY[2, 4]))),
    CONSTRAINT generation_jobs_width_between_64_and_2048_in_16s CHECK ((((width >= 64) AND (width <= 2048)) AND ((width % 16) = 0))),
    CONSTRAINT max_failures_between_1_and_20 CHECK (((max_failures >= 1) AND (max_failures <= 20))),
    CONSTRAINT max_runtime_between_1_second_and_1_day CHECK (((max_runtime >= '00:00:01'::interval) AND (max_runtime <= '1 day'::interval))),
    CONSTRAINT priority_between_minus_1000_and_1000 CHECK (((priority >= '-1000'::integer) AND (priority <= 1000))),
    CONSTRAINT progress_between_0_and_1 CHECK (((progress >= (0)::double precision) AND (progress <= (1)::double precision))),
    CONSTRAINT status_is_known CHECK ((status = ANY (ARRAY['queued'::text, 'running'::text, 'completed'::text, 'failed'::text, 'cancelled'::text])))
);

COMMENT ON TABLE public.generation_jobs IS 'Requests for pictures. model_ids NULL: the subject''s current LoRA. steps, guidance, width, height NULL: the base''s own defaults.';

COMMENT ON COLUMN public.generation_jobs.id IS 'Settable by the client: the idempotency key.';

COMMENT ON COLUMN public.generation_jobs.owner_id IS 'Who asked: the subject''s owner, else the signed-in user.';

COMMENT ON COLUMN public.generation_jobs.subject_id IS 'The person or product it is about.';

COMMENT ON COLUMN public.generation_jobs.status IS 'queued, running, completed, failed or cancelled.';

COMMENT ON COLUMN public.generation_jobs.attempt IS 'The fencing token: one more at every start, never less.';

COMMENT ON COLUMN public.generation_jobs.failures IS 'Attempts that ended badly, a dead worker included; a shutdown is not one.';

COMMENT ON COLUMN public.generation_jobs.max_failures IS 'The job ends as failed when failures gets here.';

COMMENT ON COLUMN public.generation_jobs.priority IS 'Higher goes first.';

COMMENT ON COLUMN public.generation_jobs.run_after IS 'Not before this time; set to the time of the next try after a failure.';

COMMENT ON COLUMN public.generation_jobs.max_runtime IS 'A longer attempt ends as timeout. Left open, its kind''s.';

COMMENT ON COLUMN public.generation_jobs.progress IS 'From 0 to 1.';

COMMENT ON COLUMN public.generation_jobs.phase IS 'What it is doing, or waiting for, in words for a person.';

COMMENT ON COLUMN public.generation_jobs.cancel_requested_at IS 'The running attempt must stop; cancel_code says why.';

COMMENT ON COLUMN public.generation_jobs.cancel_code IS 'cancelled, or consent_denied after a revocation.';

COMMENT ON COLUMN public.generation_jobs.error_code IS 'How it went wrong; see the error codes.';

COMMENT ON COLUMN public.generation_jobs.error IS 'The same in words for the app''s user.';

COMMENT ON COLUMN public.generation_jobs.result IS 'What came of it: keys, sizes, seed, settings used.';

COMMENT ON COLUMN public.generation_jobs.metrics IS 'The last report''s: step, loss, learning rate, seconds.';

COMMENT ON COLUMN public.generation_jobs.gpu_seconds IS 'Summed over all attempts, failed ones too.';

COMMENT ON COLUMN public.generation_jobs.pod_id IS 'The pod that runs it, or ran it last.';

COMMENT ON COLUMN public.generation_jobs.preset IS 'The preset as it was when the job was inserted; its settings filled the columns that were left open.';

COMMENT ON COLUMN public.generation_jobs.created_at IS 'When the request was inserted.';

COMMENT ON COLUMN public.generation_jobs.started_at IS 'When the last attempt started.';

COMMENT ON COLUMN public.generation_jobs.finished_at IS 'When it ended; NULL while it is open.';

COMMENT ON COLUMN public.generation_jobs.base IS 'The base to draw with. Left open, that of the LoRA, else worker.config.default_base.';

COMMENT ON COLUMN public.generation_jobs.preset_id IS 'A preset of one''s own or everybody''s.';

COMMENT ON COLUMN public.generation_jobs.prompt IS 'What to draw. The trigger word is added where it is missing.';

COMMENT ON COLUMN public.generation_jobs.negative_prompt IS 'What not to draw, where the base can use it.';

COMMENT ON COLUMN public.generation_jobs.model_ids IS 'The LoRAs to use; NULL: the subject''s newest of the base, else the newest of its family.';

COMMENT ON COLUMN public.generation_jobs.lora_scales IS 'The strength of each of model_ids; left open, 1.';

COMMENT ON COLUMN public.generation_jobs.reference_paths IS 'Reserved: keys of pictures to go by.';

COMMENT ON COLUMN public.generation_jobs.reference_scale IS 'Reserved: the strength of the references.';

COMMENT ON COLUMN public.generation_jobs.control_path IS 'Reserved: the key of a picture that gives pose or outline.';

COMMENT ON COLUMN public.generation_jobs.control_kind IS 'Reserved: what control_path shows.';

COMMENT ON COLUMN public.generation_jobs.control_scale IS 'Reserved: the strength of the control.';

COMMENT ON COLUMN public.generation_jobs.width IS 'In pixels, before upscaling. Left open, the base''s default.';

COMMENT ON COLUMN public.generation_jobs.height IS 'In pixels, before upscaling. Left open, the base''s default.';

COMMENT ON COLUMN public.generation_jobs.steps IS 'Left open, the base''s default.';

COMMENT ON COLUMN public.generation_jobs.guidance IS 'How closely to follow the prompt. Left open, the base''s default.';

COMMENT ON COLUMN public.generation_jobs.seed IS 'The same seed draws the same picture. Left open, one that is the job''s own.';

COMMENT ON COLUMN public.generation_jobs.num_images IS 'How many pictures to draw.';

COMMENT ON COLUMN public.generation_jobs.upscale IS 'Every picture is upscaled, by 2 or 4.';

COMMENT ON COLUMN public.generation_jobs.quality IS 'Of JPEG and WebP files, 1 to 100.';

COMMENT ON COLUMN public.generation_jobs.output_format IS 'png, jpeg or webp.';

CREATE TABLE public.presets (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    owner_id uuid DEFAULT auth.uid(),
    name text NOT NULL,
    kind text NOT NULL,
    prompt text DEFAULT ''::text NOT NULL,
    negative_prompt text,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT presets_kind_is_known CHECK ((kind = ANY (ARRAY['training'::text, 'generation'::text]))),
    CONSTRAINT presets_name_1_to_100_characters CHECK (((length(name) >= 1) AND (length(name) <= 100))),
    CONSTRAINT presets_negative_prompt_up_to_2000_characters CHECK ((length(negative_prompt) <= 2000)),
    CONSTRAINT presets_prompt_up_to_2000_characters CHECK ((length(prompt) <= 2000)),
    CONSTRAINT presets_settings_is_a_small_object CHECK (((jsonb_typeof(settings) = 'object'::text) AND (octet_length((settings)::text) <= 4000)))
);

COMMENT ON TABLE public.presets IS 'A look to reuse. owner_id NULL: everybody''s. In prompt, {prompt} stands for the request''s and {trigger} for the person''s trigger word.';

COMMENT ON COLUMN public.presets.id IS 'What preset_id of a job names.';

COMMENT ON COLUMN public.presets.owner_id IS 'The user it belongs to; NULL: everybody''s.';

COMMENT ON COLUMN public.presets.name IS 'For the app''s own use.';

COMMENT ON COLUMN public.presets.kind IS 'training or generation.';

COMMENT ON COLUMN public.presets.prompt IS '{prompt} stands for the request''s prompt, {trigger} for the trigger word.';

COMMENT ON COLUMN public.presets.negative_prompt IS 'Joined with the request''s own.';

COMMENT ON COLUMN public.presets.settings IS 'Columns to fill where the request leaves them open: width, height, steps, guidance, rank, learning_rate, resolution, class_name.';

COMMENT ON COLUMN public.presets.created_at IS 'When the row was inserted.';

CREATE TABLE public.subject_photos (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    subject_id uuid NOT NULL,
    path text NOT NULL,
    caption text,
    status text DEFAULT 'new'::text NOT NULL,
    reason text,
    prepared_path text,
    width integer,
    height integer,
    face jsonb,
    sha256 text,
    phash text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT subject_photos_caption_up_to_1000_characters CHECK ((length(caption) <= 1000)),
    CONSTRAINT subject_photos_status_is_known CHECK ((status = ANY (ARRAY['new'::text, 'accepted'::text, 'rejected'::text])))
);

COMMENT ON TABLE public.subject_photos IS 'Photographs in the uploads bucket, under {owner_id}/{subject_id}/photos/.';

COMMENT ON COLUMN public.subject_photos.id IS 'Settable by the client.';

COMMENT ON COLUMN public.subject_photos.subject_id IS 'Whose photograph it is.';

COMMENT ON COLUMN public.subject_photos.path IS 'The object''s key, under {owner_id}/{subject_id}/photos/.';

COMMENT ON COLUMN public.subject_photos.caption IS 'What the photograph shows beside the person; used in training.';

COMMENT ON COLUMN public.subject_photos.status IS 'new, accepted or rejected; rejected ones are not trained on.';

COMMENT ON COLUMN public.subject_photos.reason IS 'Why it was rejected.';

COMMENT ON COLUMN public.subject_photos.prepared_path IS 'Reserved for photo checks.';

COMMENT ON COLUMN public.subject_photos.width IS 'Reserved for photo checks.';

COMMENT ON COLUMN public.subject_photos.height IS 'Reserved for photo checks.';

COMMENT ON COLUMN public.subject_photos.face IS 'Reserved for photo checks.';

COMMENT ON COLUMN public.subject_photos.sha256 IS 'Reserved for photo checks.';

COMMENT ON COLUMN public.subject_photos.phash IS 'Reserved for photo checks.';

COMMENT ON COLUMN public.subject_photos.created_at IS 'When the row was inserted.';

CREATE TABLE public.subjects (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    owner_id uuid DEFAULT auth.uid(),
    name text NOT NULL,
    trigger_word text,
    subject_is_adult boolean DEFAULT false NOT NULL,
    consent_status text DEFAULT 'pending'::text NOT NULL,
    consent_purposes text[] DEFAULT '{}'::text[] NOT NULL,
    consent_expires_at timestamp with time zone,
    erased_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT subjects_approved_is_for_adults CHECK (((consent_status <> 'approved'::text) OR subject_is_adult)),
    CONSTRAINT subjects_approved_names_purposes CHECK (((consent_status <> 'approved'::text) OR (consent_purposes <> '{}'::text[]))),
    CONSTRAINT subjects_consent_purposes_are_known CHECK ((consent_purposes <@ '{training,generation}'::text[])),
    CONSTRAINT subjects_consent_status_is_known CHECK ((consent_status = ANY (ARRAY['pending'::text, 'approved'::text, 'rejected'::text, 'revoked'::text]))),
    CONSTRAINT subjects_name_1_to_200_characters CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT subjects_trigger_word_is_one_word CHECK ((trigger_word ~ '^[[:alnum:]_]{2,40}$'::text))
);

COMMENT ON TABLE public.subjects IS 'People and products. Consent columns change only through grant_consent, reject_consent and revoke_consent.';

COMMENT ON COLUMN public.subjects.id IS 'Settable by the client.';

COMMENT ON COLUMN public.subjects.owner_id IS 'The user it belongs to; NULL once that account was deleted, which takes consent back.';

COMMENT ON COLUMN public.subjects.name IS 'For the app''s own use; no job, file or log carries it.';

COMMENT ON COLUMN public.subjects.trigger_word IS 'The word that calls the person up in a prompt; made when it is left open.';

COMMENT ON COLUMN public.subjects.subject_is_adult IS 'Stated by whoever made the subject or granted consent. Only adults can agree.';

COMMENT ON COLUMN public.subjects.consent_status IS 'pending, approved, rejected or revoked.';

COMMENT ON COLUMN public.subjects.consent_purposes IS 'What the person agreed to: training, generation.';

COMMENT ON COLUMN public.subjects.consent_expires_at IS 'Consent ends then by itself; NULL: it does not.';

COMMENT ON COLUMN public.subjects.erased_at IS 'When the person''s data was erased.';

COMMENT ON COLUMN public.subjects.created_at IS 'When the row was inserted.';

CREATE TABLE public.subjects_models (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    subject_id uuid,
    job_id uuid,
    version integer NOT NULL,
    base text NOT NULL,
    family text NOT NULL,
    path text NOT NULL,
    sha256 text NOT NULL,
    rank integer NOT NULL,
    trigger_word text,
    metrics jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    retired_at timestamp with time zone,
    CONSTRAINT subjects_models_sha256_is_hex CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text))
);

COMMENT ON TABLE public.subjects_models IS 'Trained LoRAs. A request that names none takes the subject''s newest unretired one of its base, else of its base''s family.';

COMMENT ON COLUMN public.subjects_models.id IS 'What model_ids of a generation job names.';

COMMENT ON COLUMN public.subjects_models.subject_id IS 'The person or product; NULL only for a LoRA that shows nobody.';

COMMENT ON COLUMN public.subjects_models.job_id IS 'The training job that made it.';

COMMENT ON COLUMN public.subjects_models.version IS 'Counts up for each subject and family.';

COMMENT ON COLUMN public.subjects_models.base IS 'The base it was trained on.';

COMMENT ON COLUMN public.subjects_models.family IS 'The bases it fits.';

COMMENT ON COLUMN public.subjects_models.path IS 'The object''s key in the models bucket.';

COMMENT ON COLUMN public.subjects_models.sha256 IS 'Checked before the file is loaded.';

COMMENT ON COLUMN public.subjects_models.rank IS 'The LoRA''s rank.';

COMMENT ON COLUMN public.subjects_models.trigger_word IS 'The word that calls the person up.';

COMMENT ON COLUMN public.subjects_models.metrics IS 'steps, final_loss, photos and the like.';

COMMENT ON COLUMN public.subjects_models.created_at IS 'When it was published.';

COMMENT ON COLUMN public.subjects_models.retired_at IS 'Set to keep it from being taken by requests that name no LoRA.';

CREATE TABLE public.training_jobs (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    owner_id uuid,
    subject_id uuid,
    status text DEFAULT 'queued'::text NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    max_failures integer DEFAULT 3 NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    run_after timestamp with time zone,
    max_runtime interval,
    progress real DEFAULT 0 NOT NULL,
    phase text,
    cancel_requested_at timestamp with time zone,
    cancel_code text,
    error_code text,
    error text,
    result jsonb,
    metrics jsonb,
    gpu_seconds double precision DEFAULT 0 NOT NULL,
    pod_id uuid,
    preset jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    base text,
    preset_id uuid,
    sample_paths text[],
    trigger_word text,
    steps integer,
    rank integer,
    learning_rate real,
    resolution integer,
    seed bigint,
    class_name text,
    CONSTRAINT cancel_code_is_known CHECK ((cancel_code = ANY (ARRAY['cancelled'::text, 'consent_denied'::text]))),
    CONSTRAINT ended_jobs_have_an_end CHECK (((status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT failed_jobs_have_a_code CHECK (((status <> 'failed'::text) OR (error_code IS NOT NULL))),
    CONSTRAINT max_failures_between_1_and_20 CHECK (((max_failures >= 1) AND (max_failures <= 20))),
    CONSTRAINT max_runtime_between_1_second_and_1_day CHECK (((max_runtime >= '00:00:01'::interval) AND (max_runtime <= '1 day'::interval))),
    CONSTRAINT priority_between_minus_1000_and_1000 CHECK (((priority >= '-1000'::integer) AND (priority <= 1000))),
    CONSTRAINT progress_between_0_and_1 CHECK (((progress >= (0)::double precision) AND (progress <= (1)::double precision))),
    CONSTRAINT status_is_known CHECK ((status = ANY (ARRAY['queued'::text, 'running'::text, 'completed'::text, 'failed'::text, 'cancelled'::text]))),
    CONSTRAINT training_jobs_class_name_is_a_phrase_of_up_to_40_characters CHECK (((length(class_name) <= 40) AND (class_name ~ '^[[:alpha:]]+([ ''-][[:alpha:]]+)*$'::text))),
    CONSTRAINT training_jobs_learning_rate_above_0_up_to_1 CHECK (((learning_rate > (0)::double precision) AND (learning_rate <= (1)::double precision))),
    CONSTRAINT training_jobs_rank_between_1_and_128 CHECK (((rank >= 1) AND (rank <= 128))),
    CONSTRAINT training_jobs_resolution_between_64_and_2048 CHECK (((resolution >= 64) AND (resolution <= 2048))),
    CONSTRAINT training_jobs_sample_paths_3_to_200 CHECK (((cardinality(sample_paths) >= 3) AND (cardinality(sample_paths) <= 200))),
    CONSTRAINT training_jobs_sample_paths_is_a_list CHECK ((array_ndims(sample_paths) = 1)),
    CONSTRAINT training_jobs_seed_between_0_and_4294967295 CHECK (((seed >= 0) AND (seed <= '4294967295'::bigint))),
    CONSTRAINT training_jobs_steps_between_1_and_10000 CHECK (((steps >= 1) AND (steps <= 10000))),
    CONSTRAINT training_jobs_trigger_word_is_one_word CHECK ((trigger_word ~ '^[[:alnum:]_]{2,40}$'::text))
);

COMMENT ON TABLE public.training_jobs IS 'Requests to train a LoRA of a subject. sample_paths NULL: all photos that are not rejected.';

COMMENT ON COLUMN public.training_jobs.id IS 'Settable by the client: the idempotency key.';

COMMENT ON COLUMN public.training_jobs.owner_id IS 'Who asked: the subject''s owner, else the signed-in user.';

COMMENT ON COLUMN public.training_jobs.subject_id IS 'The person or product it is about.';

COMMENT ON COLUMN public.training_jobs.status IS 'queued, running, completed, failed or cancelled.';

COMMENT ON COLUMN public.training_jobs.attempt IS 'The fencing token: one more at every start, never less.';

COMMENT ON COLUMN public.training_jobs.failures IS 'Attempts that ended badly, a dead worker included; a shutdown is not one.';

COMMENT ON COLUMN public.training_jobs.max_failures IS 'The job ends as failed when failures gets here.';

COMMENT ON COLUMN public.training_jobs.priority IS 'Higher goes first.';

COMMENT ON COLUMN public.training_jobs.run_after IS 'Not before this time; set to the time of the next try after a failure.';

COMMENT ON COLUMN public.training_jobs.max_runtime IS 'A longer attempt ends as timeout. Left open, its kind''s.';

COMMENT ON COLUMN public.training_jobs.progress IS 'From 0 to 1.';

COMMENT ON COLUMN public.training_jobs.phase IS 'What it is doing, or waiting for, in words for a person.';

COMMENT ON COLUMN public.training_jobs.cancel_requested_at IS 'The running attempt must stop; cancel_code says why.';

COMMENT ON COLUMN public.training_jobs.cancel_code IS 'cancelled, or consent_denied after a revocation.';

COMMENT ON COLUMN public.training_jobs.error_code IS 'How it went wrong; see the error codes.';

COMMENT ON COLUMN public.training_jobs.error IS 'The same in words for the app''s user.';

COMMENT ON COLUMN public.training_jobs.result IS 'What came of it: keys, sizes, seed, settings used.';

COMMENT ON COLUMN public.training_jobs.metrics IS 'The last report''s: step, loss, learning rate, seconds.';

COMMENT ON COLUMN public.training_jobs.gpu_seconds IS 'Summed over all attempts, failed ones too.';

COMMENT ON COLUMN public.training_jobs.pod_id IS 'The pod that runs it, or ran it last.';

COMMENT ON COLUMN public.training_jobs.preset IS 'The preset as it was when the job was inserted; its settings filled the columns that were left open.';

COMMENT ON COLUMN public.training_jobs.created_at IS 'When the request was inserted.';

COMMENT ON COLUMN public.training_jobs.started_at IS 'When the last attempt started.';

COMMENT ON COLUMN public.training_jobs.finished_at IS 'When it ended; NULL while it is open.';

COMMENT ON COLUMN public.training_jobs.base IS 'The base to train on. Left open, worker.config.default_base.';

COMMENT ON COLUMN public.training_jobs.preset_id IS 'A preset of one''s own or everybody''s.';

COMMENT ON COLUMN public.training_jobs.sample_paths IS 'Keys of the photographs to use; NULL: all of the subject''s that are not rejected.';

COMMENT ON COLUMN public.training_jobs.trigger_word IS 'Left open, the subject''s.';

COMMENT ON COLUMN public.training_jobs.steps IS 'Left open, the family''s own number for so many photographs.';

COMMENT ON COLUMN public.training_jobs.rank IS 'Rank of the LoRA. Left open, the family''s default.';

COMMENT ON COLUMN public.training_jobs.learning_rate IS 'Left open, the family''s default.';

COMMENT ON COLUMN public.training_jobs.resolution IS 'Train on photographs of this size, in pixels. Left open, the family''s default sizes.';

COMMENT ON COLUMN public.training_jobs.seed IS 'Left open, one that is the job''s own.';

COMMENT ON COLUMN public.training_jobs.class_name IS 'What stands for the trigger word when the LoRA is taught to leave others as they are: "a person" where it is left open, else say "a woman" or "a mug".';

CREATE TABLE worker.allowed_phrases (
    screens text NOT NULL,
    phrase text NOT NULL
);

COMMENT ON TABLE worker.allowed_phrases IS 'Innocent phrases: inside one of them a screened term counts for nothing.';

COMMENT ON COLUMN worker.allowed_phrases.screens IS 'In which kind of prompt: prompt or negative_prompt.';

COMMENT ON COLUMN worker.allowed_phrases.phrase IS 'Folded.';

CREATE TABLE worker.base_models (
    slug text NOT NULL,
    family text NOT NULL,
    train_base text,
    capabilities text[] NOT NULL,
    sizes text[] DEFAULT '{}'::text[] NOT NULL,
    defaults jsonb DEFAULT '{}'::jsonb NOT NULL,
    min_vram_gib real DEFAULT 0 NOT NULL,
    licence text NOT NULL,
    commercial_use boolean NOT NULL,
    CONSTRAINT base_models_slug_is_a_folder_name CHECK ((slug ~ '^[a-z0-9][a-z0-9._-]{0,100}$'::text))
);

COMMENT ON TABLE worker.base_models IS 'What each base can do. LoRAs fit a family; train_base is set where a base only serves and another one of its family is trained.';

COMMENT ON COLUMN worker.base_models.slug IS 'The folder under MODELS_DIR and under models/base/ in the model bucket.';

COMMENT ON COLUMN worker.base_models.family IS 'LoRAs fit every base of their family.';

COMMENT ON COLUMN worker.base_models.train_base IS 'Where this base only serves: the one of its family that is trained.';

COMMENT ON COLUMN worker.base_models.capabilities IS 'train, lora, ip_adapter, control:KIND. A request for anything else is refused when it is inserted.';

COMMENT ON COLUMN worker.base_models.sizes IS 'Sizes in pixels that the base draws best, as WIDTHxHEIGHT.';

COMMENT ON COLUMN worker.base_models.defaults IS 'What a request gets that leaves it open: steps, guidance, width, height; under training: steps, rank, learning_rate, resolution, batch_size, preservation.';

COMMENT ON COLUMN worker.base_models.min_vram_gib IS 'Pods with less GPU memory do not offer the base; 0: a CPU will do.';

COMMENT ON COLUMN worker.base_models.licence IS 'The licence of the weights, as their publisher calls it.';

COMMENT ON COLUMN worker.base_models.commercial_use IS 'Whether that licence allows commercial use without another agreement.';

CREATE TABLE worker.clock (
    singleton boolean DEFAULT true NOT NULL,
    last_tick timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    grace_from timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT clock_is_one_row CHECK (singleton)
);

COMMENT ON TABLE worker.clock IS 'When the last tick ran. After a gap (a restart, an outage) every grace starts anew at grace_from.';

COMMENT ON COLUMN worker.clock.singleton IS 'There is one row.';

COMMENT ON COLUMN worker.clock.last_tick IS 'When housekeeping last ran.';

COMMENT ON COLUMN worker.clock.grace_from IS 'No silence before this time counts against a pod.';

CREATE TABLE worker.config (
    singleton boolean DEFAULT true NOT NULL,
    consent_mode text DEFAULT 'admin'::text NOT NULL,
    default_base text DEFAULT 'flux-dev'::text NOT NULL,
    open_jobs_per_owner integer DEFAULT 10 NOT NULL,
    bucket_uploads text DEFAULT 'uploads'::text NOT NULL,
    bucket_models text DEFAULT 'model_artifacts'::text NOT NULL,
    keep_logs_for interval DEFAULT '30 days'::interval NOT NULL,
    CONSTRAINT config_consent_mode_is_known CHECK ((consent_mode = ANY (ARRAY['admin'::text, 'owner_attests'::text]))),
    CONSTRAINT config_is_one_row CHECK (singleton),
    CONSTRAINT config_open_jobs_per_owner_positive CHECK ((open_jobs_per_owner > 0))
);

COMMENT ON TABLE worker.config IS 'One row: what an administrator decides for the whole installation.';

COMMENT ON COLUMN worker.config.singleton IS 'There is one row.';

COMMENT ON COLUMN worker.config.consent_mode IS 'admin: consent is granted by service_role only; owner_attests: also by the subject''s owner, who must confirm.';

COMMENT ON COLUMN worker.config.default_base IS 'The base of a job that names none and has no LoRA to go by.';

COMMENT ON COLUMN worker.config.open_jobs_per_owner IS 'More queued and running jobs of one owner are refused with PT429 (HTTP 429).';

COMMENT ON COLUMN worker.config.bucket_uploads IS 'The bucket of photographs and pictures; BUCKET_UPLOADS of every pod must agree.';

COMMENT ON COLUMN worker.config.bucket_models IS 'The bucket of LoRAs and base models; BUCKET_MODELS of every pod must agree.';

COMMENT ON COLUMN worker.config.keep_logs_for IS 'Older rows of job_events and of the queue''s log are deleted.';

CREATE TABLE worker.consent_events (
    id bigint NOT NULL,
    subject_id uuid NOT NULL,
    event text NOT NULL,
    purposes text[] DEFAULT '{}'::text[] NOT NULL,
    expires_at timestamp with time zone,
    reason text,
    evidence_digest text,
    job_kind text,
    job_id uuid,
    actor text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT consent_events_event_is_known CHECK ((event = ANY (ARRAY['grant'::text, 'reject'::text, 'revoke'::text, 'expiry'::text, 'refusal'::text, 'erasure'::text]))),
    CONSTRAINT consent_events_reason_up_to_300_characters CHECK ((length(reason) <= 300))
);

COMMENT ON TABLE worker.consent_events IS 'The consent ledger: append-only, nothing personal, no foreign key, so that it outlives the subject. evidence_digest is the SHA-256 of the evidence, or of the reason that was given; reason holds words of our own alone.';

COMMENT ON COLUMN worker.consent_events.id IS 'In the order in which it was written.';

COMMENT ON COLUMN worker.consent_events.subject_id IS 'The person; no foreign key.';

COMMENT ON COLUMN worker.consent_events.event IS 'grant, reject, revoke, expiry, refusal or erasure.';

COMMENT ON COLUMN worker.consent_events.purposes IS 'What was granted, or what a refused job wanted.';

COMMENT ON COLUMN worker.consent_events.expires_at IS 'When the grant ends.';

COMMENT ON COLUMN worker.consent_events.reason IS 'Words of our own; never what somebody typed.';

COMMENT ON COLUMN worker.consent_events.evidence_digest IS 'SHA-256 of the evidence, or of the reason that was given.';

COMMENT ON COLUMN worker.consent_events.job_kind IS 'Of a refusal: the kind of the job.';

COMMENT ON COLUMN worker.consent_events.job_id IS 'Of a refusal: the job.';

COMMENT ON COLUMN worker.consent_events.actor IS 'The signed-in user, else the role of the session.';

COMMENT ON COLUMN worker.consent_events.at IS 'When.';

ALTER TABLE worker.consent_events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME worker.consent_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE worker.internal_jobs (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    owner_id uuid,
    subject_id uuid,
    status text DEFAULT 'queued'::text NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    max_failures integer DEFAULT 3 NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    run_after timestamp with time zone,
    max_runtime interval,
    progress real DEFAULT 0 NOT NULL,
    phase text,
    cancel_requested_at timestamp with time zone,
    cancel_code text,
    error_code text,
    error text,
    result jsonb,
    metrics jsonb,
    gpu_seconds double precision DEFAULT 0 NOT NULL,
    pod_id uuid,
    preset jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    payload jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT cancel_code_is_known CHECK ((cancel_code = ANY (ARRAY['cancelled'::text, 'consent_denied'::text]))),
    CONSTRAINT ended_jobs_have_an_end CHECK (((status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT failed_jobs_have_a_code CHECK (((status <> 'failed'::text) OR (error_code IS NOT NULL))),
    CONSTRAINT max_failures_between_1_and_20 CHECK (((max_failures >= 1) AND (max_failures <= 20))),
    CONSTRAINT max_runtime_between_1_second_and_1_day CHECK (((max_runtime >= '00:00:01'::interval) AND (max_runtime <= '1 day'::interval))),
    CONSTRAINT priority_between_minus_1000_and_1000 CHECK (((priority >= '-1000'::integer) AND (priority <= 1000))),
    CONSTRAINT progress_between_0_and_1 CHECK (((progress >= (0)::double precision) AND (progress <= (1)::double precision))),
    CONSTRAINT status_is_known CHECK ((status = ANY (ARRAY['queued'::text, 'running'::text, 'completed'::text, 'failed'::text, 'cancelled'::text])))
);

COMMENT ON TABLE worker.internal_jobs IS 'Light jobs of the worker''s own, such as the convenience copy of a new LoRA.';

COMMENT ON COLUMN worker.internal_jobs.id IS 'Settable by the client: the idempotency key.';

COMMENT ON COLUMN worker.internal_jobs.owner_id IS 'Who asked: the subject''s owner, else the signed-in user.';

COMMENT ON COLUMN worker.internal_jobs.subject_id IS 'The person or product it is about.';

COMMENT ON COLUMN worker.internal_jobs.status IS 'queued, running, completed, failed or cancelled.';

COMMENT ON COLUMN worker.internal_jobs.attempt IS 'The fencing token: one more at every start, never less.';

COMMENT ON COLUMN worker.internal_jobs.failures IS 'Attempts that ended badly, a dead worker included; a shutdown is not one.';

COMMENT ON COLUMN worker.internal_jobs.max_failures IS 'The job ends as failed when failures gets here.';

COMMENT ON COLUMN worker.internal_jobs.priority IS 'Higher goes first.';

COMMENT ON COLUMN worker.internal_jobs.run_after IS 'Not before this time; set to the time of the next try after a failure.';

COMMENT ON COLUMN worker.internal_jobs.max_runtime IS 'A longer attempt ends as timeout. Left open, its kind''s.';

COMMENT ON COLUMN worker.internal_jobs.progress IS 'From 0 to 1.';

COMMENT ON COLUMN worker.internal_jobs.phase IS 'What it is doing, or waiting for, in words for a person.';

COMMENT ON COLUMN worker.internal_jobs.cancel_requested_at IS 'The running attempt must stop; cancel_code says why.';

COMMENT ON COLUMN worker.internal_jobs.cancel_code IS 'cancelled, or consent_denied after a revocation.';

COMMENT ON COLUMN worker.internal_jobs.error_code IS 'How it went wrong; see the error codes.';

COMMENT ON COLUMN worker.internal_jobs.error IS 'The same in words for the app''s user.';

COMMENT ON COLUMN worker.internal_jobs.result IS 'What came of it: keys, sizes, seed, settings used.';

COMMENT ON COLUMN worker.internal_jobs.metrics IS 'The last report''s: step, loss, learning rate, seconds.';

COMMENT ON COLUMN worker.internal_jobs.gpu_seconds IS 'Summed over all attempts, failed ones too.';

COMMENT ON COLUMN worker.internal_jobs.pod_id IS 'The pod that runs it, or ran it last.';

COMMENT ON COLUMN worker.internal_jobs.preset IS 'The preset as it was when the job was inserted; its settings filled the columns that were left open.';

COMMENT ON COLUMN worker.internal_jobs.created_at IS 'When the request was inserted.';

COMMENT ON COLUMN worker.internal_jobs.started_at IS 'When the last attempt started.';

COMMENT ON COLUMN worker.internal_jobs.finished_at IS 'When it ended; NULL while it is open.';

COMMENT ON COLUMN worker.internal_jobs.payload IS 'What the job is about.';

CREATE VIEW worker.job_details WITH (security_invoker='true') AS
 SELECT 'generation'::text AS kind,
    job.id,
    job.owner_id,
    job.subject_id,
    job.status,
    job.attempt,
    job.failures,
    job.max_failures,
    job.priority,
    job.run_after,
    job.max_runtime,
    job.progress,
    job.phase,
    job.cancel_requested_at,
    job.cancel_code,
    job.error_code,
    job.error,
    job.result,
    job.metrics,
    job.gpu_seconds,
    job.pod_id,
    job.preset,
    job.created_at,
    job.started_at,
    job.finished_at,
    jsonb_strip_nulls((to_jsonb(job.*) - '{id,owner_id,subject_id,status,attempt,failures,max_failures,priority,run_after,max_runtime,progress,phase,cancel_requested_at,cancel_code,error_code,error,result,metrics,gpu_seconds,pod_id,preset,created_at,started_at,finished_at}'::text[])) AS request
   FROM public.generation_jobs job
UNION ALL
 SELECT 'publish_lora'::text AS kind,
    job.id,
    job.owner_id,
    job.subject_id,
    job.status,
    job.attempt,
    job.failures,
    job.max_failures,
    job.priority,
    job.run_after,
    job.max_runtime,
    job.progress,
    job.phase,
    job.cancel_requested_at,
    job.cancel_code,
    job.error_code,
    job.error,
    job.result,
    job.metrics,
    job.gpu_seconds,
    job.pod_id,
    job.preset,
    job.created_at,
    job.started_at,
    job.finished_at,
    jsonb_strip_nulls((to_jsonb(job.*) - '{id,owner_id,subject_id,status,attempt,failures,max_failures,priority,run_after,max_runtime,progress,phase,cancel_requested_at,cancel_code,error_code,error,result,metrics,gpu_seconds,pod_id,preset,created_at,started_at,finished_at}'::text[])) AS request
   FROM worker.internal_jobs job
UNION ALL
 SELECT 'training'::text AS kind,
    job.id,
    job.owner_id,
    job.subject_id,
    job.status,
    job.attempt,
    job.failures,
    job.max_failures,
    job.priority,
    job.run_after,
    job.max_runtime,
    job.progress,
    job.phase,
    job.cancel_requested_at,
    job.cancel_code,
    job.error_code,
    job.error,
    job.result,
    job.metrics,
    job.gpu_seconds,
    job.pod_id,
    job.preset,
    job.created_at,
    job.started_at,
    job.finished_at,
    jsonb_strip_nulls((to_jsonb(job.*) - '{id,owner_id,subject_id,status,attempt,failures,max_failures,priority,run_after,max_runtime,progress,phase,cancel_requested_at,cancel_code,error_code,error,result,metrics,gpu_seconds,pod_id,preset,created_at,started_at,finished_at}'::text[])) AS request
   FROM public.training_jobs job;

COMMENT ON VIEW worker.job_details IS 'Every job of every kind with its whole life cycle, and its request as one JSON object.';

COMMENT ON COLUMN worker.job_details.kind IS 'Its kind.';

COMMENT ON COLUMN worker.job_details.id IS 'Settable by the client: the idempotency key.';

COMMENT ON COLUMN worker.job_details.owner_id IS 'Who asked: the subject''s owner, else the signed-in user.';

COMMENT ON COLUMN worker.job_details.subject_id IS 'The person or product it is about.';

COMMENT ON COLUMN worker.job_details.status IS 'queued, running, completed, failed or cancelled.';

COMMENT ON COLUMN worker.job_details.attempt IS 'The fencing token: one more at every start, never less.';

COMMENT ON COLUMN worker.job_details.failures IS 'Attempts that ended badly, a dead worker included; a shutdown is not one.';

COMMENT ON COLUMN worker.job_details.max_failures IS 'The job ends as failed when failures gets here.';

COMMENT ON COLUMN worker.job_details.priority IS 'Higher goes first.';

COMMENT ON COLUMN worker.job_details.run_after IS 'Not before this time; set to the time of the next try after a failure.';

COMMENT ON COLUMN worker.job_details.max_runtime IS 'A longer attempt ends as timeout. Left open, its kind''s.';

COMMENT ON COLUMN worker.job_details.progress IS 'From 0 to 1.';

COMMENT ON COLUMN worker.job_details.phase IS 'What it is doing, or waiting for, in words for a person.';

COMMENT ON COLUMN worker.job_details.cancel_requested_at IS 'The running attempt must stop; cancel_code says why.';

COMMENT ON COLUMN worker.job_details.cancel_code IS 'cancelled, or consent_denied after a revocation.';

COMMENT ON COLUMN worker.job_details.error_code IS 'How it went wrong; see the error codes.';

COMMENT ON COLUMN worker.job_details.error IS 'The same in words for the app''s user.';

COMMENT ON COLUMN worker.job_details.result IS 'What came of it: keys, sizes, seed, settings used.';

COMMENT ON COLUMN worker.job_details.metrics IS 'The last report''s: step, loss, learning rate, seconds.';

COMMENT ON COLUMN worker.job_details.gpu_seconds IS 'Summed over all attempts, failed ones too.';

COMMENT ON COLUMN worker.job_details.pod_id IS 'The pod that runs it, or ran it last.';

COMMENT ON COLUMN worker.job_details.preset IS 'The preset as it was when the job was inserted; its settings filled the columns that were left open.';

COMMENT ON COLUMN worker.job_details.created_at IS 'When the request was inserted.';

COMMENT ON COLUMN worker.job_details.started_at IS 'When the last attempt started.';

COMMENT ON COLUMN worker.job_details.finished_at IS 'When it ended; NULL while it is open.';

COMMENT ON COLUMN worker.job_details.request IS 'What was asked for: the columns that are its kind''s own, without those left open.';

CREATE TABLE worker.job_events (
    id bigint NOT NULL,
    kind text NOT NULL,
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    event text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL
);

COMMENT ON TABLE worker.job_events IS 'What happened to each job, attempt by attempt.';

COMMENT ON COLUMN worker.job_events.id IS 'In the order in which it happened.';

COMMENT ON COLUMN worker.job_events.kind IS 'The job''s kind.';

COMMENT ON COLUMN worker.job_events.job_id IS 'The job.';

COMMENT ON COLUMN worker.job_events.attempt IS 'The attempt it happened to; 0 before the first.';

COMMENT ON COLUMN worker.job_events.at IS 'When.';

COMMENT ON COLUMN worker.job_events.event IS 'started, phase, checkpoint, requeued, stop requested, retried, refused, or how the job ended.';

COMMENT ON COLUMN worker.job_events.detail IS 'pod, phase, step, code, error: what goes with the event.';

ALTER TABLE worker.job_events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME worker.job_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE worker.job_subjects (
    kind text NOT NULL,
    job_id uuid NOT NULL,
    subject_id uuid NOT NULL
);

COMMENT ON TABLE worker.job_subjects IS 'Every person a job touches: its subject, its LoRAs'' subjects, its pictures'' subjects. Filled by trigger, read by every check.';

COMMENT ON COLUMN worker.job_subjects.kind IS 'The job''s kind.';

COMMENT ON COLUMN worker.job_subjects.job_id IS 'The job.';

COMMENT ON COLUMN worker.job_subjects.subject_id IS 'A person it touches.';

CREATE VIEW worker.jobs WITH (security_invoker='true') AS
 SELECT all_jobs.id,
    all_jobs.kind,
    all_jobs.status,
    all_jobs.try,
    all_jobs.done,
    all_jobs.note,
    all_jobs.created
   FROM ( SELECT generation_jobs.id,
            'generation'::text AS kind,
            generation_jobs.status,
            generation_jobs.attempt AS try,
            to_char((generation_jobs.progress * (100)::double precision), 'FM990%'::text) AS done,
            "left"(COALESCE(generation_jobs.error_code, generation_jobs.phase, ''::text), 24) AS note,
            to_char(generation_jobs.created_at, 'MM-DD HH24:MI'::text) AS created,
            generation_jobs.created_at
           FROM public.generation_jobs
        UNION ALL
         SELECT internal_jobs.id,
            'publish_lora'::text AS kind,
            internal_jobs.status,
            internal_jobs.attempt AS try,
            to_char((internal_jobs.progress * (100)::double precision), 'FM990%'::text) AS done,
            "left"(COALESCE(internal_jobs.error_code, internal_jobs.phase, ''::text), 24) AS note,
            to_char(internal_jobs.created_at, 'MM-DD HH24:MI'::text) AS created,
            internal_jobs.created_at
           FROM worker.internal_jobs
        UNION ALL
         SELECT training_jobs.id,
            'training'::text AS kind,
            training_jobs.status,
            training_jobs.attempt AS try,
            to_char((training_jobs.progress * (100)::double precision), 'FM990%'::text) AS done,
            "left"(COALESCE(training_jobs.error_code, training_jobs.phase, ''::text), 24) AS note,
            to_char(training_jobs.created_at, 'MM-DD HH24:MI'::text) AS created,
            training_jobs.created_at
           FROM public.training_jobs) all_jobs
  ORDER BY all_jobs.created_at DESC;

COMMENT ON VIEW worker.jobs IS 'Every job, newest first, one line each.';

COMMENT ON COLUMN worker.jobs.id IS 'The job.';

COMMENT ON COLUMN worker.jobs.kind IS 'Its kind.';

COMMENT ON COLUMN worker.jobs.status IS 'queued, running, completed, failed or cancelled.';

COMMENT ON COLUMN worker.jobs.try IS 'The attempt.';

COMMENT ON COLUMN worker.jobs.done IS 'Progress in per cent.';

COMMENT ON COLUMN worker.jobs.note IS 'The error code, else the phase, cut to 24 characters.';

COMMENT ON COLUMN worker.jobs.created IS 'When it was inserted.';

CREATE TABLE worker.life_cycle (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    owner_id uuid,
    subject_id uuid,
    status text DEFAULT 'queued'::text NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    max_failures integer DEFAULT 3 NOT NULL,
    priority integer DEFAULT 0 NOT NULL,
    run_after timestamp with time zone,
    max_runtime interval,
    progress real DEFAULT 0 NOT NULL,
    phase text,
    cancel_requested_at timestamp with time zone,
    cancel_code text,
    error_code text,
    error text,
    result jsonb,
    metrics jsonb,
    gpu_seconds double precision DEFAULT 0 NOT NULL,
    pod_id uuid,
    preset jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    CONSTRAINT cancel_code_is_known CHECK ((cancel_code = ANY (ARRAY['cancelled'::text, 'consent_denied'::text]))),
    CONSTRAINT ended_jobs_have_an_end CHECK (((status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT failed_jobs_have_a_code CHECK (((status <> 'failed'::text) OR (error_code IS NOT NULL))),
    CONSTRAINT max_failures_between_1_and_20 CHECK (((max_failures >= 1) AND (max_failures <= 20))),
    CONSTRAINT max_runtime_between_1_second_and_1_day CHECK (((max_runtime >= '00:00:01'::interval) AND (max_runtime <= '1 day'::interval))),
    CONSTRAINT priority_between_minus_1000_and_1000 CHECK (((priority >= '-1000'::integer) AND (priority <= 1000))),
    CONSTRAINT progress_between_0_and_1 CHECK (((progress >= (0)::double precision) AND (progress <= (1)::double precision))),
    CONSTRAINT status_is_known CHECK ((status = ANY (ARRAY['queued'::text, 'running'::text, 'completed'::text, 'failed'::text, 'cancelled'::text])))
);

COMMENT ON TABLE worker.life_cycle IS 'The template of every job table; holds no rows.';

COMMENT ON COLUMN worker.life_cycle.id IS 'Settable by the client: the idempotency key.';

COMMENT ON COLUMN worker.life_cycle.owner_id IS 'Who asked: the subject''s owner, else the signed-in user.';

COMMENT ON COLUMN worker.life_cycle.subject_id IS 'The person or product it is about.';

COMMENT ON COLUMN worker.life_cycle.status IS 'queued, running, completed, failed or cancelled.';

COMMENT ON COLUMN worker.life_cycle.attempt IS 'The fencing token: one more at every start, never less.';

COMMENT ON COLUMN worker.life_cycle.failures IS 'Attempts that ended badly, a dead worker included; a shutdown is not one.';

COMMENT ON COLUMN worker.life_cycle.max_failures IS 'The job ends as failed when failures gets here.';

COMMENT ON COLUMN worker.life_cycle.priority IS 'Higher goes first.';

COMMENT ON COLUMN worker.life_cycle.run_after IS 'Not before this time; set to the time of the next try after a failure.';

COMMENT ON COLUMN worker.life_cycle.max_runtime IS 'A longer attempt ends as timeout. Left open, its kind''s.';

COMMENT ON COLUMN worker.life_cycle.progress IS 'From 0 to 1.';

COMMENT ON COLUMN worker.life_cycle.phase IS 'What it is doing, or waiting for, in words for a person.';

COMMENT ON COLUMN worker.life_cycle.cancel_requested_at IS 'The running attempt must stop; cancel_code says why.';

COMMENT ON COLUMN worker.life_cycle.cancel_code IS 'cancelled, or consent_denied after a revocation.';

COMMENT ON COLUMN worker.life_cycle.error_code IS 'How it went wrong; see the error codes.';

COMMENT ON COLUMN worker.life_cycle.error IS 'The same in words for the app''s user.';

COMMENT ON COLUMN worker.life_cycle.result IS 'What came of it: keys, sizes, seed, settings used.';

COMMENT ON COLUMN worker.life_cycle.metrics IS 'The last report''s: step, loss, learning rate, seconds.';

COMMENT ON COLUMN worker.life_cycle.gpu_seconds IS 'Summed over all attempts, failed ones too.';

COMMENT ON COLUMN worker.life_cycle.pod_id IS 'The pod that runs it, or ran it last.';

COMMENT ON COLUMN worker.life_cycle.preset IS 'The preset as it was when the job was inserted; its settings filled the columns that were left open.';

COMMENT ON COLUMN worker.life_cycle.created_at IS 'When the request was inserted.';

COMMENT ON COLUMN worker.life_cycle.started_at IS 'When the last attempt started.';

COMMENT ON COLUMN worker.life_cycle.finished_at IS 'When it ended; NULL while it is open.';

CREATE TABLE worker.pgqueuer (
    id bigint NOT NULL,
    priority integer NOT NULL,
    queue_manager_id uuid,
    created timestamp with time zone DEFAULT now() NOT NULL,
    updated timestamp with time zone DEFAULT now() NOT NULL,
    heartbeat timestamp with time zone DEFAULT now() NOT NULL,
    execute_after timestamp with time zone DEFAULT now() NOT NULL,
    status worker.pgqueuer_status NOT NULL,
    entrypoint text NOT NULL,
    dedupe_key text,
    payload bytea,
    headers jsonb,
    attempts integer DEFAULT 0 NOT NULL,
    slot bigint,
    CONSTRAINT pgqueuer_row_is_a_job CHECK (((dedupe_key IS NOT NULL) AND (dedupe_key ~ '^[a-z_]+:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'::text)))
);

COMMENT ON TABLE worker.pgqueuer IS 'The queue: one row an open job, entrypoint = route, payload = job id, dedupe_key = kind:id.';

CREATE SEQUENCE worker.pgqueuer_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE worker.pgqueuer_id_seq OWNED BY worker.pgqueuer.id;

CREATE TABLE worker.pgqueuer_log (
    id bigint NOT NULL,
    created timestamp with time zone DEFAULT now() NOT NULL,
    job_id bigint NOT NULL,
    status worker.pgqueuer_status NOT NULL,
    priority integer NOT NULL,
    entrypoint text NOT NULL,
    traceback jsonb,
    aggregated boolean DEFAULT false
);

COMMENT ON TABLE worker.pgqueuer_log IS 'When each queue row was queued, picked and settled.';

ALTER TABLE worker.pgqueuer_log ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME worker.pgqueuer_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE worker.pgqueuer_schedules (
    id bigint NOT NULL,
    expression text NOT NULL,
    entrypoint text NOT NULL,
    heartbeat timestamp with time zone DEFAULT now() NOT NULL,
    created timestamp with time zone DEFAULT now() NOT NULL,
    updated timestamp with time zone DEFAULT now() NOT NULL,
    next_run timestamp with time zone DEFAULT now() NOT NULL,
    last_run timestamp with time zone,
    status worker.pgqueuer_status DEFAULT 'queued'::worker.pgqueuer_status
);

COMMENT ON TABLE worker.pgqueuer_schedules IS 'pgqueuer''s own; not used here.';

CREATE SEQUENCE worker.pgqueuer_schedules_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE worker.pgqueuer_schedules_id_seq OWNED BY worker.pgqueuer_schedules.id;

CREATE TABLE worker.pgqueuer_statistics (
    id bigint NOT NULL,
    created timestamp with time zone DEFAULT date_trunc('sec'::text, now()) NOT NULL,
    count bigint NOT NULL,
    priority integer NOT NULL,
    status worker.pgqueuer_status NOT NULL,
    entrypoint text NOT NULL
);

COMMENT ON TABLE worker.pgqueuer_statistics IS 'pgqueuer''s own; not used here.';

CREATE SEQUENCE worker.pgqueuer_statistics_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE worker.pgqueuer_statistics_id_seq OWNED BY worker.pgqueuer_statistics.id;

CREATE TABLE worker.policies (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    policy_name text NOT NULL,
    definition text NOT NULL,
    catalog_definition text NOT NULL
);

COMMENT ON TABLE worker.policies IS 'The policies this project made, as written and as the catalog gave them back, so that only those that differ are made again.';

COMMENT ON COLUMN worker.policies.schema_name IS 'Schema of the policy''s table.';

COMMENT ON COLUMN worker.policies.table_name IS 'The policy''s table.';

COMMENT ON COLUMN worker.policies.policy_name IS 'The policy''s name, a sentence.';

COMMENT ON COLUMN worker.policies.definition IS 'The policy as this project writes it.';

COMMENT ON COLUMN worker.policies.catalog_definition IS 'The policy as the catalog gave it back.';

CREATE VIEW worker.queue_depth WITH (security_invoker='true') AS
 SELECT routes.route,
    count(queue.id) FILTER (WHERE (queue.status = 'queued'::worker.pgqueuer_status)) AS waiting,
    date_trunc('second'::text, (clock_timestamp() - min(queue.created) FILTER (WHERE (queue.status = 'queued'::worker.pgqueuer_status)))) AS oldest,
    count(queue.id) FILTER (WHERE (queue.status = 'picked'::worker.pgqueuer_status)) AS running,
    ( SELECT count(*) AS count
           FROM worker.pods
          WHERE ((routes.route = ANY (pods.routes)) AND worker.is_alive(pods.*))) AS pods
   FROM (( SELECT pgqueuer.entrypoint AS route
           FROM worker.pgqueuer
        UNION
         SELECT unnest(pods.routes) AS unnest
           FROM worker.pods
          WHERE worker.is_alive(pods.*)) routes
     LEFT JOIN worker.pgqueuer queue ON ((queue.entrypoint = routes.route)))
  GROUP BY routes.route
  ORDER BY routes.route;

COMMENT ON VIEW worker.queue_depth IS 'Each route: what waits, since when, what runs, and how many live pods could take it.';

COMMENT ON COLUMN worker.queue_depth.route IS 'kind/base, or the kind alone.';

COMMENT ON COLUMN worker.queue_depth.waiting IS 'Jobs that wait.';

COMMENT ON COLUMN worker.queue_depth.oldest IS 'How long the oldest has waited.';

COMMENT ON COLUMN worker.queue_depth.running IS 'Jobs that a pod has taken.';

COMMENT ON COLUMN worker.queue_depth.pods IS 'Live pods that offer the route.';

CREATE TABLE worker.schema_versions (
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

COMMENT ON TABLE worker.schema_versions IS 'The SQL files that were applied: numbered ones once, the others whenever they change.';

COMMENT ON COLUMN worker.schema_versions.name IS 'The file''s name without .sql.';

COMMENT ON COLUMN worker.schema_versions.checksum IS 'SHA-256 of its text when it was applied.';

COMMENT ON COLUMN worker.schema_versions.applied_at IS 'When it was last applied.';

CREATE TABLE worker.screened_terms (
    screens text NOT NULL,
    letters text NOT NULL,
    is_phrase boolean NOT NULL,
    skeleton text GENERATED ALWAYS AS (translate(letters, 'l'::text, 'i'::text)) STORED NOT NULL COLLATE pg_catalog."C",
    rule_id text NOT NULL
);

COMMENT ON TABLE worker.screened_terms IS 'Words and phrases that may not be asked for.';

COMMENT ON COLUMN worker.screened_terms.screens IS 'As in its rule.';

COMMENT ON COLUMN worker.screened_terms.letters IS 'Folded, without spaces.';

COMMENT ON COLUMN worker.screened_terms.is_phrase IS 'Of several words: punctuation may stand between them.';

COMMENT ON COLUMN worker.screened_terms.skeleton IS 'For looking up: 1 stands for i and for l, so that all three are i here.';

COMMENT ON COLUMN worker.screened_terms.rule_id IS 'The rule that it breaks.';

CREATE TABLE worker.screening_rules (
    id text NOT NULL,
    screens text NOT NULL,
    asks text NOT NULL,
    CONSTRAINT screening_rules_screens_is_known CHECK ((screens = ANY (ARRAY['prompt'::text, 'negative_prompt'::text])))
);

COMMENT ON TABLE worker.screening_rules IS 'What may not be asked for.';

COMMENT ON COLUMN worker.screening_rules.id IS 'Category and number; an error message names it.';

COMMENT ON COLUMN worker.screening_rules.screens IS 'A negative prompt has rules of its own: what it names is driven away.';

COMMENT ON COLUMN worker.screening_rules.asks IS 'What it is, in words that quote nobody.';

CREATE TABLE worker.staged_objects (
    id bigint NOT NULL,
    bucket text NOT NULL,
    key text NOT NULL,
    kind text NOT NULL,
    job_id uuid NOT NULL,
    attempt integer NOT NULL,
    owner_id uuid,
    state text DEFAULT 'staged'::text NOT NULL,
    step integer,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    deletions integer DEFAULT 0 NOT NULL,
    offer_after timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT staged_objects_checkpoints_have_a_step CHECK (((state = 'checkpoint'::text) <= (step IS NOT NULL))),
    CONSTRAINT staged_objects_state_is_known CHECK ((state = ANY (ARRAY['staged'::text, 'checkpoint'::text, 'published'::text, 'deleting'::text])))
);

COMMENT ON TABLE worker.staged_objects IS 'Every object a pod writes for a job, registered before its upload. What does not become published is deleted in storage.';

COMMENT ON COLUMN worker.staged_objects.id IS 'What garbage_gone names.';

COMMENT ON COLUMN worker.staged_objects.bucket IS 'The bucket.';

COMMENT ON COLUMN worker.staged_objects.key IS 'The object''s key; it names the attempt.';

COMMENT ON COLUMN worker.staged_objects.kind IS 'The job''s kind.';

COMMENT ON COLUMN worker.staged_objects.job_id IS 'The job.';

COMMENT ON COLUMN worker.staged_objects.attempt IS 'The attempt that writes it.';

COMMENT ON COLUMN worker.staged_objects.owner_id IS 'Whose job it is; clients see their own published objects.';

COMMENT ON COLUMN worker.staged_objects.state IS 'staged, checkpoint, published or deleting.';

COMMENT ON COLUMN worker.staged_objects.step IS 'The training step of a checkpoint.';

COMMENT ON COLUMN worker.staged_objects.created_at IS 'When it was registered.';

COMMENT ON COLUMN worker.staged_objects.deletions IS 'How often it was deleted in storage; late uploads are why once is not enough.';

COMMENT ON COLUMN worker.staged_objects.offer_after IS 'When to delete it (again).';

ALTER TABLE worker.staged_objects ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME worker.staged_objects_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW worker.stranded_jobs WITH (security_invoker='true') AS
 SELECT split_part(queue.dedupe_key, ':'::text, 1) AS kind,
    (split_part(queue.dedupe_key, ':'::text, 2))::uuid AS id,
    queue.entrypoint AS route,
    queue.created AS since,
    routes.why
   FROM (worker.pgqueuer queue
     JOIN ( SELECT waiting.entrypoint,
            worker.why_stranded(waiting.entrypoint) AS why
           FROM ( SELECT DISTINCT pgqueuer.entrypoint
                   FROM worker.pgqueuer
                  WHERE (pgqueuer.status = 'queued'::worker.pgqueuer_status)) waiting) routes USING (entrypoint))
  WHERE ((queue.status = 'queued'::worker.pgqueuer_status) AND (routes.why IS NOT NULL))
  ORDER BY queue.created, queue.id;

COMMENT ON VIEW worker.stranded_jobs IS 'Open jobs that no live pod can take, and why.';

COMMENT ON COLUMN worker.stranded_jobs.kind IS 'The job''s kind.';

COMMENT ON COLUMN worker.stranded_jobs.id IS 'The job.';

COMMENT ON COLUMN worker.stranded_jobs.route IS 'kind/base, or the kind alone.';

COMMENT ON COLUMN worker.stranded_jobs.since IS 'When it was put on the queue.';

COMMENT ON COLUMN worker.stranded_jobs.why IS 'What no live pod has.';

ALTER TABLE ONLY worker.pgqueuer ALTER COLUMN id SET DEFAULT nextval('worker.pgqueuer_id_seq'::regclass);

ALTER TABLE ONLY worker.pgqueuer_schedules ALTER COLUMN id SET DEFAULT nextval('worker.pgqueuer_schedules_id_seq'::regclass);

ALTER TABLE ONLY worker.pgqueuer_statistics ALTER COLUMN id SET DEFAULT nextval('worker.pgqueuer_statistics_id_seq'::regclass);

INSERT INTO public.generation_jobs (id, owner_id, subject_id, status, attempt, failures, max_failures, priority, run_after, max_runtime, progress, phase, cancel_requested_at, cancel_code, error_code, error, result, metrics, gpu_seconds, pod_id, preset, created_at, started_at, finished_at, base, preset_id, prompt, negative_prompt, model_ids, lora_scales, reference_paths, reference_scale, control_path, control_kind, control_scale, width, height, steps, guidance, seed, num_images, upscale, quality, output_format) VALUES
	('1d83603a-d712-5700-ac07-30c1b5de7f97', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'completed', 1, 0, 3, 0, NULL, '00:30:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"base": "flux-dev", "bucket": "uploads", "models": [{"id": "20a12c4d-271a-4fdf-a4c5-ebeec67d47b2", "scale": 1, "version": 3}], "seconds": 1.5, "peak_gib": null, "pictures": [{"raw": "61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/1d83603a-d712-5700-ac07-30c1b5de7f97/1/0.raw.png", "seed": 0, "width": 2048, "height": 2048, "sha256": "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e", "upscaled": "61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/1d83603a-d712-5700-ac07-30c1b5de7f97/1/0.webp", "raw_width": 1024, "raw_height": 1024, "size_bytes": 1000}, {"raw": "61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/1d83603a-d712-5700-ac07-30c1b5de7f97/1/1.raw.png", "seed": 1, "width": 2048, "height": 2048, "sha256": "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e", "upscaled": "61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/1d83603a-d712-5700-ac07-30c1b5de7f97/1/1.webp", "raw_width": 1024, "raw_height": 1024, "size_bytes": 1000}], "settings": {"steps": 4}, "memory_plan": null}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', '{"prompt": "{prompt}, a portrait of {trigger}", "negative_prompt": "blurry"}', '2026-01-01 01:55:22.967572+00', '2026-01-01 01:55:22.992687+00', '2026-01-01 01:55:22.99716+00', 'flux-dev', '941422d1-1f0e-505a-a159-4dd954b25cd8', 'in a garden at dusk', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 20, NULL, NULL, 2, 2, 92, 'webp'),
	('e2d25491-e955-5250-9015-7971c89cef59', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'completed', 1, 0, 3, 0, NULL, '00:30:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"base": "flux-dev", "bucket": "uploads", "models": [{"id": "20a12c4d-271a-4fdf-a4c5-ebeec67d47b2", "scale": 0.8, "version": 3}, {"id": "fb0fd1d6-9108-481f-a45a-f2136cc60a72", "scale": 0.7, "version": 1}], "seconds": 1.5, "peak_gib": null, "pictures": [{"raw": "61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/e2d25491-e955-5250-9015-7971c89cef59/1/0.raw.png", "seed": 0, "width": 4096, "height": 4096, "sha256": "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e", "upscaled": "61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/e2d25491-e955-5250-9015-7971c89cef59/1/0.png", "raw_width": 1024, "raw_height": 1024, "size_bytes": 1000}], "settings": {"steps": 4}, "memory_plan": null}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.009734+00', '2026-01-01 01:55:23.059968+00', '2026-01-01 01:55:23.063382+00', 'flux-dev', NULL, 'on a bench', NULL, '{20a12c4d-271a-4fdf-a4c5-ebeec67d47b2,fb0fd1d6-9108-481f-a45a-f2136cc60a72}', '{0.8,0.7}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('7c5554d1-3ed6-59cc-89e5-768c294963a9', '61ef437f-86d7-54e9-9077-1b10009d8ccf', NULL, 'completed', 1, 0, 3, 0, NULL, '00:30:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"base": "flux-dev", "bucket": "uploads", "models": [], "seconds": 1.5, "peak_gib": null, "pictures": [{"raw": "61ef437f-86d7-54e9-9077-1b10009d8ccf/_/generated/7c5554d1-3ed6-59cc-89e5-768c294963a9/1/0.raw.png", "seed": 0, "width": 4096, "height": 4096, "sha256": "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e", "upscaled": "61ef437f-86d7-54e9-9077-1b10009d8ccf/_/generated/7c5554d1-3ed6-59cc-89e5-768c294963a9/1/0.png", "raw_width": 1024, "raw_height": 1024, "size_bytes": 1000}], "settings": {"steps": 4}, "memory_plan": null}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.077314+00', '2026-01-01 01:55:23.115211+00', '2026-01-01 01:55:23.118223+00', 'flux-dev', NULL, 'a lighthouse in fog', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 7, 1, 4, 92, 'png'),
	('87d819bc-3a16-5b9e-a998-88cc192c2f0f', '61ef437f-86d7-54e9-9077-1b10009d8ccf', '20d1fcb0-4b92-5805-84a0-bb0548038d99', 'failed', 0, 0, 3, 0, NULL, '00:30:00', 0, 'refused', NULL, NULL, 'consent_denied', 'the person did not agree: consent was rejected', NULL, NULL, 0, NULL, NULL, '2026-01-01 01:55:23.137989+00', NULL, '2026-01-01 01:55:23.149688+00', 'flux-dev', NULL, 'in a garden', NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('13eac2d5-2a2a-5714-a27b-b4470eab22e8', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 0, 0, 3, 0, NULL, '00:30:00', 0, 'refused', NULL, NULL, 'prompt_blocked', 'the prompt asks for nudity (rule sexual-1); change it and insert another job', NULL, NULL, 0, NULL, NULL, '2026-01-01 01:55:23.158172+00', NULL, '2026-01-01 01:55:23.171804+00', 'flux-dev', NULL, 'a naked woman', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('cf1e0345-14c9-50bc-9e28-1ec35c9aeea8', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 1, 1, 3, 0, NULL, '00:30:00', 0, 'failed', NULL, NULL, 'input_missing', 'it failed with input_missing', NULL, NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.180719+00', '2026-01-01 01:55:23.204044+00', '2026-01-01 01:55:23.208471+00', 'flux-dev', NULL, 'in a garden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('57ab71a1-af0f-57f7-9911-b168a55104ef', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 1, 1, 3, 0, NULL, '00:30:00', 0, 'failed', NULL, NULL, 'invalid_input', 'it failed with invalid_input', NULL, NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.212799+00', '2026-01-01 01:55:23.236226+00', '2026-01-01 01:55:23.240291+00', 'flux-dev', NULL, 'in a garden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('e5067bc2-114f-5ca5-a0ba-d3b3a8352131', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 1, 1, 3, 0, NULL, '00:30:00', 0, 'failed', NULL, NULL, 'output_blocked', 'it failed with output_blocked', NULL, NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.244664+00', '2026-01-01 01:55:23.26818+00', '2026-01-01 01:55:23.271425+00', 'flux-dev', NULL, 'in a garden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('26dcaf8c-0dfb-5dd6-83bb-992460cf5561', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 1, 1, 1, 0, NULL, '00:30:00', 0, 'failed', NULL, NULL, 'storage_error', 'it failed with storage_error', NULL, NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.305987+00', '2026-01-01 01:55:23.330975+00', '2026-01-01 01:55:23.333275+00', 'flux-dev', NULL, 'in a garden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('fff222a5-9713-55de-b5bc-ca5c6a5e535c', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 1, 1, 3, 0, NULL, '00:30:00', 0, 'failed', NULL, NULL, 'prompt_blocked', 'it failed with prompt_blocked', NULL, NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.275617+00', '2026-01-01 01:55:23.299352+00', '2026-01-01 01:55:23.301753+00', 'flux-dev', NULL, 'in a garden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('6d175cf8-5079-5fbb-8bea-a59185d05a9a', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 1, 1, 1, 0, NULL, '00:30:00', 0, 'failed', NULL, NULL, 'worker_lost', 'it failed with worker_lost', NULL, NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.338+00', '2026-01-01 01:55:23.362899+00', '2026-01-01 01:55:23.3651+00', 'flux-dev', NULL, 'in a garden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('429df7b6-d7b9-578d-881a-b7e1da48d7a3', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 1, 1, 1, 0, NULL, '00:30:00', 0, 'failed', NULL, NULL, 'timeout', 'it failed with timeout', NULL, NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.369276+00', '2026-01-01 01:55:23.39277+00', '2026-01-01 01:55:23.398016+00', 'flux-dev', NULL, 'in a garden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('a5c0e852-8afe-5e21-ab74-0bfba6f895d6', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 1, 1, 1, 0, NULL, '00:30:00', 0, 'failed', NULL, NULL, 'internal', 'it failed with internal', NULL, NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.402554+00', '2026-01-01 01:55:23.428422+00', '2026-01-01 01:55:23.431052+00', 'flux-dev', NULL, 'in a garden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('01fe0235-aa6b-53cf-aeb0-c0c7e4fcc728', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 1, 1, 1, 0, NULL, '00:30:00', 0, 'failed', NULL, NULL, 'out_of_memory', 'it failed with out_of_memory', NULL, NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.43548+00', '2026-01-01 01:55:23.460631+00', '2026-01-01 01:55:23.463146+00', 'flux-dev', NULL, 'in a garden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('fc006bbf-c433-53db-a573-84ef8ddd1fa8', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 1, 1, 1, 0, NULL, '00:30:00', 0, 'failed', NULL, NULL, 'model_missing', 'it failed with model_missing', NULL, NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.467436+00', '2026-01-01 01:55:23.492878+00', '2026-01-01 01:55:23.495416+00', 'flux-dev', NULL, 'in a garden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('aa52d56d-2d81-5e0a-ad7e-c76e2190c2a7', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'cancelled', 0, 0, 3, 0, NULL, '00:30:00', 0, 'cancelled', NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, '2026-01-01 01:55:23.536987+00', NULL, '2026-01-01 01:55:23.56721+00', 'flux-dev', NULL, 'in a garden', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('1282aec0-78bb-5eeb-a739-a27a9a0e9cea', '61ef437f-86d7-54e9-9077-1b10009d8ccf', '54eba592-1c15-5340-9ae4-c5f55976e600', 'running', 1, 0, 3, 0, NULL, '00:30:00', 0.1, 'drawing', NULL, NULL, NULL, NULL, NULL, NULL, 0, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.66734+00', '2026-01-01 01:55:23.691339+00', NULL, 'flux-dev', NULL, 'at a window', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('84178e46-9f63-5de2-9ea0-a4a268466fe6', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591', 'running', 1, 0, 3, 0, NULL, '00:30:00', 0, 'starting', '2026-01-01 01:55:23.798484+00', 'consent_denied', NULL, NULL, NULL, NULL, 0, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.737591+00', '2026-01-01 01:55:23.760149+00', NULL, 'flux-dev', NULL, 'in a hat', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('c8a88aa3-2a43-58a3-912a-4d8de105627a', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591', 'failed', 0, 0, 3, 0, NULL, '00:30:00', 0, 'failed', NULL, NULL, 'consent_denied', 'the person took consent back: it was revoked', NULL, NULL, 0, NULL, NULL, '2026-01-01 01:55:23.767452+00', NULL, '2026-01-01 01:55:23.800857+00', 'flux-dev', NULL, 'in a coat', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('8f0571d3-9734-591b-be53-a5f817f698b2', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'queued', 0, 0, 3, 0, NULL, '00:30:00', 0, 'waiting', NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, '2026-01-01 01:55:23.810991+00', NULL, NULL, 'flux-dev', NULL, 'under a tree', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('e83db976-a429-519b-8444-f2c249006244', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'queued', 0, 0, 3, 0, NULL, '00:30:00', 0, 'waiting', NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, '2026-01-01 01:55:23.8957+00', NULL, NULL, 'flux-dev', NULL, 'on a hill', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('a8f340de-ac14-5c0f-88a1-58ed7f1708e6', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'queued', 1, 0, 3, 0, '2026-01-01 01:55:24.061971+00', '00:30:00', 0, 'flux-dev is missing here', NULL, NULL, 'model_missing', 'flux-dev is missing here', NULL, NULL, 1.5, NULL, NULL, '2026-01-01 01:55:24.033302+00', '2026-01-01 01:55:24.056392+00', NULL, 'flux-dev', NULL, 'at sea', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('b999858b-f15b-56c9-863c-02eba7ec1fcb', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'queued', 0, 0, 3, 0, '2026-01-01 01:55:24.105053+00', '00:30:00', 0, 'waiting', NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, '2026-01-01 01:55:24.066622+00', NULL, NULL, 'flux-dev', NULL, 'in the rain', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('7ee04531-737e-5343-8420-e0bb69701877', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'queued', 0, 0, 3, 0, '2999-01-01 00:00:00+00', '00:10:00', 0, 'waiting', NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, '2026-01-01 01:55:24.119186+00', NULL, NULL, 'flux-dev', NULL, 'in the year 2999', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('9893310a-2b33-59fa-b11b-1363f5739479', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'queued', 0, 0, 5, 7, NULL, '00:30:00', 0, 'waiting', NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, '{"prompt": "{prompt}, a portrait of {trigger}", "negative_prompt": "blurry"}', '2026-01-01 01:55:24.145598+00', NULL, NULL, 'flux-schnell', '941422d1-1f0e-505a-a159-4dd954b25cd8', 'by the sea', 'blurry', '{20a12c4d-271a-4fdf-a4c5-ebeec67d47b2,fb0fd1d6-9108-481f-a45a-f2136cc60a72}', '{0.5,-0.5}', NULL, NULL, NULL, NULL, NULL, 832, 1216, 20, 2.5, 4294967295, 3, 2, 80, 'jpeg'),
	('1dadecd3-3b7d-5259-9944-267aaa776c7f', '61ef437f-86d7-54e9-9077-1b10009d8ccf', NULL, 'queued', 0, 0, 3, 0, NULL, '00:30:00', 0, 'waiting', NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, '2026-01-01 01:55:24.200835+00', NULL, NULL, 'sd15', NULL, 'a boat', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png'),
	('e4485659-fb65-5224-8021-a8eae32fc2fa', '75bf8c9c-74cd-58d1-85d7-5ca647f9cc3b', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766', 'queued', 0, 0, 3, 0, NULL, '00:30:00', 0, 'waiting', NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL, '2026-01-01 01:55:24.226888+00', NULL, NULL, 'flux-dev', NULL, 'in the snow', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 4, 92, 'png');

INSERT INTO public.presets (id, owner_id, name, kind, prompt, negative_prompt, settings, created_at) VALUES
	('941422d1-1f0e-505a-a159-4dd954b25cd8', NULL, 'Portrait', 'generation', '{prompt}, a portrait of {trigger}', 'blurry', '{"steps": 20}', '2026-01-01 01:55:22.525244+00'),
	('b4dbb55b-e095-53e1-8117-6e95a4800edb', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'Thorough', 'training', '', NULL, '{"rank": 8, "class_name": "a woman"}', '2026-01-01 01:55:22.532807+00');

INSERT INTO public.subject_photos (id, subject_id, path, caption, status, reason, prepared_path, width, height, face, sha256, phash, created_at) VALUES
	('96f91294-360c-59a7-9c33-392705ca4d1a', 'aed9aab1-5fff-5eac-bac2-d104202f625c', '61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/photos/0.jpg', 'standing by a window', 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.19857+00'),
	('19436dd7-6246-5a78-ac13-8bd625c88980', 'aed9aab1-5fff-5eac-bac2-d104202f625c', '61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/photos/2.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.201679+00'),
	('e267a395-9dcd-5ae2-ac6e-6e9ab5226eec', '54eba592-1c15-5340-9ae4-c5f55976e600', '61ef437f-86d7-54e9-9077-1b10009d8ccf/54eba592-1c15-5340-9ae4-c5f55976e600/photos/0.jpg', 'standing by a window', 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.220197+00'),
	('2834ed40-7aff-516a-84d5-0a219e3201ab', '54eba592-1c15-5340-9ae4-c5f55976e600', '61ef437f-86d7-54e9-9077-1b10009d8ccf/54eba592-1c15-5340-9ae4-c5f55976e600/photos/1.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.226859+00'),
	('e47f61d0-f851-5709-a87b-9298b3d2c492', '54eba592-1c15-5340-9ae4-c5f55976e600', '61ef437f-86d7-54e9-9077-1b10009d8ccf/54eba592-1c15-5340-9ae4-c5f55976e600/photos/2.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.22755+00'),
	('ea5e1418-9f58-56d5-b13b-df1647465db7', '54eba592-1c15-5340-9ae4-c5f55976e600', '61ef437f-86d7-54e9-9077-1b10009d8ccf/54eba592-1c15-5340-9ae4-c5f55976e600/photos/3.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.228065+00'),
	('658c874d-5419-5d36-bf20-6e7bccd0fbc8', '2dc535b6-2d5f-5e0b-b24b-5c8b6cff42b9', '61ef437f-86d7-54e9-9077-1b10009d8ccf/2dc535b6-2d5f-5e0b-b24b-5c8b6cff42b9/photos/0.jpg', 'standing by a window', 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.242563+00'),
	('bd18b31d-e914-550a-ad31-ee0634eb2a28', '2dc535b6-2d5f-5e0b-b24b-5c8b6cff42b9', '61ef437f-86d7-54e9-9077-1b10009d8ccf/2dc535b6-2d5f-5e0b-b24b-5c8b6cff42b9/photos/1.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.24464+00'),
	('66bcd660-4706-548f-b5be-fb333ef83489', '2dc535b6-2d5f-5e0b-b24b-5c8b6cff42b9', '61ef437f-86d7-54e9-9077-1b10009d8ccf/2dc535b6-2d5f-5e0b-b24b-5c8b6cff42b9/photos/2.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.250572+00'),
	('4fd76919-9668-5d5f-85e1-094f960e4b6f', '20d1fcb0-4b92-5805-84a0-bb0548038d99', '61ef437f-86d7-54e9-9077-1b10009d8ccf/20d1fcb0-4b92-5805-84a0-bb0548038d99/photos/0.jpg', 'standing by a window', 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.266882+00'),
	('ea47388f-0392-57c7-8c79-fe391641f3f1', '20d1fcb0-4b92-5805-84a0-bb0548038d99', '61ef437f-86d7-54e9-9077-1b10009d8ccf/20d1fcb0-4b92-5805-84a0-bb0548038d99/photos/1.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.273958+00'),
	('c8306f38-033a-5dbd-89cd-7c4253b9d481', '20d1fcb0-4b92-5805-84a0-bb0548038d99', '61ef437f-86d7-54e9-9077-1b10009d8ccf/20d1fcb0-4b92-5805-84a0-bb0548038d99/photos/2.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.278851+00'),
	('a94727b4-0b01-5e16-9849-33d626e790f7', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591', '61ef437f-86d7-54e9-9077-1b10009d8ccf/d67f3efa-2a9a-53b2-9f21-113c0b6fd591/photos/0.jpg', 'standing by a window', 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.296294+00'),
	('6682d422-746f-5493-9d2a-8f6e4a77ec70', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591', '61ef437f-86d7-54e9-9077-1b10009d8ccf/d67f3efa-2a9a-53b2-9f21-113c0b6fd591/photos/1.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.297952+00'),
	('b67d881e-34f7-5b47-a631-12b5f28faa3b', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591', '61ef437f-86d7-54e9-9077-1b10009d8ccf/d67f3efa-2a9a-53b2-9f21-113c0b6fd591/photos/2.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.29848+00'),
	('3a21d318-98dc-5a1f-a9d2-ba5b885291c1', '6d7511c0-7b83-56f9-bc7b-cb5d82acec54', '61ef437f-86d7-54e9-9077-1b10009d8ccf/6d7511c0-7b83-56f9-bc7b-cb5d82acec54/photos/0.jpg', 'standing by a window', 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.308216+00'),
	('ace38e85-dc79-5eae-aa36-f921ca61ec87', '6d7511c0-7b83-56f9-bc7b-cb5d82acec54', '61ef437f-86d7-54e9-9077-1b10009d8ccf/6d7511c0-7b83-56f9-bc7b-cb5d82acec54/photos/1.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.309924+00'),
	('f4114262-5537-5856-a24a-657beb8dd7e0', '6d7511c0-7b83-56f9-bc7b-cb5d82acec54', '61ef437f-86d7-54e9-9077-1b10009d8ccf/6d7511c0-7b83-56f9-bc7b-cb5d82acec54/photos/2.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.310435+00'),
	('58782a77-c9bc-5c47-954a-5b995f4f398d', 'e21b1012-6b1b-57a6-b06c-507f69e0b536', '61ef437f-86d7-54e9-9077-1b10009d8ccf/e21b1012-6b1b-57a6-b06c-507f69e0b536/photos/0.jpg', 'standing by a window', 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.320023+00'),
	('a067c03b-dd4e-52ab-85d9-eba1336465dc', 'e21b1012-6b1b-57a6-b06c-507f69e0b536', '61ef437f-86d7-54e9-9077-1b10009d8ccf/e21b1012-6b1b-57a6-b06c-507f69e0b536/photos/1.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.32163+00'),
	('b8b6a713-5c6b-56f8-a664-9deb94cf3af8', 'e21b1012-6b1b-57a6-b06c-507f69e0b536', '61ef437f-86d7-54e9-9077-1b10009d8ccf/e21b1012-6b1b-57a6-b06c-507f69e0b536/photos/2.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.322122+00'),
	('87e52214-7f4f-502b-859b-55e7ecb179a1', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766', '75bf8c9c-74cd-58d1-85d7-5ca647f9cc3b/d4e856df-34b0-5b1f-b88b-e6aadcf32766/photos/0.jpg', 'standing by a window', 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.331247+00'),
	('18d2f478-a3b6-5b6f-b61c-900e35608a89', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766', '75bf8c9c-74cd-58d1-85d7-5ca647f9cc3b/d4e856df-34b0-5b1f-b88b-e6aadcf32766/photos/1.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.333063+00'),
	('b66d56a8-8fa1-547a-bd9d-2566a11065e8', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766', '75bf8c9c-74cd-58d1-85d7-5ca647f9cc3b/d4e856df-34b0-5b1f-b88b-e6aadcf32766/photos/2.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.333568+00'),
	('c064ed31-391a-55a3-8c28-afdbd3ffbec0', '948e8fbd-0b4f-5211-aff1-aced20fa8417', 'bc5d3525-b56c-54a9-969e-a853979e7be7/948e8fbd-0b4f-5211-aff1-aced20fa8417/photos/0.jpg', 'standing by a window', 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.343402+00'),
	('3b146d7d-ae2d-5290-b66b-9d560b8bc584', '948e8fbd-0b4f-5211-aff1-aced20fa8417', 'bc5d3525-b56c-54a9-969e-a853979e7be7/948e8fbd-0b4f-5211-aff1-aced20fa8417/photos/1.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.34511+00'),
	('454a0047-342d-5974-8d81-c7fea9e1d25c', '948e8fbd-0b4f-5211-aff1-aced20fa8417', 'bc5d3525-b56c-54a9-969e-a853979e7be7/948e8fbd-0b4f-5211-aff1-aced20fa8417/photos/2.jpg', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.345612+00'),
	('43ebfe5e-da9a-592e-9867-284e5c983673', 'aed9aab1-5fff-5eac-bac2-d104202f625c', '61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/photos/1.jpg', NULL, 'accepted', NULL, NULL, 3000, 2000, NULL, NULL, NULL, '2026-01-01 01:55:22.201132+00'),
	('3ae31c07-771f-599d-842c-527098a70a6b', 'aed9aab1-5fff-5eac-bac2-d104202f625c', '61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/photos/3.jpg', NULL, 'rejected', 'blurred', NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01 01:55:22.202123+00');

INSERT INTO public.subjects (id, owner_id, name, trigger_word, subject_is_adult, consent_status, consent_purposes, consent_expires_at, erased_at, created_at) VALUES
	('2dc535b6-2d5f-5e0b-b24b-5c8b6cff42b9', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'Bea', 'ohwx2dc535', true, 'pending', '{}', NULL, NULL, '2026-01-01 01:55:22.235571+00'),
	('aed9aab1-5fff-5eac-bac2-d104202f625c', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'Ada', 'ohwxaed9aa', true, 'approved', '{training,generation}', NULL, NULL, '2026-01-01 01:55:22.189472+00'),
	('07fedd45-19ef-5efb-b2a4-4192a6cda025', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'A mug', 'ohwx07fedd', true, 'approved', '{training,generation}', NULL, NULL, '2026-01-01 01:55:22.352397+00'),
	('54eba592-1c15-5340-9ae4-c5f55976e600', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'Ivy', 'ohwx54eba5', true, 'approved', '{training,generation}', '2999-01-01 00:00:00+00', NULL, '2026-01-01 01:55:22.212639+00'),
	('20d1fcb0-4b92-5805-84a0-bb0548038d99', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'Cy', 'ohwx20d1fc', true, 'rejected', '{}', NULL, NULL, '2026-01-01 01:55:22.261523+00'),
	('d4e856df-34b0-5b1f-b88b-e6aadcf32766', '75bf8c9c-74cd-58d1-85d7-5ca647f9cc3b', 'Hal', 'ohwxd4e856', true, 'approved', '{generation}', NULL, NULL, '2026-01-01 01:55:22.328423+00'),
	('d67f3efa-2a9a-53b2-9f21-113c0b6fd591', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'Dee', 'ohwxd67f3e', true, 'revoked', '{}', NULL, NULL, '2026-01-01 01:55:22.293226+00'),
	('6d7511c0-7b83-56f9-bc7b-cb5d82acec54', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'Eve', 'ohwx6d7511', true, 'revoked', '{}', '2026-01-01 01:55:23.950445+00', NULL, '2026-01-01 01:55:22.305152+00'),
	('e21b1012-6b1b-57a6-b06c-507f69e0b536', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'Fay', 'ohwxe21b10', true, 'approved', '{training,generation}', '2026-01-01 01:55:23.963964+00', NULL, '2026-01-01 01:55:22.317011+00'),
	('948e8fbd-0b4f-5211-aff1-aced20fa8417', NULL, 'Gil', 'ohwx948e8f', true, 'revoked', '{}', NULL, NULL, '2026-01-01 01:55:22.3403+00');

INSERT INTO public.subjects_models (id, subject_id, job_id, version, base, family, path, sha256, rank, trigger_word, metrics, created_at, retired_at) VALUES
	('55338c5d-f9f8-47ab-baf8-97b2d03ec2dc', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'cc5448d4-2722-5b8a-9b0e-32cf15a89158', 2, 'flux-dev', 'flux', 'aed9aab1-5fff-5eac-bac2-d104202f625c/cc5448d4-2722-5b8a-9b0e-32cf15a89158/1/lora.safetensors', '5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e', 16, 'ohwxaed9aa', '{"steps": 4, "photos": 3, "final_loss": 0.25}', '2026-01-01 01:55:22.757926+00', NULL),
	('20a12c4d-271a-4fdf-a4c5-ebeec67d47b2', 'aed9aab1-5fff-5eac-bac2-d104202f625c', '73b12c99-93da-5c84-b59e-d526cf44c526', 3, 'flux-dev', 'flux', 'aed9aab1-5fff-5eac-bac2-d104202f625c/73b12c99-93da-5c84-b59e-d526cf44c526/1/lora.safetensors', '5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e', 16, 'ohwxaed9aa', '{"steps": 4, "photos": 3, "final_loss": 0.25}', '2026-01-01 01:55:22.809406+00', NULL),
	('7c4cc1d7-f655-4036-8c06-d71aa75295e6', 'aed9aab1-5fff-5eac-bac2-d104202f625c', '080478f6-813b-5045-ab03-26939dcb528e', 1, 'flux-dev', 'flux', 'aed9aab1-5fff-5eac-bac2-d104202f625c/080478f6-813b-5045-ab03-26939dcb528e/1/lora.safetensors', '5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e', 16, 'ohwxaed9aa', '{"steps": 4, "photos": 3, "final_loss": 0.25}', '2026-01-01 01:55:22.661749+00', '2026-01-01 01:55:22.816749+00'),
	('fb0fd1d6-9108-481f-a45a-f2136cc60a72', '54eba592-1c15-5340-9ae4-c5f55976e600', '77832e67-e232-572d-8a6a-5163a036e2da', 1, 'flux-dev', 'flux', '54eba592-1c15-5340-9ae4-c5f55976e600/77832e67-e232-572d-8a6a-5163a036e2da/1/lora.safetensors', '5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e', 16, 'ohwx54eba5', '{"steps": 4, "photos": 4, "final_loss": 0.25}', '2026-01-01 01:55:22.852277+00', NULL),
	('cae73331-7d2b-4e46-a9fb-54c66d2a9f62', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591', '760870fc-ed98-5939-a3da-761c87aac277', 1, 'flux-dev', 'flux', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591/760870fc-ed98-5939-a3da-761c87aac277/1/lora.safetensors', '5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e', 16, 'ohwxd67f3e', '{"steps": 4, "photos": 3, "final_loss": 0.25}', '2026-01-01 01:55:22.887716+00', NULL),
	('e597bd36-e515-453b-bb39-f118a0eaae14', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766', 'a3c5a852-88d8-573e-b363-f214f6ff895e', 1, 'flux-dev', 'flux', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766/a3c5a852-88d8-573e-b363-f214f6ff895e/1/lora.safetensors', '5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e', 16, 'ohwxd4e856', '{"steps": 4, "photos": 3, "final_loss": 0.25}', '2026-01-01 01:55:22.922702+00', NULL);

INSERT INTO public.training_jobs (id, owner_id, subject_id, status, attempt, failures, max_failures, priority, run_after, max_runtime, progress, phase, cancel_requested_at, cancel_code, error_code, error, result, metrics, gpu_seconds, pod_id, preset, created_at, started_at, finished_at, base, preset_id, sample_paths, trigger_word, steps, rank, learning_rate, resolution, seed, class_name) VALUES
	('080478f6-813b-5045-ab03-26939dcb528e', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'completed', 1, 0, 3, 0, NULL, '04:00:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"base": "flux-dev", "lora": "aed9aab1-5fff-5eac-bac2-d104202f625c/080478f6-813b-5045-ab03-26939dcb528e/1/lora.safetensors", "rank": 16, "bucket": "model_artifacts", "losses": "aed9aab1-5fff-5eac-bac2-d104202f625c/080478f6-813b-5045-ab03-26939dcb528e/1/losses.json", "sha256": "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e", "metrics": {"steps": 4, "photos": 3, "final_loss": 0.25}, "seconds": 1.5, "model_id": "7c4cc1d7-f655-4036-8c06-d71aa75295e6", "peak_gib": null, "settings": {"rank": 16, "steps": 4, "class_name": "a person"}, "memory_plan": null, "trigger_word": "ohwxaed9aa", "skipped_photos": []}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:22.589325+00', '2026-01-01 01:55:22.645256+00', '2026-01-01 01:55:22.677147+00', 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('cc5448d4-2722-5b8a-9b0e-32cf15a89158', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'completed', 1, 0, 3, 0, NULL, '04:00:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"base": "flux-dev", "lora": "aed9aab1-5fff-5eac-bac2-d104202f625c/cc5448d4-2722-5b8a-9b0e-32cf15a89158/1/lora.safetensors", "rank": 16, "bucket": "model_artifacts", "losses": "aed9aab1-5fff-5eac-bac2-d104202f625c/cc5448d4-2722-5b8a-9b0e-32cf15a89158/1/losses.json", "sha256": "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e", "metrics": {"steps": 4, "photos": 3, "final_loss": 0.25}, "seconds": 1.5, "model_id": "55338c5d-f9f8-47ab-baf8-97b2d03ec2dc", "peak_gib": null, "settings": {"rank": 16, "steps": 4, "class_name": "a person"}, "memory_plan": null, "trigger_word": "ohwxaed9aa", "skipped_photos": []}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:22.717273+00', '2026-01-01 01:55:22.75418+00', '2026-01-01 01:55:22.760863+00', 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('73b12c99-93da-5c84-b59e-d526cf44c526', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'completed', 1, 0, 3, 0, NULL, '04:00:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"base": "flux-dev", "lora": "aed9aab1-5fff-5eac-bac2-d104202f625c/73b12c99-93da-5c84-b59e-d526cf44c526/1/lora.safetensors", "rank": 16, "bucket": "model_artifacts", "losses": "aed9aab1-5fff-5eac-bac2-d104202f625c/73b12c99-93da-5c84-b59e-d526cf44c526/1/losses.json", "sha256": "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e", "metrics": {"steps": 4, "photos": 3, "final_loss": 0.25}, "seconds": 1.5, "model_id": "20a12c4d-271a-4fdf-a4c5-ebeec67d47b2", "peak_gib": null, "settings": {"rank": 16, "steps": 4, "class_name": "a person"}, "memory_plan": null, "trigger_word": "ohwxaed9aa", "skipped_photos": []}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:22.78128+00', '2026-01-01 01:55:22.803768+00', '2026-01-01 01:55:22.811901+00', 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('77832e67-e232-572d-8a6a-5163a036e2da', '61ef437f-86d7-54e9-9077-1b10009d8ccf', '54eba592-1c15-5340-9ae4-c5f55976e600', 'completed', 1, 0, 3, 0, NULL, '04:00:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"base": "flux-dev", "lora": "54eba592-1c15-5340-9ae4-c5f55976e600/77832e67-e232-572d-8a6a-5163a036e2da/1/lora.safetensors", "rank": 16, "bucket": "model_artifacts", "losses": "54eba592-1c15-5340-9ae4-c5f55976e600/77832e67-e232-572d-8a6a-5163a036e2da/1/losses.json", "sha256": "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e", "metrics": {"steps": 4, "photos": 4, "final_loss": 0.25}, "seconds": 1.5, "model_id": "fb0fd1d6-9108-481f-a45a-f2136cc60a72", "peak_gib": null, "settings": {"rank": 16, "steps": 4, "class_name": "a person"}, "memory_plan": null, "trigger_word": "ohwx54eba5", "skipped_photos": []}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:22.823929+00', '2026-01-01 01:55:22.848376+00', '2026-01-01 01:55:22.854686+00', 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('760870fc-ed98-5939-a3da-761c87aac277', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591', 'completed', 1, 0, 3, 0, NULL, '04:00:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"base": "flux-dev", "lora": "d67f3efa-2a9a-53b2-9f21-113c0b6fd591/760870fc-ed98-5939-a3da-761c87aac277/1/lora.safetensors", "rank": 16, "bucket": "model_artifacts", "losses": "d67f3efa-2a9a-53b2-9f21-113c0b6fd591/760870fc-ed98-5939-a3da-761c87aac277/1/losses.json", "sha256": "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e", "metrics": {"steps": 4, "photos": 3, "final_loss": 0.25}, "seconds": 1.5, "model_id": "cae73331-7d2b-4e46-a9fb-54c66d2a9f62", "peak_gib": null, "settings": {"rank": 16, "steps": 4, "class_name": "a person"}, "memory_plan": null, "trigger_word": "ohwxd67f3e", "skipped_photos": []}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:22.859369+00', '2026-01-01 01:55:22.884441+00', '2026-01-01 01:55:22.889929+00', 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('a3c5a852-88d8-573e-b363-f214f6ff895e', '75bf8c9c-74cd-58d1-85d7-5ca647f9cc3b', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766', 'completed', 1, 0, 3, 0, NULL, '04:00:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"base": "flux-dev", "lora": "d4e856df-34b0-5b1f-b88b-e6aadcf32766/a3c5a852-88d8-573e-b363-f214f6ff895e/1/lora.safetensors", "rank": 16, "bucket": "model_artifacts", "losses": "d4e856df-34b0-5b1f-b88b-e6aadcf32766/a3c5a852-88d8-573e-b363-f214f6ff895e/1/losses.json", "sha256": "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e", "metrics": {"steps": 4, "photos": 3, "final_loss": 0.25}, "seconds": 1.5, "model_id": "e597bd36-e515-453b-bb39-f118a0eaae14", "peak_gib": null, "settings": {"rank": 16, "steps": 4, "class_name": "a person"}, "memory_plan": null, "trigger_word": "ohwxd4e856", "skipped_photos": []}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:22.89468+00', '2026-01-01 01:55:22.919353+00', '2026-01-01 01:55:22.924997+00', 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('7832300b-3eca-5d19-9a67-9fb3ac311c41', '61ef437f-86d7-54e9-9077-1b10009d8ccf', '2dc535b6-2d5f-5e0b-b24b-5c8b6cff42b9', 'failed', 0, 0, 3, 0, NULL, '04:00:00', 0, 'refused', NULL, NULL, 'consent_denied', 'the person has not agreed yet: consent is pending', NULL, NULL, 0, NULL, NULL, '2026-01-01 01:55:23.123053+00', NULL, '2026-01-01 01:55:23.132137+00', 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('91b7cd7f-15aa-5bb8-84ea-04f87c920cc7', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'failed', 2, 2, 2, 0, '2026-01-01 01:55:23.527372+00', '04:00:00', 0, 'failed', NULL, NULL, 'internal', 'it broke again', NULL, NULL, 3, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.500283+00', '2026-01-01 01:55:23.530485+00', '2026-01-01 01:55:23.532456+00', 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('5212de67-1b73-5cbb-9686-cc7a39e3e49b', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'cancelled', 1, 0, 3, 0, NULL, '04:00:00', 0, 'cancelled', '2026-01-01 01:55:23.618422+00', 'cancelled', NULL, NULL, NULL, NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.576748+00', '2026-01-01 01:55:23.601016+00', '2026-01-01 01:55:23.621466+00', 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('bc99ee8b-1f3f-586c-9920-b4ababb35a61', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'running', 1, 0, 3, 0, NULL, '04:00:00', 0.75, 'training, step 150 of 200', NULL, NULL, NULL, NULL, NULL, '{"loss": 0.3, "seconds": 12.5}', 0, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.629292+00', '2026-01-01 01:55:23.655338+00', NULL, 'flux-dev', NULL, NULL, NULL, 200, NULL, NULL, NULL, NULL, 'a woman'),
	('99707d99-7205-5c5c-a6d0-1bbf0638b0df', '61ef437f-86d7-54e9-9077-1b10009d8ccf', '54eba592-1c15-5340-9ae4-c5f55976e600', 'running', 1, 0, 3, 0, NULL, '04:00:00', 0, 'starting', '2026-01-01 01:55:23.729312+00', 'cancelled', NULL, NULL, NULL, NULL, 0, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:23.697278+00', '2026-01-01 01:55:23.720298+00', NULL, 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('9ef944be-13a0-5ea6-b7ca-06e61c714003', '61ef437f-86d7-54e9-9077-1b10009d8ccf', '54eba592-1c15-5340-9ae4-c5f55976e600', 'running', 2, 1, 3, 0, '2026-01-01 01:55:23.878289+00', '04:00:00', 0, 'starting', NULL, NULL, NULL, NULL, NULL, NULL, 1.5, '36329f4f-b327-511f-a242-7a8226489500', NULL, '2026-01-01 01:55:23.837857+00', '2026-01-01 01:55:23.885022+00', NULL, 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('aadb97aa-1af4-5abc-bf88-5a5ed64eb0ea', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'queued', 1, 1, 3, 0, '2126-11-06 01:55:24.02249+00', '04:00:00', 0, 'waiting to try again', NULL, NULL, 'storage_error', 'the store did not answer', NULL, NULL, 1.5, NULL, NULL, '2026-01-01 01:55:23.977349+00', '2026-01-01 01:55:24.017878+00', NULL, 'flux-dev', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('9893310a-2b33-59fa-b11b-1363f5739479', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'queued', 0, 0, 3, -3, NULL, '04:00:00', 0, 'waiting', NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, '{"prompt": "", "negative_prompt": null}', '2026-01-01 01:55:24.176396+00', NULL, NULL, 'flux-dev', 'b4dbb55b-e095-53e1-8117-6e95a4800edb', '{61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/photos/0.jpg,61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/photos/1.jpg,61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/photos/2.jpg}', 'ohwxada', 300, 8, 0.0002, 512, 1, 'a woman');

INSERT INTO worker.base_models (slug, family, train_base, capabilities, sizes, defaults, min_vram_gib, licence, commercial_use) VALUES
	('flux-dev', 'flux', NULL, '{train,lora}', '{1024x1024,832x1216,1216x832}', '{"steps": 28, "width": 1024, "height": 1024, "guidance": 3.5}', 24, 'FLUX.1 [dev] Non-Commercial', false),
	('flux-schnell', 'flux', 'flux-dev', '{lora}', '{1024x1024,832x1216,1216x832}', '{"steps": 4, "width": 1024, "height": 1024, "guidance": 0}', 24, 'Apache-2.0', true),
	('sd15', 'sd15', NULL, '{train,lora}', '{512x512,512x768,768x512}', '{"steps": 30, "width": 512, "height": 512, "guidance": 7.5}', 6, 'CreativeML Open RAIL-M', true);

INSERT INTO worker.clock (singleton, last_tick, grace_from) VALUES
	(true, '2026-01-01 01:55:23.95233+00', '2026-01-01 01:55:22.004344+00');

INSERT INTO worker.config (singleton, consent_mode, default_base, open_jobs_per_owner, bucket_uploads, bucket_models, keep_logs_for) VALUES
	(true, 'admin', 'flux-dev', 50, 'uploads', 'model_artifacts', '1000 years');

INSERT INTO worker.consent_events (id, subject_id, event, purposes, expires_at, reason, evidence_digest, job_kind, job_id, actor, at) OVERRIDING SYSTEM VALUE VALUES
	(1, 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'grant', '{training,generation}', NULL, NULL, NULL, NULL, NULL, 'project_owner', '2026-01-01 01:55:22.365909+00'),
	(2, 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591', 'grant', '{training,generation}', NULL, NULL, NULL, NULL, NULL, 'project_owner', '2026-01-01 01:55:22.381489+00'),
	(3, 'd4e856df-34b0-5b1f-b88b-e6aadcf32766', 'grant', '{training,generation}', NULL, NULL, NULL, NULL, NULL, 'project_owner', '2026-01-01 01:55:22.400836+00'),
	(4, '948e8fbd-0b4f-5211-aff1-aced20fa8417', 'grant', '{training,generation}', NULL, NULL, NULL, NULL, NULL, 'project_owner', '2026-01-01 01:55:22.420121+00'),
	(5, '07fedd45-19ef-5efb-b2a4-4192a6cda025', 'grant', '{training,generation}', NULL, NULL, NULL, NULL, NULL, 'project_owner', '2026-01-01 01:55:22.43609+00'),
	(6, '54eba592-1c15-5340-9ae4-c5f55976e600', 'grant', '{training,generation}', '2999-01-01 00:00:00+00', NULL, 'f6d752346719d3d8fdea930237917d503dee81f5d4edd48a70e611b1eb096463', NULL, NULL, 'project_owner', '2026-01-01 01:55:22.452544+00'),
	(7, '6d7511c0-7b83-56f9-bc7b-cb5d82acec54', 'grant', '{training,generation}', '2999-01-01 00:00:00+00', NULL, NULL, NULL, NULL, 'project_owner', '2026-01-01 01:55:22.46538+00'),
	(8, 'e21b1012-6b1b-57a6-b06c-507f69e0b536', 'grant', '{training,generation}', '2999-01-01 00:00:00+00', NULL, NULL, NULL, NULL, 'project_owner', '2026-01-01 01:55:22.484874+00'),
	(9, '20d1fcb0-4b92-5805-84a0-bb0548038d99', 'reject', '{}', NULL, NULL, '7470adeb56eabbfd354add2d5c503e3a68145eaa405e81a9aeba7ff5200dacc3', NULL, NULL, 'project_owner', '2026-01-01 01:55:22.507179+00'),
	(10, 'd4e856df-34b0-5b1f-b88b-e6aadcf32766', 'grant', '{generation}', NULL, NULL, NULL, NULL, NULL, 'project_owner', '2026-01-01 01:55:22.960686+00'),
	(11, '2dc535b6-2d5f-5e0b-b24b-5c8b6cff42b9', 'refusal', '{training}', NULL, 'the person has not agreed yet: consent is pending', NULL, 'training', '7832300b-3eca-5d19-9a67-9fb3ac311c41', '61ef437f-86d7-54e9-9077-1b10009d8ccf', '2026-01-01 01:55:23.133701+00'),
	(12, '20d1fcb0-4b92-5805-84a0-bb0548038d99', 'refusal', '{generation}', NULL, 'the person did not agree: consent was rejected', NULL, 'generation', '87d819bc-3a16-5b9e-a998-88cc192c2f0f', '61ef437f-86d7-54e9-9077-1b10009d8ccf', '2026-01-01 01:55:23.151514+00'),
	(13, 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591', 'refusal', '{generation}', NULL, 'the person took consent back: it was revoked', NULL, 'generation', 'c8a88aa3-2a43-58a3-912a-4d8de105627a', '61ef437f-86d7-54e9-9077-1b10009d8ccf', '2026-01-01 01:55:23.802607+00'),
	(14, 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591', 'revoke', '{}', NULL, NULL, 'b570363cb8d436f209272b30a4938c4d850c2bcda001a19bbbb46555a69dc29f', NULL, NULL, '61ef437f-86d7-54e9-9077-1b10009d8ccf', '2026-01-01 01:55:23.803523+00'),
	(15, '6d7511c0-7b83-56f9-bc7b-cb5d82acec54', 'expiry', '{}', '2026-01-01 01:55:23.950445+00', NULL, NULL, NULL, NULL, 'login_of_alive', '2026-01-01 01:55:23.954239+00'),
	(16, '948e8fbd-0b4f-5211-aff1-aced20fa8417', 'revoke', '{}', NULL, 'the owner''s account was deleted', NULL, NULL, NULL, 'project_owner', '2026-01-01 01:55:23.969059+00');

INSERT INTO worker.internal_jobs (id, owner_id, subject_id, status, attempt, failures, max_failures, priority, run_after, max_runtime, progress, phase, cancel_requested_at, cancel_code, error_code, error, result, metrics, gpu_seconds, pod_id, preset, created_at, started_at, finished_at, payload) VALUES
	('8ae54939-e28e-417a-a685-7b7918d7ae2e', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'completed', 1, 0, 3, 0, NULL, '00:15:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"copied": "aed9aab1-5fff-5eac-bac2-d104202f625c/lora.safetensors"}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:22.659275+00', '2026-01-01 01:55:22.683589+00', '2026-01-01 01:55:22.703985+00', '{"model_id": "7c4cc1d7-f655-4036-8c06-d71aa75295e6"}'),
	('aaba7553-c666-4674-a767-a179038e2c87', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'completed', 1, 0, 3, 0, NULL, '00:15:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"copied": "aed9aab1-5fff-5eac-bac2-d104202f625c/lora.safetensors"}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:22.756946+00', '2026-01-01 01:55:22.764139+00', '2026-01-01 01:55:22.773694+00', '{"model_id": "55338c5d-f9f8-47ab-baf8-97b2d03ec2dc"}'),
	('414bf780-bd29-4f36-b906-ab375d38f288', '75bf8c9c-74cd-58d1-85d7-5ca647f9cc3b', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766', 'completed', 1, 0, 3, 0, NULL, '00:15:00', 1, 'completed', NULL, NULL, NULL, NULL, '{"copied": "d4e856df-34b0-5b1f-b88b-e6aadcf32766/lora.safetensors"}', NULL, 1.5, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', NULL, '2026-01-01 01:55:22.921847+00', '2026-01-01 01:55:22.930193+00', '2026-01-01 01:55:22.938811+00', '{"model_id": "e597bd36-e515-453b-bb39-f118a0eaae14"}'),
	('c5629df6-73f1-40cb-ad47-1de5e643a388', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'aed9aab1-5fff-5eac-bac2-d104202f625c', 'queued', 1, 0, 3, 0, '2026-01-01 01:55:22.944822+00', '00:15:00', 0, 'given back: its pod is stopping', NULL, NULL, NULL, NULL, NULL, NULL, 1.5, NULL, NULL, '2026-01-01 01:55:22.808322+00', '2026-01-01 01:55:22.943223+00', NULL, '{"model_id": "20a12c4d-271a-4fdf-a4c5-ebeec67d47b2"}'),
	('f3146c67-cc7e-4c51-9d9b-797d4f1a6863', '61ef437f-86d7-54e9-9077-1b10009d8ccf', '54eba592-1c15-5340-9ae4-c5f55976e600', 'queued', 1, 0, 3, 0, '2026-01-01 01:55:22.948017+00', '00:15:00', 0, 'given back: its pod is stopping', NULL, NULL, NULL, NULL, NULL, NULL, 1.5, NULL, NULL, '2026-01-01 01:55:22.851318+00', '2026-01-01 01:55:22.946823+00', NULL, '{"model_id": "fb0fd1d6-9108-481f-a45a-f2136cc60a72"}'),
	('8e0caff5-1942-4c82-b3d9-32f04f53b9f1', '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591', 'queued', 1, 0, 3, 0, '2026-01-01 01:55:22.9506+00', '00:15:00', 0, 'given back: its pod is stopping', NULL, NULL, NULL, NULL, NULL, NULL, 1.5, NULL, NULL, '2026-01-01 01:55:22.886987+00', '2026-01-01 01:55:22.949415+00', NULL, '{"model_id": "cae73331-7d2b-4e46-a9fb-54c66d2a9f62"}');

INSERT INTO worker.job_events (id, kind, job_id, attempt, at, event, detail) OVERRIDING SYSTEM VALUE VALUES
	(1, 'training', '080478f6-813b-5045-ab03-26939dcb528e', 1, '2026-01-01 01:55:22.651444+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(2, 'training', '080478f6-813b-5045-ab03-26939dcb528e', 1, '2026-01-01 01:55:22.678054+00', 'completed', '{}'),
	(3, 'publish_lora', '8ae54939-e28e-417a-a685-7b7918d7ae2e', 1, '2026-01-01 01:55:22.684565+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(4, 'publish_lora', '8ae54939-e28e-417a-a685-7b7918d7ae2e', 1, '2026-01-01 01:55:22.704796+00', 'completed', '{}'),
	(5, 'training', 'cc5448d4-2722-5b8a-9b0e-32cf15a89158', 1, '2026-01-01 01:55:22.755497+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(6, 'training', 'cc5448d4-2722-5b8a-9b0e-32cf15a89158', 1, '2026-01-01 01:55:22.761603+00', 'completed', '{}'),
	(7, 'publish_lora', 'aaba7553-c666-4674-a767-a179038e2c87', 1, '2026-01-01 01:55:22.764902+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(8, 'publish_lora', 'aaba7553-c666-4674-a767-a179038e2c87', 1, '2026-01-01 01:55:22.774462+00', 'completed', '{}'),
	(9, 'training', '73b12c99-93da-5c84-b59e-d526cf44c526', 1, '2026-01-01 01:55:22.804843+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(10, 'training', '73b12c99-93da-5c84-b59e-d526cf44c526', 1, '2026-01-01 01:55:22.812649+00', 'completed', '{}'),
	(11, 'training', '77832e67-e232-572d-8a6a-5163a036e2da', 1, '2026-01-01 01:55:22.84932+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(12, 'training', '77832e67-e232-572d-8a6a-5163a036e2da', 1, '2026-01-01 01:55:22.855321+00', 'completed', '{}'),
	(13, 'training', '760870fc-ed98-5939-a3da-761c87aac277', 1, '2026-01-01 01:55:22.88539+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(14, 'training', '760870fc-ed98-5939-a3da-761c87aac277', 1, '2026-01-01 01:55:22.890677+00', 'completed', '{}'),
	(15, 'training', 'a3c5a852-88d8-573e-b363-f214f6ff895e', 1, '2026-01-01 01:55:22.920383+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(16, 'training', 'a3c5a852-88d8-573e-b363-f214f6ff895e', 1, '2026-01-01 01:55:22.925605+00', 'completed', '{}'),
	(17, 'publish_lora', '414bf780-bd29-4f36-b906-ab375d38f288', 1, '2026-01-01 01:55:22.931041+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(18, 'publish_lora', '414bf780-bd29-4f36-b906-ab375d38f288', 1, '2026-01-01 01:55:22.939558+00', 'completed', '{}'),
	(19, 'publish_lora', 'c5629df6-73f1-40cb-ad47-1de5e643a388', 1, '2026-01-01 01:55:22.94394+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(20, 'publish_lora', 'c5629df6-73f1-40cb-ad47-1de5e643a388', 1, '2026-01-01 01:55:22.945621+00', 'requeued', '{"phase": "given back: its pod is stopping"}'),
	(21, 'publish_lora', 'f3146c67-cc7e-4c51-9d9b-797d4f1a6863', 1, '2026-01-01 01:55:22.947445+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(22, 'publish_lora', 'f3146c67-cc7e-4c51-9d9b-797d4f1a6863', 1, '2026-01-01 01:55:22.948609+00', 'requeued', '{"phase": "given back: its pod is stopping"}'),
	(23, 'publish_lora', '8e0caff5-1942-4c82-b3d9-32f04f53b9f1', 1, '2026-01-01 01:55:22.950022+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(24, 'publish_lora', '8e0caff5-1942-4c82-b3d9-32f04f53b9f1', 1, '2026-01-01 01:55:22.951174+00', 'requeued', '{"phase": "given back: its pod is stopping"}'),
	(25, 'generation', '1d83603a-d712-5700-ac07-30c1b5de7f97', 1, '2026-01-01 01:55:22.995045+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(26, 'generation', '1d83603a-d712-5700-ac07-30c1b5de7f97', 1, '2026-01-01 01:55:22.997906+00', 'completed', '{}'),
	(27, 'generation', 'e2d25491-e955-5250-9015-7971c89cef59', 1, '2026-01-01 01:55:23.061262+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(28, 'generation', 'e2d25491-e955-5250-9015-7971c89cef59', 1, '2026-01-01 01:55:23.064146+00', 'completed', '{}'),
	(29, 'generation', '7c5554d1-3ed6-59cc-89e5-768c294963a9', 1, '2026-01-01 01:55:23.116441+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(30, 'generation', '7c5554d1-3ed6-59cc-89e5-768c294963a9', 1, '2026-01-01 01:55:23.119071+00', 'completed', '{}'),
	(31, 'training', '7832300b-3eca-5d19-9a67-9fb3ac311c41', 0, '2026-01-01 01:55:23.133315+00', 'refused', '{"code": "consent_denied", "error": "the person has not agreed yet: consent is pending"}'),
	(32, 'generation', '87d819bc-3a16-5b9e-a998-88cc192c2f0f', 0, '2026-01-01 01:55:23.151129+00', 'refused', '{"code": "consent_denied", "error": "the person did not agree: consent was rejected"}'),
	(33, 'generation', '13eac2d5-2a2a-5714-a27b-b4470eab22e8', 0, '2026-01-01 01:55:23.17343+00', 'refused', '{"code": "prompt_blocked", "error": "the prompt asks for nudity (rule sexual-1); change it and insert another job"}'),
	(34, 'generation', 'cf1e0345-14c9-50bc-9e28-1ec35c9aeea8', 1, '2026-01-01 01:55:23.205098+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(35, 'generation', 'cf1e0345-14c9-50bc-9e28-1ec35c9aeea8', 1, '2026-01-01 01:55:23.209142+00', 'failed', '{"code": "input_missing", "error": "it failed with input_missing"}'),
	(36, 'generation', '57ab71a1-af0f-57f7-9911-b168a55104ef', 1, '2026-01-01 01:55:23.237341+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(37, 'generation', '57ab71a1-af0f-57f7-9911-b168a55104ef', 1, '2026-01-01 01:55:23.240944+00', 'failed', '{"code": "invalid_input", "error": "it failed with invalid_input"}'),
	(38, 'generation', 'e5067bc2-114f-5ca5-a0ba-d3b3a8352131', 1, '2026-01-01 01:55:23.269214+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(39, 'generation', 'e5067bc2-114f-5ca5-a0ba-d3b3a8352131', 1, '2026-01-01 01:55:23.272047+00', 'failed', '{"code": "output_blocked", "error": "it failed with output_blocked"}'),
	(40, 'generation', 'fff222a5-9713-55de-b5bc-ca5c6a5e535c', 1, '2026-01-01 01:55:23.300474+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(41, 'generation', 'fff222a5-9713-55de-b5bc-ca5c6a5e535c', 1, '2026-01-01 01:55:23.302354+00', 'failed', '{"code": "prompt_blocked", "error": "it failed with prompt_blocked"}'),
	(42, 'generation', '26dcaf8c-0dfb-5dd6-83bb-992460cf5561', 1, '2026-01-01 01:55:23.332042+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(43, 'generation', '26dcaf8c-0dfb-5dd6-83bb-992460cf5561', 1, '2026-01-01 01:55:23.333898+00', 'failed', '{"code": "storage_error", "error": "it failed with storage_error"}'),
	(44, 'generation', '6d175cf8-5079-5fbb-8bea-a59185d05a9a', 1, '2026-01-01 01:55:23.363952+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(45, 'generation', '6d175cf8-5079-5fbb-8bea-a59185d05a9a', 1, '2026-01-01 01:55:23.365771+00', 'failed', '{"code": "worker_lost", "error": "it failed with worker_lost"}'),
	(46, 'generation', '429df7b6-d7b9-578d-881a-b7e1da48d7a3', 1, '2026-01-01 01:55:23.393926+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(47, 'generation', '429df7b6-d7b9-578d-881a-b7e1da48d7a3', 1, '2026-01-01 01:55:23.398802+00', 'failed', '{"code": "timeout", "error": "it failed with timeout"}'),
	(48, 'generation', 'a5c0e852-8afe-5e21-ab74-0bfba6f895d6', 1, '2026-01-01 01:55:23.429531+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(49, 'generation', 'a5c0e852-8afe-5e21-ab74-0bfba6f895d6', 1, '2026-01-01 01:55:23.431705+00', 'failed', '{"code": "internal", "error": "it failed with internal"}'),
	(50, 'generation', '01fe0235-aa6b-53cf-aeb0-c0c7e4fcc728', 1, '2026-01-01 01:55:23.461722+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(51, 'generation', '01fe0235-aa6b-53cf-aeb0-c0c7e4fcc728', 1, '2026-01-01 01:55:23.463723+00', 'failed', '{"code": "out_of_memory", "error": "it failed with out_of_memory"}'),
	(52, 'generation', 'fc006bbf-c433-53db-a573-84ef8ddd1fa8', 1, '2026-01-01 01:55:23.493978+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(53, 'generation', 'fc006bbf-c433-53db-a573-84ef8ddd1fa8', 1, '2026-01-01 01:55:23.496024+00', 'failed', '{"code": "model_missing", "error": "it failed with model_missing"}'),
	(54, 'training', '91b7cd7f-15aa-5bb8-84ea-04f87c920cc7', 1, '2026-01-01 01:55:23.526204+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(55, 'training', '91b7cd7f-15aa-5bb8-84ea-04f87c920cc7', 1, '2026-01-01 01:55:23.52818+00', 'requeued', '{"code": "internal", "error": "it broke", "phase": "waiting to try again"}'),
	(56, 'training', '91b7cd7f-15aa-5bb8-84ea-04f87c920cc7', 2, '2026-01-01 01:55:23.531478+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(57, 'training', '91b7cd7f-15aa-5bb8-84ea-04f87c920cc7', 2, '2026-01-01 01:55:23.533019+00', 'failed', '{"code": "internal", "error": "it broke again"}'),
	(58, 'generation', 'aa52d56d-2d81-5e0a-ad7e-c76e2190c2a7', 0, '2026-01-01 01:55:23.569935+00', 'cancelled', '{}'),
	(59, 'training', '5212de67-1b73-5cbb-9686-cc7a39e3e49b', 1, '2026-01-01 01:55:23.60194+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(60, 'training', '5212de67-1b73-5cbb-9686-cc7a39e3e49b', 1, '2026-01-01 01:55:23.607953+00', 'checkpoint', '{"step": 100}'),
	(61, 'training', '5212de67-1b73-5cbb-9686-cc7a39e3e49b', 1, '2026-01-01 01:55:23.620202+00', 'stop requested', '{"code": "cancelled"}'),
	(62, 'training', '5212de67-1b73-5cbb-9686-cc7a39e3e49b', 1, '2026-01-01 01:55:23.622247+00', 'cancelled', '{}'),
	(63, 'training', 'bc99ee8b-1f3f-586c-9920-b4ababb35a61', 1, '2026-01-01 01:55:23.656483+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(64, 'training', 'bc99ee8b-1f3f-586c-9920-b4ababb35a61', 1, '2026-01-01 01:55:23.65995+00', 'checkpoint', '{"step": 100}'),
	(65, 'training', 'bc99ee8b-1f3f-586c-9920-b4ababb35a61', 1, '2026-01-01 01:55:23.660947+00', 'checkpoint', '{"step": 150}'),
	(66, 'training', 'bc99ee8b-1f3f-586c-9920-b4ababb35a61', 1, '2026-01-01 01:55:23.663775+00', 'phase', '{"phase": "training, step 150 of 200"}'),
	(67, 'generation', '1282aec0-78bb-5eeb-a739-a27a9a0e9cea', 1, '2026-01-01 01:55:23.692602+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(68, 'generation', '1282aec0-78bb-5eeb-a739-a27a9a0e9cea', 1, '2026-01-01 01:55:23.693772+00', 'phase', '{"phase": "drawing"}'),
	(69, 'training', '99707d99-7205-5c5c-a6d0-1bbf0638b0df', 1, '2026-01-01 01:55:23.721409+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(70, 'training', '99707d99-7205-5c5c-a6d0-1bbf0638b0df', 1, '2026-01-01 01:55:23.731038+00', 'stop requested', '{"code": "cancelled"}'),
	(71, 'generation', '84178e46-9f63-5de2-9ea0-a4a268466fe6', 1, '2026-01-01 01:55:23.761521+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(72, 'generation', '84178e46-9f63-5de2-9ea0-a4a268466fe6', 1, '2026-01-01 01:55:23.80036+00', 'stop requested', '{"code": "consent_denied"}'),
	(73, 'generation', 'c8a88aa3-2a43-58a3-912a-4d8de105627a', 0, '2026-01-01 01:55:23.802221+00', 'failed', '{"code": "consent_denied", "error": "the person took consent back: it was revoked"}'),
	(74, 'training', '9ef944be-13a0-5ea6-b7ca-06e61c714003', 1, '2026-01-01 01:55:23.872926+00', 'started', '{"pod": "silent", "pod_id": "36329f4f-b327-511f-a242-7a8226489500"}'),
	(75, 'training', '9ef944be-13a0-5ea6-b7ca-06e61c714003', 1, '2026-01-01 01:55:23.87707+00', 'checkpoint', '{"step": 50}'),
	(76, 'training', '9ef944be-13a0-5ea6-b7ca-06e61c714003', 1, '2026-01-01 01:55:23.879661+00', 'requeued', '{"code": "storage_error", "error": "the store did not answer", "phase": "waiting to try again"}'),
	(77, 'training', '9ef944be-13a0-5ea6-b7ca-06e61c714003', 2, '2026-01-01 01:55:23.886272+00', 'started', '{"pod": "silent", "pod_id": "36329f4f-b327-511f-a242-7a8226489500", "resumed_step": 50}'),
	(78, 'training', '9ef944be-13a0-5ea6-b7ca-06e61c714003', 2, '2026-01-01 01:55:23.888662+00', 'checkpoint', '{"step": 90}'),
	(79, 'training', 'aadb97aa-1af4-5abc-bf88-5a5ed64eb0ea', 1, '2026-01-01 01:55:24.020322+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(80, 'training', 'aadb97aa-1af4-5abc-bf88-5a5ed64eb0ea', 1, '2026-01-01 01:55:24.021955+00', 'checkpoint', '{"step": 10}'),
	(81, 'training', 'aadb97aa-1af4-5abc-bf88-5a5ed64eb0ea', 1, '2026-01-01 01:55:24.027315+00', 'requeued', '{"code": "storage_error", "error": "the store did not answer", "phase": "waiting to try again"}'),
	(82, 'generation', 'a8f340de-ac14-5c0f-88a1-58ed7f1708e6', 1, '2026-01-01 01:55:24.061139+00', 'started', '{"pod": "alive", "pod_id": "9c4e3de2-44b2-5c8a-a735-e043b86868b8"}'),
	(83, 'generation', 'a8f340de-ac14-5c0f-88a1-58ed7f1708e6', 1, '2026-01-01 01:55:24.06289+00', 'requeued', '{"code": "model_missing", "error": "flux-dev is missing here", "phase": "flux-dev is missing here"}'),
	(84, 'generation', 'b999858b-f15b-56c9-863c-02eba7ec1fcb', 0, '2026-01-01 01:55:24.098252+00', 'cancelled', '{}'),
	(85, 'generation', 'b999858b-f15b-56c9-863c-02eba7ec1fcb', 0, '2026-01-01 01:55:24.111816+00', 'retried', '{"actor": "61ef437f-86d7-54e9-9077-1b10009d8ccf"}');

INSERT INTO worker.job_kinds (kind, table_name, purpose, subject_required, slot, max_runtime, paused) VALUES
	('training', 'public.training_jobs', 'training', true, 'gpu', '04:00:00', false),
	('generation', 'public.generation_jobs', 'generation', false, 'gpu', '00:30:00', false),
	('publish_lora', 'worker.internal_jobs', NULL, true, 'light', '00:15:00', false);

INSERT INTO worker.job_subjects (kind, job_id, subject_id) VALUES
	('training', '080478f6-813b-5045-ab03-26939dcb528e', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('publish_lora', '8ae54939-e28e-417a-a685-7b7918d7ae2e', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('training', 'cc5448d4-2722-5b8a-9b0e-32cf15a89158', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('publish_lora', 'aaba7553-c666-4674-a767-a179038e2c87', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('training', '73b12c99-93da-5c84-b59e-d526cf44c526', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('publish_lora', 'c5629df6-73f1-40cb-ad47-1de5e643a388', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('training', '77832e67-e232-572d-8a6a-5163a036e2da', '54eba592-1c15-5340-9ae4-c5f55976e600'),
	('publish_lora', 'f3146c67-cc7e-4c51-9d9b-797d4f1a6863', '54eba592-1c15-5340-9ae4-c5f55976e600'),
	('training', '760870fc-ed98-5939-a3da-761c87aac277', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591'),
	('publish_lora', '8e0caff5-1942-4c82-b3d9-32f04f53b9f1', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591'),
	('training', 'a3c5a852-88d8-573e-b363-f214f6ff895e', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766'),
	('publish_lora', '414bf780-bd29-4f36-b906-ab375d38f288', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766'),
	('generation', '1d83603a-d712-5700-ac07-30c1b5de7f97', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', 'e2d25491-e955-5250-9015-7971c89cef59', '54eba592-1c15-5340-9ae4-c5f55976e600'),
	('generation', 'e2d25491-e955-5250-9015-7971c89cef59', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('training', '7832300b-3eca-5d19-9a67-9fb3ac311c41', '2dc535b6-2d5f-5e0b-b24b-5c8b6cff42b9'),
	('generation', '87d819bc-3a16-5b9e-a998-88cc192c2f0f', '20d1fcb0-4b92-5805-84a0-bb0548038d99'),
	('generation', '13eac2d5-2a2a-5714-a27b-b4470eab22e8', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', 'cf1e0345-14c9-50bc-9e28-1ec35c9aeea8', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', '57ab71a1-af0f-57f7-9911-b168a55104ef', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', 'e5067bc2-114f-5ca5-a0ba-d3b3a8352131', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', 'fff222a5-9713-55de-b5bc-ca5c6a5e535c', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', '26dcaf8c-0dfb-5dd6-83bb-992460cf5561', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', '6d175cf8-5079-5fbb-8bea-a59185d05a9a', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', '429df7b6-d7b9-578d-881a-b7e1da48d7a3', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', 'a5c0e852-8afe-5e21-ab74-0bfba6f895d6', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', '01fe0235-aa6b-53cf-aeb0-c0c7e4fcc728', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', 'fc006bbf-c433-53db-a573-84ef8ddd1fa8', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('training', '91b7cd7f-15aa-5bb8-84ea-04f87c920cc7', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', 'aa52d56d-2d81-5e0a-ad7e-c76e2190c2a7', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('training', '5212de67-1b73-5cbb-9686-cc7a39e3e49b', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('training', 'bc99ee8b-1f3f-586c-9920-b4ababb35a61', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', '1282aec0-78bb-5eeb-a739-a27a9a0e9cea', '54eba592-1c15-5340-9ae4-c5f55976e600'),
	('training', '99707d99-7205-5c5c-a6d0-1bbf0638b0df', '54eba592-1c15-5340-9ae4-c5f55976e600'),
	('generation', '84178e46-9f63-5de2-9ea0-a4a268466fe6', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591'),
	('generation', 'c8a88aa3-2a43-58a3-912a-4d8de105627a', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591'),
	('generation', '8f0571d3-9734-591b-be53-a5f817f698b2', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('training', '9ef944be-13a0-5ea6-b7ca-06e61c714003', '54eba592-1c15-5340-9ae4-c5f55976e600'),
	('generation', 'e83db976-a429-519b-8444-f2c249006244', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('training', 'aadb97aa-1af4-5abc-bf88-5a5ed64eb0ea', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', 'a8f340de-ac14-5c0f-88a1-58ed7f1708e6', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', 'b999858b-f15b-56c9-863c-02eba7ec1fcb', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', '7ee04531-737e-5343-8420-e0bb69701877', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', '9893310a-2b33-59fa-b11b-1363f5739479', '54eba592-1c15-5340-9ae4-c5f55976e600'),
	('generation', '9893310a-2b33-59fa-b11b-1363f5739479', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('training', '9893310a-2b33-59fa-b11b-1363f5739479', 'aed9aab1-5fff-5eac-bac2-d104202f625c'),
	('generation', 'e4485659-fb65-5224-8021-a8eae32fc2fa', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766');

INSERT INTO worker.pgqueuer (id, priority, queue_manager_id, created, updated, heartbeat, execute_after, status, entrypoint, dedupe_key, payload, headers, attempts, slot) VALUES
	(6, 0, NULL, '2026-01-01 01:55:22.808322+00', '2026-01-01 01:55:22.94434+00', '2026-01-01 01:55:22.926292+00', '2026-01-01 01:55:22.945389+00', 'queued', 'publish_lora', 'publish_lora:c5629df6-73f1-40cb-ad47-1de5e643a388', '\x63353632396466362d373366312d343063622d616434372d316465356536343361333838', NULL, 1, NULL),
	(8, 0, NULL, '2026-01-01 01:55:22.851318+00', '2026-01-01 01:55:22.947793+00', '2026-01-01 01:55:22.927299+00', '2026-01-01 01:55:22.948419+00', 'queued', 'publish_lora', 'publish_lora:f3146c67-cc7e-4c51-9d9b-797d4f1a6863', '\x66333134366336372d636337652d346335312d396439622d373937643466316136383633', NULL, 1, NULL),
	(10, 0, NULL, '2026-01-01 01:55:22.886987+00', '2026-01-01 01:55:22.950323+00', '2026-01-01 01:55:22.928047+00', '2026-01-01 01:55:22.950996+00', 'queued', 'publish_lora', 'publish_lora:8e0caff5-1942-4c82-b3d9-32f04f53b9f1', '\x38653063616666352d313934322d346338322d623364392d333266303466353362396631', NULL, 1, NULL),
	(29, 0, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', '2026-01-01 01:55:23.629292+00', '2026-01-01 01:55:23.653029+00', '2026-01-01 01:55:23.653029+00', '2026-01-01 01:55:23.629292+00', 'picked', 'training/flux-dev', 'training:bc99ee8b-1f3f-586c-9920-b4ababb35a61', '\x62633939656538622d316633662d353836632d393932302d623461626162623335613631', NULL, 0, NULL),
	(30, 0, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', '2026-01-01 01:55:23.66734+00', '2026-01-01 01:55:23.685894+00', '2026-01-01 01:55:23.685894+00', '2026-01-01 01:55:23.66734+00', 'picked', 'generation/flux-dev', 'generation:1282aec0-78bb-5eeb-a739-a27a9a0e9cea', '\x31323832616563302d373862622d356565622d613733392d613237613961306539636561', NULL, 0, NULL),
	(31, 0, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', '2026-01-01 01:55:23.697278+00', '2026-01-01 01:55:23.7154+00', '2026-01-01 01:55:23.7154+00', '2026-01-01 01:55:23.697278+00', 'picked', 'training/flux-dev', 'training:99707d99-7205-5c5c-a6d0-1bbf0638b0df', '\x39393730376439392d373230352d356335632d613664302d316262663036333862306466', NULL, 0, NULL),
	(32, 0, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', '2026-01-01 01:55:23.737591+00', '2026-01-01 01:55:23.756514+00', '2026-01-01 01:55:23.756514+00', '2026-01-01 01:55:23.737591+00', 'picked', 'generation/flux-dev', 'generation:84178e46-9f63-5de2-9ea0-a4a268466fe6', '\x38343137386534362d396636332d356465322d396561302d613461323638343636666536', NULL, 0, NULL),
	(34, 0, '9c4e3de2-44b2-5c8a-a735-e043b86868b8', '2026-01-01 01:55:23.810991+00', '2026-01-01 01:55:23.830471+00', '2026-01-01 01:55:23.830471+00', '2026-01-01 01:55:23.810991+00', 'picked', 'generation/flux-dev', 'generation:8f0571d3-9734-591b-be53-a5f817f698b2', '\x38663035373164332d393733342d353931622d626535332d613566383137663639386232', NULL, 0, NULL),
	(35, 0, '36329f4f-b327-511f-a242-7a8226489500', '2026-01-01 01:55:23.837857+00', '2026-01-01 01:55:23.882658+00', '2026-01-01 01:55:23.882658+00', '2026-01-01 01:55:23.879266+00', 'picked', 'training/flux-dev', 'training:9ef944be-13a0-5ea6-b7ca-06e61c714003', '\x39656639343462652d313361302d356561362d623763612d303665363163373134303033', NULL, 1, NULL),
	(36, 0, '36329f4f-b327-511f-a242-7a8226489500', '2026-01-01 01:55:23.8957+00', '2026-01-01 01:55:23.938855+00', '2026-01-01 01:55:23.938855+00', '2026-01-01 01:55:23.8957+00', 'picked', 'generation/flux-dev', 'generation:e83db976-a429-519b-8444-f2c249006244', '\x65383364623937362d613432392d353139622d383434342d663263323439303036323434', NULL, 0, NULL),
	(37, 0, NULL, '2026-01-01 01:55:23.977349+00', '2026-01-01 01:55:24.022249+00', '2026-01-01 01:55:24.01132+00', '2126-11-06 01:55:24.027066+00', 'queued', 'training/flux-dev', 'training:aadb97aa-1af4-5abc-bf88-5a5ed64eb0ea', '\x61616462393761612d316166342d356162632d626638382d356135656436346562306561', NULL, 1, NULL),
	(38, 0, NULL, '2026-01-01 01:55:24.033302+00', '2026-01-01 01:55:24.061673+00', '2026-01-01 01:55:24.053929+00', '2026-01-01 01:55:24.062689+00', 'queued', 'generation/flux-dev', 'generation:a8f340de-ac14-5c0f-88a1-58ed7f1708e6', '\x61386633343064652d616331342d356330662d383861312d353865643766313730386536', NULL, 1, NULL),
	(40, 0, NULL, '2026-01-01 01:55:24.105053+00', '2026-01-01 01:55:24.105053+00', '2026-01-01 01:55:24.105053+00', '2026-01-01 01:55:24.105053+00', 'queued', 'generation/flux-dev', 'generation:b999858b-f15b-56c9-863c-02eba7ec1fcb', '\x62393939383538622d663135622d353663392d383633632d303265626137656331666362', NULL, 0, NULL),
	(41, 0, NULL, '2026-01-01 01:55:24.119186+00', '2026-01-01 01:55:24.119186+00', '2026-01-01 01:55:24.119186+00', '2999-01-01 00:00:00+00', 'queued', 'generation/flux-dev', 'generation:7ee04531-737e-5343-8420-e0bb69701877', '\x37656530343533312d373337652d353334332d383432302d653062623639373031383737', NULL, 0, NULL),
	(42, 7000, NULL, '2026-01-01 01:55:24.145598+00', '2026-01-01 01:55:24.145598+00', '2026-01-01 01:55:24.145598+00', '2026-01-01 01:55:24.145598+00', 'queued', 'generation/flux-schnell', 'generation:9893310a-2b33-59fa-b11b-1363f5739479', '\x39383933333130612d326233332d353966612d623131622d313336336635373339343739', NULL, 0, NULL),
	(43, -3000, NULL, '2026-01-01 01:55:24.176396+00', '2026-01-01 01:55:24.176396+00', '2026-01-01 01:55:24.176396+00', '2026-01-01 01:55:24.176396+00', 'queued', 'training/flux-dev', 'training:9893310a-2b33-59fa-b11b-1363f5739479', '\x39383933333130612d326233332d353966612d623131622d313336336635373339343739', NULL, 0, NULL),
	(44, 0, NULL, '2026-01-01 01:55:24.200835+00', '2026-01-01 01:55:24.200835+00', '2026-01-01 01:55:24.200835+00', '2026-01-01 01:55:24.200835+00', 'queued', 'generation/sd15', 'generation:1dadecd3-3b7d-5259-9944-267aaa776c7f', '\x31646164656364332d336237642d353235392d393934342d323637616161373736633766', NULL, 0, NULL),
	(45, 0, NULL, '2026-01-01 01:55:24.226888+00', '2026-01-01 01:55:24.226888+00', '2026-01-01 01:55:24.226888+00', '2026-01-01 01:55:24.226888+00', 'queued', 'generation/flux-dev', 'generation:e4485659-fb65-5224-8021-a8eae32fc2fa', '\x65343438353635392d666236352d353232342d383032312d613865616533326663326661', NULL, 0, NULL);

INSERT INTO worker.pgqueuer_log (id, created, job_id, status, priority, entrypoint, traceback, aggregated) VALUES
	(1, '2026-01-01 01:55:22.589325+00', 1, 'queued', 0, 'training/flux-dev', NULL, false),
	(2, '2026-01-01 01:55:22.628842+00', 1, 'picked', 0, 'training/flux-dev', NULL, false),
	(3, '2026-01-01 01:55:22.659275+00', 2, 'queued', 0, 'publish_lora', NULL, false),
	(4, '2026-01-01 01:55:22.659275+00', 1, 'successful', 0, 'training/flux-dev', NULL, false),
	(5, '2026-01-01 01:55:22.679952+00', 2, 'picked', 0, 'publish_lora', NULL, false),
	(6, '2026-01-01 01:55:22.702922+00', 2, 'successful', 0, 'publish_lora', NULL, false),
	(7, '2026-01-01 01:55:22.717273+00', 3, 'queued', 0, 'training/flux-dev', NULL, false),
	(8, '2026-01-01 01:55:22.748091+00', 3, 'picked', 0, 'training/flux-dev', NULL, false),
	(9, '2026-01-01 01:55:22.756946+00', 4, 'queued', 0, 'publish_lora', NULL, false),
	(10, '2026-01-01 01:55:22.756946+00', 3, 'successful', 0, 'training/flux-dev', NULL, false),
	(11, '2026-01-01 01:55:22.762158+00', 4, 'picked', 0, 'publish_lora', NULL, false),
	(12, '2026-01-01 01:55:22.772775+00', 4, 'successful', 0, 'publish_lora', NULL, false),
	(13, '2026-01-01 01:55:22.78128+00', 5, 'queued', 0, 'training/flux-dev', NULL, false),
	(14, '2026-01-01 01:55:22.799446+00', 5, 'picked', 0, 'training/flux-dev', NULL, false),
	(15, '2026-01-01 01:55:22.808322+00', 6, 'queued', 0, 'publish_lora', NULL, false),
	(16, '2026-01-01 01:55:22.808322+00', 5, 'successful', 0, 'training/flux-dev', NULL, false),
	(17, '2026-01-01 01:55:22.823929+00', 7, 'queued', 0, 'training/flux-dev', NULL, false),
	(18, '2026-01-01 01:55:22.842708+00', 7, 'picked', 0, 'training/flux-dev', NULL, false),
	(19, '2026-01-01 01:55:22.851318+00', 8, 'queued', 0, 'publish_lora', NULL, false),
	(20, '2026-01-01 01:55:22.851318+00', 7, 'successful', 0, 'training/flux-dev', NULL, false),
	(21, '2026-01-01 01:55:22.859369+00', 9, 'queued', 0, 'training/flux-dev', NULL, false),
	(22, '2026-01-01 01:55:22.878911+00', 9, 'picked', 0, 'training/flux-dev', NULL, false),
	(23, '2026-01-01 01:55:22.886987+00', 10, 'queued', 0, 'publish_lora', NULL, false),
	(24, '2026-01-01 01:55:22.886987+00', 9, 'successful', 0, 'training/flux-dev', NULL, false),
	(25, '2026-01-01 01:55:22.89468+00', 11, 'queued', 0, 'training/flux-dev', NULL, false),
	(26, '2026-01-01 01:55:22.914449+00', 11, 'picked', 0, 'training/flux-dev', NULL, false),
	(27, '2026-01-01 01:55:22.921847+00', 12, 'queued', 0, 'publish_lora', NULL, false),
	(28, '2026-01-01 01:55:22.921847+00', 11, 'successful', 0, 'training/flux-dev', NULL, false),
	(29, '2026-01-01 01:55:22.926292+00', 6, 'picked', 0, 'publish_lora', NULL, false),
	(30, '2026-01-01 01:55:22.927299+00', 8, 'picked', 0, 'publish_lora', NULL, false),
	(31, '2026-01-01 01:55:22.928047+00', 10, 'picked', 0, 'publish_lora', NULL, false),
	(32, '2026-01-01 01:55:22.928766+00', 12, 'picked', 0, 'publish_lora', NULL, false),
	(33, '2026-01-01 01:55:22.938151+00', 12, 'successful', 0, 'publish_lora', NULL, false),
	(34, '2026-01-01 01:55:22.94434+00', 6, 'queued', 0, 'publish_lora', NULL, false),
	(35, '2026-01-01 01:55:22.947793+00', 8, 'queued', 0, 'publish_lora', NULL, false),
	(36, '2026-01-01 01:55:22.950323+00', 10, 'queued', 0, 'publish_lora', NULL, false),
	(37, '2026-01-01 01:55:22.967572+00', 13, 'queued', 0, 'generation/flux-dev', NULL, false),
	(38, '2026-01-01 01:55:22.987402+00', 13, 'picked', 0, 'generation/flux-dev', NULL, false),
	(39, '2026-01-01 01:55:22.996319+00', 13, 'successful', 0, 'generation/flux-dev', NULL, false),
	(40, '2026-01-01 01:55:23.009734+00', 14, 'queued', 0, 'generation/flux-dev', NULL, false),
	(41, '2026-01-01 01:55:23.053348+00', 14, 'picked', 0, 'generation/flux-dev', NULL, false),
	(42, '2026-01-01 01:55:23.062696+00', 14, 'successful', 0, 'generation/flux-dev', NULL, false),
	(43, '2026-01-01 01:55:23.077314+00', 15, 'queued', 0, 'generation/flux-dev', NULL, false),
	(44, '2026-01-01 01:55:23.110569+00', 15, 'picked', 0, 'generation/flux-dev', NULL, false),
	(45, '2026-01-01 01:55:23.117604+00', 15, 'successful', 0, 'generation/flux-dev', NULL, false),
	(46, '2026-01-01 01:55:23.180719+00', 16, 'queued', 0, 'generation/flux-dev', NULL, false),
	(47, '2026-01-01 01:55:23.20009+00', 16, 'picked', 0, 'generation/flux-dev', NULL, false),
	(48, '2026-01-01 01:55:23.207239+00', 16, 'exception', 0, 'generation/flux-dev', NULL, false),
	(49, '2026-01-01 01:55:23.212799+00', 17, 'queued', 0, 'generation/flux-dev', NULL, false),
	(50, '2026-01-01 01:55:23.231857+00', 17, 'picked', 0, 'generation/flux-dev', NULL, false),
	(51, '2026-01-01 01:55:23.239489+00', 17, 'exception', 0, 'generation/flux-dev', NULL, false),
	(52, '2026-01-01 01:55:23.244664+00', 18, 'queued', 0, 'generation/flux-dev', NULL, false),
	(53, '2026-01-01 01:55:23.26355+00', 18, 'picked', 0, 'generation/flux-dev', NULL, false),
	(54, '2026-01-01 01:55:23.27074+00', 18, 'exception', 0, 'generation/flux-dev', NULL, false),
	(55, '2026-01-01 01:55:23.275617+00', 19, 'queued', 0, 'generation/flux-dev', NULL, false),
	(56, '2026-01-01 01:55:23.293769+00', 19, 'picked', 0, 'generation/flux-dev', NULL, false),
	(57, '2026-01-01 01:55:23.301101+00', 19, 'exception', 0, 'generation/flux-dev', NULL, false),
	(58, '2026-01-01 01:55:23.305987+00', 20, 'queued', 0, 'generation/flux-dev', NULL, false),
	(59, '2026-01-01 01:55:23.325105+00', 20, 'picked', 0, 'generation/flux-dev', NULL, false),
	(60, '2026-01-01 01:55:23.332586+00', 20, 'exception', 0, 'generation/flux-dev', NULL, false),
	(61, '2026-01-01 01:55:23.338+00', 21, 'queued', 0, 'generation/flux-dev', NULL, false),
	(62, '2026-01-01 01:55:23.357355+00', 21, 'picked', 0, 'generation/flux-dev', NULL, false),
	(63, '2026-01-01 01:55:23.364449+00', 21, 'exception', 0, 'generation/flux-dev', NULL, false),
	(64, '2026-01-01 01:55:23.369276+00', 22, 'queued', 0, 'generation/flux-dev', NULL, false),
	(65, '2026-01-01 01:55:23.388166+00', 22, 'picked', 0, 'generation/flux-dev', NULL, false),
	(66, '2026-01-01 01:55:23.396995+00', 22, 'exception', 0, 'generation/flux-dev', NULL, false),
	(67, '2026-01-01 01:55:23.402554+00', 23, 'queued', 0, 'generation/flux-dev', NULL, false),
	(68, '2026-01-01 01:55:23.422943+00', 23, 'picked', 0, 'generation/flux-dev', NULL, false),
	(69, '2026-01-01 01:55:23.430207+00', 23, 'exception', 0, 'generation/flux-dev', NULL, false),
	(70, '2026-01-01 01:55:23.43548+00', 24, 'queued', 0, 'generation/flux-dev', NULL, false),
	(71, '2026-01-01 01:55:23.454709+00', 24, 'picked', 0, 'generation/flux-dev', NULL, false),
	(72, '2026-01-01 01:55:23.462381+00', 24, 'exception', 0, 'generation/flux-dev', NULL, false),
	(73, '2026-01-01 01:55:23.467436+00', 25, 'queued', 0, 'generation/flux-dev', NULL, false),
	(74, '2026-01-01 01:55:23.490161+00', 25, 'picked', 0, 'generation/flux-dev', NULL, false),
	(75, '2026-01-01 01:55:23.49463+00', 25, 'exception', 0, 'generation/flux-dev', NULL, false),
	(76, '2026-01-01 01:55:23.500283+00', 26, 'queued', 0, 'training/flux-dev', NULL, false),
	(77, '2026-01-01 01:55:23.522615+00', 26, 'picked', 0, 'training/flux-dev', NULL, false),
	(78, '2026-01-01 01:55:23.527052+00', 26, 'queued', 0, 'training/flux-dev', NULL, false),
	(79, '2026-01-01 01:55:23.528579+00', 26, 'picked', 0, 'training/flux-dev', NULL, false),
	(80, '2026-01-01 01:55:23.531891+00', 26, 'exception', 0, 'training/flux-dev', NULL, false),
	(81, '2026-01-01 01:55:23.536987+00', 27, 'queued', 0, 'generation/flux-dev', NULL, false),
	(82, '2026-01-01 01:55:23.563708+00', 27, 'canceled', 0, 'generation/flux-dev', NULL, false),
	(83, '2026-01-01 01:55:23.576748+00', 28, 'queued', 0, 'training/flux-dev', NULL, false),
	(84, '2026-01-01 01:55:23.594717+00', 28, 'picked', 0, 'training/flux-dev', NULL, false),
	(85, '2026-01-01 01:55:23.62097+00', 28, 'canceled', 0, 'training/flux-dev', NULL, false),
	(86, '2026-01-01 01:55:23.629292+00', 29, 'queued', 0, 'training/flux-dev', NULL, false),
	(87, '2026-01-01 01:55:23.653029+00', 29, 'picked', 0, 'training/flux-dev', NULL, false),
	(88, '2026-01-01 01:55:23.66734+00', 30, 'queued', 0, 'generation/flux-dev', NULL, false),
	(89, '2026-01-01 01:55:23.685894+00', 30, 'picked', 0, 'generation/flux-dev', NULL, false),
	(90, '2026-01-01 01:55:23.697278+00', 31, 'queued', 0, 'training/flux-dev', NULL, false),
	(91, '2026-01-01 01:55:23.7154+00', 31, 'picked', 0, 'training/flux-dev', NULL, false),
	(92, '2026-01-01 01:55:23.737591+00', 32, 'queued', 0, 'generation/flux-dev', NULL, false),
	(93, '2026-01-01 01:55:23.756514+00', 32, 'picked', 0, 'generation/flux-dev', NULL, false),
	(94, '2026-01-01 01:55:23.767452+00', 33, 'queued', 0, 'generation/flux-dev', NULL, false),
	(95, '2026-01-01 01:55:23.79284+00', 33, 'exception', 0, 'generation/flux-dev', NULL, false),
	(96, '2026-01-01 01:55:23.810991+00', 34, 'queued', 0, 'generation/flux-dev', NULL, false),
	(97, '2026-01-01 01:55:23.830471+00', 34, 'picked', 0, 'generation/flux-dev', NULL, false),
	(98, '2026-01-01 01:55:23.837857+00', 35, 'queued', 0, 'training/flux-dev', NULL, false),
	(99, '2026-01-01 01:55:23.856742+00', 35, 'picked', 0, 'training/flux-dev', NULL, false),
	(100, '2026-01-01 01:55:23.877702+00', 35, 'queued', 0, 'training/flux-dev', NULL, false);
INSERT INTO worker.pgqueuer_log (id, created, job_id, status, priority, entrypoint, traceback, aggregated) VALUES
	(101, '2026-01-01 01:55:23.882658+00', 35, 'picked', 0, 'training/flux-dev', NULL, false),
	(102, '2026-01-01 01:55:23.8957+00', 36, 'queued', 0, 'generation/flux-dev', NULL, false),
	(103, '2026-01-01 01:55:23.938855+00', 36, 'picked', 0, 'generation/flux-dev', NULL, false),
	(104, '2026-01-01 01:55:23.977349+00', 37, 'queued', 0, 'training/flux-dev', NULL, false),
	(105, '2026-01-01 01:55:24.01132+00', 37, 'picked', 0, 'training/flux-dev', NULL, false),
	(106, '2026-01-01 01:55:24.022249+00', 37, 'queued', 0, 'training/flux-dev', NULL, false),
	(107, '2026-01-01 01:55:24.033302+00', 38, 'queued', 0, 'generation/flux-dev', NULL, false),
	(108, '2026-01-01 01:55:24.053929+00', 38, 'picked', 0, 'generation/flux-dev', NULL, false),
	(109, '2026-01-01 01:55:24.061673+00', 38, 'queued', 0, 'generation/flux-dev', NULL, false),
	(110, '2026-01-01 01:55:24.066622+00', 39, 'queued', 0, 'generation/flux-dev', NULL, false),
	(111, '2026-01-01 01:55:24.092328+00', 39, 'canceled', 0, 'generation/flux-dev', NULL, false),
	(112, '2026-01-01 01:55:24.105053+00', 40, 'queued', 0, 'generation/flux-dev', NULL, false),
	(113, '2026-01-01 01:55:24.119186+00', 41, 'queued', 0, 'generation/flux-dev', NULL, false),
	(114, '2026-01-01 01:55:24.145598+00', 42, 'queued', 7000, 'generation/flux-schnell', NULL, false),
	(115, '2026-01-01 01:55:24.176396+00', 43, 'queued', -3000, 'training/flux-dev', NULL, false),
	(116, '2026-01-01 01:55:24.200835+00', 44, 'queued', 0, 'generation/sd15', NULL, false),
	(117, '2026-01-01 01:55:24.226888+00', 45, 'queued', 0, 'generation/flux-dev', NULL, false);

INSERT INTO worker.pods (id, name, routes, vram_gib, models_present, has_lock, version, registered_at, last_heartbeat, lock_free_since) VALUES
	('9c4e3de2-44b2-5c8a-a735-e043b86868b8', 'alive', '{generation/flux-dev,generation/sd15,publish_lora,training/flux-dev}', 80, '{flux-dev,sd15,upscaler-x2,upscaler-x4}', true, '0.1.0', '2026-01-01 01:55:22.555131+00', '2026-01-01 01:55:22.555131+00', NULL),
	('36329f4f-b327-511f-a242-7a8226489500', 'silent', '{generation/flux-dev,generation/sd15,publish_lora,training/flux-dev}', 80, '{flux-dev,sd15,upscaler-x2,upscaler-x4}', false, '0.1.0', '2026-01-01 01:55:22.570114+00', '2026-01-01 01:55:22.570114+00', NULL);

INSERT INTO worker.policies (schema_name, table_name, policy_name, definition, catalog_definition) VALUES
	('public', 'subjects', 'users can view their own subjects', 'select / authenticated / owner_id = (select auth.uid())', 'PERMISSIVE / {authenticated} / SELECT / (owner_id = ( SELECT auth.uid() AS uid))'),
	('public', 'subjects', 'users can create subjects of their own', 'insert / authenticated / owner_id = (select auth.uid())', 'PERMISSIVE / {authenticated} / INSERT / (owner_id = ( SELECT auth.uid() AS uid))'),
	('public', 'subjects', 'users can rename their own subjects', 'update / authenticated / owner_id = (select auth.uid()) / owner_id = (select auth.uid())', 'PERMISSIVE / {authenticated} / UPDATE / (owner_id = ( SELECT auth.uid() AS uid)) / (owner_id = ( SELECT auth.uid() AS uid))'),
	('public', 'subject_photos', 'users can view photos of their own subjects', 'select / authenticated / subject_id in (select id from public.subjects where owner_id = (select auth.uid()))', 'PERMISSIVE / {authenticated} / SELECT / (subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid))))'),
	('public', 'subject_photos', 'users can add photos to their own subjects', 'insert / authenticated / subject_id in (select id from public.subjects where owner_id = (select auth.uid()))', 'PERMISSIVE / {authenticated} / INSERT / (subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid))))'),
	('public', 'subject_photos', 'users can caption photos of their own subjects', 'update / authenticated / subject_id in (select id from public.subjects where owner_id = (select auth.uid())) / subject_id in (select id from public.subjects where owner_id = (select auth.uid()))', 'PERMISSIVE / {authenticated} / UPDATE / (subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid)))) / (subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid))))'),
	('public', 'subject_photos', 'users can remove photos of their own subjects', 'delete / authenticated / subject_id in (select id from public.subjects where owner_id = (select auth.uid()))', 'PERMISSIVE / {authenticated} / DELETE / (subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid))))'),
	('public', 'subjects_models', 'users can view LoRAs of their own subjects', 'select / authenticated / subject_id in (select id from public.subjects where owner_id = (select auth.uid()))', 'PERMISSIVE / {authenticated} / SELECT / (subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid))))'),
	('public', 'presets', 'users can view their own presets and everybody''s', 'select / authenticated / owner_id is null or owner_id = (select auth.uid())', 'PERMISSIVE / {authenticated} / SELECT / ((owner_id IS NULL) OR (owner_id = ( SELECT auth.uid() AS uid)))'),
	('public', 'presets', 'users can create presets of their own', 'insert / authenticated / owner_id = (select auth.uid())', 'PERMISSIVE / {authenticated} / INSERT / (owner_id = ( SELECT auth.uid() AS uid))'),
	('public', 'presets', 'users can change their own presets', 'update / authenticated / owner_id = (select auth.uid()) / owner_id = (select auth.uid())', 'PERMISSIVE / {authenticated} / UPDATE / (owner_id = ( SELECT auth.uid() AS uid)) / (owner_id = ( SELECT auth.uid() AS uid))'),
	('public', 'presets', 'users can delete their own presets', 'delete / authenticated / owner_id = (select auth.uid())', 'PERMISSIVE / {authenticated} / DELETE / (owner_id = ( SELECT auth.uid() AS uid))'),
	('public', 'training_jobs', 'users can view their own training jobs', 'select / authenticated / owner_id = (select auth.uid())', 'PERMISSIVE / {authenticated} / SELECT / (owner_id = ( SELECT auth.uid() AS uid))'),
	('public', 'training_jobs', 'users can request training of their own subjects', 'insert / authenticated / owner_id = (select auth.uid())', 'PERMISSIVE / {authenticated} / INSERT / (owner_id = ( SELECT auth.uid() AS uid))'),
	('public', 'generation_jobs', 'users can view their own generation jobs', 'select / authenticated / owner_id = (select auth.uid())', 'PERMISSIVE / {authenticated} / SELECT / (owner_id = ( SELECT auth.uid() AS uid))'),
	('public', 'generation_jobs', 'users can request pictures of their own subjects', 'insert / authenticated / owner_id = (select auth.uid())', 'PERMISSIVE / {authenticated} / INSERT / (owner_id = ( SELECT auth.uid() AS uid))'),
	('storage', 'objects', 'likeness: users can upload photos and inputs of their own', 'insert / authenticated / bucket_id = (select worker.uploads_bucket())
    and (storage.foldername(name))[1] = (select auth.uid())::text
    and (((storage.foldername(name))[2] in (select id::text from public.subjects where owner_id = (select auth.uid())) and (storage.foldername(name))[3] = ''photos'')
         or ((storage.foldername(name))[2] = ''_'' and (storage.foldername(name))[3] = ''inputs''))', 'PERMISSIVE / {authenticated} / INSERT / ((bucket_id = ( SELECT worker.uploads_bucket() AS uploads_bucket)) AND ((storage.foldername(name))[1] = (( SELECT auth.uid() AS uid))::text) AND ((((storage.foldername(name))[2] IN ( SELECT (subjects.id)::text AS id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid)))) AND ((storage.foldername(name))[3] = ''photos''::text)) OR (((storage.foldername(name))[2] = ''_''::text) AND ((storage.foldername(name))[3] = ''inputs''::text))))'),
	('storage', 'objects', 'likeness: users can view what is theirs', 'select / authenticated / (bucket_id = (select worker.uploads_bucket())
     and (storage.foldername(name))[1] = (select auth.uid())::text
     and (((storage.foldername(name))[2] in (select id::text from public.subjects where owner_id = (select auth.uid())) and (storage.foldername(name))[3] = ''photos'')
          or ((storage.foldername(name))[2] = ''_'' and (storage.foldername(name))[3] = ''inputs'')))
    or (bucket_id, name) in (select bucket, key from worker.my_published_objects())', 'PERMISSIVE / {authenticated} / SELECT / (((bucket_id = ( SELECT worker.uploads_bucket() AS uploads_bucket)) AND ((storage.foldername(name))[1] = (( SELECT auth.uid() AS uid))::text) AND ((((storage.foldername(name))[2] IN ( SELECT (subjects.id)::text AS id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid)))) AND ((storage.foldername(name))[3] = ''photos''::text)) OR (((storage.foldername(name))[2] = ''_''::text) AND ((storage.foldername(name))[3] = ''inputs''::text)))) OR ((bucket_id, name) IN ( SELECT my_published_objects.bucket,
    my_published_objects.key
   FROM worker.my_published_objects() my_published_objects(bucket, key))))');

INSERT INTO worker.schema_versions (name, checksum, applied_at) VALUES
	('0001_pgqueuer', '97ae654c9df06b3553662b1aabd3929beb38a262a0f453bed5234df39595e54d', '2026-01-01 01:55:21.951568+00'),
	('0002_tables', 'e793791a82fb22be97c2e8cdb61424ca22c2f9d7d75d75bfb6593dcecc0b8904', '2026-01-01 01:55:21.951568+00'),
	('0003_guardrails', '573e1f5328cc99b437fb00a7ebd24d3628e699238ca39473811672c465bcbf92', '2026-01-01 01:55:21.951568+00'),
	('0004_sd15', '25bf3ac081d9a0955c01f74f33600523c00c1af47ffa7e4408942bff395be91f', '2026-01-01 01:55:21.951568+00'),
	('0005_class_name', 'ac554def7b344a227e44be12a0f17a74a2c3bab300edd0751c090c54dcc690ad', '2026-01-01 01:55:21.951568+00'),
	('consent', '8d9066490b451441ed623e451091b162fe53889230c1e455899db94da444e9eb', '2026-01-01 01:55:21.951568+00'),
	('requests', 'e928a74009f03d91af89d5360359d3cd11dab7183a54278e196c05f63371dc23', '2026-01-01 01:55:21.951568+00'),
	('functions', '1492be6716cb0eb44ac2ef622ba862109a6af7e75c55e04a188f0f8eee8cf5bd', '2026-01-01 01:55:21.951568+00'),
	('guardrails', '19d14b840f17f50bc42f17830a4f0540b3ffbec6e649e877d1b52bd7a4d59140', '2026-01-01 01:55:21.951568+00'),
	('endings', 'cc728d8f2e36a04448ea92662453c930e63e818dd0db881f87b0cb0143bef115', '2026-01-01 01:55:21.951568+00'),
	('pods', '9a21fe4e883b2d8986492067a64150fe0759d5dbbc2316371f802002eec556fa', '2026-01-01 01:55:21.951568+00'),
	('kinds', 'd8249af8c441d0f98aeba42bdaefb7beb9de0030297aad0689582ce1563a93cc', '2026-01-01 01:55:21.951568+00'),
	('rights', '64638a4f0e19909745843393510bc48b8851f0afa1662d1e71d47dcd444c3fb9', '2026-01-01 01:55:21.951568+00'),
	('triggers', 'cdf113424015a5741f33d528dfd7ba29503d214382b3373e3aa2f402f87e5894', '2026-01-01 01:55:21.951568+00'),
	('views', '4082dd9013849950dd71bd183711d70dd3ef9d1520e9a4337cf7e857f927da84', '2026-01-01 01:55:21.951568+00'),
	('comments', 'f2a96192fcf3fca7d6ee8f769e6045b0554707282b64a88f9e3f267eb3d0750f', '2026-01-01 01:55:21.951568+00'),
	('rls', 'e4943d280dadec9e179a6a4f312c5dc14086134b21dad95c6a4dd9388dbd068e', '2026-01-01 01:55:21.951568+00');

INSERT INTO worker.staged_objects (id, bucket, key, kind, job_id, attempt, owner_id, state, step, created_at, deletions, offer_after) OVERRIDING SYSTEM VALUE VALUES
	(2, 'model_artifacts', 'aed9aab1-5fff-5eac-bac2-d104202f625c/080478f6-813b-5045-ab03-26939dcb528e/1/losses.json', 'training', '080478f6-813b-5045-ab03-26939dcb528e', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.653462+00', 0, '2026-01-01 01:55:22.653462+00'),
	(1, 'model_artifacts', 'aed9aab1-5fff-5eac-bac2-d104202f625c/080478f6-813b-5045-ab03-26939dcb528e/1/lora.safetensors', 'training', '080478f6-813b-5045-ab03-26939dcb528e', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.653291+00', 0, '2026-01-01 01:55:22.653291+00'),
	(3, 'model_artifacts', 'aed9aab1-5fff-5eac-bac2-d104202f625c/cc5448d4-2722-5b8a-9b0e-32cf15a89158/1/lora.safetensors', 'training', 'cc5448d4-2722-5b8a-9b0e-32cf15a89158', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.756517+00', 0, '2026-01-01 01:55:22.756517+00'),
	(4, 'model_artifacts', 'aed9aab1-5fff-5eac-bac2-d104202f625c/cc5448d4-2722-5b8a-9b0e-32cf15a89158/1/losses.json', 'training', 'cc5448d4-2722-5b8a-9b0e-32cf15a89158', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.756555+00', 0, '2026-01-01 01:55:22.756555+00'),
	(6, 'model_artifacts', 'aed9aab1-5fff-5eac-bac2-d104202f625c/73b12c99-93da-5c84-b59e-d526cf44c526/1/losses.json', 'training', '73b12c99-93da-5c84-b59e-d526cf44c526', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.807885+00', 0, '2026-01-01 01:55:22.807886+00'),
	(5, 'model_artifacts', 'aed9aab1-5fff-5eac-bac2-d104202f625c/73b12c99-93da-5c84-b59e-d526cf44c526/1/lora.safetensors', 'training', '73b12c99-93da-5c84-b59e-d526cf44c526', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.807835+00', 0, '2026-01-01 01:55:22.807835+00'),
	(7, 'model_artifacts', '54eba592-1c15-5340-9ae4-c5f55976e600/77832e67-e232-572d-8a6a-5163a036e2da/1/lora.safetensors', 'training', '77832e67-e232-572d-8a6a-5163a036e2da', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.850878+00', 0, '2026-01-01 01:55:22.850878+00'),
	(8, 'model_artifacts', '54eba592-1c15-5340-9ae4-c5f55976e600/77832e67-e232-572d-8a6a-5163a036e2da/1/losses.json', 'training', '77832e67-e232-572d-8a6a-5163a036e2da', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.850918+00', 0, '2026-01-01 01:55:22.850918+00'),
	(10, 'model_artifacts', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591/760870fc-ed98-5939-a3da-761c87aac277/1/losses.json', 'training', '760870fc-ed98-5939-a3da-761c87aac277', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.886498+00', 0, '2026-01-01 01:55:22.886498+00'),
	(9, 'model_artifacts', 'd67f3efa-2a9a-53b2-9f21-113c0b6fd591/760870fc-ed98-5939-a3da-761c87aac277/1/lora.safetensors', 'training', '760870fc-ed98-5939-a3da-761c87aac277', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.886458+00', 0, '2026-01-01 01:55:22.886459+00'),
	(11, 'model_artifacts', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766/a3c5a852-88d8-573e-b363-f214f6ff895e/1/lora.safetensors', 'training', 'a3c5a852-88d8-573e-b363-f214f6ff895e', 1, '75bf8c9c-74cd-58d1-85d7-5ca647f9cc3b', 'published', NULL, '2026-01-01 01:55:22.921421+00', 0, '2026-01-01 01:55:22.921421+00'),
	(12, 'model_artifacts', 'd4e856df-34b0-5b1f-b88b-e6aadcf32766/a3c5a852-88d8-573e-b363-f214f6ff895e/1/losses.json', 'training', 'a3c5a852-88d8-573e-b363-f214f6ff895e', 1, '75bf8c9c-74cd-58d1-85d7-5ca647f9cc3b', 'published', NULL, '2026-01-01 01:55:22.921462+00', 0, '2026-01-01 01:55:22.921462+00'),
	(15, 'uploads', '61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/1d83603a-d712-5700-ac07-30c1b5de7f97/1/1.webp', 'generation', '1d83603a-d712-5700-ac07-30c1b5de7f97', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.995952+00', 0, '2026-01-01 01:55:22.995952+00'),
	(16, 'uploads', '61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/1d83603a-d712-5700-ac07-30c1b5de7f97/1/1.raw.png', 'generation', '1d83603a-d712-5700-ac07-30c1b5de7f97', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.995957+00', 0, '2026-01-01 01:55:22.995957+00'),
	(13, 'uploads', '61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/1d83603a-d712-5700-ac07-30c1b5de7f97/1/0.webp', 'generation', '1d83603a-d712-5700-ac07-30c1b5de7f97', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.995897+00', 0, '2026-01-01 01:55:22.995897+00'),
	(14, 'uploads', '61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/1d83603a-d712-5700-ac07-30c1b5de7f97/1/0.raw.png', 'generation', '1d83603a-d712-5700-ac07-30c1b5de7f97', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:22.995944+00', 0, '2026-01-01 01:55:22.995944+00'),
	(18, 'uploads', '61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/e2d25491-e955-5250-9015-7971c89cef59/1/0.raw.png', 'generation', 'e2d25491-e955-5250-9015-7971c89cef59', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:23.062278+00', 0, '2026-01-01 01:55:23.062278+00'),
	(17, 'uploads', '61ef437f-86d7-54e9-9077-1b10009d8ccf/aed9aab1-5fff-5eac-bac2-d104202f625c/generated/e2d25491-e955-5250-9015-7971c89cef59/1/0.png', 'generation', 'e2d25491-e955-5250-9015-7971c89cef59', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:23.062235+00', 0, '2026-01-01 01:55:23.062235+00'),
	(20, 'uploads', '61ef437f-86d7-54e9-9077-1b10009d8ccf/_/generated/7c5554d1-3ed6-59cc-89e5-768c294963a9/1/0.raw.png', 'generation', '7c5554d1-3ed6-59cc-89e5-768c294963a9', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:23.117283+00', 0, '2026-01-01 01:55:23.117283+00'),
	(19, 'uploads', '61ef437f-86d7-54e9-9077-1b10009d8ccf/_/generated/7c5554d1-3ed6-59cc-89e5-768c294963a9/1/0.png', 'generation', '7c5554d1-3ed6-59cc-89e5-768c294963a9', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'published', NULL, '2026-01-01 01:55:23.117241+00', 0, '2026-01-01 01:55:23.117241+00'),
	(23, 'model_artifacts', 'aed9aab1-5fff-5eac-bac2-d104202f625c/bc99ee8b-1f3f-586c-9920-b4ababb35a61/1/checkpoint-150.safetensors', 'training', 'bc99ee8b-1f3f-586c-9920-b4ababb35a61', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'checkpoint', 150, '2026-01-01 01:55:23.660418+00', 0, '2026-01-01 01:55:23.660418+00'),
	(24, 'model_artifacts', 'aed9aab1-5fff-5eac-bac2-d104202f625c/bc99ee8b-1f3f-586c-9920-b4ababb35a61/1/lora.safetensors', 'training', 'bc99ee8b-1f3f-586c-9920-b4ababb35a61', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'staged', NULL, '2026-01-01 01:55:23.661348+00', 0, '2026-01-01 01:55:23.661348+00'),
	(26, 'model_artifacts', '54eba592-1c15-5340-9ae4-c5f55976e600/9ef944be-13a0-5ea6-b7ca-06e61c714003/2/checkpoint-90.safetensors', 'training', '9ef944be-13a0-5ea6-b7ca-06e61c714003', 2, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'checkpoint', 90, '2026-01-01 01:55:23.887238+00', 0, '2026-01-01 01:55:23.887238+00'),
	(25, 'model_artifacts', '54eba592-1c15-5340-9ae4-c5f55976e600/9ef944be-13a0-5ea6-b7ca-06e61c714003/1/checkpoint-50.safetensors', 'training', '9ef944be-13a0-5ea6-b7ca-06e61c714003', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'deleting', 50, '2026-01-01 01:55:23.875579+00', 0, '2026-01-01 01:56:23.946699+00'),
	(21, 'model_artifacts', 'aed9aab1-5fff-5eac-bac2-d104202f625c/5212de67-1b73-5cbb-9686-cc7a39e3e49b/1/checkpoint-100.safetensors', 'training', '5212de67-1b73-5cbb-9686-cc7a39e3e49b', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'deleting', 100, '2026-01-01 01:55:23.606914+00', 1, '2026-01-01 02:10:23.947469+00'),
	(22, 'model_artifacts', 'aed9aab1-5fff-5eac-bac2-d104202f625c/bc99ee8b-1f3f-586c-9920-b4ababb35a61/1/checkpoint-100.safetensors', 'training', 'bc99ee8b-1f3f-586c-9920-b4ababb35a61', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'deleting', 100, '2026-01-01 01:55:23.659276+00', 1, '2026-01-01 02:10:23.94751+00'),
	(27, 'model_artifacts', 'aed9aab1-5fff-5eac-bac2-d104202f625c/aadb97aa-1af4-5abc-bf88-5a5ed64eb0ea/1/checkpoint-10.safetensors', 'training', 'aadb97aa-1af4-5abc-bf88-5a5ed64eb0ea', 1, '61ef437f-86d7-54e9-9077-1b10009d8ccf', 'checkpoint', 10, '2026-01-01 01:55:24.021256+00', 0, '2026-01-01 01:55:24.021256+00');

SELECT pg_catalog.setval('worker.consent_events_id_seq', 16, true);

SELECT pg_catalog.setval('worker.job_events_id_seq', 85, true);

SELECT pg_catalog.setval('worker.pgqueuer_id_seq', 45, true);

SELECT pg_catalog.setval('worker.pgqueuer_log_id_seq', 117, true);

SELECT pg_catalog.setval('worker.pgqueuer_schedules_id_seq', 1, false);

SELECT pg_catalog.setval('worker.pgqueuer_statistics_id_seq', 1, false);

SELECT pg_catalog.setval('worker.staged_objects_id_seq', 27, true);

ALTER TABLE ONLY public.generation_jobs
    ADD CONSTRAINT generation_jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.presets
    ADD CONSTRAINT presets_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.subject_photos
    ADD CONSTRAINT subject_photos_path_once_a_subject UNIQUE (subject_id, path);

ALTER TABLE ONLY public.subject_photos
    ADD CONSTRAINT subject_photos_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.subjects_models
    ADD CONSTRAINT subjects_models_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.subjects_models
    ADD CONSTRAINT subjects_models_version_once_a_family UNIQUE (subject_id, family, version);

ALTER TABLE ONLY public.subjects
    ADD CONSTRAINT subjects_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.training_jobs
    ADD CONSTRAINT training_jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY worker.allowed_phrases
    ADD CONSTRAINT allowed_phrases_pkey PRIMARY KEY (screens, phrase);

ALTER TABLE ONLY worker.base_models
    ADD CONSTRAINT base_models_pkey PRIMARY KEY (slug);

ALTER TABLE ONLY worker.clock
    ADD CONSTRAINT clock_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY worker.config
    ADD CONSTRAINT config_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY worker.consent_events
    ADD CONSTRAINT consent_events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY worker.internal_jobs
    ADD CONSTRAINT internal_jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY worker.job_events
    ADD CONSTRAINT job_events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY worker.job_kinds
    ADD CONSTRAINT job_kinds_pkey PRIMARY KEY (kind);

ALTER TABLE ONLY worker.job_subjects
    ADD CONSTRAINT job_subjects_pkey PRIMARY KEY (kind, job_id, subject_id);

ALTER TABLE ONLY worker.life_cycle
    ADD CONSTRAINT life_cycle_pkey PRIMARY KEY (id);

ALTER TABLE ONLY worker.pgqueuer_log
    ADD CONSTRAINT pgqueuer_log_pkey PRIMARY KEY (id);

ALTER TABLE ONLY worker.pgqueuer
    ADD CONSTRAINT pgqueuer_pkey PRIMARY KEY (id);

ALTER TABLE ONLY worker.pgqueuer_schedules
    ADD CONSTRAINT pgqueuer_schedules_expression_entrypoint_key UNIQUE (expression, entrypoint);

ALTER TABLE ONLY worker.pgqueuer_schedules
    ADD CONSTRAINT pgqueuer_schedules_pkey PRIMARY KEY (id);

ALTER TABLE ONLY worker.pgqueuer_statistics
    ADD CONSTRAINT pgqueuer_statistics_pkey PRIMARY KEY (id);

ALTER TABLE ONLY worker.pods
    ADD CONSTRAINT pods_pkey PRIMARY KEY (id);

ALTER TABLE ONLY worker.policies
    ADD CONSTRAINT policies_pkey PRIMARY KEY (schema_name, table_name, policy_name);

ALTER TABLE ONLY worker.prompt_folding
    ADD CONSTRAINT prompt_folding_pkey PRIMARY KEY (singleton);

ALTER TABLE ONLY worker.schema_versions
    ADD CONSTRAINT schema_versions_pkey PRIMARY KEY (name);

ALTER TABLE ONLY worker.screened_terms
    ADD CONSTRAINT screened_terms_pkey PRIMARY KEY (screens, letters);

ALTER TABLE ONLY worker.screening_rules
    ADD CONSTRAINT screening_rules_pkey PRIMARY KEY (id);

ALTER TABLE ONLY worker.staged_objects
    ADD CONSTRAINT staged_objects_key_once UNIQUE (bucket, key);

ALTER TABLE ONLY worker.staged_objects
    ADD CONSTRAINT staged_objects_pkey PRIMARY KEY (id);

CREATE INDEX generation_jobs_base ON public.generation_jobs USING btree (base);

CREATE INDEX generation_jobs_open ON public.generation_jobs USING btree (status) WHERE (status = ANY (ARRAY['queued'::text, 'running'::text]));

CREATE INDEX generation_jobs_owner_id_created_at ON public.generation_jobs USING btree (owner_id, created_at DESC);

CREATE INDEX generation_jobs_subject_id ON public.generation_jobs USING btree (subject_id);

CREATE INDEX presets_owner_id ON public.presets USING btree (owner_id);

CREATE INDEX subjects_consent_expires_at ON public.subjects USING btree (consent_expires_at) WHERE (consent_status = 'approved'::text);

CREATE INDEX subjects_models_base ON public.subjects_models USING btree (base);

CREATE UNIQUE INDEX subjects_models_job_id ON public.subjects_models USING btree (job_id);

CREATE INDEX subjects_owner_id ON public.subjects USING btree (owner_id);

CREATE INDEX training_jobs_base ON public.training_jobs USING btree (base);

CREATE INDEX training_jobs_open ON public.training_jobs USING btree (status) WHERE (status = ANY (ARRAY['queued'::text, 'running'::text]));

CREATE INDEX training_jobs_owner_id_created_at ON public.training_jobs USING btree (owner_id, created_at DESC);

CREATE INDEX training_jobs_subject_id ON public.training_jobs USING btree (subject_id);

CREATE INDEX base_models_train_base ON worker.base_models USING btree (train_base);

CREATE INDEX consent_events_at ON worker.consent_events USING btree (at);

CREATE INDEX consent_events_subject_id ON worker.consent_events USING btree (subject_id, id);

CREATE INDEX internal_jobs_open ON worker.internal_jobs USING btree (status) WHERE (status = ANY (ARRAY['queued'::text, 'running'::text]));

CREATE INDEX internal_jobs_owner_id_created_at ON worker.internal_jobs USING btree (owner_id, created_at DESC);

CREATE INDEX internal_jobs_subject_id ON worker.internal_jobs USING btree (subject_id);

CREATE INDEX job_events_at ON worker.job_events USING btree (at);

CREATE INDEX job_events_job ON worker.job_events USING btree (kind, job_id, id);

CREATE INDEX job_subjects_subject_id ON worker.job_subjects USING btree (subject_id, kind);

CREATE INDEX pgqueuer_ep_ea_idx ON worker.pgqueuer USING btree (entrypoint, execute_after) WHERE (status = 'queued'::worker.pgqueuer_status);

CREATE INDEX pgqueuer_ep_prio_id_idx ON worker.pgqueuer USING btree (entrypoint, priority DESC, id) WHERE (status = 'queued'::worker.pgqueuer_status);

CREATE INDEX pgqueuer_log_created ON worker.pgqueuer_log USING btree (created);

CREATE INDEX pgqueuer_log_job_id_status ON worker.pgqueuer_log USING btree (job_id, created DESC);

CREATE INDEX pgqueuer_log_not_aggregated ON worker.pgqueuer_log USING btree ((1)) WHERE (NOT aggregated);

CREATE INDEX pgqueuer_log_status ON worker.pgqueuer_log USING btree (status);

CREATE INDEX pgqueuer_picked_heartbeat_idx ON worker.pgqueuer USING btree (heartbeat) WHERE (status = 'picked'::worker.pgqueuer_status);

CREATE UNIQUE INDEX pgqueuer_picked_slot_idx ON worker.pgqueuer USING btree (entrypoint, slot) WHERE ((status = 'picked'::worker.pgqueuer_status) AND (slot IS NOT NULL));

CREATE INDEX pgqueuer_priority_id_id1_idx ON worker.pgqueuer USING btree (priority, id DESC) INCLUDE (id) WHERE (status = 'queued'::worker.pgqueuer_status);

CREATE INDEX pgqueuer_queue_manager_id_idx ON worker.pgqueuer USING btree (queue_manager_id) WHERE (queue_manager_id IS NOT NULL);

CREATE UNIQUE INDEX pgqueuer_statistics_unique_count ON worker.pgqueuer_statistics USING btree (priority, date_trunc('sec'::text, timezone('UTC'::text, created)), status, entrypoint);

CREATE UNIQUE INDEX pgqueuer_unique_dedupe_key ON worker.pgqueuer USING btree (dedupe_key) WHERE ((status = ANY (ARRAY['queued'::worker.pgqueuer_status, 'picked'::worker.pgqueuer_status])) AND (dedupe_key IS NOT NULL));

CREATE INDEX pgqueuer_updated_id_id1_idx ON worker.pgqueuer USING btree (updated, id DESC) INCLUDE (id) WHERE (status = 'picked'::worker.pgqueuer_status);

CREATE INDEX prompt_folding_age_rule_id ON worker.prompt_folding USING btree (age_rule_id);

CREATE INDEX screened_terms_rule_id ON worker.screened_terms USING btree (rule_id);

CREATE INDEX screened_terms_skeleton ON worker.screened_terms USING btree (screens, skeleton);

CREATE INDEX staged_objects_deleting ON worker.staged_objects USING btree (offer_after) WHERE (state = 'deleting'::text);

CREATE INDEX staged_objects_job ON worker.staged_objects USING btree (kind, job_id, attempt);

CREATE INDEX staged_objects_published ON worker.staged_objects USING btree (owner_id) WHERE (state = 'published'::text);

CREATE TRIGGER _100_before_insert BEFORE INSERT ON public.generation_jobs FOR EACH ROW EXECUTE FUNCTION worker.before_job_insert('generation');

CREATE TRIGGER _100_before_insert BEFORE INSERT ON public.training_jobs FOR EACH ROW EXECUTE FUNCTION worker.before_job_insert('training');

CREATE TRIGGER _100_guards_consent BEFORE UPDATE ON public.subjects FOR EACH ROW EXECUTE FUNCTION worker.on_subject_update();

CREATE TRIGGER _100_path BEFORE INSERT OR UPDATE OF path, subject_id ON public.subject_photos FOR EACH ROW EXECUTE FUNCTION worker.on_photo_write();

CREATE TRIGGER _100_starts_without_consent BEFORE INSERT ON public.subjects FOR EACH ROW EXECUTE FUNCTION worker.on_subject_insert();

CREATE TRIGGER _200_after_insert AFTER INSERT ON public.generation_jobs FOR EACH ROW EXECUTE FUNCTION worker.after_job_insert('generation');

CREATE TRIGGER _200_after_insert AFTER INSERT ON public.training_jobs FOR EACH ROW EXECUTE FUNCTION worker.after_job_insert('training');

CREATE TRIGGER _200_loss_of_consent AFTER UPDATE ON public.subjects REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION worker.after_subject_update();

CREATE TRIGGER _300_before_update BEFORE UPDATE ON public.generation_jobs FOR EACH ROW EXECUTE FUNCTION worker.before_job_update();

CREATE TRIGGER _300_before_update BEFORE UPDATE ON public.training_jobs FOR EACH ROW EXECUTE FUNCTION worker.before_job_update();

CREATE TRIGGER _400_order AFTER UPDATE OF priority, run_after ON public.generation_jobs FOR EACH ROW WHEN (((old.priority IS DISTINCT FROM new.priority) OR (old.run_after IS DISTINCT FROM new.run_after))) EXECUTE FUNCTION worker.after_order_update('generation');

CREATE TRIGGER _400_order AFTER UPDATE OF priority, run_after ON public.training_jobs FOR EACH ROW WHEN (((old.priority IS DISTINCT FROM new.priority) OR (old.run_after IS DISTINCT FROM new.run_after))) EXECUTE FUNCTION worker.after_order_update('training');

CREATE TRIGGER _100_append_only BEFORE DELETE OR UPDATE ON worker.consent_events FOR EACH ROW EXECUTE FUNCTION worker.refuse_change();

CREATE TRIGGER _100_before_insert BEFORE INSERT ON worker.internal_jobs FOR EACH ROW EXECUTE FUNCTION worker.before_job_insert('publish_lora');

CREATE TRIGGER _100_never_emptied BEFORE TRUNCATE ON worker.consent_events FOR EACH STATEMENT EXECUTE FUNCTION worker.refuse_change();

CREATE TRIGGER _200_after_insert AFTER INSERT ON worker.internal_jobs FOR EACH ROW EXECUTE FUNCTION worker.after_job_insert('publish_lora');

CREATE TRIGGER _300_before_update BEFORE UPDATE ON worker.internal_jobs FOR EACH ROW EXECUTE FUNCTION worker.before_job_update();

CREATE TRIGGER _400_order AFTER UPDATE OF priority, run_after ON worker.internal_jobs FOR EACH ROW WHEN (((old.priority IS DISTINCT FROM new.priority) OR (old.run_after IS DISTINCT FROM new.run_after))) EXECUTE FUNCTION worker.after_order_update('publish_lora');

CREATE TRIGGER tg_pgqueuer_changed AFTER INSERT ON worker.pgqueuer FOR EACH STATEMENT EXECUTE FUNCTION worker.fn_pgqueuer_changed();

ALTER TABLE ONLY public.generation_jobs
    ADD CONSTRAINT generation_jobs_base_fkey FOREIGN KEY (base) REFERENCES worker.base_models(slug);

ALTER TABLE ONLY public.generation_jobs
    ADD CONSTRAINT generation_jobs_subject_id_fkey FOREIGN KEY (subject_id) REFERENCES public.subjects(id);

ALTER TABLE ONLY public.presets
    ADD CONSTRAINT presets_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES auth.users(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.subject_photos
    ADD CONSTRAINT subject_photos_subject_id_fkey FOREIGN KEY (subject_id) REFERENCES public.subjects(id);

ALTER TABLE ONLY public.subjects_models
    ADD CONSTRAINT subjects_models_base_fkey FOREIGN KEY (base) REFERENCES worker.base_models(slug);

ALTER TABLE ONLY public.subjects_models
    ADD CONSTRAINT subjects_models_subject_id_fkey FOREIGN KEY (subject_id) REFERENCES public.subjects(id);

ALTER TABLE ONLY public.subjects
    ADD CONSTRAINT subjects_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES auth.users(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.training_jobs
    ADD CONSTRAINT training_jobs_base_fkey FOREIGN KEY (base) REFERENCES worker.base_models(slug);

ALTER TABLE ONLY public.training_jobs
    ADD CONSTRAINT training_jobs_subject_id_fkey FOREIGN KEY (subject_id) REFERENCES public.subjects(id);

ALTER TABLE ONLY worker.base_models
    ADD CONSTRAINT base_models_train_base_fkey FOREIGN KEY (train_base) REFERENCES worker.base_models(slug);

ALTER TABLE ONLY worker.internal_jobs
    ADD CONSTRAINT internal_jobs_subject_id_fkey FOREIGN KEY (subject_id) REFERENCES public.subjects(id);

ALTER TABLE ONLY worker.job_subjects
    ADD CONSTRAINT job_subjects_kind_fkey FOREIGN KEY (kind) REFERENCES worker.job_kinds(kind);

ALTER TABLE ONLY worker.job_subjects
    ADD CONSTRAINT job_subjects_subject_id_fkey FOREIGN KEY (subject_id) REFERENCES public.subjects(id);

ALTER TABLE ONLY worker.prompt_folding
    ADD CONSTRAINT prompt_folding_age_rule_id_fkey FOREIGN KEY (age_rule_id) REFERENCES worker.screening_rules(id);

ALTER TABLE ONLY worker.screened_terms
    ADD CONSTRAINT screened_terms_rule_id_fkey FOREIGN KEY (rule_id) REFERENCES worker.screening_rules(id);

ALTER TABLE public.generation_jobs ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.presets ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.subject_photos ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.subjects ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.subjects_models ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.training_jobs ENABLE ROW LEVEL SECURITY;

CREATE POLICY "users can add photos to their own subjects" ON public.subject_photos FOR INSERT TO authenticated WITH CHECK ((subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid)))));

CREATE POLICY "users can caption photos of their own subjects" ON public.subject_photos FOR UPDATE TO authenticated USING ((subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid))))) WITH CHECK ((subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid)))));

CREATE POLICY "users can change their own presets" ON public.presets FOR UPDATE TO authenticated USING ((owner_id = ( SELECT auth.uid() AS uid))) WITH CHECK ((owner_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "users can create presets of their own" ON public.presets FOR INSERT TO authenticated WITH CHECK ((owner_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "users can create subjects of their own" ON public.subjects FOR INSERT TO authenticated WITH CHECK ((owner_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "users can delete their own presets" ON public.presets FOR DELETE TO authenticated USING ((owner_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "users can remove photos of their own subjects" ON public.subject_photos FOR DELETE TO authenticated USING ((subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid)))));

CREATE POLICY "users can rename their own subjects" ON public.subjects FOR UPDATE TO authenticated USING ((owner_id = ( SELECT auth.uid() AS uid))) WITH CHECK ((owner_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "users can request pictures of their own subjects" ON public.generation_jobs FOR INSERT TO authenticated WITH CHECK ((owner_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "users can request training of their own subjects" ON public.training_jobs FOR INSERT TO authenticated WITH CHECK ((owner_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "users can view LoRAs of their own subjects" ON public.subjects_models FOR SELECT TO authenticated USING ((subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid)))));

CREATE POLICY "users can view photos of their own subjects" ON public.subject_photos FOR SELECT TO authenticated USING ((subject_id IN ( SELECT subjects.id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid)))));

CREATE POLICY "users can view their own generation jobs" ON public.generation_jobs FOR SELECT TO authenticated USING ((owner_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "users can view their own presets and everybody's" ON public.presets FOR SELECT TO authenticated USING (((owner_id IS NULL) OR (owner_id = ( SELECT auth.uid() AS uid))));

CREATE POLICY "users can view their own subjects" ON public.subjects FOR SELECT TO authenticated USING ((owner_id = ( SELECT auth.uid() AS uid)));

CREATE POLICY "users can view their own training jobs" ON public.training_jobs FOR SELECT TO authenticated USING ((owner_id = ( SELECT auth.uid() AS uid)));

GRANT USAGE ON SCHEMA public TO anon;
GRANT USAGE ON SCHEMA public TO authenticated;
GRANT USAGE ON SCHEMA public TO service_role;

GRANT USAGE ON SCHEMA worker TO authenticated;
GRANT USAGE ON SCHEMA worker TO service_role;
GRANT USAGE ON SCHEMA worker TO likeness_worker;

REVOKE ALL ON FUNCTION public.cancel_job(kind text, id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.cancel_job(kind text, id uuid) TO authenticated;
GRANT ALL ON FUNCTION public.cancel_job(kind text, id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.grant_consent(subject_id uuid, purposes text[], expires_at timestamp with time zone, evidence text, confirmed boolean, adult boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION public.grant_consent(subject_id uuid, purposes text[], expires_at timestamp with time zone, evidence text, confirmed boolean, adult boolean) TO authenticated;
GRANT ALL ON FUNCTION public.grant_consent(subject_id uuid, purposes text[], expires_at timestamp with time zone, evidence text, confirmed boolean, adult boolean) TO service_role;

REVOKE ALL ON FUNCTION public.reject_consent(subject_id uuid, reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.reject_consent(subject_id uuid, reason text) TO service_role;

REVOKE ALL ON FUNCTION public.retry_job(kind text, id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.retry_job(kind text, id uuid) TO authenticated;
GRANT ALL ON FUNCTION public.retry_job(kind text, id uuid) TO service_role;

REVOKE ALL ON FUNCTION public.revoke_consent(subject_id uuid, reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION public.revoke_consent(subject_id uuid, reason text) TO authenticated;
GRANT ALL ON FUNCTION public.revoke_consent(subject_id uuid, reason text) TO service_role;

REVOKE ALL ON FUNCTION worker.actor() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.after_job_insert() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.after_order_update() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.after_subject_update() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.alter_job_tables(p_ddl text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.backoff(p_failures integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.base_error(p_kind text, p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.before_job_insert() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.before_job_update() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.broken_rule(p_text text, p_screens text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.broken_term(p_folded text, p_screens text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.cancel_job_as_owner(p_kind text, p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.cancel_job_as_owner(p_kind text, p_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION worker.cancel_job_as_service(p_kind text, p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.cancel_job_as_service(p_kind text, p_id uuid) TO service_role;

REVOKE ALL ON FUNCTION worker.changing_columns() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.charge_failure(p_kind text, p_job jsonb, p_code text, p_error text, p_delay interval, p_gpu_seconds double precision) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.check_grant(p_purposes text[], p_expires_at timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.check_job_owner(p_kind text, p_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.check_open_jobs(p_owner_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.complete_job(p_kind text, p_id uuid, p_attempt integer, p_result jsonb, p_gpu_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.complete_job(p_kind text, p_id uuid, p_attempt integer, p_result jsonb, p_gpu_seconds double precision) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.consent_error(p_subject_id uuid, p_purpose text) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.consent_error(p_subject_id uuid, p_purpose text) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.count_jobs(p_owner_id uuid, p_condition text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.default_base(p_kind text, p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.dequeue_row(p_kind text, p_id uuid, p_status worker.pgqueuer_status) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.end_attempt(p_kind text, p_id uuid, p_attempt integer, p_job_ended boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.enqueue(p_kind text, p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.ensure_policy(p_name text, p_table text, p_command text, p_role text, p_using text, p_check text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.expire_consent() FROM PUBLIC;

GRANT SELECT ON TABLE worker.job_kinds TO likeness_worker;
GRANT SELECT ON TABLE worker.job_kinds TO service_role;

REVOKE ALL ON FUNCTION worker.explain_waiting(p_kind worker.job_kinds) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.fail_job(p_kind text, p_id uuid, p_attempt integer, p_code text, p_error text, p_retry_after interval, p_gpu_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.fail_job(p_kind text, p_id uuid, p_attempt integer, p_code text, p_error text, p_retry_after interval, p_gpu_seconds double precision) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.finds_age(p_reading text, p_edge text, p_folding worker.prompt_folding) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.fits_memory(p_needed_gib double precision, p_vram_gib double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.fits_memory(p_needed_gib double precision, p_vram_gib double precision) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.fn_pgqueuer_changed() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.fold_breaks(p_text text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.fold_prompt(p_text text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.garbage_gone(p_ids bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.garbage_gone(p_ids bigint[]) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.give_back(p_pod_id uuid, p_unnamed_for interval, p_named text[], p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.grant_consent_as_owner(p_subject_id uuid, p_purposes text[], p_expires_at timestamp with time zone, p_evidence text, p_confirmed boolean, p_adult boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.grant_consent_as_owner(p_subject_id uuid, p_purposes text[], p_expires_at timestamp with time zone, p_evidence text, p_confirmed boolean, p_adult boolean) TO authenticated;

REVOKE ALL ON FUNCTION worker.grant_consent_as_service(p_subject_id uuid, p_purposes text[], p_expires_at timestamp with time zone, p_evidence text, p_confirmed boolean, p_adult boolean) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.grant_consent_as_service(p_subject_id uuid, p_purposes text[], p_expires_at timestamp with time zone, p_evidence text, p_confirmed boolean, p_adult boolean) TO service_role;

REVOKE ALL ON FUNCTION worker.grant_job_table(p_table text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.heartbeat(p_pod_id uuid, p_leases jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.heartbeat(p_pod_id uuid, p_leases jsonb) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.held_state(p_pod_id uuid, p_lease jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.inputs_error(p_kind text, p_job jsonb) FROM PUBLIC;

GRANT SELECT ON TABLE worker.pods TO likeness_worker;
GRANT SELECT ON TABLE worker.pods TO service_role;

REVOKE ALL ON FUNCTION worker.is_alive(p_pod worker.pods) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.is_alive(p_pod worker.pods) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.is_allowed(p_pieces text[], p_first integer, p_last integer, p_screens text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.is_dead(p_pod worker.pods, p_grace_from timestamp with time zone) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.is_ticker(p_pod_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.is_whole(p_folded text, p_start integer, p_words text, p_is_phrase boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.items(p_job jsonb, p_column text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.job_consent_error(p_kind text, p_job_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.key_error(p_owner_id uuid, p_key text, p_inputs_allowed boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.key_subject(p_key text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.keys_error(p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.lease_state(p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.leave_pod(p_pod_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.leave_pod(p_pod_id uuid) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.lock_is_free(p_pod_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.lock_job(p_kind text, p_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.lock_lease(p_kind text, p_id uuid, p_attempt integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.log_event(p_kind text, p_id uuid, p_attempt integer, p_event text, p_detail jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.log_refusal(p_kind text, p_id uuid, p_reason text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.lora_to_copy(p_kind text, p_id uuid, p_attempt integer) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.lora_to_copy(p_kind text, p_id uuid, p_attempt integer) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.merged_prompt(p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.models_error(p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.models_of(p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.my_published_objects() FROM PUBLIC;
GRANT ALL ON FUNCTION worker.my_published_objects() TO authenticated;

REVOKE ALL ON FUNCTION worker.named_keys(p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.names_a_minors_age(p_folded text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.on_photo_write() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.on_subject_insert() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.on_subject_update() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.part_words(p_folded text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.peek(p_routes text[], p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.peek(p_routes text[], p_limit integer) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.photos_error(p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.photos_of(p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.pod_lock_key(p_pod_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.pod_lock_key(p_pod_id uuid) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.policy_in_catalog(p_name text, p_table text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.preset_columns(p_kind text, p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.preset_error(p_kind text, p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.prompt_error(p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.prune() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.publish_training(p_job jsonb, p_result jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.reap() FROM PUBLIC;
GRANT ALL ON FUNCTION worker.reap() TO likeness_worker;

REVOKE ALL ON FUNCTION worker.reconcile() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.refuse_change() FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.register_job_table(p_kind text, p_table text, p_purpose text, p_subject_required boolean, p_slot text, p_max_runtime interval) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.register_pod(p_pod_id uuid, p_name text, p_routes text[], p_vram_gib double precision, p_models_present text[], p_has_lock boolean, p_version text) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.register_pod(p_pod_id uuid, p_name text, p_routes text[], p_vram_gib double precision, p_models_present text[], p_has_lock boolean, p_version text) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.reject_consent_as_service(p_subject_id uuid, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.reject_consent_as_service(p_subject_id uuid, p_reason text) TO service_role;

REVOKE ALL ON FUNCTION worker.release_job(p_kind text, p_id uuid, p_attempt integer, p_reason text, p_code text, p_gpu_seconds double precision) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.release_job(p_kind text, p_id uuid, p_attempt integer, p_reason text, p_code text, p_gpu_seconds double precision) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.report_job(p_kind text, p_id uuid, p_attempt integer, p_progress double precision, p_phase text, p_metrics jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.report_job(p_kind text, p_id uuid, p_attempt integer, p_progress double precision, p_phase text, p_metrics jsonb) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.request_error(p_kind text, p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.request_stop(p_kind text, p_id uuid, p_code text, p_error text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.requeue(p_kind text, p_job jsonb, p_failures integer, p_delay interval, p_code text, p_error text, p_phase text, p_gpu_seconds double precision) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.result_error(p_kind text, p_job jsonb, p_result jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.result_keys(p_kind text, p_result jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.retry_job_as_owner(p_kind text, p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.retry_job_as_owner(p_kind text, p_id uuid) TO authenticated;

REVOKE ALL ON FUNCTION worker.retry_job_as_service(p_kind text, p_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.retry_job_as_service(p_kind text, p_id uuid) TO service_role;

REVOKE ALL ON FUNCTION worker.revoke_consent_as_owner(p_subject_id uuid, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.revoke_consent_as_owner(p_subject_id uuid, p_reason text) TO authenticated;

REVOKE ALL ON FUNCTION worker.revoke_consent_as_service(p_subject_id uuid, p_reason text) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.revoke_consent_as_service(p_subject_id uuid, p_reason text) TO service_role;

REVOKE ALL ON FUNCTION worker.route(p_kind text, p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.save_checkpoint(p_kind text, p_id uuid, p_attempt integer, p_step integer, p_bucket text, p_key text) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.save_checkpoint(p_kind text, p_id uuid, p_attempt integer, p_step integer, p_bucket text, p_key text) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.schema_major() FROM PUBLIC;
GRANT ALL ON FUNCTION worker.schema_major() TO likeness_worker;

REVOKE ALL ON FUNCTION worker.set_consent(p_subject_id uuid, p_status text, p_purposes text[], p_expires_at timestamp with time zone, p_adult boolean, p_event text, p_reason text, p_evidence text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.settle(p_kind text, p_job jsonb, p_status text, p_code text, p_error text, p_gpu_seconds double precision, p_result jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.settle_stopped(p_kind text, p_job jsonb, p_gpu_seconds double precision) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.stage_objects(p_kind text, p_id uuid, p_attempt integer, p_objects jsonb) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.stage_objects(p_kind text, p_id uuid, p_attempt integer, p_objects jsonb) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.staging_prefix(p_kind text, p_job jsonb, p_attempt integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.start_job(p_kind text, p_id uuid, p_pod_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.start_job(p_kind text, p_id uuid, p_pod_id uuid) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.start_payload(p_kind text, p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.starved_routes(p_routes text[], p_wait interval) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.starved_routes(p_routes text[], p_wait interval) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.stop_jobs_of(p_subject_ids uuid[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.subject_lock_key(p_subject_id uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.subject_lock_key(p_subject_id uuid) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.subjects_of(p_job jsonb) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.table_of(p_kind text) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.take_garbage(p_limit integer) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.take_garbage(p_limit integer) TO likeness_worker;

REVOKE ALL ON FUNCTION worker.tick() FROM PUBLIC;
GRANT ALL ON FUNCTION worker.tick() TO likeness_worker;

REVOKE ALL ON FUNCTION worker.try_lock_job(p_kind text, p_id uuid) FROM PUBLIC;

REVOKE ALL ON FUNCTION worker.uploads_bucket() FROM PUBLIC;
GRANT ALL ON FUNCTION worker.uploads_bucket() TO authenticated;

REVOKE ALL ON FUNCTION worker.why_stranded(p_route text) FROM PUBLIC;
GRANT ALL ON FUNCTION worker.why_stranded(p_route text) TO likeness_worker;

GRANT SELECT ON TABLE public.generation_jobs TO authenticated;
GRANT SELECT ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(id) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(id) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(owner_id) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(owner_id) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(subject_id) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(subject_id) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(max_failures),UPDATE(max_failures) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(priority),UPDATE(priority) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(run_after),UPDATE(run_after) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(max_runtime),UPDATE(max_runtime) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(base) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(base) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(preset_id) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(preset_id) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(prompt) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(prompt) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(negative_prompt) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(negative_prompt) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(model_ids) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(model_ids) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(lora_scales) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(lora_scales) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(reference_paths) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(reference_paths) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(reference_scale) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(reference_scale) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(control_path) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(control_path) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(control_kind) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(control_kind) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(control_scale) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(control_scale) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(width) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(width) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(height) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(height) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(steps) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(steps) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(guidance) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(guidance) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(seed) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(seed) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(num_images) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(num_images) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(upscale) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(upscale) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(quality) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(quality) ON TABLE public.generation_jobs TO service_role;

GRANT INSERT(output_format) ON TABLE public.generation_jobs TO authenticated;
GRANT INSERT(output_format) ON TABLE public.generation_jobs TO service_role;

GRANT SELECT,DELETE ON TABLE public.presets TO authenticated;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.presets TO service_role;

GRANT INSERT(id) ON TABLE public.presets TO authenticated;

GRANT INSERT(name),UPDATE(name) ON TABLE public.presets TO authenticated;

GRANT INSERT(kind) ON TABLE public.presets TO authenticated;

GRANT INSERT(prompt),UPDATE(prompt) ON TABLE public.presets TO authenticated;

GRANT INSERT(negative_prompt),UPDATE(negative_prompt) ON TABLE public.presets TO authenticated;

GRANT INSERT(settings),UPDATE(settings) ON TABLE public.presets TO authenticated;

GRANT SELECT,DELETE ON TABLE public.subject_photos TO authenticated;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.subject_photos TO service_role;

GRANT INSERT(id) ON TABLE public.subject_photos TO authenticated;

GRANT INSERT(subject_id) ON TABLE public.subject_photos TO authenticated;

GRANT INSERT(path) ON TABLE public.subject_photos TO authenticated;

GRANT INSERT(caption),UPDATE(caption) ON TABLE public.subject_photos TO authenticated;

GRANT SELECT ON TABLE public.subjects TO authenticated;
GRANT SELECT ON TABLE public.subjects TO service_role;

GRANT INSERT(id) ON TABLE public.subjects TO authenticated;
GRANT INSERT(id) ON TABLE public.subjects TO service_role;

GRANT INSERT(owner_id) ON TABLE public.subjects TO service_role;

GRANT INSERT(name),UPDATE(name) ON TABLE public.subjects TO authenticated;
GRANT INSERT(name),UPDATE(name) ON TABLE public.subjects TO service_role;

GRANT INSERT(trigger_word),UPDATE(trigger_word) ON TABLE public.subjects TO authenticated;
GRANT INSERT(trigger_word),UPDATE(trigger_word) ON TABLE public.subjects TO service_role;

GRANT INSERT(subject_is_adult) ON TABLE public.subjects TO authenticated;
GRANT INSERT(subject_is_adult) ON TABLE public.subjects TO service_role;

GRANT SELECT ON TABLE public.subjects_models TO authenticated;
GRANT SELECT ON TABLE public.subjects_models TO service_role;

GRANT UPDATE(retired_at) ON TABLE public.subjects_models TO service_role;

GRANT SELECT ON TABLE public.training_jobs TO authenticated;
GRANT SELECT ON TABLE public.training_jobs TO service_role;

GRANT INSERT(id) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(id) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(owner_id) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(owner_id) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(subject_id) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(subject_id) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(max_failures),UPDATE(max_failures) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(priority),UPDATE(priority) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(run_after),UPDATE(run_after) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(max_runtime),UPDATE(max_runtime) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(base) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(base) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(preset_id) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(preset_id) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(sample_paths) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(sample_paths) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(trigger_word) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(trigger_word) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(steps) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(steps) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(rank) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(rank) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(learning_rate) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(learning_rate) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(resolution) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(resolution) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(seed) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(seed) ON TABLE public.training_jobs TO service_role;

GRANT INSERT(class_name) ON TABLE public.training_jobs TO authenticated;
GRANT INSERT(class_name) ON TABLE public.training_jobs TO service_role;

GRANT SELECT ON TABLE worker.base_models TO likeness_worker;
GRANT SELECT ON TABLE worker.base_models TO service_role;

GRANT SELECT ON TABLE worker.config TO likeness_worker;
GRANT SELECT ON TABLE worker.config TO service_role;

GRANT SELECT ON TABLE worker.consent_events TO service_role;

GRANT SELECT ON TABLE worker.job_events TO service_role;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE worker.pgqueuer TO likeness_worker;

GRANT USAGE ON SEQUENCE worker.pgqueuer_id_seq TO likeness_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE worker.pgqueuer_log TO likeness_worker;

GRANT USAGE ON SEQUENCE worker.pgqueuer_log_id_seq TO likeness_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE worker.pgqueuer_schedules TO likeness_worker;

GRANT USAGE ON SEQUENCE worker.pgqueuer_schedules_id_seq TO likeness_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE worker.pgqueuer_statistics TO likeness_worker;

GRANT USAGE ON SEQUENCE worker.pgqueuer_statistics_id_seq TO likeness_worker;

GRANT SELECT ON TABLE worker.queue_depth TO likeness_worker;

GRANT SELECT ON TABLE worker.schema_versions TO likeness_worker;

GRANT SELECT ON TABLE worker.stranded_jobs TO likeness_worker;

CREATE POLICY "likeness: users can upload photos and inputs of their own" ON storage.objects FOR INSERT TO authenticated WITH CHECK (((bucket_id = ( SELECT worker.uploads_bucket() AS uploads_bucket)) AND ((storage.foldername(name))[1] = (( SELECT auth.uid() AS uid))::text) AND ((((storage.foldername(name))[2] IN ( SELECT (subjects.id)::text AS id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid)))) AND ((storage.foldername(name))[3] = 'photos'::text)) OR (((storage.foldername(name))[2] = '_'::text) AND ((storage.foldername(name))[3] = 'inputs'::text)))));
CREATE POLICY "likeness: users can view what is theirs" ON storage.objects FOR SELECT TO authenticated USING ((((bucket_id = ( SELECT worker.uploads_bucket() AS uploads_bucket)) AND ((storage.foldername(name))[1] = (( SELECT auth.uid() AS uid))::text) AND ((((storage.foldername(name))[2] IN ( SELECT (subjects.id)::text AS id
   FROM public.subjects
  WHERE (subjects.owner_id = ( SELECT auth.uid() AS uid)))) AND ((storage.foldername(name))[3] = 'photos'::text)) OR (((storage.foldername(name))[2] = '_'::text) AND ((storage.foldername(name))[3] = 'inputs'::text)))) OR ((bucket_id, name) IN ( SELECT my_published_objects.bucket,
    my_published_objects.key
   FROM worker.my_published_objects() my_published_objects(bucket, key)))));
