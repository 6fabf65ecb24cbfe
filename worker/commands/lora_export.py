"""Converts a LoRA to the key names that another program expects."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import UUID

from worker.database import owner
from worker.errors import CommandRefused, WorkerError
from worker.settings import Settings
from worker.storage.checksums import sha256_of
from worker.storage.object_store import ObjectStore
from worker.storage.s3.client import StoreConfig

if TYPE_CHECKING:
    from worker.ml.adapters.names import LoraNames, Naming


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    family: str
    layers: int
    sha256: str
    scale_is_assumed: bool
    """No alpha was found, neither in the file nor beside it."""


def export(source: str, naming: Naming, output: Path) -> Exported:
    """Write a LoRA with these key names, alpha folded in.

    Args:
        source: a file, or the id of a row of `subjects_models`; for an id, the settings name database and bucket.

    Raises:
        CommandRefused: the source was not found or cannot be converted, or the output exists.
        SettingsError: for an id, if a setting is missing.
    """
    if output.exists():
        raise CommandRefused(f"{output} already exists; choose another --output")
    if output.suffix != ".safetensors":
        raise CommandRefused(f"--output must end in .safetensors: {output}")
    try:
        model_id = UUID(source)
    except ValueError:
        return _convert(Path(source), naming, output)
    with TemporaryDirectory() as folder:
        return _convert(_fetch(model_id, Settings.load(), Path(folder)), naming, output)


def _convert(source: Path, naming: Naming, output: Path) -> Exported:
    from worker.ml.adapters import files as lora_files  # torch: other commands should not wait seconds for it
    from worker.ml.errors import ModelUnreadable
    from worker.ml.families import lora

    if not source.is_file():
        raise CommandRefused(f"file not found: {source}; give a file, or the id of a LoRA in subjects_models")
    try:
        converted = lora.convert(source, naming)
        header, names, layers = converted.header, converted.names, converted.layers
        if header.naming == naming and (naming == "kohya" or not header.has_alphas):
            raise CommandRefused(f"{source.name} already has {naming} names")
        if not any(a.any() and b.any() for a, b in layers.values()):
            raise CommandRefused(f"{source.name} has no effect: all its weights or all its alphas are zero")
        state = lora_files.state_of(layers, naming)
        sha256 = lora_files.write(output, state, metadata_of(header.metadata, names, naming, converted.rank))
    except ModelUnreadable as error:
        raise CommandRefused(str(error)) from error
    except OSError as error:
        raise CommandRefused(f"writing {output} failed: {error.strerror}") from error
    return Exported(output, names.family, len(layers), sha256, header.scale_is_assumed)


def metadata_of(original: Mapping[str, str], names: LoraNames, naming: Naming, rank: int) -> dict[str, str]:
    """Return the file's metadata, with what the conversion changed."""
    replaced = ("format", "sshs_model_hash", "sshs_legacy_hash", "lora_adapter_metadata")
    kept = {name: value for name, value in original.items() if name not in replaced}
    kept |= {"ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
    if naming == "kohya":
        kept["ss_network_module"] = names.network_module
    else:
        kept.pop("ss_network_module", None)
    return kept


def _fetch(model_id: UUID, settings: Settings, folder: Path) -> Path:
    """Download a published LoRA from the bucket, as the database's owner.

    Raises CommandRefused if the LoRA is not in the database or in the bucket, or its person does not consent.
    """
    with owner.connect(settings.database_url.get_secret_value()) as connection:
        row = connection.execute(
            """select models.path, models.sha256, config.bucket_models as bucket,
                      case when models.subject_id is not null
                        then worker.consent_error(models.subject_id, 'generation') end as objection
               from public.subjects_models models cross join worker.config where models.id = %s""",
            [model_id],
        ).fetchone()
    if row is None:
        raise CommandRefused(f"LoRA not found in subjects_models: {model_id}")
    if row["objection"]:
        raise CommandRefused(f"LoRA {model_id} may not be used: {row['objection']}")
    path = folder / f"{model_id}.safetensors"
    asyncio.run(_download(settings.store_config, row["bucket"], row["path"], path))
    if sha256_of(path) != row["sha256"]:
        raise CommandRefused(f"LoRA {model_id} in the bucket differs from the published one; train it again")
    return path


async def _download(config: StoreConfig, bucket: str, key: str, path: Path) -> None:
    store = ObjectStore(config)
    try:
        await store.download(bucket, key, path)
    except WorkerError as error:
        raise CommandRefused(error.message) from error
    finally:
        await store.close()
