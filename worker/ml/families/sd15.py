"""Stable Diffusion 1.x: 1.4, 1.5 and the many bases made from them.

Diffusion: x_t = sqrt(a_t)·x0 + sqrt(1 - a_t)·n with t in 0..999, and the U-Net predicts the noise n, or the velocity
sqrt(a_t)·n - sqrt(1 - a_t)·x0 where the base's scheduler says so. Latents are pictures (B, 4, h/8, w/8) times the
autoencoder's scaling factor.

Facts follow diffusers: pipelines/stable_diffusion/pipeline_stable_diffusion.py for drawing,
examples/text_to_image/train_text_to_image_lora.py for training. Its safety checker is not loaded: prompts are
screened before a base is asked, in the same way for every family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from diffusers.training_utils import compute_snr

from worker.ml.adapters import attach
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora
from worker.ml.families.conditions import Tokens, Unframed
from worker.ml.families.guidance import ClassifierFree
from worker.ml.families.precision import FullAutoencoder
from worker.ml.families.working_memory import ENCODER_BYTES, autoencoder_bytes
from worker.ml.protocol import Grid, Inputs, Parts, PictureDefaults, Sampler, Side, TrainingDefaults

LORA_TARGETS = (  # every layer of the transformer blocks, as sd-scripts trains (networks/lora.py)
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    *("proj_in", "proj_out"),
)
TEXT_WIDTH = 768  # of the text encoder; Stable Diffusion 2 has the same pipeline with a wider one
SNR_GAMMA = 5.0  # the paper's (arXiv 2303.09556)


class StableDiffusion15(ClassifierFree, Unframed, FullAutoencoder):
    """See `Family` for each member."""

    name = "sd15"
    pipeline = "StableDiffusionPipeline"
    not_loaded: tuple[str, ...] = ("safety_checker", "feature_extractor", "image_encoder")
    encoders: tuple[str, ...] = ("text_encoder",)
    denoiser = "unet"
    autoencoder = "vae"

    # sd-scripts' guide (docs/train_network.md): rank 16, 1e-4 for the U-Net, no caption dropout; a hundred
    # steps per photo at batch 1 and 512 pixels, as in diffusers' DreamBooth guide (500 for five).
    training_defaults = TrainingDefaults(
        rank=16,
        learning_rate=1e-4,
        resolutions=(512,),
        batch_size=1,
        caption_dropout=0.0,
        steps_per_photo=100,
        min_steps=500,
        max_steps=2500,
    )
    training_guidance = 1.0  # the U-Net ignores it
    training_dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16, torch.float32)

    checkpointed_share = 0.21  # measured, as activation_bytes is; a layer of the largest level alone is a ninth

    def load(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> Parts:
        """Load the whole base on the CPU, from files on disk and never from a pickle."""
        parts = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=dict(dtypes),
            local_files_only=True,
            use_safetensors=True,
            requires_safety_checker=False,
            **dict.fromkeys(self.not_loaded),
        )
        kind = _prediction_type(parts)
        if kind not in ("epsilon", "v_prediction"):
            raise ModelUnreadable(f"{folder} predicts {kind!r}, which is unsupported; supported: epsilon, v_prediction")
        if parts.unet.config.use_linear_projection or parts.unet.config.cross_attention_dim > TEXT_WIDTH:
            raise ModelUnreadable(f"{folder} is Stable Diffusion 2, which is unsupported; supported: 1.x")
        # The schedule that the base was trained with, whichever scheduler draws.
        parts.noise_schedule = DDPMScheduler.from_config(parts.scheduler.config)
        return parts

    def modules(self, parts: Parts) -> Mapping[str, torch.nn.Module]:
        return {name: part for name, part in parts.components.items() if isinstance(part, torch.nn.Module)}

    def token_px(self, parts: Parts) -> int:
        return int(parts.vae_scale_factor)

    # --- prompts and pictures

    @torch.no_grad()
    def encode_prompts(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side = "wanted"
    ) -> Tokens:
        tokens, _ = parts.encode_prompt(list(prompts), device, 1, do_classifier_free_guidance=False)
        return Tokens(tokens)

    def cut_encoders(self, parts: Parts, prompt: str) -> tuple[str, ...]:
        """Return the encoders that read only the beginning of this prompt: CLIP stops at 77 tokens."""
        tokenizer = parts.tokenizer
        return ("clip",) if len(tokenizer(prompt).input_ids) > tokenizer.model_max_length else ()

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
        return PictureDefaults(width * token_px, height * token_px, steps=30, guidance=7.5)

    def uses_negative_prompt(self, parts: Parts, guidance: float) -> bool:
        return guidance > 1

    def sampler(
        self, parts: Parts, grid: Grid, steps: int, device: torch.device, generator: torch.Generator
    ) -> Sampler:
        """Return a new scheduler (it counts its steps) of the base's kind. Ancestral ones draw from the generator."""
        scheduler = type(parts.scheduler).from_config(parts.scheduler.config)
        scheduler.set_timesteps(steps, device=device)
        return Sampler(scheduler, parts.prepare_extra_step_kwargs(generator, 0.0))

    def first_noise(
        self, parts: Parts, sampler: Sampler, grid: Grid, generator: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        """Draw noise (1, C, h, w) on the generator's device, as `StableDiffusionPipeline` draws it."""
        noise = torch.randn((1, parts.unet.config.in_channels, *grid), generator=generator, dtype=dtype)
        return noise * float(sampler.scheduler.init_noise_sigma)

    def denoiser_input(
        self, sampler: Sampler, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latents in the U-Net's own scale, from which some schedulers deviate, and the time (1,)."""
        return sampler.scheduler.scale_model_input(latents, timestep), timestep.expand(1)

    def predict(self, parts: Parts, inputs: Inputs) -> torch.Tensor:
        """Predict the noise or velocity (B, C, h, w) at latents (B, C, h, w) and time (B,) in 0..999."""
        unet, text = parts.unet, cast(Tokens, inputs.condition)
        assert inputs.appended is None, "a U-Net reads pictures, not tokens"
        return cast(
            torch.Tensor,
            unet(inputs.latents, inputs.time, encoder_hidden_states=text.tokens, return_dict=False, **inputs.extra)[0],
        )

    def working_bytes(self, parts: Parts, grid: Grid, rows: int) -> Mapping[str, int]:
        """Return the peaks measured at the real geometry: 26 times the hidden states of the U-Net's first level."""
        unet, token_px = parts.unet, self.token_px(parts)
        hidden_states = rows * math.prod(grid) * unet.config.block_out_channels[0]
        return {
            "text_encoder": ENCODER_BYTES,
            "unet": int(26.1 * hidden_states * unet.dtype.itemsize),
            "vae": autoencoder_bytes(parts.vae, grid[0] * token_px, grid[1] * token_px),
        }

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
        velocity = _prediction_type(parts) == "v_prediction"
        target = schedule.get_velocity(latents, noise, time) if velocity else noise
        return schedule.add_noise(latents, noise, time), target

    def loss_weights(self, parts: Parts, time: torch.Tensor) -> torch.Tensor:
        """Return min-SNR weights (B,): times of little noise must not outweigh the others (arXiv 2303.09556, 3.4)."""
        snr = compute_snr(parts.noise_schedule, time)
        velocity = _prediction_type(parts) == "v_prediction"
        return cast(torch.Tensor, snr.clamp(max=SNR_GAMMA) / (snr + 1 if velocity else snr))

    def activation_bytes(self, parts: Parts, grid: Grid, batch_size: int) -> int:
        """Estimate what one training step keeps for its backward pass without gradient checkpointing.

        Measured with saved-tensor hooks at real and tiny size, in bfloat16 under autocast: a down or up layer keeps at
        most 50 times its hidden states. Each level has half the side length of the one before.
        """
        unet, config = parts.unet, parts.unet.config
        hidden_states = sum(
            channels * math.ceil(grid[0] / 2**level) * math.ceil(grid[1] / 2**level)
            for level, channels in enumerate(config.block_out_channels)
        )
        layers = 2 * config.layers_per_block + 1
        return int(50 * layers * batch_size * hidden_states * unet.dtype.itemsize)

    # --- LoRA

    def new_lora(
        self, parts: Parts, rank: int, generator: torch.Generator
    ) -> AbstractContextManager[dict[str, torch.nn.Parameter]]:
        """Add a fresh LoRA inside the block: its float32 parameters by their names in a file."""
        return attach.new_lora(parts.unet, LORA_TARGETS, rank, generator, lora.NAMES[self.name].key)

    def lora_metadata(self, parts: Parts) -> dict[str, str]:
        """Return metadata as sd-scripts writes it."""
        return {
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.prediction_type": "v" if _prediction_type(parts) == "v_prediction" else "epsilon",
            "ss_base_model_version": "sd_v1",
            "ss_network_module": lora.NAMES[self.name].network_module,
            "ss_min_snr_gamma": str(SNR_GAMMA),
        }


def _prediction_type(parts: Parts) -> str:
    return str(parts.scheduler.config.get("prediction_type", "epsilon"))
