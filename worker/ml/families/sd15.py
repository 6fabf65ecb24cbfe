"""Stable Diffusion 1.x: 1.4, 1.5 and the many bases made from them.

Facts follow diffusers: pipelines/stable_diffusion/pipeline_stable_diffusion.py for drawing,
examples/text_to_image/train_text_to_image_lora.py for training. Its safety checker is not loaded: prompts are
screened before a base is asked, in the same way for every family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora
from worker.ml.families.conditions import Tokens, Unframed
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
from worker.ml.protocol import Grid, Parts, Side, TrainingDefaults

TEXT_WIDTH = 768  # of the text encoder; Stable Diffusion 2 has the same pipeline with a wider one


class StableDiffusion15(LatentDiffusion, ClassifierFree, Unframed, FullAutoencoder):
    """See `Family` for each member."""

    name = "sd15"
    pipeline = "StableDiffusionPipeline"
    not_loaded: tuple[str, ...] = ("safety_checker", "feature_extractor", "image_encoder")
    encoders: tuple[str, ...] = ("text_encoder",)
    default_guidance = 7.5

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
        if parts.unet.config.use_linear_projection or parts.unet.config.cross_attention_dim > TEXT_WIDTH:
            raise ModelUnreadable(f"{folder} is Stable Diffusion 2, which is unsupported; supported: 1.x")
        return with_noise_schedule(folder, parts)

    # --- prompts and pictures

    @torch.no_grad()
    def encode_prompts(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side = "wanted"
    ) -> Tokens:
        tokens, _ = parts.encode_prompt(list(prompts), device, 1, do_classifier_free_guidance=False)
        return Tokens(tokens)

    @torch.no_grad()
    def encode_prompts_at(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side, layer: int
    ) -> Tokens:
        """Encode prompts with a layer of CLIP that is counted from the last; the last norm follows any.

        The pipeline's own `clip_skip` looks for that norm where transformers 5 does not have it.
        """
        encoder, tokenizer = parts.text_encoder, parts.tokenizer
        check_layer(encoder, layer)
        length = tokenizer.model_max_length
        read = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        states = encoder(read.input_ids.to(device), output_hidden_states=True).hidden_states[-layer]
        return Tokens(encoder.final_layer_norm(states))

    def cut_encoders(self, parts: Parts, prompt: str) -> tuple[str, ...]:
        """Return the encoders that read only the beginning of this prompt: CLIP stops at 77 tokens."""
        tokenizer = parts.tokenizer
        return ("clip",) if len(tokenizer(prompt).input_ids) > tokenizer.model_max_length else ()

    # --- denoising

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

    def lora_metadata(self, parts: Parts) -> dict[str, str]:
        """Return metadata as sd-scripts writes it."""
        return {
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.prediction_type": "v" if predicts_velocity(parts) else "epsilon",
            "ss_base_model_version": "sd_v1",
            "ss_network_module": lora.NAMES[self.name].network_module,
            "ss_min_snr_gamma": str(SNR_GAMMA),
        }
