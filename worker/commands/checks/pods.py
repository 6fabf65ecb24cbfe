"""Who is at work now, and what nobody can take."""

from __future__ import annotations

from worker.commands.checks.report import CheckWarning, Report
from worker.database.pool import Database


async def check_pods(report: Report, database: Database | None) -> None:
    """Live pods, and routes where jobs wait that none of them takes."""
    if database is None:
        report.skip("no usable database", "pods", "waiting jobs")
        return
    await report.check("pods", _pods(database))
    await report.check("waiting jobs", _waiting(database))


async def _pods(database: Database) -> str:
    pods = await database.fetch(
        """select name, worker.is_alive(pods) as alive,
             extract(epoch from clock_timestamp() - last_heartbeat)::int as silent_s
           from worker.pods order by name"""
    )
    alive = [pod["name"] for pod in pods if pod["alive"]]
    found = f"{len(alive)} alive: {', '.join(alive)}" if alive else "none is alive"
    dead = [f"{pod['name']} for {pod['silent_s']} s" for pod in pods if not pod["alive"]]
    if dead:
        raise CheckWarning(
            f"{found}; silent and held for dead: {', '.join(dead)}",
            "the next tick of a living pod takes over from them; start one: worker run",
        )
    if not alive:
        raise CheckWarning(found, "start one: worker run")
    return found


async def _waiting(database: Database) -> str:
    stranded = await database.fetch(
        "select route, why, count(*) as jobs from worker.stranded_jobs group by route, why order by route"
    )
    if stranded:
        raise CheckWarning(
            "; ".join(f"{row['jobs']} on {row['route']}: {row['why']}" for row in stranded),
            "start a pod that can, or bring the base to one: worker models list",
        )
    (queue,) = await database.fetch("select coalesce(sum(waiting), 0)::int as jobs from worker.queue_depth")
    return f"{queue['jobs']}, and a live pod takes each of them" if queue["jobs"] else "none"
