"""Random histories of jobs on a real database: whatever happens in whatever order, the invariants hold."""

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


ACTIONS: dict[str, Callable[[JobHistories, int, int], object]] = {
    "request pictures": lambda state, nth, which: state.request_pictures([state.people[which]], nth + 1),
    "request pictures of both people": lambda state, nth, which: state.request_pictures(state.people, nth + 1),
    "request a training": lambda state, nth, which: state.request_training(state.people[which], nth + 1),
    "cancel a job": lambda state, nth, which: state.cancel(state.latest_job(nth)),
    "retry a job": lambda state, nth, which: state.retry(state.latest_job(nth)),
    "grant consent": lambda state, nth, which: state.grant_consent_of_everyone(),
    "revoke consent": lambda state, nth, which: state.revoke_consent(state.people[which]),
    "let consent expire": lambda state, nth, which: state.let_consent_expire(state.people[which]),
    "claim": lambda state, nth, which: state.claim(state.pods[which]),
    "start a claimed job": lambda state, nth, which: state.start_latest_claim(nth),
    "claim, start and stage": lambda state, nth, which: state.work(state.pods[which]),
    "publish": lambda state, nth, which: state.with_latest_attempt(nth, state.publish),
    "report": lambda state, nth, which: state.with_latest_attempt(nth, state.report),
    "save a checkpoint": lambda state, nth, which: state.with_latest_attempt(
        0, lambda attempt: state.save_checkpoint(attempt, nth)
    ),
    "release": lambda state, nth, which: state.with_latest_attempt(nth, state.release),
    "fail": lambda state, nth, which: state.with_latest_attempt(nth, lambda attempt: state.fail(attempt, which)),
    "fail for good": lambda state, nth, which: state.with_latest_attempt(nth, state.fail_for_good),
    "deregister a pod": lambda state, nth, which: state.deregister_pod(which),
    "lose a pod": lambda state, nth, which: state.lose_pod(which),
    "lose claims": lambda state, nth, which: state.lose_claims(state.pods[which]),
    "let delays pass": lambda state, nth, which: state.let_delays_pass(),
}
"""What may happen, by name: Hypothesis prints the names when an example fails. See `JobHistories.act`."""

FREQUENT_ACTIONS = ["claim, start and stage", "publish"] * 3 + ["grant consent", "let consent expire"]
"""Drawn more often than the others, so that most jobs get far."""


