"""Train a LoRA for a TrainTask."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict

from worker.gpu.messages import CheckpointSaved, Event, Phase, Progress, Work
from worker.gpu.models import Models
from worker.gpu.tasks.training import (
    CaptionsCut,
    LoraSettings,
    PhotosEnlarged,
    PhotosSkipped,
    SkippedPhoto,
    TrainTask,
)
from worker.ml.phases import Phase as MlPhase
from worker.ml.phases import Underway
from worker.ml.protocol import TrainingDefaults
from worker.ml.train import captions, train_lora
from worker.ml.train.batches import Photo

MlEvent = (
    captions.CaptionsCut
    | train_lora.PhotosSkipped
    | train_lora.PhotosEnlarged
    | MlPhase
    | Underway
    | train_lora.Step
    | train_lora.Checkpoint
)


def train(task: TrainTask, models: Models) -> Work:
    """Perform a TrainTask."""
    yield Phase(name="loading the models")
    base = models.base(task.base)
    config = _config(task.config, base.family.training_defaults)
    trained = yield from _reported(
        train_lora.train(
            base,
            [Photo(photo.path, photo.caption, photo.class_caption, photo.refused) for photo in task.photos],
            config,
            train_lora.Run(
                workdir=task.workdir,
                metadata=task.metadata,
                resume_from=task.resume_from,
                checkpoint_every_s=task.checkpoint_every_s,
                min_photos=task.min_photos,
                trigger_word=task.trigger_word,
                class_name=task.class_name,
                base_digest=task.base_digest,
            ),
        )
    )
    resolved = asdict(config) | {"steps": trained.steps}
    return asdict(trained) | {"resolved": resolved}


def _config(asked: LoraSettings, defaults: TrainingDefaults) -> train_lora.LoraConfig:
    """Fill in the family's settings where the task leaves them open; `ml` derives the steps from the photos."""
    family = {
        "rank": defaults.rank,
        "learning_rate": defaults.learning_rate,
        "batch_size": defaults.batch_size,
        "caption_dropout": defaults.caption_dropout,
        "preservation": defaults.preservation,
    }
    resolutions = defaults.resolutions if asked.resolution is None else (asked.resolution,)
    given = asked.model_dump(exclude_none=True, exclude={"resolution"})
    return train_lora.LoraConfig(resolutions=resolutions, **family | given)


def _reported(
    training: Generator[MlEvent, None, train_lora.TrainedLora],
) -> Generator[Event, None, train_lora.TrainedLora]:
    """Yield the training's events as messages, and return its result."""
    with closing(training):
        while True:
            try:
                event = next(training)
            except StopIteration as end:
                trained: train_lora.TrainedLora = end.value
                return trained
            yield _message(event)


def _message(event: MlEvent) -> Event:
    match event:
        case MlPhase(name, stepwise):
            return Phase(name=name, stepwise=stepwise)
        case Underway(phase):
            return Progress(fraction=0, phase=phase)
        case captions.CaptionsCut(photos, summary):
            return CaptionsCut(photos=list(photos), summary=summary)
        case train_lora.PhotosSkipped(skipped, summary):
            unusable = [SkippedPhoto(path=photo.path, reason=photo.reason) for photo in skipped]
            return PhotosSkipped(photos=unusable, summary=summary)
        case train_lora.PhotosEnlarged(enlarged, summary):
            return PhotosEnlarged(photos=list(enlarged), summary=summary)
        case train_lora.Step(index, total, loss, learning_rate):
            metrics: dict[str, float | None] = {
                "step": index,
                "steps": total,
                "loss": loss,
                "learning_rate": learning_rate,
            }
            return Progress(fraction=index / total, phase="training", metrics=metrics)
        case train_lora.Checkpoint(step, path):
            return CheckpointSaved(step=step, path=path)
