"""ControlNets: a network beside the denoiser that reads a control picture too (arXiv 2302.05543).

It is made from the first half of the denoiser and reads the same arguments. What it returns is added to the denoiser's
hidden states. Which network a family has, and how it is asked, is in `families/controlnets/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils._pytree import tree_leaves

from worker.ml import memory
from worker.ml.errors import BadInput, NotFinite
from worker.ml.guides import canny
from worker.ml.guides.maps import fit
from worker.ml.guides.pictures import MIN_SIDE_PX
from worker.ml.masters import Masters
from worker.ml.models import Base
from worker.ml.protocol import Grid, GuideUse, Inputs, Pixels, Sampler, Sampling


@dataclass(frozen=True)
class Control:
    """What a network reads in every evaluation of one picture."""

    base: Base
    picture: torch.Tensor  # (1, …), as the network reads it, on the device
    scale: float
    mode: int | None  # of a network for several kinds


class ControlNet(ABC):
    """A loaded network; see `Guide` for each member. Families have a class of their own for each of diffusers'."""

    diffusers_class: ClassVar[type[Any]]
    denoiser: ClassVar[str]
    """The diffusers class of the denoisers that it fits."""
    same: ClassVar[tuple[str, ...]]
    """The entries of its configuration that are as the denoiser's."""
    modes: ClassVar[Mapping[str, int]] = {}
    """The numbers of kinds in a network for several."""
    known_by: ClassVar[str | None] = None
    """The name of a tensor, where such networks are published as one file of weights without a configuration."""

    def __init__(self, folder: Path, network: Any) -> None:
        self.folder = folder
        self.network = network
        self._masters = Masters(network)

    @classmethod
    def read_published(cls, weights: Mapping[str, torch.Tensor], base: Base) -> tuple[dict[str, Any], Any]:
        """Return the configuration, and the weights by diffusers' names, of a file with the tensor `known_by`."""
        raise NotImplementedError

    @property
    def mode_count(self) -> int | None:
        """How many kinds the network is for, or None: one, which only its publisher states."""
        return None

    @abstractmethod
    def control_picture(self, base: Base, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return what the network reads of a control picture (1, 3, H, W) in 0..1, float32."""

    @abstractmethod
    def residuals(self, control: Control, inputs: Inputs) -> dict[str, Any]:
        """Return the arguments that the network adds to those of the denoiser."""

    @abstractmethod
    def work_bytes(self, base: Base, grid: Grid) -> int:
        """Return what it needs on the device besides weights, and besides what the denoiser needs at another time."""

    # --- the guide

    @property
    def anonymous_bytes(self) -> int:
        return memory.anonymous_bytes(self._masters.tensors)

    def working_bytes(self, base: Base, use: GuideUse, grid: Grid) -> int:
        return self._masters.nbytes + self.work_bytes(base, grid)

    @contextmanager
    def attach(self, base: Base) -> Iterator[None]:
        try:
            if not memory.shares_host(base.device):
                self._masters.to_device(base.device)
            yield
        finally:
            self._masters.to_host()

    def sampler(self, sampler: Sampler, sampling: Sampling) -> Sampler:
        return sampler

    @torch.no_grad()
    def prepare(self, base: Base, use: GuideUse, grid: Grid, generator: torch.Generator) -> Control:
        picture, token_px = _only(use.pictures), base.family.token_px(base.parts)
        read = canny.edges if use.kind == "canny" and not canny.is_edge_map(picture) else None
        fitted = fit(picture, grid[1] * token_px, grid[0] * token_px, read)
        pixels = torch.from_numpy(fitted.copy()).permute(2, 0, 1)[None].float() / 255
        return Control(base, self.control_picture(base, pixels, generator), use.scale, self.mode(use.kind))

    def change(self, state: Control, inputs: Inputs, done: float) -> Inputs:
        residuals = self.residuals(state, inputs)
        assert not residuals.keys() & inputs.extra.keys(), "a picture has one control"
        if not _finite(residuals):
            self._raise_if_at_fault(state, inputs)
        return replace(inputs, extra={**inputs.extra, **residuals})

    # --- what it refuses

    def misfit(self, base: Base) -> str | None:
        """Return what differs if the network was made from another denoiser than the base's, else None."""
        theirs, ours = self.network.config, base.denoiser.config
        for name in self.same:
            own, needed = _plain(theirs.get(name)), _plain(ours.get(name))
            if own != needed:
                return f"its {name} is {own}, that of the base is {needed}"
        return None

    def mode(self, kind: str | None) -> int | None:
        """Return the number of a kind, or None if the network is for one. Raises BadInput for a kind that it lacks."""
        if self.mode_count is None:
            return None
        number = self.modes.get(kind or "", self.mode_count)
        if number >= self.mode_count:
            has = ", ".join(sorted(name for name, own in self.modes.items() if own < self.mode_count))
            raise BadInput(f"{self.folder.name} has no control of kind {kind}: it has {has}")
        return number

    def _raise_if_at_fault(self, control: Control, inputs: Inputs) -> None:
        """Raise NotFinite if the network gives numbers that are not finite for noise too.

        After the first step, latents are what LoRAs and the base made of them.
        """
        noise = torch.randn(inputs.latents.shape, generator=torch.Generator("cpu").manual_seed(0)).to(inputs.latents)
        if _finite(self.residuals(control, replace(inputs, latents=noise))):
            return
        if control.base.dtype == torch.float16:
            raise NotFinite(f"{self.folder.name} leaves the range of float16")
        raise NotFinite(f"{self.folder.name} gives numbers that are not finite: install this guide again")


def _only(pictures: Sequence[Pixels]) -> Pixels:
    """Return the one picture of a control. Raises BadInput."""
    if len(pictures) != 1:
        raise BadInput(f"a control needs one picture, not {len(pictures)}")
    height, width = pictures[0].shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        raise BadInput(f"the control picture is {width} x {height} pixels: each side must be at least {MIN_SIDE_PX}")
    return pictures[0]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _finite(residuals: Mapping[str, Any]) -> bool:
    tensors = [value for value in tree_leaves(residuals) if isinstance(value, torch.Tensor)]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
