"""Qwen-Image's autoencoder, set by hand as `parts.autoencoder` is, so that a person recognises what it decodes.

Its norms divide by the length of all channels, which constant channels hold nearly still: each value is carried as
STEADY plus it and STEADY minus it, and what SiLU bends cancels in their difference.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage

from worker.ml import kernels
from worker.ml.families.tiny.parts import STEADY, set_weight, silence, spectrum_of_cells

CENTRE = 4.0
"""Where SiLU reads the constants: it is nearly straight there."""
MEAN, DEVIATION = torch.linspace(-1, 1, 16), torch.linspace(1, 3, 16)
"""Of each latent channel."""


@torch.no_grad()
def autoencoder() -> AutoencoderKLQwenImage:
    """Return the real class with latents as those of `parts.autoencoder`.

    12 of its 16 latent channels hold the picture at a quarter of its size, 2x2 pixels folded into channels.
    """
    vae = AutoencoderKLQwenImage(base_dim=8, latents_mean=MEAN.tolist(), latents_std=DEVIATION.tolist()).eval()
    for name, layer in vae.named_modules():
        if name.endswith(("conv2", "proj")):
            silence(layer)
        elif name.endswith(("conv_shortcut", "quant_conv")) and isinstance(layer, torch.nn.Conv3d):
            _set(layer, torch.eye(*layer.weight.shape[:2]))

    encoder, spectrum = vae.encoder, spectrum_of_cells()
    down = [block.resample[1] for block in encoder.down_blocks if hasattr(block, "resample")]
    _set(encoder.conv_in, kernels.each(3, kernels.SAME))
    set_weight(down[0], kernels.each(3, kernels.MEAN_OF_CELL))
    set_weight(down[1], kernels.each(3, kernels.MEAN_OF_CELL))
    _balance(down[2], kernels.fold(), encoder.norm_out)
    read = torch.einsum("oc,cihw->oihw", spectrum, _difference(12))
    _set(encoder.conv_out, read * DEVIATION[:12, None, None, None])
    encoder.conv_out.bias[:16] = MEAN
    encoder.conv_out.bias[16:] = -20.0  # log-variance: almost none

    decoder = vae.decoder
    up = [block.upsamplers[0].resample[1] for block in decoder.up_blocks[:3]]
    back = torch.linalg.inv(spectrum) / DEVIATION[:12]
    _set(decoder.conv_in, back[:, :, None, None] * kernels.SAME)
    decoder.conv_in.bias[:12] = -back @ MEAN[:12]
    set_weight(up[0], kernels.unfold())
    set_weight(up[1], kernels.each(3, kernels.BETWEEN))
    _balance(up[2], kernels.each(3, kernels.BETWEEN), decoder.norm_out)
    _set(decoder.conv_out, _difference(3))
    return vae


def _set(layer: Any, weight: torch.Tensor) -> None:
    """Put this weight of pictures into the first channels of a layer of videos, for the frame itself."""
    silence(layer)
    outputs, inputs, *kernel = weight.shape
    layer.weight[:outputs, :inputs, -1] = weight.reshape(outputs, inputs, *(kernel or (1, 1)))


def _balance(layer: Any, weight: torch.Tensor, norm: Any) -> None:
    """Give the norm behind this layer two channels for each of its outputs, one with STEADY plus and one minus it."""
    silence(layer)
    values, inputs = weight.shape[:2]
    layer.weight[0 : 2 * values : 2, :inputs] = weight
    layer.weight[1 : 2 * values : 2, :inputs] = -weight
    layer.bias[: 2 * values] = STEADY
    norm.gamma.fill_(CENTRE * (2 * values) ** 0.5 / norm.scale)


def _difference(values: int) -> torch.Tensor:
    """Return the weight (values, 2 * values, 3, 3) that undoes `_balance` after norm and SiLU."""
    centre = torch.tensor(CENTRE)
    open_share = torch.sigmoid(centre)
    slope = open_share * (1 + centre * (1 - open_share))
    signs = torch.eye(values).repeat_interleave(2, dim=1) * torch.tensor([1.0, -1.0]).repeat(values)
    return (signs * STEADY / (2 * CENTRE * slope))[:, :, None, None] * kernels.SAME
