"""The demo, step by step: from an INSERT to a picture of a consenting person, and to a stop by revocation."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from worker.demo.album import Album, draw_album
from worker.demo.app_client import Admin, App, Subject, connected_as
from worker.demo.config import DemoConfig
from worker.demo.drawing.mug import draw_mug
from worker.demo.drawing.person import Person
from worker.demo.held_out import held_out_losses
from worker.demo.installation import Installation
from worker.demo.output.jobs import DemoFailed, Jobs
from worker.demo.output.progress import at_step, rows_of
from worker.demo.output.report import contact_sheet, loss_curve
from worker.demo.output.steps import Step, Steps
from worker.demo.output.summary import Revocation, SubjectSummary, Summary, TrainedLora
from worker.handlers.training import CLASS_NAME
from worker.jobs.wording import caption

SEED = 7
PRESET = "{prompt}, soft light"
DRAWING_STEPS = {"class": "Draw the class", "without": "Draw without the LoRA", "with": "Draw with the LoRA"}
MESH_FACES = 5000


@dataclass(frozen=True)
class Uploaded:
    """A person, and the photographs of them that the app uploaded."""

    who: str
    subject: Subject
    album: Album
    training: list[str]
    """Keys, in the album's order."""
    held_out: list[str]


@dataclass(frozen=True)
class Drawn:
    """The pictures of each prompt, in the config's order."""

    of_class: list[list[Path]]
    """Without the LoRA, and with the class in place of the trigger word."""
    without_lora: list[list[Path]]
    with_lora: list[list[Path]]


