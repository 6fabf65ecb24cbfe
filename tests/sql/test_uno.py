"""Base model uno: the weights of FLUX.1 [dev], and a guide for it alone. References by URL need a subject."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest

from tests.sql.pod import Pod
from tests.sql.tables import AppTables

URL = "https://shop.example/mug.jpg?width=800"
ROUTE = "generation/uno+uno-lora"


def ask(db: AppTables, subject: UUID | None, **columns: object) -> UUID:
    request = {"base": "uno", "prompt": "a mug on a beach", "model_ids": [], **columns}
    return db.request("generation", owner_id=db.owner, subject_id=subject, **request)


def photo(db: AppTables, subject: UUID) -> list[str]:
    return [f"{db.owner}/{subject}/photos/0.jpg"]


def route(db: AppTables, job: UUID) -> str:
    return str(db.one("select entrypoint from worker.pgqueuer where dedupe_key = 'generation:' || %s", str(job)))


def test_its_jobs_need_its_lora_and_those_of_flux_dev_the_adapter_as_before(db: AppTables) -> None:
    subject = db.add_subject()
    references = {"reference_paths": photo(db, subject)}
    assert route(db, ask(db, subject, **references)) == ROUTE
    assert route(db, ask(db, subject, reference_urls=[URL])) == ROUTE
    assert route(db, ask(db, subject, base="flux-dev", **references)) == "generation/flux-dev+ip-adapter-flux"
    assert route(db, ask(db, subject, base="flux-dev", reference_urls=[URL])) == "generation/flux-dev+ip-adapter-flux"


def test_a_pod_with_the_weights_of_flux_dev_and_the_lora_offers_it(db: AppTables, pod: Pod) -> None:
    def offered(*models: str, vram_gib: float = 100.0, kind: str = "generation") -> set[str]:
        return {name.partition("/")[2] for name in pod.call("usable_routes", kind, list(models), vram_gib)}

    assert offered("flux-dev", "uno-lora") == {"flux-dev", "uno+uno-lora"}
    assert offered("flux-dev", "ip-adapter-flux") == {"flux-dev", "flux-dev+ip-adapter-flux"}
    assert offered("uno-lora", "uno") == set()
    assert offered("flux-dev", "uno-lora", vram_gib=9) == {"flux-dev"}  # 7.5 + 2 are needed
    assert offered("flux-dev", "uno-lora", kind="training") == {"flux-dev"}


def test_a_waiting_job_says_what_is_missing_and_what_to_prefetch(db: AppTables, pod: Pod) -> None:
    ask(db, db.add_subject(), reference_urls=[URL])
    pod.register("generation/x", vram_gib=40, models=("uno-lora",))
    assert db.one("select worker.why_stranded(%s)", ROUTE).startswith("flux-dev not found on a live pod")
    pod.register("generation/x", vram_gib=40, models=("flux-dev",))
    assert db.one("select worker.why_stranded(%s)", ROUTE).startswith("no pod has uno-lora: worker models pull --as")
    (waiting,) = pod.call("peek", [ROUTE], 5)
    assert (waiting["base"], waiting["guides"]) == ("flux-dev", ["uno-lora"])


def test_a_started_job_says_where_the_weights_are_and_which_urls_to_fetch(db: AppTables, pod: Pod) -> None:
    job = ask(db, db.add_subject(), reference_urls=[URL])
    pod.register(ROUTE)
    assert pod.claim() == ("generation", job)
    attempt = pod.start("generation", job)
    assert attempt is not None
    assert (attempt.payload["base"]["slug"], attempt.payload["base"]["weights_of"]) == ("uno", "flux-dev")
    (reference,) = attempt.payload["inputs"]["guides"]
    assert (reference["guide"], reference["paths"], reference["urls"]) == ("uno-lora", [], [URL])


def test_a_lora_of_the_subject_goes_with_it_and_none_is_needed(db: AppTables) -> None:
    subject = db.add_subject()
    job = db.job("generation", ask(db, subject, model_ids=None, reference_urls=[URL]))
    loras = "select worker.generation_loras(to_jsonb(job)) from public.generation_jobs job where id = %s"
    assert job["status"] == "queued"
    assert db.one("select worker.inputs_error('generation', to_jsonb(job)) from public.generation_jobs job") is None
    assert db.one(loras, job["id"]) == []
    trained = db.add_lora(subject, base="flux-dev")
    db.add_lora(subject, base="flux-schnell")
    (lora,) = db.one(loras, job["id"])
    assert lora["id"] == str(trained), "the one that was trained on its weights, although another is newer"


# -- what is refused


def refused(db: AppTables, subject: UUID | None, **columns: object) -> str:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
        ask(db, subject, **columns)
    return str(error.value).splitlines()[0]


def test_without_references_it_draws_nothing(db: AppTables) -> None:
    assert refused(db, db.add_subject()) == "base: uno can do nothing but reference"


def test_references_need_the_subject(db: AppTables) -> None:
    subject = db.add_subject()
    show = "whom or what the references"
    assert refused(db, None, reference_urls=[URL]) == f"reference_urls: name in subject_id {show} show"
    assert refused(db, None, base="flux-dev", reference_urls=[URL]) == f"reference_urls: name in subject_id {show} show"
    assert refused(db, None, reference_paths=photo(db, subject)) == f"subject_id: name {show} of a uno job show"
    unnamed = [f"{db.owner}/_/inputs/somebody.jpg"]
    assert refused(db, subject, reference_paths=unnamed).endswith("pictures of people always need one")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://shop.example/mug.jpg", "is not an https URL of up to 2000 characters"),
        ("https://user:word@shop.example/mug.jpg", "is not an https URL of up to 2000 characters"),
        ("https://shop.example/a mug.jpg", "is not an https URL of up to 2000 characters"),
        (f"https://shop.example/{'x' * 2000}", "is not an https URL of up to 2000 characters"),
    ],
)
def test_what_is_no_url_is_refused_without_repeating_it(db: AppTables, url: str, why: str) -> None:
    assert refused(db, db.add_subject(), reference_urls=[URL, url]) == f"reference_urls: number 2 {why}"


def test_a_url_of_another_subjects_picture_is_refused(db: AppTables) -> None:
    other = db.add_subject()
    url = f"https://ref.supabase.co/storage/v1/object/sign/uploads/{db.owner}/{str(other).upper()}/photos/0.jpg?token=x"
    why = "is a picture of a subject: name its key instead, so that consent is checked"
    assert refused(db, db.add_subject(), reference_urls=[url]) == f"reference_urls: number 1 {why}"


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ({"reference_urls": []}, "reference_urls_1_to_4"),
        ({"reference_urls": [URL] * 5}, "reference_urls_1_to_4"),
        ({"reference_urls": [URL], "reference_paths": ["own photo"]}, "references_are_paths_or_urls"),
    ],
)
def test_one_to_four_urls_or_paths(db: AppTables, columns: dict[str, list[str]], constraint: str) -> None:
    subject = db.add_subject()
    if "reference_paths" in columns:
        columns = {**columns, "reference_paths": photo(db, subject)}
    with pytest.raises(psycopg.errors.CheckViolation, match=f"generation_jobs_{constraint}"):
        ask(db, subject, **columns)


def test_its_subject_must_consent(db: AppTables) -> None:
    subject = db.add_subject()
    db.let_consent_expire(subject)
    assert db.status("generation", ask(db, subject, reference_urls=[URL])) == ("failed", "consent_denied")
