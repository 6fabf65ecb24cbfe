"""The kinds of job that this worker can do: the core's, and those of installed packages.

A package adds each kind by an entry point, which has the kind's name and loads a `Kind`:

    [project.entry-points."likeness.kinds"]
    echo = "likeness_echo.kind:KIND"

Its parts, as the core's kinds have them in `worker/handlers`, `worker/gpu/tasks` and `worker/gpu/performers`:

    likeness_echo/kind.py, imported by every pod, without torch

        class EchoRequest(Row):                     # the request columns of its table, and `inputs`
            words: str
            seed: int

        def texts(job: StartedJob) -> Iterator[Text]:
            yield Text("the words", job.request(EchoRequest).words)

        async def echo(lease: Lease, context: JobContext) -> dict[str, Any]:
            request = lease.job.request(EchoRequest)
            return await context.compute_result(EchoTask(words=request.words), lease)

        KIND = Kind("echo", echo, texts, tasks=(EchoTask,))

    likeness_echo/task.py, only for a kind that uses the GPU; imported by both processes, without torch

        class EchoTask(Task):
            performer: ClassVar[str] = "likeness_echo.performer:perform"
            words: str

    likeness_echo/performer.py, imported by the GPU process alone

        def perform(task: EchoTask, models: Models) -> Work:
            yield Phase(name="listening", stepwise=True)
            return {"words": task.words}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import structlog

from worker.gpu.messages import Task
from worker.gpu.tasks.generation import GenerateTask
from worker.gpu.tasks.mesh import MeshTask
from worker.gpu.tasks.training import TrainTask
from worker.guard.prompts import Text
from worker.handlers import generation, mesh, publish_lora, training
from worker.handlers.context import Handler
from worker.jobs.started_job import StartedJob
from worker.models import UPSCALERS
from worker.storage.lora_cache import StoredLora

log = structlog.get_logger()

GROUP = "likeness.kinds"
"""The entry points of packages that add kinds."""


def no_texts(job: StartedJob) -> Sequence[Text]:
    """Return nothing, for a kind whose jobs have no text for a model."""
    return ()


def no_loras(inputs: dict[str, Any]) -> Sequence[StoredLora]:
    """Return nothing, for a kind whose jobs use no LoRA."""
    return ()


def no_keys(inputs: dict[str, Any]) -> Sequence[str]:
    """Return nothing, for a kind whose jobs need no object of one person."""
    return ()


@dataclass(frozen=True)
class Kind:
    """The worker's part of a kind of job. SQL has the rest: table, purpose, slot, what may be published.

    Before every `run` the worker screens `texts`, and checks again that every person in the job consents. A kind that
    uses the GPU has the slot `gpu`. If its table has a column `base`, a pod offers a route for each base model that it
    can load, also with guides, otherwise one route for the kind.
    """

    name: str
    """As in `worker.job_kinds`."""
    run: Handler
    """Runs a started attempt and returns its result, for the SQL hooks `result_keys`, `result_error` and `publish`.

    It registers what it uploads with `lease.stage`, every key under `lease.job.prefix`; passes its GPU work to
    `context.compute` and calls `context.mark_computed` when the GPU is free; raises one of `worker.errors` (any other
    exception is `internal`). It may be cancelled at any await and run again: it must be safe to run twice."""
    texts: Callable[[StartedJob], Iterable[Text]]
    """All words of a job that will reach a model, merged as the model reads them; `no_texts` if there are none."""
    tasks: Collection[type[Task]] = ()
    """The tasks that `run` sends to the GPU process, which imports their performers before it is ready."""
    required_models: Collection[str] = ()
    """Models that its jobs need besides the base model: without all of them, a pod offers no GPU route of the kind."""
    required_packages: Collection[str] = ()
    """Packages of an extra, by the names under which they are imported: without all of them, a pod offers no GPU route
    of the kind. For a kind of the worker's own, the extra has the kind's name."""
    prefetch: Callable[[dict[str, Any]], Iterable[StoredLora]] = no_loras
    """The LoRAs of a waiting job, from the `inputs` that its SQL hook `prefetch` returns. While its GPU is busy, a pod
    fetches them, the base and the job's guides, a person's LoRA only if that person still consents."""
    prefetch_keys: Callable[[dict[str, Any]], Iterable[str]] = no_keys
    """The objects in the uploads bucket that a waiting job needs, from the same `inputs`: only such as show one person,
    under whose prefix they are. They are fetched as LoRAs are, and so is the job's checkpoint;
    `JobContext.download_of` finds them."""


CORE = (
    Kind("training", training.train, training.texts, (TrainTask,), prefetch_keys=training.photos),
    Kind(
        "generation",
        generation.generate,
        generation.texts,
        (GenerateTask,),
        UPSCALERS.values(),
        prefetch=generation.loras,
        prefetch_keys=generation.pictures,
    ),
    Kind("publish_lora", publish_lora.publish_lora, no_texts),
    Kind(
        "mesh",
        mesh.make_mesh,
        no_texts,
        (MeshTask,),
        required_packages=("embreex", "fast_simplification", "onnxruntime", "skimage", "trimesh", "xatlas", "yaml"),
        prefetch_keys=mesh.pictures,
    ),
)


@dataclass(frozen=True)
class UnusableKind:
    """An entry point that this worker cannot use."""

    name: str
    package: str
    reason: str

    @property
    def message(self) -> str:
        return f"kind {self.name} of package {self.package} cannot be used"

    @property
    def hint(self) -> str:
        return f"update {self.package}, or uninstall it"


def load_kinds() -> tuple[dict[str, Kind], list[UnusableKind]]:
    """Return every kind by its name, and the entry points that cannot be used; raises nothing that a package raises."""
    kinds = {kind.name: kind for kind in CORE}
    unusable = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, _package(entry))):
        try:
            if entry.name in kinds:
                raise ValueError("another kind has its name")
            kinds[entry.name] = _load(entry)
        except (Exception, SystemExit) as error:
            unusable.append(UnusableKind(entry.name, _package(entry), f"{type(error).__name__}: {error}"))
    return kinds, unusable


def kinds_of_pod(wanted: Collection[str]) -> dict[str, Kind]:
    """Return the kinds of a pod, all if `wanted` is empty; logs those that cannot be used."""
    kinds, unusable = load_kinds()
    for kind in unusable:
        if not wanted or kind.name in wanted:
            log.error("kind.unusable", kind=kind.name, message=kind.message, reason=kind.reason, hint=kind.hint)
    return {name: kind for name, kind in kinds.items() if not wanted or name in wanted}


def _load(entry: EntryPoint) -> Kind:
    kind = entry.load()
    if not isinstance(kind, Kind):
        raise TypeError(f"{entry.value} is not a worker.kinds.Kind")
    if kind.name != entry.name:
        raise ValueError(f"{entry.value} is named {kind.name!r}, its entry point {entry.name!r}")
    return kind


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.module
