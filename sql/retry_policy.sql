-- The retry policy: which failures are retried, and when. A job fails for good when failures reaches its max_failures, whose
-- default is that of the column in worker.life_cycle.

create or replace function worker.is_retried(p_code text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select p_code not in ('consent_denied', 'prompt_blocked', 'output_blocked', 'invalid_input', 'input_missing') $$;
comment on function worker.is_retried is 'Return true if a failure is retried; the others would fail in the same way again.';

-- A job with such a failure is requeued, which does not count as a failure, and its pod stops offering the route.
create or replace function worker.is_fault_of_pod(p_code text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select p_code in ('model_missing', 'out_of_memory') $$;
comment on function worker.is_fault_of_pod is 'Return true for a failure that another pod may not have.';

create or replace function worker.backoff(p_failures integer) returns interval
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select least(interval '10 minutes', interval '10 seconds' * power(4, least(p_failures, 8) - 1)) * (0.8 + 0.4 * random()) $$;
comment on function worker.backoff is 'Return how long to wait after the n-th failure: 10 s, 40 s, 160 s … up to 10 minutes, plus or minus a fifth.';

-- After one lost pod the job may start elsewhere at once; a job that loses one pod after another waits longer.
create or replace function worker.backoff_after_lost_pod(p_failures integer) returns interval
language sql volatile set search_path = pg_catalog, pg_temp
as $$ select case when p_failures = 0 then interval '0' else worker.backoff(p_failures) end $$;
comment on function worker.backoff_after_lost_pod is 'Return how long to wait after a pod was lost; p_failures is the number of failures before.';

-- A serialization failure, a lock timeout, a server that stops: the pod calls again. worker/database/transient.py says the
-- same of whole calls, but for three that a hook may cause again and again: statement_timeout, a missing table, internal errors.
create or replace function worker.is_transient(p_sqlstate text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select left(p_sqlstate, 2) in ('08', '28', '40', '53', '55', '57', '58', '72') and p_sqlstate not in ('55P02', '55P04', '57014')
         or p_sqlstate in ('25006', '25P03', '25P04', '26000', '3D000', '42P05', 'HV00N')
$$;
comment on function worker.is_transient is 'Return true for an SQLSTATE after which the same statement may succeed.';
