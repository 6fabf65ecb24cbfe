"""Lumina-Image 2.0.

Flow matching, told from the other end: x_t = t·x0 + (1 - t)·n with t in 0..1, and the transformer predicts x0 - n.
`predict` returns the negative, which is what schedulers step along. Latents are pictures (B, 16, h, w).

Facts follow diffusers: pipelines/lumina2/pipeline_lumina2.py for drawing,
examples/dreambooth/train_dreambooth_lora_lumina2.py for training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline

from tests.ml.throwaway.lora import NAMES
from worker.ml.adapters import attach
from worker.ml.families.conditions import RaggedTokens, Unframed
from worker.ml.families.pipeline_parts import PipelineParts
from worker.ml.families.precision import FullAutoencoder
from worker.ml.families.working_memory import ENCODER_BYTES, autoencoder_bytes
from worker.ml.protocol import Grid, Inputs, Parts, PictureDefaults, Sampler, Sampling, Side, TrainingDefaults

TEXT_LENGTH = 256  # tokens that Gemma reads
LORA_TARGETS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("feed_forward.linear_1", "feed_forward.linear_2", "feed_forward.linear_3"),
)


def padded(prompts: RaggedTokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (B, TEXT_LENGTH, D) and the mask of what is not padding: the pipeline's length gives its very bits."""
    short = [torch.nn.functional.pad(row, (0, 0, 0, TEXT_LENGTH - len(row))) for row in prompts.tokens]
    return torch.stack(short), mask_of([len(row) for row in prompts.tokens], short[0].device)


