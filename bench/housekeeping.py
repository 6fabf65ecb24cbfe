"""What the housekeeping costs with a long queue and a long history: milliseconds of each call, as a client sees them.

python -m bench.housekeeping [QUEUED …]       100, 100000 and 300000 jobs that wait; a million have ended
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.trees import RESULTS
from tests.sql.long_queue import fill
from tests.sql.pod import GENERATION, TRAINING, Claims, Pod
from tests.sql.tables import AppTables
from worker.database.schema import migrate
from worker.demo.servers import EmbeddedPostgres

QUEUED, FINISHED = (100, 100_000, 300_000), 1_000_000
ROUNDS = 15

GOALS = {
    "a job: INSERT, claim, start, report, stage, complete": 15,
    "take_over": 20,
    "run_housekeeping": 20,
    "tick": 20,
    "starved_routes": 5,
    "stranded_jobs, counted": 50,
    "jobs, the first 20": 5,
    "queue_depth": 50,
    "without a pod: run_housekeeping": 20,
    "without a pod: stranded_jobs, counted": 50,
    "prune, 1,000 old rows": 20,
}
"""Milliseconds."""


def median_ms(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median time of a call, after one that does not count."""
    call()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(taken), 2)


def measure(url: str, queued: int) -> dict[str, float]:
    """Return the median milliseconds of each call of GOALS, on a fresh database at `url`."""
    migrate.install_supabase_stubs(url)
    migrate.migrate(url)
    with AppTables.open(url) as db, Claims(url) as claims:
        fill(db.database, queued=queued, finished=FINISHED)
        db.run("vacuum")  # as autovacuum does after so many rows
        pod = Pod(url, claims)
        subject = db.add_subject()

        def one_job() -> None:
            job_id = db.ask(subject_id=subject, priority=9)
            attempt = pod.run("generation", job_id)
            attempt.report()
            attempt.publish()

        def ms(statement: str) -> float:
            return median_ms(lambda: db.database.execute(statement.encode()).fetchall())

        found = {"a job: INSERT, claim, start, report, stage, complete": median_ms(one_job)}
        pod.heartbeat()
        found |= {
            "take_over": ms("select worker.take_over()"),
            "run_housekeeping": ms("select worker.run_housekeeping()"),
            "tick": ms("select worker.tick()"),
            "starved_routes": ms(f"select worker.starved_routes(array['{GENERATION}', '{TRAINING}'], '1 minute')"),
            "stranded_jobs, counted": ms("select why, count(*) from worker.stranded_jobs group by why"),
            "jobs, the first 20": ms("select * from worker.jobs limit 20"),
            "queue_depth": ms("select * from worker.queue_depth"),
        }
        db.run("delete from worker.pods")
        found |= {
            "without a pod: run_housekeeping": ms("select worker.run_housekeeping()"),
            "without a pod: stranded_jobs, counted": ms("select why, count(*) from worker.stranded_jobs group by why"),
        }
        db.run("update worker.config set keep_logs_for = '1 day'")
        found["prune, 1,000 old rows"] = ms("select worker.prune()")
        pod.close()
        return found


def main() -> None:
    """Measure each length of the queue on a server of its own, print the table, and write it to bench/results."""
    lengths = [int(argument) for argument in sys.argv[1:]] or list(QUEUED)
    found: dict[int, dict[str, float]] = {}
    for queued in lengths:
        with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder), fast=True) as server:
            found[queued] = measure(server.url(), queued)
    table = Table("median ms", "goal", *(f"{queued:,} queued" for queued in lengths))
    for name, goal in GOALS.items():
        table.add_row(name, f"{goal}", *(f"{found[queued][name]:.1f}" for queued in lengths))
    Console(width=160).print(table)
    (RESULTS / "housekeeping.json").write_text(json.dumps({"goals": GOALS, "ms": found}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
