"""What the two loops ask of a family of models and of a guide, and nothing else.

Loops, files, jobs and devices belong to the callers. They pass a base's parts around as `Parts` and encoded prompts as
`Condition`: opaque objects that only the family that made them looks into.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from worker.ml.models import Base

Parts = Any
Pixels = npt.NDArray[np.uint8]
"""A picture (H, W, 3), sRGB."""
Grid = tuple[int, int]
"""Height and width of a picture in tokens; `token_px` pixels to a token."""
Side = Literal["wanted", "against"]
"""Which prompt a row of an evaluation is about: the request's, or the negative one."""


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


class Condition(Protocol):
    """Encoded prompts on the device, a row each. Lengths, padding and masks are the family's."""

    @property
    def rows(self) -> int: ...

    def join(self, others: Sequence[Self]) -> Self:
        """Return these rows, followed by those of the others."""

    def take(self, rows: torch.Tensor) -> Self:
        """Return the rows where the mask (rows,) is true."""


@dataclass(frozen=True)
class Framing:
    """How a photo was cut for training; height before width, in pixels."""

    original: tuple[int, int]
    crop: tuple[int, int]  # what was cut off above and to the left, once it had been resized
    size: tuple[int, int]  # what is trained


@dataclass(frozen=True)
class Appended:
    """Tokens that a transformer reads after those of the picture, such as a reference's, and does not answer for."""

    tokens: torch.Tensor  # (B, M, C), as the latents
    ids: torch.Tensor  # (M, …), their positions, as the family numbers them


@dataclass(frozen=True)
class Inputs:
    """What one evaluation of a denoiser reads. Guides change it, then the family passes it to the denoiser."""

    latents: torch.Tensor  # (B, …), in the denoiser's own scale and precision
    time: torch.Tensor  # (B,), in the denoiser's own unit
    condition: Condition  # B rows
    grid: Grid
    guidance: float
    sides: tuple[Side, ...]  # B of them
    appended: Appended | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the denoiser's `forward`, such as the residuals of a control network. Mappings are shared by
    guides, and with what the family itself puts there: a guide adds to them."""


@dataclass(frozen=True)
class Sampling:
    """How the pictures of a request are sampled."""

    grid: Grid
    steps: int
    sampler: str | None = None
    """By its name; None is the one of the base's folder."""


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler, set to the timesteps of one picture, and the extra arguments of its `step`."""

    scheduler: Any
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def timesteps(self) -> torch.Tensor:
        """(S,): one step each. Some schedulers take more steps than they were asked to."""
        return cast(torch.Tensor, self.scheduler.timesteps)

    def step(self, predicted: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents at the next timestep."""
        return cast(torch.Tensor, self.scheduler.step(predicted, timestep, latents, **self.extra, return_dict=False)[0])


