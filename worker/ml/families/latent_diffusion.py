"""Diffusion on an autoencoder's latents with a U-Net, as the bases of Stability AI and CompVis have it.

x_t = sqrt(a_t)·x0 + sqrt(1 - a_t)·n with t in 0..999, and the U-Net predicts the noise n, or the velocity
sqrt(a_t)·n - sqrt(1 - a_t)·x0 where the base's scheduler says so. Latents are pictures (B, 4, h/8, w/8) times the
autoencoder's scaling factor.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from worker.ml.adapters import attach
from worker.ml.errors import BadInput, ModelUnreadable
from worker.ml.families import lora, samplers
from worker.ml.families.conditions import Tokens
from worker.ml.families.pipeline_parts import PipelineParts
from worker.ml.protocol import Grid, Inputs, Parts, PictureDefaults, Sampler, Sampling

LORA_TARGETS = (  # every layer of the transformer blocks, as sd-scripts trains (networks/lora.py)
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    *("proj_in", "proj_out"),
)
SNR_GAMMA = 5.0  # the paper's (arXiv 2303.09556)


class LatentDiffusion(PipelineParts):
    """What its families have in common; see `Family` for each member."""

    name: str
    denoiser = "unet"
    autoencoder = "vae"
    quantised: tuple[str, ...] = ("transformer_blocks",)
    default_guidance: float

    training_guidance = 1.0  # the U-Net ignores it
    training_dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16, torch.float32)

    def token_px(self, parts: Parts) -> int:
        return int(parts.vae_scale_factor)

    @torch.no_grad()
    def encode_picture(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels (1, 3, H, W) in -1..1 to float32 latents (1, C, h, w): the mode, so that they can be cached."""
        vae = parts.vae
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode().float()
        return cast(torch.Tensor, latents * vae.config.scaling_factor)

    @torch.no_grad()
    def decode_picture(self, parts: Parts, latents: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Decode latents (1, C, h, w) to pixels (1, 3, H, W) in 0..1, float32."""
        vae = parts.vae
        pixels = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
        return cast(torch.Tensor, (pixels * 0.5 + 0.5).clamp(0, 1).float())

    # --- denoising

    def picture_defaults(self, parts: Parts) -> PictureDefaults:
        """Return the size that the U-Net was trained at, and the usual steps and guidance."""
        size = parts.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        token_px = self.token_px(parts)
        return PictureDefaults(width * token_px, height * token_px, steps=30, guidance=self.default_guidance)

    def uses_negative_prompt(self, parts: Parts, guidance: float) -> bool:
        return guidance > 1

    samplers: Collection[str] = tuple(samplers.OF_DIFFUSION)

    def sampler(self, parts: Parts, sampling: Sampling, device: torch.device, generator: torch.Generator) -> Sampler:
        """Return a new scheduler (it counts its steps). Ancestral ones draw from the generator."""
        scheduler = samplers.new_scheduler(parts.scheduler, sampling.sampler, samplers.OF_DIFFUSION)
        scheduler.set_timesteps(sampling.steps, device=device)
        return Sampler(scheduler, samplers.step_arguments(scheduler, generator))

    def first_noise(
        self, parts: Parts, sampler: Sampler, grid: Grid, generator: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        """Draw noise (1, C, h, w) on the generator's device, as the pipeline draws it."""
        noise = torch.randn((1, parts.unet.config.in_channels, *grid), generator=generator, dtype=dtype)
        return noise * float(sampler.scheduler.init_noise_sigma)

    def denoiser_input(
        self, sampler: Sampler, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latents in the U-Net's own scale, from which some schedulers deviate, and the time (1,)."""
        return sampler.scheduler.scale_model_input(latents, timestep), timestep.expand(1)

    def denoiser_arguments(self, parts: Parts, inputs: Inputs) -> dict[str, Any]:
        assert inputs.appended is None, "a U-Net reads pictures, not tokens"
        text = cast(Tokens, inputs.condition)
        return {"sample": inputs.latents, "timestep": inputs.time, "encoder_hidden_states": text.tokens}

    def predict(self, parts: Parts, inputs: Inputs) -> torch.Tensor:
        """Predict the noise or velocity (B, C, h, w) at latents (B, C, h, w) and time (B,) in 0..999."""
        own = self.denoiser_arguments(parts, inputs)
        told = {**own.get("added_cond_kwargs", {}), **inputs.extra.get("added_cond_kwargs", {})}
        arguments = {**own, **inputs.extra} | ({"added_cond_kwargs": told} if told else {})
        return cast(torch.Tensor, parts.unet(**arguments, return_dict=False)[0])

    # --- training

    def sample_timestep(self, parts: Parts, grid: Grid, generator: torch.Generator) -> torch.Tensor:
        """Draw one time (1,) in 0..999, uniformly."""
        count: int = parts.scheduler.config.num_train_timesteps
        return torch.randint(0, count, (1,), generator=generator)

    def even_times(self, parts: Parts, count: int) -> torch.Tensor:
        """Return times (count,), evenly spaced over 0..999."""
        last: int = parts.scheduler.config.num_train_timesteps
        return ((torch.arange(count) + 0.5) / count * last).long()

    def noised_input_and_target(
        self, parts: Parts, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the U-Net's input and target for latents and noise (B, C, h, w) at time (B,)."""
        schedule = parts.noise_schedule
        target = schedule.get_velocity(latents, noise, time) if predicts_velocity(parts) else noise
        return schedule.add_noise(latents, noise, time), target

    def loss_weights(self, parts: Parts, time: torch.Tensor) -> torch.Tensor:
        """Return min-SNR weights (B,): times of little noise must not outweigh the others (arXiv 2303.09556, 3.4)."""
        snr = compute_snr(parts.noise_schedule, time)
        return cast(torch.Tensor, snr.clamp(max=SNR_GAMMA) / (snr + 1 if predicts_velocity(parts) else snr))

    # --- LoRA

    def new_lora(
        self, parts: Parts, rank: int, generator: torch.Generator
    ) -> AbstractContextManager[dict[str, torch.nn.Parameter]]:
        """Add a fresh LoRA inside the block: its float32 parameters by their names in a file."""
        return attach.new_lora(parts.unet, LORA_TARGETS, rank, generator, lora.NAMES[self.name].key)


def check_layer(encoder: Any, layer: int) -> None:
    """Raise BadInput unless a text encoder has this layer, which is counted from the last, 1."""
    layers: int = encoder.config.num_hidden_layers
    if not 1 <= layer <= layers:
        raise BadInput(f"clip_skip must be from 1 to {layers}, the layers of this base's text encoder, not {layer}")


def with_noise_schedule(folder: Path, parts: Parts) -> Parts:
    """Add the schedule that the base was trained with, whichever scheduler draws. Raises ModelUnreadable."""
    kind = _prediction_type(parts)
    if kind not in ("epsilon", "v_prediction"):
        raise ModelUnreadable(f"{folder} predicts {kind!r}, which is unsupported; supported: epsilon, v_prediction")
    parts.noise_schedule = DDPMScheduler.from_config(parts.scheduler.config)
    return parts


def predicts_velocity(parts: Parts) -> bool:
    return _prediction_type(parts) == "v_prediction"


def _prediction_type(parts: Parts) -> str:
    return str(parts.scheduler.config.get("prediction_type", "epsilon"))
