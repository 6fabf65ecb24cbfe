"""The files of an IP-Adapter: the adapter itself, converted by diffusers' loaders, and its image encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.embeddings import ImageProjection
from safetensors import SafetensorError
from transformers import CLIPVisionModelWithProjection

from worker.ml.errors import ModelUnreadable, is_out_of_memory
from worker.ml.families.ip_adapters import NAMES
from worker.ml.families.ip_adapters.names import AdapterNames, numbers_of
from worker.ml.guides.finite import check_finite
from worker.ml.models import Base
from worker.ml.not_weights import PICKLES
from worker.ml.single_files.parts import Weights, read_weights

ENCODER = "image_encoder"


@dataclass(frozen=True)
class Adapter:
    """The modules of an adapter's file, in a base's precision."""

    name: str
    names: AdapterNames
    projection: torch.nn.Module
    processors: Mapping[str, Any]
    """Attention processors with weights of their own, by their names in the denoiser."""

    @property
    def modules(self) -> list[torch.nn.Module]:
        return [self.projection, *self.processors.values()]

    @property
    def reads_embedding(self) -> bool:
        """Return True for an adapter of one embedding a picture, not of all its tokens."""
        return isinstance(self.projection, ImageProjection)

    @cached_property
    def width(self) -> int:
        """Size of the embedding or token that it reads."""
        first = next(layer for layer in self.projection.modules() if isinstance(layer, torch.nn.Linear))
        return first.in_features


def adapter_file(folder: Path) -> Path:
    """Return the adapter's file, at the top of the folder or one below. Raises ModelUnreadable: none, or several."""
    places = [folder, *(sub for sub in sorted(folder.iterdir()) if sub.is_dir() and sub.name != ENCODER)]
    files = [file for place in places for file in sorted(place.iterdir()) if file.is_file()]
    found = [file for file in files if file.suffix == ".safetensors"]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found)
        raise ModelUnreadable(f"{folder.name} holds several IP-Adapters: keep one of {names}")
    pickled = next((file.name for file in files if file.suffix in PICKLES), None)
    if pickled:
        raise ModelUnreadable(f"{pickled} of {folder.name} is a pickle: only .safetensors files are loaded")
    raise ModelUnreadable(f"{folder.name} is not a guide: it holds no .safetensors file of an IP-Adapter")


def load_adapter(file: Path, base: Base) -> Adapter:
    """Load an adapter on the CPU. Raises ModelUnreadable: damaged, of an unsupported kind, or it does not fit."""
    family = base.family.name
    if family not in NAMES:
        raise ModelUnreadable(f"{file.name} is an IP-Adapter, which {family} bases have no use for")
    names = NAMES[family]
    state = _read(file, names, base)
    misfit = f"{file.name} does not fit {base.folder.name} ({family})"
    try:
        every, projection = _converted(state, base)
    except (KeyError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        why = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)[:300]
        raise ModelUnreadable(f"{misfit}: {why}") from error
    processors = {name: processor for name, processor in every.items() if hasattr(processor, "to_k_ip")}
    numbers = {names.first + names.step * place for place in range(len(processors))}
    if more := numbers_of(state["ip_adapter"]) - numbers:
        raise ModelUnreadable(f"{misfit}, which has no layer {min(more)}")
    adapter = Adapter(file.name, names, projection, processors)
    for module in adapter.modules:
        module.to(base.dtype).requires_grad_(False).eval()
    check_finite(f"{file.name} of {file.parent.name}", adapter.modules, base.dtype)
    return adapter


def _read(file: Path, names: AdapterNames, base: Base) -> dict[str, Weights]:
    """Return the two halves of a file, in the names that diffusers converts, and in the base's precision."""
    state: dict[str, Weights] = {"image_proj": {}, "ip_adapter": {}}
    for key, weights in read_weights(file).items():
        part = names.part_of(key)
        if part is None:
            raise ModelUnreadable(f"{file.name} is not an IP-Adapter for {base.family.name}: it holds {key}")
        state[part[0]][part[1]] = weights.to(base.dtype)
    if not any(name in state["image_proj"] for name in names.projections):
        raise ModelUnreadable(
            f"{file.name} is an IP-Adapter of a kind that is unsupported for {base.family.name}; supported: "
            f"{names.kinds}"
        )
    return state


def _converted(state: dict[str, Weights], base: Base) -> tuple[dict[str, Any], torch.nn.Module]:
    """Return attention processors and the projection, on the CPU. The base's weights may be on the device."""
    denoiser = base.denoiser
    like = SimpleNamespace(
        device=torch.device("cpu"),
        dtype=base.dtype,
        config=denoiser.config,
        attn_processors=denoiser.attn_processors,
        inner_dim=getattr(denoiser, "inner_dim", None),
    )
    loaders = type(denoiser)
    processors = loaders._convert_ip_adapter_attn_to_diffusers(like, [state])
    # Not the quicker loading, which leaves out what a file lacks.
    projection = loaders._convert_ip_adapter_image_proj_to_diffusers(like, state["image_proj"], low_cpu_mem_usage=False)
    return processors, projection


def load_encoder(folder: Path, dtype: torch.dtype) -> Any:
    """Load an image encoder on the CPU. Raises ModelUnreadable: missing, damaged, or without some weights."""
    slug = folder.parent.name
    if not (folder / "config.json").is_file():
        raise ModelUnreadable(f"{slug} has no image encoder: {folder.name}/config.json is missing")
    name = f"{folder.name} of {slug}"
    try:
        encoder, report = CLIPVisionModelWithProjection.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelUnreadable(f"{name} is incomplete or damaged: {str(error)[:300]}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelUnreadable(f"{name} is incomplete: it has no {missing[0]}")
    check_finite(name, [encoder], dtype)
    return encoder.requires_grad_(False).eval()
