"""`worker lora import`: LoRAs that were made elsewhere, checked, converted, uploaded, and published with consent."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.app import App
from tests.forked import Commands, Ran
from tests.processes import worker_environment
from worker.commands import lora_import as lora_import_command
from worker.commands.lora_import import import_
from worker.errors import CommandRefused
from worker.ml.families import lora

WIDTH = 128  # of the tiny base


def comfyui_lora(folder: Path, strength: float = 0.3, width: int = WIDTH, rank: int = 4) -> Path:
    """A LoRA as ComfyUI users have them: fused layers, alpha, and metadata that names the person."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for layer, outputs in (("double_blocks.0.img_attn.qkv", 3), ("single_blocks.1.linear1", 7)):
        name = f"diffusion_model.{layer}"
        state[f"{name}.lora_down.weight"] = torch.randn(rank, width, generator=generator) * strength
        state[f"{name}.lora_up.weight"] = torch.randn(outputs * width, rank, generator=generator) * strength
        state[f"{name}.alpha"] = torch.tensor(rank / 2)
    path = folder / f"ada-{width}-{rank}.safetensors"
    save_file(state, path, {"ss_output_name": "Ada Lovelace", "ss_tag_frequency": '{"Ada": {"Ada": 1}}'})
    return path


def lokr(folder: Path) -> Path:
    """A LoKr of one layer, which is a LoRA of rank 32 and of 128 KiB."""
    name, path = "diffusion_model.single_blocks.1.linear1", folder / "lokr.safetensors"
    state = {"lokr_w1": torch.randn(8, 8), "lokr_w2_a": torch.randn(112, 4), "lokr_w2_b": torch.randn(4, 16)}
    save_file({f"{name}.{side}": tensor for side, tensor in state.items()} | {f"{name}.alpha": torch.tensor(4.0)}, path)
    return path


Importing = Callable[..., Ran]


@pytest.fixture
def lora_import(app: App, commands: Commands, tiny_models: Path) -> Importing:
    """Run the command as an operator does."""
    environment = worker_environment(app, tiny_models)
    return lambda *words: commands.run(
        ["lora", "import", *map(str, words), "--base", "tiny-flux"], environment, tiny_models.parent
    )


def imported(done: Ran) -> UUID:
    assert done.code == 0, done.stderr
    found = re.match(r"[0-9a-f-]{36}", done.stdout)
    assert found, done.stdout
    return UUID(found[0])


def row(app: App, model: UUID) -> dict[str, Any]:
    return app.run("select * from public.subjects_models where id = %s", model)[0]


def staged(app: App) -> list[tuple[str, str]]:
    rows = app.run("select key, state from worker.staged_objects where kind = 'lora_import' order by id")
    return [(one["key"], one["state"]) for one in rows]


def nothing_imported(app: App) -> bool:
    return not app.keys(app.models) and not app.run("select from public.subjects_models")


def test_a_consenting_persons_lora_becomes_their_newest_version(
    app: App, lora_import: Importing, tmp_path: Path
) -> None:
    subject, file = app.add_subject(), comfyui_lora(tmp_path)
    app.add_lora(subject)
    model = imported(lora_import(file, "--subject", subject, "--trigger-word", "ohwx"))
    made = row(app, model)
    assert (made["subject_id"], made["version"], made["base"], made["family"]) == (subject, 2, "tiny-flux", "flux")
    assert (made["rank"], made["trigger_word"], made["job_id"], made["metrics"]) == (
        4,
        "ohwx",
        None,
        {"imported": True},
    )
    assert re.fullmatch(rf"{subject}/[0-9a-f-]{{36}}/1/lora\.safetensors", made["path"])
    content = app.read(app.models, made["path"])
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    (tmp_path / "stored.safetensors").write_bytes(content)
    header, names = lora.identify(tmp_path / "stored.safetensors")
    assert (header.naming, names.family, header.has_alphas) == ("diffusers", "flux", False)
    with safe_open(tmp_path / "stored.safetensors", framework="pt") as stored:
        assert "Ada" not in json.dumps(stored.metadata()), "metadata may name the person"
    assert staged(app) == [(made["path"], "published")]
    assert app.one("select payload from worker.internal_jobs") == {"model_id": str(model)}, "the convenience copy"
    # Again, nothing happens.
    assert imported(lora_import(file, "--subject", subject, "--trigger-word", "ohwx")) == model
    assert app.one("select count(*) from public.subjects_models") == 2
    assert app.keys(app.models) == [made["path"]]


