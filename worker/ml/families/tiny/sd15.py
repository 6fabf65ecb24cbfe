"""An untrained Stable Diffusion base of a few MB, in the layout of the real one, for tests.

Like `flux1.py`: random weights, except that the autoencoder is set by hand and the U-Net passes its input on, so
that a few seconds of LoRA training show. It proves that code paths work, and nothing about quality.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from worker.ml.families.tiny.latent_diffusion import LATENTS, NORM_GROUPS, autoencoder, pass_through
from worker.ml.families.tiny.parts import clip_text_model, clip_tokenizer


def build_tiny(folder: Path, seed: int = 0) -> None:
    """Write the base to the folder. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # module constructors use the global generator only
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=LATENTS,
            out_channels=LATENTS,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=NORM_GROUPS,
        )
        pass_through(unet)
        vae = autoencoder(scaling_factor=0.18215)
        tokenizer = clip_tokenizer()
        text_encoder = clip_text_model(tokenizer)
    StableDiffusionPipeline(
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
