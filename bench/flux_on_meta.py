"""FLUX.1-dev at its real geometry without weights, and a count of the copies that placing its parts would make."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from bench.release import BEFORE, Flux, PictureRequest, Prompt, draw, models, single_files

GIB = 2**30
CONFIGS = Path(single_files.__file__).parent / "flux-dev.json"
SIDE = 1024


class Still(Flux):
    """The family with every decision of its own, but nothing is computed."""

    def encode_prompts(self, *_: Any) -> Prompt:
        return Prompt(torch.zeros(1, 512, 4096), torch.zeros(1, 768))

    def cut_encoders(self, *_: Any) -> tuple[str, ...]:
        return ()

    def predict(self, parts: Any, inputs: Any, *_: Any) -> torch.Tensor:
        return torch.zeros_like(inputs if BEFORE else inputs.latents)

    def decode_picture(self, *_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros(1, 3, SIDE, SIDE)


def build() -> Any:
    """Return the base in bfloat16, its parts on the meta device, for a device that is not the host's memory."""
    diffusers.utils.logging.set_verbosity_error()
    configs = json.loads(CONFIGS.read_text("utf-8"))
    with torch.device("meta"):
        modules = {
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder/config.json"])),
            "text_encoder_2": T5EncoderModel(T5Config(**configs["text_encoder_2/config.json"])),
            "transformer": FluxTransformer2DModel.from_config(configs["transformer/config.json"]),
            "vae": AutoencoderKL.from_config(configs["vae/config.json"]),
        }
    for module in modules.values():
        module.to(torch.bfloat16).eval().requires_grad_(False)
    parts = SimpleNamespace(
        **modules,
        components=modules,
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(configs["scheduler/scheduler_config.json"]),
        tokenizer_2=SimpleNamespace(model_max_length=512),
        vae_scale_factor=8,
        _pack_latents=FluxPipeline._pack_latents,
        unload_lora_weights=lambda: None,  # called in the release before, even without a LoRA
    )
    family = (Still(),) if not BEFORE else ("flux", Still())
    plan = {"offloaded": True, "memory_plan": ""} if BEFORE else {"forms": ("plain",)}
    return models.Base(Path("flux-dev"), *family, parts, torch.device("cpu"), torch.bfloat16, **plan)


def draw_pictures(base: Any, count: int) -> None:
    """Let the real loop draw a request of so many pictures."""
    request = PictureRequest("a photo", None, SIDE, SIDE, steps=2, guidance=3.5, seed=1, num_images=count)
    assert len(draw(base, request)) == count


class Copies(TorchDispatchMode):
    """Counts the bytes of weights that are copied to the device, and back, without making the copies.

    A copy of a weight as it was built goes to the device, a copy of anything else on the meta device comes back.
    """

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.to_device = self.to_host = 0
        modules = base.parts.components.values()
        self._built = {_storage(tensor) for part in modules for tensor in (*part.parameters(), *part.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten._to_copy.default or not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        if _storage(args[0]) in self._built:
            self.to_device += args[0].nbytes
        else:
            self.to_host += args[0].nbytes
        return torch.empty_like(args[0])


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Moves:
    """Counts the same in the release before, where parts moved with `Module.to`, which copies nothing twice."""

    def __init__(self) -> None:
        self.to_device = self.to_host = 0
        self._there: set[torch.nn.Module] = set()

    def move(self, module: torch.nn.Module, where: torch.device | str) -> torch.nn.Module:
        """Stand in for `Module.to`: "cpu" is the host, a `torch.device` the base's device."""
        size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
        if isinstance(where, torch.device) and module not in self._there:
            self.to_device += size
            self._there.add(module)
        elif where == "cpu" and module in self._there:
            self.to_host += size
            self._there.remove(module)
        return module


@contextmanager
def counted(base: Any) -> Iterator[Copies | Moves]:
    """Count what is copied inside the block."""
    if not BEFORE:
        with Copies(base) as copies:
            yield copies
        return
    moves, real = Moves(), torch.nn.Module.to
    torch.nn.Module.to = lambda module, where: moves.move(module, where)
    try:
        yield moves
    finally:
        torch.nn.Module.to = real
