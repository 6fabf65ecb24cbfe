import argparse, json, tempfile, statistics, sys
from contextlib import ExitStack
from pathlib import Path
from bench.queue import measures
from bench.queue.likeness_bench.events import Events
from bench.queue.sides import Servers, sides
from bench.trees import RESULTS, ROOT
from worker.demo.servers import EmbeddedPostgres, EmbeddedS3
import psycopg

p = argparse.ArgumentParser()
p.add_argument("--tree", type=Path, default=ROOT)
p.add_argument("--only", default="")
p.add_argument("--rounds", type=int, default=3)
a = p.parse_args()
with ExitStack() as stack:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    print(folder, file=sys.stderr)
    pg = stack.enter_context(EmbeddedPostgres(folder / "pg"))
    s3 = stack.enter_context(EmbeddedS3())
    with psycopg.connect(pg.url(), autocommit=True) as c:
        c.execute("alter system set log_line_prefix = '|%d|%a|'")
        c.execute("select pg_reload_conf()")
    ev = stack.enter_context(Events(folder / "raw.jsonl"))
    likeness, floor = sides(Servers(pg, s3, ev, folder, a.tree), stack)
    only = a.only.split(",") if a.only else []

    def want(n):
        return not only or n in only

    if any(want(n) for n in ("pickup", "lone", "noop1", "fed")):
        for s in (likeness, floor):
            s.start_workers(1)
        for r in range(a.rounds):
            for name, f in (("pickup", measures.pickup), ("lone", measures.lone), ("noop1", measures.no_ops)):
                if want(name):
                    for s in (likeness, floor):
                        print(name, s.name, {k: round(v, 2) for k, v in f(s).items()}, flush=True)
        if want("fed"):
            print("fed", measures.fed(likeness), flush=True)
        for s in (likeness, floor):
            s.stop_workers()
    if want("makespan"):
        for s in (likeness, floor):
            s.start_workers(2)
        for r in range(a.rounds):
            for s in (likeness, floor):
                print("makespan", s.name, measures.makespan(s), flush=True)
        for s in (likeness, floor):
            s.stop_workers()
    if want("noop4"):
        for s in (likeness, floor):
            s.start_workers(4)
            for r in range(a.rounds):
                print("noop4", s.name, measures.no_ops(s), flush=True)
            s.stop_workers()
    if want("statements"):
        with psycopg.connect(pg.url(), autocommit=True) as c:
            c.execute("alter system set log_statement = 'all'")
            c.execute("select pg_reload_conf()")
        for s in (likeness,):
            s.start_workers(5)
            for busy in (False, True):
                print("statements", s.name, busy, measures.statements(s, busy), flush=True)
            s.stop_workers()
    import shutil

    shutil.copy(folder / "raw.jsonl", "/tmp/loop_raw.jsonl")
