"""Random lives of jobs on a real database: whatever happens in whatever order, the promises hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
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

# Which of several: 0 is the newest.
WHICH = st.integers(0, 3)
POD = PERSON = st.integers(0, 1)


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
        self.ask_for_pictures((0, 1), 3)
        self.ask_for_training(1, 2)
        self.a_pod_works("claim and start", 0)

    def start_pod(self) -> Pod:
        """Connections stay open for attempts of dead pods, until the example ends."""
        self._every_pod.append(self._start_pod())
        return self._every_pod[-1]

    def agreed(self, job: Job) -> bool:
        return all(self.agrees[person] for person in self.people_of[job])

    def job(self, which: int) -> Job:
        jobs = list(self.people_of)
        return jobs[-1 - which % len(jobs)]

    # Few rules with many arguments: hypothesis leaves whole rules out of an example, and without work nothing happens.

    # -- apps

    @rule(
        what=st.sampled_from(["pictures", "pictures of both", "training", "cancel", "retry"]), which=WHICH, who=PERSON
    )
    def an_app_asks(self, what: str, which: int, who: int) -> None:
        match what:
            case "pictures":
                self.ask_for_pictures((who,), which + 1)
            case "pictures of both":
                self.ask_for_pictures((who, 1 - who), which + 1)
            case "training":
                self.ask_for_training(who, which + 1)
            case "cancel":
                self.db.run("select public.cancel_job(%s, %s)", *self.job(which))
            case "retry":
                self.retry(self.job(which))

    def ask_for_pictures(self, who: tuple[int, ...], failures: int) -> None:
        people = [self.people[index] for index in who]
        models = [self.models[person] for person in people]
        job = self.db.request("generation", subject_id=people[0], prompt="x", model_ids=models, max_failures=failures)
        self.inserted(("generation", job), people)

    def ask_for_training(self, who: int, failures: int) -> None:
        job = self.db.request("training", subject_id=self.people[who], max_failures=failures)
        self.inserted(("training", job), [self.people[who]])

    def inserted(self, job: Job, people: list[UUID]) -> None:
        self.people_of[job] = frozenset(people)
        assert self.db.status(*job) == (("queued", None) if self.agreed(job) else ("failed", "consent_denied"))

    def retry(self, job: Job) -> None:
        before = self.db.status(*job)[0]
        try:
            self.db.run("select public.retry_job(%s, %s)", *job)
        except psycopg.errors.InvalidParameterValue:
            assert before not in ("failed", "cancelled")
        else:
            assert before in ("failed", "cancelled")

    # -- people

    @rule(what=st.sampled_from(["everybody agrees", "revoke", "expire"]), who=PERSON)
    def a_person_decides(self, what: str, who: int) -> None:
        match what:
            case "everybody agrees":
                self.everybody_agrees()
                return
            case "revoke":
                self.db.run("select public.revoke_consent(%s)", self.people[who])
            case "expire":
                self.db.let_consent_expire(self.people[who])  # and nobody ticks
        self.agrees[self.people[who]] = False

    def everybody_agrees(self) -> None:
        for person in self.people:
            self.db.run("select public.grant_consent(%s)", person)
            self.agrees[person] = True

    # -- pods

    @rule(what=st.sampled_from(["claim", "claim and start", "claim and start", "start"]), which=WHICH)
    def a_pod_works(self, what: str, which: int) -> None:
        claimed = len(self.claims)
        if what != "start":
            self.claim(self.pods[which % len(self.pods)])
        if what == "claim and start" and len(self.claims) > claimed:
            self.start(*self.claims[-1])
        if what == "start" and self.claims:
            self.start(*self.claims[-1 - which % len(self.claims)])

    def claim(self, pod: Pod) -> None:
        job = pod.claim()
        if job is not None:
            self.people_of.setdefault(job, frozenset())  # a light job of the worker's own
            self.claims.append((pod, job))

    def start(self, pod: Pod, job: Job) -> None:
        before = self.db.job(*job)
        attempt = pod.start(*job)
        if attempt is None:
            return
        if before["status"] == "running":
            assert (attempt.number, before["pod_id"]) == (before["attempt"], pod.id), "its own, asked for again"
        else:
            assert attempt.number == before["attempt"] + 1
            assert self.agreed(job), "somebody's consent had ended"
        self.attempts.append(attempt)

    @precondition(lambda self: self.attempts)
    @rule(
        what=st.sampled_from(
            ["complete", "complete", "complete", "report", "checkpoint", "release", "fail", "give up"]
        ),
        which=WHICH,
    )
    def an_attempt_speaks(self, what: str, which: int) -> None:
        attempt = self.attempts[-1 - which % len(self.attempts)]
        match what:
            case "complete":
                self.complete(attempt)
            case "report":
                assert {attempt.report(), attempt.stage("scratch")} <= {"ok", "cancel", "lost"}
            case "checkpoint":
                attempt.stage(f"checkpoint-{which}.safetensors")
                if attempt.key(f"checkpoint-{which}.safetensors") in self.db.staged(attempt.id):
                    self.save_checkpoint(attempt, which)
            case "release":
                attempt.release()
            case "fail":
                attempt.fail("internal", retry_after=timedelta(seconds=which))
            case "give up":
                attempt.fail("invalid_input")

    def save_checkpoint(self, attempt: Attempt, step: int) -> None:
        try:
            attempt.save_checkpoint(step)
        except psycopg.errors.InvalidParameterValue:
            pass  # a later one was saved before
        else:
            states = self.db.staged(attempt.id)
            assert list(states.values()).count("checkpoint") <= 1

    def complete(self, attempt: Attempt) -> None:
        job = (attempt.kind, attempt.id)
        if attempt.complete(attempt.staged_result()) == "ok":
            repeated = self.publisher.get(job) == attempt.number
            assert repeated or job not in self.publisher, "another attempt has published"
            assert repeated or self.agreed(job), "somebody's consent had ended"
            self.publisher[job] = attempt.number

    # -- fate

    @rule(what=st.sampled_from(["time passes", "time passes", "die", "leave", "forget"]), which=POD)
    def things_happen(self, what: str, which: int) -> None:
        pod = self.pods[which]
        match what:
            case "time passes":
                self.time_passes()
            case "die":  # or only seem to: its attempts may still speak
                self.silence()
                self.pods[1 - which].heartbeat()
                assert self.db.tick() is not None
                self.pods[which] = self.start_pod()
            case "leave":
                pod.call("leave_pod", pod.id)
                self.pods[which] = self.start_pod()
            case "forget":  # what it claimed half a minute ago: the replies were lost on the way
                self.db.run("update worker.pgqueuer set heartbeat = clock_timestamp() - interval '31 seconds'")
                pod.heartbeat()

    def time_passes(self) -> None:
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
        self.everybody_agrees()
        self.silence()
        self.db.tick()
        self.pods = [self.start_pod()]
        while True:
            self.time_passes()
            claimed, started = len(self.claims), len(self.attempts)
            self.a_pod_works("claim and start", 0)
            if len(self.claims) == claimed:
                break
            if len(self.attempts) > started:
                self.complete(self.attempts[-1])
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
