"""FLUX.1: dev and schnell, and small bases of the same architecture.

Flow matching: x_t = (1 - t)·x0 + t·n with t in 0..1, and the transformer predicts n - x0. Latents are packed 2x2 into
tokens, (B, h/2·w/2, 4·channels), after `(z - shift) · scale`.

Facts follow diffusers: pipelines/flux/pipeline_flux.py for drawing, examples/dreambooth/train_dreambooth_lora_flux.py
for training.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import compute_density_for_timestep_sampling

from worker.ml.adapters import attach
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora, samplers
from worker.ml.families.conditions import PooledTokens, Unframed
from worker.ml.families.flow_matching import FlowMatching
from worker.ml.families.guidance import ClassifierFree
from worker.ml.families.pipeline_parts import PipelineParts
from worker.ml.families.precision import FullAutoencoder
from worker.ml.families.working_memory import ENCODER_BYTES, autoencoder_bytes
from worker.ml.protocol import Grid, Inputs, Parts, PictureDefaults, Sampler, Sampling, Side, TrainingDefaults

LORA_TARGETS = (  # the attention and feed-forward layers that the diffusers script trains by default
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
)


class Flux(PipelineParts, FlowMatching, ClassifierFree, Unframed, FullAutoencoder):
    """See `Family` for each member."""

    name = "flux"
    pipeline = "FluxPipeline"
    not_loaded: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ("text_encoder", "text_encoder_2")  # CLIP (pooled) and T5 (tokens)
    denoiser = "transformer"
    autoencoder = "vae"
    quantised: tuple[str, ...] = ("transformer_blocks", "single_transformer_blocks")
    # AI Toolkit's FLUX.1 example (config/examples/train_lora_flux_24gb.yaml): rank = alpha = 16, 1e-4, batch 1,
    # resolutions 512, 768 and 1024, caption dropout 0.05, guidance embedded as 1.
    training_defaults = TrainingDefaults(
        rank=16,
        learning_rate=1e-4,
        resolutions=(512, 768, 1024),
        batch_size=1,
        caption_dropout=0.05,
        steps_per_photo=100,
        min_steps=800,
        max_steps=2500,
    )
    training_guidance = 1.0
    training_dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32)  # gradients leave float16's range

    checkpointed_share = 0.08  # measured, as activation_bytes is: a hidden state a block, and one block

    def load(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> Parts:
        """Load the whole base on the CPU, from files on disk and never from a pickle.

        T5's `wo` layers leave the range of float16 too: transformers keeps them in float32.
        """
        parts = FluxPipeline.from_pretrained(folder, dtype=dict(dtypes), local_files_only=True, use_safetensors=True)
        scheduler = parts.scheduler
        if not (type(scheduler).__name__.startswith("FlowMatch") or scheduler.config.get("use_flow_sigmas")):
            raise ModelUnreadable(
                f"{folder} has the scheduler {type(scheduler).__name__}, which does not sample flow matching"
            )
        return parts

    def token_px(self, parts: Parts) -> int:
        return 2 * int(parts.vae_scale_factor)

    # --- prompts and pictures

    @torch.no_grad()
    def encode_prompts(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side = "wanted"
    ) -> PooledTokens:
        tokens, pooled, _ = parts.encode_prompt(list(prompts), device=device, max_sequence_length=_text_length(parts))
        return PooledTokens(tokens, pooled)

    def cut_encoders(self, parts: Parts, prompt: str) -> tuple[str, ...]:
        """Return the encoders that read only the beginning of this prompt: CLIP stops at 77 tokens, T5 at up to 512."""
        limits = {
            "clip": (parts.tokenizer, _clip_length(parts)),
            "t5": (parts.tokenizer_2, _text_length(parts)),
        }
        return tuple(name for name, (tokenizer, most) in limits.items() if len(tokenizer(prompt).input_ids) > most)

    @torch.no_grad()
    def encode_picture(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels (1, 3, H, W) in -1..1 to float32 latents (1, N, C): the mode, so that they can be cached."""
        vae = parts.vae
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode().float()
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        return cast(torch.Tensor, parts._pack_latents(latents, *latents.shape))

    @torch.no_grad()
    def decode_picture(self, parts: Parts, latents: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Decode latents (1, N, C) to pixels (1, 3, H, W) in 0..1, float32."""
        vae, token_px = parts.vae, self.token_px(parts)
        latents = parts._unpack_latents(latents, grid[0] * token_px, grid[1] * token_px, parts.vae_scale_factor)
        latents = (latents / vae.config.scaling_factor) + vae.config.shift_factor
        pixels = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return cast(torch.Tensor, (pixels * 0.5 + 0.5).clamp(0, 1).float())

    # --- denoising

    def picture_defaults(self, parts: Parts) -> PictureDefaults:
        """Return the size that the autoencoder was trained at (1024 in the published bases), and published settings.

        FLUX.1-dev embeds its guidance; schnell does not, and needs four steps (model cards).
        """
        size, guided = int(parts.vae.config.sample_size), _embeds_guidance(parts)
        return PictureDefaults(size, size, steps=28 if guided else 4, guidance=3.5 if guided else 0.0)

    def uses_negative_prompt(self, parts: Parts, guidance: float) -> bool:
        """Return True for a base that is not distilled: one with an embedding is guided through that."""
        return guidance > 1 and not _embeds_guidance(parts)

    samplers: Collection[str] = tuple(samplers.OF_FLOW_MATCHING)

    def sampler(self, parts: Parts, sampling: Sampling, device: torch.device, generator: torch.Generator) -> Sampler:
        """Return a new scheduler (it counts its steps), as the pipeline sets Euler's.

        Others, such as Heun's, space their steps themselves. Stochastic ones draw from the generator.
        """
        scheduler = samplers.new_scheduler(parts.scheduler, sampling.sampler, samplers.OF_FLOW_MATCHING)
        steps = sampling.steps
        if "mu" in inspect.signature(scheduler.set_timesteps).parameters:
            mu = _shift_mu(parts, sampling.grid)
            if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
                scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device=device)
            else:
                scheduler.set_timesteps(steps, device=device, mu=mu)
        else:
            scheduler.set_timesteps(steps, device=device)
        scheduler.set_begin_index(0)
        return Sampler(scheduler, samplers.step_arguments(scheduler, generator))

    def first_noise(
        self, parts: Parts, sampler: Sampler, grid: Grid, generator: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        """Draw noise (1, N, C) on the generator's device, as `FluxPipeline` draws it."""
        channels = parts.transformer.config.in_channels // 4
        noise = torch.randn((1, channels, 2 * grid[0], 2 * grid[1]), generator=generator, dtype=dtype)
        return cast(torch.Tensor, parts._pack_latents(noise, *noise.shape))

    def denoiser_input(
        self, sampler: Sampler, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latents unchanged, and the time (1,) in 0..1: the scheduler counts to 1000."""
        return latents, timestep.expand(1).to(latents.dtype) / 1000

    def denoiser_arguments(self, parts: Parts, inputs: Inputs) -> dict[str, Any]:
        latents, text = inputs.latents, cast(PooledTokens, inputs.condition)
        device, dtype = latents.device, text.tokens.dtype
        guidance = torch.full((len(latents),), inputs.guidance, device=device)
        states, ids = latents, parts._prepare_latent_image_ids(1, *inputs.grid, device, dtype)
        if inputs.appended is not None:
            states, ids = torch.cat([states, inputs.appended.tokens], dim=1), torch.cat([ids, inputs.appended.ids])
        return {
            "hidden_states": states,
            "timestep": inputs.time,
            "guidance": guidance if _embeds_guidance(parts) else None,
            "pooled_projections": text.pooled,
            "encoder_hidden_states": text.tokens,
            "txt_ids": torch.zeros(text.tokens.shape[1], 3, device=device, dtype=dtype),
            "img_ids": ids,
        }

    def predict(self, parts: Parts, inputs: Inputs) -> torch.Tensor:
        """Predict the velocity (B, N, C) at latents (B, N, C) and time (B,) in 0..1."""
        arguments = {**self.denoiser_arguments(parts, inputs), **inputs.extra}
        predicted: torch.Tensor = parts.transformer(**arguments, return_dict=False)[0]
        return predicted[:, : inputs.latents.shape[1]]

    def working_bytes(self, parts: Parts, grid: Grid, rows: int) -> Mapping[str, int]:
        """Return the peaks measured at the real geometry: 17.4 hidden states (text and picture) of the transformer."""
        transformer, vae = parts.transformer, parts.vae
        tokens = rows * (math.prod(grid) + _text_length(parts))
        return {
            "text_encoder_2": ENCODER_BYTES,
            "transformer": int(17.4 * tokens * transformer.inner_dim * transformer.dtype.itemsize),
            "vae": autoencoder_bytes(vae, grid[0] * self.token_px(parts), grid[1] * self.token_px(parts)),
        }

    # --- training

    def sample_timestep(self, parts: Parts, grid: Grid, generator: torch.Generator) -> torch.Tensor:
        """Draw one time (1,) in 0..1: logit-normal (arXiv 2403.03206, 3.1), shifted as for drawing (5.3.2)."""
        time = compute_density_for_timestep_sampling(
            "logit_normal", batch_size=1, logit_mean=0.0, logit_std=1.0, generator=generator
        )
        config = parts.scheduler.config
        if config.get("use_dynamic_shifting"):
            return cast(torch.Tensor, parts.scheduler.time_shift(_shift_mu(parts, grid), 1.0, time))
        shift = config.get("shift", config.get("flow_shift", 1.0))
        return cast(torch.Tensor, shift * time / (1 + (shift - 1) * time))

    def activation_bytes(self, parts: Parts, grid: Grid, batch_size: int) -> int:
        """Estimate what one training step keeps for its backward pass without gradient checkpointing.

        Measured with saved-tensor hooks, in bfloat16 under autocast: a double block keeps 25 and a single block 16.5
        times its hidden states (text and picture); a LoRA keeps a copy of its layer's input.
        """
        transformer, config = parts.transformer, parts.transformer.config
        tokens = batch_size * (math.prod(grid) + _text_length(parts))
        hidden_states = tokens * transformer.inner_dim * transformer.dtype.itemsize
        return int(hidden_states * (25 * config.num_layers + 16.5 * config.num_single_layers))

    # --- LoRA

    def new_lora(
        self, parts: Parts, rank: int, generator: torch.Generator
    ) -> AbstractContextManager[dict[str, torch.nn.Parameter]]:
        """Add a fresh LoRA inside the block: its float32 parameters by their names in a file."""
        return attach.new_lora(parts.transformer, LORA_TARGETS, rank, generator, lora.NAMES[self.name].key)

    def lora_metadata(self, parts: Parts) -> dict[str, str]:
        """Return metadata as sd-scripts writes it."""
        variant = "dev" if _embeds_guidance(parts) else "schnell"
        return {
            "modelspec.architecture": f"flux-1-{variant}/lora",
            "modelspec.implementation": "https://github.com/black-forest-labs/flux",
            "ss_base_model_version": "flux1",
        }


def _embeds_guidance(parts: Parts) -> bool:
    return bool(parts.transformer.config.guidance_embeds)


def _clip_length(parts: Parts) -> int:
    return int(parts.tokenizer_max_length)


def _text_length(parts: Parts) -> int:
    """Return how many tokens T5 reads: its tokenizer's limit, at most 512, or 256 for schnell (model card)."""
    return min(int(parts.tokenizer_2.model_max_length), 512 if _embeds_guidance(parts) else 256)


def _shift_mu(parts: Parts, grid: Grid) -> float:
    """Return the shift for a picture's size; what a scheduler does not state is as in `FluxPipeline`."""
    config = parts.scheduler.config
    stated = (("base_image_seq_len", 256), ("max_image_seq_len", 4096), ("base_shift", 0.5), ("max_shift", 1.15))
    return cast(float, calculate_shift(math.prod(grid), *(config.get(name, usual) for name, usual in stated)))
