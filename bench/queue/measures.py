"""The measures of the claim loop. Each runs on one side and returns figures; every event is in the raw file."""

from __future__ import annotations

import random
import re
import statistics
import time

from bench.queue.sides import PRODUCER, Likeness, Side

PICKUPS, LONE, SLOW_MS = 100, 30, 50.0
MAKESPAN_WORKERS, MAKESPAN_JOBS, MAKESPAN_JOB_S = 2, 60, 0.3
NO_OPS = 600
PODS, SETTLE_S, WATCHED_S, FULL_JOB_S = 5, 35.0, 60.0, 400.0
FED_JOBS, FED_JOB_S = 12, 2.0
COSTED_JOBS = 200

_STATEMENT = re.compile(r"LOG: +(?:statement|execute [^:]*): (.*)")
_DURATION = re.compile(r"LOG: +duration: ([0-9.]+) ms")

Figures = dict[str, float]


def pickup(side: Side) -> Figures:
    """Insert each job shortly after the one before it has ended; ms until a worker's handler runs."""
    rng = random.Random(0)
    whole, committed = [], []
    for _ in range(PICKUPS):
        time.sleep(rng.uniform(0, 0.08))
        insert_ms, pick_ms = _one(side, "pickup")
        whole.append(insert_ms + pick_ms)
        committed.append(pick_ms)
    return {
        "p50": statistics.median(whole),
        "p99": statistics.quantiles(whole, n=100)[-1],
        "slow": sum(ms > SLOW_MS for ms in whole),
        "p50 from the commit": statistics.median(committed),
        "slow from the commit": sum(ms > SLOW_MS for ms in committed),
    }


def lone(side: Side) -> Figures:
    """Insert a job when nothing has happened for a while; ms until a worker's handler runs, and of the INSERT."""
    whole, inserts = [], []
    for _ in range(LONE):
        time.sleep(0.5)
        insert_ms, pick_ms = _one(side, "lone")
        whole.append(insert_ms + pick_ms)
        inserts.append(insert_ms)
    return {"p50": statistics.median(whole), "insert p50": statistics.median(inserts)}


def makespan(side: Side) -> Figures:
    """Insert many jobs at once for workers that wait; the time until the last is done, over the ideal."""
    jobs = set(side.insert(MAKESPAN_JOBS, MAKESPAN_JOB_S))
    began = time.time()
    last = max(event.at for event in side.servers.events.until("done", jobs))
    return {"over ideal": (last - began) / (MAKESPAN_JOBS * MAKESPAN_JOB_S / MAKESPAN_WORKERS)}


def no_ops(side: Side) -> Figures:
    """Jobs a second when a job takes no time."""
    for _ in range(side.workers):
        side.insert(1, 3.0)  # they keep the workers until the queue is full
    jobs = set(side.insert(NO_OPS))
    events = [event for event in side.servers.events.until("done", jobs) if event.job in jobs]
    times = sorted(event.at for event in events if event.event == "done")
    # The middle: in the end some workers have nothing left.
    low, high = len(times) // 10, len(times) * 9 // 10
    return {"jobs a second": (high - low) / (times[high] - times[low])}


def statements(side: Side, *, busy: bool) -> Figures:
    """Statements a minute and worker, from the server's log, with no job or a long one on each of the workers."""
    if busy:
        jobs = set(side.insert(PODS, FULL_JOB_S))
        side.servers.events.until("on the GPU", jobs)
    time.sleep(SETTLE_S)
    with side.servers.logged(duration=False) as lines:
        time.sleep(WATCHED_S)
    found = [
        line for line in lines if f"|{side.database}|" in line and PRODUCER not in line and _STATEMENT.search(line)
    ]
    for line in found:
        side.servers.events.note(side=side.name, busy=busy, statement=line[:200])
    return {"a minute": len(found) * 60 / WATCHED_S / PODS}


def cost(side: Side) -> Figures:
    """The database's ms for a job: what the workers' statements take for jobs without work, over their count."""
    with side.servers.logged(duration=True) as lines:
        jobs = set(side.insert(COSTED_JOBS))
        side.servers.events.until("done", jobs)
        time.sleep(1)  # the last are completed
    theirs = [line for line in lines if f"|{side.database}|" in line and PRODUCER not in line]
    spent = [float(found[1]) for line in theirs if (found := _DURATION.search(line))]
    return {"ms a job": sum(spent) / COSTED_JOBS}


def fed(side: Likeness) -> Figures:
    """The share of the time that the GPU is busy, with another person in each job."""
    people = [side.add_person(side.producer) for _ in range(FED_JOBS)]
    jobs = set(side.insert_for(people, FED_JOB_S))
    done = [e.at for e in side.servers.events.until("done", jobs) if e.job in jobs and e.event == "done"]
    # From the first end: nothing could be known of the first job before it was claimed.
    return {"share": (FED_JOBS - 1) * FED_JOB_S / (max(done) - min(done))}


def _one(side: Side, measure: str) -> tuple[float, float]:
    """Insert a job and wait until it is done; returns the ms of the INSERT and from its commit to the pick."""
    began = time.time()
    (job,) = side.insert()
    committed = time.time()
    events = side.servers.events.until("done", {job})
    picked = next(event.at for event in events if event.event == "picked up" and event.job == job)
    side.servers.events.note(measure=measure, side=side.name, job=job, began=began, committed=committed, picked=picked)
    return (committed - began) * 1000, (picked - committed) * 1000
