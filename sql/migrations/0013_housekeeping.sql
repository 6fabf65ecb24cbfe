-- Housekeeping apart from taking over, and what it needs so that a long queue costs no more than a short one. The indexes of
-- job tables are in kinds.sql, because packages have job tables too.

create table worker.housekeeping (
  singleton boolean primary key default true constraint housekeeping_is_one_row check (singleton),
  next_run timestamptz,
  queue_id bigint not null default 0,
  job_ids jsonb not null default '{}',
  people_checked_to uuid
);
insert into worker.housekeeping default values;

-- For starved_routes, which asks when a route was last claimed from.
create index pgqueuer_log_picked on worker.pgqueuer_log (entrypoint, created) where status = 'picked';

-- The notification names the route, so that only pods that offer it look at the queue, and only for a slot that can take it.
drop trigger if exists tg_pgqueuer_changed on worker.pgqueuer;
create trigger tg_pgqueuer_changed after insert on worker.pgqueuer
  referencing new table as new_rows for each statement execute function worker.fn_pgqueuer_changed();

-- A row to lock while a copy is made: an advisory lock could be taken by anybody who can connect. It does not refer to the
-- subject, because a reference would lock the subject too, and a revocation would wait.
create table worker.lora_copies (
  subject_id uuid primary key
);

-- Now they return whether more is left.
drop function if exists worker.prune(), worker.fail_stranded_jobs(worker.job_kinds), worker.explain_waiting(worker.job_kinds);
