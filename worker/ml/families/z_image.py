"""Z-Image: the base that is trained and draws, and Turbo, distilled from it to eight steps.

Flow matching, told from the other end: x_t = t·x0 + (1 - t)·n with t in 0..1, and the transformer predicts x0 - n.
`predict` returns the negative, which is what schedulers step along. Latents are pictures (B, 16, h, w). The transformer
takes a list of pictures and one of prompts, pads each to a multiple of 32 with tokens of its own, and masks what is
padded beyond that to the longest.

Facts follow diffusers: pipelines/z_image/pipeline_z_image.py for drawing,
examples/dreambooth/train_dreambooth_lora_z_image.py for training. The pipeline can leave guidance out from a time on
(`cfg_truncation`) and limit its length (`cfg_normalization`); by default, and here, it does neither.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline
from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift, get_default_z_image_sigmas
from diffusers.training_utils import compute_density_for_timestep_sampling

from worker.ml.adapters import attach
from worker.ml.errors import ModelUnreadable
from worker.ml.families import lora
from worker.ml.families.conditions import RaggedTokens, Unframed
from worker.ml.families.flow_matching import FlowMatching, check_scheduler
from worker.ml.families.lora.z_image import IN_BLOCKS, LAYERS, REFINERS
from worker.ml.families.pipeline_parts import PipelineParts
from worker.ml.families.precision import FullAutoencoder
from worker.ml.families.working_memory import ENCODER_BYTES, autoencoder_bytes
from worker.ml.protocol import Grid, Inputs, Parts, PictureDefaults, Sampler, Sampling, Side, TrainingDefaults

MAX_TEXT_LENGTH = 512  # tokens of a prompt, the template's among them
HIDDEN_STATES = 15.9
"""How many of its hidden states (text and picture) the transformer needs at once: measured at the real geometry."""


class ZImage(PipelineParts, FlowMatching, Unframed, FullAutoencoder):
    """See `Family` for each member."""

    name = "z-image"
    pipeline = "ZImagePipeline"
    not_loaded: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ("text_encoder",)  # Qwen3
    denoiser = "transformer"
    autoencoder = "vae"
    quantised: tuple[str, ...] = ("layers", "noise_refiner", "context_refiner")
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

    checkpointed_share = 0.06  # measured, as activation_bytes is: a hidden state a block, and one block

    def load(self, folder: Path, dtypes: Mapping[str, torch.dtype]) -> Parts:
        """Load the whole base on the CPU, from files on disk and never from a pickle."""
        parts = ZImagePipeline.from_pretrained(folder, dtype=dict(dtypes), local_files_only=True, use_safetensors=True)
        check_scheduler(folder, parts.scheduler)
        config = parts.transformer.config
        if config.n_layers > LAYERS or config.n_refiner_layers > REFINERS:
            raise ModelUnreadable(
                f"{folder} has {config.n_layers} blocks and {config.n_refiner_layers} refiners, which is unsupported; "
                f"supported: Z-Image and its Turbo, which have {LAYERS} and {REFINERS}"
            )
        return parts

    def token_px(self, parts: Parts) -> int:
        return 2 * int(parts.vae_scale_factor)

    # --- prompts and pictures

    @torch.no_grad()
    def encode_prompts(
        self, parts: Parts, prompts: Sequence[str], device: torch.device, side: Side = "wanted"
    ) -> RaggedTokens:
        """Encode prompts in the chat template: the hidden states before the last layer, without padding."""
        hidden = parts._encode_prompt(list(prompts), device=device, max_sequence_length=_text_length(parts))
        return RaggedTokens(tuple(hidden))

    def cut_encoders(self, parts: Parts, prompt: str) -> tuple[str, ...]:
        """Return the encoder if it reads only the beginning of this prompt in its template."""
        messages = [{"role": "user", "content": prompt}]
        text = parts.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return ("qwen3",) if len(parts.tokenizer(text).input_ids) > _text_length(parts) else ()

    @torch.no_grad()
    def encode_picture(self, parts: Parts, pixels: torch.Tensor) -> torch.Tensor:
        """Encode pixels (1, 3, H, W) in -1..1 to float32 latents (1, 16, h, w): the mode, which can be cached."""
        vae = parts.vae
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode().float()
        return cast(torch.Tensor, (latents - vae.config.shift_factor) * vae.config.scaling_factor)

    @torch.no_grad()
    def decode_picture(self, parts: Parts, latents: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Decode latents (1, 16, h, w) to pixels (1, 3, H, W) in 0..1, float32."""
        vae = parts.vae
        latents = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(latents, return_dict=False)[0]
        return cast(torch.Tensor, (pixels * 0.5 + 0.5).clamp(0, 1).float())

    # --- denoising

    def picture_defaults(self, parts: Parts) -> PictureDefaults:
        """Return the size that the autoencoder was trained at (1024 in the published bases), and published settings.

        Of the base's model card: 28 to 50 steps, guidance 3 to 5. Turbo needs eight steps and no guidance; its parts
        do not tell it from the base, its row in `worker.base_models` does.
        """
        size = int(parts.vae.config.sample_size)
        return PictureDefaults(size, size, steps=50, guidance=4.0)

    def uses_negative_prompt(self, parts: Parts, guidance: float) -> bool:
        """Return True above 0, from which this guidance counts: 1 is what others call 2."""
        return guidance > 0

    def evaluations(self, parts: Parts, guidance: float, timestep: float) -> Sequence[tuple[Side, ...]]:
        return [("wanted", "against")] if self.uses_negative_prompt(parts, guidance) else [("wanted",)]

    def combine(
        self, wanted: torch.Tensor, against: torch.Tensor | None, guidance: float, timestep: float
    ) -> torch.Tensor:
        return wanted if against is None else wanted + guidance * (wanted - against)

    samplers: Collection[str] = ("euler",)  # `load` refuses others, as the pipeline's sigmas are for this one

    def sampler(self, parts: Parts, sampling: Sampling, device: torch.device, generator: torch.Generator) -> Sampler:
        """Return a new scheduler (it counts its steps); the published ones shift by a constant, others by size."""
        scheduler, config = FlowMatchEulerDiscreteScheduler.from_config(parts.scheduler.config), parts.scheduler.config
        stated = (("base_image_seq_len", 256), ("max_image_seq_len", 4096), ("base_shift", 0.5), ("max_shift", 1.15))
        mu = calculate_shift(math.prod(sampling.grid), *(config.get(name, usual) for name, usual in stated))
        scheduler.set_timesteps(sigmas=get_default_z_image_sigmas(sampling.steps), mu=mu, device=device)
        scheduler.set_begin_index(0)
        return Sampler(scheduler)

    def first_noise(
        self, parts: Parts, sampler: Sampler, grid: Grid, generator: torch.Generator, dtype: torch.dtype
    ) -> torch.Tensor:
        """Draw noise (1, 16, h, w) on the generator's device: float32 beside any precision, as in the pipeline."""
        shape = (1, parts.transformer.config.in_channels, 2 * grid[0], 2 * grid[1])
        return torch.randn(shape, generator=generator, dtype=torch.float32)

    def denoiser_input(
        self, sampler: Sampler, latents: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latents unchanged, and the time (1,) in 0..1: the scheduler counts down from 1000."""
        return latents, (1000 - timestep.expand(1)) / 1000

    def denoiser_arguments(self, parts: Parts, inputs: Inputs) -> dict[str, Any]:
        return {
            "x": list(inputs.latents.unsqueeze(2)),  # of one frame each
            "t": inputs.time,
            "cap_feats": list(cast(RaggedTokens, inputs.condition).tokens),
        }

    def predict(self, parts: Parts, inputs: Inputs) -> torch.Tensor:
        """Predict the velocity towards noise (B, 16, h, w) at latents (B, 16, h, w) and time (B,) in 0..1."""
        arguments = {**self.denoiser_arguments(parts, inputs), **inputs.extra}
        pictures = parts.transformer(**arguments, return_dict=False)[0]
        return -torch.stack(pictures).squeeze(2)

    def working_bytes(self, parts: Parts, grid: Grid, rows: int) -> Mapping[str, int]:
        """Return the peaks measured at the real geometry."""
        token_px = self.token_px(parts)
        return {
            "text_encoder": ENCODER_BYTES,
            "transformer": int(HIDDEN_STATES * _hidden_states(parts, grid, rows)),
            "vae": autoencoder_bytes(parts.vae, grid[0] * token_px, grid[1] * token_px),
        }

    # --- training

    def sample_timestep(self, parts: Parts, grid: Grid, generator: torch.Generator) -> torch.Tensor:
        """Draw one time (1,) in 0..1 as the script does: uniform, shifted by the scheduler's constant towards noise."""
        noise = compute_density_for_timestep_sampling("none", batch_size=1, generator=generator)
        config = parts.scheduler.config
        shift = 1.0 if config.use_dynamic_shifting else config.shift
        return cast(torch.Tensor, 1 - shift * noise / (1 + (shift - 1) * noise))

    def noised_input_and_target(
        self, parts: Parts, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the transformer's input and target for latents and noise (B, 16, h, w) at time (B,)."""
        t = time[:, None, None, None]
        return t * latents + (1 - t) * noise, noise - latents

    def activation_bytes(self, parts: Parts, grid: Grid, batch_size: int) -> int:
        """Estimate what one training step keeps for its backward pass without gradient checkpointing.

        Measured with saved-tensor hooks, in bfloat16 under autocast: a block keeps 43 times its hidden states (text and
        picture). The refiners before them keep nothing, as no LoRA is behind their input.
        """
        return int(43 * parts.transformer.config.n_layers * _hidden_states(parts, grid, batch_size))

    # --- LoRA

    def new_lora(
        self, parts: Parts, rank: int, generator: torch.Generator
    ) -> AbstractContextManager[dict[str, torch.nn.Parameter]]:
        """Add a fresh LoRA inside the block: its float32 parameters by their names in a file."""
        targets = [f"layers.{i}.{layer}" for i in range(len(parts.transformer.layers)) for layer in IN_BLOCKS]
        return attach.new_lora(parts.transformer, targets, rank, generator, lora.NAMES[self.name].key)

    def lora_metadata(self, parts: Parts) -> dict[str, str]:
        """Return metadata as musubi-tuner and AI Toolkit write it."""
        return {
            "modelspec.architecture": "Z-Image/lora",
            "modelspec.implementation": "https://github.com/Tongyi-MAI/Z-Image",
            "ss_base_model_version": "zimage",
        }


def _text_length(parts: Parts) -> int:
    return min(int(parts.tokenizer.model_max_length), MAX_TEXT_LENGTH)


def _hidden_states(parts: Parts, grid: Grid, rows: int) -> int:
    """Return the bytes of the transformer's hidden states, with prompts of full length."""
    transformer: Any = parts.transformer
    tokens = rows * (math.prod(grid) + _text_length(parts))
    return int(tokens * transformer.config.dim * transformer.dtype.itemsize)
