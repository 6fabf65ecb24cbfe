-- Consent: for whom LoRAs may be trained and pictures generated, who may change that, and the ledger.
-- Rights are in rights.sql, one line per function. Every function that changes consent locks the person first and decides in a
-- later statement: what it read before it waited for the lock may have changed meanwhile. docs/consent.md has all transitions.

-- GoTrue can delete an account softly: its row stays, with the time in deleted_at.
create or replace function worker.account_is_deleted(p_user_id uuid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return not exists (select from auth.users where id = p_user_id and deleted_at is null);
exception when undefined_column then  -- the stubs of earlier releases
  return not exists (select from auth.users where id = p_user_id);
end $$;
comment on function worker.account_is_deleted is 'Return true for an account that was deleted, softly or with its row; also for NULL.';

-- In the statement that locks the subject, it would still read the row as it was before the lock was waited for.
create or replace function worker.consent_error(p_subject_id uuid, p_purpose text) returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_subject public.subjects;
begin
  select * into v_subject from public.subjects where id = p_subject_id;
  return case
    when v_subject.id is null then 'the person was not found'
    when v_subject.erased_at is not null then 'the person''s data was erased'
    when not v_subject.subject_is_adult then 'the person is not confirmed to be an adult'
    when v_subject.consent_status = 'pending' then 'the person has not consented yet: consent is pending'
    when v_subject.consent_status = 'rejected' then 'the person did not consent: consent was rejected'
    when v_subject.consent_expires_at <= clock_timestamp() then 'the person''s consent has expired'
    when v_subject.consent_status = 'revoked' then 'the person revoked consent'
    when worker.account_is_deleted(v_subject.owner_id) then 'the account that owned the subject was deleted'
    when p_purpose is null or p_purpose <> all (v_subject.consent_purposes) then
      format('the person has not consented to %s, only to %s', coalesce(p_purpose, 'this'),
             array_to_string(v_subject.consent_purposes, ' and '))
  end;
end $$;
comment on function worker.consent_error is
  'Return why the person may not be used for the purpose now, or NULL. Call it in a later statement than the lock on the subject.';

-- Kinds without a purpose need no consent.
create or replace function worker.job_consent_error(p_kind text, p_job_id uuid) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select worker.consent_error(touched.subject_id, kinds.purpose)
  from worker.job_subjects touched
  join worker.job_kinds kinds on kinds.kind = touched.kind and kinds.purpose is not null
  where touched.kind = p_kind and touched.job_id = p_job_id
    and worker.consent_error(touched.subject_id, kinds.purpose) is not null
  order by touched.subject_id
  limit 1
$$;
comment on function worker.job_consent_error is 'Return the first reason why a person in the job may not be used, or NULL.';

create or replace function worker.actor() returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$ select coalesce(auth.uid()::text, session_user::text) $$;
comment on function worker.actor is 'Return who is acting, for the ledger: the signed-in user, else the role of the session.';

create or replace function worker.set_consent(
  p_subject_id uuid, p_status text, p_purposes text[], p_expires_at timestamptz, p_adult boolean,
  p_event text, p_reason text, p_evidence text
) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    -- An older snapshot would not see the jobs that must be told to stop.
    raise exception 'consent cannot be changed at isolation level %: use READ COMMITTED', current_setting('transaction_isolation') using errcode = '25001';
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
comment on function worker.set_consent is 'Change the consent columns and write the ledger; only for the functions below.';

create or replace function worker.check_grant(p_purposes text[], p_expires_at timestamptz) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_purposes is null or p_purposes = '{}' or array_ndims(p_purposes) > 1 or not p_purposes <@ '{training,generation}'::text[] then
    raise exception 'purposes must be one or both of training and generation, not %', coalesce(p_purposes::text, 'null')
      using errcode = '22023', hint = 'grant_consent(subject_id, ''{training,generation}'')';
  elsif p_expires_at <= clock_timestamp() or p_expires_at >= '9999-01-01 00:00:00+00' then
    raise exception 'expires_at must be in the future and before the year 9999, not %', p_expires_at
      using errcode = '22023', hint = 'Leave it out, or give NULL, for consent without an end.';
  end if;
end $$;
comment on function worker.check_grant is 'Raise 22023 unless purposes and expiry of a grant are valid.';

-- By the ledger and not by the status alone: a rejection stands as well where the person was deleted and inserted again, and
-- where an earlier release let a revocation take its place.
create or replace function worker.is_rejected(p_subject_id uuid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select exists (select from public.subjects where id = p_subject_id and consent_status = 'rejected')
      or 'reject' = (select event from worker.consent_events
                     where subject_id = p_subject_id and event in ('grant', 'reject') order by id desc limit 1)
$$;
comment on function worker.is_rejected is 'Return true if an administrator recorded that a person did not consent, and has granted nothing since.';

create or replace function worker.grant_consent_as_service(
  p_subject_id uuid, p_purposes text[], p_expires_at timestamptz, p_evidence text, p_confirmed boolean, p_adult boolean
) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_subject public.subjects;
begin
  perform from public.subjects where id = p_subject_id for update;
  select * into v_subject from public.subjects where id = p_subject_id;
  perform worker.check_grant(p_purposes, p_expires_at);
  if v_subject.id is null then
    raise exception 'subject % not found', p_subject_id using errcode = '42501';
  elsif v_subject.erased_at is not null then
    raise exception 'subject % was erased: insert a new one', p_subject_id using errcode = '22023';
  elsif worker.account_is_deleted(v_subject.owner_id) then
    raise exception 'the account that owned subject % was deleted: insert a new subject for another account', p_subject_id using errcode = '22023';
  elsif not (v_subject.subject_is_adult or coalesce(p_adult, false)) then
    raise exception 'subject % is not confirmed to be an adult', p_subject_id
      using errcode = '22023', hint = 'Only adults can consent: grant_consent(…, adult => true) confirms it.';
  end if;
  perform worker.set_consent(p_subject_id, 'approved', p_purposes, p_expires_at, p_adult, 'grant', null, p_evidence);
end $$;
comment on function worker.grant_consent_as_service is 'Record that a person consented, as the administrator of the app.';

create or replace function worker.grant_consent_as_owner(
  p_subject_id uuid, p_purposes text[], p_expires_at timestamptz, p_evidence text, p_confirmed boolean, p_adult boolean
) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform from public.subjects where id = p_subject_id and owner_id = auth.uid() for update;
  if not found then
    raise exception 'subject not found for this user' using errcode = '42501';
  elsif (select consent_mode from worker.config) <> 'owner_attests' then
    raise exception 'consent is granted by an administrator here'
      using errcode = '42501', hint = 'worker.config.consent_mode is admin.';
  elsif worker.is_rejected(p_subject_id) then
    raise exception 'an administrator recorded that the person did not consent'
      using errcode = '42501', hint = 'Only an administrator can lift that, with grant_consent.';
  elsif p_confirmed is not true or p_adult is not true then
    raise exception 'state both: confirmed => true (the person consented) and adult => true (the person is an adult)'
      using errcode = '22023';
  end if;
  perform worker.grant_consent_as_service(p_subject_id, p_purposes, p_expires_at, p_evidence, p_confirmed, p_adult);
end $$;
comment on function worker.grant_consent_as_owner is 'Record that a person consented, attested by the subject''s owner (consent_mode owner_attests).';

create or replace function public.grant_consent(
  subject_id uuid, purposes text[] default '{training,generation}', expires_at timestamptz default null,
  evidence text default null, confirmed boolean default false, adult boolean default false
) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  -- current_user is the caller here; inside a definer function it would be the owner, and a role in the claims can be forged.
  if current_user = 'authenticated' then
    perform worker.grant_consent_as_owner(subject_id, purposes, expires_at, evidence, confirmed, adult);
  else
    perform worker.grant_consent_as_service(subject_id, purposes, expires_at, evidence, confirmed, adult);
  end if;
end $$;
comment on function public.grant_consent is
  'Record that a person consented to purposes (training, generation), until expires_at; only a digest of evidence is stored.';

create or replace function worker.reject_consent_as_service(p_subject_id uuid, p_reason text) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform from public.subjects where id = p_subject_id for update;
  if not found then
    raise exception 'subject % not found', p_subject_id using errcode = '42501';
  end if;
  perform worker.set_consent(p_subject_id, 'rejected', '{}', null, false, 'reject', null, p_reason);
end $$;
comment on function worker.reject_consent_as_service is 'Record that a person did not consent.';

create or replace function public.reject_consent(subject_id uuid, reason text default null) returns void
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$ select worker.reject_consent_as_service(subject_id, reason) $$;
comment on function public.reject_consent is 'Record that a person did not consent (service_role).';

-- A rejection stays one: revoked consent may be granted again by those who may grant it.
create or replace function worker.revoke_consent_as_service(p_subject_id uuid, p_reason text) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform from public.subjects where id = p_subject_id for update;
  if not found then
    raise exception 'subject % not found', p_subject_id using errcode = '42501';
  elsif (select consent_status from public.subjects where id = p_subject_id) not in ('revoked', 'rejected') then
    perform worker.set_consent(p_subject_id, 'revoked', '{}', null, false, 'revoke', null, p_reason);
  end if;
end $$;
comment on function worker.revoke_consent_as_service is
  'Revoke a person''s consent: queued jobs fail, running ones are interrupted, nothing more is published. Rejected consent stays rejected.';

create or replace function worker.revoke_consent_as_owner(p_subject_id uuid, p_reason text) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform from public.subjects where id = p_subject_id and owner_id = auth.uid() for update;
  if not found then
    raise exception 'subject not found for this user' using errcode = '42501';
  end if;
  perform worker.revoke_consent_as_service(p_subject_id, p_reason);
end $$;
comment on function worker.revoke_consent_as_owner is 'Revoke the consent of a subject of one''s own.';

create or replace function public.revoke_consent(subject_id uuid, reason text default null) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  if current_user = 'authenticated' then
    perform worker.revoke_consent_as_owner(subject_id, reason);
  else
    perform worker.revoke_consent_as_service(subject_id, reason);
  end if;
end $$;
comment on function public.revoke_consent is
  'Revoke a person''s consent at once: queued jobs fail, running ones stop, nothing more is published; only a digest of reason is stored.';

-- In one statement, so that all jobs it stops are locked in order. A person's row that is locked now is skipped: their
-- consent is refused by its expiry time already, and the next tick comes soon.
create or replace function worker.expire_consent() returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer;
begin
  perform set_config('worker.changing_consent', 'yes', true);
  with due as (
    select id from public.subjects
    where consent_status = 'approved' and consent_expires_at <= statement_timestamp() order by id for update skip locked
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
comment on function worker.expire_consent is 'End every consent that has expired; returns how many.';

-- Jobs are locked in (kind, id) order, as everywhere.
create or replace function worker.stop_jobs_of(p_subject_ids uuid[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind worker.job_kinds;
  v_job record;
begin
  for v_kind in select * from worker.live_kinds() where purpose is not null order by kind loop
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
end $$;
comment on function worker.stop_jobs_of is 'Fail the queued jobs of people without consent, and interrupt the running ones.';

create or replace function worker.on_subject_insert() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if new.consent_status <> 'pending' or new.consent_purposes <> '{}' or new.consent_expires_at is not null
     or new.erased_at is not null then
    raise exception 'a subject starts without consent'
      using errcode = '42501', hint = 'Insert it, then call grant_consent(subject_id, …).';
  end if;
  -- A word that no tokenizer knows, different for each person, so that two LoRAs in a picture are not mixed up.
  new.trigger_word := coalesce(new.trigger_word, 'ohwx' || left(replace(new.id::text, '-', ''), 6));
  return new;
end $$;
comment on function worker.on_subject_insert is 'Refuse a subject that is inserted with consent, and fill in its trigger word.';

create or replace function worker.on_subject_update() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if old.owner_id is not null and new.owner_id is null then
    -- The account was deleted: the person's likeness may not be kept or used any more.
    new.consent_status := case old.consent_status when 'rejected' then 'rejected' else 'revoked' end;
    new.consent_purposes := '{}';
    insert into worker.consent_events (subject_id, event, reason, actor)
    values (new.id, 'revoke', 'the owner''s account was deleted', worker.actor());
  elsif coalesce(current_setting('worker.changing_consent', true), '') <> 'yes' then
    if (old.consent_status, old.consent_purposes, old.consent_expires_at, old.subject_is_adult)
       is distinct from (new.consent_status, new.consent_purposes, new.consent_expires_at, new.subject_is_adult) then
      raise exception 'consent columns can only be changed by functions'
        using errcode = '42501', hint = 'Use grant_consent, reject_consent or revoke_consent.';
    end if;
  end if;
  if old.owner_id is distinct from new.owner_id and new.owner_id is not null then
    raise exception 'owner_id of a subject cannot be changed' using errcode = '42501';
  end if;
  return new;
end $$;
comment on function worker.on_subject_update is 'Guard the consent columns, and revoke consent when the owner''s account is deleted.';

create or replace function worker.after_subject_update() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
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
comment on function worker.after_subject_update is 'Stop the open jobs of all people who lost consent in the statement.';

create or replace function worker.refuse_change() returns trigger
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = '42501';
end $$;
comment on function worker.refuse_change is 'Raise 42501: the ledger is append-only.';
