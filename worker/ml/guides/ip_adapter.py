"""IP-Adapter: attention to embedded reference pictures beside that to the text (arXiv 2308.06721).

A folder holds the adapter, one `.safetensors` at its top or in a folder, and `image_encoder/`, a
CLIPVisionModelWithProjection. Adapter and encoder are diffusers' and transformers' own modules.

Facts follow diffusers: `prepare_ip_adapter_image_embeds` and `encode_image` of the families' pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import MultiIPAdapterImageProjection
from PIL import Image
from transformers import CLIPImageProcessor

from worker.ml import memory
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.guides.ip_adapter_files import ENCODER, Adapter, adapter_file, load_adapter, load_encoder
from worker.ml.guides.once import OncePerUse
from worker.ml.guides.pictures import check_references
from worker.ml.masters import Masters
from worker.ml.models import Base
from worker.ml.protocol import Grid, GuideUse, Inputs, Pixels, Sampler, Sampling, Side

LAYER_STATES = 15
"""Hidden states that a layer of the encoder works with, measured at the real geometry, beside those of all layers,
which are kept."""


@dataclass(frozen=True)
class Embedded:
    """The state of a picture: its references for each side of an evaluation (1, N, …), and how much they count."""

    pictures: Mapping[Side, torch.Tensor]
    scale: float


class IPAdapter:
    """A `Guide` by reference pictures; see there for each member."""

    def __init__(self, base: Base, adapter: Adapter, encoder: Any) -> None:
        self._adapter, self._encoder = adapter, encoder
        self._layers = (*base.denoiser.attn_processors,)
        self._weights = Masters(torch.nn.ModuleList(adapter.modules))
        self._encoder_weights = Masters(encoder)
        size = encoder.config.image_size
        self._processor = CLIPImageProcessor(size=size, crop_size=size)
        self._embedded = OncePerUse[dict[Side, torch.Tensor]]()

    @property
    def anonymous_bytes(self) -> int:
        """Host memory that it holds, without weights that are mapped from files."""
        return memory.anonymous_bytes([*self._weights.tensors, *self._encoder_weights.tensors])

    def working_bytes(self, base: Base, use: GuideUse, grid: Grid) -> int:
        """Return the larger of two needs, which come one after the other: the encoder's, or the adapter's weights.

        Attention to reference pictures adds nothing to the peak, which is in a feed-forward layer.
        """
        config = self._encoder.config
        tokens = len(use.pictures) * ((config.image_size // config.patch_size) ** 2 + 1)
        states = config.num_hidden_layers + LAYER_STATES
        embedding: int = states * tokens * config.hidden_size * base.dtype.itemsize
        return max(self._weights.nbytes, self._encoder_weights.nbytes + embedding)

    @contextmanager
    def attach(self, base: Base) -> Iterator[None]:
        denoiser, adapter = base.denoiser, self._adapter
        own: dict[str, Any] = dict(denoiser.attn_processors)
        if getattr(denoiser, "encoder_hid_proj", None) is not None:
            raise BadInput("a picture can be drawn with one IP-Adapter at a time")
        if (*own,) != self._layers:
            raise ModelUnreadable(f"{adapter.name} was loaded for a base with other layers than {base.folder.name}")
        try:
            if not memory.shares_host(base.device):
                self._weights.to_device(base.device)
            denoiser.set_attn_processor({**own, **adapter.processors})
            with _projecting(denoiser, MultiIPAdapterImageProjection([adapter.projection])):
                yield
        finally:
            denoiser.set_attn_processor(own)
            self._weights.to_host()
            self._embedded.forget()

    def sampler(self, sampler: Sampler, sampling: Sampling) -> Sampler:
        return sampler

    def prepare(self, base: Base, use: GuideUse, grid: Grid, generator: torch.Generator) -> Embedded:
        """Embed the references, with the encoder on the device meanwhile."""
        check_references(use.pictures)
        if (use.start, use.end) != (0, 1):
            raise BadInput("reference pictures of an IP-Adapter are used in every step: leave out their window")
        return Embedded(self._embedded.get(use, lambda: self._embed(base, use.pictures)), use.scale)

    def change(self, state: Embedded, inputs: Inputs, done: float) -> Inputs:
        for processor in self._adapter.processors.values():
            processor.scale = [state.scale]
        argument, key = self._adapter.names.argument
        pictures = torch.cat([state.pictures[side] for side in inputs.sides])
        merged = {**inputs.extra.get(argument, {}), key: [pictures]}
        return replace(inputs, extra={**inputs.extra, argument: merged})

    @torch.no_grad()
    def _embed(self, base: Base, pictures: Sequence[Pixels]) -> dict[Side, torch.Tensor]:
        """Return the pictures' embeddings (1, N, …), and those of what stands against them."""
        if not memory.shares_host(base.device):
            base.place()  # what does not stay makes room
            self._encoder_weights.to_device(base.device)
        try:
            signal = self._signal(base, [Image.fromarray(picture) for picture in pictures])
            wanted = self._encode(signal)
            if self._adapter.names.against_is_black:
                black = self._encode(self._signal(base, [Image.new("RGB", (signal.shape[3], signal.shape[2]))]))
                against = black.expand_as(wanted)
            elif self._adapter.reads_embedding:
                against = torch.zeros_like(wanted)
            else:
                against = self._encode(torch.zeros_like(signal))
        finally:
            self._encoder_weights.to_host()
        return {"wanted": wanted[None], "against": against[None]}

    def _signal(self, base: Base, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """Return pictures as the encoder reads them (N, 3, h, w): their middle square."""
        signal: torch.Tensor = self._processor(pictures, return_tensors="pt").pixel_values
        return signal.to(base.device, base.dtype)

    def _encode(self, signal: torch.Tensor) -> torch.Tensor:
        """Return one embedding of each picture (N, D), or its tokens (N, L, D) for adapters that read them."""
        if self._adapter.reads_embedding:
            embedding: torch.Tensor = self._encoder(signal).image_embeds
            return embedding
        tokens: torch.Tensor = self._encoder(signal, output_hidden_states=True).hidden_states[-2]
        return tokens


@contextmanager
def _projecting(denoiser: Any, projection: torch.nn.Module) -> Iterator[None]:
    """Have the denoiser project embedded pictures inside the block.

    Last of all, and gone first, as some projections have attention processors too.
    """
    had = hasattr(denoiser, "encoder_hid_proj")
    kind = getattr(denoiser.config, "encoder_hid_dim_type", None)
    try:
        denoiser.encoder_hid_proj = projection
        denoiser.config.encoder_hid_dim_type = "ip_image_proj"
        yield
    finally:
        del denoiser.encoder_hid_proj
        if had:
            denoiser.encoder_hid_proj = None
        denoiser.config.encoder_hid_dim_type = kind


def load(folder: Path, base: Base) -> IPAdapter:
    """Load the adapter of a folder for bases of this one's family, on the CPU. Raises ModelUnreadable, naming it."""
    adapter, encoder = load_adapter(adapter_file(folder), base), load_encoder(folder / ENCODER, base.dtype)
    width = encoder.config.projection_dim if adapter.reads_embedding else encoder.config.hidden_size
    if width != adapter.width:
        raise ModelUnreadable(
            f"{adapter.name} reads {adapter.width} numbers a picture, and the image encoder of {folder.name} gives "
            f"{width}: it was made for another one"
        )
    return IPAdapter(base, adapter, encoder)
