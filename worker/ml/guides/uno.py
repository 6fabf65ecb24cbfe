"""UNO: reference pictures in the context of a base, which a LoRA taught to read them (arXiv 2504.02160).

The latents of each reference follow the tokens of the picture, at positions of their own beyond it. They stay as they
are in every step, and nothing is predicted for them. Facts follow bytedance/UNO at d305981: `preprocess_ref` and the
pipeline in its pipeline.py, `prepare_multi_ip` and `get_schedule` in its sampling.py.

One difference: the original samples its autoencoder with the random generator of the whole process, here references
are encoded to the mode. So a seed means one picture, on every machine and whatever was drawn before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from worker.ml import memory
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.families.working_memory import autoencoder_bytes
from worker.ml.guides.once import OncePerUse
from worker.ml.guides.pictures import check_references, check_unscaled
from worker.ml.guides.uno_lora import LoraLayer, added, load_layers
from worker.ml.masters import Masters
from worker.ml.models import Base
from worker.ml.protocol import Appended, Grid, GuideUse, Inputs, Pixels, Sampler, Sampling

ONLY_PX, OF_SEVERAL_PX = 512, 320
"""The long side of a reference as it is read: of the only one, and of one of several. Smaller ones are enlarged."""

Scheme = Literal["d", "h", "w", "o"]
"""Which axes of a reference's positions are shifted beyond the picture: both, rows, columns, none. The published LoRA
was trained with both."""


class Uno:
    """A `Guide` by reference pictures; see there for each member."""

    def __init__(self, base: Base, layers: Sequence[LoraLayer], scheme: Scheme = "d") -> None:
        self._layers, self._scheme = layers, scheme
        self._blocks = _blocks(base)
        self._weights = Masters(torch.nn.ModuleList(layers))
        self._encoded = OncePerUse[Appended]()

    @property
    def anonymous_bytes(self) -> int:
        """Host memory that it holds, without weights that are mapped from files."""
        return memory.anonymous_bytes(self._weights.tensors)

    def working_bytes(self, base: Base, use: GuideUse, grid: Grid) -> int:
        """Return the larger of two needs: to encode references, and to read them with the LoRA."""
        family, parts, token_px = base.family, base.parts, base.family.token_px(base.parts)
        sizes = [reference_size(picture, longest(use.pictures), token_px) for picture in use.pictures]
        tokens = sum(width * height for width, height in sizes) // token_px**2
        # What tokens of references need is what as many more of the picture would: the text's are in both figures.
        reading, text = (family.working_bytes(parts, (1, count), 1)[family.denoiser] for count in (tokens, 0))
        encoding = max((autoencoder_bytes(parts.vae, height, width) for width, height in sizes), default=0)
        return max(base.part_bytes(family.autoencoder) + encoding, self._weights.nbytes + reading - text)

    @contextmanager
    def attach(self, base: Base) -> Iterator[None]:
        try:
            if not memory.shares_host(base.device):
                self._weights.to_device(base.device)
            with added(base.denoiser, self._layers):
                yield
        finally:
            self._weights.to_host()
            self._encoded.forget()

    def sampler(self, sampler: Sampler, sampling: Sampling) -> Sampler:
        """Return Euler's sampler with UNO's own levels of noise."""
        if sampling.sampler not in (None, "euler"):
            raise BadInput(f"sampler: UNO is drawn with euler, not {sampling.sampler}: leave it out")
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)  # they are shifted already
        scheduler.set_timesteps(sigmas=schedule(sampling.grid, sampling.steps), device=sampler.timesteps.device)
        scheduler.set_begin_index(0)
        return Sampler(scheduler)

    def prepare(self, base: Base, use: GuideUse, grid: Grid, generator: torch.Generator) -> Appended:
        """Encode the references, with the autoencoder on the device meanwhile."""
        if _blocks(base) != self._blocks:
            raise ModelUnreadable(f"UNO's LoRA was loaded for a base with other blocks than {base.folder.name}")
        check_references(use.pictures)
        check_unscaled(use.scale, "bases with UNO")
        if (use.start, use.end) != (0, 1):
            raise BadInput("reference pictures of UNO are used in every step: leave out their window")
        return self._encoded.get(use, lambda: self._encode(base, use.pictures, grid))

    def change(self, state: Appended, inputs: Inputs, done: float) -> Inputs:
        """Append the references, and give the time as the original does.

        diffusers' pipeline rounds it twice, in thousandths too, which in bfloat16 is another number: that alone makes
        four percent of what is drawn by the model that `test_uno_parity.py` compares.
        """
        tokens = state.tokens.to(inputs.latents).expand(len(inputs.latents), -1, -1)
        time = torch.full_like(inputs.time, _shifted(inputs.grid, 1 - done))
        return replace(inputs, time=time, appended=Appended(tokens, state.ids))

    def _encode(self, base: Base, pictures: Sequence[Pixels], grid: Grid) -> Appended:
        family, token_px = base.family, base.family.token_px(base.parts)
        base.place(family.autoencoder)
        tokens, grids = [], []
        for picture in pictures:
            pixels = torch.from_numpy(preprocessed(picture, longest(pictures), token_px).copy())
            signal = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
            tokens.append(family.encode_picture(base.parts, signal))
            grids.append((pixels.shape[0] // token_px, pixels.shape[1] // token_px))
        ids = positions(grid, grids, self._scheme)
        return Appended(torch.cat(tokens, dim=1), ids.to(base.device))


def load(file: Path, base: Base) -> Uno:
    """Load UNO's LoRA for bases of this one's size, on the CPU. Raises ModelUnreadable, naming the file."""
    return Uno(base, load_layers(file, base))


def schedule(grid: Grid, steps: int) -> list[float]:
    """Return UNO's levels of noise, from 1 down, without the last one, which is 0."""
    return [_shifted(grid, 1 - step / steps) for step in range(steps)]


