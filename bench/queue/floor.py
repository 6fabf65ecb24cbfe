"""The floor: the smallest worker that is right, one table, FOR UPDATE SKIP LOCKED and LISTEN. No consent, no leases.

python -m bench.queue.floor DATABASE_URL
"""

from __future__ import annotations

import sys
import time

import psycopg

from bench.queue.likeness_bench.events import send

TABLE = """
    create table if not exists public.floor_jobs (
      id uuid primary key default gen_random_uuid(), seconds double precision not null default 0,
      status text not null default 'queued', created_at timestamptz not null default clock_timestamp());
    create index if not exists floor_jobs_queued on public.floor_jobs (created_at) where status = 'queued'"""
CLAIM = """
    update public.floor_jobs set status = 'running' where id = (
      select id from public.floor_jobs where status = 'queued' order by created_at limit 1 for update skip locked)
    returning id, seconds"""
COMPLETE = "update public.floor_jobs set status = 'completed' where id = %s"
POLL_EVERY_S = 60.0


def main(url: str) -> None:
    with psycopg.connect(url, autocommit=True, prepare_threshold=0) as connection:
        connection.execute("listen floor")
        send("ready", "")
        while True:
            row = connection.execute(CLAIM).fetchone()
            if row is None:
                next(connection.notifies(timeout=POLL_EVERY_S, stop_after=1), None)
                continue
            send("picked up", row[0])
            send("on the GPU", row[0])
            time.sleep(row[1])
            send("done", row[0])
            connection.execute(COMPLETE, [row[0]])


if __name__ == "__main__":
    main(sys.argv[1])
