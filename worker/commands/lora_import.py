"""Adds a LoRA that was made elsewhere to `subjects_models`: checks, converts, uploads, publishes it with consent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from worker.database import owner
from worker.errors import CommandRefused, WorkerError
from worker.settings import Settings
from worker.storage.object_store import ObjectStore
from worker.storage.s3.client import StoreConfig

if TYPE_CHECKING:
    from worker.ml.families.lora import Converted

MAX_BYTES = 4 * 1024**3
"""Of a file, and of what it becomes."""
UPLOAD_S = 1800.0
"""Well below `lora_import` in sql/timings.sql, after which the object is deleted."""
WORD = re.compile(r"\w{2,40}")
"""As in the column `trigger_word` of subjects."""


@dataclass(frozen=True)
class Imported:
    """A LoRA of `subjects_models`."""

    model_id: UUID
    family: str
    rank: int
    sha256: str
    state: str
    """`version N`, or `already imported`."""
    scale_is_assumed: bool
    """No alpha was found, neither in the file nor beside it."""


@dataclass(frozen=True)
class Ready:
    """A file as the family's are written, to be uploaded."""

    path: Path
    family: str
    rank: int
    sha256: str
    scale_is_assumed: bool


def import_(source: Path, base: str, subject: UUID | None, nobody: bool, trigger_word: str | None) -> Imported:
    """Import a LoRA file of any spelling for a base, of a subject or of nobody.

    Raises CommandRefused, and then nothing is published: the file cannot be read or is for another base, or the person
    does not consent. Raises SettingsError if a setting is missing.
    """
    if (subject is None) != nobody:
        raise CommandRefused("give either --subject ID, whose consent is asked, or --nobody for a LoRA of no person")
    if trigger_word is not None and not WORD.fullmatch(trigger_word):
        raise CommandRefused(f"--trigger-word must be one word of 2 to 40 letters, digits and _, not {trigger_word!r}")
    settings = Settings.load()
    with TemporaryDirectory() as folder:
        ready = _prepare(source, base, settings.models_dir, trigger_word, Path(folder) / "lora.safetensors")
        with owner.connect(settings.database_url.get_secret_value()) as database:
            begun = _begin(database, subject, base, ready)
            if "model_id" in begun:
                return _imported(ready, begun)
            lora = {"sha256": ready.sha256, "rank": ready.rank, "trigger_word": trigger_word}
            return asyncio.run(
                _upload_and_publish(
                    settings.store_config,
                    begun,
                    ready,
                    lambda: _call(
                        database,
                        "select worker.publish_lora_import(%s, %s, %s, %s) as answer",
                        [begun["import_id"], subject, base, Jsonb(lora)],
                    ),
                )
            )


def _prepare(source: Path, base: str, models_dir: Path, trigger_word: str | None, target: Path) -> Ready:
    """Write the file as the family's are written: its layers, and metadata that cannot name a person."""
    if not source.is_file():
        raise CommandRefused(f"file not found: {source}")
    if source.stat().st_size > MAX_BYTES:
        raise CommandRefused(f"{source.name} has {source.stat().st_size / 1024**3:.1f} GiB: no LoRA is so large")

    from worker.ml.adapters import files as lora_files  # torch: other commands and refusals should not wait for it
    from worker.ml.errors import ModelUnreadable
    from worker.ml.families import lora

    try:
        converted = lora.convert_to_own(source)
        _check(source, converted)
        if (models_dir / base).is_dir():
            lora.check_fits_folder(source.name, converted, models_dir / base)
        names = converted.names
        metadata = {"base": base, "family": names.family, "ss_network_dim": str(converted.rank)}
        metadata |= {"ss_network_alpha": str(converted.rank), "ss_network_module": names.network_module}
        metadata |= {} if trigger_word is None else {"trigger_word": trigger_word}
        state = lora_files.state_of(converted.layers, names.naming)
        sha256 = lora_files.write(target, state, metadata)
    except ModelUnreadable as error:
        raise CommandRefused(str(error)) from error
    except OSError as error:
        raise CommandRefused(f"{source.name} cannot be converted: {error.strerror}") from error
    return Ready(target, names.family, converted.rank, sha256, converted.header.scale_is_assumed)


def _check(source: Path, converted: Converted) -> None:
    from worker.ml.adapters.lycoris import MAX_RANK

    if converted.rank > MAX_RANK:
        raise CommandRefused(f"{source.name} has rank {converted.rank}; at most {MAX_RANK} is supported")
    size = sum(a.nbytes + b.nbytes for a, b in converted.layers.values())
    if size > MAX_BYTES:
        raise CommandRefused(f"{source.name} has {size / 1024**3:.1f} GiB as a plain LoRA: no LoRA is so large")
    if not any(a.any() and b.any() for a, b in converted.layers.values()):
        raise CommandRefused(f"{source.name} has no effect: all its weights or all its alphas are zero")


def _begin(database: owner.Connection, subject: UUID | None, base: str, ready: Ready) -> dict[str, Any]:
    return _call(
        database,
        "select worker.begin_lora_import(%s, %s, %s, %s) as answer",
        [subject, base, ready.family, ready.sha256],
    )


def _call(database: owner.Connection, statement: str, arguments: list[object]) -> dict[str, Any]:
    try:
        row = database.execute(statement, arguments).fetchone()
    except psycopg.errors.InvalidParameterValue as error:
        raise CommandRefused(error.diag.message_primary or "the LoRA may not be imported") from error
    except psycopg.errors.LockNotAvailable as error:
        raise CommandRefused("the subject's row is locked by another transaction: try again") from error
    assert row is not None
    answer: dict[str, Any] = row["answer"]
    return answer


async def _upload_and_publish(
    config: StoreConfig, begun: dict[str, Any], ready: Ready, publish: Callable[[], dict[str, Any]]
) -> Imported:
    """Upload and publish. What is surely not published is deleted here, and whatever remains by a sweeper."""
    store, superfluous = ObjectStore(config), True
    try:
        await store.upload(begun["bucket"], begun["key"], ready.path, "application/octet-stream", UPLOAD_S)
        superfluous = False  # if this call breaks, it may have published
        answer = publish()
        superfluous = "version" not in answer
        if "error" in answer:
            raise CommandRefused(f"not imported: {answer['error']}")
        return _imported(ready, answer)
    except WorkerError as error:
        raise CommandRefused(error.message) from error
    finally:
        if superfluous:
            with suppress(WorkerError):
                await store.delete(begun["bucket"], [begun["key"]])
        await store.close()


def _imported(ready: Ready, answer: dict[str, Any]) -> Imported:
    state = f"version {answer['version']}" if "version" in answer else "already imported"
    model_id = UUID(answer["model_id"])
    return Imported(model_id, ready.family, ready.rank, ready.sha256, state, ready.scale_is_assumed)
