"""The measures of the claim loop. Each runs on one side, and returns figures; every event is in the raw file."""

from __future__ import annotations

import random
import re
import statistics
import time
from pathlib import Path

from bench.queue.likeness_bench.events import Event
from bench.queue.sides import PRODUCER, Likeness, Side

PICKUPS, LONE, SLOW_MS = 100, 30, 50.0
MAKESPAN_WORKERS, MAKESPAN_JOBS, MAKESPAN_JOB_S = 2, 60, 0.3
NO_OPS = 600
WATCHED_S = 60.0
FULL_JOB_S = 400.0
FED_JOBS, FED_JOB_S = 12, 2.0
PODS = 5

Figures = dict[str, float]


def pickup(side: Side) -> Figures:
    """Insert each job shortly after the one before it has ended; ms until a worker's handler runs."""
    rng = random.Random(0)  # noqa: S311  jitter is not a secret
    before, commit = [], []
    for _ in range(PICKUPS):
        time.sleep(rng.uniform(0, 0.08))
        began, committed, picked = _one(side)
        before.append((picked - began) * 1000)
        commit.append((picked - committed) * 1000)
    return {
        "p50": statistics.median(before),
        "p99": statistics.quantiles(before, n=100)[-1],
        "slow": float(sum(ms > SLOW_MS for ms in before)),
        "p50 from the commit": statistics.median(commit),
        "slow from the commit": float(sum(ms > SLOW_MS for ms in commit)),
        "of": float(PICKUPS),
    }


def lone(side: Side) -> Figures:
    """Insert a job when nothing has happened for a while; ms until a worker's handler runs, and of the INSERT."""
    whole, insert = [], []
    for _ in range(LONE):
        time.sleep(0.5)
        began, committed, picked = _one(side)
        whole.append((picked - began) * 1000)
        insert.append((committed - began) * 1000)
    return {"p50": statistics.median(whole), "insert p50": statistics.median(insert)}


def makespan(side: Side) -> Figures:
    """Insert many jobs at once for workers that wait; the time until the last is done, over the ideal."""
    jobs = side.insert(MAKESPAN_JOBS, MAKESPAN_JOB_S)
    began = time.time()
    done = side.servers.events.until("done", set(jobs))
    ideal_s = MAKESPAN_JOBS * MAKESPAN_JOB_S / MAKESPAN_WORKERS
    return {"over ideal": (max(event.at for event in done) - began) / ideal_s}


def no_ops(side: Side) -> Figures:
    """Jobs a second when a job takes no time, from the first pick to the last end."""
    side.insert(1, 2.0)  # the workers are busy or idle, but the queue is full before they are fast
    jobs = set(side.insert(NO_OPS))
    events = [event for event in side.servers.events.until("done", jobs) if event.job in jobs]
    times = sorted(event.at for event in events if event.event == "done")
    # The middle: at the beginning the INSERT is still under way, in the end some workers have nothing left.
    low, high = len(times) // 10, len(times) * 9 // 10
    return {"jobs a second": (high - low) / (times[high] - times[low])}


def statements(side: Side, busy: bool) -> Figures:
    """Statements a minute and worker, from the server's log, with no job or a long one on each of the workers."""
    if busy:
        jobs = set(side.insert(PODS, FULL_JOB_S))
        side.servers.events.until("on the GPU", jobs)
        time.sleep(10)
    else:
        time.sleep(35)  # whatever the jobs before left to do
    log = Path(side.servers.postgres.folder) / "postgres.log"
    side.producer.execute("select pg_reload_conf()")
    begin = log.stat().st_size
    time.sleep(WATCHED_S)
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").splitlines()
    found = [
        line.split("|", 2)[2]
        for line in lines
        if f"|{side.database}|" in line
        and PRODUCER not in line
        and re.search(r"LOG: +(statement|execute [^:]*):", line)
    ]
    for line in found:
        side.servers.events.note(side=side.name, busy=busy, statement=line[:200])
    return {"a minute": len(found) * 60 / WATCHED_S / PODS}


def fed(side: Likeness) -> Figures:
    """The share of the time that the GPU is busy, with another person in each job."""
    people = [side.add_person(side.producer) for _ in range(FED_JOBS)]
    jobs = set(side.insert(seconds=FED_JOB_S, subjects=people))
    events: list[Event] = [e for e in side.servers.events.until("done", jobs) if e.job in jobs]
    busy = {name: sorted(e.at for e in events if e.event == name) for name in ("on the GPU", "done")}
    # Nothing could be known of the first job before it was claimed.
    begin, end = busy["done"][0], busy["done"][-1]
    return {"fed": (FED_JOBS - 1) * FED_JOB_S / (end - begin)}


def _one(side: Side) -> tuple[float, float, float]:
    """Insert a job and wait until it is done; returns when the INSERT began, when it returned, and the pick."""
    began = time.time()
    (job,) = side.insert()
    committed = time.time()
    events = side.servers.events.until("done", {job})
    picked = next(event.at for event in events if event.event == "picked up" and event.job == job)
    side.servers.events.note(side=side.name, job=job, began=began, committed=committed, picked=picked)
    return began, committed, picked
