"""How `schema_and_rows.sql` was made, with release 0.1.0 and PostgreSQL 15. It is not run again: it needs that release.

    python tests/upgrade/0.1.0/make.py > tests/upgrade/0.1.0/schema_and_rows.sql

Every row was made by the calls of an app (INSERTs as `authenticated` and `service_role`, `grant_consent` …) and of pods
(`pod.py`, each with a login of its own), on a server set up as Supabase does. Set by hand: `worker.config`, two
`consent_expires_at` in the past (to save the waiting), and the date.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent.parent.parent))

from tests.sql.supabase import OWNER, POSTGRES_15, supabase_server  # noqa: E402
from worker import migrate  # noqa: E402

specification = importlib.util.spec_from_file_location("pod", FOLDER / "pod.py")
assert specification
assert specification.loader
pods = importlib.util.module_from_spec(specification)
specification.loader.exec_module(pods)

NAMES = UUID("00000000-0000-0000-0000-00000000010a")
"""Ids are derived from names, so that the tests can name them."""
DAY = "2026-01-01"
"""The date in the dump: in the past on every machine that restores it."""
LONG = 100 * 365 * 86400.0
TRAINING, DRAWING, SMALL_DRAWING, COPYING = (
    "training/flux-dev",
    "generation/flux-dev",
    "generation/sd15",
    "publish_lora",
)
ROUTES = [TRAINING, DRAWING, SMALL_DRAWING, COPYING]
MODELS = ["flux-dev", "sd15", "upscaler-x2", "upscaler-x4"]
NOT_DUMPED = ("screened_terms", "allowed_phrases", "prompt_folding", "screening_rules")
HEAD = """\
-- A database of release 0.1.0: its schema, and rows in every state. Made by make.py with that release; not edited.
--
-- For a database with Supabase's `auth` and `storage`, or their stubs: plain statements, to be run all at once as the
-- owner or a superuser, on PostgreSQL 15 or later. The rows of screened_terms.sql are left out (four tables, thousands
-- of words), and so is its row in schema_versions: the next migration writes them again, as every one does.
-- Heartbeats and leases are as old as the dump: a test that restores it says which pods are alive.
"""
ROLE = """
do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'likeness_worker') then
    create role likeness_worker nologin;
  end if;
  if not pg_catalog.pg_has_role(current_user, 'likeness_worker', case
      when current_setting('server_version_num')::integer >= 160000 then 'set' else 'member' end) then
    execute 'grant likeness_worker to ' || quote_ident(current_user);
  end if;
end $$;
"""


def named(name: str) -> UUID:
    return uuid5(NAMES, name)


class Project:
    """An installation: its owner, the administrator of the app, its users, its pods."""

    def __init__(self, server: Any, url: str) -> None:
        self._server, self._url = server, url
        self.owner = psycopg.connect(url, autocommit=True, row_factory=dict_row)

    @contextmanager
    def acting_as(self, role: str, user: UUID | None = None) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        with psycopg.connect(self._url, autocommit=True, row_factory=dict_row) as connection:
            claims = json.dumps({"role": role, **({"sub": str(user)} if user else {})})
            connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
            yield connection

    def user(self, name: str) -> UUID:
        self.owner.execute("insert into auth.users (id) values (%s)", [named(name)])
        return named(name)

    def subject(self, owner: UUID, name: str, photos: int = 3) -> UUID:
        subject = named(name)
        with self.acting_as("authenticated", owner) as app:
            app.execute(
                "insert into public.subjects (id, name, subject_is_adult) values (%s, %s, true)", [subject, name]
            )
            for index in range(photos):
                app.execute(
                    "insert into public.subject_photos (id, subject_id, path, caption) values (%s, %s, %s, %s)",
                    [
                        named(f"{name} photo {index}"),
                        subject,
                        f"{owner}/{subject}/photos/{index}.jpg",
                        "standing by a window" if index == 0 else None,
                    ],
                )
        return subject

    def consent(self, call: str, *arguments: object) -> None:
        """grant_consent, reject_consent or revoke_consent, as the administrator."""
        with self.acting_as("service_role") as administrator:
            places = sql.SQL(", ").join(sql.Placeholder() * len(arguments))
            administrator.execute(sql.SQL("select public.{}({})").format(sql.Identifier(call), places), arguments)

    def ask(self, user: UUID, kind: str, name: str, **columns: Any) -> str:
        """Insert a job as a user; returns kind:id."""
        self._insert("authenticated", user, kind, name, columns)
        return f"{kind}:{named(name)}"

    def ask_as_administrator(self, kind: str, name: str, **columns: Any) -> str:
        """The same as the app's administrator, who may say priority, run_after and max_failures."""
        self._insert("service_role", None, kind, name, columns)
        return f"{kind}:{named(name)}"

    def _insert(self, role: str, user: UUID | None, kind: str, name: str, columns: dict[str, Any]) -> None:
        columns = {"id": named(name), **columns}
        with self.acting_as(role, user) as app:
            app.execute(
                sql.SQL("insert into public.{} ({}) values ({})").format(
                    sql.Identifier(f"{kind}_jobs"),
                    sql.SQL(", ").join(map(sql.Identifier, columns)),
                    sql.SQL(", ").join(sql.Placeholder() * len(columns)),
                ),
                list(columns.values()),
            )

    def cancel(self, user: UUID, job: str) -> None:
        with self.acting_as("authenticated", user) as app:
            app.execute("select public.cancel_job(%s, %s)", job.split(":"))

    def pod(self, name: str, *, has_lock: bool) -> Any:
        login = f"login_of_{name}"
        self.owner.execute(sql.SQL("create role {} login in role likeness_worker").format(sql.Identifier(login)))
        pod = pods.Pod(self._server.url(self._url.rpartition("/")[2], login), named(name), name)
        if has_lock:
            pod.open_session()
        pod.register(ROUTES, 80.0, MODELS)
        return pod


