"""Generate pictures and upscale each."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from worker.gpu.messages import Message, Task

UpscalerBackend = Literal["spandrel", "realesrgan"]
"""The package that runs the upscaler's network."""


class LoraFile(Message):
    """One LoRA to generate with."""

    path: Path
    scale: float = 1.0


class GuideFile(Message):
    """What else steers the pictures: references, or a control picture."""

    capability: str
    """Of the base model: "reference", or "control:KIND"."""
    model: Path | None
    """The guide's folder; None for one that is built into the base model."""
    detector: Path | None = None
    """The folder of what makes the map of a control picture that is a photo."""
    pictures: list[Path]
    """Encoded files of any kind that `ml.photos` reads."""
    scale: float = 1.0
    start: float = 0.0
    """It is used from this share of the steps on, up to `end`."""
    end: float = 1.0


class GenerateTask(Task):
    """Generate pictures and upscale each. None leaves a setting to the base model.

    `Done.result`: `pictures`, a list of {index, seed, raw, upscaled, width, height} where raw and upscaled
    are .npy files of uint8 (H, W, 3) and width and height those of the upscaled picture; `resolved`, the
    settings with the base's defaults filled in; `seconds` a phase; `peak_gib`; `memory_plan`.
    """

    performer: ClassVar[str] = "worker.gpu.performers.generation:generate"

    base: Path
    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    clip_skip: int | None = None
    seed: int
    num_images: int = 1
    loras: list[LoraFile] = Field(default_factory=list)
    trigger_words: list[str] = Field(default_factory=list)
    """Put first where an encoder would not read them in the prompt."""
    guides: list[GuideFile] = Field(default_factory=list)
    upscaler: Path
    upscaler_backend: UpscalerBackend = "spandrel"
    workdir: Path