class JobHistories(RuleBasedStateMachine):
    """Two people, two pods at a time, and everything that apps, people, pods and time can do."""

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
        """The attempt that published each job."""

    @initialize()
    def add_people_pods_and_jobs(self) -> None:
        with self.db.without_triggers():  # remove what the example before this one left
            for table in ("public.training_jobs", "public.generation_jobs", "worker.internal_jobs", "worker.pgqueuer"):
                self.db.run(f"delete from {table}")
            self.db.run("delete from worker.pods")
        self.people = [self.db.add_subject(), self.db.add_subject()]
        self.models = {person: self.db.add_lora(person) for person in self.people}
        for person in self.people:
            self.db.add_photos(person)
        self.consented = dict.fromkeys(self.people, True)
        self.pods = [self.start_pod(), self.start_pod()]
        self.request_pictures(self.people, max_failures=3)
        self.request_training(self.people[1], max_failures=2)

    def start_pod(self) -> Pod:
        """Connections stay open for attempts of dead pods, until the example ends."""
        self._every_pod.append(self._start_pod())
        return self._every_pod[-1]

    def has_consent(self, job: Job) -> bool:
        return all(self.consented[person] for person in self.people_of[job])

    # -- what apps do

    def request_pictures(self, people: list[UUID], max_failures: int) -> None:
        models = [self.models[person] for person in people]
        job = self.db.request(
            "generation", subject_id=people[0], prompt="x", model_ids=models, max_failures=max_failures
        )
        self.check_request(("generation", job), people)

    def request_training(self, person: UUID, max_failures: int) -> None:
        job = self.db.request("training", subject_id=person, max_failures=max_failures)
        self.check_request(("training", job), [person])

    def check_request(self, job: Job, people: list[UUID]) -> None:
        self.people_of[job] = frozenset(people)
        assert self.db.status(*job) == (("queued", None) if self.has_consent(job) else ("failed", "consent_denied"))

    def cancel(self, job: Job) -> None:
        self.db.run("select public.cancel_job(%s, %s)", *job)

    def retry(self, job: Job) -> None:
        before = self.db.status(*job)[0]
        try:
            self.db.run("select public.retry_job(%s, %s)", *job)
        except psycopg.errors.InvalidParameterValue:
            assert before not in ("failed", "cancelled")
        else:
            assert before in ("failed", "cancelled")

    # -- what people do

    def grant_consent_of_everyone(self) -> None:
        for person in self.people:
            self.db.run("select public.grant_consent(%s)", person)
            self.consented[person] = True

    def revoke_consent(self, person: UUID) -> None:
        self.db.run("select public.revoke_consent(%s)", person)
        self.consented[person] = False

    def let_consent_expire(self, person: UUID) -> None:
        """No tick records the expiry."""
        self.db.let_consent_expire(person)
        self.consented[person] = False

    # -- what pods do

    def claim(self, pod: Pod) -> Job | None:
        job = pod.claim()
        if job is not None:
            self.people_of.setdefault(job, frozenset())  # an internal job, which needs no consent
            self.claims.append((pod, job))
        return job

    def start(self, pod: Pod, job: Job) -> Attempt | None:
        before = self.db.job(*job)
        attempt = pod.start(*job)
        if attempt is None:
            return None
        if before["status"] == "running":
            assert (attempt.number, before["pod_id"]) == (before["attempt"], pod.id), "the same start, repeated"
        else:
            assert attempt.number == before["attempt"] + 1
            self.last_attempt[job] = attempt.number
            assert self.has_consent(job), "started without consent"
        self.attempts.append(attempt)
        return attempt

    def work(self, pod: Pod) -> Attempt | None:
        """Claim, start, and stage the objects of the result."""
        job = self.claim(pod)
        attempt = self.start(pod, job) if job is not None else None
        if attempt is not None:
            attempt.staged_result()
        return attempt

    def publish(self, attempt: Attempt) -> None:
        job = (attempt.kind, attempt.id)
        stopped = self.db.job(*job)["cancel_requested_at"] is not None
        answer = self.check_fence(attempt, attempt.complete(attempt.result()))
        if answer == "ok" and self.publisher.get(job) != attempt.number:  # else the same publication, repeated
            assert job not in self.publisher, "another attempt has published"
            assert self.has_consent(job), "published without consent"
            assert not stopped
            self.publisher[job] = attempt.number

    def check_fence(self, attempt: Attempt, answer: str) -> str:
        """Assert that every attempt but the latest one of its job is answered `lost`."""
        assert answer == "lost" or attempt.number == self.last_attempt[attempt.kind, attempt.id]
        return answer

    def report(self, attempt: Attempt) -> None:
        assert self.check_fence(attempt, attempt.report()) in ("ok", "cancel", "lost")
        self.check_fence(attempt, attempt.stage("scratch"))

    def save_checkpoint(self, attempt: Attempt, step: int) -> None:
        with suppress(psycopg.errors.InvalidParameterValue):  # a later one was saved before
            self.check_fence(attempt, attempt.save_checkpoint(step))

    def release(self, attempt: Attempt) -> None:
        self.check_fence(attempt, attempt.release())

    def fail(self, attempt: Attempt, retry_after_s: int) -> None:
        self.check_fence(attempt, attempt.fail("internal", retry_after=timedelta(seconds=retry_after_s)))

    def fail_for_good(self, attempt: Attempt) -> None:
        self.check_fence(attempt, attempt.fail("invalid_input"))

    def deregister_pod(self, which: int) -> None:
        self.pods[which].call("deregister_pod", self.pods[which].id)
        self.pods[which] = self.start_pod()

    # -- what time and failures do

    def lose_pod(self, which: int) -> None:
        """The pod is considered dead and replaced; its attempts may still make calls."""
        self.let_heartbeats_stop()
        self.pods[1 - which].heartbeat()
        assert self.db.tick() is not None
        self.pods[which] = self.start_pod()

    def lose_claims(self, pod: Pod) -> None:
        """The replies to the pod's claims were lost 31 seconds ago: it does not name them."""
        self.db.run("update worker.pgqueuer set heartbeat = clock_timestamp() - interval '31 seconds'")
        pod.heartbeat()

    def let_delays_pass(self) -> None:
        self.db.run("update worker.pgqueuer set execute_after = least(execute_after, now() - interval '1 second')")
        self.db.tick()

    def let_heartbeats_stop(self) -> None:
        self.db.run("update worker.pods set last_heartbeat = clock_timestamp() - interval '31 seconds'")

    # -- the rule

    @rule(
        action=st.sampled_from(FREQUENT_ACTIONS + list(ACTIONS)),
        nth=st.sampled_from([0, 0, 0, 1, 2, 3]),
        which=st.integers(0, 1),
    )
    def act(self, action: str, nth: int, which: int) -> None:
        """Perform one of ACTIONS.

        This is the only rule: of several, Hypothesis would disable some in each example, and without work no job ends.

        Args:
            nth: selects one of the latest jobs, claims or attempts; 0 is the newest.
            which: selects the person or the pod.
        """
        ACTIONS[action](self, nth, which)

    def latest_job(self, nth: int) -> Job:
        jobs = list(self.people_of)
        return jobs[-1 - nth % len(jobs)]

    def start_latest_claim(self, nth: int) -> None:
        if self.claims:
            self.start(*self.claims[-1 - nth % len(self.claims)])

    def with_latest_attempt(self, nth: int, action: Callable[[Attempt], None]) -> None:
        """Do nothing while no job has been started."""
        if self.attempts:
            action(self.attempts[-1 - nth % len(self.attempts)])

    # -- the invariants

    @invariant()
    def invariants_hold(self) -> None:
        for row in self.db.run(EVERY_JOB):
            job = (row["kind"], row["id"])
            if row["status"] == "queued":
                assert row["queued"] in (["queued"], ["picked"]), f"{job} is not on the queue: {row}"
            elif row["status"] == "running":
                assert (row["queued"], row["held_by"]) == (["picked"], str(row["pod_id"])), f"{job} has no pod: {row}"
            else:
                assert row["queued"] is None, f"{job} has ended and is still on the queue: {row}"
                assert row["unsettled"] == 0, f"{job} has ended and left objects: {row}"
            assert row["attempt"] >= self.last_attempt.get(job, 0), f"{job}: the fencing token decreased"
            self.last_attempt[job] = row["attempt"]
            assert row["published_attempts"] <= 1
            assert row["published_attempts"] == 0 or row["status"] == "completed"
            assert (row["status"] == "completed") == (job in self.publisher), f"{job} has no publisher: {row}"

    def teardown(self) -> None:
        try:
            if self._every_pod:
                self.finish_every_job()
        finally:
            for pod in self._every_pod:
                pod.close()

    def finish_every_job(self) -> None:
        """With everyone's consent and a healthy pod, every open job ends."""
        self.grant_consent_of_everyone()
        self.let_heartbeats_stop()
        self.db.tick()
        pod = self.start_pod()
        self.pods = [pod]
        claimed = -1
        while len(self.claims) > claimed:
            claimed = len(self.claims)
            self.let_delays_pass()
            attempt = self.work(pod)
            if attempt is not None:
                self.publish(attempt)
        self.invariants_hold()
        assert {row["status"] for row in self.db.run(EVERY_JOB)} <= ENDED


def test_random_job_histories_keep_every_invariant(db: AppTables, start_pod: Callable[..., Pod]) -> None:
    run_state_machine_as_test(
        lambda: JobHistories(db, start_pod),
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.reuse, Phase.generate],  # shrinking a failure would take minutes
        ),
    )
