"""Time of a lone INSERT, and of 5,000 jobs in one INSERT, with this schema and with the one before.

    python -m bench.inserts [ROUNDS]

Both schemas are in one PostgreSQL on this machine, and take turns in every round. A signed-in user inserts jobs about a
person with consent and a LoRA, with prompts of 100 characters. Writes `results/inserts.json`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from bench.trees import RESULTS, ROOT, checked_out
from worker.database.schema import migrate
from worker.demo.servers import EmbeddedPostgres

COMMIT_BEFORE = "77f80b3"
ROWS = 5000
LONE = 50
BASE = "flux-dev"
WORDS = "a portrait in a sunlit garden at dusk, film grain, soft light, wearing a green linen coat, number "


class Side:
    """A database with one of the schemas, and the connection of a signed-in user."""

    def __init__(self, server: EmbeddedPostgres, name: str, tree: Path) -> None:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        url, user = server.url(name), uuid4()
        migrate.install_supabase_stubs(url)
        migrate.migrate(url, tree / "sql", packages=[])
        self._owner = psycopg.connect(url, autocommit=True)
        self._subject = self._add_person(user)
        self._client = psycopg.connect(url, autocommit=True)
        claims = json.dumps({"role": "authenticated", "sub": str(user)})
        self._client.execute("select set_config('request.jwt.claims', %s, false)", [claims])
        self._client.execute("set role authenticated")

    def insert(self, rows: int) -> float:
        """Insert so many jobs in one statement; returns the milliseconds that it took."""
        began = time.perf_counter()
        self._client.execute(
            """insert into generation_jobs (subject_id, prompt)
               select %s, rpad(%s || place, 100, '.') from generate_series(1, %s) place""",
            [self._subject, WORDS, rows],
        )
        return (time.perf_counter() - began) * 1000

    def clear(self) -> None:
        """Delete all jobs, so that every round begins alike."""
        self._owner.execute(
            """truncate public.generation_jobs, worker.job_subjects, worker.pgqueuer, worker.pgqueuer_log,
                        worker.job_events"""
        )

    def _add_person(self, user: UUID) -> UUID:
        self._owner.execute("update worker.config set open_jobs_per_owner = 1000000")
        self._owner.execute("insert into auth.users (id) values (%s)", [user])
        row = self._owner.execute(
            "insert into public.subjects (owner_id, name, subject_is_adult) values (%s, 'Ada', true) returning id",
            [user],
        ).fetchone()
        assert row is not None
        subject: UUID = row[0]
        self._owner.execute("select public.grant_consent(%s)", [subject])
        self._owner.execute(
            """insert into public.subjects_models (subject_id, version, base, family, path, sha256, rank, trigger_word)
               select %s, 1, slug, family, 'a/lora.safetensors', repeat('0', 64), 16, 'ohwx'
               from worker.base_models where slug = %s""",
            [subject, BASE],
        )
        return subject


def main(rounds: int) -> None:
    found: dict[str, dict[str, list[float]]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        checked_out(COMMIT_BEFORE) as before,
        EmbeddedPostgres(Path(folder) / "postgres", fast=True) as server,
    ):
        sides = {"before": Side(server, "before", before), "now": Side(server, "now", ROOT)}
        for side in sides.values():
            side.insert(10)  # the first statements of a session make their plans
        for _ in range(rounds):
            for name, side in sides.items():
                figures = found.setdefault(name, {"lone_ms": [], "bulk_s": []})
                side.clear()
                figures["lone_ms"] += [side.insert(1) for _ in range(LONE)]
                side.clear()
                figures["bulk_s"].append(side.insert(ROWS) / 1000)
    medians = {
        name: {key: statistics.median(values) for key, values in figures.items()} for name, figures in found.items()
    }
    (RESULTS / "inserts.json").write_text(
        json.dumps({"rounds": rounds, "medians": medians, "all": found}, indent=1) + "\n", "utf-8"
    )
    for name, figures in medians.items():
        print(f"{name}: a lone INSERT {figures['lone_ms']:.2f} ms, {ROWS} rows {figures['bulk_s']:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
