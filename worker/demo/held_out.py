"""How much a LoRA has learnt, as a number: the loss on held-out photographs at fixed noise, with and without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from worker.demo.torch_environment import torch_environment

DRAWS = 16
"""Times of the noise schedule at which each photograph is measured."""


class Question(TypedDict):
    """What the measuring process reads from its standard input."""

    base: str
    photos: list[tuple[str, str]]
    resolution: int
    loras: dict[str, str | None]


class NotMeasured(RuntimeError):
    """The measuring process failed; the message ends with its own error output."""


def held_out_losses(
    base: Path, photos: Sequence[tuple[Path, str]], resolution: int, loras: Mapping[str, Path | None], scratch: Path
) -> dict[str, float]:
    """Measure the loss for each LoRA file (None: the base alone), everything else being equal; returned by label.

    Args:
        photos: files and captions.
        scratch: where the measuring process may leave files.

    Raises:
        NotMeasured: a file cannot be used.
    """
    question = Question(
        base=str(base),
        photos=[(str(path), caption) for path, caption in photos],
        resolution=resolution,
        loras={label: str(path) if path else None for label, path in loras.items()},
    )
    answer = subprocess.run(
        [sys.executable, "-m", "worker.demo.held_out_loss"],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        env=os.environ | torch_environment(scratch),
        start_new_session=True,  # Ctrl-C reaches the demo alone, which ends this process at once
    )
    if answer.returncode != 0:
        raise NotMeasured(f"the held-out loss could not be measured:\n{answer.stderr[-2000:]}")
    losses: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return losses
