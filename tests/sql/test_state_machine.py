"""Random lives of jobs on a real database: whatever happens in whatever order, the promises hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tests.sql.pod import Attempt, Pod
from tests.sql.tables import AppTables

ENDED = ("completed", "failed", "cancelled")
Job = tuple[str, UUID]

EVERY_JOB = """
with jobs as (
  select 'training' as kind, id, status, attempt, pod_id from public.training_jobs
  union all select 'generation', id, status, attempt, pod_id from public.generation_jobs
  union all select 'publish_lora', id, status, attempt, pod_id from worker.internal_jobs)
select jobs.*, array_agg(queue.status::text) filter (where queue.id is not null) as queued,
       max(queue.queue_manager_id::text) as held_by,
       (select count(distinct staged.attempt) from worker.staged_objects staged
        where staged.job_id = jobs.id and staged.state = 'published') as published_attempts,
       (select count(*) from worker.staged_objects staged
        where staged.job_id = jobs.id and staged.state in ('staged', 'checkpoint')) as unsettled
from jobs left join worker.pgqueuer queue on queue.dedupe_key = jobs.kind || ':' || jobs.id
group by jobs.kind, jobs.id, jobs.status, jobs.attempt, jobs.pod_id
"""


class JobLives(RuleBasedStateMachine):
    """Two people, two pods at a time, and everything that apps, pods, people and time may do."""

    jobs = Bundle("jobs")
    claims = Bundle("claims")
    attempts = Bundle("attempts")

    def __init__(self, db: AppTables, start_pod: Callable[..., Pod]) -> None:
        super().__init__()
        self.db = db
        self._start_pod = start_pod
        self._every_pod: list[Pod] = []
        self.known: dict[Job, frozenset[UUID]] = {}
        """Every job, with the people whose consent it needs."""
        self.last_attempt: dict[Job, int] = {}
        self.publisher: dict[Job, int] = {}

    @initialize()
    def people_and_pods(self) -> None:
        with self.db.without_triggers():  # what the example before this one left
            for table in ("public.training_jobs", "public.generation_jobs", "worker.internal_jobs", "worker.pgqueuer"):
                self.db.run(f"delete from {table}")
            self.db.run("delete from worker.pods")
        self.people = [self.db.add_subject(), self.db.add_subject()]
        self.models = {person: self.db.add_lora(person) for person in self.people}
        for person in self.people:
            self.db.add_photos(person)
        self.agrees = dict.fromkeys(self.people, True)
        self.pods = [self.start_pod(), self.start_pod()]

    def start_pod(self) -> Pod:
        """Connections stay open for attempts of dead pods, until the example ends."""
        self._every_pod.append(self._start_pod())
        return self._every_pod[-1]

    def agreed(self, job: Job) -> bool:
        return all(self.agrees[person] for person in self.known[job])

    # -- apps

    @rule(target=jobs, who=st.sampled_from([(0,), (1,), (0, 1)]), failures=st.integers(1, 3))
    def ask_for_pictures(self, who: tuple[int, ...], failures: int) -> Job:
        people = [self.people[index] for index in who]
        models = [self.models[person] for person in people]
        job = self.db.request("generation", subject_id=people[0], prompt="x", model_ids=models, max_failures=failures)
        return self.inserted(("generation", job), people)

    @rule(target=jobs, who=st.integers(0, 1), failures=st.integers(1, 3))
    def ask_for_training(self, who: int, failures: int) -> Job:
        job = self.db.request("training", subject_id=self.people[who], max_failures=failures)
        return self.inserted(("training", job), [self.people[who]])

    def inserted(self, job: Job, people: list[UUID]) -> Job:
        self.known[job] = frozenset(people)
        assert self.db.status(*job) == (("queued", None) if self.agreed(job) else ("failed", "consent_denied"))
        return job

    @rule(job=jobs)
    def cancel(self, job: Job) -> None:
        self.db.run("select public.cancel_job(%s, %s)", *job)

    @rule(job=jobs)
    def retry(self, job: Job) -> None:
        before = self.db.status(*job)[0]
        try:
            self.db.run("select public.retry_job(%s, %s)", *job)
        except psycopg.errors.InvalidParameterValue:
            assert before not in ("failed", "cancelled")
        else:
            assert before in ("failed", "cancelled")

    # -- people

    @rule(who=st.integers(0, 1))
    def revoke(self, who: int) -> None:
        self.db.run("select public.revoke_consent(%s)", self.people[who])
        self.agrees[self.people[who]] = False

    @rule(who=st.integers(0, 1))
    def let_expire(self, who: int) -> None:
        self.db.let_consent_expire(self.people[who])
        self.agrees[self.people[who]] = False

    @rule(who=st.integers(0, 1))
    def grant(self, who: int) -> None:
        self.db.run("select public.grant_consent(%s)", self.people[who])
        self.agrees[self.people[who]] = True

    # -- pods

    @rule(target=claims, which=st.integers(0, 1))
    def claim(self, which: int) -> object:
        pod = self.pods[which]
        job = pod.claim()
        if job is None:
            return multiple()
        self.known.setdefault(job, frozenset())  # a light job of the worker's own
        return (pod, job)

    @rule(target=attempts, claim=claims)
    def start(self, claim: tuple[Pod, Job]) -> object:
        pod, job = claim
        before = self.db.job(*job)
        attempt = pod.start(*job)
        if attempt is None:
            return multiple()
        if before["status"] == "running":
            assert (attempt.number, before["pod_id"]) == (before["attempt"], pod.id), "its own, asked for again"
        else:
            assert attempt.number == before["attempt"] + 1
            assert self.agreed(job)
        return attempt

    @rule(target=attempts, which=st.integers(0, 1))
    def claim_and_start(self, which: int) -> object:
        claim = self.claim(which)
        return self.start(claim) if isinstance(claim, tuple) else multiple()

    @rule(attempt=attempts)
    def report_and_stage(self, attempt: Attempt) -> None:
        assert {attempt.report(), attempt.stage("scratch")} <= {"ok", "cancel", "lost"}

    @rule(attempt=attempts, step=st.integers(1, 3))
    def checkpoint(self, attempt: Attempt, step: int) -> None:
        if attempt.report() == "ok":
            attempt.stage(f"checkpoint-{step}.safetensors")
            key = attempt.key(f"checkpoint-{step}.safetensors")
            if self.db.staged(attempt.id)[key] in ("staged", "checkpoint"):
                attempt.save_checkpoint(step)

    @rule(attempt=attempts, staged=st.booleans())
    def complete(self, attempt: Attempt, staged: bool) -> None:
        job = (attempt.kind, attempt.id)
        answer = attempt.complete(attempt.staged_result() if staged else attempt.result())
        if answer != "ok":
            return
        repeated = self.publisher.get(job) == attempt.number
        assert repeated or job not in self.publisher, "another attempt has published"
        assert repeated or self.agreed(job), "somebody's consent had ended"
        self.publisher[job] = attempt.number

    @rule(attempt=attempts, code=st.sampled_from(["internal", "storage_error", "invalid_input"]), at_once=st.booleans())
    def fail(self, attempt: Attempt, code: str, at_once: bool) -> None:
        attempt.fail(code, retry_after=timedelta(0) if at_once else None)

    @rule(attempt=attempts)
    def release(self, attempt: Attempt) -> None:
        attempt.release()

    @rule(which=st.integers(0, 1))
    def die(self, which: int) -> None:
        """The process is gone; its attempts may still speak: it only seemed so."""
        self.db.run(
            "update worker.pods set last_heartbeat = clock_timestamp() - interval '31 seconds' where id = %s",
            self.pods[which].id,
        )
        self.pods[which] = self.start_pod()
        assert self.db.tick() is not None

    @rule(which=st.integers(0, 1))
    def leave(self, which: int) -> None:
        self.pods[which].call("leave_pod", self.pods[which].id)
        self.pods[which] = self.start_pod()

    @rule(which=st.integers(0, 1))
    def beat_and_name_nothing(self, which: int) -> None:
        """Every claim and lease of this pod was lost on the way to it, half a minute ago."""
        self.db.run("update worker.pgqueuer set heartbeat = clock_timestamp() - interval '31 seconds'")
        self.pods[which].heartbeat()

    # -- time

    @rule()
    def time_passes(self) -> None:
        self.db.run("update worker.pgqueuer set execute_after = least(execute_after, now() - interval '1 second')")
        self.db.tick()

    # -- promises

    @invariant()
    def the_promises_hold(self) -> None:
        for row in self.db.run(EVERY_JOB):
            job = (row["kind"], row["id"])
            match row["status"]:
                case "queued":
                    assert row["queued"] in (["queued"], ["picked"]), f"{job} is lost: {row}"
                case "running":
                    assert (row["queued"], row["held_by"]) == (["picked"], str(row["pod_id"])), f"{job} is lost: {row}"
                case _:
                    assert row["queued"] is None, f"{job} has ended and waits: {row}"
                    assert row["unsettled"] == 0, f"{job} has ended and left objects: {row}"
            assert row["attempt"] >= self.last_attempt.get(job, 0), f"{job}: the fencing token went down"
            self.last_attempt[job] = row["attempt"]
            assert row["published_attempts"] <= 1
            assert row["published_attempts"] == 0 or row["status"] == "completed"
            assert (row["status"] == "completed") == (job in self.publisher), f"{job} was published by nobody: {row}"

    def teardown(self) -> None:
        """Everybody agrees and a healthy pod works: every open job ends."""
        try:
            if self._every_pod:
                self.finish_everything()
        finally:
            for pod in self._every_pod:
                pod.close()

    def finish_everything(self) -> None:
        for person in self.people:
            self.db.run("select public.grant_consent(%s)", person)
            self.agrees[person] = True
        self.db.run("update worker.pods set last_heartbeat = clock_timestamp() - interval '31 seconds'")
        self.db.tick()
        pod = self.start_pod()
        while True:
            self.time_passes()
            job = pod.claim()
            if job is None:
                break
            self.known.setdefault(job, frozenset())
            attempt = pod.start(*job)
            if attempt is not None:
                self.complete(attempt, True)
        self.the_promises_hold()
        assert {row["status"] for row in self.db.run(EVERY_JOB)} <= set(ENDED)


def test_random_lives_of_jobs_keep_every_promise(db: AppTables, start_pod: Callable[..., Pod]) -> None:
    run_state_machine_as_test(
        lambda: JobLives(db, start_pod),
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
