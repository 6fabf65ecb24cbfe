"""What a model family brings: everything it does its own way, and nothing else.

Loops, files, jobs and devices are the callers'. The parts of a base travel as `Parts`: an opaque object that only
its own architecture looks into (today a diffusers pipeline), so the callers assume no pipeline class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

Parts = Any
Grid = tuple[int, int]
"""Height and width of a picture in tokens; `token_px` pixels to a token."""


@dataclass(frozen=True)
class TrainingDefaults:
    """A family's published LoRA settings."""

    rank: int
    learning_rate: float
    resolution: int
    batch_size: int
    caption_dropout: float
    steps_a_photo: int
    fewest_steps: int
    most_steps: int

    def steps(self, photo_count: int) -> int:
        return min(max(self.steps_a_photo * photo_count, self.fewest_steps), self.most_steps)


@dataclass(frozen=True)
class PictureDefaults:
    """What a base draws when the request does not say."""

    width: int
    height: int
    steps: int
    guidance: float


@dataclass(frozen=True)
class Text:
    """Encoded prompts, on the device, in the base's dtype."""

    tokens: torch.Tensor  # (B, L, D)
    pooled: torch.Tensor  # (B, P)


class Sampler(Protocol):
    """A diffusers scheduler, set to the timesteps of one picture."""

    timesteps: torch.Tensor

    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, *, return_dict: bool
    ) -> tuple[torch.Tensor, ...]: ...


class Architecture(Protocol):
    """One family. Latents are token sequences (B, N, C), normalised to what the denoiser expects."""

    family: str
    training_defaults: TrainingDefaults
    encoders: tuple[str, ...]
    denoiser: str
    autoencoder: str
    working_gib: float
    """Device memory a picture at the default size takes beside the parts."""

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

    def first_noise(self, parts: Parts, grid: Grid, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor: ...

    def sampler(self, parts: Parts, grid: Grid, steps: int, device: torch.device) -> Sampler: ...

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

    def draw_time(self, parts: Parts, grid: Grid, generator: torch.Generator) -> torch.Tensor: ...

    def training_pair(
        self, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def activation_bytes(self, parts: Parts, grid: Grid, batch_size: int) -> int: ...

    # LoRA
    def new_lora(
        self, parts: Parts, rank: int, generator: torch.Generator
    ) -> AbstractContextManager[dict[str, torch.nn.Parameter]]: ...

    def loras(self, parts: Parts, files: Sequence[tuple[Path, float]]) -> AbstractContextManager[None]: ...

    def lora_metadata(self, parts: Parts) -> dict[str, str]: ...