class Drawing(Protocol):
    """What the drawing loop asks of a family."""

    def picture_defaults(self, parts: Parts) -> PictureDefaults: ...

    def encode_prompts(self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side = "wanted") -> Any:
        """Return the `Condition` of these prompts, a row each. Some families put only wanted ones into a template."""

    def cut_encoders(self, parts: Parts, prompt: str) -> tuple[str, ...]:
        """Return the encoders that read only the beginning of this prompt."""

    samplers: Collection[str]
    """The names of those that may be used instead of the one of the base's folder."""

    def sampler(
        self, parts: Parts, sampling: Sampling, device: torch.device, generator: torch.Generator
    ) -> Sampler: ...

    def first_noise(
        self, parts: Parts, sampler: Sampler, grid: Grid, generator: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        """Draw the latents (1, …) that drawing begins with, on the generator's device."""

    def denoiser_input(
        self, sampler: Sampler, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latents (1, …) in the denoiser's own scale, and the time (1,) in its unit."""

    def uses_negative_prompt(self, parts: Parts, guidance: float) -> bool:
        """Return True if any step evaluates the negative prompt too."""

    def evaluations(self, parts: Parts, guidance: float, timestep: float) -> Sequence[tuple[Side, ...]]:
        """Return the denoiser calls of one step, each with its rows in their order."""

    def denoiser_arguments(self, parts: Parts, inputs: Inputs) -> dict[str, Any]:
        """Return the arguments, by name, that the denoiser's `forward` has for these inputs without their `extra`.

        A control network of the family has the same.
        """

    def predict(self, parts: Parts, inputs: Inputs) -> torch.Tensor:
        """Return the denoiser's prediction (B, …) in the shape of the latents."""

    def combine(
        self, wanted: torch.Tensor, against: torch.Tensor | None, guidance: float, timestep: float
    ) -> torch.Tensor:
        """Return one prediction (1, …) of a step's evaluations; `against` is None where it had no such row."""

    def decode_picture(self, parts: Parts, latents: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Decode latents (1, …) to pixels (1, 3, H, W) in 0..1, float32."""

    def working_bytes(self, parts: Parts, grid: Grid, rows: int) -> Mapping[str, int]:
        """Estimate, by part, what drawing on this grid needs on the device while the part runs, besides weights."""


@runtime_checkable
class ReadsEarlierLayers(Protocol):
    """A family whose text encoder can be read before its last layers, which its users call clip skip."""

    def encode_prompts_at(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side, layer: int
    ) -> Any:
        """Return the `Condition` of these prompts at a layer that is counted from the last, which is 1.

        Raises BadInput if the encoder has fewer.
        """


class Training(Protocol):
    """What the training loop asks of a family; it encodes prompts and predicts as `Drawing` does."""

    training_defaults: TrainingDefaults
    training_guidance: float
    training_dtypes: tuple[torch.dtype, ...]
    """The precisions of the denoiser in which the family can be trained."""

    def encode_picture(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels (1, 3, H, W) in -1..1 to float32 latents (1, …)."""

    checkpointed_share: float
    """What gradient checkpointing leaves of `activation_bytes`, with the block that is computed again."""

    def frame(self, condition: Any, framings: Sequence[Framing]) -> Any:
        """Return the condition of training samples with how each was framed, where the denoiser is told."""

    def sample_timestep(self, parts: Parts, grid: Grid, generator: torch.Generator) -> torch.Tensor:
        """Draw one time (1,), in the denoiser's unit, of the density that the family is trained with."""

    def even_times(self, parts: Parts, count: int) -> torch.Tensor:
        """Return times (count,), evenly spaced over the whole schedule."""

    def noised_input_and_target(
        self, parts: Parts, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the denoiser's input and target (B, …) for latents and noise (B, …) at time (B,)."""

    def loss_weights(self, parts: Parts, time: torch.Tensor) -> torch.Tensor:
        """Return the weight of each sample's loss (B,)."""

    def activation_bytes(self, parts: Parts, grid: Grid, batch_size: int) -> int:
        """Estimate what a step keeps for its backward pass without gradient checkpointing."""


class Family(Drawing, Training, Protocol):
    """One family of models.

    Latents are (B, …) in the shape that the denoiser expects, and normalised for it: packed tokens (B, N, C) in one
    family, pictures (B, C, h, w) in another. Time is (B,) in the unit of the denoiser.
    """

    name: str
    pipeline: str
    """The `_class_name` of its bases' `model_index.json`."""
    not_loaded: tuple[str, ...]
    """Parts that a base of this family may have and that are not loaded."""
    encoders: tuple[str, ...]
    denoiser: str
    autoencoder: str
    quantised: tuple[str, ...]
    """Names of the denoiser's blocks whose linear layers may be quantised: what is outside of them stays as it is."""

    def dtypes(self, compute: torch.dtype) -> Mapping[str, torch.dtype]:
        """Return the dtype of each part where the device computes in `compute`; "default" is for all others."""

    def load(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> Parts:
        """Load the whole base on the CPU, from files on disk and never from a pickle."""

    def modules(self, parts: Parts) -> Mapping[str, torch.nn.Module]:
        """Return the parts with weights, by name."""

    def token_px(self, parts: Parts) -> int: ...

    def new_lora(
        self, parts: Parts, rank: int, generator: torch.Generator
    ) -> AbstractContextManager[dict[str, torch.nn.Parameter]]:
        """Add a fresh LoRA inside the block: its float32 parameters by their names in a file."""

    def lora_metadata(self, parts: Parts) -> dict[str, str]:
        """Return what a LoRA file says about the base it was trained on, as the family's users expect it."""


class Guide(Protocol):
    """What changes each evaluation of a denoiser while a picture is drawn: a control picture, reference pictures.

    Its state is opaque to the loop, and so is what it puts into `Inputs.extra`. Scale 0 means that it is not used at
    all, so the loop does not ask for it.
    """

    def working_bytes(self, base: Base, use: GuideUse, grid: Grid) -> int:
        """Return what it needs on the device beside the denoiser: weights of its own, and its work with these pictures.

        If it places parts in `prepare`, it is the larger of that need and the one while it is attached: where there is
        room for so much beside the denoiser, there is for the former without it.
        """

    def attach(self, base: Base) -> AbstractContextManager[None]:
        """Change the base's denoiser inside the block, for example its attention processors, and place own weights."""

    def sampler(self, sampler: Sampler, sampling: Sampling) -> Sampler:
        """Return the sampler of a picture, changed where the guide was trained with other levels of noise.

        Raises BadInput for a sampling that it cannot be used with.
        """

    def prepare(self, base: Base, use: GuideUse, grid: Grid, generator: torch.Generator) -> Any:
        """Return the state for one picture on this grid. Raises BadInput for pictures that cannot be used.

        It is asked before `attach`, while the denoiser may be in host memory: it may place the parts that it reads.
        """

    def change(self, state: Any, inputs: Inputs, done: float) -> Inputs:
        """Return the inputs of one evaluation with this guide; `done` is the share of steps done, from 0 to below 1."""


@dataclass(frozen=True)
class GuideUse:
    """A guide and what it is used with."""

    guide: Guide
    pictures: tuple[Pixels, ...] = ()
    scale: float = 1.0
    kind: str | None = None
    """What the pictures control, where a guide knows several kinds: "canny", "pose", "depth". They are fitted to the
    shape of the picture that is drawn."""
    start: float = 0.0
    end: float = 1.0
    """The guide is left out of steps before and after these shares of all steps."""
