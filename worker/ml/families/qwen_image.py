"""Qwen-Image, and later versions of it that have the same pipeline, such as Qwen-Image-2512.

Flow matching as FLUX.1's: x_t = (1 - t)·x0 + t·n with t in 0..1, and the transformer predicts n - x0. The autoencoder
is one of videos, of which a picture is a single frame (B, C, 1, h, w); its latents are normalised channel by channel
and packed 2x2 into tokens (B, h/2·w/2, 4·channels).

Facts follow diffusers: pipelines/qwenimage/pipeline_qwenimage.py for drawing,
examples/dreambooth/train_dreambooth_lora_qwen_image.py for training.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from diffusers.training_utils import compute_density_for_timestep_sampling

from worker.ml.adapters import attach
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora
from worker.ml.families.conditions import RaggedTokens, Unframed
from worker.ml.families.flow_matching import FlowMatching, check_scheduler
from worker.ml.families.lora.qwen_image import BLOCKS, IN_BLOCKS, UNUSED_IN_LAST_BLOCK
from worker.ml.families.pipeline_parts import PipelineParts
from worker.ml.families.precision import FullAutoencoder
from worker.ml.protocol import Grid, Inputs, Parts, PictureDefaults, Sampler, Sampling, Side, TrainingDefaults

MAX_TEXT_LENGTH = 512  # tokens of a prompt and of the template after it
ENCODER_BYTES = int(0.39 * 2**30)
"""What the text encoder needs for the 1058 tokens that it reads at most, of which all layers are kept."""


class QwenImage(PipelineParts, FlowMatching, Unframed, FullAutoencoder):
    """See `Family` for each member."""

    name = "qwen-image"
    pipeline = "QwenImagePipeline"
    not_loaded: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ("text_encoder",)  # the language model of Qwen2.5-VL
    denoiser = "transformer"
    autoencoder = "vae"
    quantised: tuple[str, ...] = ("transformer_blocks",)
    # AI Toolkit's example (config/examples/train_lora_qwen_image_24gb.yaml): rank = alpha = 16, 1e-4, batch 1,
    # resolutions 512, 768 and 1024, caption dropout 0.05. The number of steps is FLUX.1's.
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
    training_guidance = 1.0  # the transformer ignores it
    training_dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32)

    checkpointed_share = 0.05  # measured, as activation_bytes is: a hidden state a block, and one block

    def load(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> Parts:
        """Load the whole base on the CPU, from files on disk and never from a pickle."""
        parts = QwenImagePipeline.from_pretrained(
            folder, dtype=dict(dtypes), local_files_only=True, use_safetensors=True
        )
        check_scheduler(folder, parts.scheduler)
        config = parts.transformer.config
        if config.num_layers > BLOCKS:
            raise ModelUnreadable(
                f"{folder} has {config.num_layers} blocks, which is unsupported; supported: Qwen-Image, which has "
                f"{BLOCKS}"
            )
        parts.text_encoder = language_model(parts.text_encoder)
        return parts

    def token_px(self, parts: Parts) -> int:
        return 2 * int(parts.vae_scale_factor)

    # --- prompts and pictures

    @torch.no_grad()
    def encode_prompts(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side = "wanted"
    ) -> RaggedTokens:
        """Encode prompts in the template, whose own tokens before the prompt are dropped, each without padding.

        No negative prompt is a space, as the model's card recommends.
        """
        texts = [prompt or " " for prompt in prompts] if side == "against" else prompts
        encoded = (parts.encode_prompt(text, device, max_sequence_length=_text_length(parts))[0] for text in texts)
        return RaggedTokens(tuple(tokens[0] for tokens in encoded))

    def cut_encoders(self, parts: Parts, prompt: str) -> tuple[str, ...]:
        """Return the encoder if it reads only the beginning of this prompt in its template."""
        length = len(parts.tokenizer(parts.prompt_template_encode.format(prompt)).input_ids)
        return ("qwen2.5-vl",) if length - parts.prompt_template_encode_start_idx > _text_length(parts) else ()

    @torch.no_grad()
    def encode_picture(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels (1, 3, H, W) in -1..1 to float32 latents (1, N, C): the mode, so that they can be cached."""
        vae = parts.vae
        latents = vae.encode(pixels.unsqueeze(2).to(vae.device, vae.dtype)).latent_dist.mode().float()
        mean, scale = _statistics(vae, latents)
        latents = ((latents - mean) * scale).squeeze(2)
        return cast(torch.Tensor, QwenImagePipeline._pack_latents(latents, *latents.shape))

    @torch.no_grad()
    def decode_picture(self, parts: Parts, latents: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Decode latents (1, N, C) to pixels (1, 3, H, W) in 0..1, float32."""
        vae, token_px = parts.vae, self.token_px(parts)
        latents = QwenImagePipeline._unpack_latents(
            latents, grid[0] * token_px, grid[1] * token_px, parts.vae_scale_factor
        ).to(vae.dtype)
        mean, scale = _statistics(vae, latents)
        pixels = vae.decode(latents / scale + mean, return_dict=False)[0][:, :, 0]
        return cast(torch.Tensor, (pixels * 0.5 + 0.5).clamp(0, 1).float())

    # --- denoising

    def picture_defaults(self, parts: Parts) -> PictureDefaults:
        """Return the pipeline's size, which no part of a base states, and the model card's steps and guidance."""
        size = int(parts.default_sample_size * parts.vae_scale_factor)
        return PictureDefaults(size, size, steps=50, guidance=4.0)

    def uses_negative_prompt(self, parts: Parts, guidance: float) -> bool:
        return guidance > 1

    def evaluations(self, parts: Parts, guidance: float, timestep: float) -> Sequence[tuple[Side, ...]]:
        """Return two calls, as in the pipeline: prompts of one length need no mask."""
        return [("wanted",), ("against",)] if self.uses_negative_prompt(parts, guidance) else [("wanted",)]

    def combine(
        self, wanted: torch.Tensor, against: torch.Tensor | None, guidance: float, timestep: float
    ) -> torch.Tensor:
        """Guide away from the negative prompt, then give each token (1, N, C) the length that it had without that."""
        if against is None:
            return wanted
        combined = against + guidance * (wanted - against)
        length = torch.norm(wanted, dim=-1, keepdim=True)
        return cast(torch.Tensor, combined * (length / torch.norm(combined, dim=-1, keepdim=True)))

    samplers: Collection[str] = ("euler",)  # others ignore where the published schedule ends

    def sampler(self, parts: Parts, sampling: Sampling, device: torch.device, generator: torch.Generator) -> Sampler:
        """Return a new scheduler (it counts its steps), shifted by picture size."""
        scheduler, steps = FlowMatchEulerDiscreteScheduler.from_config(parts.scheduler.config), sampling.steps
        mu = _shift_mu(parts, sampling.grid)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device=device)
        scheduler.set_begin_index(0)
        return Sampler(scheduler)

    def first_noise(
        self, parts: Parts, sampler: Sampler, grid: Grid, generator: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        """Draw noise (1, N, C) on the generator's device, as `QwenImagePipeline` draws it."""
        channels = parts.transformer.config.in_channels // 4
        noise = torch.randn((1, channels, 2 * grid[0], 2 * grid[1]), generator=generator, dtype=dtype)
        return cast(torch.Tensor, QwenImagePipeline._pack_latents(noise, *noise.shape))

    def denoiser_input(
        self, sampler: Sampler, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latents unchanged, and the time (1,) in 0..1: the scheduler counts to 1000."""
        return latents, timestep.expand(1).to(latents.dtype) / 1000

    def denoiser_arguments(self, parts: Parts, inputs: Inputs) -> dict[str, Any]:
        tokens, mask = _padded(cast(RaggedTokens, inputs.condition).tokens)
        return {
            "hidden_states": inputs.latents,
            "timestep": inputs.time,
            "encoder_hidden_states": tokens,
            "encoder_hidden_states_mask": mask,
            "img_shapes": [[(1, *inputs.grid)]] * len(inputs.latents),
        }

    def predict(self, parts: Parts, inputs: Inputs) -> torch.Tensor:
        """Predict the velocity (B, N, C) at latents (B, N, C) and time (B,) in 0..1."""
        arguments = {**self.denoiser_arguments(parts, inputs), **inputs.extra}
        return cast(torch.Tensor, parts.transformer(**arguments, return_dict=False)[0])

    def working_bytes(self, parts: Parts, grid: Grid, rows: int) -> Mapping[str, int]:
        """Return the peaks measured at the real geometry.

        Of the transformer 15.3 hidden states of the picture and 7.5 of the text. The autoencoder keeps what each of its
        layers reads for the next frame, which does not come: 18 times its widest layer at full size.
        """
        transformer, vae, pixels = parts.transformer, parts.vae, math.prod(grid) * self.token_px(parts) ** 2
        tokens = rows * (15.3 * math.prod(grid) + 7.5 * _text_length(parts))
        return {
            "text_encoder": ENCODER_BYTES,
            "transformer": int(tokens * transformer.inner_dim * transformer.dtype.itemsize),
            "vae": int(18.1 * vae.config.base_dim * pixels * vae.dtype.itemsize),
        }

    # --- training

    def sample_timestep(self, parts: Parts, grid: Grid, generator: torch.Generator) -> torch.Tensor:
        """Draw one time (1,) in 0..1: logit-normal, shifted by picture size as for drawing.

        musubi-tuner's `qwen_shift` (docs/qwen_image.md); diffusers' script draws uniformly by default.
        """
        time = compute_density_for_timestep_sampling(
            "logit_normal", batch_size=1, logit_mean=0.0, logit_std=1.0, generator=generator
        )
        shift = math.exp(_shift_mu(parts, grid))
        return cast(torch.Tensor, shift * time / (1 + (shift - 1) * time))

    def activation_bytes(self, parts: Parts, grid: Grid, batch_size: int) -> int:
        """Estimate what one training step keeps for its backward pass without gradient checkpointing.

        Measured with saved-tensor hooks, in bfloat16 under autocast: a block keeps 31 times its hidden states (text and
        picture).
        """
        transformer: Any = parts.transformer
        tokens = batch_size * (math.prod(grid) + _text_length(parts))
        hidden_states = tokens * transformer.inner_dim * transformer.dtype.itemsize
        return int(31 * transformer.config.num_layers * hidden_states)

    # --- LoRA

    def new_lora(
        self, parts: Parts, rank: int, generator: torch.Generator
    ) -> AbstractContextManager[dict[str, torch.nn.Parameter]]:
        """Add a fresh LoRA inside the block: its float32 parameters by their names in a file.

        AI Toolkit has pairs for the unused layers of the last block too, which remain without effect.
        """
        last = len(parts.transformer.transformer_blocks) - 1
        layers = [(block, layer) for block in range(last + 1) for layer in IN_BLOCKS]
        targets = [
            f"transformer_blocks.{block}.{layer}"
            for block, layer in layers
            if block < last or layer not in UNUSED_IN_LAST_BLOCK
        ]
        return attach.new_lora(parts.transformer, targets, rank, generator, lora.NAMES[self.name].key)

    def lora_metadata(self, parts: Parts) -> dict[str, str]:
        """Return metadata as musubi-tuner and AI Toolkit write it."""
        return {
            "modelspec.architecture": "Qwen-Image/lora",
            "modelspec.implementation": "https://github.com/QwenLM/Qwen-Image",
            "ss_base_model_version": "qwen_image",
        }


def language_model(encoder: Any) -> torch.nn.Module:
    """Return Qwen2.5-VL without its eyes and its head: 13.2 of 15.4 GiB, which is what prompts are read with."""
    return cast(torch.nn.Module, encoder.model.language_model)


def _text_length(parts: Parts) -> int:
    return min(int(parts.tokenizer.model_max_length), MAX_TEXT_LENGTH)


def _statistics(vae: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and inverse deviation (1, C, 1, 1, 1) of each channel of latents, in their precision."""
    mean, deviation = (torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return mean.to(latents), 1.0 / deviation.to(latents)


def _padded(prompts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return prompts (L, D) padded to the longest (B, L, D), and a mask (B, L) unless all have one length."""
    padded = torch.nn.utils.rnn.pad_sequence([*prompts], batch_first=True)
    lengths = torch.tensor([len(tokens) for tokens in prompts], device=padded.device)
    mask = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
    return padded, None if len({len(tokens) for tokens in prompts}) == 1 else mask


def _shift_mu(parts: Parts, grid: Grid) -> float:
    """Return the shift for a picture's size; what a scheduler does not state is as in `QwenImagePipeline`."""
    config = parts.scheduler.config
    stated = (("base_image_seq_len", 256), ("max_image_seq_len", 4096), ("base_shift", 0.5), ("max_shift", 1.15))
    return cast(float, calculate_shift(math.prod(grid), *(config.get(name, usual) for name, usual in stated)))
