"""The life of a job: claim, start, report, stage, complete; and a stale attempt, which can change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sql.pod import PUBLISH, SHA256, TRAINING, Attempt, Pod
from tests.sql.tables import ABLE_BASE, AppTables
from tests.tiny_models import TINY_BASE


def log(db: AppTables, kind: str, job: UUID) -> list[str]:
    """Return the statuses in pgqueuer's log of a job that is still on the queue, oldest first."""
    row = db.queue_row(kind, job)
    assert row is not None
    return logged(db, row["id"])


def logged(db: AppTables, queue_id: int) -> list[str]:
    return [
        row["status"]
        for row in db.run("select status::text from worker.pgqueuer_log where job_id = %s order by id", queue_id)
    ]


# -- claim and start


def test_a_claim_takes_one_job_of_the_offered_routes_for_one_pod(db: AppTables, start_pod: Callable[..., Pod]) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    job = db.ask()
    assert first_pod.claim(TRAINING, PUBLISH) is None
    assert first_pod.claim() == ("generation", job)
    assert second_pod.claim() is None
    row = db.queue_row("generation", job)
    assert row is not None
    assert (row["status"], row["queue_manager_id"], log(db, "generation", job)) == (
        "picked",
        first_pod.id,
        ["queued", "picked"],
    )
    assert second_pod.start("generation", job) is None, "not picked by this pod"
    assert db.status("generation", job) == ("queued", None)


def test_starting_twice_from_the_same_pod_is_one_attempt(db: AppTables, start_pod: Callable[..., Pod]) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    first = first_pod.run("generation", db.ask())
    again = first_pod.start("generation", first.id)
    assert again is not None
    assert again.payload == first.payload
    assert (first.number, db.events(first.id)) == (1, ["started"])
    assert second_pod.start("generation", first.id) is None


