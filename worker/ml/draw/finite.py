"""What is at fault when numbers are not finite: a LoRA, a part of the base, or the precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from worker.ml.adapters.attach import use_only
from worker.ml.errors import BadInput, NotFinite
from worker.ml.models import Base


def check_pixels(base: Base, pixels: torch.Tensor) -> None:
    """Raise NotFinite unless decoded pixels are finite. Encoded, the others would be black."""
    if not pixels.isfinite().all():
        raise NotFinite(f"{base.folder.name} gives numbers that are not finite: {base.fault(base.family.autoencoder)}")


def culprit(
    base: Base, loras: Sequence[tuple[str, float]], when: str, predict: Callable[[], torch.Tensor]
) -> Exception:
    """Return the error for a denoiser whose numbers are not finite, and leave its LoRAs switched off.

    `predict` evaluates it again; `loras` are the attached files, each with its scale. BadInput names the LoRA if the
    base alone gives finite numbers; NotFinite says that it does not, or that they leave float16.
    """
    slug = base.folder.name
    if base.dtype == torch.float16:
        return NotFinite(f"{slug} leaves the range of float16 {when}")
    if loras:
        use_only(base.denoiser, {})
    if not loras or not predict().isfinite().all():
        return NotFinite(f"{slug} gives numbers that are not finite {when}: {base.fault(base.family.denoiser)}")
    for place, (name, scale) in enumerate(loras):
        use_only(base.denoiser, {place: scale})
        if not predict().isfinite().all():
            return BadInput(f"{name} makes {slug} give numbers that are not finite {when}: train it again")
    names = " and ".join(name for name, _ in loras)
    return BadInput(f"{names} together make {slug} give numbers that are not finite {when}: lower their scales")
