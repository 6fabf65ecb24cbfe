"""An untrained SDXL base of a few MB, in the layout of the real one, for tests.

As in `sd15.py`, the autoencoder is set by hand and the U-Net passes its input on. Levels have two layers, as the real
one's, on which the numbers of blocks in the original's names depend. On the way up the attention is in the upper level,
where the picture that a LoRA changes is not halved again.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from worker.ml.families.tiny.latent_diffusion import LATENTS, NORM_GROUPS, autoencoder, pass_through
from worker.ml.families.tiny.parts import clip_text_model, clip_tokenizer

SECOND_WIDTH, POOLED_WIDTH, SIZE_WIDTH = (
    48,
    40,
    8,
)  # of the second encoder, its pooled embedding, and of each of six ids


def build_tiny(folder: Path, seed: int = 0) -> None:
    """Write the base to the folder. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # module constructors use the global generator only
        tokenizer, tokenizer_2 = clip_tokenizer(), clip_tokenizer()
        tokenizer_2.pad_token = "!"  # noqa: S105 - the real one's; the first pads with the end of a text
        text_encoder = clip_text_model(tokenizer)
        second = {"hidden_size": SECOND_WIDTH, "projection_dim": POOLED_WIDTH, "hidden_act": "gelu"}
        text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**{**text_encoder.config.to_dict(), **second}))
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=LATENTS,
            out_channels=LATENTS,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(32, 64),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=text_encoder.config.hidden_size + SECOND_WIDTH,
            attention_head_dim=(2, 4),
            norm_num_groups=NORM_GROUPS,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=SIZE_WIDTH,
            projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * SIZE_WIDTH,
        )
        pass_through(unet)
        vae = autoencoder(scaling_factor=0.13025)
    StableDiffusionXLPipeline(
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        unet=unet,
        add_watermarker=False,
    ).save_pretrained(folder)
