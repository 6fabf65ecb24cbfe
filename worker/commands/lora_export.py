"""`worker lora export`: a LoRA in the names that another program reads."""

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
from worker.storage.object_store import ObjectStore, StoreConfig

if TYPE_CHECKING:
    from worker.ml.lora_files import Naming


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    family: str
    layers: int
    sha256: str


def export(source: str, naming: Naming, output: Path) -> Exported:
    """Write a LoRA again in these names, alpha folded in.

    Args:
        source: a file; or the id of a row of `subjects_models`, for which settings say where database and bucket are.

    Raises:
        CommandRefused: the source cannot be had or converted, or the output exists: nothing is overwritten.
        SettingsError: for an id, when a setting is missing.
    """
    if output.exists():
        raise CommandRefused(f"{output} exists already: choose another --output")
    if output.suffix != ".safetensors":
        raise CommandRefused(f"{output} would not be read as a LoRA: let --output end in .safetensors")
    try:
        model_id = UUID(source)
    except ValueError:
        return _convert(Path(source), naming, output)
    with TemporaryDirectory() as folder:
        return _convert(_fetch(model_id, Settings.load(), Path(folder)), naming, output)


def _convert(source: Path, naming: Naming, output: Path) -> Exported:
    from worker.ml import lora_files, lora_names  # torch: seconds that no other command should wait for
    from worker.ml.errors import ModelUnreadable

    if not source.is_file():
        raise CommandRefused(f"there is no file {source}, and it is no id of a LoRA")
    try:
        header, pairs = lora_files.read(source)
        if header.naming == naming:
            raise CommandRefused(f"{source.name} is in {naming} names already")
        convert = lora_names.to_kohya if naming == "kohya" else lora_names.to_diffusers
        converted = convert(header.family, pairs)
        if not converted:
            raise CommandRefused(f"{source.name} changes nothing: all its weights or its alphas are zero")
        state = lora_files.state_of(converted, naming)
        rank = max(len(a) for a, _ in converted.values())
        sha256 = lora_files.write(output, state, _metadata(header.metadata, header.family, naming, rank))
    except ModelUnreadable as error:
        raise CommandRefused(str(error)) from error
    except OSError as error:
        raise CommandRefused(f"{output} cannot be written: {error.strerror}") from error
    return Exported(output, header.family, len(converted), sha256)


def _metadata(said: Mapping[str, str], family: str, naming: Naming, rank: int) -> dict[str, str]:
    """What the file said, but for what the conversion changed."""
    kept = {
        name: value for name, value in said.items() if name not in ("format", "sshs_model_hash", "sshs_legacy_hash")
    }
    kept |= {"ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
    if naming == "kohya":
        kept["ss_network_module"] = {"flux": "networks.lora_flux", "sd15": "networks.lora"}[family]
    else:
        kept.pop("ss_network_module", None)
    return kept


def _fetch(model_id: UUID, settings: Settings, folder: Path) -> Path:
    """A published LoRA from the bucket, as the database's owner.

    Raises CommandRefused: there is no such LoRA, its person did not agree (any more), or it is not in storage.
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
        raise CommandRefused(f"there is no LoRA {model_id} in subjects_models")
    if row["objection"]:
        raise CommandRefused(f"LoRA {model_id} may not be used: {row['objection']}")
    path = folder / f"{model_id}.safetensors"
    asyncio.run(_download(settings.store_config, row["bucket"], row["path"], path))
    if sha256_of(path) != row["sha256"]:
        raise CommandRefused(f"LoRA {model_id} in storage is not the one that was published: train it again")
    return path


async def _download(config: StoreConfig, bucket: str, key: str, path: Path) -> None:
    store = ObjectStore(config)
    try:
        await store.download(bucket, key, path)
    except WorkerError as error:
        raise CommandRefused(error.message) from error
    finally:
        await store.close()