class Demo:
    """One run.

    `installation` must be entered, `scratch` is a folder that is removed with it, and `output` must exist.
    """

    def __init__(
        self, config: DemoConfig, steps: Steps, installation: Installation, scratch: Path, output: Path
    ) -> None:
        self._config, self._steps, self._installation = config, steps, installation
        self._scratch, self._output = scratch, output
        self._connections = ExitStack()
        self._app: App
        self._admin: Admin
        self._preset: UUID
        self._summary: Summary
        self._jobs: Jobs
        self._more_rows: list[tuple[str, list[Path]]] = []
        """Of the contact sheet, below the person's: labels and pictures."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connections.close()

    def run(self, own_album: Album | None) -> Summary:
        """Run all steps. `own_album`: the user's pictures, instead of the drawn person's."""
        # First, as a slow machine takes a minute for it. A worker that starts so long after its buckets were marked
        # waits before it copies anything, since its database could be a copy.
        album, others = self._photographs(own_album)
        self._prepare()
        person = self._upload("person", album)
        self._expect_refusal("Train before consent", person)
        self._grant(person)
        self._start_worker()
        lora, lora_file = self._train(person)
        word = person.subject.trigger_word
        drawn = Drawn(
            of_class=self._draw("class", CLASS_NAME, person, []),
            without_lora=self._draw("without", word, person, []),
            with_lora=self._draw("with", word, person, [lora.id]),
        )
        if self._config.refers:
            self._draw_from_reference(person)
        if self._config.meshes:
            self._make_mesh()
        other, other_file = self._train_other(others)
        self._measure(person, lora_file, other_file)
        self._revoke_while_drawing(person, lora)
        self._expect_refusal("Train after revocation", person)
        self._report(person, drawn)
        self._summary.subjects = [self._summarized(person), self._summarized(other)]
        return self._summary

    # -- before the first request

    def _prepare(self) -> None:
        with self._steps.step("Models") as step:
            self._config.provide_models(self._models)
            step.result = self._config.description
            step.show(base=self._config.base, folder=self._models)
        with self._steps.step("Postgres and S3") as step:
            self._installation.start_servers()
            step.result = "both on loopback, for this run only"
            step.show(Postgres=self._installation.owner_url, S3=self._installation.s3_url)
        with self._steps.step("Migrate, create buckets") as step:
            applied = self._installation.install(self._config)
            step.result = f"{len(applied)} SQL files applied in one transaction"
            step.show(migrations=", ".join(applied))
        user = self._installation.add_user()
        connect = self._connections.enter_context
        as_user = connect(connected_as(self._installation.app_url, "authenticated", user))
        as_service = connect(connected_as(self._installation.app_url, "service_role"))
        self._app = App(as_user, user, self._installation.buckets())
        self._admin = Admin(as_service)
        self._preset = self._app.create_preset("demo", PRESET, self._config.picture_settings)
        self._summary = Summary(user, self._config.base, self._config.training)
        self._jobs = Jobs(self._app, self._installation.check_worker, self._summary, self._output)

    @property
    def _models(self) -> Path:
        return self._scratch / "models"

    def _photographs(self, own: Album | None) -> tuple[Album, Album]:
        with self._steps.step("Photographs") as step:
            step.update(0, "drawing people who do not exist")
            album = own or draw_album(Person.example(), self._scratch / "person")
            other = draw_album(Person.other(), self._scratch / "other")
            whose = "of yours" if own else "of a person who does not exist"
            step.result = f"{len(album.photos)} {whose}, and {len(other.photos)} of another drawn person"
            step.show(for_training=len(album.training), held_out=len(album.held_out))
        return album, other

    def _upload(self, who: str, album: Album) -> Uploaded:
        with self._steps.step("Subject and uploads") as step:
            uploaded = self._create_subject(who, album, step)
            step.result = f"{len(album.photos)} photographs, uploaded as authenticated under RLS; consent is pending"
            step.show(subject=uploaded.subject.id, trigger=uploaded.subject.trigger_word)
            step.show(object=f"{self._app.buckets.uploads}/{uploaded.training[0]}")
        return uploaded

    def _create_subject(self, who: str, album: Album, step: Step) -> Uploaded:
        subject = self._app.create_subject(who)
        keys = []
        for number, photo in enumerate(album.photos, start=1):
            keys.append(self._app.add_photo(subject, number, photo))
            step.update(number / len(album.photos), f"uploading {number} of {len(album.photos)}")
        count = len(album.training)
        return Uploaded(who, subject, album, keys[:count], keys[count:])

    def _grant(self, person: Uploaded) -> None:
        with self._steps.step("Consent") as step:
            self._admin.grant_consent(person.subject, "granted by the demo")
            step.result = "granted by an administrator (role service_role), for training and pictures"
            step.show(ledger=", ".join(self._admin.ledger(person.subject)))

    def _start_worker(self) -> None:
        with self._steps.step("Start `worker run`") as step:
            step.update(0, "its GPU process is loading torch")
            self._installation.start_worker(self._models)
            self._jobs.wait_until(
                lambda: f"training/{self._config.base}" in self._admin.routes(), "the worker offers training"
            )
            step.result = "a separate process; it offers " + ", ".join(self._admin.routes())
            step.show(log=self._installation.worker_log)

    # -- requests

    def _request_training(self, person: Uploaded) -> UUID:
        return self._app.request_training(person.subject, person.training, self._config.training)

    def _expect_refusal(self, name: str, person: Uploaded) -> None:
        with self._steps.step(name) as step:
            job_id = self._request_training(person)
            row = self._app.job("training", job_id)
            if (row["status"], row["error_code"]) != ("failed", "consent_denied"):
                raise DemoFailed(f"training job {job_id} was not refused: it is {row['status']}")
            self._jobs.record(name.lower(), "training", row, step)
            step.result = f"refused: {row['error']}"
            step.show(status=f"{row['status']}, {row['error_code']}")

    def _train(self, person: Uploaded) -> tuple[TrainedLora, Path]:
        with self._steps.step("Train a LoRA") as step:
            return self._run_training("train", person, self._output / "lora.safetensors", step)

    def _train_other(self, album: Album) -> tuple[Uploaded, Path]:
        with self._steps.step("Train another person") as step:
            other = self._create_subject("other person", album, step)
            self._admin.grant_consent(other.subject, "granted by the demo")
            _, path = self._run_training("train another person", other, self._scratch / "other.safetensors", step)
        return other, path

    def _run_training(self, name: str, person: Uploaded, path: Path, step: Step) -> tuple[TrainedLora, Path]:
        row = self._jobs.complete(name, "training", self._request_training(person), step)
        model = self._app.lora_of(row["id"])
        lora = TrainedLora(model["id"], person.subject.id, model["version"], model["path"], model["sha256"])
        self._jobs.save(self._app.buckets.models, lora.key, path, lora.sha256)
        copy = f"{person.subject.id}/lora.safetensors"
        models = self._app.buckets.models
        self._jobs.wait_until(
            lambda: copy in self._app.buckets.keys(models, copy), f"{models}/{copy} is a copy of the newest version"
        )
        self._summary.loras.append(lora)
        steps = self._config.training["steps"]
        step.result = f"{steps:.0f} steps on {len(person.training)} photographs, published as version 1"
        step.show(LoRA=lora.id)
        return lora, path

    def _draw(self, variant: str, who: str, person: Uploaded, loras: list[UUID]) -> list[list[Path]]:
        """Draw pictures of `who` for every prompt. Prompts and seeds are the same with a LoRA and without."""
        with self._steps.step(DRAWING_STEPS[variant]) as step:
            drawn, size = [], ""
            for place, prompt in enumerate(self._config.prompts, start=1):
                job_id = self._app.request_pictures(
                    person.subject,
                    prompt.format(who=who),
                    preset_id=self._preset,
                    model_ids=loras,
                    seed=SEED,
                    num_images=self._config.pictures,
                )
                row = self._jobs.complete(f"draw {variant}, prompt {place}", "generation", job_id, step)
                drawn.append(self._jobs.save_pictures(row["result"], f"{variant}-{place}"))
                first = row["result"]["pictures"][0]
                size = f"{first['raw_width']}x{first['raw_height']} upscaled to {first['width']}x{first['height']}"
            step.result = (
                f"{len(drawn)} prompts for “{who}”, {self._config.pictures} pictures each, {size}, seeds from {SEED}"
            )
        return drawn

    def _draw_from_reference(self, person: Uploaded) -> None:
        """Draw from a picture of a mug, twice: the second, identical request is answered from storage."""
        with self._steps.step("Draw from a reference") as step:
            mug = self._output / "reference.png"
            draw_mug(mug)
            key = self._app.add_input(mug, person.subject)
            asked = {"base": "uno", "preset_id": self._preset, "model_ids": [], "reference_paths": [key], "seed": SEED}
            rows = []
            for time_ in ("first", "second"):
                job_id = self._app.request_pictures(person.subject, "a red mug on a table", **asked)
                rows.append(self._jobs.complete(f"draw from a reference, {time_} time", "generation", job_id, step))
            first, second = ((row["finished_at"] - row["started_at"]).total_seconds() for row in rows)
            if rows[1]["result"].get("cached_from") != str(rows[0]["id"]):
                raise DemoFailed(f"generation job {rows[1]['id']} was not answered from storage")
            pictures = self._jobs.save_pictures(rows[0]["result"], "from-reference")
            self._more_rows.append(("A reference, and what was drawn from it", [mug, *pictures]))
            step.result = f"in {first:.1f} s, with an untrained LoRA; the same again from storage, in {second:.2f} s"

    def _make_mesh(self) -> None:
        """Make a 3D model of a mug, from a picture that shows nobody."""
        with self._steps.step("Make a 3D model") as step:
            product = self._output / "product.png"
            draw_mug(product)
            key = self._app.add_input(product, None)
            job_id = self._app.request_mesh(key, quality="fast", max_faces=MESH_FACES)
            result = self._jobs.complete("make a 3D model", "mesh", job_id, step)["result"]
            saved = {"mesh": "mesh.glb", "preview": "mesh-views.png", "turntable": "mesh-turntable.webp"}
            for name, file in saved.items():
                self._jobs.download(result["bucket"], result["files"][name], self._output / file)
            views = self._output / saved["preview"]
            self._more_rows.append(("A picture of a product, and its 3D model from four sides", [product, views]))
            step.result = (
                f"{result['faces']} faces; a relief of the picture, by a tiny network that has learned nothing"
            )

    # -- results

    def _measure(self, person: Uploaded, lora: Path, other: Path) -> None:
        with self._steps.step("Held-out loss") as step:
            step.update(0, "the same noise for all three")
            word = person.subject.trigger_word
            photos = [(photo.path, caption(photo.caption, word, CLASS_NAME)) for photo in person.album.held_out]
            losses = held_out_losses(
                self._models / self._config.base,
                photos,
                int(self._config.training["resolution"]),
                {"own": lora, "none": None, "other": other},
                self._scratch,
            )
            self._summary.held_out_losses = losses
            step.result = (
                f"on {len(photos)} photographs not trained on: {losses['own']:.4f} with this LoRA, "
                f"{losses['none']:.4f} without a LoRA, {losses['other']:.4f} with the other person's"
            )

    def _revoke_while_drawing(self, person: Uploaded, lora: TrainedLora) -> None:
        with self._steps.step("Revoke while drawing") as step:
            before = self._all_objects()
            job_id = self._app.request_pictures(
                person.subject, "a portrait", model_ids=[lora.id], seed=SEED, **self._config.long_request
            )
            revoked, row = False, {}
            for row in rows_of(self._app, "generation", job_id, step, self._installation.check_worker):
                if not revoked and row["status"] == "running" and row["progress"] > 0:
                    self._app.revoke_consent(person.subject)
                    revoked = True
            if (row["status"], row["error_code"]) != ("failed", "consent_denied") or row["result"] is not None:
                raise DemoFailed(f"generation job {job_id} was not stopped by the revocation: it is {row['status']}")
            self._jobs.record("revoke while drawing", "generation", row, step)
            after = self._all_objects()
            if after != before:
                raise DemoFailed(f"objects were published after the revocation: {sorted(after - before)}")
            seconds = (row["finished_at"] - self._admin.revoked_at(person.subject)).total_seconds()
            self._summary.revocation = Revocation(job_id, seconds, len(before), len(after))
            step.result = (
                f"stopped {1000 * seconds:.0f} ms after the revocation, at {at_step(row)}; nothing was published"
            )
            step.show(status=f"{row['status']}, {row['error_code']}: {row['error']}")
            step.show(objects=f"{len(before)} in the buckets before, {len(after)} after")

    def _all_objects(self) -> set[tuple[str, str]]:
        buckets = self._app.buckets
        names = (buckets.uploads, buckets.models, buckets.meshes)
        return {(bucket, key) for bucket in names for key in buckets.keys(bucket)}

    def _report(self, person: Uploaded, drawn: Drawn) -> None:
        with self._steps.step("Contact sheet, loss curve") as step:
            labels = {"own": "with this LoRA", "none": "without a LoRA", "other": "with another person's LoRA"}
            rows = [
                ("Training photographs", [photo.path for photo in person.album.training[:8]]),
                ("Held-out photographs", [photo.path for photo in person.album.held_out[:8]]),
            ]
            for prompt, *groups in zip(
                self._config.prompts, drawn.of_class, drawn.without_lora, drawn.with_lora, strict=True
            ):
                merged = PRESET.format(prompt=prompt.format(who=person.subject.trigger_word))
                label = (
                    f"“{merged}”: “{CLASS_NAME}” without the LoRA, the trigger word without it and with it; same seeds"
                )
                rows.append((label, [path for group in groups for path in group]))
            contact_sheet([*rows, *self._more_rows], self._output / "contact-sheet.png")
            losses = {labels[name]: loss for name, loss in self._summary.held_out_losses.items()}
            loss_curve(self._losses("train"), self._output / "loss-curve.png", losses)
            step.result = "contact-sheet.png and loss-curve.png"

    def _losses(self, name: str) -> list[tuple[int, float]]:
        job = next(job for job in self._summary.jobs if job.name == name)
        found = next(found for found in job.objects if found.key.endswith("/losses.json"))
        losses: list[tuple[int, float]] = json.loads(self._app.buckets.read(found.bucket, found.key))
        return losses

    def _summarized(self, person: Uploaded) -> SubjectSummary:
        describe = self._app.buckets.describe
        return SubjectSummary(
            person.who,
            person.subject.id,
            person.subject.trigger_word,
            [describe(self._app.buckets.uploads, key) for key in person.training],
            [describe(self._app.buckets.uploads, key) for key in person.held_out],
            self._admin.ledger(person.subject),
        )
