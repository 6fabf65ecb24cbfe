"""Train a LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from worker.gpu.messages import Event, Message, Task


class SkippedPhoto(Message):
    """A photo that cannot be used for training."""

    path: Path
    """As in the task."""
    reason: str


class PhotosSkipped(Event):
    """The training continues without these photos."""

    photos: list[SkippedPhoto]
    summary: str
    """For the app's user: how many of all photos, and the names of the first few."""


class PhotosEnlarged(Event):
    """These photos are too small for the lowest resolution, and are trained at that."""

    photos: list[Path]
    """As in the task."""
    summary: str
    """For the app's user: how many of all photos, and the names of the first few."""


class CaptionsCut(Event):
    """An encoder of the base reads only the beginning of these photos' captions."""

    photos: list[Path]
    """As in the task."""
    summary: str
    """For the app's user: how many of all captions, which encoders, and the names of the first few photos."""


class PhotoFile(Message):
    """One training photo on disk."""

    path: Path
    caption: str
    class_caption: str | None = None
    """The caption with the class in the person's place."""
    refused: str | None = None
    """Why the worker did not download it: "too large (…)"."""


class LoraSettings(Message):
    """How to train. The handler fills it in from its `TrainingRequest`; None leaves a setting to the base's family."""

    steps: int | None = None
    rank: int | None = None
    learning_rate: float | None = None
    resolution: int | None = None
    """The only one; a family may train several in turn."""
    batch_size: int | None = None
    preservation: float | None = None
    seed: int = 0


class TrainTask(Task):
    """Train one LoRA; reports CheckpointSaved, CaptionsCut, PhotosSkipped and PhotosEnlarged.

    `Done.result`: the fields of `ml.train_lora.TrainedLora`; `resolved`, the settings with the family's
    defaults filled in; `seconds` a phase; `memory_plan`.
    """

    performer: ClassVar[str] = "worker.gpu.performers.training:train"
    events: ClassVar[tuple[type[Event], ...]] = (CaptionsCut, PhotosSkipped, PhotosEnlarged)

    base: Path
    photos: list[PhotoFile]
    """A path without a file is a missing photo: reported and skipped like a damaged one."""
    min_photos: int = 1
    """The task fails if fewer photos can be used."""
    trigger_word: str | None = None
    """Of the captions; put first where an encoder would not read it."""
    class_name: str | None = None
    """What stands in its place in the captions of the class."""
    base_digest: str = ""
    """Of the base's files; a checkpoint of other ones is not resumed."""
    config: LoraSettings = LoraSettings()
    workdir: Path
    metadata: dict[str, str] = Field(default_factory=dict)
    """Written to the LoRA file's header; never a person's name."""
    resume_from: Path | None = None
    checkpoint_every_s: float = 120.0
