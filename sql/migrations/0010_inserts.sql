-- INSERTs of many jobs, and of busy owners.

create table worker.quota_turns (
  owner_id uuid primary key,
  open_at_most bigint,
  blocked_at_most bigint
) with (fillfactor = 50);
comment on table worker.quota_turns is
  'One row for each owner of jobs: whoever updates it may count the owner''s jobs until that transaction ends.';
comment on column worker.quota_turns.owner_id is 'The owner; without a foreign key, as in the job tables.';
comment on column worker.quota_turns.open_at_most is 'The owner has at most so many open jobs; NULL before they were counted.';
comment on column worker.quota_turns.blocked_at_most is 'At most so many prompts of the owner were blocked at an INSERT in the last hour.';

-- In any database, words are looked up by their bytes, which costs a fraction of a comparison by language.
alter table worker.screened_terms alter column letters type text collate "C";
alter table worker.allowed_phrases alter column phrase type text collate "C";

-- Replaced: its owner's jobs are counted after the INSERT, not before.
drop function if exists worker.check_open_jobs(uuid), worker.count_jobs(uuid, text);

-- Refusals of the last hour are counted at every INSERT.
create index consent_events_refusals on worker.consent_events (subject_id, at) where event = 'refusal';
