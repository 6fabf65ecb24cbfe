-- Accounts that GoTrue deleted softly. consent_error refuses their people from that moment on; this stops what runs, and lets
-- consent_status and the ledger follow. Without a trigger, because the tables of auth belong to Supabase.

-- In one statement, and people who are locked now are skipped, as in expire_consent. Those whose jobs run are looked at each
-- time, everybody else in turn, some at a time: no index finds deleted accounts.
create or replace function worker.revoke_for_deleted_accounts() returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_from uuid := (select people_checked_to from worker.housekeeping);
  v_slice uuid[] := array(select id from public.subjects where v_from is null or id > v_from order by id limit 100);
  v_running uuid[] := array(
    select distinct touched.subject_id from worker.pgqueuer queue
    cross join lateral (  -- `offset 0`: looked up for each running job, of which there are few
      select subject_id from worker.job_subjects
      where kind = split_part(queue.dedupe_key, ':', 1) and job_id = split_part(queue.dedupe_key, ':', 2)::uuid offset 0) touched
    where queue.status = 'picked');
  v_count integer;
begin
  update worker.housekeeping set people_checked_to = v_slice[array_upper(v_slice, 1)];  -- NULL after the last: it begins again
  perform set_config('worker.changing_consent', 'yes', true);
  with due as (
    select id from public.subjects
    where id = any (v_slice || v_running) and consent_status in ('pending', 'approved')
      and owner_id is not null and worker.account_is_deleted(owner_id)
    order by id for update skip locked
  ), ended as (
    update public.subjects set consent_status = 'revoked', consent_purposes = '{}', consent_expires_at = null
    from due where subjects.id = due.id returning subjects.id
  )
  insert into worker.consent_events (subject_id, event, reason, actor)
  select id, 'revoke', 'the owner''s account was deleted', worker.actor() from ended order by id;
  get diagnostics v_count = row_count;
  perform set_config('worker.changing_consent', '', true);
  return v_count;
end $$;
comment on function worker.revoke_for_deleted_accounts is 'Revoke the consents of people whose owner''s account was deleted softly; returns how many.';
