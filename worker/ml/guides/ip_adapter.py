"""IP-Adapter: attention to embedded reference pictures beside that to the text (arXiv 2308.06721).

A folder holds the adapter, one `.safetensors` at its top or in `models/` or `sdxl_models/`, and `image_encoder/`, a
CLIPVisionModelWithProjection. Adapter and encoder are diffusers' and transformers' own modules.

Facts follow diffusers: `prepare_ip_adapter_image_embeds` and `encode_image` of the families' pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from PIL import Image
from safetensors import SafetensorError
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from worker.ml import memory
from worker.ml.errors import BadInput, ModelUnreadable, is_out_of_memory
from worker.ml.families.ip_adapters import NAMES
from worker.ml.families.ip_adapters.names import AdapterNames, numbers_of
from worker.ml.guides.once import OncePerUse
from worker.ml.guides.pictures import check_references
from worker.ml.masters import Masters
from worker.ml.models import Base
from worker.ml.protocol import Grid, GuideUse, Inputs, Pixels, Sampler, Side
from worker.ml.single_files.parts import Weights, read_weights

ENCODER = "image_encoder"
SUBFOLDERS = (".", "models", "sdxl_models")
WORKING_STATES = 4
"""Hidden states of the picture that the attention to reference pictures adds: its query, its result and their sums."""
LAYER_STATES = 12
"""Hidden states that a layer of the encoder works with, beside those of all layers, which are kept."""
MOST_ROWS = 2
"""Of an evaluation: wanted and against."""


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
        self._weights = Masters(torch.nn.ModuleList([adapter.projection, *adapter.processors.values()]))
        self._encoder_weights = Masters(encoder)
        size = encoder.config.image_size
        self._processor = CLIPImageProcessor(size=size, crop_size=size)
        self._embedded = OncePerUse[dict[Side, torch.Tensor]]()

    @property
    def anonymous_bytes(self) -> int:
        """Host memory that it holds, without weights that are mapped from files."""
        return memory.anonymous_bytes([*self._weights.tensors, *self._encoder_weights.tensors])

    def working_bytes(self, base: Base, use: GuideUse, grid: Grid) -> int:
        """Return the larger of two needs, which come one after the other: the encoder's, or the adapter's."""
        itemsize = base.dtype.itemsize
        width: int = min(layer.to_k_ip[0].out_features for layer in self._adapter.processors.values())
        work = WORKING_STATES * MOST_ROWS * grid[0] * grid[1] * width * itemsize
        config = self._encoder.config
        token_bytes = config.hidden_size * itemsize
        tokens = len(use.pictures) * ((config.image_size // config.patch_size) ** 2 + 1)
        embedding = (config.num_hidden_layers + LAYER_STATES) * tokens * token_bytes
        return max(self._weights.nbytes + work, self._encoder_weights.nbytes + embedding)

    @contextmanager
    def attach(self, base: Base) -> Iterator[None]:
        denoiser, adapter = base.denoiser, self._adapter
        own: dict[str, Any] = dict(denoiser.attn_processors)
        if (*own,) != self._layers:
            raise ModelUnreadable(f"{adapter.name} was loaded for a base with other layers than {base.folder.name}")
        if getattr(denoiser, "encoder_hid_proj", None) is not None:
            raise BadInput("a picture can be drawn with one IP-Adapter at a time")
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

    def sampler(self, sampler: Sampler) -> Sampler:
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


@dataclass(frozen=True)
class Adapter:
    """The modules of an adapter's file."""

    name: str
    names: AdapterNames
    projection: torch.nn.Module
    processors: Mapping[str, Any]
    """Attention processors with weights of their own, by their names in the denoiser."""

    @property
    def reads_embedding(self) -> bool:
        """Return True for an adapter of one embedding a picture, not of all its tokens."""
        return isinstance(self.projection, ImageProjection)

    @cached_property
    def width(self) -> int:
        """Size of the embedding or token that it reads."""
        first = next(layer for layer in self.projection.modules() if isinstance(layer, torch.nn.Linear))
        return first.in_features


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
    file = adapter_file(folder)
    if base.family.name not in NAMES:
        raise ModelUnreadable(f"{file.name} is an IP-Adapter, which {base.family.name} bases have no use for")
    adapter = _load_adapter(file, NAMES[base.family.name], base)
    encoder = _load_encoder(folder / ENCODER, base.dtype)
    width = encoder.config.projection_dim if adapter.reads_embedding else encoder.config.hidden_size
    if width != adapter.width:
        raise ModelUnreadable(
            f"{file.name} reads {adapter.width} numbers a picture, and the image encoder of {folder.name} gives "
            f"{width}: it was made for another one"
        )
    for name, part in ((file.name, [adapter.projection, *adapter.processors.values()]), (ENCODER, [encoder])):
        if not all(weights.isfinite().all() for module in part for weights in module.parameters()):
            raise ModelUnreadable(f"{name} of {folder.name} holds weights that are not finite in {base.dtype}")
    return IPAdapter(base, adapter, encoder)


