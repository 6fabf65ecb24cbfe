"""FLUX.2 klein 4B: the base that is trained, and the one distilled to four steps, which draws.

Flow matching as FLUX.1's: x_t = (1 - t)·x0 + t·n with t in 0..1, and the transformer predicts n - x0. Latents are
patchified 2x2, normalised with the statistics that the autoencoder keeps in a batch norm, and packed into tokens
(B, h/2·w/2, 4·channels).

Facts follow diffusers: pipelines/flux2/pipeline_flux2_klein.py for drawing,
examples/dreambooth/train_dreambooth_lora_flux2_klein.py for training. That script reads other layers of the text
encoder by default (10, 20, 30) than the pipeline (9, 18, 27), for which the model was made: those are read here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.training_utils import compute_density_for_timestep_sampling
from PIL import Image

from worker.ml.adapters import attach
from worker.ml.adapters.fused import fuse
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora
from worker.ml.families.conditions import Tokens, Unframed
from worker.ml.families.flow_matching import FlowMatching, check_scheduler
from worker.ml.families.guidance import ClassifierFree
from worker.ml.families.lora.klein import DOUBLE_BLOCKS, SINGLE_BLOCKS
from worker.ml.families.pipeline_parts import PipelineParts
from worker.ml.families.precision import FullAutoencoder
from worker.ml.families.working_memory import ENCODER_BYTES, autoencoder_bytes
from worker.ml.protocol import (
    Appended,
    Grid,
    Inputs,
    Parts,
    PictureDefaults,
    Pixels,
    Sampler,
    Sampling,
    Side,
    TrainingDefaults,
)

MAX_TEXT_LENGTH = 512  # tokens, the template's among them, to which every prompt is padded
MAX_REFERENCE_PX = 1024 * 1024  # of width times height; larger ones are made smaller
IN_DOUBLE_BLOCKS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"),
)
IN_SINGLE_BLOCKS = ("attn.to_qkv_mlp_proj", "attn.to_out")
FUSED = (("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"))
"""Of a double block: one layer in the original code, and so one in LoRA files."""


class Klein(PipelineParts, FlowMatching, ClassifierFree, Unframed, FullAutoencoder):
    """See `Family` for each member."""

    name = "klein"
    pipeline = "Flux2KleinPipeline"
    not_loaded: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ("text_encoder",)  # Qwen3
    denoiser = "transformer"
    autoencoder = "vae"
    quantised: tuple[str, ...] = ("transformer_blocks", "single_transformer_blocks")
    # AI Toolkit's settings for it (ui/src/app/jobs/new/jobConfig.ts, options.tsx): rank = alpha = 32, 1e-4, batch 1,
    # resolutions 512, 768 and 1024, caption dropout 0.05. The number of steps is FLUX.1's.
    training_defaults = TrainingDefaults(
        rank=32,
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

    checkpointed_share = 0.095  # measured, as activation_bytes is: a hidden state a block, and one block

    def load(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> Parts:
        """Load the whole base on the CPU, from files on disk and never from a pickle."""
        parts = Flux2KleinPipeline.from_pretrained(
            folder, dtype=dict(dtypes), local_files_only=True, use_safetensors=True
        )
        check_scheduler(folder, parts.scheduler)
        config = parts.transformer.config
        if config.num_layers > DOUBLE_BLOCKS or config.num_single_layers > SINGLE_BLOCKS:
            raise ModelUnreadable(
                f"{folder} has {config.num_layers} and {config.num_single_layers} blocks, which is unsupported; "
                f"supported: the 4B model, which has {DOUBLE_BLOCKS} and {SINGLE_BLOCKS}"
            )
        return parts

    def token_px(self, parts: Parts) -> int:
        return 2 * int(parts.vae_scale_factor)

    # --- prompts and pictures

    @torch.no_grad()
    def encode_prompts(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side = "wanted"
    ) -> Tokens:
        """Encode prompts (B, L, 3·D) in the chat template: the hidden states of three layers, side by side.

        The language model without its head, whose logits of a whole vocabulary nothing reads.
        """
        hidden = Flux2KleinPipeline._get_qwen3_prompt_embeds(
            parts.text_encoder.model,
            parts.tokenizer,
            list(prompts),
            device=device,
            max_sequence_length=_text_length(parts),
        )
        return Tokens(hidden)

    def cut_encoders(self, parts: Parts, prompt: str) -> tuple[str, ...]:
        """Return the encoder if it reads only the beginning of this prompt in its template."""
        messages = [{"role": "user", "content": prompt}]
        text = parts.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return ("qwen3",) if len(parts.tokenizer(text).input_ids) > _text_length(parts) else ()

    @torch.no_grad()
    def encode_picture(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels (1, 3, H, W) in -1..1 to float32 latents (1, N, C): the mode, so that they can be cached."""
        latents = parts.vae.encode(pixels.to(parts.vae.device, parts.vae.dtype)).latent_dist.mode().float()
        return cast(torch.Tensor, Flux2KleinPipeline._pack_latents(_normalised(parts.vae, latents)))

    def reference_grid(self, parts: Parts, picture: Pixels) -> Grid:
        """Return height and width in tokens of a reference as the pipeline reads it: larger ones are made smaller."""
        height, width = picture.shape[:2]
        if width * height > MAX_REFERENCE_PX:
            scale = math.sqrt(MAX_REFERENCE_PX / (width * height))
            width, height = int(width * scale), int(height * scale)
        return height // self.token_px(parts), width // self.token_px(parts)

    @torch.no_grad()
    def encode_references(self, parts: Parts, pictures: Sequence[Pixels]) -> Appended:
        """Return the tokens (1, M, C) of all references, in the autoencoder's precision, each at a time of its own."""
        vae, latents = parts.vae, []
        for picture in pictures:
            within = Image.fromarray(picture)
            if within.width * within.height > MAX_REFERENCE_PX:
                within = parts.image_processor._resize_to_target_area(within, MAX_REFERENCE_PX)
            height, width = (side * self.token_px(parts) for side in self.reference_grid(parts, picture))
            pixels = parts.image_processor.preprocess(within, height=height, width=width, resize_mode="crop")
            encoded = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
            latents.append(_normalised(vae, encoded))
        tokens = torch.cat([Flux2KleinPipeline._pack_latents(one) for one in latents], dim=1)
        return Appended(tokens, Flux2KleinPipeline._prepare_image_ids(latents)[0].to(vae.device))

    def reference_bytes(self, parts: Parts, grids: Sequence[Grid]) -> tuple[int, int]:
        """Return the peaks of encoding the largest and of reading all, for which a token is as one of the picture."""
        token_px = self.token_px(parts)
        encoding = [autoencoder_bytes(parts.vae, height * token_px, width * token_px) for height, width in grids]
        return max(encoding, default=0), _transformer_bytes(parts, sum(math.prod(grid) for grid in grids))

    @torch.no_grad()
    def decode_picture(self, parts: Parts, latents: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Decode latents (1, N, C) to pixels (1, 3, H, W) in 0..1, float32."""
        vae = parts.vae
        latents = latents.transpose(1, 2).reshape(1, -1, *grid)
        mean, deviation = _statistics(vae, latents)
        latents = Flux2KleinPipeline._unpatchify_latents(latents * deviation + mean)
        pixels = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return cast(torch.Tensor, (pixels * 0.5 + 0.5).clamp(0, 1).float())

    # --- denoising

    def picture_defaults(self, parts: Parts) -> PictureDefaults:
        """Return the size that the autoencoder was trained at (1024 in the published bases), and published settings.

        Of the model cards: the distilled base needs four steps and no guidance, the other 50 and guidance 4.
        """
        size, distilled = int(parts.vae.config.sample_size), _is_distilled(parts)
        return PictureDefaults(size, size, steps=4 if distilled else 50, guidance=1.0 if distilled else 4.0)

    def uses_negative_prompt(self, parts: Parts, guidance: float) -> bool:
        return guidance > 1 and not _is_distilled(parts)

    def evaluations(self, parts: Parts, guidance: float, timestep: float) -> Sequence[tuple[Side, ...]]:
        """Return two calls, as in the pipeline: in one, kernels would sum in another order."""
        return [("wanted",), ("against",)] if self.uses_negative_prompt(parts, guidance) else [("wanted",)]

    samplers: Collection[str] = (
        "euler",
    )  # others ignore the shift that it is made for, or space their steps otherwise

    def sampler(self, parts: Parts, sampling: Sampling, device: torch.device, generator: torch.Generator) -> Sampler:
        """Return a new scheduler (it counts its steps), shifted by picture size and number of steps."""
        scheduler, steps = FlowMatchEulerDiscreteScheduler.from_config(parts.scheduler.config), sampling.steps
        mu = compute_empirical_mu(math.prod(sampling.grid), steps)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device=device)
        scheduler.set_begin_index(0)
        return Sampler(scheduler)

    def first_noise(
        self, parts: Parts, sampler: Sampler, grid: Grid, generator: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        """Draw noise (1, N, C) on the generator's device, as `Flux2KleinPipeline` draws it: patchified already."""
        noise = torch.randn((1, parts.transformer.config.in_channels, *grid), generator=generator, dtype=dtype)
        return cast(torch.Tensor, Flux2KleinPipeline._pack_latents(noise))

    def denoiser_input(
        self, sampler: Sampler, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latents unchanged, and the time (1,) in 0..1: the scheduler counts to 1000."""
        return latents, timestep.expand(1).to(latents.dtype) / 1000

    def denoiser_arguments(self, parts: Parts, inputs: Inputs) -> dict[str, Any]:
        latents, text = inputs.latents, cast(Tokens, inputs.condition)
        states, ids = latents, _positions(latents.device, 1, *inputs.grid, 1)
        if inputs.appended is not None:
            states, ids = torch.cat([states, inputs.appended.tokens], dim=1), torch.cat([ids, inputs.appended.ids])
        return {
            "hidden_states": states,
            "timestep": inputs.time,
            "guidance": None,
            "encoder_hidden_states": text.tokens,
            "txt_ids": _positions(latents.device, 1, 1, 1, text.tokens.shape[1]),
            "img_ids": ids,
        }

    def predict(self, parts: Parts, inputs: Inputs) -> torch.Tensor:
        """Predict the velocity (B, N, C) at latents (B, N, C) and time (B,) in 0..1."""
        arguments = {**self.denoiser_arguments(parts, inputs), **inputs.extra}
        predicted: torch.Tensor = parts.transformer(**arguments, return_dict=False)[0]
        return predicted[:, : inputs.latents.shape[1]]

    def working_bytes(self, parts: Parts, grid: Grid, rows: int) -> Mapping[str, int]:
        """Return the peaks measured at the real geometry: 22 hidden states (text and picture) of the transformer."""
        token_px = self.token_px(parts)
        return {
            "text_encoder": ENCODER_BYTES,
            "transformer": _transformer_bytes(parts, rows * (math.prod(grid) + _text_length(parts))),
            "vae": autoencoder_bytes(parts.vae, grid[0] * token_px, grid[1] * token_px),
        }

    # --- training

    def sample_timestep(self, parts: Parts, grid: Grid, generator: torch.Generator) -> torch.Tensor:
        """Draw one time (1,) in 0..1: logit-normal, shifted by picture size as FLUX.1 draws.

        musubi-tuner's recommendation (docs/flux_2.md: `flux2_shift`); diffusers' script draws uniformly by default.
        """
        time = compute_density_for_timestep_sampling(
            "logit_normal", batch_size=1, logit_mean=0.0, logit_std=1.0, generator=generator
        )
        shift = math.exp(calculate_shift(math.prod(grid)))
        return cast(torch.Tensor, shift * time / (1 + (shift - 1) * time))

    def activation_bytes(self, parts: Parts, grid: Grid, batch_size: int) -> int:
        """Estimate what one training step keeps for its backward pass without gradient checkpointing.

        Measured with saved-tensor hooks, in bfloat16 under autocast: a double block keeps 24 and a single block 25
        times its hidden states (text and picture), and the layers around them 8.
        """
        transformer, config = parts.transformer, parts.transformer.config
        tokens = batch_size * (math.prod(grid) + _text_length(parts))
        hidden_states = tokens * transformer.inner_dim * transformer.dtype.itemsize
        return int(hidden_states * (24 * config.num_layers + 25 * config.num_single_layers + 8))

    # --- LoRA

    @contextmanager
    def new_lora(self, parts: Parts, rank: int, generator: torch.Generator) -> Iterator[dict[str, torch.nn.Parameter]]:
        """Add a fresh LoRA inside the block: its float32 parameters by their names in a file.

        Query, key and value are one layer there, so they are one in training too, with one A.
        """
        transformer, names = parts.transformer, lora.NAMES[self.name]
        double = [f"transformer_blocks.{i}" for i in range(len(transformer.transformer_blocks))]
        single = [f"single_transformer_blocks.{i}" for i in range(len(transformer.single_transformer_blocks))]
        targets = [
            *(f"{block}.{layer}" for block in double for layer in IN_DOUBLE_BLOCKS),
            *(f"{block}.{layer}" for block in single for layer in IN_SINGLE_BLOCKS),
        ]
        with attach.new_lora(transformer, targets, rank, generator, str) as parameters:
            for block in double:
                for layers in FUSED:
                    fuse(transformer, [f"{block}.{layer}" for layer in layers], parameters)
            yield {names.key(name): parameters[name] for name in sorted(parameters)}

    def lora_metadata(self, parts: Parts) -> dict[str, str]:
        """Return metadata as musubi-tuner and AI Toolkit write it."""
        return {
            "modelspec.architecture": "Flux.2-klein-4b/lora",
            "modelspec.implementation": "https://github.com/black-forest-labs/flux2",
            "ss_base_model_version": "flux2_klein_4b",
        }


def _is_distilled(parts: Parts) -> bool:
    return bool(parts.config.is_distilled)


def _text_length(parts: Parts) -> int:
    return min(int(parts.tokenizer.model_max_length), MAX_TEXT_LENGTH)


def _transformer_bytes(parts: Parts, tokens: int) -> int:
    transformer = parts.transformer
    return int(22 * tokens * transformer.inner_dim * transformer.dtype.itemsize)


def _normalised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return latents (1, C, h, w) patchified (1, 4·C, h/2, w/2) and normalised, in their precision."""
    latents = Flux2KleinPipeline._patchify_latents(latents)
    mean, deviation = _statistics(vae, latents)
    return (latents - mean) / deviation


def _statistics(vae: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation (1, C, 1, 1) of each channel of patchified latents, in their precision."""
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    deviation = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
    return mean.to(latents), deviation.to(latents)


def _positions(device: torch.device, *sizes: int) -> torch.Tensor:
    """Return the positions (N, 4) of tokens on four axes: reference, row, column, and place in the text."""
    return torch.cartesian_prod(*(torch.arange(size, device=device) for size in sizes))
