"""What is at fault when numbers are not finite: a LoRA, a part of the base, or the precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from worker.ml.adapters.attach import use_only
from worker.ml.errors import BadInput, NotFinite
from worker.ml.models import Base

Evaluation = Callable[[torch.Tensor], torch.Tensor]
Loras = Sequence[tuple[str, float]]
"""Attached files, each with its scale."""


def check_pixels(base: Base, pixels: torch.Tensor, latents: torch.Tensor, loras: Loras, decode: Evaluation) -> None:
    """Raise NotFinite, or BadInput for a LoRA, unless pixels that `decode` made of latents are finite.

    Encoded, they would be black.
    """
    if pixels.isfinite().all():
        return
    slug = base.folder.name
    if loras and base.dtype != torch.float16 and decode(_noise_like(latents)).isfinite().all():
        raise _of_loras(slug, loras, "when its picture is decoded")
    raise NotFinite(f"{slug} gives numbers that are not finite: {base.fault(base.family.autoencoder)}")


def culprit(base: Base, loras: Loras, when: str, latents: torch.Tensor, predict: Evaluation) -> Exception:
    """Return the error for a denoiser whose numbers are not finite, and leave its LoRAs switched off.

    `predict` evaluates it on other latents of the same shape: after the first step these ones are what the LoRAs made
    of them, and the base is not at fault if they are enormous. BadInput names the LoRA if the base alone gives finite
    numbers; NotFinite says that it does not, or that they leave float16.
    """
    slug = base.folder.name
    if base.dtype == torch.float16:
        return NotFinite(f"{slug} leaves the range of float16 {when}")
    noise = _noise_like(latents)
    if loras:
        use_only(base.denoiser, {})
    if not loras or not predict(noise).isfinite().all():
        return NotFinite(f"{slug} gives numbers that are not finite {when}: {base.fault(base.family.denoiser)}")
    for place, lora in enumerate(loras):
        use_only(base.denoiser, {place: lora[1]})
        if not predict(noise).isfinite().all():
            return _of_loras(slug, [lora], when)
    use_only(base.denoiser, {})
    return _of_loras(slug, loras, when)


def _of_loras(slug: str, loras: Loras, when: str) -> BadInput:
    names = " and ".join(name for name, _ in loras)
    make, remedy = ("makes", "train it again") if len(loras) == 1 else ("together make", "lower their scales")
    return BadInput(f"{names} {make} {slug} give numbers that are not finite {when}: {remedy}")


def _noise_like(latents: torch.Tensor) -> torch.Tensor:
    return torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(0)).to(latents)
