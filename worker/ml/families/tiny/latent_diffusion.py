"""Parts of the tiny bases that diffuse an autoencoder's latents with a U-Net."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from worker.ml import kernels
from worker.ml.families.tiny.parts import GROUPS, SPREAD, set_balanced, set_weight, silence, unbalanced

LATENTS = 4
MEAN = 2.0  # scales a picture's means to about unit variance
NORM_GROUPS = 8  # of the U-Net: two directions of its input each, with both signs


@torch.no_grad()
def pass_through(unet: UNet2DConditionModel) -> None:
    """Make it predict its own input, which is the noise at first: the base draws grey, and a LoRA can be trained on it.

    The input takes the last skip connection. Every value is carried with both signs, so that the curve of the last SiLU
    cancels: silu(z) - silu(-z) = z.
    """
    width = unet.config.block_out_channels[0]
    directions = torch.nn.init.orthogonal_(torch.empty(width // 2, LATENTS)).view(NORM_GROUPS, -1, LATENTS)
    signed = torch.cat([directions, -directions], dim=1).view(width, LATENTS, 1, 1)
    set_weight(unet.conv_in, 2 * signed * kernels.SAME)
    set_weight(unet.conv_out, signed.transpose(0, 1) / 2 * kernels.SAME)
    last = unet.up_blocks[-1].resnets[-1]
    last.conv_shortcut.weight[:, -width:] = torch.eye(width)[:, :, None, None]
    last.conv_shortcut.bias.zero_()


@torch.no_grad()
def autoencoder(scaling_factor: float) -> AutoencoderKL:
    """Return a real AutoencoderKL, set by hand as that of `parts.py`: three channels hold the colours at an eighth."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        norm_num_groups=GROUPS,
        latent_channels=LATENTS,
        sample_size=64,
        scaling_factor=scaling_factor,
    ).eval()
    for name, layer in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            silence(layer)

    encoder, down = vae.encoder, [block.downsamplers[0].conv for block in vae.encoder.down_blocks[:3]]
    set_weight(encoder.conv_in, kernels.each(3, kernels.SAME))
    for convolution in down[:2]:
        set_weight(convolution, kernels.each(3, kernels.MEAN_OF_CELL))
    set_balanced(down[2], kernels.each(3, kernels.MEAN_OF_CELL), encoder.conv_norm_out)
    set_weight(encoder.conv_out, unbalanced(3, kernels.SAME) * SPREAD * MEAN / scaling_factor)
    encoder.conv_out.bias[LATENTS:] = -20.0  # log-variance: almost none
    for convolution in (vae.quant_conv, vae.post_quant_conv):
        set_weight(convolution, torch.eye(len(convolution.weight))[:, :, None, None])

    decoder, up = vae.decoder, [block.upsamplers[0].conv for block in vae.decoder.up_blocks[:3]]
    set_weight(decoder.conv_in, kernels.each(3, kernels.SAME) * scaling_factor / MEAN)
    for convolution in up[:2]:
        set_weight(convolution, kernels.each(3, kernels.BETWEEN))
    set_balanced(up[2], kernels.each(3, kernels.BETWEEN), decoder.conv_norm_out)
    set_weight(decoder.conv_out, unbalanced(3, kernels.SHARPER) * SPREAD)
    return vae
