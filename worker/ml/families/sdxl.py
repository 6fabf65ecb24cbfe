"""SDXL 1.0 and the many bases made from it.

It diffuses latents as Stable Diffusion 1.x does (`latent_diffusion.py`), and is told more: the next to last hidden
states of two text encoders side by side, the second one's pooled embedding, and six numbers about the picture's size,
its original size and what was cut off (arXiv 2307.01952, 2.2), each as height before width.

Facts follow diffusers: pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py for drawing,
examples/text_to_image/train_text_to_image_lora_sdxl.py for training. That script gives the original size as width
before height, which the pipeline, examples/dreambooth/train_dreambooth_lora_sdxl.py and the base's own training do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import StableDiffusionXLPipeline

from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora
from worker.ml.families.conditions import PooledTokens
from worker.ml.families.guidance import ClassifierFree
from worker.ml.families.latent_diffusion import (
    SNR_GAMMA,
    LatentDiffusion,
    check_layer,
    predicts_velocity,
    with_noise_schedule,
)
from worker.ml.families.precision import FullAutoencoder
from worker.ml.families.working_memory import ENCODER_BYTES, autoencoder_bytes
from worker.ml.protocol import Framing, Grid, Inputs, Parts, Sampler, Sampling, Side, TrainingDefaults

USUAL_LAYER = 2
"""Of the text encoders: the last but one."""


@dataclass(frozen=True)
class FramedTokens(PooledTokens):
    """Prompts of photos, with how each was framed."""

    sizes: torch.Tensor  # (B, 6), float32: bfloat16 would round them


class StableDiffusionXL(LatentDiffusion, ClassifierFree, FullAutoencoder):
    """See `Family` for each member."""

    name = "sdxl"
    pipeline = "StableDiffusionXLPipeline"
    not_loaded: tuple[str, ...] = ("feature_extractor", "image_encoder")
    encoders: tuple[str, ...] = ("text_encoder", "text_encoder_2")
    default_guidance = 5.0  # the pipeline's

    # AI Toolkit's defaults: rank = alpha = 32, 1e-4. 1024 pixels, batch 1 and a hundred steps per photo as in
    # diffusers' DreamBooth guide for SDXL (500 for five), no caption dropout as in sd-scripts' (it caches the text).
    training_defaults = TrainingDefaults(
        rank=32,
        learning_rate=1e-4,
        resolutions=(1024,),
        batch_size=1,
        caption_dropout=0.0,
        steps_per_photo=100,
        min_steps=500,
        max_steps=2500,
    )
    checkpointed_share = 0.075  # measured, as activation_bytes is

    def load(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> Parts:
        """Load the whole base on the CPU, from files on disk and never from a pickle."""
        parts = StableDiffusionXLPipeline.from_pretrained(
            folder,
            dtype=dict(dtypes),
            local_files_only=True,
            use_safetensors=True,
            add_watermarker=False,
            **dict.fromkeys(self.not_loaded),
        )
        scheduler = type(parts.scheduler).__name__
        if scheduler.startswith("EDM"):
            raise ModelUnreadable(f"{folder} has the scheduler {scheduler}: bases of EDM's formulation are unsupported")
        return with_noise_schedule(folder, parts)

    # --- prompts

    @torch.no_grad()
    def encode_prompts(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side = "wanted"
    ) -> PooledTokens:
        """Encode prompts with the last layer but one of both encoders."""
        return self.encode_prompts_at(parts, prompts, device, side, USUAL_LAYER)

    @torch.no_grad()
    def encode_prompts_at(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side, layer: int
    ) -> PooledTokens:
        """Encode prompts with a layer that is counted from the last, in both encoders.

        An empty prompt against is zeros where the base says so, as the pipeline has it for None.
        """
        check_layer(parts.text_encoder, layer)
        tokens, _, pooled, _ = parts.encode_prompt(
            list(prompts), device=device, do_classifier_free_guidance=False, clip_skip=layer - USUAL_LAYER
        )
        if side == "against" and parts.config.force_zeros_for_empty_prompt:
            empty = torch.tensor([prompt == "" for prompt in prompts], device=device)
            tokens, pooled = tokens.masked_fill(empty[:, None, None], 0), pooled.masked_fill(empty[:, None], 0)
        return PooledTokens(tokens, pooled)

    def cut_encoders(self, parts: Parts, prompt: str) -> tuple[str, ...]:
        """Return the encoders that read only the beginning of this prompt: both are CLIP and stop at 77 tokens."""
        tokenizers = {"clip": parts.tokenizer, "clip_2": parts.tokenizer_2}
        return tuple(
            name
            for name, tokenizer in tokenizers.items()
            if len(tokenizer(prompt).input_ids) > tokenizer.model_max_length
        )

    # --- denoising

    def sampler(self, parts: Parts, sampling: Sampling, device: torch.device, generator: torch.Generator) -> Sampler:
        """Return a new scheduler as `LatentDiffusion` does, told that it begins at its first step."""
        sampler = super().sampler(parts, sampling, device, generator)
        if hasattr(sampler.scheduler, "set_begin_index"):
            sampler.scheduler.set_begin_index(0)
        return sampler

    def denoiser_arguments(self, parts: Parts, inputs: Inputs) -> dict[str, Any]:
        text = cast(PooledTokens, inputs.condition)
        sizes = text.sizes if isinstance(text, FramedTokens) else self._sizes_of_a_whole_picture(parts, inputs)
        told = {"text_embeds": text.pooled, "time_ids": sizes}
        return {**super().denoiser_arguments(parts, inputs), "added_cond_kwargs": told}

    def _sizes_of_a_whole_picture(self, parts: Parts, inputs: Inputs) -> torch.Tensor:
        """Return (B, 6) for pictures that are drawn: nothing was cut off. In the text's precision, as the pipeline."""
        text, token_px = cast(PooledTokens, inputs.condition), self.token_px(parts)
        height, width = (side * token_px for side in inputs.grid)
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=text.tokens.dtype, device=text.tokens.device)
        return sizes.expand(text.rows, 6)

    def working_bytes(self, parts: Parts, grid: Grid, rows: int) -> Mapping[str, int]:
        """Return the peaks measured at the real geometry: 16 times the hidden states of the U-Net's first level."""
        unet, token_px = parts.unet, self.token_px(parts)
        hidden_states = rows * math.prod(grid) * unet.config.block_out_channels[0]
        return {
            **dict.fromkeys(self.encoders, ENCODER_BYTES),
            "unet": 16 * hidden_states * unet.dtype.itemsize,
            "vae": autoencoder_bytes(parts.vae, grid[0] * token_px, grid[1] * token_px),
        }

    # --- training

    def frame(self, condition: PooledTokens, framings: Sequence[Framing]) -> FramedTokens:
        """Return the condition with each photo's original size, what was cut off, and its size, height first."""
        sizes = torch.tensor([(*one.original, *one.crop, *one.size) for one in framings], dtype=torch.float32)
        return FramedTokens(condition.tokens, condition.pooled, sizes.to(condition.tokens.device))

    def activation_bytes(self, parts: Parts, grid: Grid, batch_size: int) -> int:
        """Estimate what one training step keeps for its backward pass without gradient checkpointing.

        Measured with saved-tensor hooks at the real geometry, and at tiny ones in bfloat16 under autocast: a
        convolution layer keeps 10 times its hidden states, a transformer block 36 times. Each level has half the side
        length of the one before; the middle is as two layers of the last level, one of them with transformers.
        """
        unet, config = parts.unet, parts.unet.config
        down, up = config.layers_per_block, config.layers_per_block + 1
        last = len(config.block_out_channels) - 1
        kept = 0
        for level, channels in enumerate(config.block_out_channels):
            hidden_states = channels * math.ceil(grid[0] / 2**level) * math.ceil(grid[1] / 2**level)
            attending = down * ("Attn" in config.down_block_types[level]) + up * (
                "Attn" in config.up_block_types[-1 - level]
            )
            attending += level == last
            blocks = attending * config.transformer_layers_per_block[level]
            kept += hidden_states * (10 * (down + up + 2 * (level == last)) + 36 * blocks)
        return int(kept * batch_size * unet.dtype.itemsize)

    # --- LoRA

    def lora_metadata(self, parts: Parts) -> dict[str, str]:
        """Return metadata as sd-scripts writes it."""
        return {
            "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
            "modelspec.prediction_type": "v" if predicts_velocity(parts) else "epsilon",
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_network_module": lora.NAMES[self.name].network_module,
            "ss_min_snr_gamma": str(SNR_GAMMA),
        }
