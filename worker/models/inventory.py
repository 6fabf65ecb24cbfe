"""`worker models list`: list every model that is registered, on this disk or in the bucket, and its routes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from worker.database.connections import OwnConnection
from worker.errors import ModelMissing, SettingsError, StorageError
from worker.models.bases import read_bucket_manifest
from worker.models.hub.released import RELEASED
from worker.models.integrity import is_complete, is_undamaged
from worker.models.manifest import MANIFEST, Manifest, damaged_files, has_size, read_manifest
from worker.models.names import BUCKET_PREFIX, UPSCALERS
from worker.settings import Settings
from worker.storage.folder_size import folder_size
from worker.storage.object_store import ObjectStore

COLUMNS = ("model", "family", "licence", "commercial use", "GB", "on this disk", "in the bucket", "revision", "routes")

_BASES = """
    select base.*, (
        select coalesce(jsonb_object_agg(kinds.kind, worker.required_vram_gib(base, required)), '{}')
        from worker.job_kinds kinds cross join lateral worker.required_capabilities(kinds.kind) required
        where kinds.uses_base and worker.base_serves(base, kinds.kind)) as needed_gib
    from worker.base_models base"""
"""With the GPU memory that each kind needs which can use it."""
_GUIDES = "select * from worker.guides"


@dataclass(frozen=True)
class StoredModel:
    """A model on the disk or in the bucket. `state` is shown to the operator."""

    state: str
    size_bytes: int
    manifest: Manifest | None
    is_damaged: bool = False


@dataclass(frozen=True)
class Inventory:
    """A row for each model, in the order of `COLUMNS`; notes on sources that could not be read; damaged models."""

    rows: list[tuple[str, ...]]
    notes: list[str]
    damaged: list[str]


def collect_inventory(settings: Settings, *, thorough: bool) -> Inventory:
    """Read the disk, the bucket and the database; a source that cannot be reached is noted and omitted.

    If `thorough`, every file on this disk is read. Raises OSError if the disk fails.
    """
    notes: list[str] = []
    registered = _registered(settings, notes)
    on_disk = _on_disk(settings.models_dir, thorough=thorough)
    in_bucket = asyncio.run(_in_bucket(settings, notes))
    rows = [
        _row(slug, registered.get(slug), on_disk.get(slug), in_bucket.get(slug), known=bool(registered))
        for slug in sorted({*registered, *on_disk, *in_bucket})
    ]
    damaged = {slug for stored in (on_disk, in_bucket) for slug, model in stored.items() if model.is_damaged}
    return Inventory(rows, notes, sorted(damaged))


def _registered(settings: Settings, notes: list[str]) -> dict[str, dict[str, Any]]:
    url = settings.database_url.get_secret_value()
    if not url:
        notes.append("DATABASE_URL is not set: family, licence and routes of registered models are not shown")
        return {}
    try:
        with OwnConnection.open(url, "likeness command") as connection:
            rows = [*connection.execute(_BASES).fetchall(), *connection.execute(_GUIDES).fetchall()]
            return {row["slug"]: row for row in rows}
    except psycopg.Error as error:
        notes.append(f"the database cannot be read ({type(error).__name__}): run `worker doctor`")
        return {}


def _on_disk(models_dir: Path, *, thorough: bool) -> dict[str, StoredModel]:
    if not models_dir.is_dir():
        return {}
    folders = [path for path in sorted(models_dir.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    return {folder.name: _stored_on_disk(folder, thorough=thorough) for folder in folders}


def _stored_on_disk(folder: Path, *, thorough: bool) -> StoredModel:
    manifest, size_bytes = read_manifest(folder), folder_size(folder)
    if manifest is None:
        if (folder / MANIFEST).exists():
            return StoredModel(f"damaged: {MANIFEST}", size_bytes, None, is_damaged=True)
        return StoredModel("added by hand" if is_complete(folder) else "incomplete, added by hand", size_bytes, None)
    wrong = [name for name, file in manifest.files.items() if not has_size(folder / name, file)]
    if not wrong and thorough:
        wrong = damaged_files(folder, manifest.files)
    elif not wrong and not is_undamaged(folder, thorough=False):
        wrong = ["a file changed"]
    if wrong:
        return StoredModel(f"damaged: {', '.join(wrong[:2])}", size_bytes, manifest, is_damaged=True)
    return StoredModel("verified" if thorough else "complete", size_bytes, manifest)


async def _in_bucket(settings: Settings, notes: list[str]) -> dict[str, StoredModel]:
    try:
        store = ObjectStore(settings.models_store_config)
    except SettingsError:
        notes.append("the S3 settings are missing: the bucket is not listed")
        return {}
    bucket = settings.base_models_bucket
    try:
        sizes: dict[str, dict[str, int]] = {}
        for info in await store.list(bucket, BUCKET_PREFIX):
            slug, _, name = info.key.removeprefix(BUCKET_PREFIX).partition("/")
            sizes.setdefault(slug, {})[name] = info.size
        return {slug: await _stored_in_bucket(slug, files, store, bucket) for slug, files in sizes.items()}
    except StorageError as error:
        notes.append(f"the bucket is not listed: {error.message}")
        return {}
    finally:
        await store.close()


async def _stored_in_bucket(slug: str, sizes: Mapping[str, int], store: ObjectStore, bucket: str) -> StoredModel:
    size_bytes = sum(sizes.values())
    if MANIFEST not in sizes:
        return StoredModel("incomplete: push it again", size_bytes, None)
    try:
        manifest = await read_bucket_manifest(slug, store, bucket)
    except ModelMissing:
        return StoredModel(f"damaged: {MANIFEST}", size_bytes, None, is_damaged=True)
    if manifest is None:
        return StoredModel("deleted meanwhile", size_bytes, None)
    wrong = [name for name, file in manifest.files.items() if sizes.get(name) != file.size_bytes]
    state = f"damaged: {', '.join(wrong[:2])}" if wrong else "complete"
    return StoredModel(state, size_bytes, manifest, is_damaged=bool(wrong))


def _row(
    slug: str, base: Mapping[str, Any] | None, disk: StoredModel | None, bucket: StoredModel | None, *, known: bool
) -> tuple[str, ...]:
    released = RELEASED.get(slug)
    terms: Mapping[str, Any] | None = base or (asdict(released) if released else None)
    if base and base.get("weights_of"):
        stored = f"the weights of {base['weights_of']}"
        return slug, base["family"], *_licence(base), "", stored, stored, "", _routes(slug, base, known=known)
    manifests = [model.manifest for model in (disk, bucket) if model is not None and model.manifest is not None]
    origin = next((manifest.origin for manifest in manifests if manifest.origin is not None), None)
    size_bytes = max(model.size_bytes for model in (disk, bucket) if model) if disk or bucket else 0
    in_bucket = bucket.state if bucket else "-"
    if len(manifests) == 2 and manifests[0].files != manifests[1].files:
        in_bucket += ", differs from this disk"
    return (
        slug,
        (base["family"] or "any") if base else "",
        *(_licence(terms) if terms else (origin.licences if origin else "", "")),
        f"{size_bytes / 1e9:.2f}" if size_bytes else "",
        disk.state if disk else "-",
        in_bucket,
        origin.revision[:12] if origin and origin.revision else "",
        _routes(slug, base, known=known),
    )


def _licence(base: Mapping[str, Any]) -> tuple[str, str]:
    """Return the licence of a registered model, and whether it allows commercial use."""
    return base["licence"], "yes" if base["commercial_use"] else "no"


def _routes(slug: str, base: Mapping[str, Any] | None, *, known: bool) -> str:
    """Return the routes that the model enables, and the GPU memory that must be free for each."""
    if slug in UPSCALERS.values():
        return "generation/*, which needs both upscalers"
    if slug in RELEASED:
        return "mesh/*, for pictures with a background"
    if base is None:
        return "none: not in worker.base_models or worker.guides" if known else ""
    if "vram_gib" in base:
        more = f", {base['vram_gib']:g} GiB more" if base["vram_gib"] else ""
        return f"{', '.join(base['capabilities'])} for {base['family'] or 'all'}{more}"
    return ", ".join(
        f"{kind}/{slug}" + (f" from {gib:g} GiB free" if gib else "")
        for kind, gib in sorted(base["needed_gib"].items(), reverse=True)
    )
