"""Random lives of jobs on a real database: whatever happens in whatever order, the promises hold."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.sql.pod import Attempt, Pod
from tests.sql.tables import AppTables

ENDED = {"completed", "failed", "cancelled"}
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

OFTEN = ["work", "work", "work", "work", "complete", "complete", "complete", "complete", "agree", "expire"]
NOW_AND_THEN = """
    ask_for_pictures ask_for_pictures_of_both ask_for_training cancel retry agree revoke expire
    claim start report checkpoint release fail give_up die leave forget time_passes
""".split()  # noqa: SIM905  a list of names reads better without quotation marks


class JobLives(RuleBasedStateMachine):
    """Two people, two pods at a time, and everything that apps, pods, people and time may do."""

    def __init__(self, db: AppTables, start_pod: Callable[..., Pod]) -> None:
        super().__init__()
        self.db = db
        self._start_pod = start_pod
        self._every_pod: list[Pod] = []
        self.people_of: dict[Job, frozenset[UUID]] = {}
        """Every job, with the people whose consent it needs."""
        self.claims: list[tuple[Pod, Job]] = []
        self.attempts: list[Attempt] = []
        self.last_attempt: dict[Job, int] = {}
        self.publisher: dict[Job, int] = {}

    @initialize()
    def people_pods_and_jobs(self) -> None:
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
        self.ask_for_pictures_of_both(2, 0)
        self.ask_for_training(1, 1)

    def start_pod(self) -> Pod:
        """Connections stay open for attempts of dead pods, until the example ends."""
        self._every_pod.append(self._start_pod())
        return self._every_pod[-1]

    def agreed(self, job: Job) -> bool:
        return all(self.agrees[person] for person in self.people_of[job])

    def latest_job(self, which: int) -> Job:
        jobs = list(self.people_of)
        return jobs[-1 - which % len(jobs)]

    def latest_attempt(self, which: int) -> list[Attempt]:
        """One, or none when there was none yet."""
        return self.attempts[::-1][which % max(1, len(self.attempts)) :][:1]

    @rule(what=st.sampled_from(OFTEN + NOW_AND_THEN), which=st.sampled_from([0, 0, 0, 1, 2, 3]), who=st.integers(0, 1))
    def something_happens(self, what: str, which: int, who: int) -> None:
        """One rule for all: of several, hypothesis would leave some out of each example, and without work nothing ends.

        Args:
            what: the name of a method below; all take `which` and `who`.
            which: of the latest jobs, claims or attempts; 0 is the newest.
            who: which person, or which pod.
        """
        getattr(self, what)(which, who)

    # -- apps

    def ask_for_pictures(self, which: int, who: int) -> None:
        self.insert_pictures([self.people[who]], which + 1)

    def ask_for_pictures_of_both(self, which: int, who: int) -> None:
        self.insert_pictures(self.people, which + 1)

    def insert_pictures(self, people: list[UUID], failures: int) -> None:
        models = [self.models[person] for person in people]
        job = self.db.request("generation", subject_id=people[0], prompt="x", model_ids=models, max_failures=failures)
        self.inserted(("generation", job), people)

    def ask_for_training(self, which: int, who: int) -> None:
        person = self.people[who]
        self.inserted(("training", self.db.request("training", subject_id=person, max_failures=which + 1)), [person])

    def inserted(self, job: Job, people: list[UUID]) -> None:
        self.people_of[job] = frozenset(people)
        assert self.db.status(*job) == (("queued", None) if self.agreed(job) else ("failed", "consent_denied"))

    def cancel(self, which: int, who: int) -> None:
        self.db.run("select public.cancel_job(%s, %s)", *self.latest_job(which))

    def retry(self, which: int, who: int) -> None:
        job = self.latest_job(which)
        before = self.db.status(*job)[0]
        try:
            self.db.run("select public.retry_job(%s, %s)", *job)
        except psycopg.errors.InvalidParameterValue:
            assert before not in ("failed", "cancelled")
        else:
            assert before in ("failed", "cancelled")

    # -- people

    def agree(self, which: int = 0, who: int = 0) -> None:
        """Everybody."""
        for person in self.people:
            self.db.run("select public.grant_consent(%s)", person)
            self.agrees[person] = True

    def revoke(self, which: int, who: int) -> None:
        self.db.run("select public.revoke_consent(%s)", self.people[who])
        self.agrees[self.people[who]] = False

    def expire(self, which: int, who: int) -> None:
        """And nobody ticks."""
        self.db.let_consent_expire(self.people[who])
        self.agrees[self.people[who]] = False

    # -- pods

    def claim(self, which: int, who: int) -> None:
        job = self.pods[who].claim()
        if job is not None:
            self.people_of.setdefault(job, frozenset())  # a light job of the worker's own
            self.claims.append((self.pods[who], job))

    def start(self, which: int, who: int) -> None:
        if self.claims:
            self.start_claim(*self.claims[-1 - which % len(self.claims)])

    def start_claim(self, pod: Pod, job: Job) -> Attempt | None:
        before = self.db.job(*job)
        attempt = pod.start(*job)
        if attempt is None:
            return None
        if before["status"] == "running":
            assert (attempt.number, before["pod_id"]) == (before["attempt"], pod.id), "its own, asked for again"
        else:
            assert attempt.number == before["attempt"] + 1
            self.last_attempt[job] = attempt.number
            assert self.agreed(job), "somebody's consent had ended"
        self.attempts.append(attempt)
        return attempt

    def work(self, which: int, who: int) -> Attempt | None:
        """Claim, start, and stage the objects of the result."""
        claimed = len(self.claims)
        self.claim(which, who)
        attempt = self.start_claim(*self.claims[-1]) if len(self.claims) > claimed else None
        if attempt is not None:
            attempt.staged_result()
        return attempt

    def complete(self, which: int, who: int) -> None:
        for attempt in self.latest_attempt(which):
            self.publish(attempt)

    def publish(self, attempt: Attempt) -> None:
        job = (attempt.kind, attempt.id)
        stopped = self.db.job(*job)["cancel_requested_at"] is not None
        answer = self.heard(attempt, attempt.complete(attempt.result()))
        if answer == "ok" and self.publisher.get(job) != attempt.number:  # else it is told so again
            assert job not in self.publisher, "another attempt has published"
            assert self.agreed(job), "somebody's consent had ended"
            assert not stopped
            self.publisher[job] = attempt.number

    def heard(self, attempt: Attempt, answer: str) -> str:
        """An attempt that is not the latest one hears that it is lost, whatever it says."""
        assert answer == "lost" or attempt.number == self.last_attempt[attempt.kind, attempt.id]
        return answer

    def report(self, which: int, who: int) -> None:
        for attempt in self.latest_attempt(which):
            assert self.heard(attempt, attempt.report()) in ("ok", "cancel", "lost")
            self.heard(attempt, attempt.stage("scratch"))

    def checkpoint(self, which: int, who: int) -> None:
        for attempt in self.latest_attempt(0):
            with suppress(psycopg.errors.InvalidParameterValue):  # a later one was saved before
                self.heard(attempt, attempt.save_checkpoint(which))

    def release(self, which: int, who: int) -> None:
        for attempt in self.latest_attempt(which):
            self.heard(attempt, attempt.release())

    def fail(self, which: int, who: int) -> None:
        for attempt in self.latest_attempt(which):
            self.heard(attempt, attempt.fail("internal", retry_after=timedelta(seconds=who)))

    def give_up(self, which: int, who: int) -> None:
        for attempt in self.latest_attempt(which):
            self.heard(attempt, attempt.fail("invalid_input"))

    # -- fate

    def die(self, which: int, who: int) -> None:
        """Or only seem to: the pod's attempts may still speak."""
        self.silence()
        self.pods[1 - who].heartbeat()
        assert self.db.tick() is not None
        self.pods[who] = self.start_pod()

    def leave(self, which: int, who: int) -> None:
        self.pods[who].call("leave_pod", self.pods[who].id)
        self.pods[who] = self.start_pod()

    def forget(self, which: int, who: int) -> None:
        """What a pod claimed half a minute ago: the replies were lost on the way."""
        self.db.run("update worker.pgqueuer set heartbeat = clock_timestamp() - interval '31 seconds'")
        self.pods[who].heartbeat()

    def time_passes(self, which: int = 0, who: int = 0) -> None:
        self.db.run("update worker.pgqueuer set execute_after = least(execute_after, now() - interval '1 second')")
        self.db.tick()

    def silence(self) -> None:
        self.db.run("update worker.pods set last_heartbeat = clock_timestamp() - interval '31 seconds'")

    # -- promises

    @invariant()
    def the_promises_hold(self) -> None:
        for row in self.db.run(EVERY_JOB):
            job = (row["kind"], row["id"])
            if row["status"] == "queued":
                assert row["queued"] in (["queued"], ["picked"]), f"{job} is lost: {row}"
            elif row["status"] == "running":
                assert (row["queued"], row["held_by"]) == (["picked"], str(row["pod_id"])), f"{job} is lost: {row}"
            else:
                assert row["queued"] is None, f"{job} has ended and waits: {row}"
                assert row["unsettled"] == 0, f"{job} has ended and left objects: {row}"
            assert row["attempt"] >= self.last_attempt.get(job, 0), f"{job}: attempt went down"
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
        self.agree()
        self.silence()
        self.db.tick()
        self.pods = [self.start_pod()]
        claimed = -1
        while len(self.claims) > claimed:
            claimed = len(self.claims)
            self.time_passes()
            attempt = self.work(0, 0)
            if attempt is not None:
                self.publish(attempt)
        self.the_promises_hold()
        assert {row["status"] for row in self.db.run(EVERY_JOB)} <= ENDED


def test_random_lives_of_jobs_keep_every_promise(db: AppTables, start_pod: Callable[..., Pod]) -> None:
    run_state_machine_as_test(
        lambda: JobLives(db, start_pod),
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.reuse, Phase.generate],  # making a failure smaller would take minutes
        ),
    )
