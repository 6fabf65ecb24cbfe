"""What parts that several families share need on the device while they run, besides their weights.

The largest sum of live tensors at the published geometry, with attention that does not keep its scores.
"""

from __future__ import annotations

from typing import Any

ENCODER_BYTES = 2**27
"""Of text encoders: for 512 tokens T5-XXL needs 0.09 GiB, and Qwen3-4B, of which all layers are kept, 0.12; CLIP
hardly anything."""


def autoencoder_bytes(vae: Any, height: int, width: int) -> int:
    """Return what an `AutoencoderKL` needs to decode a picture: six times its widest layer at full size.

    Encoding needs five times that layer.
    """
    channels: int = vae.config.block_out_channels[0]
    itemsize: int = vae.dtype.itemsize
    return 6 * channels * height * width * itemsize
