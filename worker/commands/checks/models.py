"""Which jobs this pod would run, and what it has for them: base models, guides and their licences, upscalers, disks."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

from worker.commands.checks.gpu import IMPORTS_DEADLINE_S, GpuCheck
from worker.commands.checks.report import CheckSkipped, CheckWarning, Report
from worker.database.pool import Database
from worker.errors import SettingsError
from worker.kinds import kinds_of_pod, load_kinds
from worker.models import REMOVERS, UPSCALERS, BaseModels, install_command
from worker.models.hub.released import RELEASED
from worker.pod.preflight import check_kinds, check_models_dir, check_upscaler
from worker.pod.routes import Routes, describe_free_memory, extra_of, missing_packages
from worker.settings import Settings
from worker.storage.object_store import ObjectStore
from worker.storage.writable_dirs import check_writable

WORK_SPACE_GB = 5.0
"""Photos, LoRAs and finished pictures of the running jobs."""

_BASES = """
    select slug, worker.weights_slug(base) as weights, family, licence, commercial_use,
           worker.memory_requirement(base) as requirement,
           slug = (select default_base from worker.config) as is_default
    from worker.base_models base order by slug"""
_GUIDES = "select slug, family, capabilities, vram_gib, licence, commercial_use from worker.guides order by slug"


async def check_models(
    report: Report, settings: Settings, database: Database | None, store: ObjectStore | None, gpu: GpuCheck
) -> None:
    """Check kinds, disks, upscalers, the base models and guides that the database knows, and the routes that follow.

    `store` is that of base models.
    """
    await report.check("WORKER_KINDS", _kinds(settings))
    await report.check("MODELS_DIR", _models_dir(settings))
    await report.check("WORK_DIR", _work_dir(settings))
    models = BaseModels(settings.models_dir, store, settings.base_models_bucket, settings.models_max_gb)
    places = Places()
    await report.check("models", places.collect(models))
    await report.check("upscalers", _upscalers(places))
    await report.check("UPSCALER", _upscaler_backend(settings), IMPORTS_DEADLINE_S)
    await report.check("background removers", _removers(places))
    if database is None:
        report.skip("no usable database to list them", "base models", "routes")
        return
    bases: list[dict[str, Any]] = []
    guides: list[dict[str, Any]] = []
    await report.check("base models", _list_bases(database, bases, guides))
    for base in bases:
        await report.check(f"base {base['slug']}", _base(base, places, gpu))
    # Guides of other families are of no use here; those without one serve all.
    families = {base["family"] for base in bases if places.of(base["weights"]) is not None} | {None}
    for guide in [guide for guide in guides if guide["family"] in families]:
        await report.check(f"guide {guide['slug']}", _guide(guide, places))
    await report.check("routes", _routes(settings, database, models, gpu))


class Places:
    """Where each model is: on this disk, in the bucket, or nowhere."""

    def __init__(self) -> None:
        self._on_disk: frozenset[str] = frozenset()
        self._in_bucket: frozenset[str] = frozenset()
        self.nowhere = "not on disk, and the bucket could not be listed"
        """How to describe a model that this pod does not have."""

    async def collect(self, models: BaseModels) -> str:
        self._on_disk = frozenset(await asyncio.to_thread(models.present))
        if not models.has_bucket:
            return f"{len(self._on_disk)} on disk; the bucket could not be listed"
        in_bucket = await models.in_bucket()
        self.nowhere = "neither on disk nor in the bucket"
        if await models.can_fetch():
            self._in_bucket = frozenset(in_bucket)
            return f"{len(self._on_disk)} on disk, {len(in_bucket)} in the bucket"
        self.nowhere = "not on disk, and not downloaded from the bucket: MODELS_DIR is not writable"
        return f"{len(self._on_disk)} on disk; MODELS_DIR is not writable: {len(in_bucket)} in the bucket are unused"

    def of(self, slug: str) -> str | None:
        if slug in self._on_disk:
            return "on disk"
        return "in the bucket, downloaded when first used" if slug in self._in_bucket else None


async def _kinds(settings: Settings) -> str:
    check_kinds(settings)
    kinds, unusable = load_kinds()
    accepted = "this pod accepts " + ", ".join(sorted(settings.worker_kinds or kinds))
    if unusable:
        found = "; ".join(f"{kind.message}: {kind.reason}" for kind in unusable)
        raise CheckWarning(f"{accepted}; {found}", "; ".join(kind.hint for kind in unusable))
    lacking = {name: missing for name in settings.worker_kinds if (missing := missing_packages(kinds[name]))}
    if lacking:
        without = ", ".join(f"{kind} needs {', '.join(missing)}" for kind, missing in lacking.items())
        raise CheckWarning(f"{accepted}, but {without}", "; ".join(map(extra_of, lacking)))
    return accepted


async def _models_dir(settings: Settings) -> str:
    folder = settings.models_dir
    check_models_dir(settings)
    try:
        free_gb = _free_gb("MODELS_DIR", folder)
    except SettingsError as error:
        raise CheckWarning(f"{error.problem}; this pod uses the models in it and downloads none", error.hint) from error
    limit = "" if settings.models_max_gb is None else f", MODELS_MAX_GB={settings.models_max_gb:g}"
    return f"{folder}, {free_gb:.0f} GB free{limit}"


async def _work_dir(settings: Settings) -> str:
    folder = settings.work_dir
    free_gb = _free_gb("WORK_DIR", folder)
    if free_gb < WORK_SPACE_GB:
        raise CheckWarning(
            f"{folder}, {free_gb:.1f} GB free: running jobs need up to {WORK_SPACE_GB:g} GB",
            "free some space, or set WORK_DIR to a larger local disk",
        )
    return f"{folder}, {free_gb:.0f} GB free"


def _free_gb(variable: str, folder: Path) -> float:
    """Return the free space where the folder is or will be created. Raises SettingsError if it is not writable."""
    return shutil.disk_usage(check_writable(variable, folder)).free / 1e9


async def _upscalers(places: Places) -> str:
    found = {slug: places.of(slug) for slug in UPSCALERS.values()}
    missing = [slug for slug, place in found.items() if place is None]
    if missing:
        raise SettingsError(
            f"{places.nowhere}: {', '.join(missing)}; every picture is upscaled last",
            "; ".join(map(install_command, missing)),
        )
    return ", ".join(f"{slug} {place}" for slug, place in found.items())


async def _removers(places: Places) -> str:
    found = [
        f"{slug} {place}; {RELEASED[slug].licence}, {_describe_use(commercial=RELEASED[slug].commercial_use)}"
        for slug in REMOVERS
        if (place := places.of(slug)) is not None
    ]
    if not found:
        raise CheckSkipped(
            f"{places.nowhere}: meshes are made of pictures with a transparent or plain background alone",
            " or ".join(map(install_command, REMOVERS)),
        )
    return f"{'; '.join(found)}" + (f"; {next(iter(REMOVERS))} is used" if len(found) > 1 else "")


async def _upscaler_backend(settings: Settings) -> str:
    """Import what an extra added, in a process of its own: its libraries may need others of the system."""
    check_upscaler(settings)
    if settings.upscaler == "realesrgan":
        importing = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", "import worker.ml.networks.realesrgan_backend"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await importing.communicate()
        if importing.returncode != 0:
            raise SettingsError(
                f"UPSCALER=realesrgan: it cannot be imported: {errors.decode(errors='replace').splitlines()[-1]}",
                "if libGL is missing: pip uninstall opencv-python, then pip install --force-reinstall --no-deps "
                "opencv-python-headless; or set UPSCALER=spandrel",
            )
    return settings.upscaler


async def _list_bases(database: Database, bases: list[dict[str, Any]], guides: list[dict[str, Any]]) -> str:
    bases += await database.fetch(_BASES)
    guides += await database.fetch(_GUIDES)
    if not any(base["is_default"] for base in bases):
        raise SettingsError(
            "the default base is not in worker.base_models, or worker.config has no row",
            "as the database owner: set default_base in worker.config to a base of worker.base_models",
        )
    return f"the database knows {len(bases)}, and {len(guides)} guides"


async def _guide(guide: dict[str, Any], places: Places) -> str:
    slug, place = guide["slug"], places.of(guide["slug"])
    if place is None:
        raise CheckSkipped(
            f"{places.nowhere}: this pod does not run jobs that need it",
            f"{install_command(slug)}; then, for all pods: worker models push {slug}",
        )
    use = _describe_use(commercial=guide["commercial_use"])
    return (
        f"{place}; {', '.join(guide['capabilities'])} for {guide['family'] or 'all'}, {guide['vram_gib']:g} GiB more; "
        f"{guide['licence']}, {use}"
    )


def _describe_use(*, commercial: bool) -> str:
    return "commercial use allowed" if commercial else "NOT for commercial use"


async def _base(base: dict[str, Any], places: Places, gpu: GpuCheck) -> str:
    slug, place = base["weights"], places.of(base["weights"])
    use = _describe_use(commercial=base["commercial_use"])
    about = f"{base['licence']}, {use}; {base['requirement']}"
    if gpu.usable:
        about += f"; {describe_free_memory(gpu.free_vram_gib)}"
    if slug != base["slug"]:
        about = f"the weights of {slug}; {about}"
    if place is not None:
        return f"{place}; {about}"
    hint = f"{install_command(slug)}; then, for all pods: worker models push {slug}"
    if base["is_default"]:
        raise SettingsError(
            f"{places.nowhere}, although it is the default base of jobs; {about}",
            f"{hint}; or, as the database owner, set default_base in worker.config to an available base",
        )
    raise CheckSkipped(f"{places.nowhere}: this pod does not run its jobs", hint)


async def _routes(settings: Settings, database: Database, models: BaseModels, gpu: GpuCheck) -> str:
    routes = Routes(database, models, kinds_of_pod(settings.worker_kinds))
    await routes.refresh(gpu=gpu.usable, free_vram_gib=gpu.free_vram_gib)
    offered = ", ".join(sorted(routes.slot_of))
    if routes.why_no_gpu_job is None:
        return f"this pod would accept {offered}"
    raise SettingsError(
        f"this pod would accept no GPU jobs, only {offered or 'nothing'}: {routes.why_no_gpu_job}",
        "download a base with `worker models pull`, check WORKER_KINDS, "
        "stop what else uses the GPU (a running worker does), or rent more GPU memory",
    )