def test_a_lora_of_nobody_is_for_every_owner(app: App, lora_import: Importing, tmp_path: Path) -> None:
    """Its file may be a LoKr."""
    models = [imported(lora_import(file, "--nobody")) for file in (comfyui_lora(tmp_path), lokr(tmp_path))]
    rows = [row(app, model) for model in models]
    assert [(made["subject_id"], made["version"], made["trigger_word"], made["rank"]) for made in rows] == [
        (None, 1, None, 4),
        (None, 2, None, 32),
    ]
    assert all(made["path"].startswith("_/") for made in rows)
    other = app.add_user(uuid4())
    job = app.request("generation", owner_id=other, prompt="a garden", model_ids=[models[0]])
    assert app.job("generation", job)["status"] == "queued"


def test_pictures_are_drawn_with_an_imported_lora(
    app: App, start_worker: Callable[..., Any], lora_import: Importing, tmp_path: Path
) -> None:
    model = imported(lora_import(comfyui_lora(tmp_path, strength=1.0), "--nobody"))
    start_worker()
    wanted = {"prompt": "a garden", "seed": 7, "steps": 2, "width": 64, "height": 64}
    jobs = [
        app.request("generation", owner_id=app.owner, base="tiny-flux", model_ids=models, **wanted)
        for models in ([model], [])
    ]
    drawn, plain = (app.wait_for("generation", job) for job in jobs)
    assert (drawn["status"], plain["status"]) == ("completed", "completed"), (drawn["error"], plain["error"])
    pictures = [app.read(app.uploads, job["result"]["pictures"][0]["raw"]) for job in (drawn, plain)]
    assert pictures[0] != pictures[1]


def test_nothing_is_imported_without_consent(app: App, lora_import: Importing, tmp_path: Path) -> None:
    file = comfyui_lora(tmp_path)
    pending, revoked, training_only = app.add_subject(consent=False), app.add_subject(), app.add_subject(consent=False)
    app.run("select public.revoke_consent(%s)", revoked)
    app.run("select public.grant_consent(%s, purposes => '{training}')", training_only)
    for subject, why in (
        (pending, "has not consented yet"),
        (revoked, "revoked consent"),
        (training_only, "not consented to generation"),
        (uuid4(), "was not found"),
    ):
        done = lora_import(file, "--subject", subject)
        assert (done.code, why in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr
    assert nothing_imported(app)
    assert staged(app) == []


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_revocation_between_upload_and_publication_leaves_nothing(app: App, moment: str) -> None:
    """`during`: it commits while the publication waits for the subject."""
    subject = app.add_subject()
    begun = app.one("select worker.begin_lora_import(%s, 'tiny-flux', 'flux', %s)", subject, "a" * 64)
    publish = "select worker.publish_lora_import(%s, %s, 'tiny-flux', %s) as answer"
    arguments = [begun["import_id"], subject, json.dumps({"sha256": "a" * 64, "rank": 4})]
    with psycopg.connect(app.url) as revoking, psycopg.connect(app.url, autocommit=True) as publishing:
        revoking.execute("select public.revoke_consent(%s)", [subject])
        if moment == "before":
            revoking.commit()
            (answer,) = publishing.execute(publish, arguments).fetchone() or ({},)
        else:
            answer = _while_waiting(publishing, revoking, publish, arguments)
    assert answer == {"error": "the person revoked consent"}
    assert app.run("select from public.subjects_models") == []
    assert app.one("select offer_after <= clock_timestamp() and state = 'deleting' from worker.staged_objects")


def _while_waiting(publishing: Any, revoking: Any, statement: str, arguments: list[Any]) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    from tests.waiting import wait_until

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: publishing.execute(statement, arguments).fetchone()[0])
        with psycopg.connect(publishing.info.dsn, password=publishing.info.password, autocommit=True) as watching:
            wait_until(
                lambda: watching.execute(
                    "select true from pg_stat_activity where pid = %s and wait_event_type = 'Lock'",
                    [publishing.info.backend_pid],
                ).fetchone(),
                "the publication to wait",
            )
        revoking.commit()
        return answer.result()