def test_a_start_returns_everything_a_handler_needs(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    photos, model = db.add_photos(subject), db.add_lora(subject)
    preset = db.add_preset(owner=None, prompt="in oil", settings={"steps": 3})
    job = db.request(
        "generation", subject_id=subject, prompt="x", preset_id=preset, model_ids=[model], lora_scales=[0.5]
    )
    payload = pod.run("generation", job).payload
    assert payload["prefix"] == f"{db.owner}/{subject}/generated/{job}/1/"
    assert (payload["purpose"], payload["subjects"]) == ("generation", [str(subject)])
    assert (payload["base"]["slug"], payload["preset"]["prompt"], payload["job"]["steps"]) == ("tiny-flux", "in oil", 3)
    assert [(item["id"], item["scale"]) for item in payload["inputs"]["loras"]] == [(str(model), 0.5)]
    training = pod.run("training", db.request("training", subject_id=subject)).payload
    assert [photo["path"] for photo in training["photos"]] == photos
    assert training["prefix"] == f"{subject}/{training['id']}/1/"


def test_the_newest_unretired_lora_is_used_unless_others_are_named(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    old, current, retired = (db.add_lora(subject) for _ in range(3))
    db.run("update public.subjects_models set retired_at = now() where id = %s", retired)
    for wanted, named in ((current, {}), (old, {"model_ids": [old]})):
        attempt = pod.run("generation", db.request("generation", subject_id=subject, prompt="x", **named))
        assert [item["id"] for item in attempt.payload["inputs"]["loras"]] == [str(wanted)]


def test_a_lora_of_the_base_is_preferred_to_a_newer_one_of_its_family(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    of_the_family = db.add_lora(subject, base=ABLE_BASE)
    drawn = {"subject_id": subject, "prompt": "x", "base": TINY_BASE}
    assert chosen_lora(db, pod, drawn) == str(of_the_family)
    of_the_base = db.add_lora(subject, base=TINY_BASE)
    db.add_lora(subject, base=ABLE_BASE)
    assert chosen_lora(db, pod, drawn) == str(of_the_base)


def chosen_lora(db: AppTables, pod: Pod, drawn: dict[str, Any]) -> str:
    (lora,) = pod.run("generation", db.request("generation", **drawn)).payload["inputs"]["loras"]
    return str(lora["id"])


def test_missing_input_at_the_start_fails_the_job_with_the_reason(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    photos = db.add_photos(subject, 3)
    jobs = {
        "training needs at least 3 photos, but there are 2": ("training", db.request("training", subject_id=subject)),
        "the subject has no trained LoRA for tiny-flux yet": (
            "generation",
            db.request("generation", subject_id=subject, prompt="x"),
        ),
    }
    db.run("delete from public.subject_photos where path = %s", photos[0])
    for reason, (kind, job) in jobs.items():
        assert pod.start(*pod.claim(f"{kind}/tiny-flux")) is None  # type: ignore[misc]
        row = db.job(kind, job)
        assert (row["status"], row["error_code"], row["attempt"]) == ("failed", "input_missing", 0)
        assert row["error"].startswith(reason)
        assert db.queue_row(kind, job) is None


def test_a_request_that_became_invalid_fails_at_the_start(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    model = db.add_lora(subject)
    job = db.request("generation", subject_id=subject, prompt="x", model_ids=[model])
    db.run("delete from public.subjects_models")
    assert pod.start(*pod.claim()) is None  # type: ignore[misc]
    assert db.status("generation", job) == ("failed", "invalid_input")


def test_a_job_of_a_paused_kind_is_requeued_and_waits(db: AppTables, pod: Pod) -> None:
    job = db.ask()
    db.run("update worker.job_kinds set paused = true where kind = 'generation'")
    assert pod.start(*pod.claim()) is None  # type: ignore[misc]
    row = db.job("generation", job)
    assert (row["status"], row["phase"], row["failures"]) == ("queued", "paused by an administrator", 0)
    assert pod.claim() is None, "it waits before the next attempt"


def test_a_queue_row_without_an_open_job_is_removed_at_the_start(db: AppTables, pod: Pod) -> None:
    ended, gone = db.ask(), db.ask()
    with db.without_triggers():
        db.run("update public.generation_jobs set status = 'cancelled', finished_at = now() where id = %s", ended)
        db.run("delete from public.generation_jobs where id = %s", gone)
    for job in (ended, gone):
        claim = pod.claim()
        assert claim == ("generation", job)
        assert pod.start(*claim) is None
        assert db.queue_row("generation", job) is None


# -- order


def test_higher_priority_comes_first_then_the_older_job(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    plain, urgent, later, raised = (
        db.ask(subject_id=subject, priority=priority, seed=priority) for priority in (0, 5, 0, 0)
    )
    db.run("update public.generation_jobs set priority = 9 where id = %s", raised)
    assert [pod.claim() for _ in range(4)] == [("generation", job) for job in (raised, urgent, plain, later)]


def test_a_job_is_not_claimed_before_run_after(db: AppTables, pod: Pod) -> None:
    job = db.ask(run_after="2999-01-01")
    assert pod.claim() is None
    db.run("update worker.pgqueuer set execute_after = now() - interval '1 second'")  # as if the time had come
    assert pod.claim() == ("generation", job)


# -- the fence


def every_call(attempt: Attempt, result: dict[str, Any]) -> list[str]:
    """Return the answer to each call of an attempt, and to calls with a later attempt number and with none."""
    return [
        attempt.report(),
        attempt.stage("more.png"),
        str(attempt.call("save_checkpoint", 5, attempt.bucket, attempt.key("0.png"))),
        attempt.complete(result),
        attempt.fail(),
        attempt.release(),
        replace(attempt, number=attempt.number + 2).complete(result),
        str(attempt.pod.call("complete_job", attempt.kind, attempt.id, None, result)),
    ]


def test_a_stale_attempt_is_answered_lost_and_changes_nothing(db: AppTables, start_pod: Callable[..., Pod]) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    for kind, job in (("generation", db.ask()), ("training", db.ask_training())):
        stale = first_pod.run(kind, job)
        stale_result = stale.staged_result()
        assert stale.release() == "queued"
        for state in ("queued", "running", "completed"):
            if state == "running":
                fresh = second_pod.run(kind, job)
                fresh_result = fresh.staged_result()
                assert fresh.number == stale.number + 1
            elif state == "completed":
                assert fresh.complete(fresh_result) == "ok"
            before = db.snapshot()
            for result in [stale_result] if state == "queued" else [stale_result, fresh_result]:
                assert set(every_call(stale, result)) == {"lost"}, (kind, state)
            assert first_pod.heartbeat(stale)["leases"][0]["state"] == "lost"
            assert db.snapshot() == before, (kind, state)


def test_a_lease_on_a_job_that_does_not_exist_is_lost(pod: Pod) -> None:
    nothing = Attempt(pod, "generation", uuid4(), 1, {"prefix": "x/"})
    assert [nothing.report(), nothing.stage("a"), nothing.fail(), nothing.release(), nothing.complete({})] == [
        "lost"
    ] * 5


# -- reports


def test_a_report_updates_the_row_and_new_phases_become_events(db: AppTables, pod: Pod) -> None:
    attempt = pod.run("generation", db.ask())
    assert attempt.report(0.25, "drawing", {"step": 1}) == "ok"
    assert attempt.report(7.0, "drawing") == "ok"
    assert attempt.report(-3.0, "encoding " + "x" * 500) == "ok"
    row = db.job("generation", attempt.id)
    assert (row["progress"], len(row["phase"]), row["metrics"]) == (0, 200, {"step": 1})
    assert db.events(attempt.id) == ["started", "phase", "phase"]


def test_an_attempt_over_max_runtime_is_answered_timeout_and_counts_as_a_failure(db: AppTables, pod: Pod) -> None:
    attempt = pod.run("generation", db.ask(max_runtime="1 minute"))
    assert attempt.report() == "ok"
    with db.without_triggers():
        db.run("update public.generation_jobs set started_at = started_at - interval '2 minutes'")
    assert attempt.report() == "timeout"
    assert pod.heartbeat(attempt)["leases"][0]["state"] == "timeout"
    assert attempt.stage("late.png") == "timeout"
    assert db.job("generation", attempt.id)["cancel_requested_at"] is None
    assert attempt.fail("timeout") == "queued"
    assert db.job("generation", attempt.id)["failures"] == 1


# -- staging


def test_an_attempt_stages_under_its_own_prefix_only(db: AppTables, pod: Pod) -> None:
    attempt = pod.run("generation", db.ask())
    subject = attempt.payload["subject"]["id"]
    for key in (
        f"{db.owner}/{subject}/generated/{attempt.id}/2/0.png",
        f"{db.owner}/{subject}/generated/{uuid4()}/1/0.png",
        f"{db.owner}/{subject}/photos/0.jpg",
        attempt.key("../2/0.png"),
        attempt.key("./0.png"),
        attempt.key("."),
        attempt.key("/0.png"),
        attempt.key("more/"),
        attempt.key(""),
        attempt.payload["prefix"].rstrip("/") + "0/0.png",
    ):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="under its own prefix only"):
            attempt.call(
                "stage_objects",
                [{"bucket": "uploads", "key": attempt.key("ok.png")}, {"bucket": "uploads", "key": key}],
            )
    assert db.staged(attempt.id) == {}
    assert (attempt.stage("0.png"), attempt.stage("0.png", "1.png")) == ("ok", "ok")
    assert list(db.staged(attempt.id).values()) == ["staged", "staged"]


def test_an_attempt_stages_into_the_buckets_of_the_installation_only(db: AppTables, pod: Pod) -> None:
    """What is staged and not published is deleted, in whatever bucket."""
    db.run("update worker.config set bucket_models = 'lo-ras'")
    attempt = pod.run("generation", db.ask())
    key = attempt.key("0.png")
    for bucket in ("somebody-elses", "model_artifacts", "Uploads", ""):
        with pytest.raises(
            psycopg.errors.InvalidParameterValue, match=r"is not in worker\.config: the settings BUCKET_"
        ):
            attempt.call("stage_objects", [{"bucket": "uploads", "key": key}, {"bucket": bucket, "key": key}])
    assert db.staged(attempt.id) == {}
    assert (
        attempt.call("stage_objects", [{"bucket": name, "key": key} for name in ("uploads", "lo-ras", "3d-models")])
        == "ok"
    )


# -- completion


def test_a_publication_updates_row_queue_log_objects_and_events(db: AppTables, pod: Pod) -> None:
    job = db.ask(num_images=2)
    queue = db.queue_row("generation", job)
    assert queue is not None
    attempt = pod.run("generation", job)
    result = attempt.staged_result()
    attempt.stage("scratch.bin")
    assert attempt.complete(result, gpu_seconds=2.5) == "ok"
    row = db.job("generation", job)
    assert (row["status"], row["progress"], row["result"], row["gpu_seconds"]) == ("completed", 1, result, 2.5)
    assert db.queue_row("generation", job) is None
    assert logged(db, queue["id"]) == ["queued", "picked", "successful"]
    states = db.staged(job)
    assert states.pop(attempt.key("scratch.bin")) == "deleting"
    assert len(states) == 4
    assert set(states.values()) == {"published"}
    assert db.events(job) == ["started", "completed"]
    before = db.snapshot()
    assert attempt.complete(result) == "ok", "a repeated call after a lost reply"
    assert db.snapshot() == before


def test_a_training_publishes_a_version_and_enqueues_the_convenience_copy(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    db.add_photos(subject)
    for version in (1, 2):
        attempt = pod.run("training", db.request("training", subject_id=subject))
        assert attempt.publish() == "ok"
        (model,) = db.run("select * from public.subjects_models where job_id = %s", attempt.id)
        assert (model["version"], model["path"], model["rank"]) == (version, attempt.key("lora.safetensors"), 16)
        assert db.job("training", attempt.id)["result"]["model_id"] == str(model["id"])
        claim = pod.claim(PUBLISH)
        assert claim is not None
        copying = pod.start(*claim)
        assert copying is not None
        asked = copying.call("lora_to_copy")
        assert asked == {
            "source": model["path"],
            "target": f"{subject}/lora.safetensors",
            "consented": True,
            "newest": True,
        }
        if version == 1:
            assert copying.publish() == "ok"
            assert copying.call("lora_to_copy") is None, "an ended attempt copies nothing"
    db.run("select public.revoke_consent(%s)", subject)
    assert copying.call("lora_to_copy")["consented"] is False
    db.add_lora(subject)
    assert copying.call("lora_to_copy")["newest"] is False


def broken_results(attempt: Attempt) -> dict[str, Any]:
    """Results with one mistake each, about the objects of `attempt`."""
    good = attempt.result()
    if attempt.kind == "training":
        return {
            "no LoRA": good | {"lora": None},
            "a LoRA that was not staged": good | {"lora": attempt.key("other.safetensors")},
            "no digest": {key: value for key, value in good.items() if key != "sha256"},
            "a short digest": good | {"sha256": SHA256[1:]},
            "no rank": good | {"rank": None},
            "a rank that is not a number": good | {"rank": "many"},
            "an alias of losses that was not staged": good | {"losses": None, "loss_curve": "elsewhere"},
        }

    def pictures(**changes: Any) -> dict[str, Any]:
        changed = copy.deepcopy(good)
        changed["pictures"][0] |= changes
        return changed

    raw, upscaled = good["pictures"][0]["raw"], good["pictures"][0]["upscaled"]
    return {
        "no pictures": {},
        "too few": {"pictures": []},
        "too many": {"pictures": good["pictures"] * 2},
        "no upscaled file": pictures(upscaled=None),
        "no raw file": pictures(raw=None),
        "the raw file for both": pictures(upscaled=raw),
        "not upscaled": pictures(width=64, height=48),
        "upscaled by another factor": pictures(width=128, height=96),
        "one side only": pictures(height=48),
        "no sizes": pictures(width=None, height=None, raw_width=None, raw_height=None),
        "sizes that are not numbers": pictures(width="wide"),
        "a size that is too large": pictures(raw_width=2**40),
        "an upscaled file that was not staged": pictures(upscaled=upscaled + "x"),
        "a raw file that was not staged": pictures(raw=raw + "x"),
    }


def test_an_incomplete_result_is_invalid_and_changes_nothing(db: AppTables, pod: Pod) -> None:
    for attempt in (pod.run("generation", db.ask()), pod.run("training", db.ask_training())):
        good = attempt.staged_result()
        before = db.snapshot()
        for name, result in broken_results(attempt).items():
            assert attempt.complete(result) == "invalid", name
            assert db.snapshot() == before, name
        assert attempt.complete(good) == "ok"


def test_a_result_may_not_name_another_attempts_objects(db: AppTables, start_pod: Callable[..., Pod]) -> None:
    first_pod, second_pod = start_pod(), start_pod()
    first = first_pod.run("generation", db.ask())
    others = first.staged_result()
    first.release()
    second = second_pod.run("generation", first.id)
    own = second.staged_result()
    assert second.complete(others) == "invalid"
    neighbour = first_pod.run("generation", db.ask())
    neighbour.staged_result()
    assert neighbour.complete(own) == "invalid"
    second.save_checkpoint(1)
    assert second.complete(own) == "ok"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abc{}$.*?", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["pictures", "upscaled", "raw", "width", "raw_width", "lora", "sha256", "rank", "objects"]),
            inner,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(result=JSON | st.fixed_dictionaries({"pictures": st.lists(JSON, min_size=1, max_size=1)}))
def test_no_shape_of_json_makes_complete_raise(running: list[Attempt], result: object) -> None:
    answers = [attempt.complete(result) for attempt in running]
    assert answers[:2] == ["invalid", "invalid"]
    assert answers[2] in ("ok", "invalid"), "the result of a copy need not name anything"


@pytest.fixture
def running(db: AppTables, pod: Pod) -> list[Attempt]:
    """An attempt of each kind."""
    publish_training = pod.run("training", db.ask_training())
    assert publish_training.publish() == "ok"
    copying = pod.start(*pod.claim(PUBLISH))  # type: ignore[misc]
    assert copying is not None
    return [pod.run("generation", db.ask()), pod.run("training", db.ask_training()), copying]
