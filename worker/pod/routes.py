"""Which routes a pod offers: only what it can do.

A route is `{kind}/{base}`, with `+{guide}` for each guide that the job needs, or the kind alone. A GPU route is offered
when its base and its guides are on disk or in the model bucket, support the kind and fit together into the device's
free memory, and when the models that the kind requires are available too. A route that failed because of this pod is
not offered for a while.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import time
from collections.abc import Iterable, Mapping

import structlog

from worker.database.pool import Database
from worker.kinds import Kind
from worker.models import BaseModels, install_command

log = structlog.get_logger()

REFUSE_FOR_S = 600.0

_SUITABLE = """
    select worker.memory_requirement(base) as requirement,
           worker.required_vram_gib(base, required) <= coalesce(%s, 0) as fits
    from worker.job_kinds kinds
    cross join lateral worker.required_capabilities(kinds.kind) required
    join worker.base_models base on worker.base_serves(base, kinds.kind)
    where kinds.uses_base and kinds.kind = any(%s) and worker.weights_slug(base) = any(%s)
    order by base.slug"""
"""The bases that can do what a kind needs, and whether there is enough free memory to."""

_KNOWN = "select slug from worker.base_models base where worker.weights_slug(base) = any(%s)"


class Routes:
    """The routes of this pod, and the slot (`gpu` or `light`) that each needs."""

    def __init__(self, database: Database, models: BaseModels, kinds: Mapping[str, Kind]) -> None:
        self._database = database
        self._models = models
        self._kinds = kinds
        self._refused_until: dict[str, float] = {}
        self._asked_for: tuple[bool, float | None, str | None, frozenset[str]] | None = None
        self._possible: dict[str, str] = {}
        self._weights_of: dict[str, str] = {}
        self.slot_of: dict[str, str] = {}
        """The routes that this pod offers now, each with its slot; empty until the first `refresh`."""
        self.models_in_reach: list[str] = []
        """Models on this pod's disk or in the bucket, upscalers among them."""
        self.why_no_gpu_job: str | None = None
        """Why no GPU route is offered; None where one is, or none is wanted."""

    async def refresh(self, *, gpu: bool, free_vram_gib: float | None, digest: str | None = None) -> bool:
        """Work out `slot_of` and `models_in_reach` again from kinds, base models, disk and bucket.

        Return True if one of them changed. Without `gpu` no GPU routes are offered.

        `free_vram_gib` is None on a CPU, which supports only base models that need no GPU memory. `digest` stands for
        the kinds and base models in the database, which is asked only where one of these has changed.
        """
        in_reach = set(await asyncio.to_thread(self._models.present))
        if gpu and await self._models.can_fetch():
            in_reach |= set(await self._models.in_bucket())
        known = (gpu, free_vram_gib, digest, frozenset(in_reach))
        if known != self._asked_for:
            self._possible = await self._ask(gpu, free_vram_gib, in_reach)
            shared = await self._database.fetch(
                "select slug, weights_of from worker.base_models where weights_of is not null"
            )
            self._weights_of = {row["slug"]: row["weights_of"] for row in shared}
            self._asked_for = known
        offered = {route: slot for route, slot in self._possible.items() if not self._is_refused(route)}
        changed = (offered, sorted(in_reach)) != (self.slot_of, self.models_in_reach)
        self.slot_of, self.models_in_reach = offered, sorted(in_reach)
        return changed

    async def _ask(self, gpu: bool, free_vram_gib: float | None, in_reach: set[str]) -> dict[str, str]:
        """Return every route that this pod can run, with its slot; sets `why_no_gpu_job`."""
        kinds = await self._database.fetch(
            "select kind, slot, uses_base from worker.job_kinds where kind = any(%s)", [list(self._kinds)]
        )
        possible = {row["kind"]: "light" for row in kinds if row["slot"] == "light"}
        gpu_kinds = {row["kind"]: row["uses_base"] for row in kinds if row["slot"] == "gpu"}
        if gpu:
            for kind, uses_base in gpu_kinds.items():
                possible |= dict.fromkeys(await self._gpu_routes(kind, uses_base, in_reach, free_vram_gib), "gpu")
            self._warn_of_missing_models(gpu_kinds, in_reach)
        why = None
        if gpu_kinds and "gpu" not in possible.values():
            why = await self._why_no_gpu_job(gpu_kinds, in_reach, free_vram_gib) if gpu else "its GPU is not ready"
        if gpu and why is not None and why != self.why_no_gpu_job:
            log.warning("routes.gpu_unavailable", message="this pod accepts no GPU job", reason=why)
        self.why_no_gpu_job = why
        return possible

    async def _gpu_routes(
        self, kind: str, uses_base: bool, in_reach: set[str], free_vram_gib: float | None
    ) -> list[str]:
        """Return the routes of each base in reach that fits this device and supports the kind, or the kind's own.

        Empty without the models and packages that the kind requires.
        """
        if not in_reach.issuperset(self._kinds[kind].required_models):
            return []
        routes: list[str] = [kind]
        if uses_base:
            routes = await self._database.call_once("usable_routes", kind, sorted(in_reach), free_vram_gib)
        missing = missing_packages(self._kinds[kind])
        if routes and missing:
            message = f"this pod accepts no {kind} job"
            log.warning("routes.package_missing", kind=kind, message=message, missing=missing, hint=extra_of(kind))
            return []
        return routes

    def _warn_of_missing_models(self, gpu_kinds: Iterable[str], in_reach: set[str]) -> None:
        for kind in gpu_kinds:
            missing = sorted(set(self._kinds[kind].required_models) - in_reach)
            if missing:
                hint = "; ".join(map(install_command, missing))
                message = f"this pod accepts no {kind} job"
                log.warning("routes.model_missing", kind=kind, message=message, missing=missing, hint=hint)

    async def _why_no_gpu_job(self, kinds: Iterable[str], in_reach: set[str], free_vram_gib: float | None) -> str:
        bases = sorted(in_reach)
        if not await self._database.fetch(_KNOWN, [bases]):
            return "no base of worker.base_models is on this disk, or in the bucket and can be fetched"
        suitable = await self._database.fetch(_SUITABLE, [free_vram_gib, list(kinds), bases])
        if suitable and not any(row["fits"] for row in suitable):
            requirements = dict.fromkeys(row["requirement"] for row in suitable)
            return f"{'; '.join(requirements)}; {describe_free_memory(free_vram_gib)}"
        return "no base at hand can do its kinds, or a model that they require is missing"

    def weights_of(self, route: str) -> str:
        """Return the base model whose weights a route needs; empty for that of a kind alone."""
        return self._weights_of.get(base := base_of(route), base)

    def refuse(self, route: str) -> None:
        """Stop offering a route for REFUSE_FOR_S."""
        self._refused_until[route] = time.monotonic() + REFUSE_FOR_S
        self.slot_of.pop(route, None)

    def _is_refused(self, route: str) -> bool:
        return self._refused_until.get(route, 0) > time.monotonic()


def missing_packages(kind: Kind) -> list[str]:
    """Return the packages that a kind requires and that are not installed."""
    return [package for package in kind.required_packages if importlib.util.find_spec(package) is None]


def extra_of(kind: str) -> str:
    """Return the command that installs the packages of a kind of the worker's own."""
    return f"pip install 'likeness-worker[{kind}]'"


def base_of(route: str) -> str:
    """Return the base model in a route, as `worker.base_of_route` does; empty for that of a kind alone."""
    return route.partition("/")[2].partition("+")[0]


def describe_free_memory(free_vram_gib: float | None) -> str:
    """Return what this pod has, to follow `worker.memory_requirement`. Rounded down, as in `worker.why_stranded`."""
    return "this pod has no GPU" if free_vram_gib is None else f"this pod has {math.floor(free_vram_gib * 10) / 10:g}"