def adapter_file(folder: Path) -> Path:
    """Return the file of the folder's adapter. Raises ModelUnreadable: none, several, or a pickle."""
    files = [file for sub in SUBFOLDERS for file in sorted((folder / sub).glob("*")) if file.is_file()]
    found = [file for file in files if file.suffix == ".safetensors"]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found)
        raise ModelUnreadable(f"{folder.name} holds several IP-Adapters: keep one of {names}")
    pickled = next((file.name for file in files if file.suffix in (".bin", ".pt", ".pth", ".ckpt")), None)
    if pickled:
        raise ModelUnreadable(f"{pickled} of {folder.name} is a pickle: only .safetensors files are loaded")
    raise ModelUnreadable(f"{folder.name} is not a guide: it holds no .safetensors file of an IP-Adapter")


def _load_adapter(file: Path, names: AdapterNames, base: Base) -> Adapter:
    state: dict[str, Weights] = {"image_proj": {}, "ip_adapter": {}}
    for key, weights in read_weights(file).items():
        part = names.part_of(key)
        if part is None:
            raise ModelUnreadable(f"{file.name} is not an IP-Adapter for {base.family.name}: it holds {key}")
        state[part[0]][part[1]] = weights.to(base.dtype)
    if not any(name in state["image_proj"] for name in names.projections):
        kinds = "plain, plus and full-face ones, with their names" if len(names.projections) > 1 else "plain ones"
        raise ModelUnreadable(
            f"{file.name} is an IP-Adapter of a kind that is unsupported for {base.family.name}; supported: {kinds}"
        )
    denoiser = base.denoiser
    # Stands for the denoiser, whose weights may be on the device.
    like = SimpleNamespace(
        device=torch.device("cpu"),
        dtype=base.dtype,
        config=denoiser.config,
        attn_processors=denoiser.attn_processors,
        inner_dim=getattr(denoiser, "inner_dim", None),
    )
    kind = type(denoiser)
    try:
        every = kind._convert_ip_adapter_attn_to_diffusers(like, [state])
        projection = kind._convert_ip_adapter_image_proj_to_diffusers(
            like, state["image_proj"], low_cpu_mem_usage=False
        )
    except (KeyError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelUnreadable(
            f"{file.name} does not fit {base.folder.name} ({base.family.name}): {_words(error)}"
        ) from error
    processors = {name: one for name, one in every.items() if hasattr(one, "to_k_ip")}
    numbers = {names.first + names.step * place for place in range(len(processors))}
    if more := numbers_of(state["ip_adapter"]) - numbers:
        raise ModelUnreadable(
            f"{file.name} does not fit {base.folder.name} ({base.family.name}), which has no layer {min(more)}"
        )
    for module in (projection, *processors.values()):
        module.to(base.dtype).requires_grad_(False).eval()
    return Adapter(file.name, names, projection, processors)


def _words(error: Exception) -> str:
    return f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)[:300]


def _load_encoder(folder: Path, dtype: torch.dtype) -> Any:
    """Load an image encoder on the CPU. Raises ModelUnreadable: missing, damaged, or without some weights."""
    slug = folder.parent.name
    if not (folder / "config.json").is_file():
        raise ModelUnreadable(f"{slug} has no image encoder: {ENCODER}/config.json is missing")
    try:
        encoder, report = CLIPVisionModelWithProjection.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelUnreadable(f"{ENCODER} of {slug} is incomplete or damaged: {str(error)[:300]}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelUnreadable(f"{ENCODER} of {slug} is incomplete: it has no {missing[0]}")
    return encoder.requires_grad_(False).eval()
