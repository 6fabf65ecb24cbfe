"""Which routes a pod takes: a pod takes only what it can do.

A route is `{kind}/{base}`, or the kind alone. A GPU route is offered when its base is on disk or in the model bucket,
can do the kind, and fits the device. A route that failed here for the pod's own reasons is not offered for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

from worker.db import Database
from worker.models import BaseModels

REFUSE_FOR_S = 600.0


class Routes:
    """The routes of this pod, and the slot (`gpu` or `light`) that each needs."""

    def __init__(self, database: Database, models: BaseModels, kinds: Collection[str]) -> None:
        self._database = database
        self._models = models
        self._kinds = kinds
        self._refused_until: dict[str, float] = {}
        self.slot_of: dict[str, str] = {}
        """Slot by route; empty until the first `refresh`."""
        self.bases_here: list[str] = []
        """Bases on this pod's disk."""

    async def refresh(self, *, gpu: bool, vram_gib: float | None) -> bool:
        """Look again at kinds, bases, disk and bucket; True when the offer changed. No GPU routes while `gpu` is False.

        `vram_gib` is None on a CPU, which takes only bases that need no GPU memory.
        """
        kinds = await self._database.fetch(
            "select kind, slot from worker.job_kinds where kind = any(%s)", [list(self._kinds)]
        )
        offered = {row["kind"]: "light" for row in kinds if row["slot"] == "light"}
        self.bases_here = await asyncio.to_thread(self._models.present)
        if gpu:
            within_reach = set(self.bases_here) | set(await self._models.in_bucket())
            bases = await self._database.fetch(
                "select slug, capabilities from worker.base_models where slug = any(%s) and min_vram_gib <= %s",
                [sorted(within_reach), vram_gib or 0],
            )
            for kind in (row["kind"] for row in kinds if row["slot"] == "gpu"):
                for base in bases:
                    if kind != "training" or "train" in base["capabilities"]:
                        offered[f"{kind}/{base['slug']}"] = "gpu"
        offered = {route: slot for route, slot in offered.items() if not self._is_refused(route)}
        changed, self.slot_of = offered != self.slot_of, offered
        return changed

    def refuse(self, route: str) -> None:
        """Stop offering a route for ten minutes: this pod cannot do it."""
        self._refused_until[route] = time.monotonic() + REFUSE_FOR_S
        self.slot_of.pop(route, None)

    def _is_refused(self, route: str) -> bool:
        return self._refused_until.get(route, 0) > time.monotonic()
