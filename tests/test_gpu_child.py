"""Inside the GPU process: how a task is stopped, and the messages of failures."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from worker import errors
from worker.gpu.child import Reporter, drain
from worker.gpu.failures import failure
from worker.gpu.messages import FromChild, Phase, Progress, Stopped, Work
from worker.gpu.models import Models
from worker.gpu.performers.generation import generate
from worker.gpu.tasks.generation import GenerateTask
from worker.ml import errors as ml_errors
from worker.ml.models import Base, load


def test_no_step_starts_after_an_interrupt() -> None:
    begun = []
    stop = threading.Event()

    def work() -> Work:
        for step in range(10):
            begun.append(step)
            yield Progress(fraction=step / 10, phase="training")
            if step == 3:
                stop.set()  # while step 4 is computed
        return {}

    outcome = drain(work(), stop, Reporter(lambda event: None))

    assert outcome == Stopped()
    assert begun == [0, 1, 2, 3, 4]


def test_throttled_progress_is_sent_before_the_next_event() -> None:
    sent: list[FromChild] = []
    report = Reporter(sent.append)

    for step in range(1, 101):
        report(Progress(fraction=step / 100, phase="training"))
    report(Phase(name="writing"))

    assert sent[0] == Progress(fraction=0.01, phase="training"), "the first is sent at once"
    assert sent[-2:] == [Progress(fraction=1, phase="training"), Phase(name="writing")]
    assert len(sent) < 100


@pytest.mark.parametrize(
    ("error", "code", "fatal"),
    [
        (ml_errors.BadInput("the photo is broken"), "invalid_input", False),
        (ml_errors.ModelUnreadable("the LoRA is broken"), "invalid_input", False),
        (errors.ModelMissing("no base"), "model_missing", False),
        (ml_errors.PrecisionUnsupported("float16 is not enough"), "model_missing", False),
        (ml_errors.NotFinite("float16 is left"), "model_missing", False),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", True),
        (MemoryError(), "out_of_memory", True),
        (torch.AcceleratorError("an illegal memory access"), "internal", True),
        (RuntimeError("size mismatch"), "internal", False),
        (OSError(28, "No space left on device", "/secret/folder/file.bin"), "internal", False),
    ],
)
def test_every_error_has_a_code_and_only_a_damaged_process_ends(error: Exception, code: str, fatal: bool) -> None:
    failed = failure(error, "training")
    assert (failed.code, failed.fatal) == (code, fatal)


def test_a_failure_message_quotes_no_library_and_no_folder() -> None:
    quoting = failure(RuntimeError("a prompt about Ada"), "drawing").message
    assert quoting == "RuntimeError while drawing; the pod's log says where"
    full = failure(OSError(28, "No space left on device", "/secret/folder/file.bin"), "training").message
    assert full == "OSError while training: No space left on device: file.bin"


def test_every_error_class_of_ml_has_a_code_of_its_own() -> None:
    for cls in vars(ml_errors).values():
        if isinstance(cls, type) and issubclass(cls, Exception):
            assert failure(cls("x"), "training").code != "internal", cls


class QuantisingModels(Models):
    """Models whose base is used in int8, as on a GPU with little memory."""

    def base(self, folder: Path) -> Base:
        return load(folder, "cpu", forms=("int8",))

    def upscaler(self, path: Path, backend: str) -> Any:
        return None


def test_a_drawing_can_be_stopped_while_a_part_is_quantised(tiny_models: Path, tmp_path: Path) -> None:
    """It once listened only when all layers were done, and was killed with all of its models."""
    stop, sent = threading.Event(), list[FromChild]()
    task = GenerateTask(
        base=tiny_models / "tiny-flux", prompt="a portrait", seed=7, upscaler=tmp_path / "none", workdir=tmp_path
    )

    def send(event: FromChild) -> None:
        sent.append(event)
        if isinstance(event, Progress):
            stop.set()

    assert drain(generate(task, QuantisingModels()), stop, Reporter(send)) == Stopped()
    quantising = "quantising the transformer to int8"
    assert sent[-2:] == [Phase(name=quantising, stepwise=True), Progress(fraction=0, phase=quantising)]