def started(pod: Any, job: str) -> str:
    """Claim and start the one job that waits on its route."""
    kind = job.partition(":")[0]
    claimed = pod.claim([route for route in ROUTES if route.split("/")[0] == kind])
    assert claimed == job, (claimed, job)
    assert pod.start(job) is not None
    return job


def published(pod: Any, job: str) -> None:
    outcome = pod.finish(started(pod, job))
    assert outcome == "ok", (job, outcome)


def copy_made(pod: Any) -> None:
    job = pod.claim([COPYING])
    pod.start(job)
    assert pod.finish(job) == "ok"


def make(project: Project) -> None:
    """Rows in every state. What stays queued comes last, because pods take what has waited longest."""
    project.owner.execute("update worker.config set open_jobs_per_owner = 50, keep_logs_for = '1000 years'")
    anna, ben, carl = (project.user(name) for name in ("anna", "ben", "carl"))
    ada, ivy = (project.subject(anna, name, 4) for name in ("Ada", "Ivy"))
    bea, cy, dee, eve, fay = (project.subject(anna, name) for name in ("Bea", "Cy", "Dee", "Eve", "Fay"))
    hal, gil = project.subject(ben, "Hal"), project.subject(carl, "Gil")
    mug = project.subject(anna, "A mug", 0)

    # Consent: approved (for ever, until a time, for one purpose), pending, rejected, revoked, expired, time up and not
    # yet noticed, account gone.
    for subject in (ada, dee, hal, gil, mug):
        project.consent("grant_consent", subject)
    project.consent("grant_consent", ivy, ["training", "generation"], "2999-01-01", "signed on paper, folder 7")
    for subject in (eve, fay):
        project.consent("grant_consent", subject, ["training", "generation"], "2999-01-01")
    project.consent("reject_consent", cy, "she called")
    with project.acting_as("service_role") as administrator:
        administrator.execute(
            "update public.subject_photos set status = 'accepted', width = 3000, height = 2000 where id = %s",
            [named("Ada photo 1")],
        )
        administrator.execute(
            "update public.subject_photos set status = 'rejected', reason = 'blurred' where id = %s",
            [named("Ada photo 3")],
        )

    with project.acting_as("service_role") as administrator:
        administrator.execute(
            """insert into public.presets (id, owner_id, name, kind, prompt, negative_prompt, settings)
               values (%s, null, 'Portrait', 'generation', '{prompt}, a portrait of {trigger}', 'blurry',
                       '{"steps": 20}')""",
            [named("preset of all")],
        )
    with project.acting_as("authenticated", anna) as app:
        app.execute(
            """insert into public.presets (id, name, kind, settings)
               values (%s, 'Thorough', 'training', '{"rank": 8, "class_name": "a woman"}')""",
            [named("preset of anna")],
        )

    # Two living pods, and one that is silent.
    alive, silent = project.pod("alive", has_lock=True), project.pod("silent", has_lock=False)

    # Versions: two of Ada's (and an older one retired), one of another base's family, one of each other person.
    for index in range(1, 4):
        published(alive, project.ask(anna, "training", f"Ada's LoRA {index}", subject_id=ada))
        if index < 3:
            copy_made(alive)
    with project.acting_as("service_role") as administrator:
        administrator.execute(
            "update public.subjects_models set retired_at = now() where job_id = %s", [named("Ada's LoRA 1")]
        )
    for user, name, subject in ((anna, "Ivy", ivy), (anna, "Dee", dee), (ben, "Hal", hal)):
        published(alive, project.ask(user, "training", f"{name}'s LoRA", subject_id=subject))
    # That of Hal is copied, the others wait: Ada's third, Ivy's, Dee's.
    waiting = [alive.claim([COPYING]) for _ in range(4)]
    alive.start(waiting[3])
    alive.finish(waiting[3])
    for job in waiting[:3]:
        alive.start(job)
        alive.release(job, "given back: its pod is stopping")
    project.consent("grant_consent", hal, ["generation"])

    # Pictures: drawn; one that shows two people; one that shows nobody.
    published(
        alive,
        project.ask(
            anna,
            "generation",
            "two pictures of Ada",
            subject_id=ada,
            prompt="in a garden at dusk",
            num_images=2,
            upscale=2,
            output_format="webp",
            preset_id=named("preset of all"),
        ),
    )
    lora_of = {
        row["job_id"]: row["id"] for row in project.owner.execute("select id, job_id from public.subjects_models")
    }
    both = [lora_of[named("Ada's LoRA 3")], lora_of[named("Ivy's LoRA")]]
    published(
        alive,
        project.ask(
            anna,
            "generation",
            "Ada and Ivy",
            subject_id=ada,
            prompt="on a bench",
            model_ids=both,
            lora_scales=[0.8, 0.7],
        ),
    )
    published(alive, project.ask(anna, "generation", "a lighthouse", prompt="a lighthouse in fog", seed=7))

    # Refused when they were asked for.
    project.ask(anna, "training", "refused: Bea", subject_id=bea)
    project.ask(anna, "generation", "refused: Cy", subject_id=cy, prompt="in a garden", model_ids=[])
    project.ask(anna, "generation", "refused: words", subject_id=ada, prompt="a naked woman")

    # Failed, with each code a pod sends.
    for code in ("input_missing", "invalid_input", "output_blocked", "prompt_blocked"):
        job = project.ask(anna, "generation", f"failed: {code}", subject_id=ada, prompt="in a garden")
        assert alive.fail(started(alive, job), code, f"it failed with {code}") == "failed"
    for code in ("storage_error", "worker_lost", "timeout", "internal", "out_of_memory", "model_missing"):
        job = project.ask_as_administrator(
            "generation", f"failed: {code}", subject_id=ada, prompt="in a garden", max_failures=1
        )
        assert alive.fail(started(alive, job), code, f"it failed with {code}") == "failed"
    job = project.ask_as_administrator("training", "failed: three times", subject_id=ada, max_failures=2)
    assert alive.fail(started(alive, job), "internal", "it broke", 0) == "queued"
    assert alive.fail(started(alive, job), "internal", "it broke again") == "failed"

    # Cancelled: before it began, and while it ran; and one that was then tried again.
    project.cancel(anna, project.ask(anna, "generation", "cancelled early", subject_id=ada, prompt="in a garden"))
    job = started(alive, project.ask(anna, "training", "cancelled late", subject_id=ada))
    alive.save_checkpoint(job, 100)
    project.cancel(anna, job)
    assert alive.release(job, "stopped") == "cancelled"

    # Running with the living pod: a training with its second checkpoint, a picture, one that must stop, a copy.
    job = started(
        alive, project.ask(anna, "training", "running: training", subject_id=ada, steps=200, class_name="a woman")
    )
    alive.save_checkpoint(job, 100)
    alive.save_checkpoint(job, 150)
    alive.stage(job, ["lora.safetensors"])
    alive.report(job, 0.75, "training, step 150 of 200", {"loss": 0.3, "seconds": 12.5})
    job = started(alive, project.ask(anna, "generation", "running: picture", subject_id=ivy, prompt="at a window"))
    alive.report(job, 0.1, "drawing")
    project.cancel(anna, started(alive, project.ask(anna, "training", "running: to be cancelled", subject_id=ivy)))
    # Of a person who took consent back meanwhile: one running, one queued, which failed with it.
    started(alive, project.ask(anna, "generation", "running: revoked", subject_id=dee, prompt="in a hat"))
    project.ask(anna, "generation", "queued: revoked", subject_id=dee, prompt="in a coat")
    with project.acting_as("authenticated", anna) as app:
        app.execute("select public.revoke_consent(%s, 'changed her mind')", [dee])
    # Claimed by it, and not started.
    job = project.ask(anna, "generation", "claimed", subject_id=ada, prompt="under a tree")
    assert alive.claim([DRAWING]) == job

    # With the silent pod: a training in its second attempt, which resumed; a claim.
    job = started(silent, project.ask(anna, "training", "running: silent", subject_id=ivy))
    silent.save_checkpoint(job, 50)
    assert silent.fail(job, "storage_error", "the store did not answer", 0) == "queued"
    assert silent.claim([TRAINING]) == job
    assert silent.start(job)["checkpoint"]["step"] == 50
    silent.save_checkpoint(job, 90)
    job = project.ask(anna, "generation", "claimed: silent", subject_id=ada, prompt="on a hill")
    assert silent.claim([DRAWING]) == job

    # Garbage that was deleted once and is offered again.
    garbage = alive.take_garbage()
    alive.garbage_gone([item["id"] for item in garbage[:2]])

    # Expired: noticed by a tick. Time up: not noticed yet. An account that is gone.
    time_passes(project, eve)
    assert alive.tick() is not None
    time_passes(project, fay)
    project.owner.execute("delete from auth.users where id = %s", [carl])

    # Queued: after a failure, given back, tried again, not before a time, with every column (two kinds, one id), and
    # as they come.
    job = project.ask(anna, "training", "queued: after a failure", subject_id=ada)
    alive.save_checkpoint(started(alive, job), 10)
    assert alive.fail(job, "storage_error", "the store did not answer", LONG) == "queued"
    job = project.ask(anna, "generation", "queued: given back", subject_id=ada, prompt="at sea")
    assert alive.release(started(alive, job), "flux-dev is missing here", "model_missing") == "queued"
    job = project.ask(anna, "generation", "queued: tried again", subject_id=ada, prompt="in the rain")
    project.cancel(anna, job)
    with project.acting_as("authenticated", anna) as app:
        app.execute("select public.retry_job('generation', %s)", [named("queued: tried again")])
    project.ask_as_administrator(
        "generation",
        "queued: later",
        subject_id=ada,
        prompt="in the year 2999",
        run_after="2999-01-01",
        max_runtime="10 minutes",
    )
    project.ask_as_administrator(
        "generation",
        "queued: every column",
        subject_id=ada,
        base="flux-schnell",
        prompt="by the sea",
        negative_prompt="blurry",
        preset_id=named("preset of all"),
        model_ids=both,
        lora_scales=[0.5, -0.5],
        width=832,
        height=1216,
        guidance=2.5,
        seed=4294967295,
        num_images=3,
        upscale=2,
        quality=80,
        output_format="jpeg",
        priority=7,
        max_failures=5,
    )
    project.ask_as_administrator(
        "training",
        "queued: every column",
        subject_id=ada,
        base="flux-dev",
        preset_id=named("preset of anna"),
        sample_paths=[f"{anna}/{ada}/photos/{index}.jpg" for index in range(3)],
        trigger_word="ohwxada",
        steps=300,
        learning_rate=0.0002,
        resolution=512,
        seed=1,
        priority=-3,
    )
    project.ask(anna, "generation", "queued: nobody", base="sd15", prompt="a boat")
    project.ask(ben, "generation", "queued: Hal", subject_id=hal, prompt="in the snow")


