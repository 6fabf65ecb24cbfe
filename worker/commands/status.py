"""`worker status`: the queue, live pods, stranded jobs and recent failures.

A pod's login sees the queue and the pods. Only the database owner sees people's jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from worker.database.owner import Connection

app = typer.Typer()

# nullif(…, 'infinity'): PostgreSQL before 17 cannot subtract an infinite time.
_QUEUE = """
    select route, waiting, oldest, running, pods from worker.queue_depth
    where waiting > 0 or running > 0 order by oldest desc nulls last, route"""

_RUNNING = """
    select job.kind, job.id, job.request ->> 'base' as base, job.attempt, pods.name as pod, job.phase,
           round(job.progress * 100) || ' %' as progress,
           clock_timestamp() - nullif(nullif(job.started_at, 'infinity'), '-infinity') as since
    from worker.job_details job left join worker.pods on pods.id = job.pod_id
    where job.status = 'running' order by job.started_at"""

_RUNNING_AS_A_POD = """
    select queue.entrypoint as route, split_part(queue.dedupe_key, ':', 2) as id, pods.name as pod,
           clock_timestamp() - nullif(nullif(queue.updated, 'infinity'), '-infinity') as since
    from worker.pgqueuer queue left join worker.pods on pods.id = queue.queue_manager_id
    where queue.status = 'picked' order by queue.updated"""

_PODS = """
    select name, version, trim_scale(trunc(vram_gib::numeric, 1)) as free_vram_gib,
           array_to_string(routes, ', ') as routes,
           case when worker.is_alive(pods) then 'yes' else 'no, considered dead' end as alive,
           clock_timestamp() - nullif(nullif(last_heartbeat, 'infinity'), '-infinity') as silent,
           clock_timestamp() - nullif(nullif(registered_at, 'infinity'), '-infinity') as since
    from worker.pods order by name, registered_at"""

_STRANDED = """
    select depth.route, depth.waiting as jobs, depth.oldest, split_part(longest.dedupe_key, ':', 2) as id, depth.why
    from (select route, waiting, oldest, worker.why_stranded(route) as why
          from worker.queue_depth where waiting > 0 offset 0) depth
    cross join lateral (
        select dedupe_key from worker.pgqueuer where entrypoint = depth.route and status = 'queued'
        order by execute_after limit 1) longest
    where depth.why is not null order by depth.oldest desc"""
"""By route, as in worker.stranded_jobs: one look at the queue. `offset 0`: the reason is found once for each."""

_FAILED = """
    select job.kind, job.error_code, count(*) as jobs, max(job.finished_at) as last,
           (array_agg(job.id order by job.finished_at desc))[1] as id
    from worker.job_details job
    where job.status = 'failed' and job.finished_at > clock_timestamp() - interval '24 hours'
    group by job.kind, job.error_code order by jobs desc, job.kind"""

_RETRIED = """
    select kind, detail ->> 'code' as code, count(*) as attempts, max(at) as last
    from worker.job_events
    where at > clock_timestamp() - interval '24 hours' and event = 'requeued' and detail ->> 'code' is not null
    group by kind, code order by attempts desc, kind"""

_MAY_SEE_JOBS = "select has_table_privilege('worker.job_details', 'select') as may"


@app.command(epilog="Example: worker status")
def status() -> None:
    """Show the queue, live pods, stranded jobs and recent failures.

    Reads DATABASE_URL. The database owner's URL shows more: the phase of each running job, and failures.
    """
    from worker.console import console
    from worker.database.owner import connect
    from worker.settings import Settings

    with connect(Settings.load(storage=False).database_url.get_secret_value()) as connection:
        print_status(connection, console())


def print_status(connection: Connection, to: Console) -> None:
    """Print all tables, or those that this login may see."""
    from worker.database.meanings import READ_ONLY, explain_read_only

    unwritable = explain_read_only(**connection.execute(READ_ONLY).fetchall()[0])
    if unwritable:
        to.print(f"Warning: {unwritable}\n")
    _print_rows(connection, to, "Queue", _QUEUE, "empty")
    _print_rows(
        connection, to, "Stranded: no live pod can run these", _STRANDED, "none: a live pod can run each open job"
    )
    _print_rows(connection, to, "Pods", _PODS, "no live pods: start one with `worker run`")
    allowed = connection.execute(_MAY_SEE_JOBS).fetchone()
    if allowed is None or not allowed["may"]:
        _print_rows(connection, to, "Running", _RUNNING_AS_A_POD, "none")
        to.print(
            "A pod's login does not see phases and failures: set DATABASE_URL to the database owner's URL to see them."
        )
        return
    _print_rows(connection, to, "Running", _RUNNING, "none")
    _print_rows(connection, to, "Failed in the last 24 hours (times in UTC)", _FAILED, "none")
    _print_rows(connection, to, "Attempts that failed and were retried, last 24 hours", _RETRIED, "none")
    to.print("To see one job in full: worker job ID")


def _print_rows(connection: Connection, to: Console, title: str, query: str, empty: str) -> None:
    from worker.console import table

    cursor = connection.execute(query.encode())  # as bytes: constants of this file
    columns = [column.name.replace("_", " ") for column in cursor.description or ()]
    table(to, title, columns, (list(row.values()) for row in cursor), empty)
