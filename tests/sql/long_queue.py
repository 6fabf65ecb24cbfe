"""An installation with a long queue and a long history: rows as the functions leave them, written without triggers."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import tuple_row

from tests.tiny_models import TINY_BASE

_FILL = """
insert into auth.users (id) select distinct owner(n) from generate_series(1, 1000) n;

insert into public.subjects (id, owner_id, name, consent_status, consent_purposes, subject_is_adult, consent_expires_at)
select person(n), owner(n), 'Ada', 'approved', '{training,generation}', true, now() + interval '1 year'
from generate_series(1, 1000) n;

insert into public.generation_jobs (id, owner_id, subject_id, base, status, phase, prompt, model_ids, max_runtime,
  created_at, attempt, finished_at)
select job(n), owner(n), person(n), %(base)s, 'completed', 'completed', 'x', '{}', '30 minutes',
  now() - n * interval '1 second', 1, now() - n * interval '1 second'
from generate_series(1, %(finished)s) n;

insert into public.generation_jobs (id, owner_id, subject_id, base, status, phase, prompt, model_ids, max_runtime,
  created_at)
select job(-n), owner(n), person(n), %(base)s, 'queued', 'waiting', 'x', '{}', '30 minutes',
  now() - interval '1 hour' - n * interval '0.1 second'
from generate_series(1, %(queued)s) n;

insert into worker.job_subjects (kind, job_id, subject_id)
select 'generation', id, subject_id from public.generation_jobs where status = 'queued';

insert into worker.pgqueuer (priority, status, entrypoint, dedupe_key, payload, created, updated, heartbeat,
  execute_after)
select 0, 'queued', 'generation/' || base, 'generation:' || id, convert_to(id::text, 'UTF8'), created_at, created_at,
  created_at, created_at
from public.generation_jobs where status = 'queued' order by created_at;

insert into worker.pgqueuer_log (job_id, status, priority, entrypoint, created)
select -n, 'picked', 0, 'generation/' || %(base)s, now() - n * interval '4 seconds'
from generate_series(1, %(finished)s / 4) n;

insert into worker.job_events (kind, job_id, attempt, event, at)
select 'generation', id, 1, 'completed', finished_at
from public.generation_jobs where status = 'completed' limit %(finished)s / 4;

insert into worker.consent_events (subject_id, event, actor, at)
select person(n), 'grant', 'a test', now() - n * interval '1 minute' from generate_series(1, %(finished)s / 100) n
"""


_IDS = {
    "person(n)": "md5('person ' || n %% 1000)::uuid",
    "owner(n)": "md5('owner ' || n %% 200)::uuid",
    "job(n)": "(lpad(to_hex(n), 8, '0') || '-0000-4000-8000-000000000000')::uuid",
    "job(-n)": "(lpad(to_hex(n), 8, '0') || '-0000-4000-8000-000000000001')::uuid",
}

_INDEXES = """
select pg_get_indexdef(indexrelid), format('drop index %%s', indexrelid::regclass)
from pg_index left join pg_constraint on conindid = indexrelid
where indrelid = any(%s::regclass[]) and conindid is null"""


def fill(database: psycopg.Connection[Any], *, queued: int, finished: int) -> None:
    """Add queued and finished generations of a thousand people and logs of a quarter of them, and update statistics.

    `database` is an autocommit connection of a superuser; the base `tiny-flux` exists.
    """
    statements = _FILL
    for name, meaning in _IDS.items():
        statements = statements.replace(name, meaning)
    tables = ["public.generation_jobs", "worker.pgqueuer_log", "worker.job_events"]
    indexes = database.cursor(row_factory=tuple_row).execute(_INDEXES, [tables]).fetchall()
    database.execute("set session_replication_role = replica")
    for _, drop in indexes:
        database.execute(drop.encode())
    for statement in statements.split(";\n"):
        database.execute(statement.encode(), {"base": TINY_BASE, "queued": queued, "finished": finished})
    for create, _ in indexes:  # faster than row by row
        database.execute(create.encode())
    database.execute("reset session_replication_role")
    database.execute("analyze")