def test_an_import_that_dies_is_swept_after_an_hour_and_cannot_publish_then(app: App) -> None:
    begun = app.one("select worker.begin_lora_import(null, 'tiny-flux', 'flux', %s)", "b" * 64)
    claim, seen = "select worker.claim_deletable_objects(10, %s)", json.dumps({app.models: app.marker})
    assert app.one(claim, seen) == []
    app.run(
        "update worker.staged_objects set created_at = created_at - interval '1 hour', offer_after = clock_timestamp()"
    )
    (offered,) = app.one(claim, seen)
    assert offered["key"] == begun["key"]
    lora_json = json.dumps({"sha256": "b" * 64, "rank": 4})
    answer = app.one("select worker.publish_lora_import(%s, null, 'tiny-flux', %s)", begun["import_id"], lora_json)
    assert answer == {"error": "the upload took too long: import the file again"}
    assert app.run("select from public.subjects_models") == []


def test_a_file_that_may_not_be_imported_is_refused_by_name(
    app: App, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in worker_environment(app, tiny_models).items():
        monkeypatch.setenv(name, value)
    good = comfyui_lora(tmp_path)
    nan = tmp_path / "nan.safetensors"
    state = {"lora_unet_double_blocks_9_img_attn_qkv.lora_down.weight": torch.full((4, WIDTH), float("nan"))}
    state |= {"lora_unet_double_blocks_9_img_attn_qkv.lora_up.weight": torch.ones(3 * WIDTH, 4)}
    save_file(state, nan)
    (tmp_path / "lora.pt").write_bytes(b"\x80\x02")
    (tmp_path / "page.safetensors").write_bytes(b"<html>")
    other = tmp_path / "sd.safetensors"
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{layer}.lora_down.weight": torch.ones(2, 64), f"{layer}.lora_up.weight": torch.ones(64, 2)}, other)
    for file, subject, nobody, word, why in (
        (good, None, False, None, "give either --subject ID"),
        (good, uuid4(), True, None, "give either --subject ID"),
        (good, None, True, "two words", "must be one word"),
        (tmp_path / "gone.safetensors", None, True, None, "file not found"),
        (tmp_path / "lora.pt", None, True, None, r"only \.safetensors files are loaded"),
        (tmp_path / "page.safetensors", None, True, None, "a web page"),
        (nan, None, True, None, "not finite"),
        (other, None, True, None, "is for sd15, and tiny-flux has no unet"),
        (comfyui_lora(tmp_path, width=96), None, True, None, "does not fit this base"),
        (comfyui_lora(tmp_path, rank=513), None, True, None, "has rank 513; at most 512"),
    ):
        with pytest.raises(CommandRefused, match=why):
            import_(file, "tiny-flux", subject, nobody, word)
    monkeypatch.setattr(lora_import_command, "MAX_BYTES", 64 * 1024)  # its own file is smaller
    with pytest.raises(CommandRefused, match=r"lokr\.safetensors has 0\.0 GiB as a plain LoRA: no LoRA is so large"):
        import_(lokr(tmp_path), "tiny-flux", None, True, None)
    assert nothing_imported(app)


def test_a_base_that_is_not_for_this_file_is_refused_by_the_database(app: App) -> None:
    for base, family, why in (
        ("nothing", "flux", "base: 'nothing' not found"),
        ("tiny-flux", "sd15", "the file is a LoRA for sd15, but base tiny-flux is flux"),
    ):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=why):
            app.run("select worker.begin_lora_import(null, %s, %s, %s)", base, family, "a" * 64)
    app.run("update worker.base_models set capabilities = '{train}' where slug = 'tiny-flux'")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="cannot be used with LoRAs"):
        app.run("select worker.begin_lora_import(null, 'tiny-flux', 'flux', %s)", "a" * 64)


def test_an_app_cannot_import(app: App) -> None:
    for role in ("authenticated", "service_role"):
        with app.acting_as(role, app.owner) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select worker.begin_lora_import(null, 'tiny-flux', 'flux', repeat('a', 64))")


def test_a_trigger_word_that_may_not_be_asked_for_is_refused(app: App) -> None:
    begun = app.one("select worker.begin_lora_import(null, 'tiny-flux', 'flux', %s)", "c" * 64)
    lora_json = json.dumps({"sha256": "c" * 64, "rank": 4, "trigger_word": "nude"})
    answer = app.one("select worker.publish_lora_import(%s, null, 'tiny-flux', %s)", begun["import_id"], lora_json)
    assert answer["error"].startswith("the trigger word asks for")
