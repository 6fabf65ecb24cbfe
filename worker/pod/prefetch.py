"""While the GPU is busy, bring what the next job will need. A wrong guess costs a download: nothing is claimed."""

from __future__ import annotations

import asyncio

import structlog
from pydantic import TypeAdapter

from worker.database.pool import Database
from worker.database.transient import is_transient
from worker.errors import WorkerError
from worker.jobs.lease import TrainedModel
from worker.models import BaseModels
from worker.storage.lora_cache import LoraCache
from worker.storage.workspace import Workspace

log = structlog.get_logger()

LOOK_AHEAD = 1
_MODELS = TypeAdapter(list[TrainedModel])


async def warm(
    database: Database, models: BaseModels, loras: LoraCache, workspace: Workspace, routes: list[str]
) -> None:
    """Fetch base and LoRAs of the job at the head of these routes; `worker.peek` names only people who agree."""
    try:
        for waiting in await database.call_once("peek", routes, LOOK_AHEAD):
            if waiting["base"] is not None:
                # A guess evicts nothing: the running job may still be loading what was used before.
                await models.ensure(waiting["base"], may_evict=False)
            folder = await asyncio.to_thread(workspace.attempt, f"warming-{waiting['id']}")
            try:
                for model in _MODELS.validate_python(waiting["models"]):
                    # Again, because the base may have taken an hour.
                    if await _agrees(database, model):
                        await loras.get(model, folder)
            finally:
                await asyncio.to_thread(workspace.end_attempt, folder)
    except (WorkerError, OSError) as error:
        log.info("warming.failed", reason=type(error).__name__)  # the job itself will say what is wrong
    except Exception as error:
        if not is_transient(error):
            log.exception("warming.crashed")  # no reason to end the process: whatever it is, the job will meet it
        else:
            log.info("warming.failed", reason=type(error).__name__)


async def _agrees(database: Database, model: TrainedModel) -> bool:
    if model.subject_id is None:
        return True
    return await database.call_once("consent_error", model.subject_id, "generation") is None
