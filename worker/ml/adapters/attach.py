"""LoRA on a denoiser, the same for every family that diffusers and PEFT know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from worker.ml.adapters.names import Pair, Shape, shape_of
from worker.ml.errors import ModelUnreadable


@contextmanager
def new_lora(
    denoiser: Any, targets: Sequence[str], rank: int, generator: torch.Generator, file_name: Callable[[str], str]
) -> Iterator[dict[str, torch.nn.Parameter]]:
    """Add a new LoRA and yield its float32 parameters by name, in a fixed order; remove it at the end.

    A starts Gaussian with deviation 1/rank, drawn from the generator, and B at zero (PEFT's "gaussian"). `file_name`
    turns a parameter's name, such as `block.to_q.lora_A.weight`, into its name in a file.
    """
    try:
        denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)), adapter_name="new")
        parameters = {
            name.replace(".new.", "."): parameter
            for name, parameter in sorted(denoiser.named_parameters())
            if ".lora_" in name
        }
        for name, parameter in parameters.items():
            parameter.data = torch.zeros(parameter.shape, device=parameter.device)
            if ".lora_A." in name:
                parameter.data += torch.randn(parameter.shape, generator=generator).to(parameter.device) / rank
        yield {file_name(name): parameter for name, parameter in parameters.items()}
    finally:
        denoiser.unload_lora()
        denoiser.disable_gradient_checkpointing()


@contextmanager
def attached(denoiser: Any, loras: Sequence[tuple[Mapping[str, Pair], float]]) -> Iterator[None]:
    """Use these LoRAs at these scales inside the block: their layers by name, which `check_fits` has checked."""
    names = [f"lora_{i}" for i in range(len(loras))]
    try:
        for name, (layers, _) in zip(names, loras, strict=True):
            weights: dict[str, torch.Tensor] = {}
            for layer, (a, b) in layers.items():
                weights |= {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}
            denoiser.load_lora_adapter(weights, prefix=None, adapter_name=name)
            _scale_by_one(denoiser, name)
        if names:  # this sets the factor of each layer, scale times alpha over rank
            denoiser.set_adapters(names, [scale for _, scale in loras])
        yield
    finally:
        if names:
            denoiser.unload_lora()


def use_only(denoiser: Any, scales: Mapping[int, float]) -> None:
    """Use of the attached LoRAs those at these places alone, until the attachment ends."""
    if scales:
        denoiser.enable_adapters()
        denoiser.set_adapters([f"lora_{place}" for place in scales], [*scales.values()])
    else:
        denoiser.disable_adapters()


def _scale_by_one(denoiser: torch.nn.Module, adapter: str) -> None:
    """Set every layer's alpha to its rank. Some releases of diffusers guess one alpha for layers of several ranks."""
    for layer in denoiser.modules():
        if isinstance(layer, BaseTunerLayer) and adapter in layer.r:
            layer.lora_alpha[adapter] = layer.r[adapter]


def check_fits(denoiser: torch.nn.Module, file: str, layers: Mapping[str, Pair]) -> None:
    """Check that every layer of a file, by its name in the denoiser, exists at that size. Raises ModelUnreadable.

    diffusers would skip an unknown layer, and widen the base to fit a larger one.
    """
    existing = {name: _shape(layer) for name, layer in denoiser.named_modules()}
    for name, pair in layers.items():
        shape = shape_of(pair)
        if existing.get(name) != shape:
            raise ModelUnreadable(f"{file} does not fit this base: its {name} maps {shape[0]} to {shape[1]} features")


def _shape(layer: torch.nn.Module) -> Shape | None:
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, torch.nn.Conv2d):
        return layer.in_channels, layer.out_channels, *layer.kernel_size
    return None
