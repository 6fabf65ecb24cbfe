"""What the worker and its GPU process say to each other, and how it travels.

    worker → GPU process     TrainTask | GenerateTask, then possibly Interrupt
    GPU process → worker     Ready once; then for each task any number of
                             Phase | Progress | PhotosSkipped | CheckpointSaved
                             and exactly one of Done | Failed | Stopped

A frame is four bytes, the length of the rest as a big-endian integer, and one message as JSON. Pictures and
LoRAs never travel: they are files in the task's `workdir`.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

HEADER = struct.Struct("!I")
"""The length of the message that follows, in bytes."""


class _Message(BaseModel):
    # An error about a message must not quote it: it may hold a prompt.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


# -- tasks: every path is absolute and readable by the GPU process


class PhotoFile(_Message):
    """One training photo on disk."""

    path: Path
    caption: str
    class_caption: str | None = None
    """The caption with anybody in the person's place."""
    refused: str | None = None
    """What is wrong with it, where the worker did not fetch it: "too large (…)"."""


class LoraSettings(_Message):
    """How to train; what is None comes from the base's family (`Architecture.training_defaults`)."""

    steps: int | None = None
    rank: int | None = None
    learning_rate: float | None = None
    resolution: int | None = None
    batch_size: int | None = None
    preservation: float | None = None
    seed: int = 0


class TrainTask(_Message):
    """Train one LoRA.

    `Done.result`: the fields of `ml.train_lora.TrainedLora`; `resolved`, the settings with the family's
    defaults filled in; `seconds` a phase; `memory_plan`.
    """

    kind: Literal["train"] = "train"
    base: Path
    photos: list[PhotoFile]
    """A path where there is no file is a photo that is missing: reported and left out like one that is damaged."""
    fewest_photos: int = 1
    """With fewer that can be used the task fails."""
    config: LoraSettings = LoraSettings()
    workdir: Path
    metadata: dict[str, str] = {}
    """Goes into the LoRA file's header; never a person's name."""
    resume_from: Path | None = None
    checkpoint_every_s: float = 120.0
    checkpoint_every_steps: int | None = None


class LoraFile(_Message):
    """One LoRA to draw with."""

    path: Path
    scale: float = 1.0


class GenerateTask(_Message):
    """Draw pictures and upscale each.

    `Done.result`: `pictures`, a list of {index, seed, raw, upscaled, width, height} where raw and upscaled
    are .npy files of uint8 (H, W, 3) and width and height those of the upscaled picture; `resolved`, the
    settings with the base's defaults filled in; `seconds` a phase; `peak_gib`; `memory_plan`.
    """

    kind: Literal["generate"] = "generate"
    base: Path
    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int
    num_images: int = 1
    loras: list[LoraFile] = []
    upscaler: Path
    workdir: Path


class Interrupt(_Message):
    """Stop the task that runs; says nothing to a GPU process that has just finished it."""

    kind: Literal["interrupt"] = "interrupt"


Task = TrainTask | GenerateTask
ToChild = TrainTask | GenerateTask | Interrupt


# -- events


class Ready(_Message):
    """The libraries are imported; tasks start without delay from here."""

    kind: Literal["ready"] = "ready"
    pid: int
    device: str
    """The GPU's name, or `cpu`."""
    vram_gib: float | None
    """All memory of the GPU, used or free; None on a CPU."""


class Phase(_Message):
    """What the task does now, in words a person can read."""

    kind: Literal["phase"] = "phase"
    name: str
    stepwise: bool = False
    """It goes in steps and looks for an interrupt between them; any other phase is stopped by killing it."""


class Progress(_Message):
    """How far the task is."""

    kind: Literal["progress"] = "progress"
    fraction: float = Field(ge=0, le=1)
    phase: str
    metrics: dict[str, float | None] = {}
    """None stands for a number that is not finite."""


class SkippedPhoto(_Message):
    """A photo that cannot be trained on."""

    path: Path
    """As in the task."""
    reason: str


class PhotosSkipped(_Message):
    """The training goes on without these photos."""

    kind: Literal["photos_skipped"] = "photos_skipped"
    photos: list[SkippedPhoto]
    summary: str
    """For the app's user: how many of how many, and the first few by name."""


class CheckpointSaved(_Message):
    """The task can go on from this file, here or on another pod. The next one may replace it."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    path: Path


class Done(_Message):
    """The task's result; numbers that are not finite arrive as None."""

    kind: Literal["done"] = "done"
    result: dict[str, Any]


class Failed(_Message):
    """The task ended badly."""

    kind: Literal["failed"] = "failed"
    code: str
    """One of `errors.BY_CODE`."""
    message: str
    """For the app's user: no prompt, no folder."""
    fatal: bool = False
    """The GPU process cannot be trusted any more and ends."""


class Stopped(_Message):
    """The task saw its interrupt."""

    kind: Literal["stopped"] = "stopped"


Outcome = Done | Failed | Stopped
Event = Phase | Progress | PhotosSkipped | CheckpointSaved | Done
"""What `GpuChild.run` yields: a failure and a stop are raised there."""
Work = Generator[Phase | Progress | PhotosSkipped | CheckpointSaved, None, dict[str, Any]]
"""A task under way in the GPU process: what it reports, and in the end `Done.result`."""
FromChild = Ready | Phase | Progress | PhotosSkipped | CheckpointSaved | Done | Failed | Stopped

_TO_CHILD: TypeAdapter[ToChild] = TypeAdapter(Annotated[ToChild, Field(discriminator="kind")])
_FROM_CHILD: TypeAdapter[FromChild] = TypeAdapter(Annotated[FromChild, Field(discriminator="kind")])


def frame(message: ToChild | FromChild) -> bytes:
    """The bytes of one message on the wire."""
    body = message.model_dump_json().encode()
    return HEADER.pack(len(body)) + body


def parse_to_child(body: bytes) -> ToChild:
    """Raises ValueError for anything that is not one of these messages."""
    return _TO_CHILD.validate_json(body)


def parse_from_child(body: bytes) -> FromChild:
    """Raises ValueError for anything that is not one of these messages."""
    return _FROM_CHILD.validate_json(body)
