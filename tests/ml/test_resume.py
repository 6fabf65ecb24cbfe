"""A training that was interrupted and resumed elsewhere equals the uninterrupted one, bit for bit on a CPU."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.ml.families import only_flux
from tests.ml.runs import finish, lora_config
from worker.ml import models
from worker.ml.models import Base
from worker.ml.phases import Phase
from worker.ml.train.batches import Photo
from worker.ml.train.train_lora import Checkpoint, Run, Step, TrainedLora, train

CONFIG = lora_config(
    steps=8,
    rank=4,
    learning_rate=3e-3,
    resolution=32,
    batch_size=2,
    seed=9,
    caption_dropout=0.3,
    preservation=0.5,  # so that step 7 has only preserved samples, and repeats a loss from before a checkpoint
)
METADATA = {"base": "tiny-flux", "trigger_word": "ohwx", "date": "2024-05-01"}


@dataclass(frozen=True)
class Whole:
    """The uninterrupted run, and its checkpoints by step."""

    trained: TrainedLora
    losses: list[float]
    checkpoints: dict[int, Path]


@pytest.fixture(scope="module")
def photos(photos: list[Photo]) -> list[Photo]:
    return [replace(photo, class_caption="a photo of a person") for photo in photos]


@pytest.fixture(scope="module")
def whole(base: Base, photos: list[Photo], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    workdir, kept = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("kept")
    losses, checkpoints = [], {}
    run = train(base, photos, CONFIG, Run(workdir, METADATA, checkpoint_every_s=0))
    while True:
        try:
            event = next(run)
        except StopIteration as end:
            return Whole(end.value, losses, checkpoints)
        if isinstance(event, Step):
            losses.append(event.loss)
        if isinstance(event, Checkpoint):
            checkpoints[event.step] = event.path.rename(kept / event.path.name)


@pytest.mark.parametrize("stopped_after", [1, 6])
def test_resumed_equals_uninterrupted(
    tiny_base: Path, photos: list[Photo], whole: Whole, tmp_path: Path, stopped_after: int
) -> None:
    fresh = models.load(tiny_base, "cpu")
    run = train(fresh, photos, CONFIG, Run(tmp_path, METADATA, resume_from=whole.checkpoints[stopped_after]))
    resumed = finish(run)
    assert resumed.path.read_bytes() == whole.trained.path.read_bytes()
    assert resumed.sha256 == whole.trained.sha256
    assert resumed.final_loss == whole.trained.final_loss
    assert resumed.losses.read_bytes() == whole.trained.losses.read_bytes()


@only_flux  # what a process has of its own is the same for every family
def test_resumed_in_another_process_equals_uninterrupted(
    tiny_base: Path, photos: list[Photo], whole: Whole, tmp_path: Path
) -> None:
    """State of the process (global random state, hash seeds) must not matter."""
    task = (tiny_base, photos, CONFIG, tmp_path, METADATA, whole.checkpoints[6])
    code = (
        "import pickle, sys; from worker.ml import models; from worker.ml.train import train_lora;"
        "from tests.ml.runs import finish;"
        "base, photos, config, workdir, metadata, checkpoint = pickle.load(sys.stdin.buffer);"
        "run = train_lora.Run(workdir, metadata, resume_from=checkpoint);"
        "finish(train_lora.train(models.load(base, 'cpu'), photos, config, run))"
    )
    subprocess.run([sys.executable, "-c", code], input=pickle.dumps(task), check=True)
    assert (tmp_path / "lora.safetensors").read_bytes() == whole.trained.path.read_bytes()


@only_flux
def test_another_seed_gives_another_lora(base: Base, photos: list[Photo], whole: Whole, tmp_path: Path) -> None:
    run = train(base, photos, replace(CONFIG, seed=10), Run(tmp_path, METADATA))
    assert finish(run).sha256 != whole.trained.sha256


def test_the_losses_are_kept_from_the_first_step(whole: Whole) -> None:
    kept = json.loads(whole.trained.losses.read_text("utf-8"))
    assert kept == [[step, loss] for step, loss in enumerate(whole.losses, start=1)]


@only_flux
def test_checkpoints_are_also_written_by_time_and_two_are_kept(base: Base, photos: list[Photo], tmp_path: Path) -> None:
    run = train(base, photos[:2], replace(CONFIG, steps=5), Run(tmp_path, checkpoint_every_s=0))
    steps = [event.step for event in run if isinstance(event, Checkpoint)]
    assert steps == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-3.safetensors",
        "checkpoint-4.safetensors",
    ]


@only_flux
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda photos: (photos[:-1], CONFIG), "photos"),
        (lambda photos: ([replace(photos[0], caption="a wall"), *photos[1:]], CONFIG), "photos"),
        (lambda photos: ([replace(photos[0], class_caption="a wall"), *photos[1:]], CONFIG), "photos"),
        (lambda photos: (photos, replace(CONFIG, rank=5)), "settings"),
        (lambda photos: (photos, replace(CONFIG, seed=1)), "settings"),
    ],
)
def test_a_checkpoint_of_another_training_is_ignored_and_training_starts_again(
    base: Base, photos: list[Photo], whole: Whole, tmp_path: Path, change: Callable[..., object], what: str
) -> None:
    others, config = change(photos)
    config = replace(config, steps=2)
    events = list(train(base, others, config, Run(tmp_path, resume_from=whole.checkpoints[5])))
    assert any(what in event.name for event in events if isinstance(event, Phase))
    assert [event.index for event in events if isinstance(event, Step)] == [1, 2]


@only_flux
def test_a_damaged_checkpoint_is_ignored_and_training_starts_again(
    base: Base, photos: list[Photo], whole: Whole, tmp_path: Path
) -> None:
    cut = tmp_path / "checkpoint-5.safetensors"
    cut.write_bytes(whole.checkpoints[5].read_bytes()[:-10])
    trained = finish(train(base, photos, CONFIG, Run(tmp_path, METADATA, resume_from=cut)))
    assert trained.sha256 == whole.trained.sha256
