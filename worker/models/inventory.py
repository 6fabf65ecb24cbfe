"""`worker models list`: every model that is registered, on this disk or in the bucket, and what it is good for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from worker.errors import ModelMissing, SettingsError, StorageError
from worker.models.bases import is_sound, is_whole, read_bucket_manifest
from worker.models.eviction import size_of
from worker.models.manifest import MANIFEST, Manifest, damaged, has_size, read_manifest
from worker.models.names import PREFIX, UPSCALERS
from worker.settings import Settings
from worker.storage.object_store import ObjectStore

COLUMNS = ("model", "family", "licence", "commercial use", "GB", "on this disk", "in the bucket", "revision", "routes")
CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True)
class Place:
    """A model on the disk or in the bucket: how it stands there, and what is known of it."""

    state: str
    size_bytes: int
    manifest: Manifest | None
    damaged: bool = False


@dataclass(frozen=True)
class Overview:
    """One row a model in the order of `COLUMNS`, what could not be asked, and which models are damaged."""

    rows: list[tuple[str, ...]]
    notes: list[str]
    damaged: list[str]


def collect_inventory(settings: Settings, *, thorough: bool) -> Overview:
    """Look everywhere. What cannot be reached is noted and left out. `thorough` reads every file of this disk."""
    notes: list[str] = []
    registered = _registered(settings, notes)
    on_disk = _on_disk(settings.models_dir, thorough=thorough)
    in_bucket = asyncio.run(_in_bucket(settings, notes))
    rows = [
        _row(slug, registered.get(slug), on_disk.get(slug), in_bucket.get(slug), known=bool(registered))
        for slug in sorted({*registered, *on_disk, *in_bucket})
    ]
    broken = [slug for places in (on_disk, in_bucket) for slug, place in places.items() if place.damaged]
    return Overview(rows, notes, sorted(set(broken)))


def _registered(settings: Settings, notes: list[str]) -> dict[str, dict[str, Any]]:
    url = settings.database_url.get_secret_value()
    if not url:
        notes.append("without DATABASE_URL: no family, licence and routes of registered bases")
        return {}
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S, row_factory=dict_row) as connection:
            return {row["slug"]: row for row in connection.execute("select * from worker.base_models").fetchall()}
    except psycopg.Error as error:
        notes.append(f"without the database ({type(error).__name__}): `worker doctor` says what is wrong with it")
        return {}


def _on_disk(models_dir: Path, *, thorough: bool) -> dict[str, Place]:
    if not models_dir.is_dir():
        return {}
    folders = [path for path in sorted(models_dir.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    return {folder.name: _place_on_disk(folder, thorough=thorough) for folder in folders}


def _place_on_disk(folder: Path, *, thorough: bool) -> Place:
    manifest, size_bytes = read_manifest(folder), size_of(folder)
    if manifest is None:
        if (folder / MANIFEST).exists():
            return Place(f"damaged: {MANIFEST}", size_bytes, None, damaged=True)
        return Place("put there by hand" if is_whole(folder) else "unfinished, by hand", size_bytes, None)
    wrong = [name for name, file in manifest.files.items() if not has_size(folder / name, file)]
    if not wrong and thorough:
        wrong = damaged(folder, manifest.files)
    elif not wrong and not is_sound(folder, thorough=False):
        wrong = ["a file that was changed"]
    if wrong:
        return Place(f"damaged: {', '.join(wrong[:2])}", size_bytes, manifest, damaged=True)
    return Place("checksums right" if thorough else "whole", size_bytes, manifest)


async def _in_bucket(settings: Settings, notes: list[str]) -> dict[str, Place]:
    try:
        store = ObjectStore(settings.store_config)
    except SettingsError:
        notes.append("without the S3 settings: nothing of the bucket")
        return {}
    bucket = settings.bucket_models
    try:
        sizes: dict[str, dict[str, int]] = {}
        for info in await store.list(bucket, PREFIX):
            slug, _, name = info.key.removeprefix(PREFIX).partition("/")
            sizes.setdefault(slug, {})[name] = info.size
        return {slug: await _place_in_bucket(slug, files, store, bucket) for slug, files in sizes.items()}
    except StorageError as error:
        notes.append(f"without the bucket: {error.message}")
        return {}
    finally:
        await store.close()


async def _place_in_bucket(slug: str, sizes: Mapping[str, int], store: ObjectStore, bucket: str) -> Place:
    size_bytes = sum(sizes.values())
    if MANIFEST not in sizes:
        return Place("unfinished: push it again", size_bytes, None)
    try:
        manifest = await read_bucket_manifest(slug, store, bucket)
    except ModelMissing:
        return Place(f"damaged: {MANIFEST}", size_bytes, None, damaged=True)
    if manifest is None:
        return Place("gone just now", size_bytes, None)
    wrong = [name for name, file in manifest.files.items() if sizes.get(name) != file.size_bytes]
    state = f"damaged: {', '.join(wrong[:2])}" if wrong else "whole"
    return Place(state, size_bytes, manifest, damaged=bool(wrong))


def _row(
    slug: str, base: Mapping[str, Any] | None, disk: Place | None, bucket: Place | None, *, known: bool
) -> tuple[str, ...]:
    manifests = [place.manifest for place in (disk, bucket) if place is not None and place.manifest is not None]
    origin = next((manifest.origin for manifest in manifests if manifest.origin is not None), None)
    size_bytes = max(place.size_bytes for place in (disk, bucket) if place) if disk or bucket else 0
    in_bucket = bucket.state if bucket else "-"
    if len(manifests) == 2 and manifests[0].files != manifests[1].files:
        in_bucket += ", other contents than here"
    return (
        slug,
        base["family"] if base else "",
        base["licence"] if base else (origin.licence if origin and origin.licence else ""),
        ("yes" if base["commercial_use"] else "no") if base else "",
        f"{size_bytes / 1e9:.2f}" if size_bytes else "",
        disk.state if disk else "-",
        in_bucket,
        origin.revision[:12] if origin and origin.revision else "",
        _routes(slug, base, known=known),
    )


def _routes(slug: str, base: Mapping[str, Any] | None, *, known: bool) -> str:
    """What a pod can take with it, if it has the memory."""
    if slug in UPSCALERS.values():
        return "generation/*, which needs both upscalers"
    if base is None:
        return "none: not in worker.base_models" if known else ""
    kinds = (["training"] if "train" in base["capabilities"] else []) + ["generation"]
    memory = f" from {base['min_vram_gib']:g} GiB" if base["min_vram_gib"] else ""
    return " ".join(f"{kind}/{slug}" for kind in kinds) + memory