def mask_of(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    return (torch.arange(TEXT_LENGTH) < torch.tensor(lengths)[:, None]).to(device)


class Lumina2(PipelineParts, Unframed, FullAutoencoder):
    """See `Family` for each member."""

    name = "lumina2"
    pipeline = "Lumina2Pipeline"
    not_loaded: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ("text_encoder",)
    denoiser = "transformer"
    autoencoder = "vae"
    quantised: tuple[str, ...] = ("layers", "noise_refiner", "context_refiner")
    # The script's README: 1e-4 at 1024 pixels, batch 1, 500 steps for five photos. The rank is not from there.
    training_defaults = TrainingDefaults(
        rank=8,
        learning_rate=1e-4,
        resolutions=(1024,),
        batch_size=1,
        caption_dropout=0.0,
        steps_per_photo=100,
        min_steps=500,
        max_steps=2500,
    )
    training_guidance = 1.0  # the transformer ignores it
    training_dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32)
    checkpointed_share = 0.127  # measured; the refiners are not checkpointed

    def load(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> Parts:
        return Lumina2Pipeline.from_pretrained(folder, dtype=dict(dtypes), local_files_only=True, use_safetensors=True)

    def token_px(self, parts: Parts) -> int:
        return int(parts.vae_scale_factor * parts.transformer.config.patch_size)

    # --- prompts and pictures

    @torch.no_grad()
    def encode_prompts(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side = "wanted"
    ) -> RaggedTokens:
        """Encode them after the system prompt, which the negative prompt does not have."""
        hidden, mask = parts._get_gemma_prompt_embeds(self._texts(parts, prompts, side), device, TEXT_LENGTH)
        return RaggedTokens(tuple(row[:length] for row, length in zip(hidden, mask.sum(1).tolist(), strict=True)))

    def _texts(self, parts: Parts, prompts: Sequence[str], side: Side) -> list[str]:
        return [f"{parts.system_prompt} <Prompt Start> {prompt}" if side == "wanted" else prompt for prompt in prompts]

    def cut_encoders(self, parts: Parts, prompt: str) -> tuple[str, ...]:
        (text,) = self._texts(parts, [prompt], "wanted")
        return ("gemma",) if len(parts.tokenizer(text).input_ids) > TEXT_LENGTH else ()

    @torch.no_grad()
    def encode_picture(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        vae = parts.vae
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode().float()
        return (latents - vae.config.shift_factor) * vae.config.scaling_factor

    @torch.no_grad()
    def decode_picture(self, parts: Parts, latents: torch.Tensor, grid: Grid) -> torch.Tensor:
        vae = parts.vae
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return (pixels * 0.5 + 0.5).clamp(0, 1).float()

    # --- denoising

    def picture_defaults(self, parts: Parts) -> PictureDefaults:
        size = parts.transformer.config.sample_size * parts.vae_scale_factor
        return PictureDefaults(size, size, steps=30, guidance=4.0)

    def uses_negative_prompt(self, parts: Parts, guidance: float) -> bool:
        return guidance > 1

    def evaluations(self, parts: Parts, guidance: float, timestep: float) -> Sequence[tuple[Side, ...]]:
        return [("wanted",), ("against",)] if self.uses_negative_prompt(parts, guidance) else [("wanted",)]

    def combine(
        self, wanted: torch.Tensor, against: torch.Tensor | None, guidance: float, timestep: float
    ) -> torch.Tensor:
        """Return the guided prediction, as long in each row of latents as the wanted one."""
        if against is None:
            return wanted
        guided = against + guidance * (wanted - against)
        return guided * (torch.norm(wanted, dim=-1, keepdim=True) / torch.norm(guided, dim=-1, keepdim=True))

    samplers: tuple[str, ...] = ()

    def sampler(self, parts: Parts, sampling: Sampling, device: torch.device, generator: torch.Generator) -> Sampler:
        scheduler, steps = FlowMatchEulerDiscreteScheduler.from_config(parts.scheduler.config), sampling.steps
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=device)
        scheduler.set_begin_index(0)
        return Sampler(scheduler)

    def first_noise(
        self, parts: Parts, sampler: Sampler, grid: Grid, generator: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        config = parts.transformer.config
        shape = (1, config.in_channels, *(config.patch_size * side for side in grid))
        return torch.randn(shape, generator=generator, dtype=dtype)

    def denoiser_input(
        self, sampler: Sampler, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return latents, 1 - timestep.expand(1) / sampler.scheduler.config.num_train_timesteps

    def denoiser_arguments(self, parts: Parts, inputs: Inputs) -> dict[str, Any]:
        hidden, mask = padded(cast(RaggedTokens, inputs.condition))
        return {
            "hidden_states": inputs.latents,
            "timestep": inputs.time,
            "encoder_hidden_states": hidden,
            "encoder_attention_mask": mask,
        }

    def predict(self, parts: Parts, inputs: Inputs) -> torch.Tensor:
        arguments = {**self.denoiser_arguments(parts, inputs), **inputs.extra}
        return -parts.transformer(**arguments, return_dict=False)[0]

    def working_bytes(self, parts: Parts, grid: Grid, rows: int) -> Mapping[str, int]:
        """Return the peaks measured at the real geometry: 26.7 hidden states of the transformer."""
        token_px = self.token_px(parts)
        return {
            "text_encoder": ENCODER_BYTES,
            "transformer": int(26.7 * _hidden_states(parts, grid, rows)),
            "vae": autoencoder_bytes(parts.vae, grid[0] * token_px, grid[1] * token_px),
        }

    # --- training

    def sample_timestep(self, parts: Parts, grid: Grid, generator: torch.Generator) -> torch.Tensor:
        """Draw one time (1,) in 0..1: uniform as in the script, shifted as for drawing (there, towards the photo)."""
        noise, shift = torch.rand((1,), generator=generator), parts.scheduler.config.shift
        return 1 - shift * noise / (1 + (shift - 1) * noise)

    def even_times(self, parts: Parts, count: int) -> torch.Tensor:
        return (torch.arange(count) + 0.5) / count

    def noised_input_and_target(
        self, parts: Parts, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        t = time[:, None, None, None]
        return (1 - t) * noise + t * latents, noise - latents

    def loss_weights(self, parts: Parts, time: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(time)

    def activation_bytes(self, parts: Parts, grid: Grid, batch_size: int) -> int:
        """Return 43 hidden states a block, measured. Of two refiners, one reads the text and one the picture."""
        config = parts.transformer.config
        blocks = config.num_layers + config.num_refiner_layers
        return int(43 * blocks * _hidden_states(parts, grid, batch_size))

    # --- LoRA

    def new_lora(
        self, parts: Parts, rank: int, generator: torch.Generator
    ) -> AbstractContextManager[dict[str, torch.nn.Parameter]]:
        return attach.new_lora(parts.transformer, LORA_TARGETS, rank, generator, NAMES.key)

    def lora_metadata(self, parts: Parts) -> dict[str, str]:
        return {"modelspec.architecture": "lumina-2/lora", "ss_base_model_version": "lumina2"}


def _hidden_states(parts: Parts, grid: Grid, rows: int) -> int:
    """Return the bytes of the transformer's hidden states, text and picture."""
    transformer = parts.transformer
    tokens = rows * (math.prod(grid) + TEXT_LENGTH)
    return int(tokens * transformer.config.hidden_size * transformer.dtype.itemsize)
