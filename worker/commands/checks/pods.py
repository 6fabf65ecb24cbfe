"""The live pods, and the jobs that none of them can run."""

from __future__ import annotations

from worker.commands.checks.report import CheckWarning, Report
from worker.database.pool import Database


async def check_pods(report: Report, database: Database | None) -> None:
    """Check for live pods, and for routes whose waiting jobs none of them can run."""
    if database is None:
        report.skip("no usable database", "pods", "waiting jobs")
        return
    await report.check("pods", _pods(database))
    await report.check("waiting jobs", _waiting(database))


async def _pods(database: Database) -> str:
    pods = await database.fetch(
        """select name, worker.is_alive(pods) as alive,
             extract(epoch from now() - greatest(least(last_heartbeat, now()), '1970-01-01'))::bigint as silent_s
           from worker.pods order by name"""
    )
    alive = [pod["name"] for pod in pods if pod["alive"]]
    found = f"{len(alive)} alive: {', '.join(alive)}" if alive else "no live pods"
    dead = [f"{pod['name']} for {pod['silent_s']} s" for pod in pods if not pod["alive"]]
    if dead:
        raise CheckWarning(
            f"{found}; silent and considered dead: {', '.join(dead)}",
            "a live pod takes over their jobs at its next tick; start one: worker run",
        )
    if not alive:
        raise CheckWarning(found, "start one: worker run")
    return found


async def _waiting(database: Database) -> str:
    waiting = await database.fetch(
        "select route, waiting, worker.why_stranded(route) as why from worker.queue_depth where waiting > 0"
    )
    stranded = [row for row in waiting if row["why"] is not None]
    if stranded:
        raise CheckWarning(
            "; ".join(f"{row['waiting']} on {row['route']}: {row['why']}" for row in stranded),
            "start a pod that can run them, or give one the base model: worker models list",
        )
    jobs = sum(row["waiting"] for row in waiting)
    return f"{jobs}, and live pods can run them all" if jobs else "none"