def time_passes(project: Project, subject: UUID) -> None:
    """Let a consent expire. As the superuser, without triggers: no call accepts a time in the past."""
    name = project.owner.info.dbname
    with psycopg.connect(project._server.url(name), autocommit=True) as clock:
        clock.execute("set session_replication_role = replica")
        clock.execute("update public.subjects set consent_expires_at = now() where id = %s", [subject])


def dump(url: str) -> str:
    project = psycopg.connect(url, autocommit=True)
    project.execute("delete from worker.schema_versions where name = 'screened_terms'")
    whole = pg_dump(
        url,
        "--exclude-schema=auth",
        "--exclude-schema=storage",
        *(f"--exclude-table-data=worker.{table}" for table in NOT_DUMPED),
    )
    users = pg_dump(url, "--data-only", "--table=auth.users")
    storage = pg_dump(url, "--section=post-data", "--table=storage.objects")
    policies = re.findall(r"^CREATE POLICY .*?;$", storage, re.MULTILINE | re.DOTALL)
    inserts = re.search(r"^INSERT INTO auth\.users.*?;$", users, re.MULTILINE | re.DOTALL)
    assert inserts
    assert policies
    headings = r"^--\n-- .*\n--\n|^-- (?:Dumped|PostgreSQL).*\n"
    of_the_session = r"^\\.*\n|^SET .*\n|^SELECT pg_catalog\.set_config.*\n"
    text = re.sub(f"{headings}|{of_the_session}", "", whole, flags=re.MULTILINE)
    text = text.replace(f"{datetime.now(UTC):%Y-%m-%d}", DAY)
    parts = [HEAD, "set check_function_bodies = off;\nset search_path = '';", ROLE, inserts[0], text, *policies]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def pg_dump(url: str, *options: str) -> str:
    command = [POSTGRES_15 / "pg_dump", "--no-owner", "--column-inserts", "--rows-per-insert=100", *options, url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        supabase_server(Path(folder) / "postgres", "15") as supabase,
    ):
        url = supabase.create()
        assert url.startswith(f"postgresql://{OWNER}@")
        migrate.migrate(url)
        make(Project(supabase.server, url))
        sys.stdout.write(dump(url))


if __name__ == "__main__":
    main()
