-- How many jobs one owner may have: open ones at a time, and refused ones in an hour. One transaction at a time may count the
-- jobs of an owner, and it counts in a later statement than the one that takes the turn.
--
-- worker.quota_turns holds upper bounds: every INSERT and retry adds to them, and only when they pass a limit are the rows
-- counted again, because a statement over all kinds of job costs more than the rest of an INSERT.

-- An update and not only a lock: a transaction at REPEATABLE READ, whose snapshot lacks the other's jobs, then fails with 40001.
create or replace function worker.add_to_turn(p_owner_id uuid, p_open bigint, p_blocked bigint) returns worker.quota_turns
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_turn worker.quota_turns;
begin
  insert into worker.quota_turns as turn (owner_id) values (p_owner_id)
  on conflict (owner_id) do update
    set open_at_most = turn.open_at_most + p_open, blocked_at_most = turn.blocked_at_most + p_blocked
  returning * into v_turn;
  return v_turn;
end $$;
comment on function worker.add_to_turn is
  'Add jobs to an owner''s bounds, which waits for other transactions that did; returns them, NULL for an owner whose jobs were never counted.';

-- A lock is waited for twice, behind others that wait and then behind its holder: so each try waits half of the time that is left.
create or replace function worker.take_turn(p_owner_id uuid, p_open bigint, p_blocked bigint) returns worker.quota_turns
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_longest interval := worker.timing('quota_turn');
  v_deadline timestamptz := clock_timestamp() + v_longest;
  v_session text := current_setting('lock_timeout');
  v_turn worker.quota_turns;
begin
  if v_session::interval between interval '1 millisecond' and v_longest then
    return worker.add_to_turn(p_owner_id, p_open, p_blocked);  -- the client itself gives up earlier, with its own error
  end if;
  loop
    begin
      perform set_config('lock_timeout', ceil(extract(epoch from v_deadline - clock_timestamp()) * 500)::text, true);
      v_turn := worker.add_to_turn(p_owner_id, p_open, p_blocked);
      perform set_config('lock_timeout', v_session, true);
      return v_turn;
    exception when lock_not_available then
      if clock_timestamp() > v_deadline - v_longest / 50 then
        raise exception 'another transaction that inserts or retries jobs of this owner is still open: waited % s', extract(epoch from v_longest)::integer
          using errcode = 'PT429', hint = 'Try again. End transactions that insert jobs as soon as possible.';
      end if;
    end;
  end loop;
end $$;
comment on function worker.take_turn is
  'Do the same, but raise PT429 (HTTP 429) after 2 s. Until this transaction ends, no other may count the owner''s jobs.';

create or replace function worker.count_jobs(p_owner_id uuid, p_condition text) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_table text;
  v_count bigint;
  v_total bigint := 0;
begin
  for v_table in select table_name from worker.live_kinds() where table_name like 'public.%' loop
    execute format('select count(*) from %s where owner_id = $1 and %s', v_table, p_condition) into v_count using p_owner_id;
    v_total := v_total + v_count;
  end loop;
  return v_total;
end $$;
comment on function worker.count_jobs is 'Return how many jobs of an owner meet a SQL condition, over all kinds that apps insert.';

create or replace function worker.count_again(p_owner_id uuid) returns worker.quota_turns
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_turn worker.quota_turns;
begin
  update worker.quota_turns
  set open_at_most = worker.count_jobs(p_owner_id, $q$status in ('queued', 'running')$q$),
      blocked_at_most = worker.count_jobs(p_owner_id,
        $q$status = 'failed' and error_code = 'prompt_blocked' and attempt = 0 and created_at > now() - worker.timing('refusals_counted')
           and created_at < clock_timestamp()$q$)
  where owner_id = p_owner_id returning * into v_turn;
  return v_turn;
end $$;
comment on function worker.count_again is 'Count an owner''s open jobs, and the prompts that were blocked at the INSERT in the last hour; the caller has the turn.';

-- The ledger itself and not the jobs, because a job that is retried is refused again.
-- Nothing of the future counts, here and above: of a clock that was ahead, it would for as long as that.
create or replace function worker.count_ledger_refusals(p_owner_id uuid, p_limit bigint) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  return (select count(*) from (
    select from worker.consent_events refusal join public.subjects on subjects.id = refusal.subject_id and subjects.owner_id = p_owner_id
    where refusal.at > now() - worker.timing('refusals_counted') and refusal.at < clock_timestamp() and refusal.event = 'refusal' limit p_limit) counted);
end $$;
comment on function worker.count_ledger_refusals is 'Return how many refusals of the last hour the ledger has about an owner''s subjects, at most p_limit.';

-- Refused requests are kept for ever, in the ledger too, and a user must not find a way around the words by trying: once the
-- limit is reached, nothing more is accepted.
create or replace function worker.check_quota(p_owner_id uuid, p_queued bigint, p_blocked bigint, p_denied bigint) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit bigint := (select open_jobs_per_owner from worker.config);
  v_refused_limit bigint := 10 * v_limit;
  v_turn worker.quota_turns := worker.take_turn(p_owner_id, p_queued, p_blocked);
  v_denied bigint := p_denied + worker.count_ledger_refusals(p_owner_id, v_refused_limit + 1);
begin
  if v_turn.open_at_most is null or v_turn.open_at_most > v_limit or v_turn.blocked_at_most + v_denied >= v_refused_limit then
    v_turn := worker.count_again(p_owner_id);
  end if;
  if v_turn.blocked_at_most + v_denied > v_refused_limit or (p_queued > 0 and v_turn.blocked_at_most + v_denied >= v_refused_limit) then
    raise exception 'too many refused requests: at most % an hour', v_refused_limit using errcode = 'PT429';
  elsif p_queued > 0 and v_turn.open_at_most > v_limit then
    raise exception 'too many open jobs: at most % at a time', v_limit
      using errcode = 'PT429', hint = 'Wait until one has ended, or cancel one with cancel_job(kind, id).';
  end if;
end $$;
comment on function worker.check_quota is
  'Raise PT429 (HTTP 429) when an owner has too many open jobs or refusals. Of this statement''s jobs, p_queued are open, p_blocked have blocked prompts, and p_denied are not in the ledger yet.';