def _shifted(grid: Grid, level: float) -> float:
    """Return a level of evenly spaced ones, shifted by the picture's size: a line through 0.5 at 256 and 1.15 at 4096.

    UNO's pipeline counts a 64th of the picture's tokens: (w // 8) * (h // 8) // 256 of its size in pixels.
    """
    counted = 4 * math.prod(grid) // 256
    shift = math.exp(0.5 + (counted - 256) * (1.15 - 0.5) / (4096 - 256))
    return shift * level / (1 + (shift - 1) * level)


def positions(grid: Grid, references: Sequence[Grid], scheme: Scheme) -> torch.Tensor:
    """Return the positions (M, 3) of the tokens of all references: on an unused axis, rows and columns.

    Each lies beyond the picture and the references before it, along the diagonal: in scheme "d" no two of them share a
    row or a column.
    """
    row, column = grid
    ids = [torch.empty(0, 3)]
    for height, width in references:
        rows = torch.arange(height) + (row if scheme in "dh" else 0)
        columns = torch.arange(width) + (column if scheme in "dw" else 0)
        ids.append(torch.cartesian_prod(torch.zeros(1), rows.float(), columns.float()))
        row, column = row + height, column + width
    return torch.cat(ids)


def longest(pictures: Sequence[Pixels]) -> int:
    """Return the long side of these references as they are read, in pixels."""
    return ONLY_PX if len(pictures) == 1 else OF_SEVERAL_PX


def reference_size(picture: Pixels, long_side: int, token_px: int) -> tuple[int, int]:
    """Return width and height of a reference as it is read: of whole tokens."""
    width, height = _resized(picture, long_side)
    return width // token_px * token_px, height // token_px * token_px


def preprocessed(picture: Pixels, long_side: int, token_px: int) -> Pixels:
    """Return a reference (H, W, 3) as it is read: resized, then cut to whole tokens around its middle."""
    resized = Image.fromarray(picture).resize(_resized(picture, long_side), Image.Resampling.LANCZOS)
    width, height = reference_size(picture, long_side, token_px)
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return np.asarray(resized.crop((left, top, left + width, top + height)))


def _resized(picture: Pixels, long_side: int) -> tuple[int, int]:
    """Return width and height, rounded down as in the original, which multiplies in this order."""
    height, width = picture.shape[:2]
    if width >= height:
        return long_side, int(long_side / width * height)
    return int(long_side / height * width), long_side


def _blocks(base: Base) -> tuple[int, int, int]:
    denoiser = base.denoiser
    return denoiser.config.num_layers, denoiser.config.num_single_layers, denoiser.inner_dim
