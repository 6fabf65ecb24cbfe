"""Gates in the test's database: a worker's statement waits in its transaction until the test opens the gate."""

from __future__ import annotations

from types import TracebackType
from typing import Self
from uuid import UUID

import psycopg

from tests.app import App
from tests.waiting import wait_until

INSTALL = """
create table public.test_gates (job_id uuid not null, point text not null);

create function public.wait_at_gate() returns trigger language plpgsql set lock_timeout = 0 as $$
begin
  if new.status = 'running' and exists (
    select from public.test_gates gate
    where gate.job_id = new.id and gate.point = case when old.status = 'queued' then 'start' else new.phase end)
  then
    perform pg_advisory_xact_lock_shared(hashtextextended('gate ' || new.id, 0));
  end if;
  return new;
end $$;

create trigger _900_gate before update on public.training_jobs for each row execute function public.wait_at_gate();
create trigger _900_gate before update on public.generation_jobs for each row execute function public.wait_at_gate();
"""


class Gate:
    """Closed during the context, or until `open`: the job's statement that reports `point` waits before it commits.

    `point` is a phase, or "start" for the statement that starts an attempt. The statement holds the job's row locked.
    """

    def __init__(self, app: App, job_id: UUID, point: str) -> None:
        self._app, self._job_id = app, job_id
        self._holder = psycopg.connect(app.url, autocommit=True)
        self._holder.execute("select pg_advisory_lock(hashtextextended('gate ' || %s, 0))", [job_id])
        app.run("insert into public.test_gates values (%s, %s)", job_id, point)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.open()

    def wait_reached(self, timeout_s: float = 60) -> None:
        """Return once a worker's statement waits at the gate."""
        key = self._app.one("select hashtextextended('gate ' || %s, 0)", self._job_id)
        wait_until(
            lambda: self._app.one(
                """select exists (select from pg_locks where locktype = 'advisory' and not granted
                     and (classid::bigint << 32 | objid::bigint) = %s)""",
                key,
            ),
            "a worker to reach the gate",
            timeout_s,
        )

    def open(self) -> None:
        self._holder.close()


def wait_until_blocked(app: App, function: str) -> None:
    """Return once a statement that calls `function` waits for a lock."""
    wait_until(
        lambda: app.one(
            """select exists (select from pg_stat_activity where datname = current_database()
                 and wait_event_type = 'Lock' and query like %s)""",
            f"%{function}%",
        ),
        f"{function} to wait for a lock",
    )
