"""The loss of a batch: what the denoiser predicts, beside what it should; of a training step, or at fixed noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F

from worker.ml.models import Base
from worker.ml.protocol import Condition, Inputs, Side
from worker.ml.train.batches import Batch, Sample, select_samples
from worker.ml.train.seeds import seeded


def sample_losses(base: Base, batch: Batch) -> torch.Tensor:
    """Return the mean squared error of each sample (B,), weighted as the family does, in float32 on the device."""
    family = base.family
    noised, target = family.noised_input_and_target(base.parts, batch.latents, batch.noise, batch.time)
    if batch.preserved.any():
        target = target.clone()
        with torch.no_grad(), lora_disabled(base):
            target[batch.preserved] = _predict(base, noised[batch.preserved], select_samples(batch, batch.preserved))
    errors = F.mse_loss(_predict(base, noised, batch), target, reduction="none").flatten(1).mean(1)
    return family.loss_weights(base.parts, batch.time) * errors


def _predict(base: Base, noised: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the denoiser's prediction for noised latents (B, …), in float32."""
    with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
        inputs = Inputs(
            latents=noised.to(base.dtype),
            time=batch.time,
            condition=batch.text,
            grid=batch.grid,
            guidance=base.family.training_guidance,
            sides=cast(tuple[Side, ...], ("wanted",) * len(noised)),
        )
        predicted = base.family.predict(base.parts, inputs)
    return predicted.float()


@contextmanager
def lora_disabled(base: Base) -> Iterator[None]:
    """Predict without the LoRA inside the block."""
    denoiser = base.denoiser
    denoiser.disable_adapters()
    try:
        yield
    finally:
        denoiser.enable_adapters()


def batches_at_fixed_noise(
    base: Base, samples: Sequence[Sample], texts: Mapping[str, Condition], draws: int, *seed: str | int
) -> Iterator[Batch]:
    """Yield, for each sample, a batch of itself at `draws` evenly spaced times, with noise of the seed.

    Two models, or two moments of one, compare on them.
    """
    times = base.family.even_times(base.parts, draws)
    for index, sample in enumerate(samples):
        text = texts[sample.photo.caption]
        noise = torch.randn((draws, *sample.latents.shape[1:]), generator=seeded(*seed, index))
        yield Batch(
            latents=torch.cat([sample.latents] * draws),
            noise=noise.to(base.device),
            time=times.to(base.device),
            text=base.family.frame(text.join([text] * (draws - 1)), [sample.framing] * draws),
            grid=sample.grid,
            preserved=torch.zeros(draws, dtype=torch.bool),
        )
