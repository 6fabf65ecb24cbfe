"""The contract of a model family: everything that a family does in its own way, and nothing else.

Loops, files, jobs and devices belong to the callers. They pass a base's parts around as `Parts`: an opaque object
(today a diffusers pipeline) that only its own architecture looks into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch

Parts = Any
Grid = tuple[int, int]
"""Height and width of a picture in tokens; `token_px` pixels to a token."""


@dataclass(frozen=True)
class TrainingDefaults:
    """A family's published LoRA settings: written in its own file, they fill in what a `LoraSettings` leaves open."""

    rank: int
    learning_rate: float
    resolutions: tuple[int, ...]  # from the lowest up; they are trained in turn
    batch_size: int
    caption_dropout: float
    steps_per_photo: int
    min_steps: int
    max_steps: int
    preservation: float = 0.25

    def steps(self, photo_count: int) -> int:
        """Return the number of steps for this many photos."""
        return min(max(self.steps_per_photo * photo_count, self.min_steps), self.max_steps)


@dataclass(frozen=True)
class PictureDefaults:
    """A base's settings where the request has none."""

    width: int
    height: int
    steps: int
    guidance: float


@dataclass(frozen=True)
class Text:
    """Encoded prompts, on the device, in the base's dtype."""

    tokens: torch.Tensor  # (B, L, D)
    pooled: torch.Tensor  # (B, P); P = 0 in a family without such an embedding


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler, set to the timesteps of one picture, and the extra arguments of its `step`."""

    scheduler: Any
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def timesteps(self) -> torch.Tensor:
        """(S,): one evaluation of the denoiser each. Some schedulers evaluate more often than they were asked to."""
        return cast(torch.Tensor, self.scheduler.timesteps)

    def step(self, predicted: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents at the next timestep."""
        return cast(torch.Tensor, self.scheduler.step(predicted, timestep, latents, **self.extra, return_dict=False)[0])


class Architecture(Protocol):
    """One family.

    Latents are (B, …) in the shape that the denoiser expects, and normalised for it: FLUX packs tokens
    (B, N, C), SD 1.5 has pictures (B, C, h, w). Time is (B,) in the unit of the denoiser.
    """

    family: str
    training_defaults: TrainingDefaults
    not_loaded: tuple[str, ...]
    """Parts that a base of this family may have and that are not loaded."""
    encoders: tuple[str, ...]
    denoiser: str
    autoencoder: str
    working_gib: float
    """Device memory that a picture of the default size needs in addition to the parts."""

    def load(self, folder: Path, dtype: torch.dtype) -> Parts: ...

    def modules(self, parts: Parts) -> Mapping[str, torch.nn.Module]: ...

    def token_px(self, parts: Parts) -> int: ...

    # prompts and pictures
    def encode_prompts(self, parts: Parts, prompts: Sequence[str], device: torch.device) -> Text: ...

    def cut_encoders(self, parts: Parts, prompt: str) -> tuple[str, ...]: ...

    def encode_picture(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor: ...

    def decode_picture(self, parts: Parts, latents: torch.Tensor, grid: Grid) -> torch.Tensor: ...

    # denoising
    def picture_defaults(self, parts: Parts) -> PictureDefaults: ...

    def uses_cfg(self, parts: Parts, guidance: float) -> bool: ...

    def sampler(
        self, parts: Parts, grid: Grid, steps: int, device: torch.device, generator: torch.Generator
    ) -> Sampler: ...

    def first_noise(
        self, parts: Parts, sampler: Sampler, grid: Grid, generator: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor: ...

    def denoiser_input(
        self, sampler: Sampler, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def predict(
        self,
        parts: Parts,
        latents: torch.Tensor,
        time: torch.Tensor,
        text: Text,
        grid: Grid,
        guidance: float,
    ) -> torch.Tensor: ...

    # training
    training_guidance: float

    def sample_timestep(self, parts: Parts, grid: Grid, generator: torch.Generator) -> torch.Tensor: ...

    def even_times(self, parts: Parts, count: int) -> torch.Tensor: ...

    def noised_input_and_target(
        self, parts: Parts, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def loss_weights(self, parts: Parts, time: torch.Tensor) -> torch.Tensor: ...

    def activation_bytes(self, parts: Parts, grid: Grid, batch_size: int) -> int: ...

    # LoRA
    def new_lora(
        self, parts: Parts, rank: int, generator: torch.Generator
    ) -> AbstractContextManager[dict[str, torch.nn.Parameter]]: ...

    def loras(self, parts: Parts, files: Sequence[tuple[Path, float]]) -> AbstractContextManager[None]: ...

    def lora_metadata(self, parts: Parts) -> dict[str, str]: ...
